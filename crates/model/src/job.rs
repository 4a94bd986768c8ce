//! Jobs: what they do, how far they are, and how they move from state to state.

use serde::{Deserialize, Serialize};

use crate::compression::CompressionChoice;
use crate::id::{ImageId, StoreId, UploadId};
use crate::label::Label;
use crate::names::names;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Checks structure, digest and safety.
    Check,
    /// Drops what the guest has freed and writes compressed qcow2.
    Compress,
    /// Tells what a compression would come to.
    Estimate,
    /// Writes the same disk in another format.
    Convert,
    /// Copies the bytes of an image into another store.
    Copy,
    /// Reads what a store holds and compares the digests.
    Scrub,
    /// Moves what a store holds into others.
    Drain,
    /// Fetches an image from a URL.
    Import,
}

/// Which workers take a job. The care of whole stores takes hours, and an import as long as its source wants: they have
/// workers of their own, so that nobody waits for them, and no drain for a scrub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What users ask for, but imports.
    Work,
    /// Imports.
    Import,
    /// Scrubs.
    Scrub,
    /// Drains.
    Drain,
}

impl JobKind {
    /// The workers that take jobs of this kind.
    pub fn lane(self) -> Lane {
        match self {
            Self::Check | Self::Compress | Self::Estimate | Self::Convert | Self::Copy => Lane::Work,
            Self::Import => Lane::Import,
            Self::Scrub => Lane::Scrub,
            Self::Drain => Lane::Drain,
        }
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a worker.
    Queued,
    /// A worker is at it.
    Running,
    /// Done, with a result.
    Succeeded,
    /// Ended without a result.
    Failed,
    /// Ended on request, without a result.
    Cancelled,
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// A worker takes it up, the first time or after another worker's lease ran out.
    Claim,
    /// The worker delivers a result.
    Succeed,
    /// The worker, or whoever finds that no attempt is left, gives a reason.
    Fail,
    /// The worker noticed the wish to cancel; or a queued job is cancelled.
    Cancel,
    /// The worker gives the job back unfinished, at shutdown or after its lease was freed.
    Release,
}

/// An event that cannot happen in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event cannot happen in this state")]
pub struct InvalidTransition;

impl JobState {
    /// The state after `event`. A final state is left by no event: a job ends once (R-3).
    pub fn after(self, event: JobEvent) -> Result<Self, InvalidTransition> {
        match (self, event) {
            (Self::Queued | Self::Running, JobEvent::Claim) => Ok(Self::Running),
            (Self::Running, JobEvent::Succeed) => Ok(Self::Succeeded),
            (Self::Queued | Self::Running, JobEvent::Fail) => Ok(Self::Failed),
            (Self::Queued | Self::Running, JobEvent::Cancel) => Ok(Self::Cancelled),
            (Self::Running, JobEvent::Release) => Ok(Self::Queued),
            _ => Err(InvalidTransition),
        }
    }

    /// Whether the job has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// What a running job is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPhase {
    /// Nothing yet.
    #[default]
    Waiting,
    /// Reading headers, partition tables and free-space structures.
    Planning,
    /// Digesting the file and walking its tables.
    Checking,
    /// Reading the source, compressing and writing the output.
    Compressing,
    /// Reading the source and writing it in another format.
    Converting,
    /// Writing the bytes as they are to another place.
    Copying,
    /// Reading the bytes from their source elsewhere.
    Fetching,
    /// Reading the written output back.
    Verifying,
    /// Flushing the output and giving it its name.
    Publishing,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// What it is doing.
    pub phase: JobPhase,
    /// Bytes of the phase that are done.
    pub done_bytes: u64,
    /// Bytes of the phase in all; 0 when not known yet.
    pub total_bytes: u64,
    /// Recent rate of the phase.
    pub bytes_per_second: Option<u64>,
    /// Estimated time to the end of the job.
    pub remaining_ms: Option<u64>,
    /// The whole job, 0 to 100; never falls.
    pub percent: f64,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFailure {
    /// gRPC status code that a call failing for this reason would have.
    pub code: i32,
    /// Stable code, UPPER_SNAKE.
    pub reason: String,
    /// Sentence for people.
    pub message: String,
}

/// What a job reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A name below the image root, as the client sent it.
    File(String),
    /// A stored image.
    Image(ImageId),
}

/// All that a worker needs to know to do a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobSpec {
    /// A check.
    Check(CheckSpec),
    /// A compression.
    Compress(CompressSpec),
    /// An estimate of one.
    Estimate(EstimateSpec),
    /// A conversion.
    Convert(ConvertSpec),
    /// A copy.
    Copy(CopySpec),
    /// A scrub.
    Scrub(ScrubSpec),
    /// A drain.
    Drain(DrainSpec),
    /// An import.
    Import(ImportSpec),
}

