//! The bitmap of one block group.

use std::ops::Range;

use super::checksum::crc32c_seeded;
use super::metadata::{Descriptor, Metadata};
use super::superblock::Superblock;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::reason;

/// Why a group is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    DescriptorChecksum,
    BitmapChecksum,
    FreeCount,
    Padding,
    MetadataFree,
    UnknownMetadata,
    OutsideDevice,
}

impl Fault {
    /// The reason as users see it.
    pub(crate) fn kept(self, groups: u64) -> Kept {
        let (reason, message) = match self {
            Self::DescriptorChecksum => {
                (reason::KEPT_CHECKSUM, "the checksum of the group descriptor is wrong")
            }
            Self::BitmapChecksum => (reason::KEPT_CHECKSUM, "the checksum of the block bitmap is wrong"),
            Self::FreeCount => (
                reason::KEPT_FREE_COUNT,
                "the block bitmap has another number of free blocks than the descriptor says",
            ),
            Self::Padding => {
                (reason::KEPT_GEOMETRY, "the block bitmap says that blocks past its end are free")
            }
            Self::MetadataFree => (reason::KEPT_GEOMETRY, "the block bitmap says that metadata are free"),
            Self::UnknownMetadata => (
                reason::KEPT_CHECKSUM,
                "another group's descriptor is damaged, so its metadata could be in this group",
            ),
            Self::OutsideDevice => (reason::KEPT_GEOMETRY, "the block bitmap lies outside the file system"),
        };
        Kept { reason: reason.to_owned(), message: message.to_owned(), groups }
    }
}

/// What is free in one group.
#[derive(Debug)]
pub(crate) struct GroupMap {
    /// One bit for each cluster of blocks, the lowest first; 1 is used.
    bitmap: Vec<u8>,
    clusters: usize,
    cluster_bytes: u64,
    /// The last cluster may be cut off by the end of the file system.
    group_bytes: u64,
    free_clusters: u64,
}

pub(super) fn is_used(bitmap: &[u8], bit: usize) -> bool {
    bitmap[bit / 8] >> (bit % 8) & 1 == 1
}

pub(super) fn count_free(bitmap: &[u8], bits: usize) -> u64 {
    let whole: u64 = bitmap[..bits / 8].iter().map(|byte| u64::from(byte.count_zeros())).sum();
    whole + (bits / 8 * 8..bits).filter(|bit| !is_used(bitmap, *bit)).count() as u64
}

impl GroupMap {
    /// Reads and checks a group; the inner error is the reason to keep it.
    pub(crate) fn read(
        device: &Device<'_>,
        superblock: &Superblock,
        metadata: &Metadata,
        group: u32,
    ) -> Result<Result<Self, Fault>> {
        let Some(descriptor) = Descriptor::read(device, superblock, group)? else {
            return Ok(Err(Fault::DescriptorChecksum));
        };
        let clusters = superblock.group_blocks(group).div_ceil(superblock.cluster_blocks) as usize;
        let bitmap = if descriptor.uninitialised {
            compute(superblock, metadata, group, clusters)
        } else {
            load(device, superblock, metadata, &descriptor, group, clusters)?
        };
        Ok(bitmap.and_then(|bitmap| {
            let free_clusters = count_free(&bitmap, clusters);
            if free_clusters != descriptor.free_clusters {
                return Err(Fault::FreeCount);
            }
            let cluster_bytes = superblock.block_bytes * superblock.cluster_blocks;
            let group_bytes = superblock.group_blocks(group) * superblock.block_bytes;
            Ok(Self { bitmap, clusters, cluster_bytes, group_bytes, free_clusters })
        }))
    }

    /// Free clusters of blocks.
    pub(crate) fn free_clusters(&self) -> u64 {
        self.free_clusters
    }

