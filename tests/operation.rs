//! Starting, stopping and being looked after: exit codes, drains, probes, reflection.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use imageops::v1::{JobState, ListJobsRequest, UploadState};
use imageops_client::{Client, ConnectOptions, Connection};
use rustix::process::Signal;
use tonic::{Code, Request};

use support::http::get;
use support::images::have;
use support::jobs::{check_file, slow_compress_file, write_busy_disk};
use support::mount::SmallDisk;
use support::process::{Server, Setup};
use support::status::{assert_status, eventually};
use support::upload::{Stream, commit_of, metadata, name_of};
use support::{DEADLINE, Service, binary, wait_for};

const EXIT_USAGE: i32 = 64;
const EXIT_PORT: i32 = 69;
const EXIT_STORAGE: i32 = 73;
const EXIT_IN_USE: i32 = 75;
const EXIT_CATALOGUE: i32 = 76;
const EXIT_CONFIGURATION: i32 = 78;

fn setup_in(directory: &Path) -> Setup {
    let setup = Setup::below(binary("imageops-server"), directory);
    std::fs::create_dir_all(&setup.image_path).unwrap();
    setup
}

/// Runs a server that must refuse to start: how it ended, within five seconds.
fn refuse(setup: &Setup) -> Output {
    ended_at_once(setup).expect("a server that refuses to start within five seconds")
}

/// How a server ended within five seconds, if it did; else it has come up, and is killed.
fn ended_at_once(setup: &Setup) -> Option<Output> {
    let mut child = setup.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut has_ended = false;
    while !has_ended && Instant::now() < deadline {
        has_ended = child.try_wait().unwrap().is_some();
        std::thread::sleep(Duration::from_millis(5));
    }
    if !has_ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    has_ended.then_some(output)
}

fn assert_refused(output: &Output, exit: i32, what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{what}: {said}");
    assert!(output.stdout.is_empty(), "no port was announced: {what}");
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("imageops-server: ")).collect();
    assert_eq!(lines.len(), 1, "one clear line: {said}");
}

/// rel_43: each cause has its own exit code and one line, and comes before a port is bound.
#[test]
fn rel_43_what_cannot_work_is_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    // A port that somebody has: were it tried before the settings, the exit code would be another.
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = taken.local_addr().unwrap();
    let file = directory.path().join("wrong.toml");
    std::fs::write(&file, "workers = 2\nno_such_setting = 1\n").unwrap();
    let file = file.display().to_string();
    for arguments in [
        vec!["--workers", "0"],
        vec!["--workers", "257"],
        vec!["--job-timeout-seconds", "0"],
        vec!["--job-timeout-seconds", "NaN"],
        vec!["--log", "=/="],
        vec!["--config", "/does/not/exist.toml"],
        vec!["--config", &file],
        vec!["--cors-origins", "a\nb"],
    ] {
        let mut setup = setup_in(directory.path());
        setup.grpc_listen = taken;
        setup.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        assert_refused(&refuse(&setup), EXIT_CONFIGURATION, &format!("{arguments:?}"));
        assert!(!setup.data_dir.exists(), "nothing was made: {arguments:?}");
    }
    let mut beyond = setup_in(directory.path());
    beyond.http_listen = SocketAddr::from(([0, 0, 0, 0], 0));
    assert_refused(&refuse(&beyond), EXIT_CONFIGURATION, "everyone let in by accident");

    let mut setup = setup_in(directory.path());
    setup.arguments = vec!["--no-such-flag".to_owned()];
    assert_eq!(refuse(&setup).status.code(), Some(EXIT_USAGE));

    for rest in [false, true] {
        let mut setup = setup_in(directory.path());
        *(if rest { &mut setup.http_listen } else { &mut setup.grpc_listen }) = taken;
        let output = refuse(&setup);
        assert_refused(&output, EXIT_PORT, "a port that is taken");
        assert!(String::from_utf8_lossy(&output.stderr).contains(&taken.to_string()));
    }

    let mut setup = setup_in(directory.path());
    let blocked = directory.path().join("a-file");
    std::fs::write(&blocked, "not a directory").unwrap();
    setup.data_dir = blocked.join("data");
    assert_refused(&refuse(&setup), EXIT_STORAGE, "a data directory that cannot be made");

    let mut setup = setup_in(directory.path());
    setup.data_dir = directory.path().join("broken");
    std::fs::create_dir(&setup.data_dir).unwrap();
    std::fs::write(setup.data_dir.join("catalogue.sqlite"), [7; 5000]).unwrap();
    assert_refused(&refuse(&setup), EXIT_CATALOGUE, "a catalogue that is none");
}

