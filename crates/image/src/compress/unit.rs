//! What one thread does with one piece of the disk: read, leave out, compress.

use std::ops::Range;

use super::copy::{Candidate, Copier};
use super::encoder::Encoder;
use super::proof::{Proof, is_zero};
use super::share::{Digest, digest_of};
use crate::control::Control;
use crate::disk::Disk;
use crate::error::Result;
use crate::format::qcow2::writer::CLUSTER_BYTES;
use crate::guest::{Layout, ranges};

/// Guest bytes that one thread takes at a time.
pub(crate) const UNIT_BYTES: u64 = 1 << 20;
/// Used ranges that lie closer together are read in one go; what is free between them is zeroed afterwards.
const READ_GAP_BYTES: u64 = 32 << 10;

/// A piece of the disk in which the source stores something.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Counts the units in guest order, without gaps.
    pub(crate) sequence: u64,
    /// Guest bytes, aligned to [`UNIT_BYTES`] but for the end of the disk.
    pub(crate) range: Range<u64>,
    /// Where the source stores something, ascending.
    pub(crate) stored: Vec<Range<u64>>,
}

impl Unit {
    /// The guest clusters of the unit; the last one of the disk may be cut short.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let end = self.range.end;
        let starts = (self.range.start..end).step_by(CLUSTER_BYTES as usize);
        starts.map(move |start| start..(start + CLUSTER_BYTES).min(end))
    }
}

/// One guest cluster that goes into the output.
#[derive(Debug)]
pub(crate) struct PackedCluster {
    /// Number of the guest cluster.
    pub(crate) index: u64,
    /// Bytes of it in [`Packed::bytes`].
    pub(crate) length: usize,
    /// Stored as it is, since compression does not make it shorter.
    pub(crate) plain: bool,
    /// Of its bytes, when equal ones are to be shared.
    pub(crate) digest: Option<Digest>,
}

/// A unit ready to be placed in the output.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) clusters: Vec<PackedCluster>,
    /// The clusters' bytes one after the other; what lies behind the last is left from earlier units.
    pub(crate) bytes: Vec<u8>,
    pub(crate) proof: Proof,
    pub(crate) figures: Figures,
}

impl Packed {
    /// Room for one unit.
    pub(crate) fn new() -> Self {
        let bytes = vec![0; UNIT_BYTES as usize];
        Self { clusters: Vec::new(), bytes, proof: Proof::default(), figures: Figures::default() }
    }

    /// The same room for another unit.
    pub(crate) fn reset(&mut self) {
        self.clusters.clear();
        self.proof = Proof::default();
        self.figures = Figures::default();
    }
}

/// What became of the bytes that the source stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Guest bytes of the clusters in the output.
    pub(crate) data_bytes: u64,
    /// Of these, what was compressed in the source and was copied as it is.
    pub(crate) copied_bytes: u64,
    /// Of these, what shares the bytes of an earlier cluster.
    pub(crate) shared_bytes: u64,
    /// Stored bytes in clusters left out because all that the guest keeps there is zero.
    pub(crate) zero_bytes: u64,
}

impl Figures {
    /// Adds what another unit came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.data_bytes += other.data_bytes;
        self.copied_bytes += other.copied_bytes;
        self.shared_bytes += other.shared_bytes;
        self.zero_bytes += other.zero_bytes;
    }
}

/// A thread's buffers and coders.
pub(crate) struct Worker<'a> {
    disk: &'a dyn Disk,
    layout: Option<&'a Layout>,
    control: &'a Control,
    encoder: Encoder,
    copier: Option<Copier<'a>>,
    share: bool,
    input: Vec<u8>,
    free: Vec<Range<u64>>,
    kept: Vec<Range<u64>>,
    candidates: Vec<Candidate>,
    /// What is kept but for the candidates: what has to be read.
    wanted: Vec<Range<u64>>,
}

