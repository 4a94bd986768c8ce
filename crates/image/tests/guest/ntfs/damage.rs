//! Every reason to keep a volume, by a volume that gives it.

use std::sync::Arc;

use imageops_image::reason;

use super::edit::{Bytes, Volume, attribute, number, put};
use super::{make, peer_free, put_file};
use crate::peers::{images, open};
use crate::proofs::{Numbers, Patched, free_ranges, reasons, scan};

const DATA: u32 = 0x80;

#[test]
fn a_dirty_volume_keeps_all() {
    let Some(directory) = images("a_dirty_volume_keeps_all", &[]) else { return };
    let image = open(&directory.join("fs/ntfs-dirty.raw"));
    let layout = scan(&*image.disk);
    assert_eq!(reasons(&layout), [reason::KEPT_NOT_CLEAN]);
    assert!(free_ranges(&*image.disk, &layout).is_empty());

    let volume = Volume::open(&directory.join("fs/ntfs.raw"));
    let state = |version: [u8; 2], flags: u16| {
        let value = [version.as_slice(), &flags.to_le_bytes()].concat();
        reasons(&scan(&volume.patched(&volume.edit_attribute(3, 0x70, 24 + 8, &value))))
    };
    for bit in [0x1, 0x2, 0x4, 0x10, 0x20, 0x40, 0x100, 0x4000, 0x8000] {
        assert_eq!(state([3, 1], bit), [reason::KEPT_NOT_CLEAN], "{bit:#x}");
    }
    for bit in [0x200, 0x400, 0x800, 0x1000, 0x2000] {
        assert_eq!(state([3, 1], bit), [reason::KEPT_UNKNOWN_FEATURE], "{bit:#x}");
    }
    for version in [[1, 1], [2, 0], [3, 2], [4, 0]] {
        assert_eq!(state(version, 0), [reason::KEPT_UNKNOWN_FEATURE], "{version:?}");
    }
    for (version, flags) in [([1, 2], 0x8), ([3, 0], 0), ([3, 1], 0x80)] {
        assert_eq!(state(version, flags), Vec::<String>::new(), "{version:?} {flags:#x}");
    }
}

/// What is damaged, by which bytes, and the reason that it gives.
type Case = (&'static str, Bytes, &'static str);

fn assert_kept(volume: &Volume, cases: Vec<Case>) {
    for (name, bytes, expected) in cases {
        assert!(!bytes.is_empty(), "{name}: nothing is damaged");
        let damaged = volume.patched(&bytes);
        let layout = scan(&damaged);
        assert_eq!(reasons(&layout), [expected], "{name}");
        assert!(free_ranges(&damaged, &layout).is_empty(), "{name}");
    }
}

#[test]
fn damaged_structures_keep_all() {
    let Some(directory) = images("damaged_structures_keep_all", &[]) else { return };
    let volume = Volume::open(&directory.join("fs/ntfs.raw"));
    let size = volume.disk.virtual_size_bytes();
    let place = |record| volume.record_place(record);
    let raw = |place: u64, bytes: &[u8]| volume.replace(place, bytes);
    let (index, _) = volume.first_run(5, 0xa0);
    let cases: Vec<Case> = vec![
        ("sector size", raw(11, &[0, 3]), reason::KEPT_GEOMETRY),
        ("cluster size", raw(13, &[3]), reason::KEPT_GEOMETRY),
        ("a field of FAT", raw(16, &[2]), reason::KEPT_GEOMETRY),
        ("too large", raw(43, &[1]), reason::KEPT_GEOMETRY),
        ("place of the MFT", raw(48, &[5]), reason::KEPT_GEOMETRY),
        ("copy of the boot sector", raw(size - 512 + 48, &[9]), reason::KEPT_GEOMETRY),
        ("first record", raw(place(0) + 510, &[0xee]), reason::KEPT_CHECKSUM),
        ("mirror", raw(volume.mirror + 2 * 1024 + 100, &[0xee]), reason::KEPT_GEOMETRY),
        ("mirror torn", raw(volume.mirror + 3 * 1024 + 1022, &[0xee]), reason::KEPT_CHECKSUM),
        ("torn index", raw(index + 510, &[0xee]), reason::KEPT_CHECKSUM),
        ("index of another place", volume.edit(index, 4096, |bytes| bytes[16] = 1), reason::KEPT_GEOMETRY),
        (
            "entry too long",
            volume.edit(index, 4096, |bytes| bytes[24 + 40 + 9] = 0x7f),
            reason::KEPT_GEOMETRY,
        ),
        ("entries outside", volume.edit(index, 4096, |bytes| bytes[24 + 5] = 0x7f), reason::KEPT_GEOMETRY),
        ("shadow copies", raw(0x1e00, &snapshot_header(4096, 1, 1)), reason::KEPT_SHADOW_COPIES),
        ("shadow copies elsewhere", raw(0x1e00, &snapshot_header(0, 1, 2)), reason::KEPT_SHADOW_COPIES),
    ];
    assert_kept(&volume, cases);
    let none = volume.patched(&raw(0x1e00, &snapshot_header(0, 1, 1)));
    assert_eq!(reasons(&scan(&none)), Vec::<String>::new(), "no shadow copies yet");
    let short = Patched { base: Arc::clone(&volume.disk), bytes: Vec::new(), size: Some(size - 8192) };
    assert_eq!(reasons(&scan(&short)), [reason::KEPT_GEOMETRY]);
}

