//! What the commands show, whether the engine found it here or a server told it.
//!
//! The conversions are in [`engine`] and [`wire`]; the commands and both forms of output know only these types.

mod engine;
mod wire;

use serde::Serialize;

use crate::exit::Failure;
use crate::output::{self, Facts, size, size_exact};

/// The inspector's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Valid,
    Corrupt,
    Invalid,
    Unsafe,
    Unsupported,
}

impl Verdict {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Corrupt => "corrupt",
            Self::Invalid => "invalid",
            Self::Unsafe => "unsafe",
            Self::Unsupported => "unsupported",
        }
    }
}

/// Why a verdict is not valid, or why something was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    pub(crate) code: String,
    pub(crate) message: String,
    /// Byte offset in the image file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
    /// Name of the header field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
}

impl Reason {
    /// The reason and where it is, on one line.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("{}: {}", self.code, self.message);
        if let Some(offset) = self.offset {
            line += &format!(" (at byte {offset})");
        }
        line
    }
}

impl From<&Failure> for Reason {
    fn from(failure: &Failure) -> Self {
        let code = if failure.reason.is_empty() { "FAILED" } else { &failure.reason };
        Self { code: code.to_owned(), message: failure.message.clone(), ..Self::default() }
    }
}

/// Digests of a file's bytes, those that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Digests {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) md5: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sha256: Option<String>,
}

/// What the header of a qcow2 image says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Qcow2 {
    pub(crate) version: u32,
    pub(crate) cluster_size: u64,
    pub(crate) refcount_bits: u32,
    pub(crate) compression: String,
    pub(crate) extended_l2: bool,
    pub(crate) dirty: bool,
    pub(crate) corrupt: bool,
    pub(crate) lazy_refcounts: bool,
    pub(crate) encryption: String,
    pub(crate) snapshots: u64,
}

impl Qcow2 {
    fn line(&self) -> String {
        let mut line = format!(
            "version {}, clusters of {}, refcounts of {} bits, {}",
            self.version,
            size(self.cluster_size),
            self.refcount_bits,
            self.compression
        );
        let marks = [
            (self.extended_l2, "extended L2"),
            (self.dirty, "not closed cleanly"),
            (self.corrupt, "marked corrupt"),
            (self.lazy_refcounts, "lazy refcounts"),
        ];
        for (_, mark) in marks.iter().filter(|(set, _)| *set) {
            line += ", ";
            line += mark;
        }
        if self.encryption != "none" && !self.encryption.is_empty() {
            line += &format!(", encrypted ({})", self.encryption);
        }
        if self.snapshots > 0 {
            line += &format!(", {}", output::count(self.snapshots, "internal snapshot"));
        }
        line
    }
}

/// A part of the guest's disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Part {
    /// Number of the partition; 0: the whole disk.
    pub(crate) index: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Type in the partition table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partition_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_system: Option<String>,
    /// Bytes that the guest has freed, when its file system was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free: Option<u64>,
    /// Bytes that `compress` dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropped: Option<u64>,
    /// Why all of it, or pieces of it, were left alone.
    pub(crate) kept: Vec<Reason>,
    /// What is dropped beside free space, when it was asked for and the content may have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) extra: Option<Extra>,
    /// The logical volumes of a physical volume.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<Volume>,
}

/// A logical volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Volume {
    /// `group/volume`.
    pub(crate) name: String,
    pub(crate) length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file_system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
    /// As in [`Part`], of what lies in the part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free: Option<u64>,
    /// Likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropped: Option<u64>,
    /// Why all of it, or pieces of it, were left alone.
    pub(crate) kept: Vec<Reason>,
    /// As in [`Part`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) extra: Option<Extra>,
}

/// What can be dropped of a part or a volume beside free space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Extra {
    /// Bytes, stored or not.
    pub(crate) bytes: u64,
    /// Of the dropped bytes of the part, these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropped: Option<u64>,
    /// Why it was refused, as a whole or for some block groups.
    pub(crate) kept: Vec<Reason>,
}

/// What can be dropped between partitions.
pub(crate) type Gaps = Extra;

/// The lines of what was dropped beside free space, when it was asked for.
pub(crate) fn add_extra(facts: &mut Facts, dropped_bytes: Option<u64>, gaps: Option<&Gaps>) {
    facts.add_some("extra, dropped", dropped_bytes.map(size_exact));
    for reason in gaps.map_or(&[][..], |gaps| &gaps.kept) {
        facts.add("gap kept because", reason.line());
    }
}

