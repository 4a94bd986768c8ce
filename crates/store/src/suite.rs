//! What every store must do, run for each kind by [`store_suite`].
#![allow(clippy::unwrap_used)]

use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime};

use imageops_model::StoreId;
use uuid::Uuid;

use crate::{Blob, Entry, Error, Result, Store};

/// A place for a store: each value is another one, empty at first.
pub(crate) trait Place: Sized {
    type Store: Store;

    /// Why there is none to test with; `None` when there is.
    fn missing() -> Option<&'static str> {
        None
    }

    fn new() -> Self;

    /// Opens the store, making it where there is none.
    fn open(&self) -> Self::Store;

    /// Opens the store that has this id.
    fn open_existing(&self, id: StoreId) -> Result<Self::Store>;
}

/// Makes a test of each function of the suite for a [`Place`].
macro_rules! store_suite {
    ($place:ty) => {
        $crate::suite::store_suite! { $place =>
            staged_bytes_become_a_blob,
            an_empty_blob_is_a_blob,
            a_large_blob_reads_back_in_any_order,
            a_blob_is_never_replaced,
            publishing_again_ends_the_same,
            the_owner_is_noted,
            the_id_stays_and_differs_from_others,
            a_known_store_is_opened_and_no_other,
            keys_that_are_no_keys_are_refused,
            entries_tell_length_and_time,
            what_is_staged_outlives_the_store,
            a_probe_leaves_nothing,
            many_threads_share_a_store,
        }
    };
    ($place:ty => $($test:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                match <$place as $crate::suite::Place>::missing() {
                    // `cargo xtask test` counts these lines.
                    Some(reason) => eprintln!("SKIPPED: {reason}"),
                    None => $crate::suite::$test::<$place>(),
                }
            }
        )+
    };
}
pub(crate) use store_suite;

pub(crate) const CONTENT: &[u8] = b"the bytes of an image";

pub(crate) fn stage(store: &impl Store, key: &str) {
    store.stage(key).unwrap().write_all(CONTENT).unwrap();
}

pub(crate) fn read_staged(store: &impl Store, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open_staged(key).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn read_all(blob: &dyn Blob) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; blob.size_bytes() as usize];
    blob.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

pub(crate) fn read_blob(store: &impl Store, blob: &str) -> Vec<u8> {
    read_all(&*store.open(blob).unwrap()).unwrap()
}

