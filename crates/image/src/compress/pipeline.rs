//! Threads that pack units at the same time, and one order in which they enter the output.
//!
//! A thread takes the next unit, packs it, and hands it in. Whoever hands in the unit whose turn it is places it and
//! all that wait behind it, then writes them outside the lock. So the bytes of the output do not depend on the number
//! of threads, and the window bounds how far one may run ahead of the slowest.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::feed::Feed;
use super::proof::{Proof, is_zero};
use super::share::Index;
use super::unit::{Figures, Packed, PackedCluster, Unit, Worker};
use crate::error::{ErrorKind, Result};
use crate::format::qcow2::writer::{CLUSTER_BYTES, Place, Write, Writer};
use crate::guest::ranges;
use crate::progress::Meter;
use crate::reason;

/// The smallest piece of a table that is left as a hole when it is all zero.
const PAGE_BYTES: usize = 4096;

/// What the packed units came to.
pub(crate) struct Outcome {
    pub(crate) writer: Writer,
    pub(crate) figures: Figures,
    pub(crate) proof: Proof,
    pub(crate) tables: Tables,
    /// What is in the output already, when equal clusters are to be shared.
    index: Option<Index>,
}

/// Where tables went in the output, and the proof of what they hold.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) ranges: Vec<Range<u64>>,
    pub(crate) proof: Proof,
}

impl Tables {
    /// Writes a table, and remembers it.
    pub(crate) fn write(&mut self, output: &File, write: &Write) -> Result<()> {
        self.note(write);
        write_sparse(output, write)
    }

    fn note(&mut self, write: &Write) {
        for (chunk, place) in
            write.bytes.chunks(CLUSTER_BYTES as usize).zip((write.offset..).step_by(CLUSTER_BYTES as usize))
        {
            self.proof.add(place, chunk);
        }
        ranges::push_joined(&mut self.ranges, write.offset..write.offset + write.bytes.len() as u64);
    }
}

fn write_sparse(output: &File, write: &Write) -> Result<()> {
    for (page, place) in write.bytes.chunks(PAGE_BYTES).zip((write.offset..).step_by(PAGE_BYTES)) {
        if !is_zero(page) {
            output.write_all_at(page, place)?;
        }
    }
    Ok(())
}

/// State behind the lock: who is next, and what waits.
struct Order {
    outcome: Outcome,
    /// Sequence number of the unit that is placed next.
    next: u64,
    waiting: BTreeMap<u64, Packed>,
    pool: Vec<Packed>,
    error: Option<crate::Error>,
}

/// A unit with the places that its bytes got.
struct Placed {
    packed: Packed,
    pieces: Vec<(u64, Range<usize>)>,
}

struct Pipeline<'a> {
    feed: Mutex<Feed<'a>>,
    order: Mutex<Order>,
    /// Rung whenever `next` moves or an error ends it all; waited on by those at the far end of the window.
    turn: Condvar,
    window: u64,
    output: &'a File,
    meter: &'a Meter<'a>,
}

/// Packs all of `feed` with one thread for each of `workers` and writes the data to `output`.
pub(crate) fn run<'a>(
    feed: Feed<'a>,
    workers: Vec<Worker<'a>>,
    writer: Writer,
    index: Option<Index>,
    output: &'a File,
    meter: &'a Meter<'a>,
) -> Result<Outcome> {
    let (figures, proof, tables) = (Figures::default(), Proof::default(), Tables::default());
    let outcome = Outcome { writer, figures, proof, tables, index };
    let pipeline = Pipeline {
        feed: Mutex::new(feed),
        order: Mutex::new(Order {
            outcome,
            next: 0,
            waiting: BTreeMap::new(),
            pool: Vec::new(),
            error: None,
        }),
        turn: Condvar::new(),
        window: workers.len() as u64 * 2 + 2,
        output,
        meter,
    };
    thread::scope(|scope| {
        for mut worker in workers {
            let pipeline = &pipeline;
            scope.spawn(move || {
                let _guard = PanicGuard(pipeline);
                if let Err(error) = pipeline.work(&mut worker) {
                    pipeline.lock().error.get_or_insert(error);
                    pipeline.turn.notify_all();
                }
            });
        }
    });
    let order = pipeline.order.into_inner().unwrap_or_else(PoisonError::into_inner);
    match order.error {
        Some(error) => Err(error),
        None => Ok(order.outcome),
    }
}

