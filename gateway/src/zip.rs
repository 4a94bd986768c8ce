//! A zip file with one stored entry, made around bytes that stream by.
//!
//! Everything but the content is known beforehand, so a download has an exact length, and with a known CRC-32 each
//! byte of the whole has its place: ranges can be served. Sizes and places of 4 GiB and more take the zip64 form, and
//! only those, since some old readers do not know it.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const LOCAL_HEADER: u32 = 0x0403_4b50;
const DESCRIPTOR: u32 = 0x0807_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const END_64_LOCATOR: u32 = 0x0706_4b50;

const LOCAL_HEADER_BYTES: u64 = 30;
const CENTRAL_HEADER_BYTES: u64 = 46;
const END_BYTES: u64 = 22;
const END_64_BYTES: u64 = 56;
const END_64_LOCATOR_BYTES: u64 = 20;
/// The extra field that has both sizes: an id, a length and two numbers.
const EXTRA_64_BYTES: u64 = 20;

/// Stands where a number is in the zip64 form.
const ELSEWHERE: u32 = u32::MAX;
/// A CRC-32 and the sizes follow the content.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
/// The name is UTF-8.
const FLAG_UTF8: u16 = 1 << 11;
const METHOD_STORED: u16 = 0;
/// Versions of the specification that a reader must know: 1.0 for stored entries, 4.5 for zip64.
const VERSION_PLAIN: u16 = 10;
const VERSION_64: u16 = 45;
/// Attributes are those of Unix.
const MADE_BY_UNIX: u16 = 3 << 8;
/// A regular file that its owner may write and all may read.
const MODE: u32 = 0o100_644;

/// Why there can be no such file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The name is empty or has more than 65,535 bytes.
    #[error("the name of a zip entry has 1 to 65535 bytes")]
    Name,
    /// The whole would be longer than any file.
    #[error("the content is too long for a zip file")]
    Size,
}

/// Where what is in a zip file with one stored entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZipLayout {
    entry_name: String,
    size_bytes: u64,
    crc32: Option<u32>,
    modified: DateTime,
}

/// What part of each section a range of the whole zip covers; an empty range where it covers none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Of what [`ZipLayout::header`] returns.
    pub header: Range<usize>,
    /// Of the content.
    pub content: Range<u64>,
    /// Of what [`ZipLayout::trailer`] returns.
    pub trailer: Range<usize>,
}

impl ZipLayout {
    /// A zip with the entry `entry_name` of `size_bytes`. The name is taken as it is: that it has no separators, and
    /// whatever else a name must not have, is the caller's. Without a `crc32` one follows the content. Times are kept in
    /// UTC to two seconds, from 1980 to 2107.
    ///
    /// # Errors
    ///
    /// When the name is empty or too long, or the whole would be longer than a file can be.
    pub fn new(
        entry_name: impl Into<String>,
        size_bytes: u64,
        crc32: Option<u32>,
        modified: Timestamp,
    ) -> Result<Self, LayoutError> {
        let entry_name = entry_name.into();
        if entry_name.is_empty() || u16::try_from(entry_name.len()).is_err() {
            return Err(LayoutError::Name);
        }
        // Names take less than 128 KiB, and all else less than 1 KiB.
        if size_bytes > i64::MAX as u64 - (1 << 20) {
            return Err(LayoutError::Size);
        }
        let modified = TimeZone::UTC.to_datetime(modified);
        Ok(Self { entry_name, size_bytes, crc32, modified })
    }

    /// Length of the whole file.
    pub fn total_bytes(&self) -> u64 {
        self.header_bytes() + self.size_bytes + self.trailer_bytes()
    }

    /// What stands before the content.
    pub fn header(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(LOCAL_HEADER);
        self.put_common(&mut bytes, self.crc32.unwrap_or(0));
        bytes.put_slice(self.entry_name.as_bytes());
        self.put_extra(&mut bytes);
        debug_assert_eq!(bytes.len() as u64, self.header_bytes());
        bytes.freeze()
    }

    /// What stands behind the content, whose CRC-32 is `crc32`; one that was known beforehand counts instead.
    pub fn trailer(&self, crc32: u32) -> Bytes {
        let crc32 = self.crc32.unwrap_or(crc32);
        let mut bytes = BytesMut::new();
        if self.crc32.is_none() {
            self.put_descriptor(&mut bytes, crc32);
        }
        self.put_central_header(&mut bytes, crc32);
        self.put_end(&mut bytes);
        debug_assert_eq!(bytes.len() as u64, self.trailer_bytes());
        bytes.freeze()
    }

    /// The parts of a range of the whole file; what lies behind its end is left out.
    pub fn parts(&self, range: &Range<u64>) -> Parts {
        let content_start = self.header_bytes();
        let content_end = content_start + self.size_bytes;
        let within = |section: Range<u64>| {
            let start = range.start.clamp(section.start, section.end);
            let end = range.end.clamp(start, section.end);
            start - section.start..end - section.start
        };
        let short = |range: Range<u64>| range.start as usize..range.end as usize;
        Parts {
            header: short(within(0..content_start)),
            content: within(content_start..content_end),
            trailer: short(within(content_end..self.total_bytes())),
        }
    }

    fn name_bytes(&self) -> u64 {
        self.entry_name.len() as u64
    }

    /// Whether the size needs the zip64 form.
    fn is_large(&self) -> bool {
        self.size_bytes >= u64::from(ELSEWHERE)
    }

