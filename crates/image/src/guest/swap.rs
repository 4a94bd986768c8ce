//! Linux swap space: what was swapped out is lost at the next start anyway, so all but the header is free.
//!
//! The header is the first page (Linux, `include/linux/swap.h`, `union swap_header`): version, last page and the number of
//! bad pages from byte 1024, UUID and label, the list of bad pages from byte 1536, the mark in the last ten bytes. All in
//! the byte order of the guest.

use std::ops::Range;

use super::device::{Device, Fields};
use super::reader::{FileSystem, nothing};
use super::signature::{SWAP_PAGES, SwapMark, swap_mark};
use super::{FreeSpace, Kept, ranges};
use crate::control::Control;
use crate::error::Result;
use crate::reason;

const BAD_PAGES: usize = 1536;
const MARK_BYTES: usize = 10;

/// Swap space whose header was found sound.
#[derive(Debug, PartialEq, Eq)]
struct Swap {
    page_bytes: u64,
    /// With the first one, which is the header.
    pages: u64,
    /// Pages that the guest never uses, ascending; they are kept.
    bad: Vec<u32>,
}

/// Reads the swap space on `device`.
pub(crate) fn open(device: &Device<'_>, _control: &Control) -> Result<FileSystem> {
    let mut marks = Vec::new();
    for page in SWAP_PAGES {
        marks.extend(swap_mark(device, page)?.map(|mark| (page, mark)));
    }
    // The page size of the guest is not known: of two marks either may be in force.
    let [(page_bytes, mark)] = marks[..] else {
        let message = "marks of swap space for two sizes of a page";
        return Ok(nothing("swap", vec![Kept::whole(reason::KEPT_TWO_SIGNATURES, message)]));
    };
    if mark != SwapMark::Current {
        let message = "the version of the swap space is not read";
        return Ok(nothing("swap", vec![Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message)]));
    }
    let mut page = vec![0; page_bytes as usize];
    if !device.read_at(&mut page, 0)? {
        let message = "the device is shorter than a page";
        return Ok(nothing("swap", vec![Kept::whole(reason::KEPT_GEOMETRY, message)]));
    }
    let label = page[1052..1068].split(|byte| *byte == 0).next().unwrap_or_default();
    let label = (!label.is_empty()).then(|| String::from_utf8_lossy(label).into_owned());
    let system = match Swap::parse(&page, device.length_bytes()) {
        Ok(swap) => {
            let free_bytes = (swap.pages - 1 - swap.bad.len() as u64) * page_bytes;
            let free: Option<Box<dyn FreeSpace>> = if free_bytes > 0 { Some(Box::new(swap)) } else { None };
            FileSystem { free_bytes, free, ..nothing("swap", Vec::new()) }
        }
        Err(kept) => nothing("swap", vec![kept]),
    };
    Ok(FileSystem { label, ..system })
}

impl Swap {
    /// Reads the header, the whole first page.
    fn parse(page: &[u8], device_bytes: u64) -> Result<Self, Kept> {
        let native = page.u32_at(1024) == 1;
        let field = |place: usize| {
            let value = page.u32_at(place);
            if native { value } else { value.swap_bytes() }
        };
        if field(1024) != 1 {
            let message = "the version of the swap space is not known";
            return Err(Kept::whole(reason::KEPT_UNKNOWN_FEATURE, message));
        }
        let geometry = |message: &str| Kept::whole(reason::KEPT_GEOMETRY, message);
        let page_bytes = page.len() as u64;
        let pages = u64::from(field(1028)) + 1;
        if pages * page_bytes > device_bytes {
            return Err(geometry("the swap space is larger than its device"));
        }
        let count = field(1032) as usize;
        if count > (page.len() - MARK_BYTES - BAD_PAGES) / 4 {
            return Err(geometry("more bad pages than the header has room for"));
        }
        let mut bad: Vec<u32> = (0..count).map(|index| field(BAD_PAGES + 4 * index)).collect();
        bad.sort_unstable();
        bad.dedup();
        if bad.first() == Some(&0) || bad.last().is_some_and(|last| u64::from(*last) >= pages) {
            return Err(geometry("a bad page lies outside the swap space"));
        }
        Ok(Self { page_bytes, pages, bad })
    }
}