/// Lets the other threads go when one panics: they would wait for its unit for ever.
struct PanicGuard<'p, 'a>(&'p Pipeline<'a>);

impl Drop for PanicGuard<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let error = crate::Error::new(ErrorKind::Io, reason::IO, "a thread of the compression panicked");
            self.0.lock().error.get_or_insert(error);
            self.0.turn.notify_all();
        }
    }
}

impl Pipeline<'_> {
    fn lock(&self) -> MutexGuard<'_, Order> {
        // A thread that panics ends the scope with its panic; the state is not used afterwards.
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, worker: &mut Worker<'_>) -> Result<()> {
        loop {
            let (unit, ahead) = {
                let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
                (feed.next()?, feed.ahead())
            };
            let Some(unit) = unit else { return Ok(()) };
            worker.will_need(ahead);
            let Some(mut packed) = self.room(&unit) else { return Ok(()) };
            worker.pack(&unit, &mut packed)?;
            let (placed, tables) = self.hand_in(unit.sequence, packed)?;
            for write in &tables {
                write_sparse(self.output, write)?;
            }
            for Placed { packed, pieces } in placed {
                for (offset, piece) in pieces {
                    self.output.write_all_at(&packed.bytes[piece], offset)?;
                }
                self.lock().pool.push(packed);
            }
            self.meter.add(ranges::total_bytes(&unit.stored));
        }
    }

    /// Waits until `unit` is inside the window; `None` when another thread failed.
    fn room(&self, unit: &Unit) -> Option<Packed> {
        let mut order = self.lock();
        while order.error.is_none() && unit.sequence >= order.next + self.window {
            order = self.turn.wait(order).unwrap_or_else(PoisonError::into_inner);
        }
        if order.error.is_some() {
            return None;
        }
        Some(order.pool.pop().unwrap_or_else(Packed::new))
    }

    /// Takes a packed unit and places all whose turn has come.
    fn hand_in(&self, sequence: u64, packed: Packed) -> Result<(Vec<Placed>, Vec<Write>)> {
        let mut guard = self.lock();
        let order = &mut *guard;
        order.waiting.insert(sequence, packed);
        let (mut placed, mut tables) = (Vec::new(), Vec::new());
        while let Some(packed) = order.waiting.remove(&order.next) {
            let pieces = order.outcome.place(&packed, &mut tables)?;
            order.outcome.figures.add(packed.figures);
            order.outcome.proof.merge(packed.proof);
            order.next += 1;
            placed.push(Placed { packed, pieces });
        }
        for table in &tables {
            order.outcome.tables.note(table);
        }
        self.turn.notify_all();
        Ok((placed, tables))
    }
}

impl Outcome {
    /// Gives each cluster its place; neighbours become one piece.
    fn place(&mut self, packed: &Packed, tables: &mut Vec<Write>) -> Result<Vec<(u64, Range<usize>)>> {
        let mut pieces: Vec<(u64, Range<usize>)> = Vec::new();
        let mut start = 0;
        for cluster in &packed.clusters {
            let bytes = start..start + cluster.length;
            start = bytes.end;
            if self.share(cluster, tables)? {
                continue;
            }
            let offset = if cluster.plain {
                self.writer.place_plain(cluster.index, tables)?
            } else {
                self.writer.place_stream(cluster.index, cluster.length, tables)?
            };
            if let (Some(index), Some(digest)) = (&mut self.index, cluster.digest) {
                let stream_length = (!cluster.plain).then_some(cluster.length);
                index.insert(digest, Place::new(cluster.index, offset, stream_length));
            }
            match pieces.last_mut() {
                Some((at, piece)) if piece.end == bytes.start && *at + piece.len() as u64 == offset => {
                    piece.end = bytes.end;
                }
                _ => pieces.push((offset, bytes)),
            }
        }
        Ok(pieces)
    }

    /// Whether a cluster got the place of an equal one.
    fn share(&mut self, cluster: &PackedCluster, tables: &mut Vec<Write>) -> Result<bool> {
        let (Some(index), Some(digest)) = (&mut self.index, &cluster.digest) else { return Ok(false) };
        let Some(place) = index.find(digest) else { return Ok(false) };
        let shared = self.writer.share(cluster.index, place, tables)?;
        if shared {
            let inside = self.writer.virtual_size_bytes() - cluster.index * CLUSTER_BYTES;
            self.figures.shared_bytes += inside.min(CLUSTER_BYTES);
        }
        Ok(shared)
    }
}
