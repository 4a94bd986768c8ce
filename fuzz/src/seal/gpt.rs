//! GUID partition tables: entries, then header, first and last.

use super::{PARTITIONS_MAX, crc32};
use crate::sparse::Sparse;

const SECTOR: u64 = 512;
const ENTRIES_BYTES_MAX: u64 = 1 << 20;

fn headers(image: &Sparse) -> Vec<u64> {
    let last = (image.size_bytes / SECTOR).saturating_sub(1) * SECTOR;
    let mut places = vec![SECTOR, last];
    places.retain(|place| image.get(*place) == *b"EFI PART");
    places
}

/// First bytes of the first partitions.
pub(super) fn starts(image: &Sparse) -> Vec<u64> {
    let Some(header) = headers(image).first().copied() else { return Vec::new() };
    let (entries, length) = (image.u64_at(header + 72), u64::from(image.u32_at(header + 84)));
    let place = |number: u64| entries.checked_mul(SECTOR)?.checked_add(number * length + 32);
    let start = |number| image.u64_at(place(number)?).checked_mul(SECTOR);
    (0..PARTITIONS_MAX).filter_map(start).filter(|start| *start < image.size_bytes).collect()
}

pub(super) fn seal(image: &mut Sparse) {
    for header in headers(image) {
        let [count, length] = [80, 84].map(|offset| u64::from(image.u32_at(header + offset)));
        let entries = image.u64_at(header + 72).saturating_mul(SECTOR);
        if let Some(bytes) = count.checked_mul(length).filter(|bytes| *bytes <= ENTRIES_BYTES_MAX) {
            let sum = !crc32(!0, &image.take(entries, bytes as usize));
            image.put(header + 88, &sum.to_le_bytes());
        }
        let length = image.u32_at(header + 12).min(SECTOR as u32);
        image.put(header + 16, &[0; 4]);
        let sum = !crc32(!0, &image.take(header, length as usize));
        image.put(header + 16, &sum.to_le_bytes());
    }
}
