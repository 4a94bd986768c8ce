//! Partition tables, signatures, and what has no reader.

use std::collections::BTreeSet;
use std::sync::Arc;

use imageops_image::format::{self, Format};
use imageops_image::guest::{Part, TableKind};
use imageops_image::reason;
use imageops_image::storage::Storage;

use crate::peers::{images, open};
use crate::proofs::{Numbers, Patched, flipped, free_ranges, reasons, scan};

#[test]
fn what_has_no_reader_is_named_and_kept() {
    let Some(directory) = images("what_has_no_reader_is_named_and_kept", &[]) else { return };
    let expected = [
        ("fs/swap-hibernated.raw", "swap", reason::KEPT_HIBERNATED),
        ("fs/unknown.raw", "unknown", reason::KEPT_UNKNOWN_CONTENT),
        ("fs/empty.raw", "unknown", reason::KEPT_UNKNOWN_CONTENT),
    ];
    for (name, content, why) in expected {
        let image = open(&directory.join(name));
        let layout = scan(&*image.disk);
        assert_eq!((layout.table(), layout.parts().len()), (None, 1), "{name}");
        assert_eq!(layout.parts()[0].summary().content, content, "{name}");
        assert_eq!(reasons(&layout), [why], "{name}");
    }
}

#[test]
fn partition_tables_are_read() {
    let Some(directory) = images("partition_tables_are_read", &[]) else { return };
    let contents = |name: &str| {
        let image = open(&directory.join(name));
        let layout = scan(&*image.disk);
        let parts = layout.parts().iter().map(|part| (part.summary().index, part.summary().content.clone()));
        (layout.table(), parts.collect::<Vec<_>>())
    };
    let list =
        |parts: &[(u32, &str)]| parts.iter().map(|(index, name)| (*index, (*name).to_owned())).collect();
    let logical = list(&[(1, "fat16"), (5, "ext4"), (6, "swap")]);
    assert_eq!(contents("fs/mbr-logical.raw"), (Some(TableKind::Mbr), logical));
    for (name, root) in [("ext4", "ext4"), ("xfs", "xfs"), ("btrfs", "btrfs"), ("lvm", "lvm2")] {
        let parts = list(&[(1, "fat32"), (2, root)]);
        assert_eq!(contents(&format!("debian-{name}.qcow2")), (Some(TableKind::Gpt), parts));
    }
    assert_eq!(contents("data-ntfs.qcow2"), (Some(TableKind::Mbr), list(&[(1, "ntfs")])));
}

#[test]
fn damaged_partition_tables_keep_all() {
    let Some(directory) = images("damaged_partition_tables_keep_all", &[]) else { return };
    let disk = open(&directory.join("debian-ext4.raw")).disk;
    let size = disk.virtual_size_bytes();
    let mut numbers = Numbers(1);
    for copy in [512..604, 1024..1280, size - 512..size - 420, size - 33 * 512..size - 33 * 512 + 256] {
        for _ in 0..40 {
            let place = copy.start + numbers.below(copy.end - copy.start);
            let damaged = flipped(&disk, place, numbers.below(8) as u8);
            let layout = scan(&damaged);
            assert!(free_ranges(&damaged, &layout).is_empty(), "byte {place}");
            assert!(!layout.kept().is_empty(), "byte {place}");
        }
    }
    // Cut short, so that the backup lies elsewhere.
    let short = Patched { base: Arc::clone(&disk), bytes: Vec::new(), size: Some(size - (1 << 20)) };
    assert!(free_ranges(&short, &scan(&short)).is_empty());
    // A hybrid table: one more entry beside the protective one.
    let entry = 446 + 16;
    let hybrid = [(entry + 4, 0x83), (entry + 9, 8), (entry + 13, 8)];
    let hybrid = Patched { base: Arc::clone(&disk), bytes: hybrid.to_vec(), size: None };
    let layout = scan(&hybrid);
    assert_eq!(reasons(&layout), [reason::KEPT_TABLE_CONFLICT]);
    assert!(free_ranges(&hybrid, &layout).is_empty());
}

#[test]
fn logical_partitions_that_loop_or_overlap_keep_all() {
    let Some(directory) = images("logical_partitions_that_loop_or_overlap_keep_all", &[]) else { return };
    let disk = open(&directory.join("fs/mbr-logical.raw")).disk;
    assert!(!free_ranges(&*disk, &scan(&*disk)).is_empty());
    let chain = 67_584 * 512 + 446;
    let word = |place: u64, value: u32| (place..).zip(value.to_le_bytes()).collect::<Vec<_>>();
    let damages = [
        word(chain + 16 + 8, 0),           // the link leads to itself
        word(chain + 16 + 8, 0x7fff_ffff), // … outside
        word(chain + 8, 0),                // a partition at its own table
        word(chain + 12, 0x0fff_ffff),     // a partition beyond the container
        word(446 + 12, 0x0010_0000),       // the first partition runs into the container
        word(446 + 16 + 12, 8),            // the container is too small
        word(chain + 64, 0),               // no signature in the chain
    ];
    for bytes in damages {
        let damaged = Patched { base: Arc::clone(&disk), bytes: bytes.clone(), size: None };
        let layout = scan(&damaged);
        assert!(free_ranges(&damaged, &layout).is_empty(), "{bytes:?}");
        assert_eq!(reasons(&layout), [reason::KEPT_TABLE_INVALID], "{bytes:?}");
    }
}

