//! The stable reason codes of errors, verdicts and kept parts, in one list.
//!
//! A code never changes its meaning and is never reused.

/// No room left on the target's file system.
pub const NO_SPACE: &str = "NO_SPACE";
/// Reading or writing failed.
pub const IO: &str = "IO";
/// The caller cancelled the operation.
pub const CANCELLED: &str = "CANCELLED";
/// The source changed while it was read.
pub const SOURCE_CHANGED: &str = "SOURCE_CHANGED";
