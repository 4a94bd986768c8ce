//! Rust client of imageops: connect, resumable upload, verified download, reconnecting watch.
//!
//! [`Connection`] is the way to a server, over the network or straight into services of the same process, and serves
//! the generated stubs. [`Client`] wraps the calls: what breaks with the connection is made again within the bounds of
//! a [`RetryPolicy`], uploads and downloads go on where they stood, a watch comes back. The crate knows the wire
//! contract and nothing of files, formats or the server's inside.

mod client;
mod connection;
mod download;
mod error;
mod images;
mod keys;
mod quotas;
mod retry;
mod sessions;
mod stores;
mod target;
mod transfer;
mod upload;
mod watch;

pub use client::{Client, is_final};
pub use connection::{ConnectOptions, Connection, Identity, MESSAGE_SIZE_BYTES_MAX, TlsOptions, Token};
pub use error::{CallError, Error, Result, code_name};
pub use retry::RetryPolicy;
pub use target::DownloadTarget;
pub use transfer::TransferProgress;
pub use upload::{UploadOptions, Uploaded};
