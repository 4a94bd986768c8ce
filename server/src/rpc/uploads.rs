//! UploadImage, and what is done with uploads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imageops::v1;
use imageops::v1::upload_image_request::Message;
use imageops_catalogue::{Committed, Cursor, UploadPart, UploadRow};
use imageops_gateway::Pace;
use imageops_model::UploadState;

use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{pages, parse_name, watch};
use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::upload::{
    CommitError, Composed, Grant, Ingest, Promise, Session, admission, commit, commit_part, compose, give_up,
    judge_prefix, refuse, store_of, unwatched,
};
use crate::{reason, wire};

/// A stream from which nothing comes for so long is ended; what came is made durable.
const IDLE: Duration = Duration::from_secs(60);
/// Largest data of one chunk.
const CHUNK_MAX_BYTES: usize = 1 << 20;

/// What a second beginning of a stream is told.
const ONLY_BYTES: &str = "after the first message only chunks and `commit` may come";

type Messages = Streaming<v1::UploadImageRequest>;

/// UploadImage. A task of its own does the work: when the connection breaks the call is dropped, but what came must still
/// be made durable.
pub(super) async fn upload(
    app: &Arc<App>,
    caller: Caller,
    messages: Messages,
) -> Result<v1::UploadImageResponse> {
    let slot = app.uploads.open_stream(&caller.tenant)?;
    let owner = Arc::clone(app);
    let work = app.tasks.spawn(async move {
        let response = take_in(&owner, &caller, messages).await;
        if let Ok(v1::UploadImageResponse { image: Some(image), .. }) = &response {
            let told = caller.record.image_of_work("ImageOps/UploadImage", image);
            told.into_iter().for_each(|line| owner.audit.write(line));
        }
        // The default store lies beside the catalogue: what keeps that one from writing shows there.
        if response.as_ref().is_err_and(is_of_the_disk) {
            owner.stores.suspect(owner.stores.default_id());
        }
        drop(slot);
        response
    });
    work.await.map_err(Failure::internal)?
}

/// Whether a file or the catalogue failed.
fn is_of_the_disk(failure: &Failure) -> bool {
    failure.code == Code::Internal
        || (failure.code == Code::Unavailable && failure.reason == reason::UNAVAILABLE)
}

