//! Grace periods: until every program run that is in progress has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Waits until every program run that is in progress has ended (an RCU grace period).
pub(crate) fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes integers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Refused where some processors run without a tick. Runs are bounded to well below this.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A grace period that somebody waits for without standing still: it takes 10 ms and more.
#[derive(Debug)]
pub(crate) struct Grace {
    is_over: Arc<AtomicBool>,
}

impl Grace {
    /// Begins now.
    pub(crate) fn begin() -> Grace {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = std::thread::Builder::new().name("grace-period".into());
        let waiting = thread.spawn(move || {
            grace_period();
            told.store(true, Ordering::Release);
        });
        if waiting.is_err() {
            grace_period();
            is_over.store(true, Ordering::Release);
        }
        Grace { is_over }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}
