//! The check of a qcow2 image: the same figures as `qemu-img check`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::check::compare::Compare;
use crate::check::finding::{ByteRange, Finding, FindingKind, Findings, GUEST_RANGES_MAX};
use crate::check::refcounts::{RESERVED_MASK, Refcounts};
use crate::check::references::References;
use crate::check::walk::{L1Table, Walk};
use crate::control::{Control, Phase};
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::{
    BitmapTable, Header, L1_BYTES_MAX, SnapshotTable, read_bitmap_directory, read_snapshots,
};
use crate::progress::Meter;
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// Most host clusters that are counted; the peer's limit, too.
const CLUSTERS_MAX: u64 = (1 << 31) - 1;
/// Least size of an entry's extra data in a version 3 snapshot table.
const SNAPSHOT_EXTRA_BYTES: u32 = 16;
/// Most bytes of different snapshots' L1 tables.
const SNAPSHOT_L1_BYTES_MAX: u64 = 1 << 30;
/// Bitmap table entry: reserved bits.
const BITMAP_RESERVED_MASK: u64 = 0xff00_0000_0000_01fe;
/// Bitmap table entry: host offset.
const BITMAP_OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// The sums of a check. They are additive, so threads keep their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) check_errors: u64,
    pub(crate) corruptions: u64,
    pub(crate) leaks: u64,
    pub(crate) allocated_clusters: u64,
    pub(crate) fragmented_clusters: u64,
    pub(crate) compressed_clusters: u64,
    pub(crate) image_end_offset: u64,
}

impl Figures {
    /// Adds the sums of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        self.check_errors += other.check_errors;
        self.corruptions += other.corruptions;
        self.leaks += other.leaks;
        self.allocated_clusters += other.allocated_clusters;
        self.fragmented_clusters += other.fragmented_clusters;
        self.compressed_clusters += other.compressed_clusters;
    }
}

/// How to check.
#[derive(Clone, Copy)]
pub(crate) struct Manner<'a> {
    /// Threads that walk tables.
    pub(crate) threads: usize,
    /// Stops the check, and hears how far it is when `reports` is set.
    pub(crate) control: &'a Control,
    /// Nothing else reports progress beside the walk.
    pub(crate) reports: bool,
}

/// Checks an image whose header holds. An error of the image, not of reading it, means that the check had to stop.
pub(crate) fn check(
    storage: &Arc<dyn Storage>,
    header: &Header,
    manner: Manner<'_>,
    findings: &Findings,
) -> Result<Figures> {
    let Manner { threads, control, reports } = manner;
    let clusters = storage.size_bytes().div_ceil(header.cluster_bytes());
    if clusters > CLUSTERS_MAX {
        let message = "the file has more than 2^31 clusters";
        return Err(Error::new(ErrorKind::Unsafe, reason::UNSAFE_LIMIT, message));
    }
    let mut figures = Figures::default();
    let mut l1_tables = vec![L1Table { offset: header.l1_offset, entries: header.l1_entries, snapshots: 0 }];
    let snapshot_table = read_snapshot_tables(storage, header, &mut figures, findings, &mut l1_tables)?;
    let refcounts = Refcounts::read(Arc::clone(storage), header, clusters)?;
    let references = References::new(clusters);
    // The walk is nearly all of the work. Entries past the end of the file are never met: the end tells of them.
    let entries: u64 = l1_tables.iter().map(|table| u64::from(table.entries)).sum();
    let tables_bytes = entries.saturating_mul(header.cluster_bytes());
    let meter = reports.then(|| Meter::new(control, Phase::Checking, tables_bytes, 0.0, 1.0));
    let walk = Walk {
        storage,
        header,
        refcounts: &refcounts,
        references: &references,
        findings,
        control,
        threads,
        meter: meter.as_ref(),
        budget_bytes: AtomicU64::new(storage.size_bytes().saturating_mul(4).saturating_add(256 << 20)),
    };
    walk.count(&mut figures, 0, header.cluster_bytes(), 1);
    walk.walk_l1(&mut figures, &l1_tables)?;
    walk.count(&mut figures, header.snapshot_table_offset, snapshot_table.length_bytes, 1);
    walk.count(&mut figures, header.refcount_table_offset, header.refcount_table_bytes(), 1);
    if let Some(region) = header.extensions.encryption_header {
        walk.count(&mut figures, region.offset, region.length_bytes, 1);
    }
    count_bitmaps(&walk, &mut figures)?;
    count_refcount_blocks(&walk, &mut figures);
    walk.check_memory()?;
    Compare::new(header, &refcounts, &references, findings, control).run(&mut figures)?;
    if let Some(meter) = &meter {
        meter.finish();
    }
    Ok(figures)
}

