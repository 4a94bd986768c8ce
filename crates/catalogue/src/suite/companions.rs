//! Hidden images beside others.

use std::collections::BTreeSet;

use imageops_model::{CompanionKind, CompressSpec, CompressionChoice};

use super::*;
use crate::{Companion, ImageChange, ImageFilter, ImagePage, JobOutcome};

const WHAT: &str = "image";

pub(crate) fn slim_spec(source: ImageId, output: ImageId) -> JobSpec {
    JobSpec::Compress(CompressSpec {
        source: Source::Image(source),
        output_file: None,
        output_image: Some(output),
        output_label: Label::default(),
        companion: true,
        compression: CompressionChoice::default(),
    })
}

fn companion_row(of: ImageId, kind: CompanionKind, key: Option<&str>) -> ImageRow {
    let companion = Companion { of, kind, key: key.map(str::to_owned) };
    ImageRow { companion: Some(companion), size_bytes: 100, ..image_row(tenant()) }
}

fn made(image: ImageRow) -> JobOutcome {
    JobOutcome::Succeeded { result: "{}".to_owned(), image: Some(image), replica: None }
}

/// Queues a slimming of `source` and claims it.
async fn slimming(catalogue: &impl Catalogue, source: ImageId) -> JobRow {
    let job = NewJob { spec: slim_spec(source, missing_image()), ..new_job(at(2)) };
    catalogue.create_job(job, 100).await.unwrap();
    catalogue.claim_job(worker(), Lane::Work, lease(at(3), at(33)), at(3), 3).await.unwrap().unwrap()
}

/// Adds a companion as a job does.
pub(crate) async fn accompanied(
    catalogue: &impl Catalogue,
    source: ImageId,
    kind: CompanionKind,
    key: Option<&str>,
) -> ImageRow {
    let companion = companion_row(source, kind, key);
    let job = slimming(catalogue, source).await;
    catalogue.finish_job(job.id, 1, made(companion.clone()), 0, at(4)).await.unwrap();
    companion
}

