//! Tenants and what a caller may do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Owner of images, uploads and jobs: an opaque string of 1 to 64 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenant(String);

/// A string that cannot be a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tenant has 1 to 64 visible ASCII characters")]
pub struct InvalidTenant;

impl Tenant {
    /// The tenant that is built in: everyone's while authentication is off, and the owner of the image root.
    pub const BUILT_IN: &'static str = "36c27e8ff05c4780bf6d2fa65700f22e";

    /// The tenant that is built in.
    pub fn built_in() -> Self {
        Self(Self::BUILT_IN.to_owned())
    }

    /// A tenant by its name.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidTenant> {
        let name = name.into();
        if (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(name))
        } else {
            Err(InvalidTenant)
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the tenant that is built in.
    pub fn is_built_in(&self) -> bool {
        self.0 == Self::BUILT_IN
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What a key allows. `Admin` includes all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Reads images, uploads and jobs.
    Read,
    /// Makes and changes them.
    Write,
    /// Deletes them.
    Delete,
    /// Everything, keys too.
    Admin,
}

impl Scope {
    /// All scopes, the weakest first.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Delete, Self::Admin];

    /// The name in key files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Admin => "admin",
        }
    }

    /// The scope of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_short_and_visible() {
        for name in ["a", Tenant::BUILT_IN, "../..", &"x".repeat(64)] {
            assert_eq!(Tenant::new(name).map(|tenant| tenant.to_string()), Ok(name.to_owned()));
        }
        for name in ["", " ", "a b", "a\n", "\0", "\u{e4}", &"x".repeat(65)] {
            assert_eq!(Tenant::new(name), Err(InvalidTenant), "{name:?}");
        }
        assert!(Tenant::built_in().is_built_in());
        assert!(Tenant::new(Tenant::BUILT_IN).is_ok_and(|tenant| tenant.is_built_in()));
    }

    #[test]
    fn scopes_read_back_from_their_names() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::parse("Admin"), None);
        assert!(Scope::ALL.is_sorted());
    }
}
