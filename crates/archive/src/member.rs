//! The image in the archive, read like a file.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use zlib_rs::{Inflate, InflateFlush, Status};

use crate::Limits;
use crate::budget::{Budget, is_zero};
use crate::checksum::{BLOCK_BYTES, Checksum};
use crate::entry::{DEFLATE, Entry, STORED};
use crate::error::{Error, ErrorKind, Result, reason};
use crate::name;

/// Packed bytes that are read at a time.
const INPUT_BYTES: usize = 128 << 10;
/// Unpacked bytes that are handed out at a time: whole blocks of the checksum.
const OUTPUT_BYTES: usize = 4 * BLOCK_BYTES;
/// The whole window of deflate.
const WINDOW_BITS: u8 = 15;

pub(crate) const QCOW2: &[u8] = b"QFI\xfb";
/// What compressed files and archives begin with, and no disk does.
pub(crate) const NESTED: [&[u8]; 6] = [
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b\x08",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"7z\xbc\xaf\x27\x1c",
];

/// The image. Reading it to the end proves that it is whole: the last bytes are handed out only when length and
/// checksum are right. A failed read fails again; [`Error::from_read`] tells why.
pub struct Member<R> {
    source: R,
    base_name: String,
    size_bytes: u64,
    compressed_bytes: u64,
    crc32: u32,
    /// `None`: stored.
    inflate: Option<Box<Inflate>>,
    input: Vec<u8>,
    /// What is left of the input that was read.
    input_range: std::ops::Range<usize>,
    /// Packed bytes that were not read yet.
    left_bytes: u64,
    output: Vec<u8>,
    output_range: std::ops::Range<usize>,
    done_bytes: u64,
    checksum: Checksum,
    budget: Budget,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Complete,
    /// With the reason of the error, so that a second read fails like the first.
    Failed(ErrorKind, &'static str),
}

impl<R> std::fmt::Debug for Member<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Member")
            .field("base_name", &self.base_name)
            .field("size_bytes", &self.size_bytes)
            .field("compressed_bytes", &self.compressed_bytes)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<R> Member<R> {
    /// What stands behind the last separator of the member's name: a label, without control characters.
    pub fn base_name(&self) -> &str {
        &self.base_name
    }

    /// Length of the image.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes that it takes in the archive.
    pub fn compressed_bytes(&self) -> u64 {
        self.compressed_bytes
    }

    /// CRC-32 of the image, as the archive says; it is right once all was read.
    pub fn crc32(&self) -> u32 {
        self.crc32
    }

    /// Packed bytes that were read: how far a caller is who does not know the holes of the image.
    pub fn compressed_read_bytes(&self) -> u64 {
        self.compressed_bytes - self.left_bytes
    }
}

impl<R: Read + Seek> Member<R> {
    pub(crate) fn new(mut source: R, entry: &Entry, content_offset: u64, limits: &Limits) -> Result<Self> {
        let text = entry.text();
        let base_name = name::base(&text).to_owned();
        if base_name.chars().any(char::is_control) {
            return Err(Error::dangerous("the name of the image has control characters"));
        }
        if entry.size_bytes > limits.max_bytes {
            let message = format!("the image in the archive is longer than {} bytes", limits.max_bytes);
            return Err(Error::new(ErrorKind::TooLarge, reason::ARCHIVE_TOO_LARGE, message));
        }
        let inflate = match entry.method {
            STORED => None,
            DEFLATE => Some(Box::new(Inflate::new(false, WINDOW_BITS))),
            _ => return Err(Error::unsupported("the image in the archive is packed by an unknown method")),
        };
        source.seek(SeekFrom::Start(content_offset))?;
        let is_raw = !base_name.ends_with(".qcow2");
        Ok(Self {
            source,
            base_name,
            size_bytes: entry.size_bytes,
            compressed_bytes: entry.compressed_bytes,
            crc32: entry.crc32,
            inflate,
            input: vec![0; INPUT_BYTES],
            input_range: 0..0,
            left_bytes: entry.compressed_bytes,
            output: vec![0; OUTPUT_BYTES],
            output_range: 0..0,
            done_bytes: 0,
            checksum: Checksum::new(),
            budget: Budget::new(limits, is_raw),
            state: State::Reading,
        })
    }

    /// Unpacks the next bytes and checks them.
    fn fill(&mut self) -> Result<()> {
        self.output_range = 0..0;
        let (length, is_end) = match self.inflate {
            None => self.copy()?,
            Some(_) => self.unpack()?,
        };
        self.count(length)?;
        if is_end {
            self.check_end()?;
            self.state = State::Complete;
        }
        self.output_range = 0..length;
        Ok(())
    }

