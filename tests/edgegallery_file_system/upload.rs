//! Rows 28 to 37: images that come in one request.

use serde_json::{Value, json};

use crate::support::Service;
use crate::support::file_system::{FileSystem, Part, assert_refused, id_of};
use crate::support::fixtures;

const BAD_NAME: &str = "File shouldn't contains any extension or filename is larger than max size";
const NOT_UPLOADED: &str = "fail to upload package";
const NO_ZIP: &str = "Failed to decompress zip file";

/// `YYYY-MM-DD HH:MM:SS`.
fn is_time(text: &str) -> bool {
    let pattern = "dddd-dd-dd dd:dd:dd";
    let fits = |(byte, wanted): (u8, u8)| if wanted == b'd' { byte.is_ascii_digit() } else { byte == wanted };
    text.len() == pattern.len() && text.bytes().zip(pattern.bytes()).all(fits)
}

/// Asserts that an answer to an upload or a merge is what the service says of a new image.
#[track_caller]
pub fn assert_uploaded(answer: &Value, service: &Service, name: &str) {
    assert!(is_time(answer["uploadTime"].as_str().unwrap()), "{answer}");
    let want = json!({
        "checkStatus": 0,
        "fileName": name,
        "imageId": id_of(answer),
        "msg": "Check In Progress",
        "slimStatus": 0,
        "storageMedium": format!("{}/", service.image_path().display()),
        "uploadTime": answer["uploadTime"],
        "userId": "u1",
    });
    assert_eq!(*answer, want);
}

#[test]
fn row_28_an_upload_tells_of_the_image_and_of_the_check_that_began() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let answer = fs.try_upload("disk.qcow2", &good);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    assert_uploaded(&answer.json(), &service, "disk.qcow2");
    // The slash at the end changes nothing; neither does a whole path in front of the name.
    let parts = [Part::Text("userId", "u1"), Part::File("file", "C:\\images\\disk.qcow2", &good)];
    assert_uploaded(&fs.send("POST", "/", &parts).json(), &service, "disk.qcow2");
}

#[test]
fn row_29_the_file_may_stand_before_and_behind_the_fields() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 29");
    let (file, user) = (Part::File("file", "disk.img", &data), Part::Text("userId", "u29"));
    for parts in [[file, user], [user, file]] {
        let answer = fs.send("POST", "", &parts).json();
        assert_eq!(answer["userId"], "u29");
        assert_eq!(fs.record(&id_of(&answer))["userId"], "u29");
    }
    // The query wins, and an empty value in it does not.
    assert_eq!(fs.send("POST", "?userId=q", &[file, user]).json()["userId"], "q");
    assert_eq!(fs.send("POST", "?userId=", &[file, user]).json()["userId"], "u29");
    assert_eq!(fs.send("POST", "", &[file]).json()["userId"], "");
}

#[test]
fn row_30_an_upload_needs_a_file() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    for parts in [&[Part::Text("userId", "u1")][..], &[Part::Text("file", "disk.qcow2")], &[]] {
        assert_refused(&fs.send("POST", "", parts), 400, "Upload package file error");
    }
    assert_eq!(fs.listed(), [json!(null); 0]);
}

#[test]
fn row_31_names_need_one_of_four_extensions() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    for name in ["disk.vmdk", "disk", "disk.QCOW2"] {
        assert_refused(&fs.try_upload(name, &fixtures::raw("row 31")), 400, BAD_NAME);
    }
    assert_eq!((fs.listed(), service.staged()), (vec![], vec![]));
}

#[test]
fn row_32_names_have_at_most_128_bytes() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let name = |bytes: usize| format!("{}.img", "n".repeat(bytes - 4));
    let data = fixtures::raw("row 32");
    assert_eq!(fs.upload(&name(128), &data)["fileName"], name(128));
    assert_refused(&fs.try_upload(&name(129), &data), 400, BAD_NAME);
}

#[test]
fn row_33_the_cloud_stores_were_never_built() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 33");
    let file = Part::File("file", "disk.img", &data);
    for priority in ["A", "B"] {
        let priority = Part::Text("priority", priority);
        for parts in [[file, priority], [priority, file]] {
            assert_refused(&fs.send("POST", "", &parts), 500, NOT_UPLOADED);
        }
    }
    assert_eq!(fs.listed(), [json!(null); 0]);
    // Bytes that came before the refusal are given up.
    crate::hostile::assert_nothing_staged(&service);
    for priority in ["0", "", "a", "C"] {
        assert_eq!(fs.send("POST", "", &[file, Part::Text("priority", priority)]).status, 200);
    }
}

