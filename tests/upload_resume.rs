//! What was sent is not lost: uploads are cut, killed, taken over, promised wrongly, and go on or are refused.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Cursor;
use std::os::unix::fs::MetadataExt as _;

use bytes::Bytes;
use imageops::v1::upload_image_request::Message;
use imageops::v1::{
    Chunk, Digests, ImageFormat, ListUploadsRequest, Upload, UploadCommit, UploadImageRequest,
    UploadMetadata, UploadResume, UploadState,
};
use imageops_client::{Client, UploadOptions};
use tonic::{Code, Status};

use support::Service;
use support::jobs::download;
use support::proxy::Proxy;
use support::random::Random;
use support::status::{assert_status, detail, eventually, reason};
use support::upload::{
    CHUNK_BYTES, Stream, commit_of, digests, metadata, name_of, try_upload, upload as upload_image,
};

const MIB: usize = 1 << 20;

async fn upload_state(client: &Client, name: &str) -> Upload {
    client.get_upload(name).await.unwrap()
}

/// Goes on where the server says and commits; the image must be what `data` is.
async fn resume_and_commit(client: &Client, name: &str, data: &[u8]) {
    let offset = upload_state(client, name).await.durable_bytes;
    let stream = Stream::resume(client, name, offset).await;
    stream.chunks(offset, data).await;
    let answer = stream.commit(commit_of(data)).await.unwrap();
    let (upload, image) = (answer.upload.unwrap(), answer.image.unwrap());
    assert_eq!(upload.state(), UploadState::Committed);
    assert_eq!(upload.image, image.name);
    assert_eq!((image.size_bytes, image.digests.unwrap()), (data.len() as u64, digests(data)));
    assert!(download(client, &image.name).await == data, "other bytes are stored than were sent");
}

