//! What whoever mounts the gateway decides.

use std::path::PathBuf;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::pace::Pace;

/// How `imageInfo.filename` of the EdgeGallery check answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FilenameForm {
    /// The image root, a slash, and the name as it was sent.
    #[default]
    Full,
    /// The last component of the name alone, as late builds of the legacy service wrote it.
    BaseName,
}

/// Which members the answers of the EdgeGallery file-system service have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileSystemView {
    /// Those of v1.3. Strict clients fail on any other; lists, and whoever asks with `view=full`, get all.
    #[default]
    Seed,
    /// Those of late builds, which told of sizes and of the compression too.
    Full,
}

/// Which web pages may call the EdgeGallery paths. The native paths allow none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// All of them, as the legacy service did; never with credentials.
    #[default]
    Any,
    /// These, as browsers write them (`https://portal.example`); an empty list allows none.
    List(Vec<String>),
}

/// Bounds on what one caller can make the gateway hold or wait for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest JSON body in bytes.
    pub json_body_bytes_max: usize,
    /// Longest query string in bytes.
    pub query_bytes_max: usize,
    /// How long the headers of a request may take.
    pub header_timeout: Duration,
    /// How long a request body may stay silent.
    pub body_idle_timeout: Duration,
    /// Over how long it is measured whether a request body comes too slowly.
    pub body_pace_period: Duration,
    /// How long one answer of the server may take, waiting for a job and the bytes of images aside.
    pub call_timeout: Duration,
    /// How long requests may take to end after the shutdown began.
    pub grace_period: Duration,
    /// How long after its last request a connection of HTTP/2 takes another one; running requests end as they would. One of
    /// HTTP/1 waits as long as headers may take.
    pub connection_idle_timeout: Duration,
    /// How old a connection of HTTP/2 gets before it takes no more requests: behind a balancer, load spreads again (SEC-38).
    pub connection_age_max: Duration,
    /// Most connections at a time; more wait in the listener's queue.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            json_body_bytes_max: 1 << 20,
            query_bytes_max: 8 << 10,
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(60),
            body_pace_period: Pace::PERIOD,
            call_timeout: Duration::from_secs(60),
            grace_period: Duration::from_secs(30),
            connection_idle_timeout: Duration::from_secs(60),
            connection_age_max: Duration::from_secs(3600),
            connections_max: 16_384,
        }
    }
}

/// What [`router`](crate::router) is built from, beside the connection.
#[derive(Clone, Default)]
pub struct GatewayConfig {
    /// What EdgeGallery answers show as the directory of the images, without a slash at the end. It is text only.
    pub image_path_label: String,
    /// How that text and a name are joined.
    pub filename_form: FilenameForm,
    /// Which members queries of the file-system service show.
    pub file_system_view: FileSystemView,
    /// Where bytes wait that must be there whole before they go on to the server, in files without names. Absent: where
    /// the system keeps such files.
    pub spool_dir: Option<PathBuf>,
    /// Who may call the EdgeGallery paths from a browser.
    pub cors_origins: Origins,
    /// Bounds.
    pub limits: Limits,
    /// What `/metrics` prints. Absent: the path does not exist.
    pub metrics: Option<PrometheusHandle>,
}
