//! Images that come in one request, the bytes alone or a form; and records that bytes come to later.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{post, put};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use imageops::v1::{
    Archive, CreateImageRequest, Digests, Image, ImageFormat, UploadCommit, UploadImageResponse,
    UploadMetadata,
};

use super::records::show;
use super::stores::store_name;
use super::{
    broken_body, content_length, content_type, id_of, present, promise, read_message, resource, unsupported,
};
use crate::intake::OneShot;
use crate::json::is_json;
use crate::multipart::{FormError, Multipart, TEXT_BYTES_MAX};
use crate::problem::Problem;
use crate::query::{self, Query};
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::{call, leftover};

/// What a caller may say about the image, in the query or in fields of a form.
const FIELDS: [&str; 14] = [
    "display_name",
    "description",
    "label",
    "property",
    "tag",
    "format",
    "md5",
    "sha256",
    "sha512",
    "archive",
    "store",
    "check",
    "accept_corrupt",
    "request_id",
];
/// Those of them that are about the bytes, not about the image.
const OF_BYTES: [&str; 9] =
    ["format", "md5", "sha256", "sha512", "archive", "store", "check", "accept_corrupt", "request_id"];
/// What those mean.
const ABOUT_BYTES: [(&str, &str); 9] = [
    ("format", "Format that the bytes must turn out to have: `raw`, `qcow2`, …"),
    ("md5", "MD5 that the bytes must have, hexadecimal."),
    ("sha256", "SHA-256 that the bytes must have, hexadecimal."),
    ("sha512", "SHA-512 that the bytes must have, hexadecimal; or `true` to have it computed."),
    (
        "archive",
        "`zip`: the bytes are a zip whose first image is meant; `gzip`, `xz`, `zstd`: they are packed by it.",
    ),
    ("store", "Store that the bytes go to, by its name or UUID."),
    ("check", "Whether a check begins with the image: `true` or `false`."),
    ("accept_corrupt", "With `true` a corrupt image is taken into quarantine instead of refused."),
    ("request_id", "UUID that names the upload, so that a broken one can be resumed at `/v1/uploads`."),
];
/// Those of them that may repeat.
const REPEATED: [&str; 3] = ["label", "property", "tag"];

/// Content type of bytes that are nothing else; it may be left out.
pub(super) const BYTES: &str = "application/octet-stream";
const CONTENT: &str = "/v1/images/{id}/content";

pub(super) fn routes() -> Vec<Route> {
    let bytes = Content::Raw(BYTES);
    let image = Content::Message("Image");
    let refused = "The bytes are unsafe, or not those that were promised.";
    let upload = Route::new(
        "post",
        "/v1/images",
        "uploadImage",
        "Takes in an image in one request, or makes a record without bytes.",
        post(create),
    )
    .query("display_name", "Label of the image; by default the name of the form's file.")
    .query("description", "Text for people.")
    .query("label", "Label of the image, `key=value`; may repeat.")
    .query("property", "Property of the image, `name=value`; may repeat.")
    .query("tag", "Tag of the image; may repeat.");
    let fill_record = Route::new("put", CONTENT, "fillImage", "Fills a record that has no bytes.", put(fill));
    [
        about_bytes(upload, &OF_BYTES)
            .takes(bytes)
            .takes(Content::Form { texts: &FIELDS, file: "file" })
            .takes(image)
            .answers(201, "The image; `QUEUED` when JSON was sent.", image)
            .answers(422, refused, Content::Json("Problem")),
        about_bytes(fill_record, &OF_BYTES)
            .takes(bytes)
            .answers(200, "The image.", image)
            .answers(409, "The record has bytes, or is being filled.", Content::Json("Problem"))
            .answers(422, refused, Content::Json("Problem")),
    ]
    .into_iter()
    .map(|route| route.tag("Images"))
    .collect()
}

/// Adds what can be said of bytes that come in one request: these fields, and headers.
pub(super) fn about_bytes(mut route: Route, fields: &[&str]) -> Route {
    for (name, description) in ABOUT_BYTES {
        if fields.contains(&name) {
            route = route.query(name, description);
        }
    }
    let digest = "A digest that the bytes must have; not with a form.";
    let headers = ["Content-MD5", "Repr-Digest", "X-Checksum-Md5", "X-Checksum-Sha256", "X-Checksum-Sha512"];
    headers.into_iter().fold(route, |route, name| route.header(name, digest, false))
}

