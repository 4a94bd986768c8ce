//! Imports from URLs: jobs with an upload of their own.

use imageops_model::{ImportSpec, SourceUrl};

use super::records::record_row;
use super::*;
use crate::{JobOutcome, Quota};

const SIGNED: &str = "https://mirror.example/a.img?signature=secret";

/// The URL in the row of a job: whole while it is needed, without what may be a secret once the job has ended.
async fn url_of(catalogue: &impl Catalogue, job: JobId) -> String {
    let JobSpec::Import(import) = catalogue.get_job(&tenant(), job).await.unwrap().spec else { panic!() };
    import.url.0
}

/// An import into a record, or into an image of its own.
fn import(record: Option<ImageId>) -> (NewJob, UploadId) {
    let wishes = UploadWishes { import: true, ..UploadWishes::default() };
    let upload = UploadRow { record, wishes, ..upload_row(at(1)) };
    let url = SourceUrl(SIGNED.to_owned());
    let spec = JobSpec::Import(ImportSpec { url, upload: upload.id, image: record });
    let id = upload.id;
    (NewJob { spec, upload: Some(upload), ..new_job(at(1)) }, id)
}

async fn upload_state(catalogue: &impl Catalogue, id: UploadId) -> UploadState {
    catalogue.get_upload(&tenant(), id).await.unwrap().state
}

async fn reserved_bytes(catalogue: &impl Catalogue) -> u64 {
    catalogue.get_usage(&tenant()).await.unwrap().reserved_bytes
}

async fn claim(catalogue: &impl Catalogue) -> JobRow {
    catalogue.claim_job(Uuid::new_v4(), Lane::Import, lease(at(3), at(30)), at(3), 3).await.unwrap().unwrap()
}

pub(crate) async fn an_import_brings_its_upload<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let record = new_row(catalogue.create_image(record_row(tenant()), false).await.unwrap());
    let (asked, upload) = import(Some(record.id));
    let asked = NewJob { request: request(1, 1), ..asked };
    let job = new_row(catalogue.create_job(asked.clone(), 10).await.unwrap());
    assert_eq!(job.spec, asked.spec);
    assert_eq!(upload_state(&catalogue, upload).await, UploadState::Open);
    assert_eq!(reserved_bytes(&catalogue).await, 1000);
    let importing = catalogue.get_image(&tenant(), record.id).await.unwrap();
    assert_eq!((importing.state, importing.upload), (ImageState::Importing, Some(upload)));
    // The same request brings no second upload; another import of the record finds it taken, and leaves nothing.
    let (again, _) = import(Some(record.id));
    let again = NewJob { request: request(1, 1), ..again };
    assert_eq!(existing_row(catalogue.create_job(again, 10).await.unwrap()).id, job.id);
    let (other, other_upload) = import(Some(record.id));
    assert_error!(catalogue.create_job(other.clone(), 10).await, Error::State { what: "image" });
    assert_error!(catalogue.get_job(&tenant(), other.id).await, Error::NotFound { .. });
    assert_error!(catalogue.get_upload(&tenant(), other_upload).await, Error::NotFound { .. });
    // It holds the quota as an upload does.
    let quota = Quota { images_max: Some(1), bytes_max: None };
    catalogue.set_quota(None, Some(quota)).await.unwrap();
    assert_error!(
        catalogue.create_job(import(None).0, 10).await,
        Error::QuotaExceeded { what: "images", .. }
    );

    let claimed = claim(&catalogue).await;
    let image = ImageRow { id: record.id, size_bytes: 900, ..image_row(tenant()) };
    let made = catalogue.commit_upload(upload, image, None, None, at(4)).await.unwrap();
    assert_eq!((made.image.state, made.image.id), (ImageState::Active, record.id));
    let outcome = JobOutcome::Succeeded { result: "{}".to_owned(), image: None, replica: None };
    let ended = catalogue.finish_job(claimed.id, claimed.attempt, outcome, 9, at(5)).await.unwrap();
    assert_eq!(ended.state, JobState::Succeeded);
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!((usage.images, usage.bytes, usage.reserved_bytes), (1, 900, 0));
}

