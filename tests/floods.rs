//! Floods on the wire: HTTP/2 frames that cost more than they say, and heads that never end. The server stays small and
//! answers others all the while.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use imageops::v1::UploadImageRequest;
use imageops::v1::upload_image_request::Message;
use imageops_client::Client;
use prost_reflect::prost::Message as _;

use support::http::get;
use support::status::{eventually, reason};
use support::upload::{Stream, metadata, name_of, try_upload};
use support::usage::peak_bytes;
use support::{DEADLINE, Service};

/// Of the contract (SEC-38).
const PEAK_BYTES_MAX: u64 = 256 << 20;

/// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Longest silence of an upload before the server ends it by itself.
const IDLE: Duration = Duration::from_secs(60);

/// A connection that speaks HTTP/2 as badly as the test wants.
struct Wire(TcpStream);

/// What reads beside: all that came until the connection ended.
type Reader = JoinHandle<io::Result<Vec<u8>>>;

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
        self.read_beside().0
    }

    fn read_beside(self) -> (Self, Reader) {
        self.0.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut stream = self.0.try_clone().unwrap();
        let read = move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).map(|_| bytes)
        };
        (self, std::thread::spawn(read))
    }

    fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.0.write_all(frames)
    }

    /// Whether the server ends the connection because of what came.
    fn ends(self) -> bool {
        was_ended(self.read_beside().1)
    }
}

