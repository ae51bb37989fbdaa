//! One script that runs, from its start until it has been reaped.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use tokio::time::Instant;

use super::frame::Outcome;
use super::{descendants, launch};

/// Between SIGTERM and SIGKILL, as keepalived, and between one SIGKILL and the next.
pub(super) const GRACE: Duration = Duration::from_secs(2);
/// Unit: bytes of a reason why a script was not started.
const REASON_MAX: u64 = 300;

#[derive(Debug)]
pub(super) struct Running {
    pub(super) id: u64,
    pub(super) command: u32,
    pub(super) args: Vec<String>,
    pub(super) child: Child,
    /// Its time is over then.
    pub(super) deadline: Instant,
    /// Its time is over: the outcome has been told.
    pub(super) late: Option<Late>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    /// The next SIGKILL.
    kill_at: Instant,
    /// So far.
    kills: u32,
}

impl Running {
    /// When something is to be done about it.
    pub(super) fn due(&self) -> Instant {
        self.late.map_or(self.deadline, |late| late.kill_at)
    }

    /// Whether a SIGKILL has not helped for a grace.
    pub(super) fn is_stuck(&self) -> bool {
        self.late.is_some_and(|late| late.kills > 1)
    }

    /// The next signal if it is due, to its group, and which one that was.
    pub(super) fn end_late(&mut self, now: Instant) -> Option<Signal> {
        if self.due() > now {
            return None;
        }
        let Some(late) = &mut self.late else {
            self.terminate(now);
            return Some(Signal::SIGTERM);
        };
        late.kills = late.kills.saturating_add(1);
        late.kill_at = now + GRACE;
        self.signal(Signal::SIGKILL);
        Some(Signal::SIGKILL)
    }

    pub(super) fn terminate(&mut self, now: Instant) {
        self.signal(Signal::SIGTERM);
        self.late = Some(Late {
            kill_at: now + GRACE,
            kills: 0,
        });
    }

    /// Of what it has started.
    pub(super) const fn mark(&self) -> u64 {
        descendants::mark_of(self.id)
    }

    /// To the whole group. Before the script has become the leader of one it is alone.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = launch::group_of(self.child.id())
            && killpg(pid, signal).is_err()
        {
            // It may have ended meanwhile.
            let _ = kill(pid, signal);
        }
    }

    /// The status of a script that has ended.
    pub(super) fn reap(&mut self) -> Option<ExitStatus> {
        if self.late.is_some() && self.has_ended() {
            // Not reaped yet, so the number of its group is nobody else's.
            self.signal(Signal::SIGKILL);
        }
        self.child.try_wait().ok().flatten()
    }

    fn has_ended(&self) -> bool {
        let Some(pid) = launch::group_of(self.child.id()) else {
            return false;
        };
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(pid), look), Ok(WaitStatus::StillAlive))
    }

    /// Of one that ended in time.
    pub(super) fn outcome(mut self, status: ExitStatus) -> Outcome {
        // Empty and closed since the script was started, else it says why it was not.
        let mut reason = Vec::new();
        if let Some(report) = self.child.stdout.take() {
            let _ = report.take(REASON_MAX).read_to_end(&mut reason);
        }
        if !reason.is_empty() {
            return Outcome::Refused(String::from_utf8_lossy(&reason).into_owned());
        }
        match (status.code(), status.signal()) {
            (Some(code), _) => Outcome::Exited(code),
            (None, signal) => Outcome::Signalled(signal.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn one_that_is_there_a_grace_after_its_kill_is_stuck() {
        let begun = Instant::now();
        let mut script = Running {
            // Nobody has this mark.
            id: u64::MAX >> 20,
            command: 0,
            args: Vec::new(),
            child: Command::new("/bin/sleep").arg("1000").spawn().unwrap(),
            deadline: begun + GRACE,
            late: None,
        };
        let at = |graces: u32| begun + GRACE * graces;
        assert_eq!(script.end_late(begun), None);
        assert_eq!(script.due(), at(1));
        assert_eq!(script.end_late(at(1)), Some(Signal::SIGTERM));
        for graces in [2, 3, 4] {
            assert_eq!(script.due(), at(graces));
            // It is not reaped here, so it stays.
            assert_eq!(script.end_late(at(graces)), Some(Signal::SIGKILL));
            assert_eq!(script.is_stuck(), graces > 2);
        }
        assert!(!script.child.wait().unwrap().success());
    }
}
