//! One cluster in, one stream out: the coders that each thread owns.

use libdeflater::{CompressionLvl, Compressor};
use zlib_rs::{Deflate, DeflateFlush, Status};
use zstd::bulk;

use super::{CompressOptions, Compression, Window};
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::writer::CLUSTER_BYTES;
use crate::reason;

/// Bytes of a cluster that are tried before a whole cluster is spent on input that does not compress.
const SAMPLE_BYTES: usize = 4096;
/// After so many clusters in a row that did not compress, the next ones must first show that they do.
const HOPELESS_CLUSTERS: u32 = 2;

/// Window of the narrow form, as the power of two.
const NARROW_WINDOW_BITS: u8 = 12;

/// Deflate with a window of 4 KiB.
struct Narrow {
    coder: Deflate,
    level: i32,
    /// More than any stream of a cluster takes, whatever is in it: the coder must never stop half way, since resetting
    /// it then leaves its buffer half used and the next stream may find no room in there.
    room: Vec<u8>,
}

impl Narrow {
    fn new(level: i32) -> Self {
        let room = vec![0; 2 * CLUSTER_BYTES as usize];
        Self { coder: Deflate::new(level, false, NARROW_WINDOW_BITS), level, room }
    }

    fn encode(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        self.coder.reset();
        let status = self.coder.compress(input, &mut self.room, DeflateFlush::Finish);
        if status != Ok(Status::StreamEnd) {
            self.coder = Deflate::new(self.level, false, NARROW_WINDOW_BITS);
            return None;
        }
        let length = self.coder.total_out() as usize;
        output.get_mut(..length)?.copy_from_slice(&self.room[..length]);
        Some(length)
    }
}

enum Coder {
    Zlib(Compressor),
    Narrow(Narrow),
    Zstd(bulk::Compressor<'static>),
}

impl Coder {
    fn new(options: &CompressOptions, level: u8) -> Result<Self> {
        let invalid =
            || Error::new(ErrorKind::Unsupported, reason::COMPRESSION_LEVEL, "no such compression level");
        let level = i32::from(level);
        Ok(match (options.compression, options.window) {
            (Compression::Zlib, Window::Full) => {
                Self::Zlib(Compressor::new(CompressionLvl::new(level).map_err(|_| invalid())?))
            }
            (Compression::Zlib, Window::Narrow) => Self::Narrow(Narrow::new(level)),
            (Compression::Zstd, _) => Self::Zstd(bulk::Compressor::new(level).map_err(|_| invalid())?),
        })
    }

    /// Length of the stream, or `None` when it does not fit into `output`.
    fn encode(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        match self {
            Self::Zlib(compressor) => compressor.deflate_compress(input, output).ok(),
            Self::Narrow(narrow) => narrow.encode(input, output),
            // The only failure that plain parameters leave open is a buffer that is too small.
            Self::Zstd(compressor) => compressor.compress_to_buffer(input, output).ok(),
        }
    }
}

/// The coders of one thread.
pub(crate) struct Encoder {
    main: Coder,
    fast: Coder,
    sample: Vec<u8>,
    hopeless: u32,
}

impl Encoder {
    /// Coders for `options`, whose level has been checked.
    pub(crate) fn new(options: &CompressOptions) -> Result<Self> {
        let main = Coder::new(options, options.level_number())?;
        let fast = Coder::new(options, 1)?;
        Ok(Self { main, fast, sample: vec![0; SAMPLE_BYTES], hopeless: 0 })
    }

    /// Forgets the past, at the start of each unit: what a unit becomes must not depend on which thread had the one
    /// before.
    pub(crate) fn start_unit(&mut self) {
        self.hopeless = 0;
    }

    /// Compresses `input` into `output`, which is shorter: `None` when the stream does not fit.
    pub(crate) fn encode(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        let doubtful = self.hopeless >= HOPELESS_CLUSTERS
            && self.fast.encode(&input[..SAMPLE_BYTES.min(input.len())], &mut self.sample).is_none();
        let coder = if doubtful { &mut self.fast } else { &mut self.main };
        let length = coder.encode(input, output);
        self.hopeless = if length.is_none() { self.hopeless + 1 } else { 0 };
        length
    }
}
