#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use super::*;

const INSIDE: &str = "inside";
const OUTSIDE: &str = "outside";

/// A root with some files, its data directory in it as in the container, and a tree beside it with other content.
struct Tree {
    base: TempDir,
    root: ImageRoot,
}

impl Tree {
    fn new() -> Self {
        let base = TempDir::new().unwrap();
        let write = |path: &str, text: &str| {
            let path = base.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("root/a.img", INSIDE);
        write("root/sub/b.img", INSIDE);
        write("root/sub/deep/c.img", INSIDE);
        write("root/10.0.0.7/abc.img", INSIDE);
        write("root/.imageops/catalogue.db", OUTSIDE);
        write("root/.imageops/blobs/blob", OUTSIDE);
        write("root/.imageops-0123.partial", OUTSIDE);
        write("secret", OUTSIDE);
        write("root-2/secret", OUTSIDE);
        std::fs::create_dir(base.path().join("root/empty")).unwrap();
        let root = ImageRoot::open(&base.path().join("root"), &[base.path().join("root/.imageops")]).unwrap();
        Self { base, root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.path().join("root").join(name)
    }

    fn link(&self, name: &str, target: impl AsRef<Path>) {
        symlink(target, self.path(name)).unwrap();
    }

    fn read(&self, name: &str) -> Result<String> {
        let mut text = String::new();
        self.root.open_source(name)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[track_caller]
    fn assert_not_found(&self, name: &str) {
        match self.root.open_source(name) {
            Err(Error::NotFound) => {}
            other => panic!("source {name:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn assert_no_output(&self, name: &str) {
        match self.root.output(name) {
            Err(Error::InvalidName) => {}
            other => panic!("output {name:?}: {other:?}"),
        }
    }
}

#[test]
fn files_beneath_are_opened() {
    let tree = Tree::new();
    for name in [
        "a.img",
        "sub/b.img",
        "sub/deep/c.img",
        "10.0.0.7/abc.img",
        "./a.img",
        "sub//b.img",
        "sub/../a.img",
        "sub/./deep/../b.img",
    ] {
        assert_eq!(tree.read(name).unwrap(), INSIDE, "{name}");
    }
}

/// Names that lead nowhere, out, to the service's own files, or to no file: neither a source nor an output.
const HOSTILE: &[&str] = &[
    "",
    ".",
    "..",
    "/",
    "//",
    "./",
    "../",
    "...//",
    "sub",
    "sub/",
    "sub/.",
    "sub/..",
    "sub/deep",
    "empty",
    "empty/",
    "empty/.",
    "a.img/",
    "a.img/.",
    "a.img/..",
    "a.img/x",
    "a.img/../a.img",
    "../secret",
    "../root/a.img",
    "../root-2/secret",
    "sub/../../secret",
    "sub/../../root/a.img",
    "sub/deep/../../../secret",
    "./../secret",
    ".//../secret",
    "empty/../../secret",
    "missing/../a.img",
    "missing/x",
    "missing/sub/x.img",
    "sub/missing/x",
    "../../../../../../../../../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "/dev/stdin",
    "a.img\0",
    "a.img\0.qcow2",
    "\0",
    "\0/etc/passwd",
    "sub\0/b.img",
    ".imageops",
    ".imageops/",
    ".imageops/catalogue.db",
    ".imageops/blobs/blob",
    ".imageops/../.imageops/catalogue.db",
    "./.imageops/catalogue.db",
    ".//.imageops//catalogue.db",
    "sub/../.imageops/catalogue.db",
    "sub/../.imageops/blobs/../blobs/blob",
    ".imageops/new",
    ".imageops/blobs/new",
    ".imageops-0123.partial",
    "./.imageops-0123.partial",
    "sub/../.imageops-0123.partial",
    "sub/.imageops-9.partial",
    "file:///etc/passwd/",
    "nbd://127.0.0.1/x",
    "json:{}/x",
    "~/x",
    "~root/.ssh/id",
    "$HOME/x",
    "%2e%2e/secret",
    "..%2fsecret/x",
    "..\\secret/x",
    "\u{2024}\u{2024}/secret",
    "\u{ff0e}\u{ff0e}/secret",
    "\u{202e}/gmi.a",
    "a.img\n/x",
];

#[test]
fn hostile_names_lead_nowhere() {
    let tree = Tree::new();
    assert!(HOSTILE.len() >= 60, "{}", HOSTILE.len());
    for name in HOSTILE {
        tree.assert_not_found(name);
        tree.assert_no_output(name);
    }
    let component = "x".repeat(256);
    let long = "sub/../".repeat(700) + "a.img";
    let endless = "a/".repeat(1 << 20) + "b";
    for name in [&component, &long, &endless, &format!("sub/{component}"), &format!("{component}/x")] {
        tree.assert_not_found(name);
        tree.assert_no_output(name);
    }
    // Odd, but names like any other.
    for name in
        ["..a", "a..", "...", " ", "-rf", "a\nb", "nbd:host:1", "%2e%2e", "C:\\x", "json:{}", "ä", "\u{202e}"]
    {
        tree.assert_not_found(name);
        tree.root.output(name).unwrap();
    }
}

#[test]
fn only_regular_files_are_sources() {
    let tree = Tree::new();
    let root = File::open(tree.path("")).unwrap();
    sys::mknodat(&root, "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("socket")).unwrap();
    for name in ["pipe", "socket"] {
        tree.assert_not_found(name);
        tree.assert_no_output(name);
    }
    match sys::mknodat(
        &root,
        "zero",
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        sys::makedev(1, 5),
    ) {
        Ok(()) => {
            tree.assert_not_found("zero");
            tree.assert_no_output("zero");
        }
        Err(_) => eprintln!("SKIPPED: a device below the image root: making one needs root"),
    }
}

#[test]
fn links_are_followed_beneath_the_root_only() {
    let tree = Tree::new();
    tree.link("in", "sub/b.img");
    tree.link("sub/up", "../a.img");
    tree.link("dir", "sub/deep");
    tree.link("sub/deep/root", "../..");
    tree.link("dot", ".");
    tree.link("chain-0", "a.img");
    for n in 1..=30 {
        tree.link(&format!("chain-{n}"), format!("chain-{}", n - 1));
    }
    for name in [
        "in",
        "sub/up",
        "dir/c.img",
        "dir/root/a.img",
        "dot/dot/dot/in",
        "dir/root/dir/root/sub/up",
        "chain-30",
    ] {
        assert_eq!(tree.read(name).unwrap(), INSIDE, "{name}");
        tree.root.output(name).unwrap();
    }
    let outside = tree.base.path().join("secret");
    let data = tree.path(".imageops");
    tree.link("out", "../secret");
    tree.link("sub/out", "../../secret");
    tree.link("absolute-out", &outside);
    tree.link("absolute-in", tree.path("a.img"));
    tree.link("out-dir", "..");
    tree.link("absolute-dir", tree.base.path());
    tree.link("absolute-self", tree.path(""));
    tree.link("out-and-in", "../root/a.img");
    tree.link("by-out", "sub/out");
    tree.link("loop", "loop");
    tree.link("loop-a", "loop-b");
    tree.link("loop-b", "loop-a");
    tree.link("to-dir", "sub");
    tree.link("to-dir-slash", "sub/deep/");
    tree.link("to-file-slash", "a.img/");
    tree.link("proc", "/proc/self/fd/0");
    tree.link("magic", "/proc/self/root/etc/passwd");
    tree.link("data", ".imageops/catalogue.db");
    tree.link("data-dir", ".imageops");
    tree.link("blobs", ".imageops/blobs");
    tree.link("absolute-data", data);
    tree.link("partial", ".imageops-0123.partial");
    for n in 31..=60 {
        tree.link(&format!("chain-{n}"), format!("chain-{}", n - 1));
    }
    for name in [
        "out",
        "sub/out",
        "absolute-out",
        "absolute-in",
        "out-dir/secret",
        "out-dir/root/a.img",
        "absolute-dir/secret",
        "absolute-self/a.img",
        "out-and-in",
        "by-out",
        "loop",
        "loop/a.img",
        "loop-a",
        "to-dir",
        "to-dir-slash",
        "to-file-slash",
        "proc",
        "magic",
        "data",
        "data-dir",
        "data-dir/catalogue.db",
        "data-dir/blobs/blob",
        "blobs/blob",
        "blobs/../catalogue.db",
        "absolute-data/catalogue.db",
        "partial",
        "chain-60",
    ] {
        tree.assert_not_found(name);
        tree.assert_no_output(name);
    }
    // A link that dangles is no source; as an output it stands for the file that would appear.
    tree.link("dangling", "sub/new.img");
    tree.link("dangling-deep", "missing/new.img");
    tree.link("dangling-out", "../new.img");
    tree.assert_not_found("dangling");
    assert_eq!(tree.root.output("dangling").unwrap().file_name, "new.img");
    for name in ["dangling-deep", "dangling-out"] {
        tree.assert_not_found(name);
        tree.assert_no_output(name);
    }
}

#[test]
fn an_output_is_placed_in_the_directory_it_names() {
    let tree = Tree::new();
    for (name, directory) in
        [("new.qcow2", "."), ("sub/new", "sub"), ("a.img", "."), ("sub/deep/../b.img", "sub")]
    {
        let place = tree.root.output(name).unwrap();
        assert_eq!(place.file_name, Path::new(name).file_name().unwrap());
        let expected = File::open(tree.path(directory)).unwrap();
        assert_eq!(FileId::of(&place.directory).unwrap(), FileId::of(&expected).unwrap());
        sys::fsync(&place.directory).unwrap();
    }
}

#[test]
fn outputs_that_are_the_input_are_seen() {
    let tree = Tree::new();
    std::fs::hard_link(tree.path("a.img"), tree.path("sub/hard.img")).unwrap();
    tree.link("soft.img", "a.img");
    let source = tree.root.open_source("a.img").unwrap();
    for (name, is_same) in [
        ("a.img", true),
        ("sub/../a.img", true),
        ("soft.img", true),
        ("sub/hard.img", true),
        ("sub/b.img", false),
        ("new.img", false),
    ] {
        let place = tree.root.output(name).unwrap();
        assert_eq!(tree.root.is_same_file(&source, &place).unwrap(), is_same, "{name}");
    }
    let by_link = tree.root.open_source("soft.img").unwrap();
    assert!(tree.root.is_same_file(&by_link, &tree.root.output("a.img").unwrap()).unwrap());
}

#[test]
fn a_root_in_the_data_directory_is_no_part_of_it() {
    let base = TempDir::new().unwrap();
    let data = base.path().join("data");
    std::fs::create_dir_all(data.join("images")).unwrap();
    std::fs::create_dir(data.join("blobs")).unwrap();
    std::fs::write(data.join("images/a.img"), INSIDE).unwrap();
    std::fs::write(data.join("catalogue.db"), OUTSIDE).unwrap();
    let root = ImageRoot::open(&data.join("images"), std::slice::from_ref(&data)).unwrap();
    root.open_source("a.img").unwrap();
    assert!(matches!(root.open_source("../catalogue.db"), Err(Error::NotFound)));
    // A file can be kept out by itself, under all its names.
    let file = data.join("images/kept.db");
    std::fs::write(&file, OUTSIDE).unwrap();
    std::fs::hard_link(&file, data.join("images/alias")).unwrap();
    let root = ImageRoot::open(&data.join("images"), &[file]).unwrap();
    for name in ["kept.db", "alias"] {
        assert!(matches!(root.open_source(name), Err(Error::NotFound)));
        assert!(matches!(root.output(name), Err(Error::InvalidName)));
    }
    for (path, keep_out) in [
        (&data, &data),
        (&data.join("missing"), &data),
        (&data.join("images"), &data.join("missing")),
        (&data.join("catalogue.db"), &data),
    ] {
        assert!(matches!(ImageRoot::open(path, std::slice::from_ref(keep_out)), Err(Error::Unusable(_))));
    }
}

/// SEC-26: a thread exchanges a file, a directory and a link while names are opened; no content from outside ever comes.
#[test]
fn exchanged_names_never_lead_out() {
    let tree = Tree::new();
    let base = tree.base.path().to_owned();
    std::fs::create_dir_all(base.join("trap/deep")).unwrap();
    for name in ["trap/b.img", "trap/deep/c.img", "trap/a.img"] {
        std::fs::write(base.join(name), OUTSIDE).unwrap();
    }
    symlink("../secret", base.join("root/file-trap")).unwrap();
    symlink("../trap", base.join("root/dir-trap")).unwrap();
    symlink(".imageops/catalogue.db", base.join("root/data-trap")).unwrap();
    let is_done = AtomicBool::new(false);
    let mut answers: HashMap<&str, u32> = HashMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = |a: &str, b: &str| {
                let root = File::open(base.join("root")).unwrap();
                sys::renameat_with(&root, a, &root, b, sys::RenameFlags::EXCHANGE).unwrap();
            };
            while !is_done.load(Ordering::Relaxed) {
                for (name, trap) in [("a.img", "file-trap"), ("sub", "dir-trap"), ("a.img", "data-trap")] {
                    swap(name, trap);
                    swap(name, trap);
                }
            }
        });
        for n in 0..10_000 {
            let name = ["a.img", "sub/b.img", "sub/deep/c.img", "sub/../a.img"][n % 4];
            let answer = match tree.read(name) {
                Ok(text) => {
                    assert_eq!(text, INSIDE, "{name} led out");
                    "opened"
                }
                Err(Error::NotFound) => "not found",
                Err(error) => panic!("{error:?}"),
            };
            *answers.entry(answer).or_default() += 1;
            if let Ok(place) = tree.root.output(name) {
                let directory = FileId::of(&place.directory).unwrap();
                let trap = FileId::of(File::open(base.join("trap")).unwrap()).unwrap();
                assert_ne!(directory, trap, "{name} led out");
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert!(answers["opened"] > 0 && answers["not found"] > 0, "the race did not take place: {answers:?}");
}

#[test]
fn left_over_outputs_are_swept() {
    let tree = Tree::new();
    for name in ["sub/.imageops-a.partial", "sub/deep/.imageops-b.partial", "sub/.imageops-live.partial"] {
        std::fs::write(tree.path(name), "half").unwrap();
    }
    std::fs::write(tree.path(".imageops/.imageops-c.partial"), "kept out").unwrap();
    for name in ["sub/.imageops-d", "sub/x.partial", "sub/.imageops.partial"] {
        std::fs::write(tree.path(name), "another's").unwrap();
    }
    let outside = tree.base.path().join("root-2");
    std::fs::write(outside.join(".imageops-e.partial"), "outside").unwrap();
    tree.link("out-dir", &outside);
    tree.link("sub/.imageops-link.partial", "../a.img");
    std::fs::create_dir(tree.path(".imageops-dir.partial")).unwrap();
    let live = File::open(tree.path("sub/.imageops-live.partial")).unwrap();
    live.lock().unwrap();
    assert_eq!(tree.root.sweep_partials().unwrap(), 3);
    for name in ["sub/.imageops-a.partial", "sub/deep/.imageops-b.partial", ".imageops-0123.partial"] {
        assert!(!tree.path(name).exists(), "{name}");
    }
    for name in [
        "sub/.imageops-live.partial",
        ".imageops/.imageops-c.partial",
        "sub/.imageops-d",
        "sub/x.partial",
        "sub/.imageops.partial",
        "sub/.imageops-link.partial",
        ".imageops-dir.partial",
        "out-dir/.imageops-e.partial",
        "a.img",
    ] {
        assert!(tree.path(name).exists(), "{name}");
    }
    drop(live);
    assert_eq!(tree.root.sweep_partials().unwrap(), 1);
}

#[test]
fn free_space_is_that_of_the_root() {
    let tree = Tree::new();
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(tree.base.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let by_df: u64 = text.lines().last().unwrap().trim().parse().unwrap();
    let own = tree.root.free_bytes().unwrap();
    assert!(own.abs_diff(by_df) < 1 << 30, "{own} {by_df}");
}
