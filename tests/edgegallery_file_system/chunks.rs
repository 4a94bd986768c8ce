//! Rows 48 to 56: images that come in chunks.

use std::io::Write as _;
use std::net::TcpStream;

use crate::support::Service;
use crate::support::file_system::{BASE, FileSystem, Part, assert_refused, assert_text, id_of};
use crate::support::fixtures;
use crate::support::http;
use crate::upload::assert_uploaded;

const NO_SESSION: &str = "fail to find the file path";
const CHUNK_MISSING: &str = "fail to open the part file in path";

fn three(data: &[u8]) -> [(u32, &[u8]); 3] {
    let (a, b) = (data.len() / 4, data.len() / 2 + 1);
    [(1, &data[..a]), (2, &data[a..b]), (3, &data[b..])]
}

#[test]
fn rows_48_to_50_chunks_become_one_image_once() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    for (number, data) in three(&good) {
        assert_text(&fs.chunk("s1", number, data), "ok");
    }
    assert_eq!(fs.listed().len(), 0, "chunks are no images");
    let merged = fs.merge("s1", "m.qcow2");
    assert_eq!(merged.status, 200, "{}", merged.text());
    assert_uploaded(&merged.json(), &service, "m.qcow2");
    let id = id_of(&merged.json());
    fs.assert_bytes(&id, &good);
    assert_eq!(fs.checked(&id)["checkStatusResponse"]["status"], 0);
    assert_refused(&fs.merge("s1", "m.qcow2"), 500, NO_SESSION);
    assert_eq!(fs.listed().len(), 1);
    crate::hostile::assert_nothing_staged(&service);
}

/// By number and not by name: 10 comes behind 9. A chunk that comes again takes the place of the first.
#[test]
fn chunks_come_in_any_order_and_again() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("any order");
    let parts: Vec<_> = (1_u32..).zip(data.chunks(6000)).collect();
    assert_eq!(parts.len(), 11);
    assert_text(&fs.chunk("s", 10, b"rubbish that is sent again"), "ok");
    std::thread::scope(|scope| {
        for (number, part) in parts.iter().rev() {
            scope.spawn(move || assert_text(&fs.chunk("s", *number, part), "ok"));
        }
    });
    let merged = fs.merge("s", "m.img");
    assert_eq!(merged.status, 200, "{}", merged.text());
    fs.assert_bytes(&id_of(&merged.json()), &data);
}

/// In the query, before the chunk and behind it: the session is the same one. Forms may be urlencoded.
#[test]
fn sessions_are_named_wherever_a_field_may_stand() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("fields");
    let [(_, one), (_, two), (_, three)] = three(&data);
    let session = Part::Text("identifier", "65536-a sessionimg");
    assert_text(&fs.send("POST", "/upload", &[session, Part::File("part", "1.part", one)]), "ok");
    assert_text(&fs.send("POST", "/upload/", &[Part::File("part", "2.part", two), session]), "ok");
    let query = "/upload?identifier=65536-a+sessionimg";
    let other = Part::Text("identifier", "other");
    assert_text(&fs.send("POST", query, &[Part::File("part", "3.part", three), other]), "ok");
    let form = b"identifier=65536-a%20sessionimg&filename=m.img&userId=u1&priority=0";
    let encoded = [("content-type", "application/x-www-form-urlencoded")];
    let merged = http::request(fs.0, "POST", &format!("{BASE}/merge"), &encoded, form);
    assert_eq!(merged.status, 200, "{}", merged.text());
    fs.assert_bytes(&id_of(&merged.json()), &data);
    assert_refused(&fs.merge("other", "m.img"), 500, NO_SESSION);
}

/// The order of the service's own clients: the bytes go on as they come, and are nothing when the form breaks off.
#[test]
fn a_chunk_whose_session_comes_last_waits_nowhere() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let head = format!(
        "POST {BASE}/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=X\r\n\
         Content-Length: 99999999\r\n\r\n--X\r\nContent-Disposition: form-data; name=\"part\"; \
         filename=\"1.part\"\r\n\r\n"
    );
    let mut stream = TcpStream::connect(fs.0).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&fixtures::raw("waits nowhere").repeat(32)).unwrap();
    let staging = service.data_dir().join("store/staging");
    let length_bytes = |name: &String| std::fs::metadata(staging.join(name)).map_or(0, |file| file.len());
    let grown = || service.staged().into_iter().filter(|name| length_bytes(name) > 0).collect();
    crate::hostile::until(grown, |grown| !grown.is_empty());
    let open = http::get(fs.0, "/v1/uploads?state=open").json();
    assert_eq!(open["uploads"].as_array().unwrap().len(), 1, "{open}");
    assert_eq!(open["uploads"][0]["session"], serde_json::Value::Null);
    drop(stream);
    crate::hostile::assert_nothing_staged(&service);
    // What stands in the middle of an image is no header, whatever it looks like.
    let data = fixtures::raw("no header");
    let mut unsafe_header = b"QFI\xfb\0\0\0\x02\0\0\0\0\0\0\0\x48\0\0\0\x0b\0\0\0\x10".to_vec();
    unsafe_header.resize(70_000, 0);
    assert_text(&fs.chunk("s", 1, &data), "ok");
    assert_text(&fs.chunk("s", 2, &unsafe_header), "ok");
    let merged = fs.merge("s", "m.img");
    assert_eq!(merged.status, 200, "{}", merged.text());
    fs.assert_bytes(&id_of(&merged.json()), &[data, unsafe_header].concat());
}

