//! Two routers that share a virtual address on a bridge with a third port, where the drill listens.
//!
//! ```text
//!   a ── eth0 .1 ──┐            ┌── ear
//!                  ├── bridge ──┤
//!   b ── eth0 .2 ──┘            (third port)
//!   a ── eth1 ── eth1 ── b      a ── eth2 ── eth2 ── b  (synchronisation)
//! ```
//!
//! Both are directors of ours, or both are the real keepalived. Addresses, virtual router, priorities
//! and interval are the same; whatever differs is the programs.

pub(crate) mod ear;
pub(crate) mod keepalived;
mod port;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use self::ear::{Ear, Heard};
use self::keepalived::Keepalived;
use self::port::Port;
use crate::capture::wall_clock;
use crate::director::Director;
use crate::netns::{Holder, ip};
use crate::node::Node;
use crate::run::Run;
use crate::wait::wait_until;

/// The virtual router of both.
const ROUTER: u8 = 51;
/// Of a, the master, and of b.
pub(crate) const PRIORITIES: [u8; 2] = [150, 100];
/// Ethernet addresses of the two on the bridge.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
const PORTS: [&str; 2] = ["port-a", "port-b"];
/// Intervals that the master must have been alone for before anything happens.
const QUIET_INTERVALS: u32 = 4;
/// To begin, and to come back to the roles of before: an election or two and a start.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const LEASE_MS: u64 = 250;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Keepalived,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Kind::Ours => "ours",
            Kind::Keepalived => "keepalived",
        }
    }
}

/// How a pair is to be.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    /// Of its directories in the run.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Unit: milliseconds.
    pub(crate) advert_ms: u64,
    /// Further lines of keepalived's `global_defs`.
    pub(crate) globals: &'a [&'a str],
}

/// One of the two programs; ended when dropped.
enum Router {
    Ours(Box<Director>),
    Keepalived(Keepalived),
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Master = 0,
    Backup = 1,
}

/// A pair in which a is master; dropping it ends everything.
///
/// It belongs to the thread that made it: its processes end with that thread.
pub(crate) struct Pair<'a> {
    // Dropped first.
    routers: [Router; 2],
    pub(crate) ear: Ear,
    port: Port,
    interval: Duration,
    run: &'a Run,
    _hosts: [Holder; 2],
    _lan: Holder,
}

