//! The imageops service: `imageops.v1` over gRPC, the workers behind it, and the mounted gateway.
//!
//! The way of a request: [`rpc`] authorises and checks it, [`wire`] translates, the catalogue keeps it as a row, [`worker`]
//! claims and runs it with the engine, [`hub`] tells the watchers. [`upload`] takes bytes in. [`serve`] puts all of it
//! together. This is the one crate that knows both the contract and the model.

pub mod app;
mod audit;
pub mod auth;
mod ballast;
pub mod bells;
mod blob_storage;
pub mod clock;
mod compression;
pub mod config;
pub mod doomed;
mod entrance;
pub mod exit;
pub mod failure;
pub mod hub;
pub mod import;
pub mod keys;
pub mod limits;
mod listen;
mod open_files;
pub mod readers;
mod reading;
pub mod reason;
pub mod replicas;
pub mod rpc;
pub mod serve;
pub mod shutdown;
pub mod sources;
pub mod stored;
pub mod stores;
pub mod sweep;
pub mod telemetry;
pub mod upload;
pub mod wire;
pub mod worker;
