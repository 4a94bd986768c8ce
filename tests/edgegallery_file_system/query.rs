//! Rows 38 to 42: what is told of images.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::Service;
use crate::support::file_system::{FileSystem, Part, ZERO_ID, assert_refused, id_of};
use crate::support::fixtures;
use crate::support::upload::digests;

fn members(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn row_38_a_query_after_the_check() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let uploaded = fs.upload("disk.qcow2", &good);
    let id = id_of(&uploaded);
    let record = fs.checked(&id);
    let check = &record["checkStatusResponse"];
    assert_eq!(
        (&check["status"], &check["msg"]),
        (&json!(0), &json!("Check Completed, the image is (now) consistent"))
    );
    let info = &check["checkInfo"];
    assert_eq!((&info["checkResult"], &info["checksum"]), (&json!(0), &json!(digests(&good).md5)));
    let image = &info["imageInfo"];
    assert!(image["image-end-offset"].as_str().unwrap().parse::<u64>().is_ok(), "{image}");
    assert_eq!((&image["format"], &image["check-errors"]), (&json!("qcow2"), &json!("0")));
    assert_eq!(image["filename"], format!("{id}disk.qcow2"));
    for name in ["fileName", "imageId", "slimStatus", "storageMedium", "uploadTime", "userId"] {
        assert_eq!(record[name], uploaded[name], "{name}");
    }
}

#[test]
fn row_39_a_query_has_no_member_that_a_strict_client_does_not_know() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let id = fs.upload_id("disk.qcow2", &good);
    let seed = fs.checked(&id);
    let top =
        ["checkStatusResponse", "fileName", "imageId", "slimStatus", "storageMedium", "uploadTime", "userId"];
    assert_eq!(members(&seed), BTreeSet::from(top));
    let check = &seed["checkStatusResponse"];
    assert_eq!(members(check), BTreeSet::from(["checkInfo", "msg", "status"]));
    assert_eq!(members(&check["checkInfo"]), BTreeSet::from(["checkResult", "checksum", "imageInfo"]));
    let image = &check["checkInfo"]["imageInfo"];
    assert_eq!(members(image), BTreeSet::from(["check-errors", "filename", "format", "image-end-offset"]));

    let full = fs.call("GET", &format!("/{id}?view=full")).json();
    assert_eq!(full["compressInfo"], json!({"compressStatus": 0, "compressMsg": "", "compressRate": 0}));
    let image = &full["checkStatusResponse"]["checkInfo"]["imageInfo"];
    assert_eq!(image["virtual_size"], 0.062);
    assert!(image["disk_size"].as_str().unwrap().parse::<u64>().is_ok(), "{image}");

    let late = Service::start_with(&["--legacy-profile", "late"]);
    let fs = FileSystem(late.http());
    let id = fs.upload_id("disk.qcow2", &good);
    assert!(fs.record(&id).get("compressInfo").is_some());
}

#[test]
fn row_40_a_raw_image_has_a_length_too() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 40");
    let id = fs.upload_id("disk.img", &data);
    let record = fs.checked(&id);
    let check = &record["checkStatusResponse"];
    let message = "Check Exiting because of not support this type of image";
    assert_eq!((&check["status"], &check["msg"]), (&json!(5), &json!(message)));
    let want = json!({
        "checksum": digests(&data).md5,
        "checkResult": 63,
        "imageInfo": {
            "image-end-offset": "65536",
            "check-errors": "",
            "format": "raw",
            "filename": format!("{id}disk.img"),
        },
    });
    assert_eq!(check["checkInfo"], want);
}

#[test]
fn row_41_an_unknown_id() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    for path in [format!("/{ZERO_ID}"), format!("/{ZERO_ID}/")] {
        let literal = format!("there is no record in database with imageId: {ZERO_ID}");
        assert_refused(&fs.call("GET", &path), 404, &literal);
    }
}

#[test]
fn row_42_the_list_is_full_and_oldest_first() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    assert_eq!(fs.call("GET", "").text(), "[]");
    let ids: Vec<_> =
        (0..5).map(|index| fs.upload_id(&format!("{index}.img"), &fixtures::raw("row 42"))).collect();
    let listed = |query: &str| -> Vec<String> {
        let answer = fs.call("GET", query).json();
        answer.as_array().unwrap().iter().map(id_of).collect()
    };
    assert_eq!(listed(""), ids);
    assert_eq!(listed("/?limit=2"), ids[..2]);
    assert_eq!(listed("?limit=2&offset=3"), ids[3..]);
    assert_eq!(listed("?offset=5"), [""; 0]);
    assert_eq!(listed("?limit=none&offset=-1&colour=red"), ids);
    fs.checked(&ids[0]);
    let first = fs.listed()[0].clone();
    let all = [
        "checkStatusResponse",
        "compressInfo",
        "fileName",
        "imageId",
        "slimStatus",
        "storageMedium",
        "uploadTime",
        "userId",
    ];
    assert_eq!(members(&first), BTreeSet::from(all));
    assert_eq!(
        first["checkStatusResponse"]["checkInfo"]["imageInfo"]["filename"],
        format!("{}0.img", ids[0])
    );
}

/// Images of the other faces are rows too, but for those that are not there yet or not any more.
#[tokio::test]
async fn images_that_came_by_other_roads_are_listed_and_their_check_is_not_known() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let client = service.client();
    let image = crate::support::upload::upload(&client, b"by another road").await;
    let id = image.name.strip_prefix("images/").unwrap();
    let record = fs.record(id);
    assert_eq!((&record["fileName"], &record["userId"]), (&json!("a test"), &json!("")));
    assert_eq!(record["checkStatusResponse"]["status"], 4);
    assert_eq!(record["checkStatusResponse"]["checkInfo"]["checksum"], "");
    fs.assert_bytes(id, b"by another road");
    client.delete_image(&image.name, "").await.unwrap();
    assert_eq!(fs.listed(), [json!(null); 0]);
    assert_eq!(fs.call("GET", &format!("/{id}")).status, 404);
    assert_refused(&fs.download(id, "", &[]), 404, "file path doesn't exist");
    assert_refused(&fs.slim(id), 404, "file path doesn't exist");
}

#[test]
fn answers_survive_a_restart_to_the_byte() {
    let mut service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("restart");
    let user = Part::Text("userId", "\u{6620}\u{50cf} <u1>");
    let id = id_of(&fs.send("POST", "", &[Part::File("file", "\u{6620}\u{50cf}.img", &data), user]).json());
    fs.checked(&id);
    let before = (fs.call("GET", &format!("/{id}")).body, fs.call("GET", "").body);
    service.restart();
    let fs = FileSystem(service.http());
    assert_eq!((fs.call("GET", &format!("/{id}")).body, fs.call("GET", "").body), before);
    assert_eq!(fs.record(&id)["userId"], "\u{6620}\u{50cf} <u1>");
    fs.assert_bytes(&id, &data);
}
