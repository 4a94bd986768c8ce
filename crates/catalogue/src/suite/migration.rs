//! A database of the schema before copies, parts and quotas.

use super::*;
use crate::{ImageFilter, ImagePage, Usage};

const IMAGE: &str = "11111111-1111-4111-8111-111111111111";
const TRASHED: &str = "22222222-2222-4222-8222-222222222222";
const OPEN: &str = "33333333-3333-4333-8333-333333333333";
const LIVE_JOB: &str = "44444444-4444-4444-8444-444444444444";
const ENDED_JOB: &str = "55555555-5555-4555-8555-555555555555";
const STORE: &str = "66666666-6666-4666-8666-666666666666";

/// Rows as the version of before wrote them.
const ROWS: &[&str] = &[
    "INSERT INTO images (id, tenant, label, state, format, size_bytes, virtual_size_bytes, md5, sha256, store, blob, \
     derived_from, create_time, update_time, revision, description, protected, enabled) VALUES \
     ('11111111-1111-4111-8111-111111111111', 'other', 'disk', 'active', 'qcow2', 1000, 4096, 'aa', 'bb', \
     '66666666-6666-4666-8666-666666666666', 'blob-1', NULL, 5, 6, 3, 'a text', 1, 0)",
    "INSERT INTO images (id, tenant, label, state, format, size_bytes, md5, sha256, store, blob, create_time, update_time, \
     trash_time, purge_time) VALUES ('22222222-2222-4222-8222-222222222222', 'other', '', 'trashed', 'raw', 500, 'cc', \
     'dd', '66666666-6666-4666-8666-666666666666', 'blob-2', 7, 8, 9, 10)",
    "INSERT INTO image_texts (image, kind, name, value) VALUES ('11111111-1111-4111-8111-111111111111', 'label', 'a', 'b')",
    "INSERT INTO image_texts (image, kind, name, value) VALUES ('11111111-1111-4111-8111-111111111111', 'tag', 'golden', '')",
    "INSERT INTO uploads (id, tenant, state, label, size_bytes, durable_bytes, create_time, update_time, expire_time, details) \
     VALUES ('33333333-3333-4333-8333-333333333333', 'other', 'open', 'coming', 300, 200, 1, 2, 90, '{\"description\":\"d\"}')",
    "INSERT INTO uploads (id, tenant, state, label, durable_bytes, create_time, update_time, expire_time) \
     VALUES ('77777777-7777-4777-8777-777777777777', 'other', 'open', '', 0, 1, 2, 90)",
    "INSERT INTO uploads (id, tenant, state, label, size_bytes, durable_bytes, image, create_time, update_time, expire_time) \
     VALUES ('88888888-8888-4888-8888-888888888888', 'other', 'committed', '', 1000, 1000, \
     '11111111-1111-4111-8111-111111111111', 1, 2, 90)",
    "INSERT INTO jobs (id, tenant, kind, spec, state, progress, revision, attempt, releases, cancel_requested, create_time, \
     update_time) VALUES ('44444444-4444-4444-8444-444444444444', 'other', 'check', \
     '{\"kind\":\"check\",\"source\":{\"image\":\"11111111-1111-4111-8111-111111111111\"},\"md5\":true,\"sha256\":true}', \
     'queued', '{\"phase\":\"waiting\",\"done_bytes\":0,\"total_bytes\":0,\"bytes_per_second\":null,\"remaining_ms\":null,\
     \"percent\":0.0}', 1, 0, 0, 0, 3, 3)",
    "INSERT INTO jobs (id, tenant, kind, spec, state, progress, result, revision, attempt, releases, cancel_requested, \
     create_time, update_time, end_time) VALUES ('55555555-5555-4555-8555-555555555555', 'other', 'compress', \
     '{\"kind\":\"compress\",\"source\":{\"file\":\"a\"},\"output_file\":\"b\",\"output_image\":null,\"output_label\":\"\",\
     \"zstd\":false,\"level\":null,\"keep_free_space\":false}', 'succeeded', '{\"phase\":\"publishing\",\"done_bytes\":1,\
     \"total_bytes\":1,\"bytes_per_second\":null,\"remaining_ms\":null,\"percent\":100.0}', '{}', 9, 1, 0, 0, 3, 4, 4)",
    "INSERT INTO retired_images (id, tenant, retire_time) VALUES ('99999999-9999-4999-8999-999999999999', 'other', 1)",
];

