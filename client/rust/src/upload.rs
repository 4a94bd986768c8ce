//! Uploads that go on by themselves after the connection broke.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use imageops::v1::upload_image_request::Message;
use imageops::v1::{
    Archive, Chunk, Digests, Image, ImageFormat, Upload, UploadCommit, UploadImageRequest,
    UploadImageResponse, UploadMetadata, UploadResume, UploadState,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeek, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use uuid::Uuid;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::retry::Attempts;
use crate::transfer::{TransferProgress, Whole, digest_chunk};

/// Bytes of a chunk.
const CHUNK_SIZE_BYTES: usize = 1 << 20;

/// Messages that wait for the connection: bounds the memory of an upload to a few chunks.
const MESSAGES_WAITING_MAX: usize = 3;

/// How long an answer may take once all bytes are through: the server flushes them.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(600);

/// How long an upload may stand still before its connection counts as broken.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// What the server is told about an upload.
#[derive(Clone, Debug, Default)]
pub struct UploadOptions {
    /// Label of the image to be.
    pub display_name: String,
    /// Text for people.
    pub description: String,
    /// To find and group images by.
    pub labels: HashMap<String, String>,
    /// Facts for programs.
    pub properties: HashMap<String, String>,
    /// Words.
    pub tags: Vec<String>,
    /// Format that the bytes must turn out to have; unspecified: decided by content.
    pub declared_format: ImageFormat,
    /// Digests that the whole must have; empty members are not compared. A digest of what is read is sent along with the
    /// commit.
    pub expected_digests: Digests,
    /// Has that be the SHA-256, which costs more than all else that the client does. Without it it is the CRC-32, for faults of
    /// memory and network, as long as the upload is new and its connection holds: what others may have sent under the same id is
    /// compared by SHA-256 all the same.
    pub sha256: bool,
    /// What the bytes are wrapped in; the digests are then those of the archive.
    pub archive: Archive,
    /// The store that the bytes go to, by its display name or `stores/{uuid}`. Empty: the server chooses.
    pub store: String,
    /// Takes a corrupt image into quarantine instead of refusing it.
    pub accept_corrupt: bool,
    /// Whether a check begins with the image. Absent: as the server is set up.
    pub check: Option<bool>,
    /// Has SHA-512 computed as well.
    pub sha512: bool,
    /// The record that the bytes fill: `images/{uuid}`; nothing else may be said of the image then. Empty: a new image.
    pub record: String,
    /// The upload's id. With that of an upload that is open, the upload goes on where it stands. Absent: a new one.
    pub id: Option<Uuid>,
}

/// What an upload made.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// The upload, committed.
    pub upload: Upload,
    /// The image.
    pub image: Image,
}

impl Client {
    /// Uploads all of `source` and commits it.
    ///
    /// Chunks carry a CRC-32C each and the commit the CRC-32 or the SHA-256 of the whole: nothing else becomes an image. When the
    /// connection breaks, the upload goes on at the server's durable offset; it is given up after a bounded number of attempts without
    /// progress. A call that is dropped or fails leaves the upload open at the server, where it can go on until it expires. An
    /// image is only ever one with the bytes of `source`: an id under which others were committed is an error.
    pub async fn upload<R>(
        &self,
        source: &mut R,
        options: &UploadOptions,
        progress: impl FnMut(TransferProgress),
    ) -> Result<Uploaded>
    where
        R: AsyncRead + AsyncSeek + Unpin,
    {
        match self.deliver(source, options, None, progress).await? {
            (upload, Some(image)) => Ok(Uploaded { upload, image }),
            _ => Err(Error::Protocol("a commit without an image")),
        }
    }

    /// Uploads all of `source` as a part of a session, in place of an earlier one with its number, as [`Client::upload`]
    /// does; [`Client::compose_image`] joins the parts. Of the options only `expected_digests`, `sha256`, `store` and
    /// `id` count.
    pub async fn upload_part<R>(
        &self,
        source: &mut R,
        session: &str,
        number: u32,
        options: &UploadOptions,
        progress: impl FnMut(TransferProgress),
    ) -> Result<Upload>
    where
        R: AsyncRead + AsyncSeek + Unpin,
    {
        Ok(self.deliver(source, options, Some((session, number)), progress).await?.0)
    }

