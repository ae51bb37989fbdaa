//! The lab: hosts, links, addresses, routes.
//!
//! ```text
//!             outside 192.0.2.0/24                        inside 10.0.0.0/24
//!   client .10 ──┐ bridge "out"        director      bridge "in" ┌── nat1 .11  (gateway: director)
//!   direct1 .21 ─┼───────────── eth0 .1 .100  .1 eth1 ───────────┼── nat2 .12
//!   direct2 .22 ─┘ (.100 on lo)                                  └── ...
//! ```
//!
//! A pair, where the servers' gateway is a second virtual address, 10.0.0.254:
//!
//! ```text
//!             outside 192.0.2.0/24                        inside 10.0.0.0/24
//!   client .10 ──┐ bridge "out"       director1      bridge "in" ┌── nat1 .11  (gateway: .254)
//!   direct1 .21 ─┼───────────┬─ eth0 .1        .1 eth1 ──────────┼── nat2 .12
//!   direct2 .22 ─┘           │        .1 eth2 ─┐       │         └── ...
//!    (.100 on lo)            │                 │ bridge "sync" 10.9.9.0/24
//!                            │        .2 eth2 ─┘       │
//!                            └─ eth0 .2        .2 eth1 ┘
//!                                     director2
//! ```
//!
//! Every host but the intruder has IPv6 addresses too, with the same last numbers, see [`crate::plan`].
//!
//! All bridges are in the namespace `lan`; its ports are named after the hosts, a director's
//! `NAME-out`, `NAME-in` and `NAME-sync`. Interfaces keep their offloads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};

use anyhow::{Context, Result, bail};

use crate::netns::{Holder, Namespaces, Tether, end, own_executable};
use crate::node::Node;
use crate::plan::{self, Net, prefix_len, whole};
use crate::real_server::SERVE;
use crate::run::Run;
use crate::scenario::{Forwarding, Roles, Scenario, ServerSpec, Side};

pub(crate) const LAN: &str = "lan";
pub(crate) const CLIENT: &str = "client";
/// A host that means no good, in scenarios that ask for one.
pub(crate) const INTRUDER: &str = "intruder";
/// Which holder each host has, for `lab exec`.
const HOSTS_FILE: &str = "hosts.json";
/// Last number of the intruder's addresses.
const INTRUDER_NUMBER: u8 = 66;

/// A lab that stands; dropping it ends every process in it.
#[derive(Debug)]
pub(crate) struct Lab {
    // Dropped before the hosts that they run in.
    servers: Vec<RealServer>,
    hosts: BTreeMap<String, Holder>,
}