/// rel_43: a catalogue in a database that is not there, or that takes a connection and says nothing.
#[test]
fn rel_43_a_database_that_is_away_is_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let closed = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    for (address, what) in [(closed, "nobody listens"), (silent.local_addr().unwrap(), "nobody answers")] {
        let mut setup = setup_in(directory.path());
        setup.arguments =
            vec!["--catalogue-url".to_owned(), format!("postgres://someone:hidden@{address}/x")];
        let output = refuse(&setup);
        assert_refused(&output, EXIT_CATALOGUE, what);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("--catalogue-url") && !said.contains("hidden"), "{what}: {said}");
    }
}

/// rel_43: the catalogue was used by a later version.
#[test]
fn rel_43_a_newer_schema_is_said_at_the_start() {
    const NEWER: &str = "import sqlite3, sys\n\
        with sqlite3.connect(sys.argv[1]) as db:\n\
        \x20   db.execute(\"INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
        VALUES (9999, 'later', TRUE, x'', 0)\")\n";
    if !have("python3") {
        return;
    }
    let mut service = Service::start();
    service.kill();
    let catalogue = service.data_dir().join("catalogue.sqlite");
    let changed = Command::new("python3").args(["-c", NEWER]).arg(catalogue).output().unwrap();
    assert!(changed.status.success(), "{}", String::from_utf8_lossy(&changed.stderr));
    let output = refuse(service.setup());
    assert_refused(&output, EXIT_CATALOGUE, "a newer schema");
    assert!(String::from_utf8_lossy(&output.stderr).contains("start the newer version"));
}