pub(crate) async fn an_import_that_ends_without_an_image_ends_its_upload<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let record = new_row(catalogue.create_image(record_row(tenant()), false).await.unwrap());
    let queued = async || {
        let image = catalogue.get_image(&tenant(), record.id).await.unwrap();
        (image.state, image.upload) == (ImageState::Queued, None) && reserved_bytes(&catalogue).await == 0
    };
    // Cancelled in the queue.
    let (asked, upload) = import(Some(record.id));
    let job = new_row(catalogue.create_job(asked, 10).await.unwrap());
    catalogue.cancel_job(&tenant(), job.id, at(2)).await.unwrap();
    assert_eq!(upload_state(&catalogue, upload).await, UploadState::Aborted);
    assert!(queued().await);
    assert_eq!(url_of(&catalogue, job.id).await, "https://mirror.example/a.img");
    // Failed by its worker.
    let (asked, upload) = import(Some(record.id));
    catalogue.create_job(asked, 10).await.unwrap();
    let job = claim(&catalogue).await;
    assert_eq!(url_of(&catalogue, job.id).await, SIGNED);
    catalogue.finish_job(job.id, job.attempt, JobOutcome::Failed(failure()), 9, at(4)).await.unwrap();
    assert_eq!(url_of(&catalogue, job.id).await, "https://mirror.example/a.img");
    let failed = catalogue.get_upload(&tenant(), upload).await.unwrap();
    assert_eq!((failed.state, failed.failure), (UploadState::Failed, Some(failure())));
    assert!(queued().await);
    // Given up after too many crashes.
    let (asked, upload) = import(Some(record.id));
    catalogue.create_job(asked, 10).await.unwrap();
    claim(&catalogue).await;
    assert!(
        catalogue
            .claim_job(Uuid::new_v4(), Lane::Import, lease(at(99), at(199)), at(99), 1)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(upload_state(&catalogue, upload).await, UploadState::Failed);
    assert!(queued().await);
    // Given back, it goes on.
    let (asked, upload) = import(Some(record.id));
    catalogue.create_job(asked, 10).await.unwrap();
    let job = claim(&catalogue).await;
    catalogue.release_job(job.id, job.attempt, 9, at(4)).await.unwrap();
    assert_eq!(url_of(&catalogue, job.id).await, SIGNED);
    assert_eq!(upload_state(&catalogue, upload).await, UploadState::Open);
}

/// Cancelled behind the commit: what is complete stays complete.
pub(crate) async fn an_import_that_was_committed_is_not_undone<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let (asked, upload) = import(None);
    catalogue.create_job(asked, 10).await.unwrap();
    let job = claim(&catalogue).await;
    let image = image_row(tenant());
    catalogue.commit_upload(upload, image.clone(), None, None, at(4)).await.unwrap();
    catalogue.finish_job(job.id, job.attempt, JobOutcome::Cancelled, 9, at(5)).await.unwrap();
    assert_eq!(upload_state(&catalogue, upload).await, UploadState::Committed);
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap().state, ImageState::Active);
}

pub(crate) async fn who_purges_the_record_of_an_import_ends_it<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    for is_running in [false, true] {
        let record = new_row(catalogue.create_image(record_row(tenant()), false).await.unwrap());
        let (asked, upload) = import(Some(record.id));
        let job = new_row(catalogue.create_job(asked, 10).await.unwrap());
        if is_running {
            claim(&catalogue).await;
        }
        catalogue.purge_image(&tenant(), record.id, None, true, at(6)).await.unwrap();
        assert_eq!(upload_state(&catalogue, upload).await, UploadState::Aborted);
        let job = catalogue.get_job(&tenant(), job.id).await.unwrap();
        assert!(job.cancel_requested);
        assert_eq!(job.state == JobState::Cancelled, !is_running);
        assert_error!(catalogue.get_image(&tenant(), record.id).await, Error::NotFound { .. });
    }
}
