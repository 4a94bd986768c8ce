//! What jobs of each kind work on, and what must hold when one has ended: what it says that it made is there, once, and
//! whole.

use std::sync::Arc;

use imageops::v1::job::Result as JobResult;
use imageops::v1::{
    Digests, ImageFormat, ImageWorkState, Job, JobState, ListImagesRequest, ReplicaState, Store, StoreState,
    UpdateStoreRequest,
};
use imageops_client::{Client, UploadOptions};

use crate::content::Content;
use crate::support::images::{assert_same_content, have, qemu_img};
use crate::support::jobs::{download, image, write_busy_disk};
use crate::support::process::Setup;
use crate::support::source::ALLOWED;
use crate::support::status::eventually;
use crate::support::stores::{DEFAULT, add_store, blobs_of, copies};
use crate::support::upload::{digests, upload};
use crate::support::{Service, names_in, wait_for};
use crate::work::{COPIES, DRAINED, Output, SOURCE, Work, conversions, elsewhere, outputs};

/// Has a server start with what jobs of all kinds need.
pub fn prepare(setup: &mut Setup) {
    setup.arguments.extend(ALLOWED.map(str::to_owned));
    // Nothing goes into them but what names them.
    add_store(setup, COPIES, -5);
    add_store(setup, DRAINED, -9);
}

/// The image that a job reads.
#[derive(Clone)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Those of its bytes.
    pub digests: Digests,
    /// It was made for one job, and goes when that has ended.
    pub is_own: bool,
}

impl Subject {
    /// A new [`SOURCE`], and the image of its bytes.
    pub async fn shared(service: &Service, size_bytes: u64) -> Self {
        write_busy_disk(&service.image_path().join(SOURCE), size_bytes);
        let disk = std::fs::read(service.image_path().join(SOURCE)).unwrap();
        let name = upload(&service.client(), &disk).await.name;
        Self { name, digests: digests(&disk), is_own: false }
    }

    /// What a job of this kind works on: an image of its own where it changes the image, else `shared`.
    pub async fn of(client: &Client, work: &Work, shared: &Self, own: Content) -> Self {
        match work.output {
            Output::Nothing | Output::File | Output::Image | Output::Import | Output::Scrub => shared.clone(),
            Output::Conversion | Output::Copy => Self::upload(client, &own, "").await,
            Output::Slim => Self::convert(client, shared).await,
            Output::Drain => {
                let store = Store {
                    name: DRAINED.to_owned(),
                    state: StoreState::Enabled.into(),
                    ..Default::default()
                };
                let request = UpdateStoreRequest { store: Some(store), update_mask: None };
                client.update_store(request).await.expect("a store that can be enabled");
                Self::upload(client, &own, DRAINED).await
            }
        }
    }

    async fn upload(client: &Client, content: &Content, store: &str) -> Self {
        let options = UploadOptions { store: store.to_owned(), ..UploadOptions::default() };
        let uploaded = client.upload(&mut content.reader(0, &Arc::default()), &options, |_| {}).await;
        let name = uploaded.expect("an image that is taken").image.name;
        Self { name, digests: content.digests(), is_own: true }
    }

    /// The same disk as QCOW2.
    async fn convert(client: &Client, source: &Self) -> Self {
        let request = imageops::v1::ConvertRequest {
            source: image(&source.name),
            format: ImageFormat::Qcow2.into(),
            ..Default::default()
        };
        let job = client.convert(request).await.expect("a conversion that can be made");
        let job = wait_for(client, &job.name, JobState::Succeeded).await;
        let name = outputs(&job).1.expect("an image");
        let digests = client.get_image(&name).await.expect("an image that was made").digests.unwrap();
        Self { name, digests, is_own: true }
    }

    /// The image can be read, and holds its bytes.
    pub async fn compare(&self, client: &Client) {
        assert!(
            digests(&download(client, &self.name).await) == self.digests,
            "{}: expected its bytes",
            self.name
        );
    }
}

