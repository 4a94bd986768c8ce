//! What every file system must prove, and the damage it must survive.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use imageops_image::Control;
use imageops_image::disk::{Disk, Extent};
use imageops_image::guest::{self, Layout};

pub(crate) fn scan(disk: &dyn Disk) -> Layout {
    guest::scan(disk, &Control::default()).unwrap()
}

/// All free ranges, asked for in pieces of odd sizes, as threads do.
pub(crate) fn free_ranges(disk: &dyn Disk, layout: &Layout) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    let step = 777_216;
    for start in (0..disk.virtual_size_bytes()).step_by(step) {
        let range = start..(start + step as u64).min(disk.virtual_size_bytes());
        let mut free = Vec::new();
        layout.free_within(disk, range.clone(), &mut free).unwrap();
        for piece in free {
            assert!(piece.start < piece.end && range.start <= piece.start && piece.end <= range.end);
            match all.last_mut() {
                Some(last) if last.end == piece.start => last.end = piece.end,
                last => {
                    assert!(last.is_none_or(|last| last.end < piece.start));
                    all.push(piece);
                }
            }
        }
    }
    all
}

pub(crate) fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Bytes of `ours` that are not in `theirs`, both ascending.
pub(crate) fn outside(ours: &[Range<u64>], theirs: &[Range<u64>]) -> u64 {
    let inside = |range: &Range<u64>| -> u64 {
        theirs.iter().map(|other| other.end.min(range.end).saturating_sub(other.start.max(range.start))).sum()
    };
    total(ours) - ours.iter().map(inside).sum::<u64>()
}

pub(crate) fn reasons(layout: &Layout) -> Vec<String> {
    let parts = layout.parts().iter().flat_map(|part| &part.summary().kept);
    layout.kept().iter().chain(parts).map(|kept| kept.reason.clone()).collect()
}

pub(crate) fn extract(disk: &dyn Disk, range: Range<u64>, target: &Path) {
    let file = File::create(target).unwrap();
    file.set_len(range.end - range.start).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for place in range.clone().step_by(buffer.len()) {
        let length = buffer.len().min((range.end - place) as usize);
        disk.read_at(&mut buffer[..length], place).unwrap();
        if buffer[..length].iter().any(|byte| *byte != 0) {
            file.write_all_at(&buffer[..length], place - range.start).unwrap();
        }
    }
}

/// A disk in memory, a base with some bytes changed.
pub(crate) struct Patched {
    pub(crate) base: Arc<dyn Disk>,
    pub(crate) bytes: Vec<(u64, u8)>,
    pub(crate) size: Option<u64>,
}

impl Disk for Patched {
    fn virtual_size_bytes(&self) -> u64 {
        self.size.unwrap_or(self.base.virtual_size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> imageops_image::Result<()> {
        self.base.read_at(buffer, offset)?;
        for (place, byte) in &self.bytes {
            if (offset..offset + buffer.len() as u64).contains(place) {
                buffer[(place - offset) as usize] = *byte;
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> imageops_image::Result<Option<Extent>> {
        self.base.extent_at(offset)
    }
}

pub(crate) fn flipped(base: &Arc<dyn Disk>, place: u64, bit: u8) -> Patched {
    let mut byte = [0];
    base.read_at(&mut byte, place).unwrap();
    Patched { base: Arc::clone(base), bytes: vec![(place, byte[0] ^ 1 << bit)], size: None }
}

/// A file full of what a guest has deleted.
pub(crate) fn junk(target: &Path, size: u64) {
    let mut numbers = Numbers(size);
    let piece: Vec<u8> = (0..1 << 16).map(|_| 1 + numbers.below(255) as u8).collect();
    let file = File::create(target).unwrap();
    for place in (0..size).step_by(piece.len()) {
        file.write_all_at(&piece[..piece.len().min((size - place) as usize)], place).unwrap();
    }
}

/// The same numbers at each run, so that a failure can be looked at again.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