/// The first reason, and how many there are.
fn kept_line(kept: &[Reason]) -> String {
    let mut line = kept.first().map(Reason::line).unwrap_or_default();
    if kept.len() > 1 {
        line += &format!(" (and {} more)", kept.len() - 1);
    }
    line
}

/// A line of the table of parts.
struct Row<'a> {
    name: String,
    offset: String,
    length: u64,
    file_system: &'a Option<String>,
    free: Option<u64>,
    dropped: Option<u64>,
    extra: Option<&'a Extra>,
    kept: &'a [Reason],
}

impl Row<'_> {
    fn cells(&self, compressed: bool, extra: bool) -> Vec<String> {
        let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
        let file_system = self.file_system.clone().unwrap_or_else(|| "-".to_owned());
        let mut cells =
            vec![self.name.clone(), self.offset.clone(), size(self.length), file_system, bytes(self.free)];
        if compressed {
            cells.push(bytes(self.dropped));
        }
        if extra {
            cells.push(bytes(self.extra.map(|extra| extra.dropped.unwrap_or(extra.bytes))));
        }
        let refused = self.extra.map_or(&[][..], |extra| &extra.kept);
        cells.push(kept_line(&[self.kept, refused].concat()));
        cells
    }
}

impl Part {
    /// The part, and under it its volumes.
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let part = Row {
            name: if self.index == 0 { "disk".to_owned() } else { self.index.to_string() },
            offset: size(self.offset),
            length: self.length,
            file_system: &self.file_system,
            free: self.free,
            dropped: self.dropped,
            extra: self.extra.as_ref(),
            kept: &self.kept,
        };
        let volumes = self.volumes.iter().map(|volume| Row {
            name: volume.name.clone(),
            // It may be in many pieces.
            offset: "-".to_owned(),
            length: volume.length,
            file_system: &volume.file_system,
            free: volume.free,
            dropped: volume.dropped,
            extra: volume.extra.as_ref(),
            kept: &volume.kept,
        });
        std::iter::once(part).chain(volumes)
    }
}

/// The parts as a table; the column of dropped bytes is there when `compress` filled it.
pub(crate) fn parts_table(parts: &[Part]) -> String {
    if parts.is_empty() {
        return String::new();
    }
    let compressed = parts.iter().any(|part| part.dropped.is_some());
    let mut header = vec!["part", "offset>", "size>", "file system", "free>"];
    if compressed {
        header.push("dropped>");
    }
    let extra = parts.iter().flat_map(Part::rows).any(|row| row.extra.is_some());
    if extra {
        header.push("extra>");
    }
    header.push("kept because");
    let rows = parts.iter().flat_map(Part::rows).map(|row| row.cells(compressed, extra));
    format!("\n{}", output::table(&header, rows))
}

/// All that is known of an image without reading its data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Inspection {
    /// Absent: nothing can be said, the reasons tell why.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) format: Option<String>,
    pub(crate) virtual_size: Option<u64>,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) file_size: Option<u64>,
    pub(crate) allocated_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) qcow2: Option<Qcow2>,
    pub(crate) partition_table: Option<String>,
    pub(crate) parts: Vec<Part>,
}

impl Inspection {
    /// The lines that `inspect` and `check` share.
    pub(crate) fn add_facts(&self, facts: &mut Facts) {
        facts.add_some("format", self.format.as_deref());
        facts.add_some("virtual size", self.virtual_size.map(size_exact));
        facts.add_some("file size", self.file_size.map(size_exact));
        facts.add_some("on disk", self.allocated_size.map(size));
        facts.add_some("qcow2", self.qcow2.as_ref().map(Qcow2::line));
        facts.add_some("partition table", self.partition_table.as_deref());
    }

    /// The verdict and why.
    pub(crate) fn add_verdict(&self, facts: &mut Facts) {
        facts.add_some("verdict", self.verdict.map(Verdict::as_str));
        for reason in &self.reasons {
            facts.add("", reason.line());
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Consistent,
    Corrupt,
    Leaks,
    NotSupported,
    Failed,
}

/// Figures of a check under the names of `qemu-img check --output json`, with its omissions: what is 0 is left out,
/// except the errors of the check itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Figures {
    pub(crate) check_errors: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) image_end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) corruptions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) leaks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) allocated_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) fragmented_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) compressed_clusters: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Finding {
    pub(crate) code: String,
    pub(crate) message: String,
    /// First byte of the guest's disk that it hits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guest_offset: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) guest_length: u64,
    /// Byte offset in the image file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) outcome: Outcome,
    /// Absent where the image was not opened or its format has no check.
    pub(crate) figures: Option<Figures>,
    /// Why it was not opened or not completed.
    pub(crate) failure: Option<Reason>,
    /// The first of them.
    pub(crate) findings: Vec<Finding>,
    pub(crate) finding_count: u64,
    pub(crate) digests: Digests,
    pub(crate) inspection: Inspection,
}

