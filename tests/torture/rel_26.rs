//! rel_26: five times as much work as the server can do, from clients that do not care: what it takes it does in time, all
//! else is refused at once with a hint, and when the flood is over everything is taken again.

use std::io::Cursor;
use std::time::{Duration, Instant};

use imageops_client::{Client, Error, RetryPolicy, is_final};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Code;

use crate::audit;
use crate::run::Run;
use crate::support::Service;
use crate::support::jobs::{check_file, write_busy_disk};
use crate::support::status::eventually;
use crate::support::usage::{cpu_time, p99, peak_bytes, pin, processors};

const SECONDS: u64 = 600;
/// So many times the capacity is asked for.
const TIMES: u32 = 5;
const MIB: u64 = 1 << 20;
const UPLOAD_BYTES: usize = 2 << 20;
const CHECKED_BYTES: u64 = 8 * MIB;
/// Clients that use what there is, and not more: each waits for its answer.
const PATIENT: u64 = 4;
const CONNECTIONS: usize = 8;
/// What every piece of work must be done or refused in: as long as the client library waits for a call.
const DEADLINE: Duration = Duration::from_secs(60);
/// Of the contract.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Work that is taken in a row when everything is well.
const IN_A_ROW: u64 = 20;
/// Of the contract, in per cent of the capacity; and of a short run, which measures the capacity in a second or two, beside
/// whatever else the machine does.
const GOODPUT_PERCENT_MIN: u128 = 80;
const GOODPUT_PERCENT_MIN_SHORT: u128 = 40;

/// What came of a piece of work that was asked for.
enum Came {
    Done(Duration),
    /// With a hint when to come back.
    Refused(Duration),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rel_26_more_than_it_can_do_is_refused_at_once() {
    let mut run = Run::new("rel_26");
    let seconds = Duration::from_secs(run.part_of(SECONDS, 6));
    let service = run.service(|setup| {
        let limits = ["--workers", "2", "--uploads-max", "4", "--queue-limit", "8", "--log", "warn"];
        setup.arguments = limits.map(str::to_owned).to_vec();
    });
    write_busy_disk(&service.image_path().join("busy.raw"), CHECKED_BYTES);
    let _apart = Apart::new(&service);
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| service.client().with_retry(once())).collect();

    let idle = cpu_time(service.id());
    let capacity = capacity(&mut run, &connections, seconds / 4).await;
    assert!(!capacity.is_empty(), "expected work that is done");
    let each = (seconds / 4) / u32::try_from(capacity.len()).unwrap();
    let begun = cpu_time(service.id());
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for came in flood(&mut run, &connections, each / TIMES, seconds).await {
        match came {
            Came::Done(taken) => done.push(taken),
            Came::Refused(taken) => refused.push(taken),
        }
    }
    let used = cpu_time(service.id()) - begun;
    let each_ms = |used: Duration, count: usize| used.as_millis() / (count as u128).max(1);
    let cost_ms = [each_ms(begun - idle, capacity.len()), each_ms(used, done.len())];
    let recovered = recovered(&mut run, &connections[0]).await;
    assert!(recovered <= RECOVERY_MAX, "expected to be well within {RECOVERY_MAX:?}, not {recovered:?}");
    assert!(!refused.is_empty(), "expected more work than the server takes");
    let goodput = done.len() as u128 * each.as_micros() * 100 / seconds.as_micros();
    let least = if run.is_full() { GOODPUT_PERCENT_MIN } else { GOODPUT_PERCENT_MIN_SHORT };
    assert!(goodput >= least, "expected {least} % of the capacity to be used, not {goodput} %");
    check_left(&service).await;
    run.finish(&format!(
        "capacity {:.1} a second; {} s of {TIMES} times as much: {} done, 99 % within {} ms, which is {goodput} % of the \
         capacity; {} refused with a hint, 99 % within {} ms; well {} ms after the end; of the server's \
         processor time {} ms for each piece that was done, then {} ms; peak {} MiB",
        1.0 / each.as_secs_f64(),
        seconds.as_secs(),
        done.len(),
        p99(&mut done).as_millis(),
        refused.len(),
        p99(&mut refused).as_millis(),
        recovered.as_millis(),
        cost_ms[0],
        cost_ms[1],
        peak_bytes(service.id()) / MIB
    ));
}

/// Clients that ask for five times as much take time of their own. The server has one processor, they have the others: what
/// it can do is the same with few of them and with many. Undone when dropped.
struct Apart {
    all: String,
}

