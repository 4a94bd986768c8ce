//! The bodies of tests that `cargo xtask test` runs.

pub(crate) mod edgegallery;
pub(crate) mod fuzz;
pub(crate) mod go;
mod libtest;
#[path = "../../../tests/support/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the end-to-end tests, which use all of it")]
mod postgres;
pub(crate) mod rust;
#[path = "../../../tests/support/process.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the end-to-end tests, which use all of it")]
mod server;
pub(crate) mod torture;
