//! rel_15: the faults of an object store. The proxy that makes them is shown to do what it says; what a server does whose
//! store is behind it stands in [`server`].

mod server;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::run::Run;
use crate::support::fault_proxy::{Fault, FaultProxy};
use crate::support::http::{Answer, try_request};

/// Requests at each share.
const REQUESTS: u64 = 1_000;
const SHARES_PERCENT: [u64; 3] = [10, 50, 100];
/// Faults that cost no time.
const QUICK: [Fault; 4] = [Fault::InternalError, Fault::Unavailable, Fault::Reset, Fault::Truncated];

fn get(server: SocketAddr) -> io::Result<Answer> {
    try_request(server, "GET", "/openapi.json", &[], 0, io::empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_15_the_proxy_strikes_as_it_is_told() {
    let mut run = Run::new("rel_15");
    let service = run.service(|_| {});
    let proxy = FaultProxy::start(service.http(), run.random.next());
    let plain = get(service.http()).unwrap().body;
    assert!(get(proxy.address).unwrap().body == plain, "expected everything to pass");
    assert_eq!(proxy.struck(), [None]);
    each_fault(&proxy, &plain);

    let requests = run.part_of(REQUESTS, 60);
    let mut figures = Vec::new();
    for share_percent in SHARES_PERCENT {
        let before = proxy.struck().len();
        proxy.strike(share_percent, &QUICK);
        for _ in 0..requests {
            let result = get(proxy.address);
            let struck = *proxy.struck().last().unwrap();
            assert_eq!(
                passed(&result, &plain),
                struck.is_none(),
                "{struck:?}: {:?}",
                result.map(|answer| answer.status)
            );
        }
        let struck: Vec<_> = proxy.struck()[before..].iter().flatten().copied().collect();
        let (count, share) = (struck.len() as u64, requests * share_percent / 100);
        // Six standard deviations of the widest case.
        let off = 3 * requests.isqrt();
        assert!(
            count.abs_diff(share) <= if share_percent == 100 { 0 } else { off },
            "expected about {share}: {count}"
        );
        if share_percent == 100 {
            assert_eq!(BTreeSet::from_iter(struck), BTreeSet::from(QUICK), "expected each kind");
        }
        figures.push(format!("{count} of {requests} at {share_percent} %"));
    }
    proxy.strike_for(100, &QUICK, Duration::ZERO);
    assert!(passed(&get(proxy.address), &plain), "expected everything to pass once the time is over");
    run.finish(&format!("the proxy alone: struck {}; passes before and after", figures.join(", ")));
}

/// What a client sees of each.
fn each_fault(proxy: &FaultProxy, plain: &[u8]) {
    let with = |fault| {
        proxy.strike(100, &[fault]);
        get(proxy.address)
    };
    assert_eq!(with(Fault::InternalError).unwrap().status, 500);
    assert_eq!(with(Fault::Unavailable).unwrap().status, 503);
    let reset = with(Fault::Reset).unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset, "{reset}");
    let cut = with(Fault::Truncated).unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
    let start = Instant::now();
    assert!(with(Fault::Slow).unwrap().body == plain, "expected a slow answer to be whole");
    assert!(start.elapsed() >= Duration::from_secs(1), "expected a slow answer: {:?}", start.elapsed());
    // A body that is announced is taken before the refusal, so that its sender hears it.
    proxy.strike(100, &[Fault::Unavailable]);
    let body = vec![7; 1 << 20];
    let refused = try_request(proxy.address, "PUT", "/", &[], body.len() as u64, &body[..]).unwrap();
    assert_eq!(refused.status, 503);
    silence(proxy);
    proxy.pass();
}

/// Nothing comes, for as long as the client has patience.
fn silence(proxy: &FaultProxy) {
    use std::io::{Read as _, Write as _};
    const PATIENCE: Duration = Duration::from_millis(200);
    proxy.strike(100, &[Fault::Silence]);
    let mut stream = std::net::TcpStream::connect(proxy.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: silent\r\n\r\n").unwrap();
    let error = stream.read(&mut [0]).expect_err("expected silence");
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
}

fn passed(result: &io::Result<Answer>, plain: &[u8]) -> bool {
    result.as_ref().is_ok_and(|answer| answer.status == 200 && answer.body == plain)
}
