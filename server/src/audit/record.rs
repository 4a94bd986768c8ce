//! What is known of one call so far.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imageops::v1;
use imageops_model::Scope;
use imageops_tls::Peer;
use serde::Serialize;

use super::line::{Line, Outcome};
use crate::auth::Caller;
use crate::clock::now;

/// Longest name that is taken over, in characters.
const NAME_CHARACTERS_MAX: usize = 512;
/// The call that changes nothing and is recorded all the same.
const DOWNLOAD: &str = "ImageOps/DownloadImage";

/// What is known of one call so far. Clones are the same record.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    /// Absent: the call has not entered a service of ours.
    scope: Option<Scope>,
    peer: Option<Peer>,
    tenant: String,
    key: String,
    subject: String,
    result: String,
    sha256: String,
    /// What the call holds until its answer has ended.
    held: Option<Box<dyn Any + Send>>,
    is_told: bool,
}

/// A record as it is written.
#[derive(Default, Serialize)]
struct Entry<'a> {
    time: String,
    method: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    certificate_sha256: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    result: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sha256: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_id: &'a str,
}

impl Entry<'_> {
    fn now() -> Self {
        let time = jiff::Timestamp::from_microsecond(now().0);
        Self { time: time.map(|time| time.to_string()).unwrap_or_default(), ..Self::default() }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Record")
    }
}

impl Record {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The call came from there.
    pub(crate) fn came_from(&self, peer: Option<Peer>) {
        let mut facts = self.facts();
        // If it is refused at once that is told, whatever it needs.
        (facts.scope, facts.peer) = (Some(Scope::Read), peer);
    }

    /// The call needs `scope` and names `subject`.
    pub(crate) fn needs(&self, scope: Scope, subject: &str) {
        let mut facts = self.facts();
        (facts.scope, facts.subject) = (Some(scope), short(subject));
    }

    /// It is known who calls.
    pub(crate) fn called_by(&self, caller: &Caller) {
        let mut facts = self.facts();
        facts.tenant = caller.tenant.to_string();
        facts.key = caller.key.map(|key| key.to_string()).unwrap_or_default();
    }

    /// What the call has made, or begun.
    pub(crate) fn made(&self, name: &str) {
        self.facts().result = short(name);
    }

    /// The image that came of it, or that it was about, with its digest.
    pub(crate) fn image(&self, image: &v1::Image) {
        let mut facts = self.facts();
        facts.result = short(&image.name);
        facts.sha256 = image.digests.as_ref().map(|digests| digests.sha256.clone()).unwrap_or_default();
    }

    /// The digest of the bytes that it was about.
    pub(crate) fn digest(&self, sha256: &str) {
        sha256.clone_into(&mut self.facts().sha256);
    }

    /// Keeps something until the answer has ended.
    pub(crate) fn hold(&self, held: impl Any + Send) {
        self.facts().held = Some(Box::new(held));
    }

    /// Takes up the image that came of work which goes on without its caller; a line of its own when that of the call is
    /// written already.
    pub(crate) fn image_of_work(&self, method: &str, image: &v1::Image) -> Option<String> {
        self.image(image);
        let facts = self.facts();
        let deed = Deed {
            method,
            outcome: "OK",
            tenant: &facts.tenant,
            subject: &facts.subject,
            result: &facts.result,
            sha256: &facts.sha256,
            ..Deed::default()
        };
        facts.is_told.then(|| deed.told())
    }

    /// The line of this call; `None` when it is not recorded.
    pub(super) fn tell(&self, line: &Line, outcome: &Outcome) -> Option<String> {
        let mut facts = self.facts();
        facts.is_told = true;
        let changes = facts.scope? != Scope::Read || line.method == DOWNLOAD;
        if !changes && !outcome.is_refusal() {
            return None;
        }
        let peer = facts.peer.as_ref();
        let certificate = peer.and_then(|peer| peer.certificate_sha256);
        let entry = Entry {
            method: &line.method,
            outcome: outcome.name(),
            reason: outcome.reason(),
            tenant: &facts.tenant,
            key: &facts.key,
            address: peer.map(|peer| peer.address.to_string()).unwrap_or_default(),
            certificate_sha256: certificate.map(hex::encode).unwrap_or_default(),
            subject: &facts.subject,
            result: &facts.result,
            sha256: &facts.sha256,
            request_id: &line.request_id,
            trace_id: &line.trace_id,
            ..Entry::now()
        };
        serde_json::to_string(&entry).ok()
    }
}

