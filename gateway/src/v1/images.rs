//! Images that come in one request: the bytes alone, or a form.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::post;
use http_body_util::BodyExt as _;
use imageops::v1::upload_image_request::Message;
use imageops::v1::{Digests, ImageFormat, UploadCommit, UploadImageResponse, UploadMetadata};
use uuid::Uuid;

use super::{answer, broken_body, content, content_length, content_type, present, unsupported};
use crate::call;
use crate::intake::Intake;
use crate::multipart::{FormError, Multipart, TEXT_BYTES_MAX};
use crate::problem::Problem;
use crate::query::{self, Query};
use crate::route::{Content, Route};
use crate::router::Gateway;

/// What a caller may say about the image, in the query or in fields of a form.
const FIELDS: [&str; 9] =
    ["display_name", "description", "label", "property", "tag", "format", "md5", "sha256", "request_id"];
/// Those of them that may repeat.
const REPEATED: [&str; 3] = ["label", "property", "tag"];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("post", "/v1/images", "uploadImage", "Takes in an image in one request.", post(upload))
            .tag("Images")
            .query("display_name", "Label of the image; by default the name of the form's file.")
            .query("description", "Text for people.")
            .query("label", "Label of the image, `key=value`; may repeat.")
            .query("property", "Property of the image, `name=value`; may repeat.")
            .query("tag", "Tag of the image; may repeat.")
            .query("format", "Format that the bytes must turn out to have: `raw`, `qcow2`, …")
            .query("md5", "MD5 that the bytes must have, hexadecimal.")
            .query("sha256", "SHA-256 that the bytes must have, hexadecimal.")
            .query(
                "request_id",
                "UUID that names the upload, so that a broken one can be resumed at `/v1/uploads`.",
            )
            .takes(Content::Raw("application/octet-stream"))
            .takes(Content::Form { texts: &FIELDS, file: "file" })
            .answers(201, "The image.", Content::Message("Image"))
            .answers(422, "The bytes are unsafe, or not those that were promised.", Content::Json("Problem")),
    ]
}

async fn upload(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &FIELDS)?;
    let mut metadata = UploadMetadata::default();
    for name in FIELDS {
        let values: Vec<_> = if REPEATED.contains(&name) {
            query.all(name).collect()
        } else {
            query.one(name)?.into_iter().collect()
        };
        for value in values {
            describe(&mut metadata, name, value)?;
        }
    }
    let essence = content_type(&headers).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let answered = match essence.as_str() {
        "" | "application/octet-stream" => take_bytes(&gateway, &headers, metadata, body).await?,
        "multipart/form-data" => take_form(&gateway, &headers, metadata, body).await?,
        _ => return Err(unsupported("application/octet-stream or multipart/form-data")),
    };
    let image = present(answered.image)?;
    let mut response = answer(StatusCode::CREATED, &image)?;
    if let Ok(location) = HeaderValue::try_from(content::location(&image)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Puts one thing that the caller says where it belongs.
pub(super) fn describe(metadata: &mut UploadMetadata, name: &str, value: &str) -> Result<(), Problem> {
    let digests = metadata.expected_digests.get_or_insert_with(Digests::default);
    match name {
        "display_name" => value.clone_into(&mut metadata.display_name),
        "description" => value.clone_into(&mut metadata.description),
        "label" => metadata.labels.extend([pair("label", value)?]),
        "property" => metadata.properties.extend([pair("property", value)?]),
        "tag" => metadata.tags.push(value.to_owned()),
        "request_id" => value.clone_into(&mut metadata.request_id),
        "md5" => digests.md5 = value.to_ascii_lowercase(),
        "sha256" => digests.sha256 = value.to_ascii_lowercase(),
        "format" => {
            let format = query::choice(value, "IMAGE_FORMAT_", ImageFormat::from_str_name);
            metadata.declared_format =
                format.ok_or_else(|| Problem::invalid("format", "is no known format"))?;
        }
        _ => return Err(Problem::invalid("form", format!("the fields are: file, {}", FIELDS.join(", ")))),
    }
    Ok(())
}

/// A field of the form `name=value`.
pub(super) fn pair(field: &str, text: &str) -> Result<(String, String), Problem> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| Problem::invalid(field, "has the form name=value"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn begin(gateway: &Gateway, headers: &HeaderMap, mut metadata: UploadMetadata) -> Intake {
    if metadata.request_id.is_empty() {
        metadata.request_id = Uuid::new_v4().to_string();
    }
    Intake::begin(&gateway.connection, call::request(headers, ()), Message::Metadata(metadata), 0)
}

async fn take_bytes(
    gateway: &Gateway,
    headers: &HeaderMap,
    mut metadata: UploadMetadata,
    mut body: Body,
) -> Result<UploadImageResponse, Problem> {
    metadata.size_bytes = content_length(headers);
    let mut intake = begin(gateway, headers, metadata);
    pour(&mut body, &mut intake).await?;
    let size_bytes = Some(intake.end_bytes());
    Ok(intake.commit(UploadCommit { size_bytes, ..UploadCommit::default() }).await?)
}

/// Writes a body to its end.
pub(super) async fn pour(body: &mut Body, intake: &mut Intake) -> Result<(), Problem> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| broken_body())?.into_data() {
            intake.write(data).await?;
        }
    }
    Ok(())
}

