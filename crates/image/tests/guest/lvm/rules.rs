//! Every state of a volume group in which all is kept, and the reason for it.

use std::fs::File;

use imageops_image::reason;

use super::pv::{self, DATA_START, FIRST_AREA, HIDDEN, Header, MIB, Pv, SEEN, segment, striped, volume};
use super::volume_reasons;
use crate::peers::open;
use crate::proofs::{free_ranges, reasons, scan};

const EXTENTS: u64 = 20;

/// A description with one volume that has a hole in the middle of the extents.
fn description() -> String {
    let segments = [striped(0, 4, &[("pv0", 10)], 0), striped(4, 6, &[("pv0", 0), ("pv0", 4)], 128)];
    pv::group(5, &[("pv0", EXTENTS)], &volume("root", SEEN, &segments))
}

/// What is kept, and of how many volumes, when `write` has written a physical volume.
fn kept(write: impl Fn(&Pv<'_>)) -> (Vec<String>, usize) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("pv.raw");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    write(&pv::whole_file(&file, "pv0", EXTENTS));
    let image = open(&path);
    let layout = scan(&*image.disk);
    let free = free_ranges(&*image.disk, &layout);
    let reasons = reasons(&layout);
    assert_eq!(free.is_empty(), !reasons.is_empty(), "{reasons:?}");
    let volumes = &layout.parts()[0].summary().volumes;
    if reasons.is_empty() {
        let extent = |number: u64| DATA_START + number * MIB;
        assert_eq!(free, [extent(3)..extent(4), extent(7)..extent(10), extent(14)..extent(20)]);
        assert_eq!(volume_reasons(&layout), [("root".to_owned(), reason::KEPT_UNKNOWN_CONTENT.to_owned())]);
    }
    (reasons, volumes.len())
}

#[track_caller]
fn assert_kept(what: &str, why: &str, write: impl Fn(&Pv<'_>)) {
    assert_eq!(kept(write), (vec![why.to_owned()], 0), "{what}");
}

#[track_caller]
fn assert_read(what: &str, write: impl Fn(&Pv<'_>)) {
    assert_eq!(kept(write), (Vec::new(), 1), "{what}");
}

/// The description with something replaced, once.
fn changed(from: &str, to: &str) -> String {
    let text = description();
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

#[test]
fn states_of_the_group_keep_all() {
    let known = "status = [\"RESIZEABLE\", ";
    let cases = [
        (known, "status = [\"EXPORTED\", \"RESIZEABLE\", ", reason::KEPT_EXPORTED),
        ("[\"ALLOCATABLE\"]", "[\"ALLOCATABLE\", \"EXPORTED\"]", reason::KEPT_EXPORTED),
        (known, "status = [\"CLUSTERED\", ", reason::KEPT_SHARED),
        (known, "status = [\"SHARED\", ", reason::KEPT_SHARED),
        ("max_lv = 0", "lock_type = \"sanlock\"", reason::KEPT_SHARED),
        ("max_lv = 0", "lock_type = 7", reason::KEPT_SHARED),
        (known, "status = [\"PARTIAL\", ", reason::KEPT_MISSING_VOLUME),
        (
            "status = [\"ALLOCATABLE\"]\nflags = []",
            "status = []\nflags = [\"MISSING\"]",
            reason::KEPT_MISSING_VOLUME,
        ),
        ("[\"ALLOCATABLE\"]", "[\"MISSING\"]", reason::KEPT_MISSING_VOLUME),
        (known, "status = [\"PVMOVE\", ", reason::KEPT_CHANGE_UNDER_WAY),
        ("\"VISIBLE\"", "\"VISIBLE\", \"LOCKED\"", reason::KEPT_CHANGE_UNDER_WAY),
        ("\"VISIBLE\"", "\"PVMOVE\"", reason::KEPT_CHANGE_UNDER_WAY),
        (known, "status = [\"STRANGE\", ", reason::KEPT_UNKNOWN_FEATURE),
        ("flags = []", "flags = [\"STRANGE\"]", reason::KEPT_UNKNOWN_FEATURE),
        ("[\"ALLOCATABLE\"]", "[\"STRANGE\"]", reason::KEPT_UNKNOWN_FEATURE),
        ("max_lv = 0", "strange {\na = 1\n}", reason::KEPT_UNKNOWN_FEATURE),
        ("format = \"lvm2\"", "format = \"lvm3\"", reason::KEPT_UNKNOWN_FEATURE),
        ("type = \"striped\"", "type = \"strange\"", reason::KEPT_UNKNOWN_FEATURE),
        ("contents = \"Text Format Volume Group\"", "contents = \"Text\"", reason::KEPT_UNKNOWN_FEATURE),
        ("version = 1", "version = 2", reason::KEPT_UNKNOWN_FEATURE),
    ];
    for (from, to, why) in cases {
        assert_kept(to, why, |pv| pv.write(&changed(from, to)));
    }
    let moved = volume(
        "pvmove0",
        "\"READ\", \"WRITE\"",
        &[segment(0, 1, "mirror", "mirrors = [\n\"pv0\", 18,\n\"pv0\", 19\n]")],
    );
    let moving = pv::group(5, &[("pv0", EXTENTS)], &moved);
    assert_kept("a move", reason::KEPT_CHANGE_UNDER_WAY, |pv| pv.write(&moving));
}

#[test]
fn what_changes_nothing_is_read() {
    assert_read("as it is", |pv| pv.write(&description()));
    let cases = [
        ("max_lv = 0", "lock_type = \"none\""),
        ("max_lv = 0", "system_id = \"host\"\ntags = [\"pv0\", \"root\"]"),
        ("format = \"lvm2\"\n", ""),
        ("flags = []", "flags = [\"WRITE_LOCKED\"]"),
        (
            "\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []",
            "\"READ\", \"VISIBLE\"]\nflags = [\"ACTIVATION_SKIP\"]",
        ),
        ("max_lv = 0", "historical_logical_volumes {\nold {\nid = \"x\"\n}\n}"),
    ];
    for (from, to) in cases {
        assert_read(to, |pv| pv.write(&changed(from, to)));
    }
    for sector in 0..4 {
        assert_read("another sector", |pv| {
            pv.write(&description());
            pv.put(512, &[0; 512]);
            pv.write_label(sector, &[FIRST_AREA], |_| {});
        });
    }
    // A device that has grown, and labels of older tools, without an extension.
    assert_read("an older label", |pv| {
        pv.write(&description());
        pv.write_label(1, &[FIRST_AREA], |tail| tail[12 + 32 + 8 + 64..][..8].fill(0));
    });
}

#[test]
fn a_description_that_contradicts_itself_keeps_all() {
    let cases = [
        ("extent_size = 2048", "extent_size = 0"),
        ("extent_size = 2048", "extent_size = 99999999999"),
        ("seqno = 5", "seqno = \"5\""),
        ("vg {", "v/g {"),
        ("root {", "ro\u{e9}t {"),
        ("id = \"VG", "id = \"VGX"),
        ("physical_volumes {", "historical_logical_volumes {"),
        ("pe_start = 2048", "pe_start = 9223372036854775807"),
        ("pe_count = 20", "pe_count = 99999999999"),
        ("pe_count = 20", "pe_count = 13"),
        ("segment_count = 2", "segment_count = 3"),
        ("start_extent = 4", "start_extent = 5"),
        ("start_extent = 4", "start_extent = 3"),
        ("extent_count = 4", "extent_count = 0"),
        ("extent_count = 6", "extent_count = 5"),
        ("\"pv0\", 10", "\"pv0\", 5"),
        ("\"pv0\", 10", "\"pv0\", -1"),
        ("\"pv0\", 10", "\"pv0\", 17"),
        ("\"pv0\", 10", "\"pv7\", 10"),
        ("\"pv0\", 10", "\"pv0\""),
        ("stripe_count = 2", "stripe_count = 3"),
        ("stripe_count = 1", "stripe_count = 0"),
        ("stripe_size = 128", "strip_size = 128"),
        ("type = \"striped\"\n", ""),
        ("type = \"striped\"", "type = \"raid1\"\nraids = [\"pv0\"]"),
        ("status = [\"READ\", \"WRITE\", \"VISIBLE\"]", "status = [1]"),
        ("status = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []", "status = []\nflags = 1"),
        ("stripes = [", "strips = ["),
        ("logical_volumes {\n", "logical_volumes {\nx = 1\n"),
        ("max_lv = 0", "max_pv = 1"),
        ("creation_time", "}"),
    ];
    for (from, to) in cases {
        let write = |pv: &Pv<'_>| pv.write(&changed(from, to));
        assert_kept(&format!("{from} to {to}"), reason::KEPT_METADATA_INVALID, write);
    }
    let twice = pv::group(5, &[("pv0", EXTENTS), ("pv1", 1)], "").replace(&pv::id("pv1"), &pv::id("pv0"));
    assert_kept("one volume twice", reason::KEPT_METADATA_INVALID, |pv| pv.write(&twice));
    let many: String = (0..70_000).map(|number| format!("a{number} = 1\n")).collect();
    let many = changed("max_lv = 0\n", &many);
    assert_kept("many entries", reason::KEPT_LIMIT, |pv| pv.write(&many));
}

#[test]
fn places_that_do_not_fit_keep_all() {
    let geometry = reason::KEPT_GEOMETRY;
    for (from, to) in [
        ("pe_start = 2048", "pe_start = 4096"),
        ("pe_start = 2048", "pe_start = 0"),
        ("pe_count = 20", "pe_count = 21"),
    ] {
        assert_kept(to, geometry, |pv| pv.write(&changed(from, to)));
    }
    assert_kept("a device that was cut off", geometry, |pv| {
        Pv { device_bytes: pv.device_bytes + 512, ..*pv }.write(&description());
    });
    assert_kept("an area among the extents", geometry, |pv| {
        let area = (FIRST_AREA.0, FIRST_AREA.1 + 4096);
        pv.write_label(1, &[area], |_| {});
        pv.write_area(area, Header { text_offset: 512, ..Header::default() }, &description());
    });
    assert_kept("an area past the end", geometry, |pv| {
        pv.write(&description());
        pv.write_label(1, &[FIRST_AREA, (pv.device_bytes, MIB)], |_| {});
    });
    assert_kept("a text past the end of its area", geometry, |pv| {
        let area = (FIRST_AREA.0, 4096);
        pv.write_label(1, &[area], |_| {});
        pv.write_area(area, Header { text_offset: 4096, ..Header::default() }, &description());
    });
    assert_kept("a text that is longer than the ring", geometry, |pv| {
        let area = (FIRST_AREA.0, 1024);
        pv.write_label(1, &[area], |_| {});
        pv.write_area(area, Header { text_offset: 512, ..Header::default() }, &description()[..512]);
        pv.write_area(area, Header { text_offset: 600, ..Header::default() }, &"x".repeat(513));
    });
    assert_kept("a header of another place", geometry, |pv| {
        pv.write(&description());
        pv.write_label(1, &[(FIRST_AREA.0, FIRST_AREA.1 - 512)], |_| {});
    });
    assert_kept("a text longer than what is read", reason::KEPT_LIMIT, |pv| {
        pv.write_label(1, &[FIRST_AREA], |_| {});
        pv.write_area(
            FIRST_AREA,
            Header { text_offset: 512, ..Header::default() },
            &"x".repeat((MIB + 1) as usize),
        );
    });
}

#[test]
fn a_volume_without_a_group_is_kept() {
    let none = reason::KEPT_NO_VOLUME_GROUP;
    assert_kept("no areas", none, |pv| pv.write_label(1, &[], |_| {}));
    assert_kept("no text", none, |pv| {
        pv.write_label(1, &[FIRST_AREA], |_| {});
        pv.write_area(FIRST_AREA, Header::default(), "");
    });
    assert_kept("an area that is ignored", none, |pv| {
        pv.write(&description());
        pv.write_area(FIRST_AREA, Header { text_offset: 512, flags: 1, ..Header::default() }, &description());
    });
    assert_kept("another volume's description", reason::KEPT_METADATA_CONFLICT, |pv| {
        Pv { name: "pv7", ..*pv }.write(&description());
    });
}

#[test]
fn labels_and_headers_of_unknown_kinds_keep_all() {
    let unknown = reason::KEPT_UNKNOWN_FEATURE;
    let label = |change: fn(&mut [u8])| {
        move |pv: &Pv<'_>| {
            pv.write(&description());
            pv.write_label(1, &[FIRST_AREA], change);
        }
    };
    let extension = 12 + 32 + 8 + 64;
    assert_eq!(extension, 116);
    assert_kept("a newer extension", unknown, label(|tail| tail[116] = 3));
    assert_kept("a flag of the extension", unknown, label(|tail| tail[120] = 3));
    assert_kept("two data areas", reason::KEPT_METADATA_INVALID, label(|tail| tail[68] = 1));
    assert_kept("lists without an end", reason::KEPT_METADATA_INVALID, label(|tail| tail[52..].fill(1)));
    assert_kept("a label that starts outside", reason::KEPT_METADATA_INVALID, label(|tail| tail[1] = 2));
    assert_kept(
        "a label that starts in its header",
        reason::KEPT_METADATA_INVALID,
        label(|tail| tail[0] = 8),
    );
    assert_kept(
        "a boot loader among the extents",
        reason::KEPT_GEOMETRY,
        label(|tail| {
            tail[124..132].copy_from_slice(&DATA_START.to_le_bytes());
            tail[132..140].copy_from_slice(&512_u64.to_le_bytes());
        }),
    );
    assert_kept("two labels", reason::KEPT_METADATA_CONFLICT, |pv| {
        pv.write(&description());
        pv.write_label(3, &[FIRST_AREA], |_| {});
    });
    assert_kept("a label of another sector", reason::KEPT_CHECKSUM, |pv| {
        pv.write(&description());
        pv.put(512 + 8, &[2]);
    });
    let header = |offset: usize, byte: u8| {
        move |pv: &Pv<'_>| {
            pv.write(&description());
            let mut sector = vec![0; 512];
            std::os::unix::fs::FileExt::read_exact_at(pv.file, &mut sector, FIRST_AREA.0).unwrap();
            sector[offset] = byte;
            let sum = pv::checksum(&sector[4..]);
            sector[..4].copy_from_slice(&sum.to_le_bytes());
            pv.put(FIRST_AREA.0, &sector);
        }
    };
    assert_kept("a newer area", unknown, header(20, 2));
    assert_kept("a flag of the text", unknown, header(60, 2));
    assert_kept("a third text", unknown, header(89, 2));
    assert_kept("another magic", reason::KEPT_CHECKSUM, header(4, b'x'));
}

#[test]
fn a_change_that_was_not_completed_keeps_all() {
    let pending = |place: u64, length: u64| {
        move |pv: &Pv<'_>| {
            pv.write_label(1, &[FIRST_AREA], |_| {});
            let header = Header { text_offset: 512, pending: (place, length), ..Header::default() };
            pv.write_area(FIRST_AREA, header, &description());
        }
    };
    assert_kept("a text that is being written", reason::KEPT_CHANGE_UNDER_WAY, pending(8192, 1000));
    assert_read("a text that was written", pending(512, 1000));
}

#[test]
fn the_newest_of_two_areas_counts_and_both_must_be_sound() {
    let second = |pv: &Pv<'_>| (pv.device_bytes, MIB);
    let write = |texts: [&str; 2], flags: u32| {
        let texts = texts.map(str::to_owned);
        move |pv: &Pv<'_>| {
            let area = second(pv);
            pv.file.set_len(area.0 + area.1).unwrap();
            let device_bytes = area.0 + area.1;
            Pv { device_bytes, ..*pv }.write_label(1, &[FIRST_AREA, area], |_| {});
            let header = Header { text_offset: 512, ..Header::default() };
            pv.write_area(FIRST_AREA, header, &texts[0]);
            pv.write_area(area, Header { flags, ..header }, &texts[1]);
        }
    };
    let newest = description();
    let all = volume("all", SEEN, &[striped(0, EXTENTS, &[("pv0", 0)], 0)]);
    let older = pv::group(4, &[("pv0", EXTENTS)], "");
    let other = pv::group(5, &[("pv0", EXTENTS)], "");
    let newer = pv::group(6, &[("pv0", EXTENTS)], &all);
    assert_read("the same text", write([&newest, &newest], 0));
    assert_read("an older one behind", write([&newest, &older], 0));
    assert_read("an older one before", write([&older, &newest], 0));
    assert_read("a newer one that is ignored", write([&newest, &newer], 1));
    assert_kept("the same number", reason::KEPT_METADATA_CONFLICT, write([&newest, &other], 0));
    let foreign = older.replace(&pv::id("VG"), &pv::id("GV"));
    assert_kept("another group", reason::KEPT_METADATA_CONFLICT, write([&newest, &foreign], 0));
    assert_kept("a damaged one", reason::KEPT_CHECKSUM, |pv| {
        write([&newest, &older], 0)(pv);
        pv.put(second(pv).0 + 600, b"x");
    });
    // With the newer one in force every extent is used.
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("pv.raw");
    let file = pv::create(&path, 1);
    write([&newest, &newer], 0)(&pv::whole_file(&file, "pv0", EXTENTS));
    let image = open(&path);
    let layout = scan(&*image.disk);
    assert_eq!(reasons(&layout), Vec::<String>::new());
    assert!(free_ranges(&*image.disk, &layout).is_empty());
}