/// Whether the server ended the connection that is read because of what came. Who answers no ping is let go too, but
/// without an error.
fn was_ended(reader: Reader) -> bool {
    let bytes = match reader.join().unwrap() {
        Ok(bytes) => bytes,
        // It had not read all that was sent: the reason may be lost on the way.
        Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
    };
    let mut rest = &bytes[..];
    while let [high, middle, low, kind, _, _, _, _, _, behind @ ..] = rest {
        let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
        // The last stream that is looked at, then the error.
        if *kind == GOAWAY && behind[4..8] != [0; 4] {
            return true;
        }
        rest = behind.get(length..).unwrap_or_default();
    }
    false
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

/// The first message of an upload and the name of that.
fn beginning(display_name: &str) -> (Vec<u8>, String) {
    let metadata = metadata(display_name);
    let name = name_of(&metadata);
    let message = UploadImageRequest { message: Some(Message::Metadata(metadata)) }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    ([&[0][..], &length, &message].concat(), name)
}

/// All places for uploads are free: so many can be open at once, and each can become an image.
async fn assert_places(client: &Client, places: usize) {
    let mut held = Vec::new();
    for number in 0..places {
        let metadata = metadata("held");
        let name = name_of(&metadata);
        let stream = eventually("a place", || async {
            let stream = Stream::begin(client, &metadata).await;
            loop {
                // It is known once the stream has its place.
                if client.get_upload(&name).await.is_ok() {
                    return Some(stream);
                }
                if !stream.is_open() {
                    let refused = stream.answer().await.unwrap_err();
                    assert_eq!(reason(&refused), "LIMIT_REACHED", "{refused:?}");
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        held.push((number, stream));
    }
    for (number, stream) in held {
        stream.chunk(0, &[7; 100]).await;
        let answer = stream.commit(Default::default()).await;
        answer.unwrap_or_else(|refused| panic!("upload {number}: {refused:?}"));
    }
}

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
    const PLACES: usize = 4;
    let service = Service::start_with(&["--uploads-max", &PLACES.to_string()]);
    for port in ports(&service) {
        let (mut wire, mut sent) = (Wire::open(port).reading(), 0);
        let head = call(CALL);
        while sent < STREAMS {
            let mut frames = Vec::new();
            for number in sent..sent + 100 {
                let stream = number * 2 + 1;
                frames.extend(frame(HEADERS, END_HEADERS, stream, &head));
                if number % 2 == 0 {
                    frames.extend(frame(DATA, 0, stream, &beginning("reset").0));
                }
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
    assert_places(&service.client(), PLACES).await;
}

/// What was begun for a stream ends with it, whether its first message had come or not.
#[tokio::test(flavor = "multi_thread")]
async fn sec_38_work_ends_with_the_stream_that_is_reset() {
    const PLACES: u32 = 4;
    let service = Service::start_with(&["--uploads-max", &PLACES.to_string()]);
    let client = service.client();
    let mut wire = Wire::open(service.grpc()).reading();
    for round in 0..5 {
        let begun = Instant::now();
        let streams: Vec<_> = (round * PLACES..(round + 1) * PLACES).map(|number| number * 2 + 1).collect();
        let mut names = Vec::new();
        for (index, &stream) in streams.iter().enumerate() {
            wire.send(&frame(HEADERS, END_HEADERS, stream, &call(CALL))).unwrap();
            if index % 2 == 0 {
                let (message, name) = beginning("reset");
                wire.send(&frame(DATA, 0, stream, &message)).unwrap();
                names.push(name);
            }
        }
        for name in &names {
            eventually("an open upload", || async { client.get_upload(name).await.ok() }).await;
        }
        eventually("a server without a place", || async {
            let refused = try_upload(&client, &metadata("one more"), &[7; 100]).await.err()?;
            assert_eq!(reason(&refused), "LIMIT_REACHED", "{refused:?}");
            Some(())
        })
        .await;
        for &stream in &streams {
            wire.send(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())).unwrap();
        }
        assert_places(&client, PLACES as usize).await;
        // Those whose first message has not come are waited for without an end.
        assert!(begun.elapsed() < IDLE, "the places were free because nothing came, not by the reset");
        for name in &names {
            assert_eq!(client.get_upload(name).await.unwrap().durable_bytes, 0);
        }
    }
    assert_well(&service);
}

/// What makes the server reset a stream that was begun well.
struct Provocation {
    name: &'static str,
    /// Flags of the head, beside its end.
    flags: u8,
    /// One more field of the head.
    field: &'static [u8],
    /// What follows on the stream.
    frame: fn(u32) -> Vec<u8>,
}

const PROVOCATIONS: [Provocation; 5] = [
    Provocation {
        name: "a window of zero",
        flags: 0,
        field: b"",
        frame: |stream| frame(WINDOW_UPDATE, 0, stream, &[0; 4]),
    },
    Provocation {
        name: "a window that overflows",
        flags: 0,
        field: b"",
        frame: |stream| frame(WINDOW_UPDATE, 0, stream, &((1_u32 << 31) - 1).to_be_bytes()),
    },
    Provocation {
        name: "data behind the end",
        flags: END_STREAM,
        field: b"",
        frame: |stream| frame(DATA, 0, stream, b"data"),
    },
    Provocation {
        name: "more data than was told",
        flags: 0,
        // `content-length: 1`.
        field: b"\x0f\x0d\x011",
        frame: |stream| frame(DATA, 0, stream, b"data"),
    },
    Provocation {
        name: "a second head",
        flags: 0,
        field: b"",
        frame: |stream| frame(HEADERS, END_HEADERS, stream, &call(CALL)),
    },
];

/// Streams that the server itself has to reset, since what is sent on them is wrong (CVE-2025-8671): they count like those
/// that the client resets.
#[tokio::test(flavor = "multi_thread")]
async fn sec_38_streams_that_the_server_is_made_to_reset() {
    const STREAMS: u32 = 50_000;
    const PLACES: usize = 4;
    let service = Service::start_with(&["--uploads-max", &PLACES.to_string()]);
    for port in ports(&service) {
        for provocation in PROVOCATIONS {
            let head = [&call(CALL)[..], provocation.field].concat();
            let (mut wire, reader) = Wire::open(port).read_beside();
            let mut sent = 0;
            while sent < STREAMS {
                let mut frames = Vec::new();
                for number in sent..sent + 100 {
                    let stream = number * 2 + 1;
                    frames.extend(frame(HEADERS, END_HEADERS | provocation.flags, stream, &head));
                    frames.extend((provocation.frame)(stream));
                }
                if wire.send(&frames).is_err() {
                    break;
                }
                sent += 100;
                if sent % 5_000 == 0 {
                    assert_well(&service);
                }
            }
            assert_well(&service);
            assert!(was_ended(reader), "{}: {sent} streams were served", provocation.name);
        }
    }
    assert_places(&service.client(), PLACES).await;
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
            assert!(wire.ends(), "a window of {window}");
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
            assert_well(&service);
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
