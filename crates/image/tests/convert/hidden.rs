//! What an image holds and its guest cannot see stays behind.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imageops_image::compress::{CompressOptions, Compression, Recompress};

use crate::convert_file;
use crate::made::has_tools;
use crate::peers::{compress_file, run_ok, text};

/// 24 bytes that no coder and no other content makes.
const HIDDEN: &[u8] = b"<hidden-7f3a91c4e05d2b86>";
const VISIBLE: &[u8] = b"<seen-by-the-guest-59c1e7>";

fn filled(mark: &[u8], bytes: usize) -> Vec<u8> {
    mark.iter().copied().cycle().take(bytes).collect()
}

fn holds(path: &Path, mark: &[u8]) -> bool {
    std::fs::read(path).unwrap().windows(mark.len()).any(|window| window == mark)
}

/// An image whose file has the mark in clusters that its guest threw away, overwrote after a snapshot, or never had:
/// behind the end of the disk and behind the end of all tables.
fn image_with_secrets(directory: &Path, options: &str) -> PathBuf {
    let (raw, image) = (directory.join("secrets.raw"), directory.join("secrets.qcow2"));
    // The last cluster is cut short: 512 bytes of it belong to the disk.
    let mut bytes = filled(HIDDEN, 4 << 20);
    bytes[2 << 20..].copy_from_slice(&filled(VISIBLE, 2 << 20));
    bytes.extend(filled(VISIBLE, 512));
    std::fs::write(&raw, bytes).unwrap();
    run_ok("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-o", options, text(&raw), text(&image)]);
    run_ok(
        "qemu-io",
        &["-f", "qcow2", "-c", "discard -q 0 512k", "-c", "write -q -z -u 512k 512k", text(&image)],
    );
    run_ok("qemu-img", &["snapshot", "-c", "before", text(&image)]);
    run_ok("qemu-io", &["-f", "qcow2", "-c", "write -q -P 33 1M 1M", text(&image)]);

    let map = run_ok("qemu-img", &["map", "-f", "qcow2", "--output", "json", text(&image)]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let last = map.as_array().unwrap().last().unwrap();
    let number = |name: &str| last[name].as_u64().unwrap();
    let end = number("offset") + number("length");
    let file = File::options().read(true).write(true).open(&image).unwrap();
    file.write_all_at(&filled(HIDDEN, 2048), end).unwrap();
    let length = file.metadata().unwrap().len().next_multiple_of(65_536);
    file.write_all_at(&filled(HIDDEN, 65_536), length).unwrap();
    image
}

#[test]
fn sec_53_nothing_hidden_is_converted() {
    if !has_tools("sec_53_nothing_hidden_is_converted") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (scratch.path().join("out.raw"), scratch.path().join("out.qcow2"));
    for options in ["cluster_size=64k", "cluster_size=4k", "extended_l2=on", "compat=0.10"] {
        let image = image_with_secrets(scratch.path(), options);
        assert!(holds(&image, HIDDEN) && holds(&image, VISIBLE), "{options}: the test tests nothing");
        convert_file(&image, &raw);
        assert!(holds(&raw, VISIBLE) && !holds(&raw, HIDDEN), "{options}");
        for (compression, drop_free) in
            [(Compression::Zlib, false), (Compression::Zstd, false), (Compression::Zlib, true)]
        {
            let asked = CompressOptions { compression, drop_free, ..Default::default() };
            compress_file(&image, &qcow2, &asked).unwrap();
            // Neither in the bytes of the file nor in what they unpack to.
            assert!(!holds(&qcow2, HIDDEN), "{options}");
            convert_file(&qcow2, &raw);
            assert!(holds(&raw, VISIBLE) && !holds(&raw, HIDDEN), "{options}");
        }
    }
}

/// The same of an image that is compressed already, of which streams are copied.
#[test]
fn sec_53_nothing_comes_along_with_a_copied_stream() {
    if !has_tools("sec_53_nothing_comes_along_with_a_copied_stream") {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let (source, packed, out) = (path("in.raw"), path("packed.qcow2"), path("out.qcow2"));
    std::fs::write(&source, filled(VISIBLE, 1 << 20)).unwrap();
    run_ok("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", text(&source), text(&packed)]);
    // The last stream ends somewhere in its last sector; what follows is not its own.
    let file = File::options().read(true).write(true).open(&packed).unwrap();
    let bytes = std::fs::read(&packed).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 64;
    file.write_all_at(&filled(HIDDEN, 65_536), end).unwrap();
    assert!(holds(&packed, HIDDEN));
    for recompress in [Recompress::Auto, Recompress::Always] {
        let options = CompressOptions { recompress, drop_free: false, ..Default::default() };
        let report = compress_file(&packed, &out, &options).unwrap();
        assert_eq!(report.copied_bytes > 0, recompress == Recompress::Auto, "{report:?}");
        assert!(!holds(&out, HIDDEN));
        convert_file(&out, &path("out.raw"));
        assert!(!holds(&path("out.raw"), HIDDEN) && holds(&path("out.raw"), VISIBLE));
    }
}
