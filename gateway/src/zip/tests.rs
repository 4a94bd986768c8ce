//! Read by the peers, and cut into ranges.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use super::*;

/// The first second of 2024-05-06 07:08.
fn modified() -> Timestamp {
    "2024-05-06T07:08:10Z".parse().unwrap()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

fn whole(name: &str, content: &[u8], known: bool) -> Vec<u8> {
    let crc = crc32(content);
    let layout = ZipLayout::new(name, content.len() as u64, known.then_some(crc), modified()).unwrap();
    let bytes = [&layout.header(), content, &layout.trailer(crc)].concat();
    assert_eq!(bytes.len() as u64, layout.total_bytes());
    bytes
}

/// Whether a tool is there, or a line that says that a test was skipped.
fn has(test: &str, tool: &str) -> bool {
    let found = Command::new(tool).arg("--help").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {test}: {tool} is not installed");
    }
    found
}

fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Name, sizes, method, time, mode and content of the one entry, as Python has them.
const LOOK: &str = "
import sys, zipfile, zlib
archive = zipfile.ZipFile(sys.argv[1])
entry, = archive.infolist()
content = b'' if entry.file_size > 1 << 30 and archive.open(entry).read(9) else archive.read(entry)
print(ascii(entry.filename), entry.file_size, entry.compress_size, entry.compress_type, entry.date_time,
      oct(entry.external_attr >> 16), entry.CRC, entry.flag_bits, len(content))
";

fn path(directory: &Path) -> String {
    directory.join("a.zip").to_str().unwrap().to_owned()
}

#[test]
fn peers_read_what_is_made() {
    let test = "peers_read_what_is_made";
    let directory = tempfile::tempdir().unwrap();
    let path = path(directory.path());
    let (python, unzip) = (has(test, "python3"), has(test, "unzip"));
    for (name, shown) in
        [("disk.qcow2", "'disk.qcow2'"), ("a b/disk.img", "'a b/disk.img'"), ("é.img", "'\\xe9.img'")]
    {
        for content in [&b""[..], b"x", &[7; 100_000]] {
            for known in [true, false] {
                std::fs::write(&path, whole(name, content, known)).unwrap();
                if python {
                    let size = content.len();
                    let flags = u16::from(!known) << 3 | u16::from(!name.is_ascii()) << 11;
                    assert_eq!(
                        run("python3", &["-c", LOOK, &path]).trim(),
                        format!(
                            "{shown} {size} {size} 0 (2024, 5, 6, 7, 8, 10) 0o100644 {} {flags} {size}",
                            crc32(content)
                        )
                    );
                }
                if unzip {
                    run("unzip", &["-tqq", &path]);
                }
            }
        }
    }
}

#[test]
fn a_wrong_crc_is_noticed_by_peers() {
    if !has("a_wrong_crc_is_noticed_by_peers", "unzip") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = path(directory.path());
    let mut bytes = whole("disk.img", b"content", true);
    let place = bytes.windows(7).position(|window| window == b"content").unwrap();
    bytes[place] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(!Command::new("unzip").args(["-tqq", &path]).output().unwrap().status.success());
}

/// The content is 4 GiB of zeros and four letters: a file of one hole.
#[test]
fn peers_read_large_files() {
    const SIZE: u64 = (4 << 30) + 4;
    const CRC: u32 = 0xadbd_81a1;
    let test = "peers_read_large_files";
    let directory = tempfile::tempdir().unwrap();
    let path = path(directory.path());
    for known in [true, false] {
        let layout = ZipLayout::new("disk.img", SIZE, known.then_some(CRC), modified()).unwrap();
        let (header, trailer) = (layout.header(), layout.trailer(CRC));
        let file = File::create(&path).unwrap();
        file.write_all_at(&header, 0).unwrap();
        file.write_all_at(b"last", header.len() as u64 + SIZE - 4).unwrap();
        file.write_all_at(&trailer, header.len() as u64 + SIZE).unwrap();
        assert_eq!(file.metadata().unwrap().len(), layout.total_bytes());
        if has(test, "python3") {
            let shown = run("python3", &["-c", LOOK, &path]);
            assert!(shown.starts_with(&format!("'disk.img' {SIZE} {SIZE} 0 ")), "{shown}");
        }
        // Listing reads all headers; testing would read 4 GiB, which takes half a minute.
        if has(test, "unzip") {
            let shown = run("unzip", &["-lqq", &path]);
            assert!(shown.contains(&SIZE.to_string()) && shown.contains("disk.img"), "{shown}");
        }
    }
}

