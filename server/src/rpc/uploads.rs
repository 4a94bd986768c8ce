//! UploadImage, and what is done with uploads.

use std::sync::Arc;
use std::time::Duration;

use imageops::v1;
use imageops::v1::upload_image_request::Message;
use imageops_catalogue::{Cursor, ImageRow, UploadRow};
use imageops_image::inspect::{PrefixVerdict, inspect_prefix};

use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{pages, parse_name, watch};
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::upload::{CommitError, Ingest, Promise, Session, admission, commit, refusal, store_of};
use crate::{reason, wire};

/// A stream from which nothing comes for so long is ended; what came is made durable.
const IDLE: Duration = Duration::from_secs(60);
/// Largest data of one chunk.
const CHUNK_MAX_BYTES: usize = 1 << 20;

type Messages = Streaming<v1::UploadImageRequest>;

/// UploadImage. A task of its own does the work: when the connection breaks the call is dropped, but what came must still
/// be made durable.
pub(super) async fn upload(
    app: &Arc<App>,
    caller: Caller,
    messages: Messages,
) -> Result<v1::UploadImageResponse> {
    let slot = app.uploads.open_stream()?;
    let owner = Arc::clone(app);
    let work = app.tasks.spawn(async move {
        let response = take_in(&owner, &caller, messages).await;
        drop(slot);
        response
    });
    work.await.map_err(Failure::internal)?
}

/// Metadata or resume, chunks, commit.
async fn take_in(app: &Arc<App>, caller: &Caller, mut messages: Messages) -> Result<v1::UploadImageResponse> {
    let first = next(app, &mut messages, std::future::pending())
        .await?
        .ok_or_else(|| sequence("begin with `metadata` or `resume`"))?;
    let (upload, resume_at) = begin(app, caller, first).await?;
    if upload.state.is_final() {
        return ended(app, caller, upload).await;
    }
    let session = app.uploads.session(upload.id);
    let mut hold = session.take_over().await;
    let number = hold.number();

    // Read again: the stream that held it before may have ended it.
    let upload = app.catalogue.get_upload(&caller.tenant, upload.id).await?;
    if upload.state.is_final() {
        return ended(app, caller, upload).await;
    }
    let mut ingest = match hold.ingest.take() {
        Some(ingest) => ingest,
        None => match open_ingest(app, &upload).await {
            Ok(ingest) => ingest,
            Err(failure) if failure.reason == reason::UPLOAD_BYTES_LOST => {
                app.catalogue.fail_upload(upload.id, failure.clone().into_job_failure(), now()).await?;
                return Err(failure);
            }
            Err(failure) => return Err(failure),
        },
    };
    if resume_at.is_some_and(|offset| offset != ingest.received_bytes()) {
        let failure = wrong_offset(resume_at.unwrap_or_default(), ingest.received_bytes());
        *hold.ingest = Some(ingest);
        return Err(failure);
    }
    let stream = Stream { app, upload: &upload, session: &session, number };
    let result = stream.receive(&mut messages, &mut ingest).await;
    let end = stream.end(result, &mut ingest).await;
    let done = match &end {
        Ok(response) => response.image.is_some(),
        Err(End::Broken(_)) => false,
        Err(End::Refused(_) | End::Lost(_)) => true,
    };
    if matches!(end, Err(End::Lost(_))) {
        ingest.give_room_back().await;
    }
    if done {
        app.uploads.forget(upload.id);
    } else {
        *hold.ingest = Some(ingest);
    }
    end.map_err(|end| match end {
        End::Broken(failure) | End::Refused(failure) | End::Lost(failure) => failure,
    })
}

/// How a stream ends without an image.
enum End {
    /// What came is durable; the upload goes on with the next stream.
    Broken(Failure),
    /// The upload has failed.
    Refused(Failure),
    /// What came since the last flush is lost, because writing failed; the upload goes on from there.
    Lost(Failure),
}

