//! `multipart/form-data` (RFC 7578), read piece by piece: nothing but the current piece is held, and the heads, the
//! number of parts and the text fields are bounded before they are read.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use memchr::memmem;
use percent_encoding::percent_decode_str;

use crate::leftover;

/// Most parts of a form.
const PARTS_MAX: usize = 32;
/// Longest head of a part, and longest text before the first part, in bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Longest text of a field in bytes: a property of an image with its name.
pub(crate) const TEXT_BYTES_MAX: usize = 68 << 10;
/// Most that a form has beside its file, in bytes.
pub(crate) const FORM_BYTES_MAX: u64 = (PARTS_MAX * (HEAD_BYTES_MAX + TEXT_BYTES_MAX)) as u64;
/// Longest boundary that RFC 2046 allows, in bytes.
const BOUNDARY_BYTES_MAX: usize = 70;

/// Why a form cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FormError {
    /// It is none, or breaks the format.
    #[error("the form is malformed: {0}")]
    Malformed(&'static str),
    /// A bound is passed.
    #[error("the form is too large: {0}")]
    TooLarge(&'static str),
    /// The client went silent or away.
    #[error("the form did not come whole")]
    Broken,
}

/// Head of a part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Name of the field.
    pub(crate) name: String,
    /// Name of the file; absent for text fields.
    pub(crate) file_name: Option<String>,
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter.
    Preamble,
    /// In the bytes of a part.
    Part,
    /// Behind a delimiter.
    Delimiter,
    /// Behind the last one.
    End,
}

/// A form on its way in.
pub(crate) struct Multipart {
    body: Body,
    buffer: BytesMut,
    delimiter: Vec<u8>,
    place: Place,
    parts: usize,
}

impl Multipart {
    /// Reads the form that `content_type` announces. A body that can be none is dismissed.
    pub(crate) fn new(content_type: &str, body: Body) -> Result<Self, FormError> {
        match delimiter(content_type) {
            // A line feed before the first delimiter makes it look like the others.
            Ok(delimiter) => {
                let buffer = BytesMut::from("\r\n");
                Ok(Self { body, buffer, delimiter, place: Place::Preamble, parts: 0 })
            }
            Err(error) => {
                leftover::dismiss(body);
                Err(error)
            }
        }
    }

    /// The next part, past whatever is left of the current one. `None`: the form has ended.
    pub(crate) async fn next_part(&mut self) -> Result<Option<Part>, FormError> {
        match self.place {
            Place::End => return Ok(None),
            Place::Preamble => self.skip_preamble().await?,
            Place::Part => while self.chunk().await?.is_some() {},
            Place::Delimiter => {}
        }
        self.fill_to(2).await?;
        if self.buffer.starts_with(b"--") {
            self.place = Place::End;
            return Ok(None);
        }
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(FormError::TooLarge("more than 32 parts"));
        }
        let head = self.head().await?;
        self.place = Place::Part;
        parse_head(&head).map(Some)
    }

    /// The next bytes of the current part. `None`: it has ended.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, FormError> {
        if self.place != Place::Part {
            return Ok(None);
        }
        loop {
            match memmem::find(&self.buffer, &self.delimiter) {
                Some(0) => {
                    let _ = self.buffer.split_to(self.delimiter.len());
                    self.place = Place::Delimiter;
                    return Ok(None);
                }
                Some(end) => return Ok(Some(self.buffer.split_to(end).freeze())),
                None => {}
            }
            // The tail may be the beginning of a delimiter.
            let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
            if sure > 0 {
                return Ok(Some(self.buffer.split_to(sure).freeze()));
            }
            self.fill().await?;
        }
    }

    /// What is left of the body, for who wants no more parts of it.
    pub(crate) fn into_body(self) -> Body {
        self.body
    }

    /// The current part as a text of at most `bytes_max` bytes.
    pub(crate) async fn text(&mut self, bytes_max: usize) -> Result<String, FormError> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if text.len() + chunk.len() > bytes_max {
                return Err(FormError::TooLarge("a text field is too long"));
            }
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text).map_err(|_| FormError::Malformed("a text field is not UTF-8"))
    }

    async fn skip_preamble(&mut self) -> Result<(), FormError> {
        loop {
            if let Some(start) = memmem::find(&self.buffer, &self.delimiter) {
                let _ = self.buffer.split_to(start + self.delimiter.len());
                return Ok(());
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(FormError::Malformed("no part begins"));
            }
            self.fill().await?;
        }
    }

    /// The header lines of a part, without the line feeds around them.
    async fn head(&mut self) -> Result<Bytes, FormError> {
        loop {
            let blanks = self.buffer.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            let line = &self.buffer[blanks..];
            if line.len() >= 2 && !line.starts_with(b"\r\n") {
                return Err(FormError::Malformed("a delimiter does not end its line"));
            }
            if let Some(length) = memmem::find(line, b"\r\n\r\n") {
                let mut head = self.buffer.split_to(blanks + length + 4).freeze();
                let _ = head.split_to(blanks);
                return Ok(head.slice(2.min(length)..length));
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(FormError::TooLarge("the head of a part is too long"));
            }
            self.fill().await?;
        }
    }

    async fn fill_to(&mut self, length: usize) -> Result<(), FormError> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(())
    }

    /// Takes in what the client sends next; a form that ends before its last delimiter is broken.
    async fn fill(&mut self) -> Result<(), FormError> {
        match self.body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(())
            }
            Some(Err(_)) => Err(FormError::Broken),
            None => Err(FormError::Malformed("it ends before its last delimiter")),
        }
    }
}

