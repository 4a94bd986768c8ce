//! The way to a server, and what the commands do there alike.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use imageops::v1::{Job, JobState, Source, source};
use imageops_client::{Client, ConnectOptions, Connection, Identity, RetryPolicy, TlsOptions, Token};

use crate::args::{Global, token};
use crate::exit::Failure;
use crate::interrupt::{interrupted, wind_up};
use crate::output::note;
use crate::progress::Bar;

/// A person waits: a server that is not there is told of within seconds.
const RETRY: RetryPolicy = RetryPolicy {
    attempts_max: 5,
    first_pause: Duration::from_millis(200),
    pause_max: Duration::from_secs(5),
};

/// What the connection is encrypted with.
fn tls(global: &Global) -> Result<TlsOptions, Failure> {
    let read =
        |path: &PathBuf| std::fs::read(path).map_err(|error| Failure::io(path.display().to_string(), &error));
    let identity = match (&global.client_cert, &global.client_key) {
        (Some(certificate), Some(key)) => {
            Some(Identity { certificate_pem: read(certificate)?, key_pem: read(key)? })
        }
        _ => None,
    };
    Ok(TlsOptions { ca_pem: global.ca.as_ref().map(read).transpose()?, identity })
}

/// A client of the server that was named; `http://` may be left out, and `https://` where files for TLS are named.
pub(crate) fn connect(global: &Global) -> Result<Client, Failure> {
    let Some(address) = global.server() else {
        return Err(
            Failure::new("this needs a server").advise("give its address with --server or IMAGEOPS_SERVER")
        );
    };
    let tls = tls(global)?;
    let scheme = if tls.ca_pem.is_some() || tls.identity.is_some() { "https" } else { "http" };
    let uri = if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
    let token = token().as_deref().map(Token::new).transpose()?;
    let options = ConnectOptions { token, tls, ..ConnectOptions::default() };
    Ok(Client::new(Connection::connect_lazy(&uri, options)?).with_retry(RETRY))
}

/// What a name of the command line means at a server: `images/ID`, or a file below its image root.
pub(crate) fn source(name: &Path) -> Result<Source, Failure> {
    let name = text(name)?;
    let source = if name.starts_with("images/") && is_uuid(&name["images/".len()..]) {
        source::Source::Image(name)
    } else {
        source::Source::File(name)
    };
    Ok(Source { source: Some(source) })
}

/// A name as the wire carries it.
pub(crate) fn text(name: &Path) -> Result<String, Failure> {
    let name =
        name.to_str().ok_or_else(|| Failure::new(format!("{}: the name is not UTF-8", name.display())))?;
    Ok(name.to_owned())
}

fn is_uuid(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok()
}

/// The full name of a job that was given by name or by its id alone.
pub(crate) fn job_name(job: &str) -> String {
    if job.starts_with("jobs/") { job.to_owned() } else { format!("jobs/{job}") }
}

/// Makes a call that ends at once when the user interrupts.
pub(crate) async fn call<T, E: Into<Failure>>(
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    tokio::select! {
        answer = call => answer.map_err(Into::into),
        () = interrupted() => Err(Failure::interrupted()),
    }
}

/// Follows a job that this command started to its end. An interruption cancels it.
pub(crate) async fn run_job(client: &Client, job: Job) -> Result<Job, Failure> {
    let name = job.name.clone();
    let followed = tokio::select! {
        followed = follow(client, &name, |_| Ok(())) => followed,
        () = interrupted() => {
            wind_up(async {
                if let Err(error) = client.cancel_job(&name).await {
                    note(&format!("imageops: {name} could not be cancelled: {}", Failure::from(error)));
                }
            })
            .await;
            return Err(Failure::interrupted());
        }
    };
    let job = followed?;
    match job.state() {
        JobState::Succeeded => Ok(job),
        _ => Err(job_failure(&job)),
    }
}

/// Follows a job to its end, drawing its progress; `seen` is called with every change.
pub(crate) async fn follow(
    client: &Client,
    name: &str,
    mut seen: impl FnMut(&Job) -> Result<(), Failure>,
) -> Result<Job, Failure> {
    let bar = Bar::new();
    let mut watch = pin!(client.watch(name, 0));
    let mut last = None;
    while let Some(job) = watch.next().await {
        let job = job.inspect_err(|_| bar.clear())?;
        bar.show_job(&job);
        seen(&job).inspect_err(|_| bar.clear())?;
        last = Some(job);
    }
    bar.clear();
    last.ok_or_else(|| Failure::new(format!("{name}: the server told nothing of the job")))
}

/// Why a job ended without a result.
pub(crate) fn job_failure(job: &Job) -> Failure {
    match (&job.error, job.state()) {
        (Some(error), _) => {
            let mut failure = Failure::new(error.message.clone()).of(&job.name);
            failure.reason.clone_from(&error.reason);
            failure
        }
        (None, JobState::Cancelled) => Failure::new("the job was cancelled").of(&job.name),
        (None, _) => Failure::new("the job failed, and the server does not say why").of(&job.name),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_images_only_when_they_can_be() {
        let id = "images/6f9619ff-8b86-4011-b42d-00c04fc964ff";
        let of = |name: &str| source(Path::new(name)).unwrap().source.unwrap();
        assert_eq!(of(id), source::Source::Image(id.to_owned()));
        assert_eq!(of("images/disk.qcow2"), source::Source::File("images/disk.qcow2".to_owned()));
        assert_eq!(of("disk.qcow2"), source::Source::File("disk.qcow2".to_owned()));
        assert_eq!(job_name("x"), "jobs/x");
        assert_eq!(job_name("jobs/x"), "jobs/x");
    }
}
