//! What was sent, asked for and acknowledged, and nothing else: what rows and disks are compared with after each step.

use std::collections::{BTreeMap, BTreeSet};

use imageops_catalogue::{Catalogue as _, ImageFilter, ImagePage, ImageRow, JobRow, Page, UploadRow};
use imageops_model::{ImageId, ImageState, JobId, JobSpec, JobState, Tenant, UploadId, UploadState};

use super::disk::Place;
use super::worker::converted;
use super::{World, digest};

/// More rows than a seed makes.
const ROWS_MAX: u32 = 1_000;

/// An upload as its client knows it.
struct Sent {
    server: usize,
    content: Vec<u8>,
    is_promise_good: bool,
    sent_bytes: u64,
    told_bytes: u64,
    image: Option<ImageId>,
    is_over: bool,
    is_given_up: bool,
}

/// A job as it was asked for.
struct Asked {
    output: Option<ImageId>,
    /// What the output must be.
    content: Option<Vec<u8>>,
    is_acknowledged: bool,
    /// The last claim.
    attempt: u32,
    ended: Option<(JobState, Option<String>)>,
}

/// What must hold.
#[derive(Default)]
pub struct Reference {
    uploads: BTreeMap<UploadId, Sent>,
    jobs: BTreeMap<JobId, Asked>,
    /// Images that were seen, and what they hold.
    images: BTreeMap<ImageId, Vec<u8>>,
    removed: BTreeSet<ImageId>,
    fenced: u64,
    unsettled: String,
    is_settled: bool,
    violation: Option<String>,
}

impl Reference {
    /// The first thing that was not as expected.
    pub fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    /// Something is not as expected.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what());
        }
    }
}

/// What clients do and are told.
impl Reference {
    /// An upload is about to begin on this server.
    pub fn upload_begins(&mut self, id: UploadId, server: usize, content: Vec<u8>, is_promise_good: bool) {
        let sent = Sent {
            server,
            content,
            is_promise_good,
            sent_bytes: 0,
            told_bytes: 0,
            image: None,
            is_over: false,
            is_given_up: false,
        };
        self.uploads.insert(id, sent);
    }

    fn upload(&mut self, id: UploadId) -> &mut Sent {
        self.uploads.get_mut(&id).expect("an upload that has begun")
    }

    /// Bytes up to here leave the client.
    pub fn sends(&mut self, id: UploadId, upto_bytes: u64) {
        let sent = self.upload(id);
        sent.sent_bytes = sent.sent_bytes.max(upto_bytes);
    }

    /// The client was told that so many bytes are durable. An answer may come late: the highest counts.
    pub fn told_offset(&mut self, id: UploadId, offset: u64) {
        let sent = self.upload(id);
        sent.told_bytes = sent.told_bytes.max(offset);
        let sent_bytes = sent.sent_bytes;
        self.expect(offset <= sent_bytes, || {
            format!("R-4: {id} has {offset} bytes, but {sent_bytes} were sent")
        });
    }

    /// The client does not go on with it, or wants it gone.
    pub fn upload_given_up(&mut self, id: UploadId) {
        self.upload(id).is_given_up = true;
    }

    /// The client was told that it ended without an image.
    pub fn upload_ended(&mut self, id: UploadId) {
        let sent = self.upload(id);
        sent.is_over = true;
        let is_expected = !sent.is_promise_good || sent.is_given_up;
        self.expect(is_expected, || format!("R-4: {id} ended without an image"));
    }

    /// The client was told of its image.
    pub fn upload_acknowledged(&mut self, id: UploadId, image: ImageId) {
        let sent = self.upload(id);
        sent.is_over = true;
        let is_good = sent.is_promise_good && sent.image.is_none_or(|known| known == image);
        sent.image = Some(image);
        let content = sent.content.clone();
        self.images.entry(image).or_insert(content);
        self.expect(is_good, || format!("R-2: {id} was acknowledged as {image}"));
    }

    /// A client is about to ask for an image to go.
    pub fn removes(&mut self, image: ImageId) {
        self.removed.insert(image);
    }

    /// A client was told of its job.
    pub fn job_acknowledged(&mut self, id: JobId) {
        match self.jobs.get_mut(&id) {
            Some(asked) => asked.is_acknowledged = true,
            None => self.fail(format!("R-1: {id} was acknowledged, but never written")),
        }
    }

    /// A client was told how its job ended.
    pub fn job_end_told(&mut self, id: JobId, state: JobState) {
        let known = self.jobs.get(&id).and_then(|asked| asked.ended.as_ref()).map(|(state, _)| *state);
        self.expect(known == Some(state), || {
            format!("R-3: {id} ended {known:?}, its client was told {state:?}")
        });
    }
}

