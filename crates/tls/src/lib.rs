//! TLS of the listeners: certificates that are renewed in place, handshakes with bounds.
//!
//! [`Certificates`] are read from files and renewed when these change. [`Door`] turns an accepted TCP connection into a
//! [`Stream`], plain or encrypted, and tells with [`Peer`] who is at the other end. The crate knows files, sockets and
//! TLS, and nothing of HTTP, gRPC or keys.

mod certificates;
mod door;
mod greeting;
mod stream;

pub use certificates::{Certificates, Error, Files, fingerprint};
pub use door::{Door, HANDSHAKE_TIMEOUT};
pub use stream::{InvalidPeer, Peer, Stream};
