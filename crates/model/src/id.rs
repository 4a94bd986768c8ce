//! Ids and the resource names that carry them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A string that is not the resource name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a name of the form {collection}/{{uuid}}")]
pub struct InvalidName {
    /// The collection that was expected, `images` for instance.
    pub collection: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $type:ident, $collection:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub Uuid);

        impl $type {
            /// The collection in resource names.
            pub const COLLECTION: &'static str = $collection;
        }

        /// The resource name: the collection, a slash, the uuid in lower case with hyphens.
        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!($collection, "/{}"), self.0.hyphenated())
            }
        }

        /// Reads a resource name; only the hyphenated form of the uuid is taken.
        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                name.strip_prefix(concat!($collection, "/"))
                    .filter(|uuid| uuid.len() == 36)
                    .and_then(|uuid| Uuid::try_parse(uuid).ok())
                    .map(Self)
                    .ok_or(InvalidName { collection: $collection })
            }
        }
    };
}

id!(
    /// A stored image: `images/{uuid}`.
    ImageId,
    "images"
);
id!(
    /// An upload: `uploads/{uuid}`.
    UploadId,
    "uploads"
);
id!(
    /// A job: `jobs/{uuid}`.
    JobId,
    "jobs"
);
id!(
    /// A store: `stores/{uuid}`.
    StoreId,
    "stores"
);
id!(
    /// An access key: `keys/{uuid}`.
    KeyId,
    "keys"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_the_id() {
        let id = ImageId(Uuid::from_u128(7));
        assert_eq!(id.to_string(), "images/00000000-0000-0000-0000-000000000007");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn other_forms_are_refused() {
        for name in [
            "",
            "images/",
            "jobs/00000000-0000-0000-0000-000000000007",
            "00000000-0000-0000-0000-000000000007",
            "images/00000000000000000000000000000007",
            "images/{00000000-0000-0000-0000-000000000007}",
            "images/../jobs",
        ] {
            assert!(name.parse::<ImageId>().is_err(), "{name}");
        }
    }
}
