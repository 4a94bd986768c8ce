//! Each condition of the gains, broken once.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use imageops_image::disk::Disk;
use imageops_image::reason;

use super::made::{KINDS, make, number, peer_journal, tree_blocks};
use super::{BOTH, JOURNALS, TABLES, extra_ranges, refusals, scan_with};
use crate::peers::{images, open, run_ok, text};
use crate::proofs::{Patched, free_ranges, outside, total};

const TOOLS: [&str; 3] = ["mke2fs", "dumpe2fs", "debugfs"];

fn made(name: &str, scratch: &Path) -> Option<std::path::PathBuf> {
    make(KINDS.iter().find(|kind| kind.name == name).unwrap(), scratch)
}

fn patched(base: &Arc<dyn Disk>, place: u64, bytes: &[u8]) -> Patched {
    Patched { base: Arc::clone(base), bytes: (place..).zip(bytes.iter().copied()).collect(), size: None }
}

#[track_caller]
fn assert_refused(disk: &dyn Disk, reason: &str, what: &str) {
    let layout = scan_with(disk, BOTH);
    assert!(refusals(&layout).iter().any(|found| found == reason), "{what}: {:?}", refusals(&layout));
    let journals = scan_with(disk, JOURNALS);
    assert!(extra_ranges(&journals).is_empty(), "{what}");
    // Free space is free all the same.
    assert!(total(&free_ranges(disk, &layout)) > 0, "{what}");
}

