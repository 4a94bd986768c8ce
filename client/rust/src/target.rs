//! Where downloads go.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::transfer::ZEROS;

/// Takes the bytes of a download in order. A target of its own kind can leave holes out instead of writing them.
pub trait DownloadTarget: Send {
    /// Takes the next bytes.
    fn write(&mut self, data: &[u8]) -> impl Future<Output = io::Result<()>> + Send;

    /// Makes the next bytes zeros, as many as that.
    fn skip(&mut self, length_bytes: u64) -> impl Future<Output = io::Result<()>> + Send;

    /// Hands on what was taken; the download is complete.
    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// A target that can only be written to: holes are zeros like any others.
pub(crate) struct Dense<'a, W>(pub(crate) &'a mut W);

impl<W: AsyncWrite + Unpin + Send> DownloadTarget for Dense<'_, W> {
    async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.0.write_all(data).await
    }

    async fn skip(&mut self, mut length_bytes: u64) -> io::Result<()> {
        while length_bytes > 0 {
            let count = ZEROS.len().min(usize::try_from(length_bytes).unwrap_or(ZEROS.len()));
            self.0.write_all(&ZEROS[..count]).await?;
            length_bytes -= count as u64;
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hole_is_written_as_zeros() {
        let mut written = Vec::new();
        let mut target = Dense(&mut written);
        target.write(b"a").await.unwrap();
        target.skip(ZEROS.len() as u64 + 7).await.unwrap();
        target.write(b"b").await.unwrap();
        target.flush().await.unwrap();
        let expected = [&b"a"[..], &vec![0; ZEROS.len() + 7], b"b"].concat();
        assert!(written == expected, "{} bytes", written.len());
    }
}
