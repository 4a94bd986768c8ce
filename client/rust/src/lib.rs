//! Rust client of imageops: connect, resumable upload, verified download, reconnecting watch.
//!
//! [`Connection`] is the way to a server, over the network or straight into services of the same process, and serves
//! the generated stubs. The crate knows the wire contract and nothing of files, formats or the server's inside.

mod connection;
mod error;

pub use connection::{ConnectOptions, Connection, MESSAGE_SIZE_BYTES_MAX, Token};
pub use error::{CallError, Error, Result};
