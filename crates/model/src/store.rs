//! Stores, and the copies of images in them.

use serde::{Deserialize, Serialize};

use crate::names::names;

/// What a copy of an image's bytes in a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Being written.
    Arriving,
    /// Whole and durable.
    Ready,
    /// Deleted in this store, can be restored.
    Trashed,
    /// No longer has its digest; never read again.
    Damaged,
}

/// Whether a store takes new bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// Takes them.
    Enabled,
    /// Takes none; what it holds is read.
    Disabled,
    /// Takes none, and what it holds is moved elsewhere.
    Draining,
}

/// Where a store keeps its bytes. Holds no secrets: rows and answers show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StoreKind {
    /// A directory of this machine, or one that all machines see.
    Directory {
        /// Its path.
        path: String,
    },
    /// A bucket behind an S3 interface.
    Bucket {
        /// Address of the service.
        endpoint: String,
        /// Region; empty where there is none.
        region: String,
        /// Name of the bucket.
        bucket: String,
        /// What all keys begin with.
        prefix: String,
        /// The bucket is named in the path, not in the host.
        path_style: bool,
        /// The address may be without TLS.
        allow_http: bool,
    },
}

/// Why an image exists beside another one, which it goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompanionKind {
    /// The same disk, compressed.
    Slim,
    /// The same disk in another format, kept while there is room.
    Conversion,
}

mod replica_names {
    use super::{ReplicaState, names};

    names!(ReplicaState {
        Arriving => "arriving",
        Ready => "ready",
        Trashed => "trashed",
        Damaged => "damaged",
    });
}

mod store_names {
    use super::{StoreState, names};

    names!(StoreState {
        Enabled => "enabled",
        Disabled => "disabled",
        Draining => "draining",
    });
}

mod companion_names {
    use super::{CompanionKind, names};

    names!(CompanionKind {
        Slim => "slim",
        Conversion => "conversion",
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_reads_back_from_json() {
        let bucket = StoreKind::Bucket {
            endpoint: "https://s3.example.org".into(),
            region: String::new(),
            bucket: "images".into(),
            prefix: "a/".into(),
            path_style: true,
            allow_http: false,
        };
        for kind in [StoreKind::Directory { path: "/srv/images".into() }, bucket] {
            let text = serde_json::to_string(&kind).expect("plain data");
            assert_eq!(serde_json::from_str::<StoreKind>(&text).expect("own output"), kind);
        }
    }
}
