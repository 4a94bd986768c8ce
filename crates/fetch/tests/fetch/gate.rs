//! SEC-35: spellings, names whose answers change, redirects.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use imageops_fetch::{Error, Gate, Policy, Resolver, RootCertStore};

use crate::names::{Names, gate};
use crate::source::{Reply, Source, limits, open, open_tls};

const SECOND: Duration = Duration::from_secs(1);

/// A gate as it is set up by default, over names that lead outside, inside, and to both.
fn strict() -> Gate {
    let names = Names::of(&[
        ("mirror.example", &[&["8.8.8.8", "2606:4700::1111"]]),
        ("xn--mnchen-3ya.example", &[&["8.8.8.8"]]),
        ("localhost", &[&["127.0.0.1", "::1"]]),
        ("inside.example", &[&["10.0.0.5"]]),
        ("metadata.google.internal", &[&["169.254.169.254"]]),
        ("mixed.example", &[&["8.8.8.8", "127.0.0.1"]]),
        ("mapped.example", &[&["::ffff:10.0.0.1"]]),
        ("nothing.example", &[&[]]),
        ("nat64.example", &[&["64:ff9b::a9fe:a9fe"]]),
        ("wide.example", &[&["0.0.0.0"]]),
        ("127.0.0.1.nip.example", &[&["127.0.0.1"]]),
    ]);
    Gate::new(Policy::default(), names as Arc<dyn Resolver>)
}