pub(crate) async fn a_slim_companion_takes_the_place_of_the_one_before<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let source = added(&catalogue, image_row(tenant())).await;
    let slim = async || catalogue.get_image(&tenant(), source.id).await.unwrap().slim.unwrap();
    let job = slimming(&catalogue, source.id).await;
    let began = slim().await;
    assert_eq!((began.job, began.image, began.failure, began.time), (job.id, None, None, None));
    let first = companion_row(source.id, CompanionKind::Slim, None);
    catalogue.finish_job(job.id, 1, made(first.clone()), 0, at(4)).await.unwrap();
    let ended = slim().await;
    assert_eq!((ended.image, ended.failure, ended.time), (Some(first.id), None, Some(at(4))));
    assert_eq!(catalogue.get_image(&tenant(), first.id).await.unwrap(), first);
    let bytes = async || catalogue.get_usage(&tenant()).await.unwrap().bytes;
    assert_eq!(bytes().await, source.size_bytes + 100);
    // A failure is told, and what is there stays.
    let job = slimming(&catalogue, source.id).await;
    assert_eq!(slim().await.image, Some(first.id));
    catalogue.finish_job(job.id, 1, JobOutcome::Failed(failure()), 0, at(5)).await.unwrap();
    let failed = slim().await;
    assert_eq!((failed.job, failed.image), (job.id, Some(first.id)));
    assert_eq!((failed.failure, failed.time), (Some(failure()), Some(at(5))));
    // A newer one takes its place.
    let job = slimming(&catalogue, source.id).await;
    assert_eq!(slim().await.failure, None);
    let second = companion_row(source.id, CompanionKind::Slim, None);
    catalogue.finish_job(job.id, 1, made(second.clone()), 0, at(6)).await.unwrap();
    assert_eq!(slim().await.image, Some(second.id));
    assert_error!(catalogue.get_image(&tenant(), first.id).await, Error::NotFound { what: WHAT });
    assert_eq!(bytes().await, source.size_bytes + 100);
    let doomed = catalogue.list_doomed(first.replicas[0].store, 10).await.unwrap();
    assert_eq!(doomed, [first.replicas[0].blob.as_str()]);
    // The image itself was not changed by all this.
    let after = catalogue.get_image(&tenant(), source.id).await.unwrap();
    assert_eq!(ImageRow { slim: None, ..after }, source);
    catalogue.purge_companion(second.id, at(7)).await.unwrap();
    assert_eq!(slim().await.image, None);
    assert_eq!(bytes().await, source.size_bytes);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn companions_are_hidden_and_move_with_their_image<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let source = added(&catalogue, image_row(tenant())).await;
    let slim = accompanied(&catalogue, source.id, CompanionKind::Slim, None).await;
    let conversion = accompanied(&catalogue, source.id, CompanionKind::Conversion, Some("raw")).await;
    let listed = async |companions| {
        let filter = ImageFilter { companions, ..ImageFilter::default() };
        let page = ImagePage { limit: 100, ..ImagePage::default() };
        let rows = catalogue.list_images(&tenant(), &filter, page).await.unwrap();
        rows.into_iter().map(|image| image.id).collect::<BTreeSet<_>>()
    };
    assert_eq!(listed(None).await, [source.id].into());
    assert_eq!(listed(Some(CompanionKind::Slim)).await, [slim.id].into());
    assert_eq!(listed(Some(CompanionKind::Conversion)).await, [conversion.id].into());
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap().images, 1);
    let id = slim.id;
    let change = ImageChange { enabled: Some(false), ..ImageChange::default() };
    let changed = catalogue.update_image(&tenant(), id, change, None, at(5)).await;
    assert_error!(changed, Error::State { what: WHAT });
    let trashed = catalogue.trash_image(&tenant(), id, None, at(5), at(9)).await;
    assert_error!(trashed, Error::State { what: WHAT });
    assert_error!(catalogue.restore_image(&tenant(), id, at(5)).await, Error::State { what: WHAT });
    let purged = catalogue.purge_image(&tenant(), id, None, true, at(5)).await;
    assert_error!(purged, Error::State { what: WHAT });
    assert_error!(catalogue.purge_companion(source.id, at(5)).await, Error::State { what: WHAT });
    assert_error!(catalogue.get_image(&other_tenant(), id).await, Error::NotFound { what: WHAT });
    // Through the trash they stay, and then they go.
    catalogue.trash_image(&tenant(), source.id, None, at(6), at(9)).await.unwrap();
    assert_eq!(catalogue.get_image(&tenant(), id).await.unwrap(), slim);
    catalogue.purge_expired_images(at(10)).await.unwrap();
    for gone in [slim.id, conversion.id] {
        assert_error!(catalogue.get_image(&tenant(), gone).await, Error::NotFound { what: WHAT });
    }
    assert_eq!(catalogue.get_usage(&tenant()).await.unwrap(), crate::Usage::default());
    assert_eq!(catalogue.list_doomed(slim.replicas[0].store, 10).await.unwrap().len(), 3);
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn conversions_are_found_used_and_evicted<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let source = added(&catalogue, image_row(tenant())).await;
    let first = accompanied(&catalogue, source.id, CompanionKind::Conversion, Some("a")).await;
    let second = accompanied(&catalogue, source.id, CompanionKind::Conversion, Some("b")).await;
    accompanied(&catalogue, source.id, CompanionKind::Slim, Some("c")).await;
    let found = async |key: &str| catalogue.find_conversion(&tenant(), key).await.unwrap();
    assert_eq!(found("a").await.map(|image| image.id), Some(first.id));
    assert_eq!(found("c").await, None, "a slim one is no conversion");
    assert_eq!(catalogue.find_conversion(&other_tenant(), "a").await.unwrap(), None);
    let listed = async |limit| {
        let conversions = catalogue.list_conversions_by_use(limit).await.unwrap();
        assert_eq!(conversions.bytes, 200);
        conversions.images.into_iter().map(|image| image.id).collect::<Vec<_>>()
    };
    catalogue.touch_image(first.id, at(100)).await.unwrap();
    catalogue.touch_image(second.id, at(90)).await.unwrap();
    assert_eq!(listed(10).await, [second.id, first.id]);
    assert_eq!(listed(1).await, [second.id]);
    // Less than a minute later nothing is written, then it is.
    catalogue.touch_image(second.id, at(149)).await.unwrap();
    assert_eq!(found("b").await.unwrap().use_time, Some(at(90)));
    catalogue.touch_image(second.id, at(150)).await.unwrap();
    assert_eq!(listed(10).await, [first.id, second.id]);
    catalogue.touch_image(missing_image(), at(1)).await.unwrap();
    // They cost nobody.
    let usage = catalogue.get_usage(&tenant()).await.unwrap();
    assert_eq!(usage.bytes, source.size_bytes + 100);
    // A key is taken while its conversion is good.
    let job = slimming(&catalogue, source.id).await;
    let again = companion_row(source.id, CompanionKind::Conversion, Some("a"));
    let taken = catalogue.finish_job(job.id, 1, made(again.clone()), 0, at(151)).await;
    assert_error!(taken, Error::Conflict { what: WHAT });
    let replica = &first.replicas[0];
    catalogue.mark_damaged(replica.store, &replica.blob, failure(), at(152)).await.unwrap();
    assert_eq!(found("a").await, None);
    catalogue.finish_job(job.id, 1, made(again.clone()), 0, at(153)).await.unwrap();
    assert_eq!(found("a").await.map(|image| image.id), Some(again.id));
    catalogue.purge_companion(again.id, at(154)).await.unwrap();
    assert_eq!(found("a").await, None);
    let gone = catalogue.purge_companion(again.id, at(154)).await;
    assert_error!(gone, Error::NotFound { what: WHAT });
    assert_sound::<D>(&catalogue).await;
}

pub(crate) async fn a_companion_of_an_image_that_is_gone_is_refused<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let source = added(&catalogue, image_row(tenant())).await;
    let slim = accompanied(&catalogue, source.id, CompanionKind::Slim, None).await;
    let job = slimming(&catalogue, source.id).await;
    let of_companion = companion_row(slim.id, CompanionKind::Conversion, None);
    let chained = catalogue.finish_job(job.id, 1, made(of_companion), 0, at(5)).await;
    assert_error!(chained, Error::State { what: WHAT });
    catalogue.purge_image(&tenant(), source.id, None, true, at(6)).await.unwrap();
    let row = catalogue.get_job(&tenant(), job.id).await.unwrap();
    assert_eq!((row.state, row.cancel_requested), (JobState::Running, true));
    for kind in [CompanionKind::Slim, CompanionKind::Conversion] {
        let orphan = companion_row(source.id, kind, None);
        let refused = catalogue.finish_job(job.id, 1, made(orphan.clone()), 0, at(7)).await;
        assert_error!(refused, Error::NotFound { what: WHAT });
        let absent = catalogue.get_image(&tenant(), orphan.id).await;
        assert_error!(absent, Error::NotFound { what: WHAT });
    }
    catalogue.finish_job(job.id, 1, JobOutcome::Cancelled, 0, at(8)).await.unwrap();
    assert_sound::<D>(&catalogue).await;
}
