//! Our director and a kernel's as sync peers, both ways: equal tables on both sides.
//!
//! A row is one master, version of the protocol, family of the multicast group and number of ports.
//! Its connections are made by packets of hand: TCP, UDP and SCTP over IPv4 and, with version 1, IPv6,
//! masqueraded and routed directly, some of persistent services, which bring templates along. Further
//! rows have SCTP with real sockets.
//!
//! Both directors must then list the same entries: client, virtual address, real server, state, the
//! seconds left, `LOCAL` here and `SYNC` there; and must count the same active and inactive connections
//! of each server. What the listings do not show, the flags, decides about the latter.

mod ear;
pub(crate) mod packet;
mod peers;
mod sheet;
mod sockets;
mod tables;

pub(crate) use self::peers::require_kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use self::ear::{ByPort, Ear};
use self::packet::{Flow, Transport};
use self::peers::{ANSWERING, Peers, SILENT, Service, Side, kernel_ipvsadm, virtual_address};
use self::sheet::Sheet;
use self::sockets::Associations;
use self::tables::{Differences, Entries, is_template};
use crate::report::Report;
use crate::run::Run;
use crate::step::SyncDaemonRole;
use crate::wait::{check_interrupt, pass_time_until};

/// Longest persistence that a backup of version 0, which is told no timeout, also gives a template.
const PERSISTENT_S: u32 = 180;
/// A master of the kernel may hold a message for two seconds and then some; an emulated processor
/// needs its time too.
const EQUAL_LIMIT: Duration = Duration::from_secs(30);
const LISTING_PAUSE: Duration = Duration::from_millis(500);
/// Between the last packet of a connection and the last of its batch, and the age of a message.
/// Unit: seconds.
const TIMER_TOLERANCE: i64 = 6;
/// Clients of a row, and the port that the first connection of each comes from.
const CLIENTS: u32 = 250;
const FIRST_PORT: u32 = 20_000;
/// Of 100 flows, with version 1.
const IPV6_SHARE: u32 = 40;
/// The service that is used with real sockets.
const SOCKETS_PORT: u16 = 9010;

const fn service(transport: Transport, port: u16, is_direct: bool, share: u32) -> Service {
    Service {
        transport,
        port,
        is_direct,
        persistent_s: 0,
        servers: &SILENT,
        share,
    }
}

const fn persistent(service: Service) -> Service {
    Service {
        persistent_s: PERSISTENT_S,
        ..service
    }
}

const SERVICES: [Service; 9] = [
    service(Transport::Udp, 5001, false, 300),
    service(Transport::Udp, 5002, true, 150),
    persistent(service(Transport::Udp, 5003, false, 100)),
    service(Transport::Tcp, 8001, false, 150),
    service(Transport::Tcp, 8002, true, 100),
    persistent(service(Transport::Tcp, 8003, true, 80)),
    service(Transport::Sctp, 9001, false, 70),
    persistent(service(Transport::Sctp, 9003, false, 50)),
    Service {
        servers: &[ANSWERING],
        ..service(Transport::Sctp, SOCKETS_PORT, false, 0)
    },
];

/// The rows of a drill: all combinations of these, with each side as master.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// 0, 1.
    versions: Vec<u8>,
    /// Numbers of ports.
    ports: Vec<u16>,
    groups: Vec<IpAddr>,
    /// Connections of a row with one port, and with several.
    connections: [u32; 2],
}

/// One row.
#[derive(Clone, Copy, Debug)]
struct Row {
    /// In the addresses of its clients.
    number: u8,
    master: Side,
    version: u8,
    ports: u16,
    group: IpAddr,
}

/// What a row showed.
#[derive(Debug, Default)]
struct Shown {
    /// By protocol, templates as such.
    kinds: BTreeMap<String, u64>,
    ipv6: u64,
    differences: Differences,
    by_port: ByPort,
    seconds: f64,
}

/// Carries out all rows.
///
/// # Errors
/// This machine has no kernel director, or a signal came. What goes wrong in a row is the row's.
pub(crate) fn carry_out(plan: &Plan, run: &Run, report: &mut Report) -> Result<()> {
    let ipvsadm = kernel_ipvsadm()?;
    let mut sheet = Sheet::new(report);
    let mut number = 0;
    for version in &plan.versions {
        for ports in &plan.ports {
            check_interrupt()?;
            let mut rows = Vec::new();
            for group in &plan.groups {
                for master in Side::BOTH {
                    number += 1;
                    rows.push(Row {
                        number,
                        master,
                        version: *version,
                        ports: *ports,
                        group: *group,
                    });
                }
            }
            let done = of_peers(&rows, plan, run, &ipvsadm, &mut sheet);
            check_interrupt()?;
            if let Err(error) = done {
                let name = format!("version {version}, {ports} ports");
                sheet.fail(&name, &error);
            }
        }
    }
    sheet.finish();
    Ok(())
}

