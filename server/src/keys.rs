//! `imageops-server key …`: access keys, made and revoked at the catalogue itself, beside a running server too.

use std::path::Path;

use imageops_catalogue::{Catalogue, Cursor, Error, KeyRow, Page};
use imageops_model::{KeyId, Label, Micros, Scope, Tenant};
use uuid::Uuid;

use crate::audit::{Deed, Sink};
use crate::auth::prove;
use crate::clock::now;
use crate::config::{CreateKey, KeyCommand};
use crate::exit::{Exit, Fatal};

/// Keys that are read at a time.
const PAGE_ROWS: u32 = 1_000;
/// A day, in microseconds.
const DAY: i64 = 86_400_000_000;

/// Runs one command and prints its answer. What it changes stands in the audit log too, where there is a file.
pub async fn run(command: KeyCommand, catalogue: &dyn Catalogue, audit: Option<&Path>) -> Result<(), Fatal> {
    let (method, key) = match command {
        KeyCommand::Create(wanted) => ("Command/CreateKey", create(wanted, catalogue).await?),
        KeyCommand::List => return list(catalogue).await,
        KeyCommand::Revoke { key } => ("Command/RevokeKey", revoke(&key, catalogue).await?),
    };
    let Some(path) = audit else { return Ok(()) };
    let (id, tenant) = (key.id.to_string(), key.tenant.to_string());
    let deed = Deed { method, outcome: "OK", tenant: &tenant, subject: &id, ..Deed::default() };
    Sink::write_once(path, deed.told()).map_err(|error| {
        let message = format!("it is done, but --audit-log {} cannot be written: {error}", path.display());
        Fatal::new(Exit::Configuration, message)
    })
}

async fn create(wanted: CreateKey, catalogue: &dyn Catalogue) -> Result<KeyRow, Fatal> {
    let CreateKey { scopes, tenant, label, expiry_days, certificate } = wanted;
    let scopes = scopes
        .iter()
        .map(|name| {
            Scope::parse(name.trim())
                .ok_or_else(|| usage(format!("{name:?} is no scope: take read, write, delete or admin")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let tenant = match tenant {
        Some(name) => Tenant::new(name).map_err(|error| usage(error.to_string()))?,
        None => Tenant::built_in(),
    };
    let label = Label::new(label).map_err(|error| usage(error.to_string()))?;
    let certificate = certificate.as_deref().map(imageops_tls::fingerprint).transpose();
    let certificate = certificate.map_err(|error| usage(error.to_string()))?;
    let (proof, proof_sha256, secret) =
        prove(certificate).map_err(|error| Fatal::new(Exit::Internal, error.to_string()))?;
    let create_time = now();
    let key = KeyRow {
        id: KeyId(Uuid::new_v4()),
        proof,
        proof_sha256,
        tenant,
        scopes,
        label,
        create_time,
        expire_time: expiry_days.map(|days| Micros(create_time.0 + i64::from(days) * DAY)),
        revoke_time: None,
    };
    catalogue.create_key(key.clone()).await.map_err(|error| match error {
        Error::Conflict { .. } => usage("the certificate has a key already, revoked maybe".to_owned()),
        other => failed(other),
    })?;
    match secret {
        Some(secret) => {
            eprintln!("{} for tenant {}; the secret is shown this once:", key.id, key.tenant);
            println!("{secret}");
        }
        None => println!("{} for tenant {}", key.id, key.tenant),
    }
    Ok(key)
}

async fn list(catalogue: &dyn Catalogue) -> Result<(), Fatal> {
    let mut page = Page { limit: PAGE_ROWS, after: None };
    loop {
        let keys = catalogue.list_keys(None, page.clone()).await.map_err(failed)?;
        for key in &keys {
            let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
            println!("{}  {:7}  {}  {}  {}", key.id, state(key), key.tenant, scopes.join(","), key.label);
        }
        let Some(last) = keys.last() else { return Ok(()) };
        page.after = Some(Cursor { create_time: last.create_time, id: last.id.0 });
    }
}

fn state(key: &KeyRow) -> &'static str {
    match key.revoke_time {
        Some(_) => "revoked",
        None if key.is_expired(now()) => "expired",
        None => "active",
    }
}

async fn revoke(key: &str, catalogue: &dyn Catalogue) -> Result<KeyRow, Fatal> {
    let id = key
        .parse::<KeyId>()
        .ok()
        .or_else(|| Uuid::try_parse(key).ok().map(KeyId))
        .ok_or_else(|| usage(format!("{key:?} is no key: take `keys/…` as `key list` prints it")))?;
    match catalogue.revoke_key(None, id, now()).await {
        Ok(key) => {
            println!("{} is revoked", key.id);
            Ok(key)
        }
        Err(Error::NotFound { .. }) => Err(usage(format!("there is no {id}"))),
        Err(error) => Err(failed(error)),
    }
}

fn usage(message: String) -> Fatal {
    Fatal::new(Exit::Usage, message)
}

fn failed(error: Error) -> Fatal {
    Fatal::new(Exit::Catalogue, error.to_string())
}
