//! Decoders of compressed clusters.

use std::sync::{Mutex, PoisonError};

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::Compression;
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Decoders that idle; a thread takes one for each run of compressed clusters and gives it back.
pub(crate) struct DecoderPool {
    idle: Mutex<Vec<Decoder>>,
    compression: Compression,
    cluster_bits: u32,
}

/// Most decoders that are kept while nobody uses them.
const IDLE_MAX: usize = 64;

impl DecoderPool {
    pub(crate) fn new(compression: Compression, cluster_bits: u32) -> Self {
        Self { idle: Mutex::default(), compression, cluster_bits }
    }

    /// Lends a decoder to `work`.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Decoder) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new(self.compression, self.cluster_bits)?,
        };
        let result = work(&mut decoder);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(decoder);
        }
        result
    }
}

enum Coder {
    Zlib(libdeflater::Decompressor),
    Zstd(DCtx<'static>),
}

/// Inflates one cluster at a time into a buffer of exactly one cluster.
pub(crate) struct Decoder {
    coder: Coder,
    input: Vec<u8>,
    cluster: Vec<u8>,
}

impl Decoder {
    fn new(compression: Compression, cluster_bits: u32) -> Result<Self> {
        let coder = match compression {
            Compression::Zlib => Coder::Zlib(libdeflater::Decompressor::new()),
            Compression::Zstd => Coder::Zstd(zstd_context(cluster_bits)?),
        };
        Ok(Self { coder, input: Vec::new(), cluster: vec![0; 1 << cluster_bits] })
    }

    /// The content of the cluster whose stream lies in `length_bytes` bytes from `offset`; what follows the end of the
    /// stream in there is somebody else's and is ignored.
    pub(crate) fn read(&mut self, storage: &dyn Storage, offset: u64, length_bytes: u64) -> Result<&[u8]> {
        read_stream(storage, &mut self.input, offset, length_bytes)?;
        let decoded = match &mut self.coder {
            Coder::Zlib(decoder) => inflate(decoder, &self.input, &mut self.cluster),
            Coder::Zstd(context) => unpack(context, &self.input, &mut self.cluster).map(|_| ()),
        };
        decoded.map_err(|error| error.at(offset))?;
        Ok(&self.cluster)
    }
}

/// Reads a stream as far as the file goes: the last sector may be cut short, and with zeros in the place of bytes that are
/// missing a stream without a checksum can decode to another cluster.
pub(super) fn read_stream(
    storage: &dyn Storage,
    input: &mut Vec<u8>,
    offset: u64,
    length_bytes: u64,
) -> Result<()> {
    let there = storage.size_bytes().saturating_sub(offset).min(length_bytes);
    // The descriptor has at most cluster bits - 8 bits for the sectors: two clusters at most.
    input.resize(there as usize, 0);
    read_zero_filled(storage, input, offset)
}

fn inflate(decoder: &mut libdeflater::Decompressor, input: &[u8], cluster: &mut [u8]) -> Result<()> {
    match decoder.deflate_decompress(input, cluster) {
        Ok(length) if length == cluster.len() => Ok(()),
        Ok(_) => Err(undecodable("a compressed cluster holds less than a cluster")),
        Err(libdeflater::DecompressionError::InsufficientSpace) => {
            Err(undecodable("a compressed cluster holds more than a cluster"))
        }
        Err(libdeflater::DecompressionError::BadData) => Err(undecodable("a compressed cluster is damaged")),
    }
}

/// A context for clusters of `1 << cluster_bits` bytes.
pub(super) fn zstd_context(cluster_bits: u32) -> Result<DCtx<'static>> {
    let mut context = DCtx::create();
    // Ten is the least that the library takes. A frame that asks for more than a cluster is hostile: its decoder would
    // allocate the window before the first byte comes out.
    let parameter = DParameter::WindowLogMax(cluster_bits.max(10));
    context.set_parameter(parameter).map_err(|_| undecodable("the decoder cannot be set up"))?;
    Ok(context)
}

/// Fills `cluster` and returns how many bytes of `input` that took.
pub(super) fn unpack(context: &mut DCtx<'_>, input: &[u8], cluster: &mut [u8]) -> Result<usize> {
    context
        .reset(zstd::zstd_safe::ResetDirective::SessionOnly)
        .map_err(|_| undecodable("the decoder cannot be reset"))?;
    let length = cluster.len();
    let mut input = InBuffer::around(input);
    let mut output = OutBuffer::around(cluster);
    // Each round must get on, so this ends after as many rounds as there are bytes at the latest.
    loop {
        let before = (input.pos(), output.pos());
        let wanted = context
            .decompress_stream(&mut output, &mut input)
            .map_err(|_| undecodable("a compressed cluster is damaged or needs too much memory"))?;
        match (wanted, output.pos() == length) {
            (0, true) => return Ok(input.pos()),
            (_, true) => return Err(undecodable("a compressed cluster holds more than a cluster")),
            // The frame has ended early: what follows may be a further frame of the same cluster.
            _ if (input.pos(), output.pos()) == before => {
                return Err(undecodable("a compressed cluster holds less than a cluster"));
            }
            _ => {}
        }
    }
}

fn undecodable(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, reason::CORRUPT_COMPRESSED_CLUSTER, message)
}
