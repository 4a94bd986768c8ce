//! `imageops-server key …`: access keys, made and revoked at the catalogue itself, beside a running server too.

use imageops_catalogue::{Catalogue, Error, KeyRow};
use imageops_model::{KeyId, Label, Scope, Tenant};
use uuid::Uuid;

use crate::auth::{hash_secret, make_secret};
use crate::clock::now;
use crate::config::KeyCommand;
use crate::exit::{Exit, Fatal};

/// Runs one command and prints its answer.
pub async fn run(command: KeyCommand, catalogue: &dyn Catalogue) -> Result<(), Fatal> {
    match command {
        KeyCommand::Create { scopes, tenant, label } => create(scopes, tenant, label, catalogue).await,
        KeyCommand::List => list(catalogue).await,
        KeyCommand::Revoke { key } => revoke(&key, catalogue).await,
    }
}

async fn create(
    scopes: Vec<String>,
    tenant: Option<String>,
    label: String,
    catalogue: &dyn Catalogue,
) -> Result<(), Fatal> {
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
    let secret = make_secret().map_err(|error| Fatal::new(Exit::Internal, error.to_string()))?;
    let key = KeyRow {
        id: KeyId(Uuid::new_v4()),
        secret_sha256: hash_secret(&secret),
        tenant,
        scopes,
        label,
        create_time: now(),
        revoke_time: None,
    };
    catalogue.create_key(key.clone()).await.map_err(failed)?;
    eprintln!("{} for tenant {}; the secret is shown this once:", key.id, key.tenant);
    println!("{secret}");
    Ok(())
}

async fn list(catalogue: &dyn Catalogue) -> Result<(), Fatal> {
    for key in catalogue.list_keys().await.map_err(failed)? {
        let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
        let state = if key.revoke_time.is_some() { "revoked" } else { "active" };
        println!("{}  {state:7}  {}  {}  {}", key.id, key.tenant, scopes.join(","), key.label);
    }
    Ok(())
}

async fn revoke(key: &str, catalogue: &dyn Catalogue) -> Result<(), Fatal> {
    let id = key
        .parse::<KeyId>()
        .ok()
        .or_else(|| Uuid::try_parse(key).ok().map(KeyId))
        .ok_or_else(|| usage(format!("{key:?} is no key: take `keys/…` as `key list` prints it")))?;
    match catalogue.revoke_key(id, now()).await {
        Ok(key) => println!("{} is revoked", key.id),
        Err(Error::NotFound { .. }) => return Err(usage(format!("there is no {id}"))),
        Err(error) => return Err(failed(error)),
    }
    Ok(())
}

fn usage(message: String) -> Fatal {
    Fatal::new(Exit::Usage, message)
}

fn failed(error: Error) -> Fatal {
    Fatal::new(Exit::Catalogue, error.to_string())
}
