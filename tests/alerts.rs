//! The alerts that the product brings: each rule fires in Prometheus' own tests, what they ask for is measured, and a real
//! Prometheus that watches a real server tells of an image that was lost.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use imageops::v1::JobState;

use support::http::{get, try_request};
use support::images::have;
use support::random::Random;
use support::status::eventually;
use support::stores::{damage, scrub};
use support::upload::upload;
use support::{Service, wait_for};

/// Metrics whose labels come with what is measured: a fresh server has none of them.
const LABELLED: [&str; 2] = ["imageops_jobs_ended_total", "imageops_rejected_total"];

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/imageops.rules.yml")
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool").args(arguments).arg(file).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

#[test]
fn every_alert_is_quiet_first_and_fires_then() {
    if !have("promtool") {
        return;
    }
    let (rules, tests) = (rules(), rules().with_file_name("imageops.rules.test.yml"));
    promtool(&["check", "rules"], &rules);
    promtool(&["test", "rules"], &tests);
    let named = |path: &Path, key: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(path).unwrap();
        let names = text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key));
        names.map(|name| name.trim().to_owned()).collect()
    };
    let alerts = named(&rules, "alert:");
    assert!(alerts.len() > 5, "{alerts:?}");
    assert_eq!(alerts, named(&tests, "alertname:"), "each alert has a test");
    let manual =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let undocumented: Vec<_> =
        alerts.iter().filter(|name| !manual.contains(&format!("| `{name}` |"))).collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_alerts_ask_for_is_measured_from_the_start() {
    let service = Service::start();
    let rules = fs::read_to_string(rules()).unwrap();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let asked: BTreeSet<_> = rules
        .split(|c: char| !is_name(c))
        .filter(|word| word.starts_with("imageops_") && !LABELLED.contains(word))
        .collect();
    assert!(asked.len() > 5, "{asked:?}");
    eventually("a first probe of the stores", || async {
        let metrics = get(service.http(), "/metrics");
        let known: BTreeSet<_> =
            metrics.text().lines().filter_map(|line| line.split([' ', '{']).next()).collect();
        asked.iter().all(|name| known.contains(name)).then_some(())
    })
    .await;
}

/// A Prometheus of the test's own, killed when dropped.
struct Prometheus {
    address: SocketAddr,
    server: Child,
}

impl Prometheus {
    fn start(directory: &Path, watched: SocketAddr) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = directory.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n  \
             - job_name: imageops\n    static_configs: [{{ targets: [\"{watched}\"] }}]\n",
            rules().display()
        );
        fs::write(&config, text).unwrap();
        let server = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { address, server }
    }

    /// What it answers to a query of its API; nothing while it starts.
    fn ask(&self, path: &str) -> Option<serde_json::Value> {
        let answer = try_request(self.address, "GET", path, &[], 0, std::io::empty()).ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The alerts that fire.
    fn firing(&self) -> BTreeSet<String> {
        let answer = self.ask("/api/v1/alerts").unwrap_or_default();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rel_14_a_lost_image_raises_an_alert() {
    if !have("prometheus") {
        return;
    }
    let service = Service::start();
    let client = service.client();
    let prometheus = Prometheus::start(service.scratch(), service.http());
    let stored = upload(&client, &Random::new("alert").bytes(200_000)).await;
    eventually("a first look of Prometheus at the server", || async {
        let answer = prometheus.ask("/api/v1/query?query=imageops_lost_total")?;
        (answer["data"]["result"][0]["value"][1] == "0").then_some(())
    })
    .await;
    assert_eq!(prometheus.firing(), BTreeSet::new());

    damage(&service, 70_000);
    let job = scrub(&service, "default").await;
    wait_for(&client, &job.name, JobState::Succeeded).await;

    let expected = BTreeSet::from(["ImageopsBytesDamaged".to_owned(), "ImageopsImageLost".to_owned()]);
    eventually("both alerts", || async { expected.is_subset(&prometheus.firing()).then_some(()) }).await;
    let image = client.get_image(&stored.name).await.unwrap();
    assert_eq!(image.state(), imageops::v1::ImageState::Quarantined);
}
