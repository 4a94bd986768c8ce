//! Chunks: where the logical addresses of the file system lie on the device.
//!
//! Field places: "On-disk format" of the Btrfs documentation, `struct btrfs_chunk`, `btrfs_stripe`.

use std::ops::Range;

use super::devices::DeviceItem;
use super::node::{KEY, Key};
use super::superblock::Superblock;
use super::walk::Walk;
use super::{Checked, Volume, keep};
use crate::guest::device::Fields;
use crate::guest::{Kept, ranges};
use crate::reason;

/// Chunks that are remembered, some 3 MiB of them. A chunk has 1 GiB on all but small devices.
const CHUNKS_MAX: usize = 1 << 15;

const CHUNK_TREE_OBJECT: u64 = 256;
const DEVICES_OBJECT: u64 = 1;
const DEV_ITEM: u8 = 216;
const CHUNK_ITEM: u8 = 228;

/// Bits of a block group's flags.
pub(crate) const DATA: u64 = 1;
const SYSTEM: u64 = 2;
const METADATA: u64 = 4;
const DUP: u64 = 0x20;
const PROFILES: u64 = 0x7f8;

const CHUNK_BYTES: usize = 48;
const STRIPE_BYTES: usize = 32;
const STRIPE_LENGTH: u64 = 64 << 10;

/// A stretch of logical addresses, which is a block group too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) logical: Range<u64>,
    pub(crate) flags: u64,
    /// Where it starts on the device, and, with the DUP profile, where its second copy does.
    copies: [Option<u64>; 2],
}

impl Chunk {
    fn parse(superblock: &Superblock, key: Key, item: &[u8]) -> Result<Self, Kept> {
        let malformed = || Kept::whole(reason::KEPT_GEOMETRY, "a chunk makes no sense");
        if key.objectid != CHUNK_TREE_OBJECT || item.len() < CHUNK_BYTES {
            return Err(malformed());
        }
        let (length, flags, stripes) = (item.u64_at(0), item.u64_at(24), usize::from(item.u16_at(44)));
        let content = match flags & !PROFILES {
            DATA | SYSTEM | METADATA => true,
            mixed => mixed == DATA | METADATA && superblock.has_mixed_groups(),
        };
        let expected = match flags & PROFILES {
            0 => 1,
            DUP => 2,
            _ => 0,
        };
        if !content || expected == 0 {
            let message = format!("the block group profile {flags:#x} is not known");
            return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
        }
        let end = key.offset.checked_add(length).ok_or_else(malformed)?;
        let sector = superblock.sector_bytes;
        let sane = stripes == expected
            && item.len() == CHUNK_BYTES + stripes * STRIPE_BYTES
            && item.u64_at(16) == STRIPE_LENGTH
            && u64::from(item.u32_at(40)) == sector
            && length > 0
            && length.is_multiple_of(sector)
            && key.offset.is_multiple_of(sector);
        if !sane {
            return Err(malformed());
        }
        let mut chunk = Self { logical: key.offset..end, flags, copies: [None; 2] };
        for (copy, stripe) in chunk.copies.iter_mut().zip(item[CHUNK_BYTES..].chunks_exact(STRIPE_BYTES)) {
            let place = stripe.u64_at(8);
            let device = &superblock.device_item;
            let inside = place.checked_add(length).is_some_and(|end| end <= device.total_bytes);
            if stripe.u64_at(0) != device.id || stripe[16..32] != device.uuid {
                let message = "a chunk lies on another device";
                return Err(Kept::whole(reason::KEPT_OTHER_DEVICE, message));
            }
            if !inside || !place.is_multiple_of(sector) {
                return Err(malformed());
            }
            *copy = Some(place);
        }
        Ok(chunk)
    }