/// A job that was asked for.
pub struct Asked {
    /// Its name.
    pub name: String,
    pub work: &'static Work,
    /// The file that it makes, if it makes one.
    pub output: String,
    pub subject: Subject,
}

impl Asked {
    /// success has one output, or has changed what it should; failure and cancellation have none, and failure a reason.
    /// Whether it is a success.
    pub async fn check(&self, service: &Service, job: &Job) -> bool {
        let client = service.client();
        let what = format!("{} ({})", self.work.name, self.name);
        let (file, image) = outputs(job);
        if [JobState::Failed, JobState::Cancelled].contains(&job.state()) {
            let reason = job.error.as_ref().map(|error| error.reason.as_str()).unwrap_or_default();
            assert_eq!(
                reason.is_empty(),
                job.state() == JobState::Cancelled,
                "{what}: expected a reason of what failed alone: {job:?}"
            );
            assert_eq!((file, image), (None, None), "{what}: expected no output");
            self.subject.compare(&client).await;
            return false;
        }
        assert_eq!(job.state(), JobState::Succeeded, "{what}: expected success: {job:?}");
        let result = job.result.as_ref().unwrap_or_else(|| panic!("{what}: expected a result: {job:?}"));
        self.check_result(&what, result);
        match self.work.output {
            Output::Nothing => assert_eq!((file, image), (None, None), "{what}: expected no output"),
            Output::File => {
                assert_eq!((file.as_ref(), image), (Some(&self.output), None), "{what}");
                check_file(service, &self.output);
            }
            Output::Image => {
                assert_eq!(file, None, "{what}: expected an image");
                check_image(&client, &what, image.as_deref().expect("an image"), result).await;
            }
            Output::Import => {
                let found = download(&client, image.as_deref().expect("an image")).await;
                assert!(found == elsewhere(&format!("/{}", self.output)), "{what}: expected its bytes");
            }
            Output::Conversion => self.check_conversion(&client, &what).await,
            Output::Slim => self.check_slim(&client, &what, result).await,
            Output::Copy => self.check_copy(service, &what).await,
            Output::Scrub => self.check_scrub(&client, &what, job).await,
            Output::Drain => self.check_drain(service, &what).await,
        }
        true
    }

    /// What a result says of itself.
    fn check_result(&self, what: &str, result: &JobResult) {
        match result {
            JobResult::Check(result) => {
                // A check takes no CRC.
                let digests = Digests { crc32: None, ..self.subject.digests.clone() };
                assert_eq!(result.digests, Some(digests), "{what}: expected the digests of its source");
            }
            JobResult::Compress(result) => assert!(result.verified, "{what}: {result:?}"),
            JobResult::Convert(result) => assert!(result.verified, "{what}: {result:?}"),
            JobResult::Scrub(result) => {
                assert_eq!(result.damaged_images, [""; 0], "{what}: nothing is damaged")
            }
            JobResult::Drain(result) => assert_eq!(result.kept_images, [""; 0], "{what}: nothing stays"),
            JobResult::Copy(_) | JobResult::Estimate(_) | JobResult::Import(_) => {}
        }
    }

    /// One conversion, that is handed out to whoever asks.
    async fn check_conversion(&self, client: &Client, what: &str) {
        let mut bytes = Vec::new();
        let kept = client.download_in(&self.subject.name, ImageFormat::Qcow2, 0, &mut bytes, |_| {}).await;
        let kept = kept.unwrap_or_else(|error| panic!("{what}: expected a conversion: {error}"));
        assert_eq!(kept.companion_of, self.subject.name, "{what}");
        assert_eq!(kept.digests, Some(digests(&bytes)), "{what}: expected the bytes that it names");
        assert_eq!(conversions(client, &self.subject.name).await.len(), 1, "{what}: expected one job");
    }

