//! Whether the log is empty: its newest record must say that the file system was unmounted.
//!
//! The log is a ring of blocks of 512 bytes. Each begins with the number of the cycle that wrote it (in a record's
//! header the magic comes first), so the ring's head is where the number drops by one. The kernel searches for that
//! place by halves; here every block is looked at, so that a log of any other shape is noticed.

use std::ops::Range;

use super::Found;
use super::fields::BigEndian;
use super::superblock::Superblock;
use crate::control::Control;
use crate::disk::Extent;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::reason;

const BLOCK: usize = 512;
const MAGIC: u32 = 0xfeed_babe;
/// Cycle numbers of this many bytes fit into the first block of a header.
const HEADER_CYCLES_BYTES: u32 = 32 << 10;
const RECORD_BYTES_MAX: u32 = 256 << 10;
/// Blocks of the longest record and its header: the newest one begins at most so far before the head.
const RECORD_BLOCKS_MAX: u64 =
    ((RECORD_BYTES_MAX + RECORD_BYTES_MAX / HEADER_CYCLES_BYTES * 512) / 512) as u64;
/// Zeros between the head and the blocks of the cycle before: up to where the longest record would end.
const GAP_BLOCKS_MAX: u64 = (RECORD_BYTES_MAX / 512) as u64;
/// Multiple of the block that is read at once.
const PIECE: usize = 256 << 10;

const CLIENT_LOG: u8 = 0xaa;
const FLAG_UNMOUNT: u8 = 0x20;
/// In the byte order of the machine that wrote it.
const UNMOUNT_MAGICS: [[u8; 2]; 2] = [*b"nU", *b"Un"];

fn dirty(message: &str) -> Kept {
    Kept::whole(reason::KEPT_NEEDS_RECOVERY, message)
}

/// Where the log ends.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// Never written to.
    Zero,
    /// Blocks below `block` are of `cycle`, the others of the one before.
    At { cycle: u32, block: u64 },
}

/// What the blocks so far say of the head.
#[derive(Default)]
struct Shape {
    /// Of the file system, in the marks that a mount leaves.
    uuid: [u8; 16],
    /// That of the first block.
    cycle: Option<u32>,
    head: Option<u64>,
    /// A block of the cycle before was seen.
    before: bool,
}

impl Shape {
    /// Adds the next block; `false` when it cannot follow.
    fn add(&mut self, place: u64, block: &[u8]) -> bool {
        let (this, cycle) = (cycle_of(block), *self.cycle.get_or_insert(cycle_of(block)));
        // A comparison of slices: zeros are what most of a log is, up to 2 GiB of them.
        if this == 0 && *block != [0; BLOCK] && !self.is_stale_mark(place, block) {
            return false;
        }
        if this == cycle && self.head.is_none() {
            return true;
        }
        // The head is here, or was passed. There is no cycle before 0.
        let head = *self.head.get_or_insert(place);
        if cycle.checked_sub(1) == Some(this) {
            self.before = true;
            return true;
        }
        // Tools that write a log anew (`xfs_repair -L`, `xfs_admin -U`) leave a gap of zeros behind its first record.
        this == 0 && cycle != 0 && !self.before && place - head < GAP_BLOCKS_MAX
    }

    /// Adds blocks of zeros; `false` when they cannot follow. The first one may be where the head is; all that can
    /// differ between the others is how far they are behind it, which the last one tells.
    fn add_zeros(&mut self, places: Range<u64>) -> bool {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        self.add(places.start, &ZEROS) && self.add(places.end - 1, &ZEROS)
    }

    /// Whether a block is the header of an empty record of cycle 0. A mount writes such marks ahead of the head, with the
    /// number of the cycle before, so that nothing stale is taken for a record (`xlog_clear_stale_blocks` in the kernel);
    /// in the first cycle that is 0.
    fn is_stale_mark(&self, place: u64, block: &[u8]) -> bool {
        block.u32_be(0) == MAGIC
            && block.u32_be(4) == 0
            && (1..=2).contains(&block.u32_be(8))
            && block.u32_be(12) == 0
            && block.u64_be(16) == place
            && block.u32_be(40) == 0
            && block[304..320] == self.uuid
    }
}