#[test]
fn damaged_files_and_a_damaged_bitmap_keep_all() {
    let Some(directory) = images("damaged_files_and_a_damaged_bitmap_keep_all", &[]) else { return };
    let volume = Volume::open(&directory.join("fs/ntfs.raw"));
    let place = |record| volume.record_place(record);
    let raw = |place: u64, bytes: &[u8]| volume.replace(place, bytes);
    let bitmap = |offset, bytes: &[u8]| volume.edit_attribute(6, DATA, offset, bytes);
    let (bits, _) = volume.first_run(6, DATA);
    // Two files with a run, and a place that is free.
    let mut scattered = (64..200).filter(|record| {
        let bytes = volume.record(*record);
        bytes[22] == 1 && bytes[attribute(&bytes, DATA) + 8] == 1
    });
    let (file, other) = (scattered.next().unwrap(), scattered.next().unwrap());
    let (own, _) = volume.first_run(file, DATA);
    let free = peer_free(&directory.join("fs/ntfs.raw")).pop().unwrap().start / volume.cluster_bytes;
    let run_to = |cluster: u64| {
        let mut pairs = vec![0x31, 1];
        pairs.extend(&cluster.to_le_bytes()[..3]);
        pairs.push(0);
        volume.edit_record(other, |bytes| {
            let at = attribute(bytes, DATA);
            put(bytes, at + 24, &[0; 8]);
            put(bytes, at + 64, &pairs);
        })
    };
    let cases: Vec<Case> = vec![
        ("torn record of a file", raw(place(file) + 1022, &[0xee, 0xee]), reason::KEPT_CHECKSUM),
        ("no record of a file", raw(place(file), b"BAAD"), reason::KEPT_CHECKSUM),
        ("record of another file", volume.edit_record(file, |bytes| bytes[44] ^= 1), reason::KEPT_GEOMETRY),
        ("too much used", volume.edit_record(file, |bytes| bytes[25] = 8), reason::KEPT_GEOMETRY),
        ("attribute too long", volume.edit_attribute(file, 0x10, 5, &[4]), reason::KEPT_GEOMETRY),
        ("runs outside", run_to(volume.clusters), reason::KEPT_GEOMETRY),
        ("runs where all is free", run_to(free), reason::KEPT_FREE_COUNT),
        ("runs of another file", run_to(own / volume.cluster_bytes), reason::KEPT_GEOMETRY),
        ("bitmap too short", bitmap(48, &2040_u64.to_le_bytes()), reason::KEPT_GEOMETRY),
        ("bitmap not written", bitmap(56, &2040_u64.to_le_bytes()), reason::KEPT_GEOMETRY),
        ("bitmap compressed", bitmap(12, &[1]), reason::KEPT_UNKNOWN_FEATURE),
        ("bitmap sparse", bitmap(13, &[0x80]), reason::KEPT_UNKNOWN_FEATURE),
        ("bitmap with a hole", bitmap(64, &[0x01, 1, 0]), reason::KEPT_GEOMETRY),
        ("bitmap elsewhere", bitmap(66, &[0x08]), reason::KEPT_GEOMETRY),
        ("bit behind the end", raw(bits + 2047, &[0x7f]), reason::KEPT_GEOMETRY),
        ("bit of a file", raw(bits + own / volume.cluster_bytes / 8, &[0]), reason::KEPT_FREE_COUNT),
    ];
    assert_kept(&volume, cases);
}

