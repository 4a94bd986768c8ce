//! `inspect`: 0 valid, 2 refused, 3 when nothing can be said; always one JSON object.

#![allow(clippy::unwrap_used)]

mod support;

use support::{images, json, run, status};

fn inspect(name: &str) -> (i32, serde_json::Value) {
    let output = run(&["inspect", "--output", "json", name]);
    let document = json(&output);
    for member in ["verdict", "format", "virtual_size", "reasons"] {
        assert!(document.get(member).is_some(), "{name}: {document}");
    }
    (status(&output), document)
}

#[test]
fn verdicts_become_statuses() {
    let Some(directory) = images("verdicts_become_statuses") else { return };
    let cases = [
        ("variants/v3.qcow2", 0, "valid"),
        ("debian-ext4.raw", 0, "valid"),
        ("variants/backing-top.qcow2", 2, "unsafe"),
        ("variants/data-file.qcow2", 2, "unsafe"),
        ("corrupt/cluster-bits-31.qcow2", 2, "invalid"),
        ("formats/vmdk-sparse.vmdk", 2, "unsupported"),
    ];
    for (name, expected, verdict) in cases {
        let (found, document) = inspect(directory.join(name).to_str().unwrap());
        assert_eq!((found, document["verdict"].as_str()), (expected, Some(verdict)), "{name}: {document}");
        assert_eq!(document["reasons"].as_array().unwrap().is_empty(), verdict == "valid", "{name}");
    }
}

#[test]
fn the_guest_is_shown() {
    let Some(directory) = images("the_guest_is_shown") else { return };
    let (_, document) = inspect(directory.join("debian-ext4.qcow2").to_str().unwrap());
    let parts = document["parts"].as_array().unwrap();
    assert!(parts.iter().any(|part| part["file_system"] == "ext4"), "{document}");
}

#[test]
fn nothing_to_inspect_is_status_3() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["/nonexistent/disk.qcow2", directory.path().to_str().unwrap()] {
        let (found, document) = inspect(name);
        assert_eq!(found, 3, "{name}");
        assert!(document["verdict"].is_null(), "{document}");
        assert!(document["reasons"][0]["message"].is_string(), "{document}");
        let text = run(&["inspect", name]);
        assert_eq!((status(&text), text.stdout.is_empty()), (3, true));
    }
}

#[test]
fn a_declared_format_is_not_guessed_over() {
    let Some(directory) = images("a_declared_format_is_not_guessed_over") else { return };
    let image = directory.join("variants/v3.qcow2");
    let output = run(&["inspect", "--output", "json", "--format", "raw", image.to_str().unwrap()]);
    assert_eq!(status(&output), 2);
}
