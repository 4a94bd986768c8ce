//! What the legacy polls show of a job.

use imageops::v1::job::Result as JobResult;
use imageops::v1::source::Source as SourceKind;
use imageops::v1::{CheckFigures, CheckOutcome, CheckResult, ImageFormat, Inspection, Job, JobState};
use serde_json::{Map, Value, json};

use super::literals;
use crate::config::{FilenameForm, GatewayConfig};

/// `checkResult`, in the numbers of the legacy service: `qemu-img check`'s exit status and some of its own.
mod check_result {
    pub(super) const CONSISTENT: u32 = 0;
    pub(super) const NOT_COMPLETED: u32 = 1;
    pub(super) const CORRUPT: u32 = 2;
    pub(super) const LEAKS: u32 = 3;
    pub(super) const RUNNING: u32 = 4;
    pub(super) const NOT_SUPPORTED: u32 = 63;
    pub(super) const NOT_READABLE: u32 = 99;
    pub(super) const TIMEOUT: u32 = 100;
}

/// What stands for a digest that could not be computed.
const NO_CHECKSUM: &str = "error";

/// Reason of a job that did not fit on the volume.
pub(super) const NO_SPACE: &str = "NO_SPACE";
const TIMEOUT: &str = "TIMEOUT";

/// The body of GET `check/{requestId}`.
pub(super) fn check(job: &Job, config: &GatewayConfig) -> Value {
    match job.state() {
        JobState::Unspecified | JobState::Queued | JobState::Running => {
            check_answer(4, literals::CHECK_RUNNING, check_result::RUNNING, Value::Null, Value::Null)
        }
        JobState::Failed if failed_for(job, TIMEOUT) => {
            check_failure(6, literals::CHECK_TIMEOUT, check_result::TIMEOUT)
        }
        JobState::Failed | JobState::Cancelled => {
            check_failure(3, literals::CHECK_FAILED, check_result::NOT_READABLE)
        }
        JobState::Succeeded => match &job.result {
            Some(JobResult::Check(result)) => check_end(job, result, config),
            _ => check_failure(3, literals::CHECK_FAILED, check_result::NOT_READABLE),
        },
    }
}

fn check_end(job: &Job, result: &CheckResult, config: &GatewayConfig) -> Value {
    let checksum = match result.digests.as_ref().map(|digests| digests.md5.as_str()) {
        Some("") | None => NO_CHECKSUM.into(),
        Some(md5) => md5.into(),
    };
    let qcow2 = || qcow2_info(job, result, config);
    match result.outcome() {
        CheckOutcome::Consistent => {
            check_answer(0, literals::CHECK_CONSISTENT, check_result::CONSISTENT, checksum, qcow2())
        }
        CheckOutcome::Corrupt => {
            check_answer(1, literals::CHECK_CORRUPT, check_result::CORRUPT, checksum, qcow2())
        }
        CheckOutcome::Leaks => check_answer(2, literals::CHECK_LEAKS, check_result::LEAKS, checksum, qcow2()),
        CheckOutcome::NotSupported => {
            let info = Value::Object(sizes(result.inspection.as_ref()));
            check_answer(5, literals::CHECK_NOT_SUPPORTED, check_result::NOT_SUPPORTED, checksum, info)
        }
        CheckOutcome::Failed if result.figures.is_some() => {
            check_answer(3, literals::CHECK_FAILED, check_result::NOT_COMPLETED, checksum, qcow2())
        }
        CheckOutcome::Failed | CheckOutcome::Unspecified => {
            check_answer(3, literals::CHECK_FAILED, check_result::NOT_READABLE, checksum, json!({}))
        }
    }
}

fn check_failure(status: u32, message: &str, result: u32) -> Value {
    check_answer(status, message, result, NO_CHECKSUM.into(), json!({}))
}

