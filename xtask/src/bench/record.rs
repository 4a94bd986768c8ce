//! The figures, kept as data: one guest can be measured again without the others, and the document and the picture are
//! drawn from all of them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::contenders::Group;

/// What one run took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) wall_seconds: f64,
    /// User and system time of the command and its children.
    pub(crate) cpu_seconds: f64,
    /// The largest resident set among the command and its children.
    pub(crate) peak_kib: u64,
    /// Length of the output; none where nothing is written.
    pub(crate) output_bytes: Option<u64>,
}

/// What the runs of one contender came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// As one would type it.
    pub(crate) command: String,
    pub(crate) runs: Vec<Run>,
    /// Why there are no figures.
    pub(crate) missing: Option<String>,
}

impl Row {
    /// Median of the wall times, when it ran.
    pub(crate) fn wall_seconds(&self) -> Option<f64> {
        median(self.runs.iter().map(|run| run.wall_seconds))
    }

    /// Median of the processor times, when it ran.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        median(self.runs.iter().map(|run| run.cpu_seconds))
    }
}

/// Contenders that did the same work, interleaved; the first is the one that the others are compared with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) group: Group,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// How many times longer than the first row `row` took.
    pub(crate) fn ratio(&self, row: &Row) -> Option<f64> {
        Some(row.wall_seconds()? / self.rows.first()?.wall_seconds()?)
    }
}

/// All that was measured on one guest in one go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) guest: String,
    pub(crate) title: String,
    pub(crate) image: String,
    pub(crate) machine: String,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: u32,
    pub(crate) tables: Vec<Table>,
}

/// What the file holds; nothing when there is none yet.
pub(crate) fn read(path: &Path) -> Result<Vec<Measurement>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no figures", path.display()))
}

/// Puts the figures of a guest in the place of its earlier ones; `order` is that of the document.
pub(crate) fn replace(all: &mut Vec<Measurement>, new: Measurement, order: &[&str]) {
    all.retain(|one| one.guest != new.guest);
    all.push(new);
    all.sort_by_key(|one| order.iter().position(|name| *name == one.guest));
}

/// Writes the file.
pub(crate) fn write(path: &Path, all: &[Measurement]) -> Result<()> {
    let text = serde_json::to_string_pretty(all)? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::{Measurement, median, replace};

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 9.0].into_iter()), Some(3.0));
        assert_eq!(median([4.0, 1.0, 2.0, 9.0].into_iter()), Some(3.0));
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn a_guest_that_is_measured_again_keeps_its_place() {
        let one = |guest: &str, rounds| Measurement {
            guest: guest.into(),
            title: String::new(),
            image: String::new(),
            machine: String::new(),
            versions: Vec::new(),
            rounds,
            tables: Vec::new(),
        };
        let mut all = vec![one("a", 1), one("b", 1)];
        replace(&mut all, one("a", 3), &["a", "b"]);
        let seen: Vec<_> = all.iter().map(|one| (one.guest.as_str(), one.rounds)).collect();
        assert_eq!(seen, [("a", 3), ("b", 1)]);
    }
}
