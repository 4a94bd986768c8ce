//! Downloads that verify what comes and go on where they broke.

use imageops::v1::download_image_response::Message;
use imageops::v1::{
    Chunk, DownloadHeader, DownloadImageRequest, DownloadImageResponse, Hole, Image, ImageFormat,
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWrite;
use tonic::Streaming;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::retry::Attempts;
use crate::target::{Dense, DownloadTarget};
use crate::transfer::{TransferProgress, digest_chunk, digest_zeros};

/// So much of a hole is taken at a time: its digest is worked out, and progress told.
const HOLE_STEP_BYTES: u64 = 64 << 20;

impl Client {
    /// Writes the bytes of `image` from `offset_bytes` to its end to `target` and flushes it.
    ///
    /// Each chunk is verified by its CRC-32C and a whole download by the image's SHA-256. A broken connection is made
    /// again and goes on where it broke; what was written is never written again. Holes do not come over the network; they
    /// are written as zeros.
    pub async fn download<W>(
        &self,
        image: &str,
        offset_bytes: u64,
        target: &mut W,
        progress: impl FnMut(TransferProgress),
    ) -> Result<Image>
    where
        W: AsyncWrite + Unpin + Send,
    {
        self.download_in(image, ImageFormat::Unspecified, offset_bytes, target, progress).await
    }

    /// The same in another format, RAW or QCOW2: where the server has the image in none of it, it converts it first, which
    /// takes as long as that does. The answer is the image as it was converted.
    pub async fn download_in<W>(
        &self,
        image: &str,
        format: ImageFormat,
        offset_bytes: u64,
        target: &mut W,
        progress: impl FnMut(TransferProgress),
    ) -> Result<Image>
    where
        W: AsyncWrite + Unpin + Send,
    {
        self.download_to(image, format, offset_bytes, &mut Dense(target), progress).await
    }

    /// The same into a target that knows what to do with a hole. The digest is that of all bytes, zeros too.
    pub async fn download_to<T: DownloadTarget>(
        &self,
        image: &str,
        format: ImageFormat,
        offset_bytes: u64,
        target: &mut T,
        mut progress: impl FnMut(TransferProgress),
    ) -> Result<Image> {
        let mut attempts = Attempts::new(self.retry());
        let mut sink =
            Sink { target, next_bytes: offset_bytes, hasher: (offset_bytes == 0).then(Sha256::new) };
        let mut seen: Option<(Image, u64)> = None;
        loop {
            let before = sink.next_bytes;
            let broken = match seen.take() {
                // The connection broke behind the last byte: asking for more would be out of range.
                Some((image, end_bytes)) if sink.next_bytes >= end_bytes => {
                    sink.target.flush().await.map_err(Error::Target)?;
                    sink.verify(&image)?;
                    return Ok(image);
                }
                _ => match self.open_download(image, format, sink.next_bytes, None).await {
                    Ok((header, stream)) => {
                        let end_bytes = end_of(&header, sink.next_bytes)?;
                        let image = header.image.ok_or(Error::Protocol("a download without an image"))?;
                        seen = Some((image, end_bytes));
                        sink.take_all(stream, end_bytes, &mut progress).await
                    }
                    Err(error) => Err(error),
                },
            };
            if sink.next_bytes > before {
                attempts.progressed();
            }
            if let Err(error) = broken {
                attempts.pause_after(error).await?;
            }
        }
    }

    /// Opens a download and reads its header.
    async fn open_download(
        &self,
        image: &str,
        format: ImageFormat,
        offset_bytes: u64,
        length_bytes: Option<u64>,
    ) -> Result<(DownloadHeader, Streaming<DownloadImageResponse>)> {
        let request = DownloadImageRequest {
            image: image.to_owned(),
            offset_bytes,
            length_bytes,
            format: format.into(),
            sparse: true,
        };
        let mut stream = self.stub().download_image(request).await?.into_inner();
        match stream.message().await?.and_then(|first| first.message) {
            Some(Message::Header(header)) => Ok((header, stream)),
            _ => Err(Error::Protocol("a download without a header")),
        }
    }
}

/// Where the download ends, when the header promises the bytes that were asked for.
fn end_of(header: &DownloadHeader, offset_bytes: u64) -> Result<u64> {
    if header.offset_bytes != offset_bytes {
        return Err(Error::Protocol("the download starts at another offset than asked for"));
    }
    offset_bytes.checked_add(header.length_bytes).ok_or(Error::Protocol("the download ends past all sizes"))
}

/// Where verified bytes go.
struct Sink<'a, T> {
    target: &'a mut T,
    next_bytes: u64,
    /// Absent when the download does not start at the start.
    hasher: Option<Sha256>,
}

