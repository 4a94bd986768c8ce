//! The course of a job as server-sent events, from `WatchStatus`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use imageops::v1::{GetJobRequest, Job, JobState, WatchEvent, WatchStatusRequest, WatchStatusResponse};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::call;
use crate::problem::Problem;
use crate::query::Query;
use crate::router::Gateway;
use crate::serve::Draining;
use crate::v1;

/// How long a browser waits before it connects again, in milliseconds.
const RETRY_LINE: &str = "retry: 1000\n\n";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// GET `/v1/jobs/{id}/events`.
pub(crate) async fn watch(
    State(gateway): State<Arc<Gateway>>,
    draining: Option<Extension<Draining>>,
    uri: Uri,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let name = v1::resource("jobs", &id)?;
    let after_revision = after_revision(&uri, &headers)?;
    let request = WatchStatusRequest { job: name.clone(), after_revision };
    let mut stub = gateway.connection.stub();
    let call = stub.watch_status(call::request(&headers, request));
    let limit = gateway.config.limits.call_timeout;
    let mut updates = call::within(limit, call).await?;
    let first = tokio::time::timeout(limit, updates.message())
        .await
        .map_err(|_| tonic::Status::deadline_exceeded("the server did not answer in time"))??;

    // A browser that has seen the end would connect again and again; only this status makes it stop.
    let nothing_new = |update: &WatchStatusResponse| after_revision > 0 && update.revision <= after_revision;
    if first.as_ref().is_some_and(nothing_new) {
        let job = job(&gateway, &headers, name).await?;
        if has_seen_end(&job, after_revision) {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    let draining = draining.map(|Extension(Draining(token))| token).unwrap_or_default();
    Ok(event_stream(Watch { updates, first, draining, place: Place::Begin }))
}

/// The revision that the caller has seen: what a browser sends when it connects again, or what a program asks for.
fn after_revision(uri: &Uri, headers: &HeaderMap) -> Result<u64, Problem> {
    let query = Query::parse(uri, &["after_revision"])?;
    match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            let id = id.to_str().ok().and_then(|text| text.trim().parse().ok());
            id.ok_or_else(|| Problem::invalid("Last-Event-ID", "is no revision"))
        }
        None => query.number("after_revision"),
    }
}

async fn job(gateway: &Gateway, headers: &HeaderMap, name: String) -> Result<Job, Problem> {
    let mut stub = gateway.connection.stub();
    let call = stub.get_job(call::request(headers, GetJobRequest { name }));
    let answer = call::within(gateway.config.limits.call_timeout, call).await?;
    Ok(answer.job.unwrap_or_default())
}

/// Whether the caller has seen how the job ended. It may have ended just now, behind what the caller has seen.
fn has_seen_end(job: &Job, after_revision: u64) -> bool {
    ended(job) && job.revision <= after_revision
}

fn ended(job: &Job) -> bool {
    matches!(job.state(), JobState::Succeeded | JobState::Failed | JobState::Cancelled)
}

/// Where the stream of events is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Begin,
    Running,
    End,
}

struct Watch {
    updates: Streaming<WatchStatusResponse>,
    first: Option<WatchStatusResponse>,
    /// Cancelled by the listener when it shuts down; the client comes back with the last revision.
    draining: CancellationToken,
    place: Place,
}

fn event_stream(watch: Watch) -> Response {
    let events = stream::unfold(watch, |mut watch| async move {
        let text = watch.next_text().await?;
        Some((Ok::<_, Infallible>(text), watch))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Tells nginx not to collect the events.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(events)).into_response()
}

impl Watch {
    async fn next_text(&mut self) -> Option<String> {
        match self.place {
            Place::End => return None,
            Place::Begin => {
                self.place = Place::Running;
                return Some(RETRY_LINE.to_owned());
            }
            Place::Running => {}
        }
        let update = match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => tokio::select! {
                update = self.updates.message() => update,
                () = self.draining.cancelled() => Ok(None),
            },
        };
        match update {
            Ok(Some(update)) => {
                if update.job.as_ref().is_some_and(ended) {
                    self.place = Place::End;
                }
                Some(event_text(&update))
            }
            Ok(None) => None,
            Err(status) => {
                self.place = Place::End;
                // A server that goes down is no event: the client connects again and goes on.
                let gone = status.code() == tonic::Code::Unavailable;
                (!gone).then(|| format!("event: problem\ndata: {}\n\n", Problem::from(status).to_json()))
            }
        }
    }
}

fn event_text(update: &WatchStatusResponse) -> String {
    let name = match update.event() {
        WatchEvent::Snapshot => "snapshot",
        WatchEvent::Change => "change",
        WatchEvent::Heartbeat | WatchEvent::Unspecified => return ": heartbeat\n\n".to_owned(),
    };
    match update.job.as_ref().map(serde_json::to_string) {
        // JSON on one line holds no line feed: those in texts are escaped.
        Some(Ok(job)) => format!("event: {name}\nid: {}\ndata: {job}\n\n", update.revision),
        _ => ": nothing new\n\n".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn updates_become_events_and_heartbeats_comments() {
        let job =
            Job { name: "jobs/x".to_owned(), state: JobState::Running.into(), revision: 7, ..Job::default() };
        let update = WatchStatusResponse { event: WatchEvent::Change.into(), revision: 7, job: Some(job) };
        assert_eq!(
            event_text(&update),
            "event: change\nid: 7\ndata: {\"name\":\"jobs/x\",\"state\":\"JOB_STATE_RUNNING\",\"revision\":\"7\"}\n\n"
        );
        let heartbeat = WatchStatusResponse { event: WatchEvent::Heartbeat.into(), ..Default::default() };
        assert_eq!(event_text(&heartbeat), ": heartbeat\n\n");
        let seen = WatchStatusResponse { event: WatchEvent::Snapshot.into(), revision: 7, job: None };
        assert!(event_text(&seen).starts_with(':'));
    }

    #[test]
    fn an_end_that_came_just_now_was_not_seen() {
        let job = |state: JobState| Job { state: state.into(), revision: 8, ..Job::default() };
        assert!(has_seen_end(&job(JobState::Succeeded), 8));
        assert!(!has_seen_end(&job(JobState::Succeeded), 7));
        assert!(!has_seen_end(&job(JobState::Running), 8));
    }

    #[test]
    fn the_last_event_wins_over_the_query() {
        let uri: Uri = "/v1/jobs/x/events?after_revision=3".parse().unwrap();
        assert_eq!(after_revision(&uri, &HeaderMap::new()).unwrap(), 3);
        let headers = HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_static("9"))]);
        assert_eq!(after_revision(&uri, &headers).unwrap(), 9);
        let headers = HeaderMap::from_iter([(LAST_EVENT_ID, HeaderValue::from_static("x"))]);
        assert!(after_revision(&uri, &headers).is_err());
    }
}