    /// Uploads all of `source`; there is no image of a part.
    async fn deliver<R>(
        &self,
        source: &mut R,
        options: &UploadOptions,
        part: Option<(&str, u32)>,
        progress: impl FnMut(TransferProgress),
    ) -> Result<(Upload, Option<Image>)>
    where
        R: AsyncRead + AsyncSeek + Unpin,
    {
        let size_bytes = source.seek(SeekFrom::End(0)).await.map_err(Error::Source)?;
        let id = options.id.unwrap_or_else(Uuid::new_v4);
        let name = format!("uploads/{id}");
        let mut feed = Feed::new(source, size_bytes, progress);
        let mut attempts = Attempts::new(self.retry());
        let mut start = if options.id.is_some() { self.find_start(&name).await? } else { Start::New };
        // Only of an upload that one unbroken stream of ours has made is it known whose bytes it has.
        if options.sha256 || !matches!(start, Start::New) {
            feed.digest.be_sha256();
        }
        let mut durable_bytes_best = 0;
        loop {
            let (offset_bytes, first) = match start {
                Start::New => (0, metadata(id, options, part, size_bytes)),
                Start::At(offset_bytes) => (
                    offset_bytes,
                    Message::Resume(UploadResume { upload: name.clone(), offset_bytes, size_bytes: None }),
                ),
                Start::Ended(upload) => {
                    let image = match upload.state() {
                        UploadState::Committed => Some(self.get_image(&upload.image).await?),
                        _ => None,
                    };
                    return feed.verified(options, *upload, image).await;
                }
            };
            if offset_bytes > durable_bytes_best {
                durable_bytes_best = offset_bytes;
                attempts.progressed();
            }
            let error = match self.send(first, offset_bytes, &options.expected_digests, &mut feed).await {
                Ok(UploadImageResponse { upload: Some(upload), image, .. }) => {
                    return feed.verified(options, upload, image).await;
                }
                Ok(_) => return Err(Error::Protocol("a commit without an upload")),
                Err(error) => error,
            };
            if is_mended_by_asking(&error) {
                attempts.pause_anyway(error).await?;
            } else {
                attempts.pause_after(error).await?;
            }
            start = self.find_start(&name).await?;
            if !matches!(start, Start::New) {
                feed.digest.be_sha256();
            }
        }
    }

    /// Where the upload has to go on.
    async fn find_start(&self, name: &str) -> Result<Start> {
        let upload = match self.get_upload(name).await {
            Ok(upload) => upload,
            // The first message never arrived.
            Err(error) if error.code() == Code::NotFound => return Ok(Start::New),
            Err(error) => return Err(error),
        };
        match upload.state() {
            UploadState::Open => Ok(Start::At(upload.durable_bytes)),
            UploadState::Committed | UploadState::Stored => Ok(Start::Ended(Box::new(upload))),
            _ => Err(ended(upload)),
        }
    }

    /// One attempt: a stream from `offset_bytes` to the commit.
    async fn send<R, P>(
        &self,
        first: Message,
        offset_bytes: u64,
        expected: &Digests,
        feed: &mut Feed<'_, R, P>,
    ) -> Result<UploadImageResponse>
    where
        R: AsyncRead + AsyncSeek + Unpin,
        P: FnMut(TransferProgress),
    {
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        let mut stub = self.stub();
        let call = stub.upload_image(ReceiverStream::new(receiver));
        tokio::pin!(call);
        // The answer may come before the bytes are through: a refusal.
        tokio::select! {
            answer = &mut call => return Ok(answer?.into_inner()),
            fed = feed.run(first, offset_bytes, expected, sender) => fed?,
        }
        match tokio::time::timeout(COMMIT_TIMEOUT, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(tonic::Status::unavailable("the server did not answer the commit in time").into()),
        }
    }
}

/// Where an attempt begins.
enum Start {
    /// With the metadata: the server does not know the upload.
    New,
    /// At a durable offset.
    At(u64),
    /// Not at all: the commit went through and only its answer was lost.
    Ended(Box<Upload>),
}

/// Another offset is durable than we thought, or the server has not let go of the connection that broke.
fn is_mended_by_asking(error: &Error) -> bool {
    let offset = error.code() == Code::OutOfRange && error.metadata("durable_bytes").is_some();
    offset || error.code() == Code::Aborted
}

