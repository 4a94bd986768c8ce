//! Medians and ratios, as a document.

use std::fmt::Write as _;

use super::record::{Measurement, Row, Table};

/// The whole document; `service` is the part of the running service.
pub(crate) fn markdown(service: &str, all: &[Measurement]) -> String {
    let mut text = String::from("# Benchmarks\n\n");
    text += "Written by `cargo xtask bench` and `cargo xtask bench --service`, which make the images, run everything below and\n\
        replace this file.\n\n";
    text += service;
    text += "## The engine\n\n\
        - Contenders are interleaved, each round runs all of them once; the figures are medians, the files lie in the\n  \
        page cache, and each output is checked by `qemu-img check`.\n\
        - \"Times as fast\": how much faster the first row of a table is than the row. Only ratios travel to other\n  \
        machines.\n\n\
        ![How many times as fast as its peers compress is, by guest](benchmarks.svg)\n";
    for measurement in all {
        text.push('\n');
        text += &section(measurement);
    }
    text += "\n## Commands\n\n```text\n";
    let mut seen = Vec::new();
    for row in all.iter().flat_map(|one| &one.tables).flat_map(|table| &table.rows) {
        if !seen.contains(&&row.command) {
            let _ = writeln!(text, "{}", row.command);
            seen.push(&row.command);
        }
    }
    text += "```\n";
    text
}

/// What was measured on one guest.
pub(crate) fn section(one: &Measurement) -> String {
    let mut text = format!("### {}\n\n", one.title);
    let _ = writeln!(text, "- Image: {}.", one.image);
    let _ = writeln!(text, "- Machine: {}; {} rounds.", one.machine, one.rounds);
    let _ = writeln!(text, "- Versions: {}.", one.versions.join("; "));
    for table in &one.tables {
        write_table(&mut text, table);
    }
    text
}

fn write_table(text: &mut String, table: &Table) {
    let size = |row: &Row| row.runs.last().and_then(|run| run.output_bytes);
    let _ = writeln!(text, "\n#### {}\n", table.group.title());
    let sizes = table.group.writes();
    text.push_str("| command | seconds | CPU seconds | times as fast | peak memory, MiB |");
    text.push_str(if sizes { " output, MiB |\n" } else { "\n" });
    text.push_str("| --- | ---: | ---: | ---: | ---: |");
    text.push_str(if sizes { " ---: |\n" } else { "\n" });
    for row in &table.rows {
        let figures = (row.wall_seconds(), row.cpu_seconds(), table.ratio(row));
        let (Some(wall), Some(cpu), Some(ratio)) = figures else {
            let missing = row.missing.as_deref().unwrap_or("not run");
            let _ = writeln!(text, "| `{}` | {missing} | | | |{}", row.name, if sizes { " |" } else { "" });
            continue;
        };
        let peak_kib = row.runs.iter().map(|run| run.peak_kib).max().unwrap_or(0);
        let peak = mib(peak_kib << 10);
        // Some take milliseconds.
        let digits = if wall < 1.0 { 3 } else { 2 };
        let _ = write!(text, "| `{}` | {wall:.digits$} | {cpu:.2} | {ratio:.2} | {peak:.0} |", row.name);
        if let (true, Some(bytes), Some(base)) = (sizes, size(row), table.rows.first().and_then(size)) {
            let _ =
                write!(text, " {:.1} ({:+.1} %) |", mib(bytes), (bytes as f64 / base as f64 - 1.0) * 100.0);
        }
        text.push('\n');
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The command as one would type it: without the place of our program, with quotes where the shell needs them.
pub(crate) fn shown(words: &[String]) -> String {
    let word = |word: &String| {
        let name = if word.ends_with("/imageops") { "imageops" } else { word.as_str() };
        if name.contains(' ') { format!("'{name}'") } else { name.to_owned() }
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn commands_are_shown_without_the_place_of_the_program() {
        let words = ["/somewhere/release/imageops", "check", "a b"].map(str::to_owned);
        assert_eq!(shown(&words), "imageops check 'a b'");
    }
}
