//! Rows 57 to 64: slims, deletes, and what is no call.

use serde_json::json;

use crate::support::file_system::{FileSystem, ZERO_ID, assert_refused, assert_text};
use crate::support::fixtures;
use crate::support::images::{assert_same_content, qemu_img};
use crate::support::upload::digests;
use crate::support::{Service, http};

const STARTED: &str = "compress in progress";
const RUNNING: &str = "The image file is being slimmed. No need to slim again.";
const NOT_BEGUN: &str = "compress failed";
const DONE: &str =
    "The image file has already been slimmed. No need to slim again. Pls request to check directly";
const NO_IMAGE: &str = "file path doesn't exist";

#[test]
fn rows_57_59_and_60_a_slim_from_its_start_to_its_end() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    let before = fs.checked(&id);
    let original = fs.download(&id, "", &[]);
    assert_text(&fs.slim(&id), STARTED);
    let at_once = fs.record(&id);
    assert!(at_once["slimStatus"] == 1 || at_once["slimStatus"] == 2, "{at_once}");
    if at_once["slimStatus"] == 1 {
        assert_eq!(at_once["checkStatusResponse"], before["checkStatusResponse"], "what was found stays");
    }

    let record = fs.slimmed(&id);
    assert_eq!(record["slimStatus"], 2, "{record}");
    let slim = fs.download(&id, "", &[]);
    assert_eq!(slim.status, 200);
    assert!(slim.body != good);
    let check = &record["checkStatusResponse"];
    assert_eq!(
        (&check["status"], &check["checkInfo"]["checksum"]),
        (&json!(0), &json!(digests(&slim.body).md5))
    );
    let info = &check["checkInfo"]["imageInfo"];
    assert_eq!(info["filename"], format!("compressed{id}disk.qcow2"));
    for name in ["fileName", "uploadTime", "userId", "imageId", "storageMedium"] {
        assert_eq!(record[name], before[name], "{name}");
    }
    assert_eq!(slim.header("content-disposition"), Some("attachment; filename=\"disk.qcow2\""));
    assert_ne!(slim.header("etag"), original.header("etag"));
    let (source, target) = (service.scratch().join("good.qcow2"), service.scratch().join("slim.qcow2"));
    std::fs::write(&target, &slim.body).unwrap();
    assert!(qemu_img(["check".as_ref(), target.as_os_str()]).status.success());
    assert_same_content(&source, &target);

    assert_text(&fs.slim(&id), DONE);
    let listed = fs.listed();
    assert_eq!(listed.len(), 1, "the companion is no row");
    assert_eq!(listed[0]["checkStatusResponse"]["checkInfo"]["checksum"], check["checkInfo"]["checksum"]);
    let compressed = json!({"compressStatus": 0, "compressMsg": "Compress Completed", "compressRate": 1});
    assert_eq!(listed[0]["compressInfo"], compressed);
}

#[test]
fn row_58_a_slim_is_not_begun_twice() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(noisy) = fixtures::noisy(service.scratch(), 64) else { return };
    let id = fs.upload_id("noise.qcow2", &noisy);
    assert_text(&fs.slim(&id), STARTED);
    let again = fs.slim(&id);
    assert!(again.status == 200 && [RUNNING, DONE].contains(&again.text()), "{}", again.text());
    let full = fs.call("GET", &format!("/{id}?view=full")).json();
    if full["slimStatus"] == 1 {
        assert_eq!(full["compressInfo"]["compressMsg"], "Compress In Progress");
        let rate = full["compressInfo"]["compressRate"].as_f64().unwrap();
        assert!((0.0..1.0).contains(&rate), "{rate}");
    }
    assert_eq!(fs.slimmed(&id)["slimStatus"], 2);
}

