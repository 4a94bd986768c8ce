//! What is stored can be fetched: whole, in ranges, by many at a time, each chunk with its checksum.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use imageops::v1::download_image_response::Message;
use imageops::v1::{DownloadHeader, DownloadImageRequest};
use imageops_client::Client;
use tonic::{Code, Status};

use support::Service;
use support::random::Random;
use support::status::{assert_status, detail};
use support::upload::{digests, upload};

async fn fetch(
    client: &Client,
    image: &str,
    offset_bytes: u64,
    length_bytes: Option<u64>,
) -> Result<(DownloadHeader, Vec<u8>), Status> {
    let request = DownloadImageRequest {
        image: image.to_owned(),
        offset_bytes,
        length_bytes,
        ..DownloadImageRequest::default()
    };
    let mut messages = client.stub().download_image(request).await?.into_inner();
    let Some(Message::Header(header)) = messages.message().await?.unwrap().message else {
        panic!("the first message is the header");
    };
    let mut bytes = Vec::new();
    while let Some(message) = messages.message().await? {
        let Some(Message::Chunk(chunk)) = message.message else { panic!("{message:?} after the header") };
        assert_eq!(chunk.offset_bytes, offset_bytes + bytes.len() as u64, "a gap");
        assert!((1..=1 << 20).contains(&chunk.data.len()));
        assert_eq!(chunk.crc32c, Some(crc32c::crc32c(&chunk.data)));
        bytes.extend_from_slice(&chunk.data);
    }
    assert_eq!((header.offset_bytes, header.length_bytes), (offset_bytes, bytes.len() as u64));
    Ok((header, bytes))
}

#[tokio::test]
async fn ranges_are_what_the_file_has_there() {
    let service = Service::start();
    let client = service.client();
    let mut random = Random::new("ranges");
    let data = random.bytes(3 * (1 << 20) + 4321);
    let image = upload(&client, &data).await;
    let size = data.len() as u64;

    let (header, whole) = fetch(&client, &image.name, 0, None).await.unwrap();
    assert!(whole == data);
    assert_eq!(header.image.as_ref(), Some(&image));
    assert_eq!(header.image.unwrap().digests, Some(digests(&whole)));

    let mut ranges = vec![
        (0, Some(0)),
        (0, Some(1)),
        (size - 1, None),
        (size, None),
        (size, Some(5)),
        (5, Some(u64::MAX)),
        ((512 << 10) - 1, Some(2)),
        (0, Some(size)),
        (1, Some(size)),
    ];
    ranges.extend((0..12).map(|_| (random.below(size), Some(random.below(size)))));
    for (offset, length) in ranges {
        let (_, bytes) = fetch(&client, &image.name, offset, length).await.unwrap();
        let end = offset.saturating_add(length.unwrap_or(size)).min(size);
        let expected = &data[usize::try_from(offset).unwrap()..usize::try_from(end).unwrap()];
        assert!(bytes == expected, "{offset} {length:?}");
    }
}

#[tokio::test]
async fn a_range_past_the_end_is_out_of_range() {
    let service = Service::start();
    let client = service.client();
    let image = upload(&client, &[5; 1000]).await;
    for offset in [1001, u64::MAX] {
        let refused = fetch(&client, &image.name, offset, None).await.unwrap_err();
        assert_status(&refused, Code::OutOfRange, "RANGE_NOT_SATISFIABLE");
        assert_eq!(detail(&refused, "size_bytes").as_deref(), Some("1000"));
    }
}

#[tokio::test]
async fn names_that_are_no_image_are_refused() {
    let service = Service::start();
    let client = service.client();
    let unknown = format!("images/{}", uuid::Uuid::new_v4());
    assert_status(&fetch(&client, &unknown, 0, None).await.unwrap_err(), Code::NotFound, "IMAGE_NOT_FOUND");
    for name in ["", "images/", "images/../store", "jobs/x", "../../etc/passwd", "images/\0"] {
        let refused = fetch(&client, name, 0, None).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_get_the_same_bytes() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("many readers").bytes(6 << 20);
    let image = upload(&client, &data).await;
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (client, name) = (service.client(), image.name.clone());
            tokio::spawn(async move { fetch(&client, &name, 0, None).await.unwrap().1 })
        })
        .collect();
    // One that takes the header and then reads nothing holds up nobody.
    let idle = DownloadImageRequest { image: image.name.clone(), ..DownloadImageRequest::default() };
    let mut idle = client.stub().download_image(idle).await.unwrap().into_inner();
    idle.message().await.unwrap().unwrap();
    for reader in readers {
        assert!(reader.await.unwrap() == data);
    }
}

#[tokio::test]
async fn rest_hands_out_the_same_bytes() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("rest").bytes(2_500_000);
    let image = upload(&client, &data).await;
    let answer = support::http::get(
        service.http(),
        &format!("/v1/images/{}/content", image.name.trim_start_matches("images/")),
    );
    assert_eq!(answer.status, 200);
    assert!(answer.body == data, "REST gives other bytes than gRPC");
    let half = support::http::request(
        service.http(),
        "GET",
        &format!("/v1/images/{}/content", image.name.trim_start_matches("images/")),
        &[("range", "bytes=1000000-1999999")],
        &[],
    );
    assert_eq!(half.status, 206);
    assert!(half.body == data[1_000_000..2_000_000]);
}
