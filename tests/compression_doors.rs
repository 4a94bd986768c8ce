//! The choices of a compression over every door: what cannot be is refused alike, other choices are another request, and
//! REST and the command line reach all of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Command, Output};

use imageops::v1::{
    CompressRequest, Compression, CompressionLevel, CompressionWindow, EstimateCompressionRequest, ExtraGain,
    ListJobsRequest, Recompress, Source,
};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;

use support::http::{self, Answer};
use support::images::image;
use support::jobs::{compress_file, ended, file, write_busy_disk};
use support::status::assert_status;
use support::{Service, binary};

fn start() -> Service {
    let service = Service::start();
    write_busy_disk(&service.image_path().join("disk.raw"), 2 << 20);
    service
}

/// Choices that no coder has: the request, and the reason and field of the refusal.
fn refused() -> Vec<(CompressRequest, &'static str, &'static str)> {
    let zstd = CompressRequest { compression: Compression::Zstd.into(), ..Default::default() };
    let narrow = CompressRequest { window: CompressionWindow::Narrow.into(), ..Default::default() };
    let fast = CompressionLevel::Fast.into();
    let extra = |gain| CompressRequest { extra_gains: vec![gain], ..Default::default() };
    vec![
        (CompressRequest { window: narrow.window, ..zstd.clone() }, "COMPRESSION_WINDOW", "window"),
        (CompressRequest { level: Some(10), ..narrow }, "INVALID_ARGUMENT", "level"),
        (CompressRequest { level: Some(23), ..zstd }, "INVALID_ARGUMENT", "level"),
        (
            CompressRequest { level: Some(1), named_level: fast, ..Default::default() },
            "INVALID_ARGUMENT",
            "named_level",
        ),
        (CompressRequest { named_level: 77, ..Default::default() }, "INVALID_ARGUMENT", "named_level"),
        (CompressRequest { window: 77, ..Default::default() }, "INVALID_ARGUMENT", "window"),
        (CompressRequest { recompress: 77, ..Default::default() }, "INVALID_ARGUMENT", "recompress"),
        (extra(77), "INVALID_ARGUMENT", "extra_gains"),
        (extra(ExtraGain::Unspecified.into()), "INVALID_ARGUMENT", "extra_gains"),
        (
            CompressRequest { keep_free_space: true, ..extra(ExtraGain::Gaps.into()) },
            "INVALID_ARGUMENT",
            "extra_gains",
        ),
    ]
}

fn with_files(request: CompressRequest) -> CompressRequest {
    CompressRequest { source: file("disk.raw"), output_file: "out.img".to_owned(), ..request }
}

fn estimate_of(request: CompressRequest, source: Option<Source>) -> EstimateCompressionRequest {
    EstimateCompressionRequest {
        source,
        compression: request.compression,
        level: request.level,
        keep_free_space: request.keep_free_space,
        request_id: request.request_id,
        validate_only: request.validate_only,
        named_level: request.named_level,
        window: request.window,
        recompress: request.recompress,
        share_identical: request.share_identical,
        extra_gains: request.extra_gains,
    }
}