#[test]
fn row_61_a_raw_image_is_not_slimmed() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let id = fs.upload_id("disk.img", &fixtures::raw("row 61"));
    // Whether the check has ended or not: the content decides.
    for _ in 0..2 {
        let literal = "This image cannot be slimmed because the type of image is not supported.";
        assert_refused(&fs.slim(&id), 500, literal);
        assert_eq!(fs.record(&id)["slimStatus"], 3);
        fs.checked(&id);
    }
    let full = fs.call("GET", &format!("/{id}?view=full")).json();
    let failed = json!({"compressStatus": 2, "compressMsg": "Compress Failed", "compressRate": 0});
    assert_eq!(full["compressInfo"], failed);
}

#[test]
fn row_62_an_unknown_id() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    assert_refused(&fs.slim(ZERO_ID), 404, NO_IMAGE);
}

#[test]
fn row_63_a_delete_takes_both_files() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    fs.checked(&id);
    assert_text(&fs.slim(&id), STARTED);
    assert_eq!(fs.slimmed(&id)["slimStatus"], 2);
    assert_eq!(service.blobs().len(), 2);
    for _ in 0..2 {
        assert_text(&fs.call("DELETE", &format!("/{id}")), "delete success");
    }
    let literal = format!("there is no record in database with imageId: {id}");
    assert_refused(&fs.call("GET", &format!("/{id}")), 404, &literal);
    assert_refused(&fs.download(&id, "", &[]), 404, NO_IMAGE);
    assert_refused(&fs.slim(&id), 404, NO_IMAGE);
    assert_eq!(fs.listed().len(), 0);
    crate::hostile::assert_no_blobs(&service);
    assert_text(&fs.call("DELETE", &format!("/{ZERO_ID}")), "delete success");
}

/// The old service's background work wrote the row again.
#[test]
fn a_delete_ends_the_work_on_the_image() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(noisy) = fixtures::noisy(service.scratch(), 64) else { return };
    let id = fs.upload_id("noise.qcow2", &noisy);
    assert_text(&fs.slim(&id), STARTED);
    assert_text(&fs.call("DELETE", &format!("/{id}")), "delete success");
    assert_eq!(fs.call("GET", &format!("/{id}")).status, 404);
    crate::hostile::assert_no_blobs(&service);
    crate::hostile::assert_nothing_staged(&service);
    assert_eq!((fs.listed().len(), fs.call("GET", &format!("/{id}")).status), (0, 404));
}

/// What is withheld is withheld in every form.
#[tokio::test]
async fn a_disabled_image_is_not_handed_out_slim_either() {
    use imageops::v1::{Image, UpdateImageRequest};
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    assert_text(&fs.slim(&id), STARTED);
    assert_eq!(fs.slimmed(&id)["slimStatus"], 2);
    let disabled = Image { name: format!("images/{id}"), disabled: true, ..Image::default() };
    let change = UpdateImageRequest { image: Some(disabled), update_mask: None };
    service.client().update_image(change).await.unwrap();
    for tail in ["", "?isZip=true"] {
        assert_refused(&fs.download(&id, tail, &[]), 404, NO_IMAGE);
    }
    assert_eq!(fs.record(&id)["slimStatus"], 2, "it is a row all the same");
}

/// What cannot begin is told by the image as well: clients look there.
#[test]
fn a_slim_that_cannot_begin_is_a_failed_one() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &fixtures::corrupt(&good));
    let checked = fs.checked(&id);
    assert_eq!(checked["checkStatusResponse"]["status"], 1, "{checked}");
    for _ in 0..2 {
        assert_text(&fs.slim(&id), NOT_BEGUN);
        let record = fs.record(&id);
        assert_eq!(record["slimStatus"], 3);
        assert_eq!(record["checkStatusResponse"], checked["checkStatusResponse"]);
    }
    // No room in the quota, and then some.
    let id = fs.upload_id("disk.qcow2", &good);
    fs.checked(&id);
    let usage = http::get(fs.0, "/v1/usage").json();
    let quota = |bytes_max: &str| {
        let (path, headers) = (
            format!("/v1/quotas/{}", usage["tenant"].as_str().unwrap()),
            [("content-type", "application/json")],
        );
        let body = json!({"bytesMax": bytes_max}).to_string();
        assert_eq!(http::request(fs.0, "PUT", &path, &headers, body.as_bytes()).status, 200);
    };
    quota(usage["bytes"].as_str().unwrap());
    assert_text(&fs.slim(&id), NOT_BEGUN);
    assert_eq!(fs.record(&id)["slimStatus"], 3);
    quota("1000000000");
    assert_text(&fs.slim(&id), STARTED);
    assert_eq!(fs.slimmed(&id)["slimStatus"], 2);
}

