//! As much of an HTTP client as the tests need: one request, one connection, the answer whole.

use std::io::{self, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest silence of the server before a test gives up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields as they came; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Whether as many bytes came as were announced. A chunked body that was cut off has not been parsed at all.
    fn is_whole(&self) -> bool {
        let announced = self.header("content-length").and_then(|length| length.parse().ok());
        announced.is_none_or(|length: usize| length == self.body.len())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body that is text")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

/// `GET`.
pub fn get(server: SocketAddr, path: &str) -> Answer {
    request(server, "GET", path, &[], &[])
}

/// `POST` of JSON.
pub fn post_json(server: SocketAddr, path: &str, body: &serde_json::Value) -> Answer {
    request(server, "POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
}

/// Any request. `path` goes onto the wire as it is.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    try_request(server, method, path, headers, body.len() as u64, body)
        .unwrap_or_else(|error| panic!("no answer to {method} {path}: {error}"))
}

/// Any request whose body the server must take to its end, even when it refuses it: what clients do that look for an
/// answer when all is sent.
#[track_caller]
pub fn send_whole(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(server).expect("a server that listens");
    stream.set_read_timeout(Some(SILENCE_MAX)).expect("a time limit");
    stream.set_write_timeout(Some(SILENCE_MAX)).expect("a time limit");
    let head = head(server, method, path, headers, body.len() as u64);
    stream.write_all(head.as_bytes()).expect("a server that takes the head");
    stream.write_all(body).unwrap_or_else(|error| panic!("{method} {path} was not taken whole: {error}"));
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("no answer to {method} {path}: {error}"));
    parse(&bytes).unwrap_or_else(|| panic!("no answer to {method} {path}: {bytes:?}"))
}

/// Any request to a server that may go away meanwhile; the body is read as it is sent.
pub fn try_request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length_bytes: u64,
    body: impl Read,
) -> io::Result<Answer> {
    let head = head(server, method, path, headers, length_bytes);
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    // A server may answer and close before it has read a body that it refuses: what it said is what counts.
    let sent = stream
        .write_all(head.as_bytes())
        .and_then(|()| io::copy(&mut body.take(length_bytes), &mut stream))
        .map(drop);
    let mut bytes = Vec::new();
    let received = stream.read_to_end(&mut bytes).map(drop);
    // An answer that was cut off is none. One that is whole counts even if the connection broke behind it.
    match parse(&bytes).filter(|answer| method == "HEAD" || answer.is_whole()) {
        Some(answer) => Ok(answer),
        None => Err(sent.and(received).err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
    }
}

fn head(server: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], length_bytes: u64) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head + &format!("content-length: {length_bytes}\r\n\r\n")
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let rest = &bytes[end + 4..];
    let (status_line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status_line.split(' ').nth(1)?.parse().ok()?;
    if status == 100 {
        return parse(rest);
    }
    let headers: Vec<_> = fields
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { unchunk(rest)? } else { rest.to_vec() };
    Some(Answer { status, headers, body })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let digits = std::str::from_utf8(&rest[..end]).ok()?;
        let length = usize::from_str_radix(digits.split(';').next()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        let start = end + 2;
        body.extend_from_slice(rest.get(start..start + length)?);
        rest = rest.get(start + length + 2..)?;
    }
}
