//! Test images and the programs that judge ours. Where one is missing the test says so and is counted as skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Says that the test could not be run here. `cargo xtask test` counts these lines.
pub fn skip(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}

/// The directory of the small image set; without one the skip has been noted.
pub fn images() -> Option<PathBuf> {
    let directory =
        std::env::var_os("IMAGEOPS_TEST_IMAGES").filter(|value| !value.is_empty()).map(PathBuf::from);
    if directory.is_none() {
        skip("IMAGEOPS_TEST_IMAGES is not set; cargo xtask test makes the images and sets it");
    }
    directory
}

/// One image of the set by its name there, for instance `variants/v3.qcow2`; else the skip has been noted.
pub fn image(name: &str) -> Option<PathBuf> {
    let path = images()?.join(name);
    if path.is_file() {
        return Some(path);
    }
    skip(&format!("the image set has no {name}"));
    None
}

/// What qemu-img says of each image of the set, by its name there.
pub fn manifest(images: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(images.join("manifest.json")).expect("the manifest of the images");
    let mut manifest: serde_json::Value = serde_json::from_str(&text).expect("a manifest in JSON");
    manifest["images"].take()
}

/// Whether a program is installed; if not, the skip has been noted.
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Runs `qemu-img` to its end, whatever its status.
pub fn qemu_img<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new("qemu-img").args(arguments).output().expect("qemu-img runs")
}

/// Asserts that two images hold the same guest data.
pub fn assert_same_content(one: &Path, other: &Path) {
    let output = qemu_img([Path::new("compare"), one, other]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
