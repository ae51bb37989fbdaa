//! What is done to a director and its neighbours, and when exactly.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::director::Director;
use crate::node::Node;
use crate::phase::Moment;
use crate::plan::{prefix_len, whole};
use crate::run::Run;
use crate::scenario::Scenario;
use crate::step::Fault;
use crate::topology::{LAN, Lab};

/// When a daemon was dead for certain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Killed {
    pub(crate) at: Instant,
}

/// Kills `directord` alone; the moment is taken when the kernel has confirmed its end.
///
/// # Errors
/// It was not running.
pub(crate) fn kill_daemon(director: &mut Director) -> Result<Killed> {
    director.kill().context("kill-daemon")?;
    Ok(Killed { at: Instant::now() })
}

/// Makes a host forget the link-layer address of a neighbour.
///
/// # Errors
/// No such host.
pub(crate) fn forget_neighbour(lab: &Lab, host: &str, address: IpAddr) -> Result<()> {
    lab.ip(host, &format!("neigh flush dev eth0 to {address}\n"))
}

/// Makes a host forget every neighbour; gives the number that it still knows.
///
/// # Errors
/// No such host.
pub(crate) fn forget_neighbours(lab: &Lab, host: &str) -> Result<u64> {
    lab.ip(host, "neigh flush all\n")?;
    let left = lab.output(host, "ip", &["neigh", "show"])?;
    Ok(left
        .lines()
        .filter(|line| line.contains(" lladdr "))
        .count() as u64)
}

/// Does it; gives the moment from which on nothing of what was to end is alive.
///
/// # Errors
/// It cannot be done.
pub(crate) fn strike(lab: &Lab, director: &mut Director, fault: Fault) -> Result<Moment> {
    match fault {
        Fault::KillNode => {
            block(lab, &director.node().ports())?;
            director.kill()?;
            let ports = director.node().ports();
            lab.ip(LAN, &of_ports(&ports, "link set PORT down")?)?;
        }
        Fault::Freeze => director.freeze()?,
        Fault::FreezeNode | Fault::FreezeDeaf => {
            block(lab, &blocked_by(director, fault))?;
            director.freeze()?;
        }
        // Ports that are isolated still talk to all that are not.
        Fault::Split => isolate(lab, "on")?,
        Fault::KillDaemon => director.kill()?,
        Fault::CleanStop => director.stop()?,
        Fault::LinkDownOutside | Fault::LinkDownInside => {
            let port = director.node().port(bridge_of(fault));
            lab.ip(LAN, &format!("link set {port} down\n"))?;
        }
    }
    Ok(Moment::now())
}

/// Stops ports in the same instant. Ports of a bridge stop in microseconds, one after the other; setting
/// a link down takes milliseconds each.
fn block(lab: &Lab, ports: &[String]) -> Result<()> {
    lab.batch(
        "bridge",
        LAN,
        &of_ports(ports, "link set dev PORT state 0")?,
    )
}

/// What of a frozen node carries nothing.
fn blocked_by(director: &Director, fault: Fault) -> Vec<String> {
    if fault == Fault::FreezeDeaf {
        return vec![director.node().port("sync")];
    }
    director.node().ports()
}

fn isolate(lab: &Lab, switch: &str) -> Result<()> {
    let ports: Vec<String> = Node::pair().iter().flat_map(Node::ports).collect();
    let command = format!("link set dev PORT isolated {switch}");
    lab.batch("bridge", LAN, &of_ports(&ports, &command)?)
}

/// A command for each port.
fn of_ports(ports: &[String], command: &str) -> Result<String> {
    let mut batch = String::new();
    for port in ports {
        writeln!(batch, "{}", command.replace("PORT", port))?;
    }
    Ok(batch)
}

/// Undoes a fault. A killed node has lost its memory: programs, tables, addresses and neighbours.
///
/// # Errors
/// It cannot be done.
pub(crate) fn restore(
    run: &Run,
    lab: &Lab,
    scenario: &Scenario,
    director: &mut Director,
    fault: Fault,
) -> Result<()> {
    let mut links = String::new();
    match fault {
        Fault::KillNode => {
            director.detach()?;
            forget_addresses(lab, scenario, director.name())?;
            for port in director.node().ports() {
                writeln!(links, "link set {port} up")?;
            }
            // Services are in place before the node is on the network, as at a boot.
            director.start(run)?;
            director.add_services(scenario)?;
        }
        Fault::KillDaemon | Fault::CleanStop => director.start(run)?,
        Fault::Freeze => director.thaw()?,
        Fault::FreezeNode | Fault::FreezeDeaf => {
            let ports = blocked_by(director, fault);
            let open = of_ports(&ports, "link set dev PORT state 3")?;
            lab.batch("bridge", LAN, &open)?;
            director.thaw()?;
        }
        Fault::Split => isolate(lab, "off")?,
        Fault::LinkDownOutside | Fault::LinkDownInside => {
            writeln!(
                links,
                "link set {} up",
                director.node().port(bridge_of(fault))
            )?;
        }
    }
    lab.ip(LAN, &links)
}

fn bridge_of(fault: Fault) -> &'static str {
    if fault == Fault::LinkDownInside {
        "in"
    } else {
        "out"
    }
}

fn forget_addresses(lab: &Lab, scenario: &Scenario, host: &str) -> Result<()> {
    let listed = lab.output(host, "ip", &["-o", "addr", "show"])?;
    let has = |address: &str| listed.split_whitespace().any(|word| word == address);
    let mut batch = String::from("neigh flush all\n");
    let outside = scenario.virtual_addresses().into_iter();
    let outside = outside.map(|address| (address, whole(address), "eth0"));
    let inside = scenario.inside_virtual_addresses().into_iter();
    let inside = inside.map(|address| (address, prefix_len(address), "eth1"));
    for (address, length, link) in outside.chain(inside) {
        if has(&format!("{address}/{length}")) {
            writeln!(batch, "addr del {address}/{length} dev {link}")?;
        }
    }
    lab.ip(host, &batch)
}
