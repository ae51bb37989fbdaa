//! A blocking client: one request, one reply.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{FrameError, Reply, Request, read_frame, write_frame};

/// A director that does not answer within this time is taken for hung.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a request got no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no director answers at {}: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the director closed the connection without an answer")]
    Closed,
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A connection to a director.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// # Errors
    /// [`ClientError::Connect`] with the reason: no socket, no daemon, no permission.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let connect = || -> io::Result<UnixStream> {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
            stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
            Ok(stream)
        };
        let stream = connect().map_err(|source| ClientError::Connect {
            path: path.into(),
            source,
        })?;
        Ok(Client { stream })
    }

    /// For a request that takes longer than answers do otherwise.
    ///
    /// # Errors
    /// The socket refuses it.
    pub fn set_patience(&mut self, longest: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(longest))
    }

    /// # Errors
    /// The connection broke, or the answer was no frame.
    pub fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        write_frame(&mut self.stream, request)?;
        read_frame(&mut self.stream)?.ok_or(ClientError::Closed)
    }
}
