//! A file that is packed by itself: gzip, xz or zstd, read like a file.
//!
//! Memory is bounded whatever the file asks for: the window of gzip has 32 KiB, those of xz and zstd have 64 MiB at most
//! (SEC-21).

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};

use crate::Limits;
use crate::budget::{Budget, is_zero};
use crate::checksum::BLOCK_BYTES;
use crate::error::{Error, ErrorKind, Result, reason};
use crate::member::{NESTED, QCOW2};

/// Packed bytes that are read at a time.
const INPUT_BYTES: usize = 128 << 10;
/// Unpacked bytes that are looked at at a time: whole blocks.
const OUTPUT_BYTES: usize = 4 * BLOCK_BYTES;
/// Logarithm of the largest window of zstd: 64 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;
/// Memory of the decoder of xz: a dictionary of 64 MiB, as `xz -9` asks for, and its tables.
const XZ_MEMORY_BYTES_MAX: u64 = 66 << 20;
/// Longest mark that a packed file begins with.
const MAGIC_BYTES: usize = 6;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// gzip, RFC 1952.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Packing {
    fn magic(self) -> &'static [u8] {
        match self {
            Self::Gzip => b"\x1f\x8b\x08",
            Self::Xz => b"\xfd7zXZ\0",
            Self::Zstd => b"\x28\xb5\x2f\xfd",
        }
    }
}

/// The source, watched: how much of it was read, and whether it failed.
struct Watched<R> {
    source: R,
    watch: Arc<Watch>,
}

#[derive(Default)]
struct Watch {
    read_bytes: AtomicU64,
    failed: AtomicBool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer);
        match &read {
            Ok(count) => drop(self.watch.read_bytes.fetch_add(*count as u64, Ordering::Relaxed)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.watch.failed.store(true, Ordering::Relaxed),
        }
        read
    }
}

type Input<R> = BufReader<io::Chain<Cursor<Vec<u8>>, Watched<R>>>;

enum Decoder<R: Read> {
    Gzip(MultiGzDecoder<Input<R>>),
    Xz(XzDecoder<Input<R>>),
    Zstd(zstd::Decoder<'static, Input<R>>),
}

impl<R: Read> Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// A packed file, unpacked. Reading it to the end proves that it is whole, as far as its packing has sums. A failed read
/// fails again; [`Error::from_read`] tells why.
pub struct Packed<R: Read> {
    decoder: Decoder<R>,
    watch: Arc<Watch>,
    output: Vec<u8>,
    output_range: std::ops::Range<usize>,
    done_bytes: u64,
    max_bytes: u64,
    budget: Budget,
    failed: Option<(ErrorKind, &'static str)>,
}

impl<R: Read> std::fmt::Debug for Packed<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Packed").field("done_bytes", &self.done_bytes).finish_non_exhaustive()
    }
}

impl<R: Read> Packed<R> {
    pub(crate) fn open(mut source: R, packing: Packing, limits: &Limits) -> Result<Self> {
        let mut head = Vec::with_capacity(MAGIC_BYTES);
        source.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut head)?;
        if !head.starts_with(packing.magic()) {
            return Err(Error::invalid("the file is not packed as was said"));
        }
        let watch = Arc::new(Watch::default());
        let watched = Watched { source, watch: Arc::clone(&watch) };
        let input = BufReader::with_capacity(INPUT_BYTES, Cursor::new(head).chain(watched));
        let decoder = match packing {
            Packing::Gzip => Decoder::Gzip(MultiGzDecoder::new(input)),
            Packing::Xz => {
                let stream =
                    Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, CONCATENATED).map_err(io::Error::from)?;
                Decoder::Xz(XzDecoder::new_stream(input, stream))
            }
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(decoder)
            }
        };
        Ok(Self {
            decoder,
            watch,
            output: vec![0; OUTPUT_BYTES],
            output_range: 0..0,
            done_bytes: 0,
            max_bytes: limits.max_bytes,
            // Zeros become holes, unless the content turns out to be of a format that has none.
            budget: Budget::new(limits, true),
            failed: None,
        })
    }

    /// Unpacks the next bytes and checks them; an empty range at the end.
    fn fill(&mut self) -> Result<()> {
        self.output_range = 0..0;
        let mut length = 0;
        while length < OUTPUT_BYTES {
            match self.decoder.read(&mut self.output[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
        self.count(length)?;
        self.output_range = 0..length;
        Ok(())
    }

    /// Takes `length` fresh bytes of output into account. They begin at a block.
    fn count(&mut self, length: usize) -> Result<()> {
        let fresh = &self.output[..length];
        if self.done_bytes == 0 {
            if NESTED.iter().any(|magic| fresh.starts_with(magic)) {
                let message = "the packed file is itself an archive or a compressed file";
                return Err(Error::new(ErrorKind::Unsafe, reason::ARCHIVE_NESTED, message));
            }
            if fresh.starts_with(QCOW2) {
                self.budget.count_zeros();
            }
        }
        self.done_bytes = self.done_bytes.saturating_add(length as u64);
        if self.done_bytes > self.max_bytes {
            let message = format!("the packed file is longer than {} bytes", self.max_bytes);
            return Err(Error::new(ErrorKind::TooLarge, reason::ARCHIVE_TOO_LARGE, message));
        }
        for block in fresh.chunks(BLOCK_BYTES) {
            let is_zero = block.len() == BLOCK_BYTES && is_zero(block);
            self.budget.add(block, is_zero);
        }
        self.budget.check(self.watch.read_bytes.load(Ordering::Relaxed))
    }

    /// What a decoder's error means: the medium failed, or the file is at fault.
    fn failure(&self, error: io::Error) -> Error {
        if self.watch.failed.load(Ordering::Relaxed) {
            return error.into();
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Error::invalid("the packed file ends early");
        }
        if wants_memory(&error) {
            return Error::unsupported("unpacking would take more than 64 MiB of memory");
        }
        Error::new(ErrorKind::Invalid, reason::ARCHIVE_DAMAGED, "the packed file is damaged")
    }
}

/// Whether a decoder gave up because the file asks for a window that is not granted.
fn wants_memory(error: &io::Error) -> bool {
    let of_xz = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<liblzma::stream::Error>())
        .is_some_and(|inner| *inner == liblzma::stream::Error::MemLimit);
    // The only word that the decoder of zstd has for it.
    of_xz || error.to_string().contains("too much memory")
}

impl<R: Read> Read for Packed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some((kind, reason)) = self.failed {
            return Err(Error::new(kind, reason, "the file could not be unpacked before").into());
        }
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.output_range.is_empty()
            && let Err(error) = self.fill()
        {
            self.failed = Some((error.kind, error.reason));
            return Err(error.into());
        }
        let ready = &self.output[self.output_range.clone()];
        let length = ready.len().min(buffer.len());
        buffer[..length].copy_from_slice(&ready[..length]);
        self.output_range.start += length;
        Ok(length)
    }
}