/// The description may stand before the file; digests, which some clients only know at the end, also behind it.
async fn take_form(
    gateway: &Gateway,
    headers: &HeaderMap,
    mut metadata: UploadMetadata,
    body: Body,
) -> Result<UploadImageResponse, Problem> {
    let mut form = Multipart::new(content_type(headers), body)?;
    let mut intake = None;
    let mut late = UploadMetadata::default();
    while let Some(part) = form.next_part().await? {
        match (part.name.as_str(), &mut intake) {
            ("file", Some(_)) => return Err(Problem::invalid("file", "may be there once")),
            ("file", none) => {
                if let (true, Some(name)) = (metadata.display_name.is_empty(), &part.file_name) {
                    base_name(name).clone_into(&mut metadata.display_name);
                }
                let begun = none.insert(begin(gateway, headers, std::mem::take(&mut metadata)));
                while let Some(data) = form.chunk().await? {
                    begun.write(data).await?;
                }
            }
            (name @ ("md5" | "sha256"), Some(_)) => {
                describe(&mut late, name, &form.text(TEXT_BYTES_MAX).await?)?
            }
            (name, Some(_)) => {
                describe(&mut late, name, "")?;
                return Err(Problem::invalid(name, "must stand before the file"));
            }
            (name, None) => describe(&mut metadata, name, &form.text(TEXT_BYTES_MAX).await?)?,
        }
    }
    let intake = intake.ok_or_else(|| Problem::invalid("file", "is missing"))?;
    let size_bytes = Some(intake.end_bytes());
    Ok(intake
        .commit(UploadCommit {
            size_bytes,
            expected_digests: late.expected_digests,
            ..UploadCommit::default()
        })
        .await?)
}

/// The last component of a name: some browsers send a whole path.
fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

impl From<FormError> for Problem {
    fn from(error: FormError) -> Self {
        match error {
            FormError::Malformed(_) => {
                Self::new(StatusCode::BAD_REQUEST, "MALFORMED_FORM", error.to_string())
            }
            FormError::TooLarge(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "FORM_TOO_LARGE", error.to_string())
            }
            FormError::Broken => broken_body(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_go_where_they_belong() {
        let mut metadata = UploadMetadata::default();
        for (name, value) in [("display_name", "a"), ("format", "qcow2"), ("md5", "AB"), ("request_id", "r")]
        {
            describe(&mut metadata, name, value).unwrap();
        }
        assert_eq!(metadata.declared_format(), ImageFormat::Qcow2);
        assert_eq!(metadata.expected_digests.as_ref().unwrap().md5, "ab");
        assert_eq!((metadata.display_name.as_str(), metadata.request_id.as_str()), ("a", "r"));
        for (name, value) in [("label", "a=b"), ("label", "c="), ("property", "d=e=f"), ("tag", "g")] {
            describe(&mut metadata, name, value).unwrap();
        }
        assert_eq!((metadata.labels.len(), metadata.labels["c"].as_str()), (2, ""));
        assert_eq!(
            (metadata.properties["d"].as_str(), metadata.tags.as_slice()),
            ("e=f", &["g".to_owned()][..])
        );
        assert!(describe(&mut metadata, "label", "a").is_err());
        assert!(describe(&mut metadata, "format", "floppy").is_err());
        assert!(describe(&mut metadata, "colour", "red").is_err());
    }

    #[test]
    fn file_names_lose_their_directories() {
        for (name, want) in
            [("a.img", "a.img"), ("C:\\x\\a.img", "a.img"), ("../../a.img", "a.img"), ("a/", "")]
        {
            assert_eq!(base_name(name), want);
        }
    }
}
