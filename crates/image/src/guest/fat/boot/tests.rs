//! Boot records of every kind, and damaged ones.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A FAT16 of 32 MiB as mkfs.fat makes it.
fn fat16() -> [u8; LENGTH] {
    let mut raw = [0; LENGTH];
    raw[11..13].copy_from_slice(&512_u16.to_le_bytes());
    raw[13] = 4;
    raw[14] = 4;
    raw[16] = 2;
    raw[17..19].copy_from_slice(&512_u16.to_le_bytes());
    raw[21] = 0xf8;
    raw[22] = 64;
    raw[24] = 32;
    raw[32..36].copy_from_slice(&65_536_u32.to_le_bytes());
    raw[54..62].copy_from_slice(b"FAT16   ");
    raw
}

const SIZE: u64 = 32 << 20;

#[test]
fn the_places_are_those_that_the_specification_computes() {
    let record = BootRecord::parse(fat16(), SIZE).unwrap();
    assert_eq!((record.width, record.clusters, record.settled_clusters), (Width::Fat16, 16_343, 16_343));
    assert_eq!((record.table_start(0), record.table_start(1)), (2048, 34_816));
    assert_eq!((record.root, record.data_start), (Root::Place(67_584), 83_968));
}

#[test]
fn no_flipped_bit_moves_a_cluster_unless_a_table_would_start_elsewhere() {
    let sound = BootRecord::parse(fat16(), SIZE).unwrap();
    for bit in 0..LENGTH * 8 {
        let mut raw = fat16();
        raw[bit / 8] ^= 1 << (bit % 8);
        let Ok(record) = BootRecord::parse(raw, SIZE) else { continue };
        let moved = (record.width, record.data_start, record.cluster_bytes)
            != (sound.width, sound.data_start, sound.cluster_bytes);
        let starts = |record: &BootRecord| [0, 1].map(|table| record.table_start(table));
        assert!(!moved || starts(&record) != starts(&sound), "bit {bit}");
        assert!(record.settled_clusters <= sound.clusters, "bit {bit}");
    }
}

#[test]
fn the_width_is_taken_only_where_all_drivers_agree_on_it() {
    let width = |clusters: u32, name: &[u8; 8], wide: bool| {
        let mut raw = fat16();
        raw[22] = 255;
        raw[54..62].copy_from_slice(name);
        let mut data_start = 4 + 2 * 255 + 32;
        if wide {
            raw[36..38].copy_from_slice(&600_u16.to_le_bytes());
            raw[17..19].fill(0);
            raw[22] = 0;
            raw[44] = 2;
            raw[82..90].copy_from_slice(name);
            data_start = 4 + 2 * 600;
        }
        let total = data_start + clusters * 4;
        raw[32..36].copy_from_slice(&total.to_le_bytes());
        raw[24] = 1;
        BootRecord::parse(raw, u64::from(total) * 512).map(|record| record.width).ok()
    };
    assert_eq!(width(4084, b"FAT12   ", false), Some(Width::Fat12));
    assert_eq!(width(4085, b"FAT12   ", false), None);
    assert_eq!(width(4086, b"FAT16   ", false), None);
    assert_eq!(width(4087, b"FAT16   ", false), Some(Width::Fat16));
    assert_eq!(width(4087, b"FAT12   ", false), None);
    assert_eq!(width(65_525, b"FAT16   ", false), None);
    for clusters in [100, 4085, 65_524, 65_525, 76_798] {
        assert_eq!(width(clusters, b"FAT32   ", true), Some(Width::Fat32), "{clusters}");
    }
    // More clusters than the table has entries.
    assert_eq!(width(76_799, b"FAT32   ", true), None);
}

#[test]
fn a_part_of_a_track_is_never_settled() {
    let mut raw = fat16();
    raw[24] = 63;
    let whole = 65_536 / 63 * 63;
    let exact = BootRecord::parse(raw, SIZE).unwrap();
    raw[32..36].copy_from_slice(&(whole as u32).to_le_bytes());
    let tracks = BootRecord::parse(raw, SIZE).unwrap();
    assert_eq!(exact.settled_clusters, tracks.clusters);
    assert_eq!(tracks.settled_clusters, tracks.clusters);
    assert!(exact.clusters > tracks.clusters);
    raw[32..36].copy_from_slice(&(whole as u32 - 63).to_le_bytes());
    assert_eq!(BootRecord::parse(raw, SIZE).unwrap_err().reason, reason::KEPT_GEOMETRY);
}

proptest! {
    #[test]
    fn any_record_is_refused_or_lies_inside_its_device(
        noise in prop::collection::vec((11..64_usize, any::<u8>()), 0..8), device_bytes in 0..1_u64 << 41, wide in any::<bool>(),
    ) {
        let mut raw = fat16();
        if wide {
            raw[17..19].fill(0);
            raw[22] = 0;
            raw[36..38].copy_from_slice(&600_u16.to_le_bytes());
            raw[44] = 2;
            raw[82..90].copy_from_slice(b"FAT32   ");
        }
        for (place, byte) in noise {
            raw[place] = byte;
        }
        if let Ok(record) = BootRecord::parse(raw, device_bytes) {
            let clusters = u64::from(record.clusters);
            prop_assert!(record.data_start + clusters * record.cluster_bytes <= device_bytes);
            prop_assert!(record.table_start(record.tables) <= record.data_start);
            prop_assert!((clusters + 2) * record.width.bits() <= record.table_bytes * 8);
            prop_assert!(record.settled_clusters <= record.clusters);
        }
    }
}
