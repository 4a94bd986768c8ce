#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode};
use tempfile::TempDir;

use super::*;
use crate::suite::{CONTENT, Place as SuitePlace, keys, read_blob, stage, store_suite};

/// A directory for the suite.
struct Directory(TempDir);

impl SuitePlace for Directory {
    type Store = DirectoryStore;

    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn open(&self) -> DirectoryStore {
        DirectoryStore::open_or_create(self.0.path()).unwrap()
    }

    fn open_existing(&self, id: StoreId) -> Result<DirectoryStore> {
        DirectoryStore::open_existing(self.0.path(), id)
    }
}

store_suite!(Directory);

fn read(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn free_bytes(store: &DirectoryStore) -> u64 {
    store.space().unwrap().free_bytes.unwrap()
}

#[test]
fn files_and_directories_are_private() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("a/b");
    let store = DirectoryStore::open_or_create(&path).unwrap();
    stage(&store, "s");
    stage(&store, "t");
    store.publish("s", "b").unwrap();
    let mode = |name: &str| path.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("staging"), mode("blobs")), (0o700, 0o700, 0o700));
    assert_eq!(
        (mode("staging/t"), mode("blobs/b"), mode("store"), mode("lock")),
        (0o600, 0o600, 0o600, 0o600)
    );
}

/// SEC-26: what lies in place of a file, or of a directory once it was opened, is never followed.
#[test]
fn links_are_not_followed() {
    let (directory, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let store = DirectoryStore::open_or_create(directory.path()).unwrap();
    symlink(&secret, directory.path().join("staging/s")).unwrap();
    symlink(&secret, directory.path().join("blobs/b")).unwrap();
    assert!(store.stage("s").is_err());
    assert!(store.open_staged("s").is_err());
    assert!(store.publish("s", "c").is_err());
    assert!(store.open("b").is_err());
    assert!(store.list().unwrap().is_empty() && store.list_staged().unwrap().is_empty());
    store.discard_staged("s").unwrap();
    stage(&store, "s");
    assert!(matches!(store.publish("s", "b"), Err(Error::Exists)));
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");

    // The handle is what counts, not the path.
    std::fs::rename(directory.path().join("blobs"), directory.path().join("moved")).unwrap();
    symlink(outside.path(), directory.path().join("blobs")).unwrap();
    assert!(matches!(store.open("secret"), Err(Error::NotFound)));
    store.publish("s", "d").unwrap();
    assert_eq!(std::fs::read(directory.path().join("moved/d")).unwrap(), CONTENT);
    drop(store);
    assert!(DirectoryStore::open_or_create(directory.path()).is_err(), "a link in place of a directory");
}

#[test]
fn a_pipe_does_not_block() {
    let directory = TempDir::new().unwrap();
    let store = DirectoryStore::open_or_create(directory.path()).unwrap();
    sys::mknodat(&store.blobs, "b", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(store.open("b").is_err());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_second_user_of_the_directory_is_refused() {
    let directory = TempDir::new().unwrap();
    let store = DirectoryStore::open_or_create(directory.path()).unwrap();
    let refused = DirectoryStore::open_or_create(directory.path()).unwrap_err();
    assert_eq!(refused.to_string(), "another process is using this data directory");
    let lock = directory.path().join("lock");
    let held = Command::new("flock").args(["-n".as_ref(), lock.as_os_str(), "true".as_ref()]).status();
    match held {
        Ok(status) => assert!(!status.success(), "another process got the lock"),
        Err(_) => eprintln!("SKIPPED: the lock as seen by another process: flock is not installed"),
    }
    drop(store);
    DirectoryStore::open_or_create(directory.path()).unwrap();
}

#[test]
fn other_directories_are_not_taken_for_stores() {
    for (stamp, expected) in [
        ("imageops-store 2\nstores/00000000-0000-4000-8000-000000000007\n", "newer version"),
        ("imageops-store 1\nstores/7\n", "newer version"),
        ("", "something else"),
        ("\u{0}\u{1}", "something else"),
        ("something quite different\n", "something else"),
    ] {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("store"), stamp).unwrap();
        let refused = DirectoryStore::open_or_create(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(expected), "{stamp:?}: {refused}");
    }
    let directory = TempDir::new().unwrap();
    stage(&DirectoryStore::open_or_create(directory.path()).unwrap(), "s");
    std::fs::remove_file(directory.path().join("store")).unwrap();
    let refused = DirectoryStore::open_or_create(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("stamp of their store is missing"), "{refused}");
}

#[test]
fn a_start_that_was_cut_off_is_repeated() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("store.new"), "imageops-st").unwrap();
    std::fs::write(directory.path().join("lock"), "").unwrap();
    DirectoryStore::open_or_create(directory.path()).unwrap();
}

