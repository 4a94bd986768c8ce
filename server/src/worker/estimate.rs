//! An estimate job: what a compression would come to, without one.

use imageops_catalogue::JobOutcome;
use imageops_image::Control;
use imageops_image::compress::{DryRun, dry_run};
use imageops_image::format::{self, Format};
use imageops_model::{EstimateSpec, Tenant};
use serde::{Deserialize, Serialize};

use super::run::{engine, result_of};
use crate::app::App;
use crate::compression::engine_options;
use crate::failure::Result;

/// What an estimate job leaves in its row.
#[derive(Debug, Serialize, Deserialize)]
pub struct EstimateOutcome {
    /// Format of the source.
    pub source_format: Format,
    /// The engine's figures.
    pub told: DryRun,
}

/// Looks at the source; nothing is written.
pub(super) async fn estimate(
    app: &App,
    tenant: &Tenant,
    spec: &EstimateSpec,
    control: Control,
) -> Result<JobOutcome> {
    let source = app.open_source(tenant, &spec.source).await?;
    let options = engine_options(&spec.compression);
    let outcome = engine(move || {
        let image = format::open(source.storage, source.format)?;
        let told = dry_run(&image, &options, &control)?;
        Ok(EstimateOutcome { source_format: image.format, told })
    })
    .await?;
    Ok(JobOutcome::Succeeded { result: result_of(&outcome)?, image: None, replica: None })
}
