//! Names and images made to do harm: refused with a reason, or harmless.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use imageops::v1::{
    CompressRequest, ImageFormat, InspectRequest, Inspection, ListUploadsRequest, UploadMetadata, Verdict,
};
use imageops_client::Client;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use tonic::Code;

use support::Service;
use support::http::post_json;
use support::images::images;
use support::jobs::{check_file, compress_file, failed, file};
use support::status::{assert_status, reason};
use support::upload::{metadata, try_upload};

const LEGACY: &str = "/api/v1/vmimage";

/// A tree with a secret beside the root, and every way to it that a file system knows.
fn build_tree(service: &Service) -> Vec<String> {
    let root = service.image_path();
    let outside = service.scratch().join("outside");
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(root.join("good.raw"), [1; 8192]).unwrap();
    fs::write(root.join("sub/good.raw"), [1; 8192]).unwrap();
    fs::write(outside.join("secret.raw"), [9; 12_288]).unwrap();
    symlink(outside.join("secret.raw"), root.join("absolute-link")).unwrap();
    symlink("../outside/secret.raw", root.join("relative-link")).unwrap();
    symlink(&outside, root.join("directory-link")).unwrap();
    symlink("relative-link", root.join("link-to-link")).unwrap();
    symlink("loop-b", root.join("loop-a")).unwrap();
    symlink("loop-a", root.join("loop-b")).unwrap();
    symlink("/proc/self/root", root.join("proc-link")).unwrap();
    symlink("/dev/zero", root.join("zero-link")).unwrap();
    symlink("missing", root.join("dangling")).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    fs::write(root.join(".imageops-x.partial"), "unfinished").unwrap();
    let secret = outside.join("secret.raw").display().to_string();
    [
        secret.as_str(),
        "../outside/secret.raw",
        "sub/../../outside/secret.raw",
        "./../outside/secret.raw",
        "absolute-link",
        "relative-link",
        "directory-link/secret.raw",
        "link-to-link",
        "loop-a",
        "dangling",
        "proc-link/etc/passwd",
        "zero-link",
        "fifo",
        "socket",
        "sub",
        "sub/",
        "sub/deep/..",
        ".",
        "..",
        "/",
        "//",
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/environ",
        "/proc/self/fd/0",
        "good.raw/",
        "good.raw/.",
        "good.raw/../good.raw",
        "missing",
        "missing/../good.raw",
        ".imageops-x.partial",
        "..\\outside\\secret.raw",
        "%2e%2e/outside/secret.raw",
        "..%2foutside%2fsecret.raw",
        "good.raw\0",
        "good.raw\0.png",
        "\0",
        "good.raw\n",
        " good.raw",
        "~/good.raw",
        "file:///etc/passwd",
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
        "nbd://127.0.0.1/x",
        "\u{202e}war.doog",
        "good.raw\u{200b}",
        "-good.raw",
        "$(id)",
        "`id`",
        "; id",
        "| id",
        "${HOME}",
        "con",
        "NUL",
        "C:\\Windows\\win.ini",
        "\\\\host\\share",
        "good.raw::$DATA",
        "GOOD.RAW",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([
        "../".repeat(500) + "etc/passwd",
        "sub/".repeat(900) + "good.raw",
        "n".repeat(256),
        "n".repeat(4000),
        format!("sub/{}", "é".repeat(200)),
    ])
    .collect()
}

/// SEC-25, SEC-26: no name leads out of the root; all of them answer like a name that does not exist.
#[tokio::test]
async fn sec_26_no_name_leads_out_of_the_root() {
    let service = Service::start();
    let names = build_tree(&service);
    let client = service.client();
    let missing = client.stub().check(check_file("missing")).await.unwrap_err();
    assert_status(&missing, Code::NotFound, "FILE_NOT_FOUND");
    for name in &names {
        let begun = Instant::now();
        let refused = client.stub().check(check_file(name)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused)), (missing.code(), reason(&missing)), "{name:?}");
        assert_eq!(refused.message(), missing.message(), "no oracle: {name:?}");
        let inspect = InspectRequest { source: file(name), ..InspectRequest::default() };
        let refused = client.stub().inspect(inspect).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{name:?}");
        let refused = client.stub().compress(compress_file(name, "out.img")).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{name:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{name:?} holds the server up");
    }
    assert!(!service.image_path().join("out.img").exists());
    // What may be named still can be.
    for name in ["good.raw", "sub/good.raw", "./sub/good.raw", "sub//good.raw"] {
        client.stub().check(check_file(name)).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));
    }
}

