//! The `Images` service: find, describe, delete. What makes records and copies has files of its own.

use std::collections::HashSet;

use imageops::v1;
use imageops_catalogue::{Cursor, Error, ImageFilter, ImageRow, Page};
use imageops_model::{CompanionKind, ImageId, JobId, JobKind, JobState, Label, Scope};
use tonic::{Request, Response, Status};

use super::{Service, copies, imports, pages, parse_name, quotas, records};
use crate::app::App;
use crate::auth::Caller;
use crate::clock::{latest, now};
use crate::failure::{Failure, Result};
use crate::wire;

/// A day.
const DAY_MS: i64 = 86_400_000;
/// Live jobs that are asked for at a time.
const LIVE_PAGE: u32 = 1_000;

#[tonic::async_trait]
impl v1::images_server::Images for Service {
    async fn get_image(
        &self,
        request: Request<v1::GetImageRequest>,
    ) -> Result<Response<v1::GetImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        Ok(Response::new(get(&self.app, &caller, &request).await?))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        Ok(Response::new(list(&self.app, &caller, request).await?))
    }

    async fn update_image(
        &self,
        request: Request<v1::UpdateImageRequest>,
    ) -> Result<Response<v1::UpdateImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let image = update(&self.app, &caller, request).await?;
        caller.record.image(&image);
        Ok(Response::new(v1::UpdateImageResponse { image: Some(image) }))
    }

    async fn delete_image(
        &self,
        request: Request<v1::DeleteImageRequest>,
    ) -> Result<Response<v1::DeleteImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Delete)?;
        let image = self.app.making_room(|| delete(&self.app, &caller, &request)).await?;
        caller.record.image(&image);
        Ok(Response::new(v1::DeleteImageResponse { image: Some(image) }))
    }

    async fn restore_image(
        &self,
        request: Request<v1::RestoreImageRequest>,
    ) -> Result<Response<v1::RestoreImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let image = restore(&self.app, &caller, &request).await?;
        caller.record.image(&image);
        Ok(Response::new(v1::RestoreImageResponse { image: Some(image) }))
    }

    async fn purge_image(
        &self,
        request: Request<v1::PurgeImageRequest>,
    ) -> Result<Response<v1::PurgeImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Delete)?;
        self.app.making_room(|| records::purge(&self.app, &caller, &request)).await?;
        Ok(Response::new(v1::PurgeImageResponse {}))
    }

    async fn create_image(
        &self,
        request: Request<v1::CreateImageRequest>,
    ) -> Result<Response<v1::CreateImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let image = records::create(&self.app, &caller, request).await?;
        caller.record.image(&image);
        Ok(Response::new(v1::CreateImageResponse { image: Some(image) }))
    }

    async fn import_image(
        &self,
        request: Request<v1::ImportImageRequest>,
    ) -> Result<Response<v1::ImportImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let job = imports::import(&self.app, &caller, request).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::ImportImageResponse { job: Some(job) }))
    }

    async fn copy_image(
        &self,
        request: Request<v1::CopyImageRequest>,
    ) -> Result<Response<v1::CopyImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write)?;
        let job = copies::copy(&self.app, &caller, request).await?;
        caller.record.made(&job.name);
        Ok(Response::new(v1::CopyImageResponse { job: Some(job) }))
    }

    async fn remove_replica(
        &self,
        request: Request<v1::RemoveReplicaRequest>,
    ) -> Result<Response<v1::RemoveReplicaResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Delete)?;
        let image = self.app.making_room(|| copies::remove(&self.app, &caller, &request)).await?;
        caller.record.image(&image);
        Ok(Response::new(v1::RemoveReplicaResponse { image: Some(image) }))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read)?;
        let usage = quotas::usage(&self.app, &caller, request).await?;
        Ok(Response::new(v1::GetUsageResponse { usage: Some(usage) }))
    }

    async fn set_quota(
        &self,
        request: Request<v1::SetQuotaRequest>,
    ) -> Result<Response<v1::SetQuotaResponse>, Status> {
        let (_, request) = self.enter_as_operator(request).await?;
        let usage = quotas::set(&self.app, request).await?;
        Ok(Response::new(v1::SetQuotaResponse { usage }))
    }
}

