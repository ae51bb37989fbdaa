//! The director's end of the socket pair, and what it knows of the other one.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::frame::{FrameError, FromRunner, Outcome, Stuck, ToRunner, encode, now_ms, take};
use super::{RUNS_MAX, TIMEOUT_MAX, serve};

/// The runner answers within this time after a run's own, or it does not answer at all.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(3);
/// A look at the time that comes so much too late says that the director itself stood still.
const LAPSE: Duration = Duration::from_millis(500);
/// The process, which ends its scripts first, is gone within this time after the socket.
const END_MAX: Duration = Duration::from_secs(3);
/// And one that was killed after this time more, unless the kernel holds it.
const KILLED_MAX: Duration = Duration::from_secs(1);

/// One run that is wanted.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: u32,
    pub(super) args: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// How the runner is. Locks are held for moments, never over a wait.
#[derive(Debug, Default)]
pub(super) struct Health {
    gone: AtomicBool,
    silent: AtomicBool,
    stuck: Mutex<Option<Stuck>>,
}

impl Health {
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub(super) fn stuck(&self) -> Option<Stuck> {
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_stuck(&self, stuck: Stuck) {
        let stuck = (stuck.runs > 0).then_some(stuck);
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
    }

    fn set_gone(&self, error: &FrameError) {
        self.gone.store(true, Ordering::Relaxed);
        warn!(%error, "the script runner has ended, no script is run any more");
    }

    fn set_silent(&self) {
        if !self.silent.swap(true, Ordering::Relaxed) {
            warn!("the script runner does not answer, no script is run until it does");
        }
    }

    fn set_answering(&self) {
        if self.silent.swap(false, Ordering::Relaxed) {
            info!("the script runner answers again");
        }
    }
}

struct Waiting {
    reply: oneshot::Sender<Outcome>,
    /// The runner is silent if it has not answered then.
    latest: Instant,
}

pub(super) struct Link {
    socket: AsyncFd<OwnedFd>,
    /// Runs without an outcome yet, at most [`RUNS_MAX`].
    waiting: BTreeMap<u64, Waiting>,
    /// Not sent yet. The socket takes more than [`RUNS_MAX`] usual ones, and a silent runner gets none.
    frames: VecDeque<Vec<u8>>,
    next_id: u64,
    health: Arc<Health>,
}

impl Link {
    pub(super) fn new(socket: AsyncFd<OwnedFd>, health: Arc<Health>) -> Link {
        Link {
            socket,
            waiting: BTreeMap::new(),
            frames: VecDeque::new(),
            next_id: 0,
            health,
        }
    }

    pub(super) async fn serve(mut self, mut requests: mpsc::Receiver<Request>, child: Child) {
        loop {
            let due = self.waiting.values().map(|waiting| waiting.latest).min();
            let done = tokio::select! {
                request = requests.recv(), if self.waiting.len() < RUNS_MAX => match request {
                    Some(request) => {
                        self.ask(request);
                        Ok(())
                    }
                    None => break,
                },
                sent = serve::write(&self.socket, self.frames.front()) => {
                    sent.map(|()| drop(self.frames.pop_front()))
                }
                told = serve::read(&self.socket) => told.map(|told| self.hear(told)),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.miss(due)
                }
            };
            if let Err(error) = done {
                self.health.set_gone(&error);
                break;
            }
        }
        // What waits hears that the runner is gone; so does the process.
        drop(requests);
        drop(self);
        reap(child).await;
    }

