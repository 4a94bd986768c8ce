//! One cluster in, one stream out: the coders that each thread owns.

use libdeflater::{CompressionLvl, Compressor};
use zstd::bulk;

use super::{CompressOptions, Compression};
use crate::error::{Error, ErrorKind, Result};
use crate::reason;

/// Bytes of a cluster that are tried before a whole cluster is spent on input that does not compress.
const SAMPLE_BYTES: usize = 4096;
/// After so many clusters in a row that did not compress, the next ones must first show that they do.
const HOPELESS_CLUSTERS: u32 = 2;

enum Coder {
    Zlib(Compressor),
    Zstd(bulk::Compressor<'static>),
}

impl Coder {
    fn new(compression: Compression, level: u8) -> Result<Self> {
        let invalid =
            || Error::new(ErrorKind::Unsupported, reason::COMPRESSION_LEVEL, "no such compression level");
        Ok(match compression {
            Compression::Zlib => {
                Self::Zlib(Compressor::new(CompressionLvl::new(i32::from(level)).map_err(|_| invalid())?))
            }
            Compression::Zstd => Self::Zstd(bulk::Compressor::new(i32::from(level)).map_err(|_| invalid())?),
        })
    }

    /// Length of the stream, or `None` when it does not fit into `output`.
    fn encode(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        match self {
            Self::Zlib(compressor) => compressor.deflate_compress(input, output).ok(),
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
        let main = Coder::new(options.compression, options.level_or_default())?;
        let fast = Coder::new(options.compression, 1)?;
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
