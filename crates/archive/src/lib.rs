//! Reads the one disk image out of an uploaded zip, or a file that is packed by gzip, xz or zstd.
//!
//! [`open`] judges the archive as a whole and returns the [`Member`] that is the image, which is read like a file. An
//! archive is hostile until shown otherwise: its names never become paths, its local headers, its directory and its
//! streams must tell the same, every byte before the directory must belong to exactly one member, and what comes out is
//! bounded by [`Limits`]. So every reader of such an archive sees the same members, and nobody unpacks a bomb.
//!
//! Synchronous and without `unsafe`; knows nothing of stores, jobs, HTTP or the formats of images. Memory is bounded:
//! the directory, 4 MiB at most, with copies of its names, and half a MiB for a member; 66 MiB for a packed file.

#![forbid(unsafe_code)]

mod budget;
mod checksum;
mod directory;
mod entry;
mod error;
mod fields;
mod layout;
mod local;
mod member;
mod name;
mod packed;

use std::io::{Read, Seek};

pub use crate::error::{Error, ErrorKind, Result, reason};
pub use crate::member::Member;
pub use crate::packed::{Packed, Packing};

/// What an archive may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest image that is taken, holes counted in.
    pub max_bytes: u64,
    /// Bytes of output for each byte of input, beyond [`Self::ratio_free_bytes`]. Pages of zeros of a raw image do not
    /// count: they become holes.
    pub ratio_max: u64,
    /// Output that no ratio is asked of.
    pub ratio_free_bytes: u64,
    /// Take the first image where there are several, instead of refusing the archive.
    pub take_first: bool,
}

impl Default for Limits {
    /// 500 GiB, 200 : 1 past the first 64 MiB, one image.
    fn default() -> Self {
        Self { max_bytes: 500 << 30, ratio_max: 200, ratio_free_bytes: 64 << 20, take_first: false }
    }
}

/// Finds the image in the zip `source`: the first regular file in the order of the directory with the extension
/// `.qcow2`, `.img` or `.iso`, which is not under `__MACOSX/` and does not begin with `._`.
///
/// # Errors
///
/// Every [`ErrorKind`]; what is wrong with the bytes of the image itself shows when they are read.
pub fn open<R: Read + Seek>(mut source: R, limits: &Limits) -> Result<Member<R>> {
    let directory = directory::read(&mut source)?;
    let members = layout::check(&mut source, &directory)?;
    let mut images = directory.entries.iter().zip(&members).filter(|(entry, _)| entry.is_image());
    let (entry, &content_offset) = images.next().ok_or_else(|| {
        let message = "the archive has no file with the extension .qcow2, .img or .iso";
        Error::new(ErrorKind::NoImage, reason::ARCHIVE_NO_IMAGE, message)
    })?;
    if !limits.take_first && images.next().is_some() {
        let message = "the archive has more than one image";
        return Err(Error::new(ErrorKind::Unsafe, reason::ARCHIVE_SEVERAL_IMAGES, message));
    }
    Member::new(source, entry, content_offset, limits)
}

/// Unpacks a file that is packed by itself.
///
/// # Errors
///
/// A file that does not begin as it should, or cannot be read; what else is wrong with it shows when it is read.
pub fn unpack<R: Read>(source: R, packing: Packing, limits: &Limits) -> Result<Packed<R>> {
    Packed::open(source, packing, limits)
}