/// Step 1: the snapshots, and the L1 tables that are worth a walk.
fn read_snapshot_tables(
    storage: &Arc<dyn Storage>,
    header: &Header,
    figures: &mut Figures,
    findings: &Findings,
    l1_tables: &mut Vec<L1Table>,
) -> Result<SnapshotTable> {
    let mut number = 0;
    let report = |figures: &mut Figures, number: u64, message: &str| {
        figures.corruptions += 1;
        findings.add((0, 0, number), || {
            Finding::new(FindingKind::Snapshot, format!("snapshot {number}: {message}"))
        });
    };
    let mut own = Vec::new();
    let table = read_snapshots(&**storage, header, |snapshot| {
        number += 1;
        if header.version >= 3 && snapshot.extra_bytes < SNAPSHOT_EXTRA_BYTES {
            report(figures, number, "its entry lacks data that version 3 requires");
        }
        if !header.is_cluster_aligned(snapshot.l1_offset) {
            report(figures, number, "its L1 table does not start at a cluster");
        } else if u64::from(snapshot.l1_entries) * 8 > L1_BYTES_MAX {
            report(figures, number, "its L1 table is larger than 32 MiB");
        } else if snapshot.l1_entries > 0 {
            own.push(L1Table { offset: snapshot.l1_offset, entries: snapshot.l1_entries, snapshots: 1 });
        }
        Ok(())
    })?;
    if header.has_data_file() && header.snapshot_count > 0 {
        report(figures, 0, "an image with an external data file cannot have snapshots");
    }
    own.sort_unstable();
    own.dedup_by(|next, first| {
        let same = (next.offset, next.entries) == (first.offset, first.entries);
        if same {
            first.snapshots += next.snapshots;
        }
        same
    });
    let inside = |table: &L1Table| {
        (u64::from(table.entries) * 8).min(storage.size_bytes().saturating_sub(table.offset))
    };
    if own.iter().map(inside).sum::<u64>() > SNAPSHOT_L1_BYTES_MAX {
        let message = "the L1 tables of the snapshots are larger than 1 GiB together";
        return Err(Error::new(ErrorKind::Unsafe, reason::UNSAFE_LIMIT, message));
    }
    l1_tables.append(&mut own);
    Ok(table)
}

/// Step 5, its last part: the bitmaps in force.
fn count_bitmaps(walk: &Walk<'_>, figures: &mut Figures) -> Result<()> {
    let Some((count, directory)) = walk.header.extensions.bitmaps else { return Ok(()) };
    walk.count(figures, directory.offset, directory.length_bytes, 1);
    read_bitmap_directory(&**walk.storage, walk.header, count, directory, |table| {
        count_bitmap(walk, figures, table)
    })
}

fn count_bitmap(walk: &Walk<'_>, figures: &mut Figures, table: BitmapTable) -> Result<()> {
    let length = u64::from(table.entries) * 8;
    walk.count(figures, table.offset, length, 1);
    walk.check_memory()?;
    let inside = length.min(walk.storage.size_bytes().saturating_sub(table.offset)).next_multiple_of(8);
    let mut piece = vec![0u8; inside.min(64 << 10) as usize];
    let mut done = 0;
    while done < inside {
        walk.control.check_cancelled()?;
        piece.resize((inside - done).min(64 << 10) as usize, 0);
        read_zero_filled(&**walk.storage, &mut piece, table.offset + done)?;
        let (words, _) = piece.as_chunks::<8>();
        for (word, index) in words.iter().zip(done / 8..) {
            let word = u64::from_be_bytes(*word);
            let offset = word & BITMAP_OFFSET_MASK;
            // An entry without an offset has one bit that means "all ones"; with an offset that bit is reserved.
            let reserved = word & BITMAP_RESERVED_MASK != 0 || (offset != 0 && word & 1 != 0);
            if reserved || !walk.header.is_cluster_aligned(offset) {
                let message = "an entry of a bitmap's table is malformed";
                return Err(Error::new(ErrorKind::Invalid, reason::INVALID_BITMAPS, message)
                    .at(table.offset + index * 8));
            }
            if offset != 0 {
                walk.count(figures, offset, walk.header.cluster_bytes(), 1);
            }
        }
        done += piece.len() as u64;
    }
    Ok(())
}

