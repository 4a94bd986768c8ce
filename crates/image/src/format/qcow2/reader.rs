//! Reading the guest's disk out of the clusters.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, Extent, ExtentKind};
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::cache::TableCache;
use crate::format::qcow2::codec::DecoderPool;
use crate::format::qcow2::entry::{L1_OFFSET_MASK, L2Entry};
use crate::format::qcow2::{Encryption, Header, Snapshot, SnapshotTable, snapshot};
use crate::reason;
use crate::storage::{Storage, read_zero_filled};

/// A qcow2 image that holds all of its guest's data itself, open for reading by any number of threads.
pub struct Qcow2 {
    storage: Arc<dyn Storage>,
    header: Header,
    cache: TableCache,
    decoders: DecoderPool,
    /// Whether what the file is too short for is an error; else it reads as zeros, as in all readers of this format.
    must_be_whole: bool,
}

/// What is stored for a range of the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mapping {
    /// Nothing: reads as zeros.
    Hole,
    /// Nothing but a mark: reads as zeros.
    Zero,
    /// The bytes themselves, from this offset of the file.
    Data {
        /// Offset of the first byte.
        host_offset: u64,
    },
    /// One cluster, compressed.
    Compressed {
        /// Offset of the stream.
        host_offset: u64,
        /// Most bytes that the stream takes; the rest of the last sector is not its own.
        length_bytes: u64,
    },
}

impl Mapping {
    fn kind(self) -> ExtentKind {
        match self {
            Self::Hole => ExtentKind::Hole,
            Self::Zero => ExtentKind::Zero,
            Self::Data { .. } => ExtentKind::Data,
            Self::Compressed { .. } => ExtentKind::Compressed,
        }
    }
}

