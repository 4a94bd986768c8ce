//! Random damage to the metadata of images, judged by the peer and by us: the same figures, the same exit status.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{TestImage, check_storage, has_peer, images, members, peer_members};
use imageops_image::Control;
use imageops_image::check::{CheckOptions, FINDINGS_MAX, check};
use imageops_image::format::qcow2::Header;
use serde_json::Value;

/// Images whose metadata are damaged, and how often each.
const VARIANTS: [&str; 14] = [
    "variants/v3-4k.qcow2",
    "variants/v2-4k.qcow2",
    "variants/extl2-16k.qcow2",
    "variants/extl2-sub.qcow2",
    "variants/snapshots.qcow2",
    "variants/snapshots-zlib.qcow2",
    "variants/zlib-4k.qcow2",
    "variants/zstd.qcow2",
    "variants/bitmaps.qcow2",
    "variants/refcount1.qcow2",
    "variants/refcount4.qcow2",
    "variants/refcount64.qcow2",
    "variants/zeros.qcow2",
    "variants/v3-512.qcow2",
];
/// Damaged copies of each; `IMAGEOPS_DAMAGE_ROUNDS` asks for more.
const ROUNDS: u64 = 16;

/// A small generator of numbers: a seed names a case for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// The places of metadata: header and extensions, tables, refcount blocks, snapshots, bitmaps.
fn regions(bytes: &Vec<u8>) -> Vec<(u64, u64)> {
    let header = Header::parse(bytes).unwrap();
    let cluster = header.cluster_bytes();
    let word =
        |offset: u64| u64::from_be_bytes(bytes[offset as usize..offset as usize + 8].try_into().unwrap());
    let mut regions = vec![(0, 168), (72, 40)];
    let mut l1 = vec![(header.l1_offset, header.l1_bytes())];
    if header.snapshot_count > 0 {
        regions.push((header.snapshot_table_offset, 160));
        l1.push((word(header.snapshot_table_offset), header.l1_bytes()));
    }
    for (offset, length) in l1 {
        regions.push((offset, length));
        for index in 0..length / 8 {
            let l2 = word(offset + index * 8) & 0x00ff_ffff_ffff_fe00;
            if l2 != 0 {
                // The part that is in use, twice: most of a table is empty.
                let used = (0..cluster / 8).rev().find(|entry| word(l2 + entry * 8) != 0).unwrap_or(0);
                regions.push((l2, cluster));
                regions.push((l2, (used + 1) * 8));
            }
        }
    }
    regions.push((header.refcount_table_offset, 64));
    for index in 0..header.refcount_table_bytes() / 8 {
        let block = word(header.refcount_table_offset + index * 8);
        if block != 0 {
            regions.push((block, cluster.min(512)));
        }
    }
    if let Some((_, directory)) = header.extensions.bitmaps {
        regions.push((directory.offset, directory.length_bytes));
        regions.push((word(directory.offset), 64));
    }
    regions
}

/// One to three changes: a bit, a byte, a word copied from another place, a word of one bit.
fn damage(bytes: &mut [u8], regions: &[(u64, u64)], random: &mut Random) {
    for _ in 0..1 + random.below(3) {
        let mut place = || {
            let (offset, length) = regions[random.below(regions.len() as u64) as usize];
            (offset + random.below(length)) as usize
        };
        let (at, other) = (place(), place());
        let last = bytes.len() - 8;
        let (at, other) = (at.min(last), other.min(last));
        let word = at & !7;
        match random.below(8) {
            0..4 => bytes[at] ^= 1 << random.below(8),
            4 => bytes[at] = random.next() as u8,
            5 => bytes.copy_within(other & !7..(other & !7) + 8, word),
            6 => bytes[word..word + 8].fill(0),
            _ => bytes[word..word + 8].copy_from_slice(&(1u64 << random.below(64)).to_be_bytes()),
        }
    }
}

