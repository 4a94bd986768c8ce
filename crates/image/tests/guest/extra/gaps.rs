//! Gaps between partitions.

use std::ops::Range;
use std::sync::Arc;

use imageops_image::disk::Disk;
use imageops_image::format::{self, Format};
use imageops_image::guest::{ExtraGains, Gaps, Layout};
use imageops_image::reason;

use super::scan_with;
use crate::peers::{images, run_ok, text};
use crate::proofs::{Numbers, Patched, flipped, free_ranges, outside, scan, total};

const GAPS: ExtraGains = ExtraGains { journals: false, inode_tables: false, gaps: true };
const MIB: u64 = 1 << 20;
const DISK: u64 = 64 * MIB;

fn disk(bytes: Vec<u8>) -> Arc<dyn Disk> {
    format::open(Arc::new(bytes), Some(Format::Raw)).unwrap().disk
}

/// Bytes that are put in a place.
type Change<'a> = (u64, &'a [u8]);

fn gaps(layout: &Layout) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    layout.gaps().unwrap().within(&(0..u64::MAX), &mut found);
    found
}

fn kept(layout: &Layout) -> Vec<String> {
    layout.gaps().unwrap().summary().kept.iter().map(|kept| kept.reason.clone()).collect()
}

fn put(bytes: &mut [u8], place: u64, content: &[u8]) {
    bytes[place as usize..][..content.len()].copy_from_slice(content);
}

/// One entry of an MBR or of a link in the chain of logical partitions; places in MiB, from `base`.
fn entry(bytes: &mut [u8], table: u64, number: u64, kind: u8, start: u64, length: u64) {
    let place = table + 446 + number * 16;
    put(bytes, place + 4, &[kind]);
    put(bytes, place + 8, &((start * MIB / 512) as u32).to_le_bytes());
    put(bytes, place + 12, &((length * MIB / 512) as u32).to_le_bytes());
    put(bytes, table + 510, &[0x55, 0xaa]);
}

/// Partitions at 4..8 and 12..20, a container 24..56 with logical partitions at 25..28 and 41..44; noise elsewhere.
fn mbr() -> Option<Vec<u8>> {
    images("gaps", &["mke2fs"])?;
    let mut numbers = Numbers(5);
    let mut bytes: Vec<u8> = (0..DISK).map(|_| 1 + numbers.below(250) as u8).collect();
    for table in [0, 24 * MIB, 40 * MIB] {
        put(&mut bytes, table + 446, &[0; 64]);
    }
    entry(&mut bytes, 0, 0, 0x83, 4, 4);
    entry(&mut bytes, 0, 1, 0x83, 12, 8);
    entry(&mut bytes, 0, 2, 0x05, 24, 32);
    entry(&mut bytes, 24 * MIB, 0, 0x83, 1, 3);
    entry(&mut bytes, 24 * MIB, 1, 0x05, 16, 4);
    entry(&mut bytes, 40 * MIB, 0, 0x83, 1, 3);
    let scratch = tempfile::tempdir().unwrap();
    for (start, length) in [(4, 4), (12, 8), (25, 3), (41, 3)] {
        let file = scratch.path().join("fs.raw");
        let size = format!("{length}M");
        let _ = std::fs::remove_file(&file);
        run_ok("mke2fs", &["-q", "-F", "-t", "ext4", "-O", "^has_journal", text(&file), &size]);
        put(&mut bytes, start * MIB, &std::fs::read(&file).unwrap());
    }
    Some(bytes)
}

/// The sectors of the chain lie at 24 and 40, each with what follows it: from there to its partition.
const OF_MBR: [Range<u64>; 4] =
    [8 * MIB..12 * MIB, 20 * MIB..24 * MIB, 28 * MIB..40 * MIB, 44 * MIB..63 * MIB];

