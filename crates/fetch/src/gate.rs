//! The URL gate: whether a URL may be fetched, and which addresses it stands for (SEC-35).
//!
//! The text is read by the `url` crate, as browsers do: decimal, octal, hexadecimal and short forms of addresses, percent
//! signs and look-alike characters in hosts are all one normal form before anything is judged. Names are judged by what
//! they resolve to, every address of it, and the connection goes to one of these.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use url::{Host, Url};

use crate::address::is_public;
use crate::allow::{Allowed, Ports, without_dot};
use crate::error::{Error, Result};
use crate::resolve::Resolver;

/// Longest URL.
const URL_BYTES_MAX: usize = 2_048;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What may be fetched.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whether `http` is taken beside `https`.
    pub http: bool,
    /// Ports that sources are reached at.
    pub ports: Vec<Ports>,
    /// Hosts and networks inside that are allowed.
    pub allowed: Vec<Allowed>,
}

impl Default for Policy {
    /// Both schemes, ports 80 and 443, nothing inside.
    fn default() -> Self {
        Self { http: true, ports: vec![Ports::one(80), Ports::one(443)], allowed: Vec::new() }
    }
}

/// The gate.
#[derive(Clone)]
pub struct Gate {
    policy: Arc<Policy>,
    resolver: Arc<dyn Resolver>,
}

/// A URL that the gate let through, with the addresses that were judged. Nothing else can be connected to.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub(crate) url: Url,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Admitted {
    /// What the host was found to be, with the port.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Gate {
    /// A gate with its own eyes on names.
    pub fn new(policy: Policy, resolver: Arc<dyn Resolver>) -> Self {
        Self { policy: Arc::new(policy), resolver }
    }

    /// Reads a URL and judges all of it that can be judged without the network.
    pub fn read(&self, text: &str) -> Result<Url> {
        if text.len() > URL_BYTES_MAX {
            return Err(Error::Denied("the URL is longer than 2,048 bytes"));
        }
        // The reader would drop some of these without a word.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(Error::Denied("the URL has blanks, control characters or backslashes"));
        }
        let url = Url::parse(text).map_err(|_| Error::Denied("this is no URL"))?;
        // An empty user leaves no trace in what was read.
        if authority(text).contains('@') {
            return Err(Error::Denied("the URL holds a user or a password"));
        }
        self.judge(url)
    }

    /// Reads where an answer of `from` points to.
    pub(crate) fn read_redirect(&self, from: &Url, location: &str) -> Result<Url> {
        if location.len() > URL_BYTES_MAX || location.chars().any(|c| c.is_control() || c == '\\') {
            return Err(Error::Denied("the source redirects to what may not be fetched"));
        }
        let url = from.join(location).map_err(|_| Error::Invalid("the source redirects to no URL"))?;
        if from.scheme() == "https" && url.scheme() != "https" {
            return Err(Error::Denied("the source redirects from https to http"));
        }
        // Which of the rules it breaks would tell of the network behind the source.
        self.judge(url).map_err(|_| Error::Denied("the source redirects to what may not be fetched"))
    }

    fn judge(&self, mut url: Url) -> Result<Url> {
        match url.scheme() {
            "https" => {}
            "http" if self.policy.http => {}
            _ => return Err(Error::Denied("the scheme of the URL is not taken")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Denied("the URL holds a user or a password"));
        }
        let port = url.port_or_known_default().ok_or(Error::Denied("the URL has no port"))?;
        if !self.policy.ports.iter().any(|ports| ports.hold(port)) {
            return Err(Error::Denied("the port of the URL is not taken"));
        }
        if literal(&url).map_or(name(&url).is_empty(), |address| !self.is_taken(address)) {
            return Err(no_source());
        }
        url.set_fragment(None);
        Ok(url)
    }

    /// Resolves the host, once, and judges every address. One that is refused refuses the URL.
    pub async fn admit(&self, url: &Url, within: Duration) -> Result<Admitted> {
        let url = self.judge(url.clone())?;
        let port = url.port_or_known_default().ok_or_else(no_source)?;
        let addresses = match literal(&url) {
            Some(address) => vec![address],
            None => {
                let resolving = self.resolver.resolve(name(&url));
                match timeout(within, resolving).await {
                    Ok(Ok(addresses)) => addresses,
                    Ok(Err(_)) | Err(_) => return Err(Error::NoHost),
                }
            }
        };
        let is_allowed = self.policy.allowed.iter().any(|allowed| allowed.is_host(name(&url)));
        if addresses.is_empty() || !(is_allowed || addresses.iter().all(|address| self.is_taken(*address))) {
            return Err(Error::NoHost);
        }
        let mut addresses = in_turns(addresses);
        addresses.truncate(ADDRESSES_MAX);
        let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, port));
        Ok(Admitted { addresses: addresses.collect(), url })
    }

    fn is_taken(&self, address: IpAddr) -> bool {
        is_public(address) || self.policy.allowed.iter().any(|allowed| allowed.holds(address))
    }
}

fn no_source() -> Error {
    Error::Denied("the host of the URL is none that may be fetched from")
}

/// Lets the families take turns (RFC 8305, 4): there may be more addresses of one that leads nowhere than there is time for.
fn in_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first = addresses.first().is_some_and(|address| address.to_canonical().is_ipv4());
    let (mut these, mut those): (VecDeque<_>, VecDeque<_>) = addresses
        .into_iter()
        .map(|address| address.to_canonical())
        .partition(|address| address.is_ipv4() == first);
    let mut turns = Vec::new();
    while let Some(address) = these.pop_front() {
        turns.push(address);
        if !those.is_empty() {
            std::mem::swap(&mut these, &mut those);
        }
    }
    turns
}

/// What stands between the scheme and the path, as it was written.
fn authority(text: &str) -> &str {
    let rest = text.split_once(':').map_or("", |(_, rest)| rest).trim_start_matches('/');
    rest.split(['/', '?', '#']).next().unwrap_or("")
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// The host's name, without the dot that makes it absolute.
fn name(url: &Url) -> &str {
    without_dot(url.host_str().unwrap_or(""))
}