/// The same through the legacy surface, in its words.
#[tokio::test]
async fn sec_25_no_legacy_name_leads_out_of_the_root() {
    let service = Service::start();
    for name in build_tree(&service) {
        let body = json!({"inputImageName": name});
        let answer = post_json(service.http(), &format!("{LEGACY}/check"), &body);
        assert_eq!(answer.status, 500, "{name:?}: {}", answer.text());
        assert_eq!(answer.text().trim_end(), format!("Given image {name} is not exist.").trim_end());
        let body = json!({"inputImageName": name, "outputImageName": "out.img"});
        let answer = post_json(service.http(), &format!("{LEGACY}/compress"), &body);
        assert_eq!(answer.status, 500, "{name:?}: {}", answer.text());
        assert_eq!(answer.text().trim_end(), format!("Image {name} is not exist.").trim_end());
        let root = service.image_path().display().to_string();
        assert!(name.contains(&root) || !answer.text().contains(&root), "no server path: {}", answer.text());
    }
    assert!(!service.image_path().join("out.img").exists());
}

/// SEC-26: an output leads out of the root no more than a source does.
#[tokio::test]
async fn sec_26_no_output_leads_out_of_the_root() {
    let service = Service::start();
    build_tree(&service);
    let client = service.client();
    let outside = service.scratch().join("outside");
    symlink(outside.join("new.img"), service.image_path().join("new-link")).unwrap();
    let before = (fs::read(outside.join("secret.raw")).unwrap(), support::names_in(&outside));
    for name in [
        "../outside/new.img",
        "absolute-link",
        "relative-link",
        "directory-link/new.img",
        "link-to-link",
        "new-link",
        "loop-a",
        "proc-link/tmp/new.img",
        "zero-link",
        "fifo",
        "socket",
        "sub",
        "missing/new.img",
        "good.raw/new.img",
        "/tmp/new.img",
        ".imageops-y.partial",
        "",
        ".",
        "a\0b",
    ] {
        let refused = client.stub().compress(compress_file("good.raw", name)).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_OUTPUT_FILE");
        if name.is_empty() {
            continue;
        }
        let body = json!({"inputImageName": "good.raw", "outputImageName": name});
        let answer = post_json(service.http(), &format!("{LEGACY}/compress"), &body);
        assert_eq!(
            (answer.status, answer.text().trim_end()),
            (500, "Invalid outputImageName in request body.")
        );
    }
    assert_eq!((fs::read(outside.join("secret.raw")).unwrap(), support::names_in(&outside)), before);
}

/// Decision 15: the container keeps its data directory in the image root; nothing in there can be named.
#[tokio::test]
async fn the_data_directory_cannot_be_named_though_it_lies_in_the_root() {
    let service = Service::start_changed(|setup| setup.data_dir = setup.image_path.join(".imageops"));
    let client = service.client();
    let image = support::upload::upload(&client, &[3; 4096]).await;
    let blob = image.name.trim_start_matches("images/");
    fs::write(service.image_path().join("good.raw"), [1; 4096]).unwrap();
    symlink(".imageops/catalogue.sqlite", service.image_path().join("link")).unwrap();
    for name in [
        ".imageops/catalogue.sqlite",
        "./.imageops/../.imageops/catalogue.sqlite",
        ".imageops/store/store",
        &format!(".imageops/store/blobs/{}", service.blobs()[0]),
        &format!(".imageops/store/blobs/{blob}"),
        "link",
    ] {
        let refused = client.stub().check(check_file(name)).await.unwrap_err();
        assert_status(&refused, Code::NotFound, "FILE_NOT_FOUND");
        let refused = client.stub().compress(compress_file("good.raw", name)).await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_OUTPUT_FILE");
    }
    client.stub().check(check_file("good.raw")).await.unwrap();
}

