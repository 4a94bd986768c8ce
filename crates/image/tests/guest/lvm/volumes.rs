//! Volumes in pieces, on several partitions, of every type, and what lies in them.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imageops_image::guest::Part;
use imageops_image::reason;

use super::peer::dump;
use super::pv::{self, DATA_START, EXTENT_BYTES, HIDDEN, MIB, Pv, SEEN, segment, striped, volume};
use super::{file_system, volume_reasons, volumes};
use crate::ext;
use crate::peers::{files, images, open, run_ok, text};
use crate::proofs::{free_ranges, outside, reasons, scan, total};

/// A disk with two partitions, a physical volume in each, and the file that it is in.
fn two_partitions(path: &Path, texts: [&str; 2]) -> File {
    let length = DATA_START + 20 * EXTENT_BYTES;
    let file = pv::create(path, MIB + 2 * length);
    let mut table = vec![0; MIB as usize];
    for (number, start) in [MIB, MIB + length].into_iter().enumerate() {
        let entry = &mut table[446 + 16 * number..][..16];
        entry[4] = 0x8e;
        entry[8..12].copy_from_slice(&((start / 512) as u32).to_le_bytes());
        entry[12..].copy_from_slice(&((length / 512) as u32).to_le_bytes());
    }
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 0).unwrap();
    for (number, (name, text)) in ["pv0", "pv1"].into_iter().zip(texts).enumerate() {
        let pv = Pv { file: &file, start: MIB + number as u64 * length, name, device_bytes: length };
        pv.put(0, &vec![0; DATA_START as usize]);
        pv.write(text);
    }
    file
}

#[test]
fn a_volume_over_two_partitions_is_put_together() {
    let test = "a_volume_over_two_partitions_is_put_together";
    let Some(_) = images(test, &["mke2fs", "dumpe2fs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let segments = [striped(0, 18, &[("pv0", 2)], 0), striped(18, 12, &[("pv1", 0)], 0)];
    let other = volume("other", SEEN, &[striped(0, 3, &[("pv1", 17)], 0)]);
    let text = |sequence, logical: &str| pv::group(sequence, &[("pv0", 20), ("pv1", 20)], logical);
    let newest = text(9, &(volume("root", SEEN, &segments) + &other));
    let path = scratch.path().join("disk.raw");
    let length = DATA_START + 20 * EXTENT_BYTES;
    let (first, second) = (MIB + DATA_START, MIB + length + DATA_START);
    // Both have it, or one has an older one, in which the volume was not yet there.
    for texts in [[&newest, &newest], [&text(8, &other), &newest], [&newest, &text(8, &other)]] {
        let file = two_partitions(&path, [texts[0], texts[1]]);
        let content =
            file_system(scratch.path(), "content", 30 * EXTENT_BYTES, &["-t", "ext4", "-b", "1024"]);
        let bytes = std::fs::read(&content).unwrap();
        let split = 18 * EXTENT_BYTES;
        let write = |bytes: &[u8], place| file.write_all_at(bytes, place).unwrap();
        write(&bytes[..split as usize], first + 2 * EXTENT_BYTES);
        write(&bytes[split as usize..], second);
        let mut theirs =
            vec![first..first + 2 * EXTENT_BYTES, second + 12 * EXTENT_BYTES..second + 17 * EXTENT_BYTES];
        for range in ext::peer_free(&content) {
            let (start, end) = (range.start.min(split), range.end.min(split));
            theirs.push(first + 2 * EXTENT_BYTES + start..first + 2 * EXTENT_BYTES + end);
            let (start, end) = (range.start.max(split) - split, range.end.max(split) - split);
            theirs.push(second + start..second + end);
        }
        let image = open(&path);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), Vec::<String>::new());
        let ours = free_ranges(&*image.disk, &layout);
        assert_eq!(outside(&ours, &theirs), 0);
        assert_eq!(total(&ours), total(&theirs));
        let summaries: Vec<_> = layout.parts().iter().map(Part::summary).collect();
        assert_eq!(summaries.iter().map(|part| part.free_bytes).sum::<u64>(), total(&theirs));
        for part in summaries {
            assert_eq!(part.volumes[0].name, "vg/root");
            assert!(part.volumes[0].free_bytes > 0 && part.volumes[0].free_bytes < part.free_bytes);
        }
    }
    // Two descriptions with one number, a damaged one, and one of another group: both partitions are kept.
    let foreign = newest.replace(&pv::id("VG"), &pv::id("GV"));
    for (text, why) in [
        (
            newest.replace("creation_host = \"guest\"", "creation_host = \"other\""),
            reason::KEPT_METADATA_CONFLICT,
        ),
        (newest.replace("seqno = 9", "seqno = 10 }"), reason::KEPT_METADATA_INVALID),
        (foreign, reason::KEPT_METADATA_CONFLICT),
    ] {
        two_partitions(&path, [&newest, &text]);
        let image = open(&path);
        let layout = scan(&*image.disk);
        assert_eq!(reasons(&layout), [why, why]);
        assert!(free_ranges(&*image.disk, &layout).is_empty());
    }
    // The other one is gone.
    let file = two_partitions(&path, [&newest, &newest]);
    file.write_all_at(&[0; 4096], MIB + length).unwrap();
    let image = open(&path);
    let layout = scan(&*image.disk);
    assert_eq!(reasons(&layout), [reason::KEPT_UNKNOWN_CONTENT]);
    assert_eq!(volume_reasons(&layout), [("root".to_owned(), reason::KEPT_OTHER_DEVICE.to_owned())]);
    let unused = first..first + 2 * EXTENT_BYTES;
    assert_eq!(free_ranges(&*image.disk, &layout), std::slice::from_ref(&unused));
}

