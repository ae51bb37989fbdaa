//! Steps of the wall clock.
//!
//! CLOCK_REALTIME belongs to the whole machine: time namespaces have no offset for it. So it is moved by
//! a few seconds for a moment and moved back by as much, which leaves it right whatever else adjusts it
//! meanwhile.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::capture::wall_clock;
use crate::wait::pass_time_until;

/// More than a master-down time at 100 ms and more than a lease. Unit: seconds.
const STEP_SECS: i64 = 2;
/// How long the clock is wrong each time.
const WRONG: Duration = Duration::from_millis(1200);

/// Forward, then back to before the truth, then right again.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn step_and_restore() -> Result<()> {
    for secs in [STEP_SECS, -STEP_SECS] {
        let (right, begun) = (wall_clock().as_secs_f64(), Instant::now());
        let stepped = Stepped::by(secs)?;
        pass_time_until(Instant::now() + WRONG)?;
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        let wanted = right + begun.elapsed().as_secs_f64() + secs as f64;
        let off = wall_clock().as_secs_f64() - wanted;
        drop(stepped);
        ensure!(
            off.abs() < 0.5,
            "the clock did not step by {secs} s: {off:.1} s off"
        );
    }
    Ok(())
}

/// The clock is wrong while this lives.
struct Stepped {
    secs: i64,
}

impl Stepped {
    fn by(secs: i64) -> Result<Stepped> {
        shift(secs).context("step of the clock")?;
        Ok(Stepped { secs })
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        if let Err(error) = shift(-self.secs) {
            crate::complain(&format!(
                "the clock of this machine is wrong by {} s: {error}",
                self.secs
            ));
        }
    }
}

/// Moves the clock by an offset in one step.
fn shift(secs: i64) -> io::Result<()> {
    // SAFETY: a request of zeros is a valid value of this plain structure.
    let mut request: libc::timex = unsafe { std::mem::zeroed() };
    request.modes = libc::ADJ_SETOFFSET;
    request.time.tv_sec = secs;
    // SAFETY: clock_adjtime(2) reads and writes one live structure.
    let state = unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, &raw mut request) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
