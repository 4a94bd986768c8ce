//! A simulated disk: what was written is seen at once, and survives a loss of power when it was flushed.

use std::collections::BTreeMap;

use crate::support::random::Random;

type FileId = u64;

/// A directory of a [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Files that are being written.
    Staging,
    /// Files that are whole.
    Blobs,
}

/// Something that a flush makes durable: what is there now, and what a loss of power leaves.
#[derive(Clone, Debug, Default)]
struct Flushed<T> {
    now: T,
    durable: T,
}

/// Files of a store, in its two directories.
#[derive(Debug, Default)]
pub struct Disk {
    files: BTreeMap<FileId, Flushed<Vec<u8>>>,
    directories: BTreeMap<Place, Flushed<BTreeMap<String, FileId>>>,
    last: FileId,
}

impl Disk {
    /// Makes an empty file, unless there is one.
    pub fn make(&mut self, place: Place, name: &str) {
        self.last += 1;
        let entries = &mut self.directories.entry(place).or_default().now;
        if !entries.contains_key(name) {
            entries.insert(name.to_owned(), self.last);
            self.files.insert(self.last, Flushed::default());
        }
    }

    /// Cuts a file, and writes behind that. `None`: there is no such file.
    pub fn write(&mut self, place: Place, name: &str, offset: usize, data: &[u8]) -> Option<()> {
        let id = self.find(place, name)?;
        let bytes = &mut self.files.get_mut(&id)?.now;
        bytes.resize(offset, 0);
        bytes.extend_from_slice(data);
        Some(())
    }

    /// Makes the bytes of a file durable, not its name.
    pub fn flush_file(&mut self, place: Place, name: &str) -> Option<()> {
        let id = self.find(place, name)?;
        let file = self.files.get_mut(&id)?;
        file.durable.clone_from(&file.now);
        Some(())
    }

    /// Makes the names in a directory durable.
    pub fn flush_directory(&mut self, place: Place) {
        let directory = self.directories.entry(place).or_default();
        directory.durable.clone_from(&directory.now);
    }

    /// Gives a staged file a second name. `false`: that is the name of another one.
    pub fn link(&mut self, staged: &str, blob: &str) -> Option<bool> {
        let id = self.find(Place::Staging, staged)?;
        let entries = &mut self.directories.entry(Place::Blobs).or_default().now;
        Some(*entries.entry(blob.to_owned()).or_insert(id) == id)
    }

    /// Takes a name away.
    pub fn remove(&mut self, place: Place, name: &str) {
        self.directories.entry(place).or_default().now.remove(name);
    }

    /// What a reader sees.
    pub fn read(&self, place: Place, name: &str) -> Option<&[u8]> {
        self.files.get(&self.find(place, name)?).map(|file| &*file.now)
    }

    /// What is there after a loss of power at the worst.
    pub fn read_durable(&self, place: Place, name: &str) -> Option<&[u8]> {
        let id = self.directories.get(&place)?.durable.get(name)?;
        self.files.get(id).map(|file| &*file.durable)
    }

    /// All names that are seen.
    pub fn names(&self, place: Place) -> Vec<String> {
        self.directories
            .get(&place)
            .map(|directory| directory.now.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Power is lost: of each write and of each change of a name that was not flushed chance decides whether it came to the
    /// disk, whatever their order was.
    pub fn lose_power(&mut self, random: &mut Random) {
        for file in self.files.values_mut() {
            let length = if random.below(2) == 0 { file.now.len() } else { file.durable.len() };
            let byte = |index: usize| {
                let written = if random.below(2) == 0 { &file.now } else { &file.durable };
                written.get(index).copied().unwrap_or(0)
            };
            file.durable = (0..length).map(byte).collect();
            file.now.clone_from(&file.durable);
        }
        for directory in self.directories.values_mut() {
            let changed = |name: &&String| directory.now.get(*name) != directory.durable.get(*name);
            let mut left = directory.durable.clone();
            for name in directory.now.keys().chain(directory.durable.keys()).filter(changed) {
                if random.below(2) == 0 {
                    match directory.now.get(name) {
                        Some(id) => drop(left.insert(name.clone(), *id)),
                        None => drop(left.remove(name)),
                    }
                }
            }
            *directory = Flushed { now: left.clone(), durable: left };
        }
    }

    fn find(&self, place: Place, name: &str) -> Option<FileId> {
        self.directories.get(&place)?.now.get(name).copied()
    }
}

#[test]
fn a_loss_of_power_takes_what_was_not_flushed() {
    use Place::{Blobs, Staging};
    let (mut lost_name, mut lost_bytes) = (0, 0);
    for seed in 0..100 {
        let mut disk = Disk::default();
        disk.make(Staging, "a");
        disk.write(Staging, "a", 0, b"flushed").unwrap();
        disk.flush_file(Staging, "a").unwrap();
        disk.flush_directory(Staging);
        disk.write(Staging, "a", 7, b"not flushed").unwrap();
        assert_eq!(disk.link("a", "b"), Some(true));
        assert_eq!(disk.read(Blobs, "b"), Some(&b"flushednot flushed"[..]));
        assert_eq!(disk.read_durable(Blobs, "b"), None);
        disk.lose_power(&mut Random::from_seed(seed));
        assert!(disk.read(Staging, "a").unwrap().starts_with(b"flushed"));
        lost_name += u32::from(disk.read(Blobs, "b").is_none());
        lost_bytes += u32::from(disk.read(Staging, "a") == Some(b"flushed"));
    }
    assert!((1..100).contains(&lost_name) && (1..100).contains(&lost_bytes), "{lost_name} {lost_bytes}");
}
