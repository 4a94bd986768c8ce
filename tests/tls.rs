//! TLS on both ports: who is let in, who is named by a certificate, and what changes without a restart.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use imageops::v1::{CreateKeyRequest, KeyScope, ListJobsRequest, ListKeysRequest};
use imageops_client::{Client, ConnectOptions, Connection, Identity, RetryPolicy, TlsOptions, Token};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Code, Request};

use support::jobs::check_file;
use support::status::{assert_status, eventually};
use support::{DEADLINE, Service, binary};

/// An authority of its own, with files of its certificate and of those that it gave.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new(directory: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // A name of its own: a certificate that names its own subject as authority looks as if it had signed itself.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::create_dir_all(directory).unwrap();
        let authority = Self { issuer, directory: directory.to_owned() };
        fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Gives a certificate; its file and that of its key.
    fn give(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let files = (self.directory.join(format!("{name}.pem")), self.directory.join(format!("{name}.key")));
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

/// A server with certificates of an authority, and a directory for more of them.
struct Secured {
    service: Service,
    authority: Authority,
    directory: tempfile::TempDir,
}

fn start(arguments: &[&str], with_clients: bool) -> Secured {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(&directory.path().join("authority"));
    let (certificate, key) = authority.give("server");
    let mut all: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    all.extend(["--tls-cert".to_owned(), text(&certificate), "--tls-key".to_owned(), text(&key)]);
    if with_clients {
        all.extend(["--tls-client-ca".to_owned(), text(&authority.ca())]);
    }
    let service = Service::start_changed(|setup| setup.arguments = all);
    Secured { service, authority, directory }
}

/// A client that gives up at once.
fn client(grpc: SocketAddr, ca: &Path, identity: Option<&(PathBuf, PathBuf)>, key: Option<&str>) -> Client {
    let identity = identity.map(|(certificate, key)| Identity {
        certificate_pem: fs::read(certificate).unwrap(),
        key_pem: fs::read(key).unwrap(),
    });
    let options = ConnectOptions {
        token: key.map(|key| Token::new(key).unwrap()),
        tls: TlsOptions { ca_pem: Some(fs::read(ca).unwrap()), identity },
        ..ConnectOptions::default()
    };
    let connection = Connection::connect_lazy(&format!("https://{grpc}"), options).unwrap();
    let once = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    Client::new(connection).with_retry(once)
}

async fn list(client: &Client) -> Result<(), imageops_client::Error> {
    client.list_jobs(ListJobsRequest::default()).await.map(drop)
}

/// What curl answers: the status alone.
fn curl(address: SocketAddr, path: &str, ca: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "60", "--cacert"])
        .arg(ca)
        .args(arguments)
        .arg(format!("https://{address}{path}"))
        .output()
        .unwrap();
    let status = String::from_utf8(output.stdout).unwrap();
    if output.status.success() { Ok(status) } else { Err(format!("{} {status}", output.status)) }
}

fn command_line(secured: &Secured, identity: Option<&(PathBuf, PathBuf)>, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("imageops"));
    command.args(["--server", &secured.service.grpc().to_string(), "--ca"]).arg(secured.authority.ca());
    if let Some((certificate, key)) = identity {
        command.arg("--client-cert").arg(certificate).arg("--client-key").arg(key);
    }
    command.args(arguments).output().unwrap()
}

