//! Uploads as `server/src/upload` does them: bytes in, flushes, the commit.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use imageops_catalogue::{Catalogue as _, Committed, Error, UploadRow};
use imageops_model::{ImageDetails, ImageId, JobFailure, Label, Tenant, UploadId, UploadState, UploadWishes};

use super::disk::Place;
use super::server::{Answer, Life};
use super::{Trouble, digest, image_row};

/// When an upload that nobody goes on with is given up.
const EXPIRE_MS: i64 = 10 * 60_000;

/// One upload in one life.
#[derive(Default)]
pub struct Session {
    is_held: Cell<bool>,
    /// What was received, as the digests saw it; `None` until the staged file was opened.
    received: RefCell<Option<Vec<u8>>>,
}

/// The right to write an upload.
struct Hold(Rc<Session>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.is_held.set(false);
    }
}

impl Life {
    async fn hold(&self, id: UploadId) -> Hold {
        let session = Rc::clone(self.sessions.borrow_mut().entry(id).or_default());
        while session.is_held.replace(true) {
            self.world.sleep(100).await;
        }
        Hold(session)
    }

    async fn get_upload(&self, id: UploadId) -> Result<UploadRow, Trouble> {
        self.world
            .ask("an upload is shown", |rows| async move { rows.get_upload(&Tenant::built_in(), id).await })
            .await
    }

    async fn extend(&self, id: UploadId, durable_bytes: u64) -> Result<(), Trouble> {
        let now = self.world.now.get();
        self.world
            .change(&format!("{id} has {durable_bytes} durable bytes"), |rows| async move {
                rows.extend_upload(id, durable_bytes, now, now.plus_ms(EXPIRE_MS)).await
            })
            .await
    }
}

fn staged(id: UploadId) -> String {
    id.0.to_string()
}

/// Begins an upload.
pub async fn create(life: &Life, id: UploadId, size_bytes: u64, sha256: String) -> Result<Answer, Trouble> {
    let now = life.world.now.get();
    let row = UploadRow {
        id,
        tenant: Tenant::built_in(),
        state: UploadState::Open,
        label: Label::default(),
        details: ImageDetails::default(),
        declared_format: None,
        size_bytes: Some(size_bytes),
        expected_md5: None,
        expected_sha256: Some(sha256),
        store: Some(super::STORE),
        part: None,
        composes: None,
        record: None,
        archive: None,
        wishes: UploadWishes::default(),
        durable_bytes: 0,
        reserved_bytes: 0,
        image: None,
        failure: None,
        create_time: now,
        update_time: now,
        expire_time: now.plus_ms(EXPIRE_MS),
    };
    let created = life
        .world
        .change(&format!("{id} begins"), |rows| async move { rows.create_upload(row).await })
        .await?;
    let (imageops_catalogue::Created::New(row) | imageops_catalogue::Created::Existing(row)) = created;
    Ok(ended(&row).unwrap_or(Answer::Offset(row.durable_bytes)))
}

/// The answer for an upload that has ended.
fn ended(row: &UploadRow) -> Option<Answer> {
    match (row.state, row.image) {
        (UploadState::Open, _) => None,
        (_, Some(image)) => Some(Answer::Image(image)),
        (_, None) => Some(Answer::Ended),
    }
}

/// The upload, and what was received of it so far, held alone; or the answer when it has ended.
async fn open(life: &Life, id: UploadId) -> Result<Result<(UploadRow, Hold, Vec<u8>), Answer>, Trouble> {
    if let Some(answer) = ended(&life.get_upload(id).await?) {
        return Ok(Err(answer));
    }
    let hold = life.hold(id).await;
    // Read again: who held it before may have ended it.
    let row = life.get_upload(id).await?;
    if let Some(answer) = ended(&row) {
        return Ok(Err(answer));
    }
    let known = hold.0.received.take();
    let received = match known {
        Some(received) => received,
        None => {
            life.stage(&staged(id)).await;
            let durable_bytes = row.durable_bytes as usize;
            let bytes = life.disk(|disk| disk.read(Place::Staging, &staged(id)).map(<[u8]>::to_vec));
            let Some(bytes) = bytes.filter(|bytes| bytes.len() >= durable_bytes) else {
                life.world.reference.borrow_mut().fail(format!("R-4: durable bytes of {id} are gone"));
                return Ok(Err(Answer::Ended));
            };
            // A crash may have left more than was durable.
            let _ = life.write(&staged(id), durable_bytes, &[]).await;
            bytes[..durable_bytes].to_vec()
        }
    };
    Ok(Ok((row, hold, received)))
}

/// Takes bytes, and makes them durable.
pub async fn append(life: &Life, id: UploadId, offset: u64, bytes: &[u8]) -> Result<Answer, Trouble> {
    let (_, hold, mut received) = match open(life, id).await? {
        Ok(open) => open,
        Err(answer) => return Ok(answer),
    };
    if offset == received.len() as u64 {
        // What fails from here on leaves no session: the next one reads from the file what is durable.
        if life.write(&staged(id), received.len(), bytes).await.is_err() {
            return Ok(Answer::Unavailable);
        }
        received.extend_from_slice(bytes);
        if life.flush(&staged(id)).await.is_err() {
            return Ok(Answer::Unavailable);
        }
        life.extend(id, received.len() as u64).await?;
    }
    let durable_bytes = received.len() as u64;
    hold.0.received.replace(Some(received));
    Ok(Answer::Offset(durable_bytes))
}

