//! Tables of every width.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::disk::{Disk, Extent};

struct Memory(Vec<u8>);

impl Disk for Memory {
    fn virtual_size_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        buffer.copy_from_slice(&self.0[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn extent_at(&self, _offset: u64) -> Result<Option<Extent>> {
        Ok(None)
    }
}

/// Packs entries the way the specification words it: by whole numbers of bits, the lowest first.
fn pack(width: Width, entries: &[u32]) -> Vec<u8> {
    let bits = width.bits() as usize;
    let mut bytes = vec![0; (entries.len() * bits).div_ceil(8)];
    for bit in 0..entries.len() * bits {
        let value = entries[bit / bits] >> (bit % bits) & 1;
        bytes[bit / 8] |= (value as u8) << (bit % 8);
    }
    bytes
}

fn tables(width: Width, clusters: usize, copies: [&[u32]; 2]) -> (Tables, Memory) {
    let mut bytes = vec![0; 512];
    let starts = copies.map(|copy| {
        let start = bytes.len() as u64;
        bytes.extend(pack(width, copy));
        start
    });
    (Tables { width, starts: starts.to_vec(), media: 0xf8, end: clusters as u32 + 2 }, Memory(bytes))
}

fn check(tables: &Tables, memory: &Memory) -> Result<Count, String> {
    let device = Device::new(memory, 0, memory.virtual_size_bytes());
    tables.check(&device, tables.end - 1, &Control::default()).unwrap().map_err(|kept| kept.reason)
}

const WIDTHS: [Width; 3] = [Width::Fat12, Width::Fat16, Width::Fat32];

#[test]
fn what_a_chain_needs_is_never_free() {
    for width in WIDTHS {
        let last = tables(width, 4, [&[0; 6]; 2]).0.ones();
        let sound = [0, 0, 3, last, 0, 0];
        let (list, memory) = tables(width, 4, [&sound, &sound]);
        assert_eq!(check(&list, &memory).unwrap(), Count { free: 2, settled: 1, disputed: 0 });
        let (list, memory) = tables(width, 4, [&sound, &[0, 0, 3, last, last, 0]]);
        assert_eq!(check(&list, &memory).unwrap(), Count { free: 1, settled: 0, disputed: 1 });
        for (entry, reason) in
            [(4, reason::KEPT_FREE_COUNT), (1, reason::KEPT_GEOMETRY), (6, reason::KEPT_GEOMETRY)]
        {
            let (list, memory) = tables(width, 4, [&sound, &[0, 0, entry, last, 0, 0]]);
            assert_eq!(check(&list, &memory).unwrap_err(), reason);
        }
    }
}

#[test]
fn the_first_entries_tell_the_state() {
    let state = |width, first, second| {
        let (list, memory) = tables(width, 4, [&[first, second, 0, 0, 0, 0]; 2]);
        let device = Device::new(&memory, 0, memory.virtual_size_bytes());
        list.check_marks(&device).unwrap().map_err(|kept| kept.reason)
    };
    assert_eq!(state(Width::Fat12, 0xff8, 0xfff), Ok(()));
    assert_eq!(state(Width::Fat16, 0xfff8, 0xfff8), Ok(()));
    assert_eq!(state(Width::Fat32, 0xffff_fff8, 0x0fff_ffff), Ok(()));
    assert_eq!(state(Width::Fat12, 0xff0, 0xfff).unwrap_err(), reason::KEPT_GEOMETRY);
    assert_eq!(state(Width::Fat12, 0xff8, 0x7ff).unwrap_err(), reason::KEPT_GEOMETRY);
    assert_eq!(state(Width::Fat16, 0xfff8, 0x7fff).unwrap_err(), reason::KEPT_NOT_CLEAN);
    assert_eq!(state(Width::Fat16, 0xfff8, 0xbfff).unwrap_err(), reason::KEPT_ERROR_STATE);
    assert_eq!(state(Width::Fat16, 0xfff8, 0xdfff).unwrap_err(), reason::KEPT_GEOMETRY);
    assert_eq!(state(Width::Fat32, 0x0fff_fff8, 0x07ff_ffff).unwrap_err(), reason::KEPT_NOT_CLEAN);
    assert_eq!(state(Width::Fat32, 0x0fff_fff8, 0x0bff_ffff).unwrap_err(), reason::KEPT_ERROR_STATE);
}

proptest! {
    #[test]
    fn entries_are_read_as_they_were_packed(
        width in prop::sample::select(&WIDTHS[..]), values in prop::collection::vec(any::<u32>(), 3..200), from in 0..200_u32,
    ) {
        let (list, memory) = tables(width, values.len() - 2, [&values, &values]);
        let device = Device::new(&memory, 0, memory.virtual_size_bytes());
        let mut seen = Vec::new();
        list.for_each(&device, from..values.len() as u32, |cluster, entries| {
            seen.push((cluster, entries));
            ControlFlow::<()>::Continue(())
        }).unwrap();
        let expected: Vec<_> = (from..values.len() as u32)
            .map(|cluster| (cluster, [values[cluster as usize] & list.ones(); 2]))
            .collect();
        prop_assert_eq!(seen, expected);
    }
}
