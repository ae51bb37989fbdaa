//! Being served in time: real-time scheduling of the election thread, and locked memory.
//!
//! What is refused is done without. Nothing here may make the process worse off than before: a
//! limit that would kill it is lifted first, or the privilege it belongs to is not used.

#![allow(
    unsafe_code,
    reason = "sched_setscheduler(2) and setpriority(2) have no safe wrapper among our dependencies"
)]

use nix::errno::Errno;
use nix::libc::{self, MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// The best of the ordinary (setpriority(2)).
const NICEST: i32 = -20;
/// The calling thread.
const SELF: libc::pid_t = 0;

/// Has the calling thread served before others; what was got, for the status.
///
/// SCHED_RR of the wanted priority where that is allowed, else the best nice value, else nothing.
/// What the thread would start does not inherit it (SCHED_RESET_ON_FORK).
pub(super) fn raise(rt_priority: u8) -> String {
    if rt_priority == 0 {
        return "ordinary: no real-time priority is configured".to_owned();
    }
    let Err(reason) = real_time(rt_priority) else {
        return format!("SCHED_RR {rt_priority}");
    };
    match nice() {
        Ok(()) => format!("nice {NICEST}: {reason}"),
        Err(_) => format!("ordinary: {reason}"),
    }
}

/// A finite RLIMIT_RTTIME ends a real-time process that used a processor for so long without
/// waiting once, which a burst of packets is enough for.
fn real_time(rt_priority: u8) -> Result<(), String> {
    lift(Resource::RLIMIT_RTTIME).map_err(|error| refused("RLIMIT_RTTIME", error))?;
    let parameters = libc::sched_param {
        sched_priority: libc::c_int::from(rt_priority),
    };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters live until the call returns, which changes nothing in memory.
    let done = unsafe { libc::sched_setscheduler(SELF, policy, &raw const parameters) };
    Errno::result(done).map_err(|error| refused("SCHED_RR", error))?;
    Ok(())
}

fn nice() -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, SELF.unsigned_abs(), NICEST) };
    Errno::result(done).map(drop)
}

/// Locks the memory of the process, page by page as it is used, now and later.
///
/// Only without a limit: with one, memory would run out once the privilege to exceed it is given up.
pub(super) fn lock_memory() -> Result<(), String> {
    lift(Resource::RLIMIT_MEMLOCK).map_err(|error| refused("RLIMIT_MEMLOCK", error))?;
    let flags = MlockAllFlags::from_bits_retain(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
    mlockall(flags).map_err(|error| refused("mlockall", error))
}

/// Takes a limit away, which needs `CAP_SYS_RESOURCE` if there is one.
fn lift(limit: Resource) -> Result<(), Errno> {
    if getrlimit(limit)? == (RLIM_INFINITY, RLIM_INFINITY) {
        return Ok(());
    }
    setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY)
}

fn refused(what: &str, error: Errno) -> String {
    format!("{what} is refused: {}", error.desc())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use caps::{CapSet, Capability};
    use nix::unistd::gettid;

    use super::*;

    /// Fields 18 (nice) and following of stat(5): of the calling thread.
    fn scheduling() -> (i64, i64, i64) {
        let stat = fs::read_to_string(format!("/proc/self/task/{}/stat", gettid())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let field = |number: usize| fields.split(' ').nth(number - 3).unwrap().parse().unwrap();
        (field(19), field(40), field(41))
    }

    #[test]
    fn the_thread_is_real_time_and_nothing_kills_it_for_that() {
        thread::spawn(|| {
            assert_eq!(raise(7), "SCHED_RR 7");
            let (_, priority, policy) = scheduling();
            assert_eq!((priority, policy), (7, i64::from(libc::SCHED_RR)));
            let limit = getrlimit(Resource::RLIMIT_RTTIME).unwrap();
            assert_eq!(limit, (RLIM_INFINITY, RLIM_INFINITY));
            // Not inherited.
            let child = thread::spawn(scheduling).join().unwrap();
            assert_eq!(child, (0, 0, 0));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn without_the_privilege_it_is_ordinary_and_says_why() {
        thread::spawn(|| {
            caps::drop(None, CapSet::Effective, Capability::CAP_SYS_NICE).unwrap();
            let reason = "ordinary: SCHED_RR is refused: Operation not permitted";
            assert_eq!(raise(50), reason);
            assert_eq!(scheduling(), (0, 0, 0));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn no_priority_is_nothing_done() {
        thread::spawn(|| {
            assert_eq!(raise(0), "ordinary: no real-time priority is configured");
            assert_eq!(scheduling(), (0, 0, 0));
        })
        .join()
        .unwrap();
    }
}