impl JobSpec {
    /// The kind of the job.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Check(_) => JobKind::Check,
            Self::Compress(_) => JobKind::Compress,
            Self::Estimate(_) => JobKind::Estimate,
            Self::Convert(_) => JobKind::Convert,
            Self::Copy(_) => JobKind::Copy,
            Self::Scrub(_) => JobKind::Scrub,
            Self::Drain(_) => JobKind::Drain,
            Self::Import(_) => JobKind::Import,
        }
    }

    /// What the job reads of ours; `None`: whatever a store holds, or what lies elsewhere.
    pub fn source(&self) -> Option<Source> {
        match self {
            Self::Check(spec) => Some(spec.source.clone()),
            Self::Compress(spec) => Some(spec.source.clone()),
            Self::Estimate(spec) => Some(spec.source.clone()),
            Self::Convert(spec) => Some(spec.source.clone()),
            Self::Copy(spec) => Some(Source::Image(spec.image)),
            Self::Scrub(_) | Self::Drain(_) | Self::Import(_) => None,
        }
    }

    /// The image that the job reads, or fills, if there is one. The job goes with it.
    pub fn image(&self) -> Option<ImageId> {
        if let Self::Import(spec) = self {
            return spec.image;
        }
        match self.source() {
            Some(Source::Image(id)) => Some(id),
            Some(Source::File(_)) | None => None,
        }
    }

    /// Whether the job makes an image that stands in lists: not a file, and not the companion of another image.
    pub fn makes_image(&self) -> bool {
        match self {
            Self::Compress(spec) => spec.output_image.is_some() && !spec.companion,
            Self::Convert(spec) => spec.output_image.is_some() && !spec.cached,
            // The upload of an import holds the place of its image.
            Self::Check(_)
            | Self::Estimate(_)
            | Self::Copy(_)
            | Self::Scrub(_)
            | Self::Drain(_)
            | Self::Import(_) => false,
        }
    }

    /// How the output is, or would be, compressed; `None`: the job is about something else.
    pub fn compression(&self) -> Option<&CompressionChoice> {
        match self {
            Self::Compress(spec) => Some(&spec.compression),
            Self::Estimate(spec) => Some(&spec.compression),
            Self::Convert(spec) => spec.compression.as_ref(),
            Self::Check(_) | Self::Copy(_) | Self::Scrub(_) | Self::Drain(_) | Self::Import(_) => None,
        }
    }
}

/// What to check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckSpec {
    /// What to read.
    pub source: Source,
    /// Whether to compute MD5.
    pub md5: bool,
    /// Whether to compute SHA-256.
    pub sha256: bool,
}

/// What to compress, and into what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressSpec {
    /// What to read.
    pub source: Source,
    /// Name of the output below the image root, with a file source.
    pub output_file: Option<String>,
    /// Id of the image to be, with an image source.
    pub output_image: Option<ImageId>,
    /// Label of the image to be, with an image source.
    pub output_label: Label,
    /// The image to be is the hidden slim companion of its source.
    #[serde(default)]
    pub companion: bool,
    /// How.
    #[serde(flatten)]
    pub compression: CompressionChoice,
}

/// A compression whose figures are wanted and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EstimateSpec {
    /// What to read.
    pub source: Source,
    /// How it would be compressed.
    #[serde(flatten)]
    pub compression: CompressionChoice,
}

/// What to convert, and into what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertSpec {
    /// What to read.
    pub source: Source,
    /// Format of the output, in the engine's spelling.
    pub format: String,
    /// Name of the output below the image root, with a file source.
    pub output_file: Option<String>,
    /// Id of the image to be, with an image source.
    pub output_image: Option<ImageId>,
    /// Label of the image to be, with an image source.
    pub output_label: Label,
    /// The image to be is a hidden companion of its source, kept while there is room.
    pub cached: bool,
    /// How the output is compressed, when it is qcow2; `None`: not at all.
    pub compression: Option<CompressionChoice>,
}

/// What to copy, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySpec {
    /// The image.
    pub image: ImageId,
    /// The store that gets the bytes as well.
    pub target: StoreId,
}

/// Which store to read through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubSpec {
    /// The store.
    pub store: StoreId,
}

/// Which store to empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainSpec {
    /// The store.
    pub store: StoreId,
}

/// What to import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSpec {
    /// Where the bytes are.
    pub url: SourceUrl,
    /// The upload that takes them in: what the image is to be stands there.
    pub upload: UploadId,
    /// The record that it fills.
    pub image: Option<ImageId>,
}

/// A URL that bytes are fetched from. Its query may be a secret, as in signed URLs: it is neither shown nor logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SourceUrl(pub String);

impl SourceUrl {
    /// What may be shown of it.
    pub fn shown(&self) -> &str {
        self.0.split(['?', '#']).next().unwrap_or_default()
    }
}

impl std::fmt::Debug for SourceUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.shown())
    }
}

mod kind_names {
    use super::{JobKind, names};

