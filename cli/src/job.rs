//! `imageops job list|show|watch|cancel`.

use imageops::v1::{Job, JobKind, JobState, ListJobsRequest, source};
use imageops_client::Client;

use crate::args::{Global, JobCommand, JobListArgs, JobStateName};
use crate::asked;
use crate::exit::{Exit, Failure};
use crate::output::{Facts, Form, print, print_json, size, table};
use crate::server::{self, job_name};
use crate::view::{Check, Compressed, Estimate};

/// Jobs of one page.
const PAGE_SIZE_MAX: usize = 1000;

pub(crate) async fn run(global: &Global, command: &JobCommand) -> Result<Exit, Failure> {
    let client = server::connect(global)?;
    match command {
        JobCommand::List(arguments) => list(global, &client, arguments).await,
        JobCommand::Show { job } => {
            let job = server::call(client.get_job(&job_name(job))).await?;
            show(global, &job)?;
            Ok(Exit::Success)
        }
        JobCommand::Watch { job } => watch(global, &client, &job_name(job)).await,
        JobCommand::Cancel { job } => {
            let job = server::call(client.cancel_job(&job_name(job))).await?;
            show(global, &job)?;
            Ok(Exit::Success)
        }
    }
}

async fn list(global: &Global, client: &Client, arguments: &JobListArgs) -> Result<Exit, Failure> {
    let states = arguments.state.iter().map(|state| JobState::from(*state).into()).collect();
    let mut request = ListJobsRequest { states, ..ListJobsRequest::default() };
    let mut jobs = Vec::new();
    while jobs.len() < arguments.limit {
        request.page_size = (arguments.limit - jobs.len()).min(PAGE_SIZE_MAX) as u32;
        let page = server::call(client.list_jobs(request.clone())).await?;
        jobs.extend(page.jobs);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    jobs.truncate(arguments.limit);
    if global.output == Form::Json {
        print_json(&jobs)?;
        return Ok(Exit::Success);
    }
    if jobs.is_empty() {
        print("no jobs")?;
        return Ok(Exit::Success);
    }
    let rows = jobs.iter().map(|job| {
        vec![
            job.name.clone(),
            kind(job).to_owned(),
            state_and_reason(job),
            percent(job),
            source_name(job),
            created(job),
        ]
    });
    print(&table(&["job", "kind", "state", "done>", "source", "created"], rows))?;
    Ok(Exit::Success)
}

/// The state, and of a failed job why.
fn state_and_reason(job: &Job) -> String {
    match &job.error {
        Some(error) if !error.reason.is_empty() => format!("{}: {}", state(job), error.reason),
        _ => state(job).to_owned(),
    }
}

/// Follows a job. In JSON each change is one line.
async fn watch(global: &Global, client: &Client, name: &str) -> Result<Exit, Failure> {
    let print_change = |job: &Job| match global.output {
        Form::Json => {
            let line = serde_json::to_string(job);
            print(&line.map_err(|error| Failure::new(format!("the job has no JSON form: {error}")))?)
        }
        Form::Table => Ok(()),
    };
    let job = server::call(server::follow(client, name, print_change)).await?;
    if global.output == Form::Table {
        show(global, &job)?;
    }
    // What went wrong is in what was printed.
    Ok(if job.state() == JobState::Succeeded { Exit::Success } else { Exit::Failure })
}

/// Waits for a job that this command started, and shows what came of it.
pub(crate) async fn finish(global: &Global, client: &Client, job: Job) -> Result<Exit, Failure> {
    let job = server::run_job(client, job).await?;
    show(global, &job)?;
    Ok(Exit::Success)
}

fn show(global: &Global, job: &Job) -> Result<(), Failure> {
    if global.output == Form::Json {
        return print_json(job);
    }
    let mut facts = Facts::default();
    facts.add("job", &job.name);
    facts.add("kind", kind(job));
    facts.add("state", state(job));
    facts.add_some("source", Some(source_name(job)).filter(|name| !name.is_empty()));
    facts.add_some("store", Some(&job.store).filter(|store| !store.is_empty()));
    facts.add_some("compression", job.compression.as_ref().map(asked::line));
    facts.add("done", percent(job));
    facts.add("created", created(job));
    facts.add_some("ended", job.end_time.as_ref().map(time));
    if job.attempt > 1 {
        facts.add("attempt", job.attempt.to_string());
    }
    if let Some(error) = &job.error {
        facts.add("failed", format!("{}: {}", error.reason, error.message));
    }
    let result = match &job.result {
        Some(imageops::v1::job::Result::Check(result)) => crate::check::text(&Check::from(result.clone())),
        Some(imageops::v1::job::Result::Compress(result)) => {
            let output =
                if result.output_image.is_empty() { &result.output_file } else { &result.output_image };
            facts.add("output", output);
            crate::compress::text(&Compressed::of(result.clone(), asked::has_extra(job)))
        }
        Some(imageops::v1::job::Result::Estimate(told)) => {
            crate::dry_run::text(&Estimate::of(told.clone(), asked::has_extra(job)))
        }
        Some(imageops::v1::job::Result::Convert(result)) => {
            let output =
                if result.output_image.is_empty() { &result.output_file } else { &result.output_image };
            facts.add("output", output);
            facts.add("after", size(result.output_bytes));
            facts.add("on disk", size(result.allocated_bytes));
            String::new()
        }
        Some(imageops::v1::job::Result::Copy(result)) => {
            facts.add("copied", size(result.copied_bytes));
            String::new()
        }
        Some(imageops::v1::job::Result::Scrub(result)) => {
            facts.add("verified", size(result.verified_bytes));
            facts.add("damaged", named(&result.damaged_images));
            String::new()
        }
        Some(imageops::v1::job::Result::Drain(result)) => {
            facts.add("moved", result.moved_images.to_string());
            facts.add("copied", size(result.copied_bytes));
            facts.add("kept", named(&result.kept_images));
            String::new()
        }
        Some(imageops::v1::job::Result::Import(result)) => {
            facts.add("image", result.image.clone());
            facts.add("fetched", size(result.fetched_bytes));
            String::new()
        }
        None => String::new(),
    };
    print(&(facts.render() + &result))
}

impl From<JobStateName> for JobState {
    fn from(name: JobStateName) -> Self {
        match name {
            JobStateName::Queued => Self::Queued,
            JobStateName::Running => Self::Running,
            JobStateName::Succeeded => Self::Succeeded,
            JobStateName::Failed => Self::Failed,
            JobStateName::Cancelled => Self::Cancelled,
        }
    }
}

/// Images by name, or that there are none.
fn named(images: &[String]) -> String {
    if images.is_empty() { "none".to_owned() } else { images.join(", ") }
}

fn kind(job: &Job) -> &'static str {
    match job.kind() {
        JobKind::Check => "check",
        JobKind::Compress => "compress",
        JobKind::Estimate => "estimate",
        JobKind::Convert => "convert",
        JobKind::Copy => "copy",
        JobKind::Scrub => "scrub",
        JobKind::Drain => "drain",
        JobKind::Import => "import",
        JobKind::Unspecified => "other",
    }
}

fn state(job: &Job) -> &'static str {
    match job.state() {
        JobState::Queued => "queued",
        JobState::Running if job.cancel_requested => "cancelling",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
        JobState::Unspecified => "other",
    }
}

fn percent(job: &Job) -> String {
    format!("{:.1} %", job.progress.as_ref().map_or(0.0, |progress| progress.percent))
}

fn source_name(job: &Job) -> String {
    match job.source.as_ref().and_then(|source| source.source.as_ref()) {
        Some(source::Source::File(name) | source::Source::Image(name)) => name.clone(),
        None => job.source_url.clone(),
    }
}

fn created(job: &Job) -> String {
    job.create_time.as_ref().map(time).unwrap_or_default()
}

/// A time as RFC 3339 has it, to the second: fractions tell a person nothing.
pub(crate) fn time(time: &pbjson_types::Timestamp) -> String {
    let whole = pbjson_types::Timestamp { seconds: time.seconds, nanos: 0 };
    serde_json::to_value(whole).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let stamp = pbjson_types::Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 };
        assert!(time(&stamp).starts_with("2023-11-14T22:13:20"), "{}", time(&stamp));
        assert!(!time(&stamp).contains('.'));
    }
}
