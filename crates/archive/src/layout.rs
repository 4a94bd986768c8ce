//! Members one after the other, without gaps and without overlaps, from the first byte to the directory.
//!
//! Readers that go by the directory and readers that go from header to header then see the same members, and no byte
//! is unpacked twice.

use std::io::{Read, Seek};

use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::local;

/// Checks where all members lie, and returns where the content of each begins, in the order of the directory.
pub(crate) fn check(source: &mut (impl Read + Seek), directory: &Directory) -> Result<Vec<u64>> {
    let entries = &directory.entries;
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|index| entries[*index].local_offset);
    let mut contents = vec![0; entries.len()];
    let first = order.first().map_or(directory.offset, |index| entries[*index].local_offset);
    if first != 0 {
        return Err(Error::invalid("something stands before the archive"));
    }
    for (turn, &index) in order.iter().enumerate() {
        let entry = &entries[index];
        let next = order.get(turn + 1).map_or(directory.offset, |next| entries[*next].local_offset);
        let content = local::check_header(source, entry)?;
        let end = content.checked_add(entry.compressed_bytes).filter(|end| *end <= next);
        let Some(end) = end else {
            return Err(Error::dangerous("members of the archive overlap"));
        };
        local::check_descriptor(source, entry, end, next - end)?;
        contents[index] = content;
    }
    Ok(contents)
}