    fn ask(&mut self, request: Request) {
        if request.reply.is_closed() {
            // Nobody waits for it any more, and what it would tell may be true no more.
            return;
        }
        if self.health.is_silent() {
            let _ = request.reply.send(Outcome::Silent);
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        let timeout = request.timeout.min(TIMEOUT_MAX);
        let patience = timeout + ANSWER_MAX;
        let run = ToRunner::Run {
            id,
            command: request.command,
            args: request.args,
            timeout_ms: whole_ms(timeout),
            stale_ms: now_ms().saturating_add(whole_ms(patience)),
        };
        match encode(&run) {
            Ok(frame) => {
                self.frames.push_back(frame);
                let waiting = Waiting {
                    reply: request.reply,
                    latest: Instant::now() + patience,
                };
                self.waiting.insert(id, waiting);
            }
            Err(error) => {
                let _ = request.reply.send(Outcome::Refused(error.to_string()));
            }
        }
    }

    fn hear(&mut self, told: FromRunner) {
        self.health.set_answering();
        match told {
            FromRunner::Ended { id, outcome } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    // Nobody has to wait for it any more.
                    let _ = waiting.reply.send(outcome);
                }
            }
            FromRunner::Stuck(stuck) => self.health.set_stuck(stuck),
            FromRunner::Ready => debug!("the script runner is ready twice"),
        }
    }

    /// Answers for a runner that does not.
    fn miss(&mut self, due: Option<Instant>) -> Result<(), FrameError> {
        // The answers may be there: what counts is when they came, not when they are read.
        loop {
            match take(self.socket.get_ref()) {
                Ok(told) => self.hear(told),
                Err(error) if error.would_block() => break,
                Err(error) => return Err(error),
            }
        }
        let now = Instant::now();
        if due.is_some_and(|due| now.saturating_duration_since(due) > LAPSE) {
            // The runner may have stood still together with the director, and go on now as well.
            for waiting in self.waiting.values_mut() {
                waiting.latest = waiting.latest.max(now + ANSWER_MAX);
            }
            return Ok(());
        }
        for (_, waiting) in self
            .waiting
            .extract_if(.., |_, waiting| waiting.latest <= now)
        {
            self.health.set_silent();
            let _ = waiting.reply.send(Outcome::Silent);
        }
        Ok(())
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Leaves no zombie, unless the kernel holds the process: that is not waited for.
async fn reap(mut child: Child) {
    if !has_ended(&mut child, END_MAX).await {
        let _ = child.kill();
        has_ended(&mut child, KILLED_MAX).await;
    }
}

async fn has_ended(child: &mut Child, within: Duration) -> bool {
    let latest = Instant::now() + within;
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= latest {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;
    use crate::script_runner::frame::put;

    struct Pair {
        theirs: OwnedFd,
        requests: mpsc::Sender<Request>,
        health: Arc<Health>,
    }

    impl Pair {
        fn new() -> Pair {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let (ours, theirs) =
                socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
            let health = Arc::new(Health::default());
            let link = Link::new(serve::watched(ours).unwrap(), Arc::clone(&health));
            let (requests, received) = mpsc::channel(RUNS_MAX);
            let child = std::process::Command::new("/bin/true").spawn().unwrap();
            tokio::spawn(link.serve(received, child));
            Pair {
                theirs,
                requests,
                health,
            }
        }

        async fn ask(&self, timeout: Duration) -> oneshot::Receiver<Outcome> {
            let (reply, outcome) = oneshot::channel();
            let request = Request {
                command: 0,
                args: Vec::new(),
                timeout,
                reply,
            };
            self.requests.send(request).await.unwrap();
            outcome
        }

        fn tell(&self, what: &FromRunner) {
            put(&self.theirs, &encode(what).unwrap()).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_not_answered_is_bounded_and_any_answer_ends_the_silence() {
        let pair = Pair::new();
        let begun = Instant::now();
        let timeout = Duration::from_secs(1);
        let outcome = pair.ask(timeout).await;
        let long = pair.ask(Duration::from_secs(9)).await;
        assert_eq!(outcome.await, Ok(Outcome::Silent));
        let taken = begun.elapsed();
        let bound = timeout + ANSWER_MAX;
        assert!(
            taken >= bound && taken < bound + Duration::from_millis(100),
            "{taken:?}"
        );
        assert!(pair.health.is_silent());
        let at_once = Instant::now();
        assert_eq!(pair.ask(timeout).await.await, Ok(Outcome::Silent));
        assert!(at_once.elapsed() < Duration::from_millis(100));
        // The one in between waits for its own time.
        let ended = |id| FromRunner::Ended {
            id,
            outcome: Outcome::Exited(3),
        };
        pair.tell(&ended(0));
        pair.tell(&ended(1));
        assert_eq!(long.await, Ok(Outcome::Exited(3)));
        assert!(!pair.health.is_silent());
        let next = pair.ask(timeout).await;
        pair.tell(&ended(2));
        // An answer to what was not asked is nobody's.
        pair.tell(&ended(77));
        assert_eq!(next.await, Ok(Outcome::Exited(3)));
    }

    #[tokio::test]
    async fn what_is_stuck_is_known_until_it_is_not() {
        let pair = Pair::new();
        let stuck = Stuck {
            runs: 2,
            command: 1,
        };
        for (told, known) in [(stuck, Some(stuck)), (Stuck::default(), None)] {
            pair.tell(&FromRunner::Stuck(told));
            let latest = Instant::now() + Duration::from_secs(20);
            while pair.health.stuck() != known {
                assert!(Instant::now() < latest, "{told:?}");
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(pair.theirs);
        let gone = pair.requests.closed();
        tokio::time::timeout(Duration::from_secs(20), gone)
            .await
            .unwrap();
        assert!(pair.health.is_gone());
    }
}
