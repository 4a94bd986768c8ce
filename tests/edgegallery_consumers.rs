//! The programs of EdgeGallery that call the two legacy services, each as strict as it is: what they send, in their order,
//! and what they do with the answers.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use support::file_system::{BASE, FileSystem, Part};
use support::http;
use support::images::have;
use support::upload::digests;
use support::{DEADLINE, Service, fixtures};

/// Runs curl; the body of the answer and its status.
fn curl(arguments: &[&str]) -> (u16, Vec<u8>) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "%{http_code}"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (body, status) = output.stdout.split_at(output.stdout.len() - 3);
    (std::str::from_utf8(status).unwrap().parse().unwrap(), body.to_vec())
}

/// Polls until there is a value.
#[track_caller]
fn poll<T>(ask: impl Fn() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `developer-be` maps a query onto: its mapper fails on any member that is not here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ImageInfo {
    image_id: String,
    file_name: String,
    user_id: String,
    storage_medium: String,
    upload_time: String,
    slim_status: i32,
    check_status_response: CheckStatus,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CheckStatus {
    status: i32,
    msg: String,
    check_info: CheckInfo,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CheckInfo {
    checksum: String,
    check_result: i32,
    image_info: Checked,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checked {
    #[serde(rename = "image-end-offset")]
    image_end_offset: String,
    #[serde(rename = "check-errors")]
    check_errors: String,
    format: String,
    filename: String,
}

impl ImageInfo {
    #[track_caller]
    fn read(fs: &FileSystem, id: &str) -> Self {
        let answer = fs.call("GET", &format!("/{id}"));
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
    }
}

/// Chunks with the file first, cancel as a form on DELETE, merge, a query every few seconds until there is a checksum,
/// slim by its status alone, the zip, delete; anything but exactly 200 ends the flow.
#[test]
fn developer_be() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let session = format!("{}-focal-server-cloudimg-amd64img", good.len());
    let chunk = |number: u32, data| {
        let name = format!("{number}.part");
        let form = [
            Part::File("part", &name, data),
            Part::Text("priority", "0"),
            Part::Text("identifier", &session),
        ];
        assert_eq!(fs.send("POST", "/upload", &form).status, 200);
    };
    // The user begins, thinks better of it, and begins again.
    chunk(1, &good[..1000]);
    let cancel = [Part::Text("priority", "0"), Part::Text("identifier", &session)];
    assert_eq!(fs.send("DELETE", "/upload", &cancel).status, 200);
    for (number, data) in (1..).zip(good.chunks(300_000)) {
        chunk(number, data);
    }
    let merge = [
        Part::Text("userId", "39937079-99fe-4cd8-881f-04ca8c4fe09d"),
        Part::Text("priority", "0"),
        Part::Text("filename", "focal-server-cloudimg-amd64.img"),
        Part::Text("identifier", &session),
    ];
    let merged = fs.send("POST", "/merge", &merge);
    assert_eq!(merged.status, 200, "{}", merged.text());
    let id = merged.json().as_object().unwrap()["imageId"].as_str().unwrap().to_owned();

    let info = poll(|| {
        let info = ImageInfo::read(&fs, &id);
        if info.check_status_response.check_info.checksum.is_empty() {
            assert_eq!(info.check_status_response.status, 4, "{info:?}");
            return None;
        }
        Some(info)
    });
    let check = &info.check_status_response;
    assert_eq!((check.status, check.check_info.check_result), (0, 0), "{}", check.msg);
    assert_eq!(check.check_info.checksum, digests(&good).md5);
    let found = &check.check_info.image_info;
    // Java's Long.parseLong: an empty text throws.
    assert!(found.image_end_offset.parse::<i64>().unwrap() > 0);
    assert_eq!((found.format.as_str(), found.check_errors.as_str()), ("qcow2", "0"));
    assert_eq!(info.file_name, "focal-server-cloudimg-amd64.img");
    assert_eq!(info.user_id, "39937079-99fe-4cd8-881f-04ca8c4fe09d");
    assert!(info.storage_medium.ends_with('/') && info.upload_time.len() == 19);
    assert_eq!(found.filename, format!("{}{}", info.image_id, info.file_name));

    assert_eq!(fs.slim(&id).status, 200);
    let slim = poll(|| {
        let info = ImageInfo::read(&fs, &id);
        // Anything but 1 or 2 is taken for a failure.
        assert!([1, 2].contains(&info.slim_status), "{info:?}");
        (info.slim_status == 2).then_some(info)
    });
    let slim = slim.check_status_response.check_info;
    assert!(slim.image_info.image_end_offset.parse::<i64>().is_ok());
    let downloaded = fs.download(&id, "?isZip=true", &[]);
    assert_eq!(downloaded.status, 200);
    if have("python3") {
        let entries = fixtures::unzip(service.scratch(), &downloaded.body);
        let folder = "focal-server-cloudimg-amd64";
        assert_eq!(entries[0].0, format!("{folder}/{folder}.img"));
        assert_eq!(digests(&entries[0].2).md5, slim.checksum);
    }
    assert_eq!(fs.call("DELETE", &format!("/{id}")).status, 200);
    assert_eq!(fs.call("GET", &format!("/{id}")).status, 404);
}

/// Compresses in the directory of a host, polls, reads the output from the shared volume, and uploads it with the file in
/// front. It parses each body as JSON before it looks at the status.
#[test]
fn mecm_applcm() {
    let service = Service::start();
    let Some(good) = fixtures::good(service.scratch()) else { return };
    if !have("curl") {
        return;
    }
    let directory = service.image_path().join("10.0.0.7");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("vm.qcow2"), &good).unwrap();
    let base = format!("http://{}", service.http());
    let request =
        r#"{"inputImageName":"10.0.0.7/vm.qcow2","outputImageName":"10.0.0.7/compressed-vm.qcow2"}"#;
    let compress = format!("{base}/api/v1/vmimage/compress");
    let (status, body) = curl(&["-H", "Content-Type: application/json", "-d", request, &compress]);
    let started: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, started["status"].as_i64()), (200, Some(0)));
    let poll_url = format!("{compress}/{}", started["requestId"].as_str().unwrap());
    poll(|| {
        let (status, body) = curl(&[&poll_url]);
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 200);
        let rate = answer["rate"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&rate) && answer["msg"].is_string(), "{answer}");
        assert!([0, 1].contains(&answer["status"].as_i64().unwrap()), "{answer}");
        (answer["status"] == 0).then_some(())
    });
    let output = directory.join("compressed-vm.qcow2");
    let file = format!("file=@{}", output.display());
    let images = format!("{base}{BASE}");
    let (status, body) = curl(&["-F", &file, "-F", "priority=0", "-F", "userId=admin", &images]);
    let uploaded: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &uploaded["userId"]), (200, &"admin".into()));
    let id = uploaded["imageId"].as_str().unwrap();
    FileSystem(service.http()).assert_bytes(id, &std::fs::read(&output).unwrap());
    // A refusal parses as JSON too.
    let (status, body) = curl(&["-F", "file=@/dev/null;filename=vm.exe", &images]);
    assert_eq!(status, 400);
    serde_json::from_slice::<String>(&body).unwrap();
}