impl Qcow2 {
    /// Opens an image. What it would take another file or a key to read is refused.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let header = Header::parse(&*storage)?;
        refuse_dependent(&header)?;
        if header.refcount_table_clusters == 0 {
            let message = "the image has no refcount table";
            return Err(Error::new(ErrorKind::Invalid, reason::INVALID_REFCOUNT_TABLE, message).at(56));
        }
        snapshot::read(&*storage, &header, |_| Ok(()))?;
        Ok(Self {
            cache: TableCache::new(header.cluster_bytes()),
            decoders: DecoderPool::new(header.compression, header.cluster_bits),
            storage,
            header,
            must_be_whole: false,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file the image lies in, for copying compressed streams as they are.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Reads the table of internal snapshots and hands each entry to `take`.
    pub fn read_snapshots(&self, take: impl FnMut(Snapshot) -> Result<()>) -> Result<SnapshotTable> {
        snapshot::read(&*self.storage, &self.header, take)
    }

    /// What is stored at `offset`, and the range from there, at most to the end of the cluster, for which that holds.
    /// A compressed cluster is never split: its range may start before `offset`.
    pub fn mapping_at(&self, offset: u64) -> Result<(Range<u64>, Mapping)> {
        let cluster_bytes = self.header.cluster_bytes();
        let cluster = offset & !(cluster_bytes - 1);
        let whole = cluster..cluster.saturating_add(cluster_bytes);
        let Some(l2_offset) = self.l2_offset(offset)? else {
            return Ok((offset..whole.end, Mapping::Hole));
        };
        let index = offset / cluster_bytes % self.header.l2_entries();
        let word_at = l2_offset + index * self.header.l2_entry_bytes();
        let word = self.table_word(word_at)?;
        let bitmap = if self.header.has_subclusters() { self.table_word(word_at + 8)? } else { 0 };
        let entry = L2Entry::decode(word, &self.header);
        self.check_entry(entry, bitmap, word_at)?;
        if self.header.has_subclusters() && !matches!(entry, L2Entry::Compressed { .. }) {
            return Ok(self.subcluster_mapping(entry, bitmap, offset));
        }
        Ok(match entry {
            L2Entry::Unallocated => (offset..whole.end, Mapping::Hole),
            L2Entry::ZeroPlain | L2Entry::ZeroAllocated { .. } => (offset..whole.end, Mapping::Zero),
            L2Entry::Normal { host_offset } => {
                (offset..whole.end, Mapping::Data { host_offset: host_offset + (offset - cluster) })
            }
            L2Entry::Compressed { host_offset, length_bytes } => {
                (whole, Mapping::Compressed { host_offset, length_bytes })
            }
        })
    }

    /// Decodes the compressed cluster at a guest offset and forgets it: an error tells that it cannot be decoded.
    pub(crate) fn decode_cluster(&self, offset: u64) -> Result<()> {
        match self.mapping_at(offset)?.1 {
            Mapping::Compressed { host_offset, length_bytes } => self
                .decoders
                .with(|decoder| decoder.read(&*self.storage, host_offset, length_bytes).map(|_| ())),
            _ => Ok(()),
        }
    }

    /// The longest run of subclusters of one kind from `offset` to the end of the cluster.
    fn subcluster_mapping(&self, entry: L2Entry, bitmap: u64, offset: u64) -> (Range<u64>, Mapping) {
        let cluster_bytes = self.header.cluster_bytes();
        let subcluster_bytes = cluster_bytes / 32;
        let cluster = offset & !(cluster_bytes - 1);
        let kind_of = |index: u64| match (bitmap >> (32 + index) & 1, bitmap >> index & 1, entry) {
            (1, _, _) => Mapping::Zero,
            (0, 1, L2Entry::Normal { host_offset }) => {
                Mapping::Data { host_offset: host_offset + (offset - cluster) }
            }
            _ => Mapping::Hole,
        };
        let first = (offset - cluster) / subcluster_bytes;
        let mapping = kind_of(first);
        let end = (first + 1..32).find(|index| kind_of(*index) != mapping).unwrap_or(32);
        (offset..cluster.saturating_add(end * subcluster_bytes), mapping)
    }

    /// Offset of the L2 table for a guest offset, `None` when there is none.
    fn l2_offset(&self, offset: u64) -> Result<Option<u64>> {
        let index = offset / self.header.l2_guest_bytes();
        if index >= u64::from(self.header.l1_entries) {
            return Ok(None);
        }
        let at = self.header.l1_offset + index * 8;
        let l2_offset = self.table_word(at)? & L1_OFFSET_MASK;
        if !self.header.is_cluster_aligned(l2_offset) {
            return Err(corrupt("an L1 entry does not point at a cluster", at));
        }
        Ok((l2_offset != 0).then_some(l2_offset))
    }

    /// A word of a table, through the cache.
    fn table_word(&self, offset: u64) -> Result<u64> {
        let piece_bytes = self.cache.piece_bytes();
        let start = offset & !(piece_bytes - 1);
        let piece = self.cache.read(&*self.storage, start)?;
        Ok(piece[((offset - start) / 8) as usize])
    }

    /// Refuses an image whose tables are not all in the file, and from now on to read data that are not: whoever makes another
    /// image of this one would make zeros of what was cut off, and prove that they are what was read.
    pub(crate) fn demand_all(&mut self) -> Result<()> {
        self.must_be_whole = true;
        let entries = u64::from(self.header.l1_entries);
        self.demand(self.header.l1_offset, entries * 8)?;
        for index in 0..entries {
            if let Some(table) = self.l2_offset(index.saturating_mul(self.header.l2_guest_bytes()))? {
                self.demand(table, self.header.cluster_bytes())?;
            }
        }
        Ok(())
    }

    fn demand(&self, offset: u64, length: u64) -> Result<()> {
        if !self.must_be_whole || offset.saturating_add(length) <= self.storage.size_bytes() {
            return Ok(());
        }
        let message = "the file ends before what it promises";
        Err(Error::new(ErrorKind::Invalid, reason::INVALID_TRUNCATED, message).at(offset))
    }

    /// Entries that contradict themselves must not be read through.
    fn check_entry(&self, entry: L2Entry, bitmap: u64, at: u64) -> Result<()> {
        match entry {
            L2Entry::Compressed { .. } => Ok(()),
            L2Entry::ZeroPlain | L2Entry::ZeroAllocated { .. } if self.header.version < 3 => {
                Err(corrupt("an L2 entry of a version 2 image has the zero mark of version 3", at))
            }
            L2Entry::Normal { host_offset } | L2Entry::ZeroAllocated { host_offset }
                if !self.header.is_cluster_aligned(host_offset) =>
            {
                Err(corrupt("an L2 entry does not point at a cluster", at))
            }
            L2Entry::Normal { .. } if bitmap & (bitmap >> 32) & 0xffff_ffff != 0 => {
                Err(corrupt("a subcluster is marked as allocated and as zero", at))
            }
            L2Entry::Unallocated if bitmap & 0xffff_ffff != 0 => {
                Err(corrupt("a subcluster of a cluster that is not allocated is marked as allocated", at))
            }
            _ => Ok(()),
        }
    }

    fn read_compressed(
        &self,
        buffer: &mut [u8],
        from: usize,
        host_offset: u64,
        length_bytes: u64,
    ) -> Result<()> {
        self.decoders.with(|decoder| {
            let cluster = decoder.read(&*self.storage, host_offset, length_bytes)?;
            buffer.copy_from_slice(&cluster[from..from + buffer.len()]);
            Ok(())
        })
    }
}

/// Refuses what the file cannot give by itself.
fn refuse_dependent(header: &Header) -> Result<()> {
    let refuse = |kind, reason, message: &str, at| Err(Error::new(kind, reason, message).at(at));
    if header.backing_name_offset != 0 || header.backing_name_bytes != 0 {
        let message = "the image names a backing file, which is never opened";
        return refuse(ErrorKind::Unsafe, reason::UNSAFE_BACKING_FILE, message, 8);
    }
    if header.has_data_file() || header.extensions.data_file_at.is_some() {
        let message = "the image keeps its data in another file, which is never opened";
        let at = header.extensions.data_file_at.unwrap_or(72);
        return refuse(ErrorKind::Unsafe, reason::UNSAFE_DATA_FILE, message, at);
    }
    match header.encryption {
        None => Ok(()),
        Some(Encryption::Aes | Encryption::Luks) => {
            let message = "the image is encrypted, and cannot be read without its key";
            refuse(ErrorKind::Unsupported, reason::UNSUPPORTED_ENCRYPTION, message, 32)
        }
    }
}

impl Disk for Qcow2 {
    fn virtual_size_bytes(&self) -> u64 {
        self.header.virtual_size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let inside = self.virtual_size_bytes().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let (inside, past_end) = buffer.split_at_mut(inside);
        past_end.fill(0);
        let mut done = 0usize;
        while done < inside.len() {
            let at = offset + done as u64;
            let (range, mapping) = self.mapping_at(at)?;
            let mut end = range.end.min(offset + inside.len() as u64);
            if let Mapping::Data { host_offset } = mapping {
                end = self.contiguous_end(end, host_offset + (end - at), offset + inside.len() as u64)?;
            }
            let next = (end - offset) as usize;
            let part = &mut inside[done..next];
            match mapping {
                Mapping::Hole | Mapping::Zero => part.fill(0),
                Mapping::Data { host_offset } => {
                    self.demand(host_offset, part.len() as u64)?;
                    read_zero_filled(&*self.storage, part, host_offset)?;
                }
                Mapping::Compressed { host_offset, length_bytes } => {
                    self.read_compressed(part, (at - range.start) as usize, host_offset, length_bytes)?;
                }
            }
            done = next;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Option<Extent>> {
        let size = self.virtual_size_bytes();
        if offset >= size {
            return Ok(None);
        }
        // Up to the end of one cached piece of a table: some thousand entries, no further reading.
        if let Some(end) = self.empty_tables_end(offset)? {
            return Ok(Some(Extent { range: offset..end.min(size), kind: ExtentKind::Hole }));
        }
        let entries = self.cache.piece_bytes() / self.header.l2_entry_bytes();
        let piece_guest_bytes = entries << self.header.cluster_bits;
        let horizon = (offset - offset % piece_guest_bytes).saturating_add(piece_guest_bytes).min(size);
        let (first, mapping) = self.mapping_at(offset)?;
        let (kind, mut end) = (mapping.kind(), first.end);
        while end < horizon {
            // Damage further on is the business of whoever gets there.
            match self.mapping_at(end) {
                Ok((range, mapping)) if mapping.kind() == kind => end = range.end,
                _ => break,
            }
        }
        Ok(Some(Extent { range: offset..end.min(size), kind }))
    }

    fn will_need(&self, range: Range<u64>) {
        let mut at = range.start;
        let mut wanted = 0..0;
        while at < range.end.min(self.virtual_size_bytes()) {
            // Damage is the business of whoever reads it.
            let Ok((guest, mapping)) = self.mapping_at(at) else { break };
            let (start, length) = match mapping {
                Mapping::Hole | Mapping::Zero => (wanted.end, 0),
                Mapping::Data { host_offset } => (host_offset, guest.end.min(range.end) - at),
                Mapping::Compressed { host_offset, length_bytes } => (host_offset, length_bytes),
            };
            let end = start.saturating_add(length);
            // Streams that follow each other share a sector.
            if (wanted.start..=wanted.end).contains(&start) {
                wanted.end = wanted.end.max(end);
            } else {
                self.storage.will_need(wanted);
                wanted = start..end;
            }
            at = guest.end;
        }
        self.storage.will_need(wanted);
    }
}

impl Qcow2 {
    /// How far guest bytes from `at` go on in the file from `host_offset`, at most up to `limit`: neighbouring clusters
    /// become one read.
    fn contiguous_end(&self, mut at: u64, mut host_offset: u64, limit: u64) -> Result<u64> {
        while at < limit {
            match self.mapping_at(at)? {
                (range, Mapping::Data { host_offset: next }) if next == host_offset => {
                    let end = range.end.min(limit);
                    host_offset += end - at;
                    at = end;
                }
                _ => break,
            }
        }
        Ok(at)
    }

    /// Where a run of missing L2 tables that starts at `offset` ends, within one piece of the L1 table.
    fn empty_tables_end(&self, offset: u64) -> Result<Option<u64>> {
        let l2_guest_bytes = self.header.l2_guest_bytes();
        let per_piece = self.cache.piece_bytes() / 8;
        let first = offset / l2_guest_bytes;
        let mut index = first;
        while index < (first / per_piece + 1) * per_piece && index < u64::from(self.header.l1_entries) {
            match self.l2_offset(index * l2_guest_bytes) {
                Ok(None) => index += 1,
                Ok(Some(_)) => break,
                Err(error) if index == first => return Err(error),
                Err(_) => break,
            }
        }
        Ok((index > first).then(|| index.saturating_mul(l2_guest_bytes)))
    }
}

fn corrupt(message: &str, offset: u64) -> Error {
    Error::new(ErrorKind::Corrupt, reason::CORRUPT_TABLES, message).at(offset)
}
