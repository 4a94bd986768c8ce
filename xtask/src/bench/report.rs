//! Medians and ratios, as a document.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, thread};

use anyhow::{Context as _, Result};

use super::contenders::{Group, REFERENCES};
use super::{Measured, version};
use crate::process::{self, Run as _};

/// What was measured, and on what.
pub(crate) struct Subject {
    image: String,
    rounds: u32,
    machine: String,
    versions: Vec<String>,
}

impl Subject {
    pub(crate) fn describe(source: &Path, rounds: u32, imageops: &Path) -> Result<Self> {
        let info = process::command("qemu-img").args(["info", "--output", "json"]).arg(source).capture()?;
        let info: serde_json::Value = serde_json::from_str(&info).context("qemu-img info printed no JSON")?;
        let mib = |member: &str| info[member].as_u64().unwrap_or(0) >> 20;
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let versions = [
            version(&imageops.to_string_lossy(), &["--version"]),
            version("qemu-img", &["--version"]),
            version("virt-sparsify", &["--version"]),
            version("md5sum", &["--version"]),
            version("rustc", &["--version"]),
        ];
        Ok(Self {
            image: format!(
                "`{name}` of the full image set: {} MiB on disk, {} MiB as the guest sees it",
                mib("actual-size"),
                mib("virtual-size")
            ),
            rounds,
            machine: machine(),
            versions: versions.into_iter().flatten().collect(),
        })
    }
}

/// Processor, memory and system, from what the kernel says.
fn machine() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once([':', '=']).map_or("unknown", |(_, value)| value.trim().trim_matches('"')).to_owned()
    };
    let memory_kib: u64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let system = field("/etc/os-release", "PRETTY_NAME");
    format!(
        "{cores} cores ({}), {} GiB of memory, {system}",
        field("/proc/cpuinfo", "model name"),
        memory_kib >> 20
    )
}

/// The whole document.
pub(crate) fn markdown(subject: &Subject, measured: &[Measured]) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    text += "Written by `cargo xtask bench`, which makes the images, runs everything below and replaces this file.\n\n";
    let _ = writeln!(text, "- Image: {}.\n- Machine: {}.", subject.image, subject.machine);
    let _ = writeln!(
        text,
        "- {} rounds, contenders interleaved, medians; files in the page cache; each output checked by `qemu-img check`.",
        subject.rounds
    );
    text += "- \"Times as fast\": how much faster the first row of the table is than the row. Only ratios travel to other\n  machines.\n";
    for (title, group) in [("Compress", Group::Compress), ("Check", Group::Check)] {
        let rows: Vec<_> = measured.iter().filter(|one| one.contender.group == group).collect();
        if !rows.is_empty() {
            table(&mut text, title, &rows);
        }
    }
    text += "\n## Versions\n\n";
    for version in &subject.versions {
        let _ = writeln!(text, "- {version}");
    }
    text += "\n## Commands\n\n```text\n";
    for one in measured {
        let _ = writeln!(text, "{}", shown(&one.contender.words));
    }
    text += "```\n";
    text
}

fn table(text: &mut String, title: &str, rows: &[&Measured]) {
    let reference = rows.iter().find(|one| REFERENCES.contains(&one.contender.name)).unwrap_or(&rows[0]);
    let wall = |one: &Measured| median(one.runs.iter().map(|run| run.wall_seconds));
    let output = |one: &Measured| one.runs.last().and_then(|run| run.output_bytes);
    let _ = writeln!(text, "\n## {title}\n");
    text.push_str("| command | seconds | CPU seconds | times as fast | peak memory, MiB | output, MiB |\n");
    text.push_str("| --- | ---: | ---: | ---: | ---: | ---: |\n");
    for one in rows {
        let cpu = median(one.runs.iter().map(|run| run.cpu_seconds));
        let peak_kib = one.runs.iter().map(|run| run.peak_kib).max().unwrap_or(0);
        let size = match (output(one), output(reference)) {
            (Some(bytes), Some(base)) => {
                format!("{:.1} ({:+.1} %)", mib(bytes), (bytes as f64 / base as f64 - 1.0) * 100.0)
            }
            _ => "–".to_owned(),
        };
        let _ = writeln!(
            text,
            "| `{}` | {:.2} | {cpu:.2} | {:.2} | {:.0} | {size} |",
            one.contender.name,
            wall(one),
            wall(one) / wall(reference),
            mib(peak_kib << 10),
        );
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The command as one would type it: without the place of our program, with quotes where the shell needs them.
fn shown(words: &[String]) -> String {
    let word = |word: &String| {
        let name = if word.ends_with("/imageops") { "imageops" } else { word.as_str() };
        if name.contains(' ') { format!("'{name}'") } else { name.to_owned() }
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{median, shown};

    #[test]
    fn the_median_is_the_middle() {
        assert!((median([3.0, 1.0, 9.0].into_iter()) - 3.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 9.0].into_iter()) - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn commands_are_shown_without_the_place_of_the_program() {
        let words = ["/somewhere/release/imageops", "check", "a b"].map(str::to_owned);
        assert_eq!(shown(&words), "imageops check 'a b'");
    }
}
