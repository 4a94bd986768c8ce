//! The gateway as a program of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use super::{Service, binary};

/// A running gateway, killed when dropped.
pub struct Gateway {
    child: Child,
    /// Where REST is served.
    pub http: SocketAddr,
}

impl Gateway {
    /// Starts one before this server.
    pub fn before(service: &Service) -> Self {
        let mut child = Command::new(binary("imageops-gateway"))
            .args(["--upstream", &format!("http://{}", service.grpc())])
            .args(["--http-listen", "127.0.0.1:0", "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("a gateway that starts");
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let first = lines.next().expect("a first line").expect("a line that is text");
        let first: serde_json::Value = serde_json::from_str(&first).expect("a line of JSON");
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let address = first["fields"]["address"].as_str().expect("where it listens");
        Self { child, http: address.parse().expect("an address") }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
