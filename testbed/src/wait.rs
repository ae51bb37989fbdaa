//! Waiting: always for a condition, always with a deadline, always interruptible.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(3);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on SIGINT, SIGTERM and SIGHUP no longer end the process: every wait returns an error
/// instead, so that the values that own processes and namespaces are dropped and clean up.
///
/// # Errors
/// The signal mask cannot be set.
pub(crate) fn catch_signals() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    // Blocked before any other thread starts, so that all of them inherit it.
    signals.thread_block()?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while signals.wait().is_ok() {
                INTERRUPTED.store(true, Ordering::SeqCst);
            }
        })?;
    Ok(())
}

/// The monotonic clock, which all processes of the machine share. Unit: nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    // The clock exists on every kernel; 0 would only spoil figures.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
    u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
}

/// # Errors
/// A signal asked the program to end.
pub(crate) fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}

/// Looks at a condition until it gives a value.
///
/// # Errors
/// The condition failed, did not come true within `limit`, or a signal came.
pub(crate) fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        check_interrupt()?;
        if Instant::now() >= deadline {
            bail!("{what}: not within {:.1} s", limit.as_secs_f64());
        }
        thread::sleep(POLL);
    }
}

/// Lets the time of a scenario pass: how long a fault lasts is part of the scenario.
///
/// # Errors
/// A signal came.
pub(crate) fn pass_time_until(deadline: Instant) -> Result<()> {
    loop {
        check_interrupt()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(20)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_gives_its_value() {
        let mut looks = 0;
        let value = wait_until("third look", Duration::from_secs(5), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_condition_that_never_comes_true_names_itself() {
        let never: Result<()> = wait_until("never", Duration::ZERO, || Ok(None));
        assert!(
            never
                .unwrap_err()
                .to_string()
                .starts_with("never: not within")
        );
    }
}
