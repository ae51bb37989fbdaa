//! HTTP for metrics: one thread, one request a connection, and a bound on everything.
//!
//! Whatever happens here costs the owner a snapshot every [`FRESH`] at most.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::families::{self, Served};
use super::text;
use crate::daemon::Command;
use crate::privileges;

/// A text is not made again before it is so old.
pub(crate) const FRESH: Duration = Duration::from_secs(1);
/// How old one may be that is shown while the owner has more urgent things to do.
const STALE_MAX: Duration = Duration::from_secs(10);
/// An address that cannot be had is tried again this often.
const BIND_PAUSE: Duration = Duration::from_secs(1);
/// How long the owner may take over a snapshot.
const SNAPSHOT_MAX: Duration = Duration::from_secs(2);
/// At a time; the oldest gives way to the next.
const CONNECTIONS_MAX: usize = 64;
/// Not more often is one accepted, so that a flood of them leaves the processor to others.
const ACCEPT_GAP: Duration = Duration::from_millis(2);
/// Pause after `accept` failed, which happens when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// From the connection to the end of the request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// From the connection to the last byte of the answer.
const CONNECTION_MAX: Duration = Duration::from_secs(15);
/// Unit: bytes of a request's head. The least that hyper takes.
const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
const BACKLOG: i32 = 128;
const PATH: &str = "/metrics";

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(io::Error);

/// An address, and its socket once it could be had. Nothing that matters more than metrics waits for
/// it, nor fails because somebody else has it.
#[derive(Debug)]
pub(crate) struct Listener {
    address: SocketAddr,
    socket: io::Result<StdListener>,
}

impl Listener {
    pub(crate) fn bind(address: SocketAddr) -> Listener {
        Listener {
            address,
            socket: listen(address),
        }
    }

    /// What is wrong, for an operator.
    fn problem(&self) -> Option<String> {
        let error = self.socket.as_ref().err()?;
        Some(format!(
            "metrics are not served at {}: {error}",
            self.address
        ))
    }
}

/// Also where the address is not there yet, as that of an interface that comes later.
fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What is wrong with the server at the moment; the owner shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble(Arc<std::sync::Mutex<Option<String>>>);

impl Trouble {
    fn set(&self, text: Option<String>) {
        if let Ok(mut trouble) = self.0.lock() {
            *trouble = text;
        }
    }

    pub(crate) fn text(&self) -> Option<String> {
        self.0.lock().ok()?.clone()
    }
}

/// The thread that serves; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    trouble: Trouble,
}

impl Server {
    pub(crate) fn start(
        listener: Listener,
        owner: mpsc::Sender<Command>,
    ) -> Result<Server, MetricsError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(MetricsError)?;
        let trouble = Trouble::default();
        trouble.set(listener.problem());
        let told = trouble.clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("metrics".to_owned());
        let thread = thread.spawn(move || {
            if let Err(error) = privileges::drop_all() {
                error!(%error, "no metrics: the thread keeps its capabilities");
                return;
            }
            let served = LocalSet::new();
            served.block_on(&runtime, serve(listener, owner, stopped, told));
        });
        Ok(Server {
            stop: Some(stop),
            thread: Some(thread.map_err(MetricsError)?),
            trouble,
        })
    }

    pub(crate) fn trouble(&self) -> Trouble {
        self.trouble.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread of metrics had failed");
        }
    }
}

/// The text that was made last, and what this server counts.
struct Page {
    owner: mpsc::Sender<Command>,
    made: Mutex<Option<(Instant, Bytes)>>,
    served: Cell<Served>,
}

async fn serve(
    listener: Listener,
    owner: mpsc::Sender<Command>,
    stopped: oneshot::Receiver<()>,
    trouble: Trouble,
) {
    let page = Rc::new(Page {
        owner,
        made: Mutex::new(None),
        served: Cell::default(),
    });
    let serve = async {
        match obtain(listener, &trouble).await {
            Ok(listener) => accept(&listener, &page).await,
            Err(error) => error!(%error, "no metrics"),
        }
    };
    tokio::select! {
        _ = stopped => {}
        () = serve => {}
    }
}

/// Waits until the address can be had.
async fn obtain(mut listener: Listener, trouble: &Trouble) -> io::Result<TcpListener> {
    let address = listener.address;
    loop {
        trouble.set(listener.problem());
        if let Ok(socket) = listener.socket {
            info!(%address, "metrics are served");
            return TcpListener::from_std(socket);
        }
        sleep(BIND_PAUSE).await;
        listener = Listener::bind(address);
    }
}

async fn accept(listener: &TcpListener, page: &Rc<Page>) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    let mut gap = interval(ACCEPT_GAP);
    gap.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        gap.tick().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "metrics: accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
            page.count(|served| served.evicted += 1);
        }
        let connection = spawn_local(converse(stream, Rc::clone(page)));
        connections.push_back(connection.abort_handle());
    }
}

/// One request and its answer.
async fn converse(stream: TcpStream, page: Rc<Page>) {
    let answer = service_fn(|request| {
        let page = Rc::clone(&page);
        async move { Ok::<_, Infallible>(page.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    match timeout(CONNECTION_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.is_timeout() => page.count(|served| served.late += 1),
        Ok(Err(error)) => {
            debug!(%error, "metrics: connection");
            page.count(|served| served.broken += 1);
        }
        Err(_) => page.count(|served| served.late += 1),
    }
}

impl Page {
    fn count(&self, change: impl FnOnce(&mut Served)) {
        let mut served = self.served.get();
        change(&mut served);
        self.served.set(served);
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            self.count(|served| served.not_found += 1);
            return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
        }
        if request.method() != Method::GET {
            self.count(|served| served.not_allowed += 1);
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
            let headers = response.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        let Some(text) = self.text().await else {
            self.count(|served| served.unavailable += 1);
            let reason = "the director did not answer in time\n";
            return plain(StatusCode::SERVICE_UNAVAILABLE, reason);
        };
        let mut response = Response::new(Full::new(text));
        let kind = HeaderValue::from_static(text::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    /// One at a time asks the owner; the others wait for the same text.
    async fn text(&self) -> Option<Bytes> {
        let mut made = self.made.lock().await;
        if let Some((at, text)) = made.as_ref()
            && at.elapsed() < FRESH
        {
            self.count(|served| served.ok += 1);
            return Some(text.clone());
        }
        let (reply, answer) = oneshot::channel();
        let ask = async {
            self.owner.send(Command::Metrics { reply }).await.ok()?;
            answer.await.ok()
        };
        let Some(snapshot) = timeout(SNAPSHOT_MAX, ask).await.ok()? else {
            // It has no time for this just now.
            let (at, text) = made.as_ref()?;
            return (at.elapsed() < STALE_MAX).then(|| {
                self.count(|served| served.ok += 1);
                text.clone()
            });
        };
        self.count(|served| served.ok += 1);
        let text = Bytes::from(families::text(&snapshot, self.served.get()));
        *made = Some((Instant::now(), text.clone()));
        Some(text)
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