/// A request that is repeated with other bytes must not be told that they are stored.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_must_be_what_is_stored() {
    let service = Service::start();
    let client = service.client();
    let (data, other) = (Random::new("sent again").bytes(MIB), Random::new("not the same").bytes(MIB));
    let metadata = metadata("again");
    let first = try_upload(&client, &metadata, &data).await.unwrap();
    let send = async |data: &[u8]| {
        let stream = Stream::begin(&client, &metadata).await;
        stream.chunks(0, data).await;
        stream.commit(UploadCommit::default()).await
    };
    assert_eq!(send(&data).await.unwrap().image.unwrap(), first);
    for wrong in [&other[..], &data[..MIB - 1], &[&data[..], b"more"].concat()] {
        assert_status(&send(wrong).await.unwrap_err(), Code::AlreadyExists, "REQUEST_ID_REUSED");
    }
    // What is too long is told so at once, and what was changed on its way is no other content.
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunks(0, &[&data[..], &other[..]].concat()).await;
    assert_status(&stream.answer().await.unwrap_err(), Code::AlreadyExists, "REQUEST_ID_REUSED");
    let stream = Stream::begin(&client, &metadata).await;
    let changed = Chunk { offset_bytes: 0, data: Bytes::from_static(b"changed"), crc32c: Some(1) };
    stream.send(Message::Chunk(changed)).await;
    assert_status(&stream.answer().await.unwrap_err(), Code::Aborted, "CHUNK_CHECKSUM");
    // Who only asks what became of it sends none.
    let asked = Stream::begin(&client, &metadata).await.close().await.unwrap();
    assert_eq!(asked.image.unwrap(), first);
    assert!(download(&client, &first.name).await == data);
    assert_eq!((service.blobs().len(), service.staged()), (1, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_loses_nothing_that_is_durable() {
    let service = Service::start();
    let data = Random::new("cut").bytes(5 * MIB + 12_345);
    let proxy = Proxy::start(service.grpc());
    let metadata = UploadMetadata { size_bytes: Some(data.len() as u64), ..metadata("cut") };
    let name = name_of(&metadata);
    let stream = Stream::begin(&proxy.client(), &metadata).await;
    proxy.cut_after(2 * MIB as u64 + MIB as u64 / 2);
    stream.chunks(0, &data).await;
    let broken = stream.answer().await.unwrap_err();
    assert!(reason(&broken).is_empty(), "the connection broke, the service said nothing: {broken:?}");

    let client = service.client();
    let durable = eventually("durable bytes", || async {
        let durable = upload_state(&client, &name).await.durable_bytes;
        (durable > 0).then_some(durable)
    })
    .await;
    assert!(durable <= proxy.to_server_bytes(), "more is durable than was sent");
    assert_eq!(upload_state(&client, &name).await.state(), UploadState::Open);
    resume_and_commit(&client, &name, &data).await;
    assert_eq!(service.staged(), [""; 0]);
}

/// The client says that it has uploaded only what it has: an id under which others committed other bytes is an error.
#[tokio::test]
async fn an_id_of_other_bytes_is_no_success() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("other bytes").bytes(2 * MIB);
    let options = UploadOptions { id: Some(uuid::Uuid::new_v4()), ..UploadOptions::default() };
    let first = client.upload(&mut Cursor::new(data.clone()), &options, |_| {}).await.unwrap();
    let again = client.upload(&mut Cursor::new(data.clone()), &options, |_| {}).await.unwrap();
    assert_eq!(again.image, first.image, "the same bytes again are the same image");
    let mut other = data.clone();
    other[MIB] ^= 1;
    let hashed = UploadOptions { sha256: true, ..options.clone() };
    let again = client.upload(&mut Cursor::new(data.clone()), &hashed, |_| {}).await.unwrap();
    assert_eq!(again.image, first.image);
    for (other, options) in [(&other[..], &options), (&data[..MIB], &options), (&other[..], &hashed)] {
        let error = client.upload(&mut Cursor::new(other.to_vec()), options, |_| {}).await.unwrap_err();
        let imageops_client::Error::UploadEnded { reason, .. } = error else { panic!("{error}") };
        assert_eq!(reason, "REQUEST_ID_REUSED");
    }
}

/// What somebody else has sent under the id is no beginning of this file.
#[tokio::test]
async fn an_upload_of_other_bytes_is_not_completed() {
    let service = Service::start();
    let client = service.client();
    let [one, other] = ["one", "other"].map(|name| Random::new(name).bytes(2 * MIB));
    for sha256 in [false, true] {
        let metadata = metadata(&format!("begun {sha256}"));
        let stream = Stream::begin(&client, &metadata).await;
        stream.chunks(0, &one[..MIB]).await;
        stream.close().await.unwrap();
        let id = name_of(&metadata).trim_start_matches("uploads/").parse().unwrap();
        let options = UploadOptions { id: Some(id), sha256, ..UploadOptions::default() };
        let refused = client.upload(&mut Cursor::new(other.clone()), &options, |_| {}).await.unwrap_err();
        assert_eq!(refused.reason(), "DIGEST_MISMATCH", "{refused}");
    }
    assert!(client.list_images(Default::default()).await.unwrap().images.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_library_goes_on_by_itself_over_many_cuts() {
    go_on_over_cuts(&UploadOptions::default()).await;
    go_on_over_cuts(&UploadOptions { sha256: true, ..UploadOptions::default() }).await;
}

async fn go_on_over_cuts(options: &UploadOptions) {
    let service = Service::start();
    let mut random = Random::new("many cuts");
    let data = random.bytes(9 * MIB);
    let proxy = Proxy::start(service.grpc());
    let mut cuts = 0;
    let mut next_cut = 0;
    let uploaded = proxy
        .client()
        .upload(&mut Cursor::new(data.clone()), options, |progress| {
            if progress.done_bytes >= next_cut && cuts < 4 {
                cuts += 1;
                next_cut = progress.done_bytes + random.below(2 << 20);
                proxy.cut();
            }
        })
        .await
        .unwrap();
    assert_eq!(cuts, 4);
    assert_eq!(uploaded.image.digests, Some(digests(&data)));
    assert_eq!(service.blobs().len(), 1, "one upload, one image");
}

/// rel_01: killed at any moment, the server goes on from what it has told to be durable.
#[tokio::test(flavor = "multi_thread")]
async fn rel_01_sigkill_in_mid_upload_resumes() {
    let mut service = Service::start();
    let mut random = Random::new("rel_01");
    // Beyond two flushes of 64 MiB, so that kills fall before, between and in them.
    let data = random.bytes(150 * MIB);
    let metadata = UploadMetadata { size_bytes: Some(data.len() as u64), ..metadata("killed") };
    let name = name_of(&metadata);
    let client = service.client();
    let mut durable = 0;
    Stream::begin(&client, &metadata).await.close().await.unwrap();
    for _ in 0..5 {
        let stream = Stream::resume(&client, &name, durable).await;
        let kill_at = durable + random.below(data.len() as u64 - durable);
        stream.chunks(durable, &data[..usize::try_from(kill_at).unwrap()]).await;
        service.kill();
        stream.answer().await.unwrap_err();
        service.restart();

        let upload = upload_state(&client, &name).await;
        assert_eq!(upload.state(), UploadState::Open);
        assert!((durable..=kill_at).contains(&upload.durable_bytes), "{durable} {upload:?} {kill_at}");
        assert_eq!(service.blobs(), [""; 0], "no image before the commit");
        durable = upload.durable_bytes;
    }
    resume_and_commit(&client, &name, &data).await;
}

/// rel_01: an image that was acknowledged is there after a kill, whole, however soon the kill comes.
#[tokio::test(flavor = "multi_thread")]
async fn rel_01_an_acknowledged_image_survives_sigkill() {
    let mut service = Service::start();
    let mut random = Random::new("rel_01 acknowledged");
    let client = service.client();
    let mut images = Vec::new();
    for _ in 0..4 {
        let count = 1 + random.below(3 << 20);
        let data = random.bytes(usize::try_from(count).unwrap());
        let image = upload_image(&client, &data).await;
        service.restart();
        images.push((image.name, data));
    }
    for (name, data) in &images {
        assert!(download(&client, name).await == *data, "{name}");
    }
    assert_eq!(service.blobs().len(), images.len());
}

/// rel_04, rel_06: killed around the commit there is one image or an upload that can be committed, never both or none.
#[tokio::test(flavor = "multi_thread")]
async fn rel_04_sigkill_around_the_commit_leaves_one_outcome() {
    let mut service = Service::start();
    let mut random = Random::new("rel_04");
    let client = service.client();
    let mut committed = 0;
    for _ in 0..8 {
        // Others each time: equal bytes of a tenant are stored once.
        let data = random.bytes(3 * MIB);
        let metadata = metadata("commit");
        let name = name_of(&metadata);
        let stream = Stream::begin(&client, &metadata).await;
        stream.chunks(0, &data).await;
        stream.send(Message::Commit(commit_of(&data))).await;
        let answer = stream.answer();
        let pause = std::time::Duration::from_micros(random.below(40_000));
        let answered = tokio::time::timeout(pause, answer).await;
        service.restart();
        // The first message may never have arrived.
        let upload = match client.get_upload(&name).await {
            Ok(upload) => upload,
            Err(error) => {
                assert_eq!(error.code(), Code::NotFound);
                continue;
            }
        };
        if let Ok(Ok(answer)) = answered {
            assert_eq!(answer.upload.unwrap().image, upload.image, "acknowledged and lost");
            assert_eq!(upload.state(), UploadState::Committed);
        }
        if upload.state() == UploadState::Open {
            resume_and_commit(&client, &name, &data).await;
        } else {
            assert_eq!(upload.state(), UploadState::Committed);
            assert!(download(&client, &upload.image).await == data);
        }
        committed += 1;
        assert_eq!(service.blobs().len(), committed, "each upload has exactly one image");
    }
}

#[tokio::test]
async fn a_wrong_offset_tells_the_right_one() {
    let service = Service::start();
    let client = service.client();
    let metadata = metadata("offsets");
    let name = name_of(&metadata);
    let wrong = |status: &Status, right: usize| {
        assert_status(status, Code::OutOfRange, "WRONG_OFFSET");
        assert_eq!(detail(status, "durable_bytes"), Some(right.to_string()));
    };
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunk(1, b"x").await;
    wrong(&stream.answer().await.unwrap_err(), 0);

    let stream = Stream::resume(&client, &name, 0).await;
    stream.chunk(0, &[7; CHUNK_BYTES]).await;
    stream.chunk(5, b"overlap").await;
    wrong(&stream.answer().await.unwrap_err(), CHUNK_BYTES);

    for offset in [0, 1, CHUNK_BYTES as u64 + 1, u64::MAX] {
        let stream = Stream::resume(&client, &name, offset).await;
        wrong(&stream.answer().await.unwrap_err(), CHUNK_BYTES);
    }
    // The metadata again begins at 0 only while nothing is durable.
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunk(0, b"again").await;
    wrong(&stream.answer().await.unwrap_err(), CHUNK_BYTES);
    assert_eq!(upload_state(&client, &name).await.durable_bytes, CHUNK_BYTES as u64);
}

#[tokio::test]
async fn a_damaged_chunk_is_dropped_and_can_be_sent_again() {
    let service = Service::start();
    let client = service.client();
    let metadata = metadata("damaged");
    let name = name_of(&metadata);
    let data = Random::new("damaged").bytes(2 * CHUNK_BYTES);
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunk(0, &data[..CHUNK_BYTES]).await;
    let crc32c = Some(crc32c::crc32c(&data[CHUNK_BYTES..]) ^ 1);
    let chunk = Chunk {
        offset_bytes: CHUNK_BYTES as u64,
        data: Bytes::copy_from_slice(&data[CHUNK_BYTES..]),
        crc32c,
    };
    stream.send(Message::Chunk(chunk)).await;
    assert_status(&stream.answer().await.unwrap_err(), Code::Aborted, "CHUNK_CHECKSUM");
    assert_eq!(upload_state(&client, &name).await.durable_bytes, CHUNK_BYTES as u64);
    resume_and_commit(&client, &name, &data).await;
}

#[tokio::test]
async fn chunks_and_messages_out_of_bounds_are_refused_and_spoil_nothing() {
    let service = Service::start();
    let client = service.client();
    let metadata = metadata("bounds");
    let name = name_of(&metadata);
    Stream::begin(&client, &metadata).await.close().await.unwrap();
    for length in [0, CHUNK_BYTES + 1] {
        let stream = Stream::resume(&client, &name, 0).await;
        stream.chunk(0, &vec![1; length]).await;
        assert_status(&stream.answer().await.unwrap_err(), Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    let out_of_turn = [
        Message::Chunk(Chunk { offset_bytes: 0, data: Bytes::from_static(b"x"), crc32c: None }),
        Message::Commit(UploadCommit::default()),
    ];
    for first in out_of_turn {
        let stream = Stream::open(&client, first).await;
        assert_status(&stream.answer().await.unwrap_err(), Code::InvalidArgument, "UPLOAD_SEQUENCE");
    }
    let stream = Stream::resume(&client, &name, 0).await;
    stream.send(Message::Metadata(metadata.clone())).await;
    assert_status(&stream.answer().await.unwrap_err(), Code::InvalidArgument, "UPLOAD_SEQUENCE");
    let empty = client
        .stub()
        .upload_image(tokio_stream::iter([UploadImageRequest { message: None }]))
        .await
        .unwrap_err();
    assert_status(&empty, Code::InvalidArgument, "UPLOAD_SEQUENCE");
    let nothing = client.stub().upload_image(tokio_stream::iter(Vec::new())).await.unwrap_err();
    assert_status(&nothing, Code::InvalidArgument, "UPLOAD_SEQUENCE");
    resume_and_commit(&client, &name, b"still a raw disk").await;
}

#[tokio::test]
async fn a_closed_stream_makes_no_image() {
    let service = Service::start();
    let client = service.client();
    let metadata = metadata("closed");
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunk(0, b"some bytes").await;
    let answer = stream.close().await.unwrap();
    assert_eq!(answer.image, None);
    let upload = answer.upload.unwrap();
    assert_eq!((upload.state(), upload.durable_bytes), (UploadState::Open, 10));
    assert_eq!((upload.name.clone(), upload.image.as_str()), (name_of(&metadata), ""));
    assert_eq!(service.blobs(), [""; 0]);
    assert!(upload.expire_time.is_some());
    let open = ListUploadsRequest { states: vec![UploadState::Open.into()], ..Default::default() };
    assert_eq!(client.list_uploads(open).await.unwrap().uploads, [upload]);
}

#[tokio::test]
async fn other_digests_than_promised_are_refused() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("digests").bytes(100_000);
    let right = digests(&data);
    let wrong = [
        Digests { md5: digests(b"x").md5, ..Digests::default() },
        Digests { md5: right.md5.clone(), sha256: digests(b"x").sha256, ..Digests::default() },
        Digests { crc32: Some(1), ..Digests::default() },
        Digests { sha512: "1".repeat(128), ..Digests::default() },
    ];
    for wrong in wrong {
        let in_metadata = UploadMetadata { expected_digests: Some(wrong.clone()), ..metadata("wrong") };
        let in_commit = UploadCommit { expected_digests: Some(wrong), ..Default::default() };
        let behind = UploadMetadata { sha512: true, ..metadata("wrong") };
        for (metadata, commit) in [(in_metadata, UploadCommit::default()), (behind, in_commit)] {
            let stream = Stream::begin(&client, &metadata).await;
            stream.chunks(0, &data).await;
            let refused = stream.commit(commit).await.unwrap_err();
            assert_status(&refused, Code::InvalidArgument, "DIGEST_MISMATCH");
            let upload = upload_state(&client, &name_of(&metadata)).await;
            assert_eq!(upload.state(), UploadState::Failed);
            assert_eq!(upload.error.unwrap().code, "DIGEST_MISMATCH");
            let again = Stream::resume(&client, &name_of(&metadata), 0).await.answer().await.unwrap_err();
            assert_status(&again, Code::FailedPrecondition, "UPLOAD_ENDED");
        }
    }
    assert_eq!((service.staged(), service.blobs()), (vec![], vec![]), "refused bytes are dropped");

    // Upper-case digests are the same digests.
    let expected_digests = Some(Digests {
        md5: right.md5.to_uppercase(),
        sha256: right.sha256.to_uppercase(),
        ..Digests::default()
    });
    let metadata = UploadMetadata { expected_digests, ..metadata("right") };
    assert_eq!(try_upload(&client, &metadata, &data).await.unwrap().digests, Some(right));
}

#[tokio::test]
async fn a_promised_length_is_kept() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("length").bytes(200_000);
    // More than promised: it can never become the image that was meant.
    let promised = UploadMetadata { size_bytes: Some(data.len() as u64 - 1), ..metadata("more") };
    let refused = try_upload(&client, &promised, &data).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "SIZE_MISMATCH");
    assert_eq!(upload_state(&client, &name_of(&promised)).await.state(), UploadState::Failed);
    assert_eq!(service.staged(), [""; 0]);

    // Less than promised: the rest may still come.
    let promised = UploadMetadata { size_bytes: Some(data.len() as u64), ..metadata("less") };
    let early = try_upload(&client, &promised, &data[..150_000]).await.unwrap_err();
    assert_status(&early, Code::FailedPrecondition, "SIZE_MISMATCH");
    resume_and_commit(&client, &name_of(&promised), &data).await;

    // The same by the commit alone.
    let metadata = metadata("commit");
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunks(0, &data[..100]).await;
    let early = stream.commit(commit_of(&data)).await.unwrap_err();
    assert_status(&early, Code::FailedPrecondition, "SIZE_MISMATCH");
    resume_and_commit(&client, &name_of(&metadata), &data).await;
}

/// SEC-14: the limit holds with a declared length, without one, and with one that lies.
/// Who learns of the length later tells it with a resume, once; the quota and the end count with it from then on.
#[tokio::test]
async fn a_length_can_be_told_by_a_resume() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("told later").bytes(CHUNK_BYTES + 100);
    let metadata = metadata("told later");
    let name = name_of(&metadata);
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunk(0, &data[..CHUNK_BYTES]).await;
    stream.close().await.unwrap();
    let size = data.len() as u64;
    let told = |size_bytes| {
        let offset_bytes = CHUNK_BYTES as u64;
        let resume = UploadResume { upload: name.clone(), offset_bytes, size_bytes: Some(size_bytes) };
        Stream::open(&client, Message::Resume(resume))
    };
    let refused = told(CHUNK_BYTES as u64 - 1).await.answer().await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "SIZE_MISMATCH");
    let refused = told(u64::MAX).await.answer().await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "TOO_LARGE");
    assert_eq!(upload_state(&client, &name).await.size_bytes, None);
    told(size).await.close().await.unwrap();
    assert_eq!(upload_state(&client, &name).await.size_bytes, Some(size));
    let refused = told(size + 1).await.answer().await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "SIZE_MISMATCH");
    let early = told(size).await.commit(UploadCommit::default()).await.unwrap_err();
    assert_status(&early, Code::FailedPrecondition, "SIZE_MISMATCH");
    let stream = told(size).await;
    stream.chunks(CHUNK_BYTES as u64, &data).await;
    let image = stream.commit(UploadCommit::default()).await.unwrap().image.unwrap();
    assert!(download(&client, &image.name).await == data);
}

