//! Makes seeds: `pack KIND SOURCE TARGET`.
//!
//! - `disk`: of a guest's disk in any format that the engine reads, what the engine looks at to tell what is free;
//! - `junk`: the same, and a few bytes in each stretch of the disk, for whoever compares contents;
//! - `file`: an image file itself, whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use imageops_fuzz::sparse::{PAGE_BYTES, Sparse};
use imageops_image::Control;
use imageops_image::disk::{Disk, Extent};
use imageops_image::format::{self, Raw};
use imageops_image::guest::{self, Part};
use imageops_image::storage::{FileStorage, Storage};

/// Length and distance of the pieces of junk.
const JUNK_BYTES: usize = 64;
const JUNK_STEP: u64 = 700 << 10;

/// A disk that remembers what was read of it.
struct Traced {
    disk: Arc<dyn Disk>,
    reads: Mutex<Vec<Range<u64>>>,
}

impl Disk for Traced {
    fn virtual_size_bytes(&self) -> u64 {
        self.disk.virtual_size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> imageops_image::Result<()> {
        let range = offset..offset.saturating_add(buffer.len() as u64);
        self.reads.lock().expect("one thread").push(range);
        self.disk.read_at(buffer, offset)
    }

    fn extent_at(&self, offset: u64) -> imageops_image::Result<Option<Extent>> {
        self.disk.extent_at(offset)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, source, target] = &arguments[..] else {
        return Err("usage: pack disk|junk|file SOURCE TARGET".into());
    };
    let storage = Arc::new(FileStorage::new(File::open(source)?)?);
    let mut image = match kind.as_str() {
        "file" => whole(&*storage)?,
        "disk" | "junk" => looked_at(storage, kind == "junk")?,
        _ => return Err("the kind is disk, junk or file".into()),
    };
    image.is_sealed = kind != "file";
    let bytes = image.encode();
    println!("{target}: {} bytes for {} pages", bytes.len(), image.page_count());
    std::fs::write(target, bytes)?;
    Ok(())
}

/// All of a file.
fn whole(storage: &dyn Storage) -> io::Result<Sparse> {
    let mut image = Sparse::new(storage.size_bytes());
    let mut buffer = [0; PAGE_BYTES];
    for place in (0..storage.size_bytes()).step_by(PAGE_BYTES) {
        let count = storage.read_at(&mut buffer, place)?;
        image.put(place, &buffer[..count]);
    }
    Ok(image)
}

/// What the engine reads of a disk.
fn looked_at(storage: Arc<dyn Storage>, with_junk: bool) -> imageops_image::Result<Sparse> {
    let disk = Traced { disk: format::open(storage, None)?.disk, reads: Mutex::default() };
    let size = disk.virtual_size_bytes();
    let layout = guest::scan(&disk, &Control::default())?;
    let mut free = Vec::new();
    layout.free_within(&disk, 0..size, &mut free)?;
    for part in layout.parts() {
        let summary = part.summary();
        println!("{}: {} bytes free, kept: {:?}", summary.content, summary.free_bytes, summary.kept);
    }
    let mut image = Sparse::new(size);
    let mut looked_at = BTreeSet::new();
    for range in disk.reads.into_inner().expect("one thread") {
        looked_at.extend(range.start / PAGE_BYTES as u64..range.end.div_ceil(PAGE_BYTES as u64));
    }
    let mut buffer = [0; PAGE_BYTES];
    for place in looked_at.iter().map(|page| page * PAGE_BYTES as u64) {
        disk.disk.read_at(&mut buffer, place)?;
        image.put(place, &buffer);
    }
    image = without_the_rest(image)?;
    if with_junk {
        for place in (0..size).step_by(JUNK_STEP as usize) {
            let is_unused = image.get::<JUNK_BYTES>(place) == [0; JUNK_BYTES];
            image.put(place, if is_unused { &[0x6a; JUNK_BYTES] } else { &[] });
        }
    }
    Ok(image)
}

/// Leaves out pages that change nothing of what is found: what lies where a signature could be, and the like.
fn without_the_rest(mut image: Sparse) -> imageops_image::Result<Sparse> {
    let found = |bytes: &[u8]| -> imageops_image::Result<String> {
        let disk = Raw::new(Arc::new(Sparse::decode(bytes)));
        let layout = guest::scan(&disk, &Control::default())?;
        let mut free = Vec::new();
        layout.free_within(&disk, 0..disk.virtual_size_bytes(), &mut free)?;
        let parts: Vec<_> = layout.parts().iter().map(Part::summary).collect();
        Ok(format!("{:?} {parts:?} {free:?}", layout.kept()))
    };
    let expected = found(&image.encode())?;
    for place in image.pages().collect::<Vec<_>>() {
        let content = image.get::<PAGE_BYTES>(place);
        image.put(place, &[0; PAGE_BYTES]);
        if found(&image.encode())? != expected {
            image.put(place, &content);
        }
    }
    // Pages of zeros cost nothing once they are encoded.
    Ok(Sparse::decode(&image.encode()))
}
