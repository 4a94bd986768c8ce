//! Files and directories as the server sees them, and as they lie on the medium.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::log::{Call, Fd, Linked};
use crate::support::random::Random;

/// What is kept or lost of a write that was not flushed.
const PAGE_BYTES: usize = 4096;

/// What a loss of power leaves of that which was not flushed.
#[derive(Clone, Copy, Debug)]
pub struct Leaves {
    /// Names that were made, moved and removed; else each directory is as it was flushed last.
    pub names: bool,
    /// A random part of what was written, page by page; else none of it.
    pub some_bytes: bool,
}

impl Leaves {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self { names: true, some_bytes: false },
        Self { names: true, some_bytes: true },
        Self { names: false, some_bytes: false },
        Self { names: false, some_bytes: true },
    ];
}

/// Number of a file or directory.
type Node = usize;

/// A directory and everything below it.
pub struct Medium {
    root: PathBuf,
    files: Vec<File>,
    directories: Vec<Directory>,
    descriptors: HashMap<Fd, usize>,
    /// Where those who share a description stand.
    opened: Vec<Opened>,
    /// Flushes under way, by their threads: what of, and the changes that they cover.
    flushes: HashMap<u32, Flush>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    File(Node),
    Directory(Node),
}

struct Opened {
    entry: Entry,
    at_bytes: u64,
    appends: bool,
}

#[derive(Default)]
struct File {
    seen: Vec<u8>,
    flushed: Vec<u8>,
    /// Changes that are not covered by a flush, in their order.
    pending: Vec<Change>,
}

#[derive(Default)]
struct Directory {
    seen: BTreeMap<OsString, Entry>,
    flushed: BTreeMap<OsString, Entry>,
    /// Flushes that have begun, and the newest one that has ended.
    begun: u64,
    ended: u64,
}

enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

enum Flush {
    /// So many changes of a file had been made when the flush began; those that another flush covers meanwhile count down.
    File(Node, usize),
    /// The number of a directory's flush, and the names that it had when that began.
    Directory(Node, u64, BTreeMap<OsString, Entry>),
    /// Something else.
    Nothing,
}

impl Medium {
    /// What is there, all of it flushed.
    pub fn of(root: &Path) -> Self {
        let mut medium = Self {
            root: root.to_owned(),
            files: Vec::new(),
            directories: vec![Directory::default()],
            descriptors: HashMap::new(),
            opened: Vec::new(),
            flushes: HashMap::new(),
        };
        medium.take(0, root);
        medium
    }