/// Uploads zips, writes the address of the download into packages, and derives others from it by cutting its end.
#[test]
fn appstore_be() {
    const SUFFIX: &str = "/action/download";
    let service = Service::start();
    let Some(good) = fixtures::good(service.scratch()) else { return };
    let Some(zip) = fixtures::zip(service.scratch(), &[("vm/", b""), ("vm/disk.qcow2", &good)]) else {
        return;
    };
    if !have("curl") {
        return;
    }
    let path = service.scratch().join("vm.zip");
    std::fs::write(&path, zip).unwrap();
    let images = format!("http://{}{BASE}", service.http());
    let file = format!("file=@{}", path.display());
    // curl asks first, with a body over 1 MiB.
    let (status, body) = curl(&["-F", &file, "-F", "userId=store", "-F", "priority=0", &images]);
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let uploaded: Value = serde_json::from_slice(&body).unwrap();
    let download = format!("{images}/{}{SUFFIX}", uploaded["imageId"].as_str().unwrap());
    let target = service.scratch().join("downloaded");
    let saved = Command::new("curl").args(["--silent", "-o"]).arg(&target).arg(&download).status().unwrap();
    assert!(saved.success() && std::fs::read(&target).unwrap() == good);
    let query = &download[..download.len() - 16];
    let (status, body) = curl(&[query]);
    let record: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &record["fileName"]), (200, &"disk.qcow2".into()));
    // The name that the server gives is the one that curl writes.
    assert_saves_as(&download, service.scratch(), "disk.qcow2", &good);
}