#[test]
fn a_text_goes_on_at_the_start_of_its_ring() {
    let text = description();
    let ends = [0, 1, 100, text.len() as u64 - 1];
    for behind in ends {
        assert_read("a wrapped text", |pv| {
            pv.write_label(1, &[FIRST_AREA], |_| {});
            let text_offset = FIRST_AREA.1 - text.len() as u64 + behind;
            pv.write_area(FIRST_AREA, Header { text_offset, ..Header::default() }, &text);
        });
    }
}

#[test]
fn hidden_volumes_use_their_extents() {
    let names = ["_tdata", "_tmeta", "_cdata", "_rimage_0", "_mimage_0", "_pmspare"];
    let hidden: Vec<_> = (0..)
        .zip(names)
        .map(|(extent, name)| volume(&format!("x{name}"), HIDDEN, &[striped(0, 1, &[("pv0", extent)], 0)]))
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("pv.raw");
    let file = pv::create(&path, 1);
    pv::whole_file(&file, "pv0", 8).write(&pv::group(1, &[("pv0", 8)], &hidden.concat()));
    let image = open(&path);
    let layout = scan(&*image.disk);
    let last = DATA_START + 6 * MIB..DATA_START + 8 * MIB;
    assert_eq!(free_ranges(&*image.disk, &layout), std::slice::from_ref(&last));
    assert!(volume_reasons(&layout).is_empty());
}
