//! One `directord` in its host, and the commands an operator would run beside it.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipvs_control::{Client, Reply, Request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::listing::{Snapshot, parse_connections, parse_stats};
use crate::netns::{Namespaces, Tether, end, own_executable};
use crate::node::Node;
use crate::plan::{prefix_len, whole};
use crate::run::Run;
use crate::scenario::{PairSpec, Roles, Scenario, ServiceSpec};
use crate::status::Status;
use crate::topology::Lab;
use crate::wait::wait_until;

/// Loading the programs takes a few seconds, and ten times as many on an emulated processor.
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the log that an error message quotes.
const LOG_LINES: usize = 12;
/// Places for connections of IPv4 when nothing else is said.
pub(crate) const CONNECTIONS: u32 = 65_536;

/// Virtual router and sync id of a pair.
pub(crate) const GROUP: u8 = 51;

#[derive(Debug)]
pub(crate) struct Director {
    node: Node,
    spaces: Namespaces,
    dir: PathBuf,
    child: Option<Child>,
}

impl Director {
    /// Writes the configuration; nothing is started yet.
    ///
    /// # Errors
    /// The directory of the run cannot be written.
    pub(crate) fn new(run: &Run, lab: &Lab, scenario: &Scenario, node: Node) -> Result<Director> {
        let director = Director::bare(run, lab.host(&node.name)?.spaces(), node)?;
        director.write_config(scenario, run, &scenario.director.sysctl)?;
        Ok(director)
    }

    /// Writes the configuration, with these tunables; a daemon that starts later obeys it.
    ///
    /// # Errors
    /// The directory of the run cannot be written.
    pub(crate) fn write_config(
        &self,
        scenario: &Scenario,
        run: &Run,
        sysctl: &toml::Table,
    ) -> Result<()> {
        let mut text = self.config_text(scenario, &self.node.bpffs_dir(run).join("tandem"));
        if !sysctl.is_empty() {
            text.push_str(&format!("[sysctl]\n{sysctl}\n"));
        }
        fs::write(self.config(), text)?;
        Ok(())
    }

    /// One in namespaces of a drill's own, where `rest` follows the usual `[director]` section. A lease of
    /// 0 ms never fences.
    ///
    /// # Errors
    /// The directory of the run cannot be written.
    pub(crate) fn alone(
        run: &Run,
        spaces: &Namespaces,
        node: Node,
        lease_ms: u64,
        rest: &str,
    ) -> Result<Director> {
        let director = Director::bare(run, spaces, node)?;
        let pin_dir = director.node.bpffs_dir(run).join("tandem");
        let mut text = director.section_text(&pin_dir, "auto", lease_ms, CONNECTIONS);
        text.push_str(rest);
        fs::write(director.config(), text)?;
        Ok(director)
    }