/// To this face a companion's id is nobody's: deleting it is answered as that, and deletes nothing.
#[test]
fn the_id_of_a_companion_is_unknown() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    assert_text(&fs.slim(&id), STARTED);
    assert_eq!(fs.slimmed(&id)["slimStatus"], 2);
    let slim = fs.download(&id, "", &[]).body;
    let listed = http::get(fs.0, "/v1/images?slim_companions=true").json();
    let companion = listed["images"][0]["name"].as_str().unwrap().trim_start_matches("images/").to_owned();
    let literal = format!("there is no record in database with imageId: {companion}");
    for _ in 0..2 {
        assert_text(&fs.call("DELETE", &format!("/{companion}")), "delete success");
        assert_refused(&fs.call("GET", &format!("/{companion}")), 404, &literal);
        assert_refused(&fs.slim(&companion), 404, NO_IMAGE);
        assert_refused(&fs.download(&companion, "", &[]), 404, NO_IMAGE);
    }
    assert_eq!(fs.record(&id)["slimStatus"], 2);
    fs.assert_bytes(&id, &slim);
}

/// The original is sound: it is handed out and told of, until a slim has been made anew.
#[test]
fn a_companion_that_was_damaged_gives_way_to_its_image() {
    use std::os::unix::fs::FileExt as _;
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    let before = fs.checked(&id);
    assert_text(&fs.slim(&id), STARTED);
    let after = fs.slimmed(&id);
    let slim = fs.download(&id, "", &[]).body;
    assert_ne!(slim, good);
    let blobs = service.data_dir().join("store/blobs");
    let stored = service.blobs().into_iter().map(|name| blobs.join(name));
    let blob = stored.into_iter().find(|path| std::fs::read(path).unwrap() == slim).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(blob).unwrap();
    file.write_all_at(b"rotten", slim.len() as u64 / 2).unwrap();
    let scrub = http::request(fs.0, "POST", "/v1/stores/default:scrub", &[], &[]);
    let job = http::get(fs.0, &format!("{}?wait=60s", scrub.header("location").unwrap())).json();
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job}");

    let record = fs.record(&id);
    assert_eq!(record["slimStatus"], 3);
    assert_eq!(record["checkStatusResponse"], before["checkStatusResponse"]);
    fs.assert_bytes(&id, &good);
    assert_eq!(fs.download(&id, "?isZip=true", &[]).status, 200);
    let listed = &fs.listed()[0];
    assert_eq!((&listed["slimStatus"], &listed["compressInfo"]["compressStatus"]), (&json!(3), &json!(2)));
    let checksum = &before["checkStatusResponse"]["checkInfo"]["checksum"];
    assert_eq!(&listed["checkStatusResponse"]["checkInfo"]["checksum"], checksum);

    assert_text(&fs.slim(&id), STARTED);
    let again = fs.slimmed(&id);
    assert_eq!(
        (&again["slimStatus"], &again["checkStatusResponse"]),
        (&json!(2), &after["checkStatusResponse"])
    );
    fs.assert_bytes(&id, &slim);
}

#[test]
fn row_64_texts_of_life_and_wrong_methods() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    assert_text(&fs.call("GET", "/upload"), "Upload get request received.");
    assert_text(&fs.call("GET", "/merge"), "Merge get request received.");
    for (method, path) in [("PUT", "/merge".to_owned()), ("GET", format!("/{ZERO_ID}/action/slim"))] {
        let answer = fs.call(method, &path);
        assert_eq!((answer.status, answer.text()), (405, "Method Not Allowed\n"));
    }
}
