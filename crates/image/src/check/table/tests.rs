//! The short way through runs of clusters against the way through each entry.

#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::check::finding::Findings;
use crate::check::refcounts::Refcounts;
use crate::check::references::References;
use crate::control::Control;
use crate::format::qcow2::Header;
use crate::storage::Storage;

/// Clusters of the file, the last one cut short. Not a multiple of 64: runs meet the end in the middle of a word.
const CLUSTERS: u64 = 330;

/// A file of which only the first bytes are kept; zeros follow.
struct Headed {
    head: Vec<u8>,
    size_bytes: u64,
}

impl Storage for Headed {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        buffer.fill(0);
        self.head.read_at(buffer, offset)?;
        Ok(buffer.len())
    }
}

/// An image with a header, one cluster of refcount table, and its refcount blocks. `refcounts` count the clusters from
/// the first one on; the blocks of others are not there.
fn image(cluster_bits: u32, incompatible: u64, refcounts: &[u16]) -> Arc<dyn Storage> {
    let cluster = 1usize << cluster_bits;
    let mut head = vec![0u8; 2 * cluster];
    let fields: [(usize, &[u8]); 8] = [
        (0, b"QFI\xfb\0\0\0\x03"),
        (20, &cluster_bits.to_be_bytes()),
        (24, &(64u64 << 20).to_be_bytes()),
        (48, &(cluster as u64).to_be_bytes()),
        (56, &1u32.to_be_bytes()),
        (72, &incompatible.to_be_bytes()),
        (96, &4u32.to_be_bytes()),
        (100, &104u32.to_be_bytes()),
    ];
    // The L1 table is looked at by nobody here, but a header must have one that is large enough.
    let l1_entries = (64u32 << 20).div_ceil((cluster as u32 / 16) << cluster_bits);
    head[36..40].copy_from_slice(&l1_entries.to_be_bytes());
    head[40..48].copy_from_slice(&(2 * cluster as u64).to_be_bytes());
    for (at, bytes) in fields {
        head[at..at + bytes.len()].copy_from_slice(bytes);
    }
    for (block, index) in refcounts.chunks(cluster / 2).zip(0..) {
        let offset = head.len() as u64;
        head[cluster + index * 8..][..8].copy_from_slice(&offset.to_be_bytes());
        head.extend(block.iter().flat_map(|refcount| refcount.to_be_bytes()));
        head.resize(offset as usize + cluster, 0);
    }
    Arc::new(Headed { head, size_bytes: (CLUSTERS << cluster_bits) - 700 % (1 << cluster_bits) })
}

/// Everything that a walk leaves behind.
#[derive(Debug, PartialEq)]
struct Left {
    figures: Figures,
    references: Vec<u64>,
    findings: (Vec<Finding>, u64),
}

/// Walks one table: by runs, or entry by entry.
fn walk(storage: &Arc<dyn Storage>, table: L2Table, entries: &[(u64, u64)], by_runs: bool) -> Left {
    let header = &Header::parse(&**storage).unwrap();
    let refcounts = Refcounts::read(Arc::clone(storage), header, CLUSTERS).unwrap();
    let references = References::new(CLUSTERS);
    let findings = Findings::default();
    let walk = Walk {
        storage,
        header,
        refcounts: &refcounts,
        references: &references,
        findings: &findings,
        control: &Control::default(),
        threads: 1,
        meter: None,
        budget_bytes: AtomicU64::new(0),
    };
    let mut figures = Figures::default();
    let mut table_walk = TableWalk::new(&walk, &table);
    if by_runs {
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|(word, bitmap)| {
                let bitmap = header.has_subclusters().then(|| bitmap.to_be_bytes());
                word.to_be_bytes().into_iter().chain(bitmap.into_iter().flatten())
            })
            .collect();
        table_walk.take_all(&mut figures, &bytes).unwrap();
    } else {
        for ((word, bitmap), index) in entries.iter().zip(0..) {
            let bitmap = if header.has_subclusters() { *bitmap } else { 0 };
            if (*word, bitmap) != (0, 0) {
                table_walk.take(&mut figures, index, *word, bitmap).unwrap();
            }
        }
    }
    let references = (0..references.clusters()).map(|cluster| references.get(cluster)).collect();
    Left { figures, references, findings: findings.into_list() }
}

/// Entries for clusters that follow each other, with bits that all have, some of which are odd, and a bitmap.
fn run(cluster_bits: u32) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let flags = prop_oneof![
        12 => Just(COPIED),
        4 => Just(0),
        1 => Just(1),
        1 => Just(COPIED | 1 << 58),
        1 => Just(1 << 62),
        1 => Just(COPIED | 512),
    ];
    let bitmap = prop_oneof![8 => Just(0xffff_ffff_u64), 1 => Just(0), 1 => Just(3 << 32 | 5)];
    (flags, 0..CLUSTERS + 3, 1..150_u64, bitmap).prop_map(move |(flags, first, length, bitmap)| {
        let entry = |cluster: u64| (flags | cluster << cluster_bits, bitmap);
        (first..first + length).map(entry).collect()
    })
}

proptest! {
    #[test]
    fn runs_are_what_their_entries_are(
        subclusters in any::<bool>(),
        runs in prop::collection::vec(run(14), 1..8),
        gaps in prop::collection::vec(0..3usize, 8),
        (active, snapshots, at_header) in (0..2u32, 0..300u32, prop::bool::weighted(0.1)),
        refcounts in prop::collection::vec(prop_oneof![30 => Just(1u16), 1 => Just(0), 1 => Just(2)], 0..2 * CLUSTERS as usize),
    ) {
        let storage = image(14, if subclusters { 16 } else { 0 }, &refcounts);
        let mut entries = Vec::new();
        for (run, gap) in runs.into_iter().zip(gaps) {
            entries.extend(run);
            entries.extend(vec![(0, 0); gap]);
        }
        let active = active.max(u32::from(snapshots == 0));
        let table = L2Table { offset: if at_header { 0 } else { 1 << 14 }, index: 1, active, snapshots };
        prop_assert_eq!(walk(&storage, table, &entries, true), walk(&storage, table, &entries, false));
    }
}