/// rel_43: a place that takes no writes, or no more bytes, when the server is there for the first time and when it was before.
#[test]
fn rel_43_a_store_that_cannot_be_written_is_said_at_the_start() {
    for is_new in [true, false] {
        for is_full in [true, false] {
            let what = format!("new: {is_new}, full: {is_full}");
            let Some(disk) = SmallDisk::mount(64) else { return };
            let directory = tempfile::tempdir().unwrap();
            let mut setup = setup_in(directory.path());
            setup.data_dir = disk.path().join("data");
            if !is_new {
                drop(Server::start(&setup).unwrap());
            }
            if is_full {
                disk.fill("filler");
            } else {
                disk.make_read_only();
            }
            let output = ended_at_once(&setup);
            if is_full && !is_new {
                // What is there can be read, and removed.
                assert!(output.is_none(), "{what}: expected a server that serves: {output:?}");
                continue;
            }
            let output = output.unwrap_or_else(|| panic!("{what}: expected a refusal within five seconds"));
            assert_refused(&output, EXIT_STORAGE, &what);
            let cause = if is_full { "no space left" } else { "read-only" };
            let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
            assert!(said.contains(cause), "{what}: {said}");
        }
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_refused() {
    let service = Service::start();
    let first = service.setup();
    let mut second = Setup::below(binary("imageops-server"), service.scratch());
    second.data_dir.clone_from(&first.data_dir);
    assert_refused(&refuse(&second), EXIT_IN_USE, "another server has it");
    service.client().list_jobs(ListJobsRequest::default()).await.expect("the first goes on");
}

#[test]
fn printed_settings_are_a_file_that_means_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let print = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut setup = setup_in(directory.path());
        setup.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let output = setup.command().envs(environment.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let changed =
        ["--print-config", "--workers", "7", "--cors-origins", "https://a.example,https://b.example"];
    let printed = print(&changed, &[("IMAGEOPS_TIMEOUT", "1234.5"), ("TMP_PATH", "/tmp/legacy")]);
    assert!(printed.contains("workers = 7") && printed.contains("1234.5"), "{printed}");
    let file = directory.path().join("settings.toml");
    std::fs::write(&file, &printed).unwrap();
    let again = print(&["--print-config", "--config", file.to_str().unwrap()], &[]);
    assert_eq!(again, printed);
    // Flags win over the environment, that over the file.
    let arguments = ["--print-config", "--config", file.to_str().unwrap(), "--workers", "3"];
    let layered = print(&arguments, &[("IMAGEOPS_WORKERS", "5"), ("IMAGEOPS_QUEUE_LIMIT", "77")]);
    assert!(layered.contains("workers = 3") && layered.contains("queue_limit = 77"), "{layered}");
}

/// A secret-free start without any settings but HOME: everything in one directory, on loopback.
#[test]
fn defaults_need_nothing_but_a_home() {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new(binary("imageops-server"))
        .arg("--print-config")
        .env_clear()
        .env("HOME", home.path())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let data_dir = home.path().join(".local/share/imageops");
    assert!(printed.contains(&format!("data_dir = \"{}\"", data_dir.display())), "{printed}");
    assert!(printed.contains(&format!("image_path = \"{}\"", data_dir.join("images").display())));
    assert!(printed.contains("127.0.0.1:50051") && printed.contains("127.0.0.1:5000"), "{printed}");
    let output = Command::new(binary("imageops-server")).arg("--print-config").env_clear().output().unwrap();
    assert_eq!(output.status.code(), Some(EXIT_CONFIGURATION));
}

/// rel_40: SIGTERM lets streams end, gives jobs back, and the next life finishes them.
#[tokio::test(flavor = "multi_thread")]
async fn rel_40_sigterm_drains_and_the_next_life_goes_on() {
    let mut service = Service::start_with(&["--drain-seconds", "20"]);
    let client = service.client();
    write_busy_disk(&service.image_path().join("busy.raw"), 48 << 20);
    let running = client.compress(slow_compress_file("busy.raw", "out.img")).await.unwrap().name;
    wait_for(&client, &running, JobState::Running).await;
    let metadata = metadata("under way");
    let name = name_of(&metadata);
    let data = vec![5; 3 << 20];
    let stream = Stream::begin(&client, &metadata).await;
    stream.chunks(0, &data[..1 << 20]).await;
    eventually("an open upload", || async { client.get_upload(&name).await.ok() }).await;

    service.terminate();
    let begun = Instant::now();
    let ended = stream.answer().await.unwrap_err();
    assert_status(&ended, Code::Unavailable, "SHUTTING_DOWN");
    let status = service.wait();
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(22), "{:?}", begun.elapsed());
    assert!(TcpStream::connect(service.setup().grpc_listen).is_err(), "nothing listens any more");
    assert_eq!(service.image_names(), ["busy.raw"], "a job that was given back leaves nothing");

    service.restart();
    let client = service.client();
    let job = wait_for(&client, &running, JobState::Succeeded).await;
    assert_eq!(job.attempt, 2);
    let upload = client.get_upload(&name).await.unwrap();
    assert_eq!((upload.state(), upload.durable_bytes), (UploadState::Open, 1 << 20));
    let stream = Stream::resume(&client, &name, 1 << 20).await;
    stream.chunks(1 << 20, &data).await;
    stream.commit(commit_of(&data)).await.unwrap();
}

/// A drain is no crash: however often a job is given back, it is not given up.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_in_good_order_never_use_up_the_attempts() {
    let mut service = Service::start_with(&["--job-attempts", "1"]);
    write_busy_disk(&service.image_path().join("busy.raw"), 32 << 20);
    let job = service.client().compress(slow_compress_file("busy.raw", "out.img")).await.unwrap().name;
    for _ in 0..3 {
        wait_for(&service.client(), &job, JobState::Running).await;
        service.terminate();
        assert!(service.wait().success());
        service.restart();
    }
    wait_for(&service.client(), &job, JobState::Succeeded).await;
}

/// rel_42: the second signal ends the process within two seconds.
#[tokio::test(flavor = "multi_thread")]
async fn rel_42_a_second_signal_ends_at_once() {
    let mut service = Service::start_with(&["--drain-seconds", "600"]);
    let client = service.client();
    // A download that nobody reads holds the drain up.
    let image = support::upload::upload(&client, &vec![9; 64 << 20]).await;
    let request = imageops::v1::DownloadImageRequest { image: image.name, ..Default::default() };
    let mut idle = client.stub().download_image(request).await.unwrap().into_inner();
    idle.message().await.unwrap().unwrap();
    service.terminate();
    eventually("a drain", || async { service.output().contains("going down").then_some(()) }).await;
    let begun = Instant::now();
    service.signal(Signal::INT);
    let status = service.wait();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_ne!(status.code(), Some(0), "it was no drain to its end");
    drop(idle);
}

/// A drain ends after its time, though a client never lets go.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_has_an_end() {
    let mut service = Service::start_with(&["--drain-seconds", "1"]);
    let client = service.client();
    let image = support::upload::upload(&client, &vec![9; 64 << 20]).await;
    let request = imageops::v1::DownloadImageRequest { image: image.name, ..Default::default() };
    let mut idle = client.stub().download_image(request).await.unwrap().into_inner();
    idle.message().await.unwrap().unwrap();
    service.terminate();
    let begun = Instant::now();
    assert_eq!(service.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(idle);
}

