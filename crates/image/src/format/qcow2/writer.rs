//! Lays out a compressed qcow2 file in one forward pass.
//!
//! The writer decides where everything goes and builds the tables; it does no I/O of its own but hands back [`Write`]s,
//! so that the caller writes outside its locks. Order in the file: header, L1, then data in the order given, then L2
//! tables, reference counts. The header comes last of all in time: a file that was cut off is never a valid image.
//!
//! Memory is bounded whatever the size of the disk: only the newest L2 table is open, and finished L2 tables and
//! refcount blocks that pile up are laid down among the data.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::counts::{COUNTS_PER_BLOCK, Counts};
use crate::reason;

/// Cluster size of what we write: the one that every tool defaults to.
pub(crate) const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;
const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Readers refuse a larger L1 table: 2 PiB of disk.
const L1_BYTES_MAX: u64 = 32 << 20;
/// Finished tables that wait for the end of the file: 4 MiB of each kind at most.
const PENDING_TABLES_MAX: usize = 64;
/// Largest aligned run that is taken at once for clusters that do not compress.
const RUN_CLUSTERS_MAX: u64 = 16;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Where the sector count starts in a compressed entry.
const SECTOR_SHIFT: u32 = 62 - (CLUSTER_BITS - 8);
const HEADER_BYTES: u32 = 112;
const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;

/// Bytes that belong at a place of the file.
#[derive(Debug)]
pub(crate) struct Write {
    /// Offset in the file.
    pub(crate) offset: u64,
    /// What goes there.
    pub(crate) bytes: Vec<u8>,
}

/// How the clusters of a file are compressed; the value is the one in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompressionType {
    /// Raw deflate streams.
    Zlib = 0,
    /// One zstd frame for each cluster; needs an incompatible feature bit.
    Zstd = 1,
}

/// What the end of the file holds, for the one who writes and verifies it.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Last writes but for the header.
    pub(crate) writes: Vec<Write>,
    /// The first cluster, to be written when everything else is in place.
    pub(crate) header: Write,
    /// Length of the file.
    pub(crate) file_bytes: u64,
}

/// Where the bytes of a guest cluster lie, for others that hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The guest cluster that they were placed for.
    cluster: u64,
    offset: u64,
    /// Of the stream; `None` for a cluster that is stored as it is.
    stream_length: Option<u64>,
    /// Whether others use them already.
    shared: bool,
}

impl Place {
    /// What [`Writer::place_stream`] (with the stream's length) or [`Writer::place_plain`] gave to `cluster`.
    pub(crate) fn new(cluster: u64, offset: u64, stream_length: Option<usize>) -> Self {
        Self { cluster, offset, stream_length: stream_length.map(|length| length as u64), shared: false }
    }

    /// The entry of those that share it. A cluster of its own would have the mark of being the only one.
    fn entry(&self) -> u64 {
        match self.stream_length {
            Some(length) => stream_entry(self.offset, length),
            None => self.offset,
        }
    }

    /// The bytes of the file that count one use.
    fn counted(&self) -> Range<u64> {
        match self.stream_length {
            Some(length) => whole_sectors(self.offset, length),
            None => self.offset..self.offset + CLUSTER_BYTES,
        }
    }
}

/// The entry of a compressed cluster: where its stream starts, and how many sectors follow the first.
fn stream_entry(offset: u64, length: u64) -> u64 {
    let sectors = (offset + length - 1) / 512 - offset / 512;
    COMPRESSED | sectors << SECTOR_SHIFT | offset
}

/// Readers take whole sectors, so every cluster that a sector of the stream lies in counts one use.
fn whole_sectors(offset: u64, length: u64) -> Range<u64> {
    offset / 512 * 512..((offset + length - 1) / 512 + 1) * 512
}

/// One table that is complete but has no place yet.
struct PendingL2 {
    l1_index: usize,
    entries: Vec<u64>,
}

/// The layout of a file that is being written.
pub(crate) struct Writer {
    virtual_size_bytes: u64,
    compression: CompressionType,
    limit_bytes: u64,
    l1: Vec<u64>,
    open: Option<PendingL2>,
    pending: Vec<PendingL2>,
    counts: Counts,
    /// Nothing is placed at or behind this offset yet.
    tail: u64,
    /// Room below the tail that packed streams may fill: what alignment left over.
    gap: Range<u64>,
    /// Clusters of the newest run that no plain cluster took yet.
    run: Range<u64>,
    run_clusters: u64,
}

