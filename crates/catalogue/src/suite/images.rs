//! Images.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use imageops_model::MediaType;

use crate::{FactsChange, ImageChange, ImageFilter, ImageOrder, ImagePage};

const WHAT: &str = "image";

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A change of all that can be changed.
fn change() -> ImageChange {
    ImageChange {
        label: Some(Label::new("renamed").unwrap()),
        description: Some("for \"tests\"".to_owned()),
        labels: Some(texts(&[("team", "a"), ("stage", "")])),
        properties: Some(texts(&[("os_distro", "debian\n"), ("", "no name")])),
        tags: Some(words(&["golden", "Ä"])),
        protected: Some(true),
        enabled: Some(false),
        facts: FactsChange {
            hidden: Some(true),
            disk_format: Some("qcow2".to_owned()),
            container_format: Some("bare".to_owned()),
            min_disk_gib: Some(20),
            min_ram_mib: Some(512),
            media_type: Some(Some(MediaType::DataVolumeTemplate)),
            platform: Some("Linux".to_owned()),
            architecture: Some("x86_64".to_owned()),
            guest_os_type: Some("Debian \u{2013} 13".to_owned()),
            system: Some(true),
            virtio: Some(Some(false)),
            origin_url: Some("https://images.example.org/disk.img".to_owned()),
        },
    }
}

pub(crate) async fn blobs_are_referenced_by_store_and_key<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let upload = new_row(catalogue.create_upload(upload_row(at(0))).await.unwrap());
    let image = ImageRow { virtual_size_bytes: None, derived_from: None, ..image_row(tenant()) };
    let copy = image.replicas[0].clone();
    assert!(!catalogue.is_blob_referenced(copy.store, &copy.blob).await.unwrap());
    catalogue.commit_upload(upload.id, image.clone(), None, None, at(1)).await.unwrap();
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), image);
    assert!(catalogue.is_blob_referenced(copy.store, &copy.blob).await.unwrap());
    assert!(!catalogue.is_blob_referenced(StoreId(Uuid::new_v4()), &copy.blob).await.unwrap());
    assert!(!catalogue.is_blob_referenced(copy.store, "another").await.unwrap());
    let both = [copy.blob.clone(), "another".to_owned()];
    assert_eq!(catalogue.list_unreferenced(copy.store, &both).await.unwrap(), ["another"]);
    assert_eq!(catalogue.list_unreferenced(StoreId(Uuid::new_v4()), &both).await.unwrap(), both);
    assert_eq!(catalogue.list_unreferenced(copy.store, &[]).await.unwrap(), [""; 0]);
    let missing = ImageId(Uuid::new_v4());
    assert_error!(catalogue.get_image(&tenant(), missing).await, Error::NotFound { what: "image" });
}

pub(crate) async fn what_is_said_of_an_image_reads_back<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let changed = catalogue.update_image(&tenant(), image.id, change(), None, at(5)).await.unwrap();
    let expected = ImageRow { revision: 2, update_time: at(5), ..change().apply(&image) };
    assert_eq!(changed, expected);
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), expected);
    // The same again is no change.
    let again = catalogue.update_image(&tenant(), image.id, change(), None, at(6)).await.unwrap();
    assert_eq!(again, expected);
    let fewer = ImageChange { labels: Some(texts(&[("team", "b")])), ..ImageChange::default() };
    let fewer = catalogue.update_image(&tenant(), image.id, fewer, None, at(7)).await.unwrap();
    assert_eq!(fewer.details.labels, texts(&[("team", "b")]));
    assert_eq!(fewer.details.tags, expected.details.tags);
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), fewer);
    let facts = FactsChange { media_type: Some(None), virtio: Some(None), ..FactsChange::default() };
    let unsaid = ImageChange { facts, ..ImageChange::default() };
    let unsaid = catalogue.update_image(&tenant(), image.id, unsaid, None, at(8)).await.unwrap();
    assert_eq!((unsaid.details.facts.media_type, unsaid.details.facts.virtio), (None, None));
    assert_eq!(unsaid.details.facts.min_disk_gib, 20);
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), unsaid);
    // What is said when the image is made is kept as well.
    let described = ImageRow { id: ImageId(Uuid::new_v4()), ..expected };
    added(&catalogue, described.clone()).await;
    assert_eq!(catalogue.get_image(&tenant(), described.id).await.unwrap(), described);
}

