//! Both forms of output: text for people, JSON for programs; both through a stdout that may be closed at any time.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::exit::Failure;

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Table,
    /// For programs: one JSON document.
    Json,
}

/// Writes `text` and a line end to stdout. A reader who has gone away is no error: the rest is not wanted.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { stdout.write_all(b"\n") })
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("standard output", &error))
        }
        _ => Ok(()),
    }
}

/// Writes `value` as indented JSON, as qemu-img does.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(
        &mut text,
        serde_json::ser::PrettyFormatter::with_indent(b"    "),
    );
    value
        .serialize(&mut serializer)
        .map_err(|error| Failure::new(format!("the result has no JSON form: {error}")))?;
    print(&String::from_utf8_lossy(&text))
}

/// Writes a line to stderr. When that is closed too there is nobody left to tell.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Width of the names of [`Facts`]: that of `partition table`, so that blocks printed one after the other line up.
const NAME_WIDTH: usize = 15;

/// Lines of a name and a value each, the values under each other.
#[derive(Default)]
pub(crate) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(crate) fn add(&mut self, name: &'static str, value: impl AsRef<str>) {
        self.0.push((name, printable(value.as_ref())));
    }

    /// Adds the line when there is a value.
    pub(crate) fn add_some(&mut self, name: &'static str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    pub(crate) fn render(&self) -> String {
        let lines = self.0.iter().map(|(name, value)| format!("{name:NAME_WIDTH$}  {value}"));
        lines.map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

/// A table with a header; columns whose name ends in `>` are numbers and go to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let right = |column: usize| header.get(column).is_some_and(|name| name.ends_with('>'));
    let cell = |column: usize, text: &str| {
        let alignment = if right(column) { CellAlignment::Right } else { CellAlignment::Left };
        Cell::new(text).set_alignment(alignment)
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
        .set_header(header.iter().enumerate().map(|(column, name)| cell(column, name.trim_end_matches('>'))));
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(column, text)| cell(column, &printable(text))));
    }
    // Without borders the first column is padded on the left all the same.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n").collect()
}

/// Text from an image or a server, without anything that would move a terminal's cursor or start a new line.
pub(crate) fn printable(text: &str) -> String {
    text.replace('\n', " ").chars().filter(|letter| !letter.is_control()).collect()
}

/// A number of bytes for people: `512 B`, `64 KiB`, `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be printed as 1024.0 is one of the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let text = format!("{value:.1}");
    format!("{} {}", text.strip_suffix(".0").unwrap_or(&text), UNITS[unit])
}

/// The same with the exact number beside it.
pub(crate) fn size_exact(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{} ({bytes} bytes)", size(bytes)) }
}

/// A span for people: `0.3 s`, `42 s`, `3 min 05 s`, `2 h 10 min`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A rate for people; nothing for a time too short to tell.
pub(crate) fn rate(bytes: u64, elapsed: Duration) -> Option<String> {
    let seconds = elapsed.as_secs_f64();
    (seconds > 0.0).then(|| format!("{}/s", size((bytes as f64 / seconds) as u64)))
}

/// `1 leak`, `2 leaks`.
pub(crate) fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (65_536, "64 KiB"),
            (1_048_575, "1 MiB"),
            (230_686_720, "220 MiB"),
            (16_187_392, "15.4 MiB"),
            (2_147_483_648, "2 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size_exact(2048), "2 KiB (2048 bytes)");
    }

    #[test]
    fn spans_and_rates_read_well() {
        let spans = [(300, "0.3 s"), (42_000, "42 s"), (185_000, "3 min 05 s"), (7_800_000, "2 h 10 min")];
        for (milliseconds, text) in spans {
            assert_eq!(span(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(rate(1 << 20, Duration::from_millis(500)).as_deref(), Some("2 MiB/s"));
        assert_eq!(rate(1, Duration::ZERO), None);
        assert_eq!([count(1, "leak"), count(2, "leak")], ["1 leak", "2 leaks"]);
    }

    #[test]
    fn values_stand_under_each_other_and_stay_on_their_line() {
        let mut facts = Facts::default();
        facts.add("name", "a\nb");
        facts.add_some("size", None::<&str>);
        facts.add("virtual size", "1 GiB");
        assert_eq!(facts.render(), "name             a b\nvirtual size     1 GiB\n");
        let text = table(&["id", "size>"], [vec!["a".to_owned(), "1 B".to_owned()]]);
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
