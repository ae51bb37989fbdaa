//! The lab: hosts, links, addresses, routes.
//!
//! ```text
//!             outside 192.0.2.0/24                        inside 10.0.0.0/24
//!   client .10 ──┐ bridge "out"        director      bridge "in" ┌── nat1 .11  (gateway: director)
//!   direct1 .21 ─┼───────────── eth0 .1 .100  .1 eth1 ───────────┼── nat2 .12
//!   direct2 .22 ─┘ (.100 on lo)                                  └── ...
//! ```
//!
//! Both bridges are in the namespace `lan`; its ports are named after the hosts, the director's
//! `director-out` and `director-in`. Interfaces keep their offloads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

use anyhow::{Context, Result, bail};

use crate::netns::{Holder, Namespaces, Tether, end, own_executable};
use crate::real_server::SERVE;
use crate::run::Run;
use crate::scenario::{Forwarding, Scenario, ServerSpec, Side};

pub(crate) const LAN: &str = "lan";
pub(crate) const CLIENT: &str = "client";
pub(crate) const DIRECTOR: &str = "director";
/// The director's ports on the bridges, where captures listen.
pub(crate) const DIRECTOR_PORTS: [&str; 2] = ["director-out", "director-in"];
/// Which holder each host has, for `lab exec`.
const HOSTS_FILE: &str = "hosts.json";
const CLIENT_ADDRESS: &str = "192.0.2.10/24";
const DIRECTOR_OUTSIDE: &str = "192.0.2.1/24";
const DIRECTOR_INSIDE: &str = "10.0.0.1/24";
const INSIDE_GATEWAY: &str = "10.0.0.1";
const OUTSIDE_GATEWAY: &str = "192.0.2.1";

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
        for name in [LAN, CLIENT, DIRECTOR].into_iter().chain(names) {
            lab.start_host(run, name)?;
        }
        lab.write_hosts(run)?;
        lab.join_hosts(scenario)?;
        lab.configure_client()?;
        lab.configure_director(scenario)?;
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

    /// Runs `ip` with a batch of commands inside a host.
    ///
    /// # Errors
    /// A command failed; the message is what `ip` said.
    pub(crate) fn ip(&self, host: &str, batch: &str) -> Result<()> {
        let spaces = self.host(host)?.spaces();
        let mut command = spaces.command(Path::new("ip"), Tether::Parent)?;
        command.args(["-batch", "-"]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start ip")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(batch.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "ip in {host}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(())
    }

    fn start_host(&mut self, run: &Run, name: &str) -> Result<()> {
        let bpffs = (name == DIRECTOR).then(|| bpffs_dir(run));
        let holder = Holder::start(bpffs.as_deref()).with_context(|| format!("host {name}"))?;
        run.record(holder.pid())?;
        self.hosts.insert(name.to_owned(), holder);
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
        for bridge in ["out", "in"] {
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
        port(DIRECTOR_PORTS[0], DIRECTOR, "eth0", "out")?;
        port(DIRECTOR_PORTS[1], DIRECTOR, "eth1", "in")?;
        for server in &scenario.servers {
            let bridge = match server.side {
                Side::Inside => "in",
                Side::Outside => "out",
            };
            port(&server.name, &server.name, "eth0", bridge)?;
        }
        self.ip(LAN, &batch)
    }

    fn configure_client(&self) -> Result<()> {
        self.count_losses_only(CLIENT)?;
        let batch = format!(
            "link set lo up\naddr add {CLIENT_ADDRESS} dev eth0\nlink set eth0 up\n\
             route add default via {OUTSIDE_GATEWAY}\n"
        );
        self.ip(CLIENT, &batch)
    }

    fn configure_director(&self, scenario: &Scenario) -> Result<()> {
        let mut batch = format!(
            "link set lo up\naddr add {DIRECTOR_OUTSIDE} dev eth0\n\
             addr add {DIRECTOR_INSIDE} dev eth1\n"
        );
        for address in scenario.virtual_addresses() {
            writeln!(batch, "addr add {address}/32 dev eth0")?;
        }
        batch.push_str("link set eth0 up\nlink set eth1 up\n");
        self.ip(DIRECTOR, &batch)?;
        let forward = if scenario.director.ip_forward {
            "1"
        } else {
            "0"
        };
        self.sysctl(DIRECTOR, &[("ipv4/ip_forward", forward)])
    }

    fn configure_server(&self, scenario: &Scenario, server: &ServerSpec) -> Result<()> {
        self.count_losses_only(&server.name)?;
        let gateway = match server.side {
            Side::Inside => INSIDE_GATEWAY,
            Side::Outside => OUTSIDE_GATEWAY,
        };
        let mut batch = format!("link set lo up\naddr add {}/24 dev eth0\n", server.address);
        if server.side == Side::Outside {
            // The virtual addresses are the director's to announce.
            let silent = [
                ("ipv4/conf/all/arp_ignore", "1"),
                ("ipv4/conf/all/arp_announce", "2"),
            ];
            self.sysctl(&server.name, &silent)?;
            for address in scenario.virtual_addresses() {
                writeln!(batch, "addr add {address}/32 dev lo")?;
            }
        }
        writeln!(batch, "link set eth0 up\nroute add default via {gateway}")?;
        self.ip(&server.name, &batch)
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

/// Where a director's maps and links are pinned, mounted in its own mount namespace only.
pub(crate) fn bpffs_dir(run: &Run) -> PathBuf {
    run.dir().join(DIRECTOR).join("bpf")
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
            let address: Ipv4Addr = match service.forwarding {
                Forwarding::Masquerading => server.address,
                Forwarding::DirectRouting => *service.address.ip(),
            };
            let text = format!("{}:{address}:{}", service.protocol.name(), member.port);
            if !listen.contains(&text) {
                listen.push(text);
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
