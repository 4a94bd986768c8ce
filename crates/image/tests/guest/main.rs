//! What is dropped from a guest: never a used byte, nearly every free one, and a reason for whatever is left alone.
//! One file per file system; the proofs that all of them pass are in `proofs`.

#![allow(clippy::unwrap_used, missing_docs)]

mod btrfs;
mod exfat;
mod exfat_maker;
mod ext;
mod extra;
mod fat;
mod lvm;
mod ntfs;
#[path = "../peers/mod.rs"]
mod peers;
mod proofs;
mod swap;
mod tables;
mod xfs;