/// Around 4 GiB the size, the place of the directory or both need the long form.
#[test]
fn each_number_that_needs_the_long_form_has_it() {
    let test = "each_number_that_needs_the_long_form_has_it";
    let directory = tempfile::tempdir().unwrap();
    let path = path(directory.path());
    for less in [0, 1, 2, 30, 37, 38, 39, 40, 54, 55, 200] {
        for known in [true, false] {
            let size = (1 << 32) - less;
            let layout = ZipLayout::new("disk.img", size, known.then_some(1), modified()).unwrap();
            let (header, trailer) = (layout.header(), layout.trailer(1));
            assert_eq!(layout.total_bytes(), header.len() as u64 + size + trailer.len() as u64);
            let long = |bytes: &[u8], mark: u32| bytes.windows(4).any(|window| window == mark.to_le_bytes());
            assert_eq!(long(&header, ELSEWHERE), less <= 1, "{less}");
            let directory_offset = layout.total_bytes() - layout.trailer_bytes() + layout.descriptor_bytes();
            assert_eq!(long(&trailer, END_64), directory_offset >= u64::from(u32::MAX), "{less}");
            let file = File::create(&path).unwrap();
            file.write_all_at(&header, 0).unwrap();
            file.write_all_at(&trailer, header.len() as u64 + size).unwrap();
            if has(test, "python3") {
                let shown = run("python3", &["-c", LOOK, &path]);
                assert!(shown.starts_with(&format!("'disk.img' {size} {size} 0 ")), "{less}: {shown}");
            }
        }
    }
}

#[test]
fn ranges_fall_into_the_right_parts() {
    let content = b"some content";
    for known in [true, false] {
        let bytes = whole("disk.img", content, known);
        let crc = crc32(content);
        let layout =
            ZipLayout::new("disk.img", content.len() as u64, known.then_some(crc), modified()).unwrap();
        let (header, trailer) = (layout.header(), layout.trailer(crc));
        let end = bytes.len() as u64;
        for start in 0..=end {
            for stop in start..=end + 2 {
                let Parts { header: first, content: middle, trailer: last } = layout.parts(&(start..stop));
                let middle = &content[middle.start as usize..middle.end as usize];
                let cut = [&header[first], middle, &trailer[last]].concat();
                assert_eq!(cut, bytes[start as usize..stop.min(end) as usize]);
            }
        }
        let none = layout.parts(&(u64::MAX - 1..u64::MAX));
        assert!(none.header.is_empty() && none.content.is_empty() && none.trailer.is_empty());
    }
}

#[test]
fn what_no_zip_can_hold_is_refused() {
    let refused = |name: &str, size| ZipLayout::new(name, size, None, modified()).unwrap_err();
    assert_eq!(refused("", 1), LayoutError::Name);
    assert_eq!(refused(&"a".repeat(65_536), 1), LayoutError::Name);
    assert_eq!(refused("a", u64::MAX), LayoutError::Size);
    assert_eq!(refused("a", i64::MAX as u64), LayoutError::Size);
    let longest = ZipLayout::new("a".repeat(65_535), 1 << 62, None, modified()).unwrap();
    assert_eq!(
        longest.header().len() as u64 + (1 << 62) + longest.trailer(0).len() as u64,
        longest.total_bytes()
    );
}

#[test]
fn times_outside_of_dos_are_moved_to_its_ends() {
    let dos = |text: &str| super::dos(TimeZone::UTC.to_datetime(text.parse::<Timestamp>().unwrap()));
    assert_eq!(dos("1970-01-01T00:00:00Z"), dos("1980-01-01T00:00:00Z"));
    assert_eq!(dos("2200-01-01T00:00:00Z"), dos("2107-12-31T23:59:59Z"));
    assert_eq!(dos("2024-05-06T07:08:11Z"), dos("2024-05-06T07:08:10Z"));
    assert_eq!(dos("2024-05-06T07:08:10Z"), (44 << 9 | 5 << 5 | 6, 7 << 11 | 8 << 5 | 5));
}
