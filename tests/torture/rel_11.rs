//! rel_11: the n-th call of each thread fails, for n = 1, 2, 3 … until none does, in a server that works and in one that
//! starts. Each run ends in a correct result or a clear error, and once the fault is over everything works.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use imageops_client::is_final;
use tokio::task::block_in_place;

use crate::audit;
use crate::content::Content;
use crate::ledger::{Entry, Ledger};
use crate::outcome::{Asked, Subject};
use crate::rel_01::target;
use crate::roads::{self, Road, Setback};
use crate::run::Run;
use crate::strace::{self, Fault, Injection};
use crate::support::http::get;
use crate::support::jobs::write_busy_disk;
use crate::support::process::Server;
use crate::support::status::eventually;
use crate::support::{Service, binary};
use crate::work::{SOURCE, WORKS, Work};

const CHUNKS: &str = "EdgeGallery chunks";
/// What copies the chunks of an image.
const COMPOSING: &str = "copy_file_range";
/// Calls that only files and directories get, and what they may answer. A write that takes nothing stands for the short ones:
/// strace can leave out a call, but not do half of it.
const CALLS: [(&str, &[&str]); 8] = [
    ("pwrite64", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR", "error=EAGAIN", "retval=0"]),
    ("pread64", &["error=EIO", "error=EINTR", "error=EAGAIN"]),
    ("fsync,fdatasync", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR"]),
    ("openat", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR", "error=EMFILE"]),
    ("linkat", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR"]),
    ("rename,renameat,renameat2", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR"]),
    ("ftruncate", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR"]),
    (COMPOSING, &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR", "error=EXDEV"]),
];
/// Those of a start; the files are named, so that the loader of the program is left alone.
const CALLS_OF_A_START: [(&str, &[&str]); 6] = [
    ("open,openat", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR"]),
    ("read,pread64", &["error=EIO", "error=EINTR", "error=EAGAIN"]),
    ("write,pwrite64", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR", "error=EAGAIN"]),
    ("fsync,fdatasync", &["error=EIO", "error=ENOSPC", "error=EDQUOT", "error=EINTR"]),
    ("rename,renameat,renameat2", &["error=EIO", "error=ENOSPC", "error=EDQUOT"]),
    ("ftruncate,unlink,unlinkat,mkdir,mkdirat", &["error=EIO", "error=ENOSPC", "error=EDQUOT"]),
];
/// Of one kind of call at most, until a run needs no fault.
const RUNS: u64 = 200;
const JOBS: [&str; 2] = ["compress of an image", "compress of a file"];
/// How long a job may keep meeting the same fault.
const FAULT_MAX: Duration = Duration::from_secs(2);
/// How long it may take until an upload is taken once no call fails, and between two tries.
const RECOVERED_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
const MIB: u64 = 1 << 20;
const SOURCE_BYTES: u64 = MIB;

/// What the runs came to.
#[derive(Default)]
struct Figures {
    runs: u64,
    faults: usize,
    done: u64,
    refused: u64,
    /// Calls that this server never makes here.
    without: Vec<&'static str>,
}

/// A server whose calls go wrong.
struct Faulty {
    service: Service,
    ledger: Ledger,
    roads: Vec<&'static Road>,
    works: Vec<&'static Work>,
    /// Of the ledger: an image that is there all the time.
    kept: usize,
    figures: Figures,
}

/// Which faults strike one kind of call, in the order n = 1 with each outcome, n = 2 … At a small scale only some of them,
/// the first of them among those of n = 1.
fn cases(
    run: &mut Run,
    outcomes: &'static [&'static str],
) -> impl Iterator<Item = (u64, &'static str)> + use<> {
    let stride = RUNS / run.part_of(RUNS, 1);
    let count = outcomes.len() as u64;
    let first = run.random.below(count);
    (0..)
        .map(move |turn| first * u64::from(stride > 1) + turn * stride)
        .take_while(|case| *case < RUNS)
        .map(move |case| (1 + case / count, outcomes[(case % count) as usize]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_11_the_nth_call_fails() {
    if !strace::can_trace() {
        return;
    }
    let mut run = Run::new("rel_11");
    let mut faulty = Faulty::start(&mut run).await;
    for (calls, outcomes) in CALLS {
        let mut clean = Vec::new();
        let before = faulty.figures.faults;
        for (n, outcome) in cases(&mut run, outcomes) {
            if clean.contains(&outcome) {
                continue;
            }
            let fault = Fault { calls, outcome, when: &n.to_string(), paths: &[] };
            match faulty.strike(&mut run, &fault).await {
                None => return,
                // So many calls no thread makes.
                Some(0) => clean.push(outcome),
                Some(_) => {}
            }
            if clean.len() == outcomes.len() {
                break;
            }
        }
        if faulty.figures.faults == before {
            faulty.figures.without.push(calls);
        }
    }
    assert!(faulty.figures.refused > 0 && faulty.figures.done > 0, "expected refusals and successes");
    block_in_place(|| faulty.service.restart());
    audit::check(&faulty.service.client(), &faulty.ledger).await;
    audit::check_store(&faulty.service).await;
    let Figures { runs, faults, done, refused, without } = faulty.figures;
    let without =
        if without.is_empty() { String::new() } else { format!("; none of {}", without.join(", ")) };
    run.finish(&format!(
        "{runs} runs with {faults} failed calls{without}; {done} operations succeeded, {refused} were refused; no panic"
    ));
}

impl Faulty {
    async fn start(run: &mut Run) -> Self {
        let service = run.service(|setup| setup.arguments = vec!["--job-attempts".into(), "100".into()]);
        write_busy_disk(&service.image_path().join(SOURCE), SOURCE_BYTES);
        let roads = roads::present(service.http());
        let works = WORKS.iter().filter(|work| JOBS.contains(&work.name)).collect();
        let mut faulty =
            Self { service, ledger: Ledger::default(), roads, works, kept: 0, figures: Figures::default() };
        faulty.kept = faulty.begin(run);
        faulty.serve(faulty.kept).await;
        faulty
    }

    fn begin(&self, run: &mut Run) -> usize {
        let content = Content::new(run.random.next(), run.spread(MIB / 4, 2 * MIB));
        self.ledger.begin(Entry::new(uuid::Uuid::new_v4(), content))
    }

    fn image(&self, index: usize) -> Option<String> {
        self.ledger.entry(index, |entry| entry.acknowledged.clone())
    }

    /// An upload that nothing disturbs. A store that failed its probe too takes bytes again after the next one.
    async fn serve(&self, index: usize) {
        let begun = Instant::now();
        while let Err(setback) = self.roads[0].attempt(target(&self.service), &self.ledger, index).await {
            let may_pass = begun.elapsed() < RECOVERED_MAX;
            assert!(may_pass, "expected an image once the fault is over: {setback}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// An upload, a download and jobs while calls fail, and what must hold afterwards. How many calls have failed; `None`
    /// where that cannot be done.
    async fn strike(&mut self, run: &mut Run, fault: &Fault<'_>) -> Option<usize> {
        let turn = (self.figures.runs % self.roads.len() as u64) as usize;
        // One road alone puts an image together from files.
        let composed = self.roads.iter().find(|road| fault.calls == COMPOSING && road.name == CHUNKS);
        let road = *composed.unwrap_or(&self.roads[turn]);
        let case = format!("{}, {} at {} of each thread", fault.calls, fault.outcome, fault.when);
        eprintln!("{case}: {}", road.name);
        let injection = Injection::of(self.service.id(), fault, &self.service.scratch().join("strace.log"))?;
        let index = self.begin(run);
        let upload = road.attempt(target(&self.service), &self.ledger, index).await.map(drop);
        self.note(&format!("{case}: {}", road.name), upload);
        let mut asked = Vec::new();
        for work in self.works.clone() {
            asked.extend(self.ask(work, &case).await);
        }
        let download = self.download().await;
        self.note(&format!("{case}: download"), download);
        // A catalogue that takes a new thread for each try meets the fault again and again.
        for asked in &asked {
            let _ = tokio::time::timeout(FAULT_MAX, self.wait(asked)).await;
        }
        let failed = injection.end();
        self.figures.runs += 1;
        self.figures.faults += failed;

        for asked in asked {
            self.wait(&asked).await;
            self.settle(asked).await;
        }
        let after = self.begin(run);
        self.serve(after).await;
        audit::check(&self.service.client(), &self.ledger).await;
        let metrics = get(self.service.http(), "/metrics");
        assert!(metrics.text().contains("imageops_panics_total 0\n"), "{case}: expected no panic");
        if road.name == CHUNKS && self.image(index).is_none() {
            // What came of it waits for its merge; nobody goes on with it.
            let identifier = self.ledger.entry(index, |entry| entry.id.to_string());
            block_in_place(|| roads::cancel_chunks(target(&self.service), &identifier));
        }
        for index in [index, after] {
            self.remove(index).await;
        }
        Some(failed)
    }

    /// what is refused is told clearly.
    fn note(&mut self, what: &str, result: Result<(), Setback>) {
        match result {
            Ok(()) => self.figures.done += 1,
            Err(Setback::Refused { reason, text }) => {
                assert!(!reason.is_empty() || !text.is_empty(), "{what}: expected a reason");
                self.figures.refused += 1;
            }
            Err(Setback::Cut(why)) => {
                // Whom a connection broke for is told nothing.
                let is_answered = why.starts_with("503") || why.contains("try again");
                assert!(is_answered, "{what}: expected an answer: {why}");
                self.figures.refused += 1;
            }
        }
    }

    async fn ask(&mut self, work: &'static Work, case: &str) -> Option<Asked> {
        let (name, digests) =
            self.ledger.entry(self.kept, |entry| (entry.acknowledged.clone(), entry.digests.clone()));
        let subject = Subject { name: name.expect("an image"), digests, is_own: false };
        let output = format!("out-{}.img", self.figures.runs);
        match work.start(&target(&self.service).client(), &subject.name, &output).await {
            Ok(job) => Some(Asked { name: job.name, work, output, subject }),
            Err(error) => {
                self.note(&format!("{case}: {}", work.name), Err(error.into()));
                None
            }
        }
    }

    /// Until the end of a job is told. A question may be refused too.
    async fn wait(&self, asked: &Asked) {
        let client = target(&self.service).client();
        eventually(&format!("the end of {}", asked.work.name), || async {
            client.get_job(&asked.name).await.is_ok_and(|job| is_final(job.state())).then_some(())
        })
        .await;
    }

    async fn settle(&mut self, asked: Asked) {
        let job = self.service.client().get_job(&asked.name).await.expect("a job that is known");
        let is_success = asked.check(&self.service, &job).await;
        asked.remove(&self.service, &job).await;
        *if is_success { &mut self.figures.done } else { &mut self.figures.refused } += 1;
    }

    /// All bytes as they were sent, or an error; never others.
    async fn download(&self) -> Result<(), Setback> {
        let (image, content) = (
            self.image(self.kept).expect("an image"),
            self.ledger.entry(self.kept, |entry| entry.content.clone()),
        );
        let mut bytes = content.comparer();
        let downloaded = target(&self.service).client().download(&image, 0, &mut bytes, |_| {}).await;
        if let Err(error) = downloaded {
            assert!(
                !error.to_string().contains("bytes than were sent"),
                "{image}: expected no other bytes: {error}"
            );
            return Err(error.into());
        }
        assert!(bytes.is_complete(), "{image}: expected all bytes, or an error");
        Ok(())
    }

    /// Takes away what the runs that follow do not need.
    async fn remove(&self, index: usize) {
        let Some(image) = self.image(index) else { return };
        self.ledger.entry(index, |entry| entry.removed = true);
        self.service.client().delete_image_for_good(&image, "").await.expect("an image that can be removed");
    }
}

/// A start that fails says why in one line, and the next one without a fault finds everything.
#[tokio::test(flavor = "multi_thread")]
async fn rel_11_the_nth_call_of_a_start_fails() {
    if !strace::can_trace() {
        return;
    }
    let mut run = Run::new("rel_11");
    let mut service = run.service(|_| {});
    let ledger = Ledger::default();
    let index = ledger.begin(Entry::new(uuid::Uuid::new_v4(), Content::new(run.random.next(), MIB)));
    roads::present(service.http())[0].attempt(target(&service), &ledger, index).await.expect("an image");
    let paths = paths_of(&service);
    let (mut runs, mut faults, mut ended) = (0, 0, 0);
    for (calls, outcomes) in CALLS_OF_A_START {
        let mut clean = Vec::new();
        for (n, outcome) in cases(&mut run, outcomes) {
            if clean.contains(&outcome) {
                continue;
            }
            let fault = Fault { calls, outcome, when: &n.to_string(), paths: &paths };
            let (failed, is_up) = block_in_place(|| start(&mut service, &fault));
            (runs, faults, ended) = (runs + 1, faults + failed, ended + u64::from(!is_up));
            assert!(is_up || failed > 0, "expected a start that only a fault ends");
            if failed == 0 {
                clean.push(outcome);
            }
            if clean.len() == outcomes.len() {
                break;
            }
        }
        block_in_place(|| service.restart());
        audit::check(&service.client(), &ledger).await;
        let entry = ledger.entry(index, |entry| entry.clone());
        audit::compare(&service.client(), entry.acknowledged.as_deref().expect("an image"), &entry).await;
    }
    assert!(ended > 0, "expected starts that fail");
    run.finish(&format!(
        "{runs} starts with {faults} failed calls; {ended} ended with one line, the others served; then all is there"
    ));
}

/// Everything that a start opens below the data directory.
fn paths_of(service: &Service) -> Vec<PathBuf> {
    let data = service.data_dir();
    let below = |names: &[&str]| names.iter().map(|name| data.join(name)).collect::<Vec<_>>();
    let mut paths =
        below(&["", "ballast", "worker-id", "worker-id.new", "store", "store/store", "store/lock"]);
    paths.extend(below(&["store/staging", "store/blobs", "store/catalogue", "store/probe", "staging"]));
    paths.extend(below(&[
        "catalogue.sqlite",
        "catalogue.sqlite-wal",
        "catalogue.sqlite-journal",
        "catalogue.sqlite.lock",
    ]));
    paths.push(service.image_path().to_owned());
    // strace compares with what /proc says, which has no slash at the end.
    paths.into_iter().map(|path| path.components().collect()).collect()
}

/// One start, ended by a fault or by us. How many calls failed, and whether it came up.
fn start(service: &mut Service, fault: &Fault) -> (usize, bool) {
    let log = service.scratch().join("start.log");
    let (server, case) =
        (binary("imageops-server"), format!("{}, {} at {}", fault.calls, fault.outcome, fault.when));
    eprintln!("{case}");
    if service.is_running() {
        service.kill();
    }
    strace::inject(service.setup_mut(), &server, fault, &log);
    let started = Server::start(service.setup());
    let is_up = started.is_ok();
    match started {
        Ok(server) => {
            let output = server.output();
            assert!(!output.contains("panicked"), "{case}: expected no panic: {output}");
        }
        Err(output) => check_last_words(&case, &output),
    }
    service.setup_mut().binary = server;
    (strace::injected(&log), is_up)
}

/// One line that says what is wrong, and no panic.
fn check_last_words(case: &str, output: &str) {
    assert!(!output.contains("panicked"), "{case}: expected no panic: {output}");
    let lines: Vec<_> = output.lines().filter(|line| line.starts_with("imageops-server: ")).collect();
    assert_eq!(lines.len(), 1, "{case}: expected one line: {output}");
    // As the standard library shows it; a signal would stand in the lower bits.
    let status = output.split_once("unix_wait_status(").and_then(|(_, rest)| rest.split_once(')'));
    let status: Option<u32> = status.and_then(|(status, _)| status.parse().ok());
    assert!(
        status.is_some_and(|status| status & 0x7f == 0),
        "{case}: expected a server that ends by itself: {output}"
    );
}
