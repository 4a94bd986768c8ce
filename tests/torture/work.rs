//! Every kind of job. A new one is a line in [`WORKS`].

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    CheckRequest, CompressRequest, Compression, ConvertRequest, DownloadImageRequest,
    EstimateCompressionRequest, ImageFormat, Job, JobKind, ListJobsRequest, Source,
};
use imageops_client::{Client, Error};

use crate::support::jobs::{file, image};
use crate::support::random::Random;
use crate::support::source::{Reply, Source as SourceElsewhere, import};
use crate::support::status::eventually;
use crate::support::stores::DEFAULT;

/// Name of the source below the image root.
pub const SOURCE: &str = "busy.raw";
/// The store that gets copies.
pub const COPIES: &str = "copies";
/// The store that is drained.
pub const DRAINED: &str = "drained";

/// Length of what is imported.
const IMPORTED_BYTES: usize = 16 << 20;

/// One kind of job on one kind of source.
pub struct Work {
    /// Its name in messages and figures.
    pub name: &'static str,
    /// What it makes.
    pub output: Output,
    start: fn(Ask) -> Start,
}

type Start = Pin<Box<dyn Future<Output = Result<Job, Error>>>>;

/// What a job makes, or what it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Nothing,
    File,
    Image,
    /// A hidden image beside its source, for all who ask for that format.
    Conversion,
    /// The slim companion of its source.
    Slim,
    /// One copy more, in [`COPIES`].
    Copy,
    /// An image of the bytes that lie elsewhere, those of [`elsewhere`].
    Import,
    /// The times at which bytes were last verified.
    Scrub,
    /// [`DRAINED`] is empty, and what lay in it lies elsewhere.
    Drain,
}

/// All of them.
pub const WORKS: &[Work] = &[
    work("check of a file", Output::Nothing, |ask| Box::pin(ask.check(Of::File))),
    work("compress of an image", Output::Image, |ask| Box::pin(ask.compress(Of::Image))),
    work("compress of a file", Output::File, |ask| Box::pin(ask.compress(Of::File))),
    work("check of an image", Output::Nothing, |ask| Box::pin(ask.check(Of::Image))),
    work("estimate of a file", Output::Nothing, |ask| Box::pin(ask.estimate(Of::File))),
    work("convert of a file", Output::File, |ask| Box::pin(ask.convert(Of::File))),
    work("slim companion", Output::Slim, |ask| Box::pin(ask.slim())),
    work("estimate of an image", Output::Nothing, |ask| Box::pin(ask.estimate(Of::Image))),
    work("convert of an image", Output::Image, |ask| Box::pin(ask.convert(Of::Image))),
    work("conversion that is kept", Output::Conversion, |ask| Box::pin(ask.convert_and_keep())),
    work("copy into another store", Output::Copy, |ask| Box::pin(ask.copy())),
    work("import from a URL", Output::Import, |ask| Box::pin(ask.import())),
    work("scrub of a store", Output::Scrub, |ask| Box::pin(ask.scrub())),
    work("drain of a store", Output::Drain, |ask| Box::pin(ask.drain())),
];

/// The kind of job of this name.
pub fn find(name: &str) -> &'static Work {
    WORKS.iter().find(|work| work.name == name).expect("a kind of job")
}

const fn work(name: &'static str, output: Output, start: fn(Ask) -> Start) -> Work {
    Work { name, output, start }
}

impl Work {
    /// Asks for the job. Its source is [`SOURCE`], or `source`, an image; `output` is the name of the file, for those that
    /// make one.
    pub async fn start(&self, client: &Client, source: &str, output: &str) -> Result<Job, Error> {
        (self.start)(Ask { client: client.clone(), image: source.to_owned(), output: output.to_owned() })
            .await
    }

    /// Those whose whole outcome is what [`outputs`] names.
    pub fn makes_outputs(&self) -> bool {
        matches!(self.output, Output::Nothing | Output::File | Output::Image)
    }
}

/// Who asks, and for what.
struct Ask {
    client: Client,
    image: String,
    output: String,
}

/// What a job reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    File,
    Image,
}

impl Ask {
    fn source(&self, of: Of) -> Option<Source> {
        if of == Of::File { file(SOURCE) } else { image(&self.image) }
    }

