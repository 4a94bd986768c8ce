//! Floods on the wire: HTTP/2 frames that cost more than they say, and heads that never end. The server stays small and
//! answers others all the while.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use support::http::get;
use support::status::eventually;
use support::usage::peak_bytes;
use support::{DEADLINE, Service};

/// Of the contract (SEC-38).
const PEAK_BYTES_MAX: u64 = 256 << 20;

/// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection that speaks HTTP/2 as badly as the test wants.
struct Wire(TcpStream);

impl Wire {
    fn open(server: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut wire = Self(stream);
        wire.send(&frame(SETTINGS, 0, 0, &[])).unwrap();
        wire
    }

    /// What the server sends is read beside, or it could not go on.
    fn reading(self) -> Self {
        let mut reader = self.0.try_clone().unwrap();
        std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        self
    }

    fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.0.write_all(frames)
    }

    /// Whether the server closes the connection, within [`DEADLINE`].
    fn closes(mut self) -> bool {
        self.0.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut buffer = [0; 4096];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a gRPC call, in HPACK without its table (RFC 7541): `:method: POST`, `:scheme: http`, `:path`,
/// `:authority`, `content-type`, `te`.
fn call(path: &str) -> Vec<u8> {
    let mut head = vec![0x83, 0x86];
    let mut text = |name: &[u8], value: &str| {
        head.extend(name);
        head.push(u8::try_from(value.len()).unwrap());
        head.extend(value.as_bytes());
    };
    text(&[0x04], path);
    text(&[0x01], "localhost");
    text(&[0x0f, 0x10], "application/grpc");
    text(&[0x00, 0x02, b't', b'e'], "trailers");
    head
}

const CALL: &str = "/imageops.v1.ImageOps/UploadImage";

/// The server answers others, and has not grown.
fn assert_well(service: &Service) {
    assert_eq!(get(service.http(), "/healthz").status, 200);
    let peak = peak_bytes(service.id());
    assert!(peak <= PEAK_BYTES_MAX, "{peak} bytes of memory");
}

/// Both ports speak HTTP/2.
fn ports(service: &Service) -> [SocketAddr; 2] {
    [service.grpc(), service.http()]
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_38_streams_that_are_reset_at_once() {
    const STREAMS: u32 = 100_000;
    let service = Service::start();
    for port in ports(&service) {
        let (mut wire, mut sent) = (Wire::open(port).reading(), 0);
        let head = call(CALL);
        while sent < STREAMS {
            let mut frames = Vec::new();
            for number in sent..sent + 100 {
                let stream = number * 2 + 1;
                frames.extend(frame(HEADERS, END_HEADERS, stream, &head));
                frames.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            }
            if wire.send(&frames).is_err() {
                break;
            }
            sent += 100;
            if sent % 10_000 == 0 {
                assert_well(&service);
            }
        }
        assert_well(&service);
        assert!(sent < STREAMS, "nobody was told to calm down");
    }
    let client = service.client();
    let upload = support::upload::upload(&client, &[7; 1_000]).await;
    assert_eq!(client.get_image(&upload.name).await.unwrap(), upload);
    // What was begun for a stream ends with it.
    eventually("uploads that are gone", || async {
        let uploads = client.list_uploads(Default::default()).await.unwrap().uploads;
        uploads.iter().all(|upload| !upload.image.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_38_a_head_without_end() {
    const FRAMES: usize = 20_000;
    let service = Service::start();
    for port in ports(&service) {
        let mut wire = Wire::open(port).reading();
        wire.send(&frame(HEADERS, 0, 1, &call(CALL))).unwrap();
        // A field with a new name, again and again.
        let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x07][..], &[b'a'; 1024]].concat();
        let piece = frame(CONTINUATION, 0, 1, &field.repeat(8));
        let sent = (0..FRAMES).take_while(|_| wire.send(&piece).is_ok()).count();
        assert!(sent < FRAMES, "{} MiB of a head were taken", (sent * piece.len()) >> 20);
        assert_well(&service);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_38_windows_that_cannot_be() {
    let service = Service::start();
    for port in ports(&service) {
        for window in [0, (1_u32 << 31) - 1] {
            let mut wire = Wire::open(port);
            let update = frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes());
            // The largest one is allowed once; the sum is not.
            wire.send(&update.repeat(2)).unwrap();
            assert!(wire.closes(), "a window of {window}");
        }
        assert_well(&service);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sec_38_data_that_is_empty() {
    const FRAMES: usize = 1_000_000;
    const AT_ONCE: usize = 10_000;
    let service = Service::start();
    for port in ports(&service) {
        let mut wire = Wire::open(port).reading();
        wire.send(&frame(HEADERS, END_HEADERS, 1, &call(CALL))).unwrap();
        let frames = frame(DATA, 0, 1, &[]).repeat(AT_ONCE);
        for _ in 0..FRAMES / AT_ONCE {
            if wire.send(&frames).is_err() {
                break;
            }
        }
        assert_well(&service);
        drop(wire.send(&frame(DATA, END_STREAM, 1, &[])));
    }
    assert_well(&service);
}

/// Heads that come byte by byte hold neither the others up nor their own connection for ever.
#[tokio::test(flavor = "multi_thread")]
async fn sec_37_heads_that_never_end() {
    const CONNECTIONS: usize = 1_000;
    let service = Service::start();
    let mut slow: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = TcpStream::connect(service.http()).unwrap();
            stream.write_all(b"GET /v1/images HTTP/1.1\r\nhost: a\r\nx-slow: ").unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        for stream in &mut slow {
            drop(stream.write_all(b"a"));
        }
        assert_well(&service);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for mut stream in slow {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut answer = Vec::new();
        let end = stream.read_to_end(&mut answer);
        assert!(end.is_ok() || end.unwrap_err().kind() == io::ErrorKind::ConnectionReset);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
    }
    assert_well(&service);
}