/// Fails the call number `at`; as a crash, it and all after it do nothing.
#[derive(Debug)]
struct Faulty {
    at: usize,
    error: Errno,
    is_crash: bool,
    /// Whether calls that open files count.
    counts_opens: bool,
    made: AtomicUsize,
}

impl Faulty {
    fn boxed(at: usize, is_crash: bool) -> Box<dyn Calls> {
        Box::new(Self { at, error: Errno::IO, is_crash, counts_opens: false, made: AtomicUsize::new(0) })
    }

    /// Every call counts, and fails once.
    fn with_error(at: usize, error: Errno) -> Box<dyn Calls> {
        Box::new(Self { at, error, is_crash: false, counts_opens: true, made: AtomicUsize::new(0) })
    }

    fn count(&self) -> rustix::io::Result<()> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        if number == self.at || (self.is_crash && number > self.at) { Err(self.error) } else { Ok(()) }
    }
}

impl Calls for Faulty {
    fn open(&self, directory: &OwnedFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        if self.counts_opens {
            self.count()?;
        }
        SystemCalls.open(directory, name, flags)
    }

    fn flush_file(&self, file: &File) -> rustix::io::Result<()> {
        self.count()?;
        SystemCalls.flush_file(file)
    }

    fn flush_directory(&self, directory: &OwnedFd) -> rustix::io::Result<()> {
        self.count()?;
        SystemCalls.flush_directory(directory)
    }

    fn link(&self, from: &OwnedFd, name: &str, to: &OwnedFd, new_name: &str) -> rustix::io::Result<()> {
        self.count()?;
        SystemCalls.link(from, name, to, new_name)
    }

    fn unlink(&self, directory: &OwnedFd, name: &str) -> rustix::io::Result<()> {
        self.count()?;
        SystemCalls.unlink(directory, name)
    }
}

/// The way of one image through a store.
fn use_it(store: &DirectoryStore) -> Result<()> {
    store.stage("s")?.write_all(CONTENT)?;
    store.publish("s", "b")?;
    let mut read = [0; CONTENT.len()];
    store.open("b")?.read_exact_at(&mut read, 0)?;
    assert_eq!(read, CONTENT);
    store.discard_staged("s")?;
    store.remove("b")
}

/// rel_11: the first call to the kernel fails, then the second, until a run makes fewer. Each ends in a clear error, with
/// the blob whole or not there at all, and the same store then does its work.
#[test]
fn rel_11_every_call_to_the_kernel_fails_once() {
    let errors =
        [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::INTR, Errno::AGAIN, Errno::ROFS, Errno::STALE];
    for error in errors {
        let mut at = 0;
        loop {
            let directory = TempDir::new().unwrap();
            let faulty =
                DirectoryStore::open_or_create_with(directory.path(), Faulty::with_error(at, error)).unwrap();
            let Err(told) = use_it(&faulty) else { break };
            let is_clear = match error {
                Errno::NOSPC | Errno::DQUOT => matches!(told, Error::NoSpace(_)),
                Errno::ROFS => matches!(told, Error::Unusable(_)),
                Errno::STALE => matches!(told, Error::Gone(_)),
                _ => matches!(told, Error::Io(_)),
            };
            assert!(is_clear, "{error:?} at {at}: {told:?}");
            for blob in faulty.list().unwrap() {
                assert_eq!(read_blob(&faulty, &blob.key), CONTENT, "{error:?} at {at}");
                faulty.remove(&blob.key).unwrap();
            }
            faulty.discard_staged("s").unwrap();
            use_it(&faulty).unwrap();
            assert!(faulty.list().unwrap().is_empty() && faulty.list_staged().unwrap().is_empty());
            at += 1;
        }
        assert_eq!(at, 10, "{error:?}: stage 2, publish 4, open 1, discard 1, remove 2");
    }
}

