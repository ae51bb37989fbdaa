//! Work shared out to threads, each with something of its own that takes long to make.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Counts a thread that is still making what it needs, until it has it or has failed.
struct Making<'a>(&'a AtomicUsize);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Gives each thread what `make` makes there; when all have theirs, does the work in its order.
/// Gives back everything that was found.
pub(crate) fn on_each<Work: Send, Own, Found: Send>(
    threads: usize,
    work: Vec<Work>,
    make: impl Fn() -> Own + Sync,
    each: impl Fn(&mut Own, Work) -> Vec<Found> + Sync,
) -> Vec<Found> {
    let work = Mutex::new(VecDeque::from(work));
    let found = Mutex::new(Vec::new());
    let making = AtomicUsize::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let still_making = Making(&making);
                let mut own = make();
                drop(still_making);
                while making.load(Ordering::SeqCst) > 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                loop {
                    let next = work.lock().unwrap().pop_front();
                    let Some(next) = next else { return };
                    let more = each(&mut own, next);
                    found.lock().unwrap().extend(more);
                }
            });
        }
    });
    found.into_inner().unwrap()
}
