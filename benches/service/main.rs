//! What the running service does in how much time and memory, beside its peers on the same machine.
//!
//! `cargo xtask bench --service` builds all of it, runs this and draws docs/benchmarks.md from the figures. By hand, with a
//! release build in place: `cargo bench --bench service -- --only upload --rounds 5`.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

mod contender;
mod crowd;
mod figures;
mod flame;
mod list;
mod peers;
mod profile;
mod start;
#[path = "../../tests/support/mod.rs"]
mod support;
mod transfer;
mod watch;

use std::path::PathBuf;

use clap::Parser;

use self::figures::Figures;

/// How much is measured, and where the figures go.
#[derive(Parser)]
struct Options {
    /// How often each contender runs; medians count.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Measures only what is named like this; may repeat.
    #[arg(long)]
    only: Vec<String>,
    /// Length of the images that are sent, in MiB.
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Where Glance is installed: a virtual environment with `glance` and `uwsgi`.
    #[arg(long)]
    glance: Option<PathBuf>,
    /// Writes the figures to this file, as JSON; those of what was not measured stay.
    #[arg(long)]
    figures: Option<PathBuf>,
    /// Draws flame graphs into this directory instead.
    #[arg(long)]
    profiles: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let kept = options.figures.as_deref().map(Figures::read).unwrap_or_default();
    let mut figures = kept;
    // Each by itself: a later one that cannot go on takes nothing away.
    let keep = |figures: &Figures| options.figures.iter().for_each(|path| figures.write(path));
    runtime.block_on(async {
        if let Some(directory) = &options.profiles {
            return profile::measure(&options, directory).await;
        }
        if options.wants("start") {
            start::measure(&options, &mut figures);
            keep(&figures);
        }
        if options.wants("upload") || options.wants("download") {
            transfer::measure(&options, &mut figures);
            keep(&figures);
        }
        if options.wants("list") {
            list::measure(&mut figures).await;
            keep(&figures);
        }
        if options.wants("watch") {
            watch::measure(&mut figures).await;
            keep(&figures);
        }
        if options.wants("crowd") {
            crowd::measure(&mut figures).await;
            keep(&figures);
        }
        if options.wants("sizes") {
            transfer::measure_sizes(&options, &mut figures);
            keep(&figures);
        }
    });
}
