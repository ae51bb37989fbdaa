//! Being served in time: real-time scheduling of the election thread, and locked memory.
//!
//! What is refused is done without. Nothing here may make the process worse off than before: a
//! limit that would kill it is lifted first, or the privilege it belongs to is not used.

#![allow(
    unsafe_code,
    reason = "sched_setscheduler(2) and setpriority(2) have no safe wrapper among our dependencies, \
              and madvise(2) is safe only for some kinds of advice"
)]

use std::fs;
use std::ptr;

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

/// The best nice value for the calling thread and what it starts later.
pub(super) fn nice() -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, SELF.unsigned_abs(), NICEST) };
    Errno::result(done).map(drop)
}

/// Locks the memory of the process, page by page as it is used, now and later; its program and
/// libraries whole, so that nothing has to be fetched from a disk by what runs for the first time, a
/// take-over above all. The tables that were asked for and are not used yet would be too much.
///
/// Only without a limit: with one, memory would run out once the privilege to exceed it is given up.
pub(super) fn lock_memory() -> Result<(), String> {
    lift(Resource::RLIMIT_MEMLOCK).map_err(|error| refused("RLIMIT_MEMLOCK", error))?;
    let flags = MlockAllFlags::from_bits_retain(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
    mlockall(flags).map_err(|error| refused("mlockall", error))?;
    fetch_files()
}

/// Has all pages of mapped files in memory.
fn fetch_files() -> Result<(), String> {
    let maps = fs::read_to_string("/proc/self/maps");
    let maps = maps.map_err(|error| format!("/proc/self/maps: {error}"))?;
    for (start, length) in maps.lines().filter_map(mapped_file) {
        let start = ptr::without_provenance_mut(start);
        // SAFETY: pages are read in, whatever is mapped there by now, and none changes.
        let done = unsafe { libc::madvise(start, length, libc::MADV_POPULATE_READ) };
        match Errno::result(done) {
            // Unmapped since, or longer than its file.
            Ok(_) | Err(Errno::ENOMEM | Errno::EFAULT) => {}
            Err(error) => return Err(refused("MADV_POPULATE_READ", error)),
        }
    }
    Ok(())
}

/// Address and length of a line of maps(5), if a file is mapped there that can be read and is not
/// shared.
fn mapped_file(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (range, modes) = (words.next()?, words.next()?);
    // Offset, device and inode are between.
    let is_file = words.nth(3)?.starts_with('/');
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let is_wanted = is_file && modes.starts_with('r') && modes.ends_with('p');
    is_wanted.then_some((start, end.checked_sub(start)?))
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

    /// Of each mapping of the test's own program: its size, what of it is in memory, and its flags.
    fn mappings() -> Vec<(u64, u64, String)> {
        let program = std::env::current_exe().unwrap().display().to_string();
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut found, mut is_ours) = (Vec::new(), false);
        let (mut size, mut present) = (0, 0);
        for line in smaps.lines() {
            let (first, _) = line.split_once(' ').unwrap_or_default();
            let kib = || line.split_whitespace().nth(1).unwrap().parse().unwrap();
            match line.split_once(':') {
                Some(("Size", _)) => size = kib(),
                Some(("Rss", _)) => present = kib(),
                Some(("VmFlags", flags)) if is_ours => {
                    found.push((size, present, flags.to_owned()));
                }
                // Where one begins: address-address.
                _ if first.contains('-') => {
                    is_ours = mapped_file(line).is_some() && line.ends_with(&program);
                }
                _ => {}
            }
        }
        found
    }

    #[test]
    fn the_program_is_in_memory_and_locked_also_where_it_has_not_run() {
        let locked = lock_memory();
        if locked.is_err() {
            fetch_files().unwrap();
        }
        let found = mappings();
        // The other tests of this process need no locked memory.
        nix::sys::mman::munlockall().unwrap();
        assert!(found.len() > 2, "{found:?}");
        for (size, present, flags) in &found {
            assert_eq!(size, present, "{found:?}");
            let is_locked = flags.split(' ').any(|flag| flag == "lo");
            assert_eq!(is_locked, locked.is_ok(), "{found:?}");
        }
        if let Err(reason) = locked {
            eprintln!("skipped whether they are locked: {reason}");
        }
    }

    #[test]
    fn of_the_mappings_private_ones_of_files_are_fetched() {
        for (line, wanted) in [
            (
                "1000-3000 r-xp 00000000 fd:01 12 /usr/lib/a b.so",
                Some((0x1000, 0x2000)),
            ),
            (
                "1000-3000 rw-p 00001000 fd:01 12 /usr/lib/a.so",
                Some((0x1000, 0x2000)),
            ),
            ("1000-3000 ---p 00001000 fd:01 12 /usr/lib/a.so", None),
            ("1000-3000 rw-s 00000000 00:01 12 /dev/shm/table", None),
            ("1000-3000 rw-s 00000000 00:0e 9 anon_inode:bpf-map", None),
            ("1000-3000 rw-p 00000000 00:00 0 [heap]", None),
            ("1000-3000 rw-p 00000000 00:00 0 ", None),
            ("3000-1000 r--p 00000000 fd:01 12 /usr/lib/a.so", None),
            ("", None),
        ] {
            assert_eq!(mapped_file(line), wanted, "{line}");
        }
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
