//! rel_33: clients that share a few images, while the server is killed: one order of all that they did explains what each of
//! them was told.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use imageops::FieldMask;
use imageops::v1::{
    self, ConvertRequest, CreateImageRequest, DeleteImageRequest, DownloadImageRequest, GetImageRequest,
    ImageFormat, ImageState, JobState, ListImagesRequest, PurgeImageRequest, RestoreImageRequest,
    UpdateImageRequest, UploadCommit, UploadMetadata,
};
use imageops_client::Client;
use tokio::task::block_in_place;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::audit;
use crate::history::{Operation, explain};
use crate::image_model::{Answer, Call, Image, Shown};
use crate::rel_01::target;
use crate::roads::Target;
use crate::run::{Run, beside, join};
use crate::support::jobs::{ended, image as source};
use crate::support::random::Random;
use crate::support::upload::{Stream, digests};

const CLIENTS: u64 = 8;
const OPERATIONS: u64 = 10_000;
/// Images that there are at a time.
const PLACES: usize = 4;
const IMAGE_BYTES: usize = 4 << 10;
const KILLS_MIN: u64 = 3;
/// Between one start and the next kill.
const LIFE_MS_MAX: u64 = 2_000;
/// How long one answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a client whose call was not answered waits for a server that has started since.
const START_MAX: Duration = Duration::from_secs(60);
/// What all images of this test have.
const LABEL: (&str, &str) = ("test", "rel_33");

/// What all clients share.
struct Shared {
    target: Target,
    begun: Instant,
    /// Ids of the images that there are now; another one takes the place of one that is gone.
    places: Mutex<Vec<Uuid>>,
    histories: Mutex<BTreeMap<Uuid, Vec<Operation<Image>>>>,
    /// When the server was up again, each time.
    starts_us: Mutex<Vec<u64>>,
    is_enough: AtomicBool,
    uploads: AtomicU64,
    unanswered: AtomicU64,
    operations: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rel_33_one_order_explains_what_clients_were_told() {
    let mut run = Run::new("rel_33");
    let operations = run.part_of(OPERATIONS, 50);
    let mut service = run.service(|setup| setup.arguments = vec!["--job-attempts".into(), "100".into()]);
    let shared = Arc::new(Shared {
        target: target(&service),
        begun: Instant::now(),
        places: Mutex::new((0..PLACES).map(|_| Uuid::new_v4()).collect()),
        histories: Mutex::default(),
        starts_us: Mutex::default(),
        is_enough: AtomicBool::new(false),
        uploads: AtomicU64::default(),
        unanswered: AtomicU64::default(),
        operations: AtomicU64::default(),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (shared, seed) = (Arc::clone(&shared), run.random.next());
            beside(move || work(shared, seed, operations))
        })
        .collect();
    let mut kills = 0;
    while kills < KILLS_MIN || !clients.iter().all(JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(run.random.below(LIFE_MS_MAX))).await;
        block_in_place(|| service.restart());
        kills += 1;
        lock(&shared.starts_us).push(shared.now_us());
        shared.is_enough.store(kills >= KILLS_MIN, Ordering::Release);
    }
    let jobs: Vec<String> = clients.into_iter().flat_map(join).collect();

    let client = service.client();
    let converted = check_jobs(&client, &jobs).await;
    shared.look_once_more(&client).await;
    let histories = shared.complete_histories();
    let mut orders_most = 0;
    for (id, history) in &histories {
        let explained = block_in_place(|| explain(Image::default(), history));
        orders_most = orders_most.max(explained.unwrap_or_else(|why| panic!("images/{id}: {why}")));
    }
    check_end(&service, &client).await;
    let unanswered = shared.unanswered.load(Ordering::Acquire);
    assert!(unanswered > 0, "expected operations that a kill has cut off");
    run.finish(&format!(
        "{CLIENTS} clients, {} operations on {} images, {unanswered} without an answer; {kills} kills; {converted} of {} \
         conversions succeeded; every history explained, with at most {orders_most} orders at a time",
        shared.operations.load(Ordering::Acquire),
        histories.len(),
        jobs.len()
    ));
}