fn id(text: &str) -> Uuid {
    Uuid::parse_str(text).unwrap()
}

pub(crate) async fn a_database_of_before_is_carried_over<D: Database>() {
    let database = D::new();
    database.fill_old(ROWS).await;
    let catalogue = database.open().await;
    assert_sound::<D>(&catalogue).await;
    let (owner, store) = (other_tenant(), StoreId(id(STORE)));
    let image = catalogue.get_image(&owner, ImageId(id(IMAGE))).await.unwrap();
    let expected = ImageRow {
        id: ImageId(id(IMAGE)),
        label: Label::new("disk").unwrap(),
        size_bytes: 1000,
        virtual_size_bytes: Some(4096),
        md5: "aa".to_owned(),
        sha256: "bb".to_owned(),
        sha512: None,
        crc32: None,
        replicas: vec![Replica {
            store,
            blob: "blob-1".to_owned(),
            state: ReplicaState::Ready,
            create_time: Micros(5),
            update_time: Micros(5),
            verify_time: None,
        }],
        derived_from: None,
        details: ImageDetails {
            description: "a text".to_owned(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            tags: ["golden".to_owned()].into(),
            protected: true,
            ..ImageDetails::default()
        },
        enabled: false,
        revision: 3,
        create_time: Micros(5),
        update_time: Micros(6),
        ..image_row(owner.clone())
    };
    assert_eq!(image, expected);
    let usage = catalogue.get_usage(&owner).await.unwrap();
    let counted =
        Usage { images: 2, bytes: 1500, reserved_images: 2, reserved_bytes: 300, ..Usage::default() };
    assert_eq!(usage, counted);
    let page = ImagePage { limit: 10, ..ImagePage::default() };
    assert_eq!(catalogue.list_images(&owner, &ImageFilter::default(), page).await.unwrap(), [image]);

    // What was under way goes on.
    let open = catalogue.get_upload(&owner, UploadId(id(OPEN))).await.unwrap();
    assert_eq!((open.durable_bytes, open.reserved_bytes), (200, 300));
    assert_eq!(open.wishes, UploadWishes::default());
    let bytes = ImageRow { size_bytes: 300, ..image_row(owner.clone()) };
    catalogue.commit_upload(open.id, bytes, None, None, Micros(20)).await.unwrap();
    assert_eq!(catalogue.get_job(&owner, JobId(id(ENDED_JOB))).await.unwrap().state, JobState::Succeeded);
    catalogue.purge_expired_images(Micros(20)).await.unwrap();
    let gone = catalogue.get_image(&owner, ImageId(id(TRASHED))).await;
    assert_error!(gone, Error::NotFound { what: "image" });
    assert_eq!(catalogue.list_doomed(store, 10).await.unwrap(), ["blob-2"]);
    // A live job is known to be the image's.
    let open = crate::ImageChange { protected: Some(false), ..Default::default() };
    catalogue.update_image(&owner, ImageId(id(IMAGE)), open, Some(3), Micros(21)).await.unwrap();
    catalogue.purge_image(&owner, ImageId(id(IMAGE)), None, true, Micros(22)).await.unwrap();
    let job = catalogue.get_job(&owner, JobId(id(LIVE_JOB))).await.unwrap();
    assert_eq!(job.state, JobState::Cancelled);
    let retired = ImageId(id("99999999-9999-4999-8999-999999999999"));
    let taken = ImageRow { id: retired, ..image_row(owner) };
    assert_error!(catalogue.create_image(taken, false).await, Error::Conflict { what: "image" });
    assert_sound::<D>(&catalogue).await;
}
