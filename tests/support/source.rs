//! A server elsewhere that images are imported from, honest or not.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use imageops::v1::{ImportImageRequest, UploadMetadata};

/// What lets the service import from a [`Source`].
pub const ALLOWED: [&str; 4] = ["--import-allow", "127.0.0.1", "--import-ports", "1-65535"];

/// A request that came in.
pub struct Asked {
    /// With the query.
    pub path: String,
    /// First and last byte, of a part.
    pub range: AskedRange,
    /// 0, 1, 2, … in the order of the requests.
    pub number: usize,
}

/// What goes out.
pub struct Reply {
    head: String,
    body: Vec<u8>,
    stop: Option<Stop>,
}

/// What happens behind so many bytes of the body.
enum Stop {
    Cut(usize),
    Hang(usize),
}

impl Reply {
    /// A file, or the part of it that was asked for, with a tag that stands for its bytes.
    pub fn file(bytes: &[u8], asked: &Asked, etag: &str) -> Self {
        let (status, part, range) = match asked.range {
            None => ("200 OK", bytes, String::new()),
            Some((first, last)) => {
                let range = format!("content-range: bytes {first}-{last}/{}\r\n", bytes.len());
                ("206 Partial Content", &bytes[first..=last], range)
            }
        };
        let length = part.len();
        let headers =
            format!("content-length: {length}\r\naccept-ranges: bytes\r\netag: \"{etag}\"\r\n{range}");
        Self { body: part.to_vec(), ..Self::head(status, &headers) }
    }

    /// Bytes up to the end of the connection.
    pub fn unmeasured(bytes: &[u8]) -> Self {
        Self { body: bytes.to_vec(), ..Self::head("200 OK", "") }
    }

    /// A head alone.
    pub fn head(status: &str, headers: &str) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n");
        Self { head, body: Vec::new(), stop: None }
    }

    /// Ends the connection behind so many bytes.
    pub fn cut_after(self, bytes: usize) -> Self {
        Self { stop: Some(Stop::Cut(bytes)), ..self }
    }

    /// Sends so many bytes, and nothing more as long as the client stays.
    pub fn hang_after(self, bytes: usize) -> Self {
        Self { stop: Some(Stop::Hang(bytes)), ..self }
    }

    fn send(self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(self.head.as_bytes())?;
        let length = match self.stop {
            Some(Stop::Cut(bytes) | Stop::Hang(bytes)) => bytes.min(self.body.len()),
            None => self.body.len(),
        };
        stream.write_all(&self.body[..length])?;
        if matches!(self.stop, Some(Stop::Hang(_))) {
            // Nothing comes any more; this returns when the client goes away.
            std::io::copy(stream, &mut std::io::sink())?;
        }
        Ok(())
    }
}

/// First and last byte of a range that was asked for; nothing of all.
type AskedRange = Option<(usize, usize)>;

/// The server. Its thread ends with the test's process.
pub struct Source {
    port: u16,
    asked: Arc<Mutex<Vec<AskedRange>>>,
}

impl Source {
    /// A server that answers what `answers` says.
    pub fn start(answers: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let (seen, answers) = (Arc::clone(&asked), Arc::new(answers));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
                // Whether the client stays to the end is its own affair.
                thread::spawn(move || serve(stream, &*answers, &seen));
            }
        });
        Self { port, asked }
    }

    /// A server of one file.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self::start(move |asked| Reply::file(&bytes, asked, "one"))
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The ranges of the requests so far.
    pub fn ranges(&self) -> Vec<AskedRange> {
        self.asked.lock().expect("no test panics with it").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    answers: &dyn Fn(&Asked) -> Reply,
    seen: &Mutex<Vec<AskedRange>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut range = None;
    for line in lines {
        let line = line.ok()?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some((first, last)) =
            line.strip_prefix("range: bytes=").and_then(|range| range.split_once('-'))
        {
            range = Some((first.parse().ok()?, last.parse().ok()?));
        }
    }
    let number = {
        let mut seen = seen.lock().ok()?;
        seen.push(range);
        seen.len() - 1
    };
    answers(&Asked { path, range, number }).send(&mut stream).ok()
}

/// The request for an import.
pub fn import(url: String, metadata: UploadMetadata) -> ImportImageRequest {
    ImportImageRequest { url, metadata: Some(metadata), ..ImportImageRequest::default() }
}
