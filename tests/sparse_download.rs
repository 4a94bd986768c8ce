//! What is empty in an image is neither sent nor written: holes stay holes, and the digest is that of all bytes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use imageops::v1::{Image, ImageFormat, UploadCommit, UploadMetadata};
use imageops_client::Client;
use sha2::{Digest as _, Sha256};

use support::proxy::Proxy;
use support::random::Random;
use support::sparse::Sparse;
use support::upload::{CHUNK_BYTES, Stream, metadata};
use support::{Service, binary};

const MIB: u64 = 1 << 20;

/// Uploads a disk of so many MiB that is empty but for these.
async fn upload_sparse(client: &Client, size_mib: u64, data_mib: &[u64]) -> Image {
    let metadata = UploadMetadata { size_bytes: Some(size_mib * MIB), ..metadata("sparse") };
    let stream = Stream::begin(client, &metadata).await;
    let (zeros, mut random) = (vec![0; CHUNK_BYTES], Random::new("sparse"));
    for index in 0..size_mib {
        let chunk = if data_mib.contains(&index) { &random.bytes(CHUNK_BYTES) } else { &zeros };
        stream.chunk(index * MIB, chunk).await;
    }
    let image = stream.commit(UploadCommit::default()).await.unwrap().image.unwrap();
    assert_eq!(image.size_bytes, size_mib * MIB);
    image
}

fn sha256(mut bytes: impl Read) -> String {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match bytes.read(&mut piece).unwrap() {
            0 => return hex::encode(hasher.finalize()),
            count => hasher.update(&piece[..count]),
        }
    }
}

fn expected(image: &Image) -> &str {
    &image.digests.as_ref().unwrap().sha256
}

#[track_caller]
fn assert_sparse(path: &Path, image: &Image, data_bytes: u64) {
    let file = std::fs::metadata(path).unwrap();
    assert_eq!(file.len(), image.size_bytes);
    let allocated_bytes = file.blocks() * 512;
    assert!(allocated_bytes <= data_bytes + MIB, "{allocated_bytes} bytes on disk, of {data_bytes}");
    assert_eq!(sha256(File::open(path).unwrap()), expected(image));
}

fn imageops(service: &Service, image: &Image, target: &str) -> Child {
    Command::new(binary("imageops"))
        .args(["--server", &format!("http://{}", service.grpc()), "download", &image.name, target])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// 1 GiB with 3 MiB in it: as few bytes on the disk of who downloads it. Through a pipe all of it comes.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_leaves_holes_out() {
    let service = Service::start();
    let image = upload_sparse(&service.client(), 1024, &[0, 3, 700]).await;
    let target = service.scratch().join("disk.raw");
    let downloaded = imageops(&service, &image, target.to_str().unwrap()).wait_with_output().unwrap();
    assert!(downloaded.status.success(), "{downloaded:?}");
    assert_sparse(&target, &image, 3 * MIB);

    let mut piped = imageops(&service, &image, "-");
    assert_eq!(sha256(piped.stdout.take().unwrap()), expected(&image));
    assert!(piped.wait().unwrap().success());
}

/// Cut before, in and behind its holes, a download goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_goes_on_with_its_holes() {
    let service = Service::start();
    let data: Vec<u64> = (0..8).chain(40..48).chain(110..118).collect();
    let image = upload_sparse(&service.client(), 200, &data).await;
    let target = service.scratch().join("cut.raw");
    let proxy = Proxy::start(service.grpc());
    // In data, and at the end of each hole but the last.
    let mut cuts = vec![2 * MIB, 40 * MIB, 42 * MIB, 110 * MIB, 111 * MIB];
    let mut file = Sparse(File::create(&target).unwrap());
    let downloaded = proxy
        .client()
        .download_to(&image.name, ImageFormat::Unspecified, 0, &mut file, |progress| {
            if cuts.first().is_some_and(|cut| progress.done_bytes >= *cut) {
                cuts.remove(0);
                proxy.cut();
            }
        })
        .await
        .unwrap();
    assert_eq!((&downloaded, cuts), (&image, Vec::new()));
    assert!(proxy.connections_made() >= 3, "{} connections: nothing was cut", proxy.connections_made());
    assert_sparse(&target, &image, 24 * MIB);

    // Another process that goes on with what is there, in the middle of a hole too.
    for have_bytes in [3 * MIB + 5, 77 * MIB + 1, 150 * MIB, 200 * MIB] {
        let mut file = File::options().write(true).open(&target).unwrap();
        file.set_len(have_bytes).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        let client = service.client();
        let format = ImageFormat::Unspecified;
        client.download_to(&image.name, format, have_bytes, &mut Sparse(file), |_| {}).await.unwrap();
        assert_sparse(&target, &image, 24 * MIB);
    }
}

/// Who only takes bytes gets all of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_without_holes_gets_zeros() {
    let service = Service::start();
    let image = upload_sparse(&service.client(), 5, &[1, 3]).await;
    let mut bytes = Vec::new();
    service.client().download(&image.name, 0, &mut bytes, |_| {}).await.unwrap();
    assert_eq!((bytes.len() as u64, &*sha256(&*bytes)), (5 * MIB, expected(&image)));
    let whole = bytes.split_off(usize::try_from(2 * MIB + 7).unwrap());
    let mut rest = Vec::new();
    service.client().download(&image.name, 2 * MIB + 7, &mut rest, |_| {}).await.unwrap();
    assert!(rest == whole);
}
