//! One life of a server, from a start to the next crash: what it remembers, its way into the store, and what it answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use imageops_catalogue::{Catalogue as _, Created, Error, NewJob, RequestKey};
use imageops_model::{
    CheckSpec, ConvertSpec, ImageId, JobId, JobSpec, JobState, Label, Micros, Source, Tenant, UploadId,
};
use uuid::Uuid;

use super::disk::Place;
use super::schedule::Owner;
use super::uploads::Session;
use super::worker::{Cause, Stop};
use super::{Trouble, World, sweeper, uploads, worker};

/// Jobs that run at the same time on one server.
const SLOTS: usize = 2;
/// As many jobs as may be queued: all.
const QUEUE_LIMIT: u64 = 1_000;
/// How long an image lies in the trash.
const TRASH_MS: i64 = 60_000;

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Begin an upload of so many bytes with this digest.
    Create(UploadId, u64, String),
    /// Take these bytes from this offset on.
    Append(UploadId, u64, Vec<u8>),
    /// Make it an image.
    Commit(UploadId),
    /// Give it up.
    Abort(UploadId),
    /// Check an image.
    Check(Uuid, ImageId),
    /// Convert an image.
    Convert(Uuid, ImageId),
    /// How far is the job?
    GetJob(JobId),
    /// Stop it.
    CancelJob(JobId),
    /// Move an image into the trash, from which it goes.
    Trash(ImageId),
    /// Remove it for good.
    Purge(ImageId),
}

/// What it is told.
#[derive(Clone, Debug)]
pub enum Answer {
    /// So many bytes are durable.
    Offset(u64),
    /// The image is there.
    Image(ImageId),
    /// The upload has ended without an image.
    Ended,
    /// The job, as it is.
    Job(JobId, JobState, Option<ImageId>),
    /// It is done.
    Done,
    /// There is no such thing, or it can no longer be done.
    No,
    /// Try again.
    Unavailable,
}

impl From<Trouble> for Answer {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unavailable => Self::Unavailable,
            Trouble::Refused(_) => Self::No,
        }
    }
}

/// What a store could not do.
#[derive(Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The name is that of other bytes.
    Exists,
    /// There is no such file.
    NotFound,
}

/// A server from its start on.
pub struct Life {
    pub(super) world: Rc<World>,
    pub(super) number: usize,
    pub(super) sessions: RefCell<BTreeMap<UploadId, Rc<Session>>>,
    /// Jobs that run here.
    pub(super) running: RefCell<Vec<Rc<Stop>>>,
    /// Rung when a job is queued.
    pub(super) bell: Cell<u64>,
    /// Since when blobs are known to have no row.
    pub(super) orphans: RefCell<BTreeMap<String, Micros>>,
    is_draining: Cell<bool>,
}

/// Starts a server after so long: it puts things in order, then works.
pub fn start(world: &Rc<World>, number: usize, down_ms: i64) {
    let life = Rc::new(Life {
        world: Rc::clone(world),
        number,
        sessions: RefCell::default(),
        running: RefCell::default(),
        bell: Cell::default(),
        orphans: RefCell::default(),
        is_draining: Cell::default(),
    });
    let owner = Owner::Server(number);
    world.spawn(owner, async move {
        let world = Rc::clone(&life.world);
        world.sleep(down_ms).await;
        // A start that fails is tried again.
        while sweeper::recover(&life).await.is_err() {
            world.sleep(1_000).await;
        }
        world.tell(&format!("server {number} is up"));
        *world.machines[number].life.borrow_mut() = Some(Rc::clone(&life));
        for _ in 0..SLOTS {
            world.spawn(owner, worker::dispatch(Rc::clone(&life)));
        }
        world.spawn(owner, sweeper::run(life));
    });
}

impl Life {
    /// Told to stop: jobs are given back, none is taken up.
    pub fn drain(&self) {
        self.is_draining.set(true);
        for stop in &*self.running.borrow() {
            stop.because(Cause::Shutdown);
        }
    }