async fn create(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if is_json(content_type(&headers)) {
        return create_record(&gateway, &uri, &headers, body).await;
    }
    let answered = if essence(&headers) == "multipart/form-data" {
        take_form(&gateway, &headers, read_query(&uri, &FIELDS), body).await?
    } else {
        let types = "application/octet-stream, multipart/form-data or application/json";
        take_bytes(&gateway, &headers, read_query(&uri, &FIELDS), body, types).await?
    };
    let image = present(answered.image)?;
    made(StatusCode::CREATED, image, &answered.check_job)
}

/// A record without bytes.
async fn create_record(
    gateway: &Gateway,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    Query::parse(uri, &[])?;
    let message = CreateImageRequest { image: Some(read_message(gateway, headers, body).await?) };
    let mut stub = gateway.connection.images();
    let call = stub.create_image(call::request(headers, message));
    let image = present(call::within(gateway.config.limits.call_timeout, call).await?.image)?;
    made(StatusCode::CREATED, image, "")
}

/// PUT `/v1/images/{id}/content`.
async fn fill(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let asked = || Ok(UploadMetadata { image: resource("images", &id)?, ..read_query(&uri, &OF_BYTES)? });
    let answered = take_bytes(&gateway, &headers, asked(), body, BYTES).await?;
    made(StatusCode::OK, present(answered.image)?, &answered.check_job)
}

/// An image that was made or filled, with the check that began with it.
pub(super) fn made(status: StatusCode, image: Image, check_job: &str) -> Result<Response, Problem> {
    let location = (status == StatusCode::CREATED).then(|| format!("/v1/images/{}", id_of(&image.name)));
    let mut response = show(status, Some(image))?;
    let check_job = (!check_job.is_empty()).then(|| check_job.to_owned());
    let headers = [(header::LOCATION, location), (HeaderName::from_static("imageops-check-job"), check_job)];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// What the query says, which may be of these fields.
pub(super) fn read_query(uri: &Uri, fields: &[&'static str]) -> Result<UploadMetadata, Problem> {
    let query = Query::parse(uri, fields)?;
    let mut metadata = UploadMetadata::default();
    for &name in fields {
        let values: Vec<_> = if REPEATED.contains(&name) {
            query.all(name).collect()
        } else {
            query.one(name)?.into_iter().collect()
        };
        for value in values {
            describe(&mut metadata, name, value)?;
        }
    }
    Ok(metadata)
}

/// Puts one thing that the caller says where it belongs.
pub(super) fn describe(metadata: &mut UploadMetadata, name: &str, value: &str) -> Result<(), Problem> {
    let digests = metadata.expected_digests.get_or_insert_with(Digests::default);
    match name {
        "display_name" => value.clone_into(&mut metadata.display_name),
        "description" => value.clone_into(&mut metadata.description),
        "label" => add_pair(&mut metadata.labels, "label", value)?,
        "property" => add_pair(&mut metadata.properties, "property", value)?,
        "tag" => metadata.tags.push(value.to_owned()),
        "request_id" => value.clone_into(&mut metadata.request_id),
        "md5" => digests.md5 = value.to_ascii_lowercase(),
        "sha256" => digests.sha256 = value.to_ascii_lowercase(),
        "sha512" => {
            metadata.sha512 = true;
            if value != "true" {
                digests.sha512 = value.to_ascii_lowercase();
            }
        }
        "store" => metadata.store = store_name(value),
        "check" => metadata.check = Some(query::flag("check", value)?),
        "accept_corrupt" => metadata.accept_corrupt = query::flag("accept_corrupt", value)?,
        "archive" => metadata.archive = query::choice::<Archive>("archive", value)?,
        "format" => metadata.declared_format = query::choice::<ImageFormat>("format", value)?,
        _ => return Err(Problem::invalid("form", format!("the fields are: file, {}", FIELDS.join(", ")))),
    }
    Ok(())
}

/// Adds a field of the form `name=value`. A name has one value: of two, either could be the one that is meant.
pub(super) fn add_pair(pairs: &mut HashMap<String, String>, field: &str, text: &str) -> Result<(), Problem> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| Problem::invalid(field, "has the form name=value"))?;
    match pairs.insert(name.to_owned(), value.to_owned()) {
        Some(other) if other != value => {
            Err(Problem::invalid(field, "names one key twice with different values; a key has one value"))
        }
        _ => Ok(()),
    }
}