impl Writer {
    /// A file for a disk of `virtual_size_bytes` that may not grow past `limit_bytes`.
    pub(crate) fn new(
        virtual_size_bytes: u64,
        compression: CompressionType,
        limit_bytes: u64,
    ) -> Result<Self> {
        // The guest's disk is a whole number of sectors to every reader; what a raw file lacks of one reads as zeros.
        let rounded = virtual_size_bytes.checked_next_multiple_of(512);
        let entries = rounded.map(|size| size.div_ceil(CLUSTER_BYTES * L2_ENTRIES).max(1));
        let (Some(virtual_size_bytes), Some(entries)) =
            (rounded, entries.filter(|count| count * 8 <= L1_BYTES_MAX))
        else {
            let message = "the disk is too large for the clusters of the output";
            return Err(Error::new(ErrorKind::Unsupported, reason::OUTPUT_DISK_TOO_LARGE, message));
        };
        let tail = CLUSTER_BYTES + (entries * 8).next_multiple_of(CLUSTER_BYTES);
        let mut counts = Counts::default();
        counts.add(0..tail);
        Ok(Self {
            virtual_size_bytes,
            compression,
            limit_bytes,
            l1: vec![0; usize::try_from(entries).expect("at most 4 Mi entries")],
            open: None,
            pending: Vec::new(),
            counts,
            tail,
            gap: 0..0,
            run: 0..0,
            run_clusters: 1,
        })
    }

    /// The guest's disk size as the header will give it.
    pub(crate) fn virtual_size_bytes(&self) -> u64 {
        self.virtual_size_bytes
    }

    /// Takes a place for the compressed stream of a guest cluster. Guest clusters come in ascending order, each once.
    pub(crate) fn place_stream(
        &mut self,
        cluster: u64,
        length: usize,
        writes: &mut Vec<Write>,
    ) -> Result<u64> {
        let length = length as u64;
        assert!(length > 0 && length < CLUSTER_BYTES, "a stream is shorter than its cluster");
        let offset = if self.gap.end - self.gap.start >= length {
            self.gap.start += length;
            self.gap.start - length
        } else {
            self.tail += length;
            self.tail - length
        };
        self.counts.add(whole_sectors(offset, length));
        self.record(cluster, stream_entry(offset, length), writes)?;
        Ok(offset)
    }

    /// Takes an aligned place for a guest cluster that does not compress.
    pub(crate) fn place_plain(&mut self, cluster: u64, writes: &mut Vec<Write>) -> Result<u64> {
        if self.run.is_empty() {
            self.take_run();
        }
        let offset = self.take_from_run();
        self.record(cluster, COPIED | offset, writes)?;
        Ok(offset)
    }

    /// Lets a guest cluster use the bytes at `place`. `false`, with nothing done, when they have too many users or when
    /// what would have to change for it has been written.
    pub(crate) fn share(&mut self, cluster: u64, place: &mut Place, writes: &mut Vec<Write>) -> Result<bool> {
        if !self.counts.can_share(place.counted()) {
            return Ok(false);
        }
        if place.stream_length.is_none() && !place.shared && !self.clear_copied(place.cluster) {
            return Ok(false);
        }
        place.shared = true;
        self.counts.add(place.counted());
        self.record(cluster, place.entry(), writes)?;
        Ok(true)
    }

    /// Takes the mark of being the only user from a guest cluster, when its L2 table has no place yet.
    fn clear_copied(&mut self, cluster: u64) -> bool {
        let l1_index = usize::try_from(cluster / L2_ENTRIES).expect("bounded by the length of the L1 table");
        let mut tables = self.open.iter_mut().chain(&mut self.pending);
        let Some(table) = tables.find(|table| table.l1_index == l1_index) else { return false };
        table.entries[(cluster % L2_ENTRIES) as usize] &= !COPIED;
        true
    }

    /// Reserves a run for plain clusters, larger each time: one stray cluster costs no more than itself, and many
    /// share the cost of one alignment.
    fn take_run(&mut self) {
        self.run = self.take_clusters(self.run_clusters);
        self.run_clusters = (self.run_clusters * 2).min(RUN_CLUSTERS_MAX);
    }

    /// Takes whole clusters at the tail. Packed streams may fill what alignment leaves over below them.
    fn take_clusters(&mut self, count: u64) -> Range<u64> {
        let start = self.tail.next_multiple_of(CLUSTER_BYTES);
        let left_over = self.tail..start;
        if left_over.end - left_over.start > self.gap.end - self.gap.start {
            self.gap = left_over;
        }
        self.tail = start + count * CLUSTER_BYTES;
        start..self.tail
    }

    fn take_from_run(&mut self) -> u64 {
        let offset = self.run.start;
        self.run.start += CLUSTER_BYTES;
        self.counts.add(offset..offset + CLUSTER_BYTES);
        offset
    }

