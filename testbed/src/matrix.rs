//! Every forwarding method, family, protocol, kind of service and scheduler once, with real sockets.
//!
//! A row is one service, added by `ipvsadm`, a few connections of the client, and what they must
//! show:
//!
//! | | the servers' turns |
//! | --- | --- |
//! | rr, wlc | even; of a mark over both its ports together |
//! | sh, mh | a client's address has the same server again, and not all have the same one |
//! | persistent | a client's address has the same server again; servers get clients evenly with rr and wlc |
//!
//! Connections stay open to the end of their row, so that `wlc` has something to count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeFrom;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::drill::Drill;
use crate::line::{Answerer, Line};
use crate::order::LoadOrder;
use crate::plan;
use crate::scenario::{LoadKind, ServiceSpec};
use crate::topology::CLIENT;
use crate::wait::check_interrupt;

const SCHEDULERS: [&str; 4] = ["rr", "wlc", "sh", "mh"];
/// Connections of a row; so many of each client where clients are told apart.
const CONNECTIONS: u64 = 12;
const OF_EACH: u64 = 3;
/// Addresses that hashing must not all give to one server.
const SPREAD_OVER: u8 = plan::SOURCES;
const PERSISTENT_S: u32 = 300;
/// Below the ports that the host chooses: a connection of an earlier row is never met again.
const FIRST_PORT: u16 = 20_000;
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Persistent,
    Mark,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Plain, Kind::Persistent, Kind::Mark];

    const fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Persistent => "persistent",
            Kind::Mark => "fwmark",
        }
    }
}

/// One connection of a row: where it came from, and who answered.
type Answered = (IpAddr, String);

impl Drill<'_> {
    /// Fails no row silently: what a row should have shown and did not is an event.
    pub(crate) fn matrix(&mut self) -> Result<()> {
        let mut text = format!(
            "\n{:<8} {:<5} {:<4} {:<11} {:<5} {:>11}  servers\n",
            "method", "IP", "", "service", "by", "connections"
        );
        let (mut rows, mut failed, mut connections) = (0, 0, 0);
        let mut ports = FIRST_PORT..;
        let services = self.scenario.services.clone();
        for service in &services {
            for kind in Kind::ALL {
                for scheduler in SCHEDULERS {
                    check_interrupt()?;
                    let row = self.row(service, kind, scheduler, &mut ports);
                    rows += 1;
                    let name = title(service, kind, scheduler);
                    let (count, servers, wrong) = match row {
                        Ok(answered) => {
                            let wrong = judge(&answered, kind, scheduler, service.servers.len());
                            (answered.len() as u64, shares(&answered), wrong.err())
                        }
                        Err(error) => (0, String::new(), Some(error)),
                    };
                    connections += count;
                    let _ = write!(text, "{name} {count:>11}  {servers}");
                    if let Some(wrong) = wrong {
                        failed += 1;
                        self.event(format!("{name}: {wrong:#}"));
                        let _ = write!(text, "  FAILED: {wrong:#}");
                    }
                    text.push('\n');
                }
            }
        }
        self.report.note(text);
        self.count_figure("matrix.rows", rows);
        self.count_figure("matrix.failed", failed);
        self.count_figure("matrix.connections", connections);
        // As the scenario has them, for what follows.
        let scenario = self.scenario;
        let director = self.first_director()?;
        director.ipvsadm(&["-C"])?;
        director.add_services(scenario)
    }

    fn row(
        &mut self,
        service: &ServiceSpec,
        kind: Kind,
        scheduler: &str,
        ports: &mut RangeFrom<u16>,
    ) -> Result<Vec<Answered>> {
        let service = variant(service, kind, scheduler)?;
        let scenario = self.scenario;
        let director = self.first_director()?;
        director.ipvsadm(&["-C"])?;
        director.add_service(scenario, &service)?;
        let client = self.lab.host(CLIENT)?.spaces();
        let answered = client.on_thread(|| connect(&service, kind, scheduler, ports))?;
        let director = self.first_director()?;
        let stats = director.ipvsadm(&["-Ln", "--stats", "--exact"])?;
        let counted: u64 = conns_of(&stats).context("no connections in the listing")?;
        let made = answered.len() as u64;
        ensure!(counted == made, "{made} connections, {counted} counted");
        Ok(answered)
    }
}

