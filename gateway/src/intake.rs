//! Hands a request body over to `UploadImage`, piece by piece. All faces of uploads go through here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use imageops::v1::upload_image_request::Message;
use imageops::v1::{
    AbortUploadRequest, Chunk, ComposeImageRequest, UploadCommit, UploadImageRequest, UploadImageResponse,
    UploadMetadata,
};
use imageops_client::Connection;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Response, Status};
use uuid::Uuid;

use crate::call;

/// Length of the chunks that go to the server, in bytes.
const CHUNK_BYTES: usize = 512 << 10;
/// Chunks that wait for the server; with the one that is being filled, this is all the memory that an upload holds.
const CHUNKS_WAITING: usize = 2;

/// An upload that is taking bytes.
///
/// Dropping it closes the stream without a commit: what the server has received becomes durable and can be resumed.
pub(crate) struct Intake {
    messages: mpsc::Sender<UploadImageRequest>,
    /// Absent once its end was told.
    call: Option<JoinHandle<Result<Response<UploadImageResponse>, Status>>>,
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
        Self { messages, call: Some(call), pending: BytesMut::new(), offset_bytes }
    }

    /// Offset behind all bytes that were written.
    pub(crate) fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.pending.len() as u64
    }

    /// Takes bytes; waits while the server is behind. The last of them stay here until there are more, or an end.
    pub(crate) async fn write(&mut self, mut bytes: Bytes) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.pending.len() == CHUNK_BYTES {
                self.send_pending().await?;
            }
            let room = CHUNK_BYTES - self.pending.len();
            self.pending.reserve(room.min(bytes.len()));
            self.pending.extend_from_slice(&bytes.split_to(room.min(bytes.len())));
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

    /// Ends without what was written last: the server never has all that was written.
    pub(crate) async fn hang_up(self) {
        drop(self.messages);
        if let Some(call) = self.call {
            // What it answers is of no use to anyone.
            let _ = call.await;
        }
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
        Err(match self.call.take() {
            Some(call) => match outcome(call.await) {
                Ok(_) => ended_early(),
                Err(status) => status,
            },
            None => ended_early(),
        })
    }

    async fn end(self) -> Result<UploadImageResponse, Status> {
        drop(self.messages);
        match self.call {
            Some(call) => outcome(call.await),
            None => Err(ended_early()),
        }
    }
}

fn ended_early() -> Status {
    Status::internal("the server ended an upload early")
}

/// Refuses a caller who may not send bytes, before any are kept: a composition of nothing is refused for what it lacks, or
/// for who asks.
pub(crate) async fn require_writer(
    connection: &Connection,
    limit: Duration,
    template: Request<()>,
) -> Result<(), Status> {
    let mut stub = connection.stub();
    let asked = stub.compose_image(template.map(|()| ComposeImageRequest::default()));
    match call::within(limit, asked).await {
        Err(status) if status.code() != Code::InvalidArgument => Err(status),
        _ => Ok(()),
    }
}

/// An upload that is one request. Unless it is committed, or its client has named it and so can go on with it, it is given
/// up and leaves nothing.
pub(crate) struct OneShot {
    intake: Option<Intake>,
    is_named: bool,
    connection: Connection,
    caller: MetadataMap,
    name: String,
}

impl OneShot {
    /// Begins an upload; with a `request_id` in `metadata` it is named.
    pub(crate) fn begin(
        connection: &Connection,
        template: Request<()>,
        mut metadata: UploadMetadata,
    ) -> Self {
        let is_named = !metadata.request_id.is_empty();
        if !is_named {
            metadata.request_id = Uuid::new_v4().to_string();
        }
        let name = format!("uploads/{}", metadata.request_id);
        let caller = template.metadata().clone();
        let intake = Intake::begin(connection, template, Message::Metadata(metadata), 0);
        Self { intake: Some(intake), is_named, connection: connection.clone(), caller, name }
    }

    /// Bytes that were written.
    pub(crate) fn length_bytes(&self) -> u64 {
        self.intake.as_ref().map_or(0, Intake::end_bytes)
    }

    /// What takes its bytes.
    pub(crate) fn intake(&mut self) -> Result<&mut Intake, Status> {
        self.intake.as_mut().ok_or_else(|| Status::internal("bytes behind the end of an upload"))
    }

    /// Takes bytes; waits while the server is behind.
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), Status> {
        self.intake()?.write(bytes).await
    }

    /// Makes the image, or the part.
    pub(crate) async fn commit(mut self, mut commit: UploadCommit) -> Result<UploadImageResponse, Status> {
        let Some(intake) = self.intake.take() else {
            return Err(Status::internal("a second commit of an upload"));
        };
        commit.size_bytes = Some(intake.end_bytes());
        let answered = intake.commit(commit).await;
        if answered.is_err() && !self.is_named {
            // Most refusals have dropped the bytes already; then there is nothing more to do.
            tokio::spawn(abort(self.connection.clone(), self.caller.clone(), self.name.clone()));
        }
        answered
    }
}

impl Drop for OneShot {
    fn drop(&mut self) {
        let Some(intake) = self.intake.take().filter(|_| !self.is_named) else { return };
        let (connection, caller, name) =
            (self.connection.clone(), std::mem::take(&mut self.caller), std::mem::take(&mut self.name));
        tokio::spawn(async move {
            // In this order: the server might not know of the upload yet.
            intake.hang_up().await;
            abort(connection, caller, name).await;
        });
    }
}

/// Gives an upload up. One that has ended by then stays as it is.
pub(crate) async fn abort(connection: Connection, caller: MetadataMap, name: String) {
    let request = Request::from_parts(caller, Extensions::default(), AbortUploadRequest { name });
    match connection.stub().abort_upload(request).await {
        Ok(_) => {}
        Err(status) if matches!(status.code(), Code::NotFound | Code::FailedPrecondition) => {}
        // It expires by itself in the end.
        Err(status) => tracing::warn!(code = ?status.code(), "an upload could not be given up"),
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