/// More than is looked at is kept before any of it is read.
#[test]
fn a_root_directory_with_too_many_nodes_keeps_all() {
    let test = "a_root_directory_with_too_many_nodes_keeps_all";
    let Some(_) = images(test, &["mkntfs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    make(&source, 128 << 20, &[]);
    let volume = Volume::open(&source);
    // At the limit the nodes are looked at, and are none.
    for (clusters, expected) in [((1_u64 << 14) + 1, reason::KEPT_LIMIT), (1 << 14, reason::KEPT_CHECKSUM)] {
        let bytes = volume.edit_record(5, |bytes| {
            let at = attribute(bytes, 0xa0);
            put(bytes, at + 24, &(clusters - 1).to_le_bytes());
            let size = (clusters * volume.cluster_bytes).to_le_bytes();
            [40, 48, 56].into_iter().for_each(|field| put(bytes, at + field, &size));
            let run = [[0x12].as_slice(), &clusters.to_le_bytes()[..2], &[0x50, 0]].concat();
            put(bytes, at + 72, &run);
        });
        let layout = scan(&volume.patched(&bytes));
        assert_eq!(reasons(&layout), [expected], "{clusters}");
    }
}

/// Much damage at once: whatever comes of it, nothing breaks and answers stay in range.
#[test]
fn noise_in_the_structures_breaks_nothing() {
    let Some(directory) = images("noise_in_the_structures_breaks_nothing", &[]) else { return };
    let volume = Volume::open(&directory.join("fs/ntfs.raw"));
    let (index, _) = volume.first_run(5, 0xa0);
    let mut numbers = Numbers(9);
    for turn in 0..1000 {
        let count = 1 + numbers.below(12);
        let mut noise = |bytes: &mut Vec<u8>| {
            for _ in 0..count {
                // Headers of records and attributes, where lengths and places are; not the update sequence.
                let at = if numbers.below(2) == 0 { 8 + numbers.below(40) } else { 56 + numbers.below(400) };
                let value = [0, 1, 0x7f, 0x80, 0xff, numbers.below(256) as u8][numbers.below(6) as usize];
                bytes[at as usize] = value;
            }
        };
        let bytes = match turn % 8 {
            0 => volume.edit(index, 4096, noise),
            1 => volume.replace(3, &{
                let mut boot = volume.read(3, 480);
                noise(&mut boot);
                put(&mut boot, 0, b"NTFS    ");
                boot
            }),
            2..=6 => volume.edit_record([0, 1, 2, 5, 6][turn % 8 - 2], noise),
            _ => volume.edit_record(64 + turn as u64 % 100, noise),
        };
        let damaged = volume.patched(&bytes);
        free_ranges(&damaged, &scan(&damaged));
    }
}

/// Where Windows registers shadow copies: catalogue, the volume's id and that of the volume that holds them.
fn snapshot_header(catalog: u64, volume: u8, storage: u8) -> Vec<u8> {
    let mut header = b"\x6b\x87\x08\x38\x76\xc1\x48\x4e\xb7\xae\x04\x04\x6e\x6c\xc7\x52".to_vec();
    header.resize(96, 0);
    put(&mut header, 48, &catalog.to_le_bytes());
    put(&mut header, 64, &[volume; 16]);
    put(&mut header, 80, &[storage; 16]);
    header
}

/// The file of a shadow copy tells of it too; the catalogue alone does not.
#[test]
fn files_of_shadow_copies_keep_all() {
    let Some(_) = images("files_of_shadow_copies_keep_all", &["mkntfs", "ntfscp"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    make(&source, 20 << 20, &[]);
    let suffix = "{3808876b-c176-4e48-b7ae-04046e6cc752}";
    put_file(&source, scratch.path(), suffix, b"");
    assert_eq!(reasons(&scan(&*open(&source).disk)), Vec::<String>::new());
    put_file(&source, scratch.path(), &format!("{{673e7cc9-3a5c-11e9-b813-901b0e4d36dd}}{suffix}"), b"");
    assert_eq!(reasons(&scan(&*open(&source).disk)), [reason::KEPT_SHADOW_COPIES]);
}

/// Loops and sizes of the root directory's tree.
#[test]
fn a_root_directory_that_loops_or_is_huge_keeps_all() {
    let test = "a_root_directory_that_loops_or_is_huge_keeps_all";
    let Some(_) = images(test, &["mkntfs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    make(&source, 300 << 20, &[]);
    let volume = Volume::open(&source);
    let (index, _) = volume.first_run(5, 0xa0);
    let child = |cluster: u64| {
        volume.edit(index, 4096, |bytes| {
            let end = 24 + number(&bytes[28..32]) as usize;
            put(bytes, 28, &((end - 24 + 8) as u32).to_le_bytes());
            put(bytes, end - 16, &[0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 3, 0, 0, 0]);
            put(bytes, end, &cluster.to_le_bytes());
        })
    };
    for cluster in [0, 1, u64::MAX] {
        assert_eq!(reasons(&scan(&volume.patched(&child(cluster)))), [reason::KEPT_GEOMETRY], "{cluster}");
    }
    let huge = volume.edit_record(5, |bytes| {
        let at = attribute(bytes, 0xa0);
        let clusters = 0x7000_u64;
        put(bytes, at + 24, &(clusters - 1).to_le_bytes());
        for field in [40, 48, 56] {
            put(bytes, at + field, &(clusters * 4096).to_le_bytes());
        }
        let pairs = at + number(&bytes[at + 32..at + 34]) as usize;
        put(bytes, pairs, &[0x22, 0, 0x70, 1, 0, 0]);
    });
    assert_eq!(reasons(&scan(&volume.patched(&huge))), [reason::KEPT_LIMIT]);
}
