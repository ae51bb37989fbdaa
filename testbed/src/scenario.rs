//! A drill as data: lab, services, load, steps, and the bounds that must hold.
//!
//! A step may leave *figures*, named numbers; a bound names a figure and its limits. A bound on a
//! figure that no step left is a failed bound, so a drill cannot pass by not looking.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The scenarios that come with the program, by file name.
const SHIPPED: [(&str, &str); 4] = [
    ("balance", include_str!("../scenarios/balance.toml")),
    ("daemon-loss", include_str!("../scenarios/daemon-loss.toml")),
    (
        "daemon-fenced",
        include_str!("../scenarios/daemon-fenced.toml"),
    ),
    (
        "daemon-gone-10min",
        include_str!("../scenarios/daemon-gone-10min.toml"),
    ),
];

/// What `drill` runs without a name.
pub(crate) const STANDARD: &str = "balance";

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) set: Set,
    /// Seed of all bytes that the load sends.
    pub(crate) seed: u64,
    /// Frames on the director's two links are recorded.
    #[serde(default)]
    pub(crate) capture: bool,
    pub(crate) director: DirectorSpec,
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
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerSpec {
    pub(crate) name: String,
    pub(crate) side: Side,
    pub(crate) address: Ipv4Addr,
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
    pub(crate) address: SocketAddrV4,
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
    /// Pause between two connections, or two requests of a flow.
    #[serde(default)]
    pub(crate) interval_ms: u64,
    /// Bytes of a request.
    pub(crate) up: u32,
    /// Bytes of an answer.
    pub(crate) down: u32,
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
}

/// What happens in a drill, in order.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Step {
    /// A load from start to end.
    Run { load: String },
    /// A load in the background; goes on when each of its flows has had an answer.
    Start { load: String },
    /// Ends a background load and takes its figures.
    Stop { load: String },
    /// Until each flow of a background load has had one more answer: `LOAD.resumed_ms`.
    Progress { load: String, limit_ms: u64 },
    /// Time passes.
    Hold { ms: u64 },
    /// SIGKILL of `directord` alone.
    KillDaemon,
    /// Time passes until the lease of the killed daemon has ended.
    LeaseOver,
    /// Frames on the director's links during a time: `NAME.sent` and `NAME.arp_replies` by the
    /// director, `NAME.offered` and `NAME.arp_requests` by others.
    Watch { name: String, ms: u64 },
    /// A host forgets who has an address, and must ask again.
    ForgetNeighbour { host: String, address: Ipv4Addr },
    /// `directord` is started again on what is pinned.
    RestartDaemon,
    /// Remembers services, counters and connections.
    Snapshot { name: String },
    /// What of the earlier snapshot is still there in the later one: `kept.*`.
    Compare { before: String, after: String },
    /// Prints what an operator would look at.
    Show,
}

/// Limits on a figure; all that are given must hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bound {
    pub(crate) figure: String,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
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

    fn parse(text: &str) -> Result<Scenario> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// All virtual addresses, each once.
    pub(crate) fn virtual_addresses(&self) -> BTreeSet<Ipv4Addr> {
        self.services
            .iter()
            .map(|service| *service.address.ip())
            .collect()
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
        for server in &self.servers {
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
            let datagram = service.protocol == Protocol::Udp;
            ensure!(
                !datagram || load.up.max(load.down) <= crate::traffic::DATAGRAM_PAYLOAD_MAX,
                "load {}: a datagram carries at most {} bytes",
                load.name,
                crate::traffic::DATAGRAM_PAYLOAD_MAX,
            );
        }
        self.check_steps()?;
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
                    || member.port == service.address.port(),
                "direct routing cannot change the port"
            );
        }
        Ok(())
    }

    fn check_steps(&self) -> Result<()> {
        for step in &self.steps {
            match step {
                Step::Run { load } => {
                    let kind = self.load_spec(load)?.kind;
                    ensure!(
                        kind == LoadKind::Connections,
                        "load {load} has no end to run to"
                    );
                }
                Step::Start { load } | Step::Stop { load } | Step::Progress { load, .. } => {
                    self.load_spec(load)?;
                }
                Step::Watch { .. } => {
                    ensure!(self.capture, "watch needs capture = true");
                }
                Step::Hold { .. }
                | Step::KillDaemon
                | Step::LeaseOver
                | Step::ForgetNeighbour { .. }
                | Step::RestartDaemon
                | Step::Snapshot { .. }
                | Step::Compare { .. }
                | Step::Show => {}
            }
        }
        Ok(())
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

fn weight_one() -> u32 {
    1
}

fn parallel_one() -> u32 {
    1
}

fn patience_default_ms() -> u64 {
    10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_scenario_parses_under_its_own_name() {
        for (name, text) in SHIPPED {
            assert_eq!(Scenario::parse(text).unwrap().name, name);
        }
    }

    #[test]
    fn unknown_keys_are_refused_at_every_level() {
        for line in [
            "titel = \"x\"",
            "[director]\nlease = 1",
            "[[loads]]\nbytes = 1",
        ] {
            let (_, standard) = SHIPPED[0];
            let spoilt = match line.split_once('\n') {
                Some((table, key)) => standard.replacen(table, &format!("{table}\n{key}"), 1),
                None => format!("{line}\n{standard}"),
            };
            let error = format!("{:#}", Scenario::parse(&spoilt).unwrap_err());
            assert!(error.contains("unknown field"), "{line}: {error}");
        }
    }

    #[test]
    fn an_unknown_key_of_a_step_is_refused() {
        let step: Result<Step, _> = toml::from_str("do = \"hold\"\nms = 1\nwhy = \"x\"");
        assert!(step.unwrap_err().to_string().contains("unknown field"));
    }

    #[test]
    fn a_load_on_a_service_that_is_not_there_is_refused() {
        let (_, standard) = SHIPPED[0];
        let spoilt = standard.replace("service = \"web\"", "service = \"wbe\"");
        assert!(
            Scenario::parse(&spoilt)
                .unwrap_err()
                .to_string()
                .contains("no service wbe")
        );
    }

    #[test]
    fn a_bound_without_a_limit_is_refused() {
        let (_, standard) = SHIPPED[0];
        let spoilt = format!("{standard}\n[[bounds]]\nfigure = \"x\"\nwhy = \"y\"\n");
        assert!(
            Scenario::parse(&spoilt)
                .unwrap_err()
                .to_string()
                .contains("no limit")
        );
    }
}
