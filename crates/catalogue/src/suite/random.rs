//! Random operations on all that counts, whatever comes of them: the rows must never contradict each other, and no tenant
//! may ever have more than it may.

use imageops_model::CompanionKind;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::companions::slim_spec;
use super::records::record_row;
use super::*;
use crate::{Companion, JobOutcome, Quota, Result, UploadPart};

const CASES: usize = 24;
const QUOTA: Quota = Quota { images_max: Some(6), bytes_max: Some(500) };
const SESSION: &str = "a disk";

#[derive(Clone, Debug)]
enum Operation {
    Upload(Option<u64>),
    Part(u32, u64),
    /// A part that is named when it is stored.
    Unnamed,
    Record,
    Fill(usize),
    Extend(usize, u64),
    Reserve(usize, u64),
    Declare(usize, u64),
    /// Under its own number, or this one.
    Store(usize, u32),
    Compose(Option<u64>),
    /// With one of a few contents, so that some are equal.
    Commit(usize, u64),
    Abort(usize),
    Fail(usize),
    AbortSession,
    Expire,
    Trash(usize),
    Restore(usize),
    Purge(usize),
    Damage(usize),
    Copy(usize),
    Uncopy(usize),
    Slim(usize, u64),
    Claim,
    Finish(usize, Option<u64>, bool),
    CancelJob(usize),
    Reopen,
}

fn any_operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let (place, size) = (0..8_usize, 0..200_u64);
    let uploads = prop_oneof![
        3 => prop::option::of(size.clone()).prop_map(Upload),
        4 => (0..4_u32, size.clone()).prop_map(|(number, size)| Part(number, size)),
        2 => Just(Unnamed),
        2 => Just(Record),
        3 => place.clone().prop_map(Fill),
        3 => (place.clone(), size.clone()).prop_map(|(place, size)| Extend(place, size)),
        2 => (place.clone(), size.clone()).prop_map(|(place, size)| Reserve(place, size)),
        2 => (place.clone(), size.clone()).prop_map(|(place, size)| Declare(place, size)),
        4 => (place.clone(), 0..4_u32).prop_map(|(place, number)| Store(place, number)),
        4 => prop::option::of(size.clone()).prop_map(Compose),
        8 => (place.clone(), 0..3_u64).prop_map(|(place, content)| Commit(place, content)),
        1 => place.clone().prop_map(Abort),
        1 => place.clone().prop_map(Fail),
        1 => Just(AbortSession),
        1 => Just(Expire),
    ];
    let images = prop_oneof![
        2 => place.clone().prop_map(Trash),
        1 => place.clone().prop_map(Restore),
        3 => place.clone().prop_map(Purge),
        1 => place.clone().prop_map(Damage),
        2 => place.clone().prop_map(Copy),
        1 => place.clone().prop_map(Uncopy),
        4 => (place.clone(), size.clone()).prop_map(|(place, size)| Slim(place, size)),
        4 => Just(Claim),
        4 => (place.clone(), prop::option::of(size), any::<bool>())
            .prop_map(|(place, size, cached)| Finish(place, size, cached)),
        1 => place.prop_map(CancelJob),
        1 => Just(Reopen),
    ];
    prop_oneof![3 => uploads, 2 => images]
}

/// Ids of all that was ever made, whatever became of it.
#[derive(Default)]
struct Made {
    uploads: Vec<UploadId>,
    images: Vec<ImageId>,
    jobs: Vec<(JobId, ImageId)>,
    seconds: i64,
}

impl Made {
    /// One of them by its place from the end; the newest are the most interesting.
    fn pick<T: Copy>(all: &[T], place: usize) -> Option<T> {
        all.iter().rev().nth(place).copied()
    }

    fn now(&mut self) -> Micros {
        self.seconds += 1;
        at(self.seconds)
    }
}

