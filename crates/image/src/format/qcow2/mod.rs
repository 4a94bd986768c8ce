//! qcow2, versions 2 and 3.
//!
//! [`Header`] holds what the first cluster says, checked against every limit before anything is allocated for it;
//! [`Qcow2`] reads the guest's disk; `snapshot` and `bitmap` list what else the file carries. All integers of the
//! format are big-endian.

mod bitmap;
mod cache;
mod codec;
mod counts;
mod entry;
mod header;
mod reader;
mod snapshot;
mod stream;
pub(crate) mod writer;

pub(crate) use self::bitmap::BitmapTable;
pub(crate) use self::bitmap::read_directory as read_bitmap_directory;
pub(crate) use self::entry::{
    COPIED, L1_OFFSET_MASK, L1_RESERVED_MASK, L2_OFFSET_MASK, L2Entry, STANDARD_RESERVED_MASK, bitmap_of,
    run_length, word_of,
};
pub use self::header::{Autoclear, Compression, Encryption, Extensions, Header, Incompatible, Region};
pub(crate) use self::header::{COMPATIBLE_LAZY_REFCOUNTS, field_at};
pub use self::reader::{Mapping, Qcow2};
pub(crate) use self::snapshot::read as read_snapshots;
pub use self::snapshot::{Snapshot, SnapshotTable};
pub(crate) use self::stream::StreamReader;

/// Largest L1 table, of the active disk or of a snapshot.
pub(crate) const L1_BYTES_MAX: u64 = 32 << 20;
/// Largest refcount table.
pub(crate) const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;
/// Most internal snapshots.
pub(crate) const SNAPSHOTS_MAX: u32 = 65_536;
/// Largest snapshot table.
pub(crate) const SNAPSHOT_TABLE_BYTES_MAX: u64 = 64 << 20;
/// Most bitmaps.
pub(crate) const BITMAPS_MAX: u32 = 65_535;
/// Largest bitmap directory.
pub(crate) const BITMAP_DIRECTORY_BYTES_MAX: u64 = BITMAPS_MAX as u64 * 1024;
