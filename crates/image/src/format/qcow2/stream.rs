//! Compressed clusters as they lie in the file: the stream beside what it decodes to.

use zlib_rs::{Inflate, InflateFlush, Status};
use zstd::zstd_safe::DCtx;

use crate::error::Result;
use crate::format::qcow2::codec::{read_stream, unpack, zstd_context};
use crate::format::qcow2::{Compression, Header};
use crate::storage::Storage;

/// Window of deflate, as the power of two: the whole 32 KiB.
const WINDOW_BITS: u8 = 15;

enum Coder {
    Zlib(Box<Inflate>),
    Zstd(DCtx<'static>),
}

/// Tells where a stream ends.
///
/// A descriptor counts sectors, so it names more bytes than the stream has. What follows in the last sector is another
/// stream, or what is left of one that the guest has freed: it must not be copied. The decoder of [`super::Qcow2`] is
/// the fastest but does not say how much it took, so this one is another: for deflate it follows zlib to the letter,
/// and what it accepts is accepted by the readers that are built on zlib.
pub(crate) struct StreamReader {
    coder: Coder,
    input: Vec<u8>,
}

impl StreamReader {
    /// A reader of the streams of an image with this header.
    pub(crate) fn new(header: &Header) -> Result<Self> {
        let coder = match header.compression {
            Compression::Zlib => Coder::Zlib(Box::new(Inflate::new(false, WINDOW_BITS))),
            Compression::Zstd => Coder::Zstd(zstd_context(header.cluster_bits)?),
        };
        Ok(Self { coder, input: Vec::new() })
    }

    /// Decodes the stream that lies in `length_bytes` bytes from `offset` into `cluster` and returns the bytes of the
    /// stream. `None` when they do not decode to exactly a cluster; `cluster` holds anything then.
    pub(crate) fn read(
        &mut self,
        storage: &dyn Storage,
        offset: u64,
        length_bytes: u64,
        cluster: &mut [u8],
    ) -> Result<Option<&[u8]>> {
        read_stream(storage, &mut self.input, offset, length_bytes)?;
        let length = match &mut self.coder {
            Coder::Zlib(inflate) => inflate_exactly(inflate, &self.input, cluster),
            Coder::Zstd(context) => unpack(context, &self.input, cluster).ok(),
        };
        Ok(length.map(|length| &self.input[..length]))
    }
}

/// How many bytes of `input` it took to fill `cluster`.
fn inflate_exactly(inflate: &mut Inflate, input: &[u8], cluster: &mut [u8]) -> Option<usize> {
    inflate.reset(false);
    let status = inflate.decompress(input, cluster, InflateFlush::Finish).ok()?;
    let whole = status == Status::StreamEnd && inflate.total_out() == cluster.len() as u64;
    whole.then(|| inflate.total_in() as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use libdeflater::{CompressionLvl, Compressor};

    use super::*;

    const CLUSTER_BYTES: usize = 65_536;

    type Encode = fn(&[u8]) -> Vec<u8>;

    fn readers() -> [(StreamReader, Encode); 2] {
        let deflate = |bytes: &[u8]| {
            let mut stream = vec![0; 2 * CLUSTER_BYTES];
            let mut coder = Compressor::new(CompressionLvl::new(9).unwrap());
            let length = coder.deflate_compress(bytes, &mut stream).unwrap();
            stream.truncate(length);
            stream
        };
        let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
        [
            (
                StreamReader {
                    coder: Coder::Zlib(Box::new(Inflate::new(false, WINDOW_BITS))),
                    input: Vec::new(),
                },
                deflate,
            ),
            (StreamReader { coder: Coder::Zstd(zstd_context(16).unwrap()), input: Vec::new() }, zstd),
        ]
    }

    /// Something that compresses to a length that depends on `seed`.
    fn content(seed: usize) -> Vec<u8> {
        let words = (0..).map(|index: usize| format!("{} ", index.wrapping_mul(seed + 1) % (7 * seed + 3)));
        words.flat_map(String::into_bytes).take(CLUSTER_BYTES).collect()
    }

    #[test]
    fn a_stream_ends_where_it_ends_whatever_follows() {
        for (mut reader, encode) in readers() {
            let mut cluster = vec![0; CLUSTER_BYTES];
            for seed in 0..60 {
                let (bytes, before) = (content(seed), seed * 13);
                let stream = encode(&bytes);
                for behind in [vec![], vec![0; 700], vec![0xff; 700], encode(&content(seed + 1))] {
                    let mut file = vec![0xaa; before];
                    file.extend_from_slice(&stream);
                    file.extend_from_slice(&behind);
                    let length = file.len() - before;
                    let found = reader.read(&file, before as u64, length as u64, &mut cluster).unwrap();
                    assert!(found.unwrap() == stream, "seed {seed}");
                    assert!(cluster == bytes, "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn damage_never_goes_unseen_by_one_decoder_alone() {
        let (mut reader, encode) = readers().into_iter().next().unwrap();
        let stream = encode(&content(11));
        let mut other = libdeflater::Decompressor::new();
        let (mut cluster, mut expected) = (vec![0; CLUSTER_BYTES], vec![0; CLUSTER_BYTES]);
        let mut taken = 0;
        for bit in (0..stream.len() * 8).step_by(7) {
            let mut damaged = stream.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if reader.read(&damaged, 0, damaged.len() as u64, &mut cluster).unwrap().is_some() {
                assert_eq!(other.deflate_decompress(&damaged, &mut expected), Ok(CLUSTER_BYTES));
                assert!(cluster == expected, "bit {bit}");
                taken += 1;
            }
        }
        assert!(taken > 0);
    }

    #[test]
    fn what_is_not_exactly_a_cluster_is_not_taken() {
        for (mut reader, encode) in readers() {
            let mut cluster = vec![0; CLUSTER_BYTES];
            let (whole, mut longer) = (content(5), content(5));
            longer.push(1);
            let stream = encode(&whole);
            let cut = stream[..stream.len() - 1].to_vec();
            for bad in [encode(&whole[1..]), encode(&longer), cut, vec![0xff; 100], vec![]] {
                let found = reader.read(&bad, 0, bad.len() as u64, &mut cluster).unwrap();
                assert!(found.is_none());
            }
            // Nothing of that is left in the decoder.
            assert!(reader.read(&stream, 0, stream.len() as u64, &mut cluster).unwrap().is_some());
            assert!(cluster == whole);
        }
    }
}
