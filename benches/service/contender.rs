//! Commands that do the same, run in turn: a machine that slows down slows all of them. Another one begins each round: what comes
//! first pays for what is cold.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::figures::{Race, Row, median};
use crate::support::usage::cpu_time;

/// One of them.
pub struct Contender<'a> {
    pub name: &'static str,
    /// The command as one would type it.
    pub shown: String,
    /// Made ready before the clock runs: what is run then.
    pub command: Box<dyn FnMut() -> Command + 'a>,
    /// Takes away what a run has made.
    pub clean: Box<dyn FnMut(String) + 'a>,
    /// Our server, whose processor time is told.
    pub server: Option<u32>,
}

/// Runs each once in every round; the figure is `bytes` by the time taken, in MB/s (10^6 bytes).
pub fn race(
    title: &str,
    aim: &str,
    bytes: u64,
    rounds: u32,
    mut all: Vec<Contender<'_>>,
    absent: Vec<Row>,
) -> Race {
    let mut rows: Vec<Row> = all
        .iter()
        .map(|one| Row {
            name: one.name.to_owned(),
            command: one.shown.clone(),
            runs: Vec::new(),
            cpu_seconds: Vec::new(),
            missing: None,
        })
        .collect();
    for round in 1..=rounds {
        for turn in 0..all.len() {
            let index = (turn + round as usize - 1) % all.len();
            let (contender, row) = (&mut all[index], &mut rows[index]);
            // What the one before has left to be written would be written on this one's time.
            rustix::fs::sync();
            let mut command = (contender.command)();
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            let cpu = contender.server.map(cpu_time);
            let start = Instant::now();
            let output = command.output().expect("a program that runs");
            let seconds = start.elapsed().as_secs_f64();
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{}: {told}{}",
                contender.name,
                String::from_utf8_lossy(&output.stderr)
            );
            if let (Some(process), Some(before)) = (contender.server, cpu) {
                row.cpu_seconds.push((cpu_time(process) - before).as_secs_f64());
            }
            let rate = bytes as f64 / 1e6 / seconds;
            println!("{title}, round {round}: {:32} {rate:8.0} MB/s", contender.name);
            row.runs.push(rate);
            (contender.clean)(told);
        }
    }
    for row in &rows {
        println!("{title}: {:32} {:8.0} MB/s, median of {rounds}", row.name, median(&row.runs));
    }
    rows.extend(absent);
    Race { title: title.to_owned(), unit: "MB/s".to_owned(), aim: aim.to_owned(), rounds, rows }
}
