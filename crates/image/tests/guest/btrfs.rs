//! Btrfs, against the tools of btrfs-progs.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imageops_image::compress::CompressOptions;
use imageops_image::disk::Disk;
use imageops_image::reason;

use crate::peers::{compress_file, images, open, run, run_ok, text};
use crate::proofs::{Numbers, Patched, extract, flipped, free_ranges, outside, reasons, scan, total};

const TOOLS: [&str; 3] = ["qemu-img", "btrfs", "mkfs.btrfs"];
const SUPERBLOCK: u64 = 65_536;
const MIB: u64 = 1 << 20;

fn dump(file_system: &Path, tree: &str) -> String {
    run_ok("btrfs", &["inspect-internal", "dump-tree", "-t", tree, text(file_system)])
}

/// The number behind `name` in a line of words.
fn number(line: &str, name: &str) -> u64 {
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    words.nth(1).unwrap().trim_end_matches(')').parse().unwrap()
}

/// Key and further lines of each item of a dumped tree.
fn items<'a>(dump: &'a str, kind: &str) -> Vec<(u64, u64, Vec<&'a str>)> {
    let mut items: Vec<(u64, u64, Vec<&str>)> = Vec::new();
    let mut inside = false;
    for line in dump.lines() {
        if let Some((_, key)) = line.split_once(" key (").filter(|(head, _)| head.starts_with("\titem ")) {
            let words: Vec<&str> = key.split(')').next().unwrap().split(' ').collect();
            inside = words[1] == kind;
            if inside {
                items.push((words[0].parse().unwrap_or_default(), words[2].parse().unwrap(), Vec::new()));
            }
        } else if inside {
            items.last_mut().unwrap().2.push(line);
        }
    }
    items
}

/// A chunk: logical addresses and the start of each copy.
type Chunk = (Range<u64>, Vec<u64>);

fn chunks(file_system: &Path) -> Vec<Chunk> {
    let dump = dump(file_system, "chunk");
    let parse = |(_, logical, lines): (u64, u64, Vec<&str>)| {
        let copies = lines.iter().filter(|line| line.contains("\tstripe "));
        let copies = copies.map(|line| number(line, "offset")).collect();
        (logical..logical + number(lines[0], "length"), copies)
    };
    items(&dump, "CHUNK_ITEM").into_iter().map(parse).collect()
}

/// Takes `taken` out of `from`, the slow way.
fn without(from: &[Range<u64>], taken: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut rest = from.to_vec();
    for hole in taken {
        let cut = |range: Range<u64>| {
            [range.start..range.end.min(hole.start), range.start.max(hole.end)..range.end]
                .into_iter()
                .filter(|piece| piece.start < piece.end)
        };
        rest = rest.into_iter().flat_map(cut).collect();
    }
    rest
}

/// What the file system's own tool says is free.
fn peer_free(file_system: &Path) -> Vec<Range<u64>> {
    let superblock = run_ok("btrfs", &["inspect-internal", "dump-super", text(file_system)]);
    let field = |name: &str| number(superblock.lines().find(|line| line.starts_with(name)).unwrap(), name);
    let device = dump(file_system, "dev");
    let taken: Vec<Range<u64>> = items(&device, "DEV_EXTENT")
        .into_iter()
        .map(|(_, place, lines)| place..place + number(lines[1], "length"))
        .collect();
    let mut free = without(std::slice::from_ref(&(MIB..field("dev_item.total_bytes"))), &taken);
    let extents = dump(file_system, "extent");
    let mut used: Vec<Range<u64>> = Vec::new();
    used.extend(items(&extents, "EXTENT_ITEM").iter().map(|(start, length, _)| *start..start + length));
    let node = field("nodesize");
    used.extend(items(&extents, "METADATA_ITEM").iter().map(|(start, ..)| *start..start + node));
    used.sort_unstable_by_key(|range| range.start);
    for (logical, copies) in chunks(file_system) {
        let (mut place, mut inside) = (logical.start, Vec::new());
        for extent in used.iter().filter(|extent| logical.contains(&extent.start)) {
            inside.push(place..extent.start);
            place = extent.end;
        }
        inside.push(place..logical.end);
        let inside: Vec<_> = inside.into_iter().filter(|range| !range.is_empty()).collect();
        for copy in copies {
            let on_device = |address: u64| address - logical.start + copy;
            free.extend(inside.iter().map(|range| on_device(range.start)..on_device(range.end)));
        }
    }
    free.sort_unstable_by_key(|range| range.start);
    without(&free, &[64 * MIB..64 * MIB + 65_536, (256 << 30)..(256 << 30) + 65_536])
}

