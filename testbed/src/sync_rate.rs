//! What synchronisation achieves: entries sent and received for each second of a processor, loss at
//! a steady rate, lag, and what a flood of entries leaves to forwarding.
//!
//! Sockets, maps and daemons are real; what feeds them is this program, in the places of a client
//! and of the other director. Rates are of processor time, which other work on the machine hardly
//! changes; rates by the clock stand beside them.

mod beside;
pub(crate) mod burst;
pub(crate) mod cpu;
pub(crate) mod entries;
pub(crate) mod feed;
pub(crate) mod frames;
mod goals;
mod lag;
mod receive;
mod send;
mod share;
mod wire;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::Result;

use crate::drill::Drill;
use crate::scenario::Scenario;

pub(crate) const MASTER: &str = "director1";
pub(crate) const BACKUP: &str = "director2";
pub(crate) const VIRTUAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
/// Servers inside, as the scenario has them.
pub(crate) const SERVERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12)];
/// A service that entries are about.
const ENTRY_PORT: u16 = 80;
const ENTRY_SERVER_PORT: u16 = 8080;
/// A service of UDP that no server listens for: frames to it are forwarded and end there.
pub(crate) const SILENT_PORT: u16 = 9;
/// `sync_sock_size` of the second try of a steady rate; the kernel takes its own limit of it. Unit:
/// bytes.
const SOCK_SIZE: i64 = 4 << 20;

impl Drill<'_> {
    /// Everything, with so many connections: see the figures of the scenario.
    pub(crate) fn sync_rate(&mut self, entries: u32) -> Result<()> {
        for director in [MASTER, BACKUP] {
            self.add_silent_service(director)?;
        }
        self.director(BACKUP)?.start_sync("backup")?;
        self.receive_rates(entries)?;
        // An empty table: how full it may be is looked at apart.
        self.renew(BACKUP, &toml::Table::new())?;
        self.director(BACKUP)?.start_sync("backup")?;
        self.steady_loss("loss", 0)?;
        let sized = toml::Table::from_iter([("sync_sock_size".to_owned(), SOCK_SIZE.into())]);
        self.renew(BACKUP, &sized)?;
        self.director(BACKUP)?.start_sync("backup")?;
        self.add_silent_service(BACKUP)?;
        let known = self.steady_loss("loss_sized", 0)?;
        self.forwarding_beside(known)?;
        self.send_rates(entries / 2)?;
        self.lags()?;
        self.table_share()?;
        self.note_goals();
        Ok(())
    }

    /// Starts a director anew with empty tables, the scenario's services and these tunables.
    pub(crate) fn renew(&mut self, director: &str, tunables: &toml::Table) -> Result<()> {
        self.renew_as(director, self.scenario, tunables)
    }

    /// The same as another scenario has it.
    fn renew_as(
        &mut self,
        director: &str,
        scenario: &Scenario,
        tunables: &toml::Table,
    ) -> Result<()> {
        let run = self.run;
        let name = director;
        let director = self.director(name)?;
        director.stop()?;
        director.detach()?;
        director.write_config(scenario, run, tunables)?;
        director.start(run)?;
        director.add_services(scenario)?;
        let tunables: Vec<String> = tunables
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        self.event(format!("{name} began anew; {}", tunables.join(", ")));
        Ok(())
    }

    pub(crate) fn add_silent_service(&mut self, director: &str) -> Result<()> {
        let director = self.director(director)?;
        let service = SocketAddr::from((VIRTUAL, SILENT_PORT)).to_string();
        director.ipvsadm(&["-A", "-u", &service, "-s", "rr"])?;
        for server in SERVERS {
            let server = format!("{server}:{SILENT_PORT}");
            director.ipvsadm(&["-a", "-u", &service, "-r", &server, "-m"])?;
        }
        Ok(())
    }

    fn rate_service(&self) -> SocketAddrV4 {
        SocketAddrV4::new(VIRTUAL, ENTRY_PORT)
    }

    fn rate_servers(&self) -> [SocketAddrV4; 2] {
        SERVERS.map(|server| SocketAddrV4::new(server, ENTRY_SERVER_PORT))
    }
}

/// Far below 2^52.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact for every count a drill reaches"
)]
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    let secs = time.as_secs_f64();
    if secs > 0.0 { count as f64 / secs } else { 0.0 }
}

/// The value below which a share of the sorted values lies. Unit: that of the values.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list of some thousands"
    )]
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(0.0)
}
