//! `images` and `images/{imageId}`: what is known of images, and their end.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{delete, get};
use imageops::v1::{
    DeleteImageRequest, GetImageRequest, GetJobRequest, Image, ImageOrder, ImageState, ImageWork,
    ImageWorkState, ListImagesRequest, ListImagesResponse,
};
use serde_json::Value;
use tonic::{Code, Status};

use super::answers::{Row, View};
use super::{BASE_PATH, Refusal, json_answer, plain};
use crate::call;
use crate::config::FileSystemView;
use crate::edgegallery::literals;
use crate::route::{Content, Route};
use crate::router::Gateway;
use crate::v1;

/// Most images of one list, and as many as there are without a `limit`.
const LIST_MAX: usize = 1000;

/// Images that this face shows.
const SHOWN: [ImageState; 2] = [ImageState::Active, ImageState::Quarantined];

pub(super) fn routes() -> Vec<Route> {
    let one = "/image-management/v1/images/{id}";
    let text = Content::Raw("text/plain");
    vec![
        Route::new("get", BASE_PATH, "fsList", "Lists images, oldest first.", get(list))
            .query("limit", "At most so many; 1,000 by default and at most.")
            .query("offset", "Passes over so many.")
            .answers(200, "The images.", Content::Json("FsList")),
        Route::new(
            "get",
            one,
            "fsQuery",
            "Tells what is known of an image, and how its check is.",
            get(query),
        )
        .query("view", "`full` adds the members that only late builds of the legacy service had.")
        .answers(200, "As far as it is known.", Content::Json("FsImage"))
        .answers(404, "There is no such image.", text),
        Route::new("delete", one, "fsDelete", "Removes an image for good.", delete(remove))
            .answers(200, "It is gone, or never was.", text)
            .answers(500, "It cannot be removed.", text),
    ]
}

/// An image and what was last done with it.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) image: Image,
    pub(super) work: ImageWork,
}

impl Record {
    /// The name of its slim companion, once one was made.
    fn slim(&self) -> Option<&str> {
        let slim = self.work.slim.as_ref()?;
        (slim.state() == ImageWorkState::Succeeded && !slim.image.is_empty()).then_some(&*slim.image)
    }
}

/// The image of that id, when this face shows it.
pub(super) async fn find(
    gateway: &Gateway,
    headers: &HeaderMap,
    id: &str,
) -> Result<Option<Record>, Refusal> {
    let Some(id) = v1::uuid(id) else { return Ok(None) };
    let record = fetch(gateway, headers, format!("images/{id}")).await?;
    Ok(record.filter(|Record { image, .. }| image.companion_of.is_empty() && SHOWN.contains(&image.state())))
}

/// The slim companion of an image, while its bytes are good. A damaged one is shown as a failed slim, and the image itself
/// is handed out.
pub(super) async fn find_slim(
    gateway: &Gateway,
    headers: &HeaderMap,
    record: &Record,
) -> Result<Option<Record>, Refusal> {
    let Some(name) = record.slim() else { return Ok(None) };
    Ok(fetch(gateway, headers, name.to_owned()).await?.filter(is_sound))
}

fn is_sound(slim: &Record) -> bool {
    slim.image.state() == ImageState::Active
}

/// Any stored image.
async fn fetch(gateway: &Gateway, headers: &HeaderMap, name: String) -> Result<Option<Record>, Refusal> {
    let mut stub = gateway.connection.images();
    let call = stub.get_image(call::request(headers, GetImageRequest { name }));
    match call::within(gateway.config.limits.call_timeout, call).await {
        Ok(answer) => {
            let work = answer.work.unwrap_or_default();
            Ok(answer.image.map(|image| Record { image, work }))
        }
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(unavailable(&status)),
    }
}

/// Not "unknown": clients take that for the end of the image.
pub(super) fn unavailable(status: &Status) -> Refusal {
    Refusal::of_failure(status, Refusal::plain(StatusCode::SERVICE_UNAVAILABLE))
}

/// GET `images/{imageId}`.
async fn query(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let Some(record) = find(&gateway, &headers, &id).await? else {
        return Err(Refusal::not_found(literals::no_record(&id)));
    };
    let view = match gateway.config.file_system_view {
        FileSystemView::Seed if parameter(&uri, "view").as_deref() != Some("full") => View::Seed,
        _ => View::Full,
    };
    let slim = find_slim(&gateway, &headers, &record).await?;
    let percent = match view {
        View::Seed => 0.0,
        View::Full => slimmed_percent(&gateway, &headers, &record.work).await,
    };
    let row = Row { record: &record, slim: slim.as_ref(), percent };
    Ok(json_answer(&row.query(view, &gateway.config)))
}

/// How far the slimming of an image is; 0 where it has not begun or cannot be told.
async fn slimmed_percent(gateway: &Gateway, headers: &HeaderMap, work: &ImageWork) -> f64 {
    let job =
        work.slim.as_ref().filter(|slim| slim.state() == ImageWorkState::InProgress).map(|slim| &slim.job);
    let Some(name) = job.filter(|name| !name.is_empty()).cloned() else { return 0.0 };
    let mut stub = gateway.connection.stub();
    let call = stub.get_job(call::request(headers, GetJobRequest { name }));
    let job = call::within(gateway.config.limits.call_timeout, call).await.ok().and_then(|answer| answer.job);
    job.and_then(|job| job.progress).map_or(0.0, |progress| progress.percent)
}

