//! `imageops check`.

use std::path::Path;
use std::time::{Duration, Instant};

use imageops::v1::{CheckRequest, DigestAlgorithm, job};
use imageops_image::Control;
use imageops_image::check::{CheckOptions, check};
use imageops_image::format::Format;
use serde::Serialize;

use crate::args::{CheckArgs, Global};
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, count, note, print, print_json, rate, size_exact, span};
use crate::view::{Check, Digests, Figures, Finding, Inspection, Outcome, Reason, Verdict};
use crate::{local, server};

/// Findings that the text shows; the JSON form has all that are known.
const FINDINGS_SHOWN: usize = 20;

/// The JSON form: the members of `qemu-img check --output json`, then ours.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    filename: &'a str,
    format: Option<&'a str>,
    #[serde(flatten)]
    figures: Option<&'a Figures>,
    virtual_size: Option<u64>,
    digests: &'a Digests,
    verdict: Option<Verdict>,
    reasons: &'a [Reason],
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Reason>,
    findings: &'a [Finding],
    finding_count: u64,
}

/// Checks an image and ends as `qemu-img check` does. A file that cannot be read has the form of a check too.
pub(crate) async fn run(global: &Global, arguments: &CheckArgs) -> Result<Exit, Failure> {
    let digests = arguments.digests()?;
    if global.server().is_some() && arguments.format.is_some() {
        return Err(Failure::new("--format is for local files: the server decides by content"));
    }
    if global.server().is_some() && arguments.threads.is_some() {
        return Err(Failure::new("--threads is for local files: the server has its own setting"));
    }
    let start = Instant::now();
    let checked = match global.server() {
        Some(_) => through_server(global, arguments, digests).await,
        None => here(arguments, digests).await,
    };
    let check = match checked {
        Ok(check) => {
            if let Some(failure) = &check.failure {
                note(&format!("imageops: {}", Failure::new(&failure.message).of(arguments.source.display())));
            }
            check
        }
        Err(failure) if failure.exit == Exit::Interrupted => return Err(failure),
        Err(failure) => {
            note(&format!("imageops: {failure}"));
            if global.output == Form::Table {
                return Ok(Exit::Failure);
            }
            not_checked(Reason::from(&failure))
        }
    };
    let filename = arguments.source.to_string_lossy();
    match global.output {
        Form::Json => print_json(&document(&filename, &check))?,
        Form::Table => print(&full_text(&filename, &check, start.elapsed()))?,
    }
    Ok(exit_of(check.outcome))
}

fn exit_of(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Consistent => Exit::Success,
        Outcome::Corrupt => Exit::Corrupt,
        Outcome::Leaks => Exit::Leaks,
        Outcome::NotSupported => Exit::NotSupported,
        Outcome::Failed => Exit::Failure,
    }
}

/// The check of a file of which nothing is known.
fn not_checked(failure: Reason) -> Check {
    Check {
        outcome: Outcome::Failed,
        figures: None,
        failure: Some(failure),
        findings: Vec::new(),
        finding_count: 0,
        digests: Digests::default(),
        inspection: Inspection::default(),
    }
}

async fn here(arguments: &CheckArgs, (md5, sha256): (bool, bool)) -> Result<Check, Failure> {
    let path = arguments.source.clone();
    let options = CheckOptions {
        md5,
        sha256,
        threads: arguments.threads.unwrap_or(0).into(),
        format: arguments.format.map(Format::from),
    };
    local::run(move |control| check_file(&path, &options, control)).await
}

fn check_file(path: &Path, options: &CheckOptions, control: &Control) -> Result<Check, Failure> {
    let storage = local::open(path)?;
    let report = check(storage, options, control).map_err(|error| Failure::from(error).of(path.display()))?;
    Ok(report.into())
}

async fn through_server(
    global: &Global,
    arguments: &CheckArgs,
    (md5, sha256): (bool, bool),
) -> Result<Check, Failure> {
    let wanted = [(md5, DigestAlgorithm::Md5), (sha256, DigestAlgorithm::Sha256)];
    let request = CheckRequest {
        source: Some(server::source(&arguments.source)?),
        digests: wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, digest)| digest.into()).collect(),
        skip_digests: !md5 && !sha256,
        ..CheckRequest::default()
    };
    let client = server::connect(global)?;
    let job = server::call(client.check(request)).await?;
    let job = server::run_job(&client, job).await?;
    match job.result {
        Some(job::Result::Check(result)) => Ok(result.into()),
        _ => Err(Failure::new(format!("{}: the job succeeded without a result", job.name))),
    }
}