pub(crate) fn keys(entries: &[Entry]) -> Vec<&str> {
    let mut keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// Bytes without a pattern that repeats within a file.
pub(crate) fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

pub(crate) fn staged_bytes_become_a_blob<P: Place>() {
    let place = P::new();
    let store = place.open();
    stage(&store, "s-1");
    assert_eq!(keys(&store.list_staged().unwrap()), ["s-1"]);
    assert!(matches!(store.open("s-1"), Err(Error::NotFound)), "staged bytes are no blob");
    let mut again = store.stage("s-1").unwrap();
    again.seek(SeekFrom::End(0)).unwrap();
    again.write_all(b"!").unwrap();
    store.publish("s-1", "b-1").unwrap();
    assert_eq!(keys(&store.list_staged().unwrap()), ["s-1"], "kept until the catalogue names the blob");
    store.discard_staged("s-1").unwrap();
    assert_eq!(keys(&store.list().unwrap()), ["b-1"]);
    assert_eq!(read_blob(&store, "b-1"), [CONTENT, b"!"].concat());
    assert!(matches!(store.open_staged("s-1"), Err(Error::NotFound)));
    assert!(matches!(store.publish("s-1", "b-2"), Err(Error::NotFound)));
    store.remove("b-1").unwrap();
    store.remove("b-1").unwrap();
    assert!(matches!(store.open("b-1"), Err(Error::NotFound)));
    stage(&store, "s-2");
    store.discard_staged("s-2").unwrap();
    store.discard_staged("s-2").unwrap();
    assert!(store.list_staged().unwrap().is_empty() && store.list().unwrap().is_empty());
    assert!(store.staging_space().unwrap().free_bytes.is_none_or(|free| free > 0));
}

pub(crate) fn an_empty_blob_is_a_blob<P: Place>() {
    let place = P::new();
    let store = place.open();
    store.stage("s").unwrap();
    store.publish("s", "b").unwrap();
    let blob = store.open("b").unwrap();
    assert_eq!((blob.size_bytes(), blob.data_at(0).unwrap()), (0, None));
    blob.read_exact_at(&mut [], 0).unwrap();
    assert_eq!(blob.read_exact_at(&mut [0], 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

pub(crate) fn a_large_blob_reads_back_in_any_order<P: Place>() {
    const SIZE: usize = (20 << 20) + 12_345;
    let place = P::new();
    let store = place.open();
    let content = noise(1, SIZE);
    store.stage("s").unwrap().write_all(&content).unwrap();
    store.publish("s", "b").unwrap();
    store.discard_staged("s").unwrap();
    let blob = store.open("b").unwrap();
    assert_eq!(blob.size_bytes(), SIZE as u64);
    assert!(read_all(&*blob).unwrap() == content);
    assert_eq!(blob.data_at(0).unwrap().map(|data| data.start), Some(0));
    assert!(blob.allocated_bytes() >= SIZE as u64);

    let clone = blob.try_clone().unwrap();
    drop(blob);
    let mut buffer = vec![0; 1 << 20];
    for number in 0..100_usize {
        let at = number * 7_654_321 % SIZE;
        let count = (number * 65_537 % buffer.len()).min(SIZE - at);
        clone.read_exact_at(&mut buffer[..count], at as u64).unwrap();
        assert!(buffer[..count] == content[at..at + count], "{count} bytes at {at}");
    }
    for (at, count) in [(SIZE as u64, 1), (SIZE as u64 - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2)] {
        let error = clone.read_exact_at(&mut buffer[..count], at).unwrap_err();
        assert!(
            matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput),
            "{error:?}"
        );
    }
}

pub(crate) fn a_blob_is_never_replaced<P: Place>() {
    let place = P::new();
    let store = place.open();
    stage(&store, "s-1");
    store.publish("s-1", "b").unwrap();
    // Of another length, and of the same.
    for other in [b"other bytes".to_vec(), CONTENT.to_ascii_uppercase()] {
        store.discard_staged("s-2").unwrap();
        store.stage("s-2").unwrap().write_all(&other).unwrap();
        assert!(matches!(store.publish("s-2", "b"), Err(Error::Exists)));
        assert_eq!(read_blob(&store, "b"), CONTENT);
        assert_eq!(read_staged(&store, "s-2"), other);
    }
}

pub(crate) fn publishing_again_ends_the_same<P: Place>() {
    let place = P::new();
    let store = place.open();
    stage(&store, "s");
    store.stage("t").unwrap().write_all(&noise(2, 9 << 20)).unwrap();
    for _ in 0..3 {
        store.publish("s", "b").unwrap();
        store.publish("t", "c").unwrap();
        assert_eq!(keys(&store.list().unwrap()), ["b", "c"]);
    }
    store.discard_staged("s").unwrap();
    assert_eq!(read_blob(&store, "b"), CONTENT);
    assert!(read_blob(&store, "c") == noise(2, 9 << 20));
}

pub(crate) fn the_owner_is_noted<P: Place>() {
    let place = P::new();
    let store = place.open();
    assert_eq!(store.owner().unwrap(), None);
    for owner in [Uuid::new_v4(), Uuid::new_v4()] {
        store.set_owner(owner).unwrap();
        assert_eq!(store.owner().unwrap(), Some(owner));
    }
}

pub(crate) fn the_id_stays_and_differs_from_others<P: Place>() {
    let (first, second) = (P::new(), P::new());
    let id = first.open().id();
    assert_eq!(first.open().id(), id);
    assert_ne!(second.open().id(), id);
}

pub(crate) fn a_known_store_is_opened_and_no_other<P: Place>() {
    let (place, empty) = (P::new(), P::new());
    let id = place.open().id();
    assert_eq!(place.open_existing(id).unwrap().id(), id);
    let other = StoreId(Uuid::new_v4());
    assert!(matches!(place.open_existing(other), Err(Error::Unusable(_))));
    for _ in 0..2 {
        assert!(matches!(empty.open_existing(id), Err(Error::Gone(_))), "nothing was made");
    }
}

pub(crate) fn keys_that_are_no_keys_are_refused<P: Place>() {
    let place = P::new();
    let store = place.open();
    let long = "a".repeat(65);
    for key in ["", ".", "..", "a/b", "../a", "/a", "A", "a.b", "a\0", "a\n", "ä", "a b", "~", &long] {
        assert!(matches!(store.stage(key), Err(Error::InvalidName)), "{key:?}");
        assert!(matches!(store.open_staged(key), Err(Error::InvalidName)), "{key:?}");
        assert!(matches!(store.discard_staged(key), Err(Error::InvalidName)), "{key:?}");
        assert!(matches!(store.publish(key, "b"), Err(Error::InvalidName)), "{key:?}");
        assert!(matches!(store.publish("s", key), Err(Error::InvalidName)), "{key:?}");
        assert!(matches!(store.open(key), Err(Error::InvalidName)), "{key:?}");
        assert!(matches!(store.remove(key), Err(Error::InvalidName)), "{key:?}");
    }
    let longest = "a".repeat(64);
    stage(&store, &longest);
    store.publish(&longest, &longest).unwrap();
    assert_eq!(read_blob(&store, &longest), CONTENT);
}

pub(crate) fn entries_tell_length_and_time<P: Place>() {
    let place = P::new();
    let store = place.open();
    let before = SystemTime::now() - Duration::from_secs(2);
    stage(&store, "s");
    store.publish("s", "b").unwrap();
    for (entries, key) in [(store.list_staged().unwrap(), "s"), (store.list().unwrap(), "b")] {
        let [entry] = entries.as_slice() else { panic!("one entry: {entries:?}") };
        assert_eq!((entry.key.as_str(), entry.size_bytes), (key, CONTENT.len() as u64));
        assert!((before..=SystemTime::now() + Duration::from_secs(2)).contains(&entry.modified), "{entry:?}");
    }
}

pub(crate) fn what_is_staged_outlives_the_store<P: Place>() {
    let place = P::new();
    let store = place.open();
    store.stage("s").unwrap().write_all_at(CONTENT, 0).unwrap();
    drop(store);
    let store = place.open();
    assert_eq!(read_staged(&store, "s"), CONTENT);
    store.publish("s", "b").unwrap();
    drop(store);
    assert_eq!(read_blob(&place.open(), "b"), CONTENT);
}

pub(crate) fn a_probe_leaves_nothing<P: Place>() {
    let place = P::new();
    let store = place.open();
    for _ in 0..2 {
        store.probe().unwrap();
    }
    assert!(store.list().unwrap().is_empty() && store.list_staged().unwrap().is_empty());
    assert_eq!(store.sweep_incomplete(SystemTime::now()).unwrap(), 0);
}

pub(crate) fn many_threads_share_a_store<P: Place>() {
    let place = P::new();
    let store = place.open();
    std::thread::scope(|scope| {
        for number in 0..8_u64 {
            let store = &store;
            scope.spawn(move || {
                let (key, content) = (format!("k-{number}"), noise(number + 1, 300_000));
                store.stage(&key).unwrap().write_all(&content).unwrap();
                store.publish(&key, &key).unwrap();
                store.discard_staged(&key).unwrap();
                store.probe().unwrap();
                assert!(read_blob(store, &key) == content);
                if number % 2 == 0 {
                    store.remove(&key).unwrap();
                }
            });
        }
    });
    assert_eq!(keys(&store.list().unwrap()), ["k-1", "k-3", "k-5", "k-7"]);
}