#[tokio::test]
async fn both_ports_speak_tls_and_nothing_else() {
    let secured = start(&[], false);
    let Secured { service, authority, directory } = &secured;
    let ca = authority.ca();
    list(&client(service.grpc(), &ca, None, None)).await.unwrap();
    assert_eq!(curl(service.http(), "/healthz", &ca, &[]).unwrap(), "200");
    assert_eq!(curl(service.http(), "/v1/jobs", &ca, &["--http1.1"]).unwrap(), "200");
    assert_eq!(curl(service.http(), "/v1/jobs", &ca, &["--tlsv1.2", "--tls-max", "1.2"]).unwrap(), "200");
    assert!(curl(service.http(), "/healthz", &ca, &["--tls-max", "1.1"]).is_err());
    assert!(command_line(&secured, None, &["job", "list"]).status.success());

    // Another authority, another protocol: no way in.
    let stranger = Authority::new(&directory.path().join("stranger"));
    assert!(list(&client(service.grpc(), &stranger.ca(), None, None)).await.unwrap_err().is_transport());
    assert!(curl(service.http(), "/healthz", &stranger.ca(), &[]).is_err());
    let plain = Connection::connect_lazy(&format!("http://{}", service.grpc()), ConnectOptions::default());
    let once = RetryPolicy { attempts_max: 1, ..RetryPolicy::default() };
    assert!(list(&Client::new(plain.unwrap()).with_retry(once)).await.is_err());
}

#[tokio::test]
async fn certificates_are_renewed_without_a_restart() {
    let Secured { service, authority, directory } = start(&[], false);
    let (certificate, key) = (authority.directory.join("server.pem"), authority.directory.join("server.key"));
    let hang_up = || kill_process(Pid::from_raw(service.id().cast_signed()).unwrap(), Signal::HUP).unwrap();
    let early = client(service.grpc(), &authority.ca(), None, None);
    list(&early).await.unwrap();

    let next = Authority::new(&directory.path().join("next"));
    let (new_certificate, new_key) = next.give("server");
    fs::copy(&new_certificate, &certificate).unwrap();
    hang_up();
    eventually("a word about the certificate without its key", || async {
        service.output().contains("the new certificates cannot be used").then_some(())
    })
    .await;
    // The old one is in use still.
    list(&client(service.grpc(), &authority.ca(), None, None)).await.unwrap();
    // Nobody says that this one has come: the files are looked at.
    fs::copy(&new_key, &key).unwrap();
    eventually("the new certificate", || async {
        list(&client(service.grpc(), &next.ca(), None, None)).await.ok()
    })
    .await;
    assert_eq!(curl(service.http(), "/healthz", &next.ca(), &[]).unwrap(), "200");
    assert!(list(&client(service.grpc(), &authority.ca(), None, None)).await.is_err());
    // The connection of before stays; a new one would not trust the certificate.
    list(&early).await.unwrap();
    let mut files = Vec::new();
    for path in [&certificate, &key] {
        files.push(fs::read(path).unwrap());
        fs::write(path, "nothing").unwrap();
    }
    hang_up();
    eventually("a word about files without certificates", || async {
        service.output().contains("holds no certificate").then_some(())
    })
    .await;
    list(&client(service.grpc(), &next.ca(), None, None)).await.unwrap();
}

