//! Whether the server holds what it has acknowledged, and nothing that it should not.

use std::collections::{BTreeMap, BTreeSet};

use imageops::v1::{Image, ImageState, ListImagesRequest, ListUploadsRequest, Upload, UploadState};
use imageops_client::Client;

use crate::ledger::{Entry, Ledger};
use crate::support::Service;
use crate::support::status::eventually;

/// All images, those in the trash too.
pub async fn images(client: &Client) -> Vec<Image> {
    let states = vec![
        ImageState::Active.into(),
        ImageState::Trashed.into(),
        ImageState::Uploading.into(),
        ImageState::Queued.into(),
        ImageState::Failed.into(),
    ];
    let mut request = ListImagesRequest { page_size: 1000, states, ..ListImagesRequest::default() };
    let mut images = Vec::new();
    loop {
        let page = client.list_images(request.clone()).await.expect("a list of images");
        images.extend(page.images);
        if page.next_page_token.is_empty() {
            return images;
        }
        request.page_token = page.next_page_token;
    }
}

/// All uploads that can go on.
pub async fn open_uploads(client: &Client) -> Vec<Upload> {
    let states = vec![UploadState::Open.into()];
    let mut request = ListUploadsRequest { page_size: 1000, states, ..ListUploadsRequest::default() };
    let mut uploads = Vec::new();
    loop {
        let page = client.list_uploads(request.clone()).await.expect("a list of uploads");
        uploads.extend(page.uploads);
        if page.next_page_token.is_empty() {
            return uploads;
        }
        request.page_token = page.next_page_token;
    }
}

/// Fails unless the image holds the bytes of the entry, whole.
pub async fn compare(client: &Client, image: &str, entry: &Entry) {
    let mut target = entry.content.comparer();
    let downloaded = client.download(image, 0, &mut target, |_| {}).await;
    let header =
        downloaded.unwrap_or_else(|error| panic!("{image}: expected the bytes that were sent: {error}"));
    assert!(target.is_complete(), "{image}: expected {} bytes, fewer came", entry.content.size_bytes);
    assert_eq!(header.digests.as_ref(), Some(&entry.digests), "{image}: digests of what was sent");
}

/// at any moment while the server is up: everything acknowledged is there, and everything that is visible is
/// whole. Images that were not compared yet are downloaded.
pub async fn check(client: &Client, ledger: &Ledger) {
    // In this order: what is acknowledged after the entries were read need not be on the list.
    let entries = ledger.all();
    let uploads = open_uploads(client).await;
    let mut images = images(client).await;
    // What jobs make is looked at by those who ask for jobs.
    images.retain(|image| image.derived_from.is_empty());
    // Read again: an image on the list may have been begun since.
    let known = ledger.all();
    check_visible(&images, &known);
    for upload in uploads {
        // Read once more within: what was sent only grows.
        if let Some(entry) = known.iter().find(|entry| upload.name == format!("uploads/{}", entry.id)) {
            entry.check_offset(upload.durable_bytes);
        }
    }
    let listed: BTreeMap<_, _> = images.iter().map(|image| (image.name.as_str(), image)).collect();
    for (index, entry) in entries.iter().enumerate() {
        let Some(name) = &entry.acknowledged else { continue };
        if entry.removed || ledger.entry(index, |entry| entry.removed) {
            continue;
        }
        let image = listed.get(name.as_str());
        let image = image.unwrap_or_else(|| panic!("expected {name}, which was acknowledged; it is lost"));
        assert_eq!(image.state(), ImageState::Active, "{name} was acknowledged");
        if !entry.compared {
            compare(client, name, entry).await;
            ledger.entry(index, |entry| entry.compared = true);
        }
    }
}

/// whatever a list shows has the length and the digests of something that was sent as a whole.
fn check_visible(images: &[Image], known: &[Entry]) {
    let sent: BTreeMap<_, _> = known.iter().map(|entry| (&entry.digests.sha256, entry)).collect();
    let mut seen = BTreeMap::<_, u64>::new();
    for image in images {
        let digests = image.digests.as_ref().unwrap_or_else(|| panic!("expected digests: {image:?}"));
        let entry = sent.get(&digests.sha256);
        let entry =
            entry.unwrap_or_else(|| panic!("expected only images that were sent as a whole: {image:?}"));
        assert_eq!((image.size_bytes, digests), (entry.content.size_bytes, &entry.digests), "{}", image.name);
        *seen.entry(&digests.sha256).or_default() += 1;
    }
    for (sha256, count) in seen {
        let images_max = sent[sha256].images_max;
        assert!(count <= images_max, "expected at most {images_max} images of one upload, there are {count}");
    }
}

/// R-5, when nothing is under way: each file of the store belongs to a row, and each row has its file.
pub async fn check_store(service: &Service) {
    let client = service.client();
    // A tenant's equal uploads are stored once: a client that missed an answer may have sent them twice. What jobs make is
    // always its own.
    let images = images(&client).await;
    let (made, sent): (Vec<_>, Vec<_>) = images.iter().partition(|image| !image.derived_from.is_empty());
    let sent = sent.into_iter().filter_map(|image| image.digests.as_ref()).map(|digests| &digests.sha256);
    let wanted = made.len() + sent.collect::<BTreeSet<_>>().len();
    // A name that is no longer needed is dropped right behind the answer.
    eventually(&format!("{wanted} blobs for {} images", images.len()), || async {
        (service.blobs().len() == wanted).then_some(())
    })
    .await;
    let open: BTreeSet<_> =
        open_uploads(&client).await.into_iter().map(|upload| upload.name.replace("uploads/", "")).collect();
    eventually(&format!("no staged file but those of {open:?}"), || async {
        service.staged().iter().all(|name| open.contains(name)).then_some(())
    })
    .await;
}

/// Whatever fails beneath the server is no fault of its own.
pub fn check_log(log: &str) {
    for sign in ["panicked", "internal failure"] {
        let line = log.lines().find(|line| line.contains(sign));
        assert_eq!(line, None, "expected no fault of the server");
    }
}
