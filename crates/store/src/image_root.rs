//! The image root: files that clients name.

/// The directory beneath which `file` sources and outputs are named.
#[derive(Debug)]
pub struct ImageRoot {}