pub(crate) async fn a_stale_change_changes_nothing<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let stale = Some(image.revision);
    let newer = catalogue.update_image(&tenant(), image.id, change(), stale, at(5)).await.unwrap();
    let late = ImageChange { protected: Some(false), ..ImageChange::default() };
    let refused = catalogue.update_image(&tenant(), image.id, late, stale, at(6)).await;
    assert_error!(refused, Error::Stale { what: WHAT });
    let refused = catalogue.trash_image(&tenant(), image.id, stale, at(6), at(9)).await;
    assert_error!(refused, Error::Stale { what: WHAT });
    assert_error!(
        catalogue.purge_image(&tenant(), image.id, stale, false, at(6)).await,
        Error::Stale { what: WHAT }
    );
    assert_eq!(catalogue.get_image(&tenant(), image.id).await.unwrap(), newer);
}

pub(crate) async fn an_image_goes_through_the_trash<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let copy = image.replicas[0].clone();
    let not_yet = catalogue.purge_image(&tenant(), image.id, None, false, at(2)).await;
    assert_error!(not_yet, Error::State { what: WHAT });
    let trashed = catalogue.trash_image(&tenant(), image.id, None, at(3), at(30)).await.unwrap();
    assert_eq!(trashed.state, ImageState::Trashed);
    assert_eq!((trashed.trash_time, trashed.purge_time), (Some(at(3)), Some(at(30))));
    // A second time: the first one counts.
    let again = catalogue.trash_image(&tenant(), image.id, None, at(4), at(40)).await.unwrap();
    assert_eq!(again, trashed);
    assert!(catalogue.is_blob_referenced(copy.store, &copy.blob).await.unwrap());
    let restored = catalogue.restore_image(&tenant(), image.id, at(5)).await.unwrap();
    assert_eq!(restored, ImageRow { revision: 3, update_time: at(5), ..image.clone() });
    assert_eq!(catalogue.restore_image(&tenant(), image.id, at(6)).await.unwrap(), restored);
    let trashed = catalogue.trash_image(&tenant(), image.id, None, at(7), at(70)).await.unwrap();
    let purged =
        catalogue.purge_image(&tenant(), image.id, Some(trashed.revision), false, at(8)).await.unwrap();
    assert_eq!(purged, trashed);
    assert_error!(catalogue.get_image(&tenant(), image.id).await, Error::NotFound { what: WHAT });
    assert_error!(catalogue.restore_image(&tenant(), image.id, at(9)).await, Error::NotFound { what: WHAT });
    assert!(!catalogue.is_blob_referenced(copy.store, &copy.blob).await.unwrap());
}

pub(crate) async fn a_protected_image_is_not_deleted<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    catalogue.update_image(&tenant(), image.id, change(), None, at(2)).await.unwrap();
    let refused = catalogue.trash_image(&tenant(), image.id, None, at(3), at(30)).await;
    assert_error!(refused, Error::Protected);
    let open = ImageChange { protected: Some(false), ..ImageChange::default() };
    catalogue.update_image(&tenant(), image.id, open, None, at(4)).await.unwrap();
    catalogue.trash_image(&tenant(), image.id, None, at(5), at(30)).await.unwrap();
}

pub(crate) async fn the_id_of_a_purged_image_stays_taken<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    catalogue.trash_image(&tenant(), image.id, None, at(3), at(30)).await.unwrap();
    catalogue.purge_image(&tenant(), image.id, None, false, at(4)).await.unwrap();
    let upload = new_row(catalogue.create_upload(upload_row(at(5))).await.unwrap());
    let taken = catalogue.commit_upload(upload.id, image, None, None, at(6)).await;
    assert_error!(taken, Error::Conflict { what: WHAT });
}