impl<'a> Pair<'a> {
    /// Starts both and waits until a is master.
    ///
    /// # Errors
    /// Something could not be made or started.
    pub(crate) fn up(run: &'a Run, wish: &Wish<'_>) -> Result<Pair<'a>> {
        let nodes = [1, 2].map(|number| {
            let letter = ["a", "b"][usize::from(number) - 1];
            Node::apart(format!("{}-{letter}", wish.name), number)
        });
        let start = |node: Option<&Node>| -> Result<Holder> {
            let bpffs = node.map(|node| node.bpffs_dir(run));
            let holder = Holder::start(bpffs.as_deref())?;
            run.record(holder.pid())?;
            Ok(holder)
        };
        let lan = start(None)?;
        let hosts = [start(Some(&nodes[0]))?, start(Some(&nodes[1]))?];
        join(&lan, &hosts).context("links")?;
        let ear = Ear::open(lan.spaces(), "ear", MACS)?;
        let port = Port::open(lan.spaces(), PORTS[0])?;
        let [first, second] = nodes;
        let make = |node: Node, host: &Holder| -> Result<Router> {
            Ok(match wish.kind {
                Kind::Ours => Router::Ours(Box::new(our(run, host, node, wish.advert_ms)?)),
                Kind::Keepalived => Router::Keepalived(their(run, host, &node, wish)?),
            })
        };
        let routers = [make(first, &hosts[0])?, make(second, &hosts[1])?];
        let mut pair = Pair {
            routers,
            ear,
            port,
            interval: Duration::from_millis(wish.advert_ms),
            run,
            _hosts: hosts,
            _lan: lan,
        };
        for which in [Which::Master, Which::Backup] {
            pair.start(which)?;
        }
        pair.settle().with_context(|| pair.logs())?;
        Ok(pair)
    }

    /// Waits until a has been master for a while and b silent.
    ///
    /// # Errors
    /// That does not come.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let needed = self.interval * QUIET_INTERVALS;
        let from = wall_clock();
        self.ear
            .wait("a is master", from, SETTLE_LIMIT, |heard| {
                let since = heard
                    .iter()
                    .rposition(|one| one.is_advert_of(Which::Backup));
                let alone = heard.get(since.map_or(0, |at| at + 1)..)?;
                let mut masters = alone.iter().filter(|one| one.is_advert_of(Which::Master));
                let first = masters.next()?.at;
                let last = masters.next_back()?.at;
                (last.saturating_sub(first) >= needed).then_some(())
            })
            .with_context(|| self.logs())
    }

    pub(crate) fn start(&mut self, which: Which) -> Result<()> {
        let run = self.run;
        match self.router(which) {
            Router::Ours(director) => {
                director.start(run)?;
                add_service(director)
            }
            Router::Keepalived(keepalived) => keepalived.start(run),
        }
    }

    /// What must be done before [`Pair::kill`], so that this takes no time: the parent of keepalived is
    /// held, which would start its child again.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn prepare_kill(&mut self) -> Result<()> {
        match self.router(Which::Master) {
            Router::Ours(_) => Ok(()),
            Router::Keepalived(keepalived) => keepalived.hold(),
        }
    }

    /// SIGKILL of all processes of the master.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn kill(&mut self) -> Result<()> {
        match self.router(Which::Master) {
            Router::Ours(director) => director.kill(),
            Router::Keepalived(keepalived) => keepalived.kill(),
        }
    }

    /// SIGTERM of the master, and its end.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub(crate) fn stop(&mut self) -> Result<()> {
        match self.router(Which::Master) {
            Router::Ours(director) => director.stop(),
            Router::Keepalived(keepalived) => keepalived.stop(),
        }
    }

    /// The bridge's port of the master goes down or up.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn set_port(&self, is_up: bool) -> Result<()> {
        self.port.set(is_up)
    }

    /// How often a router says that it became master since it was started.
    ///
    /// # Errors
    /// It does not tell.
    pub(crate) fn became_master(&self, which: Which) -> Result<u64> {
        match &self.routers[which as usize] {
            Router::Ours(director) => {
                let counts = director.status()?.role_counts().context("no role counts")?;
                let changes = counts.transitions.first().context("no virtual router")?;
                // Each time to master and back, and what it is now.
                Ok(changes.div_ceil(2))
            }
            Router::Keepalived(keepalived) => keepalived.became_master(),
        }
    }

    /// How often the two nodes became active, and so were given the addresses and the data plane, once the
    /// one is active again and the other one standby. Nothing for keepalived, which keeps no such count.
    ///
    /// # Errors
    /// One does not tell, or the roles do not come back.
    pub(crate) fn promotions(&self) -> Result<Option<u64>> {
        let mut sum = 0;
        for (router, role) in self.routers.iter().zip(["active", "standby"]) {
            let Router::Ours(director) = router else {
                return Ok(None);
            };
            sum += wait_until(&format!("it is {role}"), SETTLE_LIMIT, || {
                let status = director.status()?;
                let counts = status.role_counts().context("no role counts")?;
                Ok((status.role() == Some(role)).then_some(counts.epoch))
            })?;
        }
        Ok(Some(sum))
    }

    /// How often a process of a router ended by itself and was started again.
    ///
    /// # Errors
    /// It does not tell.
    pub(crate) fn restarts(&mut self, which: Which) -> Result<u64> {
        match self.router(which) {
            Router::Ours(director) => director.check_alive().map(|()| 0),
            Router::Keepalived(keepalived) => keepalived.restarts(),
        }
    }

    /// Lets all processes of both run on this processor alone.
    ///
    /// # Errors
    /// One of them does not run.
    pub(crate) fn pin(&mut self, processor: usize) -> Result<()> {
        for router in &self.routers {
            match router {
                Router::Ours(director) => {
                    crate::sync_rate::cpu::pin_process(director.pid()?, &[processor])?;
                }
                Router::Keepalived(keepalived) => keepalived.pin(processor)?,
            }
        }
        Ok(())
    }

    /// The ends of both logs.
    pub(crate) fn logs(&self) -> String {
        let logs = self.routers.iter().map(|router| match router {
            Router::Ours(director) => director.log_tail(),
            Router::Keepalived(keepalived) => keepalived.log_tail(),
        });
        logs.collect::<Vec<_>>().join("\n")
    }

    fn router(&mut self, which: Which) -> &mut Router {
        &mut self.routers[which as usize]
    }
}