/// Step 6: the refcount blocks themselves.
fn count_refcount_blocks(walk: &Walk<'_>, figures: &mut Figures) {
    let header = walk.header;
    let largest = u64::MAX >> (64 - (1u32 << header.refcount_order));
    for (entry, index) in walk.refcounts.table().iter().zip(0u64..) {
        let offset = entry & !RESERVED_MASK;
        let cluster = offset >> header.cluster_bits;
        let (kind, message) = if entry & RESERVED_MASK != 0 {
            (FindingKind::ReservedBits, "an entry of the refcount table has reserved bits set")
        } else if !header.is_cluster_aligned(offset) {
            (FindingKind::Misaligned, "an entry of the refcount table does not point at a cluster")
        } else if cluster >= walk.references.clusters() {
            (FindingKind::PastEnd, "a refcount block lies past the end of the file")
        } else if offset == 0 {
            continue;
        } else {
            // One that lies past the end counts as that, and as one whose references are not exactly one.
            walk.count(figures, offset, header.cluster_bytes(), 1);
            if walk.references.get(cluster).min(largest) == 1 {
                continue;
            }
            (FindingKind::RefcountBlockShared, "a refcount block is used by something else, too")
        };
        figures.corruptions += 1;
        walk.findings.add((3, 1, index), || {
            Finding::new(kind, message).host(header.refcount_table_offset + index * 8, 8)
        });
    }
}

/// Names the guest's ranges that lie in host clusters with too low a refcount. Reads the active tables once more, so
/// it is for images that have such clusters; what the reader refuses stays unnamed.
pub(crate) fn locate(disk: &crate::format::Qcow2, findings: &mut [Finding], control: &Control) -> Result<()> {
    use crate::format::qcow2::Mapping;
    let mut wanted: Vec<&mut Finding> = findings
        .iter_mut()
        .filter(|finding| finding.kind == FindingKind::RefcountTooLow && finding.host.is_some())
        .collect();
    let mut offset = 0;
    while let Some(extent) = disk.extent_at(offset).ok().flatten() {
        control.check_cancelled()?;
        let mut at = extent.range.start;
        while at < extent.range.end && extent.kind.is_stored() {
            let Ok((range, mapping)) = disk.mapping_at(at) else { break };
            let (start, length) = match mapping {
                Mapping::Data { host_offset } => (host_offset, range.end - at),
                Mapping::Compressed { host_offset, length_bytes } => (host_offset, length_bytes),
                Mapping::Hole | Mapping::Zero => (0, 0),
            };
            let hit = |host: &ByteRange| {
                start < host.start_bytes + host.length_bytes && host.start_bytes < start + length
            };
            for finding in wanted.iter_mut().filter(|finding| finding.host.as_ref().is_some_and(hit)) {
                add_range(&mut finding.guest, at.min(range.start), range.end.min(disk.virtual_size_bytes()));
            }
            at = range.end;
        }
        offset = extent.range.end;
    }
    Ok(())
}

/// Adds a range behind the last one, joined to it when they touch.
fn add_range(ranges: &mut Vec<ByteRange>, start: u64, end: u64) {
    let listed = ranges.len();
    match ranges.last_mut() {
        Some(last) if last.start_bytes + last.length_bytes == start => last.length_bytes += end - start,
        _ if listed < GUEST_RANGES_MAX => {
            ranges.push(ByteRange { start_bytes: start, length_bytes: end.saturating_sub(start) });
        }
        _ => {}
    }
}