/// What stands between the parts of the form that `content_type` announces.
fn delimiter(content_type: &str) -> Result<Vec<u8>, FormError> {
    let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return Err(FormError::Malformed("it is not multipart/form-data"));
    }
    let boundary = parameter(parameters, "boundary").ok_or(FormError::Malformed("it names no boundary"))?;
    if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES_MAX {
        return Err(FormError::Malformed("its boundary cannot be"));
    }
    Ok([b"\r\n--", boundary.as_bytes()].concat())
}

fn parse_head(head: &[u8]) -> Result<Part, FormError> {
    let head = String::from_utf8_lossy(head);
    let disposition = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
        .map(|(_, value)| value)
        .ok_or(FormError::Malformed("a part has no Content-Disposition"))?;
    let (kind, parameters) = disposition.split_once(';').unwrap_or((disposition, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(FormError::Malformed("a part is no form field"));
    }
    let name = parameter(parameters, "name").ok_or(FormError::Malformed("a field has no name"))?;
    // RFC 7578 does without the encoded form; some clients send it all the same for names that are not ASCII.
    let file_name = parameter(parameters, "filename")
        .or_else(|| parameter(parameters, "filename*").as_deref().and_then(decode_extended));
    Ok(Part { name, file_name })
}

/// A text in the form of RFC 8187, `UTF-8''na%C3%AFve`; other character sets are not read.
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    charset.eq_ignore_ascii_case("utf-8").then(|| decoded.into_owned())
}

