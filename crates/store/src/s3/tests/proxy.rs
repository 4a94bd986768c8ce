//! A proxy between store and server that does harm on demand.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// Nothing.
    None,
    /// Answered with this status, and never passed on.
    Status(u16),
    /// Passed on, but the connection breaks instead of the answer.
    AnswerLost,
    /// The connection breaks in the middle of the answer's body.
    Truncated,
    /// Never answered.
    Silence,
    /// Answered late.
    Slow,
    /// The answer has no entity tag.
    NoTag,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Choice = Box<dyn FnMut(&Request<Bytes>) -> Harm + Send>;

/// A running proxy; it ends with its runtime.
pub(super) struct Proxy {
    pub(super) address: String,
    state: Arc<State>,
}

struct State {
    server: String,
    choice: Mutex<Choice>,
    requests: Mutex<Vec<String>>,
}

impl Proxy {
    pub(super) fn start(runtime: &Handle, server: &str) -> Self {
        let listener = runtime.block_on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            server: server.to_owned(),
            choice: Mutex::new(Box::new(|_| Harm::None)),
            requests: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let service = service_fn(|request| Arc::clone(&state).pass(request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state }
    }

    /// What happens from now on.
    pub(super) fn choose(&self, choice: impl FnMut(&Request<Bytes>) -> Harm + Send + 'static) {
        *self.state.choice.lock().unwrap() = Box::new(choice);
    }

    /// Method and target of the requests so far.
    pub(super) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }
}

impl State {
    async fn pass(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let request = Request::from_parts(parts, body);
        self.requests.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
        let harm = (self.choice.lock().unwrap())(&request);
        let is_head = request.method() == Method::HEAD;
        match harm {
            Harm::Status(status) => {
                let mut answer = Response::new(whole(Bytes::new()));
                *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                return Ok(answer);
            }
            Harm::Silence => std::future::pending::<()>().await,
            Harm::Slow => tokio::time::sleep(Duration::from_millis(200)).await,
            _ => {}
        }
        let mut answer = self.ask(request).await?;
        match harm {
            Harm::AnswerLost => return Err(io::ErrorKind::ConnectionReset.into()),
            Harm::NoTag => drop(answer.headers_mut().remove("etag")),
            Harm::Truncated if !is_head && !answer.body().is_empty() => return Ok(answer.map(half)),
            _ => {}
        }
        Ok(answer.map(whole))
    }

    async fn ask(&self, request: Request<Bytes>) -> io::Result<Response<Bytes>> {
        let stream = TcpStream::connect(&self.server).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let answer = sender.send_request(request.map(Full::new)).await.map_err(io::Error::other)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The head has told the length of the whole.
fn half(bytes: Bytes) -> Body {
    let half = bytes.slice(..bytes.len() / 2);
    let frames = [Ok(Frame::data(half)), Err(io::ErrorKind::ConnectionReset.into())];
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}
