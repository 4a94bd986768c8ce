//! Copies of images in several stores: made, removed, moved, and compared with their digest, so that no damaged byte is
//! ever handed out.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use imageops::v1::download_image_response::Message;
use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    CheckRequest, ConvertRequest, CopyImageRequest, DownloadImageRequest, ImageFormat, ImageState, JobKind,
    JobState, RemoveReplicaRequest, ReplicaState, ScrubResult, StoreState,
};
use tonic::Code;

use support::http::get;
use support::images::{have, qemu_img};
use support::jobs::{download, ended, failed, image};
use support::random::Random;
use support::status::assert_status;
use support::stores::{blobs_of, copies, copy, drain, scrub, start_with_stores, store, stores};
use support::upload::upload;
use support::{Service, names_in, wait_for};

use ReplicaState::{Damaged, Ready};

fn named(copies: &[(String, ReplicaState)]) -> Vec<(&str, ReplicaState)> {
    copies.iter().map(|(name, state)| (name.as_str(), *state)).collect()
}

/// Changes one bit of the only blob in a directory.
fn flip_a_bit(blobs: &Path) {
    flip(blobs, 70_000);
}

fn flip(blobs: &Path, at: u64) {
    let names = names_in(blobs);
    assert_eq!(names.len(), 1, "{names:?}");
    let path = blobs.join(&names[0]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

async fn scrubbed(service: &Service, name: &str) -> ScrubResult {
    let job = scrub(service, name).await;
    assert_eq!((job.kind(), job.store.clone()), (JobKind::Scrub, store(service, name).await.name));
    match wait_for(&service.client(), &job.name, JobState::Succeeded).await.result {
        Some(JobResult::Scrub(result)) => result,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_copied_and_its_copy_removed() {
    let service = start_with_stores(&["one", "two"], &[]);
    let client = service.client();
    // Holes too: a copy is as sparse as what it was made from.
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20..2 << 20].copy_from_slice(&Random::new("copies").bytes(1 << 20));
    let stored = upload(&client, &bytes).await;
    let (from, to) = ("one", "two");
    assert_eq!(named(&copies(&service, &stored).await), [(from, Ready)]);

    let job = copy(&client, &stored.name, to).await;
    assert_eq!((job.kind(), &job.store), (JobKind::Copy, &store(&service, to).await.name));
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    assert_eq!(job.result, Some(JobResult::Copy(imageops::v1::CopyResult { copied_bytes: 3 << 20 })));
    let image = client.get_image(&stored.name).await.unwrap();
    assert_eq!(named(&copies(&service, &image).await), [("one", Ready), ("two", Ready)]);
    for name in ["one", "two"] {
        let blobs = blobs_of(&service, name);
        assert!(fs::read(blobs.join(&names_in(&blobs)[0])).unwrap() == bytes, "{name}");
    }

    // A second time nothing is left to be done.
    let again = copy(&client, &stored.name, to).await;
    let again = wait_for(&client, &again.name, JobState::Succeeded).await;
    assert_eq!(again.result, Some(JobResult::Copy(imageops::v1::CopyResult { copied_bytes: 0 })));

    let remove = |store: &str| RemoveReplicaRequest {
        name: stored.name.clone(),
        store: store.to_owned(),
        ..RemoveReplicaRequest::default()
    };
    // Not while the other copy is not there, whatever its row says. It counts as damaged then, until it is made again.
    let blobs = blobs_of(&service, to);
    fs::remove_file(blobs.join(&names_in(&blobs)[0])).unwrap();
    let lost = client.images().remove_replica(remove(from)).await.unwrap_err();
    assert_status(&lost, Code::FailedPrecondition, "LAST_REPLICA");
    let image = client.get_image(&stored.name).await.unwrap();
    assert_eq!(named(&copies(&service, &image).await), [("one", Ready), ("two", Damaged)]);
    let job = copy(&client, &stored.name, to).await;
    wait_for(&client, &job.name, JobState::Succeeded).await;
    let left = client.images().remove_replica(remove(from)).await.unwrap().into_inner().image.unwrap();
    assert_eq!(named(&copies(&service, &left).await), [(to, Ready)]);
    assert_eq!(names_in(&blobs_of(&service, from)), [""; 0]);
    assert!(download(&client, &stored.name).await == bytes);

    let last = client.images().remove_replica(remove(to)).await.unwrap_err();
    assert_status(&last, Code::FailedPrecondition, "LAST_REPLICA");
    let none = client.images().remove_replica(remove(from)).await.unwrap_err();
    assert_status(&none, Code::NotFound, "REPLICA_STATE");
    let unknown = CopyImageRequest { name: stored.name.clone(), store: "three".into(), ..Default::default() };
    let unknown = client.images().copy_image(unknown).await.unwrap_err();
    assert_status(&unknown, Code::NotFound, "STORE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_store_is_empty_and_no_image_is_lost() {
    let service = start_with_stores(&["one", "two"], &[]);
    let client = service.client();
    let mut uploaded = Vec::new();
    for number in 0..4_u8 {
        let bytes = Random::new(&format!("drain {number}")).bytes(200_000);
        uploaded.push((upload(&client, &bytes).await, bytes));
    }
    // One that has a copy elsewhere already, and one that cannot be moved: it lies in the trash.
    let (twice, trashed) = (uploaded[0].0.clone(), uploaded.pop().unwrap().0);
    let (from, to) = ("one", "two");
    let job = copy(&client, &twice.name, to).await;
    wait_for(&client, &job.name, JobState::Succeeded).await;
    client.delete_image(&trashed.name, "").await.unwrap();

    let job = drain(&service, from).await;
    assert_eq!((job.kind(), store(&service, from).await.state()), (JobKind::Drain, StoreState::Draining));
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let Some(JobResult::Drain(result)) = job.result else { panic!("{job:?}") };
    assert_eq!((result.moved_images, result.copied_bytes), (3, 400_000));
    assert_eq!(result.kept_images, std::slice::from_ref(&trashed.name));
    for (image, bytes) in &uploaded {
        let image = client.get_image(&image.name).await.unwrap();
        let copies = copies(&service, &image).await;
        assert!(copies.iter().all(|(name, state)| name != from && *state == Ready), "{copies:?}");
        assert!(download(&client, &image.name).await == *bytes);
    }

    // Nothing new comes into it, and once the trash is empty, neither does it hold anything.
    client.purge_image(&trashed.name, "").await.unwrap();
    assert_eq!(names_in(&blobs_of(&service, from)), [""; 0]);
    let new = upload(&client, &Random::new("after").bytes(1_000)).await;
    assert_ne!(copies(&service, &new).await[0].0, from);
    let name = store(&service, from).await.name;
    stores(&service).remove_store(imageops::v1::RemoveStoreRequest { name }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_shared_bytes_shared() {
    let service = start_with_stores(&["one", "two"], &[]);
    let client = service.client();
    let bytes = Random::new("shared").bytes(200_000);
    let mut equal = Vec::new();
    for _ in 0..3 {
        equal.push(upload(&client, &bytes).await);
    }
    assert_eq!(names_in(&blobs_of(&service, "one")).len(), 1);

    let job = drain(&service, "one").await;
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let Some(JobResult::Drain(result)) = job.result else { panic!("{job:?}") };
    assert_eq!((result.moved_images, result.copied_bytes), (3, 200_000));
    assert_eq!(names_in(&blobs_of(&service, "one")), [""; 0]);
    assert_eq!(names_in(&blobs_of(&service, "two")).len(), 1);

    // They still go one by one.
    for (index, image) in equal.iter().enumerate() {
        assert!(download(&client, &image.name).await == bytes, "{index}");
        client.delete_image(&image.name, "").await.unwrap();
        client.purge_image(&image.name, "").await.unwrap();
    }
    assert_eq!(names_in(&blobs_of(&service, "two")), [""; 0]);
}

/// What a reader finds, no scrub has to find again.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_gone_or_short_is_read_no_more() {
    let service = start_with_stores(&["one", "two"], &[]);
    let client = service.client();
    let bytes = Random::new("short").bytes(300_000);
    let (cut, gone) = (upload(&client, &bytes).await, upload(&client, &bytes[..100_000]).await);
    let (job, blobs) = (copy(&client, &cut.name, "two").await, blobs_of(&service, "one"));
    wait_for(&client, &job.name, JobState::Succeeded).await;
    for name in names_in(&blobs) {
        let path = blobs.join(name);
        if fs::metadata(&path).unwrap().len() == 100_000 {
            fs::remove_file(path).unwrap();
        } else {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_len(150_000).unwrap();
        }
    }

    // The other copy serves.
    assert!(download(&client, &cut.name).await == bytes);
    let image = client.get_image(&cut.name).await.unwrap();
    assert_eq!(image.state(), ImageState::Active);
    assert_eq!(named(&copies(&service, &image).await), [("one", Damaged), ("two", Ready)]);

    // There is no other.
    let request = DownloadImageRequest { image: gone.name.clone(), ..DownloadImageRequest::default() };
    let refused = client.stub().download_image(request.clone()).await.unwrap_err();
    assert_status(&refused, Code::DataLoss, "BYTES_DAMAGED");
    let image = client.get_image(&gone.name).await.unwrap();
    assert_eq!(image.state(), ImageState::Quarantined);
    let refused = client.stub().download_image(request).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_QUARANTINED");
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_14_a_flipped_bit_is_found_and_the_other_copy_serves() {
    let service = start_with_stores(&["one", "two"], &["--workers", "2"]);
    let client = service.client();
    let bytes = Random::new("scrub").bytes(300_000);
    let stored = upload(&client, &bytes).await;
    let job = copy(&client, &stored.name, "").await;
    wait_for(&client, &job.name, JobState::Succeeded).await;

    for name in ["one", "two", "default"] {
        let sound = scrubbed(&service, name).await;
        let blobs = u64::from(copies_in(&service, &stored.name, name).await);
        assert_eq!((sound.verified_blobs, sound.verified_bytes), (blobs, blobs * 300_000), "{name}");
        assert_eq!(sound.damaged_images, [""; 0]);
    }
    let before = client.get_image(&stored.name).await.unwrap();
    assert!(before.replicas.iter().all(|replica| replica.verify_time.is_some()), "{before:?}");

    let damaged = "one";
    flip_a_bit(&blobs_of(&service, damaged));
    let found = scrubbed(&service, damaged).await;
    assert_eq!((found.verified_blobs, found.damaged_images), (0, vec![stored.name.clone()]));
    let image = client.get_image(&stored.name).await.unwrap();
    assert_eq!(image.state(), ImageState::Active);
    let states = copies(&service, &image).await;
    assert!(states.iter().all(|(name, state)| (*state == Damaged) == (name == damaged)), "{states:?}");
    assert!(download(&client, &stored.name).await == bytes);
    let metrics = String::from_utf8(get(service.http(), "/metrics").body).unwrap();
    assert!(metrics.contains("imageops_scrub_mismatch_total 1"), "{metrics}");

    // A new copy takes the place of the damaged one.
    let job = copy(&client, &stored.name, damaged).await;
    wait_for(&client, &job.name, JobState::Succeeded).await;
    let image = client.get_image(&stored.name).await.unwrap();
    assert!(image.replicas.iter().all(|replica| replica.state() == Ready), "{image:?}");
    assert_eq!(scrubbed(&service, damaged).await.damaged_images, [""; 0]);
}

async fn copies_in(service: &Service, image: &str, store: &str) -> bool {
    let image = service.client().get_image(image).await.unwrap();
    copies(service, &image).await.iter().any(|(name, _)| name == store)
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_14_damaged_bytes_without_another_copy_are_not_handed_out() {
    let service = start_with_stores(&["one"], &[]);
    let client = service.client();
    let stored = upload(&client, &Random::new("only").bytes(300_000)).await;
    flip_a_bit(&blobs_of(&service, "one"));

    let found = scrubbed(&service, "one").await;
    assert_eq!(found.damaged_images, std::slice::from_ref(&stored.name));
    let image = client.get_image(&stored.name).await.unwrap();
    assert_eq!(image.state(), ImageState::Quarantined);
    assert_eq!(image.quarantine.unwrap().code, "BYTES_DAMAGED");
    let wanted = DownloadImageRequest { image: stored.name.clone(), ..Default::default() };
    let refused = client.stub().download_image(wanted).await.unwrap_err();
    assert_status(&refused, Code::FailedPrecondition, "IMAGE_QUARANTINED");

    // A check alone reads it, and tells what is there now.
    let check = CheckRequest { source: self::image(&stored.name), ..CheckRequest::default() };
    let job = ended(&client, &client.check(check).await.unwrap().name).await;
    let Some(JobResult::Check(result)) = job.result else { panic!("{job:?}") };
    assert_ne!(result.digests.unwrap().sha256, stored.digests.unwrap().sha256);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_by_a_copy_too() {
    let service = start_with_stores(&["one", "two"], &[]);
    let client = service.client();
    let stored = upload(&client, &Random::new("copied").bytes(300_000)).await;
    flip_a_bit(&blobs_of(&service, "one"));

    let job = copy(&client, &stored.name, "").await;
    assert_eq!(failed(&client, &job.name).await, "BYTES_DAMAGED");
    let image = client.get_image(&stored.name).await.unwrap();
    assert_eq!(image.state(), ImageState::Quarantined);
    assert_eq!(named(&copies(&service, &image).await), [("one", Damaged)]);
    // Nothing of the copy stays.
    assert_eq!(names_in(&blobs_of(&service, "two")), [""; 0]);
    assert_eq!(names_in(&blobs_of(&service, "two").with_file_name("staging")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_by_a_conversion_which_then_reads_the_other_copy() {
    if !have("qemu-img") {
        return;
    }
    let service = start_with_stores(&["one", "two"], &[]);
    let client = service.client();
    let (raw, qcow2) = (service.scratch().join("disk.raw"), service.scratch().join("disk.qcow2"));
    fs::write(&raw, Random::new("converted").bytes(1 << 20)).unwrap();
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()];
    assert!(qemu_img(arguments).status.success());
    let stored = upload(&client, &fs::read(&qcow2).unwrap()).await;
    let job = copy(&client, &stored.name, "two").await;
    wait_for(&client, &job.name, JobState::Succeeded).await;
    // A bit of the guest's data: nothing but the digest tells.
    let blobs = blobs_of(&service, "one");
    let blob = fs::read(blobs.join(&names_in(&blobs)[0])).unwrap();
    let disk = fs::read(&raw).unwrap();
    let at = blob.windows(64).position(|bytes| bytes == &disk[..64]).unwrap();
    flip(&blobs, at as u64);

    let request = ConvertRequest {
        source: image(&stored.name),
        format: ImageFormat::Raw.into(),
        ..ConvertRequest::default()
    };
    let job = client.stub().convert(request).await.unwrap().into_inner().job.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let Some(JobResult::Convert(result)) = job.result else { panic!("{job:?}") };
    assert!(download(&client, &result.output_image).await == disk);
    let image = client.get_image(&stored.name).await.unwrap();
    assert_eq!(image.state(), ImageState::Active);
    assert_eq!(named(&copies(&service, &image).await), [("one", Damaged), ("two", Ready)]);
}

/// What is missing from a store is found when it is read, and the next copy takes its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_breaks_off_is_passed_over() {
    let service = start_with_stores(&["one", "two"], &[]);
    let client = service.client();
    // More than what is on its way at any time.
    let bytes = Random::new("passed over").bytes(64 << 20);
    let stored = upload(&client, &bytes).await;
    let job = copy(&client, &stored.name, "two").await;
    wait_for(&client, &job.name, JobState::Succeeded).await;
    let blobs = blobs_of(&service, "one");
    let path = blobs.join(&names_in(&blobs)[0]);

    // Cut while it is read: the download goes on with the other copy where this one ends.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let request = DownloadImageRequest { image: stored.name.clone(), ..DownloadImageRequest::default() };
    let mut messages = client.stub().download_image(request).await.unwrap().into_inner();
    messages.message().await.unwrap().unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(700_000).unwrap();
    let mut read = Vec::new();
    while let Some(message) = messages.message().await.unwrap() {
        let Some(Message::Chunk(chunk)) = message.message else { panic!("no chunk") };
        read.extend_from_slice(&chunk.data);
    }
    assert!(read == bytes);
    assert!(service.output().contains("a copy cannot be read on"));
}

/// An upload of bytes that the tenant has already shares the stored ones when they are whole, and is kept when they are not.
#[tokio::test(flavor = "multi_thread")]
async fn equal_bytes_are_shared_when_they_are_whole() {
    let service = Service::start();
    let client = service.client();
    let data = Random::new("shared").bytes(300_000);
    let blobs = service.data_dir().join("store/blobs");
    let first = upload(&client, &data).await;
    for _ in 0..2 {
        let again = upload(&client, &data).await;
        assert!(download(&client, &again.name).await == data);
    }
    assert_eq!(service.blobs().len(), 1);

    // Damaged ones are found by it, and those that came are kept.
    flip_a_bit(&blobs);
    let second = upload(&client, &data).await;
    assert!(download(&client, &second.name).await == data);
    assert_eq!(client.get_image(&first.name).await.unwrap().state(), ImageState::Quarantined);
    let kept: Vec<_> = service.blobs().into_iter().filter(|blob| !first.name.ends_with(blob)).collect();
    assert_eq!(kept.len(), 1);

    // The same where someone removed them.
    fs::remove_file(blobs.join(&kept[0])).unwrap();
    let third = upload(&client, &data).await;
    assert!(download(&client, &third.name).await == data);
}