fn metadata(id: Uuid, options: &UploadOptions, part: Option<(&str, u32)>, size_bytes: u64) -> Message {
    let common = UploadMetadata {
        request_id: id.to_string(),
        size_bytes: Some(size_bytes),
        expected_digests: Some(options.expected_digests.clone()),
        store: options.store.clone(),
        ..UploadMetadata::default()
    };
    Message::Metadata(match part {
        Some((session, part)) => UploadMetadata { session: session.to_owned(), part, ..common },
        None => UploadMetadata {
            display_name: options.display_name.clone(),
            declared_format: options.declared_format.into(),
            description: options.description.clone(),
            labels: options.labels.clone(),
            properties: options.properties.clone(),
            tags: options.tags.clone(),
            archive: options.archive.into(),
            accept_corrupt: options.accept_corrupt,
            check: options.check,
            sha512: options.sha512,
            image: options.record.clone(),
            ..common
        },
    })
}

fn ended(upload: Upload) -> Error {
    let aborted = upload.state() == UploadState::Aborted;
    match upload.error {
        Some(error) => Error::UploadEnded { reason: error.code, message: error.message },
        None if aborted => Error::UploadEnded {
            reason: "UPLOAD_ENDED".to_owned(),
            message: "it was aborted or has expired".to_owned(),
        },
        None => Error::UploadEnded { reason: String::new(), message: "the server gave no reason".to_owned() },
    }
}

/// Turns the source into messages.
struct Feed<'a, R, P> {
    source: Source<'a, R>,
    digest: SourceDigest,
    progress: P,
    sent_bytes: u64,
}

/// What is uploaded, of a length that does not change.
struct Source<'a, R> {
    reader: &'a mut R,
    size_bytes: u64,
}

/// A digest of the first `hashed_bytes` of the source.
struct SourceDigest {
    hasher: Hasher,
    hashed_bytes: u64,
}

#[derive(Clone)]
enum Hasher {
    Crc32(crc32fast::Hasher),
    Sha256(Sha256),
}

impl Whole for Hasher {
    fn update(&mut self, data: &[u8]) {
        match self {
            Self::Crc32(hasher) => hasher.update(data),
            Self::Sha256(hasher) => hasher.update(data),
        }
    }
}

