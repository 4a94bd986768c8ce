//! Changes that a parser notices: to whole fields, in either byte order, where something is stored.

use crate::numbers::Numbers;
use crate::sparse::{PAGE_BYTES, SIZE_BYTES_MAX, Sparse};

/// Changes that one call makes at most.
const CHANGES_MAX: u64 = 4;

/// Changes an image in a few places.
pub fn mutate(image: &mut Sparse, numbers: &mut Numbers) {
    let pages: Vec<u64> = image.pages().collect();
    for _ in 0..1 + numbers.below(CHANGES_MAX) {
        match numbers.below(64) {
            0 => image.size_bytes = resized(image.size_bytes, numbers),
            1 => image.is_sealed = !image.is_sealed,
            kind => {
                if let Some(place) = interesting(image, &pages, numbers) {
                    change(image, &pages, place, kind, numbers);
                }
            }
        }
    }
}

/// A change of one sort at `place`.
fn change(image: &mut Sparse, pages: &[u64], place: u64, kind: u64, numbers: &mut Numbers) {
    match kind {
        2..20 => {
            let [byte] = image.get::<1>(place);
            image.put(place, &[byte ^ 1 << numbers.below(8)]);
        }
        20..50 => {
            let width = 1 << numbers.below(4);
            change_field(image, place - place % width, width as usize, numbers);
        }
        50..56 => {
            let length = 1 + numbers.below(64) as usize;
            let byte = [0, 0xff, numbers.any() as u8][numbers.below(3) as usize];
            image.put(place, &vec![byte; length]);
        }
        // Something that is right elsewhere: a pointer to another place, another structure altogether.
        _ => {
            let Some(from) = interesting(image, pages, numbers) else { return };
            let length = [4, 8, 16, 64, 512, PAGE_BYTES][numbers.below(6) as usize];
            let align = (length as u64).min(512);
            let content = image.take(from - from % align, length);
            image.put(place - place % align, &content);
        }
    }
}

/// Gives a field of up to 8 bytes another value.
fn change_field(image: &mut Sparse, place: u64, width: usize, numbers: &mut Numbers) {
    let mut bytes = image.get::<8>(place);
    let field = &mut bytes[..width];
    let is_big = numbers.below(2) == 0;
    if is_big {
        field.reverse();
    }
    let value = field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
    let new = match numbers.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => 1 << numbers.below(64),
        3 => (1 << numbers.below(64)) - 1,
        4 => value.wrapping_mul(2),
        5 => numbers.below(300),
        6 => value.wrapping_add(1 + numbers.below(40)),
        _ => value.wrapping_sub(1 + numbers.below(40)),
    };
    field.copy_from_slice(&new.to_le_bytes()[..width]);
    if is_big {
        field.reverse();
    }
    image.put(place, &bytes[..width]);
}

/// A place near something that is not zero, since fields stand together.
fn interesting(image: &Sparse, pages: &[u64], numbers: &mut Numbers) -> Option<u64> {
    let page = *pages.get(numbers.below(pages.len().max(1) as u64) as usize)?;
    let bytes = image.get::<PAGE_BYTES>(page);
    let offset = numbers.below(PAGE_BYTES as u64) as usize;
    let behind = bytes[offset..].iter().position(|byte| *byte != 0).map_or(offset, |at| offset + at);
    Some(page + ((behind as u64) & !7) + numbers.below(16))
}

fn resized(size_bytes: u64, numbers: &mut Numbers) -> u64 {
    let new = match numbers.below(6) {
        0 => size_bytes / 2,
        1 => size_bytes.saturating_mul(2),
        2 => size_bytes.saturating_sub(numbers.below(1 << 16)),
        3 => size_bytes.saturating_add(numbers.below(1 << 16)),
        4 => 1 << numbers.below(44),
        _ => numbers.below(size_bytes.max(1)),
    };
    new % SIZE_BYTES_MAX
}
