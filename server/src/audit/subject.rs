//! What a request names.

use std::any::Any;

use imageops::v1;

/// The first of these types that the request is, with its text.
macro_rules! first_of {
    ($request:expr, $($type:ident => $text:expr),+ $(,)?) => {
        $(
            if let Some(request) = $request.downcast_ref::<v1::$type>() {
                let text: fn(&v1::$type) -> String = $text;
                return text(request);
            }
        )+
    };
}

/// The thing that a request is about: its name, a file, a session, a tenant. Empty where it names none.
pub(crate) fn subject_of(request: &dyn Any) -> String {
    first_of! { request,
        CheckRequest => |request| source(request.source.as_ref()),
        CompressRequest => |request| source(request.source.as_ref()),
        EstimateCompressionRequest => |request| source(request.source.as_ref()),
        ConvertRequest => |request| source(request.source.as_ref()),
        InspectRequest => |request| source(request.source.as_ref()),
        DownloadImageRequest => |request| request.image.clone(),
        WatchStatusRequest => |request| request.job.clone(),
        GetUploadRequest => |request| request.name.clone(),
        AbortUploadRequest => |request| request.name.clone(),
        AbortSessionRequest => |request| request.session.clone(),
        ComposeImageRequest => |request| request.metadata.as_ref().map_or(String::new(), |wished| wished.session.clone()),
        GetJobRequest => |request| request.name.clone(),
        WaitJobRequest => |request| request.name.clone(),
        CancelJobRequest => |request| request.name.clone(),
        DeleteJobRequest => |request| request.name.clone(),
        ImportImageRequest => |request| shown_url(&request.url).to_owned(),
        GetImageRequest => |request| request.name.clone(),
        CreateImageRequest => |request| request.image.as_ref().map_or(String::new(), |image| image.name.clone()),
        UpdateImageRequest => |request| request.image.as_ref().map_or(String::new(), |image| image.name.clone()),
        DeleteImageRequest => |request| request.name.clone(),
        RestoreImageRequest => |request| request.name.clone(),
        PurgeImageRequest => |request| request.name.clone(),
        CopyImageRequest => |request| request.name.clone(),
        RemoveReplicaRequest => |request| request.name.clone(),
        GetUsageRequest => |request| request.tenant.clone(),
        SetQuotaRequest => |request| request.tenant.clone(),
        GetStoreRequest => |request| request.name.clone(),
        RegisterStoreRequest => |request| request.store.as_ref().map_or(String::new(), |store| store.display_name.clone()),
        UpdateStoreRequest => |request| request.store.as_ref().map_or(String::new(), |store| store.name.clone()),
        RemoveStoreRequest => |request| request.name.clone(),
        DrainStoreRequest => |request| request.name.clone(),
        ScrubStoreRequest => |request| request.name.clone(),
        CreateKeyRequest => |request| request.tenant.clone(),
        GetKeyRequest => |request| request.name.clone(),
        RevokeKeyRequest => |request| request.name.clone(),
    }
    String::new()
}

fn source(source: Option<&v1::Source>) -> String {
    match source.and_then(|source| source.source.as_ref()) {
        Some(v1::source::Source::File(name) | v1::source::Source::Image(name)) => name.clone(),
        None => String::new(),
    }
}

/// What of a URL holds no secret: a query may be a signature, and user and password may stand before the host.
fn shown_url(url: &str) -> &str {
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    if shown.contains('@') { "" } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_of_a_url_is_told() {
        for (url, shown) in [
            ("https://images.example/a.qcow2?signature=secret", "https://images.example/a.qcow2"),
            ("https://images.example/a.qcow2#secret", "https://images.example/a.qcow2"),
            ("https://user:secret@images.example/a.qcow2", ""),
        ] {
            let request = v1::ImportImageRequest { url: url.to_owned(), ..v1::ImportImageRequest::default() };
            assert_eq!(subject_of(&request), shown);
        }
    }
}
