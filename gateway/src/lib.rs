//! REST faces over the RPCs of imageops: the legacy EdgeGallery paths, the native `/v1`, events, probes and metrics.
//!
//! [`router`] builds everything over one [`Connection`](imageops_client::Connection), [`serve`] puts it on a listener.
//! The server process mounts it over services of its own; the binary `imageops-gateway` uses a remote server. The crate
//! is stateless and knows the RPCs alone: no store, no catalogue, nothing of the server's inside.

mod call;
mod config;
mod download;
mod edgegallery;
mod events;
mod framing;
mod health;
mod intake;
mod json;
mod json_body;
mod leftover;
mod metrics;
mod multipart;
mod openapi;
mod pace;
mod problem;
mod query;
mod route;
mod router;
mod schema;
mod sendfile;
mod serve;
mod spool;
mod v1;
pub mod zip;

pub use config::{FileSystemView, FilenameForm, GatewayConfig, Limits, Origins};
pub use imageops_tls::Door;
pub use metrics::{describe as describe_metrics, recorder as metrics_recorder};
pub use pace::{Pace, TooSlow, paced};
pub use router::router;
pub use sendfile::{FileWanted, StoredFile};
pub use serve::{Drained, serve};