/// Makes the image.
pub async fn commit(life: &Life, id: UploadId) -> Result<Answer, Trouble> {
    let (row, _hold, received) = match open(life, id).await? {
        Ok(open) => open,
        Err(answer) => return Ok(answer),
    };
    if Some(received.len() as u64) != row.size_bytes {
        life.extend(id, received.len() as u64).await?;
        return Ok(Answer::Offset(received.len() as u64));
    }
    if life.flush(&staged(id)).await.is_err() {
        return Ok(Answer::Unavailable);
    }
    if row.expected_sha256 != Some(digest(&received)) {
        return refuse(life, id).await;
    }
    let fresh = life.world.uuid();
    let blob = fresh.to_string();
    let Some((blob, shares)) = publish_or_share(life, id, &received, blob).await? else {
        return Ok(Answer::Unavailable);
    };
    let committed = write_row(life, &row, ImageId(fresh), &received, (blob, shares)).await;
    let Ok(committed) = committed else { return committed.map(|_| Answer::Unavailable) };
    life.discard(&staged(id)).await;
    life.sessions.borrow_mut().remove(&id);
    Ok(Answer::Image(committed.image.id))
}

/// The bytes of an image with equal ones, or those that were staged as a blob of their own.
async fn publish_or_share(
    life: &Life,
    id: UploadId,
    bytes: &[u8],
    fresh: String,
) -> Result<Option<(String, Option<ImageId>)>, Trouble> {
    let (sha256, size_bytes) = (digest(bytes), bytes.len() as u64);
    let same = life
        .world
        .ask("equal bytes are looked for", |rows| async move {
            rows.find_same(&Tenant::built_in(), &sha256, size_bytes, super::STORE).await
        })
        .await?;
    if let Some((image, blob)) = same
        && life.read(&blob).await.as_deref() == Some(bytes)
    {
        return Ok(Some((blob, Some(image))));
    }
    Ok(life.publish(&staged(id), &fresh).await.is_ok().then_some((fresh, None)))
}

async fn write_row(
    life: &Life,
    upload: &UploadRow,
    image: ImageId,
    bytes: &[u8],
    (mut blob, mut shares): (String, Option<ImageId>),
) -> Result<Committed, Trouble> {
    let (world, id) = (&life.world, upload.id);
    let write = async |blob: &str, shares: Option<ImageId>| {
        let (row, now) = (image_row(world, image, bytes, blob), world.now.get());
        let what = format!("{id} becomes {image} with {blob}");
        world.change(&what, |rows| async move { rows.commit_upload(id, row, shares, None, now).await }).await
    };
    let mut written = write(&blob, shares).await;
    if shares.is_some() && matches!(written, Err(Trouble::Refused(Error::Conflict { what: "blob" }))) {
        // The image with the same bytes went in between, and its blob goes with it.
        (blob, shares) = (image.0.to_string(), None);
        if life.publish(&staged(id), &blob).await.is_err() {
            return Err(Trouble::Unavailable);
        }
        written = write(&blob, shares).await;
    }
    if let Err(trouble) = &written {
        let is_settled = match trouble {
            Trouble::Refused(_) => true,
            // It may come to light as long as no later write has been made.
            Trouble::Unavailable => {
                let later = life.extend(id, upload.durable_bytes).await;
                matches!(later, Ok(()) | Err(Trouble::Refused(Error::State { .. } | Error::NotFound { .. })))
            }
        };
        if is_settled {
            life.remove_unless_referenced(&blob).await;
        }
    }
    written
}

async fn refuse(life: &Life, id: UploadId) -> Result<Answer, Trouble> {
    let failure =
        JobFailure { code: 3, reason: "DIGEST_MISMATCH".to_owned(), message: "not those bytes".to_owned() };
    let now = life.world.now.get();
    life.world
        .change(&format!("{id} is refused"), |rows| async move { rows.fail_upload(id, failure, now).await })
        .await?;
    life.discard(&staged(id)).await;
    life.sessions.borrow_mut().remove(&id);
    Ok(Answer::Ended)
}

/// Gives an upload up. First the row: who holds the upload can then no longer commit it.
pub async fn abort(life: &Life, id: UploadId) -> Result<Answer, Trouble> {
    let now = life.world.now.get();
    let aborted = life
        .world
        .change(&format!("{id} is aborted"), |rows| async move {
            rows.abort_upload(&Tenant::built_in(), id, now).await
        })
        .await;
    match aborted {
        Ok(_) => {
            drop_staged(life, id).await;
            Ok(Answer::Ended)
        }
        Err(Trouble::Refused(Error::State { .. })) => {
            Ok(ended(&life.get_upload(id).await?).unwrap_or(Answer::Unavailable))
        }
        Err(trouble) => Err(trouble),
    }
}

/// Drops the staged bytes of an upload that has ended.
pub async fn drop_staged(life: &Life, id: UploadId) {
    let hold = life.hold(id).await;
    hold.0.received.take();
    life.discard(&staged(id)).await;
    life.sessions.borrow_mut().remove(&id);
}