#[test]
fn only_plain_volumes_are_looked_into() {
    let Some(_) = images("only_plain_volumes_are_looked_into", &["mke2fs"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("pv.raw");
    let file = pv::create(&path, 61 * MIB);
    let pv = pv::whole_file(&file, "pv0", 60);
    let at = |extent| striped(0, 2, &[("pv0", extent)], 0);
    let of = |kind: &str, body: &str| segment(0, 2, kind, body);
    let list = [
        ("plain", SEEN, at(0), ""),
        ("locked", "\"READ\", \"VISIBLE\"", at(2), ""),
        ("origin", SEEN, at(4), reason::KEPT_SNAPSHOT),
        ("snap", SEEN, at(6), reason::KEPT_SNAPSHOT),
        (
            "snapshot0",
            HIDDEN,
            of("snapshot", "chunk_size = 8\norigin = \"origin\"\ncow_store = \"snap\""),
            "hidden",
        ),
        ("pool_tdata", HIDDEN, at(8), "hidden"),
        ("pool_tmeta", HIDDEN, at(10), "hidden"),
        ("lvol0_pmspare", HIDDEN, at(12), "hidden"),
        (
            "pool",
            SEEN,
            of(
                "thin-pool",
                "metadata = \"pool_tmeta\"\npool = \"pool_tdata\"\nmessage1 {\ncreate = \"thin\"\n}",
            ),
            reason::KEPT_VOLUME_TYPE,
        ),
        (
            "thin",
            SEEN,
            of("thin", "thin_pool = \"pool\"\nexternal_origin = \"outside\""),
            reason::KEPT_VOLUME_TYPE,
        ),
        ("outside", SEEN, at(14), reason::KEPT_COMPONENT),
        ("raid_rmeta_0", HIDDEN, at(16), "hidden"),
        ("raid_rimage_0", HIDDEN, at(18), "hidden"),
        (
            "raid",
            SEEN,
            of("raid1", "raids = [\n\"raid_rmeta_0\", \"raid_rimage_0\"\n]"),
            reason::KEPT_VOLUME_TYPE,
        ),
        ("mirror_mimage_0", HIDDEN, at(20), "hidden"),
        (
            "mirror",
            SEEN,
            of("mirror", "mirror_count = 1\nmirrors = [\n\"mirror_mimage_0\", 0\n]"),
            reason::KEPT_VOLUME_TYPE,
        ),
        ("fast", SEEN, at(22), reason::KEPT_COMPONENT),
        (
            "cached",
            SEEN,
            of("writecache+FLAG", "origin = \"fast\"\nwritecache = \"fast\""),
            reason::KEPT_VOLUME_TYPE,
        ),
        ("empty", SEEN, of("error", ""), reason::KEPT_VOLUME_TYPE),
        ("stacked", SEEN, striped(0, 2, &[("plain2", 0)], 0), reason::KEPT_VOLUME_TYPE),
        ("plain2", SEEN, at(24), reason::KEPT_COMPONENT),
        ("odd", "\"READ\", \"WRITE\", \"VISIBLE\", \"NOTSYNCED\"", at(26), reason::KEPT_UNKNOWN_FEATURE),
        ("uneven", SEEN, striped(0, 2, &[("pv0", 28), ("pv0", 29)], 1000), reason::KEPT_GEOMETRY),
        ("away", SEEN, striped(0, 2, &[("pv0", 30), ("pv1", 0)], 128), reason::KEPT_OTHER_DEVICE),
        ("nested", SEEN, at(32), reason::KEPT_NESTED),
        ("table", SEEN, at(34), reason::KEPT_NESTED),
        ("nothing", SEEN, at(36), reason::KEPT_UNKNOWN_CONTENT),
        ("crypt", SEEN, at(38), reason::KEPT_ENCRYPTED),
        ("two", SEEN, at(40), reason::KEPT_TWO_SIGNATURES),
        ("elsewhere", SEEN, striped(0, 2, &[("pv1", 4)], 0), "hidden"),
    ];
    let logical: Vec<_> = list
        .iter()
        .map(|(name, status, segment, _)| volume(name, status, std::slice::from_ref(segment)))
        .collect();
    pv.write(&pv::group(2, &[("pv0", 60), ("pv1", 60)], &logical.concat()));
    let content = std::fs::read(file_system_of_two(scratch.path())).unwrap();
    for extent in (0..32).step_by(2) {
        pv.put(DATA_START + extent * EXTENT_BYTES, &content);
    }
    // A physical volume, partition tables, and so on inside of volumes.
    let inner = DATA_START + 32 * EXTENT_BYTES;
    Pv { start: inner, name: "pv9", device_bytes: 2 * MIB, ..pv }.write_label(1, &[], |_| {});
    let mut sector = [0; 512];
    sector[446 + 4] = 0x83;
    sector[446 + 8] = 8;
    sector[446 + 12] = 8;
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    pv.put(DATA_START + 34 * EXTENT_BYTES, &sector);
    pv.put(DATA_START + 38 * EXTENT_BYTES, b"LUKS\xba\xbe");
    pv.put(DATA_START + 40 * EXTENT_BYTES, b"XFSB");
    pv.put(DATA_START + 40 * EXTENT_BYTES + 4086, b"SWAPSPACE2");

    let image = open(&path);
    let layout = scan(&*image.disk);
    assert_eq!(reasons(&layout), Vec::<String>::new());
    let seen = list.iter().filter(|(.., why)| *why != "hidden");
    let expected: Vec<_> = seen.map(|(name, _, _, why)| ((*name).to_owned(), (*why).to_owned())).collect();
    assert_eq!(volume_reasons(&layout), expected);
    // What is dropped lies in the two plain volumes and in extents that none has.
    let ours = free_ranges(&*image.disk, &layout);
    let extents =
        |range: Range<u64>| DATA_START + range.start * EXTENT_BYTES..DATA_START + range.end * EXTENT_BYTES;
    let unused = [extents(31..32), extents(42..60)];
    let allowed = [extents(0..4), unused[0].clone(), unused[1].clone()];
    assert_eq!(outside(&ours, &allowed), 0);
    assert_eq!(outside(&unused, &ours), 0);
    let free: Vec<_> = volumes(&layout).iter().map(|volume| volume.free_bytes).collect();
    assert!(free[0] > 0 && free[0] == free[1] && free[2..].iter().all(|bytes| *bytes == 0), "{free:?}");
}

/// One file system of each kind of the set, as one file and as a volume in pieces and stripes.
#[test]
fn every_reader_finds_the_same_in_a_volume() {
    let test = "every_reader_finds_the_same_in_a_volume";
    let Some(directory) = images(test, &["pvck"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("pv.raw");
    let mut seen = BTreeSet::new();
    for source in files(&directory.join("fs"), &["raw"]) {
        let image = open(&source);
        let layout = scan(&*image.disk);
        let plain = free_ranges(&*image.disk, &layout);
        let extents = image.disk.virtual_size_bytes() / EXTENT_BYTES;
        let whole = extents.is_multiple_of(2) && extents * EXTENT_BYTES == image.disk.virtual_size_bytes();
        let content = &layout.parts()[0].summary().content;
        if layout.table().is_some() || plain.is_empty() || !whole || !seen.insert(content.clone()) {
            continue;
        }
        let file = pv::create(&path, 1);
        let pv = pv::whole_file(&file, "pv0", extents + 3);
        let half = extents / 2;
        let columns = [("pv0", half + 3), ("pv0", half + 3 + half / 2)];
        let segments = match half.is_multiple_of(2) {
            true => vec![striped(half, half, &[("pv0", 1)], 0), striped(0, half, &columns, 32)],
            false => vec![striped(half, half, &[("pv0", 1)], 0), striped(0, half, &columns[..1], 0)],
        };
        pv.write(&pv::group(1, &[("pv0", extents + 3)], &volume("lv", SEEN, &segments)));
        let group = dump(&path);
        group.copy("lv", &file, &File::open(&source).unwrap(), true);
        let mut expected = group.on_device("lv", &plain);
        expected.extend(group.free());
        expected.sort_unstable_by_key(|range| range.start);

        let disk = open(&path).disk;
        let layout = scan(&*disk);
        assert_eq!(volumes(&layout)[0].content, *content, "{layout:?}");
        let ours = free_ranges(&*disk, &layout);
        assert_eq!((outside(&ours, &expected), outside(&expected, &ours)), (0, 0), "{}", source.display());
        assert_eq!(total(&ours), layout.parts()[0].summary().free_bytes, "{}", source.display());
    }
    assert!(seen.contains("ext4") && seen.len() >= 4, "{seen:?}");
}

#[test]
fn a_hibernated_system_in_a_volume_keeps_all_of_the_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("pv.raw");
    let file = pv::create(&path, 1);
    let pv = pv::whole_file(&file, "pv0", 20);
    let logical = volume("swap", SEEN, &[striped(0, 2, &[("pv0", 4)], 0)]);
    pv.write(&pv::group(1, &[("pv0", 20)], &logical));
    let free = || {
        let disk = open(&path).disk;
        let layout = scan(&*disk);
        (total(&free_ranges(&*disk, &layout)), reasons(&layout), volume_reasons(&layout))
    };
    assert!(free().0 >= 18 * EXTENT_BYTES);
    pv.put(DATA_START + 4 * EXTENT_BYTES + 4086, b"S1SUSPEND\0");
    let why = || reason::KEPT_HIBERNATED.to_owned();
    assert_eq!(free(), (0, vec![why()], vec![("swap".to_owned(), why())]));
}

/// A file system of two extents.
fn file_system_of_two(scratch: &Path) -> PathBuf {
    let path = scratch.join("two");
    pv::create(&path, 2 * EXTENT_BYTES);
    run_ok(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "nodiscard", "-b", "1024", text(&path)],
    );
    path
}
