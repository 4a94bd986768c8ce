//! One run of one test: how much of it is done, from which seed, and what came of it.

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::support::Service;
use crate::support::process::Setup;
use crate::support::random::{Random, seed};

/// Ports below those that the kernel gives to clients. A client that tries a port which nobody has just then may be given
/// that very port for itself, and would keep a server out that starts again on it.
const PORTS: std::ops::Range<u16> = 15_000..30_000;

/// Figures of one test. Dropped before [`Run::finish`], it tells how to run the same again.
pub struct Run {
    name: &'static str,
    scale_percent: u64,
    seed: u64,
    start: Instant,
    finished: bool,
    /// Chance from the seed.
    pub random: Random,
}

impl Run {
    /// Reads scale and seed from the environment, which `cargo xtask torture` sets.
    pub fn new(name: &'static str) -> Self {
        let given = std::env::var("IMAGEOPS_TORTURE_SCALE").ok();
        let scale_percent = given.map_or(1, |text| text.parse().expect("a scale in per cent"));
        assert!((1..=100).contains(&scale_percent), "the scale is 1 to 100 per cent");
        let seed = seed();
        eprintln!("{name}: {scale_percent} %, seed {seed}");
        let random = Random::from_seed(seed);
        Self { name, scale_percent, seed, start: Instant::now(), finished: false, random }
    }

    /// The scaled part of what is done in full, but at least `least`.
    pub fn part_of(&self, full: u64, least: u64) -> u64 {
        (full * self.scale_percent).div_ceil(100).max(least)
    }

    /// Whether all of it is done.
    pub fn is_full(&self) -> bool {
        self.scale_percent == 100
    }

    /// Where chance begins.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number from `least` to `most`, small ones more often; see [`spread`].
    pub fn spread(&mut self, least: u64, most: u64) -> u64 {
        spread(&mut self.random, least, most)
    }

    /// A server with directories of its own, on ports that it finds free again after each kill.
    pub fn service(&mut self, change: impl FnOnce(&mut Setup)) -> Service {
        let grpc = self.port();
        // Nobody listens on the first one yet.
        let http = std::iter::repeat_with(|| self.port()).find(|port| *port != grpc).expect("another port");
        Service::start_changed(|setup| {
            (setup.grpc_listen, setup.http_listen) = (grpc, http);
            change(setup);
        })
    }

    fn port(&mut self) -> SocketAddr {
        let width = u64::from(PORTS.end - PORTS.start);
        // Not from the seed: what else runs here decides which are free.
        let mut any = Random::from_seed(uuid::Uuid::new_v4().as_u64_pair().0);
        for _ in 0..width {
            let port = PORTS.start + u16::try_from(any.below(width)).expect("a port");
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if TcpListener::bind(address).is_ok() {
                return address;
            }
        }
        panic!("no port is free");
    }

    /// Ends the test well, with its figures.
    pub fn finish(mut self, figures: &str) {
        self.finished = true;
        self.tell(figures);
    }

    /// One row of the table of figures: printed, and put where `cargo xtask` collects them.
    fn tell(&self, figures: &str) {
        let row = format!(
            "| {} | {} % | {figures} | {:.1} | {} |",
            self.name,
            self.scale_percent,
            self.start.elapsed().as_secs_f64(),
            self.seed
        );
        println!("{row}");
        if let Some(path) = std::env::var_os("IMAGEOPS_TORTURE_FIGURES") {
            let file = File::options().create(true).append(true).open(path);
            file.and_then(|mut file| writeln!(file, "{row}")).expect("room for the figures");
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.finished {
            self.tell("**failed**");
            eprintln!(
                "{} failed; the same again: cargo xtask torture --only {} --scale {} --seed {}",
                self.name, self.name, self.scale_percent, self.seed
            );
        }
    }
}

/// A number from `least` to `most`, each doubling half as likely as the one before: sizes of every order come, and those of
/// each order come to as many bytes.
pub fn spread(random: &mut Random, least: u64, most: u64) -> u64 {
    let mut floor = least;
    while floor * 2 <= most && random.below(2) == 0 {
        floor *= 2;
    }
    let ceiling = (floor * 2).min(most).max(floor);
    floor + random.below(ceiling - floor + 1)
}

/// Runs a client beside the test, on a thread and a reactor of its own.
pub fn beside<F: Future<Output: Send + 'static>>(
    client: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<F::Output> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a reactor").block_on(client())
    })
}

/// Waits for what runs beside the test; what it expected in vain fails the test.
pub fn join<T>(client: JoinHandle<T>) -> T {
    let joined = tokio::task::block_in_place(|| client.join());
    joined.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
}
