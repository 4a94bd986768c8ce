//! What the figures were taken on.

use std::path::Path;
use std::{env, fs, thread};

use anyhow::{Context as _, Result};

use crate::process::{self, Run as _};

/// Processor, memory and system, from what the kernel says.
pub(crate) fn describe() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once([':', '=']).map_or("unknown", |(_, value)| value.trim().trim_matches('"')).to_owned()
    };
    let memory_kib: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // The variable is libguestfs' own: it keeps away from a KVM that is there and does not work.
    let without = env::var("LIBGUESTFS_BACKEND_SETTINGS").is_ok_and(|value| value.contains("force_tcg"));
    let kvm = if !without && Path::new("/dev/kvm").exists() { "with KVM" } else { "without KVM" };
    format!(
        "{cores} cores ({}), {} GiB of memory, {}, {kvm}",
        field("/proc/cpuinfo", "model name"),
        memory_kib >> 20,
        field("/etc/os-release", "PRETTY_NAME")
    )
}

/// Sizes of the image.
pub(crate) fn image(path: &Path) -> Result<String> {
    let info = process::command("qemu-img").args(["info", "--output", "json"]).arg(path).capture()?;
    let info: serde_json::Value = serde_json::from_str(&info).context("qemu-img info printed no JSON")?;
    let mib = |member: &str| info[member].as_u64().unwrap_or(0) >> 20;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!(
        "`{name}`, {} MiB on disk, {} MiB as the guest sees it",
        mib("actual-size"),
        mib("virtual-size")
    ))
}

/// Version of each program that takes part and is installed.
pub(crate) fn versions(imageops: &Path) -> Vec<String> {
    let programs = [&*imageops.to_string_lossy(), "qemu-img", "virt-sparsify", "md5sum", "rustc"];
    programs.into_iter().filter_map(version).collect()
}

fn version(program: &str) -> Option<String> {
    let mut command = process::command(program);
    let text = command.arg("--version").env("LIBGUESTFS_BACKEND", "direct").capture().ok()?;
    text.lines().next().map(str::to_owned)
}