#[tokio::test]
async fn a_certificate_names_its_key() {
    let secured = start(&["--auth", "mtls"], true);
    let Secured { service, authority, directory } = &secured;
    let ca = authority.ca();
    let (reader, admin, nobody) =
        (authority.give("reader"), authority.give("admin"), authority.give("nobody"));
    let reader_file = reader.0.to_str().unwrap();
    let made = service.create_key(&[
        "--certificate",
        admin.0.to_str().unwrap(),
        "--scopes",
        "admin",
        "--label",
        "operator",
    ]);
    assert!(made.starts_with("keys/") && !made.contains("iok_"), "{made}");
    let output = command_line(
        &secured,
        Some(&admin),
        &["key", "create", "--certificate", reader_file, "--scopes", "read", "--tenant", "t"],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let reads = client(service.grpc(), &ca, Some(&reader), None);
    list(&reads).await.unwrap();
    let refused = reads.stub().check(check_file("a.raw")).await.unwrap_err();
    assert_status(&refused, Code::PermissionDenied, "SCOPE_MISSING");
    let operator = client(service.grpc(), &ca, Some(&admin), None);
    let keys = operator.list_keys(ListKeysRequest::default()).await.unwrap().keys;
    assert_eq!(keys.len(), 2);
    assert_eq!((keys[0].tenant.as_str(), keys[0].certificate_sha256.len()), ("t", 64));

    // No certificate, one without a key, a secret: nothing of that names a caller. Nor does a claim.
    let without = client(service.grpc(), &ca, None, None);
    assert_eq!(list(&without).await.unwrap_err().reason(), "UNAUTHENTICATED");
    let mut claim = Request::new(ListJobsRequest::default());
    let text = format!("127.0.0.1:1 {}", keys[0].certificate_sha256);
    claim.metadata_mut().insert("imageops-peer", text.parse().unwrap());
    let refused = without.stub().list_jobs(claim).await.unwrap_err();
    assert_status(&refused, Code::Unauthenticated, "UNAUTHENTICATED");
    let keyless = client(service.grpc(), &ca, Some(&nobody), None);
    assert_eq!(list(&keyless).await.unwrap_err().reason(), "UNAUTHENTICATED");
    let secret = CreateKeyRequest { scopes: vec![KeyScope::Admin.into()], ..CreateKeyRequest::default() };
    let secret = operator.create_key(secret).await.unwrap().secret;
    let by_secret = client(service.grpc(), &ca, Some(&nobody), Some(&secret));
    assert_eq!(list(&by_secret).await.unwrap_err().reason(), "UNAUTHENTICATED");
    let stranger = Authority::new(&directory.path().join("stranger")).give("reader");
    assert!(list(&client(service.grpc(), &ca, Some(&stranger), None)).await.unwrap_err().is_transport());

    // The same over REST; probes are open.
    let with = |files: &(PathBuf, PathBuf)| {
        ["--cert", files.0.to_str().unwrap(), "--key", files.1.to_str().unwrap()].map(str::to_owned)
    };
    let call = |path: &str, arguments: &[String]| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        curl(service.http(), path, &ca, &arguments)
    };
    assert_eq!(call("/v1/jobs", &with(&reader)).unwrap(), "200");
    assert_eq!(call("/v1/keys", &with(&reader)).unwrap(), "403");
    assert_eq!(call("/v1/jobs", &with(&nobody)).unwrap(), "401");
    assert_eq!(call("/v1/jobs", &[]).unwrap(), "401");
    assert_eq!(call("/v1/jobs", &["-H".to_owned(), format!("imageops-peer: {text}")]).unwrap(), "401");
    assert_eq!(call("/healthz", &[]).unwrap(), "200");
    assert_eq!(call("/readyz", &[]).unwrap(), "200");
    assert!(call("/healthz", &with(&stranger)).is_err());

    // Revoked, on a connection that is open.
    operator.revoke_key(&keys[0].name).await.unwrap();
    assert_eq!(list(&reads).await.unwrap_err().reason(), "UNAUTHENTICATED");
    let again = CreateKeyRequest {
        scopes: vec![KeyScope::Admin.into()],
        certificate_sha256: keys[0].certificate_sha256.clone(),
        ..CreateKeyRequest::default()
    };
    assert_eq!(operator.create_key(again).await.unwrap_err().reason(), "KEY_EXISTS");
}

/// An authority for clients keeps everyone out who has no certificate of it, whatever else proves who they are.
#[tokio::test]
async fn a_secret_alone_is_not_enough_where_certificates_are_asked_for() {
    let Secured { service, authority, directory: _directory } = start(&["--auth", "token"], true);
    let secret = service.make_key("read", None);
    let (ca, files) = (authority.ca(), authority.give("caller"));
    let without = client(service.grpc(), &ca, None, Some(&secret));
    assert_eq!(list(&without).await.unwrap_err().reason(), "UNAUTHENTICATED");
    let alone = client(service.grpc(), &ca, Some(&files), None);
    assert_eq!(list(&alone).await.unwrap_err().reason(), "UNAUTHENTICATED");
    list(&client(service.grpc(), &ca, Some(&files), Some(&secret))).await.unwrap();
}

