//! Generated types and stubs of `imageops.v1`, nothing else.
//!
//! The contract is written in `proto/imageops/v1`; its comments are the manual of the API. Types read and write canonical
//! proto3 JSON through `serde`.

mod field_mask;

pub use field_mask::FieldMask;

/// The messages, the client and the server of `imageops.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/imageops.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/imageops.v1.serde.rs"));

    /// The descriptors of the contract with all it imports, for reflection and for comparing contracts.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/imageops.v1.bin"));
}