fn check_answer(status: u32, message: &str, result: u32, checksum: Value, image: Value) -> Value {
    let info = json!({"checkResult": result, "checksum": checksum, "imageInfo": image});
    json!({"checkInfo": info, "msg": message, "status": status})
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

/// The members that every readable image has.
fn sizes(inspection: Option<&Inspection>) -> Map<String, Value> {
    let mut info = Map::new();
    let Some(inspection) = inspection else { return info };
    // Of formats that are only recognised the guest's size is not known; the member must be there all the same.
    let virtual_size = inspection.virtual_size_bytes.unwrap_or(inspection.file_size_bytes);
    info.insert("disk_size".to_owned(), inspection.allocated_bytes.to_string().into());
    info.insert("format".to_owned(), format_name(inspection.format()).into());
    info.insert("virtual_size".to_owned(), gibibytes(virtual_size).into());
    info
}

/// The format's name in `qemu-img info`.
fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw | ImageFormat::Iso | ImageFormat::Other | ImageFormat::Unspecified => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Qcow => "qcow",
        ImageFormat::Qed => "qed",
        ImageFormat::Vmdk => "vmdk",
        ImageFormat::Vhd => "vpc",
        ImageFormat::Vhdx => "vhdx",
        ImageFormat::Vdi => "vdi",
        ImageFormat::Parallels => "parallels",
        ImageFormat::Luks => "luks",
    }
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

/// GiB with three decimals, ties to even, computed exactly: in binary fractions 192 MiB would depend on luck.
fn gibibytes(bytes: u64) -> f64 {
    const GIBIBYTE_BITS: u32 = 30;
    const HALF: u128 = 1 << (GIBIBYTE_BITS - 1);
    let scaled = u128::from(bytes) * 1000;
    let (whole, rest) = (scaled >> GIBIBYTE_BITS, scaled & ((1 << GIBIBYTE_BITS) - 1));
    let up = rest > HALF || (rest == HALF && whole & 1 == 1);
    // Below 2^45, hence exact as a float; the division then rounds to the float that prints with three decimals.
    (whole + u128::from(up)) as f64 / 1000.0
}

/// The body of GET `compress/{requestId}`.
pub(super) fn compress(job: &Job) -> Value {
    match job.state() {
        JobState::Unspecified | JobState::Queued | JobState::Running => {
            let percent = job.progress.as_ref().map_or(0.0, |progress| progress.percent);
            compress_answer(1, literals::COMPRESS_RUNNING, rate(percent).into())
        }
        JobState::Succeeded => compress_answer(0, literals::COMPRESS_COMPLETED, 1.into()),
        JobState::Failed if failed_for(job, NO_SPACE) => {
            compress_answer(3, literals::COMPRESS_NO_SPACE, 0.into())
        }
        JobState::Failed if failed_for(job, TIMEOUT) => {
            compress_answer(4, literals::COMPRESS_TIMEOUT, 0.into())
        }
        JobState::Failed | JobState::Cancelled => compress_answer(2, literals::COMPRESS_FAILED, 0.into()),
    }
}

/// The body of GET `compress/{requestId}` for an id that is no compression.
pub(super) fn compress_unknown() -> Value {
    compress_answer(2, literals::COMPRESS_UNKNOWN, 0.into())
}

fn compress_answer(status: u32, message: &str, rate: Value) -> Value {
    json!({"msg": message, "rate": rate, "status": status})
}

/// The share done with three decimals, rounded down: below 1 until the job has ended, and never falling.
fn rate(percent: f64) -> f64 {
    let thousandths = if percent.is_finite() { (percent * 10.0).floor().clamp(0.0, 999.0) } else { 0.0 };
    thousandths / 1000.0
}

/// Whether the job failed for this reason.
pub(super) fn failed_for(job: &Job, reason: &str) -> bool {
    job.state() == JobState::Failed && job.error.as_ref().is_some_and(|error| error.reason == reason)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops::v1::{Digests, JobError, Progress, Source};

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
    fn sizes_in_gibibytes_round_ties_to_even() {
        for (bytes, want) in [
            (0, "0.0"),
            (64 << 20, "0.062"),
            (192 << 20, "0.188"),
            (320 << 20, "0.312"),
            ((64 << 20) + 1, "0.063"),
            ((64 << 20) - 1, "0.062"),
            (65_536, "0.0"),
            (1 << 30, "1.0"),
            (2_361_393_152, "2.199"),
            (u64::MAX, "17179869184.0"),
        ] {
            assert_eq!(json!(gibibytes(bytes)).to_string(), want, "{bytes}");
        }
    }

    #[test]
    fn rates_have_three_decimals_and_stay_below_one() {
        for (percent, want) in [
            (0.0, "0.0"),
            (12.34, "0.123"),
            (50.0, "0.5"),
            (99.999, "0.999"),
            (100.0, "0.999"),
            (f64::NAN, "0.0"),
        ] {
            assert_eq!(json!(rate(percent)).to_string(), want, "{percent}");
        }
    }

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
