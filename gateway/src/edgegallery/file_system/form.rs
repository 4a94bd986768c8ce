//! Forms of the file-system service: fields of the query and of the body, and a file somewhere among them.

use axum::body::Body;
use axum::http::{HeaderMap, Uri};
use bytes::Bytes;

use crate::leftover;
use crate::multipart::{FormError, Multipart};
use crate::v1::content_type;

/// The fields that the service knows. Others are passed over, as it did.
const KNOWN: [&str; 4] = ["identifier", "filename", "userId", "priority"];
/// Longest text field in bytes; the longest that means anything has 255 characters.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Longest body of a form without files, in bytes.
const ENCODED_BYTES_MAX: usize = 64 << 10;

/// A form on its way in.
pub(super) struct Form {
    query: Vec<(String, String)>,
    sent: Vec<(String, String)>,
    rest: Rest,
}

/// What is still to be read of the body.
enum Rest {
    /// Parts.
    Parts(Multipart),
    /// Something that is no form, or a form that was read whole.
    Body(Body),
}

impl Form {
    /// Begins to read. Bodies that are no form count as forms without a field.
    pub(super) async fn open(uri: &Uri, headers: &HeaderMap, body: Body) -> Result<Self, FormError> {
        let query = known_pairs(uri.query().unwrap_or_default().as_bytes());
        let announced = content_type(headers);
        let essence = announced.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut sent = Vec::new();
        let rest = match essence.as_str() {
            "multipart/form-data" => Rest::Parts(Multipart::new(announced, body)?),
            "application/x-www-form-urlencoded" => {
                let text = axum::body::to_bytes(body, ENCODED_BYTES_MAX)
                    .await
                    .map_err(|_| FormError::TooLarge("a form without files has at most 64 KiB"))?;
                sent = known_pairs(&text);
                Rest::Body(Body::empty())
            }
            _ => Rest::Body(body),
        };
        Ok(Self { query, sent, rest })
    }

    /// Reads on to the file of this field, past all else, and answers with its name. `None`: the form has none.
    pub(super) async fn file(&mut self, field: &str) -> Result<Option<String>, FormError> {
        let Rest::Parts(parts) = &mut self.rest else { return Ok(None) };
        while let Some(part) = parts.next_part().await? {
            match part.file_name.filter(|name| !name.is_empty()) {
                Some(name) if part.name == field => return Ok(Some(name)),
                // Whatever content type a text field has: a name is what makes a file.
                None if KNOWN.contains(&part.name.as_str()) => {
                    self.sent.push((part.name, parts.text(TEXT_BYTES_MAX).await?));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The next bytes of the file. `None`: it has ended.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, FormError> {
        match &mut self.rest {
            Rest::Parts(parts) => parts.chunk().await,
            Rest::Body(_) => Ok(None),
        }
    }

    /// Reads to the end, for the fields behind the file.
    pub(super) async fn finish(&mut self) -> Result<(), FormError> {
        // A file that belongs to no field is one more that is passed over.
        while self.file("").await?.is_some() {}
        Ok(())
    }

    /// The value of a field, as far as the form was read: of the query when it has one, else the first of the body.
    pub(super) fn text(&self, field: &str) -> &str {
        let of_query = self.query.iter().find(|(name, value)| name == field && !value.is_empty());
        of_query.or_else(|| self.sent.iter().find(|(name, _)| name == field)).map_or("", |(_, value)| value)
    }

    /// Gives the form up; what the client still sends is taken and dropped.
    pub(super) fn dismiss(self) {
        leftover::dismiss(match self.rest {
            Rest::Parts(parts) => parts.into_body(),
            Rest::Body(body) => body,
        });
    }
}

/// The fields of a query or of a body in its form.
fn known_pairs(text: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(text)
        .filter(|(name, _)| KNOWN.contains(&name.as_ref()))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    async fn open(query: &str, announced: &'static str, body: &'static str) -> Form {
        let uri: Uri = format!("/images{query}").parse().unwrap();
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(announced))]);
        Form::open(&uri, &headers, Body::from(body)).await.unwrap()
    }

    const FILE_FIRST: &str = "--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.img\"\r\n\r\nbytes\r\n\
        --X\r\nContent-Disposition: form-data; name=\"userId\"\r\nContent-Type: application/json\r\n\r\nu1\r\n\
        --X\r\nContent-Disposition: form-data; name=\"userId\"\r\n\r\nu2\r\n\
        --X\r\nContent-Disposition: form-data; name=\"other\"; filename=\"b\"\r\n\r\nx\r\n\
        --X\r\nContent-Disposition: form-data; name=\"priority\"; filename=\"\"\r\n\r\n0\r\n--X--\r\n";

    #[tokio::test]
    async fn fields_are_read_wherever_they_stand_and_the_query_wins() {
        for (query, user) in [("", "u1"), ("?userId=q", "q"), ("?userId=", "u1"), ("?user=x&userId=%20", " ")]
        {
            let mut form = open(query, "multipart/form-data; boundary=X", FILE_FIRST).await;
            assert_eq!(form.file("file").await.unwrap().as_deref(), Some("a.img"));
            assert_eq!(form.chunk().await.unwrap().unwrap(), "bytes");
            form.finish().await.unwrap();
            assert_eq!((form.text("userId"), form.text("priority"), form.text("other")), (user, "0", ""));
        }
        let mut form = open("", "multipart/form-data; boundary=X", FILE_FIRST).await;
        assert_eq!(form.file("part").await.unwrap(), None);
    }

    #[tokio::test]
    async fn bodies_without_files_and_bodies_that_are_no_form() {
        let form = open("", "application/x-www-form-urlencoded", "identifier=a%20b+c&priority=0&x=y").await;
        assert_eq!((form.text("identifier"), form.text("x")), ("a b c", ""));
        let mut form = open("?identifier=s", "application/json", "{\"identifier\":\"t\"}").await;
        assert_eq!(form.file("file").await.unwrap(), None);
        form.finish().await.unwrap();
        assert_eq!(form.text("identifier"), "s");
    }
}
