//! The disk-image engine: formats, guest file systems, check, compress, inspect and digest.
//!
//! Synchronous, native, without `unsafe`: it opens exactly the file it is handed, never a file that an image names,
//! and knows nothing of gRPC, HTTP or SQL. [`storage`] is where bytes come from, [`mod@format`] turns them into the
//! [`disk`] that a guest sees, [`guest`] finds what the guest has freed; `check`, `compress`, `convert`, `in_place`, `inspect` and
//! `map` are the operations. Long operations report through a [`Control`] and stop through its token.

pub mod check;
pub mod compress;
pub mod control;
pub mod convert;
pub mod digest;
pub mod disk;
mod error;
pub mod format;
pub mod guest;
pub mod in_place;
pub mod inspect;
pub mod map;
pub mod output;
mod progress;
pub mod reason;
pub mod storage;

pub use control::{CancelToken, Control, Phase, Progress};
pub use error::{Error, ErrorKind, Result};
