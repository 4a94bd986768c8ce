//! Parts of an image, named before their bytes or behind them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::HashMap;

use imageops::v1::upload_image_request::Message;
use imageops::v1::{
    Archive, ComposeImageRequest, CreateImageRequest, GetUsageRequest, Image, ListUploadsRequest,
    SetQuotaRequest, Upload, UploadCommit, UploadImageResponse, UploadMetadata, UploadState, Usage,
};
use imageops_client::Client;
use tonic::{Code, Status};

use support::Service;
use support::jobs::download;
use support::random::Random;
use support::status::assert_status;
use support::upload::{Stream, commit_of, metadata, name_of};

/// A header that names a backing file: no image with it is taken.
const UNSAFE: &[u8] =
    b"QFI\xfb\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x48\x00\x00\x00\x0b\x00\x00\x00\x10";

/// Metadata of a part whose place comes with the commit.
fn becoming() -> UploadMetadata {
    UploadMetadata { becomes_part: true, ..metadata("") }
}

fn named(session: &str, part: u32) -> UploadCommit {
    UploadCommit { session: session.to_owned(), part, ..UploadCommit::default() }
}

async fn send(
    client: &Client,
    metadata: &UploadMetadata,
    data: &[u8],
    commit: UploadCommit,
) -> Result<UploadImageResponse, Status> {
    let stream = Stream::begin(client, metadata).await;
    stream.chunks(0, data).await;
    stream.commit(commit).await
}

async fn parts(client: &Client, session: &str) -> Vec<Upload> {
    let request = ListUploadsRequest { session: session.to_owned(), ..ListUploadsRequest::default() };
    client.list_uploads(request).await.unwrap().uploads
}

async fn compose(client: &Client, session: &str) -> Image {
    let metadata = Some(UploadMetadata { session: session.to_owned(), ..UploadMetadata::default() });
    let composed = client.stub().compose_image(ComposeImageRequest { metadata }).await.unwrap();
    composed.into_inner().image.unwrap()
}

