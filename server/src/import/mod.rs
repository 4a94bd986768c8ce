//! `imageops-server import-edgegallery`: the images of an EdgeGallery file-system service, taken over.
//!
//! Each file goes the way of every upload: staged, digested, judged, committed. The id, the name, the user and the age of
//! an image are those of the table. The old installation is only read, so that an import can be run again: what is there
//! already is passed over.

mod bring;
mod files;
mod report;
mod row;
mod table;

use std::sync::Arc;

use imageops::v1;
use imageops_catalogue::legacy::LegacyImage;
use imageops_catalogue::{Companion, Error, ImageRow, NewJob};
use imageops_model::{
    CompanionKind, CompressSpec, CompressionChoice, ImageId, ImageState, JobFailure, JobId, JobSpec, Label,
    Source, Tenant,
};
use tonic::Code;
use uuid::Uuid;

use self::bring::{bring, judge_only};
use self::files::LegacyFile;
use self::report::{Outcome, Report};
use self::row::{Row, Slim};
use crate::app::{App, blocking};
use crate::clock::now;
use crate::config::{Config, ImportEdgegallery};
use crate::exit::{Exit, Fatal};
use crate::failure::{Failure, Result};
use crate::upload::Origin;
use crate::{reason, serve, sweep};

/// Whom an image belongs to, as the file-system surface keeps it.
const USER_ID: &str = "edgegallery/user-id";

/// Imports what the table names and prints what came of it.
pub async fn run(config: Config, from: ImportEdgegallery) -> Result<(), Fatal> {
    let images = table::read(&from).await?;
    // Names of files are resolved as those of the image root are: beneath the directory, whatever links say.
    let app = serve::assemble(Config { image_path: from.directory.clone(), ..config }).await?;
    let import = Import { app: &app, dry_run: from.dry_run };
    let report = import.run(&images).await;
    app.catalogue.close().await;
    let report = report.map_err(|failure| Fatal::new(Exit::Catalogue, failure.message))?;
    report.print();
    match report.refused() {
        0 => Ok(()),
        refused => {
            let message = format!("{refused} of {} files were refused; the table says why", report.len());
            Err(Fatal::new(Exit::Refused, message))
        }
    }
}

struct Import<'a> {
    app: &'a Arc<App>,
    dry_run: bool,
}

