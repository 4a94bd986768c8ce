//! `check` beside `qemu-img check`: the same members, the same exit status.

#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use serde_json::{Map, Value};
use support::{all_images, has_qemu_img, images, json, run, status};

/// Members that qemu-img may print.
const MEMBERS: [&str; 12] = [
    "filename",
    "format",
    "check-errors",
    "image-end-offset",
    "corruptions",
    "leaks",
    "corruptions-fixed",
    "leaks-fixed",
    "total-clusters",
    "allocated-clusters",
    "fragmented-clusters",
    "compressed-clusters",
];

fn members(document: &Value) -> Map<String, Value> {
    let all = document.as_object().unwrap().clone();
    all.into_iter().filter(|(name, _)| MEMBERS.contains(&name.as_str())).collect()
}

#[test]
fn members_and_status_are_those_of_qemu_img() {
    let test = "members_and_status_are_those_of_qemu_img";
    let Some(directory) = images(test) else { return };
    if !has_qemu_img(test) {
        return;
    }
    let mut compared = 0;
    for image in all_images(&directory, "qcow2") {
        let name = image.to_str().unwrap();
        // A name given as an image to open by itself: without a backing file, as the service sees it.
        let theirs = Command::new("qemu-img")
            .args(["check", "--output", "json", "-f", "qcow2", name])
            .output()
            .unwrap();
        let ours = run(&["check", "--output", "json", "--digest", "none", name]);
        let needs_other_file = ["backing-", "data-file", "luks"].iter().any(|part| name.contains(part));
        if !needs_other_file {
            assert_eq!(status(&ours), status(&theirs), "{name}: {ours:?}");
        }
        let document = json(&ours);
        assert_eq!(document["filename"], name);
        if !theirs.stdout.is_empty() {
            assert_eq!(members(&document), members(&json(&theirs)), "{name}");
            compared += 1;
        } else if !needs_other_file {
            assert!(document["failure"]["code"].is_string(), "{name}: {document}");
            assert!(document.get("check-errors").is_none(), "{name}");
        }
    }
    assert!(compared > 20, "only {compared} images gave figures");
}

#[test]
fn digests_are_those_of_the_file() {
    let test = "digests_are_those_of_the_file";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk.raw");
    std::fs::write(&file, b"abc").unwrap();
    let name = file.to_str().unwrap();
    let md5 = "900150983cd24fb0d6963f7d28e17f72";
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let digests = |list: &str| {
        let output = run(&["check", "--output", "json", "--digest", list, name]);
        assert_eq!(status(&output), 63, "{test}: {output:?}");
        json(&output)["digests"].clone()
    };
    assert_eq!(digests("md5,sha256"), serde_json::json!({ "md5": md5, "sha256": sha256 }));
    assert_eq!(digests("sha256"), serde_json::json!({ "sha256": sha256 }));
    assert_eq!(digests("none"), serde_json::json!({}));
    let text = run(&["check", name]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(md5) && text.contains(sha256), "{text}");
}

#[test]
fn a_missing_file_is_one_line_and_status_1() {
    let output = run(&["check", "/nonexistent/disk.qcow2"]);
    assert_eq!(status(&output), 1);
    assert!(output.stdout.is_empty());
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(line, "imageops: /nonexistent/disk.qcow2: no such file or directory\n");
    let output = run(&["check", "--output", "json", "/nonexistent/disk.qcow2"]);
    assert_eq!(status(&output), 1);
    assert_eq!(json(&output)["failure"]["code"], "IO");
}