async fn usage(client: &Client) -> Usage {
    client.images().get_usage(GetUsageRequest::default()).await.unwrap().into_inner().usage.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_named_before_their_bytes_or_behind_them() {
    let service = Service::start();
    let client = service.client();
    let mut random = Random::new("named behind");
    let pieces: Vec<Vec<u8>> = (0..4).map(|_| random.bytes(300_000)).collect();
    // What a part begins with is not what an image begins with.
    let pieces = [&pieces[0][..], &[UNSAFE, &pieces[1]].concat(), &pieces[2], &pieces[3]];
    send(&client, &metadata("image"), pieces[1], UploadCommit::default()).await.unwrap_err();
    let ahead = UploadMetadata { session: "disk".to_owned(), part: 1, ..metadata("") };
    send(&client, &ahead, pieces[0], named("disk", 1)).await.unwrap();
    send(&client, &becoming(), b"rubbish that is sent again", named("disk", 2)).await.unwrap();
    let request = becoming();
    let stored = send(&client, &request, pieces[1], named("disk", 2)).await.unwrap();
    assert_eq!((stored.image, stored.check_job.as_str()), (None, ""));
    let stored = stored.upload.unwrap();
    assert_eq!((stored.state(), stored.session.as_str(), stored.part), (UploadState::Stored, "disk", 2));
    assert_eq!(stored.durable_bytes, pieces[1].len() as u64);
    // Of an image, as far as its metadata told.
    let plain = metadata("plain");
    let surprise = send(
        &client,
        &plain,
        pieces[2],
        UploadCommit { session: "disk".to_owned(), part: 3, ..commit_of(pieces[2]) },
    );
    assert_eq!(surprise.await.unwrap().upload.unwrap().state(), UploadState::Stored);
    // Whoever lost the answer is told again, on either way.
    let again = Stream::begin(&client, &request).await.close().await.unwrap();
    assert_eq!(again.upload.as_ref(), Some(&stored));
    let again = Stream::resume(&client, &stored.name, 0).await.commit(named("disk", 2)).await.unwrap();
    assert_eq!(again.upload, Some(stored));

    // Cut, and named by the stream that ends it.
    let last = becoming();
    let stream = Stream::begin(&client, &last).await;
    stream.chunk(0, &pieces[3][..100_000]).await;
    let open = stream.close().await.unwrap().upload.unwrap();
    assert_eq!((open.state(), open.session.as_str(), open.part), (UploadState::Open, "", 0));
    assert_eq!(parts(&client, "disk").await.len(), 3);
    let stream = Stream::resume(&client, &name_of(&last), 100_000).await;
    stream.chunks(100_000, pieces[3]).await;
    stream
        .commit(UploadCommit { session: "disk".to_owned(), part: 4, ..commit_of(pieces[3]) })
        .await
        .unwrap();

    let numbers: Vec<u32> = parts(&client, "disk").await.iter().map(|part| part.part).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let image = compose(&client, "disk").await;
    assert!(download(&client, &image.name).await == pieces.concat());
    assert_eq!((service.blobs().len(), service.staged().len()), (1, 0));
}

/// A place that does not fit is an error of the stream: the upload goes on.
#[tokio::test]
async fn a_place_that_does_not_fit_is_refused_and_spoils_nothing() {
    let service = Service::start();
    let client = service.client();
    let record = CreateImageRequest { image: Some(Image::default()) };
    let record = client.images().create_image(record).await.unwrap().into_inner().image.unwrap().name;
    let part = |part| UploadMetadata { session: "s".to_owned(), part, ..metadata("") };
    let filling = UploadMetadata { image: record, ..metadata("") };
    let zip = UploadMetadata { archive: Archive::Zip.into(), ..metadata("") };
    let labels: HashMap<_, _> = [("a".to_owned(), "b".to_owned())].into();
    let labelled = |commit: UploadCommit| UploadCommit { labels: labels.clone(), ..commit };
    for (metadata, commit, right) in [
        (part(1), named("t", 1), named("s", 1)),
        (part(2), named("s", 3), UploadCommit::default()),
        (part(3), labelled(UploadCommit::default()), UploadCommit::default()),
        (becoming(), labelled(named("s", 4)), named("s", 4)),
        (becoming(), UploadCommit::default(), named("s", 5)),
        (becoming(), named("s", 0), named("s", 6)),
        (becoming(), named("", 7), named("s", 7)),
        (becoming(), named("../s", 8), named("s", 8)),
        (becoming(), named("s", 1_000_000_000), named("s", 999_999_999)),
        (metadata("plain"), named("a/b", 1), UploadCommit::default()),
        (filling, named("s", 9), UploadCommit::default()),
        (zip, named("s", 10), UploadCommit::default()),
    ] {
        let refused = send(&client, &metadata, b"some bytes", commit.clone()).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
        let name = name_of(&metadata);
        let upload = client.get_upload(&name).await.unwrap();
        assert_eq!((upload.state(), upload.durable_bytes), (UploadState::Open, 10), "{commit:?}");
        let stream = Stream::resume(&client, &name, 10).await;
        match stream.commit(right).await {
            Ok(done) => assert_ne!(done.upload.unwrap().state(), UploadState::Open),
            Err(status) => assert_eq!(metadata.archive(), Archive::Zip, "{status:?}"),
        }
    }
    assert_eq!(parts(&client, "s").await.len(), 9);

    for metadata in [
        UploadMetadata { becomes_part: true, ..part(1) },
        UploadMetadata { archive: Archive::Zip.into(), ..becoming() },
        UploadMetadata { image: format!("images/{}", uuid::Uuid::new_v4()), ..becoming() },
    ] {
        let refused = Stream::begin(&client, &metadata).await.answer().await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    let metadata = Some(UploadMetadata { becomes_part: true, ..part(0) });
    let refused = client.stub().compose_image(ComposeImageRequest { metadata }).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
}

/// SEC-14: a part holds its bytes and no image, whenever it is named.
#[tokio::test(flavor = "multi_thread")]
async fn sec_14_a_part_named_behind_holds_what_it_would_named_ahead() {
    let service = Service::start();
    let client = service.client();
    let tenant = "36c27e8ff05c4780bf6d2fa65700f22e".to_owned();
    let quota = SetQuotaRequest { tenant, images_max: Some(1), bytes_max: Some(1_000_000) };
    client.images().set_quota(quota).await.unwrap();
    let data = Random::new("quota of parts").bytes(400_000);
    let sending = (1..=2).map(|number| {
        let (client, data) = (client.clone(), data.clone());
        async move { send(&client, &becoming(), &data, named("disk", number)).await.unwrap() }
    });
    futures::future::join_all(sending).await;
    assert_eq!(usage(&client).await.reserved_bytes, 800_000);
    let refused = send(&client, &becoming(), &data, named("disk", 3)).await.unwrap_err();
    assert_status(&refused, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    // One that comes again needs room beside the one that it replaces, and then gives that back.
    send(&client, &becoming(), &data[..200_000], named("disk", 2)).await.unwrap();
    assert_eq!(usage(&client).await.reserved_bytes, 600_000);
    compose(&client, "disk").await;
    let used = usage(&client).await;
    assert_eq!((used.images, used.bytes, used.reserved_bytes), (1, 600_000, 0));
}

/// rel_04: killed around the commit that names it, an upload is open and goes on, or is the part.
#[tokio::test(flavor = "multi_thread")]
async fn rel_04_sigkill_around_a_name_leaves_an_upload_or_a_part() {
    let mut service = Service::start();
    let mut random = Random::new("rel_04 parts");
    let client = service.client();
    let mut whole = Vec::new();
    for number in 1..=8 {
        let data = random.bytes(1 << 20);
        let metadata = becoming();
        let name = name_of(&metadata);
        let stream = Stream::begin(&client, &metadata).await;
        stream.chunks(0, &data).await;
        stream.send(Message::Commit(named("disk", number))).await;
        let pause = std::time::Duration::from_micros(random.below(20_000));
        let answered = tokio::time::timeout(pause, stream.answer()).await;
        service.restart();
        let offset = match client.get_upload(&name).await {
            Ok(upload) if upload.state() == UploadState::Stored => {
                assert_eq!((upload.session.as_str(), upload.part), ("disk", number));
                None
            }
            Ok(upload) => {
                assert_eq!((upload.state(), upload.part), (UploadState::Open, 0));
                Some(upload.durable_bytes)
            }
            // The first message may never have arrived.
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound);
                Stream::begin(&client, &metadata).await.close().await.unwrap();
                Some(0)
            }
        };
        if let Some(offset) = offset {
            assert!(!matches!(answered, Ok(Ok(_))), "acknowledged and lost");
            let stream = Stream::resume(&client, &name, offset).await;
            stream.chunks(offset, &data).await;
            stream.commit(named("disk", number)).await.unwrap();
        }
        whole.extend(data);
    }
    let image = compose(&client, "disk").await;
    assert!(download(&client, &image.name).await == whole);
}

/// A composition under the id of another upload is refused, and what that one has durable stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_composition_leaves_the_bytes_of_others_alone() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("left alone").bytes(3 << 20);
    let open = metadata("open");
    let stream = Stream::begin(&client, &open).await;
    stream.chunks(0, &data[..2 << 20]).await;
    stream.close().await.unwrap();
    let part = UploadMetadata { session: "s".to_owned(), part: 1, ..metadata("") };
    send(&client, &part, b"a part", UploadCommit::default()).await.unwrap();
    for taken in [&open.request_id, &part.request_id] {
        for session in ["s", "nothing"] {
            let metadata = UploadMetadata {
                request_id: taken.clone(),
                session: session.to_owned(),
                ..Default::default()
            };
            let composed =
                client.stub().compose_image(ComposeImageRequest { metadata: Some(metadata) }).await;
            assert_status(&composed.unwrap_err(), Code::AlreadyExists, "REQUEST_ID_REUSED");
        }
    }
    let stream = Stream::resume(&client, &name_of(&open), 2 << 20).await;
    stream.chunks(2 << 20, &data).await;
    let image = stream.commit(commit_of(&data)).await.unwrap().image.unwrap();
    assert!(download(&client, &image.name).await == data);
    let composed = compose(&client, "s").await;
    assert_eq!(download(&client, &composed.name).await, b"a part");
}