    /// The output of what reads a file is a file.
    fn output_file(&self, of: Of) -> String {
        if of == Of::File { self.output.clone() } else { String::new() }
    }

    async fn check(self, of: Of) -> Result<Job, Error> {
        let request = CheckRequest { source: self.source(of), ..CheckRequest::default() };
        self.client.check(request).await
    }

    async fn compress(self, of: Of) -> Result<Job, Error> {
        let request = CompressRequest {
            source: self.source(of),
            output_file: self.output_file(of),
            level: Some(9),
            ..CompressRequest::default()
        };
        self.client.compress(request).await
    }

    async fn estimate(self, of: Of) -> Result<Job, Error> {
        let request =
            EstimateCompressionRequest { source: self.source(of), ..EstimateCompressionRequest::default() };
        self.client.estimate_compression(request).await
    }

    async fn convert(self, of: Of) -> Result<Job, Error> {
        let request = ConvertRequest {
            source: self.source(of),
            format: ImageFormat::Qcow2.into(),
            output_file: self.output_file(of),
            compression: if of == Of::File { Compression::Unspecified } else { Compression::Zlib }.into(),
            ..ConvertRequest::default()
        };
        self.client.convert(request).await
    }

    /// The job behind a download in another format. Nobody waits for the bytes.
    async fn convert_and_keep(self) -> Result<Job, Error> {
        let format = ImageFormat::Qcow2.into();
        let request = DownloadImageRequest { image: self.image.clone(), format, ..Default::default() };
        let mut stub = self.client.stub();
        let download = tokio::spawn(async move { stub.download_image(request).await });
        let find = || async { conversions(&self.client, &self.image).await.into_iter().next() };
        let job = eventually(&format!("a job that converts {}", self.image), find).await;
        download.abort();
        Ok(job)
    }

    async fn slim(self) -> Result<Job, Error> {
        let request =
            CompressRequest { source: image(&self.image), companion: true, ..CompressRequest::default() };
        self.client.compress(request).await
    }

    async fn copy(self) -> Result<Job, Error> {
        self.client.copy_image(&self.image, COPIES).await
    }

    async fn import(self) -> Result<Job, Error> {
        self.client
            .import_image(import(source_elsewhere().url(&format!("/{}", self.output)), Default::default()))
            .await
    }

    async fn scrub(self) -> Result<Job, Error> {
        self.client.scrub_store(DEFAULT).await
    }

    async fn drain(self) -> Result<Job, Error> {
        self.client.drain_store(DRAINED).await
    }
}

/// Where images are imported from: other bytes for each path, and every third answer breaks off.
fn source_elsewhere() -> &'static SourceElsewhere {
    static SOURCE: OnceLock<SourceElsewhere> = OnceLock::new();
    SOURCE.get_or_init(|| {
        SourceElsewhere::start(|asked| {
            let reply = Reply::file(&elsewhere(&asked.path), asked, "one");
            if asked.number % 3 == 2 { reply.cut_after(IMPORTED_BYTES / 2) } else { reply }
        })
    })
}

/// The bytes that lie under a path elsewhere.
pub fn elsewhere(path: &str) -> Vec<u8> {
    let seed = path.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(257).wrapping_add(u64::from(byte)));
    let mut bytes = Random::from_seed(seed).bytes(IMPORTED_BYTES);
    // No magic of any format.
    bytes[..512].fill(0);
    bytes
}

/// The conversions of an image that were ever asked for, the newest first.
pub async fn conversions(client: &Client, source: &str) -> Vec<Job> {
    let kinds = vec![JobKind::Convert.into()];
    let request = ListJobsRequest { page_size: 1000, kinds, ..ListJobsRequest::default() };
    let mut jobs = client.list_jobs(request).await.expect("a list of jobs").jobs;
    jobs.retain(|job| job.source == image(source));
    jobs
}

/// The file and the image that a job has made.
pub fn outputs(job: &Job) -> (Option<String>, Option<String>) {
    let name = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    match &job.result {
        Some(JobResult::Compress(result)) => (name(&result.output_file), name(&result.output_image)),
        Some(JobResult::Import(result)) => (None, name(&result.image)),
        Some(JobResult::Convert(result)) => (name(&result.output_file), name(&result.output_image)),
        _ => (None, None),
    }
}