impl Heard {
    pub(crate) fn is_advert_of(&self, which: Which) -> bool {
        self.by == which && matches!(self.what, ear::What::Advert { priority: 1.. })
    }
}

/// A bridge with the two routers and the ear, and two links between the routers.
fn join(lan: &Holder, hosts: &[Holder; 2]) -> Result<()> {
    let mut batch = String::from(
        "link set lo up\nlink add dev bridge type bridge\nlink set dev bridge up\n\
         link add dev third type veth peer name ear\nlink set third master bridge up\nlink set ear up\n",
    );
    for (index, host) in hosts.iter().enumerate() {
        let (port, mac, pid) = (PORTS[index], show(MACS[index]), host.pid());
        writeln!(
            batch,
            "link add dev {port} type veth peer name eth0 address {mac} netns {pid}\n\
             link set {port} master bridge up"
        )?;
    }
    ip(lan.spaces(), &batch)?;
    let [first, second] = hosts;
    let mut batch = String::new();
    for link in ["eth1", "eth2"] {
        writeln!(
            batch,
            "link add dev {link} type veth peer name {link} netns {}",
            second.pid()
        )?;
    }
    ip(first.spaces(), &batch)?;
    for (number, host) in (1..).zip(hosts) {
        ip(
            host.spaces(),
            &format!(
                "link set lo up\naddr add 192.0.2.{number}/24 dev eth0\n\
                 addr add 10.0.0.{number}/24 dev eth1\naddr add 10.9.9.{number}/24 dev eth2\n\
                 link set eth0 up\nlink set eth1 up\nlink set eth2 up\n"
            ),
        )?;
    }
    Ok(())
}

fn show(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn our(run: &Run, host: &Holder, node: Node, advert_ms: u64) -> Result<Director> {
    let priority = PRIORITIES[usize::from(node.number) - 1];
    let rest = format!(
        "[sync]\ninterface = \"eth2\"\nsyncid = {ROUTER}\n\n\
         [[vrrp]]\ninterface = \"eth0\"\nvrid = {ROUTER}\npriority = {priority}\n\
         advert_ms = {advert_ms}\nvips = [\"192.0.2.100/32\"]\n"
    );
    Director::alone(run, host.spaces(), node, LEASE_MS, &rest)
}

fn add_service(director: &Director) -> Result<()> {
    // Adopted with the maps, when there were any.
    if director.ipvsadm(&["-Ln"])?.contains("192.0.2.100") {
        return Ok(());
    }
    director.ipvsadm(&["-A", "-t", "192.0.2.100:80", "-s", "rr"])?;
    let server = ["-a", "-t", "192.0.2.100:80", "-r", "10.0.0.11:8080", "-m"];
    director.ipvsadm(&server)?;
    Ok(())
}

fn their(run: &Run, host: &Holder, node: &Node, wish: &Wish<'_>) -> Result<Keepalived> {
    let priority = PRIORITIES[usize::from(node.number) - 1];
    let seconds = Duration::from_millis(wish.advert_ms).as_secs_f64();
    let mut config = String::from("global_defs {\n  router_id pair\n");
    for line in wish.globals {
        writeln!(config, "  {line}")?;
    }
    write!(
        config,
        "}}\nvrrp_instance VI_1 {{\n  state BACKUP\n  interface eth0\n  virtual_router_id {ROUTER}\n  \
         priority {priority}\n  advert_int {seconds}\n  version 3\n  \
         virtual_ipaddress {{\n    192.0.2.100/32\n  }}\n}}\n"
    )?;
    Keepalived::new(host.spaces(), node.dir(run), &config)
}
