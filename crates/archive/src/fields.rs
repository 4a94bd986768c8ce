//! Numbers of a structure, one after the other; all of a zip are little-endian.

use std::io::{Read, Seek, SeekFrom};

use crate::error::{Error, Result};

/// The rest of a structure that is being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next `length` bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let (bytes, rest) =
            self.0.split_at_checked(length).ok_or_else(|| Error::invalid("a header is cut short"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (bytes, rest) =
            self.0.split_first_chunk().ok_or_else(|| Error::invalid("a header is cut short"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads exactly `buffer` from `offset`.
pub(crate) fn read_at(source: &mut (impl Read + Seek), buffer: &mut [u8], offset: u64) -> Result<()> {
    source.seek(SeekFrom::Start(offset))?;
    Ok(source.read_exact(buffer)?)
}

/// The fields of an extra block that a header may have once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extra<'a> {
    /// Long sizes and places.
    pub(crate) zip64: Option<Fields<'a>>,
    /// Type and permissions, as an old extension of Info-ZIP has them.
    pub(crate) mode: Option<u16>,
}

impl<'a> Extra<'a> {
    const ZIP64: u16 = 0x0001;
    const ASI_UNIX: u16 = 0x756e;

    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut extra = Self::default();
        let mut rest = Fields(bytes);
        while !rest.is_empty() {
            let (id, length) = (rest.u16()?, rest.u16()?);
            let mut content = Fields(rest.bytes(length.into())?);
            match id {
                Self::ZIP64 if extra.zip64.replace(content).is_some() => {
                    return Err(Error::invalid("a header has its long sizes twice"));
                }
                Self::ASI_UNIX => {
                    content.u32()?;
                    extra.mode = Some(content.u16()?);
                }
                _ => {}
            }
        }
        Ok(extra)
    }
}

/// A number that may stand in the extra block.
pub(crate) fn long(short: u32, zip64: &mut Option<Fields<'_>>) -> Result<u64> {
    if short != u32::MAX {
        return Ok(short.into());
    }
    match zip64 {
        Some(fields) => fields.u64(),
        None => Err(Error::invalid("a header lacks its long sizes")),
    }
}
