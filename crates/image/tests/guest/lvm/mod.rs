//! LVM2, against `pvck` and, for what is in the volumes, the tools of e2fsprogs.

mod damage;
mod peer;
mod pv;
mod rules;
mod volumes;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use imageops_image::compress::CompressOptions;
use imageops_image::guest::{Layout, VolumeSummary};

use self::peer::{Group, dump};
use self::pv::{EXTENT_BYTES, MIB, SEEN, striped, volume};
use crate::ext;
use crate::peers::{compress_file, images, open, run_ok, text};
use crate::proofs::{extract, free_ranges, outside, reasons, scan, total};

/// The volumes of the only physical volume.
pub(crate) fn volumes(layout: &Layout) -> &[VolumeSummary] {
    let mut parts = layout.parts().iter().filter(|part| part.summary().content == "lvm2");
    &parts.next().unwrap().summary().volumes
}

/// Each volume's name in its group, and why it was kept.
fn volume_reasons(layout: &Layout) -> Vec<(String, String)> {
    let name = |volume: &VolumeSummary| volume.name.split_once('/').unwrap().1.to_owned();
    let why =
        |volume: &VolumeSummary| volume.kept.first().map(|kept| kept.reason.clone()).unwrap_or_default();
    volumes(layout).iter().map(|volume| (name(volume), why(volume))).collect()
}

/// A file system with some files, its free blocks full of junk.
fn file_system(scratch: &Path, name: &str, bytes: u64, options: &[&str]) -> PathBuf {
    let tree = scratch.join("tree");
    if !tree.exists() {
        std::fs::create_dir_all(tree.join("directory")).unwrap();
        for number in 0..20_usize {
            let content: Vec<u8> = (0..number * 15_000).map(|place| (place * number % 253) as u8).collect();
            let place = if number % 2 == 0 { "directory/" } else { "" };
            std::fs::write(tree.join(format!("{place}file{number}")), content).unwrap();
        }
    }
    let path = scratch.join(name);
    pv::create(&path, bytes);
    let mut arguments = vec!["-q", "-F", "-E", "nodiscard,lazy_itable_init=1", "-L", name, "-d", text(&tree)];
    arguments.extend(options);
    arguments.push(text(&path));
    run_ok("mke2fs", &arguments);
    path
}

/// A physical volume with volumes in pieces, over stripes, and over both; nothing in it is a hole.
fn scattered(scratch: &Path) -> PathBuf {
    let path = scratch.join("scattered.raw");
    let file = pv::create(&path, 95 * MIB);
    let pv = pv::whole_file(&file, "pv0", 94);
    let one = |start, count, extent| striped(start, count, &[("pv0", extent)], 0);
    let columns = [("pv0", 60), ("pv0", 70), ("pv0", 80)];
    let volumes = [
        volume("root", SEEN, &[one(16, 24, 20), one(0, 10, 50), one(10, 5, 3), one(15, 1, 93)]),
        volume("data", SEEN, &[striped(0, 24, &columns, 128)]),
        volume("home", SEEN, &[one(0, 4, 8), striped(4, 6, &[("pv0", 12), ("pv0", 44)], 8)]),
    ];
    pv.write(&pv::group(7, &[("pv0", 94)], &volumes.concat()));
    let group = dump(&path);
    let contents: [(&str, u64, &[&str]); 3] = [
        ("root", 40, &["-t", "ext4"]),
        ("data", 24, &["-t", "ext4", "-b", "1024"]),
        ("home", 10, &["-t", "ext2", "-b", "1024"]),
    ];
    for (name, extents, options) in contents {
        let content = file_system(scratch, name, extents * EXTENT_BYTES, options);
        group.copy(name, &file, &File::open(content).unwrap(), true);
    }
    path
}

/// The physical volume of the test guest as a file of its own.
fn guest(directory: &Path, scratch: &Path) -> PathBuf {
    let image = open(&directory.join("debian-lvm.qcow2"));
    let layout = scan(&*image.disk);
    let part = layout.parts().iter().find(|part| part.summary().content == "lvm2").unwrap().summary();
    let target = scratch.join("guest.raw");
    extract(&*image.disk, part.start_bytes..part.start_bytes + part.length_bytes, &target);
    target
}

/// A volume as a file of its own.
fn copied(group: &Group, device: &Path, name: &str, target: &Path) {
    let (device, target) = (File::open(device).unwrap(), File::create(target).unwrap());
    group.copy(name, &device, &target, false);
}