/// What the messages came to.
enum Received {
    /// The stream was closed without a commit.
    Closed,
    /// The client wants the image.
    Commit(Promise),
}

struct Stream<'a> {
    app: &'a App,
    upload: &'a UploadRow,
    session: &'a Session,
    number: u64,
}

impl Stream<'_> {
    /// Takes chunks until a commit, the end, or a failure.
    async fn receive(&self, messages: &mut Messages, ingest: &mut Ingest) -> Result<Received> {
        while let Some(message) = next(self.app, messages, self.session.lost(self.number)).await? {
            match message {
                Message::Chunk(chunk) => self.take_chunk(chunk, ingest).await?,
                Message::Commit(commit) => {
                    return Ok(Received::Commit(wire::read_promise(
                        commit.size_bytes,
                        commit.expected_digests,
                    )?));
                }
                Message::Metadata(_) | Message::Resume(_) => {
                    return Err(sequence("after the first message only chunks and `commit` may come"));
                }
            }
        }
        Ok(Received::Closed)
    }

    async fn take_chunk(&self, chunk: v1::Chunk, ingest: &mut Ingest) -> Result<()> {
        if chunk.offset_bytes != ingest.received_bytes() {
            return Err(wrong_offset(chunk.offset_bytes, ingest.received_bytes()));
        }
        if chunk.data.is_empty() || chunk.data.len() > CHUNK_MAX_BYTES {
            return Err(Failure::invalid("chunk.data", "a chunk has 1 to 1,048,576 bytes"));
        }
        if chunk.crc32c.is_some_and(|sum| sum != crc32c::crc32c(&chunk.data)) {
            let message = "the chunk was changed on its way; send it again from the durable offset";
            return Err(Failure::new(Code::Aborted, reason::CHUNK_CHECKSUM, message));
        }
        self.check_length(chunk.offset_bytes + chunk.data.len() as u64)?;
        if let Some(prefix) = ingest.push(chunk.data).await? {
            self.judge_prefix(&prefix)?;
        }
        if let Some(durable_bytes) = ingest.flush_some().await? {
            self.extend(durable_bytes).await?;
        }
        Ok(())
    }

    fn check_length(&self, length: u64) -> Result<()> {
        if let Some(promised) = self.upload.size_bytes.filter(|promised| length > *promised) {
            let message = format!("more than the promised {promised} bytes came");
            return Err(Failure::new(Code::InvalidArgument, reason::SIZE_MISMATCH, message));
        }
        if length > self.app.config.upload_max_bytes {
            return Err(admission::too_large(self.app.config.upload_max_bytes));
        }
        Ok(())
    }

    /// Refuses what the first bytes prove to be unsafe, before the rest comes.
    fn judge_prefix(&self, prefix: &[u8]) -> Result<()> {
        let declared = self.upload.declared_format.as_deref().and_then(|format| format.parse().ok());
        match inspect_prefix(prefix, self.upload.size_bytes, declared) {
            PrefixVerdict::Undecided => Ok(()),
            PrefixVerdict::Refused { verdict, reasons } => Err(refusal(verdict, &reasons)),
        }
    }

    async fn extend(&self, durable_bytes: u64) -> Result<()> {
        let time = now();
        self.app
            .catalogue
            .extend_upload(self.upload.id, durable_bytes, time, admission::expiry(self.app, time))
            .await?;
        Ok(())
    }

    /// Makes the image, or makes durable what came.
    async fn end(
        &self,
        received: Result<Received>,
        ingest: &mut Ingest,
    ) -> Result<v1::UploadImageResponse, End> {
        match received {
            Ok(Received::Commit(promise)) => self.commit(promise, ingest).await,
            Ok(Received::Closed) => {
                let upload = self.make_durable(ingest).await.map_err(End::Lost)?;
                Ok(v1::UploadImageResponse { upload: Some(wire::upload(&upload)), ..Default::default() })
            }
            Err(failure) if is_refusal(&failure) => Err(self.refuse(failure).await),
            Err(failure) => match self.make_durable(ingest).await {
                Ok(_) => Err(End::Broken(failure)),
                // Neither the stream nor the disk: the disk is what the client must know of.
                Err(lost) => Err(End::Lost(lost)),
            },
        }
    }

    async fn make_durable(&self, ingest: &mut Ingest) -> Result<UploadRow> {
        let durable_bytes = ingest.flush_all().await?;
        self.extend(durable_bytes).await?;
        Ok(self.app.catalogue.get_upload(&self.upload.tenant, self.upload.id).await?)
    }

    async fn commit(&self, promise: Promise, ingest: &mut Ingest) -> Result<v1::UploadImageResponse, End> {
        let promises = [
            Promise {
                size_bytes: self.upload.size_bytes,
                md5: self.upload.expected_md5.clone(),
                sha256: self.upload.expected_sha256.clone(),
                ..Promise::default()
            },
            promise,
        ];
        match commit(self.app, self.upload, ingest, &promises).await {
            Ok((upload, image)) => Ok(response(&upload, &image)),
            Err(CommitError::Refused(failure)) => Err(self.refuse(failure).await),
            Err(CommitError::Other(failure)) => match self.make_durable(ingest).await {
                Ok(_) => Err(End::Broken(failure)),
                Err(_) => Err(End::Lost(failure)),
            },
        }
    }

    /// Ends the upload for good, and drops its bytes.
    async fn refuse(&self, failure: Failure) -> End {
        tracing::info!(upload = %self.upload.id, reason = failure.reason, "upload refused");
        metrics::counter!("imageops_rejected_total", "reason" => failure.reason.clone()).increment(1);
        if let Err(error) =
            self.app.catalogue.fail_upload(self.upload.id, failure.clone().into_job_failure(), now()).await
        {
            return End::Broken(error.into());
        }
        self.app.discard_staged(self.upload.id).await;
        End::Refused(failure)
    }
}

