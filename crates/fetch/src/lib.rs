//! Fetches bytes from URLs that strangers name.
//!
//! [`Gate`] is the one URL gate (security.md, SEC-35): it reads a URL, resolves its host once, judges every address, and
//! gives out an [`Admitted`] target, which is the only thing that a connection can be made to. Each redirect goes through
//! it again. A [`Fetcher`] reads a source behind the gate: at a minimum rate, within bounds of headers, time and length
//! (SEC-36), resumed after a cut, and in ranges at once where the source offers them.
//!
//! What the other side says never leaves this crate but for its category ([`Error`]). Knows nothing of images, stores,
//! jobs or the wire of the service; reads no environment, so no proxy of it either.

#![forbid(unsafe_code)]

mod address;
mod allow;
mod answer;
mod body;
mod connection;
mod error;
mod fetch;
mod gate;
mod limits;
mod pace;
mod resolve;
mod stretch;

pub use crate::allow::{Allowed, InvalidAllowed, InvalidPorts, Ports};
pub use crate::connection::read_roots;
pub use crate::error::{Error, Result};
pub use crate::fetch::{Fetch, Fetcher};
pub use crate::gate::{Admitted, Gate, Policy};
pub use crate::limits::Limits;
pub use crate::resolve::{Resolver, SystemResolver};
pub use rustls::RootCertStore;
pub use url::Url;
