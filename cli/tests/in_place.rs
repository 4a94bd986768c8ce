//! `compress --in-place`: the image itself shrinks and stays what it was, or is left alone.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;

use support::{has_qemu_img, images, json, run, status};

fn copy(source: &Path, target: &Path) {
    std::fs::write(target, std::fs::read(source).unwrap()).unwrap();
}

#[test]
fn an_image_gives_back_what_its_guest_has_freed() {
    let test = "an_image_gives_back_what_its_guest_has_freed";
    let Some(images) = images(test) else { return };
    if !has_qemu_img(test) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for name in ["debian-ext4.qcow2", "debian-ext4.raw"] {
        let path = directory.path().join(name);
        copy(&images.join(name), &path);
        let length = std::fs::metadata(&path).unwrap().len();
        let output = run(&["compress", "--in-place", "--output", "json", path.to_str().unwrap()]);
        assert_eq!(status(&output), 0, "{output:?}");
        let document = json(&output);
        assert!(document["dropped_bytes"].as_u64() > Some(1 << 20), "{document}");
        assert!(document["after_bytes"].as_u64() < document["before_bytes"].as_u64(), "{document}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
        if name.ends_with("qcow2") {
            let checked = Command::new("qemu-img").args(["check", "-q"]).arg(&path).status().unwrap();
            assert!(checked.success());
        }
        let text =
            String::from_utf8(run(&["compress", "--in-place", path.to_str().unwrap()]).stdout).unwrap();
        assert!(text.contains("on disk after") && text.contains("ext4"), "{text}");
    }
}

#[test]
fn what_is_refused_is_left_alone() {
    let Some(images) = images("what_is_refused_is_left_alone") else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let text = path.to_str().unwrap();
    for name in ["variants/snapshots.qcow2", "corrupt/leak.qcow2", "formats/vdi-dynamic.vdi"] {
        copy(&images.join(name), &path);
        let output = run(&["compress", "--in-place", text]);
        assert_eq!(status(&output), 1, "{name}: {output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1, "{name}");
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(images.join(name)).unwrap());
    }
    copy(&images.join("fs/ext4-4k.raw"), &path);
    let other = std::fs::File::open(&path).unwrap();
    other.lock_shared().unwrap();
    let output = run(&["compress", "--in-place", text]);
    assert!(String::from_utf8(output.stderr).unwrap().contains("another program has the image open"));
    drop(other);
    // What only makes sense with an output is a mistake.
    let output = directory.path().join("output");
    for wrong in [
        &[output.to_str().unwrap()][..],
        &["--level", "3"],
        &["--keep-free-space"],
        &["--no-verify"],
        &["--dry-run"],
        &["--server", "http://127.0.0.1:9"],
    ] {
        let arguments: Vec<&str> = ["compress", "--in-place", text].iter().chain(wrong).copied().collect();
        assert_eq!(status(&run(&arguments)), 1, "{wrong:?}");
    }
    assert!(!output.exists());
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(images.join("fs/ext4-4k.raw")).unwrap());
    assert_eq!(status(&run(&["compress", "--in-place", directory.path().to_str().unwrap()])), 1);
}
