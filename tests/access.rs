//! Who may do what: keys, scopes and tenants, over every RPC that the contract has.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use imageops::v1::upload_image_request::Message as UploadMessage;
use imageops::v1::{
    AbortSessionRequest, AbortUploadRequest, CancelJobRequest, CheckRequest, ComposeImageRequest,
    CompressRequest, ConvertRequest, CopyImageRequest, CreateImageRequest, CreateKeyRequest,
    DeleteImageRequest, DeleteJobRequest, DownloadImageRequest, EstimateCompressionRequest, GetImageRequest,
    GetJobRequest, GetKeyRequest, GetUploadRequest, GetUsageRequest, Image, InspectRequest, JobState,
    KeyScope, KeyState, ListImagesRequest, ListJobsRequest, ListKeysRequest, ListUploadsRequest,
    PurgeImageRequest, RemoveReplicaRequest, RestoreImageRequest, RevokeKeyRequest, SetQuotaRequest,
    UpdateImageRequest, UploadCommit, UploadImageRequest, UploadMetadata, UploadResume, UploadState,
    WaitJobRequest, WatchStatusRequest,
};
use imageops_client::{Client, ConnectOptions, Connection, Token};
use prost_reflect::prost::Message as _;
use prost_reflect::prost_types::FileDescriptorSet;
use tonic::{Code, Request, Status};

use support::http::{Answer, request};
use support::jobs::{check_file, file, image};
use support::source::import;
use support::status::{assert_status, reason};
use support::upload::{Stream, metadata, name_of, upload};
use support::{DEADLINE, Service, wait_for};

fn start() -> Service {
    // Everything that could be logged is: secrets must not be among it.
    Service::start_with(&["--auth", "token", "--log", "trace"])
}

/// Each RPC of the contract, as `Service/Method`, with the scope that its documentation promises.
fn methods() -> BTreeMap<String, String> {
    let set = FileDescriptorSet::decode(imageops::v1::FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.iter().find(|file| file.name() == "imageops/v1/service.proto").unwrap();
    let comments = &file.source_code_info.as_ref().unwrap().location;
    let scope_of = |service: usize, method: usize| {
        let path = [6, i32::try_from(service).unwrap(), 2, i32::try_from(method).unwrap()];
        let location = comments.iter().find(|location| location.path == path).unwrap();
        let text = location.leading_comments().split_whitespace().collect::<Vec<_>>().join(" ");
        let (_, scope) = text.rsplit_once("Scope: ").unwrap_or_else(|| panic!("no scope: {text}"));
        // Behind a comma stands of which tenant.
        scope.trim_end_matches('.').split(',').next().unwrap_or_default().to_owned()
    };
    let mut methods = BTreeMap::new();
    for (number, service) in file.service.iter().enumerate() {
        for (index, method) in service.method.iter().enumerate() {
            methods.insert(format!("{}/{}", service.name(), method.name()), scope_of(number, index));
        }
    }
    methods
}

/// Calls any RPC with an empty message; how it ended.
async fn call_empty(service: &Service, key: Option<&str>, method: &str) -> Result<(), Status> {
    let token = key.map(|key| Token::new(key).unwrap());
    let options = ConnectOptions { token, ..ConnectOptions::default() };
    let connection = Connection::connect_lazy(&format!("http://{}", service.grpc()), options).unwrap();
    let mut grpc = tonic::client::Grpc::new(connection);
    grpc.ready().await.unwrap();
    let path = format!("/imageops.v1.{method}").parse().unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let mut answer = grpc.server_streaming(Request::new(()), path, codec).await?.into_inner();
    answer.message().await.map(drop)
}

fn is_denied(result: &Result<(), Status>) -> bool {
    result
        .as_ref()
        .is_err_and(|status| matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied))
}