/// Whether a failure says that these bytes can never become an image.
fn is_refusal(failure: &Failure) -> bool {
    let about_the_stream = [reason::INVALID_ARGUMENT, reason::UPLOAD_SEQUENCE];
    failure.code == Code::InvalidArgument && !about_the_stream.contains(&failure.reason.as_str())
}

/// The next message; an error when nothing comes, the connection breaks, another stream wants the upload (`lost`), or the
/// server goes down.
async fn next(app: &App, messages: &mut Messages, lost: impl Future<Output = ()>) -> Result<Option<Message>> {
    let message = tokio::select! {
        message = timeout(IDLE, messages.message()) => message,
        () = lost => {
            let text = "another stream goes on with this upload";
            return Err(Failure::new(Code::Aborted, reason::UPLOAD_TAKEN_OVER, text));
        }
        () = app.drain_over.cancelled() => return Err(watch::shutting_down()),
    };
    match message {
        Err(_) => {
            let text = format!("nothing came for {} seconds; resume when there is more", IDLE.as_secs());
            Err(Failure::new(Code::DeadlineExceeded, reason::IDLE, text))
        }
        Ok(Err(status)) => Err(broken(&status)),
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(message))) => {
            message.message.map(Some).ok_or_else(|| sequence("a message without content came"))
        }
    }
}

fn broken(status: &Status) -> Failure {
    tracing::debug!(%status, "an upload's stream broke");
    if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted) {
        // What the transport says of a message above its limit.
        return Failure::invalid("message", "a message has at most 4 MiB; a chunk at most 1 MiB");
    }
    Failure::new(status.code(), reason::UNAVAILABLE, "the stream broke; resume at the durable offset")
}

