//! The services: each call is authorised, checked, done, and answered here; one file for each group.

mod conversions;
mod copies;
mod download;
mod images;
mod imports;
mod inspect;
mod jobs;
mod keys;
mod pages;
mod quotas;
mod records;
mod same_work;
mod slim;
mod stores;
mod uploads;
mod watch;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use imageops::v1;
use imageops::v1::image_ops_server::ImageOps;
use imageops_gateway::FileWanted;
use imageops_model::Scope;
use tonic::{Request, Response, Status, Streaming};

use crate::app::App;
use crate::audit::subject_of;
use crate::auth::Caller;
use crate::failure::{Failure, Result};

pub(crate) use jobs::start_once;
pub(crate) use stores::work_key;

/// The service, over the parts of the server.
#[derive(Clone)]
pub struct Service {
    app: Arc<App>,
}

/// Answers of a server stream.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// A service over the parts of a server.
    pub fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    /// The caller of a request, who was let in at the entrance, and the request itself.
    fn enter<T: 'static>(&self, request: Request<T>, scope: Scope) -> Result<(Caller, T)> {
        let (_, mut extensions, message) = request.into_parts();
        let caller: Caller =
            extensions.remove().ok_or_else(|| Failure::internal("a call that did not pass the entrance"))?;
        caller.record.needs(scope, &subject_of(&message));
        if scope == Scope::Write && self.app.shutdown.is_cancelled() {
            return Err(watch::shutting_down());
        }
        caller.allow(scope)?;
        Ok((caller, message))
    }
}

/// A member that must hold a resource name.
fn parse_name<T: std::str::FromStr<Err = imageops_model::InvalidName>>(
    field: &'static str,
    name: &str,
) -> Result<T> {
    name.parse().map_err(|error: imageops_model::InvalidName| Failure::invalid(field, error.to_string()))
}

#[tonic::async_trait]
impl ImageOps for Service {
    async fn check(&self, request: Request<v1::CheckRequest>) -> Result<Response<v1::CheckResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let job = jobs::check(&self.app, &caller, request).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::CheckResponse { job: Some(job) }))
    }

    async fn compress(
        &self,
        request: Request<v1::CompressRequest>,
    ) -> Result<Response<v1::CompressResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let job = jobs::compress(&self.app, &caller, request).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::CompressResponse { job: Some(job) }))
    }

    async fn estimate_compression(
        &self,
        request: Request<v1::EstimateCompressionRequest>,
    ) -> Result<Response<v1::EstimateCompressionResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let job = jobs::estimate(&self.app, &caller, request).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::EstimateCompressionResponse { job: Some(job) }))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectRequest>,
    ) -> Result<Response<v1::InspectResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        let inspection = inspect::inspect(&self.app, &caller, request).await?;
        Ok(Response::new(v1::InspectResponse { inspection: Some(inspection) }))
    }

    type WatchStatusStream = Answers<v1::WatchStatusResponse>;

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        Ok(Response::new(watch::watch(&self.app, &caller, request).await?))
    }

    async fn upload_image(
        &self,
        request: Request<Streaming<v1::UploadImageRequest>>,
    ) -> Result<Response<v1::UploadImageResponse>, Status> {
        let (caller, messages) = self.enter(request, Scope::Write)?;
        let record = caller.record.clone();
        let answer = uploads::upload(&self.app, caller, messages).await?;
        if let (None, Some(upload)) = (&answer.image, &answer.upload) {
            record.made(&upload.name);
        }
        Ok(Response::new(answer))
    }

    type DownloadImageStream = Answers<v1::DownloadImageResponse>;

    async fn download_image(
        &self,
        request: Request<v1::DownloadImageRequest>,
    ) -> Result<Response<Self::DownloadImageStream>, Status> {
        let wants_file = request.extensions().get::<FileWanted>().is_some();
        let (caller, request) = self.enter(request, Scope::Read)?;
        download::download(&self.app, &caller, request, wants_file).await.map_err(Status::from)
    }

    async fn get_upload(
        &self,
        request: Request<v1::GetUploadRequest>,
    ) -> Result<Response<v1::GetUploadResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        let upload = uploads::get(&self.app, &caller, &request).await?;
        Ok(Response::new(v1::GetUploadResponse { upload: Some(upload) }))
    }

    async fn list_uploads(
        &self,
        request: Request<v1::ListUploadsRequest>,
    ) -> Result<Response<v1::ListUploadsResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        Ok(Response::new(uploads::list(&self.app, &caller, request).await?))
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::AbortUploadResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let upload = self.app.making_room(|| uploads::abort(&self.app, &caller, &request)).await?;
        Ok(Response::new(v1::AbortUploadResponse { upload: Some(upload) }))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        let job = jobs::get(&self.app, &caller, &request).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(job) }))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        Ok(Response::new(jobs::list(&self.app, &caller, request).await?))
    }

    async fn wait_job(
        &self,
        request: Request<v1::WaitJobRequest>,
    ) -> Result<Response<v1::WaitJobResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        let job = watch::wait(&self.app, &caller, request).await?;
        Ok(Response::new(v1::WaitJobResponse { job: Some(job) }))
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let job = jobs::cancel(&self.app, &caller, &request).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::CancelJobResponse { job: Some(job) }))
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Delete)?;
        jobs::delete(&self.app, &caller, &request).await?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }

    async fn convert(
        &self,
        request: Request<v1::ConvertRequest>,
    ) -> Result<Response<v1::ConvertResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let job = jobs::convert(&self.app, &caller, request).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::ConvertResponse { job: Some(job) }))
    }

    async fn compose_image(
        &self,
        request: Request<v1::ComposeImageRequest>,
    ) -> Result<Response<v1::ComposeImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        Ok(Response::new(uploads::compose_image(&self.app, caller, request).await?))
    }

    async fn abort_session(
        &self,
        request: Request<v1::AbortSessionRequest>,
    ) -> Result<Response<v1::AbortSessionResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let aborted = self.app.making_room(|| uploads::abort_session(&self.app, &caller, &request)).await?;
        Ok(Response::new(aborted))
    }
}
