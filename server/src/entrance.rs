//! What a call passes before a byte of its message is read (SEC-37): who calls is known by then, and within their limits; and
//! the message comes in time. Of others the server keeps no more than the small messages of health and reflection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use imageops_gateway::{Pace, paced};
use tonic::Status;

use crate::app::App;
use crate::audit::Record;
use crate::auth::{Caller, peer_of};
use crate::failure::Result;

/// Services whose callers are asked who they are; health and reflection are everybody's.
const SERVICES: &str = "/imageops.v1.";
/// Its messages are an image, whose pace it measures itself.
const UPLOAD: &str = "/imageops.v1.ImageOps/UploadImage";
/// Largest message that carries no bytes of an image. It is held until it is whole, for each call that may be under way.
pub(crate) const RECORD_MAX_BYTES: usize = 1 << 20;
/// What stands around it.
const FRAMING_BYTES: usize = 64;
/// How long a message may stay silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Lets a call in, or answers why not. Whoever is let in is a [`Caller`] in the extensions of the request.
pub(crate) async fn enter(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (mut head, mut body) = request.into_parts();
    if head.uri.path().starts_with(SERVICES) {
        match admit(&app, &head).await {
            Ok(caller) => head.extensions.insert(caller),
            Err(failure) => return Status::from(failure).into_http(),
        };
    }
    if head.uri.path() != UPLOAD {
        body = bounded(paced(body, SILENCE_MAX, Pace::PERIOD));
    }
    next.run(Request::from_parts(head, body)).await
}

/// A body that ends where it grows larger than a record may be.
fn bounded(body: Body) -> Body {
    let limited = Limited::new(body, RECORD_MAX_BYTES + FRAMING_BYTES);
    Body::new(limited.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let message = format!("a message without bytes of an image has at most {RECORD_MAX_BYTES} bytes");
            return axum::Error::new(Status::out_of_range(message));
        }
        axum::Error::new(error)
    }))
}

async fn admit(app: &App, head: &Parts) -> Result<Caller> {
    let record = head.extensions.get::<Record>().cloned().unwrap_or_default();
    let peer = peer_of(&head.extensions, &head.headers);
    record.came_from(peer.clone());
    let mut caller = app.authenticator.identify(peer.as_ref(), &head.headers).await?;
    record.called_by(&caller);
    record.hold(app.tenant_limits.admit(&caller.tenant, Instant::now())?);
    caller.record = record;
    Ok(caller)
}