impl<'a, R, P> Feed<'a, R, P>
where
    R: AsyncRead + AsyncSeek + Unpin,
    P: FnMut(TransferProgress),
{
    fn new(reader: &'a mut R, size_bytes: u64, progress: P) -> Self {
        Self {
            source: Source { reader, size_bytes },
            digest: SourceDigest::new(Hasher::Crc32(crc32fast::Hasher::new())),
            progress,
            sent_bytes: 0,
        }
    }

    /// Sends everything from `offset_bytes`, then the commit. Ends early and without an error when nobody takes the
    /// messages any more: the call then knows why.
    async fn run(
        &mut self,
        first: Message,
        offset_bytes: u64,
        expected: &Digests,
        sender: mpsc::Sender<UploadImageRequest>,
    ) -> Result<()> {
        self.hash_up_to(offset_bytes).await?;
        if !send(&sender, first).await? {
            return Ok(());
        }
        let size_bytes = self.source.size_bytes;
        self.source.go_to(offset_bytes).await?;
        self.sent_bytes = offset_bytes;
        let mut data = self.source.read(size_bytes - offset_bytes).await?;
        while !data.is_empty() {
            let end_bytes = self.sent_bytes + data.len() as u64;
            // The next chunk is read while this one is hashed.
            let (crc32c, next) = tokio::try_join!(
                self.digest.take(self.sent_bytes, data.clone()),
                self.source.read(size_bytes - end_bytes)
            )?;
            let chunk = Chunk { offset_bytes: self.sent_bytes, data, crc32c: Some(crc32c) };
            if !send(&sender, Message::Chunk(chunk)).await? {
                return Ok(());
            }
            data = next;
            self.sent_bytes = end_bytes;
            (self.progress)(TransferProgress { done_bytes: end_bytes, total_bytes: size_bytes });
        }
        let own = self.digest.finish();
        let expected_digests = Some(Digests {
            sha256: if expected.sha256.is_empty() { own.sha256 } else { expected.sha256.clone() },
            crc32: expected.crc32.or(own.crc32),
            ..expected.clone()
        });
        let commit =
            UploadCommit { size_bytes: Some(size_bytes), expected_digests, ..UploadCommit::default() };
        send(&sender, Message::Commit(commit)).await.map(drop)
    }

    /// Reads what an earlier run uploaded, so that the digest is that of the whole.
    async fn hash_up_to(&mut self, offset_bytes: u64) -> Result<()> {
        let found_bytes = self.source.size_bytes;
        if found_bytes < offset_bytes {
            return Err(Error::SourceChanged { expected_bytes: offset_bytes, found_bytes });
        }
        self.source.go_to(self.digest.hashed_bytes).await?;
        while self.digest.hashed_bytes < offset_bytes {
            let data = self.source.read(offset_bytes - self.digest.hashed_bytes).await?;
            self.digest.take(self.digest.hashed_bytes, data).await?;
        }
        Ok(())
    }

    /// What was made, when it is of the source's bytes. What comes out of an archive has other bytes.
    async fn verified(
        &mut self,
        options: &UploadOptions,
        upload: Upload,
        image: Option<Image>,
    ) -> Result<(Upload, Option<Image>)> {
        if let (Some(image), Archive::Unspecified) = (&image, options.archive) {
            self.verify(image).await?;
        }
        Ok((upload, image))
    }

    /// Compares an image with the source: under the same id another client may have committed other bytes.
    async fn verify(&mut self, image: &Image) -> Result<()> {
        if image.size_bytes == self.source.size_bytes {
            self.hash_up_to(image.size_bytes).await?;
            let (own, stored) = (self.digest.finish(), image.digests.as_ref());
            let is_other = stored.is_some_and(|stored| {
                (!own.sha256.is_empty() && !stored.sha256.is_empty() && own.sha256 != stored.sha256)
                    || (own.crc32.is_some() && stored.crc32.is_some() && own.crc32 != stored.crc32)
            });
            if !is_other {
                return Ok(());
            }
        }
        Err(Error::UploadEnded {
            reason: "REQUEST_ID_REUSED".to_owned(),
            message: "its id stands for an image of other bytes; take a new one".to_owned(),
        })
    }
}

impl<R: AsyncRead + AsyncSeek + Unpin> Source<'_, R> {
    async fn go_to(&mut self, offset_bytes: u64) -> Result<()> {
        self.reader.seek(SeekFrom::Start(offset_bytes)).await.map(drop).map_err(Error::Source)
    }

    /// The next chunk, full unless fewer bytes are left.
    async fn read(&mut self, left_bytes: u64) -> Result<Bytes> {
        let length = left_bytes.min(CHUNK_SIZE_BYTES as u64);
        let mut data = BytesMut::with_capacity(length as usize);
        let mut reader = (&mut *self.reader).take(length);
        while (data.len() as u64) < length {
            if reader.read_buf(&mut data).await.map_err(Error::Source)? == 0 {
                let found_bytes = self.reader.seek(SeekFrom::End(0)).await.map_err(Error::Source)?;
                return Err(Error::SourceChanged { expected_bytes: self.size_bytes, found_bytes });
            }
        }
        Ok(data.freeze())
    }
}

impl SourceDigest {
    fn new(hasher: Hasher) -> Self {
        Self { hasher, hashed_bytes: 0 }
    }

    /// From now on no CRC will do: what was read is read again.
    fn be_sha256(&mut self) {
        if let Hasher::Crc32(_) = self.hasher {
            *self = Self::new(Hasher::Sha256(Sha256::new()));
        }
    }

    /// CRC-32C of `data`; the digest of the whole grows by what it does not have yet.
    async fn take(&mut self, offset_bytes: u64, data: Bytes) -> Result<u32> {
        let length_bytes = data.len() as u64;
        // Chunks after a resume need not lie as those before it: only the part behind the digest goes into it.
        let known_bytes = self.hashed_bytes.saturating_sub(offset_bytes).min(length_bytes);
        if known_bytes == 0 {
            return self.grow(data).await;
        }
        let (crc32c, _) = digest_chunk(data.clone(), None::<Sha256>).await?;
        if known_bytes < length_bytes {
            self.grow(data.slice(known_bytes as usize..)).await?;
        }
        Ok(crc32c)
    }

