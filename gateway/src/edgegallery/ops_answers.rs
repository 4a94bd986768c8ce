//! What the legacy polls show of a job.

use imageops::v1::job::Result as JobResult;
use imageops::v1::source::Source as SourceKind;
use imageops::v1::{CheckFigures, CheckOutcome, CheckResult, Job, JobState};
use serde_json::{Value, json};

use super::check::{self, sizes};
use super::{compress, literals};
use crate::config::{FilenameForm, GatewayConfig};

/// What stands for a digest that could not be computed.
const NO_CHECKSUM: &str = "error";

/// The body of GET `check/{requestId}`.
pub(super) fn check(job: &Job, config: &GatewayConfig) -> Value {
    match (job.state(), &job.result) {
        (JobState::Unspecified | JobState::Queued | JobState::Running, _) => {
            check::Verdict::RUNNING.answer(Value::Null, Value::Null)
        }
        (JobState::Succeeded, Some(JobResult::Check(result))) => check_end(job, result, config),
        _ => check::Verdict::of_failure(failure(job)).answer(NO_CHECKSUM.into(), json!({})),
    }
}

fn check_end(job: &Job, result: &CheckResult, config: &GatewayConfig) -> Value {
    let checksum = match result.digests.as_ref().map(|digests| digests.md5.as_str()) {
        Some("") | None => NO_CHECKSUM.into(),
        Some(md5) => md5.into(),
    };
    let image = match result.outcome() {
        CheckOutcome::NotSupported => Value::Object(sizes(result.inspection.as_ref())),
        CheckOutcome::Consistent | CheckOutcome::Corrupt | CheckOutcome::Leaks => {
            qcow2_info(job, result, config)
        }
        CheckOutcome::Failed if result.figures.is_some() => qcow2_info(job, result, config),
        CheckOutcome::Failed | CheckOutcome::Unspecified => json!({}),
    };
    check::Verdict::of(result).answer(checksum, image)
}

/// `imageInfo` of a qcow2 image: three counts always, the others where they are not zero, all of them strings.
fn qcow2_info(job: &Job, result: &CheckResult, config: &GatewayConfig) -> Value {
    let mut info = sizes(result.inspection.as_ref());
    info.insert("filename".to_owned(), filename(job, config).into());
    let figures = result.figures.unwrap_or_default();
    let CheckFigures { check_errors, corruptions, leaks, total_clusters, .. } = figures;
    let CheckFigures { allocated_clusters, fragmented_clusters, compressed_clusters, .. } = figures;
    for (name, count) in [
        ("check-errors", check_errors),
        ("image-end-offset", figures.image_end_offset_bytes),
        ("total-clusters", total_clusters),
    ] {
        info.insert(name.to_owned(), count.to_string().into());
    }
    for (name, count) in [
        ("allocated-clusters", allocated_clusters),
        ("compressed-clusters", compressed_clusters),
        ("corruptions", corruptions),
        ("fragmented-clusters", fragmented_clusters),
        ("leaks", leaks),
    ] {
        if count != 0 {
            info.insert(name.to_owned(), count.to_string().into());
        }
    }
    Value::Object(info)
}

fn filename(job: &Job, config: &GatewayConfig) -> String {
    let name = match job.source.as_ref().and_then(|source| source.source.as_ref()) {
        Some(SourceKind::File(name) | SourceKind::Image(name)) => name.as_str(),
        None => "",
    };
    match config.filename_form {
        FilenameForm::Full => format!("{}/{name}", config.image_path_label),
        FilenameForm::BaseName => name.rsplit('/').next().unwrap_or(name).to_owned(),
    }
}

/// The body of GET `compress/{requestId}`.
pub(super) fn compress(job: &Job) -> Value {
    let verdict = match job.state() {
        JobState::Unspecified | JobState::Queued | JobState::Running => {
            compress::Verdict::running(job.progress.as_ref().map_or(0.0, |progress| progress.percent))
        }
        JobState::Succeeded => compress::Verdict::completed(),
        JobState::Failed | JobState::Cancelled => compress::Verdict::of_failure(failure(job)),
    };
    compress_answer(verdict.status, verdict.message, verdict.rate)
}

