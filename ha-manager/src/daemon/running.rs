//! The loop that drives the owner of the data plane, until a signal ends it.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracing::warn;

use super::Command;
use super::owner::Owner;
use crate::failover::driver::Event;
use crate::vmac::Tender;

/// How long clients get to take their last answer at shutdown.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(1);
/// A whole round of the expiry walk takes about this long.
const WALK_ROUND: Duration = Duration::from_secs(1);
/// Table positions in one step of the walk, for tables up to [`WALK_STEPS_MAX`] such steps.
pub(super) const WALK_BUDGET: u32 = 16_384;
/// Steps in a round; of larger tables each step takes more.
const WALK_STEPS_MAX: u32 = 256;
/// What failed before is tried again this often.
const RETRY: Duration = Duration::from_secs(1);
/// `ip_vs_est.c`: a sample for the rates is taken this often.
const ESTIMATE: Duration = Duration::from_secs(2);
/// `ip_vs_lblc.c: CHECK_EXPIRE_INTERVAL`.
const CLEAN_CACHES: Duration = Duration::from_secs(60);
/// The election is told this often that the owner is alive.
const BEAT: Duration = Duration::from_millis(100);

/// The signals that end a director.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn install() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The owner and what drives it.
pub(super) struct Running {
    pub(super) owner: Owner,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) signals: Signals,
    pub(super) vmacs: Tender,
}

/// What the loop of [`Running::until_stopped`] turns for, apart from failover and signals.
enum Turn {
    Beat,
    CleanCaches,
    Command(Command),
    Estimate,
    Received,
    Renew,
    Retry,
    Routes,
    /// Macvlans that cannot be had now.
    Vmacs(Vec<String>),
    Walk,
}

impl Running {
    /// One event at a time. Signals are few and failover must not wait, so they come first; but after
    /// each event of failover comes one of the rest, if any is ready.
    /// Whichever of the rest are ready get their turn at random, so that neither a flood of
    /// requests holds up the lease and the walk, nor the walk the requests.
    pub(super) async fn until_stopped(&mut self) -> &'static str {
        let pace = Pace::of(self.owner.table_size());
        self.owner.set_walk_budget(pace.budget);
        let received = self.owner.received();
        let mut walk = every(pace.interval);
        let mut renewal = self.owner.lease_length().map(|length| every(length / 3));
        let mut retry = every(RETRY);
        let mut estimate = every(ESTIMATE);
        let mut clean_caches = every(CLEAN_CACHES);
        let mut beat = every(BEAT);
        // The rest has its turn after each of failover's, however much others make of those.
        let mut is_owed = false;
        loop {
            let Running {
                owner,
                commands,
                signals,
                vmacs,
            } = self;
            let has_routes = owner.has_routes_to_follow();
            let turn = async {
                tokio::select! {
                    () = tick(&mut renewal) => Turn::Renew,
                    _ = estimate.tick() => Turn::Estimate,
                    _ = clean_caches.tick() => Turn::CleanCaches,
                    _ = beat.tick() => Turn::Beat,
                    _ = walk.tick() => Turn::Walk,
                    _ = retry.tick() => Turn::Retry,
                    () = std::future::ready(()), if has_routes => Turn::Routes,
                    () = received.notified() => Turn::Received,
                    wanting = vmacs.wanting() => Turn::Vmacs(wanting),
                    Some(command) = commands.recv() => Turn::Command(command),
                }
            };
            let failover = owner.failover_event();
            let event: Result<Turn, Event> = if is_owed {
                tokio::select! {
                    biased;
                    reason = signals.next() => return reason,
                    turn = turn => Ok(turn),
                    event = failover => Err(event),
                }
            } else {
                tokio::select! {
                    biased;
                    reason = signals.next() => return reason,
                    event = failover => Err(event),
                    turn = turn => Ok(turn),
                }
            };
            is_owed = event.is_err();
            owner.beat();
            match event {
                Err(event) => owner.fail_over(event).await,
                Ok(Turn::Beat) => owner.check_health(),
                Ok(Turn::CleanCaches) => owner.clean_caches(),
                Ok(Turn::Command(command)) => {
                    let is_picture = matches!(command, Command::Network(_));
                    owner.handle(command);
                    if is_picture {
                        vmacs.tell(owner.network(), owner.attachments());
                    }
                }
                Ok(Turn::Estimate) => owner.estimate(),
                Ok(Turn::Received) => owner.apply_received(),
                Ok(Turn::Renew) => owner.renew_lease(),
                Ok(Turn::Retry) => {
                    owner.retry().await;
                    vmacs.tell(owner.network(), owner.attachments());
                }
                Ok(Turn::Routes) => owner.follow_routes(),
                Ok(Turn::Vmacs(wanting)) => owner.report_vmacs(wanting),
                Ok(Turn::Walk) => owner.walk(pace.budget),
            }
        }
    }

    /// Answers what clients have begun until they are gone, or the grace is over.
    pub(super) async fn answer_last(&mut self, mut server: JoinHandle<()>) {
        let latest = Instant::now() + STOP_GRACE;
        loop {
            tokio::select! {
                _ = &mut server => return,
                () = sleep_until(latest) => {
                    warn!("control clients did not take their answers in time");
                    server.abort();
                    return;
                }
                Some(command) = self.commands.recv() => self.owner.handle(command),
            }
        }
    }
}

/// How the expiry walk is cut into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    /// Table positions in one step.
    budget: u32,
    interval: Duration,
}

impl Pace {
    fn of(table_size: u32) -> Pace {
        let budget = WALK_BUDGET.max(table_size.div_ceil(WALK_STEPS_MAX));
        let steps = table_size.div_ceil(budget).max(1);
        Pace {
            budget,
            interval: WALK_ROUND / steps,
        }
    }
}

/// First after one period, never in bursts.
fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next tick of an interval that may not be wanted.
async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_the_walk_takes_a_second_whatever_the_table_size() {
        for log2 in 8..=24 {
            let size = 1u32 << log2;
            let pace = Pace::of(size);
            let steps = size.div_ceil(pace.budget);
            assert!(steps <= WALK_STEPS_MAX, "2^{log2}");
            assert!(pace.interval * steps <= WALK_ROUND, "2^{log2}");
            assert!(pace.interval * (steps + 1) > WALK_ROUND, "2^{log2}");
        }
        assert_eq!(
            Pace::of(1 << 20),
            Pace {
                budget: 16_384,
                interval: Duration::from_micros(15_625)
            }
        );
    }
}