impl FreeSpace for Swap {
    fn free_within(&self, _device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        let mut start = range.start.max(self.page_bytes);
        // What lies behind the last page is not the swap space's.
        let end = range.end.min(self.pages * self.page_bytes);
        let place = |page: u32| u64::from(page) * self.page_bytes;
        let first = self.bad.partition_point(|page| place(*page) + self.page_bytes <= start);
        for page in self.bad[first..].iter().take_while(|page| place(**page) < end) {
            if start < place(*page) {
                ranges::push_joined(free, start..place(*page));
            }
            start = place(*page) + self.page_bytes;
        }
        if start < end {
            ranges::push_joined(free, start..end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn header(page_bytes: usize, big: bool, last_page: u32, bad: &[u32]) -> Vec<u8> {
        let mut page = vec![0; page_bytes];
        let fields = [(1024, 1), (1028, last_page), (1032, bad.len() as u32)];
        let list = bad.iter().enumerate().map(|(index, page)| (BAD_PAGES + index * 4, *page));
        for (place, value) in fields.into_iter().chain(list) {
            let bytes = if big { value.to_be_bytes() } else { value.to_le_bytes() };
            page[place..place + 4].copy_from_slice(&bytes);
        }
        page
    }

    #[test]
    fn the_header_is_read_in_either_byte_order() {
        for big in [false, true] {
            let swap = Swap::parse(&header(8192, big, 99, &[7, 3]), 100 * 8192).unwrap();
            assert_eq!(swap, Swap { page_bytes: 8192, pages: 100, bad: vec![3, 7] });
        }
    }

    #[test]
    fn a_header_that_contradicts_itself_keeps_all() {
        let reason = |page: &[u8], device_bytes| Swap::parse(page, device_bytes).unwrap_err().reason;
        assert_eq!(reason(&header(4096, false, 100, &[]), 100 * 4096), reason::KEPT_GEOMETRY);
        assert_eq!(reason(&header(4096, false, u32::MAX, &[]), u64::from(u32::MAX)), reason::KEPT_GEOMETRY);
        assert_eq!(reason(&header(4096, false, 99, &[0]), 100 * 4096), reason::KEPT_GEOMETRY);
        assert_eq!(reason(&header(4096, false, 99, &[100]), 100 * 4096), reason::KEPT_GEOMETRY);
        let mut page = header(4096, false, 99, &[]);
        page[1032..1036].copy_from_slice(&638_u32.to_le_bytes());
        assert_eq!(reason(&page, 100 * 4096), reason::KEPT_GEOMETRY);
        page[1024] = 2;
        assert_eq!(reason(&page, 100 * 4096), reason::KEPT_UNKNOWN_FEATURE);
    }

    proptest! {
        #[test]
        fn every_page_but_the_first_and_the_bad_ones_is_free(
            bad in prop::collection::btree_set(1..40_u32, 0..10), from in 0..170_000_u64, length in 0..170_000_u64,
        ) {
            let bad: Vec<u32> = bad.into_iter().collect();
            let swap = Swap::parse(&header(4096, false, 39, &bad), 41 * 4096).unwrap();
            let disk: &dyn crate::disk::Disk = &Nothing;
            let mut free = Vec::new();
            swap.free_within(&Device::new(disk, 0, 41 * 4096), from..from + length, &mut free).unwrap();
            let is_free = |page: u64| (1..40).contains(&page) && !bad.contains(&(page as u32));
            let expected = (from..from + length).filter(|at| is_free(at / 4096)).count() as u64;
            prop_assert_eq!(ranges::total_bytes(&free), expected);
            prop_assert!(free.iter().all(|piece| is_free(piece.start / 4096) && is_free((piece.end - 1) / 4096)));
            prop_assert!(free.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }

    /// The answers come from the header alone.
    struct Nothing;

    impl crate::disk::Disk for Nothing {
        fn virtual_size_bytes(&self) -> u64 {
            0
        }

        fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> Result<()> {
            unreachable!("nothing is read")
        }

        fn extent_at(&self, _offset: u64) -> Result<Option<crate::disk::Extent>> {
            Ok(None)
        }
    }
}