/// Connections that say nothing hold nobody up, and are closed.
#[tokio::test]
async fn slow_handshakes_hold_nobody_up() {
    let Secured { service, authority, directory: _directory } = start(&[], false);
    let ca = authority.ca();
    for address in [service.grpc(), service.http()] {
        let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
        let begun = Instant::now();
        list(&client(service.grpc(), &ca, None, None)).await.unwrap();
        assert_eq!(curl(service.http(), "/healthz", &ca, &[]).unwrap(), "200");
        assert!(begun.elapsed() < Duration::from_secs(9), "the silent ones were waited for");
        for mut stream in silent.into_iter().take(3) {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
        }
    }
}

/// The gateway of another host: TLS to the server, and on its own port.
#[tokio::test]
async fn a_remote_gateway_speaks_tls_on_both_sides() {
    let Secured { service, authority, directory: _directory } = start(&["--auth", "mtls"], true);
    let (own, shown) = (authority.give("gateway"), authority.give("shown"));
    service.create_key(&["--certificate", shown.0.to_str().unwrap(), "--scopes", "read"]);
    let address = {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        probe.local_addr().unwrap()
    };
    let mut gateway = Command::new(binary("imageops-gateway"))
        .args(["--upstream", &format!("https://{}", service.grpc()), "--http-listen", &address.to_string()])
        .arg("--upstream-ca")
        .arg(authority.ca())
        .arg("--upstream-cert")
        .arg(&shown.0)
        .arg("--upstream-key")
        .arg(&shown.1)
        .arg("--tls-cert")
        .arg(&own.0)
        .arg("--tls-key")
        .arg(&own.1)
        .spawn()
        .unwrap();
    let up =
        eventually("the gateway", || async { curl(address, "/readyz", &authority.ca(), &[]).ok() }).await;
    let jobs = curl(address, "/v1/jobs", &authority.ca(), &[]);
    let keys = curl(address, "/v1/keys", &authority.ca(), &[]);
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    assert_eq!((up.as_str(), jobs.as_deref(), keys.as_deref()), ("200", Ok("200"), Ok("403")));
}

/// A digest of a certificate is no secret: whoever could bind it would have its owner act for another tenant.
#[tokio::test]
async fn a_certificate_is_bound_by_an_operator_alone() {
    let secured = start(&["--auth", "mtls"], true);
    let Secured { service, authority, .. } = &secured;
    let admin = authority.give("admin");
    let file = admin.0.to_str().unwrap();
    service.create_key(&["--certificate", file, "--scopes", "admin", "--tenant", "t"]);
    let client = client(service.grpc(), &authority.ca(), Some(&admin), None);
    let wanted = CreateKeyRequest {
        scopes: vec![KeyScope::Read.into()],
        certificate_sha256: "ab".repeat(32),
        ..CreateKeyRequest::default()
    };
    let refused = client.create_key(wanted.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let with_secret = CreateKeyRequest { certificate_sha256: String::new(), ..wanted };
    assert_eq!(client.create_key(with_secret).await.unwrap().key.unwrap().tenant, "t");
}

/// Neither HTTP/1 nor HTTP/2 has begun, so that the time limit of neither runs.
#[tokio::test(flavor = "multi_thread")]
async fn sec_37_who_never_says_what_it_speaks_is_let_go() {
    let service = Service::start();
    let mut silent = Vec::new();
    for address in [service.grpc(), service.http()] {
        for beginning in ["", "PR", "PRI * HTTP/2.0\r\n"] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(beginning.as_bytes()).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            silent.push((address, beginning, stream));
        }
    }
    for (address, beginning, mut stream) in silent {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        assert!(end.is_ok(), "expected {address} to close what began with {beginning:?}: {end:?}");
    }
}