    fn bare(run: &Run, spaces: &Namespaces, node: Node) -> Result<Director> {
        let dir = node.dir(run);
        fs::create_dir_all(&dir)?;
        Ok(Director {
            node,
            spaces: spaces.try_clone()?,
            dir,
            child: None,
        })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn name(&self) -> &str {
        &self.node.name
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It ended, or does not answer in time; the message quotes its log.
    pub(crate) fn start(&mut self, run: &Run) -> Result<()> {
        self.spawn(run)?;
        self.wait_answer()
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// It has not been built.
    pub(crate) fn spawn(&mut self, run: &Run) -> Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = self
            .spaces
            .command(&shipped("directord")?, Tether::Parent)?;
        command.arg("run").arg("--config").arg(self.config());
        command.env("TANDEM_CONTROL", self.control());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("start directord")?;
        run.record(child.id())?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the daemon answers.
    ///
    /// # Errors
    /// It ended, or does not answer in time; the message quotes its log.
    pub(crate) fn wait_answer(&mut self) -> Result<()> {
        wait_until("directord answers", START_LIMIT, || {
            self.check_alive()?;
            Ok(self.answers().then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// The daemon's process.
    ///
    /// # Errors
    /// It is not running.
    pub(crate) fn pid(&self) -> Result<u32> {
        let child = self.child.as_ref().context("directord is not running")?;
        Ok(child.id())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Physical memory of the daemon (`VmRSS`). Unit: KiB.
    ///
    /// # Errors
    /// It is not running.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let child = self.child.as_ref().context("directord is not running")?;
        let text = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmRSS")?.parse()?)
    }

    /// What `directord status --json` prints.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub(crate) fn status(&self) -> Result<Status> {
        let reply = Client::connect(&self.control())?.call(&Request::Status { json: true })?;
        if let Reply::Text(text) = reply {
            return Status::parse(&text);
        }
        bail!("directord answers a status request with {reply:?}")
    }

    /// # Errors
    /// The daemon is not running although nobody ended it.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("directord is not running")?;
        if let Some(status) = child.try_wait()? {
            bail!("directord ended by itself: {status}");
        }
        Ok(())
    }

    /// SIGKILL of the daemon alone; its namespaces and what is pinned stay.
    ///
    /// # Errors
    /// It was not running.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.check_alive()?;
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
        Ok(())
    }

    /// SIGSTOP: nothing of the daemon runs until [`Director::thaw`].
    ///
    /// # Errors
    /// It was not running.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It was not running.
    pub(crate) fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.check_alive()?;
        let child = self.child.as_ref().context("directord is not running")?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)?;
        Ok(())
    }

    /// SIGTERM and an orderly end.
    ///
    /// # Errors
    /// It does not end, or ends with an error.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let ended = wait_until("directord ends", STOP_LIMIT, || Ok(child.try_wait()?));
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(anyhow::anyhow!("directord: {status}").context(self.log_tail())),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// Adds all services of a scenario.
    ///
    /// # Errors
    /// `ipvsadm` refused.
    pub(crate) fn add_services(&self, scenario: &Scenario) -> Result<()> {
        for service in &scenario.services {
            self.add_service(scenario, service)
                .with_context(|| format!("{}: service {}", self.name(), service.name))?;
        }
        Ok(())
    }

    /// Adds a service and its real servers as an operator does.
    ///
    /// # Errors
    /// `ipvsadm` refused.
    pub(crate) fn add_service(&self, scenario: &Scenario, service: &ServiceSpec) -> Result<()> {
        let name = service.ipvsadm_name();
        let name = || name.iter().map(String::as_str);
        let persistent = service.persistent_s.to_string();
        let mut add: Vec<&str> = ["-A"].into_iter().chain(name()).collect();
        add.extend(["-s", &service.scheduler]);
        if service.persistent_s > 0 {
            add.extend(["-p", &persistent]);
        }
        self.ipvsadm(&add)?;
        for member in &service.servers {
            let server = scenario.server(&member.server)?;
            let address = server.address_of(service.address.is_ipv6());
            let real = SocketAddr::new(address, member.port).to_string();
            let (method, weight) = (service.forwarding.ipvsadm_flag(), member.weight.to_string());
            let mut add: Vec<&str> = ["-a"].into_iter().chain(name()).collect();
            add.extend(["-r", &real, method, "-w", &weight]);
            self.ipvsadm(&add)?;
        }
        Ok(())
    }

    /// The output of the shipped `ipvsadm`.
    ///
    /// # Errors
    /// It failed; the message is what it said.
    pub(crate) fn ipvsadm(&self, args: &[&str]) -> Result<String> {
        self.output("ipvsadm", args)
    }

    /// The output of a `directord` subcommand.
    ///
    /// # Errors
    /// It failed; the message is what it said.
    pub(crate) fn directord(&self, args: &[&str]) -> Result<String> {
        self.output("directord", args)
    }

    /// Removes what is pinned, as if the host had been switched off.
    ///
    /// # Errors
    /// The daemon runs, or nothing can be removed.
    pub(crate) fn detach(&self) -> Result<()> {
        let config = self.config().display().to_string();
        self.directord(&["detach", "--config", &config])?;
        Ok(())
    }

    /// # Errors
    /// A listing failed or has an unknown form.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let stats = self.ipvsadm(&["-L", "-n", "--stats", "--exact"])?;
        let connections = self.ipvsadm(&["-L", "-n", "-c"])?;
        Ok(Snapshot {
            taken: Instant::now(),
            counters: parse_stats(&stats)?,
            connections: parse_connections(&connections)?,
        })
    }

    /// What the daemon has logged, in all its lives.
    pub(crate) fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// The end of the daemon's log.
    pub(crate) fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(LOG_LINES)..)
            .unwrap_or_default();
        format!("end of the log of {}:\n{}", self.name(), tail.join("\n"))
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("director.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("directord.log")
    }

    fn answers(&self) -> bool {
        let client = Client::connect(&self.control());
        client.is_ok_and(|mut client| client.call(&Request::Status { json: true }).is_ok())
    }

    fn config_text(&self, scenario: &Scenario, pin_dir: &Path) -> String {
        let spec = &scenario.director;
        let mut text = self.section_text(pin_dir, &spec.attach, spec.lease_ms, spec.connections_v4);
        if let Some(pair) = &scenario.pair {
            text.push_str(&pair_text(pair, scenario, &self.node));
        }
        for service in &scenario.services {
            text.push_str(&mark_text(service));
        }
        text
    }

    /// The section `[director]`.
    fn section_text(
        &self,
        pin_dir: &Path,
        attach: &str,
        lease_ms: u64,
        connections_v4: u32,
    ) -> String {
        format!(
            "[director]\n\
             name = \"{}\"\n\
             interfaces = [\"eth0\", \"eth1\"]\n\
             pin_dir = \"{}\"\n\
             attach = \"{attach}\"\n\
             lease_ms = {lease_ms}\n\
             control = \"{}\"\n\
             connections_v4 = {connections_v4}\nconnections_v6 = 65536\n\n",
            self.name(),
            pin_dir.display(),
            self.control().display(),
        )
    }

    /// Starts a sync daemon as an operator does.
    ///
    /// # Errors
    /// `ipvsadm` refused.
    pub(crate) fn start_sync(&self, role: &str) -> Result<()> {
        self.start_sync_as(role, GROUP)
    }

