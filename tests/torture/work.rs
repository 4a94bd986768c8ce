//! Every kind of job, on files and on images. A new one is a line in [`WORKS`].

use std::future::Future;
use std::pin::Pin;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{CheckRequest, CompressRequest, EstimateCompressionRequest, Job};
use imageops_client::{Client, Error};

use crate::support::jobs::{file, image};

/// Name of the source below the image root.
pub const SOURCE: &str = "busy.raw";

/// One kind of job on one kind of source.
pub struct Work {
    /// Its name in messages and figures.
    pub name: &'static str,
    /// What it makes.
    pub output: Output,
    start: fn(Client, String, String) -> Start,
}

type Start = Pin<Box<dyn Future<Output = Result<Job, Error>>>>;

/// What a job makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Nothing,
    File,
    Image,
}

/// All of them.
pub const WORKS: &[Work] = &[
    Work {
        name: "check of a file",
        output: Output::Nothing,
        start: |client, _, _| {
            let request = CheckRequest { source: file(SOURCE), ..CheckRequest::default() };
            run(async move { client.check(request).await })
        },
    },
    Work {
        name: "compress of an image",
        output: Output::Image,
        start: |client, source, _| {
            let request =
                CompressRequest { source: image(&source), level: Some(9), ..CompressRequest::default() };
            run(async move { client.compress(request).await })
        },
    },
    Work {
        name: "compress of a file",
        output: Output::File,
        start: |client, _, output_file| {
            let request = CompressRequest {
                source: file(SOURCE),
                output_file,
                level: Some(9),
                ..CompressRequest::default()
            };
            run(async move { client.compress(request).await })
        },
    },
    Work {
        name: "check of an image",
        output: Output::Nothing,
        start: |client, source, _| {
            let request = CheckRequest { source: image(&source), ..CheckRequest::default() };
            run(async move { client.check(request).await })
        },
    },
    Work {
        name: "estimate of a file",
        output: Output::Nothing,
        start: |client, _, _| {
            let request =
                EstimateCompressionRequest { source: file(SOURCE), ..EstimateCompressionRequest::default() };
            run(async move { client.estimate_compression(request).await })
        },
    },
    Work {
        name: "estimate of an image",
        output: Output::Nothing,
        start: |client, source, _| {
            let request = EstimateCompressionRequest {
                source: image(&source),
                ..EstimateCompressionRequest::default()
            };
            run(async move { client.estimate_compression(request).await })
        },
    },
];

fn run(start: impl Future<Output = Result<Job, Error>> + 'static) -> Start {
    Box::pin(start)
}

impl Work {
    /// Asks for the job. `source` is an image with the bytes of [`SOURCE`]; `output` is the name of the file, for those that
    /// make one.
    pub async fn start(&self, client: &Client, source: &str, output: &str) -> Result<Job, Error> {
        (self.start)(client.clone(), source.to_owned(), output.to_owned()).await
    }
}

/// The file and the image that a job has made.
pub fn outputs(job: &Job) -> (Option<String>, Option<String>) {
    let name = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    match &job.result {
        Some(JobResult::Compress(result)) => (name(&result.output_file), name(&result.output_image)),
        _ => (None, None),
    }
}
