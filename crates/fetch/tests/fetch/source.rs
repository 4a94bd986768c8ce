//! A server that answers what a test says, honest or not, byte for byte.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imageops_fetch::{Error, Fetch, Fetcher, Gate, Limits, RootCertStore, Url};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Limits that tests can wait for.
pub(crate) fn limits() -> Limits {
    Limits {
        connect: Duration::from_millis(500),
        first_byte: Duration::from_millis(500),
        rate_window: Duration::from_millis(500),
        back_off: Duration::from_millis(1),
        tries_max: 3,
        ..Limits::default()
    }
}

/// Opens a source.
pub(crate) async fn open(gate: &Gate, url: &Url, limits: Limits) -> Result<Fetch, Error> {
    Fetcher::new(gate.clone(), limits, RootCertStore::empty()).unwrap().open(url).await
}

/// Opens a source that `roots` vouch for.
pub(crate) async fn open_tls(gate: &Gate, url: &Url, roots: &RootCertStore) -> Result<Fetch, Error> {
    Fetcher::new(gate.clone(), limits(), roots.clone()).unwrap().open(url).await
}

/// What came in.
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) head: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// First and last byte that were asked for.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().unwrap()))
    }
}

/// What goes out.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    head: String,
    body: Vec<u8>,
    /// Bytes of the body that are sent before the connection is closed.
    cut_after: Option<usize>,
    /// Sends the body again and again.
    endless: bool,
    /// Sends one byte at a time, and waits so long in between.
    trickle: Option<Duration>,
    /// Waits so long before the head.
    late: Duration,
}

impl Reply {
    /// A file, with its length.
    pub(crate) fn whole(body: &[u8]) -> Self {
        Self::head("200 OK", &format!("content-length: {}\r\n", body.len())).with(body)
    }

    /// The part of a file that was asked for, or all of it.
    pub(crate) fn part_of(body: &[u8], request: &Request) -> Self {
        let Some((first, last)) = request.range() else {
            let mut reply = Self::whole(body);
            reply.head.push_str("accept-ranges: bytes\r\n");
            return reply;
        };
        let part = &body[first..=last];
        let head = format!(
            "content-length: {}\r\ncontent-range: bytes {first}-{last}/{}\r\naccept-ranges: bytes\r\n",
            part.len(),
            body.len()
        );
        Self::head("206 Partial Content", &head).with(part)
    }

    /// A head without a body.
    pub(crate) fn head(status: &str, headers: &str) -> Self {
        Self { head: format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}"), ..Self::default() }
    }

    pub(crate) fn redirect(location: &str) -> Self {
        Self::head("302 Found", &format!("location: {location}\r\ncontent-length: 0\r\n"))
    }

    /// What is no HTTP.
    pub(crate) fn raw(text: &str) -> Self {
        Self { head: text.to_owned(), ..Self::default() }
    }

    pub(crate) fn with(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub(crate) fn tagged(mut self, etag: &str) -> Self {
        self.head.push_str(&format!("etag: {etag}\r\n"));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    pub(crate) fn endless(mut self) -> Self {
        self.endless = true;
        self
    }

    pub(crate) fn trickle(mut self, pause: Duration) -> Self {
        self.trickle = Some(pause);
        self
    }

    pub(crate) fn late(mut self, pause: Duration) -> Self {
        self.late = pause;
        self
    }

    async fn send<S: AsyncWrite + Unpin>(self, stream: &mut S, port: u16) -> std::io::Result<()> {
        tokio::time::sleep(self.late).await;
        let head = self.head.replace("PORT", &port.to_string());
        stream.write_all(head.as_bytes()).await?;
        if head.starts_with("HTTP/") {
            stream.write_all(b"\r\n").await?;
        }
        let body = &self.body[..self.cut_after.unwrap_or(self.body.len()).min(self.body.len())];
        if let Some(pause) = self.trickle {
            for byte in body {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                tokio::time::sleep(pause).await;
            }
            return Ok(());
        }
        loop {
            stream.write_all(body).await?;
            if !self.endless {
                return stream.shutdown().await;
            }
        }
    }
}

type Answers = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// The server; it goes with this.
pub(crate) struct Source {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    /// A server whose answers to the first, second, … request are those of `answers`.
    pub(crate) async fn start(answers: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(Arc::new(answers), None).await
    }

    /// The same over TLS, and who vouches for it.
    pub(crate) async fn start_tls(
        name: &str,
        answers: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> (Self, RootCertStore) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        (Self::start_with(Arc::new(answers), Some(Arc::new(config))).await, roots)
    }

    async fn start_with(answers: Arc<Answers>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let (seen, count) = (Arc::clone(&heads), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, seen, count, tls) =
                    (Arc::clone(&answers), Arc::clone(&seen), Arc::clone(&count), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, port, &*answers, &seen, &count).await,
                        Some(config) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(config);
                            match acceptor.accept(stream).await {
                                Ok(stream) => serve(stream, port, &*answers, &seen, &count).await,
                                Err(_) => Some(()),
                            }
                        }
                    }
                });
            }
        });
        Self { port, heads, task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Number of requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// Heads of the requests so far, in lower case.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// One request; the client's going away ends it.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    port: u16,
    answers: &Answers,
    seen: &Mutex<Vec<String>>,
    count: &AtomicUsize,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?.to_owned();
    seen.lock().unwrap().push(head.to_lowercase());
    let request = Request { path, head: head.to_lowercase() };
    let reply = answers(&request, count.fetch_add(1, Ordering::SeqCst));
    reply.send(&mut stream, port).await.ok()
}