/// What servers write.
impl Reference {
    /// A job was written.
    pub fn job_made(&mut self, row: &JobRow, source: ImageId) {
        let output = match &row.spec {
            JobSpec::Convert(spec) => spec.output_image,
            _ => None,
        };
        let content = output.and_then(|_| self.images.get(&source)).map(|source| converted(source));
        let asked = Asked { output, content, is_acknowledged: false, attempt: 0, ended: None };
        self.jobs.insert(row.id, asked);
    }

    /// A worker has taken a job up.
    pub fn claimed(&mut self, row: &JobRow) {
        let asked = self.jobs.get_mut(&row.id).expect("a job that was written");
        let (before, has_ended) = (asked.attempt, asked.ended.is_some());
        asked.attempt = row.attempt;
        self.expect(row.attempt > before && !has_ended, || {
            format!(
                "R-3: {} was claimed with number {} after {before}; ended: {has_ended}",
                row.id, row.attempt
            )
        });
    }

    /// A worker wrote for a job, or was refused.
    pub fn wrote(&mut self, id: JobId, attempt: u32, is_taken: bool) {
        let asked = self.jobs.get(&id).expect("a job that was written");
        let (last, has_ended) = (asked.attempt, asked.ended.is_some());
        self.fenced += u64::from(!is_taken && attempt < last);
        self.expect(!is_taken || (attempt == last && !has_ended), || {
            format!("R-3: attempt {attempt} of {id} wrote after claim {last}; ended: {has_ended}")
        });
    }

    /// Writes that were refused to a worker whose job another one had.
    pub fn fenced(&self) -> u64 {
        self.fenced
    }

    /// Jobs that have not ended.
    pub fn live_jobs(&self) -> u64 {
        self.jobs.values().filter(|asked| asked.ended.is_none()).count() as u64
    }

    /// Whether nothing is left that should go or end.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// What is left.
    pub fn unsettled(&self) -> String {
        self.unsettled.clone()
    }
}

/// All rows at one moment.
struct Rows {
    images: Vec<ImageRow>,
    uploads: Vec<UploadRow>,
    jobs: Vec<JobRow>,
}

impl World {
    /// Compares rows and disks with what was sent and told; with `wants_rest` looks for what is left as well.
    pub(super) async fn check(&self, wants_rest: bool) {
        let rows = self.read_rows().await;
        let mut reference = self.reference.borrow_mut();
        for upload in &rows.uploads {
            reference.check_upload(self, upload);
        }
        for image in &rows.images {
            reference.check_image(self, image);
        }
        reference.check_acknowledged(&rows.images);
        for job in &rows.jobs {
            reference.check_job(job, &rows.images);
        }
        let lost = reference
            .jobs
            .iter()
            .find(|(id, asked)| asked.is_acknowledged && !rows.jobs.iter().any(|row| row.id == **id));
        if let Some(id) = lost.map(|(id, _)| *id) {
            reference.fail(format!("R-1: {id} was acknowledged and is lost"));
        }
        if wants_rest {
            reference.unsettled = self.left(&rows);
            reference.is_settled = reference.unsettled.is_empty();
        }
    }

    async fn read_rows(&self) -> Rows {
        let (tenant, rows) = (Tenant::built_in(), &self.catalogue);
        let filter = ImageFilter { states: ImageState::ALL.to_vec(), ..ImageFilter::default() };
        let page = ImagePage { limit: ROWS_MAX, ..ImagePage::default() };
        let all = || Page { limit: ROWS_MAX, after: None };
        Rows {
            images: rows.list_images(&tenant, &filter, page).await.expect("images"),
            uploads: rows.list_uploads(&tenant, &[], all()).await.expect("uploads"),
            jobs: rows.list_jobs(&tenant, &[], &[], all()).await.expect("jobs"),
        }
    }

    /// what lies on the disks and should not, and what has not ended. Empty when there is nothing.
    fn left(&self, rows: &Rows) -> String {
        let named: BTreeSet<_> =
            rows.images.iter().flat_map(|image| &image.replicas).map(|copy| &copy.blob).collect();
        let blobs =
            self.blobs().into_iter().filter(|blob| !named.contains(blob)).map(|blob| format!("blob {blob}"));
        let is_open = |name: &str| {
            rows.uploads.iter().any(|row| row.state == UploadState::Open && row.id.0.to_string() == name)
        };
        let staged = self.machines.iter().flat_map(|machine| machine.disk.borrow().names(Place::Staging));
        let staged = staged.filter(|name| !is_open(name)).map(|name| format!("staged {name}"));
        let uploads = rows
            .uploads
            .iter()
            .filter(|row| row.state == UploadState::Open)
            .map(|row| format!("open {}", row.id));
        let jobs = rows
            .jobs
            .iter()
            .filter(|row| !row.state.is_final())
            .map(|row| format!("{:?} {}", row.state, row.id));
        blobs.chain(staged).chain(uploads).chain(jobs).collect::<Vec<_>>().join(", ")
    }
}

