//! Runs one contender and says what it took.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::contenders::{Contender, OUTPUT, SOURCE};
use super::record::Run;
use crate::process::{self, Run as _};

/// One run. The figures of the process come from GNU time, which reads them from the kernel when the command has ended.
pub(crate) fn run(contender: &Contender, source: &Path, scratch: &Path) -> Result<Run> {
    let output = scratch.join("output.qcow2");
    let figures = scratch.join("figures");
    remove(&output)?;
    let mut command = process::command("/usr/bin/time");
    command.args(["--format", "%U %S %M", "--output"]).arg(&figures);
    for word in &contender.words {
        match word.as_str() {
            SOURCE => command.arg(source),
            OUTPUT => command.arg(&output),
            _ => command.arg(word),
        };
    }
    // Without its daemon libguestfs starts qemu itself; its temporary copies belong on the measured medium.
    command.env("LIBGUESTFS_BACKEND", "direct").env("TMPDIR", scratch).current_dir(scratch);
    let start = Instant::now();
    command.capture()?;
    let wall_seconds = start.elapsed().as_secs_f64();

    let text = fs::read_to_string(&figures).context("no figures of the command's resources")?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let mut next =
        || numbers.next().and_then(Result::ok).context("figures of the command's resources are missing");
    let cpu_seconds = next()? + next()?;
    // A whole number of KiB, far below 2^53.
    let peak_kib = next()? as u64;
    let writes = contender.words.iter().any(|word| word == OUTPUT);
    let output_bytes = if writes { Some(examine(&output)?) } else { None };
    remove(&output)?;
    Ok(Run { wall_seconds, cpu_seconds, peak_kib, output_bytes })
}

/// The output's size, once it is known to be a sound image: a fast run of broken work counts for nothing.
fn examine(output: &Path) -> Result<u64> {
    let checked = process::command("qemu-img").args(["check", "-q", "-f", "qcow2"]).arg(output).status()?;
    ensure!(checked.success(), "the output is not a clean qcow2 image");
    Ok(fs::metadata(output).context("no output")?.len())
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}
