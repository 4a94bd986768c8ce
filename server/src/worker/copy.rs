//! A copy job: the bytes of an image in one more store.

use std::sync::Arc;

use imageops_catalogue::{JobOutcome, JobRow};
use imageops_model::{CopySpec, JobPhase};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Stop;
use super::run::result_of;
use super::tracker::{Meter, Tracker};
use super::transfer::{Target, has_ready_copy, transfer};
use crate::app::App;
use crate::failure::Result;

/// What a copy job leaves in its row.
#[derive(Debug, Serialize, Deserialize)]
pub struct CopyOutcome {
    /// Bytes that were copied.
    pub copied_bytes: u64,
}

/// Copies an image; nothing is to be done where the store has it.
pub(super) async fn copy(
    app: &Arc<App>,
    row: &JobRow,
    spec: &CopySpec,
    stop: &Stop,
    tracker: &Tracker,
) -> Result<JobOutcome> {
    let image = app.active_image(&row.tenant, spec.image).await?;
    if has_ready_copy(&image, spec.target) {
        let result = result_of(&CopyOutcome { copied_bytes: 0 })?;
        return Ok(JobOutcome::Succeeded { result, image: None, replica: None });
    }
    let target = Target {
        store: spec.target,
        staged: format!("job-{}-{}", row.id.0, row.attempt),
        // The attempt's own: one that comes back late finds nothing of another to remove or replace.
        blob: Uuid::new_v4().to_string(),
    };
    let meter = Meter::new(tracker, JobPhase::Copying, image.size_bytes);
    let replica = transfer(app, &image, target, stop, move |bytes| meter.add(bytes)).await?;
    let result = result_of(&CopyOutcome { copied_bytes: image.size_bytes })?;
    Ok(JobOutcome::Succeeded { result, image: None, replica: Some((spec.image, replica)) })
}