/// The service as this row has it.
fn variant(service: &ServiceSpec, kind: Kind, scheduler: &str) -> Result<ServiceSpec> {
    let mut service = service.clone();
    scheduler.clone_into(&mut service.scheduler);
    if kind == Kind::Mark {
        service.more_ports.truncate(1);
        return Ok(service);
    }
    if kind == Kind::Persistent {
        // A port of its own: a template outlives its service, and when service and server are there
        // again it counts.
        let at = SCHEDULERS.iter().position(|name| *name == scheduler);
        let port = at.and_then(|at| service.more_ports.get(at + 1).copied());
        service.address.set_port(port.context("too few ports")?);
        service.persistent_s = PERSISTENT_S;
    }
    service.fwmark = None;
    service.more_ports.clear();
    for member in &mut service.servers {
        member.port = service.address.port();
    }
    Ok(service)
}

/// Makes the connections of a row, one after the other.
fn connect(
    service: &ServiceSpec,
    kind: Kind,
    scheduler: &str,
    client_ports: &mut RangeFrom<u16>,
) -> Result<Vec<Answered>> {
    let clients = if tells_clients_apart(kind, scheduler) {
        SPREAD_OVER
    } else {
        1
    };
    let total = if clients > 1 {
        u64::from(clients) * OF_EACH
    } else {
        CONNECTIONS
    };
    let ports: Vec<u16> = service.ports().collect();
    let is_ipv6 = service.address.is_ipv6();
    let sources: Vec<IpAddr> = (0..clients)
        .map(|index| plan::source(index, is_ipv6))
        .collect();
    let mut lines = Vec::new();
    let mut answered = Vec::new();
    let count = usize::try_from(total)?;
    let ports_from = client_ports.start;
    client_ports
        .nth(count - 1)
        .context("no client port is left")?;
    for number in 0..total {
        // Every client in turn, and the ports of a mark in turn.
        let port = ports.get(usize::try_from(number)? % ports.len());
        let port = *port.context("no port")?;
        let order = LoadOrder {
            protocol: service.protocol,
            address: SocketAddr::new(service.address.ip(), port),
            kind: LoadKind::Connections,
            count: 1,
            parallel: 1,
            interval_ms: 0,
            up: 100,
            down: 1000,
            patience_ms: u64::try_from(PATIENCE.as_millis())?,
            use_rounds: 0,
            seed: number,
            sources: sources.clone(),
            ports_from,
        };
        let what = || format!("connection {number} to {}", order.address);
        let mut line = Line::open(&order, number).with_context(what)?;
        let (answer, wrong) = line.round().with_context(what)?;
        ensure!(wrong + answer.wrong == 0, "{}: wrong bytes", what());
        let source = line.source().context("a connection without an address")?;
        if let Answerer::First(server) = line.note_server(&answer) {
            answered.push((source, server));
        }
        // Another round comes from the same server.
        let (answer, wrong) = line.round().with_context(what)?;
        ensure!(wrong + answer.wrong == 0, "{}: wrong bytes", what());
        let same = matches!(line.note_server(&answer), Answerer::Same);
        ensure!(same, "{}: another server answered", what());
        lines.push(line);
    }
    Ok(answered)
}

fn tells_clients_apart(kind: Kind, scheduler: &str) -> bool {
    kind == Kind::Persistent || matches!(scheduler, "sh" | "mh")
}

/// What the row has to show.
fn judge(answered: &[Answered], kind: Kind, scheduler: &str, servers: usize) -> Result<()> {
    let mut clients: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    for (client, server) in answered {
        clients.entry(*client).or_default().insert(server);
    }
    let hashes = matches!(scheduler, "sh" | "mh");
    if tells_clients_apart(kind, scheduler) {
        let strayed = clients.iter().find(|(_, servers)| servers.len() != 1);
        ensure!(
            strayed.is_none(),
            "a client had several servers: {strayed:?}"
        );
    }
    if hashes {
        let used: BTreeSet<&&str> = clients.values().flatten().collect();
        ensure!(used.len() > 1, "all clients have one server");
        return Ok(());
    }
    let each: BTreeSet<&str> = answered.iter().map(|(_, server)| server.as_str()).collect();
    ensure!(each.len() == servers, "not every server was used: {each:?}");
    if kind == Kind::Persistent {
        let first: Vec<&str> = clients.values().flatten().copied().collect();
        ensure!(
            is_even(&first),
            "clients are not spread evenly: {clients:?}"
        );
        return Ok(());
    }
    let all: Vec<&str> = answered.iter().map(|(_, server)| server.as_str()).collect();
    ensure!(is_even(&all), "not even");
    if scheduler == "rr" {
        // With two ports of a mark: one service, not two that go round each.
        let turns = all.chunks(servers);
        let fair = turns
            .clone()
            .all(|turn| turn.iter().collect::<BTreeSet<_>>().len() == turn.len());
        ensure!(fair, "not in turn: {all:?}");
    }
    Ok(())
}