#[derive(Debug)]
struct RealServer {
    child: Child,
    /// Open while the server is wanted.
    _input: Option<ChildStdin>,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Lab {
    /// Makes the hosts, joins them, and starts the real servers.
    ///
    /// # Errors
    /// A namespace, a link or a server could not be made.
    pub(crate) fn up(run: &Run, scenario: &Scenario) -> Result<Lab> {
        let mut lab = Lab {
            servers: Vec::new(),
            hosts: BTreeMap::new(),
        };
        let names = scenario.servers.iter().map(|server| server.name.as_str());
        for name in [LAN, CLIENT].into_iter().chain(names) {
            lab.start_host(run, name, None)?;
        }
        for node in scenario.directors() {
            lab.start_host(run, &node.name, Some(&node.bpffs_dir(run)))?;
        }
        if has_intruder(scenario) {
            lab.start_host(run, INTRUDER, None)?;
        }
        lab.write_hosts(run)?;
        lab.join_hosts(scenario)?;
        lab.configure_client(scenario)?;
        for node in scenario.directors() {
            lab.configure_director(scenario, &node)?;
        }
        if has_intruder(scenario) {
            lab.configure_intruder()?;
        }
        for server in &scenario.servers {
            lab.configure_server(scenario, server)
                .with_context(|| format!("host {}", server.name))?;
        }
        for server in &scenario.servers {
            lab.start_server(run, scenario, server)
                .with_context(|| format!("server {}", server.name))?;
        }
        Ok(lab)
    }

    /// # Errors
    /// The lab has no such host.
    pub(crate) fn host(&self, name: &str) -> Result<&Holder> {
        self.hosts
            .get(name)
            .with_context(|| format!("no host {name}"))
    }

    pub(crate) fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Runs `ip` with a batch of commands inside a host.
    ///
    /// # Errors
    /// A command failed; the message is what `ip` said.
    pub(crate) fn ip(&self, host: &str, batch: &str) -> Result<()> {
        self.batch("ip", host, batch)
    }

    /// Runs a program of iproute2 with a batch of commands inside a host.
    ///
    /// # Errors
    /// A command failed; the message is what the program said.
    pub(crate) fn batch(&self, program: &str, host: &str, batch: &str) -> Result<()> {
        let spaces = self.host(host)?.spaces();
        let mut command = spaces.command(Path::new(program), Tether::Parent)?;
        command.args(["-batch", "-"]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("start {program}"))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(batch.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "{program} in {host}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(())
    }

    /// What a program prints inside a host.
    ///
    /// # Errors
    /// It failed; the message is what it said.
    pub(crate) fn output(&self, host: &str, program: &str, args: &[&str]) -> Result<String> {
        let spaces = self.host(host)?.spaces();
        let mut command = spaces.command(Path::new(program), Tether::Parent)?;
        command.args(args).stdin(Stdio::null());
        let output = command
            .output()
            .with_context(|| format!("start {program}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("{program} in {host}: {}", said.trim_end());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The Ethernet address of a link of a host.
    ///
    /// # Errors
    /// No such link.
    pub(crate) fn ethernet(&self, host: &str, link: &str) -> Result<[u8; 6]> {
        let text = self.output(host, "ip", &["-o", "link", "show", "dev", link])?;
        let mut words = text.split_whitespace();
        words.find(|word| *word == "link/ether");
        let word = words.next().context("no Ethernet address")?;
        let bytes: Result<Vec<u8>, _> = word
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect();
        let bytes = bytes?.try_into().ok();
        bytes.with_context(|| format!("not an Ethernet address: {word}"))
    }

    /// A host's stack answers every packet for a closed port, however many there are.
    ///
    /// # Errors
    /// No such host.
    pub(crate) fn answer_every_time(&self, host: &str) -> Result<()> {
        let mut settings = vec![("ipv4/icmp_ratelimit", "0")];
        if has_ipv6() {
            settings.push(("ipv6/icmp/ratelimit", "0"));
        }
        self.sysctl(host, &settings)
    }

    fn start_host(&mut self, run: &Run, name: &str, bpffs: Option<&Path>) -> Result<()> {
        let holder = Holder::start(bpffs).with_context(|| format!("host {name}"))?;
        run.record(holder.pid())?;
        self.hosts.insert(name.to_owned(), holder);
        if has_ipv6() {
            // Every address is used as soon as it is there, and nobody advertises routers.
            let settings = [
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/dad_transmits", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
            ];
            self.sysctl(name, &settings)?;
        }
        Ok(())
    }

    fn write_hosts(&self, run: &Run) -> Result<()> {
        let pids: BTreeMap<&str, u32> = self
            .hosts
            .iter()
            .map(|(name, holder)| (name.as_str(), holder.pid()))
            .collect();
        fs::write(run.dir().join(HOSTS_FILE), serde_json::to_vec(&pids)?)?;
        Ok(())
    }

    /// Bridges, and a link from each host to its own.
    fn join_hosts(&self, scenario: &Scenario) -> Result<()> {
        let mut batch = String::from("link set lo up\n");
        for bridge in ["out", "in", "sync"] {
            writeln!(batch, "link add {bridge} type bridge\nlink set {bridge} up")?;
        }
        let mut port = |port: &str, host: &str, link: &str, bridge: &str| -> Result<()> {
            let pid = self.host(host)?.pid();
            writeln!(
                batch,
                "link add {port} type veth peer name {link} netns {pid}"
            )?;
            writeln!(batch, "link set {port} master {bridge} up")?;
            Ok(())
        };
        port(CLIENT, CLIENT, "eth0", "out")?;
        for node in scenario.directors() {
            for (link, bridge) in node.links() {
                port(&node.port(bridge), &node.name, link, bridge)?;
            }
        }
        if has_intruder(scenario) {
            port("intruder-out", INTRUDER, "eth0", "out")?;
            port("intruder-sync", INTRUDER, "eth1", "sync")?;
        }
        for server in &scenario.servers {
            let bridge = match server.side {
                Side::Inside => "in",
                Side::Outside => "out",
            };
            port(&server.name, &server.name, "eth0", bridge)?;
        }
        self.ip(LAN, &batch)
    }

    fn configure_client(&self, scenario: &Scenario) -> Result<()> {
        let mut batch = String::from("link set lo up\n");
        for ipv6 in families() {
            let own = plan::client(ipv6);
            add_address(&mut batch, own, prefix_len(own), "eth0")?;
            for address in (0..plan::SOURCES).map(|index| plan::source(index, ipv6)) {
                let length = prefix_len(address);
                // Deprecated: no connection comes from there that does not ask for it. IPv4 takes the
                // first address anyway.
                let rank = if ipv6 { " nodad preferred_lft 0" } else { "" };
                writeln!(batch, "addr add {address}/{length} dev eth0{rank}")?;
            }
        }
        batch.push_str("link set eth0 up\n");
        if scenario.pair.is_none() {
            self.count_losses_only(CLIENT)?;
            for ipv6 in families() {
                let gateway = Net::Outside.host(Node::single().number, ipv6);
                writeln!(batch, "route add default via {gateway}")?;
            }
        }
        self.ip(CLIENT, &batch)?;
        self.limit_rate(CLIENT, scenario.link_mbit)?;
        self.use_reno(CLIENT)
    }

    fn configure_director(&self, scenario: &Scenario, node: &Node) -> Result<()> {
        let mut batch = String::from("link set lo up\n");
        for ipv6 in families() {
            for (net, link) in [(Net::Outside, "eth0"), (Net::Inside, "eth1")] {
                let address = net.host(node.number, ipv6);
                add_address(&mut batch, address, prefix_len(address), link)?;
            }
        }
        if node.links().iter().any(|(link, _)| *link == "eth2") {
            writeln!(batch, "addr add 10.9.9.{}/24 dev eth2", node.number)?;
        }
        let roles = scenario.pair.as_ref().map(|pair| pair.roles);
        if roles.is_none_or(|roles| roles == Roles::ByHand && node.number == 1) {
            for address in scenario.virtual_addresses() {
                add_address(&mut batch, address, whole(address), "eth0")?;
            }
            if roles.is_some() {
                for address in scenario.inside_virtual_addresses() {
                    add_address(&mut batch, address, prefix_len(address), "eth1")?;
                }
            }
        }
        for (link, _) in node.links() {
            writeln!(batch, "link set {link} up")?;
        }
        self.ip(&node.name, &batch)?;
        let forward = if scenario.director.ip_forward {
            "1"
        } else {
            "0"
        };
        self.sysctl(&node.name, &[("ipv4/ip_forward", forward)])?;
        if has_ipv6() {
            self.sysctl(&node.name, &[("ipv6/conf/all/forwarding", forward)])?;
        }
        Ok(())
    }

    fn configure_intruder(&self) -> Result<()> {
        let number = INTRUDER_NUMBER;
        let batch = format!(
            "link set lo up\naddr add 192.0.2.{number}/24 dev eth0\n\
             addr add 10.9.9.{number}/24 dev eth1\nlink set eth0 up\nlink set eth1 up\n"
        );
        self.ip(INTRUDER, &batch)
    }

    /// Limits what a host can send, and makes its packets wait in a queue instead of dropping them.
    fn limit_rate(&self, host: &str, mbit: Option<u32>) -> Result<()> {
        let Some(mbit) = mbit else {
            return Ok(());
        };
        // The burst is at least one packet of the largest size; the queue holds seconds.
        let batch = format!("qdisc add dev eth0 root tbf rate {mbit}mbit burst 128k limit 64m\n");
        self.batch("tc", host, &batch)
    }

    fn configure_server(&self, scenario: &Scenario, server: &ServerSpec) -> Result<()> {
        let gateway = |ipv6: bool| match (server.side, &scenario.pair) {
            (Side::Inside, None) => Some(Net::Inside.host(Node::single().number, ipv6)),
            (Side::Inside, Some(_)) => Some(plan::inside_virtual_of(server.group, ipv6)),
            (Side::Outside, None) => Some(Net::Outside.host(Node::single().number, ipv6)),
            (Side::Outside, Some(_)) => None,
        };
        if scenario.pair.is_none() {
            self.count_losses_only(&server.name)?;
        }
        let mut batch = String::from("link set lo up\n");
        for ipv6 in families() {
            let address = server.address_of(ipv6);
            add_address(&mut batch, address, prefix_len(address), "eth0")?;
        }
        if server.side == Side::Outside {
            // The virtual addresses are the director's to announce; with IPv6 a host answers only for
            // what the interface itself has.
            let silent = [
                ("ipv4/conf/all/arp_ignore", "1"),
                ("ipv4/conf/all/arp_announce", "2"),
            ];
            self.sysctl(&server.name, &silent)?;
            for address in scenario.virtual_addresses() {
                add_address(&mut batch, address, whole(address), "lo")?;
            }
        }
        batch.push_str("link set eth0 up\n");
        for gateway in families().into_iter().filter_map(gateway) {
            writeln!(batch, "route add default via {gateway}")?;
        }
        self.ip(&server.name, &batch)?;
        let servers = u32::try_from(scenario.servers.len())?.max(1);
        self.limit_rate(&server.name, scenario.link_mbit.map(|all| all / servers))?;
        self.use_reno(&server.name)
    }

    /// The congestion control that every kernel has: what a machine prefers would be in the figures.
    fn use_reno(&self, host: &str) -> Result<()> {
        self.sysctl(host, &[("ipv4/tcp_congestion_control", "reno")])
    }

    /// Without tail loss probes a segment is sent twice only when one was lost or the machine stood
    /// still for the 200 ms of the shortest retransmission timeout; a probe needs a few milliseconds.
    fn count_losses_only(&self, host: &str) -> Result<()> {
        self.sysctl(host, &[("ipv4/tcp_early_retrans", "0")])
    }

    fn sysctl(&self, host: &str, settings: &[(&str, &str)]) -> Result<()> {
        // What a path below /proc/sys/net shows follows the namespace of the writing thread.
        self.host(host)?.spaces().on_thread(|| {
            for (name, value) in settings {
                let path = format!("/proc/sys/net/{name}");
                fs::write(&path, value).with_context(|| path)?;
            }
            Ok(())
        })
    }

    fn start_server(&mut self, run: &Run, scenario: &Scenario, server: &ServerSpec) -> Result<()> {
        let listen = listen_addresses(scenario, server);
        if listen.is_empty() {
            return Ok(());
        }
        let spaces = self.host(&server.name)?.spaces();
        let mut command = spaces.command(own_executable()?, Tether::Parent)?;
        command.args([SERVE, "--name", &server.name]).args(listen);
        let log = fs::File::create(run.dir().join(format!("{}.log", server.name)))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn()?;
        run.record(child.id())?;
        let out = child.stdout.take();
        let input = child.stdin.take();
        self.servers.push(RealServer {
            child,
            _input: input,
        });
        let mut line = String::new();
        if let Some(out) = out {
            BufReader::new(out).read_line(&mut line)?;
        }
        if line.trim_end() != "ready" {
            let log = run.dir().join(format!("{}.log", server.name));
            bail!(
                "it does not listen: {}",
                fs::read_to_string(log)?.trim_end()
            );
        }
        Ok(())
    }
}

/// Whether this kernel has IPv6 and lets it be used.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// The families of the lab: whether IPv6.
fn families() -> Vec<bool> {
    [false, true]
        .into_iter()
        .filter(|ipv6| !ipv6 || has_ipv6())
        .collect()
}

fn add_address(batch: &mut String, address: IpAddr, length: u8, link: &str) -> Result<()> {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    writeln!(batch, "addr add {address}/{length} dev {link}{nodad}")?;
    Ok(())
}

fn has_intruder(scenario: &Scenario) -> bool {
    scenario.pair.as_ref().is_some_and(|pair| pair.intruder)
}

/// The namespaces of a host of a run that another process owns.
///
/// # Errors
/// No such run or host.
pub(crate) fn host_of_run(run_dir: &Path, host: &str) -> Result<Namespaces> {
    let path = run_dir.join(HOSTS_FILE);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let hosts: BTreeMap<String, i32> = serde_json::from_str(&text)?;
    let Some(pid) = hosts.get(host) else {
        let names: Vec<&str> = hosts.keys().map(String::as_str).collect();
        bail!("no host {host}; there are: {}", names.join(", "));
    };
    Namespaces::of(*pid)
}

/// What a server listens on, as arguments of its program.
fn listen_addresses(scenario: &Scenario, server: &ServerSpec) -> Vec<String> {
    let mut listen: Vec<String> = Vec::new();
    for service in &scenario.services {
        for member in service
            .servers
            .iter()
            .filter(|member| member.server == server.name)
        {
            let address: IpAddr = match service.forwarding {
                Forwarding::Masquerading => server.address_of(service.address.is_ipv6()),
                Forwarding::DirectRouting => service.address.ip(),
            };
            let ports = match member.port {
                0 => service.ports().collect(),
                port => vec![port],
            };
            for port in ports {
                let end = SocketAddr::new(address, port);
                let text = format!("{}:{end}", service.protocol.name());
                if !listen.contains(&text) {
                    listen.push(text);
                }
            }
        }
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_routing_servers_listen_on_the_virtual_address() {
        let scenario = Scenario::load("balance").unwrap();
        let direct = scenario
            .servers
            .iter()
            .find(|s| s.side == Side::Outside)
            .unwrap();
        let listen = listen_addresses(&scenario, direct);
        assert!(
            listen
                .iter()
                .all(|text| text.starts_with("tcp:192.0.2.100:")),
            "{listen:?}"
        );
        let inside = scenario
            .servers
            .iter()
            .find(|s| s.side == Side::Inside)
            .unwrap();
        let own = format!(":{}:", inside.address);
        assert!(
            listen_addresses(&scenario, inside)
                .iter()
                .all(|text| text.contains(&own))
        );
    }
}
