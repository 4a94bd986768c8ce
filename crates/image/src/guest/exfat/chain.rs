//! Which clusters belong to something, by the file allocation table or one after the other.

use std::ops::Range;

use super::boot::BootRegion;
use crate::control::Control;
use crate::error::Result;
use crate::guest::Kept;
use crate::guest::device::{Device, Fields};
use crate::reason;

/// Clusters that are kept account of: a bitmap of 4 MiB, and so 4 TiB of the clusters that formatters choose then.
const CLUSTERS_MAX: u32 = 1 << 25;
/// The table is read in pieces of this size …
const WINDOW_BYTES: u64 = 4096;
/// … and not more often than this: a table of 16 GiB in order, or four million jumps.
const WINDOWS_MAX: u32 = 1 << 22;
/// Ends a chain.
const LAST: u32 = 0xffff_ffff;

/// Where the bytes of a file, a directory or a table lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) first: u32,
    /// The clusters follow each other, and the table says nothing of them.
    pub(crate) contiguous: bool,
    /// `None` for the root directory, which ends with its chain.
    pub(crate) length_bytes: Option<u64>,
}

/// The account of all clusters that something claims.
#[derive(Debug)]
pub(crate) struct Claims {
    boot: BootRegion,
    /// One bit for each cluster, the lowest first.
    claimed: Vec<u8>,
    window: Vec<u8>,
    window_start: Option<u64>,
    windows: u32,
}

fn geometry(message: &str) -> Kept {
    Kept::whole(reason::KEPT_GEOMETRY, message)
}

impl Claims {
    /// Nothing is claimed yet; the error is the reason to keep all.
    pub(crate) fn new(boot: BootRegion) -> Result<Self, Kept> {
        if boot.clusters > CLUSTERS_MAX {
            return Err(Kept::whole(reason::KEPT_LIMIT, "more clusters than are kept account of"));
        }
        let claimed = vec![0; boot.clusters.div_ceil(8) as usize];
        Ok(Self { boot, claimed, window: Vec::new(), window_start: None, windows: 0 })
    }

    /// Claimed clusters, in the layout of the file system's own bitmap.
    pub(crate) fn bitmap(&self) -> &[u8] {
        &self.claimed
    }

    /// Claims all clusters of a stream and calls `take` with each run of them in order. The inner error is the reason
    /// to keep all: no cluster may be claimed twice, so that a loop ends here too.
    pub(crate) fn claim(
        &mut self,
        device: &Device<'_>,
        stream: Stream,
        control: &Control,
        mut take: impl FnMut(Range<u32>),
    ) -> Result<Result<(), Kept>> {
        let needed = stream.length_bytes.map(|length| self.boot.clusters_of(length));
        if stream.first == 0 && needed == Some(0) {
            return Ok(Ok(()));
        }
        if stream.contiguous {
            return Ok(self.claim_run(stream.first, needed.unwrap_or(0)).map(take));
        }
        let (mut cluster, mut count) = (stream.first, 0_u64);
        let mut run = cluster..cluster;
        while cluster != LAST {
            if count.is_multiple_of(1 << 16) {
                control.check_cancelled()?;
            }
            if let Err(kept) = self.claim_run(cluster, 1) {
                return Ok(Err(kept));
            }
            if run.end != cluster {
                take(run);
                run = cluster..cluster;
            }
            run.end += 1;
            count += 1;
            cluster = match self.next(device, cluster)? {
                Ok(next) => next,
                Err(kept) => return Ok(Err(kept)),
            };
        }
        take(run);
        if needed.is_some_and(|needed| count < needed) {
            return Ok(Err(geometry("a chain of clusters is shorter than its file")));
        }
        Ok(Ok(()))
    }

    fn claim_run(&mut self, first: u32, count: u64) -> Result<Range<u32>, Kept> {
        let outside = || geometry("a file lies in clusters that do not exist");
        let count = u32::try_from(count).map_err(|_| outside())?;
        let end = first.checked_add(count).filter(|_| count > 0).ok_or_else(outside)?;
        if !self.boot.has(first) || !self.boot.has(end - 1) {
            return Err(outside());
        }
        for bit in first - 2..end - 2 {
            let byte = &mut self.claimed[bit as usize / 8];
            if *byte >> (bit % 8) & 1 == 1 {
                return Err(geometry("two files lie in one cluster"));
            }
            *byte |= 1 << (bit % 8);
        }
        Ok(first..end)
    }

    /// What the table says of a cluster, which exists.
    fn next(&mut self, device: &Device<'_>, cluster: u32) -> Result<Result<u32, Kept>> {
        let place = u64::from(cluster) * 4;
        let start = place / WINDOW_BYTES * WINDOW_BYTES;
        if self.window_start != Some(start) {
            if self.windows == WINDOWS_MAX {
                return Ok(Err(Kept::whole(reason::KEPT_LIMIT, "the files are too scattered")));
            }
            self.windows += 1;
            let end = (u64::from(self.boot.clusters) + 2) * 4;
            self.window.resize((end - start).min(WINDOW_BYTES) as usize, 0);
            if !device.read_at(&mut self.window, self.boot.table_start + start)? {
                return Ok(Err(geometry("the file allocation table lies outside the device")));
            }
            self.window_start = Some(start);
        }
        Ok(Ok(self.window.u32_at((place - start) as usize)))
    }
}
