//! Jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{delete, get, post};
use imageops::v1::{
    CancelJobRequest, DeleteJobRequest, GetJobRequest, JobKind, JobState, ListJobsRequest, WaitJobRequest,
};

use super::{answer, present, resource, wrong_method};
use crate::problem::Problem;
use crate::query::Query;
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::{call, events};

pub(super) fn routes() -> Vec<Route> {
    [
        Route::new("get", "/v1/jobs", "listJobs", "Lists jobs, newest first.", get(list))
            .query("page_size", "At most so many; 100 by default, 1,000 at most.")
            .query("page_token", "`nextPageToken` of the page before.")
            .query("state", "Only jobs in this state; may repeat.")
            .query("kind", "Only jobs of this kind; may repeat.")
            .answers(200, "A page.", Content::Message("ListJobsResponse")),
        Route::new("get", "/v1/jobs/{id}", "getJob", "Tells how far a job is, and its result.", get(find))
            .query("wait", "Waits for the end of the job at most so long, as in `30s`.")
            .answers(200, "The job.", Content::Message("Job")),
        Route::new("delete", "/v1/jobs/{id}", "deleteJob", "Forgets a job that has ended.", delete(forget))
            .answers(204, "It is forgotten.", Content::Empty),
        Route::new("post", "/v1/jobs/{id}:cancel", "cancelJob", "Asks a job to stop.", post(act))
            .answers(200, "The job.", Content::Message("Job")),
        Route::new("get", "/v1/jobs/{id}/events", "watchJob", "Follows a job.", get(events::watch))
            .query("after_revision", "Last revision that the caller has seen.")
            .header("Last-Event-ID", "The same, as browsers send it.", false)
            .answers(
                200,
                "Events `snapshot` and `change`, each with the job as JSON and its revision as id; the last has a final \
                 state. `problem` when the watch failed.",
                Content::Raw("text/event-stream"),
            )
            .answers(204, "The job has ended and the caller has seen it.", Content::Empty),
    ]
    .into_iter()
    .map(|route| route.tag("Jobs"))
    .collect()
}

async fn list(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["page_size", "page_token", "state", "kind"])?;
    let message = ListJobsRequest {
        page_size: query.number("page_size")?,
        page_token: query.text("page_token")?,
        states: query.choices::<JobState>("state")?,
        kinds: query.choices::<JobKind>("kind")?,
    };
    let mut stub = call::list_stub(&gateway.connection);
    let call = stub.list_jobs(call::request(&headers, message));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn find(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let name = resource("jobs", &id)?;
    let query = Query::parse(&uri, &["wait"])?;
    let limit = gateway.config.limits.call_timeout;
    let mut stub = gateway.connection.stub();
    let Some(wait) = query.one("wait")? else {
        let call = stub.get_job(call::request(&headers, GetJobRequest { name }));
        return answer(StatusCode::OK, &present(call::within(limit, call).await?.job)?);
    };
    let wait = seconds(wait).ok_or_else(|| Problem::invalid("wait", "is no time like 30s"))?.min(WAIT_MAX);
    let timeout = Some(pbjson_types::Duration::from(wait));
    let call = stub.wait_job(call::request(&headers, WaitJobRequest { name, timeout }));
    answer(StatusCode::OK, &present(call::within(limit + wait, call).await?.job)?)
}

/// Longest wait that the server knows.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// A span in the form of proto JSON, `1.5s`.
fn seconds(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    Duration::try_from_secs_f64(number.parse().ok()?).ok()
}

async fn forget(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let message = DeleteJobRequest { name: resource("jobs", &id)? };
    let mut stub = gateway.connection.stub();
    let call = stub.delete_job(call::request(&headers, message));
    call::within(gateway.config.limits.call_timeout, call).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// POST `/v1/jobs/{id}:verb`; the router sees id and verb as one.
async fn act(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(target): Path<String>,
) -> Result<Response, Problem> {
    match target.rsplit_once(':') {
        Some((id, "cancel")) => {
            let message = CancelJobRequest { name: resource("jobs", id)? };
            let mut stub = gateway.connection.stub();
            let call = stub.cancel_job(call::request(&headers, message));
            let answered = call::within(gateway.config.limits.call_timeout, call).await?;
            answer(StatusCode::OK, &present(answered.job)?)
        }
        Some(_) => Err(Problem::not_found()),
        None => {
            Ok(wrong_method("a job is not posted to; a verb like `:cancel` is missing", "GET,HEAD,DELETE"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_seconds_with_a_fraction() {
        assert_eq!(seconds("30s"), Some(Duration::from_secs(30)));
        assert_eq!(seconds("0.25s"), Some(Duration::from_millis(250)));
        for bad in ["", "s", "30", "-1s", "+1s", "1e3s", "infs", "nans", "1m", "1.2.3s"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert!(seconds("99999999999999999999999999s").is_none_or(|long| long > WAIT_MAX));
    }
}
