//! How the command is called: wrong usage, help, closed pipes, absent servers.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read as _;
use std::process::Stdio;

use support::{imageops, run, status};

#[test]
fn wrong_usage_is_status_1_and_never_2() {
    let wrong: [&[&str]; 21] = [
        &[],
        &["frobnicate"],
        &["check"],
        &["check", "a", "b"],
        &["check", "a", "--digest", "sha1"],
        &["check", "a", "--digest", "none,md5"],
        &["check", "a", "--output", "xml"],
        &["check", "a", "--threads", "0"],
        &["inspect"],
        &["inspect", "a", "--format", "vmdk"],
        &["compress", "a"],
        &["compress", "a", "b", "--level", "13"],
        &["compress", "a", "b", "--threads", "0"],
        &["compress", "a", "b", "--drop-extra", "logs"],
        &["compress", "a", "b", "--drop-extra", "gaps", "--keep-free-space"],
        &["convert", "a"],
        &["convert", "a", "b"],
        &["convert", "a", "b", "--format", "vmdk"],
        &["convert", "a", "b", "--format", "raw", "--threads", "0"],
        &["job"],
        &["completions", "tcsh"],
    ];
    for arguments in wrong {
        let output = run(arguments);
        assert_eq!(status(&output), 1, "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

#[test]
fn help_is_no_error() {
    for arguments in [&["--help"][..], &["check", "--help"], &["job", "list", "--help"], &["--version"]] {
        let output = run(arguments);
        assert_eq!(status(&output), 0, "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(status(&output), 0, "{shell}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("imageops"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = imageops()
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn what_needs_a_server_says_so() {
    for arguments in [&["upload", "a"][..], &["download", "images/a", "b"], &["job", "list"]] {
        let output = run(arguments);
        assert_eq!(status(&output), 1);
        assert!(String::from_utf8(output.stderr).unwrap().contains("--server"), "{arguments:?}");
    }
}

#[test]
fn an_absent_server_is_one_line() {
    // Port 1 of this machine: nobody listens there.
    let output = imageops().args(["job", "list", "--server", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(status(&output), 1);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.starts_with("imageops: the connection to the server failed"), "{line}");
    let output = imageops().args(["job", "list", "--server", "ftp://images.example"]).output().unwrap();
    assert_eq!(status(&output), 1);
    assert!(String::from_utf8(output.stderr).unwrap().contains("http://host:port"));
}

#[test]
fn what_has_not_begun_is_not_to_be_resumed() {
    let program = env!("CARGO_BIN_EXE_imageops");
    let output = imageops().args(["upload", program, "--server", "http://127.0.0.1:1"]).output().unwrap();
    assert_eq!(status(&output), 1);
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("is the server running") && !line.contains("--resume"), "{line}");
}

#[test]
fn the_key_is_never_printed() {
    let output = imageops()
        .args(["job", "list", "--server", "http://127.0.0.1:1"])
        .env("IMAGEOPS_TOKEN", "very-secret")
        .output()
        .unwrap();
    assert!(!String::from_utf8(output.stderr).unwrap().contains("very-secret"));
    let help = imageops().args(["--help"]).env("IMAGEOPS_TOKEN", "very-secret").output().unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains("very-secret"));
}
