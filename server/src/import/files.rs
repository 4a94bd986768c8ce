//! Files of the old installation. They are opened for reading, and where the system lets us not even their time of access
//! changes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::time::UNIX_EPOCH;

use imageops_archive::Limits;
use imageops_image::Control;
use imageops_image::digest::{Digester, Selection, digest_storage};
use imageops_image::storage::FileStorage;
use imageops_model::Micros;
use imageops_store::{Error, ImageRoot};
use rustix::fs::{OFlags, fcntl_setfl};
use tonic::Code;

use crate::failure::{Failure, Result};
use crate::reason;

/// The first bytes of a file, by which most of what is unsafe shows.
pub(super) const PREFIX_BYTES: usize = 64 << 10;
/// Bytes of an unpacked image that are hashed at a time.
const PIECE_BYTES: usize = 512 << 10;
/// What zips begin with, and no disk does.
const ZIP: &[u8] = b"PK\x03\x04";

/// MD5 and nothing else.
const MD5: Selection = Selection { md5: true, sha256: false, sha512: false, crc32: false };

/// A file, open for reading.
pub(super) struct LegacyFile {
    /// Its name.
    name: String,
    file: File,
    /// Its length when it was opened.
    pub(super) size_bytes: u64,
    /// When it was last written.
    pub(super) modified: Micros,
    /// Its first bytes.
    pub(super) prefix: Vec<u8>,
}

/// Opens the first of `names` that is there. Blocks.
pub(super) fn open(root: &ImageRoot, names: &[String]) -> Result<LegacyFile> {
    for name in names {
        match root.open_source(name) {
            Ok(file) => return LegacyFile::new(name, file),
            Err(Error::NotFound | Error::InvalidName) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let message = format!("the directory has no regular file {}", names.join(" or "));
    Err(Failure::new(Code::NotFound, reason::FILE_NOT_FOUND, message))
}

impl LegacyFile {
    fn new(name: &str, file: File) -> Result<Self> {
        // The owner may ask for this; who may not reads all the same.
        let _ = fcntl_setfl(&file, OFlags::NOATIME);
        let metadata = file.metadata().map_err(unreadable)?;
        let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = since.and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or_default();
        let mut prefix = vec![0; PREFIX_BYTES.min(usize::try_from(metadata.len()).unwrap_or(PREFIX_BYTES))];
        file.read_exact_at(&mut prefix, 0).map_err(unreadable)?;
        let name = name.to_owned();
        Ok(Self { name, file, size_bytes: metadata.len(), modified: Micros(modified), prefix })
    }

    /// Whether it is a zip that the image is in, as early builds kept what came.
    pub(super) fn is_archive(&self) -> bool {
        self.name.ends_with(".zip") || self.prefix.starts_with(ZIP)
    }

    /// Another handle of it.
    pub(super) fn reopen(&self) -> Result<File> {
        self.file.try_clone().map_err(unreadable)
    }

    /// MD5 of the image in it. Blocks.
    pub(super) fn md5(&self, max_bytes: u64) -> Result<String> {
        let digests = if self.is_archive() {
            self.digest_member(max_bytes)?.finish()
        } else {
            let storage = FileStorage::new(self.reopen()?).map_err(unreadable)?;
            digest_storage(&storage, MD5, &Control::default())?
        };
        Ok(digests.md5.unwrap_or_default())
    }

    fn digest_member(&self, max_bytes: u64) -> Result<Digester> {
        let limits = Limits { max_bytes, take_first: true, ..Limits::default() };
        let unfit = |error: imageops_archive::Error| {
            Failure::new(Code::InvalidArgument, error.reason, error.message.clone())
        };
        let mut member = imageops_archive::open(BufReader::new(self.reopen()?), &limits).map_err(unfit)?;
        let (mut digester, mut piece) = (Digester::new(MD5), vec![0; PIECE_BYTES]);
        loop {
            match member.read(&mut piece) {
                Ok(0) => return Ok(digester),
                Ok(count) => digester.update(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unfit(imageops_archive::Error::from_read(error))),
            }
        }
    }
}

fn unreadable(error: std::io::Error) -> Failure {
    Error::from(error).into()
}