/// `grpc.health.v1`, as much of it as is asked here.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.reflection.v1`, as much of it as is asked here.
#[derive(Clone, PartialEq, prost::Message)]
struct ReflectionRequest {
    #[prost(string, optional, tag = "4")]
    file_containing_symbol: Option<String>,
    #[prost(string, optional, tag = "7")]
    list_services: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReflectionResponse {
    #[prost(message, optional, tag = "4")]
    file_descriptors: Option<FileDescriptors>,
    #[prost(message, optional, tag = "6")]
    services: Option<Services>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FileDescriptors {
    #[prost(bytes = "vec", repeated, tag = "1")]
    files: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Services {
    #[prost(message, repeated, tag = "1")]
    services: Vec<ServiceName>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ServiceName {
    #[prost(string, tag = "1")]
    name: String,
}

async fn call<Q, A>(service: &Service, path: &'static str, request: Q) -> A
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let uri = format!("http://{}", service.grpc());
    let connection = Connection::connect_lazy(&uri, ConnectOptions::default()).unwrap();
    let mut grpc = tonic::client::Grpc::new(connection);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Q, A>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    let call = grpc.server_streaming(Request::new(request), path, codec);
    let mut answers = tokio::time::timeout(DEADLINE, call).await.unwrap().unwrap().into_inner();
    answers.message().await.unwrap().unwrap()
}

#[tokio::test]
async fn grpc_tools_find_their_way() {
    let service = Service::start();
    for name in ["", "imageops.v1.ImageOps"] {
        let request = HealthRequest { service: name.to_owned() };
        let answer: HealthResponse = call(&service, "/grpc.health.v1.Health/Check", request).await;
        assert_eq!(answer.status, 1, "SERVING");
    }
    for path in [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ] {
        let request = ReflectionRequest { list_services: Some("*".to_owned()), ..Default::default() };
        let answer: ReflectionResponse = call(&service, path, request).await;
        let names: Vec<_> = answer.services.unwrap().services.into_iter().map(|found| found.name).collect();
        for expected in ["imageops.v1.ImageOps", "grpc.health.v1.Health"] {
            assert!(names.iter().any(|name| name == expected), "{names:?}");
        }
        let symbol = Some("imageops.v1.ImageOps".to_owned());
        let request = ReflectionRequest { file_containing_symbol: symbol, ..Default::default() };
        let answer: ReflectionResponse = call(&service, path, request).await;
        assert!(!answer.file_descriptors.unwrap().files.is_empty());
    }
}

#[tokio::test]
async fn probes_and_measurements() {
    let service = Service::start();
    let client = service.client();
    std::fs::write(service.image_path().join("a.raw"), [1; 4096]).unwrap();
    let job = client.check(check_file("a.raw")).await.unwrap();
    wait_for(&client, &job.name, JobState::Succeeded).await;
    assert_eq!(get(service.http(), "/healthz").status, 200);
    assert_eq!(get(service.http(), "/readyz").status, 200);
    let metrics = get(service.http(), "/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain"));
    let ended = metrics.text().lines().find(|line| line.starts_with("imageops_jobs_ended_total{"));
    assert!(ended.is_some_and(|line| line.contains("succeeded") && line.ends_with(" 1")), "{ended:?}");
    assert!(metrics.text().contains("# HELP imageops_jobs_ended_total"));
    let openapi = get(service.http(), "/openapi.json").json();
    assert!(openapi["paths"]["/v1/jobs/{id}"].is_object());
    let unknown = get(service.http(), "/v1/nothing");
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.header("content-type"), Some("application/problem+json"));
}

/// A log that nobody takes any more ends neither requests nor jobs.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_ends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut setup = setup_in(directory.path());
    setup.arguments = vec!["--log".to_owned(), "debug".to_owned()];
    std::fs::write(setup.image_path.join("disk.raw"), [7; 4096]).unwrap();
    let mut command = setup.command();
    let mut server = Killed(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    drop(server.0.stderr.take());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let grpc = lines.find_map(|line| line.unwrap().strip_prefix("gRPC listening on ").map(str::to_owned));
    let uri = format!("http://{}", grpc.unwrap());
    let client = Client::new(Connection::connect_lazy(&uri, ConnectOptions::default()).unwrap());
    let worked = async {
        for _ in 0..3 {
            let job = client.check(check_file("disk.raw")).await.unwrap();
            wait_for(&client, &job.name, JobState::Succeeded).await;
        }
    };
    tokio::time::timeout(DEADLINE, worked).await.expect("jobs that end");
}

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
