//! From the packet that makes a connection known to the entry in the peer's table.
//!
//! The map of flows of the second director is looked at itself; the time between two looks is the
//! resolution.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData};

use super::burst::{Burst, Pace};
use super::entries::client;
use super::frames::Maker;
use super::wire::{Key, flow_key};
use super::{BACKUP, MASTER, SILENT_PORT, VIRTUAL, percentile};
use crate::drill::Drill;
use crate::topology::CLIENT;
use crate::wait::{check_interrupt, monotonic_ns};

/// Time between two looks. It is the resolution at a low rate.
const LOOK: Duration = Duration::from_micros(20);
/// Later than this an entry is lost.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Clients of this part, which no other part has.
const FIRST_CLIENT: u32 = 4_000_000;
const UDP: u8 = 17;

/// Where a flow leads is not looked at.
type Place = [u8; 8];

pub(super) type Flows = HashMap<MapData, Key, Place>;

impl Drill<'_> {
    /// New flows in a second, and for how long: `lag.low.*`, `lag.high.*`, `lag.full.*`.
    pub(crate) fn lags(&mut self) -> Result<()> {
        let flows = self.table_of(BACKUP)?;
        let mut first = FIRST_CLIENT;
        for (name, per_second, count) in [
            ("low", 50, 250),
            ("high", 20_000, 60_000),
            ("full", 100_000, 200_000),
        ] {
            self.lag(name, &flows, first..first + count, per_second)?;
            first += count;
        }
        Ok(())
    }

    pub(super) fn table_of(&self, director: &str) -> Result<Flows> {
        let node = self.scenario.director_named(director)?;
        let pins = node.bpffs_dir(self.run).join("tandem/FLOWS4");
        // The file system is mounted in the director's own mount namespace only.
        let holder = self.lab.host(director)?.pid();
        let path = std::path::PathBuf::from(format!("/proc/{holder}/root{}", pins.display()));
        let data = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
        Ok(Flows::try_from(Map::HashMap(data))?)
    }

    fn lag(
        &mut self,
        name: &str,
        flows: &Flows,
        clients: std::ops::Range<u32>,
        rate: u64,
    ) -> Result<()> {
        let service = SocketAddrV4::new(VIRTUAL, SILENT_PORT);
        let maker = Maker::new(&self.lab, CLIENT, MASTER, service)?;
        let spaces = self.lab.host(CLIENT)?.spaces();
        let sent: Vec<AtomicU64> = clients.clone().map(|_| AtomicU64::new(0)).collect();
        let begun = Instant::now();
        let (lags, lost) = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                spaces.enter_thread()?;
                send(&maker, clients.clone(), &sent, rate)
            });
            let seen = watch(flows, clients.clone(), &sent, &service);
            let sender = sender.join();
            sender.unwrap_or_else(|_| bail!("the sender failed"))?;
            seen
        })?;
        let took = begun.elapsed();
        let mut lags = lags;
        lags.sort_by(f64::total_cmp);
        let seen = lags.len() as u64;
        for (what, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let value = percentile(&lags, share);
            self.report.figure(format!("lag.{name}.{what}_ms"), value);
        }
        self.count_figure(format!("lag.{name}.lost"), lost);
        self.report
            .figure(format!("lag.{name}.per_s"), super::per_second(seen, took));
        self.event(format!(
            "{name} rate, {rate} new flows a second: {seen} seen on {BACKUP}, {lost} lost; p50 {:.2} ms, p99 \
             {:.2} ms",
            percentile(&lags, 0.5),
            percentile(&lags, 0.99)
        ));
        Ok(())
    }
}

/// One frame for each client, at a pace; notes when.
fn send(maker: &Maker, clients: std::ops::Range<u32>, sent: &[AtomicU64], rate: u64) -> Result<()> {
    /// Frames that go together when sleeping between single ones is no use.
    const TOGETHER: u64 = 1000;
    let mut burst = Burst::frames("eth0")?;
    let mut pace = Pace::new(rate);
    let together = usize::try_from(rate / TOGETHER)?.clamp(1, super::burst::BURST);
    let all: Vec<u32> = clients.collect();
    for (numbers, times) in all.chunks(together).zip(sent.chunks(together)) {
        check_interrupt()?;
        pace.wait_for(numbers.len() as u64);
        let frames: Vec<_> = numbers.iter().map(|it| maker.frame(*it, 0)).collect();
        let now = monotonic_ns();
        for time in times {
            time.store(now, Ordering::Release);
        }
        burst.send_all(&frames)?;
    }
    Ok(())
}

/// Waits for each client's flow in turn. Unit of the lags: milliseconds.
fn watch(
    flows: &Flows,
    clients: std::ops::Range<u32>,
    sent: &[AtomicU64],
    service: &SocketAddrV4,
) -> Result<(Vec<f64>, u64)> {
    let mut lags = Vec::with_capacity(sent.len());
    let mut lost = 0;
    let lost_after = u64::try_from(LOST_AFTER.as_nanos())?;
    for (number, time) in clients.zip(sent) {
        let key = key_of(number, service);
        loop {
            let at = time.load(Ordering::Acquire);
            let is_there = at != 0 && flows.get(&key, 0).is_ok();
            let now = monotonic_ns();
            if is_there {
                #[expect(clippy::cast_precision_loss, reason = "below 2^52 nanoseconds")]
                lags.push(now.saturating_sub(at) as f64 / 1e6);
                break;
            }
            if at != 0 && now.saturating_sub(at) > lost_after {
                lost += 1;
                break;
            }
            check_interrupt()?;
            thread::sleep(LOOK);
        }
    }
    Ok((lags, lost))
}

pub(super) fn key_of(number: u32, service: &SocketAddrV4) -> Key {
    flow_key(client(number), *service, UDP)
}