    /// Whether it was told to stop.
    pub fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Does what was asked for.
    pub async fn answer(self: Rc<Self>, request: Request) -> Answer {
        let answer = match request {
            Request::Create(id, size_bytes, sha256) => uploads::create(&self, id, size_bytes, sha256).await,
            Request::Append(id, offset, bytes) => uploads::append(&self, id, offset, &bytes).await,
            Request::Commit(id) => uploads::commit(&self, id).await,
            Request::Abort(id) => uploads::abort(&self, id).await,
            Request::Check(request, image) => self.create_job(request, image, None).await,
            Request::Convert(request, image) => {
                let output = ImageId(self.world.uuid());
                self.create_job(request, image, Some(output)).await
            }
            Request::GetJob(id) => self.get_job(id).await,
            Request::CancelJob(id) => self.cancel_job(id).await,
            Request::Trash(image) => self.trash(image).await,
            Request::Purge(image) => self.purge(image).await,
        };
        answer.unwrap_or_else(Answer::from)
    }

    async fn create_job(
        &self,
        request: Uuid,
        image: ImageId,
        output: Option<ImageId>,
    ) -> Result<Answer, Trouble> {
        let world = &self.world;
        world
            .ask(
                "the source is looked at",
                |rows| async move { rows.get_image(&Tenant::built_in(), image).await },
            )
            .await?;
        let source = Source::Image(image);
        let spec = match output {
            None => JobSpec::Check(CheckSpec { source, md5: true, sha256: true }),
            Some(_) => JobSpec::Convert(ConvertSpec {
                source,
                format: "raw".to_owned(),
                output_file: None,
                output_image: output,
                output_label: Label::default(),
                cached: false,
                compression: None,
            }),
        };
        let new = NewJob {
            // What is asked for again is the same: the fingerprint leaves out what the server has chosen.
            request: Some(RequestKey { id: request, fingerprint: [u8::from(output.is_some()); 32] }),
            ..NewJob::new(JobId(world.uuid()), Tenant::built_in(), spec, world.now.get())
        };
        let created = world
            .change("a job is asked for", |rows| async move {
                let created = rows.create_job(new, QUEUE_LIMIT).await;
                if let Ok(Created::New(row)) = &created {
                    world.reference.borrow_mut().job_made(row, image);
                }
                created
            })
            .await?;
        self.bell.set(self.bell.get() + 1);
        let (Created::New(row) | Created::Existing(row)) = created;
        Ok(Answer::Job(row.id, row.state, output_of(&row.spec)))
    }

    async fn get_job(&self, id: JobId) -> Result<Answer, Trouble> {
        let row = self
            .world
            .ask("a job is shown", |rows| async move { rows.get_job(&Tenant::built_in(), id).await })
            .await?;
        Ok(Answer::Job(row.id, row.state, output_of(&row.spec)))
    }

    async fn cancel_job(&self, id: JobId) -> Result<Answer, Trouble> {
        let world = &self.world;
        let now = world.now.get();
        let row = world
            .change("a job is cancelled", |rows| async move {
                rows.cancel_job(&Tenant::built_in(), id, now).await
            })
            .await?;
        Ok(Answer::Job(row.id, row.state, output_of(&row.spec)))
    }

    async fn trash(&self, image: ImageId) -> Result<Answer, Trouble> {
        let world = &self.world;
        let now = world.now.get();
        world
            .change("an image goes into the trash", |rows| async move {
                rows.trash_image(&Tenant::built_in(), image, None, now, now.plus_ms(TRASH_MS)).await
            })
            .await?;
        Ok(Answer::Done)
    }