/// SEC-26: while a name is exchanged for a link again and again, nothing outside is ever read.
#[tokio::test(flavor = "multi_thread")]
async fn sec_26_exchanging_a_name_for_a_link_wins_nothing() {
    let service = Service::start();
    let client = service.client();
    let root = service.image_path().to_owned();
    let outside = service.scratch().join("outside");
    fs::create_dir_all(root.join("real")).unwrap();
    fs::create_dir(&outside).unwrap();
    // Inside and outside differ in length, so that an inspection tells them apart.
    fs::write(root.join("real/disk.raw"), [1; 8192]).unwrap();
    fs::write(outside.join("disk.raw"), [2; 20_480]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, root, outside) = (Arc::clone(&stop), root.clone(), outside.clone());
        std::thread::spawn(move || {
            let mut swaps = 0_u32;
            symlink("real", root.join("inside-link")).unwrap();
            symlink(&outside, root.join("outside-link")).unwrap();
            while !stop.load(Ordering::Acquire) {
                for link in ["inside-link", "outside-link"] {
                    let target = fs::read_link(root.join(link)).unwrap();
                    symlink(target, root.join("next")).unwrap();
                    fs::rename(root.join("next"), root.join("name")).unwrap();
                    swaps += 1;
                }
            }
            swaps
        })
    };
    let (mut inside, mut refused) = (0, 0);
    for _ in 0..1500 {
        let request = InspectRequest { source: file("name/disk.raw"), ..InspectRequest::default() };
        match client.stub().inspect(request).await {
            Ok(found) => {
                assert_eq!(found.into_inner().inspection.unwrap().file_size_bytes, 8192, "outside was read");
                inside += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::NotFound, "{status:?}");
                refused += 1;
            }
        }
    }
    stop.store(true, Ordering::Release);
    let swaps = swapper.join().unwrap();
    assert!(inside > 0 && refused > 0 && swaps > 100, "{inside} read, {refused} refused, {swaps} swaps");
}

/// A small image of the set, to be spoiled field by field.
struct Qcow2(Vec<u8>);

impl Qcow2 {
    fn read(images: &Path, name: &str) -> Self {
        let bytes = fs::read(images.join(name)).unwrap();
        assert!(bytes.starts_with(b"QFI\xfb"));
        Self(bytes)
    }

    fn with(&self, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut spoiled = self.0.clone();
        spoiled[offset..offset + bytes.len()].copy_from_slice(bytes);
        spoiled
    }

    /// The image with an extension put before the others.
    fn with_extension(&self, kind: u32, data: &[u8]) -> Vec<u8> {
        let version = u32::from_be_bytes(self.0[4..8].try_into().unwrap());
        let header =
            if version == 2 { 72 } else { u32::from_be_bytes(self.0[100..104].try_into().unwrap()) as usize };
        let mut extension = kind.to_be_bytes().to_vec();
        extension.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        extension.extend_from_slice(data);
        extension.resize(extension.len().next_multiple_of(8), 0);
        extension.extend_from_slice(&[0; 8]);
        self.with(header, &extension)
    }
}

async fn inspect_bytes(service: &Service, client: &Client, bytes: &[u8]) -> Inspection {
    fs::write(service.image_path().join("hostile.img"), bytes).unwrap();
    let request = InspectRequest { source: file("hostile.img"), ..InspectRequest::default() };
    client.inspect(request).await.unwrap()
}

