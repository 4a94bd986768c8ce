//! Stores.

use imageops::v1;
use imageops::v1::store::Place;
use imageops_catalogue::{StoreChange, StoreUsage};
use imageops_model::{StoreKind, StoreState};

use super::timestamp;
use crate::failure::{Failure, Result};
use crate::stores::{Slot, StoreSetting, has_limit, is_store_name};

/// Longest description, in characters.
const DESCRIPTION_CHARACTERS_MAX: usize = 2048;
/// What can be changed.
const MEMBERS: [&str; 4] = ["description", "weight", "state", "limit_bytes"];

/// A store as it is; without `usage` also its room is nobody's to know.
pub(crate) fn store(slot: &Slot, usage: Option<StoreUsage>) -> v1::Store {
    let row = &slot.row;
    let state = match row.state {
        StoreState::Enabled => v1::StoreState::Enabled,
        StoreState::Disabled => v1::StoreState::Disabled,
        StoreState::Draining => v1::StoreState::Draining,
    };
    let status = match slot.is_connected() {
        true => v1::StoreStatus::Connected,
        false => v1::StoreStatus::Disconnected,
    };
    v1::Store {
        name: row.id.to_string(),
        display_name: row.name.clone(),
        description: row.description.clone(),
        place: Some(place(&row.kind)),
        weight: row.weight,
        state: state.into(),
        status: status.into(),
        status_message: slot.problem.clone(),
        probe_time: Some(timestamp(slot.probe_time)),
        limit_bytes: row.limit_bytes,
        total_bytes: slot.space.total_bytes.filter(|_| usage.is_some()),
        free_bytes: slot.space.free_bytes.filter(|_| usage.is_some()),
        images: usage.as_ref().map_or(0, |usage| usage.images),
        stored_bytes: usage.as_ref().map_or(0, |usage| usage.bytes),
        create_time: Some(timestamp(row.create_time)),
        update_time: Some(timestamp(row.update_time)),
        etag: format!("{:x}", row.revision),
    }
}

fn place(kind: &StoreKind) -> Place {
    match kind {
        StoreKind::Directory { path } => Place::Directory(v1::DirectoryPlace { path: path.clone() }),
        StoreKind::Bucket { endpoint, region, bucket, prefix, .. } => Place::Bucket(v1::BucketPlace {
            endpoint: endpoint.clone(),
            region: region.clone(),
            bucket: bucket.clone(),
            prefix: prefix.clone(),
        }),
    }
}

/// A store to be registered.
pub(crate) fn read_store(store: &v1::Store) -> Result<StoreSetting> {
    if !is_store_name(&store.display_name) {
        let message = "has 1 to 63 lower-case letters, digits, `.`, `_` and `-`, and begins with no dash";
        return Err(Failure::invalid("store.display_name", message));
    }
    check_description(&store.description)?;
    let kind = match &store.place {
        Some(Place::Directory(directory)) => StoreKind::Directory { path: directory.path.clone() },
        Some(Place::Bucket(bucket)) if !bucket.bucket.is_empty() => StoreKind::Bucket {
            endpoint: bucket.endpoint.clone(),
            region: if bucket.region.is_empty() { "us-east-1".to_owned() } else { bucket.region.clone() },
            bucket: bucket.bucket.clone(),
            prefix: bucket.prefix.clone(),
            path_style: !bucket.endpoint.is_empty(),
            // An address without TLS is the configuration's to allow, with `--store`.
            allow_http: false,
        },
        Some(Place::Bucket(_)) => return Err(Failure::invalid("store.bucket.bucket", "is missing")),
        None => return Err(Failure::invalid("store", "names no directory and no bucket")),
    };
    check_limit(&kind, store.limit_bytes)?;
    Ok(StoreSetting::new(store.display_name.clone(), kind, store.weight, store.limit_bytes))
}

/// A state that may be unspecified.
pub(crate) fn read_store_state(value: i32) -> Result<Option<StoreState>> {
    let state =
        v1::StoreState::try_from(value).map_err(|_| Failure::invalid("store.state", "is no known state"))?;
    Ok(match state {
        v1::StoreState::Unspecified => None,
        v1::StoreState::Enabled => Some(StoreState::Enabled),
        v1::StoreState::Disabled => Some(StoreState::Disabled),
        v1::StoreState::Draining => {
            return Err(Failure::invalid("store.state", "DRAINING comes with DrainStore"));
        }
    })
}

/// What of a store of this kind is to be changed.
pub(crate) fn read_store_change(
    kind: &StoreKind,
    store: v1::Store,
    mask: Option<imageops::FieldMask>,
) -> Result<StoreChange> {
    let paths = mask.map(|mask| mask.paths).unwrap_or_default();
    if let Some(path) = paths.iter().find(|path| *path != "*" && !MEMBERS.contains(&path.as_str())) {
        let message = format!("{path:?} cannot be changed; there are {}", MEMBERS.join(", "));
        return Err(Failure::invalid("update_mask", message));
    }
    let all = paths.iter().any(|path| path == "*");
    let named = |member: &str| all || paths.iter().any(|path| path == member);
    let changed = |member: &str, filled: bool| if paths.is_empty() { filled } else { named(member) };
    check_description(&store.description)?;
    let state = read_store_state(store.state)?;
    if changed("state", false) && state.is_none() {
        return Err(Failure::invalid("store.state", "must be ENABLED or DISABLED"));
    }
    let limit_bytes = changed("limit_bytes", store.limit_bytes.is_some()).then_some(store.limit_bytes);
    check_limit(kind, limit_bytes.flatten())?;
    Ok(StoreChange {
        weight: changed("weight", store.weight != 0).then_some(store.weight),
        state: state.filter(|_| changed("state", true)),
        limit_bytes,
        description: changed("description", !store.description.is_empty()).then_some(store.description),
    })
}

fn check_limit(kind: &StoreKind, limit_bytes: Option<u64>) -> Result<()> {
    if limit_bytes.is_some() && !has_limit(kind) {
        return Err(Failure::invalid(
            "store.limit_bytes",
            "belongs to a directory; a bucket is limited where it lies",
        ));
    }
    Ok(())
}

fn check_description(text: &str) -> Result<()> {
    if text.chars().count() > DESCRIPTION_CHARACTERS_MAX || text.contains('\0') {
        return Err(Failure::invalid("store.description", "has at most 2,048 characters, and no NUL"));
    }
    Ok(())
}
