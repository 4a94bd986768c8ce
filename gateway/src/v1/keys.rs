//! Who may do what.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use imageops::v1::{CreateKeyRequest, GetKeyRequest, ListKeysRequest, RevokeKeyRequest};

use super::{answer, id_of, present, read_message, resource, wrong_method};
use crate::call;
use crate::problem::Problem;
use crate::query::Query;
use crate::route::{Content, Route};
use crate::router::Gateway;

pub(super) fn routes() -> Vec<Route> {
    let key = Content::Message("Key");
    [
        Route::new("get", "/v1/keys", "listKeys", "Lists keys, newest first.", get(list))
            .query("page_size", "At most so many; 100 by default, 1,000 at most.")
            .query("page_token", "`nextPageToken` of the page before.")
            .query("tenant", "Only keys of this tenant.")
            .answers(200, "A page.", Content::Message("ListKeysResponse")),
        Route::new("post", "/v1/keys", "createKey", "Makes a key; its secret is shown once.", post(create))
            .takes(Content::Message("CreateKeyRequest"))
            .answers(
                201,
                "The key and its secret; `Location` leads to the key.",
                Content::Message("CreateKeyResponse"),
            ),
        Route::new("get", "/v1/keys/{id}", "getKey", "Tells what is known of a key.", get(find))
            .answers(200, "The key.", key),
        Route::new("post", "/v1/keys/{id}:revoke", "revokeKey", "Revokes a key.", post(act)).answers(
            200,
            "The key as it is now.",
            key,
        ),
    ]
    .into_iter()
    .map(|route| route.tag("Keys"))
    .collect()
}

async fn list(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["page_size", "page_token", "tenant"])?;
    let message = ListKeysRequest {
        page_size: query.number("page_size")?,
        page_token: query.text("page_token")?,
        tenant: query.text("tenant")?,
    };
    let mut stub = gateway.connection.keys();
    let call = stub.list_keys(call::request(&headers, message));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn create(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let message: CreateKeyRequest = read_message(&gateway, &headers, body).await?;
    let mut stub = gateway.connection.keys();
    let call = stub.create_key(call::request(&headers, message));
    let made = call::within(gateway.config.limits.call_timeout, call).await?;
    let name = made.key.as_ref().map_or("", |key| key.name.as_str());
    let location = HeaderValue::try_from(format!("/v1/keys/{}", id_of(name)));
    let mut response = answer(StatusCode::CREATED, &made)?;
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn find(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let message = GetKeyRequest { name: resource("keys", &id)? };
    let mut stub = gateway.connection.keys();
    let call = stub.get_key(call::request(&headers, message));
    answer(StatusCode::OK, &present(call::within(gateway.config.limits.call_timeout, call).await?.key)?)
}

/// POST `/v1/keys/{id}:verb`; the router sees id and verb as one.
async fn act(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(target): Path<String>,
) -> Result<Response, Problem> {
    match target.rsplit_once(':') {
        Some((id, "revoke")) => {
            let message = RevokeKeyRequest { name: resource("keys", id)? };
            let mut stub = gateway.connection.keys();
            let call = stub.revoke_key(call::request(&headers, message));
            let answered = call::within(gateway.config.limits.call_timeout, call).await?;
            answer(StatusCode::OK, &present(answered.key)?)
        }
        Some(_) => Err(Problem::not_found()),
        None => Ok(wrong_method("a key is not posted to; the verb `:revoke` is missing", "GET,HEAD")),
    }
}
