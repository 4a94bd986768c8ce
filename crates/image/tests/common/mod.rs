//! The test images and what the peer says of them.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::check::{CheckOptions, CheckReport, check};
use imageops_image::storage::{FileStorage, Storage};
use serde_json::Value;

/// An image of the test set.
pub struct TestImage {
    /// Name below the directory of the set.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// What the peer said of it when the set was made.
    pub facts: Value,
}

impl TestImage {
    /// The image as storage.
    pub fn storage(&self) -> Arc<dyn Storage> {
        open_file(&self.path)
    }
}

/// A file as storage.
pub fn open_file(path: &Path) -> Arc<dyn Storage> {
    Arc::new(FileStorage::new(File::open(path).unwrap()).unwrap())
}

/// The set that the environment names, or a line that says that the test was skipped.
pub fn images(test: &str) -> Option<Vec<TestImage>> {
    let Some(directory) = std::env::var_os("IMAGEOPS_TEST_IMAGES").map(PathBuf::from) else {
        eprintln!("SKIPPED: {test}: IMAGEOPS_TEST_IMAGES names no test images");
        return None;
    };
    let text = std::fs::read_to_string(directory.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let images = manifest["images"].as_object().unwrap().iter().map(|(name, facts)| TestImage {
        name: name.clone(),
        path: directory.join(name),
        facts: facts.clone(),
    });
    Some(images.collect())
}

/// Whether the peer is installed, or a line that says that the test was skipped.
pub fn has_peer(test: &str) -> bool {
    let found =
        Command::new("qemu-img").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        eprintln!("SKIPPED: {test}: qemu-img is not installed");
    }
    found.is_ok()
}

/// Our check without digests.
pub fn check_storage(storage: Arc<dyn Storage>) -> CheckReport {
    let options = CheckOptions { md5: false, sha256: false, ..Default::default() };
    check(storage, &options, &Control::default()).unwrap()
}

/// The figures of our check as the peer prints them, when it prints any.
pub fn members(report: &CheckReport) -> Option<serde_json::Map<String, Value>> {
    let figures = report.figures.as_ref()?;
    Some(figures.json_members().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
}

/// The peer's figures, without the names it adds.
pub fn peer_members(facts: &Value) -> Option<serde_json::Map<String, Value>> {
    let mut members = facts.as_object()?.clone();
    members.remove("filename");
    members.remove("format");
    Some(members)
}
