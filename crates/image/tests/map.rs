//! The map against the peer's, and its sums against what compress then does.

#![allow(clippy::unwrap_used, missing_docs, dead_code)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{TestImage, has_peer, images};
use imageops_image::compress::{CompressOptions, Compression, compress, dry_run, estimate};
use imageops_image::disk::ExtentKind;
use imageops_image::format::{self, Format, Image};
use imageops_image::map::{DiskMap, MapExtent, MapSummary};
use imageops_image::{Control, Error};
use serde_json::Value;

fn map(image: &Image) -> Result<(Vec<MapExtent>, MapSummary), Error> {
    let mut extents = Vec::new();
    let map = DiskMap::open(image, &Control::default())?;
    let summary = map.walk(&Control::default(), |extent| {
        extents.push(extent.clone());
        Ok::<_, Error>(())
    })?;
    Ok((extents, summary))
}

/// What the peer says of a range: start, end, data, zero, offset.
type Peer = (u64, u64, bool, bool, Option<u64>);

/// The peer's map, or nothing when it does not read the image.
fn peer_map(path: &Path, format: Format) -> Option<Vec<Peer>> {
    let format = if format == Format::Iso { Format::Raw } else { format };
    let output =
        Command::new("qemu-img").args(["map", "--output", "json", "-f", format.as_str()]).arg(path).output();
    let output = output.unwrap();
    if !output.status.success() {
        return None;
    }
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = |entry: &Value| {
        let start = entry["start"].as_u64().unwrap();
        let end = start + entry["length"].as_u64().unwrap();
        let (data, zero) = (entry["data"].as_bool().unwrap(), entry["zero"].as_bool().unwrap());
        (start, end, data, zero, entry["offset"].as_u64())
    };
    Some(list.as_array().unwrap().iter().map(one).collect())
}

/// Compares both maps piece by piece. Where the file itself has a hole behind data, some versions of the peer say that
/// they are data and zero at once; a hole of the file is no matter of the image's tables. What fills up the last sector
/// of a raw file, behind `end`, belongs to its data here and is a hole there.
fn compare(name: &str, ours: &[MapExtent], theirs: &[Peer], end: u64) {
    let (mut left, mut right) = (0, 0);
    let mut at = 0;
    let ours_end = ours.last().map_or(0, |extent| extent.range.end);
    let theirs_end = theirs.last().map_or(0, |extent| extent.1);
    assert!(theirs_end == ours_end && end + 512 > ours_end, "{name}: lengths differ");
    while let (Some(extent), Some((start, peer_end, data, zero, offset))) =
        (ours.get(left), theirs.get(right))
    {
        assert!(extent.range.contains(&at) && (*start..*peer_end).contains(&at), "{name}: gap at {at}");
        let stored = extent.kind.is_stored();
        assert_eq!(stored, *data, "{name}: data at {at}");
        assert!(stored != *zero || (stored && *zero), "{name}: zero at {at}");
        if let (Some(mine), Some(other)) = (extent.host_offset, offset) {
            assert_eq!(mine + (at - extent.range.start), other + (at - start), "{name}: offset at {at}");
        }
        if extent.kind == ExtentKind::Data {
            assert!(offset.is_some() && extent.host_offset.is_some(), "{name}: no offset at {at}");
        }
        at = extent.range.end.min(*peer_end);
        left += usize::from(extent.range.end == at);
        right += usize::from(*peer_end == at);
        if at >= end {
            return;
        }
    }
    assert_eq!(at, end, "{name}: ends too early");
}

/// Images of the set that can be read, with their maps.
fn readable(images: &[TestImage]) -> Vec<(&TestImage, Image, Vec<MapExtent>, MapSummary)> {
    let opened = images.iter().filter_map(|image| Some((image, format::open(image.storage(), None).ok()?)));
    opened
        .filter_map(|(test, image)| {
            let (extents, summary) = map(&image).ok()?;
            Some((test, image, extents, summary))
        })
        .collect()
}

#[test]
fn data_and_zeros_are_what_the_peer_says() {
    let test = "data_and_zeros_are_what_the_peer_says";
    let Some(images) = images(test) else { return };
    if !has_peer(test) {
        return;
    }
    let mut compared = 0;
    for (test, image, extents, summary) in readable(&images) {
        let totals = summary.totals;
        let sum = totals.stored_bytes() + totals.zero_bytes + totals.hole_bytes;
        assert_eq!(sum, summary.virtual_size_bytes, "{}", test.name);
        if let Some(theirs) = peer_map(&test.path, image.format) {
            let end = if image.qcow2.is_some() { u64::MAX - 512 } else { test.storage().size_bytes() };
            compare(&test.name, &extents, &theirs, end.min(summary.virtual_size_bytes));
            compared += 1;
        }
    }
    assert!(compared > 75, "{compared} images are too few");
}