    /// One companion, which the image names.
    async fn check_slim(&self, client: &Client, what: &str, result: &JobResult) {
        let slim = client.get_image_work(&self.subject.name).await.unwrap().slim.expect("what came of it");
        assert_eq!((slim.state(), &slim.job), (ImageWorkState::Succeeded, &self.name), "{what}");
        let request = ListImagesRequest { slim_companions: true, page_size: 1000, ..Default::default() };
        let mut companions = client.list_images(request).await.unwrap().images;
        companions.retain(|companion| companion.companion_of == self.subject.name);
        let companions: Vec<_> = companions.into_iter().map(|companion| companion.name).collect();
        assert_eq!(companions, [slim.image.as_str()], "{what}: expected one companion");
        check_image(client, what, &slim.image, result).await;
    }

    /// One copy more, which alone has all bytes.
    async fn check_copy(&self, service: &Service, what: &str) {
        let client = service.client();
        let stored = client.get_image(&self.subject.name).await.unwrap();
        let expected = [COPIES, DEFAULT].map(|name| (name.to_owned(), ReplicaState::Ready));
        assert_eq!(copies(service, &stored).await, expected, "{what}: expected one copy more");
        client.remove_replica(&self.subject.name, DEFAULT, "").await.expect("a copy that is not the last");
        self.subject.compare(&client).await;
    }

    /// What lay in the store has been read since.
    async fn check_scrub(&self, client: &Client, what: &str, job: &Job) {
        let stored = client.get_image(&self.subject.name).await.unwrap();
        let asked = job.create_time.map(|time| (time.seconds, time.nanos));
        let is_read = |time: Option<_>| time.is_some_and(|time| Some(time) >= asked);
        let times =
            stored.replicas.iter().map(|copy| copy.verify_time.map(|time| (time.seconds, time.nanos)));
        assert!(times.clone().count() == 1 && times.into_iter().all(is_read), "{what}: {stored:?}");
    }

    /// Nothing is left in the store, and the image is elsewhere.
    async fn check_drain(&self, service: &Service, what: &str) {
        let client = service.client();
        let store = client.get_store(DRAINED).await.unwrap();
        assert_eq!((store.images, store.stored_bytes), (0, 0), "{what}: expected an empty store");
        let blobs = blobs_of(service, DRAINED);
        eventually(&format!("{what}: an empty {}", blobs.display()), || async {
            names_in(&blobs).is_empty().then_some(())
        })
        .await;
        let stored = client.get_image(&self.subject.name).await.unwrap();
        assert_eq!(copies(service, &stored).await, [(DEFAULT.to_owned(), ReplicaState::Ready)], "{what}");
        self.subject.compare(&client).await;
    }

    /// Takes away what the job has made, and what was made for it. Whatever is there later is too much.
    pub async fn remove(&self, service: &Service, job: &Job) {
        let client = service.client();
        let (file, image) = outputs(job);
        if let Some(file) = file {
            std::fs::remove_file(service.image_path().join(file)).unwrap();
        }
        // A companion goes with its image.
        let made = image.filter(|_| self.work.makes_outputs() || self.work.output == Output::Import);
        let own = Some(self.subject.name.clone()).filter(|_| self.subject.is_own);
        for name in made.into_iter().chain(own) {
            client.delete_image_for_good(&name, "").await.unwrap();
        }
    }
}

/// A file with the disk of the source.
fn check_file(service: &Service, name: &str) {
    let (source, output) = (service.image_path().join(SOURCE), service.image_path().join(name));
    if have("qemu-img") {
        let checked = qemu_img(["check", output.to_str().unwrap()]);
        assert!(checked.status.success(), "{name}: expected a sound image");
        assert_same_content(&source, &output);
    }
}

async fn check_image(client: &Client, what: &str, image: &str, result: &JobResult) {
    let told = match result {
        JobResult::Compress(result) => result.digests.as_ref(),
        JobResult::Convert(result) => result.digests.as_ref(),
        _ => None,
    };
    let found = digests(&download(client, image).await);
    assert_eq!(told, Some(&found), "{what}: expected {image} with the bytes that it names");
}
