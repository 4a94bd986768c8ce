//! What no client of the service does, but others do.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::file_system::{BASE, FileSystem, Part, assert_refused, id_of};
use crate::support::random::Random;
use crate::support::{DEADLINE, Service, fixtures};

/// Waits for what is given up beside the answer.
#[track_caller]
pub fn assert_nothing_staged(service: &Service) {
    until(|| service.staged(), |staged| staged.is_empty());
}

/// Waits for the bytes of images that are gone.
#[track_caller]
pub fn assert_no_blobs(service: &Service) {
    until(|| service.blobs(), |blobs| blobs.is_empty());
}

/// Waits until what is seen is as it should be.
#[track_caller]
pub fn until(look: impl Fn() -> Vec<String>, done: impl Fn(&[String]) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen = look();
        if done(&seen) {
            return;
        }
        assert!(Instant::now() < deadline, "{seen:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// SEC-25: no name becomes a path, whatever it is, and each comes back harmless or is refused.
#[test]
fn sec_25_hostile_names_become_no_path_and_break_no_header() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("hostile names");
    let mut random = Random::new("hostile names");
    let pieces = [
        "..", "/", "\\", "\u{202e}", "\u{0}", "%2e%2e", "\r\n", "\"", ";", "'", "~", "$(x)", "`x`", "C:",
        "|", "*", "\u{2066}", "\u{6620}", "%00", "&", "<b>", " ", ".", "a",
    ];
    let names: Vec<String> = (0..200)
        .map(|_| {
            let count = 1 + random.below(6);
            let stem: String =
                (0..count).map(|_| pieces[random.below(pieces.len() as u64) as usize]).collect();
            format!("{stem}.img")
        })
        .collect();
    let outside = service.scratch().join("outside");
    std::fs::write(&outside, b"as it was").unwrap();
    let mut taken = 0;
    for name in &names {
        // What breaks the form itself is another test's matter.
        let sent = name.replace(['\r', '\n', '\0'], "\u{1}");
        let answer = fs.try_upload(&sent, &data);
        if answer.status != 200 {
            assert!(
                matches!(answer.status, 400 | 500) && answer.text().starts_with('"'),
                "{sent:?}: {}",
                answer.status
            );
            continue;
        }
        taken += 1;
        let answer = answer.json();
        let told = answer["fileName"].as_str().unwrap();
        assert!(!told.contains(['/', '\\']) && !told.chars().any(char::is_control), "{told:?}");
        let download = fs.download(&id_of(&answer), "?isZip=true", &[]);
        assert_eq!(download.status, 200);
        let disposition = download.header("content-disposition").unwrap();
        assert!(disposition.starts_with("attachment; filename=\""), "{disposition}");
        // The name stands in the first header, with its length in front.
        let length = usize::from(download.body[26]) | usize::from(download.body[27]) << 8;
        let entry = String::from_utf8_lossy(&download.body[30..30 + length]);
        let (folder, file) = entry.split_once('/').unwrap();
        let is_harmless = |name: &str| !["", ".", ".."].contains(&name) && !name.contains(['/', '\\']);
        assert!(is_harmless(folder) && is_harmless(file), "{sent:?} became {entry:?}");
    }
    assert!(taken > 20, "only {taken} of the names were taken");
    assert_eq!(std::fs::read(outside).unwrap(), b"as it was");
    assert_eq!(service.image_names(), [""; 0], "nothing is written into the image root");
    for session in ["../..", "..", "a/b", "a\\b", ".", ""] {
        let chunk = [Part::File("part", "1.part", b"x"), Part::Text("identifier", session)];
        assert_eq!(fs.send("POST", "/upload", &chunk).status, 400, "{session:?}");
    }
}

/// SEC-25: the name of a user is a label, and is looked at before the bytes where it comes before them.
#[test]
fn sec_25_users_are_labels() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("users");
    let long = "u".repeat(256);
    let bad = ["a\u{1b}[2Jb", "\u{202e}1u", "a\u{0}b", &long];
    let merge_literal = "File should only be image file or filename is larger than max size";
    for user in bad {
        let (file, text) = (Part::File("file", "disk.img", &data), Part::Text("userId", user));
        for form in [[file, text], [text, file]] {
            assert_refused(&fs.send("POST", "", &form), 400, "Upload package file error");
        }
        let chunk = [Part::File("part", "1.part", &data), Part::Text("identifier", "s")];
        assert_eq!(fs.send("POST", "/upload", &chunk).status, 200);
        let merge = [Part::Text("identifier", "s"), Part::Text("filename", "disk.img"), text];
        assert_refused(&fs.send("POST", "/merge", &merge), 400, merge_literal);
    }
    assert_eq!(fs.listed(), [json!(null); 0]);
    // Nothing but the head of the file has come, and the answer does not wait for more.
    let mut stream = TcpStream::connect(fs.0).unwrap();
    let head = format!(
        "POST {BASE}?userId={long} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10000000\r\n\
         Content-Type: multipart/form-data; boundary=X\r\n\r\n\
         --X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"disk.img\"\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 400");
    let good = "u".repeat(255);
    let taken = fs.send("POST", "", &[Part::File("file", "disk.img", &data), Part::Text("userId", &good)]);
    assert_eq!(taken.json()["userId"], json!(good));
}

