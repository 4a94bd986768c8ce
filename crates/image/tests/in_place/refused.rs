//! What cannot be changed in place is left as it is.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use imageops_image::in_place::{Medium, punch, punch_file};
use imageops_image::{Control, ErrorKind, reason};

use crate::disk::{Expected, TOOLS, copy, junk_disk, variants};
use crate::medium::Recorder;
use crate::peers::{images, run_ok, text};

#[test]
fn what_cannot_be_changed_is_refused_and_left_as_it_is() {
    let test = "what_cannot_be_changed_is_refused_and_left_as_it_is";
    let Some(directory) = images(test, &["qemu-img"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("image.qcow2");
    let cases = [
        ("variants/snapshots.qcow2", reason::IN_PLACE_SNAPSHOTS),
        ("variants/snapshots-zlib.qcow2", reason::IN_PLACE_SNAPSHOTS),
        ("variants/bitmaps.qcow2", reason::IN_PLACE_BITMAPS),
        ("variants/lazy-dirty.qcow2", reason::CORRUPT_DIRTY),
        ("variants/backing-top.qcow2", reason::UNSAFE_BACKING_FILE),
        ("variants/data-file.qcow2", reason::UNSAFE_DATA_FILE),
        ("variants/luks.qcow2", reason::UNSUPPORTED_ENCRYPTION),
        ("corrupt/dirty-bit.qcow2", reason::CORRUPT_DIRTY),
        ("corrupt/corrupt-bit.qcow2", reason::CORRUPT_MARKED),
        ("corrupt/leak.qcow2", reason::IN_PLACE_NOT_CLEAN),
        ("corrupt/refcount-high.qcow2", reason::IN_PLACE_NOT_CLEAN),
        ("corrupt/refcount-zero.qcow2", reason::IN_PLACE_NOT_CLEAN),
        ("corrupt/copied-flag.qcow2", reason::IN_PLACE_NOT_CLEAN),
        ("corrupt/l1-copied.qcow2", reason::IN_PLACE_NOT_CLEAN),
        ("corrupt/shared-cluster.qcow2", reason::IN_PLACE_NOT_CLEAN),
        ("corrupt/truncated.qcow2", reason::IN_PLACE_NOT_CLEAN),
        ("formats/vmdk-sparse.vmdk", reason::UNSUPPORTED_FORMAT),
    ];
    for (name, expected) in cases {
        let file = copy(&directory.join(name), &target);
        let error = punch_file(file, None, &Control::default()).unwrap_err();
        assert_eq!(error.reason, expected, "{name}: {error}");
        assert!(std::fs::read(&target).unwrap() == std::fs::read(directory.join(name)).unwrap(), "{name}");
    }
    // A feature that only its writer knows.
    let file = copy(&directory.join("variants/v3.qcow2"), &target);
    file.write_all_at(&(1_u64 << 20).to_be_bytes(), 88).unwrap();
    let error = punch_file(file, None, &Control::default()).unwrap_err();
    assert_eq!(error.reason, reason::IN_PLACE_UNKNOWN_FEATURE);
}

#[test]
fn an_image_in_use_is_refused() {
    let test = "an_image_in_use_is_refused";
    let Some(directory) = images(test, &["qemu-io"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    for (name, options) in [("variants/v3.qcow2", &["-f", "qcow2"]), ("fs/ext4-4k.raw", &["-f", "raw"])] {
        let target = scratch.path().join("image");
        let file = copy(&directory.join(name), &target);
        let other = File::open(&target).unwrap();
        other.lock_shared().unwrap();
        assert_eq!(punch_file(file, None, &Control::default()).unwrap_err().kind, ErrorKind::InUse);
        drop(other);

        for mode in [&[][..], &["-r"]] {
            let mut user = Command::new("qemu-io")
                .args(options)
                .args(mode)
                .arg(&target)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // It answers when it has the image open.
            let mut input = user.stdin.take().unwrap();
            input.write_all(b"length\n").unwrap();
            let mut answer = String::new();
            BufReader::new(user.stdout.take().unwrap()).read_line(&mut answer).unwrap();
            let file = File::options().read(true).write(true).open(&target).unwrap();
            let error = punch_file(file, None, &Control::default()).unwrap_err();
            assert_eq!((error.kind, error.reason), (ErrorKind::InUse, reason::IN_PLACE_IN_USE), "{name}");
            drop(input);
            user.wait().unwrap();
        }
        let file = File::options().read(true).write(true).open(&target).unwrap();
        assert!(punch_file(file, None, &Control::default()).is_ok());
    }
}

/// Tables of a small image: where the L2 table and the block of 16-bit counts lie, with clusters of 64 KiB.
fn tables(bytes: &[u8]) -> (usize, usize) {
    let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let offset = |word: usize| word & 0x00ff_ffff_ffff_fe00;
    (offset(word(offset(word(40)))), offset(word(offset(word(48)))))
}

/// Two guest clusters that share one of the file have no mark, and whoever is left would need one.
#[test]
fn shared_clusters_are_left_alone() {
    let test = "shared_clusters_are_left_alone";
    if images(test, &TOOLS).is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let disk = junk_disk(scratch.path(), 4096);
    for (name, mut bytes, format) in variants(&disk, scratch.path()) {
        if !["v3", "zlib"].contains(&name.as_str()) {
            continue;
        }
        if name == "zlib" {
            let path = scratch.path().join("mixed.qcow2");
            std::fs::write(&path, &bytes).unwrap();
            // Written anew, these are plain; guest offsets are those of free space, the last of the partition.
            run_ok("qemu-io", &["-f", "qcow2", "-c", "write -q -P 5 9M 1M", text(&path)]);
            bytes = std::fs::read(&path).unwrap();
        }
        let (l2, counts) = tables(&bytes);
        let entry = |bytes: &[u8], index: usize| {
            u64::from_be_bytes(bytes[l2 + index * 8..l2 + index * 8 + 8].try_into().unwrap())
        };
        let (one, other) = (9 * 16 + 2, 9 * 16 + 5);
        let (kept, lost) = (entry(&bytes, one) & !(1 << 63), entry(&bytes, other) & !(1 << 63));
        for index in [one, other] {
            bytes[l2 + index * 8..l2 + index * 8 + 8].copy_from_slice(&kept.to_be_bytes());
        }
        for (word, count) in [(kept, 2), (lost, 0)] {
            let place = counts + (word as usize >> 16) * 2;
            bytes[place..place + 2].copy_from_slice(&[0, count]);
        }
        let expected = Expected::of(&bytes, format);
        expected.assert_peer_agrees(&bytes, scratch.path(), &name);
        let medium = Arc::new(Recorder::new(bytes, usize::MAX));
        let report =
            punch(Arc::clone(&medium) as Arc<dyn Medium>, Some(format), &Control::default()).unwrap();
        let after = medium.bytes();
        assert_eq!((entry(&after, one), entry(&after, other)), (kept, kept), "{name}");
        expected.assert_holds(&after, &name);
        expected.assert_peer_agrees(&after, scratch.path(), &name);
        assert!(report.dropped_bytes > 512 << 10 && report.left_bytes >= 128 << 10, "{name}: {report:?}");
        if name == "zlib" {
            // The plain ones are given back, the compressed ones stay.
            assert!(report.dropped_bytes <= 1 << 20, "{report:?}");
        }
    }
}