    /// The same with a sync id.
    ///
    /// # Errors
    /// `ipvsadm` refused.
    pub(crate) fn start_sync_as(&self, role: &str, sync_id: u8) -> Result<()> {
        self.start_sync_on("eth2", role, sync_id)
    }

    /// The same on another interface than the pair's.
    ///
    /// # Errors
    /// `ipvsadm` refused.
    pub(crate) fn start_sync_on(&self, link: &str, role: &str, sync_id: u8) -> Result<()> {
        let group = sync_id.to_string();
        let args = ["--start-daemon", role, "--mcast-interface", link];
        let args: Vec<&str> = args.into_iter().chain(["--syncid", &group]).collect();
        self.ipvsadm(&args)?;
        Ok(())
    }

    /// Stops a sync daemon as an operator does.
    ///
    /// # Errors
    /// `ipvsadm` refused.
    pub(crate) fn stop_sync(&self, role: &str) -> Result<()> {
        self.ipvsadm(&["--stop-daemon", role])?;
        Ok(())
    }

    fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command: Command = self.spaces.command(&shipped(program)?, Tether::Parent)?;
        command
            .args(args)
            .env("TANDEM_CONTROL", self.control())
            .stdin(Stdio::null());
        let output = command
            .output()
            .with_context(|| format!("start {program}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{program} {}: {}, {}",
                args.join(" "),
                output.status,
                said.trim_end()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

/// A shipped program: it lies beside this one.
///
/// # Errors
/// It has not been built.
pub(crate) fn shipped(program: &str) -> Result<PathBuf> {
    let path = own_executable()?.with_file_name(program);
    File::open(&path).with_context(|| format!("{} has not been built", path.display()))?;
    Ok(path)
}

fn pair_text(pair: &PairSpec, scenario: &Scenario, node: &Node) -> String {
    let mut text = String::new();
    if pair.roles == Roles::ByHand {
        return text;
    }
    // Writing to a string cannot fail.
    if pair.sync {
        let _ = writeln!(text, "[sync]\ninterface = \"eth2\"\nsyncid = {GROUP}\n");
    }
    for group in 0..pair.groups {
        text.push_str(&group_text(pair, scenario, node, group));
    }
    text
}

/// A virtual router with the addresses of a group. The second group has its master where the first one
/// has its backup.
fn group_text(pair: &PairSpec, scenario: &Scenario, node: &Node, group: u8) -> String {
    let mut priorities = pair.priorities;
    if group == 1 {
        priorities.reverse();
    }
    let priority = match node.number {
        1 => priorities[0],
        _ => priorities[1],
    };
    let outside = scenario.virtual_addresses_of(group).into_iter();
    let outside = outside.map(|address| (address, format!("\"{address}/{}\"", whole(address))));
    let inside = scenario.inside_virtual_addresses_of(group).into_iter();
    let inside = inside.map(|address| {
        let length = prefix_len(address);
        (address, format!("\"{address}/{length} dev eth1\""))
    });
    // Adverts are IPv4.
    let (advertised, excluded): (Vec<_>, Vec<_>) = outside
        .chain(inside)
        .partition(|(address, _)| address.is_ipv4());
    let list = |vips: Vec<(IpAddr, String)>| {
        let vips: Vec<String> = vips.into_iter().map(|(_, text)| text).collect();
        vips.join(", ")
    };
    format!(
        "[[vrrp]]\n\
         interface = \"eth0\"\n\
         vrid = {}\n\
         priority = {priority}\n\
         preempt = {}\n\
         advert_ms = {}\n\
         vips = [{}]\n\
         vips_excluded = [{}]\n\n",
        GROUP + group,
        pair.preempt,
        pair.advert_ms,
        list(advertised),
        list(excluded),
    )
}

/// The rules that give a service's packets its mark.
fn mark_text(service: &ServiceSpec) -> String {
    let mut text = String::new();
    let Some(mark) = service.fwmark else {
        return text;
    };
    let (address, protocol) = (service.address.ip(), service.protocol.name());
    for port in service.ports() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "[[mark]]\n\
             mark = {mark}\n\
             protocol = \"{protocol}\"\n\
             destination = \"{address}/{}\"\n\
             port = {port}\n",
            whole(address),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_pair_are_valid_toml_with_what_the_scenario_says() {
        let scenario = Scenario::load("failover").unwrap();
        let pair = scenario.pair.as_ref().unwrap();
        for (node, priority) in Node::pair().iter().zip([150, 100]) {
            let text = pair_text(pair, &scenario, node);
            let parsed: toml::Table = text.parse().unwrap();
            let router = &parsed["vrrp"][0];
            assert_eq!(router["priority"].as_integer(), Some(priority));
            assert_eq!(router["vips"][0].as_str(), Some("192.0.2.100/32"));
            assert_eq!(router["vips"][1].as_str(), Some("10.0.0.254/24 dev eth1"));
            assert_eq!(parsed["sync"]["interface"].as_str(), Some("eth2"));
        }
        let without = PairSpec {
            sync: false,
            ..pair.clone()
        };
        assert!(!pair_text(&without, &scenario, &Node::pair()[0]).contains("sync"));
    }
}
