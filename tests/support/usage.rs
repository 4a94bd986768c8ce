//! What a process takes of the machine, as Linux tells it.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Bytes of a block, whatever the file system's are: `st_blocks` counts in these (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Clock ticks of a second in `/proc/*/stat`: fixed by the kernel's interface (proc(5)).
const TICKS_PER_SECOND: u64 = 100;

/// Memory that the process has now, in bytes.
pub fn resident_bytes(process: u32) -> u64 {
    status(process, "VmRSS:")
}

/// The most memory that the process ever had, in bytes.
pub fn peak_bytes(process: u32) -> u64 {
    status(process, "VmHWM:")
}

/// Files, sockets and the like that the process has open.
pub fn open_files(process: u32) -> u64 {
    entries(process, "fd")
}

/// Threads of the process.
pub fn threads(process: u32) -> u64 {
    entries(process, "task")
}

fn entries(process: u32, directory: &str) -> u64 {
    fs::read_dir(format!("/proc/{process}/{directory}")).expect("a running process").count() as u64
}

fn status(process: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of the status");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("kibibytes");
    kibibytes << 10
}

/// Time that the process has had of all processors.
pub fn cpu_time(process: u32) -> Duration {
    // User and system time are the 14th and 15th field.
    let fields = stat(process);
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

/// What a file takes of the disk, holes left out.
pub fn allocated_bytes(file: &Metadata) -> u64 {
    file.blocks() * BLOCK_BYTES
}

/// What is being written takes so much of the disk: the files in these directories, and those that a process has open
/// and that have no name.
pub fn staged_bytes(process: u32, directories: &[&Path]) -> u64 {
    // What is gone by the time that it is looked at takes nothing.
    let named = directories.iter().flat_map(|directory| fs::read_dir(directory).expect("a directory"));
    let named = named.filter_map(|entry| entry.ok()?.metadata().ok());
    let open = fs::read_dir(format!("/proc/{process}/fd")).expect("a running process");
    let open = open.filter_map(|entry| fs::metadata(entry.ok()?.path()).ok());
    let unnamed = open.filter(|file| file.is_file() && file.nlink() == 0);
    // One file may be open more than once.
    let files: BTreeMap<_, _> =
        named.chain(unnamed).map(|file| ((file.dev(), file.ino()), allocated_bytes(&file))).collect();
    files.into_values().sum()
}

/// The processors that this process may run on: a list like `0-3,6` (proc(5)).
pub fn processors() -> String {
    let text = fs::read_to_string("/proc/self/status").expect("a running process");
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.expect("a field of the status").trim().to_owned()
}

/// Has a process, with all of its threads, run on these processors alone: a list as taskset(1) takes it.
pub fn pin(process: u32, processors: &str) {
    let mut taskset = Command::new("taskset");
    let done = taskset.args(["-a", "-c", "-p", processors, &process.to_string()]).output().expect("taskset");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Whether a signal has stopped the process, and all of its threads.
pub fn is_stopped(process: u32) -> bool {
    stat(process)[0] == "T"
}

/// What the kernel says of a process, from the third field on: the name before it stands in parentheses, and may hold
/// anything.
fn stat(process: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    text.rsplit(')').next().expect("fields").split_whitespace().map(str::to_owned).collect()
}

/// The value below which 99 of 100 lie; sorts.
pub fn p99(times: &mut [Duration]) -> Duration {
    times.sort();
    times[(times.len() * 99 / 100).min(times.len() - 1)]
}