#[tokio::test]
async fn what_no_coder_can_do_is_refused_by_its_field() {
    let service = start();
    let client = service.client();
    for (request, reason, field) in refused() {
        let compress = client.stub().compress(with_files(request.clone())).await.unwrap_err();
        let estimate = estimate_of(request.clone(), file("disk.raw"));
        let estimate = client.stub().estimate_compression(estimate).await.unwrap_err();
        for status in [compress, estimate] {
            assert_status(&status, Code::InvalidArgument, reason);
            let violations = status.get_details_bad_request().unwrap().field_violations;
            assert_eq!(violations[0].field, field, "{request:?}");
        }
        // An unknown number has no name in JSON.
        let numbers = [request.named_level, request.window, request.recompress];
        if numbers.iter().chain(&request.extra_gains).any(|number| *number == 77) {
            continue;
        }
        let mut body = serde_json::to_value(&request).unwrap();
        body["source"] = json!({"file": "disk.raw"});
        let answer = http::post_json(service.http(), "/v1/estimates", &body);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (400, Some(reason)));
        body["outputFile"] = "out.img".into();
        let answer = http::post_json(service.http(), "/v1/compressions", &body);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (400, Some(reason)));
        assert_eq!(answer.json()["violations"][0]["field"], field);
    }
    assert!(client.list_jobs(ListJobsRequest::default()).await.unwrap().jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_choices_are_another_request() {
    let service = start();
    let client = service.client();
    let request_id = uuid::Uuid::new_v4().to_string();
    let first = CompressRequest { request_id, ..compress_file("disk.raw", "out.img") };
    let job = client.compress(first.clone()).await.unwrap();
    assert_eq!(client.compress(first.clone()).await.unwrap().name, job.name);
    let others = [
        CompressRequest { compression: Compression::Zstd.into(), ..first.clone() },
        CompressRequest { level: Some(9), ..first.clone() },
        CompressRequest { named_level: CompressionLevel::Small.into(), ..first.clone() },
        CompressRequest { window: CompressionWindow::Narrow.into(), ..first.clone() },
        CompressRequest { recompress: Recompress::Always.into(), ..first.clone() },
        CompressRequest { share_identical: true, ..first.clone() },
        CompressRequest { keep_free_space: true, ..first.clone() },
        CompressRequest { extra_gains: vec![ExtraGain::Journals.into()], ..first.clone() },
    ];
    for other in others {
        let refused = client.stub().compress(other).await.unwrap_err();
        assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    }
    // So is the estimate of the same.
    let estimate = estimate_of(first.clone(), first.source.clone());
    let refused = client.stub().estimate_compression(estimate.clone()).await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    let own = EstimateCompressionRequest { request_id: uuid::Uuid::new_v4().to_string(), ..estimate };
    let told = client.estimate_compression(own.clone()).await.unwrap();
    ended(&client, &told.name).await;
    assert_eq!(client.estimate_compression(own.clone()).await.unwrap().name, told.name);
    for other in [
        EstimateCompressionRequest { share_identical: true, ..own.clone() },
        EstimateCompressionRequest { extra_gains: vec![ExtraGain::Gaps.into()], ..own },
    ] {
        let refused = client.stub().estimate_compression(other).await.unwrap_err();
        assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
    }
    assert_eq!(client.list_jobs(ListJobsRequest::default()).await.unwrap().jobs.len(), 2);
}

/// Waits for a job over REST.
fn job_of(service: &Service, started: &Answer) -> Value {
    assert_eq!(started.status, 202, "{}", started.text());
    let location = started.header("location").unwrap();
    let job = http::get(service.http(), &format!("{location}?wait=100s")).json();
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job}");
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_reaches_every_choice() {
    let service = start();
    let choices = json!({
        "source": {"file": "disk.raw"},
        "compression": "COMPRESSION_ZLIB",
        "namedLevel": "COMPRESSION_LEVEL_SMALLEST",
        "window": "COMPRESSION_WINDOW_NARROW",
        "recompress": "RECOMPRESS_ALWAYS",
        "shareIdentical": true,
        "keepFreeSpace": true,
    });
    let settings = json!({
        "compression": "COMPRESSION_ZLIB",
        "level": 9,
        "namedLevel": "COMPRESSION_LEVEL_SMALLEST",
        "window": "COMPRESSION_WINDOW_NARROW",
        "recompress": "RECOMPRESS_ALWAYS",
        "shareIdentical": true,
        "keepFreeSpace": true,
    });
    let told = job_of(&service, &http::post_json(service.http(), "/v1/estimates", &choices));
    assert_eq!((&told["kind"], &told["compression"]), (&"JOB_KIND_ESTIMATE".into(), &settings));
    assert_eq!(told["estimate"]["keptClusters"], "32");
    assert_eq!(service.image_names(), ["disk.raw"]);

    let mut body = choices.clone();
    body["outputFile"] = "out.img".into();
    let job = job_of(&service, &http::post_json(service.http(), "/v1/compressions", &body));
    assert_eq!(job["compression"], settings);
    let length = std::fs::metadata(service.image_path().join("out.img")).unwrap().len();
    assert_eq!(job["compress"]["outputBytes"], length.to_string());
    let about: u64 = told["estimate"]["estimatedOutputBytes"].as_str().unwrap().parse().unwrap();
    assert!(about.abs_diff(length) <= 2 << 16, "{about} {length}");
    let again = json!({"source": {"file": "out.img"}, "outputFile": "again.img"});
    let again = job_of(&service, &http::post_json(service.http(), "/v1/compressions", &again));
    assert_eq!(again["compress"]["copiedBytes"], (2 << 20).to_string());

    let mut checked = choices;
    checked["validateOnly"] = true.into();
    let answer = http::post_json(service.http(), "/v1/estimates", &checked);
    assert_eq!((answer.status, &answer.json()["compression"]), (200, &settings));
    // An estimate has no output to name.
    body["outputFile"] = "x.img".into();
    assert_eq!(http::post_json(service.http(), "/v1/estimates", &body).status, 400);
    let listed = http::get(service.http(), "/v1/jobs?kind=estimate").json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    let schemas = http::get(service.http(), "/openapi.json").json()["components"]["schemas"].take();
    for name in [
        "CompressionEstimate",
        "CompressionSettings",
        "CompressionLevel",
        "Recompress",
        "ExtraGain",
        "ExtraFigures",
        "CompressedGaps",
    ] {
        assert!(schemas[name]["description"].is_string(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rest_drops_more_than_free_space_when_asked() {
    let Some(debian) = image("debian-ext4.qcow2") else { return };
    let service = Service::start();
    service.place(&debian, "debian.img");
    let plain = json!({"source": {"file": "debian.img"}, "outputFile": "out.img"});
    let job = job_of(&service, &http::post_json(service.http(), "/v1/compressions", &plain));
    let of_result = |job: &Value| number(&job["compress"]["extraDroppedBytes"]);
    assert_eq!(of_result(&job), 0);
    assert!(job["compress"]["gaps"].is_null() && job["compress"]["parts"][1]["extra"].is_null(), "{job}");

    let gains = json!(["EXTRA_GAIN_JOURNALS", "EXTRA_GAIN_INODE_TABLES", "EXTRA_GAIN_GAPS"]);
    let mut body = plain;
    body["extraGains"] = gains.clone();
    let job = job_of(&service, &http::post_json(service.http(), "/v1/compressions", &body));
    assert_eq!(job["compression"]["extraGains"], gains);
    assert!(of_result(&job) > 0, "{job}");
    let part = &job["compress"]["parts"][1];
    assert_eq!(number(&part["extraDroppedBytes"]), of_result(&job));
    assert!(number(&part["extra"]["bytes"]) > 1 << 20, "{part}");
    assert!(number(&job["compress"]["gaps"]["extra"]["bytes"]) > 1 << 20, "{job}");
    body.as_object_mut().unwrap().remove("outputFile");
    let told = job_of(&service, &http::post_json(service.http(), "/v1/estimates", &body));
    assert_eq!(told["compression"]["extraGains"], gains);
    for member in ["extraDroppedBytes", "droppedBytes", "parts", "gaps"] {
        assert_eq!(told["estimate"][member], job["compress"][member], "{member}");
    }
}

/// A number of the JSON form of the contract, 0 where it is left out.
fn number(value: &Value) -> u64 {
    value.as_str().map_or(0, |text| text.parse().unwrap())
}

/// Runs the command against the server.
fn imageops(service: &Service, arguments: &[&str]) -> Output {
    Command::new(binary("imageops"))
        .args(arguments)
        .env("IMAGEOPS_SERVER", format!("http://{}", service.grpc()))
        .env_remove("IMAGEOPS_TOKEN")
        .output()
        .unwrap()
}

fn succeeded(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_reaches_every_choice() {
    let service = start();
    let choices =
        ["--window", "4k", "--level", "small", "--recompress", "always", "--share-identical", "-o", "json"];
    let dry = [&["compress", "disk.raw", "--dry-run"][..], &choices].concat();
    let told = succeeded(&imageops(&service, &dry));
    assert_eq!(service.image_names(), ["disk.raw"], "nothing is written");
    // The same figures under the same names as for a local file.
    let mut local = Command::new(binary("imageops"));
    local.current_dir(service.image_path()).env_remove("IMAGEOPS_SERVER").args(&dry);
    assert_eq!(succeeded(&local.output().unwrap()), told);

    let real = [&["compress", "disk.raw", "out.img"][..], &choices].concat();
    let result = succeeded(&imageops(&service, &real));
    assert_eq!((&result["copied_bytes"], &result["shared_bytes"]), (&0.into(), &0.into()));
    let again = succeeded(&imageops(&service, &["compress", "out.img", "again.img", "-o", "json"]));
    assert_eq!(again["copied_bytes"], 2 << 20);
    assert_eq!(again["output_bytes"], result["output_bytes"]);

    let jobs = succeeded(&imageops(&service, &["job", "list", "-o", "json"]));
    let names: Vec<_> = jobs.as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    let show = |name: &str| text(&imageops(&service, &["job", "show", name]));
    let line = "zlib, level 9 (small), window of 4 KiB, all packed anew, equal clusters once";
    assert!(show(names[1]).contains(line), "{}", show(names[1]));
    let estimate = show(names[2]);
    assert!(estimate.contains(line) && estimate.contains("estimate"), "{estimate}");
    assert!(estimate.contains("all of it was packed to see"), "{estimate}");
    assert!(show(names[0]).contains("zlib, level 4 (default)\n"), "{}", show(names[0]));

    for local_only in [&["--threads", "1"][..], &["--no-verify"], &["--format", "raw"]] {
        let output = imageops(&service, &[&["compress", "disk.raw", "--dry-run"][..], local_only].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains("is for local files"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_drops_more_than_free_space_when_asked() {
    let service = Service::start();
    // Parts and gaps, logical volumes, and a gain that is refused for some groups.
    for name in ["debian-ext4.qcow2", "debian-lvm.qcow2", "fs/ext4-32bit.raw"] {
        let Some(guest) = image(name) else { return };
        service.place(&guest, "guest.img");
        let here = |arguments: &[&str]| {
            let mut local = Command::new(binary("imageops"));
            local.current_dir(service.image_path()).env_remove("IMAGEOPS_SERVER").args(arguments);
            local.output().unwrap()
        };
        let plain = ["compress", "guest.img", "--dry-run", "-o", "json"];
        let without = succeeded(&imageops(&service, &plain));
        assert!(without["extra_dropped_bytes"].is_null() && without["gaps"].is_null(), "{without}");
        let extra = ["--drop-extra", "journals,inode-tables,gaps"];
        let told = succeeded(&imageops(&service, &[&plain[..], &extra].concat()));
        let gained = told["extra_dropped_bytes"].as_u64().unwrap();
        assert!(gained > 0, "{told}");
        let freed = without["dropped_bytes"].as_u64().unwrap();
        assert_eq!(told["dropped_bytes"].as_u64().unwrap(), freed + gained, "{name}");
        assert_eq!(succeeded(&here(&[&plain[..], &extra].concat())), told, "{name}: as for a local file");
        let table = [&plain[..3], &extra].concat();
        assert_eq!(text(&imageops(&service, &table)), text(&here(&table)), "{name}");

        let real = [&["compress", "guest.img", "out.img", "-o", "json"][..], &extra].concat();
        let done = succeeded(&imageops(&service, &real));
        for member in ["extra_dropped_bytes", "dropped_bytes", "parts", "gaps"] {
            assert_eq!(done[member], told[member], "{name}: {member}");
        }
        let jobs = succeeded(&imageops(&service, &["job", "list", "-o", "json"]));
        let shown = text(&imageops(&service, &["job", "show", jobs[0]["name"].as_str().unwrap()]));
        assert!(shown.contains("(default), journals and inode tables and gaps dropped\n"), "{shown}");
        assert!(shown.contains("extra, dropped"), "{shown}");
    }
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}