impl Apart {
    fn new(service: &Service) -> Self {
        let all = processors();
        // Of a list like `0-3,6` the first one, and the rest.
        let first: String = all.chars().take_while(char::is_ascii_digit).collect();
        let rest = match all[first.len()..].split_at_checked(1) {
            Some((",", rest)) => rest.to_owned(),
            Some((_, rest)) => format!("{}-{rest}", first.parse::<u32>().expect("a processor") + 1),
            None => String::new(),
        };
        if !rest.is_empty() {
            pin(service.id(), &first);
            pin(std::process::id(), &rest);
        }
        Self { all }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        pin(std::process::id(), &self.all);
    }
}

/// No client tries by itself again: that would be less than it asked for.
fn once() -> RetryPolicy {
    RetryPolicy { attempts_max: 1, ..RetryPolicy::default() }
}

/// What is done while clients wait for their answers.
async fn capacity(run: &mut Run, connections: &[Client], period: Duration) -> Vec<Came> {
    let end = Instant::now() + period;
    let mut clients = JoinSet::new();
    for number in 0..PATIENT {
        let (client, seed) = (connections[number as usize % connections.len()].clone(), run.random.next());
        clients.spawn(async move {
            let mut done = Vec::new();
            while Instant::now() < end {
                let turn = number + done.len() as u64;
                match ask(client.clone(), turn, seed + turn).await {
                    Came::Refused(_) => panic!("expected no refusal of what the server can do"),
                    came => done.push(came),
                }
            }
            done
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

/// Asks for a piece of work each `pause`, whatever came of those before.
async fn flood(run: &mut Run, connections: &[Client], pause: Duration, period: Duration) -> Vec<Came> {
    let end = Instant::now() + period;
    let mut tick = interval(pause.max(Duration::from_micros(100)));
    // What this machine could not ask for in time it asks for later.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut asked, mut came, mut turn) = (JoinSet::new(), Vec::new(), 0);
    while Instant::now() < end {
        tick.tick().await;
        let client = connections[turn as usize % connections.len()].clone();
        asked.spawn(ask(client, turn, run.random.next()));
        turn += 1;
        // What goes wrong is told at once: what waits takes memory.
        while let Some(one) = asked.try_join_next() {
            came.push(one.expect("a piece of work"));
        }
    }
    came.extend(asked.join_all().await);
    came
}

/// Takes its turn: an image that comes and goes, or a check that is waited for. It is an error for it to take longer than its
/// deadline, or to be refused without a hint.
async fn ask(client: Client, turn: u64, seed: u64) -> Came {
    let begun = Instant::now();
    let work = async {
        if turn.is_multiple_of(2) { come_and_go(&client, seed).await } else { check(&client).await }
    };
    let answer = timeout(DEADLINE, work).await;
    let answer = answer.unwrap_or_else(|_| panic!("expected an answer within {DEADLINE:?} in turn {turn}"));
    match answer {
        Ok(()) => Came::Done(begun.elapsed()),
        Err(error) => {
            assert_eq!(error.code(), Code::ResourceExhausted, "expected success or a clear refusal: {error}");
            assert!(error.retry_after().is_some(), "expected a hint when to come back: {error}");
            Came::Refused(begun.elapsed())
        }
    }
}

async fn come_and_go(client: &Client, seed: u64) -> Result<(), Error> {
    // Made at no cost: most of it is made in vain.
    let mut bytes = vec![7; UPLOAD_BYTES];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let sent = client.upload(&mut Cursor::new(bytes), &Default::default(), |_| {}).await?;
    client.delete_image_for_good(&sent.image.name, "").await.map(drop)
}

async fn check(client: &Client) -> Result<(), Error> {
    let job = client.check(check_file("busy.raw")).await?;
    let job = client.wait_job(&job.name, Some(DEADLINE)).await?;
    assert!(is_final(job.state()), "expected its end: {job:?}");
    Ok(())
}

/// How long it took until work was taken again without a refusal.
async fn recovered(run: &mut Run, client: &Client) -> Duration {
    let begun = Instant::now();
    let mut last_refusal = begun;
    let mut in_a_row = 0;
    while in_a_row < IN_A_ROW && last_refusal.duration_since(begun) <= RECOVERY_MAX {
        match ask(client.clone(), in_a_row, run.random.next()).await {
            Came::Done(_) => in_a_row += 1,
            Came::Refused(_) => (in_a_row, last_refusal) = (0, Instant::now()),
        }
    }
    last_refusal.duration_since(begun)
}

/// Nothing of all that is left over.
async fn check_left(service: &Service) {
    assert_eq!(audit::images(&service.client()).await.len(), 0, "expected each image to have gone again");
    eventually("an empty store", || async {
        (service.blobs().is_empty() && service.staged().is_empty()).then_some(())
    })
    .await;
}
