//! What the tools of ntfs-3g never write, made by hand: the journal of Windows, and a bitmap in two records.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use imageops_image::disk::Disk;
use imageops_image::reason;

use super::edit::{Volume, attribute, number, protect, put};
use super::{make, peer_free};
use crate::peers::{images, run, text};
use crate::proofs::{Patched, free_ranges, outside, reasons, scan};

const DATA: u32 = 0x80;

/// A restart page; `client` is the first one in use.
fn restart(sequence: u64, version: [u8; 2], client: u16, flags: u16) -> Vec<u8> {
    let mut page = vec![0; 4096];
    put(&mut page, 0, b"RSTR\x1e\0\x09\0");
    put(&mut page, 16, &4096_u32.to_le_bytes());
    put(&mut page, 20, &4096_u32.to_le_bytes());
    put(&mut page, 24, &[48, 0, version[1], 0, version[0], 0, 5, 0]);
    let area = 48;
    let bytes: u64 = 2 << 20;
    put(&mut page, area, &sequence.to_le_bytes());
    put(&mut page, area + 8, &[1, 0, 0xff, 0xff]);
    put(&mut page, area + 12, &client.to_le_bytes());
    put(&mut page, area + 14, &flags.to_le_bytes());
    put(&mut page, area + 16, &(67 - 22_u32).to_le_bytes());
    put(&mut page, area + 20, &[224, 0, 64, 0]);
    put(&mut page, area + 24, &bytes.to_le_bytes());
    put(&mut page, area + 36, &[48, 0, 64, 0]);
    put(&mut page, area + 64 + 16, &[0xff; 4]);
    protect(&mut page);
    page
}

