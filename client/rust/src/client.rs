//! The calls of one request and one answer, made again when the connection breaks.

use std::time::{Duration, Instant};

use imageops::v1::image_ops_client::ImageOpsClient;
use imageops::v1::images_client::ImagesClient;
use imageops::v1::keys_client::KeysClient;
use imageops::v1::stores_client::StoresClient;
use imageops::v1::{
    AbortUploadRequest, CancelJobRequest, CheckRequest, CompressRequest, ConvertRequest, DeleteJobRequest,
    EstimateCompressionRequest, GetJobRequest, GetUploadRequest, InspectRequest, Inspection, Job, JobState,
    ListJobsRequest, ListJobsResponse, ListUploadsRequest, ListUploadsResponse, Upload, WaitJobRequest,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::retry::{Attempts, RetryPolicy};

/// Longest time that one call of WaitJob may wait at the server.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// An answer that lacks what it is about.
pub(crate) const NO_JOB: Error = Error::Protocol("no job in the answer");

/// What a waiting call may take beyond the wait itself.
const WAIT_GRACE: Duration = Duration::from_secs(10);

/// A client of `imageops.v1`, cheap to clone.
///
/// Every call that starts something carries an idempotency key, so that making it again after a broken connection
/// starts nothing twice.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
    retry: RetryPolicy,
    call_timeout: Duration,
}

/// Whether a job in this state changes no more.
pub fn is_final(state: JobState) -> bool {
    matches!(state, JobState::Succeeded | JobState::Failed | JobState::Cancelled)
}

impl Client {
    /// A client over `connection`.
    pub fn new(connection: Connection) -> Self {
        Self { connection, retry: RetryPolicy::default(), call_timeout: Duration::from_secs(60) }
    }

    /// The same client with other bounds of its attempts.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// The generated stub, for what this client does not wrap.
    pub fn stub(&self) -> ImageOpsClient<Connection> {
        self.connection.stub()
    }

    /// The generated stub of the records of images, for what this client does not wrap.
    pub fn images(&self) -> ImagesClient<Connection> {
        self.connection.images()
    }

    /// The generated stub of the stores, for what this client does not wrap.
    pub fn stores(&self) -> StoresClient<Connection> {
        self.connection.stores()
    }

    /// The generated stub of the keys, for what this client does not wrap.
    pub fn keys(&self) -> KeysClient<Connection> {
        self.connection.keys()
    }

