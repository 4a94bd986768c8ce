//! The choices of a compression over every door: what cannot be is refused alike, other choices are another request, and
//! REST and the command line reach all of them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::process::{Command, Output};

use imageops::v1::{
    CompressRequest, Compression, CompressionLevel, CompressionWindow, EstimateCompressionRequest,
    ListJobsRequest, Recompress, Source,
};
use serde_json::{Value, json};
use tonic::Code;
use tonic_types::StatusExt as _;

use support::http::{self, Answer};
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
        if [request.named_level, request.window, request.recompress].contains(&77) {
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
    let other = EstimateCompressionRequest { share_identical: true, ..own };
    let refused = client.stub().estimate_compression(other).await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "REQUEST_ID_REUSED");
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
    for name in ["CompressionEstimate", "CompressionSettings", "CompressionLevel", "Recompress"] {
        assert!(schemas[name]["description"].is_string(), "{name}");
    }
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
    let show = |name: &str| {
        let output = imageops(&service, &["job", "show", name]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
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