    /// Length of one copy.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.logical.end - self.logical.start
    }

    /// Where its copies lie on the device.
    pub(crate) fn copies(&self) -> impl Iterator<Item = Range<u64>> {
        let length = self.length_bytes();
        // Each was found to lie inside the device.
        self.copies.iter().flatten().map(move |start| *start..start + length)
    }

    /// Adds to `free` what of `range` is free in the copy at `place`; `logical` are the free addresses of the chunk,
    /// ascending.
    pub(crate) fn add_free(
        &self,
        place: &Range<u64>,
        logical: &[Range<u64>],
        range: &Range<u64>,
        free: &mut Vec<Range<u64>>,
    ) {
        // The addresses lie inside the chunk, so nothing underflows.
        let on_device = |address: u64| address - self.logical.start + place.start;
        let first = logical.partition_point(|piece| on_device(piece.end) <= range.start);
        for piece in logical[first..].iter().take_while(|piece| on_device(piece.start) < range.end) {
            let piece = on_device(piece.start).max(range.start)..on_device(piece.end).min(range.end);
            ranges::push_joined(free, piece);
        }
    }

    /// Whether extents of this kind belong here: `DATA`, or else tree blocks.
    pub(crate) fn takes(&self, data: bool) -> bool {
        self.flags & if data { DATA } else { METADATA | SYSTEM } != 0
    }
}

/// A chunk's place on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stripe {
    /// Bytes of the device.
    pub(crate) place: Range<u64>,
    /// Number of the chunk in the order of logical addresses.
    pub(crate) chunk: usize,
}

/// All chunks, or, until the chunk tree is read, those that hold it.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// In the order of logical addresses; disjoint.
    list: Vec<Chunk>,
    /// In the order of the device; disjoint.
    stripes: Vec<Stripe>,
}

impl Chunks {
    fn new(mut list: Vec<Chunk>) -> Result<Self, Kept> {
        let overlap = || Kept::whole(reason::KEPT_GEOMETRY, "chunks overlap");
        list.sort_unstable_by_key(|chunk| chunk.logical.start);
        if list.windows(2).any(|pair| pair[0].logical.end > pair[1].logical.start) {
            return Err(overlap());
        }
        let mut stripes: Vec<Stripe> = Vec::with_capacity(list.len());
        for (number, chunk) in list.iter().enumerate() {
            stripes.extend(chunk.copies().map(|place| Stripe { place, chunk: number }));
        }
        stripes.sort_unstable_by_key(|stripe| stripe.place.start);
        if stripes.windows(2).any(|pair| pair[0].place.end > pair[1].place.start) {
            return Err(overlap());
        }
        Ok(Self { list, stripes })
    }

    /// The chunks that the superblock names, so that the chunk tree can be found.
    pub(crate) fn of_system(superblock: &Superblock) -> Result<Self, Kept> {
        let malformed =
            || Kept::whole(reason::KEPT_GEOMETRY, "the superblock's list of chunks makes no sense");
        let mut list = Vec::new();
        let mut rest = superblock.system_chunks();
        while !rest.is_empty() {
            let (head, item) = rest.split_at_checked(KEY).ok_or_else(malformed)?;
            let key = Key::parse(head);
            if key.kind != CHUNK_ITEM || item.len() < CHUNK_BYTES {
                return Err(malformed());
            }
            let length = CHUNK_BYTES + usize::from(item.u16_at(44)) * STRIPE_BYTES;
            let (item, behind) = item.split_at_checked(length).ok_or_else(malformed)?;
            list.push(Chunk::parse(superblock, key, item)?);
            rest = behind;
        }
        if list.iter().any(|chunk| chunk.flags & SYSTEM == 0) {
            return Err(malformed());
        }
        Self::new(list)
    }

    /// Reads the chunk tree; `volume` knows the chunks of the system.
    pub(crate) fn read(volume: Volume<'_>) -> Checked<Self> {
        let superblock = volume.superblock;
        let mut walk = Walk::start(volume, superblock.chunk_tree, Key::default())?;
        let (mut list, mut devices) = (Vec::new(), 0);
        while let Some((key, item)) = walk.item() {
            match key.kind {
                DEV_ITEM if key.objectid == DEVICES_OBJECT && item.len() == DeviceItem::LENGTH => {
                    devices += 1;
                    let device = DeviceItem::parse(item);
                    if key.offset != device.id || device != superblock.device_item {
                        let message = "the superblock and the chunk tree disagree on the device";
                        return Err(keep(reason::KEPT_GEOMETRY, message));
                    }
                }
                CHUNK_ITEM => list.push(Chunk::parse(superblock, key, item)?),
                _ => return Err(keep(reason::KEPT_UNKNOWN_FEATURE, "the chunk tree holds unknown items")),
            }
            if list.len() > CHUNKS_MAX {
                return Err(keep(reason::KEPT_LIMIT, "the file system has too many block groups"));
            }
            walk.advance()?;
        }
        if devices != 1 {
            return Err(keep(reason::KEPT_OTHER_DEVICE, "the chunk tree names another number of devices"));
        }
        let chunks = Self::new(list)?;
        let of_system = chunks.list.iter().filter(|chunk| chunk.flags & SYSTEM != 0);
        if !of_system.eq(&volume.chunks.list) {
            return Err(keep(reason::KEPT_GEOMETRY, "the superblock and the chunk tree disagree on chunks"));
        }
        Ok(chunks)
    }