/// Every sound Btrfs of the set, as a file of its own.
fn sound(directory: &Path, scratch: &Path) -> Vec<PathBuf> {
    let image = open(&directory.join("debian-btrfs.qcow2"));
    let layout = scan(&*image.disk);
    let part = layout.parts().iter().find(|part| part.summary().content == "btrfs").unwrap().summary();
    let target = scratch.join("debian-btrfs.raw");
    extract(&*image.disk, part.start_bytes..part.start_bytes + part.length_bytes, &target);
    vec![directory.join("fs/btrfs-mixed.raw"), target]
}

/// Compresses, and compares what the tools see before and after: all trees as text, all files, all checksums.
fn compress_and_compare(source: &Path, scratch: &Path, restore: bool) {
    let (packed, raw) = (scratch.join("out.qcow2"), scratch.join("out.raw"));
    compress_file(source, &packed, &CompressOptions::default()).unwrap();
    run_ok("qemu-img", &["convert", "-O", "raw", text(&packed), text(&raw)]);
    run_ok("btrfs", &["check", "--readonly", "--check-data-csum", text(&raw)]);
    let trees = |file: &Path| run_ok("btrfs", &["inspect-internal", "dump-tree", text(file)]);
    assert!(trees(source) == trees(&raw), "{}: trees differ", source.display());
    if !restore {
        return;
    }
    let restored = |file: &Path, name: &str| {
        let target = scratch.join(name);
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir(&target).unwrap();
        run_ok("btrfs", &["restore", "-s", "-S", text(file), text(&target)]);
        target
    };
    let (before, after) = (restored(source, "before"), restored(&raw, "after"));
    assert!(std::fs::read_dir(&before).unwrap().count() > 0, "{}", source.display());
    run_ok("diff", &["-r", "--no-dereference", text(&before), text(&after)]);
}

fn assert_equal_to_peer(source: &Path) {
    let name = source.display();
    let image = open(source);
    let layout = scan(&*image.disk);
    let kept = &layout.parts()[0].summary().kept;
    assert!(kept.is_empty(), "{name}: {kept:?}");
    let (ours, theirs) = (free_ranges(&*image.disk, &layout), peer_free(source));
    assert_eq!(total(&ours), layout.parts()[0].summary().free_bytes, "{name}");
    assert_eq!(outside(&ours, &theirs), 0, "{name}: a used byte would be dropped");
    assert_eq!(outside(&theirs, &ours), 0, "{name}");
}

