//! Pages of lists: sizes, and tokens that are bound to their filters.

use imageops_catalogue::{Cursor, ImageCursor, ImageOrder, ImagePage, ImageRow, Page, SortKey};
use imageops_model::Micros;
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::failure::{Failure, Result};

const DEFAULT_SIZE: u32 = 100;
const SIZE_MAX: u32 = 1000;
/// A page ends early once its messages have so many bytes: an answer has at most 4 MiB.
const PAGE_BYTES: usize = 2 << 20;

/// The page that a request asks for; one row more is read, to know whether another page follows.
pub(super) fn page(size: u32, token: &str, filter: &str) -> Result<Page> {
    let after = if token.is_empty() { None } else { Some(read_token(token, filter)?) };
    Ok(Page { limit: rows(size), after })
}

/// The same for images, which know several orders; the order is part of the filter.
pub(super) fn image_page(order: ImageOrder, size: u32, token: &str, filter: &str) -> Result<ImagePage> {
    let after = if token.is_empty() { None } else { Some(read_image_token(token, filter)?) };
    Ok(ImagePage { order, limit: rows(size), after })
}

fn rows(size: u32) -> u32 {
    if size == 0 { DEFAULT_SIZE + 1 } else { size.min(SIZE_MAX) + 1 }
}

/// A row with the message that it becomes.
pub(super) type Shown<R, M> = (R, M);

/// Rows with their messages.
pub(super) fn shown<R, M>(rows: Vec<R>, show: impl Fn(&R) -> M) -> Vec<Shown<R, M>> {
    rows.into_iter()
        .map(|row| {
            let message = show(&row);
            (row, message)
        })
        .collect()
}

/// The messages alone.
pub(super) fn messages<R, M>(rows: Vec<Shown<R, M>>) -> Vec<M> {
    rows.into_iter().map(|(_, message)| message).collect()
}

/// Cuts off what is too much for a page and makes the token of the next one.
pub(super) fn cut<R, M: Message>(
    rows: &mut Vec<Shown<R, M>>,
    page: &Page,
    filter: &str,
    cursor: impl Fn(&R) -> Cursor,
) -> String {
    cut_rows(rows, page.limit).map(|row| write_token(cursor(row), filter)).unwrap_or_default()
}

/// The same for images.
pub(super) fn cut_images<M: Message>(
    rows: &mut Vec<Shown<ImageRow, M>>,
    page: &ImagePage,
    filter: &str,
) -> String {
    cut_rows(rows, page.limit)
        .map(|row| write_image_token(&page.order.cursor(row), filter))
        .unwrap_or_default()
}

/// Cuts off the extra row, and what makes the page too long: the last row of the page, when another page follows.
fn cut_rows<R, M: Message>(rows: &mut Vec<Shown<R, M>>, limit: u32) -> Option<&R> {
    let mut page_bytes = 0;
    let fitting = rows.iter().take_while(|(_, message)| {
        let is_first = page_bytes == 0;
        page_bytes += message.encoded_len();
        is_first || page_bytes <= PAGE_BYTES
    });
    let kept = fitting.count().min(limit as usize - 1);
    if rows.len() <= kept {
        return None;
    }
    rows.truncate(kept);
    rows.last().map(|(row, _)| row)
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
    Err(wrong_token())
}

fn wrong_token() -> Failure {
    Failure::invalid("page_token", "take the `next_page_token` of the page before, with the same filters")
}

fn write_image_token(cursor: &ImageCursor, filter: &str) -> String {
    let key = match &cursor.key {
        SortKey::Number(number) => format!("n{number:x}"),
        SortKey::Text(text) => format!("t{}", hex::encode(text)),
    };
    format!("{}-{key}-{}", bind(filter), cursor.id.simple())
}

fn read_image_token(token: &str, filter: &str) -> Result<ImageCursor> {
    let parts: Vec<_> = token.split('-').collect();
    if let [bound, key, id] = parts.as_slice()
        && *bound == bind(filter)
        && let Some(key) = read_key(key)
        && let Ok(id) = Uuid::try_parse(id)
    {
        return Ok(ImageCursor { key, id });
    }
    Err(wrong_token())
}

fn read_key(text: &str) -> Option<SortKey> {
    match text.split_at_checked(1)? {
        ("n", number) => i64::from_str_radix(number, 16).ok().map(SortKey::Number),
        ("t", text) => String::from_utf8(hex::decode(text).ok()?).ok().map(SortKey::Text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_before_its_answer_is_too_long() {
        let text = |bytes: usize| ((), "x".repeat(bytes));
        let mut rows: Vec<_> = (0..5).map(|_| text(600 << 10)).collect();
        assert!(cut_rows(&mut rows, 6).is_some());
        assert_eq!(rows.len(), 3);
        let mut rows = vec![text(3 << 20), text(1)];
        assert!(cut_rows(&mut rows, 101).is_some(), "one row is always answered");
        assert_eq!(rows.len(), 1);
        let mut rows: Vec<_> = (0..3).map(text).collect();
        assert!(cut_rows(&mut rows, 4).is_none());
        assert!(cut_rows(&mut rows, 3).is_some());
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn a_token_is_bound_to_its_filter() {
        let cursor = Cursor { create_time: Micros(1_700_000_000_000_000), id: Uuid::from_u128(5) };
        let token = write_token(cursor, "states=1");
        assert_eq!(read_token(&token, "states=1"), Ok(cursor));
        assert!(read_token(&token, "states=2").is_err());
        for wrong in ["", "x", "--", "a-b-c", "00000000-zz-0"] {
            assert!(read_token(wrong, "states=1").is_err(), "{wrong}");
            assert!(read_image_token(wrong, "states=1").is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_of_images_hold_any_key() {
        for key in [
            SortKey::Number(1 << 62),
            SortKey::Text(String::new()),
            SortKey::Text("ä-\n\u{10ffff}".to_owned()),
        ] {
            let cursor = ImageCursor { key, id: Uuid::from_u128(5) };
            let token = write_image_token(&cursor, "order=1");
            assert_eq!(read_image_token(&token, "order=1"), Ok(cursor));
            assert!(read_image_token(&token, "order=2").is_err());
        }
        assert!(read_image_token(&format!("{}-tff-{}", bind("x"), Uuid::nil().simple()), "x").is_err());
    }
}
