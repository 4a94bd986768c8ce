//! Test images and the tools that made them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::compress::{CompressOptions, CompressReport, compress};
use imageops_image::format::{self, Format, Image};
use imageops_image::storage::FileStorage;

/// The directory of test images when it and all `tools` are there; else says that `test` is skipped.
pub(crate) fn images(test: &str, tools: &[&str]) -> Option<PathBuf> {
    for tool in tools {
        if Command::new(tool).arg("-V").output().is_err() {
            eprintln!("SKIPPED: {test}: {tool} is not installed");
            return None;
        }
    }
    let Some(directory) = std::env::var_os("IMAGEOPS_TEST_IMAGES") else {
        eprintln!("SKIPPED: {test}: IMAGEOPS_TEST_IMAGES names no test images");
        return None;
    };
    Some(directory.into())
}

/// Runs a tool.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Output {
    Command::new(tool).args(arguments).env("DEBUGFS_PAGER", "cat").output().unwrap()
}

/// Runs a tool that must succeed, and returns what it printed.
pub(crate) fn run_ok(tool: &str, arguments: &[&str]) -> String {
    let output = run(tool, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// A path as a tool's argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Opens an image as what its name says.
pub(crate) fn open(path: &Path) -> Image {
    let storage = Arc::new(FileStorage::new(File::open(path).unwrap()).unwrap());
    format::open(storage, Some(format_of(path))).unwrap()
}

/// The format by the name's ending.
pub(crate) fn format_of(path: &Path) -> Format {
    if path.extension().is_some_and(|ending| ending == "qcow2") { Format::Qcow2 } else { Format::Raw }
}

/// Compresses one file into another.
pub(crate) fn compress_file(
    source: &Path,
    target: &Path,
    options: &CompressOptions,
) -> imageops_image::Result<CompressReport> {
    let storage = Arc::new(FileStorage::new(File::open(source).unwrap()).unwrap());
    let output = File::options().read(true).write(true).create(true).truncate(true).open(target).unwrap();
    compress(storage, Some(format_of(source)), &output, options, &Control::default())
}

/// Files below `directory` with one of the `endings`, sorted.
pub(crate) fn files(directory: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| endings.iter().any(|other| ending == *other)))
        .collect();
    files.sort();
    files
}
