//! `compress`: what it writes is read by the peer tool, and nothing half-written is ever left.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{has_qemu_img, imageops, images, json, run, status};

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn output_is_clean_and_equal() {
    let test = "output_is_clean_and_equal";
    let Some(images) = images(test) else { return };
    if !has_qemu_img(test) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (source, format) in
        [("variants/v3.qcow2", "qcow2"), ("variants/snapshots.qcow2", "qcow2"), ("fs/ext4-4k.raw", "raw")]
    {
        let source = images.join(source);
        let source = source.to_str().unwrap();
        for coder in ["zlib", "zstd"] {
            let target = directory.path().join(format!("{coder}.qcow2"));
            let target = target.to_str().unwrap();
            let output = run(&[
                "compress",
                "--keep-free-space",
                "--compression",
                coder,
                "--output",
                "json",
                source,
                target,
            ]);
            assert_eq!(status(&output), 0, "{output:?}");
            let document = json(&output);
            assert_eq!((&document["verified"], &document["output"]), (&true.into(), &target.into()));
            qemu_img(&["check", "-q", target]);
            qemu_img(&["compare", "-q", "-f", format, "-F", "qcow2", source, target]);
        }
    }
    assert_eq!(entries(directory.path()), 2);
}

#[test]
fn what_the_guest_freed_is_dropped_and_told() {
    let Some(images) = images("what_the_guest_freed_is_dropped_and_told") else { return };
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("out.qcow2");
    let source = images.join("debian-ext4.qcow2");
    let output = run(&["compress", "--output", "json", source.to_str().unwrap(), target.to_str().unwrap()]);
    assert_eq!(status(&output), 0, "{output:?}");
    let document = json(&output);
    let dropped: u64 =
        document["parts"].as_array().unwrap().iter().filter_map(|part| part["dropped"].as_u64()).sum();
    assert!(dropped > 0, "{document}");
    assert_eq!(document["output_bytes"], std::fs::metadata(&target).unwrap().len());
    let text = run(&["compress", source.to_str().unwrap(), target.to_str().unwrap()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("ext4") && text.contains("freed, dropped"), "{text}");
}

#[test]
fn extra_gains_are_dropped_when_asked_for_and_told() {
    let Some(images) = images("extra_gains_are_dropped_when_asked_for_and_told") else { return };
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("out.qcow2");
    let (source, target) = (images.join("debian-ext4.qcow2"), target.to_str().unwrap().to_owned());
    let source = source.to_str().unwrap();
    let plain = json(&run(&["compress", "--output", "json", source, &target]));
    assert!(plain["extra_dropped_bytes"].is_null() && plain["parts"][1]["extra"].is_null(), "{plain}");
    let extra = ["compress", "--drop-extra", "journals,inode-tables,gaps", "--output", "json", source];
    let done = json(&run(&[&extra[..], &[&target]].concat()));
    let told = json(&run(&[&extra[..], &["--dry-run"]].concat()));
    for document in [&done, &told] {
        let gained = document["extra_dropped_bytes"].as_u64().unwrap();
        assert_eq!(
            document["dropped_bytes"].as_u64().unwrap(),
            plain["dropped_bytes"].as_u64().unwrap() + gained,
            "{document}"
        );
        assert!(document["parts"][1]["extra"]["bytes"].as_u64().unwrap() > 1 << 20, "{document}");
        assert!(document["gaps"]["kept"].as_array().unwrap().is_empty(), "{document}");
    }
    let text = run(&["map", "--drop-extra", "journals", source]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("extra, dropped") && text.contains("  extra"), "{text}");
}

#[test]
fn a_signal_leaves_nothing() {
    let Some(images) = images("a_signal_leaves_nothing") else { return };
    let source = images.join("debian-ext4.raw");
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("out.qcow2");
        std::fs::write(&target, b"before").unwrap();
        let mut child = imageops()
            // The slowest coder on one thread: it is at work for seconds.
            .args([
                "compress",
                "--compression",
                "zstd",
                "--level",
                "22",
                "--threads",
                "1",
                "--keep-free-space",
            ])
            .args([&source, &target])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let reading = Instant::now();
        let opened = |child: u32| {
            let files = std::fs::read_dir(format!("/proc/{child}/fd")).unwrap();
            files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok()).any(|file| file == source)
        };
        while !opened(child.id()) {
            assert!(reading.elapsed() < Duration::from_secs(30), "the source was never opened");
            std::thread::yield_now();
        }
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), Some(130), "{signal:?}");
        assert_eq!(std::fs::read(&target).unwrap(), b"before");
        assert_eq!(entries(directory.path()), 1);
    }
}

#[test]
fn the_input_is_never_the_output() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("disk.raw");
    std::fs::write(&source, vec![7; 1 << 20]).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&source, &link).unwrap();
    for target in [&source, &link] {
        let output = run(&["compress", source.to_str().unwrap(), target.to_str().unwrap()]);
        assert_eq!(status(&output), 1);
        assert!(String::from_utf8(output.stderr).unwrap().contains("is the input itself"));
    }
    assert_eq!(std::fs::read(&source).unwrap(), vec![7; 1 << 20]);
    assert_eq!(entries(directory.path()), 2);
}

#[test]
fn a_refused_image_leaves_nothing() {
    let Some(images) = images("a_refused_image_leaves_nothing") else { return };
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("out.qcow2");
    for name in ["variants/backing-top.qcow2", "corrupt/huge-l1.qcow2", "formats/vdi-dynamic.vdi"] {
        let source = images.join(name);
        let output = run(&["compress", source.to_str().unwrap(), target.to_str().unwrap()]);
        assert_eq!(status(&output), 1, "{name}: {output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1, "{name}");
        assert_eq!(entries(directory.path()), 0);
    }
}
