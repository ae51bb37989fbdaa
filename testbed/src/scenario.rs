//! A drill as data: lab, services, load, steps, and the bounds that must hold.
//!
//! A step may leave *figures*, named numbers; a bound names a figure and its limits. A bound on a
//! figure that no step left is a failed bound, so a drill cannot pass by not looking.

mod shipped;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use self::shipped::SHIPPED;
use crate::node::Node;
use crate::plan::{self, Net};
use crate::step::{Fault, Step};

/// What `drill` runs without a name.
pub(crate) const STANDARD: &str = "failover";
/// What `lab up` makes without a name.
pub(crate) const PLAYGROUND: &str = "balance";

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) set: Set,
    /// Seed of all bytes that the load sends.
    pub(crate) seed: u64,
    /// Frames on the directors' links are recorded.
    #[serde(default)]
    pub(crate) capture: bool,
    /// For each of them the lab is made anew, the steps are carried out, and the bounds must hold;
    /// its name is the prefix of its figures. Without any, once and without prefix.
    #[serde(default)]
    pub(crate) faults: Vec<Fault>,
    /// What the client can send; all servers together can send as much. Unit: megabits per second.
    pub(crate) link_mbit: Option<u32>,
    pub(crate) director: DirectorSpec,
    /// Two directors in place of one.
    pub(crate) pair: Option<PairSpec>,
    pub(crate) servers: Vec<ServerSpec>,
    pub(crate) services: Vec<ServiceSpec>,
    pub(crate) loads: Vec<LoadSpec>,
    pub(crate) steps: Vec<Step>,
    pub(crate) bounds: Vec<Bound>,
}

/// When a drill is part of `testbed test`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Set {
    /// Always.
    Short,
    /// With `--extra`.
    Slow,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectorSpec {
    /// Unit: milliseconds; 0 never fences.
    pub(crate) lease_ms: u64,
    /// The director's `net.ipv4.ip_forward`.
    pub(crate) ip_forward: bool,
    /// `auto`, `tcx` or `clsact`.
    #[serde(default = "attach_auto")]
    pub(crate) attach: String,
    /// Places for connections of IPv4: a power of two.
    #[serde(default = "connections_default")]
    pub(crate) connections_v4: u32,
    /// Tunables by their kernel names.
    #[serde(default)]
    pub(crate) sysctl: toml::Table,
}

/// What makes `director1` and `director2` a pair.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PairSpec {
    pub(crate) roles: Roles,
    /// Connections are synchronised.
    #[serde(default = "yes")]
    pub(crate) sync: bool,
    /// Unit: milliseconds.
    #[serde(default = "advert_default_ms")]
    pub(crate) advert_ms: u64,
    #[serde(default = "yes")]
    pub(crate) preempt: bool,
    #[serde(default = "priorities_default")]
    pub(crate) priorities: [u8; 2],
    /// Groups of addresses, each a virtual router of its own: with 2, each director is the master of one
    /// and the backup of the other.
    #[serde(default = "group_one")]
    pub(crate) groups: u8,
    /// A host `intruder` on the clients' segment and on the sync link.
    #[serde(default)]
    pub(crate) intruder: bool,
}

/// Who decides which director of a pair is active.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Roles {
    /// VRRP, which brings the virtual addresses along.
    Vrrp,
    /// The operator: the virtual addresses are on `director1`.
    ByHand,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerSpec {
    pub(crate) name: String,
    pub(crate) side: Side,
    /// Its IPv6 address has the same last number.
    pub(crate) address: Ipv4Addr,
    /// Whose gateway it has, of a pair.
    #[serde(default)]
    pub(crate) group: u8,
}

