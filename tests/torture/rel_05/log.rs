//! What a traced server did to its files, read from the log that strace wrote.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A descriptor of the server.
pub type Fd = i32;

/// One change, in the order in which the kernel made it.
pub struct Step {
    /// When, in microseconds since the epoch: not after it happened.
    pub time_us: u64,
    pub call: Call,
}

/// What changes files, directories, or what descriptors stand for. A call counts when it has returned; a close, when it is
/// made: from then on the descriptor may be another's.
pub enum Call {
    Open { fd: Fd, path: PathBuf, flags: String },
    Duplicate { from: Fd, to: Fd },
    Close { fd: Fd },
    Seek { fd: Fd, to_bytes: u64 },
    Write { fd: Fd, at_bytes: Option<u64>, data: Vec<u8> },
    Length { fd: Fd, length_bytes: u64 },
    Allocate { fd: Fd, mode: String, at_bytes: u64, length_bytes: u64 },
    Copy { from: Fd, from_at_bytes: Option<u64>, to: Fd, to_at_bytes: Option<u64>, length_bytes: u64 },
    FlushBegins { thread: u32, fd: Fd },
    FlushEnds { thread: u32, is_done: bool },
    MakeDirectory { path: PathBuf },
    Link { from: Linked, to: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Unlink { path: PathBuf },
}

/// What gets one more name.
pub enum Linked {
    Path(PathBuf),
    /// A file that may have no name.
    Fd(Fd),
}

/// The steps of one life of a server, in their order.
pub fn read(log: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(log).expect("a log of strace");
    let mut steps = Vec::new();
    // Calls that have begun, by their threads.
    let mut begun = HashMap::<u32, &str>::new();
    for line in text.lines() {
        let (thread, rest) = line.trim_start().split_once(' ').expect("a thread");
        let (time, rest) = rest.trim_start().split_once(' ').expect("a time");
        let thread = thread.parse().expect("a thread's number");
        let time_us = time.replace('.', "").parse().expect("microseconds");
        let mut tell = |call: Option<Call>| steps.extend(call.map(|call| Step { time_us, call }));
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            tell(beginning(thread, begin));
            begun.insert(thread, begin);
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let begin = begun.remove(&thread).expect("the beginning of a call");
            let end = resumed.split_once(" resumed>").expect("the end of a call").1;
            tell(returned(thread, &format!("{begin}{end}")));
        } else {
            tell(beginning(thread, rest));
            tell(returned(thread, rest));
        }
    }
    steps
}

/// What counts as soon as a call is made.
fn beginning(thread: u32, call: &str) -> Option<Call> {
    let (name, arguments) = call.split_once('(')?;
    match name {
        "close" => Some(Call::Close { fd: fd(arguments) }),
        "fsync" | "fdatasync" => Some(Call::FlushBegins { thread, fd: fd(arguments) }),
        _ => None,
    }
}

/// What a call has done that returned.
fn returned(thread: u32, call: &str) -> Option<Call> {
    let (call, result) = call.rsplit_once(" = ").expect("a result");
    let (name, arguments) = call.trim_end().strip_suffix(')').expect("a whole call").split_once('(')?;
    let is_done = !result.starts_with(['-', '?']);
    if matches!(name, "fsync" | "fdatasync") {
        return Some(Call::FlushEnds { thread, is_done });
    }
    if !is_done {
        return None;
    }
    let arguments = split(arguments);
    let argument = |index: usize| arguments[index];
    let path = |index: usize| path_at(argument(index), argument(index + 1));
    let plain = |index: usize| PathBuf::from(text(argument(index)));
    let count = || u64::try_from(fd(result)).expect("a count");
    Some(match name {
        "open" => Call::Open { fd: fd(result), path: plain(0), flags: argument(1).to_owned() },
        "openat" => Call::Open { fd: fd(result), path: path(0), flags: argument(2).to_owned() },
        "dup" | "dup2" | "dup3" => Call::Duplicate { from: fd(argument(0)), to: fd(result) },
        "fcntl" if argument(1).starts_with("F_DUPFD") => {
            Call::Duplicate { from: fd(argument(0)), to: fd(result) }
        }
        "lseek" => Call::Seek { fd: fd(argument(0)), to_bytes: count() },
        "write" | "writev" => {
            Call::Write { fd: fd(argument(0)), at_bytes: None, data: data(argument(1), count()) }
        }
        "pwrite64" | "pwritev" | "pwritev2" => Call::Write {
            fd: fd(argument(0)),
            at_bytes: Some(number(argument(3))),
            data: data(argument(1), count()),
        },
        "ftruncate" => Call::Length { fd: fd(argument(0)), length_bytes: number(argument(1)) },
        "fallocate" => Call::Allocate {
            fd: fd(argument(0)),
            mode: argument(1).to_owned(),
            at_bytes: number(argument(2)),
            length_bytes: number(argument(3)),
        },
        "copy_file_range" => Call::Copy {
            from: fd(argument(0)),
            from_at_bytes: place(argument(1)),
            to: fd(argument(2)),
            to_at_bytes: place(argument(3)),
            length_bytes: count(),
        },
        "mkdir" => Call::MakeDirectory { path: plain(0) },
        "mkdirat" => Call::MakeDirectory { path: path(0) },
        "link" => Call::Link { from: Linked::Path(plain(0)), to: plain(1) },
        "linkat" => Call::Link { from: linked(argument(0), argument(1)), to: path(2) },
        "rename" => Call::Rename { from: plain(0), to: plain(1) },
        "renameat" | "renameat2" => Call::Rename { from: path(0), to: path(2) },
        "unlink" | "rmdir" => Call::Unlink { path: plain(0) },
        "unlinkat" => Call::Unlink { path: path(0) },
        // It counted when it began; the others are locks.
        "close" | "fcntl" => return None,
        other => panic!("expected calls that the test knows, not {other}"),
    })
}

