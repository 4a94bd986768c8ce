//! Entries of directories.
//!
//! Microsoft, "exFAT file system specification", sections 6 and 7. A file is a set of entries under one checksum. A kind
//! of entry that is not listed here could own clusters in a way that is not known: its file system is kept.

use super::chain::Stream;
use crate::guest::Kept;
use crate::guest::device::Fields;
use crate::reason;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 32;
/// Entries of the longest set: a file, its stream and seventeen more.
pub(crate) const SET_MAX: usize = 19;

const IN_USE: u8 = 0x80;
const END: u8 = 0x00;
const BITMAP: u8 = 0x81;
const UPPER_CASE: u8 = 0x82;
const LABEL: u8 = 0x83;
const FILE: u8 = 0x85;
const VOLUME_GUID: u8 = 0xa0;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
const VENDOR: u8 = 0xe0;
const VENDOR_CLUSTERS: u8 = 0xe1;

const DIRECTORY: u16 = 0x10;
const MAY_HAVE_CLUSTERS: u8 = 1;
const CONTIGUOUS: u8 = 2;

/// What a primary entry is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Primary {
    /// Nothing behind it is in use.
    End,
    /// Deleted, or of no interest.
    Skip,
    /// One bit for each cluster; only in the root directory, as the next two.
    Bitmap(Stream),
    UpperCase(Stream),
    Label(Option<String>),
    /// A file: with so many entries behind this one.
    File(usize),
}

/// What a set of entries describes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) is_directory: bool,
    pub(crate) stream: Stream,
    /// Clusters that a vendor's entries own.
    pub(crate) others: Vec<Stream>,
}

fn unknown(kind: u8) -> Kept {
    Kept::whole(reason::KEPT_UNKNOWN_FEATURE, format!("directory entries of kind {kind:#x} are not known"))
}

fn damaged() -> Kept {
    Kept::whole(reason::KEPT_GEOMETRY, "a directory entry contradicts itself")
}

/// First cluster and length are at one place in all entries that have them.
fn stream(entry: &[u8], contiguous: bool) -> Stream {
    Stream { first: entry.u32_at(20), contiguous, length_bytes: Some(entry.u64_at(24)) }
}

/// Reads an entry that is not part of a set; the error is the reason to keep all.
pub(crate) fn primary(entry: &[u8]) -> Result<Primary, Kept> {
    match entry[0] {
        END => Ok(Primary::End),
        kind if kind & IN_USE == 0 => Ok(Primary::Skip),
        VOLUME_GUID => Ok(Primary::Skip),
        // The lowest flag would make it the second bitmap, which goes with a second table.
        BITMAP if entry[1] == 0 => Ok(Primary::Bitmap(stream(entry, false))),
        UPPER_CASE => Ok(Primary::UpperCase(stream(entry, false))),
        LABEL => {
            let units: Vec<u16> = entry[2..24].chunks_exact(2).map(|unit| unit.u16_at(0)).collect();
            let length = usize::from(entry[1]).min(units.len());
            let label = String::from_utf16_lossy(&units[..length]);
            Ok(Primary::Label((!label.is_empty()).then_some(label)))
        }
        FILE => match usize::from(entry[1]) {
            count @ 2..SET_MAX => Ok(Primary::File(count)),
            _ => Err(damaged()),
        },
        kind => Err(unknown(kind)),
    }
}

/// Reads a set that starts with a file's entry; the error is the reason to keep all.
pub(crate) fn file(set: &[u8]) -> Result<File, Kept> {
    if checksum(set) != set.u16_at(2) {
        return Err(Kept::whole(reason::KEPT_CHECKSUM, "the checksum of a directory entry is wrong"));
    }
    let (first, rest) = set.split_at(ENTRY_BYTES);
    let (main, rest) = rest.split_at(ENTRY_BYTES);
    if main[0] != STREAM || main[1] & MAY_HAVE_CLUSTERS == 0 {
        return Err(damaged());
    }
    let mut others = Vec::new();
    for entry in rest.chunks_exact(ENTRY_BYTES) {
        match entry[0] {
            NAME | VENDOR => {}
            VENDOR_CLUSTERS => others.push(stream(entry, entry[1] & CONTIGUOUS != 0)),
            kind if kind & IN_USE == 0 => return Err(damaged()),
            kind => return Err(unknown(kind)),
        }
    }
    let is_directory = first.u16_at(4) & DIRECTORY != 0;
    Ok(File { is_directory, stream: stream(main, main[1] & CONTIGUOUS != 0), others })
}