/// What a compression came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Compressed {
    pub(crate) source_format: Option<String>,
    pub(crate) virtual_size: u64,
    pub(crate) source_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) data_bytes: u64,
    /// Of these, what was compressed in the source already and was copied.
    pub(crate) copied_bytes: u64,
    /// Of these, what shares the bytes of an earlier cluster.
    pub(crate) shared_bytes: u64,
    pub(crate) zero_bytes: u64,
    pub(crate) dropped_bytes: u64,
    /// Of these, what is not free space, when more was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) extra_dropped_bytes: Option<u64>,
    /// The gaps between partitions, when they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gaps: Option<Gaps>,
    pub(crate) parts: Vec<Part>,
    /// Why the disk as a whole was left alone.
    pub(crate) kept: Vec<Reason>,
    pub(crate) snapshots_left_out: u64,
    pub(crate) verified: bool,
    pub(crate) content_proof: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digests: Option<Digests>,
}

/// What a conversion to raw came to. What it shares with the result of a compression has the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Converted {
    pub(crate) source_format: String,
    pub(crate) virtual_size: u64,
    pub(crate) source_bytes: u64,
    pub(crate) output_bytes: u64,
    /// Of these, what is no hole.
    pub(crate) data_bytes: u64,
    /// What the output occupies.
    pub(crate) allocated_bytes: u64,
    pub(crate) snapshots_left_out: u64,
    pub(crate) verified: bool,
    pub(crate) content_proof: String,
}

/// What a compression would come to. What it shares with the result of one has the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) source_format: Option<String>,
    pub(crate) virtual_size: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) dropped_bytes: u64,
    /// As in [`Compressed`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) extra_dropped_bytes: Option<u64>,
    /// Likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gaps: Option<Gaps>,
    pub(crate) kept_bytes: u64,
    pub(crate) output_bytes_estimate: u64,
    pub(crate) kept_clusters: u64,
    pub(crate) sampled_clusters: u64,
    pub(crate) parts: Vec<Part>,
    pub(crate) kept: Vec<Reason>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn figures_leave_out_what_qemu_img_leaves_out() {
        let json = |figures: &Figures| serde_json::to_string(figures).unwrap();
        assert_eq!(json(&Figures::default()), r#"{"check-errors":0}"#);
        let figures = Figures {
            check_errors: 1,
            image_end_offset: 2,
            corruptions: 3,
            leaks: 4,
            total_clusters: 5,
            allocated_clusters: 6,
            fragmented_clusters: 7,
            compressed_clusters: 8,
        };
        let all = [
            r#"{"check-errors":1,"image-end-offset":2,"corruptions":3,"leaks":4,"total-clusters":5,"#,
            r#""allocated-clusters":6,"fragmented-clusters":7,"compressed-clusters":8}"#,
        ];
        assert_eq!(json(&figures), all.concat());
    }

    #[test]
    fn volumes_stand_under_their_part() {
        let reason = Reason { code: "KEPT_X".to_owned(), message: "why".to_owned(), ..Reason::default() };
        let root =
            Volume { name: "vg/root".to_owned(), length: 1 << 20, dropped: Some(512), ..Volume::default() };
        let swap = Volume { name: "vg/swap".to_owned(), kept: vec![reason], ..Volume::default() };
        let part = Part { index: 2, dropped: Some(1024), volumes: vec![root, swap], ..Part::default() };
        let table = parts_table(std::slice::from_ref(&part));
        let lines: Vec<_> =
            table.trim().lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(lines[1][0], "2");
        assert_eq!(lines[2], ["vg/root", "-", "1", "MiB", "-", "-", "512", "B"]);
        assert_eq!((lines[3][0], lines[3].last()), ("vg/swap", Some(&"why")));
        let json = serde_json::to_value(&part).unwrap();
        assert_eq!(json["volumes"][0]["dropped"], 512);
        let bare = serde_json::to_value(Part::default()).unwrap();
        assert!(bare.get("volumes").is_none());
    }

    #[test]
    fn an_inspection_has_the_members_of_the_contract_even_when_nothing_is_known() {
        let json = serde_json::to_value(Inspection::default()).unwrap();
        for member in ["verdict", "format", "virtual_size"] {
            assert!(json.get(member).is_some_and(serde_json::Value::is_null), "{member}");
        }
        assert_eq!(json["reasons"], serde_json::json!([]));
    }
}
