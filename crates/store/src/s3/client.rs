//! The connection to the server that a store and its open blobs share.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::path::Path;
use object_store::{BackoffConfig, RetryConfig};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::blocks::Blocks;
use super::connector::Connector;
use super::failure::{failure, overdue};
use super::settings::S3Settings;
use crate::{Error, Result};

/// Tries of one request; at one failure in ten, as many in a row are one in 10^12.
const RETRIES_MAX: usize = 12;
/// No try begins later than this after the first.
const RETRYING_MAX: Duration = Duration::from_secs(20);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Growth of the pause, which is drawn at random between the shortest and this many times the last.
const BACKOFF_GROWTH: f64 = 3.0;
/// For an operation with its retries that moves at most a block.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Client {
    pub(super) objects: AmazonS3,
    pub(super) runtime: Handle,
    pub(super) blocks: Blocks,
    settings: S3Settings,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(out)
    }
}

impl Client {
    pub(super) fn new(settings: &S3Settings, runtime: Handle) -> Result<Arc<Self>> {
        settings.check()?;
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: BACKOFF_MIN,
                max_backoff: BACKOFF_MAX,
                base: BACKOFF_GROWTH,
            },
            max_retries: RETRIES_MAX,
            retry_timeout: RETRYING_MAX,
        };
        let mut builder = AmazonS3Builder::new()
            .with_region(&settings.region)
            .with_bucket_name(&settings.bucket)
            .with_access_key_id(&settings.access_key)
            .with_secret_access_key(&settings.secret_key)
            .with_allow_http(settings.allow_http)
            .with_virtual_hosted_style_request(!settings.path_style)
            .with_checksum_algorithm(Checksum::SHA256)
            .with_http_connector(Connector::default())
            .with_retry(retry);
        if let Some(endpoint) = settings.endpoint() {
            builder = builder.with_endpoint(endpoint);
        }
        let objects = builder
            .build()
            .map_err(|_| Error::Unusable("the settings of the object store cannot be used".to_owned()))?;
        Ok(Arc::new(Self { objects, runtime, blocks: Blocks::default(), settings: settings.clone() }))
    }

    /// The object of a name that we made.
    pub(super) fn path(&self, name: &str) -> Path {
        Path::from(self.settings.key(name))
    }

    /// Waits for an operation on this thread, which must not be one of the runtime's own.
    pub(super) fn run<T>(&self, operation: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        self.run_for(OPERATION_TIMEOUT, operation)
    }

    /// The same for one that takes longer.
    pub(super) fn run_for<T>(
        &self,
        limit: Duration,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        self.wait(async { timeout(limit, operation).await.map_err(|_| overdue())?.map_err(failure) })
    }

    pub(super) async fn limited<T>(&self, operation: impl Future<Output = T>) -> Result<T> {
        timeout(OPERATION_TIMEOUT, operation).await.map_err(|_| overdue())
    }

    pub(super) fn wait<T>(&self, operation: impl Future<Output = T>) -> T {
        self.runtime.block_on(operation)
    }
}
