//! In place: whenever it is cut off the image is valid and complete, and afterwards the guest has all its files.

#![allow(clippy::unwrap_used, missing_docs, dead_code)]

mod crash;
mod disk;
mod guests;
mod medium;
#[path = "../peers/mod.rs"]
mod peers;
#[path = "../guest/proofs.rs"]
mod proofs;
mod refused;