    /// Fills the output with stored bytes.
    fn copy(&mut self) -> Result<(usize, bool)> {
        let length = self.left_bytes.min(OUTPUT_BYTES as u64) as usize;
        self.source.read_exact(&mut self.output[..length])?;
        self.left_bytes -= length as u64;
        Ok((length, self.left_bytes == 0))
    }

    /// Fills the output with inflated bytes.
    fn unpack(&mut self) -> Result<(usize, bool)> {
        let mut length = 0;
        loop {
            if self.input_range.is_empty() {
                self.read_input()?;
            }
            let Some(inflate) = &mut self.inflate else { return Ok((0, true)) };
            let before = (inflate.total_in(), inflate.total_out());
            let input = &self.input[self.input_range.clone()];
            let status = inflate
                .decompress(input, &mut self.output[length..], InflateFlush::NoFlush)
                .map_err(|_| damaged("the packed image is damaged"))?;
            let taken = (inflate.total_in() - before.0) as usize;
            let made = (inflate.total_out() - before.1) as usize;
            self.input_range.start += taken;
            length += made;
            if status == Status::StreamEnd {
                return Ok((length, true));
            }
            if length == OUTPUT_BYTES {
                return Ok((length, false));
            }
            // There is room, so it wants input: there must be some.
            if taken == 0 && made == 0 && self.left_bytes == 0 {
                return Err(damaged("the packed image ends early"));
            }
            if taken == 0 && made == 0 && !self.input_range.is_empty() {
                return Err(damaged("the packed image is damaged"));
            }
        }
    }

    fn read_input(&mut self) -> Result<()> {
        let length = self.left_bytes.min(INPUT_BYTES as u64) as usize;
        self.source.read_exact(&mut self.input[..length])?;
        self.left_bytes -= length as u64;
        self.input_range = 0..length;
        Ok(())
    }

    /// Takes `length` fresh bytes of output into account. They begin at a block.
    fn count(&mut self, length: usize) -> Result<()> {
        let fresh = &self.output[..length];
        if self.done_bytes == 0 {
            if NESTED.iter().any(|magic| fresh.starts_with(magic)) {
                let message = "the image in the archive is itself an archive or a compressed file";
                return Err(Error::new(ErrorKind::Unsafe, reason::ARCHIVE_NESTED, message));
            }
            if fresh.starts_with(QCOW2) {
                self.budget.count_zeros();
            }
        }
        self.done_bytes += length as u64;
        if self.done_bytes > self.size_bytes {
            return Err(damaged("the image is longer than the archive says"));
        }
        for block in fresh.chunks(BLOCK_BYTES) {
            let is_zero = block.len() == BLOCK_BYTES && is_zero(block);
            if is_zero {
                self.checksum.add_zeros();
            } else {
                self.checksum.add(block);
            }
            self.budget.add(block, is_zero);
        }
        let input_bytes = self.compressed_bytes - self.left_bytes - self.input_range.len() as u64;
        self.budget.check(input_bytes)
    }

    fn check_end(&self) -> Result<()> {
        if self.left_bytes != 0 || !self.input_range.is_empty() {
            return Err(damaged("the packed image ends before the archive says"));
        }
        if self.done_bytes != self.size_bytes {
            return Err(damaged("the image is shorter than the archive says"));
        }
        if self.checksum.value() != self.crc32 {
            return Err(damaged("the checksum of the image is wrong"));
        }
        Ok(())
    }
}

fn damaged(message: &str) -> Error {
    Error::new(ErrorKind::Invalid, reason::ARCHIVE_DAMAGED, message)
}

impl<R: Read + Seek> BufRead for Member<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.output_range.is_empty() {
            match self.state {
                State::Complete => {}
                State::Failed(kind, reason) => {
                    return Err(Error::new(kind, reason, "the image could not be read before").into());
                }
                State::Reading => {
                    if let Err(error) = self.fill() {
                        self.state = State::Failed(error.kind, error.reason);
                        return Err(error.into());
                    }
                }
            }
        }
        Ok(&self.output[self.output_range.clone()])
    }

    fn consume(&mut self, amount: usize) {
        self.output_range.start = (self.output_range.start + amount).min(self.output_range.end);
    }
}

impl<R: Read + Seek> Read for Member<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let ready = self.fill_buf()?;
        let length = ready.len().min(buffer.len());
        buffer[..length].copy_from_slice(&ready[..length]);
        self.consume(length);
        Ok(length)
    }
}