/// The journal's restart pages as Windows leaves them, against ntfs-3g, which mounts a clean volume only.
#[test]
fn a_journal_that_is_not_closed_keeps_all() {
    let Some(_) = images("a_journal_that_is_not_closed_keeps_all", &["mkntfs", "ntfs-3g.probe"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    make(&source, 64 << 20, &[]);
    let volume = Volume::open(&source);
    let (journal, length) = volume.first_run(2, DATA);
    assert_eq!(length, 2 << 20);
    let torn = |mut page: Vec<u8>| {
        page[1022] ^= 1;
        page
    };
    let closed = || restart(7, [1, 1], 0xffff, 0);
    let clean = || restart(7, [1, 1], 0, 2);
    let open_page = || restart(8, [1, 1], 0, 0);
    type Case = (&'static str, Vec<Vec<u8>>, &'static [&'static str]);
    let cases: Vec<Case> = vec![
        ("clean bit", vec![clean(), clean()], &[]),
        ("no client", vec![closed(), closed()], &[]),
        ("older page open", vec![restart(6, [1, 1], 0, 0), clean()], &[]),
        ("open", vec![open_page(), open_page()], &[reason::KEPT_NEEDS_RECOVERY]),
        ("newer page open", vec![clean(), open_page()], &[reason::KEPT_NEEDS_RECOVERY]),
        ("one of two open", vec![clean(), restart(7, [1, 1], 0, 0)], &[reason::KEPT_NEEDS_RECOVERY]),
        (
            "Windows' cache",
            vec![restart(7, [2, 0], 0, 2), restart(7, [2, 0], 0, 2)],
            &[reason::KEPT_NEEDS_RECOVERY],
        ),
        (
            "unknown version",
            vec![restart(7, [3, 0], 0, 2), restart(7, [3, 0], 0, 2)],
            &[reason::KEPT_UNKNOWN_FEATURE],
        ),
        ("torn", vec![torn(clean()), clean()], &[reason::KEPT_GEOMETRY]),
        ("second page torn", vec![clean(), torn(clean())], &[reason::KEPT_GEOMETRY]),
        ("one page", vec![clean()], &[reason::KEPT_GEOMETRY]),
        ("noise", vec![vec![0x5a; 4096]], &[reason::KEPT_GEOMETRY]),
        ("records first", vec![[b"RCRD".as_slice(), &[0; 4092]].concat()], &[reason::KEPT_GEOMETRY]),
        ("records behind nothing", vec![vec![0xff; 4096], vec![0; 4096]], &[reason::KEPT_GEOMETRY]),
    ];
    let file = File::options().write(true).open(&source).unwrap();
    for (name, pages, expected) in cases {
        let pages = pages.concat();
        let bytes = volume.replace(journal, &pages);
        assert_eq!(reasons(&scan(&volume.patched(&bytes))), expected, "{name}");
        let before = volume.read(journal, pages.len() as u64);
        file.write_all_at(&pages, journal).unwrap();
        let mounts = run("ntfs-3g.probe", &["--readwrite", text(&source)]).status.success();
        file.write_all_at(&before, journal).unwrap();
        // We may refuse what ntfs-3g takes (it trusts one sound page of two), never the other way round.
        assert!(mounts || !expected.is_empty(), "{name}");
    }
}

/// Records that hold `$Bitmap` together, each with its place, and where the list of its attributes lies.
struct Split {
    base: (u64, Vec<u8>),
    second: (u64, Vec<u8>),
    list: u64,
}

/// Moves the runs of `$Bitmap` to the record `extension`.
fn split_bitmap(volume: &Volume, extension: u64) -> Split {
    let mut base = volume.record(6);
    let data = attribute(&base, DATA);
    let end = number(&base[24..28]) as usize;
    let moved = base[data..end].to_vec();
    // The list: three attributes in place, the data in the other record.
    let entry = |kind: u32, record: u64, instance: u16| {
        let mut entry = vec![0; 32];
        put(&mut entry, 0, &kind.to_le_bytes());
        put(&mut entry, 4, &[32, 0, 0, 26]);
        put(&mut entry, 16, &record.to_le_bytes());
        put(&mut entry, 24, &instance.to_le_bytes());
        entry
    };
    let sequence = |record: u64| record | number(&volume.record(record)[16..18]) << 48;
    let list =
        [entry(0x10, sequence(6), 0), entry(0x30, sequence(6), 2), entry(0x80, sequence(extension), 1)]
            .concat();
    let mut attribute_list = vec![0; 24];
    put(&mut attribute_list, 0, &[0x20, 0, 0, 0, (24 + list.len()) as u8, 0, 0, 0, 0, 0, 24, 0, 0, 0, 9, 0]);
    put(&mut attribute_list, 16, &[list.len() as u8, 0, 0, 0, 24]);
    attribute_list.extend(&list);
    let name = attribute(&base, 0x30);
    let rest = base[name..data].to_vec();
    base = [&base[..name], &attribute_list, &rest, &[0xff; 4], &[0; 4]].concat();
    let length = base.len() as u32;
    put(&mut base, 24, &length.to_le_bytes());
    base[40] = 10;
    base.resize(1024, 0);
    let mut second = volume.record(extension);
    second.truncate(56);
    put(&mut second, 22, &[1, 0]);
    put(&mut second, 24, &((56 + moved.len()) as u32).to_le_bytes());
    put(&mut second, 32, &sequence(6).to_le_bytes());
    put(&mut second, 44, &(extension as u32).to_le_bytes());
    second.extend(&moved);
    second.resize(1024, 0);
    protect(&mut base);
    protect(&mut second);
    assert!(number(&base[20..22]) >= 56);
    let place = volume.record_place(6);
    Split {
        base: (place, base),
        second: (volume.record_place(extension), second),
        list: place + name as u64 + 24,
    }
}

/// `$Bitmap` with its runs in a second record, as on a volume where it has grown piece by piece.
#[test]
fn a_bitmap_in_two_records_is_followed() {
    let Some(_) = images("a_bitmap_in_two_records_is_followed", &["mkntfs", "ntfscat", "ntfsinfo"]) else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("fs.raw");
    make(&source, 64 << 20, &[]);
    let volume = Volume::open(&source);
    let theirs = peer_free(&source);
    let Split { base, second, list } = split_bitmap(&volume, 20);
    let both = [volume.replace(base.0, &base.1), volume.replace(second.0, &second.1)].concat();
    let split = volume.patched(&both);
    let layout = scan(&split);
    assert_eq!(reasons(&layout), Vec::<String>::new());
    let ours = free_ranges(&split, &layout);
    assert_eq!((outside(&ours, &theirs), outside(&theirs, &ours)), (0, 0));

    // The same through the owner's tool, so that this test does not believe itself.
    let file = File::options().write(true).open(&source).unwrap();
    let before = run("ntfscat", &["-f", "-i", "6", text(&source)]).stdout;
    file.write_all_at(&base.1, base.0).unwrap();
    file.write_all_at(&second.1, second.0).unwrap();
    assert_eq!(run("ntfscat", &["-f", "-i", "6", text(&source)]).stdout, before);

    let damages: [(&str, u64, u8); 5] = [
        ("length of an entry", list + 4, 0),
        ("letters outside", list + 6, 0xff),
        ("another record", list + 64 + 16, 21),
        ("another instance", list + 64 + 24, 7),
        ("another first cluster", list + 64 + 8, 1),
    ];
    let split: Arc<dyn Disk> = Arc::new(split);
    for (damage, place, byte) in damages {
        let damaged = Patched { base: Arc::clone(&split), bytes: vec![(place, byte)], size: None };
        let found = reasons(&scan(&damaged));
        assert!(found == [reason::KEPT_GEOMETRY] || found == [reason::KEPT_CHECKSUM], "{damage}: {found:?}");
        assert!(free_ranges(&damaged, &scan(&damaged)).is_empty());
    }
}
