//! The audit log: who changed what, and who was refused (SEC-54).
//!
//! A layer around all services makes a [`Record`] for each call; where calls enter, the record is told who calls and what
//! is named, and what came of it afterwards. When the answer begins the record becomes one line. Calls that only read are
//! not recorded unless they were refused; downloads are. What is done without a call, the end of a job or a command at the
//! catalogue, is told as a [`Deed`]. No secret and no text of a client but the names of things
//! gets there.

mod line;
mod record;
mod sink;
mod subject;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt as _;
use tonic::Status;

pub(crate) use self::record::{Deed, Record};
pub(crate) use self::sink::{Sink, TARGET};
pub(crate) use self::subject::subject_of;
use crate::audit::line::{Line, Outcome};

/// Longest id of a request or trace that is taken over.
const ID_BYTES_MAX: usize = 128;

/// What every call passes: its record is made before, and written after. The record lives as long as the answer.
pub(crate) async fn record_calls(State(sink): State<Sink>, mut request: Request, next: Next) -> Response {
    let record = Record::default();
    request.extensions_mut().insert(record.clone());
    let mut open = Open {
        line: Line {
            method: request.uri().path().trim_start_matches("/imageops.v1.").to_owned(),
            request_id: visible(request.headers(), "x-request-id"),
            trace_id: visible(request.headers(), "traceparent")
                .split('-')
                .nth(1)
                .unwrap_or_default()
                .to_owned(),
        },
        record: record.clone(),
        // Whoever goes away before the answer may have changed something all the same.
        outcome: Outcome::Abandoned,
        sink,
    };
    let response = next.run(request).await;
    open.outcome = Status::from_header_map(response.headers()).map_or(Outcome::Done, Outcome::from);
    drop(open);
    response.map(|body| {
        let held = record;
        axum::body::Body::new(body.map_frame(move |frame| {
            let _ = &held;
            frame
        }))
    })
}

/// A call that is under way; written when it is dropped.
struct Open {
    line: Line,
    record: Record,
    outcome: Outcome,
    sink: Sink,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(text) = self.record.tell(&self.line, &self.outcome) {
            self.sink.write(text);
        }
    }
}

/// The value of a header that can go into a log, else nothing.
fn visible(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let fits = value.len() <= ID_BYTES_MAX && value.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { value.to_owned() } else { String::new() }
}
