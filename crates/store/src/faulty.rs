//! A store that fails on demand, for tests of what is built on stores.
//!
//! Every call of the store, and every read of its blobs, has a number, from 1 on. A test lets the first fail, then the
//! second, and so on until a run makes fewer calls than that.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use imageops_model::StoreId;
use uuid::Uuid;

use crate::{Blob, Entry, Error, Kind, Result, Space, Store};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It does nothing and fails with [`Error::Io`].
    Io,
    /// It does nothing and fails with [`Error::NoSpace`].
    NoSpace,
    /// It does nothing and fails with [`Error::Unavailable`].
    Unavailable,
    /// It does nothing and fails with [`Error::Gone`].
    Gone,
    /// It does what it should, and the answer is lost: [`Error::Unavailable`].
    AnswerLost,
    /// A read of a blob ends early; another call fails as with [`Fault::Io`].
    ShortRead,
}

/// Decides which calls fail. Clones act on the same store.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<State>);

#[derive(Debug, Default)]
struct State {
    calls: AtomicU64,
    plan: Mutex<Option<Plan>>,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    first: u64,
    last: u64,
    fault: Fault,
}

impl Faults {
    /// Counts anew and lets the `n`-th call from now on fail, and no other.
    pub fn fail_nth(&self, n: u64, fault: Fault) {
        self.set(Some(Plan { first: n, last: n, fault }));
    }

    /// Counts anew and lets the `n`-th call from now on fail, and all after it.
    pub fn fail_from(&self, n: u64, fault: Fault) {
        self.set(Some(Plan { first: n, last: u64::MAX, fault }));
    }

    /// Counts anew and lets no call fail.
    pub fn clear(&self) {
        self.set(None);
    }

    /// Calls since the count began.
    pub fn calls(&self) -> u64 {
        self.0.calls.load(Ordering::Relaxed)
    }

    fn set(&self, plan: Option<Plan>) {
        *self.0.plan.lock().unwrap_or_else(PoisonError::into_inner) = plan;
        self.0.calls.store(0, Ordering::Relaxed);
    }

    /// The fault of the call that is made now.
    fn next(&self) -> Option<Fault> {
        let number = self.0.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let plan = *self.0.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.filter(|plan| (plan.first..=plan.last).contains(&number)).map(|plan| plan.fault)
    }

    fn call<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let injected = || io::Error::other("injected");
        match self.next() {
            None => call(),
            Some(Fault::Io | Fault::ShortRead) => Err(Error::Io(injected())),
            Some(Fault::NoSpace) => Err(Error::NoSpace(injected())),
            Some(Fault::Unavailable) => Err(Error::Unavailable(injected())),
            Some(Fault::Gone) => Err(Error::Gone("the store is gone: injected".to_owned())),
            Some(Fault::AnswerLost) => call().and(Err(Error::Unavailable(injected()))),
        }
    }

    fn read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.next() {
            None => read(),
            Some(Fault::ShortRead) => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => Err(io::Error::other("injected")),
        }
    }
}

/// Another store, and the faults of its calls.
#[derive(Debug)]
pub struct FaultyStore<S> {
    store: S,
    faults: Faults,
}

impl<S: Store> FaultyStore<S> {
    /// Wraps a store; no call fails yet.
    pub fn new(store: S) -> Self {
        Self { store, faults: Faults::default() }
    }

    /// What decides which calls fail.
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn id(&self) -> StoreId {
        self.store.id()
    }

    fn kind(&self) -> Kind {
        self.store.kind()
    }

    fn owner(&self) -> Result<Option<Uuid>> {
        self.faults.call(|| self.store.owner())
    }

    fn set_owner(&self, catalogue: Uuid) -> Result<()> {
        self.faults.call(|| self.store.set_owner(catalogue))
    }

    fn probe(&self) -> Result<()> {
        self.faults.call(|| self.store.probe())
    }

    fn stage(&self, key: &str) -> Result<File> {
        self.faults.call(|| self.store.stage(key))
    }

    fn open_staged(&self, key: &str) -> Result<File> {
        self.faults.call(|| self.store.open_staged(key))
    }

    fn discard_staged(&self, key: &str) -> Result<()> {
        self.faults.call(|| self.store.discard_staged(key))
    }