/// An image that every way in must refuse, each with one of these reasons.
async fn assert_refused(
    service: &Service,
    client: &Client,
    what: &str,
    bytes: &[u8],
    verdicts: &[Verdict],
    reasons: &[&str],
) {
    let found = inspect_bytes(service, client, bytes).await;
    assert!(verdicts.contains(&found.verdict()), "{what}: {found:?}");
    let code = &found.reasons.first().unwrap_or_else(|| panic!("{what}: no reason")).code;
    assert!(reasons.contains(&code.as_str()), "{what}: {found:?}");

    let refused = try_upload(client, &metadata("hostile"), bytes).await;
    let refused = refused.err().unwrap_or_else(|| panic!("{what} was taken"));
    assert!(reasons.contains(&reason(&refused).as_str()), "{what}: {refused:?}");
    let expected =
        if found.verdict() == Verdict::Corrupt { Code::FailedPrecondition } else { Code::InvalidArgument };
    assert_eq!(refused.code(), expected, "{what}");
    assert_eq!(service.staged(), [""; 0], "{what}");

    let job = client.compress(compress_file("hostile.img", "out.img")).await.unwrap();
    let why = failed(client, &job.name).await;
    assert!(!why.is_empty() && why != "INTERNAL", "{what}: {why}");
    assert_eq!(service.image_names(), ["hostile.img"], "{what}");
}

/// SEC-01: whatever a backing file is called, it is refused, and the answer does not tell whether the file exists.
#[tokio::test]
async fn sec_01_backing_files_are_refused_by_every_spelling() {
    let Some(images) = images() else { return };
    let service = Service::start();
    let client = service.client();
    let good = Qcow2::read(&images, "variants/v3.qcow2");
    let place = 1024_u64;
    let backing = |offset: u64, length: u32, name: &[u8]| {
        let mut image = good.with(8, &[offset.to_be_bytes().as_slice(), &length.to_be_bytes()].concat());
        image[1024..1024 + name.len()].copy_from_slice(name);
        image
    };
    let mut answers = Vec::new();
    for name in [
        "/etc/passwd",
        "/does/not/exist",
        "hostile.img",
        "../other.img",
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
        "nbd://127.0.0.1:1/x",
        "ssh://x/y",
        "http://169.254.169.254/",
        "/dev/sda",
        "file:/etc/passwd",
        "\u{fffd}",
    ] {
        let image = backing(place, u32::try_from(name.len()).unwrap(), name.as_bytes());
        assert_refused(&service, &client, name, &image, &[Verdict::Unsafe], &["UNSAFE_BACKING_FILE"]).await;
        let found = inspect_bytes(&service, &client, &image).await;
        answers.push(found.reasons);
        assert!(!format!("{:?}", answers.last()).contains("passwd"), "names in images are not repeated");
    }
    assert_eq!(answers[0], answers[1], "no oracle");
    for (what, image) in [
        ("an offset without a length", backing(place, 0, b"")),
        ("a length without an offset", backing(0, 10, b"")),
        ("beyond the header cluster", backing(1 << 20, 10, b"")),
        ("beyond the file", backing(1 << 40, 10, b"")),
        ("a length without end", backing(place, u32::MAX, b"x")),
        ("not UTF-8", backing(place, 4, b"\xff\xfe\xff\xfe")),
    ] {
        let verdicts = [Verdict::Unsafe, Verdict::Invalid];
        assert_refused(&service, &client, what, &image, &verdicts, &["UNSAFE_BACKING_FILE"]).await;
    }
}

/// SEC-02: each mark of an external data file suffices, in both versions.
#[tokio::test]
async fn sec_02_external_data_files_are_refused_by_each_mark_alone() {
    let Some(images) = images() else { return };
    let service = Service::start();
    let client = service.client();
    const DATA_FILE_NAME: u32 = 0x4441_5441;
    let v3 = Qcow2::read(&images, "variants/v3.qcow2");
    let v2 = Qcow2::read(&images, "variants/v2.qcow2");
    for (what, image) in [
        ("the feature bit", v3.with(72, &4_u64.to_be_bytes())),
        ("the name extension", v3.with_extension(DATA_FILE_NAME, b"/etc/passwd")),
        ("the raw bit", v3.with(88, &2_u64.to_be_bytes())),
        ("the name extension in version 2", v2.with_extension(DATA_FILE_NAME, b"/etc/passwd")),
    ] {
        assert_refused(&service, &client, what, &image, &[Verdict::Unsafe], &["UNSAFE_DATA_FILE"]).await;
    }
    let set = fs::read(images.join("variants/data-file.qcow2")).unwrap();
    assert_refused(&service, &client, "qemu's", &set, &[Verdict::Unsafe], &["UNSAFE_DATA_FILE"]).await;
}

