//! What a process takes of the machine, as Linux tells it.

use std::fs;
use std::time::Duration;

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