    fn publish(&self, staged: &str, blob: &str) -> Result<()> {
        self.faults.call(|| self.store.publish(staged, blob))
    }

    fn open(&self, blob: &str) -> Result<Box<dyn Blob>> {
        let blob = self.faults.call(|| self.store.open(blob))?;
        Ok(Box::new(FaultyBlob { blob, faults: self.faults.clone() }))
    }

    fn remove(&self, blob: &str) -> Result<()> {
        self.faults.call(|| self.store.remove(blob))
    }

    fn list_staged(&self) -> Result<Vec<Entry>> {
        self.faults.call(|| self.store.list_staged())
    }

    fn list(&self) -> Result<Vec<Entry>> {
        self.faults.call(|| self.store.list())
    }

    fn space(&self) -> Result<Space> {
        self.faults.call(|| self.store.space())
    }

    fn staging_space(&self) -> Result<Space> {
        self.faults.call(|| self.store.staging_space())
    }

    fn sweep_incomplete(&self, before: SystemTime) -> Result<u64> {
        self.faults.call(|| self.store.sweep_incomplete(before))
    }
}

/// Hides the file, so that every read is counted.
#[derive(Debug)]
struct FaultyBlob {
    blob: Box<dyn Blob>,
    faults: Faults,
}

impl Blob for FaultyBlob {
    fn size_bytes(&self) -> u64 {
        self.blob.size_bytes()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.faults.read(|| self.blob.read_exact_at(buffer, offset))
    }

    fn allocated_bytes(&self) -> u64 {
        self.blob.allocated_bytes()
    }

    fn data_at(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.faults.read(|| self.blob.data_at(offset))
    }

    fn file(&self) -> Option<&File> {
        None
    }

    fn try_clone(&self) -> io::Result<Box<dyn Blob>> {
        let blob = self.faults.read(|| self.blob.try_clone())?;
        Ok(Box::new(Self { blob, faults: self.faults.clone() }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;

    use tempfile::TempDir;

    use super::*;
    use crate::DirectoryStore;
    use crate::suite::{CONTENT, Place, read_all, store_suite};

    /// A directory behind a wrapper that lets nothing fail.
    struct Faultless(TempDir);

    impl Place for Faultless {
        type Store = FaultyStore<DirectoryStore>;

        fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn open(&self) -> Self::Store {
            FaultyStore::new(DirectoryStore::open_or_create(self.0.path()).unwrap())
        }

        fn open_existing(&self, id: StoreId) -> Result<Self::Store> {
            Ok(FaultyStore::new(DirectoryStore::open_existing(self.0.path(), id)?))
        }
    }

    store_suite!(Faultless);

    /// The way of one image through a store.
    fn use_it(store: &impl Store) -> Result<()> {
        store.discard_staged("s")?;
        store.stage("s")?.write_all(CONTENT)?;
        store.publish("s", "b")?;
        let read = read_all(&*store.open("b")?)?;
        assert_eq!(read, CONTENT);
        store.remove("b")?;
        store.discard_staged("s")
    }

    #[test]
    fn rel_11_every_call_fails_once() {
        for fault in
            [Fault::Io, Fault::NoSpace, Fault::Unavailable, Fault::Gone, Fault::AnswerLost, Fault::ShortRead]
        {
            let mut n = 1;
            loop {
                let place = Faultless::new();
                let store = place.open();
                store.faults().fail_nth(n, fault);
                let result = use_it(&store);
                let is_clean = store.faults().calls() < n;
                assert_eq!(result.is_ok(), is_clean, "{fault:?} at {n}: {result:?}");
                store.faults().clear();
                store.remove("b").unwrap();
                use_it(&store).unwrap();
                if is_clean {
                    break;
                }
                n += 1;
            }
            assert_eq!(n, 8, "{fault:?}: seven calls");
        }
    }

    #[test]
    fn an_outage_lasts_until_it_is_over() {
        let place = Faultless::new();
        let store = place.open();
        store.faults().fail_from(2, Fault::Unavailable);
        store.probe().unwrap();
        for _ in 0..3 {
            assert!(matches!(store.probe(), Err(Error::Unavailable(_))));
        }
        assert_eq!(store.faults().calls(), 4);
        store.faults().clear();
        store.probe().unwrap();
    }
}
