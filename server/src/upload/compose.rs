//! Joins the parts of a session into one image. What the parts hold is copied once, by the kernel where it can (shared
//! where the file system shares), and hashed on the way; a composition that fails leaves the session as it was.

use std::fs::File;
use std::sync::Arc;

use imageops::v1;
use imageops_catalogue::{Committed, Created, Error, UploadRow};
use imageops_model::{Micros, Tenant};
use imageops_store::fail_point;
use tonic::Code;
use uuid::Uuid;

use super::admission::{self, check_session};
use super::commit::{CommitError, Promise, commit, refuse, store_of, unwatched};
use super::ingest::Ingest;
use crate::app::{App, blocking};
use crate::clock::{latest, now};
use crate::failure::{Failure, Result};
use crate::{reason, stored};

/// How long one part may take: its bytes are copied and hashed.
const STALLED_MS: i64 = 3_600_000;

/// What came of a composition.
pub enum Composed {
    /// The image was made now.
    Now(Box<Committed>),
    /// The same request composed, or tried to, before.
    Before(Box<UploadRow>),
}

/// Composes the session that the metadata name.
pub async fn compose(app: &Arc<App>, tenant: &Tenant, metadata: v1::UploadMetadata) -> Result<Composed> {
    let session = metadata.session.clone();
    check_session("metadata.session", &session)?;
    if metadata.part != 0 {
        return Err(Failure::invalid("metadata.part", "must be 0: the parts are composed, not sent"));
    }
    if metadata.becomes_part {
        return Err(Failure::invalid("metadata.becomes_part", "what parts are joined into is none itself"));
    }
    let upload = ask(app, tenant, metadata, &session).await?;
    // What is staged under the id of an open upload, of whichever tenant, is that one's.
    let is_taken = app.catalogue.is_upload_open(upload.id).await?;
    if !is_taken {
        // Before the row: by its staged file the next start knows what was being composed here, and frees the session.
        stage(app, &upload).await?;
    }
    let begun = app.catalogue.begin_compose(upload.clone(), &session, now()).await;
    let is_begun = matches!(begun, Ok((Created::New(_), _)));
    if !is_taken && !is_begun && !app.catalogue.is_upload_open(upload.id).await? {
        stored::discard(app, store_of(app, &upload), upload.id.0.to_string()).await;
    }
    let (upload, parts) = match begun.map_err(|error| not_there(error, &session))? {
        (Created::New(upload), parts) => (upload, parts),
        (Created::Existing(upload), _) if upload.state.is_final() => {
            return Ok(Composed::Before(Box::new(upload)));
        }
        (Created::Existing(_), _) => return Err(Error::State { what: "session" }.into()),
    };
    fail_point::reach("composition-begun");
    let result = join(app, &upload, &parts).await;
    match result {
        Ok(committed) => Ok(Composed::Now(Box::new(committed))),
        Err(CommitError::Refused(failure)) => {
            refuse(app, &upload, &failure).await?;
            Err(failure)
        }
        Err(CommitError::Other(failure)) => {
            // Given up, so that the session can be composed again.
            stored::discard(app, store_of(app, &upload), upload.id.0.to_string()).await;
            app.catalogue.abort_upload(tenant, upload.id, now()).await?;
            Err(failure)
        }
    }
}

/// The upload that composes, placed where the first part lies if there is room.
async fn ask(
    app: &Arc<App>,
    tenant: &Tenant,
    mut metadata: v1::UploadMetadata,
    session: &str,
) -> Result<UploadRow> {
    if metadata.request_id.is_empty() {
        metadata.request_id = Uuid::new_v4().to_string();
    }
    let wanted = std::mem::take(&mut metadata.store);
    // What is asked for is no part; the session is what it joins.
    metadata.session.clear();
    let asked = admission::read(app, tenant, metadata)?;
    let parts = app.catalogue.list_parts(tenant, session).await?;
    let total = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.durable_bytes));
    let total = total.filter(|total| *total <= app.config.upload_max_bytes);
    let total = total.ok_or_else(|| admission::too_large(app.config.upload_max_bytes))?;
    let beside = parts.first().and_then(|part| part.store).map(|store| store.to_string());
    let sized = UploadRow { size_bytes: asked.size_bytes.or(Some(total)), ..asked.clone() };
    let store = match (wanted.is_empty(), beside) {
        (true, Some(beside)) => match admission::place(app, &sized, &beside).await {
            Ok(store) => store,
            Err(_) => admission::place(app, &sized, "").await?,
        },
        _ => admission::place(app, &sized, &wanted).await?,
    };
    let expire_time = expiry();
    Ok(UploadRow { store: Some(store), composes: Some(session.to_owned()), expire_time, ..asked })
}

async fn join(app: &App, upload: &UploadRow, parts: &[UploadRow]) -> Result<Committed, CommitError> {
    check_complete(parts)?;
    let mut ingest = Ingest::open(stage(app, upload).await?, 0, upload.wishes.sha512).await?;
    for part in parts {
        let (store, key) = (app.stores.writable(store_of(app, part))?, part.id.0.to_string());
        let file = blocking(move || store.open_staged(&key)).await?;
        let file = file.map_err(|error| match error {
            imageops_store::Error::NotFound => lost(),
            other => other.into(),
        })?;
        ingest.append(file, part.durable_bytes).await?;
        ingest.flush_some().await?;
        app.catalogue.extend_upload(upload.id, 0, now(), expiry()).await?;
    }
    commit(app, upload, &mut ingest, &[Promise::of(upload)], Default::default(), &unwatched).await
}

/// The file that the parts are copied into.
async fn stage(app: &App, upload: &UploadRow) -> Result<File> {
    let id = store_of(app, upload);
    let (store, key) = (app.stores.writable(id)?, upload.id.0.to_string());
    let file = blocking(move || store.stage(&key)).await?;
    Ok(file.inspect_err(|error| app.stores.report(id, error))?)
}

/// When a composition that makes no headway is given up, so that another one can begin.
fn expiry() -> Micros {
    latest().plus_ms(STALLED_MS)
}

/// With N parts there must be the numbers 1 to N.
fn check_complete(parts: &[UploadRow]) -> Result<()> {
    let numbers = parts.iter().filter_map(|part| part.part.as_ref()).map(|part| part.number);
    match numbers.zip(1..).find(|(number, wanted)| number != wanted) {
        None => Ok(()),
        Some((_, missing)) => {
            let message = format!("part {missing} is missing; send it and compose again");
            Err(Failure::new(Code::FailedPrecondition, reason::PART_MISSING, message).with("part", missing))
        }
    }
}

fn not_there(error: Error, session: &str) -> Failure {
    match error {
        Error::NotFound { .. } => Failure::not_found(reason::SESSION_NOT_FOUND, "session", session),
        other => other.into(),
    }
}

fn lost() -> Failure {
    let message =
        "a part that was durable is gone from its store; give the session up and send all parts again";
    Failure::new(Code::DataLoss, reason::UPLOAD_BYTES_LOST, message)
}
