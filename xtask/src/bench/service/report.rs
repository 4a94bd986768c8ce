//! Medians and ratios of the running service, as a part of the document.

use std::fmt::Write as _;

use super::figures::{Fact, Figures, Race};
use crate::bench::record::median;

/// What the profiles show, beside their pictures: a part of docs/benchmarks.md, whose links lead from there.
const PROFILES: &str = include_str!("profiles.md.part");

/// The part of the service; empty before it was ever measured.
pub(super) fn markdown(figures: &Figures) -> String {
    if figures.races.is_empty() && figures.facts.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "## The service\n\n\
         A release build with its defaults, one client on the same machine, contenders interleaved, medians. What comes is\n\
         hashed (MD5, SHA-256, CRC-32), flushed and in the catalogue before the answer; what goes out lies in the page cache.\n",
    );
    for race in &figures.races {
        table(&mut text, race);
    }
    facts(&mut text, &figures.facts);
    if !figures.curves.is_empty() {
        text += "\n### Growth\n\nBoth axes begin at zero.\n\n![How speed and memory grow](growth.svg)\n";
    }
    text.push('\n');
    text += PROFILES;
    text.push('\n');
    text
}

fn table(text: &mut String, race: &Race) {
    let _ = writeln!(text, "\n### {}\n\nAim: {}. {} rounds.\n", race.title, race.aim, race.rounds);
    let _ = writeln!(text, "| | command | {} | of the first | CPU seconds of the server |", race.unit);
    text.push_str("| --- | --- | ---: | ---: | ---: |\n");
    let first = race.rows.first().and_then(|row| median(row.runs.iter().copied()));
    for row in &race.rows {
        let (Some(rate), Some(first)) = (median(row.runs.iter().copied()), first) else {
            let missing = row.missing.as_deref().unwrap_or("not run");
            let _ = writeln!(text, "| {} | | {missing} | | |", row.name);
            continue;
        };
        let cpu = median(row.cpu_seconds.iter().copied())
            .map_or_else(String::new, |seconds| format!("{seconds:.2}"));
        let _ =
            writeln!(text, "| {} | `{}` | {rate:.0} | {:.2} | {cpu} |", row.name, row.command, rate / first);
    }
}

fn facts(text: &mut String, facts: &[Fact]) {
    if facts.is_empty() {
        return;
    }
    text.push_str("\n### Single figures\n\n| what | figure | aim |\n| --- | --- | --- |\n");
    for Fact { name, figure, aim } in facts {
        let _ = writeln!(text, "| {name} | {figure} | {aim} |");
    }
}