    async fn purge(&self, image: ImageId) -> Result<Answer, Trouble> {
        let world = &self.world;
        let now = world.now.get();
        let purged = world
            .change("an image goes for good", |rows| async move {
                rows.purge_image(&Tenant::built_in(), image, None, true, now).await
            })
            .await;
        match purged {
            Ok(_) | Err(Trouble::Refused(Error::NotFound { .. })) => {
                // What stays now goes with a sweep.
                let _ = self.remove_doomed().await;
                Ok(Answer::Done)
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Removes the bytes that lost their last row.
    pub async fn remove_doomed(&self) -> Result<(), Trouble> {
        let world = &self.world;
        for blob in world
            .ask("doomed bytes are listed", |rows| async move { rows.list_doomed(super::STORE, 100).await })
            .await?
        {
            self.remove(&blob).await;
            world
                .change("doomed bytes are forgotten", |rows| async move {
                    rows.forget_doomed(super::STORE, &[blob]).await
                })
                .await?;
        }
        Ok(())
    }

    /// Removes bytes whose row could not be written.
    pub async fn remove_unless_referenced(&self, blob: &str) {
        if let Ok(false) = self.is_referenced(blob).await {
            self.remove(blob).await;
        }
    }

    /// Whether a row names these bytes.
    pub async fn is_referenced(&self, blob: &str) -> Result<bool, Trouble> {
        let name = blob.to_owned();
        self.world
            .ask(&format!("has {blob} a row?"), |rows| async move {
                rows.is_blob_referenced(super::STORE, &name).await
            })
            .await
    }

    /// Makes a staged file, or finds it, with a durable name.
    pub async fn stage(&self, name: &str) {
        self.world.wait_for_disk().await;
        self.disk(|disk| disk.make(Place::Staging, name));
        self.world.wait_for_disk().await;
        self.disk(|disk| disk.flush_directory(Place::Staging));
    }

    /// Cuts a staged file, and writes behind that.
    pub async fn write(&self, name: &str, offset: usize, data: &[u8]) -> Result<(), StoreError> {
        self.world.wait_for_disk().await;
        self.disk(|disk| disk.write(Place::Staging, name, offset, data)).ok_or(StoreError::NotFound)
    }

    /// Makes the bytes of a staged file durable.
    pub async fn flush(&self, name: &str) -> Result<(), StoreError> {
        self.world.wait_for_disk().await;
        self.disk(|disk| disk.flush_file(Place::Staging, name)).ok_or(StoreError::NotFound)
    }

    /// Drops a staged file.
    pub async fn discard(&self, name: &str) {
        self.world.wait_for_disk().await;
        self.disk(|disk| disk.remove(Place::Staging, name));
        self.world.has_changed.set(true);
    }

    /// Makes the bytes of a staged file a blob.
    pub async fn publish(&self, staged: &str, blob: &str) -> Result<(), StoreError> {
        let world = &self.world;
        if let Some(objects) = &world.bucket {
            let bytes = self.disk(|disk| disk.read(Place::Staging, staged).map(<[u8]>::to_vec));
            let bytes = bytes.ok_or(StoreError::NotFound)?;
            world.wait_for_disk().await;
            // An object is there whole, or not at all, and replaces no other.
            let is_ours =
                *objects.borrow_mut().entry(blob.to_owned()).or_insert_with(|| bytes.clone()) == bytes;
            world.tell(&format!("server {} publishes {blob}", self.number));
            return if is_ours { Ok(()) } else { Err(StoreError::Exists) };
        }
        self.flush(staged).await?;
        world.wait_for_disk().await;
        let is_ours = self.disk(|disk| disk.link(staged, blob)).ok_or(StoreError::NotFound)?;
        if !is_ours {
            return Err(StoreError::Exists);
        }
        world.wait_for_disk().await;
        self.disk(|disk| disk.flush_directory(Place::Blobs));
        world.tell(&format!("server {} publishes {blob}", self.number));
        Ok(())
    }

    /// The bytes of a blob.
    pub async fn read(&self, blob: &str) -> Option<Vec<u8>> {
        self.world.wait_for_disk().await;
        match &self.world.bucket {
            Some(objects) => objects.borrow().get(blob).cloned(),
            None => self.disk(|disk| disk.read(Place::Blobs, blob).map(<[u8]>::to_vec)),
        }
    }

    /// Removes a blob.
    pub async fn remove(&self, blob: &str) {
        let world = &self.world;
        world.wait_for_disk().await;
        match &world.bucket {
            Some(objects) => drop(objects.borrow_mut().remove(blob)),
            None => {
                self.disk(|disk| disk.remove(Place::Blobs, blob));
                world.wait_for_disk().await;
                self.disk(|disk| disk.flush_directory(Place::Blobs));
            }
        }
        world.tell(&format!("server {} removes {blob}", self.number));
        world.has_changed.set(true);
    }

    pub(super) fn disk<T>(&self, with: impl FnOnce(&mut super::Disk) -> T) -> T {
        with(&mut self.world.machines[self.number].disk.borrow_mut())
    }
}

fn output_of(spec: &JobSpec) -> Option<ImageId> {
    match spec {
        JobSpec::Convert(spec) => spec.output_image,
        _ => None,
    }
}
