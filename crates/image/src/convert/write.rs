//! Threads that read units of the source and write them to their place: a raw file knows no order.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::compress::feed::Feed;
use crate::compress::proof::{Proof, is_zero};
use crate::compress::unit::{UNIT_BYTES, Unit};
use crate::control::Control;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::format::qcow2::writer::CLUSTER_BYTES;
use crate::guest::ranges;
use crate::progress::Meter;
use crate::reason;

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Bytes, holes left out.
    pub(super) bytes: u64,
    /// Of what the guest sees in all blocks that are not all zero.
    pub(super) proof: Proof,
}

/// What the threads share.
struct Shared<'a> {
    disk: &'a dyn Disk,
    output: &'a File,
    feed: Mutex<Feed<'a>>,
    /// The sum of the threads that are done, or the first error, which the others stop for.
    result: Mutex<Result<Written>>,
    /// Bytes that may still be written. Each thread takes from it before it writes.
    room_bytes: AtomicU64,
    meter: &'a Meter<'a>,
    control: &'a Control,
}

/// Writes all that `disk` stores to `output`, which is a hole of the length of the disk.
pub(super) fn run(
    disk: &dyn Disk,
    output: &File,
    threads: usize,
    limit_bytes: u64,
    meter: &Meter<'_>,
    control: &Control,
) -> Result<Written> {
    let shared = Shared {
        disk,
        output,
        feed: Mutex::new(Feed::new(disk)),
        result: Mutex::new(Ok(Written::default())),
        room_bytes: AtomicU64::new(limit_bytes),
        meter,
        control,
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mine = shared.work();
                let mut result = shared.result.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *result, mine) {
                    (Ok(sum), Ok(mine)) => {
                        sum.bytes += mine.bytes;
                        sum.proof.merge(mine.proof);
                    }
                    (Ok(_), Err(error)) => *result = Err(error),
                    (Err(_), _) => {}
                }
            });
        }
    });
    shared.result.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Shared<'_> {
    /// Takes units until there are none left or another thread has failed.
    fn work(&self) -> Result<Written> {
        let mut written = Written::default();
        let mut buffer = vec![0; UNIT_BYTES as usize];
        loop {
            let (unit, ahead) = {
                let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
                (feed.next()?, feed.ahead())
            };
            let Some(unit) = unit else { return Ok(written) };
            if self.result.lock().unwrap_or_else(PoisonError::into_inner).is_err() {
                return Ok(written);
            }
            self.disk.will_need(ahead);
            self.read(&unit, &mut buffer)?;
            let wanted = sum_blocks(&unit, &buffer, &mut written.proof);
            self.take_room(ranges::total_bytes(&wanted))?;
            for range in wanted {
                self.control.check_cancelled()?;
                self.output.write_all_at(&buffer[within(&unit, &range)], range.start)?;
                written.bytes += range.end - range.start;
            }
            self.meter.add(ranges::total_bytes(&unit.stored));
        }
    }

    /// Fills `buffer`: what is stored as it is, all else zero, also what lies past the end of the disk.
    fn read(&self, unit: &Unit, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        for range in &unit.stored {
            self.control.check_cancelled()?;
            let place = within(unit, range);
            buffer[filled..place.start].fill(0);
            self.disk.read_at(&mut buffer[place.clone()], range.start)?;
            filled = place.end;
        }
        buffer[filled..].fill(0);
        Ok(())
    }

    fn take_room(&self, bytes: u64) -> Result<()> {
        let take = |room: u64| room.checked_sub(bytes);
        self.room_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map(|_| ()).map_err(|_| {
            let message = "the output would grow past its limit";
            Error::new(ErrorKind::OutputLimit, reason::OUTPUT_LIMIT, message)
        })
    }
}

/// A range of the unit as a range of its buffer.
fn within(unit: &Unit, range: &Range<u64>) -> Range<usize> {
    (range.start - unit.range.start) as usize..(range.end - unit.range.start) as usize
}

/// Sums the blocks that are not all zero, and returns what is stored of them: that is written, the rest stays a hole.
fn sum_blocks(unit: &Unit, buffer: &[u8], proof: &mut Proof) -> Vec<Range<u64>> {
    let mut blocks = Vec::new();
    for (block, start) in buffer
        .chunks_exact(CLUSTER_BYTES as usize)
        .zip((unit.range.start..unit.range.end).step_by(CLUSTER_BYTES as usize))
    {
        if !is_zero(block) {
            proof.add(start / CLUSTER_BYTES, block);
            ranges::push_joined(&mut blocks, start..(start + CLUSTER_BYTES).min(unit.range.end));
        }
    }
    let mut wanted = Vec::new();
    ranges::intersect(&blocks, &unit.stored, &mut wanted);
    wanted
}
