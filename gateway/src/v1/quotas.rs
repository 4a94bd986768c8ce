//! What tenants have, and may have.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use imageops::v1::{GetUsageRequest, SetQuotaRequest};

use super::{answer, present, read_message};
use crate::call;
use crate::problem::Problem;
use crate::query::Query;
use crate::route::{Content, Route};
use crate::router::Gateway;

pub(super) fn routes() -> Vec<Route> {
    let quota = Content::Message("SetQuotaRequest");
    let usage = Content::Message("Usage");
    [
        Route::new("get", "/v1/usage", "getUsage", "Tells what a tenant has and may have.", get(find))
            .query("tenant", "The tenant; by default the caller's.")
            .answers(200, "What it has.", usage),
        Route::new("put", "/v1/quotas/{tenant}", "setQuota", "Says what a tenant may have.", put(set))
            .takes(quota)
            .answers(200, "What it has and may have now.", usage),
        Route::new(
            "put",
            "/v1/quotas",
            "setDefaultQuota",
            "Says what tenants without a quota of their own may have.",
            put(set_default),
        )
        .takes(quota)
        .answers(204, "It is so now.", Content::Empty),
    ]
    .into_iter()
    .map(|route| route.tag("Quotas"))
    .collect()
}

async fn find(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let message = GetUsageRequest { tenant: Query::parse(&uri, &["tenant"])?.text("tenant")? };
    let mut stub = gateway.connection.images();
    let call = stub.get_usage(call::request(&headers, message));
    answer(StatusCode::OK, &present(call::within(gateway.config.limits.call_timeout, call).await?.usage)?)
}

async fn set(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(tenant): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    change(&gateway, &headers, tenant, body).await
}

async fn set_default(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(&gateway, &headers, String::new(), body).await
}

/// Changes the quota of a tenant, or with an empty one the default.
async fn change(
    gateway: &Gateway,
    headers: &HeaderMap,
    tenant: String,
    body: Body,
) -> Result<Response, Problem> {
    let mut message: SetQuotaRequest = read_message(gateway, headers, body).await?;
    if !message.tenant.is_empty() && message.tenant != tenant {
        return Err(Problem::invalid("tenant", "is not the tenant of the path"));
    }
    message.tenant = tenant;
    let mut stub = gateway.connection.images();
    let call = stub.set_quota(call::request(headers, message));
    match call::within(gateway.config.limits.call_timeout, call).await?.usage {
        Some(usage) => answer(StatusCode::OK, &usage),
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}
