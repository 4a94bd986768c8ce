//! What the service shows of an image.

use imageops::v1::{Image, ImageCheck, ImageWorkState};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::USER_ID;
use super::records::Record;
use crate::config::GatewayConfig;
use crate::edgegallery::{check, compress, literals};
use crate::v1;

/// Which members a query shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Those that a strict client knows, and no other.
    Seed,
    /// Those of late builds too.
    Full,
}

/// The body of the answer to an upload or a merge.
pub(super) fn uploaded(image: &Image, check_started: bool, config: &GatewayConfig) -> Value {
    // Not how the check is, but whether it could be started.
    let (status, message) =
        if check_started { (0, literals::CHECK_STARTED) } else { (1, literals::CHECK_NOT_STARTED) };
    let mut answer = common(image, config);
    answer.insert("checkStatus".to_owned(), status.into());
    answer.insert("msg".to_owned(), message.into());
    answer.insert("slimStatus".to_owned(), 0.into());
    Value::Object(answer)
}

/// The members that every answer has.
fn common(image: &Image, config: &GatewayConfig) -> Map<String, Value> {
    let user = image.labels.get(USER_ID).cloned().unwrap_or_default();
    let members = [
        ("fileName", image.display_name.clone()),
        ("imageId", v1::id_of(&image.name).to_owned()),
        ("storageMedium", format!("{}/", config.image_path_label)),
        ("uploadTime", upload_time(image)),
        ("userId", user),
    ];
    members.map(|(name, text)| (name.to_owned(), text.into())).into_iter().collect()
}

/// `YYYY-MM-DD HH:MM:SS`, UTC.
fn upload_time(image: &Image) -> String {
    let time = image.create_time.and_then(|time| Timestamp::new(time.seconds, 0).ok()).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// An image as queries and lists show it.
pub(super) struct Row<'a> {
    /// The image.
    pub(super) record: &'a Record,
    /// Its slim companion, once there is one whose bytes are good.
    pub(super) slim: Option<&'a Record>,
    /// How far the companion is.
    pub(super) percent: f64,
}

impl Row<'_> {
    /// The body of GET `images/{imageId}`.
    pub(super) fn query(&self, view: View, config: &GatewayConfig) -> Value {
        let mut answer = common(&self.record.image, config);
        answer.insert("slimStatus".to_owned(), self.slim_status().into());
        answer.insert("checkStatusResponse".to_owned(), self.check(view));
        if view == View::Full {
            answer.insert("compressInfo".to_owned(), self.compression());
        }
        Value::Object(answer)
    }

    /// A member of the body of GET `images`.
    pub(super) fn listed(&self, config: &GatewayConfig) -> Value {
        self.query(View::Full, config)
    }

    fn slim_state(&self) -> ImageWorkState {
        match self.record.work.slim.as_ref().map_or(ImageWorkState::Unspecified, |slim| slim.state()) {
            // It was damaged since: a slim may be asked for again.
            ImageWorkState::Succeeded if self.slim.is_none() => ImageWorkState::Failed,
            state => state,
        }
    }

    fn slim_status(&self) -> u32 {
        match self.slim_state() {
            ImageWorkState::Unspecified => 0,
            ImageWorkState::InProgress => 1,
            ImageWorkState::Succeeded => 2,
            ImageWorkState::Failed => 3,
        }
    }

    /// `compressInfo`: zeros and an empty text before any slim.
    fn compression(&self) -> Value {
        let verdict = match self.slim_state() {
            ImageWorkState::Unspecified => {
                return json!({"compressStatus": 0, "compressMsg": "", "compressRate": 0});
            }
            ImageWorkState::InProgress => compress::Verdict::running(self.percent),
            ImageWorkState::Succeeded => compress::Verdict::completed(),
            ImageWorkState::Failed => {
                let error = self.record.work.slim.as_ref().and_then(|slim| slim.error.as_ref());
                compress::Verdict::of_failure(error.map_or("", |error| &error.reason))
            }
        };
        json!({
            "compressStatus": verdict.status,
            "compressMsg": verdict.message,
            "compressRate": verdict.rate,
        })
    }

    /// `checkStatusResponse`: of the slim companion once there is one.
    fn check(&self, view: View) -> Value {
        let image = &self.record.image;
        let stored_name = format!("{}{}", v1::id_of(&image.name), image.display_name);
        match self.slim {
            Some(slim) => check_answer(slim, format!("compressed{stored_name}"), view),
            None => check_answer(self.record, stored_name, view),
        }
    }
}

