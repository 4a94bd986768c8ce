//! Pages of lists: sizes, and tokens that are bound to their filters.

use imageops_catalogue::{Cursor, Page};
use imageops_model::Micros;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::failure::{Failure, Result};

const DEFAULT_SIZE: u32 = 100;
const SIZE_MAX: u32 = 1000;

/// The page that a request asks for; one row more is read, to know whether another page follows.
pub(super) fn page(size: u32, token: &str, filter: &str) -> Result<Page> {
    let limit = if size == 0 { DEFAULT_SIZE } else { size.min(SIZE_MAX) };
    let after = if token.is_empty() { None } else { Some(read_token(token, filter)?) };
    Ok(Page { limit: limit + 1, after })
}

/// Cuts the extra row off and makes the token of the next page.
pub(super) fn cut<T>(rows: &mut Vec<T>, page: &Page, filter: &str, cursor: impl Fn(&T) -> Cursor) -> String {
    let limit = page.limit as usize - 1;
    if rows.len() <= limit {
        return String::new();
    }
    rows.truncate(limit);
    rows.last().map(|row| write_token(cursor(row), filter)).unwrap_or_default()
}

fn bind(filter: &str) -> String {
    hex::encode(&Sha256::digest(filter.as_bytes())[..4])
}

fn write_token(cursor: Cursor, filter: &str) -> String {
    format!("{}-{:x}-{}", bind(filter), cursor.create_time.0, cursor.id.simple())
}

fn read_token(token: &str, filter: &str) -> Result<Cursor> {
    let parts: Vec<_> = token.split('-').collect();
    if let [bound, time, id] = parts.as_slice()
        && *bound == bind(filter)
        && let Ok(time) = i64::from_str_radix(time, 16)
        && let Ok(id) = Uuid::try_parse(id)
    {
        return Ok(Cursor { create_time: Micros(time), id });
    }
    Err(Failure::invalid(
        "page_token",
        "take the `next_page_token` of the page before, with the same filters",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_bound_to_its_filter() {
        let cursor = Cursor { create_time: Micros(1_700_000_000_000_000), id: Uuid::from_u128(5) };
        let token = write_token(cursor, "states=1");
        assert_eq!(read_token(&token, "states=1"), Ok(cursor));
        assert!(read_token(&token, "states=2").is_err());
        for wrong in ["", "x", "--", "a-b-c", "00000000-zz-0"] {
            assert!(read_token(wrong, "states=1").is_err(), "{wrong}");
        }
    }
}