/// The log as a ring of blocks.
struct Ring<'a> {
    device: &'a Device<'a>,
    start: u64,
    blocks: u64,
    /// Of the file system, in every record.
    uuid: [u8; 16],
    has_log_v2: bool,
}

/// Finds the head of an empty log, as a sequence number; a log that is not empty is a reason to keep all.
pub(crate) fn find_clean_head(device: &Device<'_>, superblock: &Superblock, control: &Control) -> Found<u64> {
    let bytes = u64::from(superblock.log.end - superblock.log.start) * superblock.block_bytes;
    let start = superblock.block_place(superblock.log_group, superblock.log.start);
    let ring = Ring {
        device,
        start,
        blocks: bytes / BLOCK as u64,
        uuid: superblock.uuid,
        has_log_v2: superblock.has_log_v2,
    };
    let unclear = || dirty("the log does not tell where it ends");
    match ring.find_head(control)?.ok_or_else(unclear)? {
        Head::Zero => Ok(1 << 32),
        Head::At { cycle, block } => {
            if !ring.is_unmounted(cycle, block)? {
                return Err(dirty("the log must be replayed first: the newest record is no unmount").into());
            }
            Ok(u64::from(cycle) << 32 | block)
        }
    }
}

impl Ring<'_> {
    /// Looks at every block; `None` when the cycle numbers do not tell a head.
    fn find_head(&self, control: &Control) -> Result<Option<Head>> {
        let mut shape = Shape { uuid: self.uuid, ..Shape::default() };
        let mut buffer = vec![0; PIECE];
        let mut known = None;
        for start in (0..self.blocks).step_by(PIECE / BLOCK) {
            control.check_cancelled()?;
            let blocks = (self.blocks - start).min((PIECE / BLOCK) as u64) as usize;
            let piece = &mut buffer[..blocks * BLOCK];
            let follows = if self.read_piece(piece, start, &mut known)? {
                piece.chunks_exact(BLOCK).zip(start..).all(|(block, place)| shape.add(place, block))
            } else {
                shape.add_zeros(start..start + blocks as u64)
            };
            if !follows {
                return Ok(None);
            }
        }
        Ok(Some(match shape.cycle {
            None | Some(0) => Head::Zero,
            Some(cycle) => Head::At { cycle, block: shape.head.unwrap_or(self.blocks) },
        }))
    }

    /// Fills `piece` with blocks from `start`; `false` when they are zeros. Most of a young log was never written to, and
    /// is not read. `known` is the extent that was asked for last: some file systems look at every page of an extent to
    /// tell where it ends, and asking again for each piece would take the square of its length.
    fn read_piece(&self, piece: &mut [u8], start: u64, known: &mut Option<Extent>) -> Result<bool> {
        let place = self.start + start * BLOCK as u64;
        let range = place..place + piece.len() as u64;
        if !known.as_ref().is_some_and(|extent| extent.range.contains(&place)) {
            *known = self.device.extent_at(place)?;
        }
        let is_unstored = match known {
            Some(extent) if extent.kind.is_stored() => false,
            Some(extent) if extent.range.end >= range.end => true,
            _ => self.device.is_unstored(range)?,
        };
        // Outside it cannot be: the superblock's sizes were checked against the device.
        Ok(!is_unstored && self.device.read_at(piece, place)?)
    }

    /// Reads the block at `distance` before `block`, around the start of the ring where it must.
    fn read_before(&self, block: u64, distance: u64) -> Result<Option<(u64, [u8; BLOCK])>> {
        let place = (block + self.blocks - distance) % self.blocks;
        Ok(self.device.read(self.start + place * BLOCK as u64)?.map(|bytes| (place, bytes)))
    }

    /// Whether the newest record is that of an unmount, and ends at the head.
    fn is_unmounted(&self, cycle: u32, head: u64) -> Result<bool> {
        for distance in 1..=RECORD_BLOCKS_MAX.min(self.blocks) {
            let Some((place, header)) = self.read_before(head, distance)? else { return Ok(false) };
            if header.u32_be(0) != MAGIC {
                continue;
            }
            // A record may begin at the end of the ring, in the cycle before.
            let expected = if place < head { cycle } else { cycle - 1 };
            let Some(blocks) = self.unmount_blocks(&header, u64::from(expected) << 32 | place) else {
                return Ok(false);
            };
            if blocks.all != distance {
                return Ok(false);
            }
            let operation = self.read_before(head, distance - blocks.header)?;
            return Ok(operation.is_some_and(|(_, bytes)| is_unmount(&bytes)));
        }
        Ok(false)
    }

    /// Blocks of a record that could be an unmount's; `None` for any other. Its checksum is no help: tools leave it 0.
    fn unmount_blocks(&self, header: &[u8; BLOCK], sequence: u64) -> Option<RecordBlocks> {
        let (version, length, size) = (header.u32_be(8), header.u32_be(12), header.u32_be(320));
        let sane = header.u32_be(4) == (sequence >> 32) as u32
            && (1..=2).contains(&version)
            && (1..=RECORD_BYTES_MAX).contains(&length)
            && header.u64_be(16) == sequence
            && header.u32_be(40) == 1
            && header[304..320] == self.uuid;
        let long = self.has_log_v2 && version == 2 && size > HEADER_CYCLES_BYTES;
        if !sane || long && size > RECORD_BYTES_MAX {
            return None;
        }
        let header = if long { u64::from(size.div_ceil(HEADER_CYCLES_BYTES)) } else { 1 };
        Some(RecordBlocks { header, all: header + u64::from(length).div_ceil(BLOCK as u64) })
    }
}