impl Reference {
    /// what the catalogue says is durable is, and is what was sent.
    fn check_upload(&mut self, world: &World, row: &UploadRow) {
        let id = row.id;
        let Some(sent) = self.uploads.get_mut(&id) else {
            return self.fail(format!("expected uploads that were begun, there is {id}"));
        };
        if row.state != UploadState::Open {
            let is_other = sent.image.is_some() && sent.image != row.image;
            if row.image.is_some() {
                sent.image = row.image;
            }
            return self.expect(!is_other, || format!("R-2: {id} has become another image, {:?}", row.image));
        }
        let (count, told, sent_bytes) = (row.durable_bytes, sent.told_bytes, sent.sent_bytes);
        let disk = world.machines[sent.server].disk.borrow();
        let durable = disk.read_durable(Place::Staging, &id.0.to_string()).unwrap_or_default();
        let is_there = durable.get(..count as usize).is_some_and(|bytes| sent.content.starts_with(bytes));
        self.expect(is_there, || format!("R-4: {count} bytes of {id} are not durable"));
        self.expect((told..=sent_bytes).contains(&count), || {
            format!("R-4: {id} has {count} bytes; {sent_bytes} were sent, and {told} told to be durable")
        });
    }

    /// an image has its bytes, whole, and a loss of power takes none.
    fn check_image(&mut self, world: &World, row: &ImageRow) {
        let id = row.id;
        let upload =
            self.uploads.values().find(|sent| sent.image == Some(id)).filter(|sent| sent.is_promise_good);
        let job = self
            .jobs
            .values()
            .find(|asked| asked.output == Some(id))
            .and_then(|asked| asked.content.as_ref());
        let Some(content) = upload.map(|sent| &sent.content).or(job).cloned() else {
            return self.fail(format!("R-2: expected images that were sent or made, there is {id}"));
        };
        let is_told = row.sha256 == digest(&content) && row.size_bytes == content.len() as u64;
        self.expect(is_told, || format!("R-2: {id} has the digest {}", row.sha256));
        let blob = row.ready_replica().map(|copy| copy.blob.clone()).unwrap_or_default();
        let durable = world.durable_blob(&blob);
        self.expect(durable.as_ref() == Some(&content), || {
            format!("R-1, R-5: {id} names {blob}, of which this is durable: {durable:?}")
        });
        self.images.insert(id, content);
    }

    /// nothing that was seen goes without having been asked to.
    fn check_acknowledged(&mut self, rows: &[ImageRow]) {
        let is_there = |id: &ImageId| rows.iter().any(|row| row.id == *id && row.state == ImageState::Active);
        let lost = self.images.keys().find(|id| !self.removed.contains(id) && !is_there(id));
        if let Some(id) = lost {
            self.fail(format!("R-1: {id} is lost"));
        }
    }

    /// a job ends once, with its image or without one.
    fn check_job(&mut self, row: &JobRow, images: &[ImageRow]) {
        let id = row.id;
        let Some(asked) = self.jobs.get_mut(&id) else {
            return self.fail(format!("expected jobs that were asked for, there is {id}"));
        };
        let (output, before) = (asked.output, asked.ended.clone());
        let is_made = output.is_some_and(|output| images.iter().any(|image| image.id == output));
        if row.state != JobState::Succeeded {
            self.expect(!is_made, || format!("R-3: {id} is {:?} and has an output", row.state));
        }
        let is_explained = (row.state == JobState::Failed) == row.failure.is_some();
        self.expect(is_explained, || format!("R-3: {id} is {:?}, the reason {:?}", row.state, row.failure));
        let end = row.state.is_final().then(|| (row.state, row.result.clone()));
        if before.is_some() {
            return self.expect(end == before, || format!("R-3: {id} ended {before:?}, and now is {end:?}"));
        }
        if row.state == JobState::Succeeded {
            self.expect(output.is_none() || is_made, || format!("R-3: {id} succeeded without its output"));
        }
        if let Some(asked) = self.jobs.get_mut(&id) {
            asked.ended = end;
        }
    }
}