fn begin(gateway: &Gateway, headers: &HeaderMap, metadata: UploadMetadata) -> OneShot {
    OneShot::begin(&gateway.connection, call::request(headers, ()), metadata)
}

/// The content type of a body without its parameters, in lower case.
fn essence(headers: &HeaderMap) -> String {
    content_type(headers).split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Takes in a body that is nothing but the bytes, as the image or part that is `asked` for. Another body is told of the
/// `types` that are taken.
pub(super) async fn take_bytes(
    gateway: &Gateway,
    headers: &HeaderMap,
    asked: Result<UploadMetadata, Problem>,
    mut body: Body,
    types: &str,
) -> Result<UploadImageResponse, Problem> {
    let taken = async {
        let metadata = asked?;
        match &*essence(headers) {
            BYTES | "" => pour(gateway, headers, metadata, &mut body).await,
            _ => Err(unsupported(types)),
        }
    };
    let taken = taken.await;
    leftover::dismiss(body);
    taken
}

async fn pour(
    gateway: &Gateway,
    headers: &HeaderMap,
    mut metadata: UploadMetadata,
    body: &mut Body,
) -> Result<UploadImageResponse, Problem> {
    metadata.size_bytes = content_length(headers);
    let digests = metadata.expected_digests.get_or_insert_default();
    promise::add_headers(headers, digests)?;
    metadata.sha512 |= !digests.sha512.is_empty();
    let mut upload = begin(gateway, headers, metadata);
    while let Some(data) = next(body).await? {
        upload.write(data).await?;
    }
    Ok(upload.commit(UploadCommit::default()).await?)
}

/// The next bytes of a body. `None`: it has ended.
pub(super) async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| broken_body())?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Takes in a form, as the image that is `asked` for beside it.
async fn take_form(
    gateway: &Gateway,
    headers: &HeaderMap,
    asked: Result<UploadMetadata, Problem>,
    body: Body,
) -> Result<UploadImageResponse, Problem> {
    let mut form = Multipart::new(content_type(headers), body)?;
    let taken = async { read_form(gateway, headers, asked?, &mut form).await };
    let taken = taken.await;
    leftover::dismiss(form.into_body());
    taken
}

/// The description may stand before the file; digests, which some clients only know at the end, also behind it.
async fn read_form(
    gateway: &Gateway,
    headers: &HeaderMap,
    mut metadata: UploadMetadata,
    form: &mut Multipart,
) -> Result<UploadImageResponse, Problem> {
    let mut upload = None;
    let mut late = UploadMetadata::default();
    while let Some(part) = form.next_part().await? {
        match (part.name.as_str(), &mut upload) {
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
            (name @ ("md5" | "sha256" | "sha512"), Some(_)) => {
                describe(&mut late, name, &form.text(TEXT_BYTES_MAX).await?)?
            }
            (name, Some(_)) => {
                describe(&mut late, name, "")?;
                return Err(Problem::invalid(name, "must stand before the file"));
            }
            (name, None) => describe(&mut metadata, name, &form.text(TEXT_BYTES_MAX).await?)?,
        }
    }
    let upload = upload.ok_or_else(|| Problem::invalid("file", "is missing"))?;
    let commit = UploadCommit { expected_digests: late.expected_digests, ..UploadCommit::default() };
    Ok(upload.commit(commit).await?)
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
        for (name, value) in [
            ("archive", "zip"),
            ("check", "false"),
            ("accept_corrupt", "true"),
            ("store", "fast"),
            ("sha512", "CD"),
        ] {
            describe(&mut metadata, name, value).unwrap();
        }
        assert_eq!(
            (metadata.archive(), metadata.check, metadata.accept_corrupt),
            (Archive::Zip, Some(false), true)
        );
        assert_eq!((metadata.store.as_str(), metadata.sha512), ("fast", true));
        assert_eq!(metadata.expected_digests.as_ref().unwrap().sha512, "cd");
        describe(&mut metadata, "sha512", "true").unwrap();
        for (name, value) in [("archive", "tar"), ("check", "yes"), ("archive", "unspecified")] {
            assert!(describe(&mut metadata, name, value).is_err(), "{name}={value}");
        }
        assert!(describe(&mut metadata, "label", "a").is_err());
        describe(&mut metadata, "label", "a=b").unwrap();
        for (name, value) in [("label", "a=c"), ("label", "a="), ("property", "d=e")] {
            assert!(describe(&mut metadata, name, value).is_err(), "{name}: {value}");
        }
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