/// The cycle that wrote a block.
fn cycle_of(block: &[u8]) -> u32 {
    match block.u32_be(0) {
        MAGIC => block.u32_be(4),
        cycle => cycle,
    }
}

/// Blocks of a record.
struct RecordBlocks {
    header: u64,
    all: u64,
}

/// Whether the first operation of a record is an unmount. Its first word has made way for the cycle number.
fn is_unmount(block: &[u8; BLOCK]) -> bool {
    block[8] == CLIENT_LOG
        && block[9] == FLAG_UNMOUNT
        && UNMOUNT_MAGICS.iter().any(|magic| block[12..14] == magic[..])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::super::superblock::LOG_BYTES_MAX;
    use super::*;
    use crate::format::{self, Format};
    use crate::storage::Storage;

    const UUID: [u8; 16] = *b"0123456789abcdef";
    const BLOCKS: usize = 64;

    /// A ring of blocks of `cycle` up to `head`, and of the cycle before from there on.
    fn ring(cycle: u32, head: usize) -> Vec<u8> {
        let mut bytes = vec![0; BLOCKS * BLOCK];
        for (place, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
            let cycle = if place < head { cycle } else { cycle - 1 };
            block[..4].copy_from_slice(&cycle.to_be_bytes());
        }
        bytes
    }

    fn put(bytes: &mut [u8], place: usize, offset: usize, value: &[u8]) {
        let at = place % BLOCKS * BLOCK + offset;
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    /// A record with a header of `headers` blocks and one more, with one operation.
    fn record(bytes: &mut [u8], cycle: u32, place: usize, headers: u32, operation: [u8; 4]) {
        put(bytes, place, 0, &MAGIC.to_be_bytes());
        for (offset, value) in [(4, cycle), (8, 2), (12, 512), (16, cycle), (20, place as u32), (40, 1)] {
            put(bytes, place, offset, &value.to_be_bytes());
        }
        put(bytes, place, 304, &UUID);
        put(bytes, place, 320, &(headers * HEADER_CYCLES_BYTES).to_be_bytes());
        let data = place + headers as usize;
        put(bytes, data, 4, &[0, 0, 0, 8]);
        put(bytes, data, 8, &operation[..2]);
        put(bytes, data, 12, &operation[2..]);
    }

    fn unmount(bytes: &mut [u8], cycle: u32, place: usize, headers: u32) {
        record(bytes, cycle, place, headers, [CLIENT_LOG, FLAG_UNMOUNT, b'n', b'U']);
    }

    fn clean_head(bytes: &[u8]) -> Option<(u32, u64)> {
        let storage: Arc<dyn Storage> = Arc::new(bytes.to_vec());
        let disk = format::open(storage, Some(Format::Raw)).unwrap().disk;
        let device = Device::new(&*disk, 0, bytes.len() as u64);
        let ring = Ring { device: &device, start: 0, blocks: BLOCKS as u64, uuid: UUID, has_log_v2: true };
        match ring.find_head(&Control::default()).unwrap()? {
            Head::Zero => Some((0, 0)),
            Head::At { cycle, block } => ring.is_unmounted(cycle, block).unwrap().then_some((cycle, block)),
        }
    }

    #[test]
    fn an_unmount_at_the_head_is_clean() {
        assert_eq!(clean_head(&vec![0; BLOCKS * BLOCK]), Some((0, 0)));
        // As made, in the middle, at the very end, across the end, with a long header.
        for (cycle, head, headers) in
            [(1, 2, 1), (7, 30, 1), (7, BLOCKS, 1), (7, 1, 1), (7, 20, 8), (7, 3, 8), (2, 2, 1)]
        {
            let mut bytes = ring(cycle, head);
            let length = headers as usize + 1;
            let (place, first) =
                if head >= length { (head - length, cycle) } else { (head + BLOCKS - length, cycle - 1) };
            unmount(&mut bytes, first, place, headers);
            assert_eq!(clean_head(&bytes), Some((cycle, head as u64)), "{cycle} {head} {headers}");
        }
    }

    #[test]
    fn zeros_that_are_not_stored_count_as_zeros() {
        let shapes = [(None, None, false), (Some(0), None, false), (Some(0), Some(3), false)];
        let cycles = [(Some(1), None), (Some(1), Some(9)), (Some(4), None), (Some(4), Some(9))];
        let cycles =
            cycles.into_iter().flat_map(|(cycle, head)| [false, true].map(|before| (cycle, head, before)));
        for (cycle, head, before) in shapes.into_iter().chain(cycles) {
            for length in [1, 2, 100, GAP_BLOCKS_MAX - 1, GAP_BLOCKS_MAX, GAP_BLOCKS_MAX + 1] {
                let shape = || Shape { uuid: UUID, cycle, head, before };
                let (mut one, mut each) = (shape(), shape());
                let follows = (10..10 + length).all(|place| each.add(place, &[0; BLOCK]));
                assert_eq!(one.add_zeros(10..10 + length), follows, "{cycle:?} {head:?} {length}");
                if follows {
                    assert_eq!((one.cycle, one.head, one.before), (each.cycle, each.head, each.before));
                }
            }
        }
    }

    /// A disk that counts what is read of it; the rest are holes.
    struct Counted(Vec<u8>, std::sync::atomic::AtomicU64);

    impl Storage for Counted {
        fn size_bytes(&self) -> u64 {
            LOG_BYTES_MAX
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            self.1.fetch_add(buffer.len() as u64, std::sync::atomic::Ordering::Relaxed);
            buffer.fill(0);
            Storage::read_at(&self.0, buffer, offset).map(|_| buffer.len())
        }

        fn next_data(&self, offset: u64) -> std::io::Result<Option<Range<u64>>> {
            let end = self.0.len() as u64;
            Ok((offset < end).then_some(offset..end))
        }
    }

    #[test]
    fn the_largest_log_costs_what_is_stored_of_it() {
        let mut bytes = ring(1, BLOCKS);
        bytes.truncate(2 * BLOCK);
        unmount(&mut bytes, 1, 0, 1);
        let storage = Arc::new(Counted(bytes, 0.into()));
        let disk = format::open(Arc::clone(&storage) as Arc<dyn Storage>, Some(Format::Raw)).unwrap().disk;
        let device = Device::new(&*disk, 0, LOG_BYTES_MAX);
        let blocks = LOG_BYTES_MAX / BLOCK as u64;
        let ring = Ring { device: &device, start: 0, blocks, uuid: UUID, has_log_v2: true };
        assert_eq!(ring.find_head(&Control::default()).unwrap(), Some(Head::At { cycle: 1, block: 2 }));
        assert!(ring.is_unmounted(1, 2).unwrap());
        assert!(storage.1.load(std::sync::atomic::Ordering::Relaxed) < 1 << 20);
    }

    #[test]
    fn zeros_behind_a_log_written_anew_are_clean() {
        let mut bytes = ring(4, 2);
        unmount(&mut bytes, 4, 0, 1);
        bytes[2 * BLOCK..20 * BLOCK].fill(0);
        assert_eq!(clean_head(&bytes), Some((4, 2)));
        // But not with anything in them, nor further on.
        bytes[5 * BLOCK + 77] = 1;
        assert_eq!(clean_head(&bytes), None);
        bytes[5 * BLOCK + 77] = 0;
        bytes[30 * BLOCK..31 * BLOCK].fill(0);
        assert_eq!(clean_head(&bytes), None);
    }

    #[test]
    fn marks_of_a_mount_in_the_first_cycle_are_clean() {
        let mut bytes = ring(1, 10);
        unmount(&mut bytes, 1, 8, 1);
        let stale = |bytes: &mut Vec<u8>, place: usize| {
            put(bytes, place, 0, &MAGIC.to_be_bytes());
            put(bytes, place, 8, &2_u32.to_be_bytes());
            put(bytes, place, 16, &(place as u64).to_be_bytes());
            put(bytes, place, 304, &UUID);
        };
        (10..40).for_each(|place| stale(&mut bytes, place));
        assert_eq!(clean_head(&bytes), Some((1, 10)));
        // A mark from elsewhere, of another file system, or a record with content.
        for (offset, value) in [(20, 12_u32), (304, 7), (12, 512), (40, 1), (4, 2)] {
            let mut other = bytes.clone();
            put(&mut other, 11, offset, &value.to_be_bytes());
            assert_eq!(clean_head(&other), None, "{offset}");
        }
    }

    #[test]
    fn any_other_log_is_dirty() {
        // Never written to, but for one byte.
        let mut bytes = vec![0; BLOCKS * BLOCK];
        bytes[9 * BLOCK + 100] = 1;
        assert_eq!(clean_head(&bytes), None);
        // No record at all; a ring of three cycles; one that ascends; an older unmount below a newer record.
        assert_eq!(clean_head(&ring(5, 30)), None);
        let mut bytes = ring(5, 30);
        unmount(&mut bytes, 5, 28, 1);
        assert!(clean_head(&bytes).is_some());
        for (place, cycle) in [(50_usize, 3_u32), (50, 5), (63, 6), (0, 6), (10, 4), (29, 4), (30, 5)] {
            let mut other = bytes.clone();
            put(&mut other, place, 0, &cycle.to_be_bytes());
            assert_eq!(clean_head(&other), None, "{place} {cycle}");
        }
        let mut newer = ring(5, 32);
        unmount(&mut newer, 5, 28, 1);
        record(&mut newer, 5, 30, 1, [0x69, 0, b'N', b'T']);
        assert_eq!(clean_head(&newer), None);
    }

    #[test]
    fn no_flipped_bit_makes_a_dirty_log_clean() {
        for operation in [[0x69, 0, b'N', b'T'], [0x69, 2, 0, 0]] {
            let mut bytes = ring(5, 30);
            unmount(&mut bytes, 5, 26, 1);
            record(&mut bytes, 5, 28, 1, operation);
            let interesting = [0, 1, 26, 27, 28, 29, 30, 31, BLOCKS - 1];
            for (place, bit) in
                interesting.into_iter().flat_map(|place| (0..4096).map(move |bit| (place, bit)))
            {
                let at = place * BLOCK + bit / 8;
                bytes[at] ^= 1 << (bit % 8);
                let clean = clean_head(&bytes);
                bytes[at] ^= 1 << (bit % 8);
                assert_eq!(clean, None, "block {place}, bit {bit}");
            }
        }
    }
}
