//! XFS, against xfsprogs and the reader of a boot loader.

mod damage;
mod forge;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use imageops_image::compress::CompressOptions;
use imageops_image::disk::Disk;

use self::forge::Forge;
use crate::peers::{compress_file, images, open, run, run_ok, text};
use crate::proofs::{extract, free_ranges, outside, reasons, scan, total};

const TOOLS: [&str; 5] = ["qemu-img", "mkfs.xfs", "xfs_db", "xfs_repair", "grub-fstest"];

/// What the file system's own tool says is free. The blocks of the free lists are among it.
fn peer_free(file_system: &Path) -> Vec<Range<u64>> {
    let sizes = run_ok("xfs_db", &["-r", "-c", "sb 0", "-c", "p blocksize agblocks", text(file_system)]);
    let number = |name: &str| {
        let line = sizes.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches([' ', '=']).parse::<u64>().unwrap()
    };
    let (block, group_blocks) = (number("blocksize"), number("agblocks"));
    let extents = run_ok("xfs_db", &["-r", "-c", "freesp -d", text(file_system)]);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    // Group, block, length; a histogram of five columns follows.
    for line in extents.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [group, start, length] = fields[..]
            && let (Ok(group), Ok(start), Ok(length)) =
                (group.parse::<u64>(), start.parse::<u64>(), length.parse::<u64>())
        {
            let start = (group * group_blocks + start) * block;
            ranges.push(start..start + length * block);
        }
    }
    ranges.sort_unstable_by_key(|range| range.start);
    ranges
}

/// Makes a file system on `target`, which keeps what it held where mkfs does not write; `false` when these tools do
/// not know such a one.
fn make(target: &Path, size: u64, arguments: &str) -> bool {
    File::options().write(true).create(true).truncate(false).open(target).unwrap().set_len(size).unwrap();
    // Tools of today make small ones for their own tests only.
    let mut command = Command::new("mkfs.xfs");
    command.env("TEST_DIR", "-").env("TEST_DEV", "-").env("QA_CHECK_FS", "-");
    let output =
        command.args(["-q", "-f", "-K"]).args(arguments.split_whitespace()).arg(target).output().unwrap();
    if !output.status.success() {
        eprintln!(
            "mkfs.xfs does not make {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()
        );
    }
    output.status.success()
}

/// The same with some files in it, on a device full of old content.
fn make_with_files(target: &Path, size: u64, arguments: &str, scratch: &Path) -> bool {
    std::fs::write(target, vec![0xa5; size as usize]).unwrap();
    let mut tree = String::from("/dev/null\n0 0\nd--755 0 0\n");
    for directory in 0..4_usize {
        tree += &format!("d{directory} d--755 0 0\n");
        for file in 0..12_usize {
            let content = scratch.join(format!("content-{directory}-{file}"));
            let length = 1 + (directory * 12 + file).pow(3);
            std::fs::write(&content, vec![b'a' + file as u8; length]).unwrap();
            tree += &format!("f{file} ---644 0 0 {}\n", text(&content));
        }
        tree += "$\n";
    }
    let prototype = scratch.join("prototype");
    std::fs::write(&prototype, tree + "$\n").unwrap();
    make(target, size, &format!("{arguments} -p {}", text(&prototype)))
}

/// Every path with its kind, and every file with its checksum, by a reader that shares no code with xfsprogs.
fn tree(file_system: &Path) -> Vec<(String, Vec<u8>)> {
    let ask = |command: &str, path: &str| {
        run("grub-fstest", &[text(file_system), command, &format!("(loop0){path}")]).stdout
    };
    let mut files = Vec::new();
    let mut pending = vec!["/".to_owned()];
    while let Some(directory) = pending.pop() {
        let list = ask("ls", &directory);
        for name in String::from_utf8(list).unwrap().split_whitespace() {
            let path = format!("{directory}{name}");
            if name.ends_with('/') {
                pending.push(path);
            } else {
                let checksum = ask("crc", &path);
                files.push((path, checksum));
            }
        }
    }
    files.sort();
    files
}

/// Whether `after` is `before` with zeros in `free` and nowhere else.
fn differs_only_in(before: &dyn Disk, after: &dyn Disk, free: &[Range<u64>]) -> bool {
    let mut buffers = [vec![0; 1 << 20], vec![0; 1 << 20]];
    let size = before.virtual_size_bytes();
    (0..size).step_by(1 << 20).all(|place| {
        let length = (size - place).min(1 << 20);
        let [left, right] = &mut buffers;
        let (left, right) = (&mut left[..length as usize], &mut right[..length as usize]);
        before.read_at(left, place).unwrap();
        after.read_at(right, place).unwrap();
        let first = free.partition_point(|range| range.end <= place);
        for range in free[first..].iter().take_while(|range| range.start < place + length) {
            let inside = range.start.max(place) - place..range.end.min(place + length) - place;
            left[inside.start as usize..inside.end as usize].fill(0);
        }
        left == right
    })
}

