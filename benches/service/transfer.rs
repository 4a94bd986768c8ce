//! One image in and out, by the commands that a user types.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::Options;
use crate::contender::{Contender, race};
use crate::figures::{Figures, Row, mib};
use crate::peers::Peer;
use crate::support::http::request;
use crate::support::random::Random;
use crate::support::usage::peak_bytes;
use crate::support::{Service, binary};

const MIB: u64 = 1 << 20;
/// What is read anew from the cache each time, and cannot be compressed.
const NAME: &str = "noise.raw";
const UPLOAD_AIM: &str = "480 MB/s, and 3 times Glance, where a flushed write reaches 1 GB/s";
const DOWNLOAD_AIM: &str = "0.8 of nginx";
/// Sizes of images for the growth curves, in MiB.
const SIZES_MIB: [u64; 5] = [64, 256, 1024, 4096, 8192];

pub fn measure(options: &Options, figures: &mut Figures) {
    let service = Service::start();
    let source = source(&service, options.size_mib);
    let glance =
        options.glance.as_deref().and_then(|environment| Peer::glance(service.scratch(), environment));
    if options.wants("upload") {
        figures.race(uploads(options, &service, &source, glance.as_ref()));
    }
    if options.wants("download") {
        figures.race(downloads(options, &service, &source, glance.as_ref()));
    }
}

/// What is sent.
pub fn source(service: &Service, size_mib: u64) -> PathBuf {
    let path = service.scratch().join(NAME);
    write_noise(&path, size_mib * MIB);
    path
}

/// Noise: no byte of it compresses, no block of it is zero.
fn write_noise(path: &Path, size_bytes: u64) {
    let mut file = File::create(path).unwrap();
    let mut random = Random::from_seed(size_bytes);
    for _ in 0..size_bytes / MIB {
        file.write_all(&random.bytes(MIB as usize)).expect("room for the source");
    }
    file.sync_all().unwrap();
}

fn uploads(
    options: &Options,
    service: &Service,
    source: &Path,
    glance: Option<&Peer>,
) -> crate::figures::Race {
    let (http, grpc) = (format!("http://{}", service.http()), format!("http://{}", service.grpc()));
    let copy = service.scratch().join("copy.raw");
    let id = RefCell::new(String::new());
    let mut all = vec![
        Contender {
            name: "imageops upload (gRPC)",
            shown: format!("imageops upload {NAME}"),
            command: Box::new(|| upload_command(source, &grpc)),
            clean: Box::new(|told| remove(service, &name_of(&told))),
            server: Some(service.id()),
        },
        Contender {
            name: "imageops upload --sha256 (gRPC)",
            shown: format!("imageops upload --sha256 {NAME}"),
            command: Box::new(|| {
                let mut command = upload_command(source, &grpc);
                command.arg("--sha256");
                command
            }),
            clean: Box::new(|told| remove(service, &name_of(&told))),
            server: Some(service.id()),
        },
        Contender {
            name: "imageops (REST)",
            shown: format!("curl -T {NAME} -X POST …/v1/images"),
            command: Box::new(|| {
                let mut command = curl();
                command.arg("-T").arg(source).args(["-X", "POST", &format!("{http}/v1/images")]);
                command
            }),
            clean: Box::new(|told| remove(service, &name_of(&told))),
            server: Some(service.id()),
        },
        Contender {
            name: "a plain write, flushed",
            shown: format!("dd if={NAME} of=copy bs=1M conv=fsync"),
            command: Box::new(|| {
                let mut command = Command::new("dd");
                command.arg(format!("if={}", source.display())).arg(format!("of={}", copy.display()));
                command.args(["bs=1M", "conv=fsync", "status=none"]);
                command
            }),
            clean: Box::new(|_| std::fs::remove_file(&copy).unwrap()),
            server: None,
        },
        Contender {
            name: "md5sum alone",
            shown: format!("md5sum {NAME}"),
            command: Box::new(|| {
                let mut command = Command::new("md5sum");
                command.arg(source);
                command
            }),
            clean: Box::new(drop),
            server: None,
        },
    ];
    if let Some(glance) = glance {
        all.push(Contender {
            name: "Glance (PUT, not flushed)",
            shown: format!("curl -T {NAME} …/v2/images/ID/file"),
            command: Box::new(|| {
                *id.borrow_mut() = glance.new_glance_image();
                let url = format!("http://{}/v2/images/{}/file", glance.address, id.borrow());
                let mut command = curl();
                command.arg("-T").arg(source).args(["-H", "Content-Type: application/octet-stream", &url]);
                command
            }),
            clean: Box::new(|_| glance.remove_glance_image(&id.borrow())),
            server: None,
        });
    }
    let absent = if glance.is_none() { vec![missing("Glance (PUT, not flushed)")] } else { Vec::new() };
    let title = format!("Upload of {} MiB", options.size_mib);
    race(&title, UPLOAD_AIM, options.size_mib * MIB, options.rounds, all, absent)
}