#[test]
fn a_second_signature_keeps_all() {
    let Some(directory) = images("a_second_signature_keeps_all", &[]) else { return };
    let disk = open(&directory.join("fs/ext4-4k.raw")).disk;
    let size = disk.virtual_size_bytes();
    let signatures: [(u64, &[u8]); 8] = [
        (0, b"XFSB"),
        (0, b"LUKS\xba\xbe"),
        (0x10040, b"_BHRfS_M"),
        (536, b"LVM2 001"),
        (4096, b"\xfc\x4e\x2b\xa9"),
        ((size / 512 - 16) / 8 * 8 * 512, b"\xfc\x4e\x2b\xa9"),
        (4086, b"SWAPSPACE2"),
        (131_072, b"\x0c\xb1\xba\0\0\0\0\0"),
    ];
    for (place, magic) in signatures {
        let bytes = (place..).zip(magic.iter().copied()).collect();
        let signed = Patched { base: Arc::clone(&disk), bytes, size: None };
        let layout = scan(&signed);
        assert_eq!(reasons(&layout), [reason::KEPT_TWO_SIGNATURES], "{magic:?}");
        assert!(free_ranges(&signed, &layout).is_empty());
    }
}

#[test]
fn a_hibernated_system_keeps_the_whole_disk() {
    let Some(directory) = images("a_hibernated_system_keeps_the_whole_disk", &[]) else { return };
    let disk = open(&directory.join("fs/mbr-logical.raw")).disk;
    assert!(!free_ranges(&*disk, &scan(&*disk)).is_empty());
    let bytes = (202_752 * 512 + 4086..).zip(*b"S1SUSPEND\0").collect();
    let hibernated = Patched { base: Arc::clone(&disk), bytes, size: None };
    let layout = scan(&hibernated);
    assert!(free_ranges(&hibernated, &layout).is_empty());
    let ext4 = layout.parts().iter().find(|part| part.summary().content == "ext4").unwrap().summary();
    assert_eq!((ext4.free_bytes, ext4.kept[0].reason.as_str()), (0, reason::KEPT_HIBERNATED));
}

#[test]
fn a_hash_tree_keeps_the_whole_disk() {
    let Some(directory) = images("a_hash_tree_keeps_the_whole_disk", &[]) else { return };
    let disk = open(&directory.join("fs/mbr-logical.raw")).disk;
    // In place of the swap space: nothing else says what the tree belongs to.
    let bytes = (202_752 * 512..).zip(*b"verity\0\0").chain((202_752 * 512 + 4086..).zip([0; 10])).collect();
    let verified = Patched { base: Arc::clone(&disk), bytes, size: None };
    let layout = scan(&verified);
    assert!(free_ranges(&verified, &layout).is_empty());
    let why = |part: &Part| part.summary().kept[0].reason.clone();
    assert!(layout.parts().iter().map(why).all(|why| why == reason::KEPT_VERIFIED), "{:?}", reasons(&layout));
}

#[test]
fn what_keeps_the_whole_disk_does_so_beside_another_signature() {
    let Some(directory) = images("what_keeps_the_whole_disk", &[]) else { return };
    let disk = open(&directory.join("fs/mbr-logical.raw")).disk;
    let swap = 202_752 * 512;
    for (place, magic) in [(swap + 4086, &b"S1SUSPEND\0"[..]), (swap, b"verity\0\0")] {
        // An old md superblock, which neither mkswap nor veritysetup removes.
        let bytes =
            (place..).zip(magic.iter().copied()).chain((swap + 4096..).zip(*b"\xfc\x4e\x2b\xa9")).collect();
        let patched = Patched { base: Arc::clone(&disk), bytes, size: None };
        let layout = scan(&patched);
        assert!(free_ranges(&patched, &layout).is_empty(), "{magic:?}");
        assert!(reasons(&layout).contains(&reason::KEPT_TWO_SIGNATURES.to_owned()), "{:?}", reasons(&layout));
    }
}

#[test]
fn a_hash_tree_behind_a_file_system_keeps_it() {
    let Some(directory) = images("a_hash_tree_behind_a_file_system_keeps_it", &[]) else { return };
    for name in ["fs/ext4-4k.raw", "fs/ext4-bigalloc.raw", "fs/btrfs-mixed.raw"] {
        let disk = open(&directory.join(name)).disk;
        assert!(!free_ranges(&*disk, &scan(&*disk)).is_empty(), "{name}");
        let size = disk.virtual_size_bytes();
        for (place, magic) in [(size, &b"verity\0\0"[..]), (size + (1 << 20) - 64, b"AVBf")] {
            let bytes = (place..).zip(magic.iter().copied()).collect();
            let longer = Patched { base: Arc::clone(&disk), bytes, size: Some(size + (1 << 20)) };
            let layout = scan(&longer);
            assert!(free_ranges(&longer, &layout).is_empty(), "{name}");
            assert!(
                reasons(&layout).contains(&reason::KEPT_VERIFIED.to_owned()),
                "{name}: {:?}",
                reasons(&layout)
            );
        }
    }
}

#[test]
fn noise_is_never_a_guest() {
    let mut numbers = Numbers(3);
    let kinds: BTreeSet<String> = (0..200)
        .map(|_| {
            let mut bytes: Vec<u8> = (0..300_000).map(|_| numbers.below(256) as u8).collect();
            // With the two bytes that invite a look at the rest.
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
            let storage: Arc<dyn Storage> = Arc::new(bytes);
            let disk = format::open(storage, Some(Format::Raw)).unwrap().disk;
            let layout = scan(&*disk);
            assert!(free_ranges(&*disk, &layout).is_empty());
            reasons(&layout).join(",")
        })
        .collect();
    assert!(!kinds.contains(""), "{kinds:?}");
}
