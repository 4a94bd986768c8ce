//! `imageops key create|list|show|revoke`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use imageops::v1::{CreateKeyRequest, CreateKeyResponse, Key, KeyScope, KeyState, ListKeysRequest};
use imageops_client::Client;
use pbjson_types::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use crate::args::Global;
use crate::exit::{Exit, Failure};
use crate::job::time;
use crate::output::{Facts, Form, note, print, print_json, printable, table};
use crate::server;

/// Keys of one page.
const PAGE_SIZE_MAX: usize = 1000;
/// Seconds of a day.
const DAY_SECONDS: u64 = 86_400;

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key; its secret goes to standard output, once.
    Create(CreateArgs),
    /// List keys, newest first, revoked and expired ones too.
    List(ListArgs),
    /// Show a key; secrets are not kept and cannot be shown.
    Show {
        /// keys/ID, or the ID alone.
        key: String,
    },
    /// Revoke a key at once.
    Revoke {
        /// keys/ID, or the ID alone.
        key: String,
    },
}

/// What a key may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeName {
    /// Reads images, uploads and jobs.
    Read,
    /// Makes and changes them.
    Write,
    /// Deletes them.
    Delete,
    /// Everything that the tenant may, keys too.
    Admin,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// What the key allows; `admin` includes all others.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "read,write,delete",
        value_name = "SCOPES"
    )]
    scopes: Vec<ScopeName>,

    /// Tenant that the key acts for; without it that of the key in use.
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,

    /// Text to know it by.
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,

    /// Days after which it opens nothing any more; without it the key opens until it is revoked.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    expiry_days: Option<u32>,

    /// Bind the key to this client certificate, in PEM, for servers with `--auth mtls`; it has no secret then.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only keys of this tenant.
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant: String,

    /// At most so many.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
}

pub(crate) async fn run(global: &Global, command: &KeyCommand) -> Result<Exit, Failure> {
    let client = server::connect(global)?;
    match command {
        KeyCommand::Create(arguments) => {
            let made = server::call(client.create_key(arguments.request()?)).await?;
            show_made(global, &made)?;
        }
        KeyCommand::List(arguments) => list(global, &client, arguments).await?,
        KeyCommand::Show { key } => show(global, &server::call(client.get_key(&name(key))).await?)?,
        KeyCommand::Revoke { key } => show(global, &server::call(client.revoke_key(&name(key))).await?)?,
    }
    Ok(Exit::Success)
}

impl CreateArgs {
    fn request(&self) -> Result<CreateKeyRequest, Failure> {
        let scopes = self.scopes.iter().map(|scope| match scope {
            ScopeName::Read => KeyScope::Read.into(),
            ScopeName::Write => KeyScope::Write.into(),
            ScopeName::Delete => KeyScope::Delete.into(),
            ScopeName::Admin => KeyScope::Admin.into(),
        });
        Ok(CreateKeyRequest {
            tenant: self.tenant.clone(),
            scopes: scopes.collect(),
            display_name: self.label.clone(),
            expire_time: self.expiry_days.map(days_from_now),
            certificate_sha256: self.certificate.as_deref().map(fingerprint).transpose()?.unwrap_or_default(),
            ..CreateKeyRequest::default()
        })
    }
}

/// SHA-256 of the first certificate of a file.
fn fingerprint(path: &Path) -> Result<String, Failure> {
    let shown = path.display().to_string();
    let pem = std::fs::read(path).map_err(|error| Failure::io(&shown, &error))?;
    let certificate = CertificateDer::from_pem_slice(&pem)
        .map_err(|_| Failure::new(format!("{shown}: holds no certificate in PEM form")))?;
    Ok(hex::encode(Sha256::digest(certificate)))
}

fn days_from_now(days: u32) -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let then = now + Duration::from_secs(u64::from(days) * DAY_SECONDS);
    Timestamp { seconds: i64::try_from(then.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// The full name of a key that was given by name or by its id alone.
fn name(key: &str) -> String {
    if key.contains('/') { key.to_owned() } else { format!("keys/{key}") }
}

fn show_made(global: &Global, made: &CreateKeyResponse) -> Result<(), Failure> {
    if global.output == Form::Json {
        return print_json(made);
    }
    let key = made.key.clone().unwrap_or_default();
    if made.secret.is_empty() {
        return show(global, &key);
    }
    note(&format!("{} for tenant {}; the secret is shown this once:", key.name, printable(&key.tenant)));
    print(&made.secret)
}

async fn list(global: &Global, client: &Client, arguments: &ListArgs) -> Result<(), Failure> {
    let mut request = ListKeysRequest { tenant: arguments.tenant.clone(), ..ListKeysRequest::default() };
    let mut keys: Vec<Key> = Vec::new();
    while keys.len() < arguments.limit {
        request.page_size = (arguments.limit - keys.len()).min(PAGE_SIZE_MAX) as u32;
        let page = server::call(client.list_keys(request.clone())).await?;
        keys.extend(page.keys);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if global.output == Form::Json {
        return print_json(&keys);
    }
    if keys.is_empty() {
        return print("no keys");
    }
    let rows = keys.iter().map(|key| {
        vec![
            key.name.clone(),
            state(key).to_owned(),
            key.tenant.clone(),
            scopes(key),
            printable(&key.display_name),
            key.create_time.as_ref().map(time).unwrap_or_default(),
            key.expire_time.as_ref().map(time).unwrap_or_default(),
        ]
    });
    print(&table(&["key", "state", "tenant", "scopes", "label", "created", "expires"], rows))
}

fn show(global: &Global, key: &Key) -> Result<(), Failure> {
    if global.output == Form::Json {
        return print_json(key);
    }
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut facts = Facts::default();
    facts.add("key", &key.name);
    facts.add("state", state(key));
    facts.add("tenant", &key.tenant);
    facts.add("scopes", scopes(key));
    facts.add_some("label", filled(&key.display_name));
    facts.add_some("certificate", filled(&key.certificate_sha256));
    facts.add_some("created", key.create_time.as_ref().map(time));
    facts.add_some("expires", key.expire_time.as_ref().map(time));
    facts.add_some("revoked", key.revoke_time.as_ref().map(time));
    print(&facts.render())
}

fn state(key: &Key) -> &'static str {
    match key.state() {
        KeyState::Active => "active",
        KeyState::Expired => "expired",
        KeyState::Revoked => "revoked",
        KeyState::Unspecified => "other",
    }
}

fn scopes(key: &Key) -> String {
    let names: Vec<_> = key
        .scopes()
        .map(|scope| match scope {
            KeyScope::Read => "read",
            KeyScope::Write => "write",
            KeyScope::Delete => "delete",
            KeyScope::Admin => "admin",
            KeyScope::Unspecified => "other",
        })
        .collect();
    names.join(",")
}
