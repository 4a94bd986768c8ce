//! Keys.

use imageops::v1;
use imageops_catalogue::{KeyProof, KeyRow};
use imageops_model::{Micros, Scope};
use pbjson_types::Timestamp;

use super::timestamp;
use crate::failure::{Failure, Result};

/// A key as it is at `now`.
pub(crate) fn key(row: &KeyRow, now: Micros) -> v1::Key {
    let state = match row.revoke_time {
        Some(_) => v1::KeyState::Revoked,
        None if row.is_expired(now) => v1::KeyState::Expired,
        None => v1::KeyState::Active,
    };
    v1::Key {
        name: row.id.to_string(),
        tenant: row.tenant.to_string(),
        scopes: row.scopes.iter().map(|scope| show_scope(*scope).into()).collect(),
        display_name: row.label.as_str().to_owned(),
        state: state.into(),
        certificate_sha256: match row.proof {
            KeyProof::Certificate => hex::encode(row.proof_sha256),
            // That of a secret is nobody's business.
            KeyProof::Secret => String::new(),
        },
        create_time: Some(timestamp(row.create_time)),
        expire_time: row.expire_time.map(timestamp),
        revoke_time: row.revoke_time.map(timestamp),
    }
}

fn show_scope(scope: Scope) -> v1::KeyScope {
    match scope {
        Scope::Read => v1::KeyScope::Read,
        Scope::Write => v1::KeyScope::Write,
        Scope::Delete => v1::KeyScope::Delete,
        Scope::Admin => v1::KeyScope::Admin,
    }
}

/// Scopes, the weakest first, each once.
pub(crate) fn read_scopes(values: &[i32]) -> Result<Vec<Scope>> {
    let mut scopes = values
        .iter()
        .map(|value| match v1::KeyScope::try_from(*value) {
            Ok(v1::KeyScope::Read) => Ok(Scope::Read),
            Ok(v1::KeyScope::Write) => Ok(Scope::Write),
            Ok(v1::KeyScope::Delete) => Ok(Scope::Delete),
            Ok(v1::KeyScope::Admin) => Ok(Scope::Admin),
            _ => Err(Failure::invalid("scopes", "takes READ, WRITE, DELETE and ADMIN")),
        })
        .collect::<Result<Vec<_>>>()?;
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Failure::invalid("scopes", "must name what the key allows"));
    }
    Ok(scopes)
}

/// A time that lies behind `now`.
pub(crate) fn read_expire_time(time: Option<Timestamp>, now: Micros) -> Result<Option<Micros>> {
    let Some(time) = time else { return Ok(None) };
    let micros = time
        .seconds
        .checked_mul(1_000_000)
        .and_then(|micros| micros.checked_add(i64::from(time.nanos.clamp(0, 999_999_999)) / 1_000));
    match micros {
        Some(micros) if micros > now.0 => Ok(Some(Micros(micros))),
        _ => Err(Failure::invalid("expire_time", "must lie in the future")),
    }
}

/// A SHA-256 in hexadecimal digits; `None` where there is none.
pub(crate) fn read_sha256(field: &'static str, text: &str) -> Result<Option<[u8; 32]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut digest = [0; 32];
    match hex::decode_to_slice(text, &mut digest) {
        Ok(()) => Ok(Some(digest)),
        Err(_) => Err(Failure::invalid(field, "must have 64 hexadecimal digits")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_named_and_each_once() {
        assert_eq!(read_scopes(&[4, 1, 1]), Ok(vec![Scope::Read, Scope::Admin]));
        for wrong in [&[][..], &[0], &[5], &[1, -1]] {
            assert!(read_scopes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_ends_in_the_future() {
        let at = |seconds, nanos| read_expire_time(Some(Timestamp { seconds, nanos }), Micros(5_000_000));
        assert_eq!(at(5, 1_000), Ok(Some(Micros(5_000_001))));
        for (seconds, nanos) in [(5, 0), (5, 999), (4, 999_999_999), (-1, 0), (i64::MAX, 0), (i64::MIN, 0)] {
            assert!(at(seconds, nanos).is_err(), "{seconds}.{nanos}");
        }
        assert_eq!(read_expire_time(None, Micros(0)), Ok(None));
    }

    #[test]
    fn a_digest_has_64_digits() {
        assert_eq!(read_sha256("d", &"Ab".repeat(32)), Ok(Some([0xab; 32])));
        assert_eq!(read_sha256("d", ""), Ok(None));
        for wrong in ["a", &"a".repeat(63), &"a".repeat(66), &"g".repeat(64), &"ab:".repeat(32)] {
            assert!(read_sha256("d", wrong).is_err(), "{wrong}");
        }
    }
}
