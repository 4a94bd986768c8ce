//! Copies between files of this machine, holes as holes, by the kernel where it can: a file system that shares blocks
//! (XFS, Btrfs) then copies nothing at all.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, copy_file_range, seek};
use rustix::io::Errno;

/// Bytes that are copied at a time where the kernel cannot.
const BUFFER_BYTES: usize = 1 << 20;

/// Copies the first `length` bytes of `source` to `offset` of `target`, whose bytes there are a hole.
pub(super) fn copy_sparse(source: &File, target: &File, offset: u64, length: u64) -> io::Result<()> {
    let mut at = 0;
    while let Some((start, end)) = data_after(source, at, length)? {
        copy_range(source, target, start, offset + start, end - start)?;
        at = end;
    }
    // The last bytes may be a hole: the length is what makes them part of the file.
    let end = offset + length;
    if target.metadata()?.len() < end {
        target.set_len(end)?;
    }
    Ok(())
}

/// The next range of data at or after `at`, cut at `length`.
fn data_after(source: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    // Nothing else here uses the position of the file.
    let start = match seek(source, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // No hole support: all of it may be data.
        Err(_) => return Ok(Some((at, length))),
    };
    if start >= length {
        return Ok(None);
    }
    let end = seek(source, SeekFrom::Hole(start)).unwrap_or(length).min(length);
    Ok(Some((start, end)))
}

fn copy_range(source: &File, target: &File, mut from: u64, mut to: u64, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), count) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => length -= copied as u64,
            Err(Errno::INTR) => {}
            // Different file systems, or one that has no such call.
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM) => {
                return copy_by_hand(source, target, from, to, length);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &File, target: &File, from: u64, to: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    while done < length {
        let count = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        source.read_exact_at(&mut buffer[..count], from + done)?;
        target.write_all_at(&buffer[..count], to + done)?;
        done += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn bytes_and_holes_are_copied_behind_what_is_there() {
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all_at(b"data", 1 << 20).unwrap();
        source.set_len(3 << 20).unwrap();
        target.write_all_at(b"head", 0).unwrap();
        copy_sparse(&source, &target, 4, (2 << 20) + 5).unwrap();
        let mut want = vec![0; 4 + (2 << 20) + 5];
        want[..4].copy_from_slice(b"head");
        want[4 + (1 << 20)..8 + (1 << 20)].copy_from_slice(b"data");
        let mut found = vec![1; want.len()];
        assert_eq!(target.metadata().unwrap().len(), want.len() as u64);
        target.read_exact_at(&mut found, 0).unwrap();
        assert!(found == want);
        copy_by_hand(&source, &target, 1 << 20, 0, 4).unwrap();
        target.read_exact_at(&mut found[..8], 0).unwrap();
        assert_eq!(&found[..4], b"data");
    }

    #[test]
    fn a_source_that_is_too_short_is_an_error() {
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        source.write_all_at(b"abc", 0).unwrap();
        assert!(copy_range(&source, &target, 0, 0, 5).is_err());
        assert!(copy_by_hand(&source, &target, 0, 0, 5).is_err());
    }
}
