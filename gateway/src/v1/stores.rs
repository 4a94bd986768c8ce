//! The places where bytes lie.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, patch, post};
use imageops::v1::{
    DrainStoreRequest, GetStoreRequest, ListStoresRequest, RegisterStoreRequest, RemoveStoreRequest,
    ScrubStoreRequest, Store, UpdateStoreRequest,
};

use super::changes::{Change, expected_etag};
use super::starts::started;
use super::{answer, id_of, present, read_message, uuid, wrong_method};
use crate::call;
use crate::problem::Problem;
use crate::query::Query;
use crate::route::{Content, Route};
use crate::router::Gateway;

pub(super) fn routes() -> Vec<Route> {
    let all = "/v1/stores";
    let one = "/v1/stores/{store}";
    let store = Content::Message("Store");
    let job = Content::Message("Job");
    [
        Route::new("get", all, "listStores", "Lists the stores, highest weight first.", get(list)).answers(
            200,
            "The stores.",
            Content::Message("ListStoresResponse"),
        ),
        Route::new("post", all, "registerStore", "Adds a store.", post(register)).takes(store).answers(
            201,
            "The store; `Location` leads to it.",
            store,
        ),
        Route::new("get", one, "getStore", "Tells what is known of a store.", get(find)).answers(
            200,
            "The store.",
            store,
        ),
        Route::new("patch", one, "updateStore", "Changes what was decided about a store.", patch(update))
            .query(
                "update_mask",
                "What is changed, in lowerCamelCase with commas between; by default the members of the body.",
            )
            .header("If-Match", "Entity tag that the store must still have.", false)
            .takes(store)
            .answers(200, "The store as it is now.", store)
            .answers(412, "The store has changed since.", Content::Json("Problem")),
        Route::new("delete", one, "removeStore", "Forgets a store that holds no image.", delete(remove))
            .answers(204, "It is forgotten.", Content::Empty)
            .answers(409, "It still holds images.", Content::Json("Problem")),
        Route::new(
            "post",
            "/v1/stores/{store}:drain",
            "drainStore",
            "Moves all images into other stores.",
            post(act),
        )
        .answers(202, "The job; `Location` leads to it.", job),
        Route::new(
            "post",
            "/v1/stores/{store}:scrub",
            "scrubStore",
            "Compares all bytes with their digests.",
            // The router sees both verbs as one path; `act` serves them.
            MethodRouter::new(),
        )
        .answers(202, "The job; `Location` leads to it.", job),
    ]
    .into_iter()
    .map(|route| route.tag("Stores"))
    .collect()
}

/// A store as the server is told of it: the resource name of a UUID, any other text as it is.
pub(super) fn store_name(text: &str) -> String {
    uuid(text).map_or_else(|| text.to_owned(), |id| format!("stores/{id}"))
}

async fn list(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::parse(&uri, &[])?;
    let mut stub = gateway.connection.stores();
    let call = stub.list_stores(call::request(&headers, ListStoresRequest {}));
    answer(StatusCode::OK, &call::within(gateway.config.limits.call_timeout, call).await?)
}

async fn register(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let message = RegisterStoreRequest { store: Some(read_message(&gateway, &headers, body).await?) };
    let mut stub = gateway.connection.stores();
    let call = stub.register_store(call::request(&headers, message));
    let store = present(call::within(gateway.config.limits.call_timeout, call).await?.store)?;
    let location = HeaderValue::try_from(format!("/v1/stores/{}", id_of(&store.name)));
    let mut response = show(StatusCode::CREATED, Some(store))?;
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn find(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(store): Path<String>,
) -> Result<Response, Problem> {
    let message = GetStoreRequest { name: store_name(&store) };
    let mut stub = gateway.connection.stores();
    let call = stub.get_store(call::request(&headers, message));
    show(StatusCode::OK, call::within(gateway.config.limits.call_timeout, call).await?.store)
}

async fn update(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path(store): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let name = store_name(&store);
    let Change { mut record, update_mask } = Change::<Store>::read(&gateway, &uri, &headers, body).await?;
    if !record.name.is_empty() && record.name != name {
        return Err(Problem::invalid("name", "is not the store of the path"));
    }
    record.name = name;
    if let Some(etag) = expected_etag(&headers)? {
        record.etag = etag;
    }
    // As with images: nothing was named, so nothing changes.
    if update_mask.paths.is_empty() {
        record = Store { name: record.name, etag: record.etag, ..Store::default() };
    }
    let message = UpdateStoreRequest { store: Some(record), update_mask: Some(update_mask) };
    let mut stub = gateway.connection.stores();
    let call = stub.update_store(call::request(&headers, message));
    show(StatusCode::OK, call::within(gateway.config.limits.call_timeout, call).await?.store)
}

async fn remove(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(store): Path<String>,
) -> Result<StatusCode, Problem> {
    let message = RemoveStoreRequest { name: store_name(&store) };
    let mut stub = gateway.connection.stores();
    let call = stub.remove_store(call::request(&headers, message));
    call::within(gateway.config.limits.call_timeout, call).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// POST `/v1/stores/{store}:verb`; the router sees store and verb as one.
async fn act(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(target): Path<String>,
) -> Result<Response, Problem> {
    let limit = gateway.config.limits.call_timeout;
    let mut stub = gateway.connection.stores();
    match target.rsplit_once(':') {
        Some((store, "drain")) => {
            let message = DrainStoreRequest { name: store_name(store) };
            started(call::within(limit, stub.drain_store(call::request(&headers, message))).await?.job)
        }
        Some((store, "scrub")) => {
            let message = ScrubStoreRequest { name: store_name(store) };
            started(call::within(limit, stub.scrub_store(call::request(&headers, message))).await?.job)
        }
        Some(_) => Err(Problem::not_found()),
        None => Ok(wrong_method(
            "a store is not posted to; a verb like `:drain` is missing",
            "GET,HEAD,PATCH,DELETE",
        )),
    }
}

/// A store, with its etag in the header as well.
fn show(status: StatusCode, store: Option<Store>) -> Result<Response, Problem> {
    let store = present(store)?;
    let mut response = answer(status, &store)?;
    if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", store.etag)) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_by_either_name() {
        let id = "00000000-0000-4000-8000-000000000000";
        assert_eq!(store_name(id), format!("stores/{id}"));
        assert_eq!(store_name("fast"), "fast");
    }
}
