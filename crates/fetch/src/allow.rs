//! What an operator lets through the gate beside the public internet.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::address::is_within;

/// Bits of an IPv6 address before the IPv4 address that it holds.
const MAPPED_BITS: u8 = 96;

/// A host or a network that is allowed although it lies inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A host's name, lower case, without a trailing dot: whatever it resolves to.
    Host(String),
    /// A network: whichever name led there.
    Network {
        /// Any address of it.
        address: IpAddr,
        /// Bits that count.
        length: u8,
    },
}

/// A text that names no host and no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no name of a host, no address, and no network like 10.1.0.0/16")]
pub struct InvalidAllowed;

impl FromStr for Allowed {
    type Err = InvalidAllowed;

    fn from_str(text: &str) -> Result<Self, InvalidAllowed> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| InvalidAllowed)?)),
            None => (text, None),
        };
        if let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let length = length.unwrap_or(bits);
            return if length <= bits { Ok(Self::network(address, length)) } else { Err(InvalidAllowed) };
        }
        // As the gate reads hosts, so that both spell them alike.
        match (length, url::Host::parse(text)) {
            (None, Ok(url::Host::Domain(name))) => Ok(Self::Host(without_dot(&name).to_owned())),
            _ => Err(InvalidAllowed),
        }
    }
}

impl Allowed {
    /// A network in the form in which addresses are compared: IPv4 inside IPv6 is IPv4.
    fn network(address: IpAddr, length: u8) -> Self {
        match (address.to_canonical(), length.checked_sub(MAPPED_BITS)) {
            (mapped @ IpAddr::V4(_), Some(length)) if address.is_ipv6() => {
                Self::Network { address: mapped, length }
            }
            // Wider than all of IPv4, it is a network of IPv6 like any other.
            _ => Self::Network { address, length },
        }
    }

    pub(crate) fn is_host(&self, name: &str) -> bool {
        matches!(self, Self::Host(allowed) if allowed == name)
    }

    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Self::Network { address: IpAddr::V4(network), length }, IpAddr::V4(address)) => {
                is_within(u32::from(address).into(), u32::from(*network).into(), *length, 32)
            }
            (Self::Network { address: IpAddr::V6(network), length }, IpAddr::V6(address)) => {
                is_within(address.into(), (*network).into(), *length, 128)
            }
            _ => false,
        }
    }
}

/// A name without the dot that makes it absolute.
pub(crate) fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Ports that sources are reached at: one, or a range like `8000-8100`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(RangeInclusive<u16>);

/// A text that names no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no port and no range of ports like 8000-8100")]
pub struct InvalidPorts;

impl Ports {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self(port..=port)
    }

    pub(crate) fn hold(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl FromStr for Ports {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let read = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or(InvalidPorts);
        let (first, last) = (read(first)?, read(last)?);
        if first <= last { Ok(Self(first..=last)) } else { Err(InvalidPorts) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hosts_addresses_and_networks_are_read() {
        let allowed = |text: &str| text.parse::<Allowed>();
        assert!(allowed("Mirror.Example.").unwrap().is_host("mirror.example"));
        assert!(!allowed("mirror.example").unwrap().is_host("evil.mirror.example"));
        let network = allowed("10.1.0.0/16").unwrap();
        assert!(network.holds("10.1.255.1".parse().unwrap()));
        assert!(network.holds("::ffff:10.1.2.3".parse().unwrap()), "the same address in another form");
        assert!(!network.holds("10.2.0.1".parse().unwrap()));
        assert!(allowed("fd00::/8").unwrap().holds("fd12::1".parse().unwrap()));
        assert!(!allowed("fd00::/8").unwrap().holds("10.0.0.1".parse().unwrap()));
        assert!(allowed("127.0.0.1").unwrap().holds("127.0.0.1".parse().unwrap()));
        assert!(!allowed("127.0.0.1").unwrap().holds("127.0.0.2".parse().unwrap()));
        assert!(allowed("::/0").unwrap().holds("fe80::1".parse().unwrap()));
        for (mapped, plain) in [
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("[::ffff:a01:203]", "10.1.2.3"),
            ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(allowed(mapped), allowed(plain), "{mapped}");
        }
        assert!(allowed("::ffff:10.1.2.3").unwrap().holds("10.1.2.3".parse().unwrap()));
        assert!(!allowed("::ffff:10.1.2.3").unwrap().holds("10.1.2.4".parse().unwrap()));
        assert!(!allowed("::ffff:0:0/95").unwrap().holds("10.1.2.3".parse().unwrap()));
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "::ffff:10.0.0.0/129",
            "10.0.0.0/x",
            "a b",
            "host/8",
            "http://host/",
        ] {
            assert_eq!(allowed(bad), Err(InvalidAllowed), "{bad}");
        }
    }

    #[test]
    fn ports_are_read() {
        let ports = |text: &str| text.parse::<Ports>();
        assert!(ports("8000-8100").unwrap().hold(8100));
        assert!(!ports("8000-8100").unwrap().hold(8101));
        assert!(ports("80").unwrap().hold(80));
        for bad in ["", "0", "70000", "5-4", "a", "-1"] {
            assert_eq!(ports(bad), Err(InvalidPorts), "{bad}");
        }
    }
}
