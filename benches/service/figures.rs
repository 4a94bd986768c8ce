//! The figures as data; `cargo xtask bench` draws tables and pictures from them.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// All that was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Contenders side by side.
    pub races: Vec<Race>,
    /// Single figures beside what was aimed for.
    pub facts: Vec<Fact>,
    /// How a figure grows with another.
    pub curves: Vec<Curve>,
}

/// Contenders that do the same, interleaved.
#[derive(Debug, Serialize, Deserialize)]
pub struct Race {
    pub title: String,
    /// Of the figures of each run; more is better.
    pub unit: String,
    /// What was aimed for.
    pub aim: String,
    pub rounds: u32,
    pub rows: Vec<Row>,
}

/// One contender.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    /// As one would type it.
    pub command: String,
    /// One figure for each round.
    pub runs: Vec<f64>,
    /// Processor seconds of our server for each round.
    pub cpu_seconds: Vec<f64>,
    /// Why there are no figures.
    pub missing: Option<String>,
}

/// One figure.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fact {
    pub name: String,
    pub figure: String,
    pub aim: String,
}

/// A figure against another.
#[derive(Debug, Serialize, Deserialize)]
pub struct Curve {
    pub title: String,
    pub x: String,
    pub y: String,
    pub points: Vec<(f64, f64)>,
}

impl Figures {
    /// Those of a file; none when there is none.
    pub fn read(path: &Path) -> Self {
        fs::read_to_string(path)
            .map(|text| serde_json::from_str(&text).expect("figures of an earlier run"))
            .unwrap_or_default()
    }

    pub fn write(&self, path: &Path) {
        let text = serde_json::to_string_pretty(self).unwrap() + "\n";
        fs::write(path, text).expect("a place for the figures");
    }

    /// Takes the place of an earlier race of that title.
    pub fn race(&mut self, race: Race) {
        match self.races.iter_mut().find(|one| one.title == race.title) {
            Some(one) => *one = race,
            None => self.races.push(race),
        }
    }

    /// Tells a figure, in the place of an earlier one of that name.
    pub fn fact(&mut self, name: &str, figure: String, aim: &str) {
        println!("{name}: {figure} (aim: {aim})");
        let fact = Fact { name: name.to_owned(), figure, aim: aim.to_owned() };
        match self.facts.iter_mut().find(|one| one.name == fact.name) {
            Some(one) => *one = fact,
            None => self.facts.push(fact),
        }
    }

    /// Takes the place of an earlier curve of that title.
    pub fn curve(&mut self, title: &str, x: &str, y: &str, points: Vec<(f64, f64)>) {
        println!("{title}: {points:?}");
        let curve = Curve { title: title.to_owned(), x: x.to_owned(), y: y.to_owned(), points };
        match self.curves.iter_mut().find(|one| one.title == title) {
            Some(one) => *one = curve,
            None => self.curves.push(curve),
        }
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