/// Every name as often as the others, or once more.
fn is_even(names: &[&str]) -> bool {
    let counts = count(names.iter().copied());
    let (least, most) = (counts.values().min(), counts.values().max());
    least
        .zip(most)
        .is_some_and(|(least, most)| most - least <= 1)
}

fn count<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

fn shares(answered: &[Answered]) -> String {
    let counts = count(answered.iter().map(|(_, server)| server.as_str()));
    let shares: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    shares.join(", ")
}

fn title(service: &ServiceSpec, kind: Kind, scheduler: &str) -> String {
    let ip = if service.address.is_ipv6() {
        "IPv6"
    } else {
        "IPv4"
    };
    format!(
        "{:<8} {ip:<5} {:<4} {:<11} {scheduler:<5}",
        service.forwarding.name(),
        service.protocol.name(),
        kind.name(),
    )
}

/// Connections of the one service in `ipvsadm -Ln --stats`.
fn conns_of(stats: &str) -> Option<u64> {
    let line = stats.lines().nth(3)?;
    // The first of five figures; a mark of IPv6 says so before them.
    line.split_whitespace().nth_back(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(servers: &[(u8, &str)]) -> Vec<Answered> {
        let one =
            |(index, server): &(u8, &str)| (plan::source(*index, false), (*server).to_owned());
        servers.iter().map(one).collect()
    }

    #[test]
    fn a_row_holds_only_when_its_rule_does() {
        let in_turn = answered(&[(0, "a"), (0, "b"), (0, "a"), (0, "b")]);
        let in_pairs = answered(&[(0, "a"), (0, "a"), (0, "b"), (0, "b")]);
        let uneven = answered(&[(0, "a"), (0, "a"), (0, "a"), (0, "b")]);
        assert!(judge(&in_turn, Kind::Plain, "rr", 2).is_ok());
        assert!(judge(&in_turn, Kind::Mark, "rr", 3).is_err());
        assert!(judge(&in_pairs, Kind::Mark, "rr", 2).is_err());
        assert!(judge(&in_pairs, Kind::Plain, "wlc", 2).is_ok());
        assert!(judge(&uneven, Kind::Plain, "wlc", 2).is_err());
        let faithful = answered(&[(0, "a"), (1, "b"), (0, "a"), (1, "b")]);
        let strayed = answered(&[(0, "a"), (1, "b"), (0, "b"), (1, "b")]);
        let lumped = answered(&[(0, "a"), (1, "a"), (0, "a"), (1, "a")]);
        for (kind, scheduler) in [
            (Kind::Persistent, "rr"),
            (Kind::Plain, "sh"),
            (Kind::Mark, "mh"),
        ] {
            assert!(judge(&faithful, kind, scheduler, 2).is_ok());
            assert!(judge(&strayed, kind, scheduler, 2).is_err());
            assert!(judge(&lumped, kind, scheduler, 2).is_err());
        }
    }

    #[test]
    fn the_service_line_of_the_statistics_tells_its_connections() {
        let text = "IP Virtual Server version 1.2.1 (size=4096)\n\
                    Prot LocalAddress:Port               Conns   InPkts\n  -> RemoteAddress:Port\n\
                    FWM  7                                  12 40 30 20 10\n  -> 10.0.0.11:0  6 20\n";
        assert_eq!(conns_of(text), Some(12));
        let text = text.replace("FWM  7", "FWM  7 IPv6");
        assert_eq!(conns_of(&text), Some(12));
        assert_eq!(conns_of(""), None);
    }
}