/// Figures that strict clients read, all of them empty while they are not known.
#[derive(Default)]
struct Figures {
    checksum: String,
    end_offset: String,
    check_errors: String,
    format: String,
    sizes: Map<String, Value>,
}

fn check_answer(record: &Record, stored_name: String, view: View) -> Value {
    let (verdict, figures) = match &record.work.check {
        Some(check) => ended(check, &record.image),
        // Nobody asked for one yet: as before its end.
        None => (check::Verdict::RUNNING, Figures::default()),
    };
    let mut image = json!({
        "check-errors": figures.check_errors,
        "filename": stored_name,
        "format": figures.format,
        "image-end-offset": figures.end_offset,
    });
    if view == View::Full {
        for (name, unknown) in [("virtual_size", json!(0)), ("disk_size", json!(""))] {
            image[name] = figures.sizes.get(name).cloned().unwrap_or(unknown);
        }
    }
    verdict.answer(figures.checksum.into(), image)
}

/// How a check ended and what it found. While a newer one runs, what the one before found stays.
fn ended(check: &ImageCheck, image: &Image) -> (check::Verdict, Figures) {
    let Some(result) = &check.result else {
        let verdict = match check.state() {
            ImageWorkState::Unspecified | ImageWorkState::InProgress => check::Verdict::RUNNING,
            ImageWorkState::Succeeded | ImageWorkState::Failed => {
                check::Verdict::of_failure(check.error.as_ref().map_or("", |error| &error.reason))
            }
        };
        return (verdict, Figures::default());
    };
    // A check right behind the upload reads no more than the tables: the digest was taken as the bytes came.
    let mut taken = [&result.digests, &image.digests].into_iter().flatten().map(|digests| &digests.md5);
    let checksum = taken.find(|md5| !md5.is_empty()).cloned().unwrap_or_default();
    let inspection = result.inspection.as_ref();
    let (end_offset, check_errors) = match &result.figures {
        Some(figures) => (figures.image_end_offset_bytes, figures.check_errors.to_string()),
        // Clients read a number as soon as there is a checksum, whatever the image is.
        None => (inspection.map_or(image.size_bytes, |inspection| inspection.file_size_bytes), String::new()),
    };
    let figures = Figures {
        end_offset: if checksum.is_empty() { String::new() } else { end_offset.to_string() },
        checksum,
        check_errors,
        format: inspection.map_or("", |inspection| check::format_name(inspection.format())).to_owned(),
        sizes: check::sizes(inspection),
    };
    (check::Verdict::of(result), figures)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use imageops::v1::{
        CheckFigures, CheckOutcome, CheckResult, Digests, ImageFormat, ImageSlim, ImageWork, Inspection,
        JobError,
    };

    use super::*;

    const ID: &str = "94d6e70d-51f7-4b0d-965f-59dca2c3002c";

    fn config() -> GatewayConfig {
        GatewayConfig { image_path_label: "/usr/app/vmImage".to_owned(), ..GatewayConfig::default() }
    }

    fn record(check: Option<ImageCheck>, slim: Option<ImageSlim>) -> Record {
        let image = Image {
            name: format!("images/{ID}"),
            display_name: "disk.qcow2".to_owned(),
            size_bytes: 564_330_496,
            labels: [(USER_ID.to_owned(), "u1".to_owned())].into(),
            create_time: Some(pbjson_types::Timestamp { seconds: 1_634_661_183, nanos: 999_999_999 }),
            ..Image::default()
        };
        Record { image, work: ImageWork { check, slim } }
    }

    fn checked(outcome: CheckOutcome, format: ImageFormat, md5: &str) -> ImageCheck {
        let figures = CheckFigures { image_end_offset_bytes: 564_330_496, ..CheckFigures::default() };
        let result = CheckResult {
            outcome: outcome.into(),
            figures: (format == ImageFormat::Qcow2).then_some(figures),
            digests: Some(Digests { md5: md5.to_owned(), ..Digests::default() }),
            inspection: Some(Inspection {
                format: format.into(),
                virtual_size_bytes: Some(64 << 20),
                file_size_bytes: 65_536,
                allocated_bytes: 4096,
                ..Inspection::default()
            }),
            ..CheckResult::default()
        };
        ImageCheck { state: ImageWorkState::Succeeded.into(), result: Some(result), ..ImageCheck::default() }
    }

    fn query(record: &Record, slim: Option<&Record>, view: View) -> Value {
        Row { record, slim, percent: 12.34 }.query(view, &config())
    }

    const MD5: &str = "782fa5257615748e673eefe0143188e4";

    #[test]
    fn a_checked_image_has_exactly_the_members_of_the_old_service() {
        let record = record(Some(checked(CheckOutcome::Consistent, ImageFormat::Qcow2, MD5)), None);
        let want = json!({
            "checkStatusResponse": {
                "status": 0,
                "msg": "Check Completed, the image is (now) consistent",
                "checkInfo": {
                    "checksum": MD5,
                    "checkResult": 0,
                    "imageInfo": {
                        "image-end-offset": "564330496",
                        "check-errors": "0",
                        "format": "qcow2",
                        "filename": format!("{ID}disk.qcow2"),
                    },
                },
            },
            "fileName": "disk.qcow2",
            "imageId": ID,
            "slimStatus": 0,
            "storageMedium": "/usr/app/vmImage/",
            "uploadTime": "2021-10-19 16:33:03",
            "userId": "u1",
        });
        assert_eq!(query(&record, None, View::Seed), want);
        let mut full = want;
        full["compressInfo"] = json!({"compressStatus": 0, "compressMsg": "", "compressRate": 0});
        full["checkStatusResponse"]["checkInfo"]["imageInfo"]["virtual_size"] = json!(0.062);
        full["checkStatusResponse"]["checkInfo"]["imageInfo"]["disk_size"] = json!("4096");
        assert_eq!(query(&record, None, View::Full), full);
    }

    #[test]
    fn before_the_end_of_a_check_all_texts_are_empty_and_the_sizes_too() {
        let running = ImageCheck { state: ImageWorkState::InProgress.into(), ..ImageCheck::default() };
        for check in [None, Some(running.clone())] {
            let answer = query(&record(check, None), None, View::Full);
            let check = &answer["checkStatusResponse"];
            assert_eq!((&check["status"], &check["msg"]), (&json!(4), &json!("Check in Progress")));
            let info = &check["checkInfo"];
            assert_eq!((&info["checkResult"], &info["checksum"]), (&json!(4), &json!("")));
            for name in ["image-end-offset", "check-errors", "format", "disk_size"] {
                assert_eq!(info["imageInfo"][name], "", "{name}");
            }
            assert_eq!(info["imageInfo"]["virtual_size"], 0);
        }
        // A newer check leaves what the one before found.
        let again =
            ImageCheck { result: checked(CheckOutcome::Leaks, ImageFormat::Qcow2, MD5).result, ..running };
        let answer = query(&record(Some(again), None), None, View::Seed);
        assert_eq!(answer["checkStatusResponse"]["status"], 2);
    }

    #[test]
    fn whoever_has_a_checksum_has_a_length() {
        for (outcome, format, name, status) in [
            (CheckOutcome::NotSupported, ImageFormat::Raw, "raw", 5),
            (CheckOutcome::Failed, ImageFormat::Other, "raw", 3),
        ] {
            let answer = query(&record(Some(checked(outcome, format, MD5)), None), None, View::Seed);
            let check = &answer["checkStatusResponse"];
            let info = &check["checkInfo"]["imageInfo"];
            assert_eq!((&check["status"], &info["format"]), (&json!(status), &json!(name)));
            assert_eq!((&info["image-end-offset"], &info["check-errors"]), (&json!("65536"), &json!("")));
        }
        let answer = query(
            &record(Some(checked(CheckOutcome::Corrupt, ImageFormat::Qcow2, "")), None),
            None,
            View::Seed,
        );
        let info = &answer["checkStatusResponse"]["checkInfo"];
        assert_eq!((&info["checksum"], &info["imageInfo"]["image-end-offset"]), (&json!(""), &json!("")));
    }

    #[test]
    fn a_check_that_read_the_tables_alone_shows_the_digest_of_the_upload() {
        let mut record = record(Some(checked(CheckOutcome::Consistent, ImageFormat::Qcow2, "")), None);
        record.image.digests = Some(Digests { md5: MD5.to_owned(), ..Digests::default() });
        let info = &query(&record, None, View::Seed)["checkStatusResponse"]["checkInfo"];
        assert_eq!(
            (&info["checksum"], &info["imageInfo"]["image-end-offset"]),
            (&json!(MD5), &json!("564330496"))
        );
    }

    #[test]
    fn failed_checks_say_why() {
        for (reason, status, result) in [("TIMEOUT", 6, 100), ("IO", 3, 99)] {
            let check = ImageCheck {
                state: ImageWorkState::Failed.into(),
                error: Some(JobError { reason: reason.to_owned(), ..JobError::default() }),
                ..ImageCheck::default()
            };
            let answer = query(&record(Some(check), None), None, View::Seed);
            let check = &answer["checkStatusResponse"];
            assert_eq!(
                (&check["status"], &check["checkInfo"]["checkResult"]),
                (&json!(status), &json!(result))
            );
            assert_eq!(check["checkInfo"]["checksum"], "");
        }
    }

    #[test]
    fn a_slim_image_shows_the_check_of_its_companion_under_its_own_name() {
        let slim = |state: ImageWorkState, reason: &str| ImageSlim {
            state: state.into(),
            error: Some(JobError { reason: reason.to_owned(), ..JobError::default() }),
            ..ImageSlim::default()
        };
        let check = || Some(checked(CheckOutcome::Leaks, ImageFormat::Qcow2, "original"));
        let companion = record(Some(checked(CheckOutcome::Consistent, ImageFormat::Qcow2, MD5)), None);
        let done = record(check(), Some(slim(ImageWorkState::Succeeded, "")));
        let answer = query(&done, Some(&companion), View::Full);
        assert_eq!((&answer["slimStatus"], &answer["fileName"]), (&json!(2), &json!("disk.qcow2")));
        let info = &answer["checkStatusResponse"]["checkInfo"];
        assert_eq!(info["checksum"], MD5);
        assert_eq!(info["imageInfo"]["filename"], format!("compressed{ID}disk.qcow2"));
        let told = |status, message, rate: Value| json!({"compressStatus": status, "compressMsg": message, "compressRate": rate});
        assert_eq!(answer["compressInfo"], told(0, "Compress Completed", json!(1)));

        for (state, reason, status, want) in [
            // It is not good any more.
            (ImageWorkState::Succeeded, "", 3, told(2, "Compress Failed", json!(0))),
            (ImageWorkState::InProgress, "", 1, told(1, "Compress In Progress", json!(0.123))),
            (
                ImageWorkState::Failed,
                "NO_SPACE",
                3,
                told(3, "Compress Exiting because of No enouth space left", json!(0)),
            ),
            (ImageWorkState::Failed, "", 3, told(2, "Compress Failed", json!(0))),
        ] {
            let answer = query(&record(check(), Some(slim(state, reason))), None, View::Full);
            assert_eq!((&answer["slimStatus"], &answer["compressInfo"]), (&json!(status), &want));
            assert_eq!(answer["checkStatusResponse"]["checkInfo"]["checksum"], "original");
        }
    }

    #[test]
    fn answers_to_uploads_tell_whether_the_check_began() {
        let image = record(None, None).image;
        let want = json!({
            "checkStatus": 0, "fileName": "disk.qcow2", "imageId": ID, "msg": "Check In Progress", "slimStatus": 0,
            "storageMedium": "/usr/app/vmImage/", "uploadTime": "2021-10-19 16:33:03", "userId": "u1",
        });
        assert_eq!(uploaded(&image, true, &config()), want);
        let not_begun = uploaded(&Image::default(), false, &config());
        assert_eq!((&not_begun["checkStatus"], &not_begun["msg"]), (&json!(1), &json!("Check Failed")));
        assert_eq!(
            (&not_begun["userId"], &not_begun["uploadTime"]),
            (&json!(""), &json!("1970-01-01 00:00:00"))
        );
    }
}
