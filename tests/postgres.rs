//! The service is the same with its catalogue in PostgreSQL.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::Command;

use imageops::v1::{CheckRequest, CompressRequest, JobState, ListImagesRequest, ListJobsRequest};

use support::images::{have, skip};
use support::jobs::{download, image};
use support::upload::upload;
use support::{Service, binary, wait_for};

/// Where a schema of its own is on the server to test with; else the skip has been noted.
fn database() -> Option<String> {
    let url = std::env::var("IMAGEOPS_TEST_POSTGRES").ok().filter(|url| !url.is_empty());
    let Some(url) = url else {
        skip("IMAGEOPS_TEST_POSTGRES is not set; cargo xtask test starts a server and sets it");
        return None;
    };
    if !have("psql") {
        return None;
    }
    let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
    let made = Command::new("psql").arg(&url).args(["-q", "-c", &format!("CREATE SCHEMA {schema}")]).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(format!("{url}&options[search_path]={schema}"))
}

#[tokio::test]
async fn everything_survives_a_kill() {
    let Some(url) = database() else { return };
    let mut service = Service::start_with(&["--catalogue-url", &url]);
    assert!(!service.data_dir().join("catalogue.sqlite").exists());
    let client = service.client();
    let bytes = vec![7; 1 << 20];
    let stored = upload(&client, &bytes).await;
    let check = CheckRequest { source: image(&stored.name), ..CheckRequest::default() };
    let job = client.check(check).await.unwrap();
    let checked = wait_for(&client, &job.name, JobState::Succeeded).await;
    let compress = CompressRequest { source: image(&stored.name), ..CompressRequest::default() };
    let job = client.compress(compress).await.unwrap();
    service.kill();
    service.restart();

    let client = service.client();
    assert_eq!(client.get_image(&stored.name).await.unwrap(), stored);
    assert!(download(&client, &stored.name).await == bytes);
    assert_eq!(client.get_job(&checked.name).await.unwrap(), checked);
    let compressed = wait_for(&client, &job.name, JobState::Succeeded).await;
    let Some(imageops::v1::job::Result::Compress(result)) = compressed.result else { panic!("no result") };
    let listed = client.list_images(ListImagesRequest::default()).await.unwrap().images;
    assert_eq!(
        listed.iter().map(|image| &image.name).collect::<Vec<_>>(),
        [&result.output_image, &stored.name]
    );
    assert_eq!(client.list_jobs(ListJobsRequest::default()).await.unwrap().jobs.len(), 2);
    client.delete_image(&stored.name, "").await.unwrap();
    client.purge_image(&stored.name, "").await.unwrap();
    assert_eq!(service.blobs().len(), 1);
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_one_clear_line() {
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(binary("imageops-server"))
        .arg("--data-dir")
        .arg(directory.path())
        .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
        .args(["--catalogue-url", "postgres://someone:hidden@127.0.0.1:1/imageops"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("--catalogue-url"), "{said}");
    assert!(!said.contains("hidden"), "{said}");
}
