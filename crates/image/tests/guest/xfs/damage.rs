//! Damage to XFS: each condition with its reason, and bits flipped at random.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use imageops_image::disk::Disk;
use imageops_image::reason;

use super::forge::{Forge, Part};
use super::{TOOLS, make, make_with_files, peer_free};
use crate::peers::{images, run_ok};
use crate::proofs::{Numbers, Patched, flipped, free_ranges, outside, reasons, scan, total};

/// A bit pattern that is changed in a structure of a group, whether the checksum is put right, and what comes of it.
type Damage = (usize, Part, usize, u8, bool, &'static str);

fn assert_kept(disk: &dyn Disk, expected: &str, what: &str) {
    let layout = scan(disk);
    assert_eq!(reasons(&layout), [expected], "{what}");
    assert!(free_ranges(disk, &layout).is_empty(), "{what}");
}

fn assert_damages(forge: &mut Forge, damages: &[Damage]) {
    let base = forge.disk();
    for damage in damages {
        let (group, part, offset, pattern, sealed, expected) = *damage;
        let damaged = forge.patched(&base, (group, part), sealed, |bytes| bytes[offset] ^= pattern);
        assert_kept(&damaged, expected, &format!("{damage:?}"));
    }
}

fn fresh(scratch: &Path, arguments: &str) -> Option<Forge> {
    let source = scratch.join("fresh.raw");
    let _ = std::fs::remove_file(&source);
    make(&source, 64 << 20, arguments).then(|| Forge::load(&source))
}

#[test]
fn damage_to_version_5_is_named() {
    use Part::{Header, List, Superblock, Tree};
    let Some(_) = images("damage_to_version_5_is_named", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut forge = fresh(scratch.path(), "").unwrap();
    let [by_place, by_size] = forge.roots(0).map(Tree);
    assert_damages(
        &mut forge,
        &[
            (0, Superblock, 126, 1, true, reason::KEPT_NOT_CLEAN),
            (0, Superblock, 23, 1, true, reason::KEPT_OTHER_DEVICE),
            (0, Superblock, 31, 1, true, reason::KEPT_OTHER_DEVICE),
            (0, Superblock, 101, 2, true, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 211, 1, true, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 215, 0x10, true, reason::KEPT_UNKNOWN_FEATURE),
            // Metadata directories, and zones.
            (0, Superblock, 218, 1, true, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 218, 2, true, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 223, 2, true, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 219, 0x10, true, reason::KEPT_ERROR_STATE),
            (0, Superblock, 400, 1, false, reason::KEPT_CHECKSUM),
            (0, Superblock, 240, 1, true, reason::KEPT_NOT_CLEAN),
            (0, Superblock, 6, 1, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 102, 1, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 8, 1, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 15, 1, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 84, 0x40, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 91, 1, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 124, 1, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 48, 1, true, reason::KEPT_GEOMETRY),
            (0, Superblock, 96, 1, true, reason::KEPT_GEOMETRY),
            (1, Superblock, 3, 1, true, reason::KEPT_GEOMETRY),
            (3, Superblock, 15, 1, true, reason::KEPT_GEOMETRY),
            (2, Header, 500, 1, false, reason::KEPT_CHECKSUM),
            (2, Header, 0, 1, true, reason::KEPT_GEOMETRY),
            (2, Header, 7, 2, true, reason::KEPT_GEOMETRY),
            (2, Header, 11, 1, true, reason::KEPT_GEOMETRY),
            (2, Header, 15, 1, true, reason::KEPT_GEOMETRY),
            (0, Header, 16, 1, true, reason::KEPT_GEOMETRY),
            (0, Header, 31, 2, true, reason::KEPT_GEOMETRY),
            (0, Header, 35, 1, true, reason::KEPT_GEOMETRY),
            (0, Header, 43, 1, true, reason::KEPT_GEOMETRY),
            (0, Header, 46, 1, true, reason::KEPT_GEOMETRY),
            (0, Header, 51, 1, true, reason::KEPT_GEOMETRY),
            (0, Header, 55, 1, true, reason::KEPT_FREE_COUNT),
            (0, Header, 59, 1, true, reason::KEPT_FREE_COUNT),
            (0, Header, 63, 1, true, reason::KEPT_FREE_COUNT),
            (0, Header, 70, 1, true, reason::KEPT_GEOMETRY),
            (0, Header, 208, 1, true, reason::KEPT_NOT_CLEAN),
            (1, List, 80, 1, false, reason::KEPT_CHECKSUM),
            (1, List, 0, 1, true, reason::KEPT_GEOMETRY),
            (1, List, 7, 2, true, reason::KEPT_GEOMETRY),
            (1, List, 10, 1, true, reason::KEPT_GEOMETRY),
            (1, List, 24, 1, true, reason::KEPT_NOT_CLEAN),
            // The first entry in use is the second here: out of the group, and onto another entry.
            (1, List, 40, 0x40, true, reason::KEPT_GEOMETRY),
            (1, List, 43, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 900, 1, false, reason::KEPT_CHECKSUM),
            (0, by_place, 3, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 5, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 6, 0x80, true, reason::KEPT_GEOMETRY),
            (0, by_place, 8, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 15, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 23, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 24, 1, true, reason::KEPT_NOT_CLEAN),
            (0, by_place, 40, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 51, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 56, 1, true, reason::KEPT_GEOMETRY),
            (0, by_place, 63, 1, true, reason::KEPT_FREE_COUNT),
            (0, by_size, 900, 1, false, reason::KEPT_CHECKSUM),
            (0, by_size, 3, 1, true, reason::KEPT_GEOMETRY),
            (0, by_size, 48, 1, true, reason::KEPT_GEOMETRY),
            (0, by_size, 59, 1, true, reason::KEPT_FREE_COUNT),
        ],
    );
    let disk = forge.disk();
    let short = Patched { base: disk, bytes: Vec::new(), size: Some((64 << 20) - 4096) };
    assert_kept(&short, reason::KEPT_GEOMETRY, "a device that is too short");
}

#[test]
fn damage_to_version_4_is_named() {
    use Part::{Header, List, Superblock, Tree};
    let Some(_) = images("damage_to_version_4_is_named", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let Some(mut forge) = fresh(scratch.path(), "-m crc=0") else { return };
    let [by_place, by_size] = forge.roots(0).map(Tree);
    assert_damages(
        &mut forge,
        &[
            (0, Superblock, 126, 1, false, reason::KEPT_NOT_CLEAN),
            (0, Superblock, 101, 2, false, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 100, 2, false, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 100, 0x20, false, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 203, 1, false, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 206, 4, false, reason::KEPT_UNKNOWN_FEATURE),
            (0, Superblock, 151, 1, false, reason::KEPT_FREE_COUNT),
            (0, Superblock, 15, 1, false, reason::KEPT_GEOMETRY),
            (2, Superblock, 15, 1, false, reason::KEPT_GEOMETRY),
            (0, Superblock, 99, 1, false, reason::KEPT_GEOMETRY),
            (0, Header, 0, 1, false, reason::KEPT_GEOMETRY),
            (0, Header, 55, 1, false, reason::KEPT_FREE_COUNT),
            (0, List, 4, 0x40, false, reason::KEPT_GEOMETRY),
            (0, by_place, 3, 1, false, reason::KEPT_GEOMETRY),
            (0, by_place, 23, 1, false, reason::KEPT_GEOMETRY),
            (0, by_size, 19, 1, false, reason::KEPT_FREE_COUNT),
        ],
    );
}

/// Free extents that both trees agree on, and that cannot be.
#[test]
fn free_extents_that_cannot_be_keep_all() {
    let Some(_) = images("free_extents_that_cannot_be_keep_all", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for kind in ["", "-m crc=0"] {
        let Some(forge) = fresh(scratch.path(), kind) else { continue };
        let list = forge.place(0, Part::List).start + if kind.is_empty() { 36 } else { 0 };
        let first = forge.word(forge.place(0, Part::Header).start + 40) as usize;
        let listed = forge.word(list + 4 * first);
        let blocks = forge.group_blocks as u32;
        let log = forge.log().start / forge.block_bytes;
        let (log_group, log_block) = (log / forge.group_blocks, (log % forge.group_blocks) as u32);
        let plant = |group, extents: &[(u32, u32)]| {
            let mut planted = forge.clone();
            planted.plant(group, extents.to_vec(), 3000..3100);
            planted
        };
        let sound = plant(0, &[(50, 2), (60, blocks - 3100 - 60), (blocks - 7, 7)]).disk();
        assert_eq!(reasons(&scan(&*sound)), Vec::<String>::new(), "{kind:?}");
        let impossible: [(usize, &[(u32, u32)]); 8] = [
            (0, &[(0, 3)]),
            (0, &[(listed, 1)]),
            (0, &[(2990, 20)]),
            (0, &[(60, 10), (69, 10)]),
            (0, &[(60, 0)]),
            (0, &[(blocks - 7, 8)]),
            (0, &[(4000, u32::MAX - 100)]),
            (log_group, &[(log_block + 5, 1)]),
        ];
        for (group, extents) in impossible {
            let disk = plant(group, extents).disk();
            assert_kept(&*disk, reason::KEPT_GEOMETRY, &format!("{kind:?} {extents:?}"));
        }
    }
}

#[test]
fn a_log_that_is_not_empty_keeps_all() {
    let Some(_) = images("a_log_that_is_not_empty_keeps_all", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for kind in ["", "-m crc=0", "-l su=64k", "-m crc=0 -l version=1"] {
        let Some(forge) = fresh(scratch.path(), kind) else { continue };
        let (base, log) = (forge.disk(), forge.log());
        let end = log.len() - 512;
        // The operation is behind the header, which is longer when records may be.
        let operation = 512 * forge.word(log.start + 320).div_ceil(32 << 10).max(1) as usize;
        // Number of operations, cycle, place and UUID of the record; client, flags and magic of the unmount; blocks
        // behind the head.
        let record = [(43, 1), (7, 1), (20, 0), (304, 0)];
        let unmount = [(8, 0), (9, 5), (9, 0), (12, 0)].map(|(offset, bit)| (operation + offset, bit));
        let behind = [(end + 3, 2), (end + 9, 0)];
        for (offset, bit) in record.into_iter().chain(unmount).chain(behind) {
            let dirty = flipped(&base, (log.start + offset) as u64, bit);
            assert_kept(&dirty, reason::KEPT_NEEDS_RECOVERY, &format!("{kind:?} {offset}"));
        }
        // A log of zeros is one that nothing was ever written to.
        let mut zero = forge.clone();
        zero.bytes[log].fill(0);
        assert_eq!(reasons(&scan(&*zero.disk())), Vec::<String>::new(), "{kind:?}");
    }
}

#[test]
fn other_devices_keep_all() {
    let Some(_) = images("other_devices_keep_all", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let other = scratch.path().join("other.raw");
    File::create(&other).unwrap().set_len(64 << 20).unwrap();
    for option in ["-l size=8m,logdev=", "-r rtdev="] {
        let arguments = format!("{option}{}", other.display());
        let forge = fresh(scratch.path(), &arguments).unwrap();
        assert_kept(&*forge.disk(), reason::KEPT_OTHER_DEVICE, option);
    }
}

/// `xfs_repair` and `xfs_admin` write the log anew, in a later cycle.
#[test]
fn a_log_written_anew_is_empty() {
    let Some(_) = images("a_log_written_anew_is_empty", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    for kind in ["", "-l su=64k"] {
        assert!(make(&source, 64 << 20, kind));
        let path = source.to_str().unwrap();
        for command in ["uuid generate", "uuid 00000000-1111-2222-3333-444444444444"] {
            run_ok("xfs_db", &["-x", "-c", command, path]);
            let disk = Forge::load(&source).disk();
            let layout = scan(&*disk);
            assert_eq!(reasons(&layout), Vec::<String>::new(), "{kind:?} {command}");
            assert_eq!(outside(&free_ranges(&*disk, &layout), &peer_free(&source)), 0);
        }
    }
}

/// A file system, what its owner calls free, and where the structures lie that are trusted.
struct Target {
    disk: Arc<dyn Disk>,
    theirs: Vec<Range<u64>>,
    places: Vec<Range<u64>>,
}

fn targets(scratch: &Path) -> Vec<Target> {
    let mut targets = Vec::new();
    let kinds = [("", 0), ("-m crc=0", 0), ("-b size=1024", 5000), ("-m crc=0 -b size=512", 1500)];
    for (kind, fragments) in kinds {
        let source = scratch.join("fs.raw");
        if !make_with_files(&source, 64 << 20, kind, scratch) {
            continue;
        }
        let mut forge = Forge::load(&source);
        let mut tree_blocks = Vec::new();
        if fragments > 0 {
            forge.fragment(1, fragments);
            let header = forge.place(1, Part::Header).start;
            // Blocks were taken in a row; the root of the second tree is the last one.
            let (last, count) = (forge.word(header + 20), forge.word(header + 60) + 2);
            tree_blocks.extend((last + 1 - count..=last).map(|block| (1, block)));
            std::fs::write(&source, &forge.bytes).unwrap();
        }
        let (places, theirs) = (forge.trusted(&tree_blocks), peer_free(&source));
        targets.push(Target { disk: forge.disk(), theirs, places });
    }
    targets
}

#[test]
fn a_flipped_bit_never_drops_a_used_block() {
    let Some(_) = images("xfs::a_flipped_bit_never_drops_a_used_block", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let targets = targets(scratch.path());
    assert!(targets.len() >= 2);
    let (mut flips, mut noticed) = (0, 0);
    for target in &targets {
        let before = total(&free_ranges(&*target.disk, &scan(&*target.disk)));
        assert!(before > 8 << 20);
        let mut numbers = Numbers(flips + 1);
        for _ in 0..2000_u64.div_ceil(targets.len() as u64) {
            let range = &target.places[numbers.below(target.places.len() as u64) as usize];
            let place = range.start + numbers.below(range.end - range.start);
            let damaged = flipped(&target.disk, place, numbers.below(8) as u8);
            let layout = scan(&damaged);
            let ours = free_ranges(&damaged, &layout);
            assert_eq!(outside(&ours, &target.theirs), 0, "bit of byte {place}");
            flips += 1;
            noticed += u64::from(total(&ours) < before);
        }
    }
    // The rest hits names, times and figures of inodes, or room that nothing uses: version 4 has no checksums.
    assert!(flips >= 2000);
    assert!(noticed > flips / 2, "{noticed} of {flips} flips were noticed");
}

/// Damage with right checksums: nothing is promised for it but an answer.
#[test]
fn forged_structures_do_no_harm() {
    let Some(_) = images("forged_structures_do_no_harm", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut forge = fresh(scratch.path(), "-b size=1024").unwrap();
    forge.fragment(1, 5000);
    let header = forge.place(1, Part::Header).start;
    let last = forge.word(header + 20);
    let base = forge.disk();
    let mut numbers = Numbers(5);
    for _ in 0..400 {
        let part = match numbers.below(5) {
            0 => Part::Superblock,
            1 => Part::Header,
            2 => Part::List,
            _ => Part::Tree(last - numbers.below(4) as u32),
        };
        let group = usize::from(!matches!(part, Part::Superblock));
        let forged = forge.patched(&base, (group, part), true, |bytes| {
            for _ in 0..=numbers.below(3) {
                // The fields, rather than the long room behind them.
                let value = [0, 1, 0x7f, 0x80, 0xff, numbers.below(256) as u8][numbers.below(6) as usize];
                bytes[numbers.below(280) as usize] = value;
            }
        });
        let _ = free_ranges(&forged, &scan(&forged));
    }
}

#[test]
fn a_tree_with_more_leaves_than_are_remembered_keeps_all() {
    let test = "a_tree_with_more_leaves_than_are_remembered_keeps_all";
    let Some(_) = images(test, &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let Some(mut forge) = fresh(scratch.path(), "-b size=1024") else { return };
    forge.plant_leafless(1, (1 << 17) + 1);
    assert_kept(&*forge.disk(), reason::KEPT_LIMIT, "more leaves than the limit");
    // At the limit the leaves are looked for.
    forge.plant_leafless(1, 1 << 17);
    assert_kept(&*forge.disk(), reason::KEPT_GEOMETRY, "no leaves");
}
