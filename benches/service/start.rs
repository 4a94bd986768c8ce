//! What a server takes before it has done anything.

use std::time::Instant;

use crate::Options;
use crate::figures::{Figures, median, mib};
use crate::support::Service;
use crate::support::http::get;
use crate::support::usage::resident_bytes;

pub fn measure(options: &Options, figures: &mut Figures) {
    let (mut starts_ms, mut again_ms, mut idle_mib) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds.max(5) {
        let start = Instant::now();
        let mut service = Service::start();
        assert_eq!(get(service.http(), "/readyz").status, 200);
        starts_ms.push(start.elapsed().as_secs_f64() * 1e3);
        idle_mib.push(mib(resident_bytes(service.id())));
        service.kill();
        let start = Instant::now();
        service.restart();
        assert_eq!(get(service.http(), "/readyz").status, 200);
        again_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let ms = |values: &[f64]| format!("{:.0} ms", median(values));
    figures.fact("First start, until it is ready", ms(&starts_ms), "under 200 ms");
    figures.fact("Start after a kill, until it is ready", ms(&again_ms), "under 200 ms");
    figures.fact("Memory of an idle server", format!("{:.1} MiB", median(&idle_mib)), "under 30 MiB");
}
