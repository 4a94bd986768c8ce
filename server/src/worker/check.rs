//! A check job.

use imageops_catalogue::JobOutcome;
use imageops_image::Control;
use imageops_image::check::CheckOptions;
use imageops_model::{CheckSpec, Tenant};

use super::run::{engine, result_of};
use crate::app::App;
use crate::failure::Result;

/// Checks the source; the result is the engine's report.
pub(super) async fn check(
    app: &App,
    tenant: &Tenant,
    spec: &CheckSpec,
    control: Control,
) -> Result<JobOutcome> {
    let source = app.open_to_check(tenant, &spec.source).await?;
    let options = CheckOptions {
        format: source.format,
        md5: spec.md5,
        sha256: spec.sha256,
        threads: app.config.job_threads as usize,
    };
    let report =
        engine(move || Ok(imageops_image::check::check(source.storage, &options, &control)?)).await?;
    Ok(JobOutcome::Succeeded { result: result_of(&report)?, image: None, replica: None })
}