/// A directory with the staged file `s`, durable.
fn with_staged() -> TempDir {
    let directory = TempDir::new().unwrap();
    let store = DirectoryStore::open_or_create(directory.path()).unwrap();
    stage(&store, "s");
    directory
}

#[test]
fn publishing_again_after_a_crash_at_each_step_ends_the_same() {
    let mut step = 0;
    loop {
        let directory = with_staged();
        let faulty =
            DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(step, true)).unwrap();
        let is_whole = faulty.publish("s", "b").is_ok();
        drop(faulty);
        let store = DirectoryStore::open_or_create(directory.path()).unwrap();
        for _ in 0..2 {
            store.publish("s", "b").unwrap();
            assert_eq!(read_blob(&store, "b"), CONTENT, "step {step}");
            assert_eq!(directory.path().join("blobs/b").metadata().unwrap().nlink(), 2);
        }
        store.discard_staged("s").unwrap();
        assert_eq!(read_blob(&store, "b"), CONTENT, "step {step}");
        if is_whole {
            break;
        }
        step += 1;
    }
    assert_eq!(step, 3, "flush, link, flush");
}

#[test]
fn rel_12_a_failed_flush_loses_the_bytes() {
    // The file itself; the directory of the blobs. Both times every later flush succeeds.
    for step in [0, 2] {
        let directory = with_staged();
        let store =
            DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(step, false)).unwrap();
        assert!(matches!(store.publish("s", "b"), Err(Error::Io(_))), "step {step}");
        assert!(store.list_staged().unwrap().is_empty(), "step {step}");
        assert!(store.list().unwrap().is_empty(), "step {step}");
        assert!(matches!(store.publish("s", "b"), Err(Error::NotFound)), "step {step}");
    }
}

/// A removal whose flush failed may come back after a crash; it can be repeated until it is durable.
#[test]
fn rel_12_a_removal_is_told_when_it_is_durable() {
    let directory = with_staged();
    let store = DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(4, false)).unwrap();
    store.publish("s", "b").unwrap();
    assert!(matches!(store.remove("b"), Err(Error::Io(_))));
    store.remove("b").unwrap();
    assert!(store.list().unwrap().is_empty());
}

/// The bytes of a flush that failed are given anew, and then they count.
#[test]
fn rel_12_bytes_that_are_given_anew_are_published() {
    let directory = with_staged();
    let store = DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(0, false)).unwrap();
    assert!(matches!(store.publish("s", "b"), Err(Error::Io(_))));
    assert_eq!(store.stage("s").unwrap().metadata().unwrap().len(), 0, "nothing of the old bytes");
    stage(&store, "s");
    store.publish("s", "b").unwrap();
    assert_eq!(read_blob(&store, "b"), CONTENT);
}

#[test]
fn a_failed_link_can_be_repeated() {
    let directory = with_staged();
    let store = DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(1, false)).unwrap();
    assert!(matches!(store.publish("s", "b"), Err(Error::Io(_))));
    store.publish("s", "b").unwrap();
    assert_eq!(read_blob(&store, "b"), CONTENT);
}

#[test]
fn rel_12_a_staged_name_that_is_not_durable_is_not_handed_out() {
    let directory = TempDir::new().unwrap();
    let store = DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(0, false)).unwrap();
    assert!(matches!(store.stage("s"), Err(Error::Io(_))));
    assert!(store.list_staged().unwrap().is_empty());
    // Also a name that was there before is handed out only when it is durable.
    let directory = with_staged();
    let store = DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(0, false)).unwrap();
    assert!(matches!(store.stage("s"), Err(Error::Io(_))));
    assert_eq!(read(store.stage("s").unwrap()), CONTENT);
}

/// A file system of one megabyte, unmounted in the end.
struct Tiny(PathBuf, #[allow(dead_code)] TempDir);

impl Tiny {
    fn mount() -> Option<Self> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().to_owned();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(path, directory))
    }
}