    /// Where `length` bytes at a logical address lie on the device, the first copy, if one chunk that takes metadata
    /// holds them all.
    pub(crate) fn metadata_place(&self, logical: u64, length: u64) -> Option<u64> {
        let number = self.list.partition_point(|chunk| chunk.logical.end <= logical);
        let chunk = self.list.get(number).filter(|chunk| chunk.logical.contains(&logical))?;
        let fits = length <= chunk.logical.end - logical && chunk.takes(false);
        chunk.copies[0].filter(|_| fits).map(|start| start + (logical - chunk.logical.start))
    }

    /// In the order of logical addresses.
    pub(crate) fn list(&self) -> &[Chunk] {
        &self.list
    }

    /// In the order of the device.
    pub(crate) fn stripes(&self) -> &[Stripe] {
        &self.stripes
    }

    /// In the order of the device, those that touch `range`.
    pub(crate) fn stripes_within(&self, range: &Range<u64>) -> impl Iterator<Item = &Stripe> {
        let (start, end) = (range.start, range.end);
        let first = self.stripes.partition_point(|stripe| stripe.place.end <= start);
        self.stripes[first..].iter().take_while(move |stripe| stripe.place.start < end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(logical: u64, length: u64, copies: [Option<u64>; 2]) -> Chunk {
        Chunk { logical: logical..logical + length, flags: METADATA | DUP, copies }
    }

    #[test]
    fn addresses_are_found_in_one_chunk_only() {
        let list = vec![chunk(300, 50, [Some(1000), Some(2000)]), chunk(100, 100, [Some(5000), None])];
        let chunks = Chunks::new(list).expect("disjoint");
        let cases = [(100, 100, Some(5000)), (199, 1, Some(5099)), (199, 2, None), (200, 1, None)];
        for (logical, length, place) in
            cases.into_iter().chain([(310, 40, Some(1010)), (99, 1, None), (350, 1, None)])
        {
            assert_eq!(chunks.metadata_place(logical, length), place, "{logical}");
        }
        let places: Vec<_> =
            chunks.stripes().iter().map(|stripe| (stripe.place.start, stripe.chunk)).collect();
        assert_eq!(places, [(1000, 1), (2000, 1), (5000, 0)]);
    }

    #[test]
    fn chunks_that_overlap_are_refused() {
        for second in [chunk(149, 50, [Some(0), None]), chunk(150, 50, [Some(1010), None])] {
            let first = chunk(100, 50, [Some(1000), Some(1050)]);
            assert!(Chunks::new(vec![second, first]).is_err());
        }
        assert!(Chunks::new(vec![chunk(100, 50, [Some(1000), Some(1049)])]).is_err());
    }

    proptest! {
        #[test]
        fn free_addresses_are_free_in_each_copy(bits in prop::collection::vec(any::<bool>(), 1..60), from in 0..200_u64, length in 0..100_u64) {
            let chunk = chunk(1000, bits.len() as u64, [Some(20), Some(90)]);
            let mut logical = Vec::new();
            for (index, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
                ranges::push_joined(&mut logical, 1000 + index as u64..1001 + index as u64);
            }
            let mut free = Vec::new();
            for place in chunk.copies() {
                chunk.add_free(&place, &logical, &(from..from + length), &mut free);
            }
            let is_free = |at: u64| {
                [20, 90].iter().any(|start| at.checked_sub(*start).is_some_and(|index| bits.get(index as usize) == Some(&true)))
            };
            let found: Vec<u64> = free.into_iter().flatten().collect();
            let expected: Vec<u64> = (from..from + length).filter(|at| is_free(*at)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
