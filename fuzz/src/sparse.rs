//! Disks and files that are nearly all zeros, in a few KiB: what a fuzzer's bytes mean.
//!
//! Any bytes can be decoded, so none of a fuzzer's changes is wasted. All numbers are little-endian:
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 1 | bit 0: checksums are put right before the engine sees the image, see [`crate::seal`] |
//! | 8 | size of the image in bytes, modulo [`SIZE_BYTES_MAX`] |
//! | … | records, to the end |
//!
//! A record is a place (5 bytes) and a length (2 bytes) with what is there: as many bytes, or, when the highest bit of
//! the length is set, one byte that is repeated. What no record covers is zero; later records win.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use imageops_image::storage::Storage;

/// No image is as large: the largest disk that the engine takes unless it is told otherwise.
pub const SIZE_BYTES_MAX: u64 = 16 << 40;
/// The unit in which content is held.
pub const PAGE_BYTES: usize = 4096;
/// Pages that are held, 8 MiB of them; what would need more is left out.
const PAGES_MAX: usize = 2048;

const HEADER: usize = 9;
const RECORD: usize = 7;
const FLAG_SEALED: u8 = 1;
const REPEATED: u16 = 0x8000;
const LENGTH_MAX: usize = 0x7fff;
/// Equal bytes that are worth a record of their own, or, as zeros, the end of one.
const RUN_MIN: usize = 12;

/// An image in memory that holds only what is not zero.
#[derive(Debug)]
pub struct Sparse {
    /// Length in bytes.
    pub size_bytes: u64,
    /// Checksums are to be put right.
    pub is_sealed: bool,
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES]>>,
    /// How often it was read from: a measure of work that no other load disturbs.
    reads: AtomicU64,
    bytes_read: AtomicU64,
}

impl Sparse {
    /// An image of zeros.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes: size_bytes % SIZE_BYTES_MAX,
            is_sealed: false,
            pages: BTreeMap::new(),
            reads: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    /// Takes what `bytes` say; whatever is missing is zero.
    pub fn decode(bytes: &[u8]) -> Self {
        let mut header = [0; HEADER];
        let given = bytes.len().min(HEADER);
        header[..given].copy_from_slice(&bytes[..given]);
        let size = header[1..].iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte));
        let mut image = Self::new(size);
        image.is_sealed = header[0] & FLAG_SEALED != 0;
        let mut rest = &bytes[given..];
        while let Some((head, behind)) = rest.split_at_checked(RECORD) {
            let place = head[..5].iter().rev().fold(0, |place, byte| place << 8 | u64::from(*byte));
            let length = u16::from_le_bytes([head[5], head[6]]);
            let count = usize::from(length & !REPEATED);
            let taken = if length & REPEATED == 0 { count } else { 1 }.min(behind.len());
            let (content, next) = behind.split_at(taken);
            match content {
                [byte] if length & REPEATED != 0 => image.put(place, &vec![*byte; count]),
                _ => image.put(place, content),
            }
            rest = next;
        }
        image
    }

    /// The bytes that [`Self::decode`] makes this of.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![if self.is_sealed { FLAG_SEALED } else { 0 }];
        bytes.extend(self.size_bytes.to_le_bytes());
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        for neighbours in pages.chunk_by(|one, next| one + 1 == *next) {
            let content: Vec<u8> = neighbours.iter().flat_map(|page| *self.pages[page]).collect();
            encode_stretch(neighbours[0] * PAGE_BYTES as u64, &content, &mut bytes);
        }
        bytes
    }

    /// Writes `content`; what lies past the end of the image, or would need too much memory, is left out.
    pub fn put(&mut self, place: u64, content: &[u8]) {
        let end = self.size_bytes.min(place.saturating_add(content.len() as u64));
        let mut at = place;
        while at < end {
            let (page, offset) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
            let count = (end - at).min((PAGE_BYTES - offset) as u64) as usize;
            let piece = &content[(at - place) as usize..][..count];
            let is_known = self.pages.contains_key(&page);
            if is_known || self.pages.len() < PAGES_MAX && piece.iter().any(|byte| *byte != 0) {
                let bytes = self.pages.entry(page).or_insert_with(|| Box::new([0; PAGE_BYTES]));
                bytes[offset..offset + count].copy_from_slice(piece);
            }
            at += count as u64;
        }
    }

    /// `N` bytes at `place`; zeros past the end.
    pub fn get<const N: usize>(&self, place: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.copy_to(&mut bytes, place);
        bytes
    }

    /// `length` bytes at `place`; zeros past the end.
    pub fn take(&self, place: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.copy_to(&mut bytes, place);
        bytes
    }

    fn copy_to(&self, buffer: &mut [u8], place: u64) {
        buffer.fill(0);
        let end = place.saturating_add(buffer.len() as u64).min(self.size_bytes);
        if place >= end {
            return;
        }
        let touched = place / PAGE_BYTES as u64..end.div_ceil(PAGE_BYTES as u64);
        for (page, bytes) in self.pages.range(touched) {
            let start = page * PAGE_BYTES as u64;
            let piece = start.max(place)..(start + PAGE_BYTES as u64).min(end);
            buffer[(piece.start - place) as usize..(piece.end - place) as usize]
                .copy_from_slice(&bytes[(piece.start - start) as usize..(piece.end - start) as usize]);
        }
    }

    /// Places of the pages that are held, ascending; each is [`PAGE_BYTES`] long.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().map(|page| page * PAGE_BYTES as u64)
    }

    /// How many pages are held.
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// How often it was read from as [`Storage`], and how many bytes in all.
    pub fn work(&self) -> (u64, u64) {
        (self.reads.load(Ordering::Relaxed), self.bytes_read.load(Ordering::Relaxed))
    }
}

