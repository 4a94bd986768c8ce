//! The EdgeGallery file-system service as its clients call it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{self, Answer};

/// Where it begins.
pub const BASE: &str = "/image-management/v1/images";
/// An id that no image has.
pub const ZERO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// A part of a form.
#[derive(Clone, Copy)]
pub enum Part<'a> {
    /// A field and its text.
    Text(&'a str, &'a str),
    /// A field, the name of its file, and its bytes.
    File(&'a str, &'a str, &'a [u8]),
}

/// The service behind an address.
#[derive(Clone, Copy)]
pub struct FileSystem(pub SocketAddr);

impl FileSystem {
    /// A call without a body.
    pub fn call(&self, method: &str, path: &str) -> Answer {
        http::request(self.0, method, &format!("{BASE}{path}"), &[], &[])
    }

    /// A call with a form, on any method.
    pub fn send(&self, method: &str, path: &str, parts: &[Part<'_>]) -> Answer {
        let headers = [("content-type", "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk")];
        http::request(self.0, method, &format!("{BASE}{path}"), &headers, &form(parts))
    }

    /// An upload as the Java and Python clients make it.
    pub fn try_upload(&self, name: &str, data: &[u8]) -> Answer {
        let fields =
            [Part::File("file", name, data), Part::Text("priority", "0"), Part::Text("userId", "u1")];
        self.send("POST", "", &fields)
    }

    /// An upload that must succeed.
    #[track_caller]
    pub fn upload(&self, name: &str, data: &[u8]) -> Value {
        let answer = self.try_upload(name, data);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The id of an upload that must succeed.
    #[track_caller]
    pub fn upload_id(&self, name: &str, data: &[u8]) -> String {
        id_of(&self.upload(name, data))
    }

    /// What is known of an image.
    #[track_caller]
    pub fn record(&self, id: &str) -> Value {
        let answer = self.call("GET", &format!("/{id}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// The same, once its check has ended.
    #[track_caller]
    pub fn checked(&self, id: &str) -> Value {
        self.polled(id, |record| record["checkStatusResponse"]["status"] != 4)
    }

    /// The same, once its slim has ended.
    #[track_caller]
    pub fn slimmed(&self, id: &str) -> Value {
        self.polled(id, |record| record["slimStatus"] != 0 && record["slimStatus"] != 1)
    }

    /// Polls as clients do, with less patience.
    #[track_caller]
    pub fn polled(&self, id: &str, until: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + super::DEADLINE;
        loop {
            let record = self.record(id);
            if until(&record) {
                return record;
            }
            assert!(Instant::now() < deadline, "{record}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A slim.
    pub fn slim(&self, id: &str) -> Answer {
        self.call("POST", &format!("/{id}/action/slim"))
    }

    /// A download with what stands behind its path, and headers.
    pub fn download(&self, id: &str, tail: &str, headers: &[(&str, &str)]) -> Answer {
        http::request(self.0, "GET", &format!("{BASE}/{id}/action/download{tail}"), headers, &[])
    }

    /// Asserts that the download of an image is these bytes.
    #[track_caller]
    pub fn assert_bytes(&self, id: &str, data: &[u8]) {
        let answer = self.download(id, "", &[]);
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        assert!(answer.body == data, "{} bytes instead of {}", answer.body.len(), data.len());
    }

    /// A chunk of a session, its file first.
    pub fn chunk(&self, session: &str, number: u32, data: &[u8]) -> Answer {
        let name = format!("{number}.part");
        let fields =
            [Part::File("part", &name, data), Part::Text("priority", "0"), Part::Text("identifier", session)];
        self.send("POST", "/upload", &fields)
    }

    /// The end of a session.
    pub fn merge(&self, session: &str, filename: &str) -> Answer {
        let fields = [
            Part::Text("identifier", session),
            Part::Text("filename", filename),
            Part::Text("userId", "u1"),
            Part::Text("priority", "0"),
        ];
        self.send("POST", "/merge", &fields)
    }

    /// The catalogue.
    #[track_caller]
    pub fn listed(&self) -> Vec<Value> {
        let answer = self.call("GET", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json().as_array().expect("a list").clone()
    }
}

/// Asserts that an answer is an error of the service, to the byte.
#[track_caller]
pub fn assert_refused(answer: &Answer, status: u16, literal: &str) {
    assert_eq!((answer.status, answer.text()), (status, &*format!("\"{literal}\"")));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
}

/// Asserts that an answer is one of the service's bare texts.
#[track_caller]
pub fn assert_text(answer: &Answer, text: &str) {
    assert_eq!((answer.status, answer.text()), (200, text));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
}

/// The id in an answer.
#[track_caller]
pub fn id_of(answer: &Value) -> String {
    let id = answer["imageId"].as_str().expect("an id").to_owned();
    assert!(uuid::Uuid::parse_str(&id).is_ok_and(|parsed| parsed.to_string() == id), "{id}");
    id
}

/// The bytes of a form.
fn form(parts: &[Part<'_>]) -> Vec<u8> {
    const DELIMITER: &str = "------WebKitFormBoundary7MA4YWxk";
    let mut body = Vec::new();
    for part in parts {
        let (head, data) = match *part {
            // As Java's form writer has it, charset and all.
            Part::Text(field, text) => (
                format!(
                    "name=\"{field}\"\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Transfer-Encoding: 8bit"
                ),
                text.as_bytes(),
            ),
            Part::File(field, name, data) => {
                let name = name.replace('\\', "\\\\").replace('"', "\\\"");
                (
                    format!(
                        "name=\"{field}\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream"
                    ),
                    data,
                )
            }
        };
        body.extend_from_slice(
            format!("{DELIMITER}\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("{DELIMITER}--\r\n").as_bytes());
    body
}