fn document<'a>(filename: &'a str, check: &'a Check) -> Document<'a> {
    Document {
        filename,
        format: check.inspection.format.as_deref(),
        figures: check.figures.as_ref(),
        virtual_size: check.inspection.virtual_size,
        digests: &check.digests,
        verdict: check.inspection.verdict,
        reasons: &check.inspection.reasons,
        failure: check.failure.as_ref(),
        findings: &check.findings,
        finding_count: check.finding_count,
    }
}

fn full_text(filename: &str, check: &Check, elapsed: Duration) -> String {
    let mut facts = Facts::default();
    facts.add("image", filename);
    let mut time = span(elapsed);
    // Without a digest the data are not read, and a rate would boast.
    let read = check.inspection.file_size.filter(|_| check.digests != Digests::default());
    if let Some(rate) = read.and_then(|bytes| rate(bytes, elapsed)) {
        time += &format!(", {rate}");
    }
    facts.add("time", time);
    facts.render() + &text(check)
}

/// The check for people.
pub(crate) fn text(check: &Check) -> String {
    let mut facts = Facts::default();
    check.inspection.add_facts(&mut facts);
    facts.add("structure", structure(check));
    if let Some(figures) = &check.figures {
        facts.add("clusters", clusters(figures));
        facts.add("ends at", size_exact(figures.image_end_offset));
    }
    facts.add_some("md5", check.digests.md5.as_deref());
    facts.add_some("sha256", check.digests.sha256.as_deref());
    check.inspection.add_verdict(&mut facts);
    for finding in check.findings.iter().take(FINDINGS_SHOWN) {
        facts.add("found", finding_line(finding));
    }
    let hidden = check.finding_count.saturating_sub(FINDINGS_SHOWN.min(check.findings.len()) as u64);
    if hidden > 0 {
        facts.add("", format!("and {hidden} more (--output json lists more of them)"));
    }
    facts.render()
}

fn structure(check: &Check) -> String {
    let figures = check.figures.clone().unwrap_or_default();
    match check.outcome {
        Outcome::Consistent => "consistent: no errors were found".to_owned(),
        Outcome::NotSupported => "the format has nothing to check".to_owned(),
        Outcome::Leaks => format!("{}: space is lost, no data", count(figures.leaks, "leaked cluster")),
        Outcome::Failed => match &check.failure {
            Some(failure) => format!("not checked: {}", failure.line()),
            None => format!("{}, the check is not complete", count(figures.check_errors, "check error")),
        },
        Outcome::Corrupt => {
            let leaks = match figures.leaks {
                0 => String::new(),
                leaks => format!(", {}", count(leaks, "leaked cluster")),
            };
            format!("{}{leaks}: data may be lost", count(figures.corruptions, "corruption"))
        }
    }
}

fn clusters(figures: &Figures) -> String {
    format!(
        "{} of {} allocated, {} compressed, {} fragmented",
        figures.allocated_clusters,
        figures.total_clusters,
        figures.compressed_clusters,
        figures.fragmented_clusters
    )
}

fn finding_line(finding: &Finding) -> String {
    let mut line = format!("{}: {}", finding.code, finding.message);
    if let Some(offset) = finding.offset {
        line += &format!(" (at byte {offset})");
    }
    if let Some(guest) = finding.guest_offset {
        line += &format!(" (guest bytes {guest} to {})", guest.saturating_add(finding.guest_length));
    }
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_check_ends_as_that_of_qemu_img() {
        let ends = [
            (Outcome::Consistent, 0),
            (Outcome::Failed, 1),
            (Outcome::Corrupt, 2),
            (Outcome::Leaks, 3),
            (Outcome::NotSupported, 63),
        ];
        for (outcome, status) in ends {
            assert_eq!(exit_of(outcome).status(), status);
        }
    }

    #[test]
    fn figures_that_do_not_exist_have_no_members() {
        let check = not_checked(Reason {
            code: "IO".to_owned(),
            message: "no such file".to_owned(),
            ..Reason::default()
        });
        let json = serde_json::to_value(document("disk", &check)).unwrap();
        assert_eq!(json["filename"], "disk");
        assert_eq!(json["failure"]["code"], "IO");
        assert!(json.get("check-errors").is_none());
        let checked = Check { figures: Some(Figures { leaks: 2, ..Figures::default() }), ..check };
        let json = serde_json::to_value(document("disk", &checked)).unwrap();
        assert_eq!((&json["check-errors"], &json["leaks"]), (&0.into(), &2.into()));
        assert!(json.get("corruptions").is_none());
    }
}