#[test]
fn gaps_behind_the_first_partition_are_dropped_around_the_tables() {
    let Some(bytes) = mbr() else { return };
    let disk = disk(bytes);
    let layout = scan_with(&*disk, GAPS);
    assert_eq!((kept(&layout), gaps(&layout)), (Vec::new(), OF_MBR.to_vec()));
    let summary = layout.gaps().unwrap().summary();
    assert_eq!(summary.bytes, 39 * MIB);
    // Nothing of it unless it is asked for.
    let without = scan(&*disk);
    assert_eq!(without.gaps(), None);
    let (all, free) = (free_ranges(&*disk, &layout), free_ranges(&*disk, &without));
    assert_eq!((total(&all), outside(&free, &all)), (total(&free) + summary.bytes, 0));
    assert_eq!(outside(&free, &OF_MBR), total(&free));
}

/// No checksum vouches for these tables: the file systems do.
#[test]
fn no_flipped_bit_of_a_table_drops_anything_else() {
    let Some(bytes) = mbr() else { return };
    let base = disk(bytes);
    let mut noticed = 0;
    for table in [0, 24 * MIB, 40 * MIB] {
        for (byte, bit) in (446..512).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let layout = scan_with(&flipped(&base, table + byte, bit), GAPS);
            let found = layout.gaps().map(|_| gaps(&layout)).unwrap_or_default();
            assert_eq!(outside(&found, &OF_MBR), 0, "bit {bit} of byte {byte} of {table}: {found:?}");
            noticed += u32::from(found != OF_MBR);
        }
    }
    assert!(noticed > 300, "{noticed}");
}