#[track_caller]
fn assert_saves_as(url: &str, scratch: &Path, name: &str, data: &[u8]) {
    let directory = scratch.join("saved");
    std::fs::create_dir_all(&directory).unwrap();
    let status =
        Command::new("curl").args(["--silent", "-OJ", url]).current_dir(&directory).status().unwrap();
    assert!(status.success() && std::fs::read(directory.join(name)).unwrap() == data);
}

/// Passes the text of the list through, whatever it is, as long as it is 200.
#[test]
fn mecm_north() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    assert_eq!(fs.call("GET", "").text(), "[]");
    let id = fs.upload_id("disk.img", &fixtures::raw("north"));
    let list = fs.call("GET", "/");
    assert_eq!(list.status, 200);
    assert_eq!(list.header("content-type"), Some("application/json; charset=utf-8"));
    assert!(list.text().contains(&id), "{}", list.text());
}

/// Pipe the socket into Glance without looking at a `Content-Encoding`: there must be none, whatever they ask for.
#[test]
fn openstack_importers() {
    let service = Service::start();
    let fs = FileSystem(service.http());
    let zeros = vec![0; 1 << 20];
    let id = fs.upload_id("disk.img", &zeros);
    let answer = fs.download(&id, "", &[("accept-encoding", "gzip, deflate, br, zstd")]);
    assert_eq!((answer.status, answer.header("content-encoding")), (200, None));
    assert!(answer.body == zeros);
}

/// The Go file-system service, kept in front of ours, decodes checks into fixed types and drops the poll on a mismatch.
#[test]
fn the_go_file_system_service() {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Check {
        status: i64,
        msg: String,
        check_info: Info,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Info {
        check_result: i64,
        checksum: Option<String>,
        image_info: Option<Image>,
    }
    // Go reads absent and null members as empty; a number where it wants a text is an error.
    #[derive(Deserialize)]
    struct Image {
        format: Option<String>,
        filename: Option<String>,
        #[serde(rename = "image-end-offset")]
        image_end_offset: Option<String>,
        #[serde(rename = "check-errors")]
        check_errors: Option<String>,
        disk_size: Option<String>,
        virtual_size: Option<f64>,
    }
    let service = Service::start();
    let Some(good) = fixtures::good(service.scratch()) else { return };
    for (name, data, status, result) in [
        ("good.img", good.clone(), 0, 0),
        ("leak.img", fixtures::leaky(&good), 2, 3),
        ("raw.img", fixtures::raw("go"), 5, 63),
    ] {
        std::fs::write(service.image_path().join(name), &data).unwrap();
        let body = serde_json::json!({"inputImageName": name});
        let started = http::post_json(service.http(), "/api/v1/vmimage/check", &body).json();
        let path = format!("/api/v1/vmimage/check/{}", started["requestId"].as_str().unwrap());
        let check = poll(|| {
            let check: Check = serde_json::from_slice(&http::get(service.http(), &path).body).unwrap();
            (check.status != 4).then_some(check)
        });
        assert_eq!((check.status, check.check_info.check_result), (status, result), "{}", check.msg);
        assert_eq!(check.check_info.checksum.as_deref(), Some(&*digests(&data).md5));
        let image = check.check_info.image_info.unwrap();
        assert!(image.format.is_some() && image.disk_size.is_some() && image.virtual_size.is_some());
        let is_qcow2 = status != 5;
        assert_eq!(image.image_end_offset.is_some(), is_qcow2);
        assert_eq!((image.check_errors.is_some(), image.filename.is_some()), (is_qcow2, is_qcow2));
    }
}