#[test]
fn sums_are_those_of_compress() {
    let Some(images) = images("sums_are_those_of_compress") else { return };
    let mut dropped = 0;
    for (test, image, extents, summary) in readable(&images) {
        let told = estimate(&image, true, &Control::default()).unwrap();
        assert_eq!(summary.totals.stored_bytes(), told.stored_bytes, "{}", test.name);
        assert_eq!(summary.totals.dropped_bytes, told.dropped_bytes, "{}", test.name);
        assert_eq!((&summary.kept, summary.table), (&told.kept, told.table), "{}", test.name);
        for (part, other) in summary.parts.iter().zip(&told.parts) {
            assert_eq!(&part.report, other, "{}", test.name);
            assert_eq!(part.totals.dropped_bytes, other.dropped_bytes, "{}", test.name);
        }
        assert_eq!(summary.parts.len(), told.parts.len());
        let free = extents.iter().filter(|extent| extent.is_free);
        assert_eq!(free.map(|extent| extent.range.end - extent.range.start).sum::<u64>(), told.dropped_bytes);
        // The real thing, on what takes no long time.
        if told.stored_bytes < 12 << 20 && told.virtual_size_bytes < 1 << 40 {
            let output = tempfile::tempfile().unwrap();
            let options = CompressOptions { verify: false, ..Default::default() };
            let Ok(report) =
                compress(test.storage(), Some(image.format), &output, &options, &Control::default())
            else {
                continue;
            };
            assert_eq!(report.dropped_bytes, told.dropped_bytes, "{}", test.name);
            dropped += usize::from(report.dropped_bytes > 0);
        }
    }
    assert!(dropped > 20, "{dropped} images are too few");
}

/// What the extents hold of the file is no more than the file: nothing is counted twice.
#[test]
fn stored_bytes_fit_into_the_file() {
    let Some(images) = images("stored_bytes_fit_into_the_file") else { return };
    for (test, image, extents, summary) in readable(&images) {
        if test.name.starts_with("corrupt/") {
            continue;
        }
        let stored: u64 = extents.iter().map(|extent| extent.stored_bytes).sum();
        let compressed = extents.iter().filter(|extent| extent.kind == ExtentKind::Compressed);
        let guest: u64 = compressed.map(|extent| extent.range.end - extent.range.start).sum();
        let cluster = image.qcow2.as_ref().map_or(512, |qcow2| qcow2.header().cluster_bytes());
        // A stream ends somewhere in its last sector; the next one starts there.
        let shared = guest.div_ceil(cluster) * 511;
        let length = test.storage().size_bytes().next_multiple_of(512);
        assert!(stored <= length + shared, "{}: {stored} of {length}", test.name);
        assert_eq!(stored > 0, summary.totals.stored_bytes() > 0, "{}", test.name);
    }
}

/// A dry run has the figures of the run, and its estimate of the length is near.
#[test]
fn a_dry_run_tells_what_the_run_does() {
    let Some(images) = images("a_dry_run_tells_what_the_run_does") else { return };
    let guests = ["debian-ext4.qcow2", "data-ntfs.qcow2", "variants/zlib.qcow2", "variants/zstd.qcow2"];
    let chosen = |image: &&TestImage| guests.contains(&image.name.as_str()) || image.name.starts_with("fs/e");
    let mut compared = 0;
    for test in images.iter().filter(chosen) {
        for (compression, drop_free) in [(Compression::Zlib, true), (Compression::Zstd, false)] {
            let options = CompressOptions { compression, drop_free, verify: false, ..Default::default() };
            let image = format::open(test.storage(), None).unwrap();
            let told = dry_run(&image, &options, &Control::default()).unwrap();
            let output = tempfile::tempfile().unwrap();
            let report =
                compress(test.storage(), Some(image.format), &output, &options, &Control::default()).unwrap();
            assert_eq!(told.estimate.dropped_bytes, report.dropped_bytes, "{}", test.name);
            assert_eq!(told.estimate.parts, report.parts, "{}", test.name);
            assert_eq!(told.estimate.kept, report.kept, "{}", test.name);
            let (near, length) = (told.output_bytes_estimate, report.output_bytes);
            // Tables come in whole clusters: a small file is estimated to some of them.
            assert!(near.abs_diff(length) < length / 10 + (192 << 10), "{}: {near} for {length}", test.name);
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared} are too few");
}