/// A parameter of a header: `key=value` or `key="value"`, where a backslash takes a quote or a backslash literally and is
/// itself before anything else, since old browsers send whole Windows paths.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (key, after) = rest.split_once('=')?;
        let (value, next) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, next) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), next)
            }
        };
        if key.trim_matches([' ', '\t', ';']).eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = next;
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, literal)) => value.push(literal),
                None => value.push('\\'),
            },
            _ => value.push(character),
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn form(text: &str, piece_bytes: usize) -> Multipart {
        let pieces: Vec<_> = text
            .as_bytes()
            .chunks(piece_bytes)
            .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
            .collect();
        let body = Body::from_stream(futures::stream::iter(pieces));
        Multipart::new("multipart/form-data; charset=utf-8; boundary=\"X\"", body).unwrap()
    }

    const FORM: &str = "preamble\r\n--X\r\nContent-Disposition: form-data; name=\"display_name\"\r\n\
        Content-Type: text/plain\r\n\r\nh\u{e9}llo\r\n--X \r\ncontent-disposition:form-data; \
        filename=\"C:\\tmp\\a \\\"b\\\".img\"; name=file\r\n\r\nbytes\r\n--Y\r\n--\r\n--X\r\n\
        Content-Disposition: form-data; name=\"empty\"\r\n\r\n\r\n--X--\r\nepilogue";

    #[tokio::test]
    async fn parts_come_whole_however_the_bytes_are_cut() {
        for piece_bytes in [1, 2, 3, 7, 64, 4096] {
            let mut form = form(FORM, piece_bytes);
            let part = form.next_part().await.unwrap().unwrap();
            assert_eq!(part, Part { name: "display_name".to_owned(), file_name: None });
            assert_eq!(form.text(100).await.unwrap(), "h\u{e9}llo");
            let part = form.next_part().await.unwrap().unwrap();
            assert_eq!(part.file_name.as_deref(), Some("C:\\tmp\\a \"b\".img"));
            assert_eq!(part.name, "file");
            assert_eq!(form.text(100).await.unwrap(), "bytes\r\n--Y\r\n--");
            assert_eq!(form.next_part().await.unwrap().unwrap().name, "empty");
            assert_eq!(form.next_part().await.unwrap(), None);
            assert_eq!(form.next_part().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_part_that_is_not_read_is_passed_over() {
        let mut form = form(FORM, 5);
        for name in ["display_name", "file", "empty"] {
            assert_eq!(form.next_part().await.unwrap().unwrap().name, name);
        }
        assert_eq!(form.next_part().await.unwrap(), None);
    }

    #[tokio::test]
    async fn bounds_and_broken_forms_are_refused() {
        let field = "--X\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n";
        let mut many = form(&(field.repeat(33) + "--X--"), 100);
        for _ in 0..32 {
            many.next_part().await.unwrap().unwrap();
        }
        assert!(matches!(many.next_part().await, Err(FormError::TooLarge(_))));

        let endless = format!("--X\r\nA: {}", "a".repeat(20_000));
        assert!(matches!(form(&endless, 1000).next_part().await, Err(FormError::TooLarge(_))));
        let long = "x".repeat(20_000);
        for text in
            ["", "--X", "--Y\r\n", "--Xjunk\r\n\r\n", "--X\r\n\r\n\r\n--X--", "--X\r\nA: b\r\n\r\n", &long]
        {
            assert!(matches!(form(text, 3).next_part().await, Err(FormError::Malformed(_))), "{text:.20}");
        }
        let mut cut = form("--X\r\nContent-Disposition: form-data; name=a\r\n\r\nabc\r\n--", 9);
        cut.next_part().await.unwrap();
        assert!(cut.text(10).await.is_err());
        let mut wide = form(FORM, 9);
        wide.next_part().await.unwrap();
        assert!(matches!(wide.text(3).await, Err(FormError::TooLarge(_))));
    }

    #[test]
    fn names_of_files_may_be_encoded() {
        let name = |parameters: &str| {
            let head = format!("Content-Disposition: form-data; name=\"file\"; {parameters}");
            parse_head(head.as_bytes()).unwrap().file_name
        };
        assert_eq!(name("filename*=UTF-8'en'%e6%98%a0.img").as_deref(), Some("\u{6620}.img"));
        assert_eq!(name("filename=a.img; filename*=utf-8''b.img").as_deref(), Some("a.img"));
        assert_eq!(name("filename=\"\u{6620}.img\"").as_deref(), Some("\u{6620}.img"));
        for unreadable in ["filename*=latin1''a", "filename*=utf-8''%ff", "filename*=plain"] {
            assert_eq!(name(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn boundaries_are_needed() {
        for bad in
            ["multipart/form-data", "multipart/mixed; boundary=X", "multipart/form-data; boundary=\"\"", ""]
        {
            assert!(Multipart::new(bad, Body::empty()).is_err(), "{bad}");
        }
    }
}
