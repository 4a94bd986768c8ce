//! Inspect.

use imageops::v1;
use imageops_image::inspect::InspectOptions;

use crate::app::{App, blocking};
use crate::auth::Caller;
use crate::failure::Result;
use crate::wire;

/// Looks at an image; a verdict other than valid is an answer.
pub(super) async fn inspect(
    app: &App,
    caller: &Caller,
    request: v1::InspectRequest,
) -> Result<v1::Inspection> {
    let source = wire::read_source(request.source)?;
    let declared = wire::read_format("declared_format", request.declared_format)?;
    let source = app.open_source(&caller.tenant, &source).await?;
    let options = InspectOptions {
        declared_format: declared.or(source.format),
        virtual_size_max_bytes: app.config.virtual_size_max_bytes,
        layout: true,
    };
    let inspection = blocking(move || imageops_image::inspect::inspect(&source.storage, &options)).await??;
    Ok(wire::inspection(inspection))
}
