//! LVM2: the label, and each metadata area with the text that is in force.

use super::crc32;
use crate::sparse::Sparse;

const SECTOR: u64 = 512;
const START: u32 = 0xf597_a6cf;
const AREA: &[u8; 16] = b" LVM2 x[5A%r0N*>";
const TEXT_BYTES_MAX: u64 = 1 << 20;

pub(super) fn seal(image: &mut Sparse, start: u64) {
    let mut is_volume = false;
    for sector in (0..4).map(|number| start + number * SECTOR) {
        if image.get(sector) == *b"LABELONE" {
            is_volume = true;
            let sum = crc32(START, &image.get::<492>(sector + 20));
            image.put(sector + 16, &sum.to_le_bytes());
        }
    }
    if !is_volume {
        return;
    }
    for area in image.held(start, SECTOR) {
        if image.get(area + 4) != *AREA {
            continue;
        }
        let [area_bytes, offset, length] = [32, 40, 48].map(|field| image.u64_at(area + field));
        if length <= TEXT_BYTES_MAX && offset < area_bytes {
            // The text goes on behind the header when it reaches the end of the area.
            let straight = length.min(area_bytes - offset);
            let mut text = image.take(area.saturating_add(offset), straight as usize);
            text.extend(image.take(area + SECTOR, (length - straight) as usize));
            image.put(area + 56, &crc32(START, &text).to_le_bytes());
        }
        let sum = crc32(START, &image.get::<508>(area + 4));
        image.put(area, &sum.to_le_bytes());
    }
}
