//! Every way by which bytes become an image. A new one is a file here and a line in [`ROADS`].
//!
//! A road makes one attempt: it asks where the upload stands, goes on from there, and says how it ended. Whoever calls it
//! tries again, as a client would.

mod edgegallery;
mod grpc;
mod rest;
mod tus;

pub use self::edgegallery::{cancel as cancel_chunks, chunk_bytes};

use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use imageops_client::{Client, ConnectOptions, Connection, Error, RetryPolicy};

use crate::ledger::{Entry, Ledger};
use crate::support::DEADLINE;
use crate::support::http::{self, Answer};

/// One way in.
pub struct Road {
    /// Its name in messages and figures.
    pub name: &'static str,
    /// A repetition finds what an earlier attempt made, so that one upload never makes two images.
    pub remembers: bool,
    /// The client tells the digests of the whole, so that no other bytes can become the image.
    pub promises: bool,
    /// An attempt goes on where the one before stood; else it begins anew, and only small images ever get through.
    pub resumes: bool,
    /// A path that the server answers with 200 when it has this road; `None` for those that it always has.
    probe: Option<&'static str>,
    attempt: fn(Target, Entry) -> Attempt,
}

/// How an attempt goes on.
pub type Attempt = Pin<Box<dyn Future<Output = Result<String, Setback>>>>;

/// All roads.
const ROADS: &[Road] = &[
    Road {
        name: "gRPC",
        remembers: true,
        promises: true,
        resumes: true,
        probe: None,
        attempt: |target, entry| Box::pin(grpc::upload(target, entry)),
    },
    Road {
        name: "REST body",
        remembers: true,
        promises: true,
        resumes: true,
        probe: None,
        attempt: |target, entry| blocking(target, entry, rest::body),
    },
    Road {
        name: "REST form",
        remembers: true,
        promises: true,
        resumes: true,
        probe: None,
        attempt: |target, entry| Box::pin(rest::form(target, entry)),
    },
    Road {
        name: "tus",
        remembers: true,
        promises: true,
        resumes: true,
        probe: None,
        attempt: |target, entry| blocking(target, entry, tus::upload),
    },
    Road {
        name: "EdgeGallery form",
        remembers: false,
        promises: false,
        resumes: false,
        probe: Some("/image-management/v1/images/upload"),
        attempt: |target, entry| blocking(target, entry, edgegallery::form),
    },
    Road {
        name: "EdgeGallery chunks",
        remembers: true,
        promises: false,
        resumes: true,
        probe: Some("/image-management/v1/images/merge"),
        attempt: |target, entry| Box::pin(edgegallery::chunks(target, entry)),
    },
];

/// Where a server listens.
#[derive(Clone, Copy)]
pub struct Target {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
}

/// Why an attempt made no image.
#[derive(Debug)]
pub enum Setback {
    /// No answer, or one that asks to come again: what was made is not known.
    Cut(String),
    /// The service said no: the reason, or the literal of a legacy road.
    Refused { reason: String, text: String },
}

impl fmt::Display for Setback {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut(why) => write!(formatter, "no answer ({why})"),
            Self::Refused { reason, text } => write!(formatter, "refused as {reason:?}: {text}"),
        }
    }
}

impl Setback {
    /// Whether the service says that it has no room.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Cut(_) => false,
            Self::Refused { reason, text } => reason == "NO_SPACE" || is_not_stored(text),
        }
    }

    /// Whether the service says that its store cannot be reached now.
    pub fn is_store_away(&self) -> bool {
        let (reason, text) = match self {
            Self::Cut(text) => ("", text),
            Self::Refused { reason, text } => (reason.as_str(), text),
        };
        let is_told = reason == STORE_AWAY || text.contains(&format!("\"reason\":\"{STORE_AWAY}\""));
        // An answer to HEAD tells no more than its status.
        is_told || is_not_stored(text) || text.trim() == "503"
    }
}

/// The legacy surface has one literal for whatever cannot be stored.
fn is_not_stored(text: &str) -> bool {
    const LITERALS: [&str; 2] = ["\"fail to upload package\"", "\"fail to save chunk file part\""];
    LITERALS.iter().any(|literal| text.trim().ends_with(literal))
}

/// The reason of what is refused because a store cannot be reached.
const STORE_AWAY: &str = "STORE_DISCONNECTED";

/// The roads that this server has. Each one that it lacks is told, here and in the figures.
pub fn present(http: SocketAddr) -> Vec<&'static Road> {
    let is_there = |road: &&Road| {
        let Some(path) = road.probe else { return true };
        let status = http::get(http, path).status;
        if status != 200 {
            eprintln!("WITHOUT the road \"{}\": {path} answers {status}", road.name);
        }
        status == 200
    };
    ROADS.iter().filter(is_there).collect()
}

