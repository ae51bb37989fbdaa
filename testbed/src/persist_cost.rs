//! What a persistent service costs on the sync link.
//!
//! With the defaults every packet of a connection under a template has the template sent again, as
//! the kernel's master does; `sync_refresh_period` and `sync_persist_mode` save that.

use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::drill::Drill;
use crate::sync_rate::burst::{BURST, Burst, Pace};
use crate::sync_rate::cpu::ThreadTimes;
use crate::sync_rate::entries::CLIENTS_OF_AN_ADDRESS;
use crate::sync_rate::frames::Maker;
use crate::sync_rate::{MASTER, SERVERS, SILENT_PORT, VIRTUAL, per_second};
use crate::topology::CLIENT;
use crate::wait::{check_interrupt, pass_time_until};

/// Clients with an address and one flow each.
const CLIENTS: u32 = 100;
/// Packets of all clients in a second.
const RATE: u64 = 10_000;
/// A master that starts has everything offered once more that it finds; this is over then.
const OFFERED_AGAIN: Duration = Duration::from_secs(3);
/// What was offered last is on its way within this time.
const SETTLE: Duration = Duration::from_millis(200);
/// Unit: seconds.
const PERSISTENT: &str = "360";

/// One way to run the service.
struct Way {
    name: &'static str,
    title: &'static str,
    persistent: bool,
    tunables: &'static [(&'static str, i64)],
}

const WAYS: [Way; 3] = [
    Way {
        name: "plain",
        title: "not persistent, defaults",
        persistent: false,
        tunables: &[],
    },
    Way {
        name: "persistent",
        title: "persistent, defaults",
        persistent: true,
        tunables: &[],
    },
    Way {
        name: "refreshed",
        title: "persistent, refresh 10 s, 2 retries, persist mode 1",
        persistent: true,
        tunables: &[
            ("sync_refresh_period", 10),
            ("sync_retries", 2),
            ("sync_persist_mode", 1),
        ],
    },
];

/// What the same packets cost.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    packets: u64,
    entries: u64,
    bytes: u64,
    took: Duration,
    cpu: Duration,
}

impl Drill<'_> {
    /// The same packets of the same clients, each sends so many, to the service in each way: `WAY.*`.
    pub(crate) fn sync_persist_cost(&mut self, packets: u32) -> Result<()> {
        let mut table = format!(
            "{:52} {:>9} {:>10} {:>11} {:>12} {:>10}\n",
            "the same packets to a service that is",
            "entries",
            "per packet",
            "entries/s",
            "bytes/s",
            "master CPU"
        );
        let mut costs = Vec::new();
        for way in &WAYS {
            let cost = self.cost_of(way, packets)?;
            self.note_cost(way, cost, &mut table);
            costs.push(cost);
        }
        if let [_, persistent, refreshed] = costs[..] {
            let kept = per_second(refreshed.entries, Duration::from_secs(1))
                / per_second(persistent.entries.max(1), Duration::from_secs(1));
            self.report.figure("saved_share", 1.0 - kept);
        }
        self.report.note(table);
        Ok(())
    }

    fn note_cost(&mut self, way: &Way, cost: Cost, table: &mut String) {
        let second = Duration::from_secs(1);
        let per_packet =
            per_second(cost.entries, second) / per_second(cost.packets, second).max(1.0);
        let (entries, bytes) = (
            per_second(cost.entries, cost.took),
            per_second(cost.bytes, cost.took),
        );
        let share = cost.cpu.as_secs_f64() / cost.took.as_secs_f64();
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:52} {:>9} {per_packet:>10.3} {entries:>11.0} {bytes:>12.0} {:>8.2} %",
            way.title,
            cost.entries,
            share * 100.0
        );
        let figures = [
            ("entries_per_packet", per_packet),
            ("entries_per_s", entries),
            ("bytes_per_s", bytes),
            ("master_cpu_share", share),
        ];
        for (name, value) in figures {
            self.report.figure(format!("{}.{name}", way.name), value);
        }
        self.count_figure(format!("{}.packets", way.name), cost.packets);
        self.event(format!(
            "{}: {} packets, {} entries",
            way.name, cost.packets, cost.entries
        ));
    }

    fn cost_of(&mut self, way: &Way, packets: u32) -> Result<Cost> {
        let tunables = way
            .tunables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        self.renew(MASTER, &tunables)?;
        let service = SocketAddrV4::new(VIRTUAL, SILENT_PORT);
        let director = self.director(MASTER)?;
        let named = service.to_string();
        let mut add = vec!["-A", "-u", &named, "-s", "rr"];
        if way.persistent {
            add.extend(["-p", PERSISTENT]);
        }
        director.ipvsadm(&add)?;
        for server in SERVERS {
            let server = format!("{server}:{SILENT_PORT}");
            director.ipvsadm(&["-a", "-u", &named, "-r", &server, "-m"])?;
        }
        director.start_sync("master")?;
        pass_time_until(Instant::now() + OFFERED_AGAIN)?;
        let director = self.director(MASTER)?;
        let pid = director.pid()?;
        let before = director.status()?.sync_counts("master");
        self.warm_up()?;
        let maker = Maker::new(&self.lab, CLIENT, MASTER, service)?;
        let cpu = ThreadTimes::of(pid)?;
        let begun = Instant::now();
        let sent = self.lab.host(CLIENT)?.spaces().on_thread(|| {
            let mut burst = Burst::frames("eth0")?;
            let mut pace = Pace::new(RATE);
            let clients: Vec<u32> = (0..CLIENTS).map(|at| at * CLIENTS_OF_AN_ADDRESS).collect();
            let mut sent = 0;
            for _ in 0..packets {
                check_interrupt()?;
                for some in clients.chunks(BURST) {
                    pace.wait_for(some.len() as u64);
                    let frames: Vec<_> = some.iter().map(|it| maker.frame(*it, 0)).collect();
                    burst.send_all(&frames)?;
                    sent += frames.len() as u64;
                }
            }
            Ok(sent)
        })?;
        let took = begun.elapsed();
        pass_time_until(Instant::now() + SETTLE)?;
        let cpu = ThreadTimes::of(pid)?.since(&cpu).named("sync-master");
        let now = self.director(MASTER)?.status()?.sync_counts("master");
        let counted = |name: &str| {
            let at = |counts: &std::collections::BTreeMap<String, u64>| {
                counts.get(name).copied().unwrap_or_default()
            };
            at(&now).saturating_sub(at(&before))
        };
        Ok(Cost {
            packets: sent,
            entries: counted("entries"),
            bytes: counted("bytes"),
            took,
            cpu,
        })
    }
}