/// Every job that was acknowledged ends: with an image, or because its source was away. How many succeeded.
async fn check_jobs(client: &Client, jobs: &[String]) -> usize {
    let mut succeeded = 0;
    for name in jobs {
        let job = ended(client, name).await;
        if job.state() == JobState::Cancelled {
            // Its source was removed for good.
            continue;
        }
        if let Some(error) = &job.error {
            let is_away =
                ["IMAGE_NOT_FOUND", "IMAGE_TRASHED", "IMAGE_NOT_ACTIVE"].contains(&error.reason.as_str());
            assert!(is_away, "expected a conversion, or a source that was away: {job:?}");
            continue;
        }
        assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
        let Some(v1::job::Result::Convert(result)) = &job.result else {
            panic!("expected a result: {job:?}")
        };
        // Removed already by the client that asked for it, or there.
        match client.delete_image_for_good(&result.output_image, "").await {
            Ok(image) => assert_eq!(image.state(), ImageState::Active, "{image:?}"),
            Err(error) => assert_eq!(error.code(), Code::NotFound, "{error}"),
        }
        succeeded += 1;
    }
    succeeded
}

/// Nothing of all this is left over.
async fn check_end(service: &crate::support::Service, client: &Client) {
    for upload in audit::open_uploads(client).await {
        client.abort_upload(&upload.name).await.unwrap();
    }
    for image in audit::images(client).await {
        client.delete_image_for_good(&image.name, "").await.unwrap();
    }
    audit::check_store(service).await;
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).expect("a run that is not that long")
    }

    fn note(&self, id: Uuid, call: Call, answer: Option<Answer>, (start_us, end_us): (u64, u64)) {
        let operation = Operation { call, answer, start_us, end_us };
        lock(&self.histories).entry(id).or_default().push(operation);
    }

    /// Another image takes the place of one that is gone.
    fn replace(&self, gone: Uuid) {
        if let Some(place) = lock(&self.places).iter_mut().find(|place| **place == gone) {
            *place = Uuid::new_v4();
        }
    }

    /// What is there when all is done.
    async fn look_once_more(&self, client: &Client) {
        let ids: Vec<Uuid> = lock(&self.histories).keys().copied().collect();
        for id in ids {
            let start_us = self.now_us();
            let answer = match client.get_image(&name_of(id)).await {
                Ok(image) => Answer::Image(shown(&image)),
                Err(error) if error.code() == Code::NotFound => Answer::NotFound,
                Err(error) => panic!("images/{id}: {error}"),
            };
            self.note(id, Call::Show, Some(answer), (start_us, self.now_us()));
        }
    }

    /// What was not answered can no longer happen once another server has started: the one that had it is dead.
    fn complete_histories(&self) -> BTreeMap<Uuid, Vec<Operation<Image>>> {
        let (starts_us, mut histories) = (lock(&self.starts_us).clone(), lock(&self.histories).clone());
        for operation in histories.values_mut().flatten().filter(|operation| operation.answer.is_none()) {
            let next = starts_us.iter().find(|start_us| **start_us >= operation.end_us);
            operation.end_us = next.copied().unwrap_or(u64::MAX);
        }
        histories
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(id: Uuid) -> String {
    format!("images/{id}")
}

fn shown(image: &v1::Image) -> Shown {
    Shown {
        state: match image.state() {
            ImageState::Queued => "queued",
            ImageState::Uploading => "uploading",
            ImageState::Active => "active",
            ImageState::Trashed => "trashed",
            _ => "another one",
        },
        description: image.description.clone(),
        etag: image.etag.clone(),
        sha256: image.digests.as_ref().map(|digests| digests.sha256.clone()).unwrap_or_default(),
    }
}

/// One client: operations, one after another; the jobs that it was told of.
async fn work(shared: Arc<Shared>, seed: u64, operations: u64) -> Vec<String> {
    let client = shared.target.client();
    let random = Random::from_seed(seed);
    let mut worker = Worker { shared, client, random, etags: BTreeMap::new(), jobs: Vec::new(), done: 0 };
    while worker.done < operations || !worker.shared.is_enough.load(Ordering::Acquire) {
        worker.step().await;
    }
    worker.shared.operations.fetch_add(worker.done, Ordering::AcqRel);
    worker.jobs
}

struct Worker {
    shared: Arc<Shared>,
    client: Client,
    random: Random,
    /// Etags as they were seen last.
    etags: BTreeMap<Uuid, String>,
    jobs: Vec<String>,
    done: u64,
}

impl Worker {
    /// One operation, or those of one upload.
    async fn step(&mut self) {
        let place = self.random.below(PLACES as u64) as usize;
        let id = lock(&self.shared.places)[place];
        match self.random.below(100) {
            0..=17 => self.fill(id).await,
            18..=35 => self.show(id).await,
            36..=45 => self.list().await,
            46..=57 => self.download(id).await,
            58..=73 => self.update(id).await,
            74..=83 => self.delete(id).await,
            84..=90 => self.restore(id).await,
            91..=97 => self.purge(id).await,
            _ => self.convert(id).await,
        }
    }

    /// Makes an operation and notes it. `None`: what came of it is not known; by then another server has started.
    async fn ask<T>(
        &mut self,
        id: Uuid,
        call: Call,
        request: impl Future<Output = Result<T, Status>>,
        read: impl FnOnce(&T) -> Answer,
    ) -> Option<Result<T, Answer>> {
        let start_us = self.shared.now_us();
        let answer = tokio::time::timeout(ANSWER_MAX, request).await;
        let end_us = self.shared.now_us();
        self.done += 1;
        let known = match answer {
            Ok(Ok(value)) => Some(Ok(value)),
            Ok(Err(status)) => refusal(&status).map(Err),
            Err(_) => None,
        };
        let noted = known.as_ref().map(|known| match known {
            Ok(value) => read(value),
            Err(refusal) => refusal.clone(),
        });
        if let Some(Answer::Image(shown)) = &noted {
            self.etags.insert(id, shown.etag.clone());
        }
        self.shared.note(id, call, noted, (start_us, end_us));
        if known.is_none() {
            self.shared.unanswered.fetch_add(1, Ordering::AcqRel);
            self.wait_for_start(end_us).await;
        }
        known
    }

    /// Another server has started, so that few operations are open at a time, and none of them for long.
    async fn wait_for_start(&self, after_us: u64) {
        let deadline = Instant::now() + START_MAX;
        while lock(&self.shared.starts_us).last().is_none_or(|start_us| *start_us < after_us) {
            assert!(Instant::now() < deadline, "expected a start of the server");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Makes the record if there is none, and fills it.
    async fn fill(&mut self, id: Uuid) {
        let record = v1::Image {
            name: name_of(id),
            labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(),
            ..v1::Image::default()
        };
        let mut images = self.client.images();
        let request = async move {
            let answer = images.create_image(CreateImageRequest { image: Some(record) }).await?;
            Ok(answer.into_inner().image.expect("an image"))
        };
        match self.ask(id, Call::Create, request, |image| Answer::Image(shown(image))).await {
            Some(Ok(_)) => {}
            // Perhaps it is gone for good.
            Some(Err(_)) => return self.show(id).await,
            None => return,
        }
        let upload = self.shared.uploads.fetch_add(1, Ordering::AcqRel);
        let metadata = UploadMetadata {
            request_id: Uuid::new_v4().to_string(),
            image: name_of(id),
            check: Some(false),
            ..UploadMetadata::default()
        };
        let name = format!("uploads/{}", metadata.request_id);
        let bytes = self.random.bytes(IMAGE_BYTES);
        let client = self.client.clone();
        let request = async {
            let stream = Stream::begin(&client, &metadata).await;
            stream.chunks(0, &bytes).await;
            stream.close().await
        };
        let begun = self.ask(id, Call::Begin(upload), request, |_| Answer::Done).await;
        match begun {
            Some(Ok(_)) if self.random.below(8) != 0 => {}
            Some(Err(_)) => return,
            Some(Ok(_)) | None => return self.abort(id, upload, &name).await,
        }
        let request = async {
            let stream = Stream::resume(&client, &name, bytes.len() as u64).await;
            stream.commit(UploadCommit::default()).await
        };
        let read =
            |answer: &v1::UploadImageResponse| Answer::Image(shown(answer.image.as_ref().expect("an image")));
        let call = Call::Commit(upload, digests(&bytes).sha256);
        if self.ask(id, call, request, read).await.is_none() {
            self.abort(id, upload, &name).await;
        }
    }

    /// Gives an upload up, until it is known what came of that: no record is left that nobody fills.
    async fn abort(&mut self, id: Uuid, upload: u64, name: &str) {
        let mut answer = None;
        while answer.is_none() {
            let (mut stub, name) = (self.client.stub(), name.to_owned());
            let request = async move { stub.abort_upload(v1::AbortUploadRequest { name }).await };
            answer = self.ask(id, Call::Abort(upload), request, |_| Answer::Done).await;
        }
    }

    async fn show(&mut self, id: Uuid) {
        let mut images = self.client.images();
        let request = async move {
            let answer = images.get_image(GetImageRequest { name: name_of(id) }).await?;
            Ok(answer.into_inner().image.expect("an image"))
        };
        let answer = self.ask(id, Call::Show, request, |image| Answer::Image(shown(image))).await;
        if let Some(Err(Answer::NotFound)) = answer
            && self.etags.contains_key(&id)
        {
            self.shared.replace(id);
        }
    }

    /// A list shows each image as it was at one moment, or that it was not there.
    async fn list(&mut self) {
        let ids = lock(&self.shared.places).clone();
        let states = [ImageState::Queued, ImageState::Uploading, ImageState::Active, ImageState::Trashed];
        let request = ListImagesRequest {
            page_size: 1_000,
            states: states.map(i32::from).to_vec(),
            labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(),
            ..ListImagesRequest::default()
        };
        let start_us = self.shared.now_us();
        let answer = tokio::time::timeout(ANSWER_MAX, self.client.images().list_images(request)).await;
        let end_us = self.shared.now_us();
        self.done += 1;
        let Ok(Ok(answer)) = answer else {
            // A read that was not answered tells nothing.
            return self.wait_for_start(end_us).await;
        };
        let listed = answer.into_inner().images;
        for id in ids {
            let found = listed.iter().find(|image| image.name == name_of(id));
            let answer = found.map_or(Answer::NotFound, |image| Answer::Image(shown(image)));
            self.shared.note(id, Call::Show, Some(answer), (start_us, end_us));
        }
    }

    async fn download(&mut self, id: Uuid) {
        let mut stub = self.client.stub();
        let request = async move {
            let request = DownloadImageRequest { image: name_of(id), ..DownloadImageRequest::default() };
            let mut messages = stub.download_image(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(message) = messages.message().await? {
                if let Some(v1::download_image_response::Message::Chunk(chunk)) = message.message {
                    bytes.extend_from_slice(&chunk.data);
                }
            }
            Ok(bytes)
        };
        self.ask(id, Call::Download, request, |bytes| Answer::Bytes(digests(bytes).sha256)).await;
    }

    /// Mostly with an etag that it may still have.
    async fn update(&mut self, id: Uuid) {
        let etag = self.etag(id, 4);
        let description = format!("{:016x}", self.random.next());
        let changed = v1::Image {
            name: name_of(id),
            description: description.clone(),
            etag: etag.clone(),
            ..v1::Image::default()
        };
        let request = UpdateImageRequest {
            image: Some(changed),
            update_mask: Some(FieldMask { paths: vec!["description".to_owned()] }),
        };
        let mut images = self.client.images();
        let request =
            async move { Ok(images.update_image(request).await?.into_inner().image.expect("an image")) };
        self.ask(id, Call::Update(description, etag), request, |image| Answer::Image(shown(image))).await;
    }

    async fn delete(&mut self, id: Uuid) {
        let etag = self.etag(id, 2);
        let request = DeleteImageRequest { name: name_of(id), etag: etag.clone(), purge: false };
        let mut images = self.client.images();
        let request =
            async move { Ok(images.delete_image(request).await?.into_inner().image.expect("an image")) };
        self.ask(id, Call::Delete(etag), request, |image| Answer::Image(shown(image))).await;
    }

    async fn restore(&mut self, id: Uuid) {
        let mut images = self.client.images();
        let request = async move {
            let answer = images.restore_image(RestoreImageRequest { name: name_of(id) }).await?;
            Ok(answer.into_inner().image.expect("an image"))
        };
        self.ask(id, Call::Restore, request, |image| Answer::Image(shown(image))).await;
    }

    async fn purge(&mut self, id: Uuid) {
        let mut images = self.client.images();
        let request = PurgeImageRequest { name: name_of(id), etag: String::new() };
        let request = async move { images.purge_image(request).await };
        if let Some(Ok(_)) = self.ask(id, Call::Purge, request, |_| Answer::Done).await {
            self.shared.replace(id);
        }
    }

    async fn convert(&mut self, id: Uuid) {
        let request = ConvertRequest {
            source: source(&name_of(id)),
            format: ImageFormat::Qcow2.into(),
            request_id: Uuid::new_v4().to_string(),
            ..ConvertRequest::default()
        };
        let mut stub = self.client.stub();
        let request = async move { Ok(stub.convert(request).await?.into_inner().job.expect("a job").name) };
        if let Some(Ok(job)) = self.ask(id, Call::Convert, request, |_| Answer::Done).await {
            self.jobs.push(job);
        }
    }

    /// The etag that was seen last, or once in `one_in` times none.
    fn etag(&mut self, id: Uuid, one_in: u64) -> String {
        let known = self.etags.get(&id).cloned().unwrap_or_default();
        if self.random.below(one_in) == 0 { String::new() } else { known }
    }
}

/// What a status says of the image. `None`: it does not tell what was done.
fn refusal(status: &Status) -> Option<Answer> {
    match status.code() {
        Code::NotFound => Some(Answer::NotFound),
        Code::AlreadyExists => Some(Answer::Exists),
        Code::FailedPrecondition => Some(Answer::Precondition),
        Code::Aborted => Some(Answer::Stale),
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::DataLoss => {
            panic!("expected a request that is taken or refused by the state of its image: {status:?}")
        }
        _ => None,
    }
}