    /// Whether the place of the central directory needs the zip64 form; the size alone may not.
    fn ends_far(&self) -> bool {
        self.central_offset() >= u64::from(ELSEWHERE)
    }

    fn extra_bytes(&self) -> u64 {
        if self.is_large() { EXTRA_64_BYTES } else { 0 }
    }

    fn header_bytes(&self) -> u64 {
        LOCAL_HEADER_BYTES + self.name_bytes() + self.extra_bytes()
    }

    fn descriptor_bytes(&self) -> u64 {
        match (self.crc32, self.is_large()) {
            (Some(_), _) => 0,
            (None, false) => 16,
            (None, true) => 24,
        }
    }

    fn central_offset(&self) -> u64 {
        self.header_bytes() + self.size_bytes + self.descriptor_bytes()
    }

    fn central_bytes(&self) -> u64 {
        CENTRAL_HEADER_BYTES + self.name_bytes() + self.extra_bytes()
    }

    fn trailer_bytes(&self) -> u64 {
        let end_64 = if self.ends_far() { END_64_BYTES + END_64_LOCATOR_BYTES } else { 0 };
        self.descriptor_bytes() + self.central_bytes() + end_64 + END_BYTES
    }

    fn version(&self) -> u16 {
        if self.is_large() || self.ends_far() { VERSION_64 } else { VERSION_PLAIN }
    }

    /// A number that may be in the zip64 form.
    fn short(number: u64) -> u32 {
        u32::try_from(number).unwrap_or(ELSEWHERE)
    }

    /// The fields that the local and the central header share, from the version on.
    fn put_common(&self, bytes: &mut BytesMut, crc32: u32) {
        let descriptor = if self.crc32.is_none() { FLAG_DESCRIPTOR } else { 0 };
        let utf8 = if self.entry_name.is_ascii() { 0 } else { FLAG_UTF8 };
        let (date, time) = dos(self.modified);
        bytes.put_u16_le(self.version());
        bytes.put_u16_le(descriptor | utf8);
        bytes.put_u16_le(METHOD_STORED);
        bytes.put_u16_le(time);
        bytes.put_u16_le(date);
        bytes.put_u32_le(crc32);
        // The sizes are told even where a descriptor follows: whoever reads from a pipe cannot find the end without.
        bytes.put_u32_le(Self::short(self.size_bytes));
        bytes.put_u32_le(Self::short(self.size_bytes));
        bytes.put_u16_le(self.entry_name.len() as u16);
        bytes.put_u16_le(self.extra_bytes() as u16);
    }

    fn put_extra(&self, bytes: &mut BytesMut) {
        if self.is_large() {
            bytes.put_u16_le(1);
            bytes.put_u16_le(16);
            bytes.put_u64_le(self.size_bytes);
            bytes.put_u64_le(self.size_bytes);
        }
    }

    fn put_descriptor(&self, bytes: &mut BytesMut, crc32: u32) {
        bytes.put_u32_le(DESCRIPTOR);
        bytes.put_u32_le(crc32);
        for _ in 0..2 {
            if self.is_large() {
                bytes.put_u64_le(self.size_bytes);
            } else {
                bytes.put_u32_le(Self::short(self.size_bytes));
            }
        }
    }

    fn put_central_header(&self, bytes: &mut BytesMut, crc32: u32) {
        bytes.put_u32_le(CENTRAL_HEADER);
        bytes.put_u16_le(MADE_BY_UNIX | self.version());
        self.put_common(bytes, crc32);
        // No comment, the first volume, no internal attributes.
        bytes.put_bytes(0, 6);
        bytes.put_u32_le(MODE << 16);
        // The local header is at the very start.
        bytes.put_u32_le(0);
        bytes.put_slice(self.entry_name.as_bytes());
        self.put_extra(bytes);
    }

    fn put_end(&self, bytes: &mut BytesMut) {
        let (offset, length) = (self.central_offset(), self.central_bytes());
        if self.ends_far() {
            bytes.put_u32_le(END_64);
            // Its length without the first two fields.
            bytes.put_u64_le(END_64_BYTES - 12);
            bytes.put_u16_le(MADE_BY_UNIX | VERSION_64);
            bytes.put_u16_le(VERSION_64);
            bytes.put_bytes(0, 8);
            bytes.put_u64_le(1);
            bytes.put_u64_le(1);
            bytes.put_u64_le(length);
            bytes.put_u64_le(offset);
            bytes.put_u32_le(END_64_LOCATOR);
            bytes.put_u32_le(0);
            bytes.put_u64_le(offset + length);
            bytes.put_u32_le(1);
        }
        bytes.put_u32_le(END);
        bytes.put_bytes(0, 4);
        bytes.put_u16_le(1);
        bytes.put_u16_le(1);
        bytes.put_u32_le(length as u32);
        bytes.put_u32_le(Self::short(offset));
        bytes.put_u16_le(0);
    }
}

/// Date and time as DOS has them; what lies outside of its years is moved to their ends.
fn dos(time: DateTime) -> (u16, u16) {
    let years = u16::try_from(time.year()).unwrap_or(0);
    if years < 1980 {
        return (1 << 5 | 1, 0);
    }
    if years > 2107 {
        return (127 << 9 | 12 << 5 | 31, 23 << 11 | 59 << 5 | 29);
    }
    let field = |number: i8| u16::from(number.unsigned_abs());
    (
        (years - 1980) << 9 | field(time.month()) << 5 | field(time.day()),
        field(time.hour()) << 11 | field(time.minute()) << 5 | (field(time.second()) / 2),
    )
}

#[cfg(test)]
mod tests;
