//! Every image of the test set against what the peer says of it.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{TestImage, check_storage, images, members, peer_members};
use imageops_image::disk::{Disk, ExtentKind};
use imageops_image::format::{self, Format};
use imageops_image::inspect::{InspectOptions, Verdict, inspect};
use sha2::Digest as _;

/// The peer needs a key for it; our check does not.
const ENCRYPTED: &str = "variants/luks.qcow2";

fn is_qcow2(image: &TestImage) -> bool {
    image.name.ends_with(".qcow2")
}

#[test]
fn check_has_the_peers_figures() {
    let Some(images) = images("check_has_the_peers_figures") else { return };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for image in images.iter().filter(|image| image.name != ENCRYPTED) {
        let report = check_storage(image.storage());
        // The peer checks these formats without giving figures; we do not read them.
        let ours_alone = ["vmdk", "vdi", "vhdx", "qed", "parallels"];
        let expected = image.facts["check_rc"].as_u64().unwrap();
        if ours_alone.contains(&report.format.as_str()) {
            assert_eq!(report.outcome.exit_code(), 63, "{}", image.name);
            continue;
        }
        compared += 1;
        let figures = if is_qcow2(image) { peer_members(&image.facts["check"]) } else { None };
        if u64::from(report.outcome.exit_code()) != expected || members(&report) != figures {
            wrong.push(format!(
                "{}: exit {} for {expected}, {:?} for {figures:?}, {:?}",
                image.name,
                report.outcome.exit_code(),
                members(&report),
                report.failure
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 90, "{compared} images are too few");
}

#[test]
fn encrypted_image_is_checked_without_its_key() {
    let Some(images) = images("encrypted_image_is_checked_without_its_key") else { return };
    let image = images.iter().find(|image| image.name == ENCRYPTED).unwrap();
    let report = check_storage(image.storage());
    let figures = report.figures.unwrap();
    assert_eq!((figures.corruptions, figures.leaks, figures.check_errors), (0, 0, 0));
    assert!(figures.allocated_clusters > 0);
    assert_eq!(report.inspection.verdict, Verdict::Unsupported);
}

/// Why an image that the peer reads is refused; `None` for those we read.
fn refusal(image: &TestImage) -> Option<&'static str> {
    match image.name.as_str() {
        "variants/backing-mid.qcow2" | "variants/backing-top.qcow2" => Some("UNSAFE_BACKING_FILE"),
        "variants/data-file.qcow2" => Some("UNSAFE_DATA_FILE"),
        ENCRYPTED => Some("UNSUPPORTED_ENCRYPTION"),
        _ if !format::detect(&*image.storage()).unwrap().is_readable() => Some("UNSUPPORTED_FORMAT"),
        _ => None,
    }
}

#[test]
fn content_is_what_the_peer_reads() {
    let Some(images) = images("content_is_what_the_peer_reads") else { return };
    let mut compared = 0;
    for image in &images {
        let opened = format::open(image.storage(), None);
        if let Some(reason) = refusal(image) {
            let error = opened.err().unwrap();
            assert_eq!(error.reason, reason, "{}", image.name);
            continue;
        }
        let Some(expected) = image.facts["content_sha256"].as_str() else {
            // Opened or read by nobody: the peer's own error, or a disk too large to be written out.
            if let (Ok(opened), true) = (&opened, image.facts.get("read_error").is_some()) {
                let size = opened.disk.virtual_size_bytes();
                assert!(size > 1 << 40 || read_all(&opened.disk).is_err(), "{} was read", image.name);
            } else if image.facts.get("info").is_none() {
                assert!(opened.is_err(), "{} was opened", image.name);
            }
            continue;
        };
        let disk = opened.unwrap_or_else(|error| panic!("{}: {error}", image.name)).disk;
        assert_eq!(
            Some(disk.virtual_size_bytes()),
            image.facts["info"]["virtual-size"].as_u64(),
            "{}",
            image.name
        );
        assert_eq!(read_all(&disk).unwrap(), expected, "{}", image.name);
        compared += 1;
    }
    assert!(compared > 80, "{compared} images are too few");
}

/// The digest of the guest's bytes, read by several threads in pieces of odd sizes.
fn read_all(disk: &Arc<dyn Disk>) -> imageops_image::Result<String> {
    const PIECE: u64 = (1 << 20) + 4099;
    let size = disk.virtual_size_bytes();
    let pieces = size.div_ceil(PIECE);
    let next = AtomicU64::new(0);
    let (sender, receiver) = std::sync::mpsc::sync_channel(8);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let piece = next.fetch_add(1, Ordering::Relaxed);
                    if piece >= pieces {
                        break;
                    }
                    let mut buffer = vec![0xa5u8; PIECE.min(size - piece * PIECE) as usize];
                    let read = disk.read_at(&mut buffer, piece * PIECE);
                    if sender.send((piece, read.map(|()| buffer))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut digest = sha2::Sha256::new();
        let mut early = std::collections::BTreeMap::new();
        let mut expected = 0;
        for (piece, buffer) in receiver {
            early.insert(piece, buffer?);
            while let Some(buffer) = early.remove(&expected) {
                digest.update(&buffer);
                expected += 1;
            }
        }
        Ok(hex::encode(digest.finalize()))
    })
}

#[test]
fn extents_are_the_peers_map() {
    let Some(images) = images("extents_are_the_peers_map") else { return };
    let mut compared = 0;
    for image in images.iter().filter(|image| is_qcow2(image) && refusal(image).is_none()) {
        let (Some(map), Ok(opened)) = (image.facts["map"].as_array(), format::open(image.storage(), None))
        else {
            continue;
        };
        let Some(ours) = our_map(&*opened.disk) else { continue };
        let mut peers: Vec<(u64, u64, bool)> = Vec::new();
        for entry in map {
            let (start, length) = (entry[0].as_u64().unwrap(), entry[1].as_u64().unwrap());
            push(&mut peers, start, start + length, entry[2].as_u64().unwrap() == 1);
        }
        assert_eq!(ours, peers, "{}", image.name);
        compared += 1;
    }
    assert!(compared > 60, "{compared} images are too few");
}

/// Ranges with and without stored data; `None` where the tables are broken.
fn our_map(disk: &dyn Disk) -> Option<Vec<(u64, u64, bool)>> {
    let mut ranges = Vec::new();
    let mut offset = 0;
    while let Some(extent) = disk.extent_at(offset).ok()? {
        assert!(extent.range.start == offset && extent.range.end > offset, "{extent:?} at {offset}");
        let stored = matches!(extent.kind, ExtentKind::Data | ExtentKind::Compressed);
        push(&mut ranges, offset, extent.range.end, stored);
        offset = extent.range.end;
    }
    assert_eq!(offset, disk.virtual_size_bytes());
    Some(ranges)
}

fn push(ranges: &mut Vec<(u64, u64, bool)>, start: u64, end: u64, stored: bool) {
    match ranges.last_mut() {
        Some(last) if last.1 == start && last.2 == stored => last.1 = end,
        _ => ranges.push((start, end, stored)),
    }
}

/// Images on which the peer's check finds nothing, and which an inspection still does not take.
const NOT_VALID: [(&str, Verdict); 9] = [
    ("variants/backing-mid.qcow2", Verdict::Unsafe),
    ("variants/backing-top.qcow2", Verdict::Unsafe),
    ("variants/data-file.qcow2", Verdict::Unsafe),
    (ENCRYPTED, Verdict::Unsupported),
    ("corrupt/dirty-bit.qcow2", Verdict::Corrupt),
    ("corrupt/corrupt-bit.qcow2", Verdict::Corrupt),
    ("variants/lazy-dirty.qcow2", Verdict::Corrupt),
    ("corrupt/half-cluster-end.qcow2", Verdict::Invalid),
    ("formats/zero-length.img", Verdict::Invalid),
];

#[test]
fn verdicts() {
    let Some(images) = images("verdicts") else { return };
    for image in &images {
        let inspection = inspect(&image.storage(), &InspectOptions::default()).unwrap();
        let report = check_storage(image.storage());
        let consistent = matches!(report.outcome.exit_code(), 0 | 3);
        let listed = NOT_VALID.iter().find(|(name, _)| *name == image.name).map(|(_, verdict)| *verdict);
        let expected = match (listed, image.facts["check_rc"].as_u64()) {
            (Some(verdict), _) => verdict,
            _ if !inspection.format.is_readable() => Verdict::Unsupported,
            (None, Some(1)) => {
                assert_ne!(inspection.verdict, Verdict::Valid, "{}", image.name);
                continue;
            }
            _ if inspection.format != Format::Qcow2 || consistent => Verdict::Valid,
            _ => {
                assert!(report.inspection.verdict != Verdict::Valid, "{} passed", image.name);
                continue;
            }
        };
        assert_eq!(inspection.verdict, expected, "{}: {:?}", image.name, inspection.reasons);
        assert_eq!(inspection.verdict == Verdict::Valid, inspection.reasons.is_empty());
    }
}
