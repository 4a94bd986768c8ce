//! The disk that a guest sees, whatever format its file has.

use std::ops::Range;

use crate::error::Result;

/// What the tables of an image say of a range of the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Bytes are stored, plain.
    Data,
    /// Bytes are stored, compressed.
    Compressed,
    /// Reads as zeros by an explicit mark.
    Zero,
    /// Nothing is stored: reads as zeros.
    Hole,
}

impl ExtentKind {
    /// Whether bytes are stored for such a range.
    pub fn is_stored(self) -> bool {
        matches!(self, Self::Data | Self::Compressed)
    }
}

/// A range of the guest's disk of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Guest bytes.
    pub range: Range<u64>,
    /// What is there.
    pub kind: ExtentKind,
}

/// Random access to a guest's disk, shared by the threads of an operation.
pub trait Disk: Send + Sync {
    /// Size in bytes that the guest sees.
    fn virtual_size_bytes(&self) -> u64;

    /// Fills `buffer` with the guest's bytes from `offset`; what nothing is stored for reads as zeros, and so does what
    /// lies past the end of the disk.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// The longest extent of one kind that starts at `offset` and is cheap to find; never empty below the end of the
    /// disk, `None` at or past it. Neighbouring extents may be of the same kind.
    fn extent_at(&self, offset: u64) -> Result<Option<Extent>>;

    /// Tells the medium that `range` will be read soon. Advice: it never fails, and the default gives none.
    fn will_need(&self, _range: Range<u64>) {}
}
