//! A network between a client and an HTTP/1.1 server that goes wrong on demand, for a share of the requests.
//!
//! One request for each connection: the server is told to close, and so is the client. Which requests are struck, and by
//! what, comes from a seed. Every wait has a bound.

use std::io::{self, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::random::Random;

/// Longest head of a request or an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long a connection may hang without a word; a client with a deadline has given up long before.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a slow answer takes longer than another.
const SLOW: Duration = Duration::from_secs(2);
/// Pieces of a slow answer.
const SLOW_PIECES: u32 = 20;
/// Connections at the same time; more are closed at once.
const CONNECTIONS_MAX: usize = 256;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Answered with 500 in the server's stead, which never hears of it.
    InternalError,
    /// Answered with 503 in the server's stead, which never hears of it.
    Unavailable,
    /// Taken, and never answered.
    Silence,
    /// Passed on; the answer comes in small pieces.
    Slow,
    /// The connection is reset before an answer.
    Reset,
    /// Passed on; the answer ends in the middle.
    Truncated,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::InternalError, Self::Unavailable, Self::Silence, Self::Slow, Self::Reset, Self::Truncated];
}

/// Where what a client puts becomes something else, without anybody telling so.
#[derive(Clone)]
pub enum Spoiling {
    /// Between the proxy and the server: one byte is another one.
    OnTheWay,
    /// At the server, which has taken the bytes: this changes them before the client hears of it.
    AtRest(Arc<dyn Fn() + Send + Sync>),
}

/// What is struck from now on.
struct Plan {
    share_percent: u64,
    faults: Vec<Fault>,
    until: Option<Instant>,
    /// Which share of the PUT requests below which path carry something else, and where that happens.
    spoiling: Option<(u64, &'static str, Spoiling)>,
    random: Random,
}

struct State {
    server: SocketAddr,
    plan: Mutex<Plan>,
    /// Each request in its order: what struck it.
    struck: Mutex<Vec<Option<Fault>>>,
    spoiled: Mutex<u64>,
    open: Mutex<usize>,
    /// Set once by [`FaultProxy::drop`]; wakes those who keep silence.
    over: Mutex<bool>,
    bell: Condvar,
}

/// A running proxy. It accepts nothing more once dropped.
pub struct FaultProxy {
    /// Where clients connect to.
    pub address: SocketAddr,
    state: Arc<State>,
}

impl FaultProxy {
    /// A proxy before `server` that passes everything on until it is told otherwise.
    pub fn start(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let random = Random::from_seed(seed);
        let state = Arc::new(State {
            server,
            plan: Mutex::new(Plan {
                share_percent: 0,
                faults: Vec::new(),
                until: None,
                spoiling: None,
                random,
            }),
            struck: Mutex::default(),
            spoiled: Mutex::default(),
            open: Mutex::default(),
            over: Mutex::default(),
            bell: Condvar::new(),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if *lock(&accepting.over) {
                    return;
                }
                State::accept(&accepting, client);
            }
        });
        Self { address, state }
    }

    /// Strikes this share of the requests from now on, each with one of `faults`.
    pub fn strike(&self, share_percent: u64, faults: &[Fault]) {
        self.plan(share_percent, faults, None);
    }

    /// The same for a time; afterwards everything passes.
    pub fn strike_for(&self, share_percent: u64, faults: &[Fault], time: Duration) {
        self.plan(share_percent, faults, Some(Instant::now() + time));
    }

    /// Spoils this share of the PUT requests whose target holds `within` from now on, beside all faults.
    pub fn spoil(&self, share_percent: u64, within: &'static str, spoiling: Spoiling) {
        lock(&self.state.plan).spoiling = Some((share_percent, within, spoiling));
    }

    /// How many requests were spoiled so far.
    pub fn spoiled(&self) -> u64 {
        *lock(&self.state.spoiled)
    }

    /// Lets everything pass from now on, as it is.
    pub fn pass(&self) {
        self.plan(0, &[], None);
        lock(&self.state.plan).spoiling = None;
    }

    /// What struck each request so far, in the order in which they came.
    pub fn struck(&self) -> Vec<Option<Fault>> {
        lock(&self.state.struck).clone()
    }

    fn plan(&self, share_percent: u64, faults: &[Fault], until: Option<Instant>) {
        assert!(share_percent == 0 || !faults.is_empty(), "a share of no fault");
        let mut plan = lock(&self.state.plan);
        (plan.share_percent, plan.faults, plan.until) = (share_percent, faults.to_vec(), until);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        *lock(&self.state.over) = true;
        self.state.bell.notify_all();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn accept(this: &Arc<Self>, client: TcpStream) {
        if *lock(&this.open) >= CONNECTIONS_MAX {
            return;
        }
        *lock(&this.open) += 1;
        let state = Arc::clone(this);
        thread::spawn(move || {
            // A broken connection is what the client sees, and all that there is to say.
            let _ = state.serve(client);
            *lock(&state.open) -= 1;
        });
    }

    /// Decides what strikes the next request.
    fn next_fault(&self) -> Option<Fault> {
        let mut plan = lock(&self.plan);
        let is_over = plan.until.is_some_and(|until| Instant::now() >= until);
        let share_percent = plan.share_percent;
        let is_struck = !is_over && plan.random.below(100) < share_percent;
        let fault = is_struck.then(|| {
            let count = plan.faults.len() as u64;
            let index = plan.random.below(count) as usize;
            plan.faults[index]
        });
        lock(&self.struck).push(fault);
        fault
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        for limit in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            limit(&client, Some(SILENCE_MAX))?;
        }
        // Before a byte is taken: what lies unread when a socket is closed resets its connection.
        client.peek(&mut [0])?;
        let fault = self.next_fault();
        if fault == Some(Fault::Reset) {
            return Ok(());
        }
        let head = read_head(&mut client)?;
        match fault {
            Some(Fault::InternalError) => refuse(&mut client, &head, "500 Internal Server Error"),
            Some(Fault::Unavailable) => refuse(&mut client, &head, "503 Service Unavailable"),
            Some(Fault::Silence) => {
                self.keep_silence();
                Ok(())
            }
            Some(Fault::Slow) => self.pass_on(client, &head, slowly),
            Some(Fault::Truncated) => self.pass_on(client, &head, half),
            Some(Fault::Reset) | None => match self.next_spoiling(&head) {
                Some((Spoiling::OnTheWay, at)) => self.send_on(client, &head, Some(at), whole),
                Some((Spoiling::AtRest(change), _)) => self.pass_on(client, &head, |server, client| {
                    let mut answer = Vec::new();
                    server.read_to_end(&mut answer)?;
                    change();
                    client.write_all(&answer)
                }),
                None => self.pass_on(client, &head, whole),
            },
        }
    }

