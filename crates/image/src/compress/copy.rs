//! Compressed clusters of the source that go into the output as they are.
//!
//! What makes a copied cluster as good as one that was packed here:
//!
//! - Only a cluster that the guest uses in full is copied: nothing that was freed comes along inside of it. Its stream
//!   is copied to its last byte and no further, since what follows in the file belongs to others.
//! - The stream is decoded before it is copied, from the very bytes that are copied. So a damaged cluster fails now
//!   and not in the guest, an all-zero one is left out, and the proof of the content is of what the guest sees,
//!   whether a cluster was copied or packed.
//! - The verification reads the output back and decodes it again, with the other decoder. So two decoders agree on
//!   every copied cluster.
//!
//! Decoding twice is what a copy costs: still some ten times less than packing.

use std::ops::Range;

use super::proof::is_zero;
use super::unit::Unit;
use super::{CompressOptions, Compression, Recompress, Window};
use crate::disk::Disk;
use crate::error::Result;
use crate::format::qcow2::writer::CLUSTER_BYTES;
use crate::format::qcow2::{self, Mapping, Qcow2, StreamReader};
use crate::guest::ranges;

/// A compressed cluster of the source that the guest uses in full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Guest offset of the cluster.
    pub(crate) start: u64,
    host_offset: u64,
    length_bytes: u64,
}

/// Copies streams of one source, for one thread.
pub(crate) struct Copier<'a> {
    source: &'a Qcow2,
    reader: StreamReader,
}

impl<'a> Copier<'a> {
    /// A copier when streams of `source` are what the output holds: the same coder and the same clusters.
    pub(crate) fn new(source: Option<&'a Qcow2>, options: &CompressOptions) -> Result<Option<Self>> {
        let coder = match options.compression {
            Compression::Zlib => qcow2::Compression::Zlib,
            Compression::Zstd => qcow2::Compression::Zstd,
        };
        let fits = |source: &&Qcow2| {
            let header = source.header();
            header.compression == coder && header.cluster_bytes() == CLUSTER_BYTES
        };
        match source.filter(fits) {
            // How far back a stream of somebody else's refers is not known.
            Some(source) if options.recompress == Recompress::Auto && options.window == Window::Full => {
                Ok(Some(Self { source, reader: StreamReader::new(source.header())? }))
            }
            _ => Ok(None),
        }
    }

    /// Lists the compressed clusters of `unit` that `kept` covers, ascending.
    pub(crate) fn find(
        &self,
        unit: &Unit,
        kept: &[Range<u64>],
        candidates: &mut Vec<Candidate>,
    ) -> Result<()> {
        for cluster in unit.clusters() {
            if ranges::overlap_bytes(kept, &cluster) < cluster.end - cluster.start {
                continue;
            }
            if let Mapping::Compressed { host_offset, length_bytes } =
                self.source.mapping_at(cluster.start)?.1
            {
                candidates.push(Candidate { start: cluster.start, host_offset, length_bytes });
            }
        }
        Ok(())
    }

    /// Decodes a candidate into `cluster` and copies its stream into `room`. Returns the length of the stream, or `None`
    /// when it has to be packed anew; what the guest sees is in `cluster` either way.
    pub(crate) fn copy(
        &mut self,
        candidate: Candidate,
        cluster: &mut [u8],
        room: &mut [u8],
    ) -> Result<Option<usize>> {
        let Candidate { start, host_offset, length_bytes } = candidate;
        let storage = &**self.source.storage();
        let Some(stream) = self.reader.read(storage, host_offset, length_bytes, cluster)? else {
            // The decoder that everything else is read with has the last word on what is damaged.
            self.source.read_at(cluster, start)?;
            return Ok(None);
        };
        // What lies behind the end of the disk is not the guest's.
        let inside = (self.source.virtual_size_bytes() - start).min(CLUSTER_BYTES) as usize;
        if !is_zero(&cluster[inside..]) {
            cluster[inside..].fill(0);
            return Ok(None);
        }
        // One byte less than the cluster, as for those that are packed.
        if stream.is_empty() || stream.len() as u64 >= CLUSTER_BYTES {
            return Ok(None);
        }
        room[..stream.len()].copy_from_slice(stream);
        Ok(Some(stream.len()))
    }
}
