//! Work shared out to threads, each with something of its own that takes long to make.

use std::collections::VecDeque;
use std::sync::{Barrier, Mutex};
use std::thread;

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
    let ready = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = make();
                ready.wait();
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
