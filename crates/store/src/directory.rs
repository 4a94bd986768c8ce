//! A store in a directory.

/// A store in a directory of a local or network file system.
#[derive(Debug)]
pub struct DirectoryStore {}