/// Metadata or resume, chunks, commit.
async fn take_in(app: &Arc<App>, caller: &Caller, mut messages: Messages) -> Result<v1::UploadImageResponse> {
    let first = next(app, &mut messages, std::future::pending())
        .await?
        .ok_or_else(|| sequence("begin with `metadata` or `resume`"))?;
    let (upload, resume) = begin(app, caller, first).await?;
    if upload.state != UploadState::Open {
        return repeated(app, caller, (upload, resume.is_some()), &mut messages).await;
    }
    if upload.composes.is_some() {
        return Err(sequence("the upload joins the parts of a session; it takes no bytes of its own"));
    }
    if upload.wishes.import {
        return Err(sequence("the upload is that of an import, which fetches its bytes by itself"));
    }
    let session = app.uploads.session(upload.id);
    let mut hold = session.take_over().await;
    let number = hold.number();

    // Read again: the stream that held it before may have ended it.
    let mut upload = app.catalogue.get_upload(&caller.tenant, upload.id).await?;
    if upload.state != UploadState::Open {
        drop(hold);
        return repeated(app, caller, (upload, resume.is_some()), &mut messages).await;
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
    if let Some(resume) = resume {
        upload = match go_on(app, upload, &resume, ingest.received_bytes()).await {
            Ok(upload) => upload,
            Err(failure) => {
                *hold.ingest = Some(ingest);
                return Err(failure);
            }
        };
    }
    let stream = Stream { app, upload: &upload, session: &session, number };
    let mut grant = Grant::of(&upload);
    let result = stream.receive(&mut messages, &mut ingest, &mut grant).await;
    let end = stream.end(result, &mut ingest).await;
    if ingest.is_broken() {
        app.stores.suspect(store_of(app, &upload));
    }
    let done = match &end {
        Ok(response) => {
            response.upload.as_ref().is_some_and(|upload| upload.state() != v1::UploadState::Open)
        }
        Err(End::Broken(_) | End::Lost(_)) => false,
        Err(End::Refused(_)) => true,
    };
    if done {
        app.uploads.forget(upload.id);
    } else if matches!(end, Err(End::Lost(_))) {
        // The next stream reads from the file what is durable. It is held by the same session as this one: two streams that
        // did not know of each other would write one file.
        ingest.give_room_back().await;
    } else {
        *hold.ingest = Some(ingest);
    }
    end.map_err(|end| match end {
        End::Broken(failure) | End::Refused(failure) | End::Lost(failure) => failure,
    })
}

/// An upload that has ended is asked for again. Who repeats the whole request sends the bytes with it: they are read, kept
/// nowhere, and must be those that were stored, or a success would be told of bytes that are nowhere.
async fn repeated(
    app: &Arc<App>,
    caller: &Caller,
    (upload, is_resumed): (UploadRow, bool),
    messages: &mut Messages,
) -> Result<v1::UploadImageResponse> {
    let answer = ended(app, caller, &upload).await?;
    // What was promised at the beginning was compared when the bytes came first.
    if is_resumed || upload.expected_sha256.is_some() {
        return Ok(answer);
    }
    // Of an archive the row has the length of what was in it.
    let length_max =
        if upload.archive.is_some() { app.config.upload_max_bytes } else { upload.durable_bytes };
    let (mut length, mut hasher, mut pace) = (0, Sha256::new(), Pace::default());
    loop {
        let begun = Instant::now();
        let Some(message) = next(app, messages, std::future::pending()).await? else { return Ok(answer) };
        let waited = begun.elapsed();
        match message {
            Message::Chunk(chunk) => {
                check_chunk(&chunk, length)?;
                keep_pace(&mut pace, chunk.data.len() as u64, waited)?;
                length += chunk.data.len() as u64;
                if length > length_max {
                    return Err(request_id_reused());
                }
                hasher.update(&chunk.data);
            }
            Message::Commit(_) => {
                let sha256 = hex::encode(hasher.finalize());
                let is_same = match answer.image.as_ref().and_then(|image| image.digests.as_ref()) {
                    // Of an archive itself nothing is kept.
                    Some(_) if upload.archive.is_some() => true,
                    Some(digests) => digests.sha256 == sha256,
                    // Of a part no more than its length.
                    None => upload.durable_bytes == length,
                };
                return if is_same { Ok(answer) } else { Err(request_id_reused()) };
            }
            Message::Metadata(_) | Message::Resume(_) => return Err(sequence(ONLY_BYTES)),
        }
    }
}

fn keep_pace(pace: &mut Pace, length_bytes: u64, waited: Duration) -> Result<()> {
    pace.came(length_bytes, waited)
        .map_err(|slow| Failure::new(Code::DeadlineExceeded, reason::IDLE, slow.to_string()))
}

fn request_id_reused() -> Failure {
    let message = "other bytes came with this request id before; choose another one";
    Failure::new(Code::AlreadyExists, reason::REQUEST_ID_REUSED, message)
}

/// Whether the upload can go on as a resume wants it; the row, with the length that it tells.
async fn go_on(
    app: &App,
    upload: UploadRow,
    resume: &v1::UploadResume,
    received_bytes: u64,
) -> Result<UploadRow> {
    if resume.offset_bytes != received_bytes {
        return Err(wrong_offset(resume.offset_bytes, received_bytes));
    }
    let Some(size_bytes) = resume.size_bytes else { return Ok(upload) };
    if size_bytes > app.config.upload_max_bytes {
        return Err(admission::too_large(app.config.upload_max_bytes));
    }
    let known = if size_bytes < received_bytes {
        upload
    } else {
        app.catalogue.declare_upload_size(upload.id, size_bytes, now()).await?
    };
    if known.size_bytes == Some(size_bytes) {
        return Ok(known);
    }
    let message = match known.size_bytes {
        Some(known) => format!("{known} bytes were promised before, and that stays"),
        None => format!("{received_bytes} bytes came already, more than {size_bytes}"),
    };
    Err(Failure::new(Code::FailedPrecondition, reason::SIZE_MISMATCH, message))
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
    /// The client wants the image, or the part.
    Commit(Promise, Wanted),
}

/// What the bytes are to become.
enum Wanted {
    /// An image, with labels that the client learned of behind the bytes.
    Image(BTreeMap<String, String>),
    /// The part at this place.
    Part(UploadPart),
}

fn read_wanted(upload: &UploadRow, commit: v1::UploadCommit) -> Result<Wanted> {
    match admission::read_place(upload, &commit)? {
        None => Ok(Wanted::Image(commit.labels.into_iter().collect())),
        Some(_) if !commit.labels.is_empty() => Err(Failure::invalid(
            "commit.labels",
            "a part has no labels; give them where the parts are composed",
        )),
        Some(part) => Ok(Wanted::Part(part)),
    }
}

struct Stream<'a> {
    app: &'a Arc<App>,
    upload: &'a UploadRow,
    session: &'a Session,
    number: u64,
}

