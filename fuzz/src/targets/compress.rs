//! The whole of compress: its output must open, and hold every byte that the guest has not freed.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::compress::{CompressOptions, Level};
use imageops_image::disk::Disk;
use imageops_image::format::{self, Format};
use imageops_image::guest;
use imageops_image::storage::{FileStorage, Storage};

use super::guest::free_of;
use super::{Limits, disk, open, read, within};
use crate::sparse::{PAGE_BYTES, Sparse};

const LIMITS: Limits = Limits { memory_bytes: 128 << 20, reads: 1 << 20, bytes_read: 2 << 30 };
/// Disks with more on them take too long.
const PAGES_MAX: usize = 256;
const PIECE_BYTES: u64 = 64 << 10;

/// Compresses a disk and compares.
pub fn compress(input: &[u8]) {
    let image = open(input);
    if image.page_count() > PAGES_MAX {
        return;
    }
    let output = output();
    let options = CompressOptions { threads: 1, level: Level::Fast, ..CompressOptions::default() };
    let storage = Arc::clone(&image) as Arc<dyn Storage>;
    let report = within(&LIMITS, &image, || {
        imageops_image::compress::compress(storage, Some(Format::Raw), &output, &options, &Control::default())
    });
    if image.size_bytes == 0 && report.is_err() {
        return;
    }
    report.expect("what is in memory can be compressed");
    let packed = Arc::new(FileStorage::new(output).expect("a file has metadata"));
    let packed = format::open(packed, Some(Format::Qcow2)).expect("the output opens");
    compare(&image, &*packed.disk);
}

/// A file in memory where there is such a place.
fn output() -> File {
    tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).expect("there is room for a file")
}

/// All that either of them stores.
fn compare(image: &Arc<Sparse>, packed: &dyn Disk) {
    let source = disk(image);
    assert_eq!(source.virtual_size_bytes(), packed.virtual_size_bytes());
    let layout = guest::scan(&source, &Control::default()).expect("an image in memory can be read");
    let mut stored: Vec<Range<u64>> =
        image.pages().map(|place| place..(place + PAGE_BYTES as u64).min(image.size_bytes)).collect();
    let mut place = 0;
    while let Some(extent) = packed.extent_at(place).expect("the output can be read") {
        place = extent.range.end;
        if extent.kind.is_stored() {
            stored.push(extent.range);
        }
    }
    for range in stored {
        for start in range.clone().step_by(PIECE_BYTES as usize) {
            let piece = start..range.end.min(start + PIECE_BYTES);
            let length = (piece.end - piece.start) as usize;
            let (before, mut after) = (read(&source, start, length), read(packed, start, length));
            if before == after {
                continue;
            }
            // What is free may have gone: it is as it was, or zero.
            for free in free_of(&source, &layout, piece.clone()) {
                let free = (free.start - start) as usize..(free.end - start) as usize;
                let same = after[free.clone()].iter().zip(&before[free.clone()]);
                assert!(same.clone().all(|(new, old)| *new == 0 || new == old));
                after[free.clone()].copy_from_slice(&before[free]);
            }
            assert!(before == after, "a used byte was dropped in {piece:?}");
        }
    }
}
