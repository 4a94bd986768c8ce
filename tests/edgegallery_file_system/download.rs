//! Rows 43 to 47: bytes that go out.

use crate::support::Service;
use crate::support::file_system::{BASE, FileSystem, ZERO_ID, assert_refused};
use crate::support::fixtures;
use crate::support::http::{self, Answer};
use crate::support::images::have;

#[test]
fn row_43_a_download_has_the_headers_of_the_old_service() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    for tail in ["", "/"] {
        let answer = fs.download(&id, tail, &[]);
        assert!(answer.status == 200 && answer.body == good);
        for (name, value) in [
            ("content-disposition", "attachment; filename=\"disk.qcow2\""),
            ("content-type", "application/octet-stream"),
            ("content-length", &*good.len().to_string()),
            ("content-description", "File Transfer"),
            ("content-transfer-encoding", "binary"),
            ("expires", "0"),
            ("cache-control", "must-revalidate"),
            ("pragma", "public"),
            ("accept-ranges", "bytes"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        assert_eq!((answer.header("content-encoding"), answer.header("transfer-encoding")), (None, None));
    }
    let head = http::request(fs.0, "HEAD", &format!("{BASE}/{id}/action/download"), &[], &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(&*good.len().to_string()));

    let id = fs.upload_id("\u{6620}\u{50cf}.img", b"named in another script");
    let answer = fs.download(&id, "", &[]);
    let disposition = "attachment; filename=\"__.img\"; filename*=UTF-8''%E6%98%A0%E5%83%8F.img";
    assert_eq!(answer.header("content-disposition"), Some(disposition));
}

#[test]
fn row_44_ranges_and_conditions() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    let length = good.len();
    let last = format!("{}-{}/{length}", length - 5, length - 1);
    for (range, bytes, span) in
        [("bytes=0-3", &good[..4], format!("0-3/{length}")), ("bytes=-5", &good[length - 5..], last)]
    {
        let answer = fs.download(&id, "", &[("range", range)]);
        assert!(answer.status == 206 && answer.body == bytes, "{range}: {}", answer.status);
        assert_eq!(answer.header("content-range"), Some(&*format!("bytes {span}")));
        assert_eq!(answer.header("content-length"), Some(&*bytes.len().to_string()));
    }
    assert_eq!(&good[..4], b"QFI\xfb");
    let past = fs.download(&id, "", &[("range", "bytes=99999999999-")]);
    assert_eq!((past.status, past.header("content-range")), (416, Some(&*format!("bytes */{length}"))));
    assert_eq!(past.header("content-type"), Some("text/plain; charset=utf-8"));

    let whole = fs.download(&id, "", &[]);
    for (name, value) in [("if-none-match", "etag"), ("if-modified-since", "last-modified")] {
        let answer = fs.download(&id, "", &[(name, whole.header(value).unwrap())]);
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{name}");
    }
}

#[track_caller]
fn assert_zip(answer: &Answer, service: &Service, name: &str, entry: &str, data: &[u8]) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    assert_eq!(answer.header("content-disposition"), Some(&*format!("attachment; filename=\"{name}\"")));
    let entries = fixtures::unzip(service.scratch(), &answer.body);
    let found: Vec<_> = entries.iter().map(|(name, method, _)| (name.as_str(), *method)).collect();
    assert_eq!(found, [(entry, 0)], "stored, and alone");
    assert!(entries[0].2 == data, "the entry is the upload");
}

#[test]
fn row_45_a_zip_holds_the_image_in_a_folder() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    if !have("python3") {
        return;
    }
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    for tail in ["?isZip=true", "/?isZip=true"] {
        assert_zip(&fs.download(&id, tail, &[]), &service, "disk.zip", "disk/disk.qcow2", &good);
    }
    let id = fs.upload_id("ubuntu-20.04.qcow2", &good);
    let answer = fs.download(&id, "?isZip=true", &[]);
    assert_zip(&answer, &service, "ubuntu-20.04.zip", "ubuntu-20.04/ubuntu-20.04.qcow2", &good);
    // Ranges of it are those of the whole.
    for range in ["bytes=0-99", "bytes=50-1000000", "bytes=-100"] {
        let part = fs.download(&id, "?isZip=true", &[("range", range)]);
        assert_eq!(part.status, 206, "{range}");
        let span = part.header("content-range").unwrap().strip_prefix("bytes ").unwrap();
        let (first, last) = span.split('/').next().unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        assert!(part.body == answer.body[first..=last], "{range}");
    }
}

#[test]
fn row_46_only_true_asks_for_a_zip() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 46");
    let id = fs.upload_id("disk.img", &data);
    for tail in ["?isZip=TRUE", "?isZip=1", "?isZip=", "?iszip=true", "?isZip=true%20"] {
        let answer = fs.download(&id, tail, &[]);
        assert!(answer.status == 200 && answer.body == data, "{tail}");
    }
}

#[test]
fn row_47_an_unknown_id() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    for tail in ["", "/", "?isZip=true"] {
        assert_refused(&fs.download(ZERO_ID, tail, &[]), 404, "file path doesn't exist");
    }
}