async fn get(app: &App, caller: &Caller, request: &v1::GetImageRequest) -> Result<v1::GetImageResponse> {
    let id = parse_name("name", &request.name)?;
    let row = app.catalogue.get_image(&caller.tenant, id).await?;
    let jobs: Vec<_> = last_jobs(&row).collect();
    if jobs.is_empty() {
        let work = Some(v1::ImageWork::default());
        return Ok(v1::GetImageResponse { image: Some(wire::image(&row)), work });
    }
    let mut ended = HashSet::new();
    for job in jobs {
        match app.catalogue.get_job(&caller.tenant, job).await {
            Ok(job) if !job.state.is_final() => {}
            Ok(_) | Err(Error::NotFound { .. }) => {
                ended.insert(job);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Read again: the end of those that have ended is written into it. A newer job has just begun.
    let row = app.catalogue.get_image(&caller.tenant, id).await?;
    let work = wire::work(&row, |job| !ended.contains(&job))?;
    Ok(v1::GetImageResponse { image: Some(wire::image(&row)), work: Some(work) })
}

/// The newest check and the newest slimming of an image.
fn last_jobs(row: &ImageRow) -> impl Iterator<Item = JobId> {
    row.check.iter().map(|check| check.job).chain(row.slim.iter().map(|slim| slim.job))
}

/// The checks and compressions of the caller that have not ended.
async fn live_work(app: &App, caller: &Caller) -> Result<HashSet<JobId>> {
    let (states, kinds) = ([JobState::Queued, JobState::Running], [JobKind::Check, JobKind::Compress]);
    let mut live = HashSet::new();
    let mut after = None;
    // As many as the queue takes.
    loop {
        let page = Page { limit: LIVE_PAGE, after };
        let rows = app.catalogue.list_jobs(&caller.tenant, &states, &kinds, page).await?;
        live.extend(rows.iter().map(|row| row.id));
        match rows.last() {
            Some(last) if rows.len() == LIVE_PAGE as usize => {
                after = Some(Cursor { create_time: last.create_time, id: last.id.0 });
            }
            _ => return Ok(live),
        }
    }
}

async fn list(app: &App, caller: &Caller, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse> {
    let order = wire::read_image_order(request.order)?;
    let label = request.display_name.map(Label::new).transpose();
    let filter = ImageFilter {
        states: wire::read_image_states(&request.states)?,
        formats: wire::read_formats(&request.formats)?,
        label: label.map_err(|error| Failure::invalid("display_name", error.to_string()))?,
        labels: request.labels.into_iter().collect(),
        tags: request.tags.into_iter().collect(),
        hidden: request.hidden,
        companions: request.slim_companions.then_some(CompanionKind::Slim),
    };
    let bound = format!("{order:?}{filter:?}");
    let page = pages::image_page(order, request.page_size, &request.page_token, &bound)?;
    // Before the images: what has ended since then is written into them.
    let live = if request.with_work { live_work(app, caller).await? } else { HashSet::new() };
    let rows = app.catalogue.list_images(&caller.tenant, &filter, page.clone()).await?;
    let mut shown = Vec::with_capacity(rows.len());
    for row in rows {
        let work = request.with_work.then(|| wire::work(&row, |job| live.contains(&job))).transpose()?;
        let message = v1::GetImageResponse { image: Some(wire::image(&row)), work };
        shown.push((row, message));
    }
    let next_page_token = pages::cut_images(&mut shown, &page, &bound);
    let (images, works): (Vec<_>, Vec<_>) =
        pages::messages(shown).into_iter().map(|shown| (shown.image, shown.work)).unzip();
    Ok(v1::ListImagesResponse {
        images: images.into_iter().flatten().collect(),
        next_page_token,
        works: works.into_iter().flatten().collect(),
    })
}

async fn update(app: &App, caller: &Caller, request: v1::UpdateImageRequest) -> Result<v1::Image> {
    let image = request.image.ok_or_else(|| Failure::invalid("image", "is missing"))?;
    let id = parse_name("image.name", &image.name)?;
    let revision = wire::read_etag(&image.etag)?;
    let change = wire::read_image_change(image, request.update_mask)?;
    let updated = app.catalogue.update_image(&caller.tenant, id, change, revision, now()).await;
    shown(app, caller, id, updated).await
}

async fn delete(app: &App, caller: &Caller, request: &v1::DeleteImageRequest) -> Result<v1::Image> {
    let id = parse_name("name", &request.name)?;
    let revision = wire::read_etag(&request.etag)?;
    if request.purge {
        return records::discard(app, caller, id, revision).await;
    }
    let time = now();
    let purge_time = latest().plus_ms(i64::from(app.config.trash_days) * DAY_MS);
    let trashed = app.catalogue.trash_image(&caller.tenant, id, revision, time, purge_time).await;
    shown(app, caller, id, trashed).await
}

async fn restore(app: &App, caller: &Caller, request: &v1::RestoreImageRequest) -> Result<v1::Image> {
    let id = parse_name("name", &request.name)?;
    let restored = app.catalogue.restore_image(&caller.tenant, id, now()).await;
    shown(app, caller, id, restored).await
}

/// The image after a change, or why there was none.
async fn shown(
    app: &App,
    caller: &Caller,
    id: ImageId,
    changed: imageops_catalogue::Result<ImageRow>,
) -> Result<v1::Image> {
    match changed {
        Ok(row) => Ok(wire::image(&row)),
        Err(error) => Err(records::refusal(app, &caller.tenant, id, error).await),
    }
}
