//! The security contract, by the numbers of its rules: what a header may not say, and what no file may do to a reader.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::check_storage;
use imageops_image::check::{CheckOptions, check};
use imageops_image::compress::{CompressOptions, compress};
use imageops_image::convert::{ConvertOptions, convert_to_raw};
use imageops_image::format::{self, Format};
use imageops_image::inspect::{InspectOptions, Inspection, PrefixVerdict, Verdict, inspect, inspect_prefix};
use imageops_image::storage::Storage;
use imageops_image::{Control, ErrorKind};
use proptest::prelude::*;
use rustix::time::{ClockId, clock_gettime};

const CLUSTER: usize = 512;

/// A sound image of one megabyte with clusters of 512 bytes: three clusters of data, the rest not allocated.
fn sound(version: u32) -> Vec<u8> {
    let mut bytes = vec![0u8; 9 * CLUSTER];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    put_u32(&mut bytes, 4, version);
    put_u32(&mut bytes, 20, 9);
    put_u64(&mut bytes, 24, 1 << 20);
    put_u32(&mut bytes, 36, 32);
    put_u64(&mut bytes, 40, 3 * CLUSTER as u64);
    put_u64(&mut bytes, 48, CLUSTER as u64);
    put_u32(&mut bytes, 56, 1);
    if version == 3 {
        put_u32(&mut bytes, 96, 4);
        put_u32(&mut bytes, 100, 104);
    }
    put_u64(&mut bytes, CLUSTER, 2 * CLUSTER as u64);
    for cluster in 0..9 {
        bytes[2 * CLUSTER + cluster * 2 + 1] = 1;
    }
    put_u64(&mut bytes, 3 * CLUSTER, (1 << 63) | (4 * CLUSTER as u64));
    for entry in 0..3 {
        put_u64(&mut bytes, 4 * CLUSTER + entry * 8, 1 << 63 | ((5 + entry) * CLUSTER) as u64);
    }
    put_u64(&mut bytes, 4 * CLUSTER + 24, 1 << 63 | (8 * CLUSTER) as u64);
    for (index, byte) in bytes[5 * CLUSTER..].iter_mut().enumerate() {
        *byte = (index % 251) as u8 + 1;
    }
    bytes
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

fn with(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut bytes);
    bytes
}

fn look(bytes: &[u8], declared_format: Option<Format>) -> Inspection {
    let storage: Arc<dyn Storage> = Arc::new(bytes.to_vec());
    inspect(&storage, &InspectOptions { declared_format, ..Default::default() }).unwrap()
}

/// The image is refused with this verdict and code by the whole inspection, by its prefix and by the reader.
fn assert_refused(what: &str, bytes: &[u8], verdict: Verdict, code: &str) {
    let inspection = look(bytes, None);
    assert_eq!(inspection.verdict, verdict, "{what}: {:?}", inspection.reasons);
    assert!(inspection.reasons.iter().any(|reason| reason.code == code), "{what}: {:?}", inspection.reasons);
    let PrefixVerdict::Refused { verdict: early, reasons } = inspect_prefix(bytes, None, None) else {
        panic!("{what}: the prefix was not refused");
    };
    assert_eq!(early, verdict, "{what}: {reasons:?}");
    assert!(reasons.iter().any(|reason| reason.code == code), "{what}: {reasons:?}");
}

