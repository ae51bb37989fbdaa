//! What the director and its script runner tell each other: one value per datagram of a
//! `SOCK_SEQPACKET` pair, so a frame is whole or not there.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use bincode::{Decode, Encode, config};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use nix::time::{ClockId, clock_gettime};

/// Unit: bytes. The longest frame is a command, 4096 bytes in a configuration, with its user's groups.
pub(super) const FRAME_MAX: usize = 16 << 10;
/// Words that one run may add to its command.
pub(super) const EXTRA_ARGS_MAX: usize = 8;

/// A program that may be run, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct ScriptCommand {
    /// The program by its absolute path, and its first arguments.
    pub(super) argv: Vec<String>,
    pub(super) account: Account,
}

/// A user as the kernel knows one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// All groups the user is in.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum ToRunner {
    /// A command that may be run; its number is its place in the order of these.
    Add(ScriptCommand),
    /// That were all: nothing else is ever run.
    Begin,
    Run {
        id: u64,
        command: u32,
        args: Vec<String>,
        timeout_ms: u64,
        /// [`now_ms`] from which on nobody waits for it: it is not started any more.
        stale_ms: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum FromRunner {
    /// The table is complete and what is not needed to run it has been given up.
    Ready,
    Ended {
        id: u64,
        outcome: Outcome,
    },
    /// Whenever it changes.
    Stuck(Stuck),
}

/// Runs that were killed and are still there after [`super::running::GRACE`]: the kernel holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Stuck {
    pub(super) runs: u32,
    /// That of the oldest.
    pub(super) command: u32,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outcome {
    Exited(i32),
    Signalled(i32),
    TimedOut,
    /// It was not started.
    Refused(String),
    /// The script runner is gone.
    Lost,
    /// The script runner is there and does not answer.
    Silent,
}

impl Outcome {
    /// As a check: exit status 0 and nothing else.
    pub fn is_good(&self) -> bool {
        *self == Outcome::Exited(0)
    }

    /// Whether this very script was not started, though others may be.
    pub fn is_refused(&self) -> bool {
        matches!(self, Outcome::Refused(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Exited(status) => write!(f, "exit status {status}"),
            Outcome::Signalled(signal) => write!(f, "killed by signal {signal}"),
            Outcome::TimedOut => f.write_str("did not end in time"),
            Outcome::Refused(reason) => f.write_str(reason),
            Outcome::Lost => f.write_str("the script runner has ended"),
            Outcome::Silent => f.write_str("the script runner does not answer"),
        }
    }
}

/// The time that both ends know: `CLOCK_MONOTONIC`. Unit: milliseconds.
pub(super) fn now_ms() -> u64 {
    // A clock that every Linux has.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    let now = now.unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX)
}

/// Why a frame was not taken or sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of more than {FRAME_MAX} bytes")]
    TooLong,
    #[error("a frame that cannot be decoded")]
    Malformed,
    #[error("the other end is gone")]
    Closed,
    #[error(transparent)]
    Socket(#[from] Errno),
}

impl FrameError {
    pub(super) const fn would_block(&self) -> bool {
        matches!(self, FrameError::Socket(Errno::EAGAIN))
    }
}

pub(super) fn encode(value: &impl Encode) -> Result<Vec<u8>, FrameError> {
    let frame = bincode::encode_to_vec(value, config::standard());
    let frame = frame.map_err(|_| FrameError::Malformed)?;
    if frame.len() > FRAME_MAX {
        return Err(FrameError::TooLong);
    }
    Ok(frame)
}

pub(super) fn decode<T: Decode<()>>(frame: &[u8]) -> Result<T, FrameError> {
    let limited = config::standard().with_limit::<FRAME_MAX>();
    match bincode::decode_from_slice(frame, limited) {
        Ok((value, used)) if used == frame.len() => Ok(value),
        Ok(_) | Err(_) => Err(FrameError::Malformed),
    }
}

/// Sends one frame, or [`FrameError::would_block`].
pub(super) fn put(socket: impl AsFd, frame: &[u8]) -> Result<(), FrameError> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    match send(socket.as_fd().as_raw_fd(), frame, flags) {
        Ok(_) => Ok(()),
        Err(Errno::EPIPE | Errno::ECONNRESET) => Err(FrameError::Closed),
        Err(error) => Err(error.into()),
    }
}

/// Takes one frame, or [`FrameError::would_block`].
pub(super) fn take<T: Decode<()>>(socket: impl AsFd) -> Result<T, FrameError> {
    // One byte more than a frame may have tells one that is too long.
    let mut buffer = [0; FRAME_MAX + 1];
    match recv(
        socket.as_fd().as_raw_fd(),
        &mut buffer,
        MsgFlags::MSG_DONTWAIT,
    ) {
        Ok(0) | Err(Errno::ECONNRESET) => Err(FrameError::Closed),
        Ok(length) if length > FRAME_MAX => Err(FrameError::TooLong),
        Ok(length) => decode(buffer.get(..length).unwrap_or_default()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn pair() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
    }

    #[test]
    fn a_frame_round_trips_and_an_end_is_told() {
        let (ours, theirs) = pair();
        let run = ToRunner::Run {
            id: 7,
            command: 1,
            args: vec!["INSTANCE".to_owned(), "VI_1".to_owned()],
            timeout_ms: 1000,
            stale_ms: now_ms(),
        };
        assert!(take::<ToRunner>(&theirs).unwrap_err().would_block());
        put(&ours, &encode(&run).unwrap()).unwrap();
        assert_eq!(take::<ToRunner>(&theirs).unwrap(), run);
        drop(ours);
        assert!(matches!(take::<ToRunner>(&theirs), Err(FrameError::Closed)));
        assert!(matches!(put(&theirs, &[1]), Err(FrameError::Closed)));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let (ours, theirs) = pair();
        put(&ours, &[9; 20]).unwrap();
        let refused = take::<ToRunner>(&theirs);
        assert!(matches!(refused, Err(FrameError::Malformed)));
        put(&ours, &vec![0; FRAME_MAX + 100]).unwrap();
        let refused = take::<ToRunner>(&theirs);
        assert!(matches!(refused, Err(FrameError::TooLong)));
        // A length that promises more than there is allocates nothing.
        let lying = [2, 0, 0, 253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode::<ToRunner>(&lying).is_err());
        let mut trailing = encode(&ToRunner::Begin).unwrap();
        trailing.push(0);
        assert!(decode::<ToRunner>(&trailing).is_err());
        let long = ToRunner::Add(ScriptCommand {
            argv: vec!["x".repeat(FRAME_MAX)],
            account: Account {
                name: String::new(),
                uid: 0,
                gid: 0,
                groups: Vec::new(),
                home: String::new(),
            },
        });
        assert!(matches!(encode(&long), Err(FrameError::TooLong)));
    }
}
