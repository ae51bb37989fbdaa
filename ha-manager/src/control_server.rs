//! The control socket: who may own it, and one bounded task per client.
//!
//! The socket is the lock: as long as somebody listens on it, no second director starts with the
//! same path. Everything a client can make this process do or keep is limited: number of clients,
//! size of a request, time for a whole request or reply to pass, time between requests.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipvs_control::{FRAME_MAX, FrameError, Reply, Request};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::daemon::Command;
use crate::proc::{ConnFile, ProcFile};

/// Pause after `accept` failed, which happens when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What one client, and all together, may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub clients: usize,
    /// Unit: bytes of a request's body. Requests are short, replies may have [`FRAME_MAX`].
    pub request_max: usize,
    /// From the first byte of a request to its last, and for a whole reply.
    pub frame: Duration,
    /// Between two requests.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 64,
            request_max: 64 << 10,
            frame: Duration::from_secs(10),
            idle: Duration::from_secs(300),
        }
    }
}

/// Why the control socket is not ours.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("another directord answers at {}", .0.display())]
    Answering(PathBuf),
    #[error("another directord is starting at {}", .0.display())]
    Starting(PathBuf),
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("control socket {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// How a client's connection ended.
#[derive(Debug)]
pub enum ClientEnd {
    /// The client closed it between two requests.
    Closed,
    /// No request came within [`Limits::idle`].
    Idle,
    /// A request or reply did not pass within [`Limits::frame`].
    TooSlow,
    /// What came was no request.
    Refused(FrameError),
    /// The director stops.
    Stopping,
    Io(io::Error),
}

/// The socket, owned: removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: StdListener,
    /// Device and inode, so that nobody else's socket is removed.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Takes the socket unless somebody listens on it; a stale file is replaced.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn claim(path: &Path) -> Result<ControlSocket, ControlError> {
        let fail = |source| ControlError::Io {
            path: path.into(),
            source,
        };
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            Some(_) | None => Path::new("."),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fail)?;
        let dir = File::open(dir).map_err(fail)?;
        let starting = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Err(ControlError::Starting(path.into())),
            Err((_, errno)) => return Err(fail(errno.into())),
        };
        refuse_if_in_use(path)?;
        let listener = bind(path).map_err(fail)?;
        let metadata = fs::symlink_metadata(path).map_err(fail)?;
        drop(starting);
        let identity = (metadata.dev(), metadata.ino());
        Ok(ControlSocket {
            path: path.into(),
            listener,
            identity,
        })
    }

    /// A listener for [`serve`]; the lock stays here.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn listener(&self) -> io::Result<UnixListener> {
        UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "control socket cannot be removed");
        }
    }
}

fn refuse_if_in_use(path: &Path) -> Result<(), ControlError> {
    let fail = |source| ControlError::Io {
        path: path.into(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NotASocket(path.into()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    }
    // Not blocking: a stopped director with a full backlog would hold us up for ever.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|errno| fail(errno.into()))?;
    let addr = UnixAddr::new(path).map_err(|errno| fail(errno.into()))?;
    match connect(probe.as_raw_fd(), &addr) {
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS) => {
            Err(ControlError::Answering(path.into()))
        }
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(fail(errno.into())),
    }
}

/// The socket gets its name only once it has its mode and listens.
fn bind(path: &Path) -> io::Result<StdListener> {
    let mut unnamed = path.as_os_str().to_owned();
    unnamed.push(".new");
    let unnamed = PathBuf::from(unnamed);
    match fs::remove_file(&unnamed) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = StdListener::bind(&unnamed)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&unnamed, Permissions::from_mode(0o600))?;
    fs::rename(&unnamed, path)?;
    Ok(listener)
}