/// The rows that need no other tunables.
fn of_peers(
    rows: &[Row],
    plan: &Plan,
    run: &Run,
    ipvsadm: &Path,
    sheet: &mut Sheet<'_>,
) -> Result<()> {
    let Some(Row { version, ports, .. }) = rows.first().copied() else {
        return Ok(());
    };
    let tunables = [
        ("sync_version", version.to_string()),
        ("sync_ports", ports.to_string()),
    ];
    let peers = Peers::up(run, ipvsadm, &SERVICES, &tunables)?;
    sheet.event(format!(
        "both directors are up, version {version}, {ports} ports"
    ));
    let [few, many] = plan.connections;
    let wanted = if ports > 1 { many } else { few };
    for row in rows {
        let shown = with_daemons(&peers, row, || crafted(&peers, row, wanted));
        sheet.note(row, "crafted packets", shown);
        check_interrupt()?;
        let with_sockets = version == 1 && ports == 1 && row.group.is_ipv4();
        if with_sockets {
            let shown = with_daemons(&peers, row, || associations(&peers, row));
            sheet.note(row, "SCTP sockets", shown);
            check_interrupt()?;
        }
    }
    let ended = peers.status().map(|_| ());
    ended.with_context(|| peers.log_tail())?;
    peers.down()
}

/// Both daemons run meanwhile, and somebody listens.
fn with_daemons(peers: &Peers, row: &Row, work: impl FnOnce() -> Result<Shown>) -> Result<Shown> {
    let begun = Instant::now();
    let daemons = [
        (row.master.other(), SyncDaemonRole::Backup),
        (row.master, SyncDaemonRole::Master),
    ];
    // The kernel's group of IPv4 is the default of both.
    let group = row.group.is_ipv6().then_some(row.group);
    let mut started = Vec::new();
    let mut start = || -> Result<()> {
        for (side, role) in daemons {
            let done = peers.start_sync(side, role, group);
            done.with_context(|| format!("start {} of {}", role.name(), side.name()))?;
            started.push((side, role));
        }
        Ok(())
    };
    let mut shown = start().and_then(|()| {
        let ear = Ear::open(peers.spaces(Side::Tandem), "eth2")?;
        let mut shown = work()?;
        shown.by_port = ear.close()?;
        Ok(shown)
    });
    for (side, role) in started {
        let stopped = peers.stop_sync(side, role);
        let stopped = stopped.with_context(|| format!("stop {} of {}", role.name(), side.name()));
        if let (Ok(_), Err(error)) = (&shown, stopped) {
            shown = Err(error);
        }
    }
    shown.map(|shown| Shown {
        seconds: begun.elapsed().as_secs_f64(),
        ..shown
    })
}

fn crafted(peers: &Peers, row: &Row, wanted: u32) -> Result<Shown> {
    let flows = flows(row, wanted);
    peers.feed(row.master, &flows)?;
    let expected = flows.len() + count_templates(&flows);
    let is_row = |client: SocketAddr| is_of_row(row, client.ip());
    let (master, differences) = compare(peers, row.master, &is_row, expected)?;
    Ok(Shown {
        kinds: kinds(&master),
        ipv6: master.keys().filter(|key| key.1.is_ipv6()).count() as u64,
        differences,
        ..Shown::default()
    })
}

/// Open associations first, then the same closed: the master tells of both ends.
fn associations(peers: &Peers, row: &Row) -> Result<Shown> {
    peers.route_by(row.master)?;
    let associations = Associations::open(peers, SOCKETS_PORT)?;
    let clients = associations.clients();
    let is_client = |client: SocketAddr| clients.contains(&client);
    let (open, mut differences) = compare(peers, row.master, &is_client, clients.len())?;
    associations.close()?;
    let (closed, more) = compare(peers, row.master, &is_client, clients.len())?;
    differences.add(more);
    for (entries, state) in [(&open, "ESTABLISHED"), (&closed, "CLOSED")] {
        let right = entries.values().all(|entry| entry.state == state);
        ensure!(right, "not {state}: {entries:?}");
    }
    Ok(Shown {
        kinds: kinds(&open),
        ipv6: open.keys().filter(|key| key.1.is_ipv6()).count() as u64,
        differences,
        ..Shown::default()
    })
}

