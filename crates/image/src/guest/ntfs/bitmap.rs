//! `$Bitmap`: one bit for each cluster, the lowest first; 1 is used.
//!
//! Nothing in the format vouches for it. So all of it is checked when the file system is opened, against every file,
//! and each answer comes from a page that has not changed since.

use std::ops::Range;

use super::stream::Stream;
use super::volume::{Volume, file};
use super::{Stop, geometry};
use crate::control::Control;
use crate::guest::Kept;
use crate::guest::device::Device;
use crate::reason;

/// What is read at once: the bits of 2 GiB with the usual clusters of 4 KiB.
pub(crate) const PAGE_BYTES: u64 = 64 << 10;
/// Clusters of a page.
pub(crate) const PAGE_CLUSTERS: u64 = PAGE_BYTES * 8;

/// Where the bitmap lies, and what it held when it was checked: at most 8,192 pages, as clusters are 32 bits.
#[derive(Debug)]
pub(crate) struct Bitmap {
    stream: Stream,
    clusters: u64,
    checksums: Vec<u32>,
    /// Bits that are 1.
    pub(crate) used: u64,
}

impl Bitmap {
    /// Reads the bitmap once; its length and what lies behind its end are checked, its bits are not.
    pub(crate) fn read(volume: &Volume<'_>, control: &Control) -> Result<Self, Stop> {
        let stream = volume.open_data(file::BITMAP)?;
        let clusters = volume.boot.clusters;
        let needed = clusters.div_ceil(8);
        let length = stream.data_bytes();
        if length < needed || length > needed + PAGE_BYTES || stream.initialized_bytes() != length {
            return Err(geometry("the bitmap is not as long as the volume needs it"));
        }
        let mut bitmap = Self { stream, clusters, checksums: Vec::new(), used: 0 };
        let mut page = Vec::new();
        for number in 0..length.div_ceil(PAGE_BYTES) {
            control.check_cancelled()?;
            bitmap.load(&volume.device, number, &mut page)?;
            let inside = clusters.saturating_sub(number * PAGE_CLUSTERS).min(page.len() as u64 * 8) as usize;
            let behind = inside..page.len() * 8;
            if first_of(&page, behind.clone(), false) < behind.end {
                let message = "the bitmap says that clusters behind the last one are free";
                return Err(Stop::Kept(Kept::whole(reason::KEPT_GEOMETRY, message)));
            }
            let ones: u64 = page.iter().map(|byte| u64::from(byte.count_ones())).sum();
            bitmap.used += ones - behind.len() as u64;
            bitmap.checksums.push(crc32c::crc32c(&page));
        }
        Ok(bitmap)
    }

    /// Clusters whose bits are 0.
    pub(crate) fn free(&self) -> u64 {
        self.clusters - self.used
    }

    fn load(&self, device: &Device<'_>, number: u64, page: &mut Vec<u8>) -> Result<(), Stop> {
        let start = number * PAGE_BYTES;
        page.resize((self.stream.data_bytes() - start).min(PAGE_BYTES) as usize, 0);
        self.stream.read_at(device, page, start)
    }

    /// A page as it was when the bitmap was checked; `false` when it is another now.
    pub(crate) fn read_page(
        &self,
        device: &Device<'_>,
        number: u64,
        page: &mut Vec<u8>,
    ) -> Result<bool, Stop> {
        let Some(checksum) = usize::try_from(number).ok().and_then(|index| self.checksums.get(index)) else {
            return Ok(false);
        };
        self.load(device, number, page)?;
        Ok(crc32c::crc32c(page) == *checksum)
    }

    /// The reason to keep all when one of `owned`, ascending ranges of clusters, is called free.
    pub(crate) fn check_used(&self, device: &Device<'_>, owned: &[Range<u64>]) -> Result<(), Stop> {
        let mut page = Vec::new();
        let mut loaded = None;
        for range in owned {
            let mut place = range.start;
            while place < range.end {
                let number = place / PAGE_CLUSTERS;
                if loaded != Some(number) && !self.read_page(device, number, &mut page)? {
                    return Err(contradiction("the bitmap changed while it was read"));
                }
                loaded = Some(number);
                let start = number * PAGE_CLUSTERS;
                let end = range.end.min(start + PAGE_CLUSTERS);
                let bits = (place - start) as usize..(end - start) as usize;
                if first_of(&page, bits.clone(), false) < bits.end {
                    return Err(contradiction("the bitmap calls clusters free that files use"));
                }
                place = end;
            }
        }
        Ok(())
    }
}

/// The bitmap and something else cannot both be right.
pub(crate) fn contradiction(message: &'static str) -> Stop {
    Stop::Kept(Kept::whole(reason::KEPT_FREE_COUNT, message))
}

/// Calls `take` with each stretch of zeros of `bits`, ascending.
pub(crate) fn zeros(page: &[u8], bits: Range<usize>, mut take: impl FnMut(Range<usize>)) {
    let mut bit = bits.start;
    while bit < bits.end {
        let start = first_of(page, bit..bits.end, false);
        bit = first_of(page, start..bits.end, true);
        if start < bit {
            take(start..bit);
        }
    }
}

/// The first bit of `bits` that is `one`, or their end.
fn first_of(page: &[u8], bits: Range<usize>, one: bool) -> usize {
    let other = if one { 0 } else { 0xff };
    let mut bit = bits.start;
    while bit < bits.end {
        if bit.is_multiple_of(8) && page[bit / 8] == other {
            // Long stretches by bytes: most of a volume is all used or all free.
            let same = page[bit / 8..bits.end.div_ceil(8)].iter().take_while(|byte| **byte == other).count();
            bit += same * 8;
        } else if (page[bit / 8] >> (bit % 8) & 1 == 1) == one {
            return bit;
        } else {
            bit += 1;
        }
    }
    bits.end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn zeros_are_the_bits_that_are_not_set(
            page in prop::collection::vec(prop_oneof![Just(0), Just(0xff), any::<u8>()], 1..40),
            from in any::<prop::sample::Index>(),
            to in any::<prop::sample::Index>(),
        ) {
            let (a, b) = (from.index(page.len() * 8 + 1), to.index(page.len() * 8 + 1));
            let bits = a.min(b)..a.max(b);
            let mut found = Vec::new();
            zeros(&page, bits.clone(), |range| found.push(range));
            prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start));
            let listed: Vec<usize> = found.into_iter().flatten().collect();
            let expected: Vec<usize> = bits.filter(|bit| page[bit / 8] >> (bit % 8) & 1 == 0).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}