    /// Free bytes.
    pub(crate) fn free_bytes(&self) -> u64 {
        let mut bytes = 0;
        self.free_within(0..self.group_bytes, |piece| bytes += piece.end - piece.start);
        bytes
    }

    /// Calls `take` with each free stretch of `range`, ascending; both count from the start of the group.
    pub(crate) fn free_within(&self, range: Range<u64>, mut take: impl FnMut(Range<u64>)) {
        let end = range.end.min(self.group_bytes);
        let mut bit = (range.start / self.cluster_bytes) as usize;
        let last = (end.div_ceil(self.cluster_bytes) as usize).min(self.clusters);
        while bit < last {
            let used = is_used(&self.bitmap, bit);
            let first = bit;
            let same = if used { 0xff } else { 0 };
            while bit < last {
                if bit.is_multiple_of(8) && bit + 8 <= last && self.bitmap[bit / 8] == same {
                    bit += 8;
                } else if is_used(&self.bitmap, bit) == used {
                    bit += 1;
                } else {
                    break;
                }
            }
            if !used {
                let piece = first as u64 * self.cluster_bytes..bit as u64 * self.cluster_bytes;
                take(piece.start.max(range.start)..piece.end.min(end));
            }
        }
    }
}

/// Calls `mark` with the bits of `group` that hold metadata.
fn metadata_bits(
    superblock: &Superblock,
    metadata: &Metadata,
    group: u32,
    mut mark: impl FnMut(Range<usize>),
) {
    let start = superblock.group_start(group);
    metadata.for_each_in(superblock, group, |blocks| {
        let first = (blocks.start - start) / superblock.cluster_blocks;
        mark(first as usize..(blocks.end - start).div_ceil(superblock.cluster_blocks) as usize);
    });
}

/// The bitmap of a group that was never written to: all is free but for metadata.
fn compute(
    superblock: &Superblock,
    metadata: &Metadata,
    group: u32,
    clusters: usize,
) -> Result<Vec<u8>, Fault> {
    if !metadata.complete {
        return Err(Fault::UnknownMetadata);
    }
    let mut bitmap = vec![0; clusters.div_ceil(8)];
    metadata_bits(superblock, metadata, group, |bits| bits.for_each(|bit| bitmap[bit / 8] |= 1 << (bit % 8)));
    Ok(bitmap)
}

/// The bitmap on disk, if it holds.
fn load(
    device: &Device<'_>,
    superblock: &Superblock,
    metadata: &Metadata,
    descriptor: &Descriptor,
    group: u32,
    clusters: usize,
) -> Result<Result<Vec<u8>, Fault>> {
    // A block at most, and blocks are 64 KiB at most.
    let mut bitmap = vec![0; superblock.block_bytes as usize];
    let place = descriptor.block_bitmap.checked_mul(superblock.block_bytes);
    let read = match place {
        Some(place) => device.read_at(&mut bitmap, place)?,
        None => false,
    };
    if !read {
        return Ok(Err(Fault::OutsideDevice));
    }
    if superblock.has_metadata_checksums() {
        let covered = (superblock.blocks_per_group / superblock.cluster_blocks / 8) as usize;
        let mask = if superblock.descriptor_bytes >= 64 { u32::MAX } else { 0xffff };
        let crc = crc32c_seeded(superblock.checksum_seed, &bitmap[..covered]);
        if crc & mask != descriptor.bitmap_checksum & mask {
            return Ok(Err(Fault::BitmapChecksum));
        }
    }
    let bits = bitmap.len() * 8;
    if count_free(&bitmap, bits) != count_free(&bitmap, clusters) {
        return Ok(Err(Fault::Padding));
    }
    let mut free = false;
    metadata_bits(superblock, metadata, group, |mut bits| free |= bits.any(|bit| !is_used(&bitmap, bit)));
    if free {
        return Ok(Err(Fault::MetadataFree));
    }
    bitmap.truncate(clusters.div_ceil(8));
    Ok(Ok(bitmap))
}
