//! What `/metrics` says of a server moves with what is done to it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;

use imageops::v1::JobState;
use tonic::Code;

use support::http::get;
use support::status::{assert_status, eventually, reason};
use support::stores::{damage, scrub};
use support::upload::{Stream, metadata, name_of, try_upload, upload};
use support::{Service, fixtures, wait_for};

/// The value of a metric, with its labels if it has some. One that was never counted is not there.
fn metric(service: &Service, name: &str) -> Option<f64> {
    let answer = get(service.http(), "/metrics");
    assert_eq!(answer.status, 200);
    let value = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map(|value| value.parse().unwrap_or_else(|error| panic!("{name} is {value} ({error})")))
}

const ACKNOWLEDGED: &str = "imageops_uploads_acknowledged_total";

#[tokio::test]
async fn uploads_that_became_images_are_counted() {
    let service = Service::start();
    let client = service.client();
    assert_eq!(metric(&service, ACKNOWLEDGED), Some(0.0));
    for count in 1..=3 {
        upload(&client, &fixtures::raw(&format!("image {count}"))).await;
        assert_eq!(metric(&service, ACKNOWLEDGED), Some(f64::from(count)));
    }
    // What is open, given up or refused is none.
    let open = metadata("open");
    let stream = Stream::begin(&client, &open).await;
    stream.chunk(0, b"a beginning").await;
    stream.close().await.unwrap();
    client.abort_upload(&name_of(&open)).await.unwrap();
    assert_eq!(metric(&service, ACKNOWLEDGED), Some(3.0));
}

#[tokio::test]
async fn uploads_that_were_refused_are_counted_by_reason() {
    const TOO_MANY: &str = r#"imageops_rejected_total{reason="uploads"}"#;
    const TOO_LARGE: &str = r#"imageops_rejected_total{reason="TOO_LARGE"}"#;
    let service = Service::start_with(&["--uploads-max", "1", "--upload-max-bytes", "10000"]);
    let client = service.client();
    assert_eq!((metric(&service, TOO_MANY), metric(&service, TOO_LARGE)), (None, None));

    let open = metadata("held");
    let held = Stream::begin(&client, &open).await;
    eventually("an open upload", || async { client.get_upload(&name_of(&open)).await.ok() }).await;
    for count in 1..=2 {
        let refused = Stream::begin(&client, &metadata("one more")).await.answer().await.unwrap_err();
        assert_status(&refused, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metric(&service, TOO_MANY), Some(f64::from(count)));
    }
    held.close().await.unwrap();

    let refused = eventually("a place", || async {
        let refused = try_upload(&client, &metadata("too long"), &[7; 10_001]).await.unwrap_err();
        (reason(&refused) != "LIMIT_REACHED").then_some(refused)
    })
    .await;
    assert_eq!(reason(&refused), "TOO_LARGE", "{refused:?}");
    assert_eq!(metric(&service, TOO_LARGE), Some(1.0));
    assert_eq!(metric(&service, ACKNOWLEDGED), Some(0.0));
}

/// So many blobs without a row, and none with one, are not believed to be garbage: a start keeps and tells them.
#[tokio::test]
async fn bytes_without_a_row_are_told() {
    const ORPHANS: &str = "imageops_orphans_bytes";
    let mut service = Service::start();
    assert_eq!(metric(&service, ORPHANS), Some(0.0));
    service.kill();
    for number in 0..20 {
        fs::write(service.data_dir().join(format!("store/blobs/orphan-{number}")), [7; 1_000]).unwrap();
    }
    service.restart();
    eventually("a sweep that has seen them", || async {
        (metric(&service, ORPHANS) == Some(20_000.0)).then_some(())
    })
    .await;
    assert_eq!(service.blobs().len(), 20);
}

/// The gauge stays as long as the damage does, where the counter tells of one moment.
#[tokio::test]
async fn damage_is_told_until_it_has_gone() {
    const GAUGES: [&str; 2] = ["imageops_copies_damaged", "imageops_images_lost"];
    let mut service = Service::start();
    let client = service.client();
    // Nothing is told before the first sweep has looked.
    let told = async |service: &Service, expected: f64| {
        let seen =
            || async { GAUGES.iter().all(|name| metric(service, name) == Some(expected)).then_some(()) };
        eventually("what is damaged", seen).await;
    };
    told(&service, 0.0).await;
    eventually("stores that were probed", || async {
        (metric(&service, "imageops_writable") == Some(1.0)).then_some(())
    })
    .await;
    let stored = upload(&client, &fixtures::raw("to be damaged")).await;
    damage(&service, 7);
    let job = scrub(&service, "default").await;
    wait_for(&client, &job.name, JobState::Succeeded).await;

    told(&service, 1.0).await;
    service.restart();
    told(&service, 1.0).await;
    // In the trash it is nobody's any more.
    service.client().delete_image(&stored.name, "").await.unwrap();
    service.restart();
    told(&service, 0.0).await;
}