impl Tiny {
    fn unmount(&self) {
        assert!(Command::new("umount").arg("-l").arg(&self.0).status().unwrap().success());
    }

    fn remount(&self, mode: &str) {
        let option = format!("remount,{mode}");
        assert!(Command::new("mount").args(["-o", &option]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn no_space_is_told_and_nothing_is_published() {
    let Some(tiny) = Tiny::mount() else {
        eprintln!("SKIPPED: a store on a full file system: mounting a tmpfs needs root");
        return;
    };
    let store = DirectoryStore::open_or_create(&tiny.0).unwrap();
    let free_before = free_bytes(&store);
    assert!((900_000..=1_048_576).contains(&free_before), "{free_before}");
    let mut file = store.stage("s").unwrap();
    let error = loop {
        match file.write_all(&[1; 65_536]) {
            Ok(()) => {}
            Err(error) => break Error::from(error),
        }
    };
    assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
    assert!(store.list().unwrap().is_empty());
    drop(file);
    store.discard_staged("s").unwrap();
    assert_eq!(free_bytes(&store), free_before);
    stage(&store, "s");
    store.publish("s", "b").unwrap();
    assert_eq!(read_blob(&store, "b"), CONTENT);
}

/// Nothing is written below a mount point whose file system is gone, and nothing into what nobody can reach any more.
#[test]
fn an_unmounted_store_is_gone() {
    let Some(tiny) = Tiny::mount() else {
        eprintln!("SKIPPED: a store whose file system is unmounted: mounting a tmpfs needs root");
        return;
    };
    let store = DirectoryStore::open_or_create(&tiny.0).unwrap();
    store.probe().unwrap();
    stage(&store, "s");
    stage(&store, "t");
    store.publish("t", "b").unwrap();
    tiny.unmount();
    let entries = || std::fs::read_dir(&tiny.0).unwrap().count();
    assert_eq!(entries(), 0, "the mount point below");
    assert!(matches!(store.probe(), Err(Error::Gone(_))));
    assert!(matches!(store.stage("u"), Err(Error::Gone(_))));
    assert!(matches!(store.publish("s", "c"), Err(Error::Gone(_))));
    assert_eq!((keys(&store.list().unwrap()), store.list_staged().unwrap().len()), (vec!["b"], 2));
    assert_eq!(read_blob(&store, "b"), CONTENT, "what is held open is read to its end");
    let (id, refused) = (store.id(), DirectoryStore::open_existing(&tiny.0, store.id()).unwrap_err());
    assert!(matches!(refused, Error::Gone(_)), "{refused:?} {id}");
    assert_eq!(entries(), 0, "nothing was made below the mount point");
}

#[test]
fn an_exchanged_directory_is_gone() {
    let parent = TempDir::new().unwrap();
    let (path, moved) = (parent.path().join("store"), parent.path().join("moved"));
    let store = DirectoryStore::open_or_create(&path).unwrap();
    stage(&store, "s");
    std::fs::rename(&path, &moved).unwrap();
    for is_there in [false, true] {
        if is_there {
            std::fs::create_dir(&path).unwrap();
        }
        assert!(matches!(store.probe(), Err(Error::Gone(_))), "{is_there}");
        assert!(matches!(store.stage("t"), Err(Error::Gone(_))), "{is_there}");
        assert!(matches!(store.publish("s", "b"), Err(Error::Gone(_))), "{is_there}");
    }
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&moved, &path).unwrap();
    store.probe().unwrap();
    store.publish("s", "b").unwrap();
    assert_eq!(read_blob(&store, "b"), CONTENT);
}

#[test]
fn nothing_is_made_where_a_known_store_is_missing() {
    let parent = TempDir::new().unwrap();
    let (path, other) = (parent.path().join("store"), parent.path().join("other"));
    let id = DirectoryStore::open_or_create(&path).unwrap().id();
    assert_eq!(DirectoryStore::open_existing(&path, id).unwrap().id(), id);
    assert!(matches!(DirectoryStore::open_existing(&other, id), Err(Error::Gone(_))));
    assert!(!other.exists());
    std::fs::create_dir(&other).unwrap();
    assert!(matches!(DirectoryStore::open_existing(&other, id), Err(Error::Gone(_))));
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0, "not even a lock");
    drop(DirectoryStore::open_or_create(&other).unwrap());
    assert!(matches!(DirectoryStore::open_existing(&other, id), Err(Error::Unusable(_))));
    std::fs::write(other.join("store"), "something else").unwrap();
    assert!(matches!(DirectoryStore::open_existing(&other, id), Err(Error::Unusable(_))));
}

#[test]
fn a_probe_tells_what_does_not_work_and_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let entries = || std::fs::read_dir(directory.path()).unwrap().count();
    // The flush, and the removal.
    for step in [0, 1] {
        let store =
            DirectoryStore::open_or_create_with(directory.path(), Faulty::boxed(step, false)).unwrap();
        assert!(matches!(store.probe(), Err(Error::Io(_))), "step {step}");
        store.probe().unwrap();
        assert_eq!(entries(), 4, "step {step}: stamp, lock, staging, blobs");
    }
    let store = DirectoryStore::open_or_create(directory.path()).unwrap();
    std::fs::rename(directory.path().join("store"), directory.path().join("was")).unwrap();
    assert!(matches!(store.probe(), Err(Error::Gone(_))));
}

/// rel_17: a file system that is mounted read-only.
#[test]
fn rel_17_a_read_only_file_system_is_told() {
    let Some(tiny) = Tiny::mount() else {
        eprintln!("SKIPPED: a store on a read-only file system: mounting a tmpfs needs root");
        return;
    };
    let id = DirectoryStore::open_or_create(&tiny.0).unwrap().id();
    tiny.remount("ro");
    for refused in [DirectoryStore::open_or_create(&tiny.0), DirectoryStore::open_existing(&tiny.0, id)] {
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, Error::Unusable(text) if text.contains("read-only")), "{refused:?}");
    }
    tiny.remount("rw");
    DirectoryStore::open_existing(&tiny.0, id).unwrap().probe().unwrap();
}

