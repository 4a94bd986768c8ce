//! The proofs that every file system passes, with the gains on.

use std::fs::File;
use std::path::Path;

use imageops_image::Control;
use imageops_image::compress::{CompressOptions, dry_run};
use imageops_image::in_place::punch_file_with;
use imageops_image::map::DiskMap;

use super::made::{KINDS, Kind, make, number, peer_all, peer_journal, peer_tables, soil};
use super::{BOTH, JOURNALS, TABLES, extra_ranges, refusals, scan_with};
use crate::ext::tree;
use crate::peers::{compress_file, images, open, run_ok, text};
use crate::proofs::{free_ranges, outside, reasons, scan, total};

#[test]
fn the_gains_are_what_the_tools_call_unused_and_lose_no_file() {
    let test = "the_gains_are_what_the_tools_call_unused_and_lose_no_file";
    let Some(_) = images(test, &["mke2fs", "dumpe2fs", "debugfs", "e2fsck", "qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut made = 0;
    for kind in &KINDS {
        let Some(source) = make(kind, scratch.path()) else { continue };
        made += 1;
        prove(kind, &source, scratch.path());
        std::fs::remove_file(&source).unwrap();
    }
    assert!(made >= 12, "{made} file systems were made");
}

fn prove(kind: &Kind, source: &Path, scratch: &Path) {
    let name = kind.name;
    let block = number(&run_ok("dumpe2fs", &["-h", text(source)]), "Block size").unwrap();
    let (journal, tables) =
        (if kind.journal { peer_journal(source) } else { Vec::new() }, peer_tables(source));
    soil(source, &journal);
    soil(source, &tables);
    run_ok("e2fsck", &["-fn", text(source)]);

    let image = open(source);
    let layout = scan_with(&*image.disk, JOURNALS);
    let ours = extra_ranges(&layout);
    assert_eq!(outside(&ours, &journal), 0, "{name}: journal");
    if kind.journal {
        assert_eq!(refusals(&layout), Vec::<String>::new(), "{name}");
        // The area of fast commits is kept.
        let kept =
            number(&run_ok("dumpe2fs", &["-h", text(source)]), "Fast commit length").unwrap_or(0) * block;
        assert_eq!(kept > 0, name.contains("fast"), "{name}");
        assert_eq!(total(&ours) + kept, total(&journal), "{name}");
    }
    let layout = scan_with(&*image.disk, TABLES);
    let ours = extra_ranges(&layout);
    assert_eq!((outside(&ours, &tables), outside(&tables, &ours)), (0, 0), "{name}: tables");
    assert_eq!((total(&ours) > 0, refusals(&layout).is_empty()), (kind.tables, kind.tables), "{name}");

    let layout = scan_with(&*image.disk, BOTH);
    assert_eq!(reasons(&layout), Vec::<String>::new(), "{name}");
    let all = free_ranges(&*image.disk, &layout);
    assert_eq!(outside(&all, &peer_all(source, kind.journal)), 0, "{name}: all");
    let free = free_ranges(&*image.disk, &scan(&*image.disk));
    assert_eq!(total(&all), total(&free) + total(&extra_ranges(&layout)), "{name}");

    let options = CompressOptions { extra: BOTH, ..Default::default() };
    let (packed, raw) = (scratch.join("out.qcow2"), scratch.join("out.raw"));
    let report = compress_file(source, &packed, &options).unwrap();
    let gained = total(&extra_ranges(&layout));
    assert_eq!((report.extra_dropped_bytes, report.parts[0].extra_dropped_bytes), (gained, gained), "{name}");
    let told = dry_run(&image, &options, &Control::default()).unwrap().estimate;
    assert_eq!((told.extra_dropped_bytes, &told.parts), (gained, &report.parts), "{name}");
    run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
    run_ok("e2fsck", &["-fn", text(&raw)]);
    let after = open(&raw);
    let mut buffer = vec![0; 1 << 20];
    for range in extra_ranges(&layout) {
        for place in range.clone().step_by(buffer.len()) {
            let piece = &mut buffer[..((range.end - place) as usize).min(1 << 20)];
            after.disk.read_at(piece, place).unwrap();
            assert!(piece.iter().all(|byte| *byte == 0), "{name}: byte {place}");
        }
    }
    if name == "ext4-4k" {
        prove_in_place(source, scratch, report.dropped_bytes, gained);
    }
    let before = tree(source);
    assert!(before.as_ref().is_some_and(|files| files.len() > 40) && before == tree(&raw), "{name}");
    let (left, right) = (scratch.join("left"), scratch.join("right"));
    for (file_system, target) in [(source, &left), (&raw, &right)] {
        std::fs::create_dir(target).unwrap();
        run_ok("debugfs", &["-R", &format!("rdump / {}", text(target)), text(file_system)]);
    }
    run_ok("diff", &["-r", text(&left), text(&right)]);
    std::fs::remove_dir_all(&left).unwrap();
    std::fs::remove_dir_all(&right).unwrap();
    std::fs::remove_file(&raw).unwrap();
}

/// The same figures of a map, and of a change in place.
fn prove_in_place(source: &Path, scratch: &Path, dropped: u64, gained: u64) {
    let image = open(source);
    let map = DiskMap::open_with(&image, BOTH, &Control::default()).unwrap();
    let summary = map.walk(&Control::default(), |_| Ok::<_, imageops_image::Error>(())).unwrap();
    assert_eq!((summary.totals.dropped_bytes, summary.extra_dropped_bytes), (dropped, gained));
    assert_eq!(summary.parts[0].report.extra_dropped_bytes, gained);

    let copy = scratch.join("in-place.raw");
    std::fs::copy(source, &copy).unwrap();
    let file = File::options().read(true).write(true).open(&copy).unwrap();
    let report = punch_file_with(file, None, BOTH, &Control::default()).unwrap();
    assert_eq!((report.extra_dropped_bytes, report.parts[0].extra_dropped_bytes), (gained, gained));
    run_ok("e2fsck", &["-fn", text(&copy)]);
    assert!(tree(source) == tree(&copy));
    std::fs::remove_file(&copy).unwrap();
}