#[tokio::test]
async fn no_rpc_answers_without_a_known_key() {
    let service = start();
    let known = service.make_key("admin", None);
    let mut wrong = vec![None, Some("iok_wrong".to_owned()), Some(known[..known.len() - 1].to_owned())];
    wrong.push(Some(format!("{known}0")));
    wrong.push(Some(known.to_uppercase()));
    for method in methods().keys() {
        for key in &wrong {
            let refused = call_empty(&service, key.as_deref(), method).await.unwrap_err();
            assert_status(&refused, Code::Unauthenticated, "UNAUTHENTICATED");
        }
        assert!(!is_denied(&call_empty(&service, Some(&known), method).await), "{method}");
    }
}

/// SEC-37: whoever is not known is answered before they have sent what they want to, and the server keeps none of it.
#[tokio::test]
async fn sec_37_nobody_is_listened_to_before_it_is_known_who_speaks() {
    let service = start();
    let connection =
        Connection::connect_lazy(&format!("http://{}", service.grpc()), ConnectOptions::default()).unwrap();
    for method in methods().keys() {
        let mut grpc = tonic::client::Grpc::new(connection.clone());
        grpc.ready().await.unwrap();
        let path = format!("/imageops.v1.{method}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let silent = Request::new(futures::stream::pending::<()>());
        let answer = grpc.client_streaming(silent, path, codec);
        let answer =
            tokio::time::timeout(DEADLINE, answer).await.expect("an answer before there is a message");
        assert_status(&answer.unwrap_err(), Code::Unauthenticated, "UNAUTHENTICATED");
    }
    for path in ["/v1/imports", "/api/v1/vmimage/check"] {
        let mut stream = TcpStream::connect(service.http()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 900000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[b' '; 20_000]).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401", "{path}");
    }
}

/// SEC-38: what carries no bytes of an image is not held for the sake of its length.
#[tokio::test]
async fn sec_38_a_message_that_is_too_long_is_refused() {
    let service = Service::start();
    let client = service.client();
    let cancel = async |bytes: usize| client.cancel_job(&"x".repeat(bytes)).await.unwrap_err().code();
    assert_eq!(cancel(1 << 19).await, Code::InvalidArgument);
    assert_eq!(cancel(3 << 19).await, Code::OutOfRange);
    assert_eq!(cancel(3 << 19).await, Code::OutOfRange, "the connection goes on");
}

/// Every RPC has the scope that the contract says, and each scope opens its own and nothing else.
#[tokio::test]
async fn each_scope_opens_what_the_contract_says() {
    let service = start();
    let methods = methods();
    assert_eq!(methods.len(), 41, "{methods:?}");
    let scopes: BTreeSet<_> = methods.values().map(String::as_str).collect();
    assert_eq!(scopes, BTreeSet::from(["read", "write", "delete", "admin"]));
    for key_scope in ["read", "write", "delete", "admin"] {
        let key = service.make_key(key_scope, None);
        for (method, scope) in &methods {
            let answer = call_empty(&service, Some(&key), method).await;
            if key_scope == scope || key_scope == "admin" {
                assert!(!is_denied(&answer), "{method} with {key_scope}: {answer:?}");
            } else {
                let refused = answer.expect_err(method);
                assert_status(&refused, Code::PermissionDenied, "SCOPE_MISSING");
                assert_eq!(support::status::detail(&refused, "scope").as_ref(), Some(scope));
            }
        }
    }
    let both = service.make_key("read,delete", None);
    for (method, scope) in &methods {
        let denied = ["write", "admin"].contains(&scope.as_str());
        assert_eq!(is_denied(&call_empty(&service, Some(&both), method).await), denied, "{method}");
    }
}

/// What one tenant has; names that another one might guess.
struct Things {
    image: String,
    job: String,
    open_upload: String,
    session: String,
    key: String,
}

impl Things {
    fn unknown() -> Self {
        let id = uuid::Uuid::new_v4;
        Self {
            image: format!("images/{}", id()),
            job: format!("jobs/{}", id()),
            open_upload: format!("uploads/{}", id()),
            session: id().to_string(),
            key: format!("keys/{}", id()),
        }
    }
}

/// One call of each RPC that names a thing; the answer's code, reason and text.
async fn call_each(client: &Client, things: &Things) -> BTreeMap<&'static str, (Code, String, String)> {
    let Things { image: stored, job, open_upload, session, key } = things;
    let name = || job.clone();
    let mut stub = client.stub();
    let mut images = client.images();
    let source = image(stored);
    let resume = UploadResume { upload: open_upload.clone(), offset_bytes: 0, size_bytes: None };
    let resume = UploadImageRequest { message: Some(UploadMessage::Resume(resume)) };
    let watch = WatchStatusRequest { job: name(), after_revision: 0 };
    let download = DownloadImageRequest { image: stored.clone(), ..Default::default() };
    let convert = ConvertRequest { source: source.clone(), format: 2, ..Default::default() };
    let compose = UploadMetadata { session: session.clone(), ..metadata("theirs") };
    let answers: Vec<(&'static str, Result<(), Status>)> = vec![
        ("Check", stub.check(CheckRequest { source: source.clone(), ..Default::default() }).await.map(drop)),
        (
            "Compress",
            stub.compress(CompressRequest { source: source.clone(), ..Default::default() }).await.map(drop),
        ),
        (
            "EstimateCompression",
            stub.estimate_compression(EstimateCompressionRequest {
                source: source.clone(),
                ..Default::default()
            })
            .await
            .map(drop),
        ),
        ("Convert", stub.convert(convert).await.map(drop)),
        ("ComposeImage", stub.compose_image(ComposeImageRequest { metadata: Some(compose) }).await.map(drop)),
        ("Inspect", stub.inspect(InspectRequest { source, declared_format: 0 }).await.map(drop)),
        ("WatchStatus", stub.watch_status(watch).await.map(drop)),
        ("UploadImage", stub.upload_image(tokio_stream::iter([resume])).await.map(drop)),
        ("DownloadImage", stub.download_image(download).await.map(drop)),
        ("GetUpload", stub.get_upload(GetUploadRequest { name: open_upload.clone() }).await.map(drop)),
        ("GetJob", stub.get_job(GetJobRequest { name: name() }).await.map(drop)),
        ("WaitJob", stub.wait_job(WaitJobRequest { name: name(), timeout: None }).await.map(drop)),
        ("CancelJob", stub.cancel_job(CancelJobRequest { name: name() }).await.map(drop)),
        ("DeleteJob", stub.delete_job(DeleteJobRequest { name: name() }).await.map(drop)),
        ("AbortUpload", stub.abort_upload(AbortUploadRequest { name: open_upload.clone() }).await.map(drop)),
    ];
    let name = || stored.clone();
    let etag = String::new;
    let renamed = Image { name: name(), display_name: "mine".to_owned(), ..Image::default() };
    let update = UpdateImageRequest { image: Some(renamed), update_mask: None };
    let remove = RemoveReplicaRequest { name: name(), store: "default".to_owned(), etag: etag() };
    let url = "https://mirror.example/a.img".to_owned();
    let into = UploadMetadata { image: name(), ..UploadMetadata::default() };
    let records: Vec<(&'static str, Result<(), Status>)> = vec![
        ("GetImage", images.get_image(GetImageRequest { name: name() }).await.map(drop)),
        ("UpdateImage", images.update_image(update).await.map(drop)),
        (
            "DeleteImage",
            images
                .delete_image(DeleteImageRequest { name: name(), etag: etag(), purge: false })
                .await
                .map(drop),
        ),
        (
            "CopyImage",
            images.copy_image(CopyImageRequest { name: name(), ..Default::default() }).await.map(drop),
        ),
        ("ImportImage", images.import_image(import(url, into)).await.map(drop)),
        ("RemoveReplica", images.remove_replica(remove).await.map(drop)),
        ("RestoreImage", images.restore_image(RestoreImageRequest { name: name() }).await.map(drop)),
        ("PurgeImage", images.purge_image(PurgeImageRequest { name: name(), etag: etag() }).await.map(drop)),
    ];
    let mut keys = client.keys();
    let name = || key.clone();
    let keys: Vec<(&'static str, Result<(), Status>)> = vec![
        ("GetKey", keys.get_key(GetKeyRequest { name: name() }).await.map(drop)),
        ("RevokeKey", keys.revoke_key(RevokeKeyRequest { name: name() }).await.map(drop)),
    ];
    let mut told = BTreeMap::new();
    for (method, answer) in answers.into_iter().chain(records).chain(keys) {
        let status = answer.err().unwrap_or_else(|| Status::ok(""));
        told.insert(method, (status.code(), reason(&status), status.message().to_owned()));
    }
    told
}

