//! Whether the machine itself stood still while a test ran.

use std::any::Any;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// A thread that sleeps so long is awake again a little later.
const NAP: Duration = Duration::from_millis(5);
/// Nothing that a director does keeps a thread above all of its own from running for so long.
const STALL: Duration = Duration::from_millis(50);
const TRIES: u32 = 3;
/// Above the election thread.
const PRIORITY: i32 = 60;

static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test on a thread of its own, while no other one of this program runs. One that failed while
/// the machine stood still says so, and is run again.
pub(crate) fn alone(test: fn()) {
    // A test that failed is over too.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for attempt in 1..=TRIES {
        let witnesses = Witness::on_each();
        let ended: Result<(), Box<dyn Any + Send>> = thread::spawn(test).join();
        let stalls = witnesses.into_iter().map(Witness::end);
        let stall = stalls.max().unwrap_or_default();
        match ended {
            Ok(()) => return,
            Err(_) if stall >= STALL && attempt < TRIES => {
                println!("the machine stood still for {stall:?}: again");
            }
            Err(reason) => {
                println!("the machine stood still for at most {stall:?}");
                resume_unwind(reason);
            }
        }
    }
}

/// A real-time thread on one processor.
struct Witness {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Witness {
    fn on_each() -> Vec<Witness> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        (0..count).map(Witness::begin).collect()
    }

    fn begin(processor: usize) -> Witness {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut only = CpuSet::new();
            only.set(processor).unwrap();
            // Where that is not allowed it sees more than there is.
            let _ = sched_setaffinity(Pid::from_raw(0), &only);
            let parameters = libc::sched_param {
                sched_priority: PRIORITY,
            };
            // SAFETY: the parameters are read during the call.
            let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &raw const parameters) };
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let asleep = Instant::now();
                thread::sleep(NAP);
                longest = longest.max(asleep.elapsed().saturating_sub(NAP));
            }
            longest
        });
        Witness { stop, thread }
    }

    /// The longest that it was kept from running.
    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
