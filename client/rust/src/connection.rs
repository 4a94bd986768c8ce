//! The way to a server: over the network, or straight into services in the same process.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, Uri};
use imageops::v1::image_ops_client::ImageOpsClient;
use imageops::v1::images_client::ImagesClient;
use imageops::v1::keys_client::KeysClient;
use imageops::v1::stores_client::StoresClient;
use tonic::body::Body;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tower::util::{BoxCloneSyncService, MapErrLayer, MapRequestLayer, MapResponseLayer};
use tower::{Layer, Service};

use crate::error::{Error, Result};

/// Largest message that is sent or taken, in bytes: a chunk of 1 MiB and its frame fit with room to spare.
pub const MESSAGE_SIZE_BYTES_MAX: usize = 4 << 20;

/// How much one call may have in flight towards us, in bytes. The 64 KiB that HTTP/2 starts with would hold a download
/// to one window per round trip.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// The same for all calls of a connection together.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Longest HTTP/2 frame that we take, in bytes: with the 16 KiB that HTTP/2 starts with, each of them costs the server a
/// system call.
const FRAME_BYTES_MAX: u32 = 256 << 10;

/// What a failing connection says.
type BoxError = Box<dyn StdError + Send + Sync>;

/// A key for the server, shown nowhere.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// Takes the text of a key as `imageops-server key create` printed it; white space around it is dropped.
    pub fn new(key: &str) -> Result<Self> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim())).map_err(|_| Error::Token)?;
        // Keeps it out of HTTP/2's header table and out of every debug print of the headers.
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(hidden)")
    }
}

/// A client certificate and its key, in PEM. The key is shown nowhere.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, and behind it those that lead to its authority.
    pub certificate_pem: Vec<u8>,
    /// The private key.
    pub key_pem: Vec<u8>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identity(hidden)")
    }
}

/// What `https` addresses are connected to with. An `http` address takes none of it.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// Authorities that the server's certificate must lead to, in PEM. Absent: those of the system.
    pub ca_pem: Option<Vec<u8>>,
    /// What proves who the client is.
    pub identity: Option<Identity>,
}

impl TlsOptions {
    fn is_default(&self) -> bool {
        self.ca_pem.is_none() && self.identity.is_none()
    }

    fn config(self, host: &str) -> ClientTlsConfig {
        // The name that the certificate must have. Addresses of version 6 stand in brackets.
        let mut config = ClientTlsConfig::new().domain_name(host.trim_matches(['[', ']']));
        config = match self.ca_pem {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.with_native_roots(),
        };
        match self.identity {
            Some(Identity { certificate_pem, key_pem }) => {
                config.identity(tonic::transport::Identity::from_pem(certificate_pem, key_pem))
            }
            None => config,
        }
    }
}

/// How a connection is made and kept.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Key sent with every call; none by default.
    pub token: Option<Token>,
    /// What `https` addresses are connected to with.
    pub tls: TlsOptions,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How often an open connection is asked for a sign of life while calls are running.
    pub keep_alive_interval: Duration,
    /// How long the sign of life may take before the connection counts as broken.
    pub keep_alive_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            token: None,
            tls: TlsOptions::default(),
            connect_timeout: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
        }
    }
}

/// A connection to `imageops.v1`, cheap to clone. Clones share what is below them.
///
/// It is a service under the generated stubs, whatever is behind it: [`Connection::stub`] gives the stub.
#[derive(Clone)]
pub struct Connection(BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>);

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Connection")
    }
}

