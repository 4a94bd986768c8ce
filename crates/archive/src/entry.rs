//! Members as the directory tells of them.

use crate::error::{Error, ErrorKind, Result, reason};
use crate::fields::{Extra, Fields, long};
use crate::name;

pub(crate) const SIGNATURE: u32 = 0x0201_4b50;

/// Where the type is in the mode of Unix, and the types that are taken.
const TYPE_MASK: u32 = 0o170_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const DOS_DIRECTORY: u32 = 0x10;

/// Bits of the flags.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const DESCRIPTOR: u16 = 1 << 3;
const PATCH: u16 = 1 << 5;
/// The flags that local header and directory must agree in; the others tell how the packer went about it.
pub(crate) const FLAGS_COMPARED: u16 = ENCRYPTED | DESCRIPTOR | PATCH | 1 << 11;
/// The method under which AES hides the real one.
const METHOD_AES: u16 = 99;

/// How a member is packed.
pub(crate) const STORED: u16 = 0;
pub(crate) const DEFLATE: u16 = 8;

/// A member.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) flags: u16,
    pub(crate) method: u16,
    pub(crate) crc32: u32,
    pub(crate) compressed_bytes: u64,
    pub(crate) size_bytes: u64,
    pub(crate) local_offset: u64,
    is_directory: bool,
}

impl Entry {
    /// Reads the next entry and refuses what no archive may have.
    pub(crate) fn parse(fields: &mut Fields<'_>) -> Result<Self> {
        if fields.u32()? != SIGNATURE {
            return Err(Error::invalid("the directory is damaged"));
        }
        let (_made_by, _needed) = (fields.u16()?, fields.u16()?);
        let (flags, method) = (fields.u16()?, fields.u16()?);
        let _time = fields.u32()?;
        let crc32 = fields.u32()?;
        let (compressed, size) = (fields.u32()?, fields.u32()?);
        let (name_bytes, extra_bytes, comment_bytes) = (fields.u16()?, fields.u16()?, fields.u16()?);
        let volume = fields.u16()?;
        let _internal = fields.u16()?;
        let attributes = fields.u32()?;
        let local = fields.u32()?;
        let name = fields.bytes(name_bytes.into())?.to_vec();
        let extra = Extra::parse(fields.bytes(extra_bytes.into())?)?;
        fields.bytes(comment_bytes.into())?;

        // The order is that of the extra block.
        let mut zip64 = extra.zip64;
        let size_bytes = long(size, &mut zip64)?;
        let compressed_bytes = long(compressed, &mut zip64)?;
        let local_offset = long(local, &mut zip64)?;
        if volume != 0 {
            return Err(Error::dangerous("the archive has more than one volume"));
        }
        let is_directory = is_directory(attributes, extra.mode, &name)?;
        let entry =
            Self { name, flags, method, crc32, compressed_bytes, size_bytes, local_offset, is_directory };
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<()> {
        if self.flags & ENCRYPTED != 0 || self.method == METHOD_AES {
            let message = "a member of the archive is encrypted";
            return Err(Error::new(ErrorKind::Encrypted, reason::ARCHIVE_ENCRYPTED, message));
        }
        if self.flags & PATCH != 0 {
            return Err(Error::unsupported("a member of the archive is a patch"));
        }
        if self.name.is_empty() || self.name.contains(&0) {
            // Readers that end names at it see another name.
            return Err(Error::dangerous("a name in the archive is empty or has a NUL"));
        }
        if self.is_directory && self.size_bytes != 0 {
            return Err(Error::invalid("a directory in the archive has content"));
        }
        if self.method == STORED && self.compressed_bytes != self.size_bytes {
            return Err(Error::invalid("a stored member has two sizes"));
        }
        Ok(())
    }

    /// Whether a CRC and sizes follow the content.
    pub(crate) fn has_descriptor(&self) -> bool {
        self.flags & DESCRIPTOR != 0
    }

    /// The name as a text. What is not UTF-8 is of an older code page that nobody told: its letters are lost.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// Whether this is what we look for.
    pub(crate) fn is_image(&self) -> bool {
        !self.is_directory && name::is_image(&self.text())
    }
}

/// Refuses what is neither file nor directory. Whoever packed it, the mode of Unix counts: so it does for many readers.
fn is_directory(attributes: u32, extra_mode: Option<u16>, name: &[u8]) -> Result<bool> {
    let mut is_directory = attributes & DOS_DIRECTORY != 0 || name.ends_with(b"/") || name.ends_with(b"\\");
    for mode in [attributes >> 16, extra_mode.unwrap_or(0).into()] {
        match mode & TYPE_MASK {
            0 | TYPE_FILE => {}
            TYPE_DIRECTORY => is_directory = true,
            _ => return Err(Error::dangerous("the archive has a link or a device")),
        }
    }
    Ok(is_directory)
}
