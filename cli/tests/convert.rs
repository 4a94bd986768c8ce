//! `convert`: there and back again, with the same bytes.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use support::{has_qemu_img, imageops, json, run, status};

fn entries(directory: &std::path::Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

/// A disk of some sectors more than a megabyte.
fn disk() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..1 << 20).map(|index: u32| (index.wrapping_mul(index) >> 9) as u8).collect();
    bytes.resize((3 << 20) + 1536, 0);
    bytes[(2 << 20) + 5] = 1;
    bytes
}

#[test]
fn there_and_back_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (source, packed, back) = (path("disk.raw"), path("disk.qcow2"), path("back.raw"));
    std::fs::write(&source, disk()).unwrap();
    let there = run(&["convert", "--format", "qcow2", "--output", "json", &source, &packed]);
    assert_eq!(status(&there), 0, "{there:?}");
    let here = run(&["convert", "--format", "raw", "--output", "json", &packed, &back]);
    assert_eq!(status(&here), 0, "{here:?}");
    assert!(std::fs::read(&back).unwrap() == disk());
    let (there, here) = (json(&there), json(&here));
    assert_eq!(there["content_proof"], here["content_proof"]);
    assert_eq!((&there["dropped_bytes"], &there["verified"]), (&0.into(), &true.into()));
    assert_eq!((&here["source_format"], &here["verified"]), (&"qcow2".into(), &true.into()));
    assert_eq!(here["output_bytes"], disk().len());
    assert!(here["data_bytes"].as_u64().unwrap() <= 2 << 20, "{here}");
    assert_eq!(here["output"], back);
    let text = run(&["convert", "--format", "raw", "--no-verify", &packed, &back]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("verified         no\n") && text.contains("source format    qcow2"), "{text}");
    assert_eq!(entries(directory.path()), 3);
}

#[test]
fn the_peer_says_that_they_are_equal() {
    if !has_qemu_img("the_peer_says_that_they_are_equal") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (source, packed, out) = (path("disk.raw"), path("disk.qcow2"), path("out"));
    std::fs::write(&source, disk()).unwrap();
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    };
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-c", &source, &packed]);
    for format in ["raw", "qcow2"] {
        let output = run(&["convert", "--format", format, &packed, &out]);
        assert_eq!(status(&output), 0, "{output:?}");
        qemu_img(&["compare", "-q", "-f", "qcow2", "-F", format, &packed, &out]);
    }
    // Taken at its word: the bytes of the file are those of the disk.
    let output = run(&["convert", "--format", "raw", "--source-format", "raw", &packed, &out]);
    assert_eq!(status(&output), 0, "{output:?}");
    assert!(std::fs::read(&out).unwrap().starts_with(b"QFI\xfb"));
}

#[test]
fn what_fails_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (source, target) = (path("disk.qcow2"), path("out.raw"));
    std::fs::write(&source, b"QFI\xfb\0\0\0\x09 no such version").unwrap();
    for format in ["raw", "qcow2"] {
        let output = run(&["convert", "--format", format, &source, &target]);
        assert_eq!(status(&output), 1, "{output:?}");
        let output = run(&["convert", "--format", format, "--source-format", "raw", &source, &source]);
        assert_eq!(status(&output), 1, "{output:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("is the input itself"));
    }
    let output = imageops()
        .args(["convert", "--format", "raw", &source, &target])
        .env("IMAGEOPS_SERVER", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(status(&output), 1);
    assert!(String::from_utf8(output.stderr).unwrap().contains("local files"));
    assert_eq!(entries(directory.path()), 1);
}
