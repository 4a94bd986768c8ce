//! What came of an import, as a table for people.

use std::io::Write as _;

/// What came of one file.
pub(super) enum Outcome {
    /// It was imported, or would be; perhaps with something to say of it.
    Imported(Option<String>),
    /// It is there already.
    Present,
    /// It was imported once and deleted since.
    Gone,
    /// It was not taken, and why.
    Refused(String),
}

/// The files in the order of the table.
pub(super) struct Report {
    dry_run: bool,
    lines: Vec<Line>,
}

struct Line {
    image: String,
    file: String,
    outcome: Outcome,
}

impl Report {
    /// Nothing yet.
    pub(super) fn new(dry_run: bool) -> Self {
        Self { dry_run, lines: Vec::new() }
    }

    /// What came of a file.
    pub(super) fn add(&mut self, image: &str, file: &str, outcome: Outcome) {
        // Both come from the table and may hold what a terminal takes for a command.
        let shown = |text: &str| text.escape_debug().to_string();
        self.lines.push(Line { image: shown(image), file: shown(file), outcome });
    }

    /// How many files there were.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// How many were not taken.
    pub(super) fn refused(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Refused(_)))
    }

    /// Prints it on standard output, with the figures at the end.
    pub(super) fn print(&self) {
        // A closed standard output changes nothing of what was done.
        let _ = std::io::stdout().write_all(self.text().as_bytes());
    }

    fn text(&self) -> String {
        let word = |outcome: &Outcome| match outcome {
            Outcome::Imported(_) if self.dry_run => "would import",
            Outcome::Imported(_) => "imported",
            Outcome::Present => "present",
            Outcome::Gone => "deleted since",
            Outcome::Refused(_) => "refused",
        };
        let mut text = String::new();
        for line in &self.lines {
            let note = match &line.outcome {
                Outcome::Imported(Some(note)) | Outcome::Refused(note) => {
                    format!("  {}", note.escape_debug())
                }
                _ => String::new(),
            };
            text += &format!("{:13}  {:36}  {}{note}\n", word(&line.outcome), line.image, line.file);
        }
        let imported = self.count(|outcome| matches!(outcome, Outcome::Imported(_)));
        let skipped = self.count(|outcome| matches!(outcome, Outcome::Present | Outcome::Gone));
        let done = if self.dry_run { "to be imported" } else { "imported" };
        text + &format!("{imported} {done}, {skipped} skipped, {} refused\n", self.refused())
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.lines.iter().filter(|line| which(&line.outcome)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_has_a_line_and_cannot_forge_another() {
        let mut report = Report::new(false);
        report.add("id", "a.img\nimported", Outcome::Refused("FILE_NOT_FOUND: \u{1b}[2J".to_owned()));
        report.add("id", "b.img", Outcome::Imported(None));
        report.add("id", "c.img", Outcome::Gone);
        let text = report.text();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.starts_with("refused ") && !text.contains('\u{1b}'), "{text}");
        assert!(text.ends_with("1 imported, 1 skipped, 1 refused\n"), "{text}");
    }
}