impl Stream<'_> {
    /// Takes chunks until a commit, the end, or a failure.
    async fn receive(
        &self,
        messages: &mut Messages,
        ingest: &mut Ingest,
        grant: &mut Grant,
    ) -> Result<Received> {
        let mut pace = Pace::default();
        loop {
            let begun = Instant::now();
            let message = next(self.app, messages, self.session.lost(self.number)).await?;
            let waited = begun.elapsed();
            match message {
                Some(Message::Chunk(chunk)) => {
                    let length = chunk.data.len() as u64;
                    self.take_chunk(chunk, ingest, grant).await?;
                    // Behind the chunk: what came of it counts.
                    keep_pace(&mut pace, length, waited)?;
                }
                Some(Message::Commit(commit)) => {
                    let promise = wire::read_promise(commit.size_bytes, commit.expected_digests.clone())?;
                    return Ok(Received::Commit(promise, read_wanted(self.upload, commit)?));
                }
                Some(Message::Metadata(_) | Message::Resume(_)) => {
                    return Err(sequence(ONLY_BYTES));
                }
                None => return Ok(Received::Closed),
            }
        }
    }

    async fn take_chunk(&self, chunk: v1::Chunk, ingest: &mut Ingest, grant: &mut Grant) -> Result<()> {
        check_chunk(&chunk, ingest.received_bytes())?;
        let length = chunk.offset_bytes + chunk.data.len() as u64;
        self.check_length(length)?;
        grant.cover(self.app, self.upload, length).await?;
        let prefix = ingest.push(chunk.data).await?;
        // The first bytes of an archive, and of most parts, are not those of an image.
        if let Some(prefix) = prefix.filter(|_| self.upload.archive.is_none() && !self.upload.is_part()) {
            judge_prefix(self.upload, &prefix)?;
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

    async fn extend(&self, durable_bytes: u64) -> Result<()> {
        let expiry = admission::expiry(self.app);
        self.app.catalogue.extend_upload(self.upload.id, durable_bytes, now(), expiry).await?;
        Ok(())
    }

    /// Makes the image, or makes durable what came.
    async fn end(
        &self,
        received: Result<Received>,
        ingest: &mut Ingest,
    ) -> Result<v1::UploadImageResponse, End> {
        match received {
            Ok(Received::Commit(promise, wanted)) => self.commit(promise, wanted, ingest).await,
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

    async fn commit(
        &self,
        promise: Promise,
        wanted: Wanted,
        ingest: &mut Ingest,
    ) -> Result<v1::UploadImageResponse, End> {
        let promises = [Promise::of(self.upload), promise];
        let made = match wanted {
            Wanted::Part(part) => {
                let stored = commit_part(self.app, self.upload, &part, ingest, &promises).await;
                stored.map(|upload| v1::UploadImageResponse {
                    upload: Some(wire::upload(&upload)),
                    ..Default::default()
                })
            }
            Wanted::Image(labels) => {
                let committed = commit(self.app, self.upload, ingest, &promises, labels, &unwatched).await;
                committed.map(|committed| response(&committed))
            }
        };
        match made {
            Ok(response) => Ok(response),
            Err(CommitError::Refused(failure)) => Err(self.refuse(failure).await),
            Err(CommitError::Other(failure)) => match self.make_durable(ingest).await {
                Ok(_) => Err(End::Broken(failure)),
                Err(_) => Err(End::Lost(failure)),
            },
        }
    }

    /// Ends the upload for good, and drops its bytes.
    async fn refuse(&self, failure: Failure) -> End {
        match refuse(self.app, self.upload, &failure).await {
            Ok(()) => End::Refused(failure),
            Err(error) => End::Broken(error),
        }
    }
}

/// Whether a chunk is one, goes on at this offset, and came as it was sent.
fn check_chunk(chunk: &v1::Chunk, offset_bytes: u64) -> Result<()> {
    if chunk.offset_bytes != offset_bytes {
        return Err(wrong_offset(chunk.offset_bytes, offset_bytes));
    }
    if chunk.data.is_empty() || chunk.data.len() > CHUNK_MAX_BYTES {
        return Err(Failure::invalid("chunk.data", "a chunk has 1 to 1,048,576 bytes"));
    }
    if chunk.crc32c.is_some_and(|sum| sum != crc32c::crc32c(&chunk.data)) {
        let message = "the chunk was changed on its way; send it again from the durable offset";
        return Err(Failure::new(Code::Aborted, reason::CHUNK_CHECKSUM, message));
    }
    Ok(())
}

/// Whether a failure says that these bytes can never become an image.
fn is_refusal(failure: &Failure) -> bool {
    let about_the_stream = [reason::INVALID_ARGUMENT, reason::UPLOAD_SEQUENCE];
    let about_the_bytes =
        failure.code == Code::InvalidArgument && !about_the_stream.contains(&failure.reason.as_str());
    about_the_bytes || failure.reason == reason::QUOTA_EXCEEDED
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

/// The upload that the first message names, and what a resume says of it.
async fn begin(
    app: &Arc<App>,
    caller: &Caller,
    first: Message,
) -> Result<(UploadRow, Option<v1::UploadResume>)> {
    match first {
        Message::Metadata(metadata) => Ok((admission::begin(app, &caller.tenant, metadata).await?, None)),
        Message::Resume(resume) => {
            let id = parse_name("resume.upload", &resume.upload)?;
            Ok((app.catalogue.get_upload(&caller.tenant, id).await?, Some(resume)))
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

/// The answer for an upload that has ended before: its image again, its part, or why there is none.
async fn ended(app: &App, caller: &Caller, upload: &UploadRow) -> Result<v1::UploadImageResponse> {
    if let Some(id) = upload.image {
        let image = app.catalogue.get_image(&caller.tenant, id).await?;
        let check_job = image.check.as_ref().map(|check| check.job.to_string()).unwrap_or_default();
        return Ok(v1::UploadImageResponse {
            upload: Some(wire::upload(upload)),
            image: Some(wire::image(&image)),
            check_job,
        });
    }
    if upload.state == UploadState::Stored {
        return Ok(v1::UploadImageResponse { upload: Some(wire::upload(upload)), ..Default::default() });
    }
    let message = match &upload.failure {
        Some(failure) => format!("the upload has failed before: {}", failure.message),
        None => "the upload was aborted; begin another".to_owned(),
    };
    Err(Failure::new(Code::FailedPrecondition, reason::UPLOAD_ENDED, message))
}

fn response(committed: &Committed) -> v1::UploadImageResponse {
    v1::UploadImageResponse {
        upload: Some(wire::upload(&committed.upload)),
        image: Some(wire::image(&committed.image)),
        check_job: committed.check_job.as_ref().map(|job| job.id.to_string()).unwrap_or_default(),
    }
}

/// ComposeImage. A task of its own does the work: a client that goes away stops nothing halfway.
pub(super) async fn compose_image(
    app: &Arc<App>,
    caller: Caller,
    request: v1::ComposeImageRequest,
) -> Result<v1::ComposeImageResponse> {
    let metadata = request.metadata.ok_or_else(|| Failure::invalid("metadata", "is missing"))?;
    let owner = Arc::clone(app);
    let work = app.tasks.spawn(async move {
        let made = match compose(&owner, &caller.tenant, metadata).await? {
            Composed::Now(committed) => response(&committed),
            Composed::Before(upload) => ended(&owner, &caller, &upload).await?,
        };
        if let Some(image) = &made.image {
            let told = caller.record.image_of_work("ImageOps/ComposeImage", image);
            told.into_iter().for_each(|line| owner.audit.write(line));
        }
        Ok(v1::ComposeImageResponse { upload: made.upload, image: made.image, check_job: made.check_job })
    });
    work.await.map_err(Failure::internal)?
}

/// AbortSession.
pub(super) async fn abort_session(
    app: &App,
    caller: &Caller,
    request: &v1::AbortSessionRequest,
) -> Result<v1::AbortSessionResponse> {
    admission::check_session("session", &request.session)?;
    let aborted = app.catalogue.abort_session(&caller.tenant, &request.session, now()).await?;
    for id in &aborted {
        give_up(app, *id).await;
    }
    Ok(v1::AbortSessionResponse { parts: u32::try_from(aborted.len()).unwrap_or(u32::MAX) })
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
    if !request.session.is_empty() {
        return list_parts(app, caller, &request).await;
    }
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

/// The parts of a session, as many as an answer takes: by their number, the later ones left out.
async fn list_parts(
    app: &App,
    caller: &Caller,
    request: &v1::ListUploadsRequest,
) -> Result<v1::ListUploadsResponse> {
    if !request.states.is_empty() || !request.page_token.is_empty() {
        return Err(Failure::invalid("states", "with a session, states and page_token must be empty"));
    }
    let rows = app.catalogue.list_parts(&caller.tenant, &request.session).await?;
    let rows = pages::shown(rows, wire::upload);
    Ok(v1::ListUploadsResponse { uploads: pages::messages(rows), next_page_token: String::new() })
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
    give_up(app, id).await;
    Ok(wire::upload(&row))
}