/// The first value of a parameter.
pub(super) fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// GET `images`.
async fn list(
    State(gateway): State<Arc<Gateway>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    // What is no number is passed over, like every parameter that the legacy service did not know.
    let number = |name| parameter(&uri, name).and_then(|text| text.parse::<usize>().ok());
    let limit = number("limit").filter(|limit| *limit > 0).map_or(LIST_MAX, |limit| limit.min(LIST_MAX));
    let offset = number("offset").unwrap_or(0);
    let gathered = gather(&gateway, &headers, offset, limit);
    let rows = tokio::time::timeout(gateway.config.limits.call_timeout, gathered)
        .await
        .map_err(|_| Refusal::plain(StatusCode::SERVICE_UNAVAILABLE))??;
    Ok(json_answer(&Value::Array(rows)))
}

/// The rows of a list. The caller bounds the time.
async fn gather(
    gateway: &Gateway,
    headers: &HeaderMap,
    offset: usize,
    limit: usize,
) -> Result<Vec<Value>, Refusal> {
    let mut left_out = offset;
    let mut records = Vec::new();
    let mut pages = Pages::of(false);
    while records.len() < limit
        && let Some(page) = pages.next(gateway, headers).await?
    {
        let skipped = left_out.min(page.len());
        left_out -= skipped;
        records.extend(page.into_iter().skip(skipped));
    }
    records.truncate(limit);
    let mut slims = slims_of(gateway, headers, &records).await?;
    let mut rows = Vec::with_capacity(records.len());
    for record in &records {
        let slim = slims.remove(&record.image.name);
        let percent = slimmed_percent(gateway, headers, &record.work).await;
        rows.push(Row { record, slim: slim.as_ref(), percent }.listed(&gateway.config));
    }
    Ok(rows)
}

/// The sound slim companions of these images, by the image's name.
async fn slims_of(
    gateway: &Gateway,
    headers: &HeaderMap,
    records: &[Record],
) -> Result<HashMap<String, Record>, Refusal> {
    let mut wanted: HashMap<&str, &str> =
        records.iter().filter_map(|record| Some((record.slim()?, &*record.image.name))).collect();
    let mut found = HashMap::new();
    let mut pages = Pages::of(true);
    while !wanted.is_empty()
        && let Some(page) = pages.next(gateway, headers).await?
    {
        for slim in page {
            if let Some(source) = wanted.remove(&*slim.image.name).filter(|_| is_sound(&slim)) {
                found.insert(source.to_owned(), slim);
            }
        }
    }
    Ok(found)
}

/// The pages of a list of images, oldest first.
struct Pages {
    /// The request for the next one; absent behind the last.
    next: Option<ListImagesRequest>,
}

impl Pages {
    /// Of the slim companions, or of all other images.
    fn of(slim_companions: bool) -> Self {
        let next = ListImagesRequest {
            page_size: LIST_MAX as u32,
            order: ImageOrder::Oldest.into(),
            states: SHOWN.map(Into::into).to_vec(),
            slim_companions,
            with_work: true,
            ..ListImagesRequest::default()
        };
        Self { next: Some(next) }
    }

    async fn next(&mut self, gateway: &Gateway, headers: &HeaderMap) -> Result<Option<Vec<Record>>, Refusal> {
        let Some(mut request) = self.next.take() else { return Ok(None) };
        let mut stub = call::images_list_stub(&gateway.connection);
        let call = stub.list_images(call::request(headers, request.clone()));
        let limit = gateway.config.limits.call_timeout;
        let ListImagesResponse { images, works, next_page_token } =
            call::within(limit, call).await.map_err(|status| unavailable(&status))?;
        if !next_page_token.is_empty() {
            request.page_token = next_page_token;
            self.next = Some(request);
        }
        let works = works.into_iter().map(Some).chain(std::iter::repeat(None));
        let records = images.into_iter().zip(works);
        Ok(Some(records.map(|(image, work)| Record { image, work: work.unwrap_or_default() }).collect()))
    }
}

/// DELETE `images/{imageId}`.
async fn remove(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let deleted = || Ok(plain(literals::IMAGE_DELETED));
    let Some(id) = v1::uuid(&id) else { return deleted() };
    let request = DeleteImageRequest { name: format!("images/{id}"), etag: String::new(), purge: true };
    let mut stub = gateway.connection.images();
    let call = stub.delete_image(call::request(&headers, request));
    match call::within(gateway.config.limits.call_timeout, call).await {
        Ok(_) => deleted(),
        // Clients keep their own record of an image until they have seen this answer.
        Err(status) if status.code() == Code::NotFound => deleted(),
        // To this face the id of a companion is nobody's; it goes with its image.
        Err(status) if call::reason(&status).as_deref() == Some("IMAGE_IS_COMPANION") => deleted(),
        Err(status) => Err(Refusal::of_failure(&status, Refusal::failed(literals::IMAGE_NOT_DELETED))),
    }
}