/// SEC-03: of the 64 incompatible features only those on the list are read.
#[tokio::test]
async fn sec_03_unknown_incompatible_features_are_refused_bit_by_bit() {
    let Some(images) = images() else { return };
    let service = Service::start();
    let client = service.client();
    let good = Qcow2::read(&images, "variants/v3.qcow2");
    for bit in 0..64 {
        let image = good.with(72, &(1_u64 << bit).to_be_bytes());
        let found = inspect_bytes(&service, &client, &image).await;
        let code = found.reasons.first().map(|reason| reason.code.clone()).unwrap_or_default();
        match bit {
            // Dirty, corrupt, data file, compression type, extended L2: each has its own meaning.
            0 => assert!(matches!(found.verdict(), Verdict::Valid | Verdict::Corrupt), "{found:?}"),
            1 => assert_eq!(found.verdict(), Verdict::Corrupt),
            2 => assert_eq!(code, "UNSAFE_DATA_FILE"),
            3 | 4 => assert_ne!(code, "INVALID_INCOMPATIBLE_FEATURE"),
            _ => {
                assert_eq!(found.verdict(), Verdict::Invalid, "bit {bit}: {found:?}");
                assert_eq!(code, "INVALID_INCOMPATIBLE_FEATURE", "bit {bit}");
                let refused = try_upload(&client, &metadata("bit"), &image).await.unwrap_err();
                assert_status(&refused, Code::InvalidArgument, "INVALID_INCOMPATIBLE_FEATURE");
            }
        }
    }
}

/// SEC-09: a file that is two formats at once is refused; install media that are meant to be are not.
#[tokio::test]
async fn sec_09_polyglots_are_refused() {
    let Some(images) = images() else { return };
    let service = Service::start();
    let client = service.client();
    let read = |name: &str| fs::read(images.join(name)).unwrap();
    let (iso, qcow2, raw) = (read("formats/disc.iso"), read("variants/v3.qcow2"), read("fs/ext2-1k.raw"));
    let footer = {
        let vhd = read("formats/vpc-fixed.vhd");
        vhd[vhd.len() - 512..].to_vec()
    };
    let over = |base: &[u8], head: &[u8]| {
        let mut image = base.to_vec();
        image[..head.len()].copy_from_slice(head);
        image
    };
    let behind = |base: &[u8]| [base, footer.as_slice()].concat();
    let descriptor =
        b"# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\nRW 8 FLAT \"/etc/passwd\" 0\n";
    let mut vdi = vec![0; 512];
    vdi[64..68].copy_from_slice(&0xbeda_107f_u32.to_le_bytes());
    for (what, image) in [
        ("qcow2 header in an ISO", over(&iso, &qcow2[..512])),
        ("VMDK descriptor in an ISO", over(&iso, descriptor)),
        ("VDI signature in an ISO", over(&iso, &vdi)),
        ("VHD footer behind qcow2", behind(&qcow2)),
        ("VHD footer behind an ISO", behind(&iso)),
    ] {
        let found = inspect_bytes(&service, &client, &image).await;
        assert!(matches!(found.verdict(), Verdict::Unsafe | Verdict::Unsupported), "{what}: {found:?}");
        let refused = try_upload(&client, &metadata("polyglot"), &image).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}");
        assert!(reason(&refused).starts_with("UNSAFE") || reason(&refused) == "UNSUPPORTED_FORMAT", "{what}");
    }
    // A text descriptor alone names other files.
    let mut text = descriptor.to_vec();
    text.resize(4096, b'\n');
    let refused = try_upload(&client, &metadata("descriptor"), &text).await.unwrap_err();
    assert!(reason(&refused).starts_with("UNS"), "{refused:?}");
    // The first bytes of a raw disk that declares itself raw are still looked at.
    let declared =
        UploadMetadata { declared_format: ImageFormat::Raw.into(), ..metadata("raw that is qcow2") };
    let refused = try_upload(&client, &declared, &qcow2).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_FORMAT_MISMATCH");
    // A hybrid install medium: an ISO with a boot sector and a partition table.
    let mut hybrid = iso.clone();
    hybrid[446..462].copy_from_slice(&[0x80, 0, 1, 0, 0x17, 0, 1, 0, 0, 0, 0, 0, 0x28, 5, 0, 0]);
    hybrid[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(try_upload(&client, &metadata("hybrid"), &hybrid).await.unwrap().format(), ImageFormat::Iso);
    assert_eq!(try_upload(&client, &metadata("raw"), &raw).await.unwrap().format(), ImageFormat::Raw);
}

