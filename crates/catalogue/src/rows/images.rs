//! Images and their copies.

use imageops_model::{
    CompanionKind, ImageDetails, ImageFacts, ImageId, ImageState, JobId, MediaType, Micros, ReplicaState,
    StoreId, UploadId,
};
use serde::Deserialize;

use super::{
    corrupt, read_failure, read_json, read_label, read_number, read_optional, read_tenant, read_uuid,
};
use crate::{Companion, Error, ImageRow, LastCheck, LastSlim, Replica, Result};

#[derive(sqlx::FromRow)]
pub(crate) struct ImageRecord {
    id: String,
    tenant: String,
    label: String,
    state: String,
    format: String,
    size_bytes: i64,
    virtual_size_bytes: Option<i64>,
    md5: String,
    sha256: String,
    sha512: Option<String>,
    crc32: Option<i64>,
    derived_from: Option<String>,
    revision: i64,
    description: String,
    protected: i64,
    #[sqlx(flatten)]
    facts: FactsRecord,
    enabled: i64,
    /// JSON: names and values.
    labels: String,
    /// JSON: names and values.
    properties: String,
    /// JSON: a list.
    tags: String,
    /// JSON: a list of [`ReplicaRecord`].
    replicas: String,
    #[sqlx(flatten)]
    companion: CompanionRecord,
    quarantine: Option<String>,
    #[sqlx(flatten)]
    work: WorkRecord,
    upload: Option<String>,
    create_time: i64,
    update_time: i64,
    trash_time: Option<i64>,
    purge_time: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct FactsRecord {
    hidden: i64,
    disk_format: String,
    container_format: String,
    min_disk_gib: i64,
    min_ram_mib: i64,
    media_type: Option<String>,
    platform: String,
    architecture: String,
    guest_os_type: String,
    system: i64,
    virtio: Option<i64>,
    origin_url: String,
}

#[derive(sqlx::FromRow)]
struct CompanionRecord {
    companion_of: Option<String>,
    companion_kind: Option<String>,
    companion_key: Option<String>,
    use_time: Option<i64>,
}

/// What jobs left behind.
#[derive(sqlx::FromRow)]
struct WorkRecord {
    check_job: Option<String>,
    check_result: Option<String>,
    check_failure: Option<String>,
    check_time: Option<i64>,
    slim_job: Option<String>,
    slim_image: Option<String>,
    slim_failure: Option<String>,
    slim_time: Option<i64>,
}

#[derive(Deserialize)]
struct ReplicaRecord {
    store: String,
    blob: String,
    state: String,
    create_time: i64,
    update_time: i64,
    verify_time: Option<i64>,
}

impl TryFrom<ImageRecord> for ImageRow {
    type Error = Error;

    fn try_from(record: ImageRecord) -> Result<Self> {
        let optional_size = |bytes| read_number("virtual size", bytes);
        let use_time = record.companion.use_time.map(Micros);
        let (check, slim) = record.work.read()?;
        Ok(Self {
            id: ImageId(read_uuid("image id", &record.id)?),
            tenant: read_tenant(record.tenant)?,
            label: read_label(record.label)?,
            state: ImageState::parse(&record.state).ok_or_else(|| corrupt("image state"))?,
            format: record.format,
            size_bytes: read_number("image size", record.size_bytes)?,
            virtual_size_bytes: record.virtual_size_bytes.map(optional_size).transpose()?,
            md5: record.md5,
            sha256: record.sha256,
            sha512: record.sha512,
            crc32: record.crc32.map(|crc| read_number("crc", crc)).transpose()?,
            replicas: read_replicas(&record.replicas)?,
            derived_from: read_optional("image id", record.derived_from)?.map(ImageId),
            companion: record.companion.read()?,
            use_time,
            details: ImageDetails {
                description: record.description,
                labels: read_json("labels", &record.labels)?,
                properties: read_json("properties", &record.properties)?,
                tags: read_json("tags", &record.tags)?,
                protected: record.protected != 0,
                facts: record.facts.read()?,
            },
            enabled: record.enabled != 0,
            quarantine: read_failure(record.quarantine)?,
            check,
            slim,
            upload: read_optional("upload id", record.upload)?.map(UploadId),
            revision: read_number("image revision", record.revision)?,
            create_time: Micros(record.create_time),
            update_time: Micros(record.update_time),
            trash_time: record.trash_time.map(Micros),
            purge_time: record.purge_time.map(Micros),
        })
    }
}

impl FactsRecord {
    fn read(self) -> Result<ImageFacts> {
        let media_type = |name: String| MediaType::parse(&name).ok_or_else(|| corrupt("media type"));
        Ok(ImageFacts {
            hidden: self.hidden != 0,
            disk_format: self.disk_format,
            container_format: self.container_format,
            min_disk_gib: read_number("smallest disk", self.min_disk_gib)?,
            min_ram_mib: read_number("smallest memory", self.min_ram_mib)?,
            media_type: self.media_type.map(media_type).transpose()?,
            platform: self.platform,
            architecture: self.architecture,
            guest_os_type: self.guest_os_type,
            system: self.system != 0,
            virtio: self.virtio.map(|virtio| virtio != 0),
            origin_url: self.origin_url,
        })
    }
}

impl CompanionRecord {
    fn read(self) -> Result<Option<Companion>> {
        let Some(of) = read_optional("image id", self.companion_of)? else { return Ok(None) };
        let kind = self.companion_kind.as_deref().and_then(CompanionKind::parse);
        Ok(Some(Companion {
            of: ImageId(of),
            kind: kind.ok_or_else(|| corrupt("kind of companion"))?,
            key: self.companion_key,
        }))
    }
}

impl WorkRecord {
    fn read(self) -> Result<(Option<LastCheck>, Option<LastSlim>)> {
        let (result, failure) = (self.check_result, read_failure(self.check_failure)?);
        let time = self.check_time.map(Micros);
        let check = read_optional("job id", self.check_job)?.map(|job| LastCheck {
            job: JobId(job),
            result,
            failure,
            time,
        });
        let image = read_optional("image id", self.slim_image)?.map(ImageId);
        let (failure, time) = (read_failure(self.slim_failure)?, self.slim_time.map(Micros));
        let slim = read_optional("job id", self.slim_job)?.map(|job| LastSlim {
            job: JobId(job),
            image,
            failure,
            time,
        });
        Ok((check, slim))
    }
}

/// The oldest first.
fn read_replicas(text: &str) -> Result<Vec<Replica>> {
    let mut replicas = Vec::new();
    for record in read_json::<Vec<ReplicaRecord>>("replicas", text)? {
        replicas.push(Replica {
            store: StoreId(read_uuid("store id", &record.store)?),
            blob: record.blob,
            state: ReplicaState::parse(&record.state).ok_or_else(|| corrupt("replica state"))?,
            create_time: Micros(record.create_time),
            update_time: Micros(record.update_time),
            verify_time: record.verify_time.map(Micros),
        });
    }
    replicas.sort_by_key(|replica| (replica.create_time, replica.store));
    Ok(replicas)
}
