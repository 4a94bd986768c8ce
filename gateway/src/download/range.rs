//! Which bytes a download asks for (RFC 9110, sections 13 and 14).

use axum::http::{HeaderMap, header};

/// What part of the image is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// These bytes.
    Part {
        /// First byte.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
    },
    /// Bytes that the image does not have.
    Unsatisfiable,
}

/// Marks of the bytes that conditions are compared with.
pub(super) struct Validators<'a> {
    /// Strong entity tag, with its quotes.
    pub(super) etag: &'a str,
    /// `Last-Modified` as it is sent.
    pub(super) last_modified: Option<&'a str>,
}

/// Whether the caller has these bytes already.
pub(super) fn not_modified(headers: &HeaderMap, validators: &Validators<'_>) -> bool {
    let mut tags =
        headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).peekable();
    if tags.peek().is_some() {
        return tags.any(|list| {
            list.split(',')
                .map(str::trim)
                .any(|tag| tag == "*" || tag.trim_start_matches("W/") == validators.etag)
        });
    }
    // Compared as a text: a date that we never sent proves nothing about bytes that never change.
    let since = headers.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    since.is_some() && since == validators.last_modified
}

/// Whether the caller insists on other bytes. It comes before [`not_modified`], and that before [`wanted`] (section 13.2.2).
pub(super) fn precondition_failed(headers: &HeaderMap, validators: &Validators<'_>) -> bool {
    let mut tags =
        headers.get_all(header::IF_MATCH).iter().filter_map(|value| value.to_str().ok()).peekable();
    if tags.peek().is_some() {
        return !tags
            .any(|list| list.split(',').map(str::trim).any(|tag| tag == "*" || tag == validators.etag));
    }
    // A date counts only where there is no tag; one that cannot be read is none.
    let mut dates = headers.get_all(header::IF_UNMODIFIED_SINCE).iter();
    let (Some(since), None) = (dates.next(), dates.next()) else { return false };
    let date = |text: Option<&str>| text.and_then(|text| httpdate::parse_http_date(text.trim()).ok());
    match (date(validators.last_modified), date(since.to_str().ok())) {
        (Some(last_modified), Some(since)) => last_modified > since,
        _ => false,
    }
}

/// The part that the headers ask for, of an image of `size_bytes`. Several ranges, other units and what cannot be read
/// are answered with the whole, as the specification allows.
pub(super) fn wanted(headers: &HeaderMap, size_bytes: u64, validators: &Validators<'_>) -> Wanted {
    let mut ranges = headers.get_all(header::RANGE).iter();
    let (Some(range), None) = (ranges.next(), ranges.next()) else { return Wanted::Whole };
    if let Some(condition) = headers.get(header::IF_RANGE) {
        let condition = condition.to_str().unwrap_or_default();
        if condition != validators.etag && Some(condition) != validators.last_modified {
            return Wanted::Whole;
        }
    }
    range.to_str().ok().and_then(|range| parse(range, size_bytes)).unwrap_or(Wanted::Whole)
}

fn parse(range: &str, size_bytes: u64) -> Option<Wanted> {
    let (unit, set) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    if first.is_empty() {
        let suffix_bytes = number(last)?.min(size_bytes);
        return Some(part(size_bytes - suffix_bytes, suffix_bytes));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    if first >= size_bytes {
        return Some(Wanted::Unsatisfiable);
    }
    Some(part(first, last.min(size_bytes - 1) - first + 1))
}

fn part(offset_bytes: u64, length_bytes: u64) -> Wanted {
    if length_bytes == 0 { Wanted::Unsatisfiable } else { Wanted::Part { offset_bytes, length_bytes } }
}

/// Digits; a number past all sizes counts as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const VALIDATORS: Validators<'_> =
        Validators { etag: "\"abc\"", last_modified: Some("Sat, 21 Nov 2026 02:00:00 GMT") };

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn single_ranges_and_suffixes_are_cut_at_the_end() {
        let part = |offset_bytes, length_bytes| Wanted::Part { offset_bytes, length_bytes };
        for (range, want) in [
            ("bytes=0-3", part(0, 4)),
            ("bytes=0-", part(0, 100)),
            ("bytes=99-", part(99, 1)),
            ("bytes=90-1000", part(90, 10)),
            ("bytes=0-99999999999999999999999", part(0, 100)),
            ("bytes=-5", part(95, 5)),
            ("bytes=-500", part(0, 100)),
            ("BYTES=1-1", part(1, 1)),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,3-4", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("items=0-3", Wanted::Whole),
            ("0-3", Wanted::Whole),
        ] {
            assert_eq!(wanted(&headers(&[(header::RANGE, range)]), 100, &VALIDATORS), want, "{range}");
        }
        assert_eq!(wanted(&headers(&[(header::RANGE, "bytes=-5")]), 0, &VALIDATORS), Wanted::Unsatisfiable);
    }

    #[test]
    fn a_range_holds_only_while_its_condition_does() {
        let ask = |condition| {
            let headers = headers(&[(header::RANGE, "bytes=0-0"), (header::IF_RANGE, condition)]);
            wanted(&headers, 100, &VALIDATORS) != Wanted::Whole
        };
        assert!(ask("\"abc\"") && ask("Sat, 21 Nov 2026 02:00:00 GMT"));
        assert!(!ask("\"other\"") && !ask("W/\"abc\"") && !ask("Sat, 21 Nov 2026 02:00:01 GMT"));
    }

    #[test]
    fn known_tags_need_no_bytes_and_foreign_ones_get_none() {
        for list in ["\"abc\"", "\"x\", W/\"abc\"", "*"] {
            assert!(not_modified(&headers(&[(header::IF_NONE_MATCH, list)]), &VALIDATORS), "{list}");
        }
        assert!(!not_modified(&headers(&[(header::IF_NONE_MATCH, "\"x\"")]), &VALIDATORS));
        assert!(!not_modified(&HeaderMap::new(), &VALIDATORS));
        assert!(precondition_failed(&headers(&[(header::IF_MATCH, "\"x\"")]), &VALIDATORS));
        assert!(!precondition_failed(&headers(&[(header::IF_MATCH, "\"abc\"")]), &VALIDATORS));
    }

    #[test]
    fn bytes_that_came_later_are_not_those_that_are_meant() {
        for (since, failed) in [
            ("Sat, 21 Nov 2026 01:59:59 GMT", true),
            ("Sat, 21 Nov 2026 02:00:00 GMT", false),
            ("Sat, 21 Nov 2026 02:00:01 GMT", false),
            ("Saturday, 21-Nov-26 01:59:59 GMT", true),
            ("Sat Nov 21 01:59:59 2026", true),
            ("2026-11-21", false),
            ("", false),
        ] {
            let sent = headers(&[(header::IF_UNMODIFIED_SINCE, since)]);
            assert_eq!(precondition_failed(&sent, &VALIDATORS), failed, "{since}");
            assert!(!precondition_failed(&sent, &Validators { last_modified: None, ..VALIDATORS }));
            let tagged = headers(&[(header::IF_UNMODIFIED_SINCE, since), (header::IF_MATCH, "\"abc\"")]);
            assert!(!precondition_failed(&tagged, &VALIDATORS), "a tag alone counts");
        }
    }
}