impl<T: DownloadTarget> Sink<'_, T> {
    async fn take_all(
        &mut self,
        mut stream: Streaming<DownloadImageResponse>,
        end_bytes: u64,
        progress: &mut impl FnMut(TransferProgress),
    ) -> Result<()> {
        while let Some(response) = stream.message().await? {
            match response.message {
                Some(Message::Chunk(chunk)) => self.take(chunk, end_bytes).await?,
                Some(Message::Hole(hole)) => self.take_hole(&hole, end_bytes, progress).await?,
                _ => return Err(Error::Protocol("a download with a message that is no chunk")),
            }
            progress(TransferProgress { done_bytes: self.next_bytes, total_bytes: end_bytes });
        }
        if self.next_bytes < end_bytes {
            return Err(Error::Damaged { offset_bytes: self.next_bytes });
        }
        Ok(())
    }

    async fn take(&mut self, chunk: Chunk, end_bytes: u64) -> Result<()> {
        let offset_bytes = chunk.offset_bytes;
        self.check_place(offset_bytes, chunk.data.len() as u64, end_bytes)?;
        let data = chunk.data;
        // A damaged chunk ends the attempt; the digest before it is what the next one goes on with.
        let before = self.hasher.clone();
        let (crc32c, hasher) = digest_chunk(data.clone(), self.hasher.take()).await?;
        if chunk.crc32c.is_some_and(|promised| promised != crc32c) {
            self.hasher = before;
            return Err(Error::Damaged { offset_bytes });
        }
        self.hasher = hasher;
        self.target.write(&data).await.map_err(Error::Target)?;
        self.next_bytes += data.len() as u64;
        Ok(())
    }

    async fn take_hole(
        &mut self,
        hole: &Hole,
        end_bytes: u64,
        progress: &mut impl FnMut(TransferProgress),
    ) -> Result<()> {
        self.check_place(hole.offset_bytes, hole.length_bytes, end_bytes)?;
        let mut left_bytes = hole.length_bytes;
        while left_bytes > 0 {
            let step_bytes = left_bytes.min(HOLE_STEP_BYTES);
            self.hasher = digest_zeros(step_bytes, self.hasher.take()).await?;
            self.target.skip(step_bytes).await.map_err(Error::Target)?;
            self.next_bytes += step_bytes;
            left_bytes -= step_bytes;
            progress(TransferProgress { done_bytes: self.next_bytes, total_bytes: end_bytes });
        }
        Ok(())
    }

    fn check_place(&self, offset_bytes: u64, length_bytes: u64, end_bytes: u64) -> Result<()> {
        let piece_end = offset_bytes.checked_add(length_bytes);
        if offset_bytes != self.next_bytes || piece_end.is_none_or(|end| end > end_bytes) {
            return Err(Error::Protocol("a download with a gap or an overlap"));
        }
        Ok(())
    }

    /// Compares a whole download with the image's digest, where both are known.
    fn verify(&mut self, image: &Image) -> Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let expected = image.digests.as_ref().map_or("", |digests| &digests.sha256);
        let found = hex::encode(hasher.finalize());
        if expected.is_empty() || expected == found {
            return Ok(());
        }
        Err(Error::Digest { expected: expected.to_owned(), found })
    }
}