#[tokio::test]
async fn sec_14_the_largest_file_is_a_limit_on_every_way() {
    const LIMIT: usize = 300_000;
    let service = Service::start_with(&["--upload-max-bytes", "300000"]);
    let client = service.client();
    let data = Random::new("limit").bytes(LIMIT + 1);
    let declared = UploadMetadata { size_bytes: Some(LIMIT as u64 + 1), ..metadata("declared") };
    let refused = Stream::begin(&client, &declared).await.answer().await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "TOO_LARGE");
    assert_eq!(detail(&refused, "limit_bytes").as_deref(), Some("300000"));

    let refused = try_upload(&client, &metadata("undeclared"), &data).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "TOO_LARGE");
    let lie = UploadMetadata { size_bytes: Some(LIMIT as u64), ..metadata("lie") };
    let refused = try_upload(&client, &lie, &data).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "SIZE_MISMATCH");
    assert_eq!(service.staged(), [""; 0]);

    try_upload(&client, &metadata("just fits"), &data[..LIMIT]).await.unwrap();
}

/// SEC-14: places for open streams are counted, not guessed.
#[tokio::test]
async fn sec_14_streams_beyond_the_limit_are_told_to_come_back() {
    use tonic_types::StatusExt as _;
    let service = Service::start_with(&["--uploads-max", "3"]);
    let client = service.client();
    let mut held = Vec::new();
    for _ in 0..3 {
        let metadata = metadata("held");
        let stream = Stream::begin(&client, &metadata).await;
        eventually("an open upload", || async { client.get_upload(&name_of(&metadata)).await.ok() }).await;
        held.push(stream);
    }
    let full = Stream::begin(&client, &metadata("one more")).await.answer().await.unwrap_err();
    assert_status(&full, Code::ResourceExhausted, "LIMIT_REACHED");
    assert!(full.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()));
    held.pop().unwrap().close().await.unwrap();
    upload_image(&client, b"there is room again").await;
}