/// Adds the records of `content`, without what is zero.
fn encode_stretch(place: u64, content: &[u8], bytes: &mut Vec<u8>) {
    let run_at = |at: usize| content[at..].iter().take_while(|byte| **byte == content[at]).count();
    let mut at = 0;
    while at < content.len() {
        let run = run_at(at);
        if content[at] == 0 {
            at += run;
        } else if run >= RUN_MIN {
            let length = run.min(LENGTH_MAX);
            encode_record(place + at as u64, length as u16 | REPEATED, &content[at..at + 1], bytes);
            at += length;
        } else {
            let mut end = at;
            while end < content.len() && end - at < LENGTH_MAX {
                let run = run_at(end);
                if run >= RUN_MIN {
                    break;
                }
                end = (end + run).min(at + LENGTH_MAX);
            }
            let zeros = content[at..end].iter().rev().take_while(|byte| **byte == 0).count();
            encode_record(place + at as u64, (end - at - zeros) as u16, &content[at..end - zeros], bytes);
            at = end;
        }
    }
}

fn encode_record(place: u64, length: u16, content: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend(&place.to_le_bytes()[..5]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(content);
}

impl Storage for Sparse {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.copy_to(buffer, offset);
        Ok(self.size_bytes.saturating_sub(offset).min(buffer.len() as u64) as usize)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut pages = self.pages.range(offset / PAGE_BYTES as u64..).map(|(page, _)| *page);
        let Some(first) = pages.next() else { return Ok(None) };
        let more = pages.zip(first + 1..).take_while(|(page, expected)| page == expected).count();
        let start = (first * PAGE_BYTES as u64).max(offset);
        let end = ((first + 1 + more as u64) * PAGE_BYTES as u64).min(self.size_bytes);
        Ok((start < end).then_some(start..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Numbers;

    #[test]
    fn what_is_encoded_comes_back() {
        let mut numbers = Numbers::new(1);
        for _ in 0..200 {
            let mut image = Sparse::new(1 + numbers.below(1 << 36));
            image.is_sealed = numbers.below(2) == 0;
            for _ in 0..numbers.below(30) {
                let content: Vec<u8> = (0..numbers.below(300)).map(|_| numbers.below(256) as u8).collect();
                let place = numbers.below(image.size_bytes);
                image.put(place, &content);
                image.put(place + 1000, &vec![7; numbers.below(100_000) as usize]);
                image.put(place + 50, &[0; 20]);
            }
            let again = Sparse::decode(&image.encode());
            assert_eq!((again.size_bytes, again.is_sealed), (image.size_bytes, image.is_sealed));
            assert!(image.pages().all(|place| again.get::<PAGE_BYTES>(place) == image.get(place)));
            assert_eq!(again.encode(), image.encode());
        }
    }

    #[test]
    fn any_bytes_are_an_image() {
        let mut numbers = Numbers::new(2);
        for length in 0..500 {
            let bytes: Vec<u8> = (0..length).map(|_| numbers.below(256) as u8).collect();
            let image = Sparse::decode(&bytes);
            assert!(image.size_bytes < SIZE_BYTES_MAX && image.page_count() <= PAGES_MAX);
        }
        assert_eq!(Sparse::decode(&[]).size_bytes, 0);
    }

    #[test]
    fn memory_is_bounded() {
        let mut image = Sparse::new(1 << 36);
        for place in (0..1 << 30).step_by(1 << 16) {
            image.put(place, &[1; 4096]);
        }
        assert_eq!(image.page_count(), PAGES_MAX);
    }

    #[test]
    fn data_are_found_where_they_are() {
        let mut image = Sparse::new(100_000);
        image.put(9000, &[1; 4000]);
        image.put(99_990, &[1; 100]);
        assert_eq!(image.next_data(0).unwrap(), Some(8192..16_384));
        assert_eq!(image.next_data(9001).unwrap(), Some(9001..16_384));
        assert_eq!(image.next_data(16_384).unwrap(), Some(98_304..100_000));
        assert_eq!(image.next_data(100_000).unwrap(), None);
        let mut buffer = [9; 20];
        assert_eq!(image.read_at(&mut buffer, 99_985).unwrap(), 15);
        assert_eq!(buffer[..15], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}