/// Accepts clients until `stop` turns true, then lets each finish the request it has begun.
pub async fn serve(
    listener: UnixListener,
    owner: mpsc::Sender<Command>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.clients));
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = clients.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let (owner, stop) = (owner.clone(), stop.clone());
                    clients.spawn(async move {
                        let end = serve_client(stream, &owner, limits, stop).await;
                        log_end(&end);
                        drop(slot);
                    });
                }
                Err(_) => turn_away(stream, limits.clients),
            },
            Err(error) => {
                warn!(%error, "control socket cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while clients.join_next().await.is_some() {}
}

/// Tells a client too many why, without ever waiting for it.
fn turn_away(stream: UnixStream, clients: usize) {
    warn!(
        clients,
        "control client turned away, too many are connected"
    );
    let reply = Reply::BadRequest(format!("{clients} clients are connected, try again"));
    if let (Ok(frame), Ok(mut stream)) = (ipvs_control::encode(&reply), stream.into_std()) {
        let _ = stream.write(&frame);
    }
}

fn log_end(end: &ClientEnd) {
    match end {
        ClientEnd::Closed | ClientEnd::Stopping => {}
        ClientEnd::Idle => debug!("control client was idle for too long"),
        ClientEnd::TooSlow => warn!("control client was too slow"),
        ClientEnd::Refused(error) => warn!(%error, "control client sent no request"),
        ClientEnd::Io(error) => debug!(%error, "control client went away"),
    }
}

/// Answers one client's requests in order, until it ends.
pub async fn serve_client<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    owner: &mpsc::Sender<Command>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> ClientEnd {
    loop {
        let mut first = [0u8; 1];
        let read = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return ClientEnd::Stopping,
            read = timeout(limits.idle, stream.read(&mut first)) => read,
        };
        match read {
            Err(_) => return ClientEnd::Idle,
            Ok(Err(error)) => return ClientEnd::Io(error),
            Ok(Ok(0)) => return ClientEnd::Closed,
            Ok(Ok(_)) => {}
        }
        let rest = read_request(&mut stream, first, limits.request_max);
        let request = match timeout(limits.frame, rest).await {
            Err(_) => return ClientEnd::TooSlow,
            Ok(Err(FrameError::Io(error))) => return ClientEnd::Io(error),
            Ok(Err(error)) => {
                // The stream cannot be followed any further: answer and close.
                let reply = Reply::BadRequest(error.to_string());
                let _ = timeout(limits.frame, write_reply(&mut stream, &reply)).await;
                return ClientEnd::Refused(error);
            }
            Ok(Ok(request)) => request,
        };
        let reply = answer(request, owner).await;
        match timeout(limits.frame, write_reply(&mut stream, &reply)).await {
            Err(_) => return ClientEnd::TooSlow,
            Ok(Err(error)) => return ClientEnd::Io(error),
            Ok(Ok(())) => {}
        }
    }
}

async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    first: [u8; 1],
    request_max: usize,
) -> Result<Request, FrameError> {
    let mut others = [0u8; 3];
    stream.read_exact(&mut others).await?;
    let [a] = first;
    let [b, c, d] = others;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > request_max {
        return Err(FrameError::TooLong(length));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    ipvs_control::decode(&body)
}

async fn write_reply<S: AsyncWrite + Unpin>(stream: &mut S, reply: &Reply) -> io::Result<()> {
    let frame = ipvs_control::encode(reply)
        .or_else(|error| ipvs_control::encode(&Reply::BadRequest(format!("answer: {error}"))))
        .map_err(io::Error::other)?;
    stream.write_all(&frame).await?;
    stream.flush().await
}

async fn answer(request: Request, owner: &mpsc::Sender<Command>) -> Reply {
    if let Request::Proc { name } = &request
        && let Ok(ProcFile::Conns(file)) = ProcFile::from_name(name)
    {
        return conn_text(owner, file).await;
    }
    ask(request, owner).await
}

async fn ask(request: Request, owner: &mpsc::Sender<Command>) -> Reply {
    let stopping = || Reply::BadRequest("the director is stopping".to_owned());
    let (reply, answered) = oneshot::channel();
    if owner
        .send(Command::Request { request, reply })
        .await
        .is_err()
    {
        return stopping();
    }
    answered.await.unwrap_or_else(|_| stopping())
}

/// The whole of a listing, page by page so that other clients get their turn.
async fn conn_text(owner: &mpsc::Sender<Command>, file: ConnFile) -> Reply {
    let mut text = file.header().to_owned();
    let mut cursor = 0;
    loop {
        let reply = ask(Request::ListConnections { cursor }, owner).await;
        let Reply::Connections(page) = reply else {
            return reply;
        };
        text.push_str(&file.rows(&page.entries));
        if text.len() > FRAME_MAX / 2 {
            return Reply::BadRequest("too many connections for one answer, list them".to_owned());
        }
        match page.next {
            Some(next) => cursor = next,
            None => return Reply::Text(text),
        }
    }
}

#[cfg(test)]
mod tests;