#[test]
fn row_51_a_gap_changes_nothing() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 51");
    let parts = three(&data);
    for (number, part) in [parts[0], parts[2]] {
        assert_text(&fs.chunk("s", number, part), "ok");
    }
    assert_refused(&fs.merge("s", "gap.img"), 500, CHUNK_MISSING);
    assert_eq!(fs.listed().len(), 0);
    assert_text(&fs.chunk("s", 2, parts[1].1), "ok");
    let merged = fs.merge("s", "gap.img");
    assert_eq!(merged.status, 200, "{}", merged.text());
    fs.assert_bytes(&id_of(&merged.json()), &data);
}

#[test]
fn row_52_a_merge_needs_the_name_of_an_image() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 52");
    assert_text(&fs.chunk("s", 1, &data), "ok");
    let bad = "File should only be image file or filename is larger than max size";
    assert_refused(&fs.merge("s", "m.exe"), 400, bad);
    assert_refused(&fs.send("POST", "/merge", &[Part::Text("identifier", "s")]), 400, bad);
    assert_refused(&fs.merge("s", "x/m.img"), 400, bad);
    let cloud = [Part::Text("identifier", "s"), Part::Text("filename", "m.img"), Part::Text("priority", "A")];
    assert_refused(&fs.send("POST", "/merge", &cloud), 500, NO_SESSION);
    assert_eq!(fs.merge("s", "m.img").status, 200, "and nothing was lost");
}

#[test]
fn row_53_a_cancelled_session_is_gone() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 53");
    let cancel = [Part::Text("identifier", "s2"), Part::Text("priority", "0")];
    assert_text(&fs.chunk("s2", 1, &data), "ok");
    assert_text(&fs.send("DELETE", "/upload", &cancel), "cancel success");
    assert_refused(&fs.merge("s2", "m.img"), 500, NO_SESSION);
    crate::hostile::assert_nothing_staged(&service);
    // By the query, or as an encoded form, all the same.
    assert_text(&fs.chunk("s2", 1, &data), "ok");
    assert_text(&fs.call("DELETE", "/upload?identifier=s2"), "cancel success");
    assert_refused(&fs.merge("s2", "m.img"), 500, NO_SESSION);
    assert_text(&fs.chunk("s2", 1, &data), "ok");
    let encoded = [("content-type", "application/x-www-form-urlencoded")];
    let answer = http::request(fs.0, "DELETE", &format!("{BASE}/upload"), &encoded, b"identifier=s2");
    assert_text(&answer, "cancel success");
    assert_refused(&fs.merge("s2", "m.img"), 500, NO_SESSION);
}

#[test]
fn row_54_a_session_that_never_was_is_cancelled() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let never = [Part::Text("identifier", "never"), Part::Text("priority", "0")];
    assert_text(&fs.send("DELETE", "/upload", &never), "cancel success");
}

#[test]
fn row_55_a_cancel_without_a_session_erases_nothing() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 55");
    let earlier = fs.upload_id("keep.img", &data);
    assert_text(&fs.chunk("s", 1, &data), "ok");
    assert_refused(
        &fs.send("DELETE", "/upload", &[Part::Text("priority", "0")]),
        400,
        "identifier is required",
    );
    assert_refused(&fs.call("DELETE", "/upload"), 400, "identifier is required");
    fs.assert_bytes(&earlier, &data);
    assert_eq!(fs.merge("s", "m.img").status, 200);
}

#[test]
fn row_56_a_chunk_needs_a_file() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let answer = fs.send("POST", "/upload", &[Part::Text("identifier", "s"), Part::Text("part", "x")]);
    assert_refused(&answer, 400, "Upload package file error");
}

#[test]
fn a_zip_comes_in_chunks_too() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let Some(zip) = fixtures::zip(service.scratch(), &[("pack/", b""), ("pack/disk.qcow2", &good)]) else {
        return;
    };
    for (number, part) in three(&zip) {
        assert_text(&fs.chunk("z", number, part), "ok");
    }
    let merged = fs.merge("z", "pack.zip");
    assert_eq!(merged.status, 200, "{}", merged.text());
    assert_uploaded(&merged.json(), &service, "disk.qcow2");
    fs.assert_bytes(&id_of(&merged.json()), &good);
    assert_text(&fs.chunk("n", 1, b"no zip"), "ok");
    assert_refused(&fs.merge("n", "pack.zip"), 500, "Failed to decompress zip file");
}

/// REL-28: of two merges of one session one makes the image, whoever comes first.
#[test]
fn rel_28_two_merges_make_one_image() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("two merges").repeat(32);
    for round in 0..4 {
        let session = format!("s{round}");
        for (number, part) in three(&data) {
            assert_text(&fs.chunk(&session, number, part), "ok");
        }
        let answers = std::thread::scope(|scope| {
            let merges: [_; 3] = std::array::from_fn(|_| scope.spawn(|| fs.merge(&session, "m.img")));
            merges.map(|merge| merge.join().unwrap())
        });
        let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert_eq!(won.len(), 1);
        lost.iter().for_each(|answer| assert_refused(answer, 500, NO_SESSION));
        fs.assert_bytes(&id_of(&won[0].json()), &data);
        assert_eq!(fs.listed().len(), round + 1);
    }
}
