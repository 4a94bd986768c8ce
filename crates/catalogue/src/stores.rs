//! Stores, and what is asked of the bytes in them.

use imageops_model::{ImageId, Micros, StoreId, StoreKind, StoreState, Tenant};

use crate::ImageRow;

/// A store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRow {
    /// Id.
    pub id: StoreId,
    /// The operator's short name, unique.
    pub name: String,
    /// Where the bytes are.
    pub kind: StoreKind,
    /// Text for people.
    pub description: String,
    /// Of several copies the one in the store with the highest weight is read first.
    pub weight: i32,
    /// Bytes that it may hold; `None`: as many as there is room for.
    pub limit_bytes: Option<u64>,
    /// Whether it takes new bytes.
    pub state: StoreState,
    /// Grows with every change; 1 at first.
    pub revision: u64,
    /// When it was registered.
    pub create_time: Micros,
    /// When it last changed.
    pub update_time: Micros,
}

/// What of a store is to be changed; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreChange {
    /// See [`StoreRow`].
    pub description: Option<String>,
    /// See [`StoreRow`].
    pub weight: Option<i32>,
    /// See [`StoreRow`]; `Some(None)` takes the limit away.
    pub limit_bytes: Option<Option<u64>>,
    /// See [`StoreRow`].
    pub state: Option<StoreState>,
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Images with a copy there, companions too.
    pub images: u64,
    /// Bytes of these copies; those that several images share are counted once.
    pub bytes: u64,
}

/// What is damaged now, what lies in the trash left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Copies that do not have their digest.
    pub copies: u64,
    /// Images that have no other copy.
    pub images: u64,
}

/// Bytes that a scrub has to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobToVerify {
    /// Key in the store.
    pub blob: String,
    /// One of the images that name it.
    pub image: ImageId,
    /// Owner of that image.
    pub tenant: Tenant,
    /// Length that it must have.
    pub size_bytes: u64,
    /// Digest that it must have.
    pub sha256: String,
    /// When it was last read, or came.
    pub verify_time: Micros,
}

/// Cached conversions of all tenants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversions {
    /// Those whose last use is longest ago, the oldest first.
    pub images: Vec<ImageRow>,
    /// Bytes of all of them, also of those that are not listed.
    pub bytes: u64,
}