#[tokio::test]
async fn a_second_stream_takes_the_upload_over() {
    let service = Service::start();
    let client = service.client();
    let metadata = metadata("taken over");
    let name = name_of(&metadata);
    let data = Random::new("taken over").bytes(2 * CHUNK_BYTES + 77);
    let first = Stream::begin(&client, &metadata).await;
    first.chunks(0, &data[..CHUNK_BYTES]).await;
    eventually("an open upload", || async { client.get_upload(&name).await.ok() }).await;
    let second = eventually("the right offset", || async {
        // Whoever takes over cuts the first stream short: it goes on where the server is, as every client does.
        let offset = client.get_upload(&name).await.unwrap().durable_bytes;
        let stream = Stream::resume(&client, &name, offset).await;
        stream.chunks(offset, &data).await;
        match stream.commit(commit_of(&data)).await {
            Ok(answer) => Some(answer),
            // The first stream's bytes became durable in between.
            Err(status) => {
                assert_eq!(reason(&status), "WRONG_OFFSET");
                None
            }
        }
    })
    .await;
    assert_status(&first.answer().await.unwrap_err(), Code::Aborted, "UPLOAD_TAKEN_OVER");
    assert_eq!(second.image.unwrap().digests, Some(digests(&data)));
    assert_eq!(service.blobs().len(), 1);
}