pub(crate) async fn random_operations_leave_no_contradiction<D: Database>() {
    let mut runner = TestRunner::new(Config::default());
    let operations = prop::collection::vec(any_operation(), 20..120);
    let mut committed = 0;
    for case in 0..CASES {
        let operations = operations.new_tree(&mut runner).unwrap().current();
        println!("case {case}: {operations:?}");
        let database = D::new();
        let mut catalogue = database.open().await;
        catalogue.set_quota(None, Some(QUOTA)).await.unwrap();
        let mut made = Made::default();
        for operation in operations {
            if let Operation::Reopen = operation {
                drop(catalogue);
                catalogue = database.open().await;
            } else if let Err(error) = step(&catalogue, &mut made, operation).await {
                assert!(is_a_refusal(&error), "{error:?}");
            }
            let usage = catalogue.get_usage(&tenant()).await.unwrap();
            assert!(usage.images + usage.reserved_images <= QUOTA.images_max.unwrap(), "{usage:?}");
            assert!(usage.bytes + usage.reserved_bytes <= QUOTA.bytes_max.unwrap(), "{usage:?}");
        }
        assert_sound::<D>(&catalogue).await;
        committed += catalogue.get_usage(&tenant()).await.unwrap().images;
    }
    assert!(committed > 0, "not one image in all cases: the operations test nothing");
}

/// What may come of an operation that does not fit; anything else is a fault.
fn is_a_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::Conflict { .. }
            | Error::State { .. }
            | Error::QuotaExceeded { .. }
            | Error::Fenced
    )
}

async fn step(catalogue: &impl Catalogue, made: &mut Made, operation: Operation) -> Result<()> {
    let now = made.now();
    match operation {
        Operation::Reopen => {}
        Operation::Upload(_)
        | Operation::Part(..)
        | Operation::Unnamed
        | Operation::Record
        | Operation::Fill(_) => {
            begin(catalogue, made, operation, now).await?;
        }
        Operation::Compose(size_bytes) => {
            let whole = UploadRow { size_bytes, archive: None, ..upload_row(now) };
            catalogue.begin_compose(whole.clone(), SESSION, now).await?;
            made.uploads.push(whole.id);
        }
        Operation::AbortSession => drop(catalogue.abort_session(&tenant(), SESSION, now).await?),
        Operation::Expire => {
            made.seconds += 30;
            catalogue.expire_uploads(made.now(), at(-1)).await?;
        }
        Operation::Extend(place, _)
        | Operation::Reserve(place, _)
        | Operation::Declare(place, _)
        | Operation::Store(place, _)
        | Operation::Commit(place, _)
        | Operation::Abort(place)
        | Operation::Fail(place) => {
            if let Some(upload) = Made::pick(&made.uploads, place) {
                on_upload(catalogue, made, upload, operation, now).await?;
            }
        }
        Operation::Trash(place)
        | Operation::Restore(place)
        | Operation::Purge(place)
        | Operation::Damage(place)
        | Operation::Copy(place)
        | Operation::Uncopy(place)
        | Operation::Slim(place, _) => {
            if let Some(image) = Made::pick(&made.images, place) {
                on_image(catalogue, made, image, operation, now).await?;
            }
        }
        Operation::Claim => {
            catalogue.claim_job(worker(), Lane::Work, lease(now, now.plus_ms(5_000)), now, 2).await?;
        }
        Operation::CancelJob(place) => {
            if let Some((job, _)) = Made::pick(&made.jobs, place) {
                catalogue.cancel_job(&tenant(), job, now).await?;
            }
        }
        Operation::Finish(place, size_bytes, cached) => {
            if let Some(job) = Made::pick(&made.jobs, place) {
                finish(catalogue, made, job, size_bytes, cached, now).await?;
            }
        }
    }
    Ok(())
}

async fn begin(catalogue: &impl Catalogue, made: &mut Made, operation: Operation, now: Micros) -> Result<()> {
    let plain = UploadRow { archive: None, ..upload_row(now) };
    let upload = match operation {
        Operation::Upload(size_bytes) => UploadRow { size_bytes, ..plain },
        Operation::Part(number, size_bytes) => {
            let part = Some(UploadPart { session: SESSION.to_owned(), number });
            UploadRow { part, size_bytes: Some(size_bytes), ..plain }
        }
        Operation::Unnamed => {
            let wishes = UploadWishes { becomes_part: true, ..plain.wishes.clone() };
            UploadRow { wishes, size_bytes: None, ..plain }
        }
        Operation::Fill(place) => {
            let record = Made::pick(&made.images, place);
            UploadRow { record, size_bytes: Some(50), ..plain }
        }
        _ => {
            let record = record_row(tenant());
            catalogue.create_image(record.clone(), false).await?;
            made.images.push(record.id);
            return Ok(());
        }
    };
    catalogue.create_upload(upload.clone()).await?;
    made.uploads.push(upload.id);
    Ok(())
}

