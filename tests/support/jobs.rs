//! Jobs in the tests: how they are asked for, and sources that keep them busy.

use std::io::Write as _;
use std::path::Path;

use imageops::v1::source::Source as Kind;
use imageops::v1::{
    CheckRequest, CompressRequest, DownloadImageRequest, Job, JobState, Source, download_image_response,
};
use imageops_client::Client;

use super::random::Random;

/// A file below the image root.
pub fn file(name: &str) -> Option<Source> {
    Some(Source { source: Some(Kind::File(name.to_owned())) })
}

/// A stored image.
pub fn image(name: &str) -> Option<Source> {
    Some(Source { source: Some(Kind::Image(name.to_owned())) })
}

/// A check of a file below the image root.
pub fn check_file(name: &str) -> CheckRequest {
    CheckRequest { source: file(name), ..CheckRequest::default() }
}

/// A compression of one file below the image root into another.
pub fn compress_file(name: &str, output: &str) -> CompressRequest {
    CompressRequest { source: file(name), output_file: output.to_owned(), ..CompressRequest::default() }
}

/// A compression that takes its time: the highest effort.
pub fn slow_compress_file(name: &str, output: &str) -> CompressRequest {
    CompressRequest { level: Some(12), ..compress_file(name, output) }
}

/// Writes a raw disk of `size_bytes` whose compression keeps a worker busy: neither zeros nor noise.
pub fn write_busy_disk(path: &Path, size_bytes: u64) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("a disk"));
    // One block of text-like bytes, each time with other marks in it, so that no two are the same.
    let mut random = Random::from_seed(size_bytes);
    let mut block: Vec<u8> = random.bytes(64 << 10).iter().map(|byte| b'a' + byte % 16).collect();
    for index in 0..size_bytes / block.len() as u64 {
        for mark in block.chunks_exact_mut(512) {
            mark[..8].copy_from_slice(&random.next().to_le_bytes());
        }
        block[..8].copy_from_slice(&index.to_le_bytes());
        file.write_all(&block).expect("room for the disk");
    }
    file.flush().expect("room for the disk");
}

/// Waits until the job has ended, however.
pub async fn ended(client: &Client, job: &str) -> Job {
    let job = client.wait_job(job, Some(super::DEADLINE)).await.expect("a job that is known");
    assert!(imageops_client::is_final(job.state()), "{job:?}");
    job
}

/// Waits until the job has failed and tells the reason.
pub async fn failed(client: &Client, job: &str) -> String {
    let job = ended(client, job).await;
    assert_eq!(job.state(), JobState::Failed, "{job:?}");
    assert_eq!(job.result, None);
    job.error.expect("a failed job with an error").reason
}

/// All bytes of a stored image.
pub async fn download(client: &Client, image: &str) -> Vec<u8> {
    let request = DownloadImageRequest { image: image.to_owned(), ..DownloadImageRequest::default() };
    let answer = client.stub().download_image(request).await.expect("an image that can be read");
    let mut messages = answer.into_inner();
    let mut bytes = Vec::new();
    while let Some(message) = messages.message().await.expect("a whole download") {
        if let Some(download_image_response::Message::Chunk(chunk)) = message.message {
            assert_eq!(chunk.offset_bytes, bytes.len() as u64);
            bytes.extend_from_slice(&chunk.data);
        }
    }
    bytes
}