#[test]
fn a_limit_counts_each_byte_once() {
    const LIMIT_BYTES: u64 = 1 << 20;
    let directory = TempDir::new().unwrap();
    let store = DirectoryStore::open_or_create(directory.path()).unwrap();
    store.set_limit(Some(LIMIT_BYTES));
    assert_eq!(
        store.space().unwrap(),
        Space { total_bytes: Some(LIMIT_BYTES), free_bytes: Some(LIMIT_BYTES) }
    );
    store.stage("s").unwrap().write_all(&[1; 600_000]).unwrap();
    store.publish("s", "b").unwrap();
    let free = free_bytes(&store);
    assert!((400_000..LIMIT_BYTES - 600_000).contains(&free), "{free}");
    store.stage("t").unwrap().write_all(&[1; 600_000]).unwrap();
    assert_eq!(free_bytes(&store), 0);
    assert!(matches!(store.publish("t", "c"), Err(Error::NoSpace(_))));
    store.discard_staged("s").unwrap();
    store.remove("b").unwrap();
    store.publish("t", "c").unwrap();
}

#[test]
fn a_blob_knows_its_holes() {
    let directory = TempDir::new().unwrap();
    let store = DirectoryStore::open_or_create(directory.path()).unwrap();
    let file = store.stage("s").unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 32 << 20).unwrap();
    store.publish("s", "b").unwrap();
    let blob = store.open("b").unwrap().try_clone().unwrap();
    assert_eq!((blob.size_bytes(), blob.file().is_some()), (64 << 20, true));
    let data = blob.data_at(0).unwrap().unwrap();
    assert!(data.contains(&(32 << 20)), "{data:?}");
    if data != (0..64 << 20) {
        assert!(blob.allocated_bytes() < 1 << 20, "{}", blob.allocated_bytes());
        assert_eq!(blob.data_at(data.end).unwrap(), None);
    }
    assert_eq!(blob.data_at(64 << 20).unwrap(), None);
    let mut over = [0; 2];
    let error = blob.read_exact_at(&mut over, (64 << 20) - 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    store.remove("b").unwrap();
    blob.read_exact_at(&mut over, 32 << 20).unwrap();
    assert_eq!(over, [1, 1], "readable after its removal");
}
