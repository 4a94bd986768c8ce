//! The EdgeGallery file-system service, row by row as the legacy contract's checklist has it, and what lies beyond its
//! rows. Python's `zipfile` and `qemu-img` are the peers.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod chunks;
mod download;
mod hostile;
mod query;
mod slim;
mod upload;