#[tokio::test]
async fn a_second_commit_answers_the_same_image() {
    let mut service = Service::start();
    let client = service.client();
    let metadata = UploadMetadata { display_name: "twice".to_owned(), ..metadata("") };
    let data = b"twice the same".as_slice();
    let image = try_upload(&client, &metadata, data).await.unwrap();
    for restart in [false, true] {
        if restart {
            service.restart();
        }
        // A connection of its own: the old one broke with the restart.
        let client = service.client();
        assert_eq!(try_upload(&client, &metadata, data).await.unwrap(), image);
        let resumed = Stream::resume(&client, &name_of(&metadata), data.len() as u64).await;
        assert_eq!(resumed.commit(UploadCommit::default()).await.unwrap().image, Some(image.clone()));
    }
    // The same id with other metadata is another request.
    let other = UploadMetadata { display_name: "another".to_owned(), ..metadata };
    let refused = try_upload(&client, &other, data).await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    assert_eq!(service.blobs().len(), 1);
}

#[tokio::test]
async fn an_aborted_upload_is_gone() {
    let service = Service::start();
    let client = service.client();
    let metadata = metadata("aborted");
    let name = name_of(&metadata);
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunk(0, &[3; 1000]).await;
    eventually("a staged file", || async { (!service.staged().is_empty()).then_some(()) }).await;
    assert_eq!(client.abort_upload(&name).await.unwrap().state(), UploadState::Aborted);
    assert_eq!(service.staged(), [""; 0], "its bytes are gone with the answer");
    stream.answer().await.unwrap_err();
    assert_eq!(client.abort_upload(&name).await.unwrap().state(), UploadState::Aborted, "twice is no error");
    let again = Stream::resume(&client, &name, 0).await.answer().await.unwrap_err();
    assert_status(&again, Code::FailedPrecondition, "UPLOAD_ENDED");

    let committed = support::upload::metadata("committed");
    try_upload(&client, &committed, b"an image").await.unwrap();
    let refused = client.abort_upload(&name_of(&committed)).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (Code::FailedPrecondition, "UPLOAD_ENDED"));
    let unknown = client.abort_upload(&format!("uploads/{}", uuid::Uuid::new_v4())).await.unwrap_err();
    assert_eq!((unknown.code(), unknown.reason()), (Code::NotFound, "UPLOAD_NOT_FOUND"));
}