/// Lists both directors until they agree, or the limit.
fn compare(
    peers: &Peers,
    master: Side,
    wanted: &dyn Fn(SocketAddr) -> bool,
    expected: usize,
) -> Result<(Entries, Differences)> {
    let deadline = Instant::now() + EQUAL_LIMIT;
    loop {
        let list = |side| -> Result<Entries> {
            let mut entries = peers.table(side)?;
            entries.retain(|(_, client, _), _| wanted(*client));
            Ok(entries)
        };
        let asked = Instant::now();
        let here = list(master)?;
        let there = list(master.other())?;
        let took = i64::try_from(asked.elapsed().as_secs()).unwrap_or(i64::MAX / 2);
        let mut found = Differences::between(&here, &there, TIMER_TOLERANCE + took);
        if found.count() == 0 {
            let [ours, theirs] = [master, master.other()].map(|side| peers.counts(side));
            let (ours, theirs) = (ours?, theirs?);
            for (key, here) in &ours {
                let there = theirs.get(key);
                if there != Some(here) {
                    found.counters += 1;
                    found.tell(|| format!("{key:?}: {here:?} there, {there:?} here"));
                }
            }
        }
        let complete = here.len() >= expected;
        if (complete && found.count() == 0) || Instant::now() > deadline {
            ensure!(
                complete,
                "the master has {} of {expected} entries",
                here.len()
            );
            return Ok((here, found));
        }
        check_interrupt()?;
        pass_time_until(Instant::now() + LISTING_PAUSE)?;
    }
}

/// The connections of a row.
fn flows(row: &Row, wanted: u32) -> Vec<Flow> {
    let mut flows = Vec::new();
    let of_ipv6 = if row.version == 0 { 0 } else { IPV6_SHARE };
    for (ipv6, percent) in [(false, 100 - of_ipv6), (true, of_ipv6)] {
        for service in &SERVICES {
            let count = wanted * service.share / 1000 * percent / 100;
            flows.extend((0..count).map(|index| {
                let port = FIRST_PORT + index / CLIENTS;
                let address = client(row, index % CLIENTS, ipv6);
                Flow {
                    transport: service.transport,
                    client: SocketAddr::new(address, u16::try_from(port).unwrap_or(u16::MAX)),
                    service: SocketAddr::new(virtual_address(ipv6), service.port),
                }
            }));
        }
    }
    flows
}

/// A client of a row; 198.18.0.0/15 is for such things (RFC 2544).
fn client(row: &Row, index: u32, ipv6: bool) -> IpAddr {
    let host = u8::try_from(index + 1).unwrap_or(u8::MAX);
    if ipv6 {
        let row = u16::from(row.number);
        Ipv6Addr::new(0x2001, 0xdb8, 0xc, row, 0, 0, 0, host.into()).into()
    } else {
        Ipv4Addr::new(198, 18, row.number, host).into()
    }
}

fn is_of_row(row: &Row, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets().starts_with(&[198, 18, row.number]),
        IpAddr::V6(address) => {
            address
                .segments()
                .starts_with(&[0x2001, 0xdb8, 0xc, row.number.into()])
        }
    }
}

/// One for each client of a persistent service.
fn count_templates(flows: &[Flow]) -> usize {
    let is_persistent = |flow: &&Flow| {
        let port = flow.service.port();
        let service = SERVICES.iter().find(|service| service.port == port);
        service.is_some_and(|service| service.persistent_s > 0)
    };
    let clients = flows.iter().filter(is_persistent);
    let clients: BTreeSet<(IpAddr, SocketAddr)> = clients
        .map(|flow| (flow.client.ip(), flow.service))
        .collect();
    clients.len()
}

fn kinds(entries: &Entries) -> BTreeMap<String, u64> {
    let mut kinds = BTreeMap::new();
    for key in entries.keys() {
        let kind = if is_template(key) {
            "templates"
        } else {
            key.0.as_str()
        };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_every_kind_of_connection_and_its_own_clients() {
        let row = Row {
            number: 3,
            master: Side::Kernel,
            version: 1,
            ports: 4,
            group: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81)),
        };
        let all = flows(&row, 6000);
        assert!(all.len() > 5900, "{}", all.len());
        let keys: BTreeSet<_> = all
            .iter()
            .map(|flow| (flow.transport, flow.client, flow.service))
            .collect();
        assert_eq!(keys.len(), all.len(), "no connection is there twice");
        assert!(all.iter().all(|flow| is_of_row(&row, flow.client.ip())));
        let other = Row { number: 4, ..row };
        assert!(!all.iter().any(|flow| is_of_row(&other, flow.client.ip())));
        assert!(count_templates(&all) > 500);
        for transport in [Transport::Tcp, Transport::Udp, Transport::Sctp] {
            for ipv6 in [false, true] {
                let has =
                    |flow: &&Flow| flow.transport == transport && flow.client.is_ipv6() == ipv6;
                assert!(all.iter().any(|flow| has(&flow)), "{transport:?} {ipv6}");
            }
        }
        let old = Row { version: 0, ..row };
        assert!(flows(&old, 6000).iter().all(|flow| flow.client.is_ipv4()));
    }
}