#[test]
fn an_odd_journal_is_kept_with_the_reason() {
    let Some(_) = images("an_odd_journal_is_kept_with_the_reason", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    // No checksums, so that each field can be set by itself.
    let Some(source) = made("ext3-1k", scratch.path()) else { return };
    let disk = open(&source).disk;
    let stat = run_ok("debugfs", &["-R", "stat <8>", text(&source)]);
    let head = run_ok("debugfs", &["-R", "bmap <8> 0", text(&source)]);
    let head = head.split_whitespace().last().unwrap().parse::<u64>().unwrap() * 1024;
    let superblock = 1024;
    let indirect = tree_blocks(&stat)[0] * 1024;
    let mut block = [0; 4];
    disk.read_at(&mut block, indirect + 40).unwrap();
    let fields: [(u64, &[u8], &str, &str); 19] = [
        (head, &[0], reason::KEPT_JOURNAL, "magic"),
        (head + 7, &[1], reason::KEPT_JOURNAL, "kind"),
        (head + 14, &[16], reason::KEPT_JOURNAL, "block size"),
        (head + 17, &[1], reason::KEPT_JOURNAL, "length"),
        (head + 23, &[2], reason::KEPT_JOURNAL, "first block"),
        (head + 31, &[9], reason::KEPT_JOURNAL, "something to replay"),
        (head + 35, &[5], reason::KEPT_JOURNAL, "error"),
        (head + 39, &[2], reason::KEPT_UNKNOWN_FEATURE, "compatible feature"),
        (head + 43, &[64], reason::KEPT_UNKNOWN_FEATURE, "incompatible feature"),
        (head + 47, &[1], reason::KEPT_UNKNOWN_FEATURE, "read-only feature"),
        (head + 43, &[8], reason::KEPT_CHECKSUM, "checksums"),
        (head + 43, &[24], reason::KEPT_UNKNOWN_FEATURE, "two checksums"),
        (head + 67, &[2], reason::KEPT_JOURNAL, "users"),
        (head + 84, &[1], reason::KEPT_JOURNAL, "fast commits"),
        (superblock + 208, &[1], reason::KEPT_JOURNAL, "external"),
        (superblock + 224, &[9], reason::KEPT_JOURNAL, "another inode"),
        (superblock + 268, &[1, 1], reason::KEPT_JOURNAL, "copy"),
        (indirect + 44, &block, reason::KEPT_JOURNAL, "twice"),
        (indirect + 44, &[0; 4], reason::KEPT_JOURNAL, "hole"),
    ];
    assert!(!extra_ranges(&scan_with(&*disk, JOURNALS)).is_empty());
    for (place, bytes, reason, what) in fields {
        assert_refused(&patched(&disk, place, bytes), reason, what);
    }
}

#[test]
fn a_journal_elsewhere_is_no_gain() {
    let Some(_) = images("a_journal_elsewhere_is_no_gain", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (source, journal) = (scratch.path().join("fs.raw"), scratch.path().join("journal.raw"));
    run_ok("mke2fs", &["-q", "-F", "-O", "journal_dev", "-b", "4096", text(&journal), "16M"]);
    let dump = run_ok("dumpe2fs", &["-h", text(&journal)]);
    let uuid = dump.lines().find_map(|line| line.strip_prefix("Filesystem UUID:")).unwrap().trim();
    run_ok("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal", text(&source), "64M"]);
    // A device is asked for when it is made; the superblock alone says which one it is afterwards.
    for request in ["feature has_journal", "ssv journal_inum 0", &format!("ssv journal_uuid {uuid}")] {
        run_ok("debugfs", &["-w", "-R", request, text(&source)]);
    }
    let layout = scan_with(&*open(&source).disk, JOURNALS);
    assert_eq!(refusals(&layout), [reason::KEPT_JOURNAL]);
    assert!(extra_ranges(&layout).is_empty());
    // The journal itself is no file system.
    assert_eq!(scan_with(&*open(&journal).disk, BOTH).parts()[0].summary().extra, None);
}

#[test]
fn a_journal_on_free_blocks_is_kept() {
    let Some(_) = images("a_journal_on_free_blocks_is_kept", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for name in ["ext3-1k", "ext4-4k"] {
        let Some(source) = made(name, scratch.path()) else { return };
        let block = number(&run_ok("dumpe2fs", &["-h", text(&source)]), "Block size").unwrap();
        let body: Vec<Range<u64>> = peer_journal(&source);
        let request = format!("freeb {}", (body[0].start + body[0].end) / 2 / block);
        run_ok("debugfs", &["-w", "-R", &request, text(&source)]);
        let layout = scan_with(&*open(&source).disk, JOURNALS);
        assert_eq!(refusals(&layout), [reason::KEPT_JOURNAL], "{name}");
        assert!(extra_ranges(&layout).is_empty(), "{name}");
    }
}

#[test]
fn a_journal_that_waits_for_replay_keeps_all() {
    let Some(_) = images("a_journal_that_waits_for_replay_keeps_all", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let Some(source) = made("ext4-4k", scratch.path()) else { return };
    run_ok("debugfs", &["-w", "-R", "feature needs_recovery", text(&source)]);
    let disk = open(&source).disk;
    let layout = scan_with(&*disk, BOTH);
    assert_eq!(layout.parts()[0].summary().extra, None);
    assert!(free_ranges(&*disk, &layout).is_empty());
}

/// A count of unused inodes that is too high, with a checksum that holds.
#[test]
fn a_stale_count_of_unused_inodes_keeps_the_table() {
    let Some(_) = images("a_stale_count_of_unused_inodes_keeps_the_table", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for name in ["ext4-4k", "ext4-uninit"] {
        let Some(source) = made(name, scratch.path()) else { return };
        let before = extra_ranges(&scan_with(&*open(&source).disk, TABLES));
        let per_group = number(&run_ok("dumpe2fs", &["-h", text(&source)]), "Inodes per group").unwrap();
        for unused in [per_group - 12, per_group, per_group + 1] {
            for request in [format!("set_bg 0 itable_unused {unused}"), "set_bg 0 checksum calc".to_owned()] {
                run_ok("debugfs", &["-w", "-R", &request, text(&source)]);
            }
            let disk = open(&source).disk;
            let layout = scan_with(&*disk, TABLES);
            assert_eq!(refusals(&layout), [reason::KEPT_INODE_TABLE], "{name}: {unused}");
            let kept = &layout.parts()[0].summary().extra.as_ref().unwrap().kept[0];
            assert_eq!(kept.groups, 1, "{name}");
            let after = extra_ranges(&layout);
            assert_eq!(outside(&after, &before), 0, "{name}");
            assert!(total(&after) < total(&before), "{name}");
        }
    }
}

#[test]
fn nothing_is_dropped_beside_free_space_unless_asked() {
    let Some(_) = images("nothing_is_dropped_beside_free_space_unless_asked", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let Some(source) = made("ext4-4k", scratch.path()) else { return };
    let disk = open(&source).disk;
    let layout = scan_with(&*disk, Default::default());
    assert_eq!(layout.parts()[0].summary().extra, None);
    assert!(extra_ranges(&layout).is_empty());
}