#[test]
fn rows_34_and_35_a_zip_is_unwrapped() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    for entries in [
        &[("pack/", &b""[..]), ("pack/disk.qcow2", &good)][..],
        &[("disk.qcow2", &good)],
        &[("__MACOSX/pack/._disk.qcow2", b"x"), ("readme.txt", b"text"), ("a/b/c/disk.qcow2", &good)],
    ] {
        let Some(zip) = fixtures::zip(service.scratch(), entries) else { return };
        let answer = fs.upload("pack.zip", &zip);
        assert_uploaded(&answer, &service, "disk.qcow2");
        fs.assert_bytes(&id_of(&answer), &good);
        assert_eq!(fs.checked(&id_of(&answer))["checkStatusResponse"]["status"], 0);
    }
    assert_eq!(service.blobs().iter().filter(|name| name.ends_with(".zip")).count(), 0);
}

#[test]
fn row_36_what_is_no_zip_leaves_nothing() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    assert_refused(&fs.try_upload("x.zip", &b"this is no zip file\n".repeat(9)), 500, NO_ZIP);
    let good = fixtures::raw("row 36");
    let Some(zip) = fixtures::zip(service.scratch(), &[("d/readme.txt", b"text")]) else { return };
    assert_refused(&fs.try_upload("x.zip", &zip), 500, NO_ZIP);
    let zip = fixtures::zip(service.scratch(), &[("d/disk.img", &good)]).unwrap();
    assert_refused(&fs.try_upload("x.zip", &zip[..zip.len() - 30]), 500, NO_ZIP);
    let mut damaged = zip;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    assert_refused(&fs.try_upload("x.zip", &damaged), 500, NO_ZIP);
    assert_eq!((fs.listed(), service.blobs()), (vec![], vec![]));
    crate::hostile::assert_nothing_staged(&service);
}

#[test]
fn row_37_a_file_named_zip_erases_nothing() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let data = fixtures::raw("row 37");
    let earlier = fs.upload_id("keep.img", &data);
    let Some(zip) = fixtures::zip(service.scratch(), &[("d/disk.img", &data)]) else { return };
    for name in [".zip", "..zip", ".img", "x/.zip"] {
        assert_refused(&fs.try_upload(name, &zip), 400, BAD_NAME);
    }
    fs.assert_bytes(&earlier, &data);
}

/// The extension declares nothing: what the bytes are decides.
#[test]
fn unsafe_and_broken_images_are_refused_and_corrupt_ones_kept_from_readers() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let junk = [b"QFI\xfb".as_slice(), &b"this is only text and no image at all. ".repeat(40)].concat();
    assert_refused(&fs.try_upload("disk.img", &junk), 500, NOT_UPLOADED);
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let mut backed = good.clone();
    // Offset and length of a name of another file, at the end of the first cluster.
    backed[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0xf0, 0, 0, 0, 0, 11]);
    backed[0xf000..0xf00b].copy_from_slice(b"/etc/passwd");
    assert_refused(&fs.try_upload("disk.qcow2", &backed), 500, NOT_UPLOADED);
    assert_eq!(fs.listed(), [json!(null); 0]);

    let id = fs.upload_id("disk.qcow2", &fixtures::corrupt(&good));
    let record = fs.checked(&id);
    let check = &record["checkStatusResponse"];
    assert_eq!((&check["status"], &check["msg"]), (&json!(1), &json!("Check completed, image is corrupted")));
    assert_eq!(check["checkInfo"]["checkResult"], 2);
    assert_refused(&fs.download(&id, "", &[]), 404, "file path doesn't exist");
    assert_refused(&fs.download(&id, "?isZip=true", &[]), 404, "file path doesn't exist");
    assert_eq!(fs.listed().len(), 1);

    let id = fs.upload_id("disk.qcow2", &fixtures::leaky(&good));
    assert_eq!(fs.checked(&id)["checkStatusResponse"]["status"], 2);
    fs.assert_bytes(&id, &fixtures::leaky(&good));
}
