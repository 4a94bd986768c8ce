//! What the statements of all databases share: filters of a fixed width, pages, rows that must be there.

use crate::{Error, Page, Result};

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
