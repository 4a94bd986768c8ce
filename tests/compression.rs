//! What a compression is asked for shows in its output: coder, level, window, copied and shared clusters; and an estimate
//! tells of it beforehand.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../crates/image/tests/deflate/mod.rs"]
mod deflate;
mod support;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    CompressRequest, CompressResult, Compression, CompressionEstimate, CompressionLevel, CompressionWindow,
    EstimateCompressionRequest, ExtraGain, ImageFormat, Job, JobKind, JobState, ListJobsRequest, Recompress,
};
use imageops_client::Client;

use support::images::{have, image, qemu_img};
use support::jobs::{compress_file, download, failed, file, image as image_source};
use support::random::Random;
use support::upload::upload;
use support::{Service, wait_for};

const CLUSTER_BYTES: u64 = 65_536;
/// The window of a reader that inflates in steps, as qemu declares it.
const NARROW_BYTES: usize = 4096;
const DISK_BYTES: u64 = 4 << 20;

/// A server with a disk of words, `disk.raw`: what coders find in it depends on their effort, near and far.
fn start() -> Service {
    let service = Service::start();
    let mut random = Random::from_seed(1);
    let words: Vec<_> =
        (0..2000).map(|_| format!("{:x} ", random.below(1 << 32) >> random.below(24))).collect();
    let mut disk = String::new();
    while (disk.len() as u64) < DISK_BYTES {
        // Words are as frequent as in a language: few often, most seldom.
        let word = random.below(2000) * random.below(2000) / 2000;
        disk += &words[word as usize];
    }
    std::fs::write(service.image_path().join("disk.raw"), &disk.as_bytes()[..DISK_BYTES as usize]).unwrap();
    service
}

/// Runs a compression of a file to its end; the job, its result, and the bytes of the output.
async fn run(service: &Service, request: CompressRequest) -> (Job, CompressResult, Vec<u8>) {
    let client = service.client();
    let output = service.image_path().join(&request.output_file);
    let job = client.compress(request).await.unwrap();
    let job = wait_for(&client, &job.name, JobState::Succeeded).await;
    let Some(JobResult::Compress(result)) = job.result.clone() else { panic!("{job:?}") };
    assert!(result.verified);
    let bytes = std::fs::read(output).unwrap();
    assert_eq!(result.output_bytes, bytes.len() as u64);
    (job, result, bytes)
}

async fn estimate(client: &Client, request: EstimateCompressionRequest) -> (Job, CompressionEstimate) {
    let job = client.estimate_compression(request).await.unwrap();
    assert_eq!(job.kind(), JobKind::Estimate);
    let job = wait_for(client, &job.name, JobState::Succeeded).await;
    let Some(JobResult::Estimate(told)) = job.result.clone() else { panic!("{job:?}") };
    (job, told)
}