    /// Enters a guest cluster into its L2 table; a table that is left behind waits for its place.
    fn record(&mut self, cluster: u64, entry: u64, writes: &mut Vec<Write>) -> Result<()> {
        let l1_index = usize::try_from(cluster / L2_ENTRIES).expect("bounded by the length of the L1 table");
        if self.open.as_ref().is_none_or(|open| open.l1_index != l1_index) {
            self.pending.extend(self.open.take());
            self.open = Some(PendingL2 { l1_index, entries: vec![0; L2_ENTRIES as usize] });
        }
        let open = self.open.as_mut().expect("set above");
        open.entries[(cluster % L2_ENTRIES) as usize] = entry;
        self.flush_full(writes);
        self.check_limit(self.tail)
    }

    fn check_limit(&self, file_bytes: u64) -> Result<()> {
        if file_bytes > self.limit_bytes {
            let message = format!("the output would grow past the limit of {} bytes", self.limit_bytes);
            return Err(Error::new(ErrorKind::OutputLimit, reason::OUTPUT_LIMIT, message));
        }
        Ok(())
    }

    fn flush_full(&mut self, writes: &mut Vec<Write>) {
        if self.pending.len() >= PENDING_TABLES_MAX {
            self.write_tables(writes);
        }
        if self.counts.settled(self.tail) >= PENDING_TABLES_MAX {
            // Room far behind the tail would hold back every later block; what is left of it is not worth that.
            (self.gap, self.run) = (0..0, 0..0);
            let place = self.take_clusters(PENDING_TABLES_MAX as u64);
            self.counts.add(place.clone());
            self.counts.write_oldest(PENDING_TABLES_MAX, place.start, writes);
        }
    }

    /// Gives every waiting L2 table its place: what plain clusters left of their run, then the tail.
    fn write_tables(&mut self, writes: &mut Vec<Write>) {
        for table in std::mem::take(&mut self.pending) {
            if self.run.is_empty() {
                self.run = self.take_clusters(1);
            }
            let offset = self.take_from_run();
            self.l1[table.l1_index] = COPIED | offset;
            let bytes = table.entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            writes.push(Write { offset, bytes });
        }
    }

    /// Lays out the tables and the header.
    pub(crate) fn finish(mut self) -> Result<Finished> {
        let mut writes = Vec::new();
        self.pending.extend(self.open.take());
        self.write_tables(&mut writes);
        let mut l1: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        l1.resize(l1.len().next_multiple_of(CLUSTER_BYTES as usize), 0);
        writes.push(Write { offset: CLUSTER_BYTES, bytes: l1 });

        // The blocks count themselves and the table that names them: grow until the figures hold.
        let table_offset = self.tail.next_multiple_of(CLUSTER_BYTES);
        let (mut table_clusters, mut blocks) = (0, 0);
        loop {
            let end = table_offset + (table_clusters + blocks) * CLUSTER_BYTES;
            let all_blocks = (end / CLUSTER_BYTES).div_ceil(COUNTS_PER_BLOCK);
            let needed =
                ((all_blocks * 8).div_ceil(CLUSTER_BYTES), all_blocks - self.counts.written() as u64);
            if needed == (table_clusters, blocks) {
                break;
            }
            (table_clusters, blocks) = needed;
        }
        let blocks_offset = table_offset + table_clusters * CLUSTER_BYTES;
        let file_bytes = blocks_offset + blocks * CLUSTER_BYTES;
        self.check_limit(file_bytes)?;
        self.counts.add(table_offset..file_bytes);
        self.counts.write_oldest(blocks as usize, blocks_offset, &mut writes);
        let mut table: Vec<u8> = self.counts.table().iter().flat_map(|entry| entry.to_be_bytes()).collect();
        table.resize((table_clusters * CLUSTER_BYTES) as usize, 0);
        writes.push(Write { offset: table_offset, bytes: table });
        let header = Write { offset: 0, bytes: self.header(table_offset, table_clusters) };
        Ok(Finished { writes, header, file_bytes })
    }

    fn header(&self, table_offset: u64, table_clusters: u64) -> Vec<u8> {
        let mut header = vec![0; CLUSTER_BYTES as usize];
        let mut put =
            |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb");
        put(4, &3_u32.to_be_bytes());
        put(20, &CLUSTER_BITS.to_be_bytes());
        put(24, &self.virtual_size_bytes.to_be_bytes());
        put(36, &u32::try_from(self.l1.len()).expect("at most 4 Mi entries").to_be_bytes());
        put(40, &CLUSTER_BYTES.to_be_bytes());
        put(48, &table_offset.to_be_bytes());
        put(56, &u32::try_from(table_clusters).expect("8 bytes for 2 GiB of file").to_be_bytes());
        if self.compression == CompressionType::Zstd {
            put(72, &INCOMPATIBLE_COMPRESSION_TYPE.to_be_bytes());
        }
        put(96, &4_u32.to_be_bytes());
        put(100, &HEADER_BYTES.to_be_bytes());
        put(104, &[self.compression as u8]);
        // What follows is zero, and eight zero bytes are the end of the header extensions.
        header
    }
}
