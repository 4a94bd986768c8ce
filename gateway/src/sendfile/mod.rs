//! Bytes of stored files on their way to clients without passing through this process (`sendfile(2)`).
//!
//! A server in this process tells where the bytes of an image lie ([`StoredFile`]) when it is asked to ([`FileWanted`]).
//! hyper writes what a body hands out, and a body hands out memory. So the body hands out stand-ins: slices of one piece
//! of memory that nobody reads, each as long as the bytes it stands for. What hyper writes into, the [`Outlet`], knows them
//! by their address and has the kernel send the file's bytes in their place. There is never more than one under way on a
//! connection, and the next follows only when the whole of it was sent: [`Passage`].
//!
//! Only over HTTP/1 without TLS: HTTP/2 puts its own frames around small pieces, TLS must see the bytes.

mod outlet;
mod passage;

use std::fs::File;
use std::sync::Arc;

pub(crate) use self::outlet::Outlet;
pub(crate) use self::passage::{Passage, stream};

/// Stands in the extensions of a DownloadImage call: the caller is in this process and can send a file itself.
#[derive(Clone, Copy, Debug)]
pub struct FileWanted;

/// Stands in the extensions of the answer then, where the image is a file: it holds exactly the image's bytes, and no message
/// follows the header.
#[derive(Clone, Debug)]
pub struct StoredFile(pub Arc<File>);