/// Something that was done without a call of its own.
#[derive(Default)]
pub(crate) struct Deed<'a> {
    /// What was done: `Job/Import`, `Command/CreateKey`.
    pub(crate) method: &'a str,
    /// `OK`, or how it ended else.
    pub(crate) outcome: &'a str,
    /// Why it ended so; empty: well.
    pub(crate) reason: &'a str,
    /// For whom.
    pub(crate) tenant: &'a str,
    /// What it was done to, or the job that did it.
    pub(crate) subject: &'a str,
    /// What was made; empty: nothing.
    pub(crate) result: &'a str,
    /// Digest of the bytes that were made; empty: none.
    pub(crate) sha256: &'a str,
}

impl Deed<'_> {
    /// Its line.
    pub(crate) fn told(&self) -> String {
        let Self { method, outcome, reason, tenant, subject, result, sha256 } = *self;
        let entry = Entry { method, outcome, reason, tenant, subject, result, sha256, ..Entry::now() };
        serde_json::to_string(&entry).unwrap_or_default()
    }
}

fn short(text: &str) -> String {
    text.chars().take(NAME_CHARACTERS_MAX).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::Code;

    use super::*;

    fn line(method: &str) -> Line {
        Line { method: method.to_owned(), request_id: String::new(), trace_id: String::new() }
    }

    #[test]
    fn what_changes_or_is_refused_is_told() {
        let refused = Outcome::Failed { code: Code::PermissionDenied, reason: "SCOPE_MISSING".to_owned() };
        let missing = Outcome::Failed { code: Code::NotFound, reason: "JOB_NOT_FOUND".to_owned() };
        for (scope, method, outcome, is_told) in [
            (Some(Scope::Read), "ImageOps/GetJob", &Outcome::Done, false),
            (Some(Scope::Read), "ImageOps/GetJob", &missing, false),
            (Some(Scope::Read), "ImageOps/GetJob", &refused, true),
            (Some(Scope::Read), DOWNLOAD, &Outcome::Done, true),
            (Some(Scope::Write), "ImageOps/Check", &Outcome::Done, true),
            (Some(Scope::Delete), "ImageOps/DeleteJob", &missing, true),
            (Some(Scope::Admin), "Keys/CreateKey", &Outcome::Abandoned, true),
            (None, "Other/Call", &refused, false),
        ] {
            let record = Record::default();
            if let Some(scope) = scope {
                record.needs(scope, "jobs/x");
            }
            let told = record.tell(&line(method), outcome);
            assert_eq!(told.is_some(), is_told, "{method} {outcome:?}: {told:?}");
        }
    }

    #[test]
    fn an_image_that_comes_behind_its_caller_has_a_line_of_its_own() {
        let digests = v1::Digests { sha256: "5".repeat(64), ..Default::default() };
        let image = v1::Image { name: "images/x".to_owned(), digests: Some(digests), ..Default::default() };
        let record = Record::default();
        record.needs(Scope::Write, "");
        assert_eq!(
            record.image_of_work("ImageOps/UploadImage", &image),
            None,
            "the line of the call tells it"
        );
        let told = record.tell(&line("ImageOps/UploadImage"), &Outcome::Abandoned).unwrap();
        assert!(told.contains("images/x") && told.contains("ABANDONED"), "{told}");
        let told = record.image_of_work("ImageOps/UploadImage", &image).unwrap();
        assert!(told.contains("images/x") && told.contains("55555") && told.contains("OK"), "{told}");
    }

    #[test]
    fn names_are_short_and_on_one_line() {
        let record = Record::default();
        let peer = Peer { address: "127.0.0.1:9".parse().unwrap(), certificate_sha256: Some([1; 32]) };
        record.came_from(Some(peer));
        record.needs(Scope::Write, &format!("a\nb\"{}", "x".repeat(1000)));
        let told = record.tell(&line("ImageOps/Check"), &Outcome::Done).unwrap();
        assert!(told.len() < 1000 && !told.contains('\n'), "{told}");
        let value: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((value["address"].as_str(), value["outcome"].as_str()), (Some("127.0.0.1:9"), Some("OK")));
    }
}
