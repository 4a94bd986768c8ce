//! Where images may be imported from: the URL gate as the configuration sets it up, and what a client is told of a source.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use imageops_fetch::{Error, Fetcher, Gate, Limits, Policy, RootCertStore, SystemResolver};
use tonic::Code;

use crate::config::Config;
use crate::exit::{Exit, Fatal};
use crate::failure::Failure;
use crate::reason;
use crate::upload::admission::too_large;

/// What the gate lets through.
pub fn policy(config: &Config) -> Result<Policy, Fatal> {
    let mut policy = Policy { http: config.import_http, ports: Vec::new(), allowed: Vec::new() };
    for text in &config.import_allow {
        let allowed =
            text.parse().map_err(|error| refuse(format!("--import-allow holds {text:?}: it {error}")))?;
        policy.allowed.push(allowed);
    }
    for text in &config.import_ports {
        let ports =
            text.parse().map_err(|error| refuse(format!("--import-ports holds {text:?}: it {error}")))?;
        policy.ports.push(ports);
    }
    Ok(policy)
}

/// What imports are fetched with. Reads the certificates that are trusted.
pub fn fetcher(config: &Config) -> Result<Fetcher, Fatal> {
    let gate = Gate::new(policy(config)?, Arc::new(SystemResolver));
    let limits = Limits { max_bytes: config.upload_max_bytes, ..Limits::default() };
    let roots =
        config.import_ca_file.as_deref().map(read_roots).transpose()?.unwrap_or_else(RootCertStore::empty);
    Fetcher::new(gate, limits, roots)
        .map_err(|error| Fatal::new(Exit::Internal, format!("imports cannot be set up: {error}")))
}

fn read_roots(path: &Path) -> Result<RootCertStore, Fatal> {
    let wrong = |problem: &dyn std::fmt::Display| {
        refuse(format!("the certificates of --import-ca-file {} cannot be read: {problem}", path.display()))
    };
    let pem = fs::read(path).map_err(|error| wrong(&error))?;
    imageops_fetch::read_roots(&pem).ok_or_else(|| wrong(&"there are none, or not all are whole"))
}

fn refuse(message: String) -> Fatal {
    Fatal::new(Exit::Configuration, message)
}

/// What a client is told of a source: a category, and never what the other side said (SEC-35).
pub fn refusal(error: Error) -> Failure {
    let (code, reason) = match error {
        Error::TooLarge { limit_bytes } => return too_large(limit_bytes),
        Error::Denied(_) | Error::NoHost => (Code::InvalidArgument, reason::URL_REFUSED),
        Error::Unreachable => (Code::Unavailable, reason::IMPORT_UNREACHABLE),
        Error::Refused => (Code::FailedPrecondition, reason::IMPORT_REFUSED),
        Error::TooSlow => (Code::DeadlineExceeded, reason::IMPORT_TOO_SLOW),
        Error::Changed => (Code::Aborted, reason::IMPORT_CHANGED),
        Error::Cut => (Code::Unavailable, reason::IMPORT_CUT),
        _ => (Code::FailedPrecondition, reason::IMPORT_INVALID),
    };
    Failure::new(code, reason, error.to_string())
}