impl<'a> Worker<'a> {
    /// A worker on `disk`; without a `layout` nothing is dropped, without a `copier` nothing is copied.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        layout: Option<&'a Layout>,
        control: &'a Control,
        encoder: Encoder,
        copier: Option<Copier<'a>>,
    ) -> Self {
        Self {
            disk,
            layout,
            control,
            encoder,
            copier,
            share: false,
            input: vec![0; UNIT_BYTES as usize],
            free: Vec::new(),
            kept: Vec::new(),
            candidates: Vec::new(),
            wanted: Vec::new(),
        }
    }

    /// Takes digests of what it packs, so that equal clusters can be shared.
    pub(crate) fn sharing(mut self, share: bool) -> Self {
        self.share = share;
        self
    }

    /// Tells the medium what will be read soon.
    pub(crate) fn will_need(&self, range: Range<u64>) {
        self.disk.will_need(range);
    }

    /// Reads and packs `unit` into `packed`.
    pub(crate) fn pack(&mut self, unit: &Unit, packed: &mut Packed) -> Result<()> {
        packed.reset();
        self.plan(unit)?;
        if !self.wanted.is_empty() {
            self.read(unit)?;
        }
        self.encoder.start_unit();
        let mut candidates = 0;
        let mut used = 0;
        for cluster in unit.clusters() {
            self.control.check_cancelled()?;
            let kept = ranges::overlap_bytes(&self.kept, &cluster);
            if kept == 0 {
                continue;
            }
            let candidate =
                self.candidates.get(candidates).filter(|next| next.start == cluster.start).copied();
            candidates += usize::from(candidate.is_some());
            let length = self.pack_cluster(unit, cluster.clone(), candidate, packed, used)?;
            if length == 0 {
                packed.figures.zero_bytes += kept;
            }
            used += length;
        }
        Ok(())
    }

    /// Decides what becomes of the parts of `unit`: left out, copied, read and packed.
    fn plan(&mut self, unit: &Unit) -> Result<()> {
        self.free.clear();
        if let Some(layout) = self.layout {
            layout.free_within(self.disk, unit.range.clone(), &mut self.free)?;
        }
        ranges::subtract(&unit.stored, &self.free, &mut self.kept);
        self.candidates.clear();
        if let Some(copier) = &self.copier {
            copier.find(unit, &self.kept, &mut self.candidates)?;
        }
        let copied: Vec<_> =
            self.candidates.iter().map(|next| next.start..next.start + CLUSTER_BYTES).collect();
        ranges::subtract(&self.kept, &copied, &mut self.wanted);
        Ok(())
    }

    /// Fills the input buffer: what is wanted as it is, all else zero.
    fn read(&mut self, unit: &Unit) -> Result<()> {
        let place = |offset: u64| (offset - unit.range.start) as usize;
        let mut filled = 0;
        let mut wanted = self.wanted.iter().peekable();
        while let Some(first) = wanted.next() {
            let mut span = first.clone();
            let run_start = place(span.start);
            self.input[filled..run_start].fill(0);
            let mut holes = [const { 0..0_usize }; 8];
            let mut count = 0;
            while let Some(next) =
                wanted.next_if(|next| next.start - span.end <= READ_GAP_BYTES && count < holes.len())
            {
                holes[count] = place(span.end)..place(next.start);
                count += 1;
                span.end = next.end;
            }
            self.control.check_cancelled()?;
            self.disk.read_at(&mut self.input[run_start..place(span.end)], span.start)?;
            for hole in &holes[..count] {
                self.input[hole.clone()].fill(0);
            }
            filled = place(span.end);
        }
        self.input[filled..].fill(0);
        Ok(())
    }

    /// Packs one cluster behind the `used` bytes and returns its length there: 0 when it is all zero.
    fn pack_cluster(
        &mut self,
        unit: &Unit,
        range: Range<u64>,
        candidate: Option<Candidate>,
        packed: &mut Packed,
        used: usize,
    ) -> Result<usize> {
        let place = (range.start - unit.range.start) as usize;
        let cluster = &mut self.input[place..place + CLUSTER_BYTES as usize];
        let room = &mut packed.bytes[used..used + CLUSTER_BYTES as usize];
        let copied = match (&mut self.copier, candidate) {
            (Some(copier), Some(candidate)) => copier.copy(candidate, cluster, room)?,
            _ => None,
        };
        if is_zero(cluster) {
            return Ok(0);
        }
        let index = range.start / CLUSTER_BYTES;
        packed.proof.add(index, cluster);
        packed.figures.data_bytes += range.end - range.start;
        // One byte less than the cluster: a stream that is not shorter is no gain.
        let stream = copied
            .inspect(|_| packed.figures.copied_bytes += range.end - range.start)
            .or_else(|| self.encoder.encode(cluster, &mut room[..CLUSTER_BYTES as usize - 1]));
        if stream.is_none() {
            room.copy_from_slice(cluster);
        }
        let length = stream.unwrap_or(cluster.len());
        let digest = self.share.then(|| digest_of(&room[..length]));
        packed.clusters.push(PackedCluster { index, length, plain: stream.is_none(), digest });
        Ok(length)
    }
}