/// SEC-27: what a client says of an image never passes for what the service knows.
#[test]
fn sec_27_fields_that_the_service_decides_are_not_taken() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("decided");
    let fields = [
        Part::Text("imageId", "94d6e70d-51f7-4b0d-965f-59dca2c3002c"),
        Part::Text("checksum", "00000000000000000000000000000000"),
        Part::Text("slimStatus", "2"),
        Part::Text("storageMedium", "/etc/"),
        Part::Text("uploadTime", "1999-01-01 00:00:00"),
        Part::File("file", "disk.img", &data),
        Part::Text("size", "1"),
    ];
    let id = id_of(&fs.send("POST", "?slimStatus=2", &fields).json());
    assert_ne!(id, "94d6e70d-51f7-4b0d-965f-59dca2c3002c");
    let record = fs.checked(&id);
    assert_eq!(record["slimStatus"], 0);
    assert_ne!(record["checkStatusResponse"]["checkInfo"]["checksum"], "00000000000000000000000000000000");
    fs.assert_bytes(&id, &data);
}

/// A client that goes away in the middle leaves nothing: it could not go on.
#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    for (path, field, name) in [("", "file", "disk.img"), ("/upload?identifier=s", "part", "1.part")] {
        let mut stream = TcpStream::connect(fs.0).unwrap();
        let head = format!(
            "POST {BASE}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\
             Content-Type: multipart/form-data; boundary=X\r\n\r\n\
             --X\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&vec![7; 3 << 20]).unwrap();
        until(|| service.staged(), |staged| !staged.is_empty());
        drop(stream);
        assert_nothing_staged(&service);
    }
    assert_eq!(fs.listed(), [json!(null); 0]);
}

/// What comes without a length, and after having asked, is an upload like others.
#[test]
fn chunked_bodies_and_expect_100_continue_work() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let body = "--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"disk.img\"\r\n\r\nbytes of a disk\r\n--X--\r\n";
    let mut stream = TcpStream::connect(fs.0).unwrap();
    let head = format!(
        "POST {BASE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n\
         Transfer-Encoding: chunked\r\nContent-Type: multipart/form-data; boundary=X\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let (one, two) = body.split_at(40);
    stream
        .write_all(format!("{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len()).as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"fileName\":\"disk.img\""), "{answer}");
}

/// Everything that comes back over one connection until the server closes it.
#[track_caller]
fn conversation(server: SocketAddr, sent: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    let mut answers = Vec::new();
    stream
        .read_to_end(&mut answers)
        .unwrap_or_else(|error| panic!("the connection was not closed ({error}) after {sent:?}"));
    String::from_utf8(answers).unwrap()
}

/// A request that nobody sent, if what stands before it is read as a body of another length.
const HIDDEN: &str = "GET /healthz HTTP/1.1\r\nHost: hidden\r\nConnection: close\r\n\r\n";

/// Routes that take no body, and bodies of two kinds.
const ROUTES: [&str; 3] = ["GET /healthz", "POST /v1/images", "POST /image-management/v1/images"];

/// SEC-39: a length and a transfer coding together are two bodies to two readers. In place of an answer of 400 the coding
/// counts, which RFC 9112 (section 6.3) allows, and the connection ends with the answer: what a reader of the length takes
/// for one more request, or for a part of this one, is never looked at.
#[test]
fn sec_39_two_lengths_of_one_body_end_the_connection() {
    let service = Service::start();
    let coding = "Transfer-Encoding: chunked";
    let last_chunk = "0\r\n\r\n";
    for route in ROUTES {
        // Behind a body of one length it is a request like others.
        let plain = format!("{route} HTTP/1.1\r\nHost: x\r\n{coding}\r\n\r\n{last_chunk}{HIDDEN}");
        assert_eq!(conversation(service.http(), &plain).matches("HTTP/1.1 ").count(), 2, "{plain}");
        // To a reader of the length the hidden request is outside of the body, inside, and half inside.
        for length in [last_chunk.len(), last_chunk.len() + HIDDEN.len(), 20] {
            let length = format!("Content-Length: {length}");
            for [first, second] in [[&*length, coding], [coding, &*length]] {
                let head = format!("{route} HTTP/1.1\r\nHost: x\r\n{first}\r\n{second}\r\n\r\n");
                let answers = conversation(service.http(), &format!("{head}{last_chunk}{HIDDEN}"));
                assert!(answers.starts_with("HTTP/1.1 "), "{head}{answers:?}");
                assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{head}{answers}");
            }
        }
    }
    assert_nothing_staged(&service);
}

/// SEC-39: where the length of a body cannot be told, nothing is done and nothing more is read.
#[test]
fn sec_39_lengths_that_cannot_be_told_are_refused() {
    let service = Service::start();
    let fields = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length : 5",
        "Content-Length: 5\r\nContent-Length: 99999999999999999999",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
    ];
    for route in ROUTES {
        for fields in fields {
            let head = format!("{route} HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
            let answers = conversation(service.http(), &format!("{head}0\r\n\r\n{HIDDEN}"));
            assert!(answers.is_empty() || answers.starts_with("HTTP/1.1 400"), "{head}{answers}");
            assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{head}{answers}");
        }
    }
    assert_nothing_staged(&service);
}