/// Sound file systems with files in them.
fn sound(directory: &Path, scratch: &Path) -> Vec<PathBuf> {
    let image = open(&directory.join("debian-xfs.qcow2"));
    let layout = scan(&*image.disk);
    let part = layout.parts().iter().find(|part| part.summary().content == "xfs").unwrap().summary();
    let debian = scratch.join("debian.raw");
    extract(&*image.disk, part.start_bytes..part.start_bytes + part.length_bytes, &debian);
    let mut all = vec![debian];
    let kinds = [
        ("v5", 64, "-L data"),
        ("v4", 64, "-m crc=0 -l lazy-count=0 -b size=512"),
        ("v4-lazy", 64, "-m crc=0"),
        ("reverse-map", 64, "-m rmapbt=1,bigtime=0 -b size=1024 -d agcount=3"),
    ];
    for (name, megabytes, arguments) in kinds {
        let target = scratch.join(format!("{name}.raw"));
        if make_with_files(&target, megabytes << 20, arguments, scratch) {
            all.push(target);
        }
    }
    assert!(all.len() >= 4, "the tools of today make all of these");
    all
}

#[test]
fn xfs_drops_what_xfs_db_calls_free_and_loses_no_file() {
    let test = "xfs_drops_what_xfs_db_calls_free_and_loses_no_file";
    let Some(directory) = images(test, &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for source in sound(&directory, scratch.path()) {
        let name = source.display();
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{name}");
        let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(&source));
        assert_eq!(total(&ours), layout.parts()[0].summary().free_bytes, "{name}");
        assert_eq!(outside(&ours, &theirs), 0, "{name}: a used block would be dropped");
        assert!(total(&ours) * 100 >= total(&theirs) * 98, "{name}");

        let (packed, raw) = (scratch.path().join("out.qcow2"), scratch.path().join("out.raw"));
        compress_file(&source, &packed, &CompressOptions::default()).unwrap();
        run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
        run_ok("xfs_repair", &["-n", text(&raw)]);
        assert!(differs_only_in(&*image.disk, &*open(&raw).disk, &ours), "{name}");
        let before = tree(&source);
        let read = before.iter().filter(|(_, checksum)| !checksum.is_empty()).count();
        assert!(read >= 48 && read + 2 >= before.len(), "{name}: {read} of {} files", before.len());
        assert!(before == tree(&raw), "{name}: files differ");
    }
}

/// File systems that the set does not have: every place where groups, logs and sizes differ.
#[test]
fn unusual_geometries_agree_with_xfs_db() {
    let Some(_) = images("unusual_geometries_agree_with_xfs_db", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let kinds = [
        (64 << 20, "-b size=1024"),
        (64 << 20, "-b size=2048 -m reflink=0 -i sparse=0"),
        (300 << 20, "-b size=8192"),
        (1 << 30, "-b size=65536"),
        (1 << 30, "-b size=32768 -s size=32768"),
        (64 << 20, "-s size=4096"),
        (64 << 20, "-m crc=0 -b size=512 -l version=1"),
        (64 << 20, "-m crc=0 -s size=4096 -l su=64k"),
        (64 << 20, "-m crc=0 -d agcount=1"),
        (64 << 20, "-d agcount=1"),
        (300 << 20, "-d agcount=16"),
        (600 << 20, "-d agcount=33"),
        (200 << 20, "-l su=256k"),
        (64 << 20, "-l agnum=0"),
        (64 << 20, "-m rmapbt=1,reflink=0,finobt=0,bigtime=0,inobtcount=0"),
        (64 << 20, "-i nrext64=1 -n version=ci -L label1234567"),
        (401_234_567, "-l size=10m"),
        (1 << 40, ""),
    ];
    let mut made = 0;
    for (size, kind) in kinds {
        let source = scratch.path().join("fs.raw");
        let _ = std::fs::remove_file(&source);
        if !make(&source, size, kind) {
            // Tools of tomorrow no longer make version 4.
            continue;
        }
        made += 1;
        let image = open(&source);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{kind:?}");
        let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(&source));
        assert_eq!(outside(&ours, &theirs), 0, "{kind:?}");
        assert!(total(&ours) * 1000 >= total(&theirs) * 995, "{kind:?}");
    }
    assert!(made >= 12, "{made} kinds were made");
}

/// Trees of several levels, as years of use make them.
#[test]
fn fragmented_groups_agree_with_xfs_db() {
    let Some(_) = images("fragmented_groups_agree_with_xfs_db", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    for (kind, count, levels) in
        [("-m crc=0 -b size=512", 1500, 3), ("-b size=1024", 80, 1), ("-b size=1024", 5000, 3), ("", 1000, 2)]
    {
        let _ = std::fs::remove_file(&source);
        if !make(&source, 64 << 20, kind) {
            continue;
        }
        let mut forge = Forge::load(&source);
        forge.fragment(1, count);
        assert_eq!(forge.word(forge.place(1, forge::Part::Header).start + 28), levels, "{kind:?}");
        std::fs::write(&source, &forge.bytes).unwrap();
        let disk = forge.disk();
        let layout = scan(&*disk);
        assert_eq!(reasons(&layout), Vec::<String>::new(), "{kind:?} {count}");
        let (ours, theirs) = (free_ranges(&*disk, &layout), peer_free(&source));
        assert_eq!(outside(&ours, &theirs), 0, "{kind:?} {count}");
        assert!(total(&ours) * 1000 >= total(&theirs) * 995, "{kind:?} {count}");
        assert!(ours.len() > count as usize / 2, "{kind:?} {count}");
    }
}
