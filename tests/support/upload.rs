//! Uploads message by message, for what the client library would never do.

use bytes::Bytes;
use imageops::v1::upload_image_request::Message;
use imageops::v1::{
    Chunk, Digests, Image, UploadCommit, UploadImageRequest, UploadImageResponse, UploadMetadata,
    UploadResume,
};
use imageops_client::Client;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Bytes of the chunks that [`Stream::chunks`] makes.
pub const CHUNK_BYTES: usize = 1 << 20;

/// One UploadImage call under way.
pub struct Stream {
    messages: mpsc::Sender<UploadImageRequest>,
    call: JoinHandle<Result<UploadImageResponse, Status>>,
}

impl Stream {
    /// Begins an upload.
    pub async fn begin(client: &Client, metadata: &UploadMetadata) -> Self {
        Self::open(client, Message::Metadata(metadata.clone())).await
    }

    /// Goes on with an upload.
    pub async fn resume(client: &Client, upload: &str, offset_bytes: u64) -> Self {
        let resume = UploadResume { upload: upload.to_owned(), offset_bytes, size_bytes: None };
        Self::open(client, Message::Resume(resume)).await
    }

    /// Opens a stream with any first message.
    pub async fn open(client: &Client, first: Message) -> Self {
        // One message of room: what was sent is under way, not piled up here.
        let (messages, receiver) = mpsc::channel(1);
        let mut stub = client.stub();
        let call = tokio::spawn(async move {
            stub.upload_image(ReceiverStream::new(receiver)).await.map(tonic::Response::into_inner)
        });
        let stream = Self { messages, call };
        stream.send(first).await;
        stream
    }

    /// Sends a message; `false` once the call has ended.
    pub async fn send(&self, message: Message) -> bool {
        self.messages.send(UploadImageRequest { message: Some(message) }).await.is_ok()
    }

    /// Sends one chunk with its checksum; `false` once the call has ended.
    pub async fn chunk(&self, offset_bytes: u64, data: &[u8]) -> bool {
        let crc32c = Some(crc32c::crc32c(data));
        self.send(Message::Chunk(Chunk { offset_bytes, data: Bytes::copy_from_slice(data), crc32c })).await
    }

    /// Sends all of `data` from `offset_bytes` of it on; `false` once the call has ended.
    pub async fn chunks(&self, offset_bytes: u64, data: &[u8]) -> bool {
        let mut at = usize::try_from(offset_bytes).expect("an offset in memory");
        while at < data.len() {
            let end = data.len().min(at + CHUNK_BYTES);
            if !self.chunk(at as u64, &data[at..end]).await {
                return false;
            }
            at = end;
        }
        true
    }

    /// Asks for the image and waits for the answer.
    pub async fn commit(self, commit: UploadCommit) -> Result<UploadImageResponse, Status> {
        self.send(Message::Commit(commit)).await;
        self.answer().await
    }

    /// Closes the stream without a commit and waits for the answer.
    pub async fn close(self) -> Result<UploadImageResponse, Status> {
        let Self { messages, call } = self;
        drop(messages);
        finish(call).await
    }

    /// Waits for the answer and sends nothing more.
    pub async fn answer(self) -> Result<UploadImageResponse, Status> {
        // The sender lives until the answer is there: the stream is not closed.
        finish(self.call).await
    }

    /// Whether there is no answer yet.
    pub fn is_open(&self) -> bool {
        !self.call.is_finished()
    }

    /// Drops the call.
    pub fn cut(self) {
        self.call.abort();
    }
}

async fn finish(
    call: JoinHandle<Result<UploadImageResponse, Status>>,
) -> Result<UploadImageResponse, Status> {
    tokio::time::timeout(super::DEADLINE, call).await.expect("an answer in time").expect("a call that ends")
}

/// Metadata of a new upload that promises nothing.
pub fn metadata(display_name: &str) -> UploadMetadata {
    UploadMetadata {
        request_id: uuid::Uuid::new_v4().to_string(),
        display_name: display_name.to_owned(),
        ..UploadMetadata::default()
    }
}

/// The resource name of an upload that is begun with `metadata`.
pub fn name_of(metadata: &UploadMetadata) -> String {
    format!("uploads/{}", metadata.request_id)
}

/// The digests of `data`.
pub fn digests(data: &[u8]) -> Digests {
    Digests {
        md5: hex::encode(md5::Md5::digest(data)),
        sha256: hex::encode(Sha256::digest(data)),
        crc32: Some(crc32fast::hash(data)),
        ..Digests::default()
    }
}

/// The digests that a check of `data` takes.
pub fn checked_digests(data: &[u8]) -> Digests {
    Digests { crc32: None, ..digests(data) }
}

/// A commit that promises the length and the digests of `data`.
pub fn commit_of(data: &[u8]) -> UploadCommit {
    UploadCommit {
        size_bytes: Some(data.len() as u64),
        expected_digests: Some(digests(data)),
        ..UploadCommit::default()
    }
}

/// Uploads all of `data` in one stream.
pub async fn try_upload(client: &Client, metadata: &UploadMetadata, data: &[u8]) -> Result<Image, Status> {
    let stream = Stream::begin(client, metadata).await;
    stream.chunks(0, data).await;
    let answer = stream.commit(UploadCommit::default()).await?;
    Ok(answer.image.expect("an image after a commit"))
}

/// Uploads all of `data` as an image; it must be one.
pub async fn upload(client: &Client, data: &[u8]) -> Image {
    try_upload(client, &metadata("a test"), data).await.expect("an image that is taken")
}
