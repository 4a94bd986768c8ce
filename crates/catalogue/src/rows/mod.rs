//! Rows as the database holds them, and as the rest of the service knows them. What does not read back is
//! [`Error::Corrupt`], never a guess.

use imageops_model::{JobFailure, Label, Scope, Tenant};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::{Error, Result};

mod images;
mod jobs;
mod keys;
mod stores;
mod uploads;

pub(crate) use images::ImageRecord;
pub(crate) use jobs::{JobRecord, StoredJob};
pub(crate) use keys::KeyRecord;
pub(crate) use stores::{BlobRecord, StoreRecord, UsageRecord};
pub(crate) use uploads::UploadRecord;

pub(crate) fn corrupt(what: &str) -> Error {
    Error::Corrupt { what: what.to_owned() }
}

/// A UUID as rows hold it.
pub(crate) fn write_uuid(id: Uuid) -> String {
    id.hyphenated().to_string()
}

pub(crate) fn read_uuid(what: &str, text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_| corrupt(what))
}

/// The id in a column that may be empty.
pub(crate) fn read_optional(what: &str, text: Option<String>) -> Result<Option<Uuid>> {
    text.map(|text| read_uuid(what, &text)).transpose()
}

/// A length or counter as rows hold it.
pub(crate) fn write_number(what: &'static str, number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::OutOfRange { what })
}

pub(crate) fn read_number<T: TryFrom<i64>>(what: &str, number: i64) -> Result<T> {
    T::try_from(number).map_err(|_| corrupt(what))
}

pub(crate) fn write_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt(&error.to_string()))
}

fn read_json<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(what))
}

pub(crate) fn write_failure(failure: Option<&JobFailure>) -> Result<Option<String>> {
    failure.map(write_json).transpose()
}

fn read_failure(text: Option<String>) -> Result<Option<JobFailure>> {
    text.map(|text| read_json("failure", &text)).transpose()
}

pub(crate) fn write_scopes(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",")
}

fn read_scopes(text: &str) -> Result<Vec<Scope>> {
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| Scope::parse(name).ok_or_else(|| corrupt("key scope")))
        .collect()
}

pub(crate) fn read_tenant(name: String) -> Result<Tenant> {
    Tenant::new(name).map_err(|_| corrupt("tenant"))
}

fn read_label(text: String) -> Result<Label> {
    Label::new(text).map_err(|_| corrupt("label"))
}
