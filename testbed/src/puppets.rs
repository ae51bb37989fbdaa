//! Connections made by hand, of which nobody but the directors knows: each is in the state that a drill
//! wants, and stays there.
//!
//! | kind | at first | later, through the director that took over |
//! | --- | --- | --- |
//! | idle | `ESTABLISHED` | nothing |
//! | used | `ESTABLISHED` | packets |
//! | finished | `ESTABLISHED` | the client ends it: `CLOSE_WAIT` |
//! | moved | `ESTABLISHED` on the first server | the client ends it at once and opens another one from the same port, which gets the second server |
//!
//! Their servers are addresses only: what is sent to them ends at the host that has the neighbour's
//! entry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};

use crate::drill::Drill;
use crate::kernel_sync::packet::{Flow, OPENING, Said, Transport, frame};
use crate::sync_rate::burst::Burst;
use crate::topology::CLIENT;

/// The port of their service.
const PORT: u16 = 7000;
/// Connections of each kind.
const EACH: u8 = 100;
/// Clients are 198.18.0.0/15, RFC 2544.
const CLIENTS: [u8; 2] = [198, 18];
const CLIENT_PORT: u16 = 30_000;
/// Real servers: before, and instead.
pub(crate) const SERVERS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 0, 0, 231), Ipv4Addr::new(10, 0, 0, 232)];

/// What becomes of them later; the number is part of the clients' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Idle,
    Used,
    Finished,
    Moved,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Idle, Kind::Used, Kind::Finished, Kind::Moved];

    const fn said(self) -> &'static [Said] {
        match self {
            Kind::Idle => &[],
            Kind::Used => &[Said::Ack, Said::Ack],
            Kind::Finished => &[Said::Fin],
            Kind::Moved => &[Said::Reset, Said::Syn, Said::Ack, Said::Ack],
        }
    }

    /// Of the client of a listed connection, if it is a puppet's.
    pub(crate) fn of(client: SocketAddr) -> Option<Kind> {
        let IpAddr::V4(address) = client.ip() else {
            return None;
        };
        let [first, second, number, _] = address.octets();
        let is_puppet = [first, second] == CLIENTS && client.port() == CLIENT_PORT;
        let kind = Kind::ALL.get(usize::from(number) % Kind::ALL.len());
        kind.copied().filter(|_| is_puppet)
    }
}

/// The connections of a kind; a drill may have several sets of all kinds.
fn flows(set: u8, kind: Kind, service: SocketAddr) -> Vec<Flow> {
    let index = Kind::ALL
        .iter()
        .position(|one| *one == kind)
        .unwrap_or_default();
    let number = set * 4 + u8::try_from(index).unwrap_or_default();
    let client = |host| Ipv4Addr::new(CLIENTS[0], CLIENTS[1], number, host);
    (1..=EACH)
        .map(|host| Flow {
            transport: Transport::Tcp,
            client: SocketAddr::new(client(host).into(), CLIENT_PORT),
            service,
        })
        .collect()
}

impl Drill<'_> {
    /// Opens a set of them through a director.
    pub(crate) fn open_puppets(&mut self, set: u8, by: &str) -> Result<()> {
        let service = self.puppets_service()?.to_string();
        let [first, second] = SERVERS.map(|server| format!("{server}:{PORT}"));
        for director in &self.directors {
            let args = ["-A", "-t", &service, "-s", "rr"];
            if director.ipvsadm(&["-L", "-n", "-t", &service]).is_err() {
                director.ipvsadm(&args)?;
                for server in [&first, &second] {
                    let args = ["-a", "-t", &service, "-r", server, "-m"];
                    director.ipvsadm(&args)?;
                }
                self.give_servers(director.name())?;
            }
        }
        self.prefer(&service, &first, &second)?;
        for kind in Kind::ALL {
            self.say(set, kind, by, &OPENING)?;
        }
        self.event(format!(
            "{} connections by hand, set {set}, through {by}",
            usize::from(EACH) * Kind::ALL.len()
        ));
        Ok(())
    }

    /// Lets the kinds of a set become what they are to become, through a director.
    pub(crate) fn move_puppets(&mut self, set: u8, by: &str) -> Result<()> {
        let service = self.puppets_service()?.to_string();
        let [first, second] = SERVERS.map(|server| format!("{server}:{PORT}"));
        let director = self.director(by)?;
        director.ipvsadm(&["-e", "-t", &service, "-r", &first, "-m", "-w", "0"])?;
        director.ipvsadm(&["-e", "-t", &service, "-r", &second, "-m", "-w", "1"])?;
        for kind in Kind::ALL {
            self.say(set, kind, by, kind.said())?;
        }
        self.event(format!("set {set} goes on through {by}, each kind its way"));
        Ok(())
    }

    /// New connections go to the first server, on every director.
    fn prefer(&self, service: &str, first: &str, second: &str) -> Result<()> {
        for director in &self.directors {
            director.ipvsadm(&["-e", "-t", service, "-r", first, "-m", "-w", "1"])?;
            director.ipvsadm(&["-e", "-t", service, "-r", second, "-m", "-w", "0"])?;
        }
        Ok(())
    }

    /// The servers' neighbour entry, which is another host that does not forward.
    fn give_servers(&self, director: &str) -> Result<()> {
        let host = self
            .scenario
            .servers
            .iter()
            .find(|server| server.side == crate::scenario::Side::Inside);
        let host = &host.context("no server inside")?.name;
        let [a, b, c, d, e, f] = self.lab.ethernet(host, "eth0")?;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let lines = SERVERS
            .map(|server| format!("neigh replace {server} lladdr {mac} dev eth1 nud permanent\n"));
        self.lab.ip(director, &lines.concat())
    }

    fn puppets_service(&self) -> Result<SocketAddr> {
        let mut addresses = self.scenario.virtual_addresses().into_iter();
        let address = addresses
            .find(IpAddr::is_ipv4)
            .context("no virtual address")?;
        Ok(SocketAddr::new(address, PORT))
    }

    /// One packet after the other of all connections of a kind.
    fn say(&self, set: u8, kind: Kind, by: &str, said: &[Said]) -> Result<()> {
        let flows = flows(set, kind, self.puppets_service()?);
        let ends = [
            self.lab.ethernet(CLIENT, "eth0")?,
            self.lab.ethernet(by, "eth0")?,
        ];
        self.lab.host(CLIENT)?.spaces().on_thread(|| {
            let mut burst = Burst::frames("eth0")?;
            for one in said {
                let frames: Vec<Vec<u8>> =
                    flows.iter().map(|flow| frame(flow, *one, ends)).collect();
                burst.send_all(&frames)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_of_a_puppet_tells_its_kind() {
        let service = "192.0.2.100:7000".parse().unwrap();
        for set in [0, 1, 2] {
            for kind in Kind::ALL {
                let all = flows(set, kind, service);
                assert_eq!(all.len(), usize::from(EACH));
                assert!(all.iter().all(|flow| Kind::of(flow.client) == Some(kind)));
            }
        }
        assert_eq!(Kind::of("192.0.2.10:30000".parse().unwrap()), None);
        assert_eq!(Kind::of("198.18.0.1:40000".parse().unwrap()), None);
    }
}