/// SEC-14: the declared size counts, though nothing of it is stored.
#[tokio::test]
async fn sec_14_a_header_that_promises_too_much_is_refused() {
    let Some(images) = images() else { return };
    let service = Service::start_with(&["--virtual-size-max-bytes", "1073741824"]);
    let client = service.client();
    let huge = fs::read(images.join("variants/huge-virtual.qcow2")).unwrap();
    let found = inspect_bytes(&service, &client, &huge).await;
    assert_eq!(found.verdict(), Verdict::Unsafe, "{found:?}");
    let refused = try_upload(&client, &metadata("huge"), &huge).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "UNSAFE_VIRTUAL_SIZE");
    assert_eq!(service.staged(), [""; 0]);
}

/// SEC-25: a label is text for people; what could deceive them or a terminal is refused.
#[tokio::test]
async fn sec_25_labels_without_control_characters() {
    let service = Service::start();
    let client = service.client();
    let long = "x".repeat(256);
    for label in
        ["a\nb", "a\rb", "a\0b", "\x1b[31mred", "\u{7f}", "\u{85}", "\u{202e}gpj", "\u{2066}x", &long]
    {
        let metadata = UploadMetadata { display_name: label.to_owned(), ..metadata("") };
        let refused = try_upload(&client, &metadata, b"disk").await.unwrap_err();
        assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    }
    let source = support::upload::upload(&client, &[1; 4096]).await;
    let request = CompressRequest {
        source: support::jobs::image(&source.name),
        output_display_name: "a\nb".to_owned(),
        ..CompressRequest::default()
    };
    let refused = client.stub().compress(request).await.unwrap_err();
    assert_status(&refused, Code::InvalidArgument, "INVALID_ARGUMENT");
    let fine = "d".repeat(255);
    for label in ["", "Debian 13 ✓ <b>&\"'", "../../etc/passwd", fine.as_str(), "日本語", "a; rm -rf /"]
    {
        let metadata = UploadMetadata { display_name: label.to_owned(), ..metadata("") };
        let image = try_upload(&client, &metadata, b"disk").await.unwrap();
        assert_eq!(image.display_name, label);
        let path = format!("/v1/images/{}/content", image.name.trim_start_matches("images/"));
        let answer = support::http::get(service.http(), &path);
        let disposition = answer.header("content-disposition").unwrap_or_default();
        assert!(disposition.starts_with("attachment") && disposition.is_ascii(), "{label}: {disposition}");
    }
    assert!(client.list_uploads(ListUploadsRequest::default()).await.unwrap().uploads.len() >= 6);
}

/// Ids are looked up, never joined into a path.
#[tokio::test]
async fn ids_never_become_paths() {
    let service = Service::start();
    for id in ["..", "%2e%2e", "..%2f..%2fcatalogue.sqlite", "%00", "a%2fb", "x".repeat(5000).as_str()] {
        for path in [
            format!("{LEGACY}/check/{id}"),
            format!("/v1/jobs/{id}"),
            format!("/v1/images/{id}/content"),
            format!("/v1/uploads/{id}"),
        ] {
            let answer = support::http::get(service.http(), &path);
            assert!((400..=500).contains(&answer.status), "{path}: {}", answer.status);
            let text = answer.text();
            assert!(!text.contains("sqlite") && !text.contains(&service.data_dir().display().to_string()));
        }
    }
}
