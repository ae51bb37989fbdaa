//! What a master sends: entries for each second of a processor, from the ring of the programs.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::burst::Burst;
use super::cpu::ThreadTimes;
use super::frames::Maker;
use super::{BACKUP, MASTER, SILENT_PORT, VIRTUAL, per_second};
use crate::drill::Drill;
use crate::topology::CLIENT;
use crate::wait::wait_until;

/// A round of the expiry walk, in which everything is offered again, takes a second or two.
const OFFER_LIMIT: Duration = Duration::from_secs(20);

impl Drill<'_> {
    /// New connections by packets: `send.packets.*`; then all of them offered again by a master that
    /// starts: `send.again.*`.
    pub(crate) fn send_rates(&mut self, connections: u32) -> Result<()> {
        self.warm_up()?;
        self.director(MASTER)?.start_sync("master")?;
        let service = std::net::SocketAddrV4::new(VIRTUAL, SILENT_PORT);
        let maker = Maker::new(&self.lab, CLIENT, MASTER, service)?;
        let spaces = self.lab.host(CLIENT)?.spaces().try_clone()?;
        let send = || {
            spaces.on_thread(|| {
                let mut burst = Burst::frames("eth0")?;
                maker.send_each(&mut burst, 0..connections, |_| {})
            })
        };
        self.sent_while("packets", connections.into(), |_| send())?;
        self.director(MASTER)?.stop_sync("master")?;
        self.sent_while("again", connections.into(), |drill| {
            drill.director(MASTER)?.start_sync("master")
        })
    }

    /// The neighbours of the director are known after this.
    pub(crate) fn warm_up(&mut self) -> Result<()> {
        for director in [MASTER, BACKUP] {
            for server in super::SERVERS {
                let args = ["-c", "1", "-W", "2", &server.to_string()];
                let _ = self.lab.output(director, "ping", &args);
            }
        }
        Ok(())
    }

    /// Processor time of the master for the entries that `work` causes.
    fn sent_while(
        &mut self,
        name: &str,
        expected: u64,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let pid = self.director(MASTER)?.pid()?;
        let cpu = ThreadTimes::of(pid)?;
        let before = self.director(MASTER)?.status()?.sync_counts("master");
        // A daemon that starts counts from 0.
        let is_running = !before.is_empty();
        let count = |now: &std::collections::BTreeMap<String, u64>, name: &str| {
            let earlier = before.get(name).filter(|_| is_running).copied();
            now.get(name).copied().unwrap_or_default() - earlier.unwrap_or_default()
        };
        let begun = Instant::now();
        work(self)?;
        let worked = begun.elapsed();
        let director = self.director(MASTER)?;
        let mut last = (0, Instant::now());
        let now = wait_until("the master has sent everything", OFFER_LIMIT, || {
            let now = director.status()?.sync_counts("master");
            let sent = count(&now, "entries");
            if sent != last.0 {
                last = (sent, Instant::now());
            }
            // What the ring had no room for never comes.
            let is_over = sent >= expected || last.1.elapsed() > Duration::from_secs(3);
            Ok(is_over.then_some(now))
        })?;
        let took = last.1 - begun;
        let cpu = ThreadTimes::of(pid)?.since(&cpu);
        let (sent, sending) = (count(&now, "entries"), cpu.named("sync-master"));
        let messages = count(&now, "messages");
        self.report
            .figure(format!("send.{name}.per_core"), per_second(sent, sending));
        self.report
            .figure(format!("send.{name}.per_s"), per_second(sent, took));
        self.count_figure(format!("send.{name}.entries"), sent);
        self.count_figure(
            format!("send.{name}.missing"),
            expected.saturating_sub(sent),
        );
        let drops: Vec<String> = now
            .iter()
            .filter(|(counter, count)| counter.starts_with("drop_") && **count > 0)
            .map(|(counter, count)| format!("; {counter} {count}"))
            .collect();
        self.event(format!(
            "{name}: {sent} of {expected} entries in {messages} messages sent in {:.2} s (work {:.2} s); \
             processor: {:.2} s sending, {:.2} s other threads{}",
            took.as_secs_f64(),
            worked.as_secs_f64(),
            sending.as_secs_f64(),
            cpu.total().saturating_sub(sending).as_secs_f64(),
            drops.concat(),
        ));
        Ok(())
    }
}
