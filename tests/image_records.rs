//! Stored images can be found, described, deleted, taken back and removed for good, and nothing goes by mistake.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use imageops::FieldMask;
use imageops::v1::{
    CheckRequest, CompressRequest, DownloadImageRequest, Image, ImageOrder, ImageState, JobState,
    ListImagesRequest, UpdateImageRequest, UploadCommit, UploadMetadata,
};
use imageops_client::Client;
use serde_json::json;
use tonic::Code;

use support::http::{Answer, get, request};
use support::jobs::{download, image};
use support::status::assert_status;
use support::upload::{Stream, metadata, name_of, upload};
use support::{Service, wait_for};

fn id(image: &Image) -> &str {
    image.name.strip_prefix("images/").unwrap()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

async fn names(client: &Client, request: ListImagesRequest) -> Vec<String> {
    client.list_images(request).await.unwrap().images.into_iter().map(|image| image.name).collect()
}

#[tokio::test]
async fn an_image_goes_through_the_trash_and_back() {
    let service = Service::start();
    let client = service.client();
    let bytes = vec![7; 100_000];
    let stored = upload(&client, &bytes).await;
    assert_eq!(client.get_image(&stored.name).await.unwrap(), stored);

    let refused = client.images().purge_image(purge(&stored, "")).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_NOT_TRASHED");

    let trashed = client.delete_image(&stored.name, &stored.etag).await.unwrap();
    assert_eq!(trashed.state(), ImageState::Trashed);
    let stay = trashed.purge_time.unwrap().seconds - trashed.delete_time.unwrap().seconds;
    assert_eq!(stay, 3 * 86_400);
    assert_ne!(trashed.etag, stored.etag);
    assert_eq!(names(&client, ListImagesRequest::default()).await, [""; 0]);
    let in_trash = ListImagesRequest { states: vec![ImageState::Trashed.into()], ..Default::default() };
    assert_eq!(names(&client, in_trash).await, [stored.name.as_str()]);

    // Nobody reads what lies there, and its bytes stay.
    let wanted = DownloadImageRequest { image: stored.name.clone(), ..Default::default() };
    let refused = client.stub().download_image(wanted).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_TRASHED");
    let check = CheckRequest { source: image(&stored.name), ..CheckRequest::default() };
    let refused = client.stub().check(check).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_TRASHED");
    assert_eq!(service.blobs(), [id(&stored)]);

    let restored = client.restore_image(&stored.name).await.unwrap();
    assert_eq!(
        (restored.state(), restored.delete_time, restored.purge_time),
        (ImageState::Active, None, None)
    );
    assert!(download(&client, &stored.name).await == bytes);

    // Twice is no error, and the first time counts.
    let trashed = client.delete_image(&stored.name, "").await.unwrap();
    assert_eq!(client.delete_image(&stored.name, "").await.unwrap(), trashed);
    client.purge_image(&stored.name, &trashed.etag).await.unwrap();
    assert_eq!(service.blobs(), [""; 0]);
    let gone = client.images().purge_image(purge(&stored, "")).await.unwrap_err();
    assert_status(&gone, Code::NotFound, "IMAGE_NOT_FOUND");
}

fn purge(image: &Image, etag: &str) -> imageops::v1::PurgeImageRequest {
    imageops::v1::PurgeImageRequest { name: image.name.clone(), etag: etag.to_owned() }
}

/// Who reads an image when it is removed reads it to its end: a download, and a job.
#[tokio::test]
async fn readers_finish_with_the_bytes_that_they_began_with() {
    let service = Service::start();
    let client = service.client();
    let bytes = support::random::Random::new("readers").bytes(24 << 20);
    let stored = upload(&client, &bytes).await;
    let wanted = DownloadImageRequest { image: stored.name.clone(), ..Default::default() };
    let mut reading = client.stub().download_image(wanted).await.unwrap().into_inner();
    reading.message().await.unwrap().unwrap();

    client.delete_image(&stored.name, "").await.unwrap();
    client.purge_image(&stored.name, "").await.unwrap();
    assert_eq!(service.blobs(), [""; 0]);

    let mut read = Vec::new();
    while let Some(message) = reading.message().await.unwrap() {
        if let Some(imageops::v1::download_image_response::Message::Chunk(chunk)) = message.message {
            read.extend_from_slice(&chunk.data);
        }
    }
    assert!(read == bytes);
}

/// What was compressed from an image stays when that goes.
#[tokio::test]
async fn a_made_image_outlives_its_source() {
    let service = Service::start();
    let client = service.client();
    let stored = upload(&client, &vec![7; 1 << 20]).await;
    let compress = CompressRequest { source: image(&stored.name), ..CompressRequest::default() };
    let job = client.compress(compress).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let Some(imageops::v1::job::Result::Compress(result)) = job.result else { panic!("{job:?}") };
    client.delete_image(&stored.name, "").await.unwrap();
    client.purge_image(&stored.name, "").await.unwrap();
    let made = client.get_image(&result.output_image).await.unwrap();
    assert_eq!((made.state(), &made.derived_from), (ImageState::Active, &stored.name));
    assert_eq!(download(&client, &made.name).await.len() as u64, made.size_bytes);
    assert_eq!(service.blobs().len(), 1);
}

#[tokio::test]
async fn what_is_said_of_an_image_survives_a_restart() {
    let mut service = Service::start();
    let client = service.client();
    let stored = upload(&client, &[1; 5000]).await;
    let said = Image {
        name: stored.name.clone(),
        display_name: "Debian 13".to_owned(),
        description: "the golden one".to_owned(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        properties: [("os_distro".to_owned(), "debian".to_owned())].into(),
        tags: vec!["z".to_owned(), "golden".to_owned(), "z".to_owned()],
        protected: true,
        ..Image::default()
    };
    let update = UpdateImageRequest { image: Some(said.clone()), update_mask: None };
    let updated = client.update_image(update).await.unwrap();
    assert_eq!((&updated.labels, &updated.properties), (&said.labels, &said.properties));
    assert_eq!(updated.tags, ["golden", "z"]);
    assert_eq!((updated.digests.clone(), updated.size_bytes), (stored.digests.clone(), stored.size_bytes));

    let refused = client.images().delete_image(delete(&stored)).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_PROTECTED");
    // SEC-27: nothing that the bytes decide can be said otherwise.
    for member in ["size_bytes", "digests", "state", "format", "name", "etag", "create_time", "derived_from"]
    {
        let update = UpdateImageRequest { image: Some(said.clone()), update_mask: mask(&[member]) };
        let refused = client.images().update_image(update).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    service.kill();
    service.restart();
    let client = service.client();
    assert_eq!(client.get_image(&stored.name).await.unwrap(), updated);

    let empty = Image { name: stored.name.clone(), etag: updated.etag.clone(), ..Image::default() };
    let update = UpdateImageRequest { image: Some(empty), update_mask: mask(&["*"]) };
    let emptied = client.update_image(update.clone()).await.unwrap();
    assert_eq!(
        emptied,
        Image {
            etag: emptied.etag.clone(),
            update_time: emptied.update_time,
            display_name: String::new(),
            ..stored
        }
    );
    let stale = client.images().update_image(update).await.unwrap_err();
    assert_status(&stale, Code::Aborted, "STALE_ETAG");
}

fn delete(image: &Image) -> imageops::v1::DeleteImageRequest {
    imageops::v1::DeleteImageRequest { name: image.name.clone(), etag: String::new(), purge: false }
}

#[tokio::test]
async fn a_disabled_image_is_not_read() {
    let service = Service::start();
    let client = service.client();
    let stored = upload(&client, &[1; 5000]).await;
    let disable = |disabled| UpdateImageRequest {
        image: Some(Image { name: stored.name.clone(), disabled, ..Image::default() }),
        update_mask: mask(&["disabled"]),
    };
    client.update_image(disable(true)).await.unwrap();
    let wanted = DownloadImageRequest { image: stored.name.clone(), ..Default::default() };
    let refused = client.stub().download_image(wanted).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_DISABLED");
    let answer = get(service.http(), &format!("/v1/{}/content", stored.name));
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (409, Some("IMAGE_DISABLED")));
    client.update_image(disable(false)).await.unwrap();
    assert_eq!(download(&client, &stored.name).await, [1; 5000]);
}

#[tokio::test]
async fn lists_are_paged_in_every_order() {
    let service = Service::start();
    let client = service.client();
    let mut images = Vec::new();
    for number in 0..5_usize {
        let stored = upload(&client, &vec![1; 4096 * (5 - number)]).await;
        let named = Image {
            name: stored.name.clone(),
            display_name: format!("image {}", [3, 1, 4, 1, 5][number]),
            ..Image::default()
        };
        images.push(
            client.update_image(UpdateImageRequest { image: Some(named), update_mask: None }).await.unwrap(),
        );
    }
    let orders = [
        (ImageOrder::Oldest, ImageOrder::Newest),
        (ImageOrder::DisplayName, ImageOrder::DisplayNameDesc),
        (ImageOrder::Smallest, ImageOrder::Largest),
    ];
    for (ascending, descending) in orders {
        images.sort_by_key(|image| {
            let created = image.create_time.unwrap();
            match ascending {
                ImageOrder::Oldest => {
                    let nanos = created.seconds * 1_000_000_000 + i64::from(created.nanos);
                    (nanos, String::new(), image.name.clone())
                }
                ImageOrder::Smallest => (image.size_bytes as i64, String::new(), image.name.clone()),
                _ => (0, image.display_name.clone(), image.name.clone()),
            }
        });
        assert_eq!(pages(&client, ascending).await, images, "{ascending:?}");
        images.reverse();
        assert_eq!(pages(&client, descending).await, images, "{descending:?}");
    }
    let first = ListImagesRequest { page_size: 2, ..Default::default() };
    let token = client.list_images(first).await.unwrap().next_page_token;
    let other =
        ListImagesRequest { page_token: token, order: ImageOrder::Largest.into(), ..Default::default() };
    let refused = client.images().list_images(other).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
}

async fn pages(client: &Client, order: ImageOrder) -> Vec<Image> {
    let mut request = ListImagesRequest { page_size: 2, order: order.into(), ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = client.list_images(request.clone()).await.unwrap();
        listed.extend(page.images);
        if page.next_page_token.is_empty() {
            return listed;
        }
        request.page_token = page.next_page_token;
    }
}

/// An answer has a limit of 4 MiB: pages of large records are shorter than was asked for, and nothing is missed.
#[tokio::test]
async fn large_records_make_short_pages() {
    let service = Service::start();
    let client = service.client();
    let properties: std::collections::HashMap<_, _> =
        (0..15).map(|number| (number.to_string(), "v".repeat(64 << 10))).collect();
    for _ in 0..6 {
        let stored = upload(&client, &[1; 5000]).await;
        let image = Image { name: stored.name, properties: properties.clone(), ..Image::default() };
        client.update_image(UpdateImageRequest { image: Some(image), update_mask: None }).await.unwrap();
    }
    let first = client.list_images(ListImagesRequest::default()).await.unwrap();
    assert!(first.images.len() < 6 && !first.next_page_token.is_empty());
    let mut request = ListImagesRequest::default();
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let page = client.list_images(request.clone()).await.unwrap();
        seen.extend(page.images.into_iter().map(|image| image.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen.len(), 6);
}

#[tokio::test]
async fn an_emptied_trash_leaves_no_bytes() {
    let mut service = Service::start_with(&["--trash-days", "0"]);
    let client = service.client();
    let kept = upload(&client, &[1; 5000]).await;
    let stored = upload(&client, &[2; 5000]).await;
    client.delete_image(&stored.name, "").await.unwrap();
    // The sweep runs at the start of a server and every few minutes.
    service.kill();
    service.restart();
    let start = std::time::Instant::now();
    while service.blobs() != [id(&kept)] {
        assert!(start.elapsed() < support::DEADLINE, "{:?}", service.blobs());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let client = service.client();
    assert_eq!(client.get_image(&kept.name).await.unwrap(), kept);
}

/// What is said while an image is uploaded is there from its first moment.
#[tokio::test]
async fn an_image_is_described_while_it_is_uploaded() {
    let service = Service::start();
    let client = service.client();
    let said = UploadMetadata {
        description: "the golden one".to_owned(),
        labels: [("team".to_owned(), "a".to_owned())].into(),
        properties: [("os_distro".to_owned(), "debian".to_owned())].into(),
        tags: vec!["golden".to_owned()],
        ..metadata("described")
    };
    let stream = Stream::begin(&client, &said).await;
    stream.chunk(0, &[1; 5000]).await;
    // Another stream goes on with it: what was said is kept with the upload.
    stream.close().await.unwrap();
    let stream = Stream::resume(&client, &name_of(&said), 5000).await;
    let image = stream.commit(UploadCommit::default()).await.unwrap().image.unwrap();
    assert_eq!(image.description, said.description);
    assert_eq!((&image.labels, &image.properties, &image.tags), (&said.labels, &said.properties, &said.tags));
    assert_eq!(client.get_image(&image.name).await.unwrap(), image);
    // The same id with other words is another upload.
    let other = UploadMetadata { tags: Vec::new(), ..said };
    let refused = Stream::begin(&client, &other).await.close().await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    let wrong = UploadMetadata { labels: [("No".to_owned(), String::new())].into(), ..metadata("wrong") };
    let refused = Stream::begin(&client, &wrong).await.close().await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");

    let path =
        "/v1/images?display_name=web&label=team=b&label=stage=test&property=os_distro=debian&tag=x&tag=y";
    let octets = [("content-type", "application/octet-stream")];
    let stored = request(service.http(), "POST", path, &octets, &[2; 5000]);
    assert_eq!(stored.status, 201, "{}", stored.text());
    let stored: Image = serde_json::from_value(stored.json()).unwrap();
    assert_eq!((stored.labels.len(), stored.labels["stage"].as_str()), (2, "test"));
    assert_eq!((stored.properties["os_distro"].as_str(), stored.tags.join(",").as_str()), ("debian", "x,y"));
    let form = "--b\r\nContent-Disposition: form-data; name=\"label\"\r\n\r\nteam=c\r\n--b\r\n\
                Content-Disposition: form-data; name=\"tag\"\r\n\r\nz\r\n--b\r\n\
                Content-Disposition: form-data; name=\"file\"; filename=\"a.img\"\r\n\r\nbytes of a disk\r\n--b--\r\n";
    let multipart = [("content-type", "multipart/form-data; boundary=b")];
    let stored = request(service.http(), "POST", "/v1/images", &multipart, form.as_bytes());
    assert_eq!(stored.status, 201, "{}", stored.text());
    assert_eq!((&stored.json()["labels"]["team"], &stored.json()["tags"]), (&json!("c"), &json!(["z"])));
}

fn patch(service: &Service, path: &str, headers: &[(&str, &str)], body: &serde_json::Value) -> Answer {
    let headers = [&[("content-type", "application/json")], headers].concat();
    request(service.http(), "PATCH", path, &headers, body.to_string().as_bytes())
}

#[tokio::test]
async fn rest_does_the_same() {
    let service = Service::start();
    let client = service.client();
    let stored = upload(&client, &[1; 5000]).await;
    let path = format!("/v1/{}", stored.name);
    let found = get(service.http(), &path);
    assert_eq!(found.status, 200);
    assert_eq!(serde_json::from_value::<Image>(found.json()).unwrap(), stored);
    let etag = found.header("etag").unwrap().to_owned();

    let said = json!({"displayName": "web", "labels": {"team": "a"}, "tags": ["golden"]});
    let changed = patch(&service, &path, &[("if-match", &etag)], &said);
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.json()["labels"]["team"], "a");
    let stale = patch(&service, &path, &[("if-match", &etag)], &said);
    assert_eq!((stale.status, stale.json()["reason"].as_str()), (412, Some("STALE_ETAG")));
    // An empty member empties, an absent one stays.
    let emptied = patch(&service, &path, &[], &json!({"tags": []}));
    assert_eq!((emptied.json().get("tags"), emptied.json()["displayName"].as_str()), (None, Some("web")));
    let nothing = patch(&service, &path, &[], &json!({}));
    assert_eq!(nothing.json(), emptied.json());
    let wrong = patch(&service, &path, &[], &json!({"sizeBytes": "5"}));
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    let wrong = patch(&service, &path, &[], &json!({"name": "images/other", "tags": []}));
    assert_eq!(wrong.status, 400, "{}", wrong.text());

    let listed = get(service.http(), "/v1/images?label=team=a&state=active&format=raw&display_name=web");
    assert_eq!(listed.json()["images"][0]["name"], stored.name.as_str());
    for none in ["label=team=b", "tag=golden", "state=trashed", "format=qcow2", "display_name=we"] {
        let listed = get(service.http(), &format!("/v1/images?{none}"));
        assert_eq!((listed.status, listed.json().get("images")), (200, None), "{none}");
    }
    for wrong in ["label=team", "order=best", "state=gone", "colour=red", "page_token=x"] {
        assert_eq!(get(service.http(), &format!("/v1/images?{wrong}")).status, 400, "{wrong}");
    }

    let deleted = request(service.http(), "DELETE", &path, &[], &[]);
    assert_eq!((deleted.status, deleted.json()["state"].as_str()), (200, Some("IMAGE_STATE_TRASHED")));
    let restored = request(service.http(), "POST", &format!("{path}:restore"), &[], &[]);
    assert_eq!((restored.status, restored.json()["state"].as_str()), (200, Some("IMAGE_STATE_ACTIVE")));
    let refused = request(service.http(), "POST", &format!("{path}:purge"), &[], &[]);
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (409, Some("IMAGE_NOT_TRASHED")));
    request(service.http(), "DELETE", &path, &[], &[]);
    assert_eq!(request(service.http(), "POST", &format!("{path}:purge"), &[], &[]).status, 204);
    assert_eq!(get(service.http(), &path).status, 404);
    assert_eq!(request(service.http(), "POST", &path, &[], &[]).status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_does_the_same() {
    let service = Service::start();
    let stored = upload(&service.client(), &[1; 5000]).await;
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(support::binary("imageops"))
            .arg("image")
            .args(arguments)
            .env("IMAGEOPS_SERVER", format!("http://{}", service.grpc()))
            .env_remove("IMAGEOPS_TOKEN")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (status, said, _) =
        run(&["set", id(&stored), "--name", "web", "--label", "team=a", "--tag", "golden"]);
    assert_eq!(status, 0);
    for part in ["name             web", "labels           team=a", "tags             golden"] {
        assert!(said.contains(part), "{said}");
    }
    let (_, said, _) = run(&["set", &stored.name, "--remove-label", "team", "--protected", "true"]);
    assert!(!said.contains("team") && said.contains("golden"), "{said}");
    let (status, _, said) = run(&["delete", &stored.name]);
    assert!(status == 1 && said.contains("protected"), "{said}");
    run(&["set", &stored.name, "--protected", "false"]);
    let (_, listed, _) = run(&["list", "--tag", "golden", "--order", "name"]);
    assert!(listed.contains(&stored.name) && listed.lines().count() == 2, "{listed}");
    let (status, said, _) = run(&["delete", &stored.name]);
    assert!(status == 0 && said.contains("in the trash"), "{said}");
    assert_eq!(run(&["list"]).1, "no images\n");
    let (_, listed, _) = run(&["list", "--trash", "-o", "json"]);
    let listed: Vec<Image> = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0].name, stored.name);
    assert_eq!(run(&["restore", &stored.name]).0, 0);
    assert_eq!(run(&["purge", &stored.name]).0, 1);
    assert_eq!(run(&["delete", &stored.name, "--purge"]).0, 0);
    assert_eq!(run(&["show", &stored.name]).0, 1);
    assert_eq!(service.blobs(), [""; 0]);
}