impl Connection {
    /// A connection to the server at `uri` (`http://host:port` or `https://host:port`), opened by the first call and again after it broke.
    ///
    /// Must be called within a Tokio runtime: the connection's task is started there.
    pub fn connect_lazy(uri: &str, options: ConnectOptions) -> Result<Self> {
        let parsed: Uri = uri.parse().map_err(|_| Error::Address { uri: uri.to_owned() })?;
        let host = parsed.host().unwrap_or_default().to_owned();
        let is_encrypted = match parsed.scheme_str() {
            _ if host.is_empty() => return Err(Error::Address { uri: uri.to_owned() }),
            Some("https") => true,
            Some("http") if options.tls.is_default() => false,
            Some("http") => {
                return Err(Error::Tls("the address begins with http://, not https://".to_owned()));
            }
            _ => return Err(Error::Address { uri: uri.to_owned() }),
        };
        let mut endpoint = Endpoint::from(parsed);
        if is_encrypted {
            endpoint =
                endpoint.tls_config(options.tls.config(&host)).map_err(|error| Error::Tls(told(&error)))?;
        }
        let channel = endpoint
            .user_agent(concat!("imageops-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| Error::Address { uri: uri.to_owned() })?
            .connect_timeout(options.connect_timeout)
            .http2_keep_alive_interval(options.keep_alive_interval)
            .keep_alive_timeout(options.keep_alive_timeout)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .tcp_nodelay(true)
            .connect_lazy();
        let Some(Token(token)) = options.token else {
            return Ok(Self::from_boxed(MapErrLayer::new(BoxError::from).layer(channel)));
        };
        let authorize = MapRequestLayer::new(move |mut request: Request<Body>| {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
            request
        });
        Ok(Self::from_boxed(MapErrLayer::new(BoxError::from).layer(authorize.layer(channel))))
    }

    /// A connection straight into services of this process (tonic's `Routes`): no socket, no HTTP/2 between.
    pub fn from_service<S, B>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let erase = MapResponseLayer::new(|response: Response<B>| response.map(Body::new));
        Self::from_boxed(MapErrLayer::new(|never: Infallible| match never {}).layer(erase.layer(service)))
    }

    fn from_boxed<S>(service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = BoxError>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Self(BoxCloneSyncService::new(service))
    }

    /// The generated stub of `Images` over this connection, with the limits of the contract set.
    pub fn images(&self) -> ImagesClient<Self> {
        ImagesClient::new(self.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated stub of `Stores` over this connection, with the limits of the contract set.
    pub fn stores(&self) -> StoresClient<Self> {
        StoresClient::new(self.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated stub of `Keys` over this connection, with the limits of the contract set.
    pub fn keys(&self) -> KeysClient<Self> {
        KeysClient::new(self.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }

    /// The generated stub of `ImageOps` over this connection, with the limits of the contract set.
    pub fn stub(&self) -> ImageOpsClient<Self> {
        ImageOpsClient::new(self.clone())
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX)
    }
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future =
        <BoxCloneSyncService<Request<Body>, Response<Body>, BoxError> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

/// An error with what is behind it.
fn told(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_printed() {
        let token = Token::new("  secret-key\n").unwrap();
        let options = ConnectOptions { token: Some(token.clone()), ..ConnectOptions::default() };
        for text in
            [format!("{token:?}"), format!("{options:?}"), format!("{options:#?}"), format!("{:?}", token.0)]
        {
            assert!(!text.contains("secret"), "{text}");
        }
        assert_eq!(token.0.as_bytes(), b"Bearer secret-key");
        assert!(Token::new("two\nlines").is_err());
    }

    #[tokio::test]
    async fn only_addresses_that_can_work_are_taken() {
        for uri in ["http://127.0.0.1:50051", "http://[::1]:1", "http://images.example"] {
            assert!(Connection::connect_lazy(uri, ConnectOptions::default()).is_ok(), "{uri}");
        }
        for uri in ["", "127.0.0.1:50051", "https://", "ftp://x", "http://", "http://a b"] {
            assert!(Connection::connect_lazy(uri, ConnectOptions::default()).is_err(), "{uri}");
        }
        // Whoever names an authority means TLS.
        let tls = TlsOptions { ca_pem: Some(Vec::new()), identity: None };
        let options = ConnectOptions { tls, ..ConnectOptions::default() };
        let refused = Connection::connect_lazy("http://127.0.0.1:1", options.clone());
        assert!(matches!(refused, Err(Error::Tls(_))));
        assert!(Connection::connect_lazy("https://127.0.0.1:1", options).is_ok());
    }

    #[tokio::test]
    async fn a_service_of_this_process_is_called_directly() {
        let service = tower::service_fn(|request: Request<Body>| async move {
            assert_eq!(request.uri().path(), "/imageops.v1.ImageOps/GetJob");
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "5")
                .header("grpc-message", "no such job")
                .body(Body::empty());
            Ok::<_, Infallible>(response.unwrap())
        });
        let request = imageops::v1::GetJobRequest { name: "jobs/x".to_owned() };
        let status = Connection::from_service(service).stub().get_job(request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "no such job"));
    }
}