/// Free extents by `pvck`, and free blocks of the volumes `names` by dumpe2fs.
fn peer_free(device: &Path, names: &[&str], scratch: &Path) -> Vec<Range<u64>> {
    let group = dump(device);
    let mut free = group.free();
    for name in names {
        let target = scratch.join(format!("{name}.volume"));
        copied(&group, device, name, &target);
        free.extend(group.on_device(name, &ext::peer_free(&target)));
    }
    free.sort_unstable_by_key(|range| range.start);
    free
}

#[test]
fn lvm_drops_what_its_tools_call_free_and_loses_no_file() {
    let test = "lvm_drops_what_its_tools_call_free_and_loses_no_file";
    let tools = ["qemu-img", "pvck", "mke2fs", "dumpe2fs", "e2fsck"];
    let Some(directory) = images(test, &tools) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let sources = [
        (scattered(scratch.path()), vec!["root", "data", "home"]),
        (guest(&directory, scratch.path()), vec!["root"]),
    ];
    for (source, names) in sources {
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{}", source.display());
        let summary = layout.parts()[0].summary();
        let found: Vec<_> =
            summary.volumes.iter().filter(|volume| volume.content.starts_with("ext")).collect();
        assert_eq!(found.len(), names.len(), "{found:?}");
        assert!(found.iter().all(|volume| volume.free_bytes > 0 && volume.kept.is_empty()), "{found:?}");
        let theirs = peer_free(&source, &names, scratch.path());
        // Other contents of the test guest may have readers of their own; they have their own tests.
        let group = dump(&source);
        let others = group.volumes.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        let others: Vec<_> = others
            .flat_map(|(name, _)| group.on_device(name, std::slice::from_ref(&(0..u64::MAX))))
            .collect();
        let ours = free_ranges(&*image.disk, &layout);
        assert_eq!(total(&ours), summary.free_bytes);
        let of_others = total(&ours) - outside(&ours, &others);
        assert_eq!(outside(&ours, &theirs), of_others, "{}: a used byte would be dropped", source.display());
        assert!((total(&ours) - of_others) * 100 >= total(&theirs) * 98, "{}", source.display());

        let (packed, raw) = (scratch.path().join("out.qcow2"), scratch.path().join("out.raw"));
        let report = compress_file(&source, &packed, &CompressOptions::default()).unwrap();
        let part = &report.parts[0];
        assert_eq!(report.dropped_bytes, part.dropped_bytes);
        let of_volumes: u64 = part.volumes.iter().map(|volume| volume.dropped_bytes).sum();
        assert!(part.dropped_bytes >= of_volumes && of_volumes > 0, "{part:?}");
        run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
        assert_eq!(
            run_ok("pvck", &["--nolocking", "--dump", "headers", text(&raw)]).matches("WARNING").count(),
            0
        );
        for name in names {
            let (before, after) = (scratch.path().join("before"), scratch.path().join("after"));
            copied(&group, &source, name, &before);
            copied(&group, &raw, name, &after);
            run_ok("e2fsck", &["-fn", text(&after)]);
            let files = ext::tree(&before).unwrap();
            assert!(files.len() > 10 && Some(files) == ext::tree(&after), "{name}: files differ");
        }
    }
}

#[test]
fn the_report_names_each_volume_with_what_was_dropped() {
    let test = "the_report_names_each_volume_with_what_was_dropped";
    let Some(_) = images(test, &["pvck", "mke2fs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scattered(scratch.path());
    let report =
        compress_file(&source, &scratch.path().join("out.qcow2"), &CompressOptions::default()).unwrap();
    let part = &report.parts[0];
    assert_eq!((part.part.label.as_deref(), part.part.volumes.len()), (Some("vg"), 0));
    let names: Vec<_> = part.volumes.iter().map(|volume| volume.volume.name.as_str()).collect();
    assert_eq!(names, ["vg/root", "vg/data", "vg/home"]);
    let labels: Vec<_> = part.volumes.iter().map(|volume| volume.volume.label.as_deref()).collect();
    assert_eq!(labels, [Some("root"), Some("data"), Some("home")]);
    for volume in &part.volumes {
        // Everything is stored, so all that is free is dropped.
        assert_eq!(volume.dropped_bytes, volume.volume.free_bytes, "{volume:?}");
        assert!(volume.volume.free_bytes < volume.volume.length_bytes);
    }
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<imageops_image::compress::CompressReport>(&text).unwrap(), report);
}
