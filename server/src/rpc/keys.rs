//! The `Keys` service.

use imageops::v1;
use imageops_catalogue::{Cursor, KeyRow};
use imageops_model::{KeyId, Label, Scope, Tenant};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::quotas::read_tenant;
use super::stores::require_operator;
use super::{Service, pages, parse_name};
use crate::app::App;
use crate::auth::{Caller, prove};
use crate::clock::now;
use crate::failure::{Failure, Result};
use crate::wire;

#[tonic::async_trait]
impl v1::keys_server::Keys for Service {
    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Admin)?;
        let made = create(&self.app, &caller, request).await?;
        made.key.iter().for_each(|key| caller.record.made(&key.name));
        Ok(Response::new(made))
    }

    async fn get_key(
        &self,
        request: Request<v1::GetKeyRequest>,
    ) -> Result<Response<v1::GetKeyResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Admin)?;
        let key = self.app.catalogue.get_key(within(&caller), parse_name("name", &request.name)?).await;
        let key = key.map_err(Failure::from)?;
        Ok(Response::new(v1::GetKeyResponse { key: Some(wire::key(&key, now())) }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Admin)?;
        Ok(Response::new(list(&self.app, &caller, request).await?))
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Result<Response<v1::RevokeKeyResponse>, Status> {
        let (caller, request) = self.enter(request, Scope::Admin)?;
        let id = parse_name("name", &request.name)?;
        let key = self.app.catalogue.revoke_key(within(&caller), id, now()).await.map_err(Failure::from)?;
        Ok(Response::new(v1::RevokeKeyResponse { key: Some(wire::key(&key, now())) }))
    }
}

/// The tenant whose keys a caller may see; `None`: those of all.
fn within(caller: &Caller) -> Option<&Tenant> {
    (!caller.tenant.is_built_in()).then_some(&caller.tenant)
}

/// The tenant that a caller named, if it may; `None` where it named none.
fn named_tenant(caller: &Caller, name: String) -> Result<Option<Tenant>> {
    if name.is_empty() {
        return Ok(None);
    }
    if name != caller.tenant.as_str() {
        require_operator(caller)?;
    }
    read_tenant(name).map(Some)
}

async fn create(app: &App, caller: &Caller, request: v1::CreateKeyRequest) -> Result<v1::CreateKeyResponse> {
    let tenant = named_tenant(caller, request.tenant)?.unwrap_or_else(|| caller.tenant.clone());
    let scopes = wire::read_scopes(&request.scopes)?;
    let label = Label::new(request.display_name)
        .map_err(|error| Failure::invalid("display_name", error.to_string()))?;
    let create_time = now();
    let expire_time = wire::read_expire_time(request.expire_time, create_time)?;
    let certificate = wire::read_sha256("certificate_sha256", &request.certificate_sha256)?;
    // Whoever binds a certificate has its owner act for the key's tenant, and its digest is no secret: another tenant's
    // could be taken, and by the refusal of a second binding be looked for.
    if certificate.is_some() {
        require_operator(caller)?;
    }
    let id = match request.request_id.as_str() {
        "" => Uuid::new_v4(),
        id => Uuid::try_parse(id).map_err(|_| Failure::invalid("request_id", "must be a UUID"))?,
    };
    let (proof, proof_sha256, secret) = prove(certificate).map_err(Failure::internal)?;
    let key = KeyRow {
        id: KeyId(id),
        proof,
        proof_sha256,
        tenant,
        scopes,
        label,
        create_time,
        expire_time,
        revoke_time: None,
    };
    app.catalogue.create_key(key.clone()).await?;
    Ok(v1::CreateKeyResponse { key: Some(wire::key(&key, create_time)), secret: secret.unwrap_or_default() })
}

async fn list(app: &App, caller: &Caller, request: v1::ListKeysRequest) -> Result<v1::ListKeysResponse> {
    let filter = request.tenant.clone();
    let named = named_tenant(caller, request.tenant)?;
    let page = pages::page(request.page_size, &request.page_token, &filter)?;
    let rows = app.catalogue.list_keys(named.as_ref().or(within(caller)), page.clone()).await?;
    let now = now();
    let mut rows = pages::shown(rows, |row: &KeyRow| wire::key(row, now));
    let next_page_token = pages::cut(&mut rows, &page, &filter, |row: &KeyRow| Cursor {
        create_time: row.create_time,
        id: row.id.0,
    });
    Ok(v1::ListKeysResponse { keys: pages::messages(rows), next_page_token })
}
