//! SEC-54: who changed what and who was refused stands in a file of its own, without secrets.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use imageops::v1::{
    CheckRequest, CompressRequest, CreateKeyRequest, DownloadImageRequest, KeyScope, ListJobsRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use support::http::request;
use support::jobs::image;
use support::status::eventually;
use support::upload::upload;
use support::{Service, binary};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// The lines, once one is there that is looked for.
async fn lines_with(path: &Path, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    eventually("a line of the audit log", || async {
        let lines = lines(path);
        lines.iter().any(&wanted).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn sec_54_changes_and_refusals_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let log = path.to_str().unwrap();
    let service = Service::start_with(&["--auth", "token", "--audit-log", log]);
    let made = Command::new(binary("imageops-server"))
        .arg("--data-dir")
        .arg(service.data_dir())
        .args(["key", "create", "--scopes", "admin"])
        .output()
        .unwrap();
    let secret = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let admin = service.client_with_key(&secret);
    let wanted = CreateKeyRequest {
        tenant: "t".to_owned(),
        scopes: vec![KeyScope::Read.into(), KeyScope::Write.into()],
        ..CreateKeyRequest::default()
    };
    let key = admin.create_key(wanted).await.unwrap();
    let name = key.key.unwrap().name;
    let client = service.client_with_key(&key.secret);
    let bytes = [1; 5000];
    let stored = upload(&client, &bytes).await;
    let job = client.check(CheckRequest { source: image(&stored.name), ..Default::default() }).await.unwrap();
    client.list_jobs(ListJobsRequest::default()).await.unwrap();
    let download = DownloadImageRequest { image: stored.name.clone(), ..Default::default() };
    client.stub().download_image(download).await.unwrap();
    client.delete_image(&stored.name, "").await.unwrap_err();
    let bearer = format!("Bearer {}", key.secret);
    let wrong = format!("Bearer {}x", key.secret);
    let of_rest = |path: &str, key: &str| {
        let headers = [("authorization", key), ("x-request-id", "of-a-test"), ("imageops-peer", "1.2.3.4:5")];
        request(service.http(), "POST", path, &headers, &[]).status
    };
    let cancel = format!("/v1/{}:cancel", job.name);
    let part = request(
        service.http(),
        "GET",
        &format!("/v1/{}/content", stored.name),
        &[("authorization", &bearer), ("range", "bytes=-2000")],
        &[],
    );
    assert_eq!((part.status, part.body.len()), (206, 2000));
    assert_eq!(of_rest(&cancel, &wrong), 401);
    of_rest(&cancel, &bearer);

    let lines = lines_with(&path, |line| line["method"] == "ImageOps/CancelJob" && line["key"] == name).await;
    let of = |method: &str| {
        let found: Vec<_> = lines.iter().filter(|line| line["method"] == method).collect();
        assert!(!found.is_empty(), "{method}: {lines:#?}");
        found
    };
    assert!(!lines.iter().any(|line| line["method"] == "ImageOps/ListJobs"), "reading is not recorded");
    let created = of("Keys/CreateKey")[0];
    assert_eq!(
        (&created["outcome"], &created["subject"], &created["result"]),
        (&"OK".into(), &"t".into(), &name.clone().into())
    );
    let uploaded = of("ImageOps/UploadImage")[0];
    assert_eq!((&uploaded["tenant"], &uploaded["key"]), (&"t".into(), &name.clone().into()));
    assert_eq!(uploaded["result"], stored.name);
    assert_eq!(uploaded["sha256"], hex::encode(Sha256::digest(bytes)));
    assert!(uploaded["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{uploaded}");
    assert!(uploaded["time"].as_str().unwrap().ends_with('Z'), "{uploaded}");
    let checked = of("ImageOps/Check")[0];
    assert_eq!(
        (&checked["subject"], &checked["result"]),
        (&stored.name.clone().into(), &job.name.clone().into())
    );
    // One over gRPC, and one for the part.
    assert_eq!(of("ImageOps/DownloadImage").len(), 2);
    let downloaded = of("ImageOps/DownloadImage")[0];
    assert_eq!(
        (&downloaded["subject"], &downloaded["sha256"]),
        (&stored.name.clone().into(), &uploaded["sha256"])
    );
    let refused = of("Images/DeleteImage")[0];
    assert_eq!(
        (&refused["outcome"], &refused["reason"]),
        (&"PERMISSION_DENIED".into(), &"SCOPE_MISSING".into())
    );
    assert_eq!((&refused["key"], &refused["subject"]), (&name.clone().into(), &stored.name.clone().into()));
    let cancelled = of("ImageOps/CancelJob");
    assert_eq!(cancelled.len(), 2);
    let unknown = cancelled[0];
    assert_eq!((&unknown["outcome"], &unknown["key"]), (&"UNAUTHENTICATED".into(), &Value::Null));
    for line in &cancelled {
        assert_eq!(line["request_id"], "of-a-test");
        assert!(line["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }

    // The end of a job is no call, and the job's row does not stay for ever.
    let lines = lines_with(&path, |line| line["method"] == "Job/Check").await;
    let ended = lines.iter().find(|line| line["method"] == "Job/Check").unwrap();
    assert_eq!((&ended["tenant"], &ended["subject"]), (&"t".into(), &job.name.clone().into()));

    // Nor is a command at the catalogue.
    let revoked = Command::new(binary("imageops-server"))
        .arg("--data-dir")
        .arg(service.data_dir())
        .args(["--audit-log", log, "key", "revoke", &name])
        .output()
        .unwrap();
    assert!(revoked.status.success(), "{revoked:?}");
    lines_with(&path, |line| line["method"] == "Command/RevokeKey" && line["subject"] == name).await;

    // Renamed away, and begun anew at SIGHUP.
    let old = directory.path().join("audit.log.1");
    fs::rename(&path, &old).unwrap();
    kill_process(Pid::from_raw(service.id().cast_signed()).unwrap(), Signal::HUP).unwrap();
    eventually("the new file", || async { path.exists().then_some(()) }).await;
    admin.revoke_key(&name).await.unwrap();
    lines_with(&path, |line| line["method"] == "Keys/RevokeKey" && line["subject"] == name).await;
    let text = fs::read_to_string(&old).unwrap() + &fs::read_to_string(&path).unwrap();
    for secret in [&secret, &key.secret] {
        assert!(!text.contains(&secret[4..20]), "a secret is in the audit log");
    }
    assert!(!service.output().contains("CreateKey"), "told twice");
}

#[tokio::test]
async fn without_a_file_the_log_tells() {
    // Which is not silenced with the rest.
    let service = Service::start_with(&["--log", "warn"]);
    let client = service.client();
    let refused = client.check(CheckRequest { source: image("images/none"), ..Default::default() }).await;
    refused.unwrap_err();
    eventually("a line of the log", || async {
        let output = service.output();
        let line = output.lines().find(|line| line.contains("audit: "))?.to_owned();
        (line.contains("ImageOps/Check") && line.contains("images/none")).then_some(())
    })
    .await;
}

/// Who imported which bytes shows from the end of the job.
#[tokio::test]
async fn sec_54_what_a_job_made_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let service = Service::start_with(&["--audit-log", path.to_str().unwrap()]);
    let client = service.client();
    let stored = upload(&client, &vec![7; 1 << 20]).await;
    let request = CompressRequest { source: image(&stored.name), ..Default::default() };
    let job = client.compress(request).await.unwrap();
    let lines = lines_with(&path, |line| line["method"] == "Job/Compress").await;
    let line = lines.iter().find(|line| line["method"] == "Job/Compress").unwrap();
    let made = client.get_image(line["result"].as_str().unwrap()).await.unwrap();
    assert_eq!((&line["outcome"], &line["subject"]), (&"OK".into(), &job.name.into()));
    assert_eq!(line["sha256"], made.digests.unwrap().sha256);
}

/// Which bytes are gone for good, and whether somebody or the time took them.
#[tokio::test]
async fn sec_54_what_is_gone_for_good_is_told() {
    let directory = tempfile::tempdir().unwrap();
    // Where nothing stays in the trash, a sweep may be sooner than whoever purges.
    for (days, method, bytes) in [("3", "Images/PurgeImage", [3; 5000]), ("0", "Sweep/PurgeImage", [4; 5000])]
    {
        let path = directory.path().join(format!("audit-{days}.log"));
        let mut service = Service::start_with(&["--audit-log", path.to_str().unwrap(), "--trash-days", days]);
        let client = service.client();
        let image = upload(&client, &bytes).await;
        client.delete_image(&image.name, "").await.unwrap();
        if days == "0" {
            // Each start begins with a sweep.
            service.restart();
        } else {
            let purge = format!("/v1/{}:purge", image.name);
            assert_eq!(request(service.http(), "POST", &purge, &[], &[]).status, 204);
        }

        let lines = lines_with(&path, |line| line["method"] == method).await;
        let [line] = lines.iter().filter(|line| line["method"] == method).collect::<Vec<_>>()[..] else {
            panic!("expected one line of {method}: {lines:#?}");
        };
        assert_eq!((&line["outcome"], &line["subject"]), (&"OK".into(), &image.name.into()), "{line}");
        assert_eq!(line["sha256"], hex::encode(Sha256::digest(bytes)), "{line}");
    }
}
