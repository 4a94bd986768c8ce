//! Rows, pages and filters, as callers ask for them and as the statements of all databases take them.

use imageops_model::Micros;
use uuid::Uuid;

use crate::{Error, Result};

/// A row of the catalogue, with whether this call made it.
#[derive(Clone, Debug, PartialEq)]
pub enum Created<T> {
    /// Made now.
    New(T),
    /// The same request was made before; this is its row as it is now.
    Existing(T),
}

/// Which rows of a list are wanted, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// At most so many, 1 to 1,000.
    pub limit: u32,
    /// Only rows behind this one.
    pub after: Option<Cursor>,
}

/// The place of a row in a list: rows are ordered by creation time, then id, both descending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Creation time of the row.
    pub create_time: Micros,
    /// Id of the row.
    pub id: Uuid,
}

/// The values of a filter as the fixed number of placeholders that a constant statement has: the wanted ones, the last
/// repeated; all of them when none is named.
pub(crate) fn filter<const N: usize, T: Copy + PartialEq>(
    wanted: &[T],
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> [&'static str; N] {
    let mut chosen = all.iter().filter(|value| wanted.is_empty() || wanted.contains(value));
    let mut last = "";
    std::array::from_fn(|_| {
        last = chosen.next().map_or(last, |value| name(*value));
        last
    })
}

/// A page as statements take it: rows behind `(create_time, id)`, at most `limit`.
pub(crate) struct Slice {
    pub(crate) create_time: i64,
    pub(crate) id: String,
    pub(crate) limit: i64,
}

impl From<Page> for Slice {
    fn from(page: Page) -> Self {
        let limit = i64::from(page.limit.clamp(1, 1_000));
        match page.after {
            Some(cursor) => {
                Self { create_time: cursor.create_time.0, id: crate::rows::write_uuid(cursor.id), limit }
            }
            // Behind every row that there can be: no id has a letter above f.
            None => Self { create_time: i64::MAX, id: "g".to_owned(), limit },
        }
    }
}

/// Answers that `what` is not there.
pub(crate) fn found<T>(row: Option<T>, what: &'static str) -> Result<T> {
    row.ok_or(Error::NotFound { what })
}