/// The upload that the first message names, and the offset that a resume wants.
async fn begin(app: &Arc<App>, caller: &Caller, first: Message) -> Result<(UploadRow, Option<u64>)> {
    match first {
        Message::Metadata(metadata) => Ok((admission::begin(app, &caller.tenant, metadata).await?, None)),
        Message::Resume(resume) => {
            let id = parse_name("resume.upload", &resume.upload)?;
            Ok((app.catalogue.get_upload(&caller.tenant, id).await?, Some(resume.offset_bytes)))
        }
        Message::Chunk(_) | Message::Commit(_) => Err(sequence("begin with `metadata` or `resume`")),
    }
}

async fn open_ingest(app: &App, upload: &UploadRow) -> Result<Ingest> {
    let id = store_of(app, upload);
    let (store, key) = (app.stores.writable(id)?, upload.id.0.to_string());
    let file = blocking(move || store.stage(&key)).await?;
    let file = file.inspect_err(|error| app.stores.report(id, error))?;
    Ingest::open(file, upload.durable_bytes, upload.wishes.sha512).await
}

/// The answer for an upload that has ended before: its image again, or why there is none.
async fn ended(app: &App, caller: &Caller, upload: UploadRow) -> Result<v1::UploadImageResponse> {
    if let Some(id) = upload.image {
        let image = app.catalogue.get_image(&caller.tenant, id).await?;
        return Ok(response(&upload, &image));
    }
    let message = match &upload.failure {
        Some(failure) => format!("the upload has failed before: {}", failure.message),
        None => "the upload was aborted; begin another".to_owned(),
    };
    Err(Failure::new(Code::FailedPrecondition, reason::UPLOAD_ENDED, message))
}

fn response(upload: &UploadRow, image: &ImageRow) -> v1::UploadImageResponse {
    v1::UploadImageResponse {
        upload: Some(wire::upload(upload)),
        image: Some(wire::image(image)),
        check_job: String::new(),
    }
}

fn sequence(message: &str) -> Failure {
    Failure::invalid_as(reason::UPLOAD_SEQUENCE, "message", message)
}

fn wrong_offset(offset: u64, right: u64) -> Failure {
    let message = format!("the next byte is at {right}, not at {offset}");
    Failure::new(Code::OutOfRange, reason::WRONG_OFFSET, message).with("durable_bytes", right)
}

/// GetUpload.
pub(super) async fn get(app: &App, caller: &Caller, request: &v1::GetUploadRequest) -> Result<v1::Upload> {
    let id = parse_name("name", &request.name)?;
    Ok(wire::upload(&app.catalogue.get_upload(&caller.tenant, id).await?))
}

/// ListUploads.
pub(super) async fn list(
    app: &App,
    caller: &Caller,
    request: v1::ListUploadsRequest,
) -> Result<v1::ListUploadsResponse> {
    let filter = format!("{:?}", request.states);
    let states = wire::read_upload_states(&request.states)?;
    let page = pages::page(request.page_size, &request.page_token, &filter)?;
    let rows = app.catalogue.list_uploads(&caller.tenant, &states, page.clone()).await?;
    let mut rows = pages::shown(rows, wire::upload);
    let next_page_token = pages::cut(&mut rows, &page, &filter, |row: &UploadRow| Cursor {
        create_time: row.create_time,
        id: row.id.0,
    });
    Ok(v1::ListUploadsResponse { uploads: pages::messages(rows), next_page_token })
}

/// AbortUpload.
pub(super) async fn abort(
    app: &App,
    caller: &Caller,
    request: &v1::AbortUploadRequest,
) -> Result<v1::Upload> {
    let id = parse_name("name", &request.name)?;
    // First the row: a stream that holds the upload can then no longer commit it.
    let row = app.catalogue.abort_upload(&caller.tenant, id, now()).await?;
    let session = app.uploads.session(id);
    let mut hold = session.take_over().await;
    *hold.ingest = None;
    app.discard_staged(id).await;
    app.uploads.forget(id);
    Ok(wire::upload(&row))
}
