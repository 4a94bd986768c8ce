//! The `Images` service: find, describe, delete.

use imageops::v1;
use imageops_catalogue::{Error, ImageFilter};
use imageops_model::{Label, Scope};
use tonic::{Code, Request, Response, Status};

use super::{Service, pages, parse_name};
use crate::app::App;
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::{reason, wire};

/// A day.
const DAY_MS: i64 = 86_400_000;

#[tonic::async_trait]
impl v1::images_server::Images for Service {
    async fn get_image(
        &self,
        request: Request<v1::GetImageRequest>,
    ) -> Result<Response<v1::GetImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read).await?;
        let id = parse_name("name", &request.name)?;
        let row = self.app.catalogue.get_image(&caller.tenant, id).await.map_err(Failure::from)?;
        Ok(Response::new(v1::GetImageResponse { image: Some(wire::image(&row)) }))
    }

    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Read).await?;
        Ok(Response::new(list(&self.app, &caller, request).await?))
    }

    async fn update_image(
        &self,
        request: Request<v1::UpdateImageRequest>,
    ) -> Result<Response<v1::UpdateImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write).await?;
        let image = update(&self.app, &caller, request).await?;
        Ok(Response::new(v1::UpdateImageResponse { image: Some(image) }))
    }

    async fn delete_image(
        &self,
        request: Request<v1::DeleteImageRequest>,
    ) -> Result<Response<v1::DeleteImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Delete).await?;
        let image = delete(&self.app, &caller, &request).await?;
        Ok(Response::new(v1::DeleteImageResponse { image: Some(image) }))
    }

    async fn restore_image(
        &self,
        request: Request<v1::RestoreImageRequest>,
    ) -> Result<Response<v1::RestoreImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Write).await?;
        let id = parse_name("name", &request.name)?;
        let row = self.app.catalogue.restore_image(&caller.tenant, id, now()).await.map_err(Failure::from)?;
        Ok(Response::new(v1::RestoreImageResponse { image: Some(wire::image(&row)) }))
    }

    async fn purge_image(
        &self,
        request: Request<v1::PurgeImageRequest>,
    ) -> Result<Response<v1::PurgeImageResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Delete).await?;
        purge(&self.app, &caller, &request).await?;
        Ok(Response::new(v1::PurgeImageResponse {}))
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
        hidden: None,
        companions: None,
    };
    let bound = format!("{order:?}{filter:?}");
    let page = pages::image_page(order, request.page_size, &request.page_token, &bound)?;
    let rows = app.catalogue.list_images(&caller.tenant, &filter, page.clone()).await?;
    let mut rows = pages::shown(rows, wire::image);
    let next_page_token = pages::cut_images(&mut rows, &page, &bound);
    Ok(v1::ListImagesResponse { images: pages::messages(rows), next_page_token })
}

async fn update(app: &App, caller: &Caller, request: v1::UpdateImageRequest) -> Result<v1::Image> {
    let image = request.image.ok_or_else(|| Failure::invalid("image", "is missing"))?;
    let id = parse_name("image.name", &image.name)?;
    let revision = wire::read_etag(&image.etag)?;
    let change = wire::read_image_change(image, request.update_mask)?;
    let row = app.catalogue.update_image(&caller.tenant, id, change, revision, now()).await?;
    Ok(wire::image(&row))
}

async fn delete(app: &App, caller: &Caller, request: &v1::DeleteImageRequest) -> Result<v1::Image> {
    let id = parse_name("name", &request.name)?;
    let revision = wire::read_etag(&request.etag)?;
    let time = now();
    let purge_time = time.plus_ms(i64::from(app.config.trash_days) * DAY_MS);
    let row = app.catalogue.trash_image(&caller.tenant, id, revision, time, purge_time).await?;
    Ok(wire::image(&row))
}

async fn purge(app: &App, caller: &Caller, request: &v1::PurgeImageRequest) -> Result<()> {
    let id = parse_name("name", &request.name)?;
    let revision = wire::read_etag(&request.etag)?;
    let purged = app.catalogue.purge_image(&caller.tenant, id, revision, false, now()).await;
    purged.map_err(|error| match error {
        Error::State { .. } => Failure::new(
            Code::FailedPrecondition,
            reason::IMAGE_NOT_TRASHED,
            "only an image in the trash goes for good; delete it first",
        ),
        other => other.into(),
    })?;
    app.remove_doomed().await
}