async fn judge(gate: &Gate, text: &str) -> Result<Vec<String>, Error> {
    let url = gate.read(text)?;
    let admitted = gate.admit(&url, SECOND).await?;
    Ok(admitted.addresses().iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn sec_35_no_spelling_leads_inside() {
    let gate = strict();
    let spellings = [
        // Loopback as a number, in every base and length.
        "http://127.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0x7F.0x0.0x0.0x1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://0177.0x0.0.1/",
        "http://127.0.0.1./",
        "http://0/",
        "http://0.0.0.0/",
        "http:127.0.0.1/",
        "http:/127.0.0.1/",
        "http:///127.0.0.1/",
        // Percent signs and look-alikes.
        "http://%31%32%37.0.0.1/",
        "http://127%2e0%2e0%2e1/",
        "http://１２７.０.０.１/",
        "http://127。0。0。1/",
        "http://①②⑦.⓪.⓪.①/",
        "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
        "http://l\u{ad}ocalhost/",
        // IPv6, and IPv4 in it.
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::169.254.169.254]/",
        "http://[2002:7f00:1::]/",
        "http://[2001:0:7f00:1::1]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fd00:ec2::254]/",
        "http://[ff02::1]/",
        // Metadata, private, shared, reserved.
        "http://169.254.169.254/latest/meta-data/",
        "http://0xa9fea9fe/",
        "http://2852039166/",
        "http://0251.0376.0251.0376/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.0.1/",
        "http://100.64.0.1/",
        "http://198.18.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://240.0.0.1/",
        // Names that lead there, wholly or in part, or nowhere.
        "http://localhost/",
        "http://LOCALHOST./",
        "http://inside.example/",
        "http://metadata.google.internal/",
        "http://mixed.example/",
        "http://mapped.example/",
        "http://nothing.example/",
        "http://nat64.example/",
        "http://wide.example/",
        "http://127.0.0.1.nip.example/",
        "http://unknown.example/",
        // Users, schemes, ports.
        "http://user@mirror.example/",
        "http://user:password@mirror.example/",
        "http://@mirror.example/",
        "http://mirror.example@127.0.0.1/",
        "http://127.0.0.1#@mirror.example/",
        "http://127.0.0.1:80\\@mirror.example/",
        "https://mirror.example:22/",
        "http://mirror.example:8080/",
        "http://mirror.example:0/",
        "http://mirror.example:65536/",
        "ftp://mirror.example/",
        "gopher://mirror.example/",
        "file:///etc/passwd",
        "file://mirror.example/etc/passwd",
        "unix:///run/docker.sock",
        "dict://127.0.0.1:11211/",
        "data:text/plain,x",
        "javascript:alert(1)",
        // Not a URL, or one that others would read otherwise.
        "",
        "//mirror.example/",
        "mirror.example/a.img",
        "http://",
        "http://./",
        "http://mirror.example\t/",
        "http://mirror.example /",
        "http://mirror.example/\r\nHost: x",
        "http://mir\u{0}ror.example/",
        "http://[::1/",
        "http://256.256.256.256/",
        "http://1.2.3.4.5/",
        "http://0x7f.1.example.0x7f/",
    ];
    for spelling in spellings {
        assert!(
            matches!(judge(&gate, spelling).await, Err(Error::Denied(_) | Error::NoHost)),
            "{spelling:?}: {:?}",
            judge(&gate, spelling).await
        );
    }
    assert!(spellings.len() >= 40);
    let long = format!("http://mirror.example/{}", "a".repeat(2_048));
    assert!(judge(&gate, &long).await.is_err());
}

#[tokio::test]
async fn what_lies_outside_is_let_through_in_any_spelling() {
    let gate = strict();
    for (spelling, addresses) in [
        ("https://mirror.example/a.img", "8.8.8.8:443 [2606:4700::1111]:443"),
        ("http://MIRROR.example./a.img?x=y@z#part", "8.8.8.8:80 [2606:4700::1111]:80"),
        ("http://mirror.example:443/", "8.8.8.8:443 [2606:4700::1111]:443"),
        ("http://m%69rror.example/", "8.8.8.8:80 [2606:4700::1111]:80"),
        ("https://münchen.example/", "8.8.8.8:443"),
        ("http://0x08080808/", "8.8.8.8:80"),
        ("http://[::ffff:8.8.8.8]/", "8.8.8.8:80"),
        ("http://[2606:4700::1111]/", "[2606:4700::1111]:80"),
    ] {
        assert_eq!(judge(&gate, spelling).await.unwrap().join(" "), addresses, "{spelling}");
    }
    let many: Vec<String> = (1..=8).map(|number| format!("2606:4700::{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(["8.8.8.8", "::ffff:8.8.4.4"]).collect();
    let gate = Gate::new(Policy::default(), Names::of(&[("many.example", &[&many])]) as Arc<dyn Resolver>);
    let turns = judge(&gate, "http://many.example/").await.unwrap();
    assert_eq!(turns.len(), 8);
    let first = ["[2606:4700::1]:80", "8.8.8.8:80", "[2606:4700::2]:80", "8.8.4.4:80", "[2606:4700::3]:80"];
    assert_eq!(turns[..5], first, "both families, before those that are too many are left out");
    let no_http = Policy { http: false, ..Policy::default() };
    let gate = Gate::new(no_http, Names::of(&[]) as Arc<dyn Resolver>);
    assert_eq!(gate.read("http://8.8.8.8/"), Err(Error::Denied("the scheme of the URL is not taken")));
}

#[tokio::test]
async fn a_name_that_is_unknown_is_refused_like_one_that_leads_inside() {
    let gate = strict();
    let unknown = judge(&gate, "http://unknown.example/").await.unwrap_err();
    assert_eq!(judge(&gate, "http://inside.example/").await.unwrap_err(), unknown);
}

#[tokio::test]
async fn sec_35_the_address_that_was_judged_is_the_one_that_is_connected_to() {
    let source = Source::start(|_, _| Reply::whole(b"bytes")).await;
    // The second look-up would lead to an address that answers nobody: there must be none.
    let names = Names::of(&[("rebind.example", &[&["127.0.0.1"], &["192.0.2.1"]])]);
    let gate = gate(&names, &["127.0.0.0/8"]);
    let url = gate.read(&format!("http://rebind.example:{}/", source.port())).unwrap();
    let mut fetch = open(&gate, &url, limits()).await.unwrap();
    assert_eq!(fetch.next().await.unwrap().unwrap(), &b"bytes"[..]);
    assert_eq!(names.questions.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn sec_35_a_name_that_turns_inside_is_refused_when_it_does() {
    // Cut once: the try again asks again, and is told another address.
    let source = Source::start(|_, _| Reply::whole(b"0123456789").tagged("\"a\"").cut_after(4)).await;
    let names = Names::of(&[("rebind.example", &[&["127.0.0.1"], &["127.0.0.2"]])]);
    let gate = gate(&names, &["127.0.0.1"]);
    let url = gate.read(&format!("http://rebind.example:{}/", source.port())).unwrap();
    let mut fetch = open(&gate, &url, limits()).await.unwrap();
    assert_eq!(fetch.next().await.unwrap().unwrap(), &b"0123"[..]);
    assert_eq!(fetch.next().await, Err(Error::Cut));
    assert_eq!(source.requests(), 1, "127.0.0.2 is not allowed, whatever the name");
    assert!(names.questions.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn sec_35_each_redirect_goes_through_the_gate() {
    let source = Source::start(|request, _| match request.path.as_str() {
        "/ok" => Reply::whole(b"there"),
        "/relative" => Reply::redirect("/ok"),
        "/name" => Reply::redirect("http://second.example:PORT/ok"),
        "/loop" => Reply::redirect("/loop"),
        path if path.starts_with("/hop/") => {
            let left: u32 = path[5..].parse().unwrap();
            Reply::redirect(&if left == 0 { "/ok".to_owned() } else { format!("/hop/{}", left - 1) })
        }
        "/inside" => Reply::redirect("http://127.0.0.2:PORT/ok"),
        "/inside-name" => Reply::redirect("http://inside.example:PORT/ok"),
        "/metadata" => Reply::redirect("http://169.254.169.254/latest/meta-data/"),
        "/decimal" => Reply::redirect("http://2130706434:PORT/ok"),
        "/user" => Reply::redirect("http://user:password@second.example:PORT/ok"),
        "/file" => Reply::redirect("file:///etc/passwd"),
        "/gopher" => Reply::redirect("gopher://second.example/"),
        "/empty" => Reply::redirect(""),
        _ => Reply::head("302 Found", ""),
    })
    .await;
    let names = Names::of(&[
        ("first.example", &[&["127.0.0.1"]]),
        ("second.example", &[&["127.0.0.1"]]),
        ("inside.example", &[&["10.0.0.1"]]),
    ]);
    let gate = gate(&names, &["127.0.0.1"]);
    let fetched = async |path: &str| {
        let url = gate.read(&format!("http://first.example:{}{path}", source.port())).unwrap();
        let mut fetch = open(&gate, &url, limits()).await?;
        fetch.next().await
    };
    for good in ["/ok", "/relative", "/name", "/hop/3", "/hop/4"] {
        assert_eq!(fetched(good).await.unwrap().unwrap(), &b"there"[..], "{good}");
    }
    for bad in ["/hop/5", "/loop", "/empty", "/nowhere"] {
        assert!(matches!(fetched(bad).await, Err(Error::Invalid(_))), "{bad}: {:?}", fetched(bad).await);
    }
    let denied = Error::Denied("the source redirects to what may not be fetched");
    for bad in ["/inside", "/metadata", "/decimal", "/user", "/file", "/gopher"] {
        assert_eq!(fetched(bad).await, Err(denied), "{bad}");
    }
    assert_eq!(fetched("/inside-name").await, Err(Error::NoHost));
    let seen = source.heads();
    assert!(seen.iter().all(|head| !head.contains("authorization") && !head.contains("cookie")), "{seen:?}");
}

#[tokio::test]
async fn sec_35_https_never_becomes_http() {
    let plain = Source::start(|_, _| Reply::whole(b"plain")).await;
    let location = format!("http://second.example:{}/", plain.port());
    let (secure, roots) = Source::start_tls("first.example", move |request, _| match &*request.path {
        "/down" => Reply::redirect(&location),
        _ => Reply::whole(b"secure"),
    })
    .await;
    let names = Names::of(&[("first.example", &[&["127.0.0.1"]]), ("second.example", &[&["127.0.0.1"]])]);
    let gate = gate(&names, &["127.0.0.1"]);
    let url = |host: &str, path: &str| gate.read(&format!("https://{host}:{}{path}", secure.port())).unwrap();
    let mut fetch = open_tls(&gate, &url("first.example", "/"), &roots).await.unwrap();
    assert_eq!(fetch.next().await.unwrap().unwrap(), &b"secure"[..]);
    let down = open_tls(&gate, &url("first.example", "/down"), &roots).await.unwrap_err();
    assert_eq!(down, Error::Denied("the source redirects from https to http"));
    assert_eq!(plain.requests(), 0);
    // A certificate of another name, and one that nobody vouches for.
    for (host, roots) in [("second.example", &roots), ("first.example", &RootCertStore::empty())] {
        let error = open_tls(&gate, &url(host, "/"), roots).await.unwrap_err();
        assert_eq!(error, Error::Unreachable, "{host}");
    }
}

#[tokio::test]
async fn sec_35_a_closed_port_an_open_one_and_a_wrong_protocol_are_told_alike() {
    let names = Names::of(&[]);
    let gate = gate(&names, &["127.0.0.1"]);
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let wrong = Source::start(|_, _| Reply::raw("220 mail.example ESMTP\r\n")).await;
    for (what, port) in
        [("closed", closed), ("silent", silent.local_addr().unwrap().port()), ("wrong", wrong.port())]
    {
        for scheme in ["http", "https"] {
            let url = gate.read(&format!("{scheme}://127.0.0.1:{port}/")).unwrap();
            let error = open(&gate, &url, limits()).await.unwrap_err();
            assert_eq!(error, Error::Unreachable, "{what} {scheme}");
        }
    }
}