fn number(bytes: &[u8], offset: usize) -> u64 {
    u64::from_be_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// The coder in the header of a qcow2 image: 0 for zlib, 1 for zstd.
fn coder(image: &[u8]) -> u8 {
    let header_bytes = u32::from_be_bytes(image[100..104].try_into().unwrap());
    if header_bytes > 104 { image[104] } else { 0 }
}

/// The streams of all compressed clusters of a qcow2 image with clusters of 64 KiB.
fn streams(image: &[u8]) -> Vec<&[u8]> {
    assert_eq!(image[20..24], [0, 0, 0, 16]);
    let l1_entries = u32::from_be_bytes(image[36..40].try_into().unwrap()) as usize;
    let l1_offset = number(image, 40) as usize;
    let mut found = Vec::new();
    for entry in 0..l1_entries {
        let l2_offset = (number(image, l1_offset + entry * 8) & 0x00ff_ffff_ffff_fe00) as usize;
        for place in (0..CLUSTER_BYTES as usize).step_by(8).filter(|_| l2_offset > 0) {
            let entry = number(image, l2_offset + place);
            if entry >> 62 == 1 {
                let (offset, sectors) = (entry & ((1 << 54) - 1), entry >> 54 & 0xff);
                let end = (offset - offset % 512 + (sectors + 1) * 512).min(image.len() as u64);
                found.push(&image[offset as usize..end as usize]);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn coder_and_level_show_in_the_output() {
    let service = start();
    for (compression, mark, levels) in
        [(Compression::Zlib, 0, [1, 4, 6, 12]), (Compression::Zstd, 1, [1, 3, 9, 19])]
    {
        let request = CompressRequest { compression: compression.into(), ..Default::default() };
        let names = [
            CompressionLevel::Fast,
            CompressionLevel::Default,
            CompressionLevel::Small,
            CompressionLevel::Smallest,
        ];
        let mut sizes = Vec::new();
        for (name, level) in names.into_iter().zip(levels) {
            let named = CompressRequest {
                named_level: name.into(),
                ..with_files(request.clone(), "disk.raw", "named.img")
            };
            let (job, _, by_name) = run(&service, named).await;
            let settings = job.compression.unwrap();
            assert_eq!((settings.compression(), settings.level), (compression, level));
            assert_eq!(settings.named_level(), name);
            assert_eq!(coder(&by_name), mark);
            let counted = CompressRequest {
                level: Some(level),
                ..with_files(request.clone(), "disk.raw", "number.img")
            };
            let (job, _, by_number) = run(&service, counted).await;
            let settings = job.compression.unwrap();
            assert_eq!((settings.level, settings.named_level), (level, None));
            assert!(by_name == by_number, "{name:?} is level {level}");
            sizes.push(by_name.len());
        }
        assert!(sizes[0] > sizes[3], "effort makes it smaller: {sizes:?}");
        let (_, _, plain) = run(&service, with_files(request, "disk.raw", "plain.img")).await;
        assert_eq!(plain.len(), sizes[1], "the default needs no word");
    }
}

fn with_files(request: CompressRequest, source: &str, output: &str) -> CompressRequest {
    CompressRequest { source: file(source), output_file: output.to_owned(), ..request }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_readers_read_the_narrow_window() {
    let service = start();
    let furthest = |image: &[u8]| {
        let reaches = streams(image).into_iter().map(|stream| {
            let (length, reach) = deflate::length_and_reach(stream);
            assert_eq!(length as u64, CLUSTER_BYTES);
            reach
        });
        reaches.max().unwrap()
    };
    for (level, named_level) in
        [(Some(1), CompressionLevel::Unspecified), (Some(9), CompressionLevel::Unspecified)]
            .into_iter()
            .chain([(None, CompressionLevel::Smallest), (None, CompressionLevel::Unspecified)])
    {
        let request = CompressRequest {
            window: CompressionWindow::Narrow.into(),
            level,
            named_level: named_level.into(),
            ..compress_file("disk.raw", "narrow.img")
        };
        let (job, _, narrow) = run(&service, request).await;
        assert_eq!(job.compression.unwrap().window(), CompressionWindow::Narrow);
        assert!(furthest(&narrow) <= NARROW_BYTES, "{level:?}");
    }
    let (job, _, wide) = run(&service, compress_file("disk.raw", "wide.img")).await;
    assert_eq!(job.compression.unwrap().window(), CompressionWindow::Full);
    assert!(furthest(&wide) > NARROW_BYTES, "the reader is strict indeed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_already_is_copied_unless_it_shall_not_be() {
    let service = start();
    let (_, first, _) = run(&service, compress_file("disk.raw", "packed.img")).await;
    assert_eq!((first.copied_bytes, first.data_bytes), (0, DISK_BYTES));
    let again = |recompress: Recompress, window: CompressionWindow| CompressRequest {
        recompress: recompress.into(),
        window: window.into(),
        level: Some(1),
        ..compress_file("packed.img", "again.img")
    };
    let full = CompressionWindow::Full;
    for (request, copied) in [
        (again(Recompress::Unspecified, full), DISK_BYTES),
        (again(Recompress::Auto, full), DISK_BYTES),
        (again(Recompress::Always, full), 0),
        (again(Recompress::Auto, CompressionWindow::Narrow), 0),
    ] {
        let always = request.recompress() == Recompress::Always;
        let (job, result, _) = run(&service, request).await;
        assert_eq!((result.copied_bytes, result.data_bytes), (copied, DISK_BYTES));
        assert_eq!(result.content_proof, first.content_proof);
        assert_eq!(job.compression.unwrap().recompress() == Recompress::Always, always);
        let smaller = if copied == 0 { result.output_bytes } else { first.output_bytes };
        assert_eq!(result.output_bytes, smaller, "what is copied is as long as it was");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_clusters_are_stored_once_when_asked() {
    let service = Service::start();
    let mut random = Random::from_seed(7);
    let kinds: Vec<_> = (0..4).map(|_| random.bytes(CLUSTER_BYTES as usize)).collect();
    let disk: Vec<u8> = (0..40).flat_map(|index| kinds[index % 4].clone()).collect();
    std::fs::write(service.image_path().join("equal.raw"), &disk).unwrap();
    let request =
        |share_identical| CompressRequest { share_identical, ..compress_file("equal.raw", "out.img") };
    let (job, alone, _) = run(&service, request(false)).await;
    assert_eq!((alone.shared_bytes, job.compression.unwrap().share_identical), (0, false));
    let (job, shared, _) = run(&service, request(true)).await;
    assert_eq!((shared.shared_bytes, job.compression.unwrap().share_identical), (36 * CLUSTER_BYTES, true));
    assert!(shared.output_bytes + 36 * CLUSTER_BYTES <= alone.output_bytes, "{shared:?}");
    if have("qemu-img") {
        let output = service.image_path().join("out.img");
        assert!(qemu_img(["check", output.to_str().unwrap()]).status.success());
        let raw = service.image_path().join("equal.raw");
        let compared = qemu_img(
            ["compare", "-f", "raw", "-F", "qcow2"]
                .into_iter()
                .chain([raw.to_str().unwrap(), output.to_str().unwrap()]),
        );
        assert!(compared.status.success(), "{compared:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_tells_what_a_compression_does_and_writes_nothing() {
    let service = start();
    let client = service.client();
    let of_file = EstimateCompressionRequest { source: file("disk.raw"), ..Default::default() };
    let mut sizes = Vec::new();
    for level in [1, 19] {
        let compression = Compression::Zstd.into();
        let request = EstimateCompressionRequest { compression, level: Some(level), ..of_file.clone() };
        let (job, told) = estimate(&client, request).await;
        assert_eq!(job.compression.unwrap().level, level);
        assert_eq!(job.output_file, "");
        assert_eq!((told.source_format(), told.virtual_size_bytes), (ImageFormat::Raw, DISK_BYTES));
        assert_eq!((told.stored_bytes, told.dropped_bytes), (DISK_BYTES, 0));
        let clusters = DISK_BYTES / CLUSTER_BYTES;
        assert_eq!((told.kept_clusters, told.sampled_clusters), (clusters, clusters));
        assert_eq!(service.image_names(), ["disk.raw"], "nothing is written");
        let real = CompressRequest { compression, level: Some(level), ..compress_file("disk.raw", "o.img") };
        let (_, real, _) = run(&service, real).await;
        assert!(real.output_bytes.abs_diff(told.estimated_output_bytes) <= 2 * CLUSTER_BYTES, "{told:?}");
        std::fs::remove_file(service.image_path().join("o.img")).unwrap();
        sizes.push(told.estimated_output_bytes);
    }
    assert!(sizes[0] > sizes[1], "it depends on what is asked for: {sizes:?}");

    // A stored image is looked at like a file.
    let stored = upload(&client, &vec![5; 1 << 20]).await;
    let (_, told) = estimate(
        &client,
        EstimateCompressionRequest { source: image_source(&stored.name), ..Default::default() },
    )
    .await;
    assert_eq!(told.virtual_size_bytes, 1 << 20);
    assert_eq!((service.blobs().len(), service.staged().len()), (1, 0));
    assert!(download(&client, &stored.name).await == vec![5; 1 << 20]);
    let estimates = ListJobsRequest { kinds: vec![JobKind::Estimate.into()], ..Default::default() };
    assert_eq!(client.list_jobs(estimates).await.unwrap().jobs.len(), 3);

    // What cannot be read fails as the compression does.
    std::fs::write(service.image_path().join("cut.img"), b"QFI\xfb\0\0\0\x03").unwrap();
    let job = client
        .estimate_compression(EstimateCompressionRequest { source: file("cut.img"), ..Default::default() })
        .await
        .unwrap();
    let reason = failed(&client, &job.name).await;
    let job = client.compress(compress_file("cut.img", "o.img")).await.unwrap();
    assert_eq!(failed(&client, &job.name).await, reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimate_has_the_figures_of_the_compression() {
    let Some(debian) = image("debian-ext4.qcow2") else { return };
    let service = Service::start();
    service.place(&debian, "debian.img");
    let request = EstimateCompressionRequest { source: file("debian.img"), ..Default::default() };
    let (_, told) = estimate(&service.client(), request.clone()).await;
    let (_, real, _) = run(&service, compress_file("debian.img", "small.img")).await;
    assert!(told.dropped_bytes > 0 && told.stored_bytes > told.dropped_bytes);
    assert_eq!((told.dropped_bytes, &told.parts, &told.kept), (real.dropped_bytes, &real.parts, &real.kept));
    assert_eq!(told.kept_clusters * CLUSTER_BYTES, real.data_bytes);
    assert!(told.estimated_output_bytes.abs_diff(real.output_bytes) < real.output_bytes / 10, "{told:?}");
    let whole = EstimateCompressionRequest { keep_free_space: true, ..request };
    let (_, whole) = estimate(&service.client(), whole).await;
    assert_eq!((whole.dropped_bytes, whole.parts.len()), (0, 0));
    assert!(whole.estimated_output_bytes > told.estimated_output_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_free_space_is_dropped_when_asked() {
    let Some(debian) = image("debian-ext4.qcow2") else { return };
    let service = Service::start();
    service.place(&debian, "debian.img");
    let (job, plain, _) = run(&service, compress_file("debian.img", "plain.img")).await;
    assert!(job.compression.unwrap().extra_gains.is_empty());
    assert_eq!((plain.extra_dropped_bytes, &plain.gaps), (0, &None));
    assert!(plain.parts.iter().all(|part| part.extra_dropped_bytes == 0 && part.extra.is_none()));

    let all = [ExtraGain::Journals, ExtraGain::InodeTables, ExtraGain::Gaps].map(i32::from);
    let request = CompressRequest { extra_gains: all.into(), ..compress_file("debian.img", "small.img") };
    let (job, real, _) = run(&service, request).await;
    assert_eq!(job.compression.unwrap().extra_gains, all);
    let gained = real.extra_dropped_bytes;
    assert!(gained > 0);
    assert_eq!(real.dropped_bytes, plain.dropped_bytes + gained);
    let part = real.parts.iter().find(|part| part.extra.is_some()).unwrap();
    assert_eq!(part.part.as_ref().unwrap().file_system, "ext4");
    let (extra, gaps) = (part.extra.as_ref().unwrap(), real.gaps.as_ref().unwrap());
    assert_eq!(part.extra_dropped_bytes + gaps.dropped_bytes, gained);
    assert!(extra.bytes >= gained && extra.kept.is_empty(), "{extra:?}");
    assert!(gaps.extra.as_ref().unwrap().bytes >= gaps.dropped_bytes);

    let request = EstimateCompressionRequest {
        source: file("debian.img"),
        extra_gains: all.into(),
        ..Default::default()
    };
    let (_, told) = estimate(&service.client(), request).await;
    assert_eq!(
        (told.dropped_bytes, told.extra_dropped_bytes, &told.parts, &told.gaps),
        (real.dropped_bytes, gained, &real.parts, &real.gaps)
    );

    // Each of them alone; together they are all of it.
    let mut sum = 0;
    for gain in all {
        let request = EstimateCompressionRequest {
            source: file("debian.img"),
            extra_gains: vec![gain, gain],
            ..Default::default()
        };
        let (job, told) = estimate(&service.client(), request).await;
        assert_eq!(job.compression.unwrap().extra_gains, [gain]);
        assert_eq!(told.gaps.is_some(), gain == i32::from(ExtraGain::Gaps));
        sum += told.extra_dropped_bytes;
    }
    assert_eq!(sum, gained);
}
