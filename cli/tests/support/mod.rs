//! What the tests of the command share: the built binary, the test images and the peer tool.

#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The command, without anything from the environment that would send it to a server.
pub(crate) fn imageops() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imageops"));
    command.env_remove("IMAGEOPS_SERVER").env_remove("IMAGEOPS_TOKEN").stdin(Stdio::null());
    command
}

/// Runs the command with `arguments`.
pub(crate) fn run(arguments: &[&str]) -> Output {
    imageops().args(arguments).output().unwrap()
}

/// Exit status; a signal is none.
pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {output:?}"))
}

/// What was written to stdout as one JSON document.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The directory of test images, or a line that says what is missing.
pub(crate) fn images(test: &str) -> Option<PathBuf> {
    match std::env::var_os("IMAGEOPS_TEST_IMAGES") {
        Some(directory) => Some(directory.into()),
        None => {
            eprintln!("SKIPPED: {test}: IMAGEOPS_TEST_IMAGES names no test images");
            None
        }
    }
}

/// Whether `qemu-img` is there, or a line that says it is missing.
pub(crate) fn has_qemu_img(test: &str) -> bool {
    let found =
        Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: {test}: qemu-img is not installed");
    }
    found
}

/// All images below `directory` with the extension, in order.
pub(crate) fn all_images(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir() && !hidden {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {extension} images");
    found
}
