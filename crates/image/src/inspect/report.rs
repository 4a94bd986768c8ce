//! What an inspection tells.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};
use crate::format::Format;
use crate::format::qcow2::{Compression, Encryption, field_at};
use crate::guest::{Kept, PartSummary, TableKind};
use crate::storage::Storage;

/// Most reasons that an inspection lists.
const REASONS_MAX: usize = 32;

/// Whether an image is taken; the later ones are the graver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// One supported format, self-contained, within the limits.
    Valid,
    /// Opens, but its own tables contradict each other.
    Corrupt,
    /// A known format that is not taken.
    Unsupported,
    /// Claims a format and breaks it, or is truncated.
    Invalid,
    /// Reaches outside itself, is several formats at once, or declares sizes past a limit.
    Unsafe,
}

/// Why a verdict is not `valid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reason {
    /// Stable code from [`crate::reason`].
    pub code: String,
    /// Sentence for people.
    pub message: String,
    /// Where in the file, when there is a place.
    pub offset_bytes: Option<u64>,
    /// The header field, in the words of the format's specification, when it is about one.
    pub field: Option<String>,
}

impl Reason {
    /// A reason without a place.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), offset_bytes: None, field: None }
    }

    /// The same with its place in the file.
    #[must_use]
    pub(crate) fn at(mut self, offset_bytes: u64) -> Self {
        self.offset_bytes = Some(offset_bytes);
        self
    }

    /// The same with the field of a qcow2 header that starts at `offset_bytes`.
    #[must_use]
    pub(crate) fn at_field(mut self, offset_bytes: u64) -> Self {
        self.field = field_at(offset_bytes).map(str::to_owned);
        self.at(offset_bytes)
    }
}

impl From<&Error> for Reason {
    fn from(error: &Error) -> Self {
        let reason = Self::new(error.reason, error.message.clone());
        match error.offset_bytes {
            Some(offset) => reason.at_field(offset),
            None => reason,
        }
    }
}

/// What an inspection tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inspection {
    /// Whether the image is taken.
    pub verdict: Verdict,
    /// Why not; empty when it is.
    pub reasons: Vec<Reason>,
    /// The declared format, else the one that the content shows.
    pub format: Format,
    /// Size of the disk that the guest sees, when it could be read.
    pub virtual_size_bytes: Option<u64>,
    /// Length of the file.
    pub file_size_bytes: u64,
    /// Bytes that the file occupies on its medium.
    pub allocated_bytes: u64,
    /// What a qcow2 header says, when it could be read.
    pub qcow2: Option<Qcow2Summary>,
    /// What is inside, when it was asked for and the image is taken.
    pub layout: Option<LayoutSummary>,
}

/// What a guest's disk is divided into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutSummary {
    /// The partition table, when there is one.
    pub table: Option<TableKind>,
    /// The partitions in the order of the disk, or the disk itself.
    pub parts: Vec<PartSummary>,
    /// Why the disk as a whole is not looked into, when it is not.
    pub kept: Vec<Kept>,
}

impl Inspection {
    pub(crate) fn new(format: Format, storage: &dyn Storage) -> Self {
        Self {
            verdict: Verdict::Valid,
            reasons: Vec::new(),
            format,
            virtual_size_bytes: None,
            file_size_bytes: storage.size_bytes(),
            allocated_bytes: storage.allocated_bytes(),
            qcow2: None,
            layout: None,
        }
    }

    /// Adds a reason; the verdict becomes the graver one.
    pub(crate) fn add(&mut self, verdict: Verdict, reason: Reason) {
        self.verdict = self.verdict.max(verdict);
        if self.reasons.len() < REASONS_MAX && !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// Adds an error of the image.
    pub(crate) fn add_error(&mut self, error: &Error) {
        let verdict = match error.kind {
            ErrorKind::Unsafe => Verdict::Unsafe,
            ErrorKind::Unsupported => Verdict::Unsupported,
            ErrorKind::Corrupt => Verdict::Corrupt,
            _ => Verdict::Invalid,
        };
        self.add(verdict, Reason::from(error));
    }
}

/// What a qcow2 header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Qcow2Summary {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster.
    pub cluster_size_bytes: u64,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// How compressed clusters are coded.
    pub compression: Compression,
    /// Clusters have subclusters.
    pub extended_l2: bool,
    /// Refcounts may lag behind while the image is open.
    pub lazy_refcounts: bool,
    /// The image was not closed.
    pub dirty: bool,
    /// The image is marked as damaged.
    pub corrupt: bool,
    /// How data are encrypted.
    pub encryption: Option<Encryption>,
    /// Number of internal snapshots.
    pub snapshot_count: u32,
    /// The internal snapshots, the first ones.
    pub snapshots: Vec<SnapshotSummary>,
    /// Number of bitmaps in force.
    pub bitmap_count: u32,
    /// Compatible feature bits that the engine does not know.
    pub unknown_compatible_features: u64,
    /// Autoclear feature bits that the engine does not know.
    pub unknown_autoclear_features: u64,
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSummary {
    /// Unique id, as the program that took it chose it.
    pub id: String,
    /// Name that people gave it.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub taken_seconds: u32,
    /// Bytes of the machine's state saved with it.
    pub vm_state_size_bytes: u64,
    /// Size of the disk when it was taken.
    pub disk_size_bytes: u64,
}