    /// Takes all of `data` next; its CRC-32C.
    async fn grow(&mut self, data: Bytes) -> Result<u32> {
        let length_bytes = data.len() as u64;
        let (crc32c, hasher) = digest_chunk(data, self.hasher.clone()).await?;
        self.hasher = hasher;
        self.hashed_bytes += length_bytes;
        Ok(crc32c)
    }

    /// Of the first `hashed_bytes`.
    fn finish(&self) -> Digests {
        match self.hasher.clone() {
            Hasher::Crc32(hasher) => Digests { crc32: Some(hasher.finalize()), ..Digests::default() },
            Hasher::Sha256(hasher) => {
                Digests { sha256: hex::encode(hasher.finalize()), ..Digests::default() }
            }
        }
    }
}

/// Hands a message to the connection; `false`: the call has ended and knows why.
async fn send(sender: &mpsc::Sender<UploadImageRequest>, message: Message) -> Result<bool> {
    let request = UploadImageRequest { message: Some(message) };
    match sender.send_timeout(request, STALL_TIMEOUT).await {
        Ok(()) => Ok(true),
        Err(mpsc::error::SendTimeoutError::Closed(_)) => Ok(false),
        Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
            Err(tonic::Status::unavailable("the upload stands still").into())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// Runs a feed from `offset_bytes` and takes `messages_max` messages of it, then breaks off.
    async fn run<P: FnMut(TransferProgress)>(
        feed: &mut Feed<'_, Cursor<Vec<u8>>, P>,
        offset_bytes: u64,
        messages_max: usize,
    ) -> Vec<Message> {
        let (sender, mut receiver) = mpsc::channel::<UploadImageRequest>(1);
        let first =
            Message::Resume(UploadResume { upload: "uploads/x".to_owned(), offset_bytes, size_bytes: None });
        let expected = Digests::default();
        let taking = async {
            let mut taken = Vec::new();
            while taken.len() < messages_max {
                let Some(request) = receiver.recv().await else { break };
                taken.extend(request.message);
            }
            drop(receiver);
            taken
        };
        let (fed, taken) = tokio::join!(feed.run(first, offset_bytes, &expected, sender), taking);
        fed.unwrap();
        taken
    }

    #[tokio::test]
    async fn the_digest_is_that_of_the_whole_wherever_the_upload_broke() {
        let bytes: Vec<u8> = (0..3 * CHUNK_SIZE_BYTES + 77).map(|index| ((index * 31) >> 7) as u8).collect();
        let crc32 = Digests { crc32: Some(crc32fast::hash(&bytes)), ..Digests::default() };
        let sha256 = Digests { sha256: hex::encode(Sha256::digest(&bytes)), ..Digests::default() };
        for (broken_after, durable_bytes, is_sha256) in [
            (1, 0, true),
            (2, 4096, true),
            (3, CHUNK_SIZE_BYTES as u64, true),
            (1, bytes.len() as u64, true),
            (2, 4096, false),
            (1, 1, false),
        ] {
            let mut source = Cursor::new(bytes.clone());
            let mut feed = Feed::new(&mut source, bytes.len() as u64, |_| {});
            if is_sha256 {
                feed.digest.be_sha256();
            }
            run(&mut feed, 0, broken_after).await;
            let messages = run(&mut feed, durable_bytes, usize::MAX).await;
            let mut next_bytes = durable_bytes;
            for message in &messages[1..messages.len() - 1] {
                let Message::Chunk(chunk) = message else { panic!("{message:?}") };
                assert_eq!(chunk.offset_bytes, next_bytes);
                assert_eq!(chunk.crc32c, Some(crc32c::crc32c(&chunk.data)));
                next_bytes += chunk.data.len() as u64;
            }
            assert_eq!(next_bytes, bytes.len() as u64);
            let Some(Message::Commit(commit)) = messages.last() else { panic!("no commit") };
            assert_eq!(commit.size_bytes, Some(bytes.len() as u64));
            assert_eq!(commit.expected_digests.as_ref(), Some(if is_sha256 { &sha256 } else { &crc32 }));
        }
    }

    #[tokio::test]
    async fn a_source_shorter_than_what_is_durable_is_another_source() {
        let mut source = Cursor::new(vec![0; 10]);
        let mut feed = Feed::new(&mut source, 10, |_| {});
        assert!(matches!(feed.hash_up_to(11).await, Err(Error::SourceChanged { .. })));
    }
}
