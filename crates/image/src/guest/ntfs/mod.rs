//! Free space of NTFS.
//!
//! `$Bitmap` has neither a checksum nor a count beside it. So the whole MFT is read once, and the bitmap is believed
//! only when every cluster of every file is marked in it. Journal, flags, a hibernated system and shadow copies are
//! looked at before; whatever tells that the disk is not the whole truth keeps all.
//!
//! Free clusters are those whose bit is 0. What lies behind the last cluster, the copy of the boot sector among it, is
//! never one.

mod bitmap;
mod boot;
mod index;
mod journal;
mod names;
mod owners;
mod record;
mod runs;
mod stream;
mod volume;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::bitmap::{Bitmap, PAGE_CLUSTERS};
use self::names::Candidates;
use self::volume::Volume;
use super::device::Device;
use super::reader::{FileSystem, Stop, nothing};
use super::{FreeSpace, Kept, ranges};
use crate::control::Control;
use crate::error::Result;
use crate::reason;

const NAME: &str = "ntfs";

/// The reason to keep all when sizes or places contradict each other.
fn geometry(message: &'static str) -> Stop {
    Stop::Kept(Kept::whole(reason::KEPT_GEOMETRY, message))
}

/// A page of the bitmap by its number; no bytes when it is not what it was.
type Page = (u64, Arc<Vec<u8>>);

/// A file system whose bitmap was found to agree with its files.
#[derive(Debug)]
struct Ntfs {
    bitmap: Bitmap,
    cluster_bytes: u64,
    clusters: u64,
    /// The page that was asked for last: units come in order, so threads share it nearly always.
    last: Mutex<Option<Page>>,
}

/// Reads the free space of the file system on `device`.
pub(crate) fn open(device: &Device<'_>, control: &Control) -> Result<FileSystem> {
    let volume = match Volume::open(device) {
        Ok(volume) => volume,
        Err(Stop::Kept(kept)) => return Ok(nothing(NAME, vec![kept])),
        Err(Stop::Failed(error)) => return Err(error),
    };
    let label = volume.read_label()?;
    let system = match check(&volume, control) {
        Ok(ntfs) => FileSystem {
            free_bytes: ntfs.bitmap.free() * ntfs.cluster_bytes,
            free: Some(Box::new(ntfs)),
            ..nothing(NAME, Vec::new())
        },
        Err(Stop::Kept(kept)) => nothing(NAME, vec![kept]),
        Err(Stop::Failed(error)) => return Err(error),
    };
    Ok(FileSystem { label, ..system })
}

/// Everything behind the MFT's place.
fn check(volume: &Volume<'_>, control: &Control) -> Result<Ntfs, Stop> {
    volume.check_mirror()?;
    volume.check_state()?;
    journal::check(volume)?;
    volume.check_snapshots()?;
    let mut candidates = Candidates::default();
    index::walk_root(
        volume,
        control,
        |number, name| {
            if name.is_hibernation() { candidates.add(number) } else { Ok(()) }
        },
    )?;
    let bitmap = Bitmap::read(volume, control)?;
    owners::check(volume, &bitmap, &mut candidates, control)?;
    candidates.check(volume)?;
    let (cluster_bytes, clusters) = (volume.boot.cluster_bytes, volume.boot.clusters);
    Ok(Ntfs { bitmap, cluster_bytes, clusters, last: Mutex::new(None) })
}

impl FreeSpace for Ntfs {
    fn free_within(&self, device: &Device<'_>, range: Range<u64>, free: &mut Vec<Range<u64>>) -> Result<()> {
        let end = range.end.min(self.clusters * self.cluster_bytes);
        let mut cluster = range.start / self.cluster_bytes;
        let last = end.div_ceil(self.cluster_bytes);
        while cluster < last {
            let number = cluster / PAGE_CLUSTERS;
            let start = number * PAGE_CLUSTERS;
            let next = last.min(start + PAGE_CLUSTERS);
            let page = self.read_page(device, number)?;
            if !page.is_empty() {
                bitmap::zeros(&page, (cluster - start) as usize..(next - start) as usize, |bits| {
                    let piece = (start + bits.start as u64) * self.cluster_bytes
                        ..(start + bits.end as u64) * self.cluster_bytes;
                    ranges::push_joined(free, piece.start.max(range.start)..piece.end.min(end));
                });
            }
            cluster = next;
        }
        Ok(())
    }
}

impl Ntfs {
    fn read_page(&self, device: &Device<'_>, number: u64) -> Result<Arc<Vec<u8>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((loaded, page)) = &*last
            && *loaded == number
        {
            return Ok(Arc::clone(page));
        }
        let mut page = Vec::new();
        match self.bitmap.read_page(device, number, &mut page) {
            Ok(true) => {}
            // The image changed since it was checked: nothing of this page is dropped.
            Ok(false) | Err(Stop::Kept(_)) => page.clear(),
            Err(Stop::Failed(error)) => return Err(error),
        }
        let page = Arc::new(page);
        *last = Some((number, Arc::clone(&page)));
        Ok(page)
    }
}
