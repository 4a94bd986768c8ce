//! Who uses which cluster: the runs of all files, from one pass over the MFT.
//!
//! A file system that is sound has every run of every file marked in its bitmap, so a bit that was lost anywhere in it
//! shows here.

use std::ops::Range;

use super::bitmap::{Bitmap, contradiction};
use super::names::{Candidates, FileName};
use super::record::{Attribute, Record, is_in_use, is_signed, kind};
use super::volume::{Volume, file};
use super::{Stop, geometry};
use crate::control::Control;
use crate::guest::Kept;
use crate::reason;

/// Bytes of the MFT that are read at once; a multiple of all sizes of records.
const READ_BYTES: u64 = 256 << 10;
/// Runs that are compared with the bitmap at once, in its order: 4 MiB of them.
const RUNS_MAX: usize = 1 << 18;

/// The runs that were found and not yet compared.
struct Owners<'a> {
    volume: &'a Volume<'a>,
    bitmap: &'a Bitmap,
    runs: Vec<Range<u64>>,
    /// Clusters of all runs.
    total: u64,
}

/// The reason to keep all when files and bitmap disagree; adds to `candidates` what may be a hibernated system's image.
pub(crate) fn check(
    volume: &Volume<'_>,
    bitmap: &Bitmap,
    candidates: &mut Candidates,
    control: &Control,
) -> Result<(), Stop> {
    let mft = volume.mft();
    let record_bytes = volume.boot.record_bytes;
    let base = volume.read_record(file::MFT)?;
    let used = volume.find_stream(&base, kind::BITMAP, &[])?;
    let used = used.ok_or_else(|| geometry("the MFT has no bitmap"))?;
    let end = mft.initialized_bytes() / record_bytes as u64 * record_bytes as u64;
    let mut owners = Owners { volume, bitmap, runs: Vec::new(), total: 0 };
    let mut records = Vec::new();
    let mut bits = Vec::new();
    for place in (0..end).step_by(READ_BYTES as usize) {
        control.check_cancelled()?;
        records.resize((end - place).min(READ_BYTES) as usize, 0);
        mft.read_at(&volume.device, &mut records, place)?;
        let first = place / record_bytes as u64;
        // Records are read in multiples of 4 at least, but the first of a read may be in the middle of a byte.
        bits.resize((first % 8 + (records.len() / record_bytes) as u64).div_ceil(8) as usize, 0);
        used.read_at(&volume.device, &mut bits, first / 8)?;
        for (index, bytes) in records.chunks_exact(record_bytes).enumerate() {
            let bit = (first % 8) as usize + index;
            let listed = bits[bit / 8] >> (bit % 8) & 1 == 1;
            let number = first + index as u64;
            if is_signed(bytes) && is_in_use(bytes) {
                owners.add(bytes, number, candidates)?;
            } else if listed && !is_signed(bytes) {
                let message = format!("MFT record {number} is in use and not a record");
                return Err(Stop::Kept(Kept::whole(reason::KEPT_CHECKSUM, message)));
            }
        }
    }
    owners.compare()?;
    if owners.total > bitmap.used {
        return Err(contradiction("files use more clusters than the bitmap says"));
    }
    Ok(())
}

impl Owners<'_> {
    fn add(&mut self, bytes: &[u8], number: u64, candidates: &mut Candidates) -> Result<(), Stop> {
        let record = Record::parse(bytes.to_vec(), number, self.volume.boot.clusters)?;
        for attribute in record.attributes() {
            // Checked when the record was parsed.
            let Ok(attribute) = attribute else { break };
            self.add_runs(attribute, number)?;
            if attribute.kind() == kind::FILE_NAME {
                let name = attribute.resident().and_then(FileName::parse);
                let name = name.ok_or_else(|| geometry("the name of a file is damaged"))?;
                name.check_snapshot()?;
                if name.is_hibernation() {
                    candidates.add(if record.base == 0 { number } else { record.base })?;
                }
            }
        }
        Ok(())
    }

    fn add_runs(&mut self, attribute: Attribute<'_>, number: u64) -> Result<(), Stop> {
        let Some((extent, runs)) = attribute.extent() else { return Ok(()) };
        let broken = || {
            let message = format!("the runs of MFT record {number} are damaged");
            Stop::Kept(Kept::whole(reason::KEPT_GEOMETRY, message))
        };
        let mut clusters = 0_u64;
        for run in runs {
            let run = run.map_err(|_| broken())?;
            clusters = clusters.checked_add(run.clusters).ok_or_else(broken)?;
            let Some(start) = run.start else { continue };
            if self.runs.len() == RUNS_MAX {
                self.compare()?;
            }
            self.runs.push(start..start + run.clusters);
        }
        if extent.has(clusters) { Ok(()) } else { Err(broken()) }
    }

    /// Compares what was gathered with the bitmap, and forgets it.
    fn compare(&mut self) -> Result<(), Stop> {
        self.runs.sort_unstable_by_key(|run| run.start);
        if self.runs.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(geometry("two files use one cluster"));
        }
        self.bitmap.check_used(&self.volume.device, &self.runs)?;
        // Disjoint, and each inside the volume: the sum of a batch is below the number of clusters, 32 bits.
        self.total = self.total.saturating_add(self.runs.iter().map(|run| run.end - run.start).sum());
        self.runs.clear();
        Ok(())
    }
}