fn downloads(
    options: &Options,
    service: &Service,
    source: &Path,
    glance: Option<&Peer>,
) -> crate::figures::Race {
    let (http, grpc) = (format!("http://{}", service.http()), format!("http://{}", service.grpc()));
    let image = upload_by_rest(service, source);
    let nginx = Peer::nginx(service.scratch(), service.scratch());
    let content = format!("{http}/v1/{image}/content");
    let plain = nginx.as_ref().map(|nginx| format!("http://{}/{NAME}", nginx.address));
    let of_glance = glance.map(|glance| {
        let id = glance.new_glance_image();
        let url = format!("http://{}/v2/images/{id}/file", glance.address);
        told_by(curl().arg("-T").arg(source).args(["-H", "Content-Type: application/octet-stream", &url]));
        url
    });
    let get = |url: String| {
        move || {
            let mut command = curl();
            command.args(["-o", "/dev/null", &url]);
            command
        }
    };
    let mut absent = Vec::new();
    let mut all = vec![
        Contender {
            name: "imageops (REST)",
            shown: "curl …/v1/images/ID/content".to_owned(),
            command: Box::new(get(content)),
            clean: Box::new(drop),
            server: Some(service.id()),
        },
        Contender {
            name: "imageops download (gRPC, verified)",
            shown: "imageops download images/ID - >/dev/null".to_owned(),
            command: Box::new(|| download_command(&image, &grpc)),
            clean: Box::new(drop),
            server: Some(service.id()),
        },
    ];
    match plain {
        Some(url) => all.push(Contender {
            name: "nginx",
            shown: format!("curl …/{NAME}"),
            command: Box::new(get(url)),
            clean: Box::new(drop),
            server: None,
        }),
        None => absent.push(missing("nginx")),
    }
    match of_glance {
        Some(url) => all.push(Contender {
            name: "Glance",
            shown: "curl …/v2/images/ID/file".to_owned(),
            command: Box::new(get(url)),
            clean: Box::new(drop),
            server: None,
        }),
        None => absent.push(missing("Glance")),
    }
    let title = format!("Download of {} MiB", options.size_mib);
    race(&title, DOWNLOAD_AIM, options.size_mib * MIB, options.rounds, all, absent)
}

/// How fast and in how much memory images of each size come in and go out over REST.
pub fn measure_sizes(options: &Options, figures: &mut Figures) {
    let (mut up, mut down, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for size_mib in SIZES_MIB.into_iter().filter(|size| *size <= options.size_mib * 8) {
        let service = Service::start();
        let source = source(&service, size_mib);
        let start = Instant::now();
        let image = upload_by_rest(&service, &source);
        let bytes = size_mib as f64 * MIB as f64 / 1e6;
        up.push((size_mib as f64, bytes / start.elapsed().as_secs_f64()));
        let start = Instant::now();
        download_by_rest(&service, &image);
        down.push((size_mib as f64, bytes / start.elapsed().as_secs_f64()));
        memory.push((size_mib as f64, mib(peak_bytes(service.id()))));
    }
    figures.curve("Upload by size of the image", "MiB", "MB/s", up);
    figures.curve("Download by size of the image", "MiB", "MB/s", down);
    figures.curve("Peak memory by size of the image", "MiB", "MiB", memory);
}

/// The image that it became.
pub fn upload_by_rest(service: &Service, source: &Path) -> String {
    let url = format!("http://{}/v1/images", service.http());
    name_of(&told_by(curl().arg("-T").arg(source).args(["-X", "POST", &url])))
}

/// The image that it became.
pub fn upload_by_grpc(service: &Service, source: &Path) -> String {
    name_of(&told_by(&mut upload_command(source, &format!("http://{}", service.grpc()))))
}

fn upload_command(source: &Path, server: &str) -> Command {
    let mut command = Command::new(binary("imageops"));
    command.arg("upload").arg(source).args(["--server", server, "--output", "json"]);
    command
}

pub fn download_by_rest(service: &Service, image: &str) {
    let url = format!("http://{}/v1/{image}/content", service.http());
    told_by(curl().args(["-o", "/dev/null", &url]));
}

pub fn download_by_grpc(service: &Service, image: &str) {
    told_by(&mut download_command(image, &format!("http://{}", service.grpc())));
}

fn download_command(image: &str, server: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" download \"$1\" - --server \"$2\" >/dev/null"]);
    command.arg(binary("imageops")).args([image, server]);
    command
}

fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail"]);
    command
}

fn told_by(command: &mut Command) -> String {
    let output = command.output().expect("a program that runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The image in the answer of REST or of the command line.
fn name_of(told: &str) -> String {
    let told: Value = serde_json::from_str(told).unwrap_or_else(|error| panic!("{error}: {told}"));
    let name =
        told.pointer("/name").or_else(|| told.pointer("/image/name")).or_else(|| told.pointer("/image"));
    name.and_then(Value::as_str).unwrap_or_else(|| panic!("no image in {told}")).to_owned()
}

pub fn remove(service: &Service, image: &str) {
    let path = format!("/v1/{image}?purge=true");
    let answer = request(service.http(), "DELETE", &path, &[], &[]);
    assert!(answer.status < 300, "{answer:?}");
}

fn missing(name: &str) -> Row {
    Row {
        name: name.to_owned(),
        command: String::new(),
        runs: Vec::new(),
        cpu_seconds: Vec::new(),
        missing: Some("not installed".to_owned()),
    }
}