    names!(JobKind {
        Check => "check",
        Compress => "compress",
        Estimate => "estimate",
        Convert => "convert",
        Copy => "copy",
        Scrub => "scrub",
        Drain => "drain",
        Import => "import",
    });
}

mod state_names {
    use super::{JobState, names};

    names!(JobState {
        Queued => "queued",
        Running => "running",
        Succeeded => "succeeded",
        Failed => "failed",
        Cancelled => "cancelled",
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::compression::{Effort, ExtraChoice, NamedLevel};

    fn any_event() -> impl Strategy<Value = JobEvent> {
        prop_oneof![
            Just(JobEvent::Claim),
            Just(JobEvent::Succeed),
            Just(JobEvent::Fail),
            Just(JobEvent::Cancel),
            Just(JobEvent::Release),
        ]
    }

    proptest! {
        #[test]
        fn a_job_ends_once(events in prop::collection::vec(any_event(), 0..40)) {
            let mut state = JobState::Queued;
            let mut ended = 0;
            for event in events {
                let was_final = state.is_final();
                match state.after(event) {
                    Ok(next) => {
                        prop_assert!(!was_final, "left {state:?} by {event:?}");
                        if next.is_final() { ended += 1; }
                        state = next;
                    }
                    Err(InvalidTransition) => {
                        let refused_in_queue = matches!(event, JobEvent::Succeed | JobEvent::Release);
                        prop_assert!(was_final || (state == JobState::Queued && refused_in_queue));
                    }
                }
            }
            prop_assert!(ended <= 1);
            prop_assert_eq!(ended == 1, state.is_final());
        }
    }

    #[test]
    fn a_spec_reads_back_from_json() {
        let spec =
            JobSpec::Check(CheckSpec { source: Source::File("a/b.img".into()), md5: true, sha256: false });
        let text = serde_json::to_string(&spec).expect("a spec is plain data");
        assert_eq!(serde_json::from_str::<JobSpec>(&text).expect("own output"), spec);
    }

    #[test]
    fn every_choice_of_a_compression_reads_back() {
        for level in [None, Some(Effort::Number(9)), Some(Effort::Named(NamedLevel::Smallest))] {
            let compression = CompressionChoice {
                zstd: true,
                level,
                keep_free_space: true,
                narrow_window: true,
                recompress_always: true,
                share_identical: true,
                extra: ExtraChoice { journals: true, inode_tables: true, gaps: true },
            };
            let spec = JobSpec::Estimate(EstimateSpec { source: Source::File("a".into()), compression });
            let text = serde_json::to_string(&spec).expect("a spec is plain data");
            assert_eq!(serde_json::from_str::<JobSpec>(&text).expect("own output"), spec);
        }
    }

    /// Rows outlive the server that wrote them.
    #[test]
    fn a_spec_of_an_older_row_has_the_defaults_of_what_came_later() {
        let text = r#"{"kind":"compress","source":{"file":"a"},"output_file":"b","output_image":null,
            "output_label":"","zstd":true,"level":9,"keep_free_space":true}"#;
        let level = Some(Effort::Number(9));
        let expected = CompressionChoice { zstd: true, level, keep_free_space: true, ..Default::default() };
        let spec: JobSpec = serde_json::from_str(text).expect("a row of before");
        assert_eq!(spec.compression(), Some(&expected));
        assert!(matches!(spec, JobSpec::Compress(CompressSpec { companion: false, .. })));
    }

    #[test]
    fn every_kind_reads_back_and_tells_its_source() {
        let (image, store) = (ImageId(uuid::Uuid::from_u128(1)), StoreId(uuid::Uuid::from_u128(2)));
        let convert = ConvertSpec {
            source: Source::Image(image),
            format: "raw".into(),
            output_file: None,
            output_image: Some(image),
            output_label: Label::default(),
            cached: true,
            compression: Some(CompressionChoice::default()),
        };
        let import = ImportSpec {
            url: SourceUrl("https://mirror.example/a.img?token=secret".into()),
            upload: UploadId(uuid::Uuid::from_u128(3)),
            image: Some(image),
        };
        assert!(!format!("{import:?}").contains("secret"), "{import:?}");
        let uncached = ConvertSpec { cached: false, ..convert.clone() };
        for (spec, source, makes_image) in [
            (JobSpec::Convert(convert), Some(image), false),
            (JobSpec::Convert(uncached), Some(image), true),
            (JobSpec::Copy(CopySpec { image, target: store }), Some(image), false),
            (JobSpec::Scrub(ScrubSpec { store }), None, false),
            (JobSpec::Drain(DrainSpec { store }), None, false),
            (JobSpec::Import(import), Some(image), false),
        ] {
            let text = serde_json::to_string(&spec).expect("a spec is plain data");
            assert!(text.contains(&format!("\"kind\":\"{}\"", spec.kind().as_str())), "{text}");
            assert_eq!(serde_json::from_str::<JobSpec>(&text).expect("own output"), spec);
            assert_eq!((spec.image(), spec.makes_image()), (source, makes_image));
        }
    }
}
