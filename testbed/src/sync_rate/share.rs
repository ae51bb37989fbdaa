//! How much of a table a flood of entries takes, and that the rest serves new clients.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;

use super::burst::{Burst, Pace};
use super::entries::Target;
use super::feed::Feed;
use super::frames::Maker;
use super::lag::key_of;
use super::wire::ENTRIES_OF_A_MESSAGE;
use super::{BACKUP, MASTER, SILENT_PORT, VIRTUAL, per_second};
use crate::director::CONNECTIONS;
use crate::drill::Drill;
use crate::topology::CLIENT;
use crate::wait::wait_until;

/// More than the table has places, in full datagrams.
const ENTRIES: u32 = (2 * CONNECTIONS).next_multiple_of(ENTRIES_OF_A_MESSAGE as u32);
/// New clients while the table is full of what the peer said, and how many in a second.
const OWN: u32 = 2000;
const OWN_RATE: u64 = 20_000;
/// Clients of this part, which no other part has.
const FIRST_CLIENT: u32 = 7_000_000;

impl Drill<'_> {
    /// More entries than a small table has places, then packets of new clients: `share.*`.
    pub(crate) fn table_share(&mut self) -> Result<()> {
        let mut small = self.scenario.clone();
        small.director.connections_v4 = CONNECTIONS;
        self.renew_as(BACKUP, &small, &toml::Table::new())?;
        self.director(BACKUP)?.start_sync("backup")?;
        self.add_silent_service(BACKUP)?;
        let servers = self.rate_servers();
        let target = Target {
            service: self.rate_service(),
            servers: &servers,
        };
        let datagrams = target.datagrams(0, ENTRIES);
        let fed = self.feed((MASTER, BACKUP), &datagrams, Feed::Window)?;
        let (applied, refused) = (fed.count("applied_new"), fed.count("drop_no_share"));
        let second = Duration::from_secs(1);
        let share = per_second(applied, second) / f64::from(CONNECTIONS);
        self.report.figure("share.of_table", share);
        self.count_figure("share.refused", refused);
        self.count_figure("share.socket_drops", fed.socket_drops());
        self.count_figure("share.unaccounted", fed.unaccounted());

        self.warm_up()?;
        let service = SocketAddrV4::new(VIRTUAL, SILENT_PORT);
        let maker = Maker::new(&self.lab, CLIENT, BACKUP, service)?;
        let clients = FIRST_CLIENT..FIRST_CLIENT + OWN;
        self.lab.host(CLIENT)?.spaces().on_thread(|| {
            let mut burst = Burst::frames("eth0")?;
            let mut pace = Pace::new(OWN_RATE);
            maker.send_each(&mut burst, clients.clone(), |some| pace.wait_for(some))
        })?;
        let flows = self.table_of(BACKUP)?;
        let count = || {
            let missing = clients
                .clone()
                .filter(|number| flows.get(&key_of(*number, &service), 0).is_err());
            missing.count() as u64
        };
        // What is missing after this stays so, and is counted.
        let _ = wait_until("every new client has a place", second, || {
            Ok((count() == 0).then_some(()))
        });
        let missing = count();
        self.count_figure("share.own_missing", missing);
        self.event(format!(
            "{ENTRIES} entries for {CONNECTIONS} places: {applied} applied, {refused} refused for their share{}; of \
             {OWN} new clients {missing} have no place",
            fed.losses()
        ));
        Ok(())
    }
}