    /// The bounds of the attempts.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Starts a check and answers with its job.
    pub async fn check(&self, mut request: CheckRequest) -> Result<Job> {
        fill_request_id(&mut request.request_id);
        let answer = self.call(request, async |mut stub, request| stub.check(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Starts a compression and answers with its job.
    pub async fn compress(&self, mut request: CompressRequest) -> Result<Job> {
        fill_request_id(&mut request.request_id);
        let answer = self.call(request, async |mut stub, request| stub.compress(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Starts an estimate of what a compression would come to and answers with its job.
    pub async fn estimate_compression(&self, mut request: EstimateCompressionRequest) -> Result<Job> {
        fill_request_id(&mut request.request_id);
        let call =
            async |mut stub: ImageOpsClient<Connection>, request| stub.estimate_compression(request).await;
        let answer = self.call(request, call).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Starts a conversion and answers with its job.
    pub async fn convert(&self, mut request: ConvertRequest) -> Result<Job> {
        fill_request_id(&mut request.request_id);
        let answer = self.call(request, async |mut stub, request| stub.convert(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Looks at an image without reading its data.
    pub async fn inspect(&self, request: InspectRequest) -> Result<Inspection> {
        let answer = self.call(request, async |mut stub, request| stub.inspect(request).await).await?;
        answer.inspection.ok_or(Error::Protocol("no inspection in the answer"))
    }

    /// How far a job is, and its result.
    pub async fn get_job(&self, name: &str) -> Result<Job> {
        let request = GetJobRequest { name: name.to_owned() };
        let answer = self.call(request, async |mut stub, request| stub.get_job(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// One page of jobs, newest first.
    pub async fn list_jobs(&self, request: ListJobsRequest) -> Result<ListJobsResponse> {
        self.call(request, async |mut stub, request| stub.list_jobs(request).await).await
    }

    /// Waits until a job has ended, at most for `timeout`, and answers with the job as it then is.
    pub async fn wait_job(&self, name: &str, timeout: Option<Duration>) -> Result<Job> {
        let start = Instant::now();
        loop {
            let left =
                timeout.map_or(WAIT_MAX, |timeout| timeout.saturating_sub(start.elapsed()).min(WAIT_MAX));
            let request = WaitJobRequest { name: name.to_owned(), timeout: Some(left.into()) };
            let wait = async |mut stub: ImageOpsClient<Connection>, request| stub.wait_job(request).await;
            let answer = self.call_within(left + WAIT_GRACE, request, wait).await?;
            let job = answer.job.ok_or(NO_JOB)?;
            if is_final(job.state()) || timeout.is_some_and(|timeout| start.elapsed() >= timeout) {
                return Ok(job);
            }
        }
    }

    /// Asks a job to stop and answers with the job as it then is.
    pub async fn cancel_job(&self, name: &str) -> Result<Job> {
        let request = CancelJobRequest { name: name.to_owned() };
        let answer = self.call(request, async |mut stub, request| stub.cancel_job(request).await).await?;
        answer.job.ok_or(NO_JOB)
    }

    /// Forgets a job that has ended.
    pub async fn delete_job(&self, name: &str) -> Result<()> {
        let request = DeleteJobRequest { name: name.to_owned() };
        self.call(request, async |mut stub, request| stub.delete_job(request).await).await.map(drop)
    }

    /// How far an upload is.
    pub async fn get_upload(&self, name: &str) -> Result<Upload> {
        let request = GetUploadRequest { name: name.to_owned() };
        let answer = self.call(request, async |mut stub, request| stub.get_upload(request).await).await?;
        answer.upload.ok_or(Error::Protocol("no upload in the answer"))
    }

    /// One page of uploads, newest first.
    pub async fn list_uploads(&self, request: ListUploadsRequest) -> Result<ListUploadsResponse> {
        self.call(request, async |mut stub, request| stub.list_uploads(request).await).await
    }

    /// Gives an upload up.
    pub async fn abort_upload(&self, name: &str) -> Result<Upload> {
        let request = AbortUploadRequest { name: name.to_owned() };
        let answer = self.call(request, async |mut stub, request| stub.abort_upload(request).await).await?;
        answer.upload.ok_or(Error::Protocol("no upload in the answer"))
    }

    // With futures of a type of their own, and not `AsyncFn`, whose futures are not known to be `Send`.
    pub(crate) async fn call<Q, A, F, T>(&self, request: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(ImageOpsClient<Connection>, Request<Q>) -> T,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        self.call_within(self.call_timeout, request, call).await
    }

    pub(crate) async fn call_within<Q, A, F, T>(&self, timeout: Duration, request: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(ImageOpsClient<Connection>, Request<Q>) -> T,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        self.retried(timeout, request, |request| call(self.connection.stub(), request)).await
    }

    /// A call of the records of images.
    pub(crate) async fn call_images<Q, A, F, T>(&self, request: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(ImagesClient<Connection>, Request<Q>) -> T,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        let call = |request| call(self.connection.images(), request);
        self.retried(self.call_timeout, request, call).await
    }

    /// A call of the stores.
    pub(crate) async fn call_stores<Q, A, F, T>(&self, request: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(StoresClient<Connection>, Request<Q>) -> T,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        let call = |request| call(self.connection.stores(), request);
        self.retried(self.call_timeout, request, call).await
    }

    /// A call of the keys.
    pub(crate) async fn call_keys<Q, A, F, T>(&self, request: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(KeysClient<Connection>, Request<Q>) -> T,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        let call = |request| call(self.connection.keys(), request);
        self.retried(self.call_timeout, request, call).await
    }

    /// Makes a call until it is answered or the attempts are used up.
    async fn retried<Q, A, F, T>(&self, timeout: Duration, request: Q, call: F) -> Result<A>
    where
        Q: Clone,
        F: Fn(Request<Q>) -> T,
        T: Future<Output = Result<Response<A>, Status>>,
    {
        let mut attempts = Attempts::new(&self.retry);
        loop {
            let mut request = Request::new(request.clone());
            request.set_timeout(timeout);
            match call(request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => attempts.pause_after(status.into()).await?,
            }
        }
    }
}

/// A start without a key would start twice when it is made again.
pub(crate) fn fill_request_id(request_id: &mut String) {
    if request_id.is_empty() {
        *request_id = Uuid::new_v4().to_string();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Cursor;

    use imageops::v1::ListImagesRequest;

    use super::*;
    use crate::{ConnectOptions, UploadOptions};

    fn spawnable<T: Send>(_: T) {}

    #[tokio::test]
    async fn calls_can_be_made_by_tasks() {
        let connection = Connection::connect_lazy("http://127.0.0.1:1", ConnectOptions::default()).unwrap();
        let client = Client::new(connection);
        let (options, mut source, mut target) = (UploadOptions::default(), Cursor::new(vec![]), vec![]);
        spawnable(client.check(CheckRequest::default()));
        spawnable(client.wait_job("jobs/1", None));
        spawnable(client.list_images(ListImagesRequest::default()));
        spawnable(client.get_store("default"));
        spawnable(client.upload(&mut source, &options, |_| {}));
        spawnable(client.download("images/1", 0, &mut target, |_| {}));
    }
}