pub(crate) async fn the_trash_is_emptied_in_time<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut images = Vec::new();
    for purge_time in [10, 20, 30] {
        let owner = if purge_time == 10 { other_tenant() } else { tenant() };
        let image = added(&catalogue, image_row(owner.clone())).await;
        catalogue.trash_image(&owner, image.id, None, at(3), at(purge_time)).await.unwrap();
        images.push(image);
    }
    added(&catalogue, image_row(tenant())).await;
    let purged: Vec<_> =
        catalogue.purge_expired_images(at(25)).await.unwrap().into_iter().map(|image| image.id).collect();
    assert_eq!(purged, [images[0].id, images[1].id]);
    assert_eq!(catalogue.purge_expired_images(at(25)).await.unwrap(), []);
    catalogue.get_image(&tenant(), images[2].id).await.unwrap();
}

pub(crate) async fn image_lists_are_ordered_and_paged<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let mut images = Vec::new();
    for number in 0..7_i64 {
        let image = ImageRow {
            label: Label::new(["b", "a", "Z", "a", "ä", "", "c"][number as usize]).unwrap(),
            size_bytes: [5, 3, 3, 9, 1 << 40, 0, 7][number as usize],
            create_time: at(number / 2),
            ..image_row(tenant())
        };
        images.push(added(&catalogue, image).await);
    }
    let key = |order: ImageOrder, image: &ImageRow| match order {
        ImageOrder::Newest | ImageOrder::Oldest => (image.create_time.0, String::new(), image.id),
        ImageOrder::Label | ImageOrder::LabelReversed => (0, image.label.to_string(), image.id),
        ImageOrder::Largest | ImageOrder::Smallest => (image.size_bytes as i64, String::new(), image.id),
    };
    let descending = [ImageOrder::Newest, ImageOrder::LabelReversed, ImageOrder::Largest];
    let ascending = [ImageOrder::Oldest, ImageOrder::Label, ImageOrder::Smallest];
    for order in descending.into_iter().chain(ascending) {
        images.sort_by_key(|image| key(order, image));
        if descending.contains(&order) {
            images.reverse();
        }
        let mut listed = Vec::new();
        let mut page = ImagePage { order, limit: 3, after: None };
        loop {
            let rows = catalogue.list_images(&tenant(), &ImageFilter::default(), page.clone()).await.unwrap();
            let Some(last) = rows.last() else { break };
            page.after = Some(order.cursor(last));
            listed.extend(rows);
        }
        assert_eq!(listed, images, "{order:?}");
    }
}

pub(crate) async fn images_of_one_label_are_ordered_and_paged<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    for number in 0..12_i64 {
        let image = ImageRow {
            label: Label::new(["a", "b", "A", "a"][number as usize % 4]).unwrap(),
            size_bytes: [5, 3, 3, 9, 1 << 40, 7][number as usize % 6],
            create_time: at(number / 5),
            ..image_row(tenant())
        };
        added(&catalogue, image).await;
    }
    let label = Label::new("a").unwrap();
    let wanted = ImageFilter { label: Some(label.clone()), ..ImageFilter::default() };
    for order in [
        ImageOrder::Newest,
        ImageOrder::Oldest,
        ImageOrder::Label,
        ImageOrder::LabelReversed,
        ImageOrder::Largest,
        ImageOrder::Smallest,
    ] {
        let page = ImagePage { order, limit: 100, after: None };
        let mut all = catalogue.list_images(&tenant(), &ImageFilter::default(), page).await.unwrap();
        all.retain(|image| image.label == label);
        assert_eq!(all.len(), 6);
        let mut listed = Vec::new();
        let mut page = ImagePage { order, limit: 2, after: None };
        loop {
            let rows = catalogue.list_images(&tenant(), &wanted, page.clone()).await.unwrap();
            let Some(last) = rows.last() else { break };
            page.after = Some(order.cursor(last));
            listed.extend(rows);
        }
        assert_eq!(listed, all, "{order:?}");
    }
}