#[test]
fn whatever_speaks_for_an_owner_keeps_the_gaps() {
    let Some(bytes) = mbr() else { return };
    let base = disk(bytes);
    let patched = |changes: &[Change<'_>]| {
        let bytes = changes.iter().flat_map(|(place, bytes)| (*place..).zip(bytes.iter().copied())).collect();
        let layout = scan_with(&Patched { base: Arc::clone(&base), bytes, size: None }, GAPS);
        (kept(&layout), gaps(&layout))
    };
    let second = 12 * MIB;
    let all: [(&[Change<'_>], &str); 5] = [
        (&[(446 + 4, &[0x42])], "a dynamic disk"),
        (&[(446 + 48 + 8, &[1])], "an entry that was taken out by half"),
        (&[(512, b"PM\0\0")], "Apple's map"),
        (&[(second + 1080, &[0; 2]), (second + 4086, b"S1SUSPEND\0")], "a hibernated system"),
        (&[(DISK - 512, &[0xde, 0x11, 0xde, 0x11])], "firmware RAID"),
    ];
    for (changes, what) in all {
        assert_eq!(patched(changes), (vec![reason::KEPT_GAP.to_owned()], Vec::new()), "{what}");
    }
    // The gaps beside it alone.
    let reason = reason::KEPT_GAP.to_owned();
    assert_eq!(patched(&[(8 * MIB, b"LUKS\xba\xbe")]), (vec![reason.clone()], OF_MBR[1..].to_vec()));
    let unknown = patched(&[(second + 1080, &[0; 2])]);
    assert_eq!(unknown, (vec![reason.clone(), reason], OF_MBR[2..].to_vec()));
}

#[test]
fn a_longer_chain_keeps_its_container() {
    let Some(mut bytes) = mbr() else { return };
    put(&mut bytes, 48 * MIB + 446, &[0; 64]);
    entry(&mut bytes, 40 * MIB, 1, 0x05, 24, 4);
    entry(&mut bytes, 48 * MIB, 0, 0x83, 1, 3);
    let layout = scan_with(&*disk(bytes), GAPS);
    assert_eq!(layout.parts().len(), 5);
    // Behind the last partition the gap begins with the container's end, and what is unknown lies before it.
    assert_eq!(gaps(&layout), OF_MBR[..2]);
}

fn crc32(bytes: &[u8]) -> [u8; 4] {
    libdeflater::crc32(bytes).to_le_bytes()
}

/// Partitions at 4..8 and 12..20 of a GPT whose backup lies at `backup`, as on a disk that grew.
fn gpt(backup: u64) -> Vec<u8> {
    let mut numbers = Numbers(9);
    let mut bytes: Vec<u8> = (0..DISK).map(|_| 1 + numbers.below(250) as u8).collect();
    put(&mut bytes, 446, &[0; 64]);
    entry(&mut bytes, 0, 0, 0xee, 0, 63);
    put(&mut bytes, 446 + 8, &1_u32.to_le_bytes());
    let mut entries = vec![0; 128 * 128];
    for (number, (start, end)) in [(4, 8), (12, 20)].into_iter().enumerate() {
        let place = number as u64 * 128;
        put(&mut entries, place, &[number as u8 + 1; 32]);
        put(&mut entries, place + 32, &(start * MIB / 512).to_le_bytes());
        put(&mut entries, place + 40, &(end * MIB / 512 - 1).to_le_bytes());
    }
    let last = backup / 512;
    for (own, other, place) in [(1, last, 2), (last, 1, last - 32)] {
        let mut header = vec![0; 92];
        put(&mut header, 0, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        for (offset, value) in [(24, own), (32, other), (40, 34), (48, last - 33), (72, place)] {
            put(&mut header, offset, &u64::to_le_bytes(value));
        }
        put(&mut header, 80, &128_u32.to_le_bytes());
        put(&mut header, 84, &128_u32.to_le_bytes());
        put(&mut header, 88, &crc32(&entries));
        let sum = crc32(&header);
        put(&mut header, 16, &sum);
        put(&mut bytes, own * 512, &header);
        put(&mut bytes, place * 512, &entries);
    }
    bytes
}

#[test]
fn gaps_of_a_gpt_end_before_its_backup() {
    let layout = scan_with(&*disk(gpt(DISK - 512)), GAPS);
    assert_eq!((kept(&layout), gaps(&layout)), (Vec::new(), vec![8 * MIB..12 * MIB, 20 * MIB..63 * MIB]));
    // Behind a backup in the middle nobody knows.
    let layout = scan_with(&*disk(gpt(40 * MIB - 512)), GAPS);
    assert_eq!((kept(&layout), gaps(&layout)), (Vec::new(), vec![8 * MIB..12 * MIB, 20 * MIB..39 * MIB]));
}

#[test]
fn a_file_system_that_is_larger_than_its_partition_keeps_the_gap_behind() {
    let Some(mbr) = mbr() else { return };
    let mut bytes = gpt(DISK - 512);
    // One of 8 MiB in a partition of 4.
    put(&mut bytes, 4 * MIB, &mbr[(12 * MIB) as usize..(16 * MIB) as usize]);
    let layout = scan_with(&*disk(bytes), GAPS);
    let expected = std::iter::once(20 * MIB..63 * MIB).collect::<Vec<_>>();
    assert_eq!((kept(&layout), gaps(&layout)), (vec![reason::KEPT_GAP.to_owned()], expected));
}

#[test]
fn a_flipped_bit_of_a_gpt_keeps_the_gaps() {
    let base = disk(gpt(DISK - 512));
    let mut numbers = Numbers(4);
    for table in [512, 1024, DISK - 512, DISK - 33 * 512] {
        for _ in 0..30 {
            let place = table + numbers.below(92);
            let layout = scan_with(&flipped(&base, place, numbers.below(8) as u8), GAPS);
            assert!(layout.gaps().is_none_or(|gaps| gaps.summary().bytes == 0), "byte {place}");
        }
    }
}

#[test]
fn a_disk_without_a_table_has_no_gaps() {
    let layout = scan_with(&*disk(vec![0; 8 << 20]), GAPS);
    assert_eq!(layout.gaps(), None::<&Gaps>);
}
