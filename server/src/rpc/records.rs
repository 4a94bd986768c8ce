//! CreateImage, and images that go for good.

use imageops::v1;
use imageops_catalogue::{Created, Error, ImageRow};
use imageops_model::{ImageId, ImageState, Tenant};
use tonic::Code;
use uuid::Uuid;

use super::parse_name;
use crate::app::App;
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::upload::give_up;
use crate::{reason, wire};

/// Makes a record without bytes.
pub(super) async fn create(app: &App, caller: &Caller, request: v1::CreateImageRequest) -> Result<v1::Image> {
    let image = request.image.ok_or_else(|| Failure::invalid("image", "is missing"))?;
    let (id, label, details) = wire::read_record(image)?;
    let time = now();
    let row = ImageRow {
        id: id.unwrap_or_else(|| ImageId(Uuid::new_v4())),
        tenant: caller.tenant.clone(),
        label,
        state: ImageState::Queued,
        format: String::new(),
        size_bytes: 0,
        virtual_size_bytes: None,
        md5: String::new(),
        sha256: String::new(),
        sha512: None,
        crc32: None,
        replicas: Vec::new(),
        derived_from: None,
        companion: None,
        use_time: None,
        details,
        enabled: true,
        quarantine: None,
        check: None,
        slim: None,
        upload: None,
        revision: 1,
        create_time: time,
        update_time: time,
        trash_time: None,
        purge_time: None,
    };
    let (Created::New(row) | Created::Existing(row)) = app.catalogue.create_image(row, false).await?;
    Ok(wire::image(&row))
}

/// DeleteImage with `purge`: at once, whatever the state.
pub(super) async fn discard(
    app: &App,
    caller: &Caller,
    id: ImageId,
    revision: Option<u64>,
) -> Result<v1::Image> {
    let purged = app.catalogue.purge_image(&caller.tenant, id, revision, true, now()).await;
    let row = match purged {
        Ok(row) => row,
        Err(error) => return Err(refusal(app, &caller.tenant, id, error).await),
    };
    tidy(app, &row).await?;
    Ok(wire::image(&row))
}

/// PurgeImage.
pub(super) async fn purge(app: &App, caller: &Caller, request: &v1::PurgeImageRequest) -> Result<()> {
    let id = parse_name("name", &request.name)?;
    let revision = wire::read_etag(&request.etag)?;
    let error = match app.catalogue.purge_image(&caller.tenant, id, revision, false, now()).await {
        Ok(row) => {
            caller.record.digest(&row.sha256);
            return tidy(app, &row).await;
        }
        Err(error) => error,
    };
    let failure = refusal(app, &caller.tenant, id, error).await;
    if failure.reason != reason::IMAGE_NOT_ACTIVE {
        return Err(failure);
    }
    let message = "only an image in the trash goes for good; delete it first";
    Err(Failure::new(Code::FailedPrecondition, reason::IMAGE_NOT_TRASHED, message))
}

/// What goes after the rows: the bytes, and what came of the upload that was filling the record.
async fn tidy(app: &App, row: &ImageRow) -> Result<()> {
    if let Some(upload) = row.upload {
        give_up(app, upload).await;
    }
    app.remove_doomed().await
}

/// Why an image was not changed: of a companion the catalogue says no more than that its state does not allow it.
pub(super) async fn refusal(app: &App, tenant: &Tenant, id: ImageId, error: Error) -> Failure {
    if matches!(error, Error::State { what: "image" })
        && let Ok(row) = app.catalogue.get_image(tenant, id).await
        && row.companion.is_some()
    {
        let message = "the image is a companion of another one, and changes and goes only with that";
        return Failure::new(Code::FailedPrecondition, reason::IMAGE_IS_COMPANION, message);
    }
    error.into()
}
