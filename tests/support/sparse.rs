//! Files with holes.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use imageops_client::DownloadTarget;

/// A file with holes, as a user of the library writes it.
pub struct Sparse(pub File);

impl DownloadTarget for Sparse {
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data)
    }

    async fn skip(&mut self, length_bytes: u64) -> io::Result<()> {
        let length_bytes = i64::try_from(length_bytes).expect("a hole within a file");
        let end_bytes = self.0.seek(SeekFrom::Current(length_bytes))?;
        self.0.set_len(end_bytes)
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