/// How many roads were taken, for the figures, and which were not.
pub fn counted(present: &[&'static Road]) -> String {
    let missing: Vec<_> = ROADS
        .iter()
        .map(|road| road.name)
        .filter(|name| present.iter().all(|road| road.name != *name))
        .collect();
    let without =
        if missing.is_empty() { String::new() } else { format!(" (**without {}**)", missing.join(", ")) };
    format!("{} of {} roads{without}", present.len(), ROADS.len())
}

impl Road {
    /// Whether a refusal says why. The legacy surface has one literal for whatever it cannot store, going down too.
    pub fn gives_reasons(&self) -> bool {
        self.probe.is_none()
    }

    /// One attempt at an upload of the ledger.
    pub async fn attempt(&self, target: Target, ledger: &Ledger, index: usize) -> Result<String, Setback> {
        let entry = ledger.entry(index, |entry| {
            if !self.remembers && entry.acknowledged.is_none() && entry.sent_bytes() > 0 {
                entry.images_max += 1;
            }
            entry.clone()
        });
        let image = (self.attempt)(target, entry).await?;
        ledger.entry(index, |entry| entry.acknowledged = Some(image.clone()));
        Ok(image)
    }

    /// Attempts until the image is acknowledged; how many were cut. A refusal is an error here.
    pub async fn deliver(&self, target: Target, ledger: &Ledger, index: usize, limit: Duration) -> u64 {
        let deadline = Instant::now() + limit;
        let mut cuts = 0;
        loop {
            let setback = match self.attempt(target, ledger, index).await {
                Ok(_) => return cuts,
                Err(setback) => setback,
            };
            assert!(
                matches!(setback, Setback::Cut(_)),
                "{}: expected an image or no answer: {setback}",
                self.name
            );
            assert!(
                Instant::now() < deadline,
                "{}: expected an image within {limit:?}: {setback}",
                self.name
            );
            cuts += 1;
            // The server is down, and answers at once that it is.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Target {
    /// A client that tries each thing once.
    pub fn client(self) -> Client {
        self.patient_client().with_retry(RetryPolicy { attempts_max: 1, ..RetryPolicy::default() })
    }

    /// A client that tries again by itself.
    pub fn patient_client(self) -> Client {
        let uri = format!("http://{}", self.grpc);
        Client::new(Connection::connect_lazy(&uri, ConnectOptions::default()).expect("an address"))
    }

    fn send(
        self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Body,
    ) -> Result<Answer, Setback> {
        let length_bytes = body.length_bytes();
        http::try_request(self.http, method, path, headers, length_bytes, body)
            .map_err(|error: io::Error| Setback::Cut(error.to_string()))
    }
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        let Error::Call(call) = &error else {
            return Self::Refused { reason: String::new(), text: error.to_string() };
        };
        // No reason: the connection broke, or the server went away in the middle of an answer.
        if call.transport || ["", "UNAVAILABLE", "SHUTTING_DOWN"].contains(&call.reason.as_str()) {
            return Self::Cut(error.to_string());
        }
        Self::Refused { reason: call.reason.clone(), text: error.to_string() }
    }
}

/// What an answer of the REST side says when it is not the one that was wanted.
fn setback(answer: &Answer) -> Setback {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let reason = problem["reason"].as_str().unwrap_or_default().to_owned();
    if [502, 503, 504].contains(&answer.status) {
        return Setback::Cut(format!("{} {text}", answer.status));
    }
    Setback::Refused { reason, text: format!("{} {text}", answer.status) }
}

/// Runs a road that waits for its sockets beside the reactor.
fn blocking(target: Target, entry: Entry, road: fn(Target, &Entry) -> Result<String, Setback>) -> Attempt {
    Box::pin(async move {
        let work = tokio::task::spawn_blocking(move || road(target, &entry));
        match tokio::time::timeout(DEADLINE * 5, work).await.expect("an answer in time") {
            Ok(result) => result,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    })
}

/// A body whose length is known before it is read.
trait Body: Read {
    fn length_bytes(&self) -> u64;
}

impl Body for &[u8] {
    fn length_bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// Bytes of an entry between others.
struct Part<R> {
    length_bytes: u64,
    reader: R,
}

impl<R: Read> Read for Part<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        self.reader.read(target)
    }
}

impl<R: Read> Body for Part<R> {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }
}

/// A part of an entry's bytes.
fn part(entry: &Entry, offset_bytes: u64, length_bytes: u64) -> impl Body {
    let reader = entry.content.reader(offset_bytes, &entry.sent_bytes).take(length_bytes);
    Part { length_bytes, reader }
}

/// A form with text fields and, between them, one file.
fn form<B: Body>(
    fields: &[(&str, &str)],
    file: Option<(&str, &str)>,
    bytes: B,
) -> (String, impl Body + use<B>) {
    const BOUNDARY: &str = "a-line-between-parts-of-the-form";
    let mut head = String::new();
    for (name, value) in fields {
        head +=
            &format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    if let Some((name, file_name)) = file {
        head += &format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"{file_name}\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        );
    }
    let tail = if file.is_some() { format!("\r\n--{BOUNDARY}--\r\n") } else { format!("--{BOUNDARY}--\r\n") };
    let length_bytes = head.len() as u64 + bytes.length_bytes() + tail.len() as u64;
    let reader = io::Cursor::new(head).chain(bytes).chain(io::Cursor::new(tail));
    (format!("multipart/form-data; boundary={BOUNDARY}"), Part { length_bytes, reader })
}
