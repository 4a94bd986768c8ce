//! Judging an upload by its first bytes.

use std::io;

use crate::error::ErrorKind;
use crate::format::Format;
use crate::format::qcow2::Header;
use crate::format::signature::{self, HEAD_BYTES};
use crate::inspect::qcow2::{MARKS_BYTES, judge_header, judge_marks};
use crate::inspect::report::{Inspection, Reason, Verdict};
use crate::inspect::{VIRTUAL_SIZE_BYTES_MAX, judge_signatures, judge_virtual_size};
use crate::reason;
use crate::storage::Storage;

/// Bytes of an upload after which everything that a header can tell has been told.
pub const PREFIX_BYTES: usize = 64 << 10;

/// What the first bytes of an upload prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixVerdict {
    /// Nothing yet: the whole must be inspected.
    Undecided,
    /// The image will be refused, whatever follows.
    Refused {
        /// Why it will be.
        verdict: Verdict,
        /// The reasons.
        reasons: Vec<Reason>,
    },
}

/// Refuses an upload as soon as its first bytes prove that it will be refused. `prefix` may have any length and grow
/// from call to call, to [`PREFIX_BYTES`]; what lies beyond it is not judged.
pub fn inspect_prefix(
    prefix: &[u8],
    total_size_bytes: Option<u64>,
    declared_format: Option<Format>,
) -> PrefixVerdict {
    let whole = total_size_bytes.is_some_and(|total| prefix.len() as u64 >= total);
    let prefix = &prefix[..prefix.len().min(PREFIX_BYTES)];
    let storage = Prefix { bytes: prefix.to_vec(), size_bytes: total_size_bytes.unwrap_or(u64::MAX) };
    let found = signature::find_in_head(prefix);
    let detected = found.first().map_or(Format::Raw, |found| found.format);
    let mut inspection = Inspection::new(declared_format.unwrap_or(detected), &storage);
    // A file without a signature is raw only when all places of signatures were seen; qcow2 shows at once.
    let seen_all = whole || prefix.len() >= HEAD_BYTES;
    let shows = seen_all || declared_format == Some(Format::Qcow2) && prefix.len() >= 8;
    let unreadable = declared_format.is_some_and(|format| !format.is_readable());
    if !found.is_empty() || shows || unreadable {
        let is_footer_format =
            declared_format.is_some_and(|format| matches!(format, Format::Vhd | Format::Dmg));
        judge_signatures(&found, declared_format.filter(|_| !is_footer_format), &mut inspection);
    }
    if let (Format::Qcow2, Some(marks)) = (detected, prefix.first_chunk::<MARKS_BYTES>()) {
        judge_marks(marks, &mut inspection);
        judge_qcow2(&storage, &mut inspection);
        judge_virtual_size(VIRTUAL_SIZE_BYTES_MAX, &mut inspection);
    }
    // Damage may be mended by a check; it is not what an upload is cut off for.
    match inspection.verdict {
        Verdict::Valid | Verdict::Corrupt => PrefixVerdict::Undecided,
        verdict => PrefixVerdict::Refused { verdict, reasons: inspection.reasons },
    }
}

fn judge_qcow2(storage: &Prefix, inspection: &mut Inspection) {
    match Header::parse(storage) {
        Ok(header) => {
            inspection.virtual_size_bytes = Some(header.virtual_size_bytes());
            judge_header(&header, inspection);
            let ends = [
                (header.l1_offset.saturating_add(header.l1_bytes()), 40),
                (header.refcount_table_offset.saturating_add(header.refcount_table_bytes()), 48),
            ];
            for (_, field) in ends.into_iter().filter(|(end, _)| *end > storage.size_bytes) {
                let message = "the file ends before its tables";
                inspection
                    .add(Verdict::Invalid, Reason::new(reason::INVALID_TRUNCATED, message).at_field(field));
            }
        }
        // The header goes on beyond the prefix.
        Err(error) if error.kind == ErrorKind::Io => {}
        Err(error) => inspection.add_error(&error),
    }
}

/// A file of which the first bytes are known: reading others fails.
struct Prefix {
    bytes: Vec<u8>,
    size_bytes: u64,
}

impl Storage for Prefix {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset.saturating_add(buffer.len() as u64) > self.bytes.len() as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.read_at(buffer, offset)
    }
}