impl Import<'_> {
    async fn run(&self, images: &[LegacyImage]) -> Result<Report> {
        if !self.dry_run {
            // What an import that was cut off had staged.
            sweep::expire_uploads(self.app, now()).await?;
        }
        let mut report = Report::new(self.dry_run);
        for legacy in images {
            self.take(legacy, &mut report).await;
        }
        Ok(report)
    }

    /// Takes over one row of the table: its image, and what was slimmed of it.
    async fn take(&self, legacy: &LegacyImage, report: &mut Report) {
        let row = match Row::read(legacy) {
            Ok(row) => row,
            Err(problem) => {
                let name =
                    if legacy.file_name.is_empty() { &legacy.save_file_name } else { &legacy.file_name };
                return report.add(&legacy.image_id, name, Outcome::Refused(problem));
            }
        };
        let (outcome, image) = match self.image(&row).await {
            Ok(done) => done,
            Err(failure) => (refused(&row, failure), None),
        };
        let goes_on = matches!(outcome, Outcome::Imported(_) | Outcome::Present);
        report.add(&legacy.image_id, &row.name, outcome);
        if goes_on && let Some((name, outcome)) = self.slim(&row, image.as_ref()).await {
            report.add(&legacy.image_id, &name, outcome);
        }
    }

    /// The image of a row; its row of ours unless nothing is to be done.
    async fn image(&self, row: &Row) -> Result<(Outcome, Option<ImageRow>)> {
        let tenant = Tenant::built_in();
        match self.app.catalogue.get_image(&tenant, row.id).await {
            Ok(image) => {
                let outcome = if self.is_same(row, &image).await? { Outcome::Present } else { taken() };
                return Ok((outcome, Some(image)));
            }
            Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if self.app.catalogue.is_image_retired(&tenant, row.id).await? {
            return Ok((Outcome::Gone, None));
        }
        let file = self.open(&row.stored_names).await?;
        let mut metadata = metadata(&row.name, &file, row.checksum_of_image());
        if !row.user_id.is_empty() {
            metadata.labels.insert(USER_ID.to_owned(), row.user_id.clone());
        }
        // What contradicts itself is kept, in quarantine: its check says so, as it did there.
        metadata.accept_corrupt = true;
        let origin = Origin {
            id: row.id,
            create_time: Some(row.create_time.unwrap_or(file.modified)),
            companion: None,
        };
        self.bring(&file, metadata, origin).await
    }

    /// Whether an image is what the row tells of. Where the table has no checksum of it, its file is read.
    async fn is_same(&self, row: &Row, image: &ImageRow) -> Result<bool> {
        let Some(checksum) = &row.checksum else { return self.has_md5(row, &image.md5).await };
        if *checksum == image.md5 {
            return Ok(true);
        }
        if row.checksum_of_image().is_some() {
            // A checksum of the archive that the image came out of.
            let file = self.open(&row.stored_names).await?;
            return if file.is_archive() { self.has_md5(row, &image.md5).await } else { Ok(false) };
        }
        let slim = image.slim.as_ref().and_then(|slim| slim.image);
        if let Some(slim) = slim
            && self.app.catalogue.get_image(&image.tenant, slim).await?.md5 == *checksum
        {
            return Ok(true);
        }
        self.has_md5(row, &image.md5).await
    }

    async fn has_md5(&self, row: &Row, md5: &str) -> Result<bool> {
        let file = self.open(&row.stored_names).await?;
        let max_bytes = self.app.config.upload_max_bytes;
        Ok(blocking(move || file.md5(max_bytes)).await?? == md5)
    }

    /// What was slimmed of an image: the name of its file and what came of it, when there is something to say.
    async fn slim(&self, row: &Row, image: Option<&ImageRow>) -> Option<(String, Outcome)> {
        let names = match &row.slim {
            Slim::Never => return None,
            Slim::Failed => {
                let failed = self.remember_failure(image).await;
                return failed.err().map(|failure| (row.name.clone(), refused(row, failure)));
            }
            Slim::Made(names) => names,
        };
        let done = self.slim_file(row, names, image).await;
        let outcome = done.unwrap_or_else(|failure| refused(row, failure));
        Some((names[0].clone(), outcome))
    }

    async fn slim_file(&self, row: &Row, names: &[String], image: Option<&ImageRow>) -> Result<Outcome> {
        if let Some(image) = image {
            if image.slim.as_ref().is_some_and(|slim| slim.image.is_some()) {
                return Ok(Outcome::Present);
            }
            if !matches!(image.state, ImageState::Active | ImageState::Quarantined) {
                return Ok(Outcome::Gone);
            }
        }
        let file = self.open(names).await?;
        // The check of a slimmed image read the slimmed file; some builds kept the one of the original.
        let checksum = row.checksum.as_deref();
        let checksum = checksum.filter(|sum| image.is_none_or(|image| image.md5 != *sum));
        let mut metadata = metadata(&row.name, &file, checksum);
        metadata.declared_format = v1::ImageFormat::Qcow2.into();
        let companion = Companion { of: row.id, kind: CompanionKind::Slim, key: None };
        let id = ImageId(Uuid::new_v4());
        let origin = Origin { id, create_time: row.create_time, companion: Some(companion) };
        Ok(self.bring(&file, metadata, origin).await?.0)
    }

    /// That slimming failed, or was cut off: it can be asked for again.
    async fn remember_failure(&self, image: Option<&ImageRow>) -> Result<()> {
        let Some(image) = image.filter(|image| !self.dry_run && image.slim.is_none()) else { return Ok(()) };
        let spec = JobSpec::Compress(CompressSpec {
            source: Source::Image(image.id),
            output_file: None,
            output_image: Some(ImageId(Uuid::new_v4())),
            output_label: Label::default(),
            companion: true,
            compression: CompressionChoice::default(),
        });
        let failure = JobFailure {
            code: Code::Aborted as i32,
            reason: reason::LEGACY_SLIM_FAILED.to_owned(),
            message: "slimming failed, or was cut off, where the image was imported from; slim it again"
                .to_owned(),
        };
        let job = NewJob::new(JobId(Uuid::new_v4()), image.tenant.clone(), spec, now());
        self.app.catalogue.create_job(NewJob { failure: Some(failure), ..job }, u64::MAX).await?;
        Ok(())
    }

    async fn bring(
        &self,
        file: &LegacyFile,
        metadata: v1::UploadMetadata,
        origin: Origin,
    ) -> Result<(Outcome, Option<ImageRow>)> {
        if self.dry_run {
            let quarantine = judge_only(self.app, file, metadata).await?;
            return Ok((Outcome::Imported(quarantine.map(in_quarantine)), None));
        }
        let image = bring(self.app, file, metadata, origin).await?;
        tracing::info!(image = %image.id, bytes = image.size_bytes, "imported");
        Ok((Outcome::Imported(image.quarantine.clone().map(in_quarantine)), Some(image)))
    }

    /// The first of these files that is there.
    async fn open(&self, names: &[String]) -> Result<LegacyFile> {
        let (root, wanted) = (Arc::clone(&self.app.image_root), names.to_vec());
        blocking(move || files::open(&root, &wanted)).await?
    }
}

/// What an upload of the file through the file-system surface would say of it.
fn metadata(name: &str, file: &LegacyFile, md5: Option<&str>) -> v1::UploadMetadata {
    let archive = if file.is_archive() { v1::Archive::Zip } else { v1::Archive::Unspecified };
    v1::UploadMetadata {
        request_id: Uuid::new_v4().to_string(),
        display_name: name.to_owned(),
        size_bytes: Some(file.size_bytes),
        expected_digests: md5.map(|md5| v1::Digests { md5: md5.to_owned(), ..v1::Digests::default() }),
        archive: archive.into(),
        check: Some(true),
        ..v1::UploadMetadata::default()
    }
}

fn in_quarantine(why: JobFailure) -> String {
    format!("in quarantine: {}: {}", why.reason, why.message)
}

fn taken() -> Outcome {
    Outcome::Refused(format!("{}: the id stands for an image with other bytes here", reason::IMAGE_EXISTS))
}

fn refused(row: &Row, failure: Failure) -> Outcome {
    let checksum = row.checksum.as_deref().unwrap_or_default();
    let message = match failure.reason.as_str() {
        reason::DIGEST_MISMATCH => {
            format!("the file was changed or damaged: its checksum in the table is {checksum}")
        }
        _ => failure.message,
    };
    Outcome::Refused(format!("{}: {message}", failure.reason))
}