#[tokio::test]
async fn zeros_take_no_room() {
    let service = Service::start();
    let client = service.client();
    const SIZE: u64 = 256 << 20;
    let metadata = UploadMetadata { size_bytes: Some(SIZE), ..metadata("sparse") };
    let stream = Stream::begin(&client, &metadata).await;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut random = Random::new("sparse");
    for index in 0..SIZE / CHUNK_BYTES as u64 {
        let holds_data = matches!(index, 3 | 200);
        chunk[..5000].copy_from_slice(&if holds_data { random.bytes(5000) } else { vec![0; 5000] });
        stream.chunk(index * CHUNK_BYTES as u64, &chunk).await;
    }
    let image = stream.commit(UploadCommit::default()).await.unwrap().image.unwrap();
    assert_eq!(image.size_bytes, SIZE);
    let blob = service.data_dir().join("store/blobs").join(&service.blobs()[0]);
    let stored = std::fs::metadata(&blob).unwrap();
    assert_eq!(stored.len(), SIZE);
    assert!(stored.blocks() * 512 <= 1 << 20, "{} bytes on disk", stored.blocks() * 512);
    assert_eq!(stored.mode() & 0o777, 0o600);
}

/// A header that reaches outside is refused by the first 64 KiB; the client has sent no byte more.
#[tokio::test]
async fn an_unsafe_header_is_refused_within_64_kib() {
    let Some(unsafe_image) = support::images::image("variants/backing-top.qcow2") else { return };
    let service = Service::start();
    let client = service.client();
    let mut head = std::fs::read(unsafe_image).unwrap();
    head.truncate(64 << 10);
    let metadata = UploadMetadata { size_bytes: Some(1 << 30), ..metadata("unsafe") };
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunk(0, &head).await;
    let refused = stream.answer().await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "UNSAFE_BACKING_FILE");
    let upload = upload_state(&client, &name_of(&metadata)).await;
    assert_eq!(
        (upload.state(), upload.error.unwrap().code.as_str()),
        (UploadState::Failed, "UNSAFE_BACKING_FILE")
    );
    assert_eq!(service.staged(), [""; 0]);

    // A client that pushes on regardless is stopped by what the connection holds, far before its 1 GiB.
    let proxy = Proxy::start(service.grpc());
    let through = proxy.client();
    let metadata = UploadMetadata { size_bytes: Some(1 << 30), ..support::upload::metadata("flood") };
    let stream = Stream::begin(&through, &metadata).await;
    stream.chunk(0, &head).await;
    let filler = vec![1; CHUNK_BYTES];
    let mut offset = head.len() as u64;
    while offset < 1 << 30 && stream.chunk(offset, &filler).await {
        offset += CHUNK_BYTES as u64;
    }
    let refused = stream.answer().await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "UNSAFE_BACKING_FILE");
    assert!(proxy.to_server_bytes() < 16 << 20, "{} bytes were taken", proxy.to_server_bytes());
}