    fn take(&mut self, node: Node, path: &Path) {
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let made = if entry.file_type().unwrap().is_dir() {
                let made = self.make_directory();
                self.take(made, &entry.path());
                Entry::Directory(made)
            } else {
                let bytes = fs::read(entry.path()).unwrap();
                self.make_file(File { seen: bytes.clone(), flushed: bytes, pending: Vec::new() })
            };
            let directory = &mut self.directories[node];
            directory.seen.insert(entry.file_name(), made);
            directory.flushed.insert(entry.file_name(), made);
        }
    }

    fn make_directory(&mut self) -> Node {
        self.directories.push(Directory::default());
        self.directories.len() - 1
    }

    fn make_file(&mut self, file: File) -> Entry {
        self.files.push(file);
        Entry::File(self.files.len() - 1)
    }

    /// The process has ended, and with it its descriptors.
    pub fn end_of_process(&mut self) {
        self.descriptors.clear();
        self.flushes.clear();
    }

    /// The directory that it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What of a file that has a name would not outlive a loss of power.
    pub fn missing(&self, path: &Path) -> Option<String> {
        // Bytes that came again have the name of those that lay there.
        let Some(Entry::File(node)) = self.find(path) else { return None };
        let Some(Entry::Directory(directory)) = self.find(path.parent()?) else { return None };
        let flushed = self.directories[directory].flushed.get(path.file_name()?);
        if flushed != Some(&Entry::File(node)) {
            return Some(format!("its name stands for {flushed:?} there, not for file {node}"));
        }
        let file = &self.files[node];
        let differs = (0..file.seen.len()).find(|&at| file.flushed.get(at) != file.seen.get(at));
        let differs = differs.or((file.flushed.len() > file.seen.len()).then_some(file.seen.len()));
        differs.map(|at| {
            format!(
                "from byte {at} on file {node} has other bytes; {} of {} are flushed, {} changes are not",
                file.flushed.len(),
                file.seen.len(),
                file.pending.len()
            )
        })
    }

    /// Does what a call has done.
    pub fn apply(&mut self, call: &Call) {
        match call {
            Call::Open { fd, path, flags } => self.open(*fd, path, flags),
            Call::Duplicate { from, to } => {
                if let Some(&opened) = self.descriptors.get(from) {
                    self.descriptors.insert(*to, opened);
                }
            }
            Call::Close { fd } => drop(self.descriptors.remove(fd)),
            Call::Seek { fd, to_bytes } => {
                if let Some(opened) = self.descriptors.get(fd) {
                    self.opened[*opened].at_bytes = *to_bytes;
                }
            }
            Call::Write { fd, at_bytes, data } => self.write(*fd, *at_bytes, data.clone()),
            Call::Length { fd, length_bytes } => self.change(*fd, Change::Length(*length_bytes)),
            Call::Allocate { fd, mode, at_bytes, length_bytes } => {
                self.allocate(*fd, mode, *at_bytes, *length_bytes)
            }
            Call::Copy { from, from_at_bytes, to, to_at_bytes, length_bytes } => {
                self.copy((*from, *from_at_bytes), (*to, *to_at_bytes), *length_bytes)
            }
            Call::FlushBegins { thread, fd } => {
                let flush = match self.descriptors.get(fd).map(|opened| self.opened[*opened].entry) {
                    Some(Entry::File(node)) => Flush::File(node, self.files[node].pending.len()),
                    Some(Entry::Directory(node)) => {
                        let directory = &mut self.directories[node];
                        directory.begun += 1;
                        Flush::Directory(node, directory.begun, directory.seen.clone())
                    }
                    None => Flush::Nothing,
                };
                self.flushes.insert(*thread, flush);
            }
            Call::FlushEnds { thread, is_done } => {
                let flush = self.flushes.remove(thread).expect("a flush that began");
                if *is_done {
                    self.flush(flush);
                }
            }
            Call::MakeDirectory { path } => {
                let made = Entry::Directory(self.make_directory());
                self.name(path, made);
            }
            Call::Link { from, to } => {
                let entry = match from {
                    Linked::Path(path) => self.find(path),
                    Linked::Fd(fd) => self.descriptors.get(fd).map(|opened| self.opened[*opened].entry),
                };
                if let Some(entry) = entry {
                    self.name(to, entry);
                }
            }
            Call::Rename { from, to } => {
                if let Some(entry) = self.unname(from) {
                    self.name(to, entry);
                }
            }
            Call::Unlink { path } => drop(self.unname(path)),
        }
    }

    fn open(&mut self, fd: Fd, path: &Path, flags: &str) {
        let has = |flag| flags.split('|').any(|one| one == flag);
        assert!(!has("O_SYNC") && !has("O_DSYNC"), "expected flushes that are asked for: {flags}");
        if !path.starts_with(&self.root) {
            return;
        }
        let entry = match self.find(path) {
            // Of no name; the path is that of its directory.
            Some(Entry::Directory(_)) if has("O_TMPFILE") => self.make_file(File::default()),
            Some(entry) => entry,
            None => {
                let made = self.make_file(File::default());
                self.name(path, made);
                made
            }
        };
        self.opened.push(Opened { entry, at_bytes: 0, appends: has("O_APPEND") });
        self.descriptors.insert(fd, self.opened.len() - 1);
        if has("O_TRUNC") {
            self.change(fd, Change::Length(0));
        }
    }

    fn file_of(&self, fd: Fd) -> Option<(usize, Node)> {
        let opened = *self.descriptors.get(&fd)?;
        match self.opened[opened].entry {
            Entry::File(node) => Some((opened, node)),
            Entry::Directory(_) => None,
        }
    }

    fn write(&mut self, fd: Fd, at_bytes: Option<u64>, data: Vec<u8>) {
        let Some((opened, node)) = self.file_of(fd) else { return };
        let opened = &mut self.opened[opened];
        let end_bytes = self.files[node].seen.len() as u64;
        let at = at_bytes.unwrap_or(if opened.appends { end_bytes } else { opened.at_bytes });
        if at_bytes.is_none() {
            opened.at_bytes = at + data.len() as u64;
        }
        self.change(fd, Change::Write(at, data));
    }

    fn allocate(&mut self, fd: Fd, mode: &str, at_bytes: u64, length_bytes: u64) {
        let Some((_, node)) = self.file_of(fd) else { return };
        let end_bytes = self.files[node].seen.len() as u64;
        if mode.contains("PUNCH_HOLE") || mode.contains("ZERO_RANGE") {
            let length_bytes = length_bytes.min(end_bytes.saturating_sub(at_bytes));
            self.change(fd, Change::Write(at_bytes, vec![0; length_bytes as usize]));
        } else if !mode.contains("KEEP_SIZE") {
            assert_eq!(mode, "0", "expected a mode that the test knows");
            self.change(fd, Change::Length(end_bytes.max(at_bytes + length_bytes)));
        }
    }

    fn copy(
        &mut self,
        (from, from_at): (Fd, Option<u64>),
        (to, to_at): (Fd, Option<u64>),
        length_bytes: u64,
    ) {
        let Some((source, node)) = self.file_of(from) else { return };
        let at = from_at.unwrap_or(self.opened[source].at_bytes);
        let range = at as usize..(at + length_bytes) as usize;
        if from_at.is_none() {
            self.opened[source].at_bytes += length_bytes;
        }
        self.write(to, to_at, self.files[node].seen[range].to_vec());
    }

    fn change(&mut self, fd: Fd, change: Change) {
        if let Some((_, node)) = self.file_of(fd) {
            let file = &mut self.files[node];
            change.apply(&mut file.seen);
            file.pending.push(change);
        }
    }

    fn flush(&mut self, flush: Flush) {
        match flush {
            Flush::File(node, count) => {
                let file = &mut self.files[node];
                for change in file.pending.drain(..count) {
                    change.apply(&mut file.flushed);
                }
                for other in self.flushes.values_mut() {
                    if let Flush::File(same, covered) = other
                        && *same == node
                    {
                        *covered = covered.saturating_sub(count);
                    }
                }
            }
            Flush::Directory(node, number, names) => {
                let directory = &mut self.directories[node];
                // One that began earlier and ends later takes no name away.
                if number > directory.ended {
                    (directory.flushed, directory.ended) = (names, number);
                }
            }
            Flush::Nothing => {}
        }
    }

    fn find(&self, path: &Path) -> Option<Entry> {
        let mut entry = Entry::Directory(0);
        for name in path.strip_prefix(&self.root).ok()? {
            let Entry::Directory(node) = entry else { return None };
            entry = *self.directories[node].seen.get(name)?;
        }
        Some(entry)
    }

    /// The directory that a path stands in; `None` outside.
    fn parent(&mut self, path: &Path) -> Option<(&mut Directory, OsString)> {
        match self.find(path.parent()?)? {
            Entry::Directory(node) => Some((&mut self.directories[node], path.file_name()?.to_owned())),
            Entry::File(_) => None,
        }
    }

    fn name(&mut self, path: &Path, entry: Entry) {
        if let Some((directory, name)) = self.parent(path) {
            directory.seen.insert(name, entry);
        }
    }

    fn unname(&mut self, path: &Path) -> Option<Entry> {
        let (directory, name) = self.parent(path)?;
        directory.seen.remove(&name)
    }

    /// Makes in `target` what a loss of power leaves now.
    pub fn write_to(&self, target: &Path, leaves: Leaves, random: &mut Random) {
        self.write_directory(0, target, leaves, random, &mut HashMap::new());
    }

    fn write_directory(
        &self,
        node: Node,
        target: &Path,
        leaves: Leaves,
        random: &mut Random,
        written: &mut HashMap<Node, PathBuf>,
    ) {
        fs::create_dir_all(target).unwrap();
        let directory = &self.directories[node];
        for (name, entry) in if leaves.names { &directory.seen } else { &directory.flushed } {
            let path = target.join(name);
            match entry {
                Entry::Directory(node) => self.write_directory(*node, &path, leaves, random, written),
                Entry::File(_) if is_memory(name) => {}
                Entry::File(node) => match written.get(node) {
                    Some(same) => fs::hard_link(same, path).unwrap(),
                    None => {
                        self.files[*node].write_to(&path, leaves, random);
                        written.insert(*node, path);
                    }
                },
            }
        }
    }

    /// Fails unless the directory is as the server sees it: then the log missed nothing.
    pub fn check_seen(&self) {
        self.check_directory(0, &self.root);
    }

    fn check_directory(&self, node: Node, path: &Path) {
        let seen = &self.directories[node].seen;
        let mut found: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(seen.keys().collect::<Vec<_>>(), found.iter().collect::<Vec<_>>(), "{}", path.display());
        for (name, entry) in seen {
            let path = path.join(name);
            match entry {
                Entry::Directory(node) => self.check_directory(*node, &path),
                Entry::File(_) if is_memory(name) => {}
                Entry::File(node) => {
                    let is_same = fs::read(&path).unwrap() == self.files[*node].seen;
                    assert!(is_same, "{}: expected the bytes of the log", path.display());
                }
            }
        }
    }
}