#[test]
fn sound_images_are_taken() {
    for version in [2, 3] {
        let bytes = sound(version);
        assert_eq!(
            look(&bytes, Some(Format::Qcow2)).verdict,
            Verdict::Valid,
            "{:?}",
            look(&bytes, None).reasons
        );
        assert_eq!(check_storage(Arc::new(bytes.clone())).outcome.exit_code(), 0);
        assert_eq!(
            inspect_prefix(&bytes, Some(bytes.len() as u64), Some(Format::Qcow2)),
            PrefixVerdict::Undecided
        );
        let disk = format::open(Arc::new(bytes.clone()), None).unwrap().disk;
        let mut buffer = vec![0u8; 5 * CLUSTER];
        disk.read_at(&mut buffer, 0).unwrap();
        assert_eq!(buffer[..4 * CLUSTER], bytes[5 * CLUSTER..]);
        assert!(buffer[4 * CLUSTER..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn sec_01_backing_files_are_refused_by_any_mark() {
    let names: [&[u8]; 12] = [
        b"base.qcow2",
        b"/etc/passwd",
        b"../up",
        b"json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
        b"nbd:localhost:10809",
        b"ssh://host/file",
        b"http://host/file",
        b"/dev/sda",
        b"self.qcow2",
        b"",
        b"\xff\xfe\x00",
        b"file:plain",
    ];
    for version in [2, 3] {
        for name in names {
            let bytes = with(sound(version), |bytes| {
                put_u64(bytes, 8, 200);
                put_u32(bytes, 16, name.len() as u32);
                bytes[200..200 + name.len()].copy_from_slice(name);
            });
            assert_refused("name", &bytes, Verdict::Unsafe, "UNSAFE_BACKING_FILE");
            let refused = format::open(Arc::new(bytes), None).err().unwrap();
            assert_eq!(refused.reason, "UNSAFE_BACKING_FILE");
        }
        // Offset and length: each alone, at both ends of their range, beyond the header's cluster.
        for (offset, length) in [
            (0, 1),
            (0, 1023),
            (0, u32::MAX),
            (1, 0),
            (200, 0),
            (CLUSTER as u64, 5),
            (CLUSTER as u64 - 1, 5),
            (1 << 40, 5),
            (u64::MAX, u32::MAX),
            (1 << 63, 0),
        ] {
            let bytes = with(sound(version), |bytes| {
                put_u64(bytes, 8, offset);
                put_u32(bytes, 16, length);
            });
            assert_refused(&format!("{offset} {length}"), &bytes, Verdict::Unsafe, "UNSAFE_BACKING_FILE");
            assert!(format::open(Arc::new(bytes), None).is_err());
        }
    }
}

#[test]
fn sec_01_a_backing_name_does_not_keep_the_check_from_its_figures() {
    let bytes = with(sound(3), |bytes| {
        put_u64(bytes, 8, 200);
        put_u32(bytes, 16, 5);
        bytes[200..205].copy_from_slice(b"other");
    });
    let report = check_storage(Arc::new(bytes));
    assert_eq!((report.outcome.exit_code(), report.inspection.verdict), (0, Verdict::Unsafe));
    assert_eq!(report.figures.unwrap().allocated_clusters, 4);
}

#[test]
fn sec_02_external_data_files_are_refused_by_each_mark_alone() {
    let extension = |bytes: &mut Vec<u8>, at: usize| {
        put_u32(bytes, at, 0x4441_5441);
        put_u32(bytes, at + 4, 4);
        bytes[at + 8..at + 12].copy_from_slice(b"data");
    };
    let marks: [(&str, Vec<u8>); 6] = [
        ("bit, version 3", with(sound(3), |bytes| put_u64(bytes, 72, 4))),
        ("name, version 3", with(sound(3), |bytes| extension(bytes, 104))),
        ("raw external, version 3", with(sound(3), |bytes| put_u64(bytes, 88, 2))),
        ("bit, version 2", with(sound(2), |bytes| put_u64(bytes, 72, 4))),
        ("name, version 2", with(sound(2), |bytes| extension(bytes, 72))),
        ("raw external, version 2", with(sound(2), |bytes| put_u64(bytes, 88, 2))),
    ];
    for (what, bytes) in marks {
        assert_refused(what, &bytes, Verdict::Unsafe, "UNSAFE_DATA_FILE");
    }
}

#[test]
fn sec_03_incompatible_features_are_taken_from_a_list() {
    for bit in 0..64 {
        let bytes = with(sound(3), |bytes| put_u64(bytes, 72, 1 << bit));
        let inspection = look(&bytes, None);
        let (verdict, code) = match bit {
            0 => (Verdict::Corrupt, "CORRUPT_DIRTY"),
            1 => (Verdict::Corrupt, "CORRUPT_MARKED"),
            2 => (Verdict::Unsafe, "UNSAFE_DATA_FILE"),
            // A bit that its type contradicts, and subclusters in clusters that are too small for them.
            3 => (Verdict::Invalid, "INVALID_COMPRESSION"),
            4 => (Verdict::Invalid, "INVALID_CLUSTER_BITS"),
            _ => (Verdict::Invalid, "INVALID_INCOMPATIBLE_FEATURE"),
        };
        assert_eq!(inspection.verdict, verdict, "bit {bit}: {:?}", inspection.reasons);
        assert_eq!(inspection.reasons[0].code, code, "bit {bit}");
        if bit > 4 {
            assert_eq!(inspection.reasons[0].field.as_deref(), Some("incompatible_features"));
            assert!(format::open(Arc::new(bytes.clone()), None).is_err());
            assert_refused("bit", &bytes, Verdict::Invalid, code);
        }
    }
    for bit in 0..64 {
        let unknown = 1u64 << bit & !1;
        let bytes = with(sound(3), |bytes| put_u64(bytes, 80, 1 << bit));
        let inspection = look(&bytes, None);
        assert_eq!(inspection.verdict, Verdict::Valid);
        assert_eq!(inspection.qcow2.unwrap().unknown_compatible_features, unknown);
        let bytes = with(sound(3), |bytes| put_u64(bytes, 88, 1 << bit & !2));
        let inspection = look(&bytes, None);
        assert_eq!(inspection.verdict, Verdict::Valid);
        assert_eq!(inspection.qcow2.unwrap().unknown_autoclear_features, unknown & !2);
    }
}

/// The least of each format that its detector takes.
fn signatures() -> Vec<(Format, Vec<u8>)> {
    let at = |offset: usize, magic: &[u8]| {
        with(vec![0u8; 64 << 10], |bytes| {
            bytes[offset..offset + magic.len()].copy_from_slice(magic);
        })
    };
    vec![
        (Format::Raw, vec![0u8; 64 << 10]),
        (Format::Qcow2, sound(3)),
        (Format::Qcow1, at(0, b"QFI\xfb\0\0\0\x01")),
        (Format::Vmdk, at(0, b"KDMV")),
        (Format::Vmdk, at(0, b"# Disk DescriptorFile\nversion=1\n")),
        (Format::Vmdk, at(0, b"#\n  # disk descriptorFILE\r\n")),
        (Format::Vhdx, at(0, b"vhdxfile")),
        (Format::Vhd, at(0, b"conectix")),
        (Format::Vhd, at(65536 - 512, b"conectix")),
        (Format::Vhd, at(65536 - 511, b"conectix")),
        (Format::Vdi, at(64, b"\x7f\x10\xda\xbe")),
        (Format::Qed, at(0, b"QED\0")),
        (Format::Parallels, at(0, b"WithoutFreeSpace")),
        (Format::Parallels, at(0, b"WithouFreSpacExt")),
        (Format::Luks, at(0, b"LUKS\xba\xbe\0\x02")),
        (Format::Iso, at(32769, b"CD001")),
    ]
}

#[test]
fn sec_07_content_and_declaration_must_agree() {
    for (format, bytes) in signatures() {
        assert_eq!(format::detect(&bytes).unwrap(), format);
        for declared in Format::ALL {
            let inspection = look(&bytes, Some(declared));
            let mismatch = inspection.reasons.iter().any(|reason| reason.code == "INVALID_FORMAT_MISMATCH");
            assert_eq!(
                mismatch,
                declared != format,
                "{format} declared as {declared}: {:?}",
                inspection.reasons
            );
            let taken = declared == format && format.is_readable();
            assert_eq!(inspection.verdict == Verdict::Valid, taken, "{format} as {declared}");
        }
    }
}

#[test]
fn sec_07_a_given_format_is_not_probed() {
    let bytes = sound(3);
    let image = format::open(Arc::new(bytes.clone()), Some(Format::Raw)).unwrap();
    let mut buffer = [0u8; 4];
    image.disk.read_at(&mut buffer, 0).unwrap();
    assert_eq!((image.format, &buffer), (Format::Raw, b"QFI\xfb"));
    let options = CheckOptions { format: Some(Format::Raw), ..Default::default() };
    let report = check(Arc::new(bytes), &options, &Control::default()).unwrap();
    assert_eq!(report.outcome.exit_code(), 63);
    assert!(format::open(Arc::new(vec![0u8; 4096]), Some(Format::Qcow2)).is_err());
}

#[test]
fn sec_09_several_formats_at_once_are_refused() {
    for (first, bytes) in signatures() {
        let magics: [(Format, usize, &[u8]); 4] = [
            (Format::Vdi, 64, b"\x7f\x10\xda\xbe"),
            (Format::Iso, 32769, b"CD001"),
            (Format::Vhd, usize::MAX, b"conectix"),
            (Format::Dmg, usize::MAX, b"koly"),
        ];
        for (second, offset, magic) in magics {
            if second == first || first == Format::Raw {
                continue;
            }
            let mut both = bytes.clone();
            both.resize(128 << 10, 0);
            let at = if offset == usize::MAX { both.len() - 512 } else { offset };
            both[at..at + magic.len()].copy_from_slice(magic);
            // A footer that is no longer at the end is none.
            if format::detect(&with(both.clone(), |bytes| bytes[at] = 0)).unwrap() != first {
                continue;
            }
            let inspection = look(&both, None);
            assert_eq!(inspection.verdict, Verdict::Unsafe, "{first} and {second}: {:?}", inspection.reasons);
            assert!(inspection.reasons.iter().any(|reason| reason.code == "UNSAFE_POLYGLOT"));
        }
    }
    // A hybrid install disc has a partition table, which is no format of its own.
    let hybrid = with(signatures().pop().unwrap().1, |bytes| {
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes[512..520].copy_from_slice(b"EFI PART");
    });
    assert_eq!(look(&hybrid, Some(Format::Iso)).verdict, Verdict::Valid);
}

#[test]
fn sec_11_no_header_field_is_believed() {
    let size = sound(3).len() as u64;
    let fields_32 = [4, 16, 20, 32, 36, 56, 60, 96, 100];
    let fields_64 = [8, 24, 40, 48, 64, 72, 80, 88];
    let values = [
        0,
        1,
        2,
        511,
        512,
        513,
        1 << 31,
        1 << 62,
        1 << 63,
        u64::MAX,
        u64::MAX - 1,
        u64::MAX - 511,
        i64::MAX as u64,
    ];
    let values = values.into_iter().chain([size - 1, size, size + 1, 0x7fff_ffff, 0xffff_ffff, 0xffff_fffe]);
    for value in values {
        for version in [2, 3] {
            for at in fields_32 {
                try_everything(&with(sound(version), |bytes| put_u32(bytes, at, value as u32)));
            }
            for at in fields_64 {
                try_everything(&with(sound(version), |bytes| put_u64(bytes, at, value)));
            }
            // Entries of L1, L2, refcount table, and the first words of data taken for a table.
            for at in [CLUSTER, 2 * CLUSTER, 3 * CLUSTER, 4 * CLUSTER, 4 * CLUSTER + 8] {
                try_everything(&with(sound(version), |bytes| put_u64(bytes, at, value)));
            }
        }
    }
}

/// Everything that reads an image, in bounded time and without a panic. Whatever is taken as valid can be read.
fn try_everything(bytes: &[u8]) {
    let started = Instant::now();
    let storage: Arc<dyn Storage> = Arc::new(bytes.to_vec());
    let inspection = look(bytes, None);
    let _ = inspect_prefix(bytes, None, None);
    let _ = inspect_prefix(bytes, Some(bytes.len() as u64), Some(Format::Qcow2));
    for format in [None, Some(Format::Qcow2)] {
        let options = CheckOptions { md5: false, sha256: false, threads: 1, format };
        let report = check(Arc::clone(&storage), &options, &Control::default()).unwrap();
        assert!(report.findings.len() <= 100);
        if let Ok(image) = format::open(Arc::clone(&storage), format) {
            let size = image.disk.virtual_size_bytes();
            let mut buffer = vec![0u8; 70_000];
            for offset in [0, 1000, size.saturating_sub(50_000), size, u64::MAX - 10] {
                let read = image.disk.read_at(&mut buffer, offset);
                if inspection.verdict == Verdict::Valid && report.outcome.exit_code() == 0 {
                    assert!(read.is_ok(), "{:?}", read.err());
                }
            }
            let mut offset = 0;
            for _ in 0..100 {
                match image.disk.extent_at(offset) {
                    Ok(Some(extent)) => offset = extent.range.end,
                    _ => break,
                }
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(5), "took {:?}", started.elapsed());
}

#[test]
fn sec_12_a_terabyte_on_one_cluster_streams() {
    // Clusters of 2 MiB: an L2 table maps 512 GiB, and two L1 entries share it; all of its entries name one cluster.
    let cluster = 2usize << 20;
    let mut bytes = vec![0u8; 6 * cluster];
    bytes[..104].copy_from_slice(&sound(3)[..104]);
    put_u32(&mut bytes, 20, 21);
    put_u64(&mut bytes, 24, 1 << 40);
    put_u32(&mut bytes, 36, 2);
    put_u64(&mut bytes, 40, 3 * cluster as u64);
    put_u64(&mut bytes, 48, cluster as u64);
    put_u64(&mut bytes, cluster, 2 * cluster as u64);
    for index in 0..6 {
        bytes[2 * cluster + index * 2 + 1] = 1;
    }
    put_u64(&mut bytes, 3 * cluster, 4 * cluster as u64);
    put_u64(&mut bytes, 3 * cluster + 8, 4 * cluster as u64);
    for entry in 0..cluster / 8 {
        put_u64(&mut bytes, 4 * cluster + entry * 8, 5 * cluster as u64);
    }
    bytes[5 * cluster..].fill(7);
    let storage: Arc<dyn Storage> = Arc::new(bytes);
    assert_eq!(inspect(&storage, &InspectOptions::default()).unwrap().verdict, Verdict::Corrupt);
    let report = check_storage(Arc::clone(&storage));
    let figures = report.figures.unwrap();
    assert_eq!(figures.allocated_clusters, 1 << 19);
    // Each reference beyond 65535 to the cluster, and the two tables' own.
    assert!(figures.corruptions > (1 << 19) - 65_536);
    let disk = format::open(storage, None).unwrap().disk;
    let mut buffer = vec![0u8; 1 << 20];
    for offset in (0..1u64 << 40).step_by(1 << 36) {
        disk.read_at(&mut buffer, offset).unwrap();
        assert!(buffer.iter().all(|byte| *byte == 7));
    }
}

/// An image with one compressed cluster of 64 KiB, whose stream is given.
fn compressed(stream: &[u8], zstd: bool) -> Vec<u8> {
    let cluster = 64usize << 10;
    let mut bytes = vec![0u8; 7 * cluster];
    bytes[..104].copy_from_slice(&sound(3)[..104]);
    put_u32(&mut bytes, 20, 16);
    put_u32(&mut bytes, 36, 1);
    put_u64(&mut bytes, 40, 3 * cluster as u64);
    put_u64(&mut bytes, 48, cluster as u64);
    put_u64(&mut bytes, cluster, 2 * cluster as u64);
    if zstd {
        put_u64(&mut bytes, 72, 8);
        put_u32(&mut bytes, 100, 112);
        bytes[104] = 1;
    }
    put_u64(&mut bytes, 3 * cluster, 4 * cluster as u64);
    let sectors = stream.len().div_ceil(512) as u64 - 1;
    put_u64(&mut bytes, 4 * cluster, (1 << 62) | (sectors << 54) | (5 * cluster as u64));
    bytes[5 * cluster..5 * cluster + stream.len()].copy_from_slice(stream);
    bytes
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut coder = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
    let mut out = vec![0u8; coder.deflate_compress_bound(bytes.len())];
    let length = coder.deflate_compress(bytes, &mut out).unwrap();
    out.truncate(length);
    out
}

fn read_first_cluster(image: Vec<u8>) -> imageops_image::Result<Vec<u8>> {
    let disk = format::open(Arc::new(image), None)?.disk;
    let mut buffer = vec![0u8; 64 << 10];
    disk.read_at(&mut buffer, 0).map(|()| buffer)
}

#[test]
fn sec_13_compressed_clusters_hold_exactly_one_cluster() {
    let cluster = vec![9u8; 64 << 10];
    let garbage = |mut stream: Vec<u8>| {
        stream.extend_from_slice(&[0xff; 700]);
        stream
    };
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).unwrap();
    assert_eq!(read_first_cluster(compressed(&deflated(&cluster), false)).unwrap(), cluster);
    assert_eq!(read_first_cluster(compressed(&garbage(deflated(&cluster)), false)).unwrap(), cluster);
    assert_eq!(read_first_cluster(compressed(&zstd(&cluster), true)).unwrap(), cluster);
    assert_eq!(read_first_cluster(compressed(&garbage(zstd(&cluster)), true)).unwrap(), cluster);

    let bomb = vec![0u8; 64 << 20];
    let long = vec![9u8; (64 << 10) + 1];
    let mut wide = Vec::new();
    {
        // A frame that asks for a window of 2 GiB and does not say how much it holds.
        use std::io::Write as _;
        let mut encoder = zstd::stream::write::Encoder::new(&mut wide, 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&cluster).unwrap();
        encoder.finish().unwrap();
        wide[5] = 0xa8;
    }
    let bad = [
        ("short", compressed(&deflated(&cluster[1..]), false)),
        ("long", compressed(&deflated(&long), false)),
        ("bomb", compressed(&deflated(&bomb), false)),
        ("cut", compressed(&deflated(&cluster)[..20], false)),
        ("noise", compressed(&[0xff; 300], false)),
        ("empty", compressed(&[0; 300], false)),
        ("zstd short", compressed(&zstd(&cluster[1..]), true)),
        ("zstd long", compressed(&zstd(&long), true)),
        ("zstd bomb", compressed(&zstd(&bomb), true)),
        ("zstd cut", compressed(&zstd(&cluster)[..10], true)),
        ("zstd window", compressed(&wide, true)),
        ("zstd noise", compressed(&[0xff; 300], true)),
    ];
    for (what, image) in bad {
        let started = Instant::now();
        let error = read_first_cluster(image).err().unwrap_or_else(|| panic!("{what} was read"));
        assert_eq!(error.reason, "CORRUPT_COMPRESSED_CLUSTER", "{what}");
        assert!(started.elapsed() < Duration::from_secs(1), "{what} took {:?}", started.elapsed());
    }
}

#[test]
fn sec_14_declared_sizes_have_a_limit() {
    let bytes = with(sound(3), |bytes| {
        put_u32(bytes, 20, 16);
        put_u64(bytes, 24, (16 << 40) + 512);
        put_u32(bytes, 36, 32_769);
        put_u64(bytes, 40, 1 << 20);
        put_u64(bytes, 48, 1 << 16);
    });
    assert_refused("one sector over", &bytes, Verdict::Unsafe, "UNSAFE_VIRTUAL_SIZE");
    let promise = with(sound(3), |bytes| put_u64(bytes, 24, u64::MAX));
    assert_refused("8 EiB", &promise, Verdict::Unsafe, "UNSAFE_VIRTUAL_SIZE");
}

#[test]
fn sec_15_work_grows_with_the_file() {
    // Header extensions and snapshots, twice as many each time.
    let time = |count: usize| {
        let mut bytes = vec![0u8; (2 << 20) + count * 64];
        bytes[..104].copy_from_slice(&sound(3)[..104]);
        put_u32(&mut bytes, 20, 16);
        put_u32(&mut bytes, 36, 1);
        put_u64(&mut bytes, 40, 3 << 16);
        put_u64(&mut bytes, 48, 1 << 16);
        put_u32(&mut bytes, 60, count as u32);
        put_u64(&mut bytes, 64, 1 << 20);
        for at in (104..60_000).step_by(8) {
            put_u32(&mut bytes, at, 0x1234_5678);
        }
        let storage: Arc<dyn Storage> = Arc::new(bytes);
        // Of this thread alone: what else the machine does is no work of ours.
        let worked = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let before = worked();
        for _ in 0..8 {
            let _ = inspect(&storage, &InspectOptions::default()).unwrap();
            let _ = check_storage(Arc::clone(&storage));
        }
        worked() - before
    };
    time(10_000);
    let (once, twice) = (time(20_000).max(Duration::from_millis(5)), time(40_000));
    // Twice the entries in about twice the time; caches that are shared need some room.
    assert!(twice < once * 4, "{once:?}, then {twice:?}");
}

#[test]
fn sec_16_every_cut_is_noticed() {
    for (what, whole) in [("version 2", sound(2)), ("version 3", sound(3))] {
        for length in 0..whole.len() {
            let cut = &whole[..length];
            let inspection = look(cut, Some(Format::Qcow2));
            assert!(
                matches!(inspection.verdict, Verdict::Invalid | Verdict::Corrupt),
                "{what} cut at {length}: {:?}",
                inspection.reasons
            );
            try_everything(cut);
        }
    }
    let cluster: Vec<u8> =
        (0..65_536u32).map(|index| (index.wrapping_mul(0x9e37_79b9) >> 27) as u8).collect();
    let stream = deflated(&cluster);
    let whole = compressed(&stream, false);
    for length in (0..(5 << 16) + stream.len()).step_by(997).chain([(5 << 16) + stream.len() - 1]) {
        let inspection = look(&whole[..length], Some(Format::Qcow2));
        assert!(inspection.verdict >= Verdict::Corrupt, "compressed, cut at {length}");
    }
}

/// Zeros in the place of what is missing would pass for the disk, and be verified as that.
#[test]
fn sec_16_nothing_is_made_of_what_was_cut_off() {
    for (what, whole) in [("version 2", sound(2)), ("version 3", sound(3))] {
        for length in (0..whole.len()).step_by(61).chain([whole.len() - 1]) {
            for (made, outcome) in make_all(&whole[..length]) {
                let kind = outcome.err().unwrap_or_else(|| panic!("{what} cut at {length}: {made}")).kind;
                assert!(kind == ErrorKind::Invalid, "{what} cut at {length}: {made}: {kind:?}");
            }
        }
        for (made, outcome) in make_all(&whole) {
            assert!(outcome.is_ok(), "{what}: {made}: {outcome:?}");
        }
    }
    // What does not compress is stored in the stream as it is: with zeros behind the cut, it decodes to a whole cluster.
    for zeros in [16, 20, 24, 26, 28, 30] {
        let mut cluster = vec![0u8; 64 << 10];
        let mut noise = 0x2545_f491_4f6c_dd1du64;
        for byte in &mut cluster[zeros << 10..] {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            *byte = noise as u8;
        }
        let stream = deflated(&cluster);
        let whole = compressed(&stream, false);
        let end = (5 << 16) + stream.len();
        assert!(make_all(&whole[..end]).iter().all(|(_, outcome)| outcome.is_ok()), "{zeros} KiB of zeros");
        for cut in (1..=16).map(|sectors| sectors * 512).chain([1]) {
            let cut_off = &whole[..end - cut];
            let inspection = look(cut_off, Some(Format::Qcow2));
            assert!(inspection.verdict >= Verdict::Corrupt, "{zeros} KiB of zeros, {cut} bytes cut off");
            for (made, outcome) in make_all(cut_off) {
                assert!(outcome.is_err(), "{zeros} KiB of zeros, {cut} bytes cut off: {made}");
            }
        }
    }
}

/// What comes of each way to make another image of this one.
fn make_all(bytes: &[u8]) -> [(&'static str, imageops_image::Result<()>); 2] {
    let storage = || -> Arc<dyn Storage> { Arc::new(bytes.to_vec()) };
    let (format, control) = (Some(Format::Qcow2), Control::default());
    let output = || tempfile::tempfile().unwrap();
    let compressed = compress(storage(), format, &output(), &CompressOptions::default(), &control);
    let converted = convert_to_raw(storage(), format, &output(), &ConvertOptions::default(), &control);
    [("compressed", compressed.map(drop)), ("converted", converted.map(drop))]
}

#[test]
fn sec_18_a_key_that_takes_for_ever_costs_nothing() {
    let bytes = with(sound(3), |bytes| {
        put_u32(bytes, 32, 2);
        put_u32(bytes, 104, 0x0537_be77);
        put_u32(bytes, 108, 16);
        put_u64(bytes, 112, 8 * CLUSTER as u64);
        put_u64(bytes, 120, CLUSTER as u64);
        put_u32(bytes, 8 * CLUSTER + 100, 1 << 31);
    });
    let started = Instant::now();
    assert_refused("luks", &bytes, Verdict::Unsupported, "UNSUPPORTED_ENCRYPTION");
    assert_eq!(format::open(Arc::new(bytes), None).err().unwrap().reason, "UNSUPPORTED_ENCRYPTION");
    assert!(started.elapsed() < Duration::from_secs(1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn sec_17_random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..5000), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic && bytes.len() > 104 {
            bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        }
        try_everything(&bytes);
    }

    #[test]
    fn sec_17_random_damage_does_no_harm(
        version in 2u32..4,
        changes in prop::collection::vec((0usize..5 * CLUSTER, any::<u8>()), 1..12),
    ) {
        let mut bytes = sound(version);
        for (at, value) in changes {
            bytes[at] = value;
        }
        try_everything(&bytes);
    }
}
