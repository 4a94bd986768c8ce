//! Checks an image and prints the figures: `check FILE [md5] [sha256]`.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use imageops_image::Control;
use imageops_image::check::{CheckOptions, check};
use imageops_image::storage::FileStorage;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, digests) = arguments.split_first().ok_or("usage: check FILE [md5] [sha256]")?;
    let wants = |name: &str| digests.iter().any(|digest| digest == name);
    let options = CheckOptions { md5: wants("md5"), sha256: wants("sha256"), ..Default::default() };
    let started = Instant::now();
    let report = check(Arc::new(FileStorage::new(File::open(file)?)?), &options, &Control::default())?;
    let elapsed = started.elapsed();
    println!("{:?}, verdict {:?}, in {elapsed:.3?}", report.outcome, report.inspection.verdict);
    for (name, value) in report.figures.iter().flat_map(|figures| figures.json_members()) {
        println!("{name}: {value}");
    }
    for digest in [report.digests.md5, report.digests.sha256].into_iter().flatten() {
        println!("{digest}");
    }
    for finding in report.findings.iter().take(10) {
        println!("{finding:?}");
    }
    Ok(())
}