/// The segment a real server is on.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Side {
    /// Behind the director, which is its default gateway: masquerading.
    Inside,
    /// On the clients' segment, with the virtual addresses on `lo`: direct routing.
    Outside,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceSpec {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// Of either family.
    pub(crate) address: SocketAddr,
    /// A client stays with its server for this long. Unit: seconds; 0 is not persistent.
    #[serde(default)]
    pub(crate) persistent_s: u32,
    /// The service is this firewall mark, which its address gets by a marking rule, with every port
    /// below.
    pub(crate) fwmark: Option<u32>,
    /// Further ports of a fwmark service.
    #[serde(default)]
    pub(crate) more_ports: Vec<u16>,
    pub(crate) scheduler: String,
    pub(crate) forwarding: Forwarding,
    pub(crate) servers: Vec<Member>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Forwarding {
    Masquerading,
    DirectRouting,
}

/// A real server of a service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) server: String,
    /// 0 for a server of a fwmark service: the port that the client asked for.
    pub(crate) port: u16,
    #[serde(default = "weight_one")]
    pub(crate) weight: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoadSpec {
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) kind: LoadKind,
    /// Connections in all, or flows at once.
    pub(crate) count: u32,
    /// Connections open at once; flows are always all open.
    #[serde(default = "parallel_one")]
    pub(crate) parallel: u32,
    /// Pause between two connections of a worker, or two requests of a flow.
    #[serde(default)]
    pub(crate) interval_ms: u64,
    /// Bytes of a request.
    #[serde(default)]
    pub(crate) up: u32,
    /// Bytes of an answer.
    #[serde(default)]
    pub(crate) down: u32,
    /// Requests of an idle flow when it is used.
    #[serde(default = "use_rounds_default")]
    pub(crate) use_rounds: u32,
    /// Connections take turns to come from so many addresses of the client; 0 leaves it to the host.
    #[serde(default)]
    pub(crate) sources: u8,
    /// Another port of the service than the first.
    pub(crate) port: Option<u16>,
    /// An earlier load from the same addresses, in reverse order here: who is answered by another
    /// server than there has strayed.
    pub(crate) after: Option<String>,
    /// An answer that takes longer is a failure (TCP) or a lost datagram (UDP).
    #[serde(default = "patience_default_ms")]
    pub(crate) patience_ms: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LoadKind {
    /// `count` connections of one request each.
    Connections,
    /// New connections of one request each until the load is stopped.
    EndlessConnections,
    /// `count` long-lived connections with a request every `interval_ms` until stopped.
    Flows,
    /// `count` long-lived connections with a few requests at first and more only when used.
    IdleFlows,
    /// `count` long-lived connections that stream both ways as fast as they can.
    Streams,
}

/// Limits on a figure; all that are given must hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bound {
    pub(crate) figure: String,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
    /// Holds only where the drill runs for this fault.
    pub(crate) only: Option<Fault>,
    /// What it means, in words.
    pub(crate) why: String,
}

impl Scenario {
    /// A scenario that ships with the program, or one from a file.
    ///
    /// # Errors
    /// No such scenario or file, or it does not make sense.
    pub(crate) fn load(name_or_file: &str) -> Result<Scenario> {
        let shipped = SHIPPED.iter().find(|(name, _)| *name == name_or_file);
        if let Some((name, text)) = shipped {
            return Scenario::parse(text).with_context(|| format!("scenario {name}"));
        }
        if !Path::new(name_or_file).exists() {
            let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
            bail!(
                "no scenario or file {name_or_file}; there are: {}",
                names.join(", ")
            );
        }
        let text = std::fs::read_to_string(name_or_file).context(name_or_file.to_owned())?;
        Scenario::parse(&text).context(name_or_file.to_owned())
    }

    /// # Errors
    /// A shipped scenario does not parse: a bug, which a test rules out.
    pub(crate) fn shipped() -> Result<Vec<Scenario>> {
        SHIPPED
            .iter()
            .map(|(name, _)| Scenario::load(name))
            .collect()
    }

