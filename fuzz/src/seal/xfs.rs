//! XFS version 5: superblocks, headers, free lists and trees of free space, wherever their marks are.

use crate::sparse::Sparse;

pub(super) fn seal(image: &mut Sparse, start: u64) {
    let [block, sector] =
        [image.get(start + 4), [[0; 2], image.get(start + 102)].concat().try_into().unwrap_or_default()]
            .map(|bytes: [u8; 4]| u64::from(u32::from_be_bytes(bytes)));
    let sane = |bytes: u64| bytes.is_power_of_two() && (512..=65_536).contains(&bytes);
    let version = image.get::<1>(start + 101)[0] & 15;
    if image.get(start) != *b"XFSB" || version != 5 || !sane(block) || !sane(sector) {
        return;
    }
    for place in image.held(start, 512) {
        let (length, offset) = match &image.get::<4>(place) {
            b"XFSB" => (sector, 224),
            b"XAGF" => (sector, 216),
            b"XAFL" => (sector, 32),
            b"AB3B" | b"AB3C" => (block, 52),
            _ => continue,
        };
        image.put(place + offset, &[0; 4]);
        let sum = crc32c::crc32c(&image.take(place, length as usize));
        image.put(place + offset, &sum.to_le_bytes());
    }
}