/// SEC-29: what another tenant has answers like what does not exist, over every RPC.
#[tokio::test]
async fn sec_29_tenants_do_not_see_each_other() {
    let service = start();
    let one = service.client_with_key(&service.make_key("admin", Some("tenant-one")));
    let other = service.client_with_key(&service.make_key("admin", Some("tenant-two")));
    let stored = upload(&one, &[1; 5000]).await;
    let job =
        one.check(CheckRequest { source: image(&stored.name), ..CheckRequest::default() }).await.unwrap();
    let job = wait_for(&one, &job.name, JobState::Succeeded).await;
    let open = metadata("open");
    let stream = Stream::begin(&one, &open).await;
    stream.chunk(0, b"bytes of tenant one").await;
    stream.close().await.unwrap();
    let things = Things {
        image: stored.name.clone(),
        job: job.name.clone(),
        open_upload: name_of(&open),
        session: "parts".to_owned(),
        key: one.list_keys(ListKeysRequest::default()).await.unwrap().keys[0].name.clone(),
    };
    let part = UploadMetadata { session: things.session.clone(), part: 1, ..metadata("part") };
    let stream = Stream::begin(&one, &part).await;
    stream.chunk(0, b"a part").await;
    stream.commit(UploadCommit::default()).await.unwrap();

    let theirs = call_each(&other, &things).await;
    let unknown = call_each(&other, &Things::unknown()).await;
    assert_eq!(theirs, unknown, "another tenant's things are told from unknown ones");
    for (method, (code, _, _)) in &theirs {
        assert_eq!(*code, Code::NotFound, "{method}");
    }
    // No RPC is forgotten: lists and what names no thing are looked at below, and the stores are the operator's.
    let others = [
        "ListJobs",
        "ListUploads",
        "ListImages",
        "AbortSession",
        "CreateImage",
        "GetUsage",
        "SetQuota",
        "ListKeys",
        "CreateKey",
    ];
    let covered: BTreeSet<_> = theirs.keys().copied().chain(others).map(str::to_owned).collect();
    let methods = methods().into_keys().filter(|path| !path.starts_with("Stores/"));
    let method = |path: String| path.rsplit('/').next().unwrap().to_owned();
    assert_eq!(covered, methods.map(method).collect());
    assert!(other.list_images(ListImagesRequest::default()).await.unwrap().images.is_empty());
    assert_eq!(
        one.list_images(ListImagesRequest::default()).await.unwrap().images,
        std::slice::from_ref(&stored)
    );
    assert!(other.list_jobs(ListJobsRequest::default()).await.unwrap().jobs.is_empty());
    assert!(other.list_uploads(ListUploadsRequest::default()).await.unwrap().uploads.is_empty());
    assert_eq!(one.list_jobs(ListJobsRequest::default()).await.unwrap().jobs, std::slice::from_ref(&job));
    assert_eq!(one.list_uploads(ListUploadsRequest::default()).await.unwrap().uploads.len(), 3);

    // Of another tenant's session nothing is said, and nothing goes.
    let session = AbortSessionRequest { session: things.session.clone() };
    other.stub().abort_session(session).await.unwrap();
    // An id that is taken cannot be given twice, whoever has it; what it is is not told.
    let record = Image { name: stored.name.clone(), ..Image::default() };
    let refused = other.images().create_image(CreateImageRequest { image: Some(record) }).await.unwrap_err();
    assert_status(&refused, Code::AlreadyExists, "IMAGE_EXISTS");
    let list = async |client: &Client, tenant: &str| {
        let request = ListKeysRequest { tenant: tenant.to_owned(), ..ListKeysRequest::default() };
        client.list_keys(request).await.map(|page| page.keys)
    };
    for (client, tenant) in [(&one, "tenant-one"), (&other, "tenant-two")] {
        let keys = list(client, "").await.unwrap();
        assert_eq!(keys.iter().map(|key| key.tenant.as_str()).collect::<Vec<_>>(), [tenant]);
        assert_eq!(list(client, tenant).await.unwrap(), keys);
        assert_eq!(keys[0].state(), KeyState::Active, "revoked by a stranger");
    }
    assert_eq!(list(&other, "tenant-one").await.unwrap_err().reason(), "SCOPE_MISSING");
    let key = CreateKeyRequest {
        tenant: "tenant-one".to_owned(),
        scopes: vec![KeyScope::Read.into()],
        ..CreateKeyRequest::default()
    };
    let refused = other.keys().create_key(key).await.unwrap_err();
    assert_status(&refused, Code::PermissionDenied, "SCOPE_MISSING");
    // An administrator of a tenant is none of the service.
    let of_one = GetUsageRequest { tenant: "tenant-one".to_owned() };
    let refused = other.images().get_usage(of_one.clone()).await.unwrap_err();
    assert_status(&refused, Code::PermissionDenied, "SCOPE_MISSING");
    let quota = SetQuotaRequest { tenant: "tenant-two".to_owned(), ..SetQuotaRequest::default() };
    let refused = other.images().set_quota(quota).await.unwrap_err();
    assert_status(&refused, Code::PermissionDenied, "SCOPE_MISSING");
    let operator = service.client_with_key(&service.make_key("admin", None));
    let usage = operator.images().get_usage(of_one).await.unwrap().into_inner().usage.unwrap();
    assert_eq!((usage.tenant.as_str(), usage.images), ("tenant-one", 1));
    assert_eq!(
        other
            .images()
            .get_usage(GetUsageRequest::default())
            .await
            .unwrap()
            .into_inner()
            .usage
            .unwrap()
            .images,
        0
    );

    // Nothing that was tried has changed anything.
    assert_eq!(one.get_job(&job.name).await.unwrap(), job);
    assert_eq!(one.get_upload(&name_of(&open)).await.unwrap().durable_bytes, 19);
    // The same upload id or request id at another tenant is no way in either.
    let stream = Stream::begin(&other, &open).await;
    stream.chunk(0, b"mine").await;
    let refused = stream.close().await;
    if let Ok(answer) = &refused {
        assert_eq!(answer.upload.as_ref().unwrap().durable_bytes, 4);
    }
    assert_eq!(one.get_upload(&name_of(&open)).await.unwrap().durable_bytes, 19);
    let page = one.list_jobs(ListJobsRequest { page_size: 1, ..Default::default() }).await.unwrap();
    assert_eq!(page.next_page_token, "");
}

