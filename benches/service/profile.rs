//! Where the time goes: the server is sampled by `perf` while it works, and drawn as a flame graph.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use imageops::v1::JobState;

use crate::Options;
use crate::flame::Frame;
use crate::support::jobs::{compress_file, write_busy_disk};
use crate::support::{Service, wait_for};
use crate::{transfer, watch};

/// Samples a second; odd, so that they do not fall in step with timers.
const RATE: &str = "499";
/// Times that an image is sent: enough samples of what takes a second.
const TIMES: usize = 4;
const WATCHERS: usize = 10_000;
const DISK_BYTES: u64 = 2 << 30;

/// Draws `profile-NAME.svg` into `directory` for each kind of work.
pub async fn measure(options: &Options, directory: &Path) {
    let draw = |name: &str, title: &str, samples: &Frame| {
        std::fs::write(directory.join(format!("profile-{name}.svg")), samples.draw(title)).unwrap();
        for part in ["md5", "sha256", "_[k]"] {
            let share = 100.0 * samples.samples_in(part) as f64 / samples.samples().max(1) as f64;
            println!("{title}: {part} {share:.0} %");
        }
    };
    let service = Service::start();
    let source = transfer::source(&service, options.size_mib);
    let perf = Perf::start(service.id(), service.scratch());
    for _ in 0..TIMES {
        transfer::remove(&service, &transfer::upload_by_rest(&service, &source));
    }
    draw("upload", "Upload over REST", &perf.end());
    let perf = Perf::start(service.id(), service.scratch());
    for _ in 0..TIMES {
        transfer::remove(&service, &transfer::upload_by_grpc(&service, &source));
    }
    draw("upload-grpc", "Upload over gRPC", &perf.end());
    let image = transfer::upload_by_rest(&service, &source);
    let perf = Perf::start(service.id(), service.scratch());
    for _ in 0..TIMES {
        transfer::download_by_rest(&service, &image);
    }
    draw("download", "Download over REST", &perf.end());
    let perf = Perf::start(service.id(), service.scratch());
    for _ in 0..TIMES {
        transfer::download_by_grpc(&service, &image);
    }
    draw("download-grpc", "Download over gRPC", &perf.end());

    write_busy_disk(&service.image_path().join("busy.raw"), DISK_BYTES);
    let perf = Perf::start(service.id(), service.scratch());
    let client = service.client();
    let job = client.compress(compress_file("busy.raw", "out.qcow2")).await.unwrap().name;
    wait_for(&client, &job, JobState::Succeeded).await;
    draw("compress", "Compression", &perf.end());

    let crowd = watch::Crowd::start(WATCHERS).await;
    let perf = Perf::start(crowd.service.id(), service.scratch());
    let _crowd = crowd.read().await;
    draw("watch", "10,000 watchers of one compression", &perf.end());
}

/// `perf record` beside a process.
struct Perf<'a> {
    process: Child,
    directory: &'a Path,
}

impl<'a> Perf<'a> {
    fn start(process: u32, directory: &'a Path) -> Self {
        let process = Command::new("perf")
            .args(["record", "--quiet", "-e", "cpu-clock", "-F", RATE, "--call-graph", "dwarf,16384"])
            .args(["-p", &process.to_string(), "-o"])
            .arg(directory.join("perf.data"))
            .stdin(Stdio::null())
            .spawn()
            .expect("perf, of the Debian package linux-perf");
        // perf has no sign of being ready; what it misses is the beginning of some seconds.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Self { process, directory }
    }

    fn end(mut self) -> Frame {
        let interrupted = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        assert!(interrupted.is_ok_and(|status| status.success()));
        self.process.wait().unwrap();
        let script = Command::new("perf")
            .args(["script", "-F", "comm,ip,sym,dso", "-i"])
            .arg(self.directory.join("perf.data"))
            .stderr(Stdio::null())
            .output()
            .unwrap();
        fold(&String::from_utf8_lossy(&script.stdout))
    }
}

/// Stacks as `perf script` tells them: the name of the thread, then a line for each function, the innermost first.
fn fold(script: &str) -> Frame {
    let mut all = Frame::default();
    for sample in script.split("\n\n") {
        let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
        let Some(thread) = lines.next() else { continue };
        let mut stack: Vec<String> = lines.filter_map(function).collect();
        stack.push(
            thread.trim().trim_end_matches(|last: char| last.is_ascii_digit() || last == '-').to_owned(),
        );
        stack.reverse();
        all.add(&stack);
    }
    all
}

/// `55d0 name (/path/of/binary)` without address, hash and place; `None` for what surrounds every stack.
fn function(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, dso) = rest.rsplit_once(" (")?;
    let name = match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 => name,
        _ => name,
    };
    const AROUND: [&str; 6] =
        ["[unknown]", "std::", "core::ops::function", "__rust_begin", "start_thread", "clone3"];
    if AROUND.iter().any(|around| name.starts_with(around)) {
        return None;
    }
    Some(if dso.starts_with("[kernel") { format!("{name}_[k]") } else { name.to_owned() })
}
