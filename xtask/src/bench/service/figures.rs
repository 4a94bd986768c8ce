//! The figures that `benches/service` writes.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// All that was measured.
#[derive(Default, Deserialize)]
pub(crate) struct Figures {
    pub(crate) races: Vec<Race>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) curves: Vec<Curve>,
}

/// Contenders that did the same, interleaved; more is better.
#[derive(Deserialize)]
pub(crate) struct Race {
    pub(crate) title: String,
    pub(crate) unit: String,
    pub(crate) aim: String,
    pub(crate) rounds: u32,
    pub(crate) rows: Vec<Row>,
}

/// One contender.
#[derive(Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) command: String,
    pub(crate) runs: Vec<f64>,
    pub(crate) cpu_seconds: Vec<f64>,
    pub(crate) missing: Option<String>,
}

/// One figure.
#[derive(Deserialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) figure: String,
    pub(crate) aim: String,
}

/// A figure against another.
#[derive(Deserialize)]
pub(crate) struct Curve {
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) y: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What the file holds; nothing when there is none yet.
pub(crate) fn read(path: &Path) -> Result<Figures> {
    if !path.exists() {
        return Ok(Figures::default());
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no figures", path.display()))
}
