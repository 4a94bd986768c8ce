//! What a compression would come to, without doing it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::copy::Copier;
use super::encoder::Encoder;
use super::feed::Feed;
use super::unit::{Packed, Unit, Worker};
use super::{CompressOptions, Estimate, plan, scan};
use crate::control::{Control, Phase};
use crate::error::Result;
use crate::format::Image;
use crate::format::qcow2::writer::CLUSTER_BYTES;
use crate::guest::{Layout, ranges};
use crate::progress::Meter;

/// Clusters that are packed to learn how well the rest would: 64 MiB of the guest at most.
const SAMPLES: usize = 1024;
/// Guest bytes that one L2 table of the output maps.
const L2_GUEST_BYTES: u64 = CLUSTER_BYTES / 8 * CLUSTER_BYTES;
/// Where the samples begin in the whole operation.
const PLANNED: f64 = 0.2;

/// What a compression would read, leave out, and about come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DryRun {
    /// What would be read and left out: the same figures as in the report of the compression itself.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// About how long the output would be, by a sample of what it would hold.
    pub output_bytes_estimate: u64,
    /// Clusters in which something is kept.
    pub kept_clusters: u64,
    /// How many of them were packed to learn that; when all were, the estimate is nearly exact.
    pub sampled_clusters: u64,
}

/// Tells what [`super::compress`] would read and leave out, and by packing some clusters about how long its output
/// would be. The sample is drawn evenly and the same way each time.
///
/// # Errors
///
/// Of reading the image, of the options, and when the caller cancels.
pub fn dry_run(image: &Image, options: &CompressOptions, control: &Control) -> Result<DryRun> {
    options.check()?;
    Meter::new(control, Phase::Planning, 0, 0.0, PLANNED);
    let disk = &*image.disk;
    let layout = scan(disk, options, control)?;
    let layout = layout.as_ref();
    let estimate = plan(disk, layout, control)?;
    let chosen = choose(image, layout, control)?;

    let copier = Copier::new(image.qcow2.as_deref(), options)?;
    let mut worker = Worker::new(disk, layout, control, Encoder::new(options)?, copier);
    let mut packed = Packed::new();
    let sampled_clusters = chosen.samples.len() as u64;
    let sampled_bytes = sampled_clusters * CLUSTER_BYTES;
    let meter = Meter::new(control, Phase::Compressing, sampled_bytes, PLANNED, 1.0);
    let mut stream_bytes = 0;
    for sample in &chosen.samples {
        worker.pack(sample, &mut packed)?;
        stream_bytes += packed.clusters.iter().map(|cluster| cluster.length as u64).sum::<u64>();
        meter.add(CLUSTER_BYTES);
    }
    let data_bytes = match sampled_clusters {
        0 => 0,
        count => u128::from(stream_bytes) * u128::from(chosen.clusters) / u128::from(count),
    };
    let data_bytes = u64::try_from(data_bytes).unwrap_or(u64::MAX);
    Ok(DryRun {
        output_bytes_estimate: file_bytes(estimate.virtual_size_bytes, chosen.tables, data_bytes),
        estimate,
        kept_clusters: chosen.clusters,
        sampled_clusters,
    })
}

/// Length of a file with so much data behind so many L2 tables.
fn file_bytes(virtual_size_bytes: u64, tables: u64, data_bytes: u64) -> u64 {
    let l1_bytes = virtual_size_bytes.div_ceil(L2_GUEST_BYTES).max(1) * 8;
    let body = (CLUSTER_BYTES + l1_bytes.next_multiple_of(CLUSTER_BYTES))
        .saturating_add(tables * CLUSTER_BYTES)
        .saturating_add(data_bytes.next_multiple_of(CLUSTER_BYTES));
    // Two bytes of reference count for each cluster, and the table that names the blocks.
    let counts = (body / CLUSTER_BYTES * 2).next_multiple_of(CLUSTER_BYTES);
    body.saturating_add(counts).saturating_add(CLUSTER_BYTES)
}

/// What the output would hold, and a sample of it.
struct Chosen {
    /// Clusters in which something is kept.
    clusters: u64,
    /// L2 tables that they need.
    tables: u64,
    /// One cluster each, in the order of the disk.
    samples: Vec<Unit>,
}

/// Draws the sample in one pass, whatever the number of clusters: each one has the same chance to be in it.
fn choose(image: &Image, layout: Option<&Layout>, control: &Control) -> Result<Chosen> {
    let disk = &*image.disk;
    let mut chosen = Chosen { clusters: 0, tables: 0, samples: Vec::new() };
    let mut last_table = None;
    let mut numbers = Numbers(1);
    let mut feed = Feed::new(disk);
    let (mut free, mut kept) = (Vec::new(), Vec::new());
    while let Some(unit) = feed.next()? {
        control.check_cancelled()?;
        free.clear();
        if let Some(layout) = layout {
            layout.free_within(disk, unit.range.clone(), &mut free)?;
        }
        ranges::subtract(&unit.stored, &free, &mut kept);
        for start in (unit.range.start..unit.range.end).step_by(CLUSTER_BYTES as usize) {
            let cluster = start..start.saturating_add(CLUSTER_BYTES).min(unit.range.end);
            if ranges::overlap_bytes(&kept, &cluster) == 0 {
                continue;
            }
            let table = start / L2_GUEST_BYTES;
            chosen.tables += u64::from(last_table.replace(table) != Some(table));
            chosen.clusters += 1;
            if chosen.samples.len() < SAMPLES {
                chosen.samples.push(part_of(&unit, cluster));
                continue;
            }
            // The n-th comes in with the chance SAMPLES / n, and any of the others goes (Vitter's algorithm R).
            let place = numbers.below(chosen.clusters) as usize;
            if let Some(sample) = chosen.samples.get_mut(place) {
                *sample = part_of(&unit, cluster);
            }
        }
    }
    chosen.samples.sort_by_key(|sample| sample.range.start);
    Ok(chosen)
}

/// One cluster of a unit as a unit of its own.
fn part_of(unit: &Unit, cluster: Range<u64>) -> Unit {
    let inside = |range: &Range<u64>| {
        let range = range.start.max(cluster.start)..range.end.min(cluster.end);
        (!range.is_empty()).then_some(range)
    };
    Unit { sequence: 0, stored: unit.stored.iter().filter_map(inside).collect(), range: cluster }
}

/// The same numbers at each run: an estimate that changes from call to call would look like a changed image.
struct Numbers(u64);

impl Numbers {
    /// A number below `limit`, by Knuth's MMIX generator; its upper half is the better one.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u64::try_from((u128::from(self.0) * u128::from(limit)) >> 64).expect("below the limit")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::format::{self, Format};

    #[test]
    fn numbers_are_spread_evenly() {
        let mut numbers = Numbers(1);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[numbers.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn all_of_a_small_disk_is_packed_and_some_of_a_large_one() {
        for (clusters, sampled) in [(0, 0), (5, 5), (3000, SAMPLES as u64)] {
            let bytes: Vec<u8> = (0..clusters << 16).map(|at| (at >> 3) as u8).collect();
            let image = format::open(Arc::new(bytes), Some(Format::Raw)).unwrap();
            let options = CompressOptions { drop_free: false, ..Default::default() };
            let told = dry_run(&image, &options, &Control::default()).unwrap();
            assert_eq!((told.kept_clusters, told.sampled_clusters), (clusters, sampled));
            assert_eq!(told, dry_run(&image, &options, &Control::default()).unwrap());
        }
    }
}