async fn on_upload(
    catalogue: &impl Catalogue,
    made: &mut Made,
    id: UploadId,
    operation: Operation,
    now: Micros,
) -> Result<()> {
    match operation {
        Operation::Extend(_, bytes) => {
            // As the server does: what comes is held before it is written.
            let held_bytes = catalogue.reserve_upload(id, 0..=bytes, now).await?;
            catalogue.extend_upload(id, bytes.min(held_bytes), now, now.plus_ms(60_000)).await?;
        }
        Operation::Reserve(_, bytes) => drop(catalogue.reserve_upload(id, 0..=bytes, now).await?),
        Operation::Declare(_, bytes) => drop(catalogue.declare_upload_size(id, bytes, now).await?),
        Operation::Store(_, number) => {
            let upload = catalogue.get_upload(&tenant(), id).await?;
            let part = upload.part.unwrap_or(UploadPart { session: SESSION.to_owned(), number });
            catalogue.store_part(id, &part, now).await?;
        }
        Operation::Commit(_, content) => {
            let upload = catalogue.get_upload(&tenant(), id).await?;
            let fresh = image_row(tenant());
            let mut image = ImageRow {
                id: upload.record.unwrap_or(fresh.id),
                size_bytes: 40 * content,
                sha256: content.to_string(),
                ..fresh
            };
            made.images.extend(upload.record.is_none().then_some(image.id));
            let store = image.replicas[0].store;
            let same = catalogue.find_same(&tenant(), &image.sha256, image.size_bytes, store).await?;
            let shares = same.map(|(shares, blob)| {
                image.replicas[0].blob = blob;
                shares
            });
            catalogue.commit_upload(id, image, shares, None, now).await?;
        }
        Operation::Abort(_) => drop(catalogue.abort_upload(&tenant(), id, now).await?),
        _ => drop(catalogue.fail_upload(id, failure(), now).await?),
    }
    Ok(())
}

async fn on_image(
    catalogue: &impl Catalogue,
    made: &mut Made,
    id: ImageId,
    operation: Operation,
    now: Micros,
) -> Result<()> {
    let elsewhere = StoreId(Uuid::from_u128(9));
    match operation {
        Operation::Trash(_) => drop(catalogue.trash_image(&tenant(), id, None, now, now.plus_ms(9)).await?),
        Operation::Restore(_) => drop(catalogue.restore_image(&tenant(), id, now).await?),
        Operation::Purge(_) => drop(catalogue.purge_image(&tenant(), id, None, true, now).await?),
        Operation::Damage(_) => {
            let image = catalogue.get_image(&tenant(), id).await?;
            if let Some(replica) = image.ready_replica() {
                catalogue.mark_damaged(replica.store, &replica.blob, failure(), now).await?;
            }
        }
        Operation::Copy(_) => {
            let copy = Replica { store: elsewhere, ..replica(Uuid::new_v4().to_string()) };
            catalogue.add_replica(&tenant(), id, copy, None, None, now).await?;
        }
        Operation::Uncopy(_) => {
            catalogue.remove_replica(&tenant(), id, elsewhere, None, now).await?;
        }
        Operation::Slim(_, reserve_bytes) => {
            let job = NewJob { spec: slim_spec(id, missing_image()), reserve_bytes, ..new_job(now) };
            catalogue.create_job(job.clone(), 100).await?;
            made.jobs.push((job.id, id));
        }
        _ => {}
    }
    Ok(())
}

async fn finish(
    catalogue: &impl Catalogue,
    made: &mut Made,
    (job, source): (JobId, ImageId),
    size_bytes: Option<u64>,
    cached: bool,
    now: Micros,
) -> Result<()> {
    let attempt = catalogue.get_job(&tenant(), job).await?.attempt;
    let outcome = match size_bytes {
        None => JobOutcome::Failed(failure()),
        Some(size_bytes) => {
            let (kind, key) = if cached {
                (CompanionKind::Conversion, Some("raw".to_owned()))
            } else {
                (CompanionKind::Slim, None)
            };
            let companion = Some(Companion { of: source, kind, key });
            let image = ImageRow { size_bytes, companion, ..image_row(tenant()) };
            made.images.push(image.id);
            JobOutcome::Succeeded { result: "{}".to_owned(), image: Some(image), replica: None }
        }
    };
    catalogue.finish_job(job, attempt, outcome, 0, now).await?;
    Ok(())
}
