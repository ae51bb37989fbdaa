//! Messages and exit statuses.
//!
//! The texts for refusals are those ipvsadm 1.31 has for the kernel's `errno`.

use std::io;

use ipvs_control::{ClientError, FrameError, SOCKET_ENV};
use ipvs_model::service::EditError;
use ipvs_model::sync::SyncError;

use crate::exec::Trouble;

pub const SUCCESS: u8 = 0;
/// A listing failed.
pub const LISTING_FAILED: u8 = 1;
/// The command line is wrong, or there is no director.
pub const USAGE: u8 = 2;
/// A change was refused, or the command line is not even a command.
pub const REFUSED: u8 = 255;

/// Which commands a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The command only reads.
    pub listing: bool,
    /// The command is about a real server.
    pub server: bool,
}

/// The end of a command: what to print on standard error, and the exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub message: String,
    pub status: u8,
    /// Nothing that follows can succeed: a restore ends here.
    pub fatal: bool,
}

/// What ipvsadm says for EINVAL.
const INVALID: &str = "Invalid operation.  Possibly wrong module version, address not unicast, ...";

/// What `-h` is for.
pub fn try_help(program: &str) -> String {
    format!("Try `{program} -h' or '{program} --help' for more information.\n")
}

/// What to say about a failure.
pub fn ending(trouble: &Trouble, context: Context) -> Ending {
    let status = if context.listing {
        LISTING_FAILED
    } else {
        REFUSED
    };
    let say = |message: String| Ending {
        message: message + "\n",
        status,
        fatal: false,
    };
    match trouble {
        // A reader that has seen enough is no failure.
        Trouble::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => Ending {
            message: String::new(),
            status: SUCCESS,
            fatal: true,
        },
        Trouble::Io(error) => Ending {
            message: format!("ipvsadm: {error}\n"),
            status: LISTING_FAILED,
            fatal: true,
        },
        Trouble::Director(ClientError::Connect { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            say("Permission denied (you must be root)".into())
        }
        Trouble::Director(ClientError::Connect { path, source }) => Ending {
            message: format!(
                "ipvsadm: no director answers at {}: {source}; \
                 start directord, or set {SOCKET_ENV} to its control socket\n",
                path.display()
            ),
            status: USAGE,
            fatal: true,
        },
        Trouble::Director(ClientError::Closed) => gone(),
        Trouble::Director(ClientError::Frame(FrameError::Io(error))) if is_gone(error) => gone(),
        Trouble::Director(ClientError::Frame(FrameError::Io(error))) if is_late(error) => late(),
        Trouble::Director(ClientError::Frame(error)) => say(format!("ipvsadm: {error}")),
        Trouble::Confused(text) => say(format!("ipvsadm: the director is confused: {text}")),
        Trouble::Refused(error) => say(refusal(error, context)),
        Trouble::SyncRefused(error) => say(sync_refusal(error)),
        Trouble::NotYet(what) => say(not_yet(what)),
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// The director went away in the middle, or did not come up.
fn gone() -> Ending {
    Ending {
        message: "ipvsadm: the director ended before it answered, whether the command was carried \
                  out is not known; see the log of directord, and start it again\n"
            .into(),
        status: USAGE,
        fatal: true,
    }
}

/// The director is there and silent.
fn late() -> Ending {
    Ending {
        message: "ipvsadm: the director does not answer in time, whether the command was carried \
                  out is not known; see the log of directord, it may be suspended\n"
            .into(),
        status: USAGE,
        fatal: true,
    }
}

fn refusal(error: &EditError, context: Context) -> String {
    match error {
        EditError::ServiceExists => "Service already exists".into(),
        EditError::NoSuchService if context.server => "Service not defined".into(),
        EditError::NoSuchService => "No such service".into(),
        EditError::ServerExists => "Destination already exists".into(),
        EditError::NoSuchServer => "No such destination".into(),
        EditError::NoSuchScheduler => "Scheduler or persistence engine not found".into(),
        EditError::Invalid(_) => INVALID.into(),
        EditError::OutOfRange(_) => "Numerical result out of range".into(),
        EditError::NoSpace(text) => format!("No space left on device: {text}"),
        EditError::Unsupported(text) => not_yet(text),
        EditError::DataPlane(text) => format!("Input/output error: {text}"),
    }
}

fn sync_refusal(error: &SyncError) -> String {
    match error {
        SyncError::NoDevice(_) => "No such device".into(),
        SyncError::Running(_) => "Daemon has already run".into(),
        SyncError::NotRunning(_) => "No daemon is running".into(),
        SyncError::Invalid(_) => INVALID.into(),
        SyncError::Socket(text) => format!("ipvsadm: {text}"),
        SyncError::Unsupported(text) => not_yet(text),
    }
}

fn not_yet(what: &str) -> String {
    format!("ipvsadm: not supported by this director yet: {what}")
}

#[cfg(test)]
mod tests {
    use ipvs_model::sync::SyncRole;

    use super::*;

    const CHANGE: Context = Context {
        listing: false,
        server: false,
    };

    #[test]
    fn refusals_have_the_texts_of_the_kernels_errors() {
        let text = || String::from("detail");
        for (error, context, message) in [
            (EditError::ServiceExists, CHANGE, "Service already exists\n"),
            (EditError::NoSuchService, CHANGE, "No such service\n"),
            (
                EditError::NoSuchService,
                Context {
                    server: true,
                    ..CHANGE
                },
                "Service not defined\n",
            ),
            (
                EditError::ServerExists,
                CHANGE,
                "Destination already exists\n",
            ),
            (EditError::NoSuchServer, CHANGE, "No such destination\n"),
            (
                EditError::NoSuchScheduler,
                CHANGE,
                "Scheduler or persistence engine not found\n",
            ),
            (
                EditError::Invalid(text()),
                CHANGE,
                "Invalid operation.  Possibly wrong module version, address not unicast, ...\n",
            ),
            (
                EditError::OutOfRange(text()),
                CHANGE,
                "Numerical result out of range\n",
            ),
            (
                EditError::NoSpace(text()),
                CHANGE,
                "No space left on device: detail\n",
            ),
            (
                EditError::DataPlane(text()),
                CHANGE,
                "Input/output error: detail\n",
            ),
            (
                EditError::Unsupported("IPv6 services".into()),
                CHANGE,
                "ipvsadm: not supported by this director yet: IPv6 services\n",
            ),
        ] {
            let ending = ending(&Trouble::Refused(error), context);
            assert_eq!(
                (ending.message.as_str(), ending.status, ending.fatal),
                (message, 255, false)
            );
        }
    }

    #[test]
    fn refusals_of_sync_daemons_have_the_texts_of_the_kernels_errors() {
        let text = || String::from("detail");
        for (error, message) in [
            (SyncError::NoDevice(text()), "No such device\n"),
            (
                SyncError::Running(SyncRole::Master),
                "Daemon has already run\n",
            ),
            (
                SyncError::NotRunning(SyncRole::Backup),
                "No daemon is running\n",
            ),
            (
                SyncError::Invalid(text()),
                "Invalid operation.  Possibly wrong module version, address not unicast, ...\n",
            ),
            (SyncError::Socket(text()), "ipvsadm: detail\n"),
            (
                SyncError::Unsupported("IPv6 groups".into()),
                "ipvsadm: not supported by this director yet: IPv6 groups\n",
            ),
        ] {
            let ending = ending(&Trouble::SyncRefused(error), CHANGE);
            assert_eq!(
                (ending.message.as_str(), ending.status, ending.fatal),
                (message, 255, false)
            );
        }
    }

    #[test]
    fn a_listing_fails_with_status_1() {
        let context = Context {
            listing: true,
            server: false,
        };
        let ending = ending(&Trouble::Refused(EditError::NoSuchService), context);
        assert_eq!(
            (ending.message.as_str(), ending.status),
            ("No such service\n", 1)
        );
    }

    #[test]
    fn a_director_that_goes_away_leaves_a_sentence() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        for error in [ClientError::Closed, ClientError::Frame(reset.into())] {
            let ending = ending(&Trouble::Director(error), CHANGE);
            assert_eq!(
                ending.message,
                "ipvsadm: the director ended before it answered, whether the command was carried \
                 out is not known; see the log of directord, and start it again\n"
            );
            assert_eq!((ending.status, ending.fatal), (2, true));
        }
        let silent = io::Error::from(io::ErrorKind::WouldBlock);
        let ending = ending(
            &Trouble::Director(ClientError::Frame(silent.into())),
            CHANGE,
        );
        assert_eq!(
            ending.message,
            "ipvsadm: the director does not answer in time, whether the command was carried out is \
             not known; see the log of directord, it may be suspended\n"
        );
        assert_eq!((ending.status, ending.fatal), (2, true));
    }

    #[test]
    fn a_socket_that_may_not_be_used_means_root_is_needed() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let refused = ClientError::Connect {
            path: "/run/x".into(),
            source,
        };
        let ending = ending(&Trouble::Director(refused), CHANGE);
        assert_eq!(ending.message, "Permission denied (you must be root)\n");
        assert_eq!(ending.status, 255);
    }
}