/// The body of GET `compress/{requestId}` for an id that is no compression.
pub(super) fn compress_unknown() -> Value {
    compress_answer(2, literals::COMPRESS_UNKNOWN, 0.into())
}

fn compress_answer(status: u32, message: &str, rate: Value) -> Value {
    json!({"msg": message, "rate": rate, "status": status})
}

/// Why the job failed; empty where it did not.
fn failure(job: &Job) -> &str {
    job.error.as_ref().map_or("", |error| &error.reason)
}

/// Whether the job failed for this reason.
pub(super) fn failed_for(job: &Job, reason: &str) -> bool {
    job.state() == JobState::Failed && job.error.as_ref().is_some_and(|error| error.reason == reason)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops::v1::{Digests, ImageFormat, Inspection, JobError, Progress, Source};

    use super::super::python_json::to_line;
    use super::*;

    fn config() -> GatewayConfig {
        GatewayConfig { image_path_label: "/usr/app/vmImage".to_owned(), ..GatewayConfig::default() }
    }

    fn inspection(format: ImageFormat) -> Inspection {
        Inspection {
            format: format.into(),
            virtual_size_bytes: Some(64 << 20),
            file_size_bytes: 1_441_792,
            allocated_bytes: 1_384_448,
            ..Inspection::default()
        }
    }

    fn checked(outcome: CheckOutcome, figures: Option<CheckFigures>, format: ImageFormat) -> Job {
        let result = CheckResult {
            outcome: outcome.into(),
            figures,
            digests: Some(Digests {
                md5: "565a2c24253bb259c0bd447f814db579".to_owned(),
                sha256: String::new(),
                ..Digests::default()
            }),
            inspection: Some(inspection(format)),
            ..CheckResult::default()
        };
        Job {
            state: JobState::Succeeded.into(),
            source: Some(Source { source: Some(SourceKind::File("10.0.0.7/abc.img".to_owned())) }),
            result: Some(JobResult::Check(result)),
            ..Job::default()
        }
    }

    fn ended(state: JobState, reason: &str) -> Job {
        let error = JobError { reason: reason.to_owned(), ..JobError::default() };
        Job { state: state.into(), error: (!reason.is_empty()).then_some(error), ..Job::default() }
    }

    const FIGURES: CheckFigures = CheckFigures {
        check_errors: 0,
        corruptions: 0,
        leaks: 0,
        total_clusters: 1024,
        allocated_clusters: 16,
        fragmented_clusters: 0,
        compressed_clusters: 0,
        image_end_offset_bytes: 1_376_256,
    };

    #[test]
    fn a_consistent_image_shows_counts_as_strings_and_no_zeros() {
        let job = checked(CheckOutcome::Consistent, Some(FIGURES), ImageFormat::Qcow2);
        assert_eq!(
            to_line(&check(&job, &config())),
            concat!(
                r#"{"checkInfo":{"checkResult":0,"checksum":"565a2c24253bb259c0bd447f814db579","#,
                r#""imageInfo":{"allocated-clusters":"16","check-errors":"0","disk_size":"1384448","#,
                r#""filename":"/usr/app/vmImage/10.0.0.7/abc.img","format":"qcow2","#,
                r#""image-end-offset":"1376256","total-clusters":"1024","virtual_size":0.062}},"#,
                r#""msg":"Check Completed, the image is (now) consistent","status":0}"#,
                "\n"
            )
        );
        let base = GatewayConfig { filename_form: FilenameForm::BaseName, ..config() };
        assert_eq!(check(&job, &base)["checkInfo"]["imageInfo"]["filename"], "abc.img");
    }

    #[test]
    fn findings_and_outcomes_have_their_numbers() {
        let leaky = CheckFigures { leaks: 1, ..FIGURES };
        let answer = check(&checked(CheckOutcome::Leaks, Some(leaky), ImageFormat::Qcow2), &config());
        assert_eq!((&answer["status"], &answer["checkInfo"]["checkResult"]), (&json!(2), &json!(3)));
        assert_eq!(answer["checkInfo"]["imageInfo"]["leaks"], "1");
        assert_eq!(answer["msg"], "Check completed, image has leaked clusters, but is not corrupted");

        let corrupt = CheckFigures { corruptions: 2, ..FIGURES };
        let answer = check(&checked(CheckOutcome::Corrupt, Some(corrupt), ImageFormat::Qcow2), &config());
        assert_eq!((&answer["status"], &answer["checkInfo"]["checkResult"]), (&json!(1), &json!(2)));
        assert_eq!(answer["checkInfo"]["imageInfo"]["corruptions"], "2");

        let answer = check(&checked(CheckOutcome::Failed, None, ImageFormat::Qcow2), &config());
        assert_eq!((&answer["status"], &answer["checkInfo"]["checkResult"]), (&json!(3), &json!(99)));
        let answer = check(&checked(CheckOutcome::Failed, Some(FIGURES), ImageFormat::Qcow2), &config());
        assert_eq!((&answer["status"], &answer["checkInfo"]["checkResult"]), (&json!(3), &json!(1)));
    }

    #[test]
    fn other_formats_show_exactly_three_members() {
        for (format, name) in
            [(ImageFormat::Raw, "raw"), (ImageFormat::Iso, "raw"), (ImageFormat::Vhd, "vpc")]
        {
            let answer = check(&checked(CheckOutcome::NotSupported, None, format), &config());
            assert_eq!(
                answer["checkInfo"]["imageInfo"],
                json!({"disk_size": "1384448", "format": name, "virtual_size": 0.062})
            );
            assert_eq!((&answer["status"], &answer["checkInfo"]["checkResult"]), (&json!(5), &json!(63)));
            assert_eq!(answer["checkInfo"]["checksum"], "565a2c24253bb259c0bd447f814db579");
        }
    }

    #[test]
    fn unfinished_and_failed_checks() {
        for state in [JobState::Queued, JobState::Running] {
            assert_eq!(
                to_line(&check(&ended(state, ""), &config())),
                concat!(
                    r#"{"checkInfo":{"checkResult":4,"checksum":null,"imageInfo":null},"#,
                    r#""msg":"Check in Progress","status":4}"#,
                    "\n"
                )
            );
        }
        let answer = check(&ended(JobState::Failed, "TIMEOUT"), &config());
        assert_eq!(answer["msg"], "Check Time Out");
        assert_eq!((&answer["status"], &answer["checkInfo"]["checkResult"]), (&json!(6), &json!(100)));
        for job in [ended(JobState::Failed, "IO_ERROR"), ended(JobState::Cancelled, "")] {
            let answer = check(&job, &config());
            assert_eq!((&answer["msg"], &answer["status"]), (&json!("Check failed"), &json!(3)));
        }
    }

    #[test]
    fn compress_polls_in_every_state() {
        let running = Job {
            state: JobState::Running.into(),
            progress: Some(Progress { percent: 41.26, ..Progress::default() }),
            ..Job::default()
        };
        for (job, want) in [
            (running, r#"{"msg":"Compress In Progress","rate":0.412,"status":1}"#),
            (ended(JobState::Queued, ""), r#"{"msg":"Compress In Progress","rate":0.0,"status":1}"#),
            (ended(JobState::Succeeded, ""), r#"{"msg":"Compress Completed","rate":1,"status":0}"#),
            (ended(JobState::Failed, "CORRUPT"), r#"{"msg":"Compress Failed","rate":0,"status":2}"#),
            (ended(JobState::Cancelled, ""), r#"{"msg":"Compress Failed","rate":0,"status":2}"#),
            (
                ended(JobState::Failed, "NO_SPACE"),
                r#"{"msg":"Compress Exiting because of No enouth space left","rate":0,"status":3}"#,
            ),
            (ended(JobState::Failed, "TIMEOUT"), r#"{"msg":"Compress Time Out","rate":0,"status":4}"#),
        ] {
            assert_eq!(to_line(&compress(&job)).trim_end(), want);
        }
        assert_eq!(
            to_line(&compress_unknown()),
            "{\"msg\":\"Compress Failed, nonexistent request ID\",\"rate\":0,\"status\":2}\n"
        );
    }
}
