//! Conversions that are kept: an image in another format, made once for all who ask for it.

use std::sync::Arc;
use std::time::Duration;

use imageops_catalogue::ImageRow;
use imageops_image::format::Format;
use imageops_model::{ConvertSpec, ImageId, JobSpec, JobState, Label, Source};
use tokio::time::Instant;
use tonic::Code;
use uuid::Uuid;

use super::{start_once, watch};
use crate::app::App;
use crate::auth::Caller;
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::reason;
use crate::worker::{conversion_key, require_room_for_raw};

/// Longest wait for a conversion; who comes back later finds it, or waits on.
const WAIT_MAX: Duration = Duration::from_secs(3_600);
/// How often a conversion that went before it was read is made again.
const TRIES: u32 = 3;

/// The image itself when it has the format, else what it is in that format. Waits for it to be made; when the client goes,
/// the job goes on.
pub(super) async fn in_format(
    app: &Arc<App>,
    caller: &Caller,
    image: ImageRow,
    format: Format,
) -> Result<ImageRow> {
    let stored = image.format.parse::<Format>().ok();
    // A medium is read as raw: its bytes are what a conversion would write.
    if stored == Some(format) || (format == Format::Raw && stored == Some(Format::Iso)) {
        return Ok(image);
    }
    if format == Format::Raw {
        require_room_for_raw(app, image.virtual_size_bytes)?;
    }
    let key = conversion_key(&image.sha256, format);
    let deadline = Instant::now() + WAIT_MAX;
    for _ in 0..TRIES {
        if let Some(known) = app.catalogue.find_conversion(&caller.tenant, &key).await? {
            app.catalogue.touch_image(known.id, now()).await?;
            return Ok(known);
        }
        let job = start_once(app, &caller.tenant, spec(&image, format), format!("convert:{key}")).await?;
        let job = watch::ended(app, caller, job.id, deadline).await?;
        match (job.state, job.failure) {
            (JobState::Succeeded, _) => {}
            (_, Some(failure)) => return Err(failure.into()),
            (JobState::Cancelled, None) => {
                let message = "the conversion was cancelled; ask again to start another";
                return Err(Failure::new(Code::Aborted, imageops_image::reason::CANCELLED, message));
            }
            _ => return Err(not_ready()),
        }
    }
    Err(not_ready())
}

fn spec(image: &ImageRow, format: Format) -> JobSpec {
    JobSpec::Convert(ConvertSpec {
        source: Source::Image(image.id),
        format: format.as_str().to_owned(),
        output_file: None,
        output_image: Some(ImageId(Uuid::new_v4())),
        output_label: Label::default(),
        cached: true,
        compression: None,
    })
}

fn not_ready() -> Failure {
    let message = "the image is still being converted; ask again";
    Failure::new(Code::Unavailable, reason::UNAVAILABLE, message).retry_after(Duration::from_secs(10))
}
