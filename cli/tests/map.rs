//! `map`: the extents in both forms, and the picture.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read as _;
use std::process::Stdio;

use support::{imageops, images, json, run, status};

#[test]
fn the_list_covers_the_disk_and_has_what_compress_drops() {
    let Some(images) = images("the_list_covers_the_disk_and_has_what_compress_drops") else { return };
    let source = images.join("debian-ext4.qcow2");
    let source = source.to_str().unwrap();
    let output = run(&["map", "--output", "json", source]);
    assert_eq!(status(&output), 0, "{output:?}");
    let list = json(&output);
    let (mut end, mut free, mut in_ext4) = (0, 0, false);
    for extent in list.as_array().unwrap() {
        assert_eq!(extent["start"], end);
        let length = extent["length"].as_u64().unwrap();
        end += length;
        assert_eq!(extent["data"].as_bool().unwrap(), !extent["zero"].as_bool().unwrap(), "{extent}");
        assert_eq!(extent["kind"] == "free", extent["free"].as_bool().unwrap(), "{extent}");
        if extent["free"] == true {
            free += length;
            in_ext4 |= (&extent["part"], &extent["file_system"]) == (&2.into(), &"ext4".into());
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("out.qcow2");
    let output = run(&["compress", "--output", "json", source, target.to_str().unwrap()]);
    let document = json(&output);
    assert_eq!(document["virtual_size"], end);
    assert_eq!(document["dropped_bytes"], free);
    assert!(free > 0 && in_ext4);

    let told = run(&["compress", "--dry-run", "--output", "json", source]);
    assert_eq!(status(&told), 0, "{told:?}");
    let told = json(&told);
    for member in ["source_format", "virtual_size", "dropped_bytes", "parts", "kept"] {
        assert_eq!(told[member], document[member], "{member}");
    }
    assert_eq!(told["kept_bytes"].as_u64().unwrap() + free, told["stored_bytes"].as_u64().unwrap());
    let text = String::from_utf8(run(&["compress", "--dry-run", source]).stdout).unwrap();
    assert!(text.contains("output, about") && text.contains("freed, dropped"), "{text}");
}

#[test]
fn the_table_ends_with_the_sums_and_the_picture_is_drawn() {
    let Some(images) = images("the_table_ends_with_the_sums_and_the_picture_is_drawn") else { return };
    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("map.svg");
    for name in ["fs/mbr-logical.raw", "variants/huge-virtual.qcow2", "variants/zlib.qcow2"] {
        let source = images.join(name);
        let output = run(&["map", source.to_str().unwrap(), "--svg", picture.to_str().unwrap()]);
        assert_eq!(status(&output), 0, "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("file offset") && text.contains("freed by guest"), "{text}");
        let drawn = std::fs::read_to_string(&picture).unwrap();
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        assert!(drawn.len() < 64 << 10, "{name}: {} bytes", drawn.len());
        assert!(drawn.contains("prefers-color-scheme"));
    }
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let Some(images) = images("a_reader_who_goes_away_is_no_error") else { return };
    for form in ["json", "table"] {
        let mut child = imageops()
            .args(["map", "--output", form])
            .arg(images.join("debian-ext4.raw"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""), "{form}");
    }
}

#[test]
fn what_cannot_be_mapped_leaves_no_picture() {
    let Some(images) = images("what_cannot_be_mapped_leaves_no_picture") else { return };
    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("map.svg");
    for name in ["variants/backing-top.qcow2", "corrupt/l2-past-eof.qcow2", "formats/qed.qed"] {
        let source = images.join(name);
        let output = run(&["map", source.to_str().unwrap(), "--svg", picture.to_str().unwrap()]);
        if name.starts_with("corrupt") {
            // What lies past the end of the file reads as zeros.
            assert_eq!(status(&output), 0, "{name}");
            std::fs::remove_file(&picture).unwrap();
            continue;
        }
        assert_eq!(status(&output), 1, "{name}: {output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1, "{name}");
        assert!(!picture.exists());
    }
    let source = images.join("fs/fat12.raw");
    let before = std::fs::read(&source).unwrap();
    let output = run(&["map", source.to_str().unwrap(), "--svg", source.to_str().unwrap()]);
    assert_eq!((status(&output), std::fs::read(&source).unwrap() == before), (1, true));
    let output = run(&["map", "--server", "http://127.0.0.1:9", source.to_str().unwrap()]);
    assert_eq!(status(&output), 1);
}
