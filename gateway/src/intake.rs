//! Hands a request body over to `UploadImage`, piece by piece. All faces of uploads go through here.

use bytes::{Bytes, BytesMut};
use imageops::v1::upload_image_request::Message;
use imageops::v1::{Chunk, UploadCommit, UploadImageRequest, UploadImageResponse};
use imageops_client::Connection;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Length of the chunks that go to the server, in bytes.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks that wait for the server; with the one that is being filled, this is all the memory that an upload holds.
const CHUNKS_WAITING: usize = 2;

/// An upload that is taking bytes.
///
/// Dropping it closes the stream without a commit: what the server has received becomes durable and can be resumed.
pub(crate) struct Intake {
    messages: mpsc::Sender<UploadImageRequest>,
    call: JoinHandle<Result<Response<UploadImageResponse>, Status>>,
    pending: BytesMut,
    /// Offset of `pending`.
    offset_bytes: u64,
}

impl Intake {
    /// Begins with `first`, which is metadata or a resume whose offset is `offset_bytes`.
    pub(crate) fn begin(
        connection: &Connection,
        template: Request<()>,
        first: Message,
        offset_bytes: u64,
    ) -> Self {
        let (messages, receiver) = mpsc::channel(CHUNKS_WAITING);
        let first = tokio_stream::once(UploadImageRequest { message: Some(first) });
        let stream = tokio_stream::StreamExt::chain(first, ReceiverStream::new(receiver));
        let mut stub = connection.stub();
        let request = template.map(|()| stream);
        // A task of its own: when the client goes away and the handler with it, the server still sees an orderly end.
        let call = tokio::spawn(async move { stub.upload_image(request).await });
        Self { messages, call, pending: BytesMut::new(), offset_bytes }
    }

    /// Offset behind all bytes that were written.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.pending.len() as u64
    }

    /// Takes bytes; waits while the server is behind.
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), Status> {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.pending.len();
            self.pending.reserve(room.min(bytes.len()));
            self.pending.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
            if self.pending.len() == CHUNK_BYTES {
                self.send_pending().await?;
            }
        }
        Ok(())
    }

    /// Makes the image.
    pub(crate) async fn commit(mut self, commit: UploadCommit) -> Result<UploadImageResponse, Status> {
        self.send_pending().await?;
        self.send(Message::Commit(commit)).await?;
        self.end().await
    }

    /// Ends without an image; the answer tells how much is durable.
    pub(crate) async fn close(mut self) -> Result<UploadImageResponse, Status> {
        self.send_pending().await?;
        self.end().await
    }

    async fn send_pending(&mut self) -> Result<(), Status> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let data = self.pending.split().freeze();
        let chunk = Chunk { offset_bytes: self.offset_bytes, crc32c: Some(crc32c::crc32c(&data)), data };
        self.offset_bytes += chunk.data.len() as u64;
        self.send(Message::Chunk(chunk)).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Status> {
        if self.messages.send(UploadImageRequest { message: Some(message) }).await.is_ok() {
            return Ok(());
        }
        // The call has ended before all was sent: its status is the reason.
        match outcome((&mut self.call).await) {
            Ok(_) => Err(Status::internal("the server ended an upload early")),
            Err(status) => Err(status),
        }
    }

    async fn end(self) -> Result<UploadImageResponse, Status> {
        drop(self.messages);
        outcome(self.call.await)
    }
}

fn outcome(
    ended: Result<Result<Response<UploadImageResponse>, Status>, tokio::task::JoinError>,
) -> Result<UploadImageResponse, Status> {
    match ended {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::internal("the task of an upload broke")),
    }
}