pub(crate) async fn image_lists_are_filtered<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let plain = added(&catalogue, image_row(tenant())).await;
    let raw = ImageRow { format: "raw".to_owned(), ..image_row(tenant()) };
    let raw = added(&catalogue, raw).await;
    let described = added(&catalogue, image_row(tenant())).await;
    catalogue.update_image(&tenant(), described.id, change(), None, at(2)).await.unwrap();
    let trashed = added(&catalogue, image_row(tenant())).await;
    catalogue.trash_image(&tenant(), trashed.id, None, at(3), at(30)).await.unwrap();

    let all = ImageFilter::default;
    let cases = [
        (all(), vec![plain.id, raw.id, described.id]),
        (ImageFilter { states: vec![ImageState::Trashed], ..all() }, vec![trashed.id]),
        (
            ImageFilter { states: ImageState::ALL.to_vec(), ..all() },
            vec![plain.id, raw.id, described.id, trashed.id],
        ),
        (ImageFilter { states: vec![ImageState::Queued], ..all() }, vec![]),
        (ImageFilter { formats: vec!["raw".to_owned()], ..all() }, vec![raw.id]),
        (
            ImageFilter { formats: vec!["raw".to_owned(), "qcow2".to_owned()], ..all() },
            vec![plain.id, raw.id, described.id],
        ),
        (ImageFilter { label: Some(Label::new("renamed").unwrap()), ..all() }, vec![described.id]),
        (ImageFilter { label: Some(Label::new("rename").unwrap()), ..all() }, vec![]),
        (ImageFilter { labels: texts(&[("team", "a")]), ..all() }, vec![described.id]),
        (ImageFilter { labels: texts(&[("team", "a"), ("stage", "")]), ..all() }, vec![described.id]),
        (ImageFilter { labels: texts(&[("team", "b")]), ..all() }, vec![]),
        (ImageFilter { labels: texts(&[("team", "a"), ("other", "")]), ..all() }, vec![]),
        (ImageFilter { labels: texts(&[("os_distro", "debian\n")]), ..all() }, vec![]),
        (ImageFilter { tags: words(&["golden", "Ä"]), ..all() }, vec![described.id]),
        (ImageFilter { tags: words(&["golden", "silver"]), ..all() }, vec![]),
        (ImageFilter { hidden: Some(true), ..all() }, vec![described.id]),
        (ImageFilter { hidden: Some(false), ..all() }, vec![plain.id, raw.id]),
    ];
    for (filter, expected) in cases {
        let page = ImagePage { limit: 100, ..ImagePage::default() };
        let rows = catalogue.list_images(&tenant(), &filter, page).await.unwrap();
        let found: BTreeSet<_> = rows.into_iter().map(|image| image.id).collect();
        assert_eq!(found, expected.into_iter().collect(), "{filter:?}");
    }
}

pub(crate) async fn other_tenants_see_no_image<D: Database>() {
    let database = D::new();
    let catalogue = database.open().await;
    let image = added(&catalogue, image_row(tenant())).await;
    let (other, id) = (other_tenant(), image.id);
    let page = ImagePage { limit: 100, ..ImagePage::default() };
    assert_eq!(catalogue.list_images(&other, &ImageFilter::default(), page).await.unwrap(), []);
    assert_error!(catalogue.get_image(&other, id).await, Error::NotFound { what: WHAT });
    let changed = catalogue.update_image(&other, id, change(), None, at(2)).await;
    assert_error!(changed, Error::NotFound { what: WHAT });
    let trashed = catalogue.trash_image(&other, id, None, at(2), at(3)).await;
    assert_error!(trashed, Error::NotFound { what: WHAT });
    assert_error!(catalogue.restore_image(&other, id, at(2)).await, Error::NotFound { what: WHAT });
    assert_error!(
        catalogue.purge_image(&other, id, None, false, at(2)).await,
        Error::NotFound { what: WHAT }
    );
    assert_eq!(catalogue.get_image(&tenant(), id).await.unwrap(), image);
}