#[test]
fn damaged_images_are_judged_as_the_peer_judges_them() {
    const TEST: &str = "damaged_images_are_judged_as_the_peer_judges_them";
    let Some(images) = images(TEST) else { return };
    if !has_peer(TEST) {
        return;
    }
    let rounds = std::env::var("IMAGEOPS_DAMAGE_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.qcow2");
    let (mut wrong, mut compared, mut refused) = (Vec::new(), 0, 0);
    for (variant, name) in (0u64..).zip(VARIANTS) {
        let image: &TestImage = images.iter().find(|image| image.name == name).unwrap();
        let whole = std::fs::read(&image.path).unwrap();
        let regions = regions(&whole);
        for round in 0..rounds {
            let seed = variant << 32 | round;
            let mut bytes = whole.clone();
            damage(&mut bytes, &regions, &mut Random(seed));
            // Names of other files are no business of a check of this file, and the peer would look for them.
            if names_another_file(&bytes) {
                continue;
            }
            std::fs::write(&path, &bytes).unwrap();
            let (status, figures, message) = peer(&path);
            let report = check_storage(common::open_file(&path));
            let ours = u64::from(report.outcome.exit_code());
            compared += 1;
            refused += u64::from(status == 1);
            if ours != status || members(&report) != figures {
                wrong.push(format!(
                    "{name} seed {seed:#x}: exit {ours} for {status}\n  ours {:?}\n  peer {figures:?}\n  {:?}\n  {message}",
                    members(&report),
                    report.failure,
                ));
            }
        }
    }
    eprintln!("{compared} damaged images compared, {refused} of them refused by the peer");
    assert!(wrong.is_empty(), "{} of {compared} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= 200, "{compared} are too few");
}

fn names_another_file(bytes: &[u8]) -> bool {
    bytes[..4] != *b"QFI\xfb"
        || bytes[8..20].iter().any(|byte| *byte != 0)
        || (bytes[7] == 3 && bytes[79] & 4 != 0)
        || bytes[32..36] != [0; 4]
}

fn peer(path: &Path) -> (u64, Option<serde_json::Map<String, Value>>, String) {
    let output = Command::new("qemu-img")
        .args(["check", "-f", "qcow2", "--output", "json"])
        .arg(path)
        .output()
        .unwrap();
    let status = output.status.code().map_or(999, |code| code as u64);
    let figures = serde_json::from_slice::<Value>(&output.stdout).ok().and_then(|facts| peer_members(&facts));
    let text = String::from_utf8_lossy(&output.stderr).lines().take(4).collect::<Vec<_>>().join(" | ");
    (status, figures, text)
}

#[test]
fn reports_do_not_depend_on_the_number_of_threads() {
    const TEST: &str = "reports_do_not_depend_on_the_number_of_threads";
    let Some(images) = images(TEST) else { return };
    let mut with_many_findings = 0;
    for (variant, name) in (0u64..).zip(VARIANTS) {
        let image = images.iter().find(|image| image.name == name).unwrap();
        let whole = std::fs::read(&image.path).unwrap();
        let regions = regions(&whole);
        for round in 0..ROUNDS {
            let mut bytes = whole.clone();
            let mut random = Random(variant << 32 | round);
            // Enough for more findings than are listed: which of them are must not be a matter of chance either.
            for _ in 0..1 << (round / 2) {
                damage(&mut bytes, &regions, &mut random);
            }
            // The header as it was: nearly all is refused else.
            bytes[..104].copy_from_slice(&whole[..104]);
            let storage = Arc::new(bytes);
            let report = |threads| {
                let options = CheckOptions { md5: false, sha256: false, threads, ..Default::default() };
                check(Arc::clone(&storage) as _, &options, &Control::default()).unwrap()
            };
            let alone = report(1);
            with_many_findings += u32::from(alone.findings_total > FINDINGS_MAX as u64);
            for threads in [2, 3, 8] {
                assert_eq!(report(threads), alone, "{name}, round {round}, {threads} threads");
            }
        }
    }
    assert!(with_many_findings > 10, "{with_many_findings} are too few");
}
