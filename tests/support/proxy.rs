//! A network in the way: counts what goes to the server, and can be cut.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use imageops_client::{Client, ConnectOptions, Connection};

/// Forwards connections to a server.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    server: SocketAddr,
    to_server_bytes: AtomicU64,
    /// Connections are cut by themselves once so many bytes went to the server.
    cut_at_bytes: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
    connections_made: AtomicU64,
}

impl Proxy {
    /// A proxy on a port of its own.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            server,
            to_server_bytes: AtomicU64::new(0),
            cut_at_bytes: AtomicU64::new(u64::MAX),
            connections: Mutex::default(),
            connections_made: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.connect(client);
            }
        });
        Self { address, state }
    }

    /// A client whose bytes go through here.
    pub fn client(&self) -> Client {
        let uri = format!("http://{}", self.address);
        Client::new(Connection::connect_lazy(&uri, ConnectOptions::default()).expect("an address"))
    }

    /// Bytes that went to the server so far, those of HTTP/2 itself included.
    pub fn to_server_bytes(&self) -> u64 {
        self.state.to_server_bytes.load(Ordering::Acquire)
    }

    /// Connections that there were so far.
    pub fn connections_made(&self) -> u64 {
        self.state.connections_made.load(Ordering::Acquire)
    }

    /// Cuts all connections once so many more bytes went to the server.
    pub fn cut_after(&self, bytes: u64) {
        self.state.cut_at_bytes.store(self.to_server_bytes() + bytes, Ordering::Release);
    }

    /// Cuts all connections now. New ones are let through.
    pub fn cut(&self) {
        self.state.cut();
    }
}

impl State {
    fn connect(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server) else { return };
        let handles = (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone());
        let (Ok(from_client), Ok(to_server), Ok(to_client), Ok(from_server)) = handles else { return };
        self.connections.lock().expect("no panic with the lock").extend([client, server]);
        self.connections_made.fetch_add(1, Ordering::AcqRel);
        let state = Arc::clone(self);
        thread::spawn(move || forward(from_client, to_server, |bytes| state.count(bytes)));
        thread::spawn(move || forward(from_server, to_client, |_| {}));
    }

    fn count(&self, bytes: u64) {
        let sent = self.to_server_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if sent >= self.cut_at_bytes.load(Ordering::Acquire) {
            self.cut_at_bytes.store(u64::MAX, Ordering::Release);
            self.cut();
        }
    }

    fn cut(&self) {
        for connection in self.connections.lock().expect("no panic with the lock").drain(..) {
            // It may be closed already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, count: impl Fn(u64)) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        count(read as u64);
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