/// Section 6.3.3: over all entries of the set but for the checksum itself.
fn checksum(set: &[u8]) -> u16 {
    let covered = set.iter().enumerate().filter(|(place, _)| !matches!(place, 2 | 3));
    covered.fold(0, |sum: u16, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn entry(kind: u8) -> [u8; ENTRY_BYTES] {
        let mut entry = [0; ENTRY_BYTES];
        entry[0] = kind;
        entry
    }

    fn set(secondaries: &[[u8; ENTRY_BYTES]]) -> Vec<u8> {
        let mut set = entry(FILE).to_vec();
        set[1] = secondaries.len() as u8;
        set.extend(secondaries.concat());
        let sum = checksum(&set);
        set[2..4].copy_from_slice(&sum.to_le_bytes());
        set
    }

    fn main_stream() -> [u8; ENTRY_BYTES] {
        let mut main = entry(STREAM);
        main[1] = MAY_HAVE_CLUSTERS | CONTIGUOUS;
        main[20..24].copy_from_slice(&9_u32.to_le_bytes());
        main[24..32].copy_from_slice(&10_000_u64.to_le_bytes());
        main
    }

    #[test]
    fn a_set_is_read_with_all_that_owns_clusters() {
        let main = Stream { first: 9, contiguous: true, length_bytes: Some(10_000) };
        let mut vendor = entry(VENDOR_CLUSTERS);
        vendor[20] = 7;
        let other = Stream { first: 7, contiguous: false, length_bytes: Some(0) };
        let read = file(&set(&[main_stream(), entry(NAME), vendor])).unwrap();
        assert_eq!(read, File { is_directory: false, stream: main, others: vec![other] });
    }

    #[test]
    fn what_is_not_known_keeps_all() {
        let reason = |set: &[u8]| file(set).unwrap_err().reason;
        let unknown = [0xc2, 0xe2, FILE];
        for kind in unknown {
            let set = set(&[main_stream(), entry(NAME), entry(kind)]);
            assert_eq!(reason(&set), reason::KEPT_UNKNOWN_FEATURE, "{kind:#x}");
        }
        assert_eq!(reason(&set(&[main_stream(), entry(0x41)])), reason::KEPT_GEOMETRY);
        assert_eq!(reason(&set(&[entry(NAME), main_stream()])), reason::KEPT_GEOMETRY);
        for kind in [0x84, 0x86, 0x90, 0xa1, 0xa2, STREAM, NAME] {
            assert_eq!(primary(&entry(kind)).unwrap_err().reason, reason::KEPT_UNKNOWN_FEATURE, "{kind:#x}");
        }
        for count in [0, 1, 19, 255] {
            let mut file = entry(FILE);
            file[1] = count;
            assert_eq!(primary(&file).unwrap_err().reason, reason::KEPT_GEOMETRY);
        }
        assert_eq!(primary(&entry(0x05)).unwrap(), Primary::Skip);
    }

    #[test]
    fn every_flipped_bit_of_a_set_is_noticed() {
        let sound = set(&[main_stream(), entry(NAME)]);
        for bit in 0..sound.len() * 8 {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(file(&flipped).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), SET_MAX * ENTRY_BYTES), count in 3..=SET_MAX) {
            let mut set = bytes[..count * ENTRY_BYTES].to_vec();
            let _ = primary(&set[..ENTRY_BYTES]);
            let sum = checksum(&set);
            set[2..4].copy_from_slice(&sum.to_le_bytes());
            let _ = file(&set);
        }
    }
}