    /// Whether the next request is spoiled, where, and which of its bytes.
    fn next_spoiling(&self, head: &[u8]) -> Option<(Spoiling, u64)> {
        let mut plan = lock(&self.plan);
        let (share_percent, within, spoiling) = plan.spoiling.clone()?;
        let line = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
        let length_bytes: u64 = field(head, "content-length")?.parse().ok()?;
        let is_meant = line.starts_with("PUT ") && line.contains(within) && length_bytes > 0;
        if !is_meant || plan.random.below(100) >= share_percent {
            return None;
        }
        *lock(&self.spoiled) += 1;
        Some((spoiling, plan.random.below(length_bytes)))
    }

    fn keep_silence(&self) {
        let over = lock(&self.over);
        let _ = self.bell.wait_timeout_while(over, SILENCE_MAX, |over| !*over);
    }

    /// Sends the request to the server, and gives its answer to `answer`.
    fn pass_on(
        &self,
        client: TcpStream,
        head: &[u8],
        answer: impl FnOnce(&mut TcpStream, &mut TcpStream) -> io::Result<()>,
    ) -> io::Result<()> {
        self.send_on(client, head, None, answer)
    }

    /// The same, with the byte at `changed_at` of the body as another one.
    fn send_on(
        &self,
        mut client: TcpStream,
        head: &[u8],
        changed_at: Option<u64>,
        answer: impl FnOnce(&mut TcpStream, &mut TcpStream) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut server = TcpStream::connect(self.server)?;
        server.set_read_timeout(Some(SILENCE_MAX))?;
        server.set_write_timeout(Some(SILENCE_MAX))?;
        server.write_all(&closing(head))?;
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        let sending = thread::spawn(move || -> io::Result<()> {
            if let Some(at) = changed_at {
                io::copy(&mut (&from_client).take(at), &mut to_server)?;
                let mut byte = [0];
                from_client.read_exact(&mut byte)?;
                to_server.write_all(&[!byte[0]])?;
            }
            io::copy(&mut from_client, &mut to_server).map(drop)
        });
        let answered = answer(&mut server, &mut client);
        // Both ends: the thread that sends has nothing more to wait for.
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        let _ = sending.join();
        answered
    }
}

/// Answers in the server's stead, once the body is there: a client that is still sending would not listen.
fn refuse(client: &mut TcpStream, head: &[u8], status: &str) -> io::Result<()> {
    let waits = field(head, "expect").is_some();
    let length_bytes = field(head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if !waits {
        io::copy(&mut (&*client).take(length_bytes), &mut io::sink())?;
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    client.write_all(answer.as_bytes())?;
    client.shutdown(Shutdown::Write)
}

/// Hands an answer on as it is.
fn whole(server: &mut TcpStream, client: &mut TcpStream) -> io::Result<()> {
    io::copy(server, client).map(drop)
}

/// Hands an answer on in pieces with pauses, and what is left at once.
fn slowly(server: &mut TcpStream, client: &mut TcpStream) -> io::Result<()> {
    let mut piece = [0; 64];
    for _ in 0..SLOW_PIECES {
        let count = server.read(&mut piece)?;
        if count == 0 {
            return Ok(());
        }
        client.write_all(&piece[..count])?;
        thread::sleep(SLOW / SLOW_PIECES);
    }
    io::copy(server, client).map(drop)
}

/// Hands on half of an answer: half of its body when that has a length, else half of its head.
fn half(server: &mut TcpStream, client: &mut TcpStream) -> io::Result<()> {
    let head = read_head(server)?;
    let length_bytes: u64 =
        field(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if length_bytes < 2 {
        return client.write_all(&head[..head.len() / 2]);
    }
    client.write_all(&head)?;
    io::copy(&mut server.take(length_bytes / 2), client).map(drop)
}

/// Reads up to the empty line, and not a byte more.
fn read_head(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

/// The value of a field; `name` in lower case.
fn field(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let mut fields = text.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

/// The head of a request after which the server closes.
fn closing(head: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.trim_end().split("\r\n");
    let mut changed = format!("{}\r\nconnection: close\r\n", lines.next().unwrap_or_default());
    for line in lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:")) {
        changed += line;
        changed += "\r\n";
    }
    changed += "\r\n";
    changed.into_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