/// Arguments that stand beside each other; those within braces and brackets are one.
fn split(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let (mut arguments, mut start, mut depth, mut at) = (Vec::new(), 0, 0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at += text[at + 1..].find('"').expect("the end of a string") + 1,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                arguments.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    arguments.push(text[start..].trim());
    arguments
}

/// A number in front: a descriptor is followed by what it stands for.
fn fd(text: &str) -> Fd {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or_else(|_| panic!("expected a descriptor: {:.80}", text))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("expected a number: {text:.80}"))
}

/// A place that a call was given, `[7]`, or the one at which the descriptor stands.
fn place(text: &str) -> Option<u64> {
    // `[7 => 9]`: before and after.
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    Some(number(inner.split(' ').next().expect("a number")))
}

/// The bytes of all strings, as far as the call has taken them.
fn data(text: &str, count: u64) -> Vec<u8> {
    assert!(!text.contains("\"..."), "expected whole strings in the log");
    let mut bytes: Vec<_> = text.split('"').skip(1).step_by(2).flat_map(unescape).collect();
    bytes.truncate(usize::try_from(count).expect("bytes in memory"));
    bytes
}

/// `\x61\x62`; every byte is written so.
fn unescape(text: &str) -> Vec<u8> {
    let digit = |letter: u8| match letter {
        b'0'..=b'9' => letter - b'0',
        letter => letter - b'a' + 10,
    };
    text.as_bytes().chunks_exact(4).map(|byte| digit(byte[2]) << 4 | digit(byte[3])).collect()
}

/// A string.
fn text(argument: &str) -> OsString {
    OsString::from_vec(unescape(argument.trim_matches('"')))
}

/// A name below the directory that a descriptor stands for.
fn path_at(directory: &str, name: &str) -> PathBuf {
    let (start, end) = (directory.find('<').expect("a path"), directory.rfind('>').expect("a path"));
    PathBuf::from(OsString::from_vec(unescape(&directory[start + 1..end]))).join(text(name))
}

fn linked(directory: &str, name: &str) -> Linked {
    let path = path_at(directory, name);
    let number = path.strip_prefix("/proc/self/fd").ok().and_then(Path::to_str).map(str::parse);
    match number {
        Some(Ok(fd)) => Linked::Fd(fd),
        _ => Linked::Path(path),
    }
}

#[test]
fn a_log_is_read_in_its_order() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let lines = [
        r#"7 1.000001 openat(AT_FDCWD<\x2f\x61>, "\x62", O_RDWR|O_CREAT, 0600) = 3<\x2f\x61\x2f\x62>"#,
        r#"7 1.000002 write(3<\x2f\x61\x2f\x62>, "\x01\x02\x03", 3 <unfinished ...>"#,
        r#"8 1.000003 fsync(3<\x2f\x61\x2f\x62>) = 0"#,
        r#"7 1.000004 <... write resumed>) = 2"#,
        r#"8 1.000005 fsync(3<\x2f\x61\x2f\x62>) = -1 EIO (Input/output error)"#,
        r#"8 1.000006 writev(3<\x2f>, [{iov_base="\x01", iov_len=1}, {iov_base="\x02", iov_len=1}], 2) = 2"#,
        r#"8 1.000007 linkat(AT_FDCWD<\x2f>, "\x2f\x70\x72\x6f\x63\x2f\x73\x65\x6c\x66\x2f\x66\x64\x2f\x33", 4<\x2f\x61>, "\x63", AT_SYMLINK_FOLLOW) = 0"#,
        r#"8 1.000008 +++ exited with 0 +++"#,
    ];
    std::fs::write(&log, lines.join("\n")).unwrap();
    let steps = read(&log);
    let calls: Vec<_> = steps.iter().map(|step| &step.call).collect();
    let [
        Call::Open { fd: 3, path, .. },
        Call::FlushBegins { thread: 8, fd: 3 },
        Call::FlushEnds { thread: 8, is_done: true },
        Call::Write { fd: 3, at_bytes: None, data },
        Call::FlushBegins { .. },
        Call::FlushEnds { is_done: false, .. },
        Call::Write { data: both, .. },
        Call::Link { from: Linked::Fd(3), to },
    ] = calls[..]
    else {
        panic!("expected other calls")
    };
    assert_eq!((path.as_path(), to.as_path()), (Path::new("/a/b"), Path::new("/a/c")));
    assert_eq!((data, both), (&vec![1, 2], &vec![1, 2]), "as much as was taken");
    assert_eq!(steps[3].time_us, 1_000_004, "when it has returned");
}