    /// Leaves synchronisation out of the configuration of the pair.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn switch_sync_off(&mut self) -> Result<()> {
        let pair = self.pair.as_mut();
        let pair = pair.filter(|pair| pair.sync && pair.roles == Roles::Vrrp);
        let pair = pair.context("this drill has no synchronisation to switch off")?;
        pair.sync = false;
        Ok(())
    }

    /// Leaves one of the faults.
    ///
    /// # Errors
    /// It is not among them.
    pub(crate) fn keep_fault(&mut self, fault: Fault) -> Result<()> {
        self.faults.retain(|one| *one == fault);
        let name = fault.name();
        ensure!(!self.faults.is_empty(), "this drill has no fault {name}");
        Ok(())
    }

    /// Changes the number of trials, or leaves one interval of adverts, with what is bounded of it.
    ///
    /// # Errors
    /// The drill has no trials, or not this interval.
    pub(crate) fn narrow(&mut self, trials: Option<usize>, advert_ms: Option<u64>) -> Result<()> {
        if trials.is_none() && advert_ms.is_none() {
            return Ok(());
        }
        let [Step::FailoverTimes(plan)] = self.steps.as_mut_slice() else {
            bail!("this drill has no trials");
        };
        if let Some(trials) = trials {
            ensure!(trials > 0, "no trial at all");
            plan.rows.iter_mut().for_each(|row| row.trials = trials);
            self.bounds
                .retain(|bound| !bound.figure.ends_with("_trials"));
        }
        if let Some(advert_ms) = advert_ms {
            plan.rows.retain(|row| row.advert_ms == advert_ms);
            ensure!(!plan.rows.is_empty(), "this drill has no {advert_ms} ms");
            let kept = format!("{advert_ms}ms.");
            self.bounds.retain(|bound| bound.figure.starts_with(&kept));
        }
        Ok(())
    }

    fn parse(text: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// All virtual addresses outside, each once.
    pub(crate) fn virtual_addresses(&self) -> BTreeSet<IpAddr> {
        let services = self.services.iter();
        services.map(|service| service.address.ip()).collect()
    }

    /// The inside servers' gateways that move with the active director of a pair. Adverts need one
    /// of IPv4.
    pub(crate) fn inside_virtual_addresses(&self) -> BTreeSet<IpAddr> {
        (0..self.groups())
            .flat_map(|group| self.inside_virtual_addresses_of(group))
            .collect()
    }

    /// Those of one group.
    pub(crate) fn inside_virtual_addresses_of(&self, group: u8) -> BTreeSet<IpAddr> {
        let has_ipv6 = self.services.iter().any(|it| it.address.is_ipv6());
        let families = [Some(false), has_ipv6.then_some(true)].into_iter();
        families
            .flatten()
            .map(|ipv6| plan::inside_virtual_of(group, ipv6))
            .collect()
    }

    /// Virtual addresses outside of one group.
    pub(crate) fn virtual_addresses_of(&self, group: u8) -> BTreeSet<IpAddr> {
        let mut all = self.virtual_addresses();
        // With one group it has every address, also those that two would share out.
        all.retain(|address| self.groups() == 1 || plan::group_of(*address) == group);
        all
    }

    /// Groups of addresses.
    pub(crate) fn groups(&self) -> u8 {
        self.pair.as_ref().map_or(1, |pair| pair.groups)
    }

    /// Every director, in order.
    pub(crate) fn directors(&self) -> Vec<Node> {
        if self.pair.is_some() {
            Node::pair()
        } else {
            vec![Node::single()]
        }
    }

    pub(crate) fn director_named(&self, name: &str) -> Result<Node> {
        let mut all = self.directors().into_iter();
        all.find(|node| node.name == name)
            .with_context(|| format!("no director {name}"))
    }

    pub(crate) fn server(&self, name: &str) -> Result<&ServerSpec> {
        let found = self.servers.iter().find(|server| server.name == name);
        found.with_context(|| format!("no server {name}"))
    }

    pub(crate) fn service(&self, name: &str) -> Result<&ServiceSpec> {
        let found = self.services.iter().find(|service| service.name == name);
        found.with_context(|| format!("no service {name}"))
    }

    pub(crate) fn load_spec(&self, name: &str) -> Result<&LoadSpec> {
        let found = self.loads.iter().find(|load| load.name == name);
        found.with_context(|| format!("no load {name}"))
    }

    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        ensure!(
            (1..=2).contains(&self.groups()),
            "one or two groups of addresses"
        );
        for server in &self.servers {
            let own = server.address_of(false);
            ensure!(
                own == IpAddr::V4(server.address),
                "server {} is not in the network of its side: {own}",
                server.name
            );
            ensure!(
                names.insert(&server.name),
                "server {} is there twice",
                server.name
            );
        }
        for service in &self.services {
            self.check_service(service)
                .with_context(|| format!("service {}", service.name))?;
        }
        for load in &self.loads {
            let service = self.service(&load.service)?;
            ensure!(
                load.count > 0 && load.parallel > 0,
                "load {} has no connection",
                load.name
            );
            ensure!(
                load.sources == 0
                    || load.kind == LoadKind::Connections && load.sources <= plan::SOURCES,
                "load {}: at most {} sources, of connections with an end",
                load.name,
                plan::SOURCES
            );
            if let Some(port) = load.port {
                let has_port = service.ports().any(|one| one == port);
                ensure!(
                    has_port,
                    "load {}: port {port} is not the service's",
                    load.name
                );
            }
            if let Some(earlier) = &load.after {
                let sources = self.load_spec(earlier)?.sources;
                ensure!(
                    load.sources > 0 && load.sources == sources,
                    "load {}: other sources than {earlier}",
                    load.name
                );
            }
            let datagram = service.protocol == Protocol::Udp;
            ensure!(
                !datagram || load.kind != LoadKind::Streams,
                "load {}: datagrams are no stream",
                load.name
            );
            ensure!(
                !datagram || load.up.max(load.down) <= crate::traffic::DATAGRAM_PAYLOAD_MAX,
                "load {}: a datagram carries at most {} bytes",
                load.name,
                crate::traffic::DATAGRAM_PAYLOAD_MAX,
            );
        }
        for step in &self.steps {
            step.check(self).with_context(|| format!("{step:?}"))?;
        }
        for bound in &self.bounds {
            ensure!(
                bound.min.is_some() || bound.max.is_some(),
                "bound on {} has no limit",
                bound.figure
            );
        }
        Ok(())
    }

    fn check_service(&self, service: &ServiceSpec) -> Result<()> {
        ensure!(
            service.fwmark.is_some() || service.more_ports.is_empty(),
            "only a fwmark service has several ports"
        );
        for member in &service.servers {
            let server = self.server(&member.server)?;
            let side = match service.forwarding {
                Forwarding::Masquerading => Side::Inside,
                Forwarding::DirectRouting => Side::Outside,
            };
            ensure!(
                server.side == side,
                "server {} is on the wrong side",
                server.name
            );
            ensure!(
                service.forwarding == Forwarding::Masquerading
                    || service.fwmark.is_some()
                    || member.port == service.address.port(),
                "direct routing cannot change the port"
            );
            ensure!(
                service.fwmark.is_some() == (member.port == 0),
                "servers of a fwmark service have port 0, and no others"
            );
        }
        Ok(())
    }
}

