#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::control::CancelToken;
use crate::format::{self, Format};
use crate::storage::Storage;

/// A raw disk in which every second piece of `piece` bytes is a hole.
struct Striped {
    size: u64,
    piece: u64,
}

impl Storage for Striped {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = (buffer.len() as u64).min(self.size.saturating_sub(offset)) as usize;
        buffer[..count].fill(0);
        Ok(count)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let number = offset / self.piece;
        let number = number + number % 2;
        let start = (number * self.piece).max(offset);
        Ok((start < self.size).then(|| start..((number + 1) * self.piece).min(self.size)))
    }
}

fn open(size: u64, piece: u64) -> Image {
    format::open(Arc::new(Striped { size, piece }), Some(Format::Raw)).unwrap()
}

fn all(image: &Image) -> (Vec<MapExtent>, MapSummary) {
    let mut extents = Vec::new();
    let map = DiskMap::open(image, &Control::default()).unwrap();
    let summary = map.walk(&Control::default(), |extent| {
        extents.push(extent.clone());
        Ok::<_, Error>(())
    });
    (extents, summary.unwrap())
}

#[test]
fn extents_cover_the_disk_and_neighbours_of_one_sort_are_joined() {
    for piece in [4096, 700 << 10, 3 << 20] {
        let size = (10 << 20) + 512;
        let image = open(size, piece);
        let (extents, summary) = all(&image);
        let mut cursor = 0;
        for extent in &extents {
            assert_eq!(extent.range.start, cursor);
            let data = cursor / piece % 2 == 0;
            assert_eq!(extent.kind, if data { ExtentKind::Data } else { ExtentKind::Hole });
            assert_eq!(extent.host_offset, data.then_some(cursor));
            assert_eq!(extent.part, Some(0));
            cursor = extent.range.end;
            assert!(cursor == size || cursor % piece == 0);
        }
        assert_eq!(cursor, size);
        assert_eq!(summary.totals.data_bytes + summary.totals.hole_bytes, size);
        assert_eq!(summary.parts[0].totals, summary.totals);
    }
}

#[test]
fn a_caller_who_has_had_enough_ends_the_walk() {
    let image = open(8 << 20, 4096);
    let map = DiskMap::open(&image, &Control::default()).unwrap();
    let mut seen = 0;
    let ended = map.walk(&Control::default(), |_| {
        seen += 1;
        if seen == 3 { Err(Error::new(ErrorKind::Io, reason::IO, "enough")) } else { Ok(()) }
    });
    assert_eq!((ended.unwrap_err().message.as_str(), seen), ("enough", 3));
}

#[test]
fn the_walk_reports_and_can_be_cancelled() {
    let image = open(8 << 20, 1 << 20);
    let told = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&told);
    let cancel = CancelToken::default();
    let control = Control::new(move |progress| list.lock().unwrap().push(progress.fraction), cancel.clone());
    let map = DiskMap::open(&image, &control).unwrap();
    map.walk(&control, |_| Ok::<_, Error>(())).unwrap();
    let fractions = std::mem::take(&mut *told.lock().unwrap());
    assert!(fractions.is_sorted() && fractions.len() > 4, "{fractions:?}");
    assert_eq!(fractions.last(), Some(&1.0));
    let ended = map.walk(&control, |_| {
        cancel.cancel();
        Ok::<_, Error>(())
    });
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Cancelled);
}