/// Requests that name a thing of a tenant over REST: method, path as the API description has it, type of the body, body.
/// `{id}` stands for the uuid, in both.
const NAMING: [(&str, &str, &str, &str); 38] = [
    ("GET", "/v1/images/{id}", "", ""),
    ("GET", "/v1/images/{id}/work", "", ""),
    ("PATCH", "/v1/images/{id}", JSON, r#"{"displayName":"mine"}"#),
    ("DELETE", "/v1/images/{id}", "", ""),
    ("POST", "/v1/images/{id}:restore", "", ""),
    ("POST", "/v1/images/{id}:purge", "", ""),
    ("POST", "/v1/images/{id}:copy", JSON, "{}"),
    ("DELETE", "/v1/images/{id}/replicas/{store}", "", ""),
    ("GET", "/v1/images/{id}/content", "", ""),
    ("HEAD", "/v1/images/{id}/content", "", ""),
    ("PUT", "/v1/images/{id}/content", "application/octet-stream", "mine"),
    ("POST", "/v1/checks", JSON, OF_IMAGE),
    ("POST", "/v1/compressions", JSON, OF_IMAGE),
    ("POST", "/v1/estimates", JSON, OF_IMAGE),
    ("POST", "/v1/conversions", JSON, r#"{"source":{"image":"images/{id}"},"format":"IMAGE_FORMAT_RAW"}"#),
    ("POST", "/v1/inspections", JSON, OF_IMAGE),
    ("POST", "/v1/imports", JSON, r#"{"url":"https://mirror.example/a","metadata":{"image":"images/{id}"}}"#),
    ("GET", "/v1/jobs/{id}", "", ""),
    ("GET", "/v1/jobs/{id}/events", "", ""),
    ("POST", "/v1/jobs/{id}:cancel", "", ""),
    ("DELETE", "/v1/jobs/{id}", "", ""),
    ("GET", "/v1/uploads/{id}", "", ""),
    ("HEAD", "/v1/uploads/{id}", "", ""),
    ("PATCH", "/v1/uploads/{id}", "application/offset+octet-stream", "mine"),
    ("POST", "/v1/uploads/{id}", "application/offset+octet-stream", "mine"),
    ("DELETE", "/v1/uploads/{id}", "", ""),
    ("GET", "/v1/sessions/{session}", "", ""),
    ("POST", "/v1/sessions/{session}:compose", JSON, r#"{"displayName":"mine"}"#),
    ("DELETE", "/v1/sessions/{session}", "", ""),
    ("GET", "/v1/keys/{id}", "", ""),
    ("POST", "/v1/keys/{id}:revoke", "", ""),
    ("GET", "/image-management/v1/images/{id}", "", ""),
    ("GET", "/image-management/v1/images/{id}/action/download", "", ""),
    ("POST", "/image-management/v1/images/{id}/action/slim", "", ""),
    ("DELETE", "/image-management/v1/images/{id}", "", ""),
    ("GET", "/api/v1/vmimage/check/{id}", "", ""),
    ("GET", "/api/v1/vmimage/compress/{id}", "", ""),
    // Of a session that another tenant has, a part is the caller's own.
    ("PUT", "/v1/sessions/{session}/parts/{part}", "application/octet-stream", "mine"),
];
const JSON: &str = "application/json";
const OF_IMAGE: &str = r#"{"source":{"image":"images/{id}"}}"#;

/// Answers to [`NAMING`], without what names the thing.
fn rest_answers(
    service: &Service,
    key: &str,
    things: &Things,
) -> BTreeMap<(&'static str, &'static str), Answer> {
    let bearer = format!("Bearer {key}");
    let mut answers = BTreeMap::new();
    for (method, path, content_type, body) in NAMING {
        let name = match path {
            _ if path.contains("{session}") => &things.session,
            _ if path.starts_with("/v1/jobs") || path.contains("/vmimage/") => &things.job,
            _ if path.starts_with("/v1/uploads") => &things.open_upload,
            _ if path.starts_with("/v1/keys") => &things.key,
            _ => &things.image,
        };
        let id = name.rsplit('/').next().unwrap();
        let fill = |text: &str| {
            let text = text.replace("{id}", id).replace("{session}", id);
            text.replace("{store}", "default").replace("{part}", "1")
        };
        let mut headers =
            vec![("authorization", bearer.as_str()), ("x-request-id", "same"), ("tus-resumable", "1.0.0")];
        if !content_type.is_empty() {
            headers.push(("content-type", content_type));
        }
        if path.starts_with("/v1/uploads") {
            headers.extend([("upload-offset", "0"), ("x-http-method-override", "PATCH")]);
        }
        let mut answer = request(service.http(), method, &fill(path), &headers, fill(body).as_bytes());
        answer.headers.retain(|(name, _)| name != "date");
        for (_, value) in &mut answer.headers {
            *value = value.replace(id, "");
        }
        answer.body = answer.text().replace(id, "").into_bytes();
        answers.insert((method, path), answer);
    }
    answers
}

/// SEC-29: the same over REST, for every route of the API description that names a thing.
#[tokio::test]
async fn sec_29_rest_answers_for_other_tenants_as_for_nobody() {
    let service = start();
    let (key, other) =
        (service.make_key("admin", Some("tenant-one")), service.make_key("admin", Some("tenant-two")));
    let one = service.client_with_key(&key);
    let stored = upload(&one, &[1; 5000]).await;
    let check = CheckRequest { source: image(&stored.name), ..CheckRequest::default() };
    let job = one.check(check).await.unwrap();
    let job = wait_for(&one, &job.name, JobState::Succeeded).await;
    let open = metadata("open");
    let stream = Stream::begin(&one, &open).await;
    stream.chunk(0, b"bytes of tenant one").await;
    stream.close().await.unwrap();
    let things = Things {
        image: stored.name.clone(),
        job: job.name.clone(),
        open_upload: name_of(&open),
        session: uuid::Uuid::new_v4().to_string(),
        key: one.list_keys(ListKeysRequest::default()).await.unwrap().keys[0].name.clone(),
    };
    let part = UploadMetadata { session: things.session.clone(), part: 1, ..metadata("part") };
    let stream = Stream::begin(&one, &part).await;
    stream.chunk(0, b"a part").await;
    stream.commit(UploadCommit::default()).await.unwrap();

    let theirs = rest_answers(&service, &other, &things);
    let unknown = rest_answers(&service, &other, &Things::unknown());
    for (route, answer) in &theirs {
        let unknown = &unknown[route];
        assert_eq!(answer.status, unknown.status, "{route:?}: {}", answer.text());
        assert_eq!(answer.headers, unknown.headers, "{route:?}");
        if !route.1.ends_with("/parts/{part}") {
            assert_eq!(answer.text(), unknown.text(), "{route:?}");
        }
        // The lists of a session are empty, and dropping its parts is no error; the legacy services have codes of their own.
        let has_own_code = route.1.contains("{session}") || !route.1.starts_with("/v1/");
        assert!(has_own_code || answer.status == 404, "{route:?}: {} {}", answer.status, answer.text());
    }
    // No route is forgotten, but for those of stores and tenants, which are the operator's.
    let document = request(service.http(), "GET", "/openapi.json", &[], &[]).json();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let is_covered = theirs.keys().any(|route| *route == (&*method.to_uppercase(), path.as_str()));
            let names_a_thing = ["{id}", "{session}"].iter().any(|parameter| path.contains(parameter));
            assert!(is_covered || !names_a_thing, "{method} {path}");
        }
    }
    // Nothing that was tried has changed anything.
    assert_eq!(one.get_image(&stored.name).await.unwrap(), stored);
    assert_eq!(one.get_job(&job.name).await.unwrap(), job);
    assert_eq!(one.get_upload(&name_of(&open)).await.unwrap().durable_bytes, 19);
    assert_eq!(one.get_upload(&name_of(&part)).await.unwrap().state(), UploadState::Stored);
    assert_eq!(one.get_key(&things.key).await.unwrap().state(), KeyState::Active);
    // The routes lead somewhere: to whom the things belong nothing is unknown.
    for (route, answer) in rest_answers(&service, &key, &things) {
        assert_ne!(answer.status, 404, "{route:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn files_of_the_image_root_belong_to_the_built_in_tenant() {
    let service = start();
    std::fs::write(service.image_path().join("a.raw"), [1; 4096]).unwrap();
    let built_in = service.client_with_key(&service.make_key("admin", None));
    let other = service.client_with_key(&service.make_key("admin", Some("tenant-one")));
    built_in.check(check_file("a.raw")).await.unwrap();
    for name in ["a.raw", "missing.raw"] {
        let refused = other.stub().check(check_file(name)).await.unwrap_err();
        assert_status(&refused, Code::PermissionDenied, "FILE_SOURCES_DENIED");
        let inspect = InspectRequest { source: file(name), declared_format: 0 };
        let refused = other.stub().inspect(inspect).await.unwrap_err();
        assert_status(&refused, Code::PermissionDenied, "FILE_SOURCES_DENIED");
        let compress = CompressRequest {
            source: file(name),
            output_file: "out.img".to_owned(),
            ..CompressRequest::default()
        };
        let refused = other.stub().compress(compress).await.unwrap_err();
        assert_status(&refused, Code::PermissionDenied, "FILE_SOURCES_DENIED");
    }
    assert_eq!(service.image_names(), ["a.raw"]);
}

/// The REST faces ask for the same keys.
#[tokio::test]
async fn rest_asks_for_the_same_keys() {
    let service = start();
    std::fs::write(service.image_path().join("a.raw"), [1; 4096]).unwrap();
    let reader = format!("Bearer {}", service.make_key("read", None));
    let writer = format!("Bearer {}", service.make_key("write", None));
    let call = |method: &str, path: &str, key: Option<&str>, body: &str| {
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(key.map(|key| ("authorization", key)));
        request(service.http(), method, path, &headers, body.as_bytes())
    };
    let check = r#"{"source":{"file":"a.raw"}}"#;
    for key in [None, Some("Bearer iok_wrong"), Some("Basic aW9rOng=")] {
        let answer = call("GET", "/v1/jobs", key, "");
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (401, Some("UNAUTHENTICATED")));
        assert!(answer.header("www-authenticate").is_some(), "{:?}", answer.headers);
    }
    assert_eq!(call("GET", "/v1/jobs", Some(&reader), "").status, 200);
    let refused = call("POST", "/v1/checks", Some(&reader), check);
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (403, Some("SCOPE_MISSING")));
    assert_eq!(call("POST", "/v1/checks", Some(&writer), check).status, 202);
    // The legacy surface has no keys of its own, and is no way around them.
    let legacy = r#"{"inputImageName":"a.raw"}"#;
    assert_ne!(call("POST", "/api/v1/vmimage/check", None, legacy).status, 200);
    assert_eq!(call("POST", "/api/v1/vmimage/check", Some(&writer), legacy).status, 200);
    // Probes are open.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(call("GET", path, None, "").status, 200, "{path}");
    }
}

/// SEC-40: whatever is logged, no secret is.
#[tokio::test]
async fn sec_40_secrets_are_never_logged() {
    let service = start();
    let key = service.make_key("admin", None);
    let client = service.client_with_key(&key);
    client.list_jobs(ListJobsRequest::default()).await.unwrap();
    upload(&client, &[1; 5000]).await;
    let wrong = format!("{key}ff");
    service.client_with_key(&wrong).list_jobs(ListJobsRequest::default()).await.unwrap_err();
    let bearer = format!("Bearer {key}");
    let answer = request(service.http(), "GET", "/v1/jobs", &[("authorization", &bearer)], &[]);
    assert_eq!(answer.status, 200);
    let metrics = request(service.http(), "GET", "/metrics", &[("authorization", &bearer)], &[]);
    let logged = service.output();
    assert!(logged.contains("TRACE"), "the log is silent, the test would show nothing");
    let part = &key[4..20];
    for text in [logged.as_str(), metrics.text(), answer.text()] {
        assert!(!text.contains(part), "a secret is in: {}", &text[text.find(part).unwrap_or(0)..][..200]);
    }
}