impl ServerSpec {
    pub(crate) fn address_of(&self, ipv6: bool) -> IpAddr {
        let net = match self.side {
            Side::Inside => Net::Inside,
            Side::Outside => Net::Outside,
        };
        let [.., number] = self.address.octets();
        net.host(number, ipv6)
    }

    /// Of both families.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [false, true].map(|ipv6| self.address_of(ipv6))
    }
}

impl ServiceSpec {
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        let more = self.more_ports.iter().copied();
        std::iter::once(self.address.port()).chain(more)
    }

    /// How `ipvsadm` names it: an option, its value, and for a mark the family.
    pub(crate) fn ipvsadm_name(&self) -> Vec<String> {
        match self.fwmark {
            None => vec![
                self.protocol.ipvsadm_flag().to_owned(),
                self.address.to_string(),
            ],
            Some(mark) => {
                let family = self.address.is_ipv6().then(|| "-6".to_owned());
                let name = ["-f".to_owned(), mark.to_string()];
                name.into_iter().chain(family).collect()
            }
        }
    }
}

impl Protocol {
    pub(crate) fn ipvsadm_flag(self) -> &'static str {
        match self {
            Protocol::Tcp => "-t",
            Protocol::Udp => "-u",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

impl Forwarding {
    /// Prefix of figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Forwarding::Masquerading => "nat",
            Forwarding::DirectRouting => "direct",
        }
    }

    pub(crate) fn ipvsadm_flag(self) -> &'static str {
        match self {
            Forwarding::Masquerading => "-m",
            Forwarding::DirectRouting => "-g",
        }
    }
}

fn attach_auto() -> String {
    "auto".to_owned()
}

fn connections_default() -> u32 {
    crate::director::CONNECTIONS
}

fn weight_one() -> u32 {
    1
}

fn use_rounds_default() -> u32 {
    10
}

fn group_one() -> u8 {
    1
}

fn yes() -> bool {
    true
}

fn advert_default_ms() -> u64 {
    100
}

fn priorities_default() -> [u8; 2] {
    [150, 100]
}

fn parallel_one() -> u32 {
    1
}

fn patience_default_ms() -> u64 {
    10_000
}

#[cfg(test)]
mod tests;