#[test]
fn btrfs_drops_what_its_tools_call_free_and_loses_no_file() {
    let test = "btrfs_drops_what_its_tools_call_free_and_loses_no_file";
    let Some(directory) = images(test, &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for source in sound(&directory, scratch.path()) {
        assert_equal_to_peer(&source);
        compress_and_compare(&source, scratch.path(), true);
    }
}

/// Files of all sizes: most too large to lie in the tree itself, so that the extent tree is deep.
fn plant(root: &Path, files: u64) {
    let mut numbers = Numbers(files);
    for file in 0..files {
        let directory = root.join(format!("{}", file % 20));
        std::fs::create_dir_all(&directory).unwrap();
        let length =
            if file.is_multiple_of(50) { numbers.below(200_000) } else { 2_100 + numbers.below(500) };
        let content: Vec<u8> = (0..length / 8).flat_map(|_| numbers.below(1 << 30).to_le_bytes()).collect();
        std::fs::write(directory.join(format!("{file}")), content).unwrap();
    }
}

/// File systems that the set does not have.
#[test]
fn unusual_geometries_agree_with_the_tools() {
    let Some(_) = images("unusual_geometries_agree_with_the_tools", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (few, many) = (scratch.path().join("few"), scratch.path().join("many"));
    plant(&few, 60);
    plant(&many, 7_000);
    let source = scratch.path().join("fs.raw");
    let kinds: [(&Path, &[&str], u64); 15] = [
        (&many, &["-n", "4096"], 300),
        (&few, &["-n", "65536"], 200),
        (&few, &["-s", "65536", "-n", "65536"], 300),
        (&few, &["-m", "single", "-d", "single"], 130),
        (&few, &["-m", "dup", "-d", "dup"], 600),
        (&few, &["--mixed", "-m", "dup", "-d", "dup"], 300),
        (&few, &["--mixed", "-n", "4096", "-m", "single", "-d", "single"], 70),
        (&few, &["--csum", "xxhash"], 200),
        (&few, &["--csum", "sha256"], 200),
        (&few, &["--csum", "blake2"], 200),
        (&few, &["-O", "^skinny-metadata,^extref,^no-holes"], 200),
        (&few, &["-n", "4096", "-O", "^skinny-metadata", "-R", "^free-space-tree"], 200),
        (&few, &["-R", "quota"], 200),
        (&few, &["-O", "block-group-tree"], 200),
        (&few, &["-L", "across the second copy"], 258 << 10),
    ];
    for (root, options, mib) in kinds {
        let _ = std::fs::remove_file(&source);
        std::fs::File::create(&source).unwrap().set_len(mib * MIB).unwrap();
        let mut arguments = vec!["-q", "-f", "-K", "--rootdir", text(root)];
        arguments.extend(options);
        arguments.push(text(&source));
        if !run("mkfs.btrfs", &arguments).status.success() {
            // Older tools do not know every feature; the peers of today do.
            eprintln!("mkfs.btrfs does not make {options:?}");
            continue;
        }
        if mib < 10_000 {
            assert_equal_to_peer(&source);
            // `btrfs restore` falls on sectors of 64 KiB, and takes long over many files: there the checksums of all
            // data stand for the files.
            let restore = root == few && !options.contains(&"-s");
            compress_and_compare(&source, scratch.path(), restore);
        } else {
            // Too large to go through by the MiB.
            let image = open(&source);
            let layout = scan(&*image.disk);
            let (mut ours, theirs) = (Vec::new(), peer_free(&source));
            layout.free_within(&*image.disk, 0..mib * MIB, &mut ours).unwrap();
            assert_eq!((outside(&ours, &theirs), outside(&theirs, &ours)), (0, 0));
            assert_eq!(layout.parts()[0].summary().label.as_deref(), Some("across the second copy"));
        }
    }
}

/// Places in a block and what to write there.
type Bytes = [(u64, u8)];

/// Base with `bytes` changed in the block at `place`, and, with `reseal`, a checksum that holds again.
fn changed(base: &Arc<dyn Disk>, place: u64, length: u64, bytes: &Bytes, reseal: bool) -> Patched {
    let mut block = vec![0; length as usize];
    base.read_at(&mut block, place).unwrap();
    for (offset, byte) in bytes {
        block[*offset as usize] = *byte;
    }
    let mut bytes: Vec<(u64, u8)> = bytes.iter().map(|(offset, byte)| (place + offset, *byte)).collect();
    if reseal {
        bytes.extend((place..).zip(crc32c::crc32c(&block[32..]).to_le_bytes()));
    }
    Patched { base: Arc::clone(base), bytes, size: None }
}

fn word(offset: u64, value: u64) -> Vec<(u64, u8)> {
    (offset..).zip(value.to_le_bytes()).collect()
}

/// Where the blocks of a tree lie on the device, all copies.
fn blocks(file_system: &Path, tree: &str) -> Vec<u64> {
    let chunks = chunks(file_system);
    let dump = dump(file_system, tree);
    let heads = dump.lines().filter(|line| {
        (line.starts_with("leaf ") && line.contains(" items "))
            || (line.starts_with("node ") && line.contains(" level "))
    });
    let places = |line: &str| {
        let logical: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
        let (range, copies) = chunks.iter().find(|(range, _)| range.contains(&logical)).unwrap();
        copies.iter().map(|copy| copy + (logical - range.start)).collect::<Vec<_>>()
    };
    heads.flat_map(places).collect()
}

const TREES: [&str; 5] = ["chunk", "root", "dev", "extent", "10"];

/// One bit, as a medium loses it, and one bit with a checksum that holds again, as if it had been written so.
#[test]
fn a_flipped_bit_never_drops_a_used_byte_of_btrfs() {
    let Some(directory) = images("a_flipped_bit_never_drops_a_used_byte_of_btrfs", &TOOLS) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (mut flips, mut noticed, mut noticed_resealed) = (0, 0, 0);
    for source in sound(&directory, scratch.path()) {
        let disk = open(&source).disk;
        let theirs = peer_free(&source);
        let superblock = run_ok("btrfs", &["inspect-internal", "dump-super", text(&source)]);
        let node = number(superblock.lines().find(|line| line.starts_with("nodesize")).unwrap(), "nodesize");
        let mut places = vec![vec![(SUPERBLOCK, 4096)]];
        for tree in TREES {
            places.push(blocks(&source, tree).into_iter().map(|place| (place, node)).collect());
        }
        let before = total(&free_ranges(&*disk, &scan(&*disk)));
        let mut numbers = Numbers(flips);
        for turn in 0..1000 {
            let kind = &places[turn % places.len()];
            let (place, length) = kind[numbers.below(kind.len() as u64) as usize];
            let mut offset = numbers.below(length);
            let bit = numbers.below(8) as u8;
            let reseal = turn % 12 >= 6;
            let damaged = if reseal {
                // Most of a block is room or text: rather a byte that says something.
                let mut byte = [0];
                disk.read_at(&mut byte, place + offset).unwrap();
                for _ in 0..20 {
                    if byte[0] != 0 && offset >= 32 {
                        break;
                    }
                    offset = numbers.below(length);
                    disk.read_at(&mut byte, place + offset).unwrap();
                }
                changed(&disk, place, length, &[(offset, byte[0] ^ 1 << bit)], true)
            } else {
                flipped(&disk, place + offset, bit)
            };
            let layout = scan(&damaged);
            let ours = free_ranges(&damaged, &layout);
            assert_eq!(outside(&ours, &theirs), 0, "{}: byte {offset} of {place}", source.display());
            flips += 1;
            *(if reseal { &mut noticed_resealed } else { &mut noticed }) += u64::from(total(&ours) < before);
        }
    }
    eprintln!("{flips} flips; noticed: {noticed}, and {noticed_resealed} with a right checksum");
    // Left over: second copies, which nobody reads as long as the first is sound, and the tail of the checksum field.
    assert!(flips == 2000 && noticed > flips / 4, "{noticed} of {} flips were noticed", flips / 2);
    assert!(noticed_resealed > 50, "{noticed_resealed} of {} flips were noticed", flips / 2);
}

/// Whole blocks of noise behind right checksums: nothing to prove but that the reader ends and does not fall.
#[test]
fn noise_in_trees_of_btrfs_is_survived() {
    let Some(directory) = images("noise_in_trees_of_btrfs_is_survived", &TOOLS) else { return };
    let source = directory.join("fs/btrfs-mixed.raw");
    let disk = open(&source).disk;
    let mut places = vec![(SUPERBLOCK, 4096)];
    for tree in TREES {
        places.extend(blocks(&source, tree).into_iter().map(|place| (place, 4096)));
    }
    let mut numbers = Numbers(5);
    for turn in 0..600 {
        let (place, length) = places[numbers.below(places.len() as u64) as usize];
        // The head is spared half of the time, so that the entries are looked at.
        let start = if turn % 2 == 0 { 32 } else { 96 } + numbers.below(300);
        let bytes: Vec<(u64, u8)> = (start..start + 1 + numbers.below(64))
            .map(|offset| (offset, [0, 0xff, numbers.below(256) as u8][numbers.below(3) as usize]))
            .collect();
        let damaged = changed(&disk, place, length, &bytes, true);
        free_ranges(&damaged, &scan(&damaged));
    }
}

#[test]
fn superblocks_that_are_not_safe_keep_all() {
    let Some(directory) = images("superblocks_that_are_not_safe_keep_all", &TOOLS) else { return };
    let disk = open(&directory.join("fs/btrfs-mixed.raw")).disk;
    let mut raw = [0; 4096];
    disk.read_at(&mut raw, SUPERBLOCK).unwrap();
    let old = |offset: usize| u64::from_le_bytes(raw[offset..offset + 8].try_into().unwrap());
    let (read_only, incompat, generation, used) = (old(180), old(188), old(72), old(120));
    let cases = [
        (word(96, 1 << 20), reason::KEPT_NEEDS_RECOVERY),
        (word(136, 2), reason::KEPT_OTHER_DEVICE),
        (word(56, 1 | 1 << 2), reason::KEPT_ERROR_STATE),
        (word(56, 1 | 1 << 32), reason::KEPT_OTHER_DEVICE),
        (word(56, 1 | 1 << 36), reason::KEPT_CHANGE_UNDER_WAY),
        (word(56, 1 | 1 << 38), reason::KEPT_CHANGE_UNDER_WAY),
        (word(56, 1 | 1 << 50), reason::KEPT_UNKNOWN_FEATURE),
        (word(172, 1), reason::KEPT_UNKNOWN_FEATURE),
        (word(180, read_only | 0x10), reason::KEPT_UNKNOWN_FEATURE),
        (word(180, read_only | 0x8), reason::KEPT_TREE), // block group tree: there is none
        (word(188, incompat | 0x80), reason::KEPT_UNKNOWN_FEATURE), // RAID 5 and 6
        (word(188, incompat | 0x1000), reason::KEPT_UNKNOWN_FEATURE), // zones
        (word(188, incompat | 0x2000), reason::KEPT_UNKNOWN_FEATURE), // extent tree, second version
        (word(188, incompat | 0x4000), reason::KEPT_UNKNOWN_FEATURE), // stripe tree
        (word(188, incompat & !0x4), reason::KEPT_UNKNOWN_FEATURE), // not mixed: the profile is not known
        (word(188, incompat | 0x400), reason::KEPT_GEOMETRY), // another UUID in the nodes: there is none
        (vec![(196, 9)], reason::KEPT_UNKNOWN_FEATURE),
        (vec![(145, 2)], reason::KEPT_GEOMETRY), // sectors of 512 bytes
        (vec![(149, 0), (150, 2), (153, 0), (154, 2)], reason::KEPT_GEOMETRY), // nodes of 128 KiB
        (vec![(162, 1)], reason::KEPT_GEOMETRY), // more chunks than have room
        (vec![(160, 96)], reason::KEPT_GEOMETRY), // half a chunk
        (vec![(160, 0)], reason::KEPT_GEOMETRY), // no chunk
        (word(72, generation + 1), reason::KEPT_TREE),
        (word(80, old(88)), reason::KEPT_TREE), // the chunk tree for the root tree
        (word(80, 4 * MIB), reason::KEPT_CHECKSUM),
        (word(80, u64::MAX - 4095), reason::KEPT_GEOMETRY),
        (vec![(198, 8)], reason::KEPT_GEOMETRY),
        (vec![(198, 1)], reason::KEPT_TREE),
        (word(120, used + 4096), reason::KEPT_FREE_COUNT),
        ([word(112, 97 * MIB), word(209, 97 * MIB)].concat(), reason::KEPT_GEOMETRY),
        (word(209, 95 * MIB), reason::KEPT_GEOMETRY), // the device's own item says otherwise
    ];
    for (bytes, expected) in cases {
        let damaged = changed(&disk, SUPERBLOCK, 4096, &bytes, true);
        let layout = scan(&damaged);
        assert_eq!(reasons(&layout), [expected], "{bytes:?}");
        assert!(free_ranges(&damaged, &layout).is_empty(), "{bytes:?}");
    }
    let flipped = flipped(&disk, SUPERBLOCK + 300, 0);
    assert_eq!(reasons(&scan(&flipped)), [reason::KEPT_CHECKSUM]);
    let short = Patched { base: Arc::clone(&disk), bytes: Vec::new(), size: Some(95 * MIB) };
    assert_eq!(reasons(&scan(&short)), [reason::KEPT_GEOMETRY]);
    // A shorter file system on the same device: what is behind it is kept.
    let longer = Patched { base: Arc::clone(&disk), bytes: Vec::new(), size: Some(96 * MIB) };
    assert_eq!(free_ranges(&longer, &scan(&longer)).last().unwrap().end, 96 * MIB);
    // A copy from after the last commit.
    raw[48..56].copy_from_slice(&(64 * MIB).to_le_bytes());
    let bytes: Vec<(u64, u8)> = (0..).zip(raw).collect();
    let equal = changed(&disk, 64 * MIB, 4096, &bytes, true);
    assert_eq!(reasons(&scan(&equal)), Vec::<String>::new());
    let bytes = [bytes, word(72, generation + 1)].concat();
    let newer = changed(&disk, 64 * MIB, 4096, &bytes, true);
    assert_eq!(reasons(&scan(&newer)), [reason::KEPT_NOT_CLEAN]);
}

#[test]
fn trees_that_are_not_safe_keep_all() {
    let Some(directory) = images("trees_that_are_not_safe_keep_all", &TOOLS) else { return };
    let source = directory.join("fs/btrfs-mixed.raw");
    let disk = open(&source).disk;
    let leaf = |tree: &str| {
        // The last block in the dump is a leaf in any case.
        *blocks(&source, tree).last().unwrap()
    };
    let block = |place: u64| {
        let mut bytes = [0; 4096];
        disk.read_at(&mut bytes, place).unwrap();
        bytes
    };
    let u32_at = |bytes: &[u8], at: u64| u32::from_le_bytes(bytes[at as usize..][..4].try_into().unwrap());
    let u64_at = |bytes: &[u8], at: u64| u64::from_le_bytes(bytes[at as usize..][..8].try_into().unwrap());
    let head = |index: u64| 101 + 25 * index;
    let data = |place: u64, index: u64| 101 + u64::from(u32_at(&block(place), head(index) + 17));
    let entries = |place: u64| u64::from(u32_at(&block(place), 96));
    let key = |index: u64, objectid: u64, kind: u8, offset: u64| {
        let mut bytes = [word(head(index), objectid), word(head(index) + 9, offset)].concat();
        bytes.push((head(index) + 8, kind));
        bytes
    };
    let (chunk, root, device, free) = (leaf("chunk"), leaf("root"), leaf("dev"), leaf("10"));
    let groups = blocks(&source, "extent")
        .into_iter()
        .find(|place| {
            let bytes = block(*place);
            bytes[100] == 0 && bytes[head(0) as usize + 8] == 192
        })
        .unwrap();
    let last = entries(root) - 1;
    let (stripe, place) = (data(chunk, 1) + 48, u64_at(&block(chunk), data(chunk, 1) + 56));
    let used = u64_at(&block(groups), data(groups, 0));
    let cases: Vec<(u64, Box<Bytes>, &str)> = vec![
        (chunk, vec![(data(chunk, 2) + 24, 8 | 5)].into(), reason::KEPT_UNKNOWN_FEATURE), // RAID 0
        (chunk, vec![(data(chunk, 2) + 24, 0x40)].into(), reason::KEPT_UNKNOWN_FEATURE),
        (chunk, vec![(stripe, 2)].into(), reason::KEPT_OTHER_DEVICE),
        (chunk, vec![(data(chunk, 2) + 48, 2)].into(), reason::KEPT_OTHER_DEVICE),
        (chunk, vec![(data(chunk, 2) + 44, 2)].into(), reason::KEPT_GEOMETRY),
        (chunk, word(data(chunk, 2), 16 * MIB).into(), reason::KEPT_GEOMETRY), // overlaps the next chunk
        (chunk, word(data(chunk, 2) + 56, place).into(), reason::KEPT_GEOMETRY), // two chunks in one place
        (chunk, word(data(chunk, 2) + 56, 60 * MIB).into(), reason::KEPT_CHECKSUM), // no trees there
        (chunk, word(data(chunk, 3) + 56, 60 * MIB).into(), reason::KEPT_GEOMETRY), // the device tree says otherwise
        (chunk, word(data(chunk, 2) + 56, 1 << 40).into(), reason::KEPT_GEOMETRY),
        (chunk, vec![(data(chunk, 0) + 8, 1)].into(), reason::KEPT_GEOMETRY), // size of the device
        (chunk, vec![(head(0) + 8, 215)].into(), reason::KEPT_UNKNOWN_FEATURE),
        (device, word(data(device, 1) + 24, 4 * MIB).into(), reason::KEPT_GEOMETRY),
        (device, key(2, 1, 204, 61 * MIB).into(), reason::KEPT_GEOMETRY),
        (device, key(0, 0, 250, 0).into(), reason::KEPT_CHANGE_UNDER_WAY), // the record of a replacement
        // One that has ended: its state comes behind two cursors.
        (
            device,
            [key(0, 0, 250, 0), word(data(device, 0) + 32, 2)].concat().into(),
            reason::KEPT_CHANGE_UNDER_WAY,
        ),
        (device, key(0, 0, 77, 0).into(), reason::KEPT_UNKNOWN_FEATURE),
        (device, vec![(96, 2)].into(), reason::KEPT_GEOMETRY), // one item less
        (root, key(last, 4_u64.wrapping_neg(), 248, 0).into(), reason::KEPT_CHANGE_UNDER_WAY), // a balance
        (root, key(last, 8_u64.wrapping_neg(), 132, 1).into(), reason::KEPT_CHANGE_UNDER_WAY), // block groups on the move
        (root, key(0, 1, 132, 0).into(), reason::KEPT_TREE), // no extent tree
        (root, vec![(data(root, 0) + 238, 7)].into(), reason::KEPT_TREE), // its level
        (root, word(data(root, 0) + 160, 3).into(), reason::KEPT_TREE), // its generation
        (root, vec![(88, 9)].into(), reason::KEPT_TREE),     // another tree's block
        (root, vec![(100, 1)].into(), reason::KEPT_TREE),    // another level
        (root, vec![(40, 1)].into(), reason::KEPT_TREE),     // another file system's block
        (root, word(56, 1).into(), reason::KEPT_UNKNOWN_FEATURE), // references of the old kind
        (root, vec![(96, 0)].into(), reason::KEPT_TREE),     // an empty tree
        (root, vec![(98, 1)].into(), reason::KEPT_TREE),     // more items than have room
        (root, vec![(head(1) + 20, 1)].into(), reason::KEPT_TREE), // an item outside
        (groups, word(data(groups, 0), used + 4096).into(), reason::KEPT_FREE_COUNT),
        (groups, vec![(data(groups, 0) + 16, 4)].into(), reason::KEPT_GEOMETRY), // another kind of group
        (groups, vec![(head(1) + 8, 170)].into(), reason::KEPT_UNKNOWN_FEATURE),
        (groups, vec![(data(groups, 1), 0)].into(), reason::KEPT_TREE), // no reference
        (groups, vec![(data(groups, 1) + 16, 1)].into(), reason::KEPT_TREE), // data where metadata are
        (groups, vec![(head(1) + 10, 1)].into(), reason::KEPT_TREE),    // its key says a level of 256
        (free, vec![(data(free, 0), 9)].into(), reason::KEPT_FREE_COUNT),
        (free, vec![(data(free, 0) + 4, 1)].into(), reason::KEPT_FREE_COUNT), // bitmaps, and there are none
        (free, word(head(2) + 9, 4096).into(), reason::KEPT_FREE_COUNT),
        (free, vec![(head(1) + 8, 200)].into(), reason::KEPT_FREE_COUNT),
    ];
    for (place, bytes, expected) in cases {
        let damaged = changed(&disk, place, 4096, &bytes, true);
        let layout = scan(&damaged);
        assert_eq!(reasons(&layout), [expected], "{place}: {bytes:?}");
        assert!(free_ranges(&damaged, &layout).is_empty(), "{place}: {bytes:?}");
        // Without a right checksum the same is kept too.
        let torn = changed(&disk, place, 4096, &bytes, false);
        assert_eq!(reasons(&scan(&torn)), [reason::KEPT_CHECKSUM], "{place}: {bytes:?}");
    }
}