/// What SQLite shares by mapped memory: it is made anew from the log after a crash.
fn is_memory(name: &OsString) -> bool {
    name.to_string_lossy().ends_with("-shm")
}

impl File {
    fn write_to(&self, path: &Path, leaves: Leaves, random: &mut Random) {
        let mut bytes = self.flushed.clone();
        if leaves.some_bytes {
            for change in &self.pending {
                change.apply_some(&mut bytes, random);
            }
        }
        // Holes stay holes: much of an image is zero.
        let file = fs::File::create(path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (page, at) in bytes.chunks(PAGE_BYTES).zip((0..).step_by(PAGE_BYTES)) {
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, at).unwrap();
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => put(bytes, *at as usize, data),
            Self::Length(length_bytes) => bytes.resize(*length_bytes as usize, 0),
        }
    }

    /// Does it in part: each page of a write, or a new length, with an even chance.
    fn apply_some(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        match self {
            Self::Write(at, data) => {
                let mut start = 0;
                while start < data.len() {
                    let place = *at as usize + start;
                    let end = data.len().min(start + PAGE_BYTES - place % PAGE_BYTES);
                    if random.below(2) == 0 {
                        put(bytes, place, &data[start..end]);
                    }
                    start = end;
                }
            }
            Self::Length(_) if random.below(2) == 0 => self.apply(bytes),
            Self::Length(_) => {}
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

#[test]
fn what_is_not_flushed_is_lost() {
    let (root, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut medium = Medium::of(root.path());
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    let open = |fd, path: &Path| Call::Open { fd, path: path.to_owned(), flags: "O_RDWR|O_CREAT".to_owned() };
    let write = |data: &[u8]| Call::Write { fd: 3, at_bytes: None, data: data.to_vec() };
    for call in [
        open(3, &one),
        write(b"kept"),
        Call::FlushBegins { thread: 1, fd: 3 },
        write(b"lost"),
        Call::FlushEnds { thread: 1, is_done: true },
        open(4, root.path()),
        Call::FlushBegins { thread: 1, fd: 4 },
        Call::Rename { from: one.clone(), to: two.clone() },
        Call::FlushEnds { thread: 1, is_done: true },
    ] {
        medium.apply(&call);
    }
    for (names, name) in [(true, "two"), (false, "one")] {
        let target = after.path().join(name);
        let leaves = Leaves { names, some_bytes: false };
        medium.write_to(&target, leaves, &mut Random::from_seed(1));
        assert_eq!(crate::support::names_in(&target), [name], "{leaves:?}");
        assert_eq!(fs::read(target.join(name)).unwrap(), b"kept", "{leaves:?}");
    }
    fs::write(two, b"keptlost").unwrap();
    medium.check_seen();
}

#[test]
fn flushes_of_a_directory_may_overlap() {
    let root = tempfile::tempdir().unwrap();
    let mut medium = Medium::of(root.path());
    let open = |fd, path: &Path| Call::Open { fd, path: path.to_owned(), flags: "O_RDWR|O_CREAT".to_owned() };
    let path = root.path().join("one");
    for call in [
        open(3, root.path()),
        Call::FlushBegins { thread: 1, fd: 3 },
        open(4, &path),
        Call::FlushBegins { thread: 2, fd: 3 },
        Call::FlushEnds { thread: 2, is_done: true },
        Call::FlushEnds { thread: 1, is_done: true },
    ] {
        medium.apply(&call);
    }
    assert_eq!(medium.missing(&path), None);
}
