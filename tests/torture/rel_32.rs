//! rel_32: many seeds of the simulator: whatever is lost, late, killed or slow, R-1 to R-5 hold after each step.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use imageops_catalogue::{Catalogue as _, SqliteCatalogue};

use crate::run::Run;
use crate::simulator::{self, Figures, Violation};

const SEEDS: u64 = 10_000;
/// Where SQLite's flushes cost nothing: what a loss of power does to a file is not asked here.
const MEMORY: &str = "/dev/shm";

#[test]
fn rel_32_no_seed_breaks_a_promise() {
    let run = Run::new("rel_32");
    let seeds = run.part_of(SEEDS, 20);
    let bench = Bench::new();
    let next = AtomicU64::new(0);
    let work = || {
        let mut figures = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= seeds {
                return figures;
            }
            let seed = run.seed().wrapping_add(number);
            figures.push(bench.run(seed).unwrap_or_else(|violation| panic!("{}", told(seed, &violation))));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let figures: Vec<Figures> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let sum = |of: fn(&Figures) -> u64| figures.iter().map(of).sum::<u64>();
    let (kills, power_losses, freezes) =
        (sum(|one| one.kills), sum(|one| one.power_losses), sum(|one| one.freezes));
    let fenced = sum(|one| one.fenced);
    for (what, count) in
        [("kill", kills), ("loss of power", power_losses), ("freeze", freezes), ("fenced write", fenced)]
    {
        assert!(count > 0, "expected at least one {what} in {seeds} seeds");
    }
    run.finish(&format!(
        "{seeds} seeds, {} steps; {kills} kills, {power_losses} losses of power, {freezes} freezes; {} uploads acknowledged, \
         {} jobs ended, {fenced} writes fenced; no promise broken",
        sum(|one| one.steps),
        sum(|one| one.uploads),
        sum(|one| one.jobs),
    ));
}

/// What failed can be looked at again.
#[test]
fn rel_32_a_seed_takes_the_same_course_again() {
    let run = Run::new("rel_32");
    let seeds = run.part_of(100, 3);
    let bench = Bench::new();
    for number in 0..seeds {
        let seed = run.seed().wrapping_add(number);
        let [first, second] = [(), ()]
            .map(|()| bench.run(seed).unwrap_or_else(|violation| panic!("{}", told(seed, &violation))));
        assert_eq!(first, second, "expected the same of seed {seed}");
        let other =
            bench.run(seed ^ (1 << 40)).unwrap_or_else(|violation| panic!("{}", told(seed, &violation)));
        assert_ne!(first.trace, other.trace, "expected another course of another seed");
    }
    run.finish(&format!("{seeds} seeds run twice, each with the same steps in the same order"));
}

/// Empty catalogues to run seeds on.
struct Bench {
    directory: tempfile::TempDir,
    empty: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let place = Path::new(MEMORY);
        let place = if place.is_dir() { place.to_owned() } else { std::env::temp_dir() };
        let directory =
            tempfile::Builder::new().prefix("imageops-test-").tempdir_in(place).expect("a directory");
        let empty = directory.path().join("empty.sqlite");
        block_on(async { SqliteCatalogue::open(&empty).await.expect("a catalogue").close().await });
        Self { directory, empty }
    }

    fn run(&self, seed: u64) -> Result<Figures, Violation> {
        let own = tempfile::tempdir_in(self.directory.path()).expect("a directory");
        let catalogue = own.path().join("catalogue.sqlite");
        std::fs::copy(&self.empty, &catalogue).expect("a catalogue");
        block_on(simulator::run(seed, &catalogue))
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a reactor").block_on(future)
}

fn told(seed: u64, violation: &Violation) -> String {
    format!(
        "seed {seed}: {}\n{}\nthe same again: cargo xtask torture --only rel_32 --scale 1 --seed {seed}",
        violation.what,
        violation.trace.join("\n")
    )
}
