//! The legacy session as its users have it: curl, a Debian image, check, poll, compress, poll.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use support::images::{have, image, qemu_img};
use support::upload::digests;
use support::{DEADLINE, Service};

const UUID: &str = "00000000-0000-4000-8000-000000000000";

/// Status and body, as curl gives them.
fn curl(service: &Service, path: &str, body: Option<&str>) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--write-out", "\n%{http_code}"]);
    if let Some(body) = body {
        command.args(["-X", "POST", "-H", "Content-Type: application/json", "-d", body]);
    }
    let url = format!("http://{}/api/v1/vmimage{path}", service.http());
    let output = command.arg(url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// Polls as the legacy clients do, until another status than `running`; status never goes back.
fn poll(service: &Service, path: &str, running: u64) -> (Value, String) {
    let begun = Instant::now();
    loop {
        let (status, text) = curl(service, path, None);
        assert_eq!(status, 200, "{text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        if answer["status"] != running {
            return (answer, text);
        }
        if let Some(rate) = answer.get("rate") {
            assert!(rate.as_f64().is_some_and(|rate| (0.0..1.0).contains(&rate)), "{text}");
        }
        assert!(begun.elapsed() < DEADLINE, "{text}");
    }
}

fn request_id(text: &str) -> String {
    let answer: Value = serde_json::from_str(text).unwrap();
    let id = answer["requestId"].as_str().unwrap().to_owned();
    assert!(uuid::Uuid::parse_str(&id).is_ok() && id.len() == 36 && id == id.to_lowercase(), "{id}");
    id
}

#[tokio::test]
async fn the_legacy_session_on_a_debian_image() {
    let Some(debian) = image("debian-ext4.qcow2") else { return };
    if !(have("curl") && have("qemu-img")) {
        return;
    }
    let mut service = Service::start();
    let source = service.place(&debian, "10.0.0.7/debian.img");
    let before = digests(&std::fs::read(&source).unwrap());

    let (status, text) = curl(&service, "/check", Some(r#"{"inputImageName":"10.0.0.7/debian.img"}"#));
    let check = request_id(&text);
    assert_eq!(status, 200);
    assert_eq!(text, format!("{{\"msg\":\"Check In Progress\",\"requestId\":\"{check}\",\"status\":0}}\n"));

    let (answer, checked) = poll(&service, &format!("/check/{check}"), 4);
    assert_eq!(answer["status"], 0);
    assert_eq!(answer["msg"], "Check Completed, the image is (now) consistent");
    assert_check_info(&answer["checkInfo"], &service, &before.md5, &debian);
    assert!(checked.ends_with("}\n") && !checked.contains(": "), "compact, with one line end");

    let body = r#"{"inputImageName":"10.0.0.7/debian.img","outputImageName":"10.0.0.7/slim.img"}"#;
    let (status, text) = curl(&service, "/compress", Some(body));
    let compress = request_id(&text);
    assert_eq!(status, 200);
    assert_eq!(
        text,
        format!("{{\"msg\":\"Compress In Progress\\n\",\"requestId\":\"{compress}\",\"status\":0}}\n")
    );
    let (_, compressed) = poll(&service, &format!("/compress/{compress}"), 1);
    assert_eq!(compressed, "{\"msg\":\"Compress Completed\",\"rate\":1,\"status\":0}\n");

    let slim = service.image_path().join("10.0.0.7/slim.img");
    assert!(slim.metadata().unwrap().len() < source.metadata().unwrap().len());
    assert_eq!(digests(&std::fs::read(&source).unwrap()), before, "the input is as it was");
    assert_sound(&slim, service.scratch());

    // Ids stay valid over a restart and over a kill, to the byte; each kind knows its own alone.
    for kill in [false, true] {
        if kill {
            service.kill();
        } else {
            service.terminate();
            assert!(service.wait().success());
        }
        service.restart();
        assert_eq!(curl(&service, &format!("/check/{check}"), None), (200, checked.clone()));
        assert_eq!(curl(&service, &format!("/compress/{compress}"), None), (200, compressed.clone()));
    }
    for id in [&compress, UUID] {
        let (status, text) = curl(&service, &format!("/check/{id}"), None);
        assert_eq!((status, text.trim_end()), (500, "Check failed, nonexistent request ID"));
    }
    for id in [&check, UUID] {
        let (status, text) = curl(&service, &format!("/compress/{id}"), None);
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &answer["status"], &answer["rate"]), (200, &2.into(), &0.into()));
        assert!(answer["msg"].as_str().unwrap().starts_with("Compress Failed"), "{text}");
    }
}

/// The members that a strictly typed client reads, with their types.
fn assert_check_info(info: &Value, service: &Service, md5: &str, image: &Path) {
    assert_eq!(info["checkResult"], 0);
    assert_eq!(info["checksum"], md5);
    let told = info["imageInfo"].as_object().unwrap();
    let output = qemu_img(["check", "--output", "json", image.to_str().unwrap()]);
    let peer: Value = serde_json::from_slice(&output.stdout).unwrap();
    for count in [
        "check-errors",
        "image-end-offset",
        "total-clusters",
        "allocated-clusters",
        "fragmented-clusters",
        "compressed-clusters",
    ] {
        let expected = peer[count].as_u64().map(|count| count.to_string());
        let found = told.get(count).map(|value| value.as_str().expect("counts are strings").to_owned());
        assert_eq!(found, expected, "{count}");
    }
    assert_eq!(told["format"], "qcow2");
    let name = format!("{}/10.0.0.7/debian.img", service.image_path().display());
    assert_eq!(told["filename"], name.as_str());
    assert!(told["virtual_size"].is_number() && told["disk_size"].is_string(), "{told:?}");
    assert!(!told.contains_key("corruptions") && !told.contains_key("leaks"));
}

/// The output is a sound qcow2 image, and so is the file system in it.
fn assert_sound(slim: &Path, scratch: &Path) {
    let check = qemu_img(["check", slim.to_str().unwrap()]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    let info = qemu_img(["info", "--output", "json", slim.to_str().unwrap()]);
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["format"], "qcow2");
    if !(have("e2fsck") && have("sfdisk")) {
        return;
    }
    let raw = scratch.join("slim.raw");
    let converted = qemu_img(["convert", "-O", "raw", slim.to_str().unwrap(), raw.to_str().unwrap()]);
    assert!(converted.status.success());
    let table = Command::new("sfdisk").args(["--json", raw.to_str().unwrap()]).output().unwrap();
    let table: Value = serde_json::from_slice(&table.stdout).unwrap();
    let mut checked = 0;
    for part in table["partitiontable"]["partitions"].as_array().unwrap() {
        let offset = part["start"].as_u64().unwrap() * 512;
        let bytes = std::fs::read(&raw).unwrap();
        let start = usize::try_from(offset).unwrap();
        // The magic of ext4 in its superblock.
        if bytes.get(start + 0x438..start + 0x43a) != Some(&[0x53, 0xef]) {
            continue;
        }
        let system = format!("{}?offset={offset}", raw.display());
        let fsck = Command::new("e2fsck").args(["-fn", &system]).output().unwrap();
        assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
        checked += 1;
    }
    assert!(checked > 0, "no file system was looked at");
}

#[tokio::test]
async fn each_kind_of_image_has_its_status() {
    let Some(images) = support::images::images() else { return };
    if !have("curl") {
        return;
    }
    let service = Service::start();
    for (name, status, result) in
        [("corrupt/refcount-zero.qcow2", 1, 2), ("corrupt/leak.qcow2", 2, 3), ("fs/ext2-1k.raw", 5, 63)]
    {
        service.place(&images.join(name), name);
        let (_, text) = curl(&service, "/check", Some(&format!(r#"{{"inputImageName":"{name}"}}"#)));
        let (answer, _) = poll(&service, &format!("/check/{}", request_id(&text)), 4);
        assert_eq!(
            (&answer["status"], &answer["checkInfo"]["checkResult"]),
            (&status.into(), &result.into())
        );
        let info = answer["checkInfo"]["imageInfo"].as_object().unwrap();
        if status == 5 {
            let members: Vec<_> = info.keys().map(String::as_str).collect();
            assert_eq!(members, ["disk_size", "format", "virtual_size"]);
            assert_eq!(info["format"], "raw");
        }
        assert_eq!(answer["checkInfo"]["checksum"].as_str().unwrap().len(), 32);
    }
    // An image that names another file is not compressed.
    service.place(&images.join("variants/backing-top.qcow2"), "backing.img");
    let body = r#"{"inputImageName":"backing.img","outputImageName":"out.img"}"#;
    let (_, text) = curl(&service, "/compress", Some(body));
    let (_, text) = poll(&service, &format!("/compress/{}", request_id(&text)), 1);
    assert_eq!(text, "{\"msg\":\"Compress Failed\",\"rate\":0,\"status\":2}\n");
    assert!(!service.image_path().join("out.img").exists());
}
