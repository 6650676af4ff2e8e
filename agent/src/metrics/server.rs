//! The thread that answers. It has a runtime of its own, so that no client keeps the agent's from the container
//! runtime; what a client can take is bounded by connections, size and time.

#![expect(
    clippy::disallowed_methods,
    reason = "a socket that a former agent has left is in the way"
)]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{Doors, Health, Metrics};

/// How many clients are served at a time; others wait.
const CLIENTS: usize = 8;

/// How many wait; the kernel drops further connections.
const BACKLOG: u32 = 32;

/// How long a client may take, for its request and to read the answer.
const LIMIT: Duration = Duration::from_secs(5);

/// The shortest time between two clients of a door: 50 in a second take a hundredth of a processor.
const PACE: Duration = Duration::from_millis(20);

/// The largest request.
const BUFFER: usize = 8 << 10;
const HEADERS: usize = 64;

/// The pause until a door is tried again that cannot be opened.
const RETRY: Duration = Duration::from_secs(5);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What is asked for.
#[derive(Debug)]
struct Served {
    metrics: Metrics,
    health: Arc<Health>,
}

/// Starts the thread, which ends with the process; none if there is no door.
///
/// # Errors
/// When the system has no thread left.
pub fn start(doors: Doors, metrics: Metrics, health: Arc<Health>) -> io::Result<()> {
    let Doors { address, socket } = doors;
    if address.is_none() && socket.is_none() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = Arc::new(Served { metrics, health });
    let run = move || {
        runtime.block_on(async {
            tokio::join!(at_address(address.map(|it| it.0), &served), at_socket(socket, &served));
        });
    };
    thread::Builder::new().name("metrics".to_owned()).spawn(run).map(drop)
}

async fn at_address(address: Option<SocketAddr>, served: &Arc<Served>) {
    let Some(address) = address else { return };
    let listener = opened(&address, || listen(address)).await;
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = clients.clone().acquire_owned().await else { return };
        if let Ok((stream, _)) = listener.accept().await {
            let served = served.clone();
            tokio::spawn(async move {
                serve(stream, served).await;
                drop(place);
            });
        }
        sleep(PACE).await;
    }
}

async fn at_socket(path: Option<PathBuf>, served: &Arc<Served>) {
    let Some(path) = path else { return };
    let listener = opened(&path.display(), || listen_at(&path)).await;
    // Only root opens it, so it needs no more than an order.
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            serve(stream, served.clone()).await;
        }
        sleep(PACE).await;
    }
}

/// Opens a door, if need be at a later attempt: the address may not be there yet.
async fn opened<T>(name: &impl std::fmt::Display, open: impl Fn() -> io::Result<T>) -> T {
    let mut told = String::new();
    loop {
        match open() {
            Ok(door) => return door,
            Err(error) if error.to_string() != told => {
                told = error.to_string();
                tracing::warn!(
                    "cannot serve metrics at {name}: {error}; retrying every {} s",
                    RETRY.as_secs()
                );
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // During an update the agents of two Pods have the address; the kernel permits that to the same user only.
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn listen_at(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => UnixListener::bind(path),
    }
}

/// Serves one request. What goes wrong is the client's affair.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, served: Arc<Served>) {
    let answer = service_fn(move |request| {
        let answer = served.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut connections = http1::Builder::new();
    connections.keep_alive(false).max_buf_size(BUFFER).max_headers(HEADERS);
    let _ = timeout(LIMIT, connections.serve_connection(TokioIo::new(stream), answer)).await;
}

impl Served {
    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD".to_owned());
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(),
            "/healthz" => state(self.health.alive()),
            "/readyz" => state(self.health.ready()),
            _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz, /readyz".to_owned()),
        }
    }

    fn metrics(&self) -> Response<String> {
        match self.metrics.text() {
            Ok(body) => {
                let mut answer = Response::new(body);
                answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
                answer
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

fn state(state: Result<(), String>) -> Response<String> {
    match state {
        Ok(()) => text(StatusCode::OK, "ok".to_owned()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

fn text(status: StatusCode, text: String) -> Response<String> {
    let mut answer = Response::new(text + "\n");
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}