/// SEC-07: an image that is declared as another format than it has is refused, for every pair.
#[tokio::test(flavor = "multi_thread")]
async fn sec_07_a_declared_format_must_be_the_one_found() {
    let Some(images) = support::images::images() else { return };
    let service = Service::start();
    let client = service.client();
    let files = [
        ("variants/v3-4k.qcow2", ImageFormat::Qcow2),
        ("fs/ext2-1k.raw", ImageFormat::Raw),
        ("formats/disc.iso", ImageFormat::Iso),
        ("formats/qcow1.qcow", ImageFormat::Qcow),
        ("formats/qed.qed", ImageFormat::Qed),
        ("formats/vmdk-stream.vmdk", ImageFormat::Vmdk),
        ("formats/vpc-fixed.vhd", ImageFormat::Vhd),
        ("formats/vhdx.vhdx", ImageFormat::Vhdx),
        ("formats/vdi-dynamic.vdi", ImageFormat::Vdi),
        ("formats/parallels.hds", ImageFormat::Parallels),
    ];
    let taken = [ImageFormat::Qcow2, ImageFormat::Raw, ImageFormat::Iso];
    for (file, format) in files {
        let data = std::fs::read(images.join(file)).unwrap();
        for (_, declared) in files {
            let metadata =
                UploadMetadata { declared_format: declared.into(), ..metadata(declared.as_str_name()) };
            match try_upload(&client, &metadata, &data).await {
                Ok(image) => {
                    let what = format!("{file} declared as {declared:?}");
                    assert!(taken.contains(&format) && declared == format, "{what} was taken");
                    assert_eq!(image.format(), format, "{what}");
                }
                Err(refused) => {
                    let what = format!("{file} declared as {declared:?}: {refused:?}");
                    assert_eq!(refused.code(), Code::InvalidArgument, "{what}");
                    assert!(!(taken.contains(&format) && declared == format), "{what}");
                    let expected: &[&str] = if declared == format {
                        &["UNSUPPORTED_FORMAT"]
                    } else {
                        &["INVALID_FORMAT_MISMATCH", "UNSUPPORTED_FORMAT", "INVALID_MAGIC"]
                    };
                    assert!(expected.contains(&reason(&refused).as_str()), "{what}");
                }
            }
        }
    }
}
