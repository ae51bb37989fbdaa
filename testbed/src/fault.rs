//! What is done to a director and its neighbours, and when exactly.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::director::Director;
use crate::node::Node;
use crate::phase::Moment;
use crate::plan::{prefix_len, whole};
use crate::run::Run;
use crate::scenario::Scenario;
use crate::step::Fault;
use crate::topology::{LAN, Lab};
use crate::wait::pass_time_until;

mod clock;

/// How often a flapping link goes down, for how long, and how long it is up in between. Altogether it
/// is down for longer than a master-down time at 100 ms, each time for less.
const FLAPS: u32 = 6;
const FLAP_DOWN: Duration = Duration::from_millis(80);
const FLAP_UP: Duration = Duration::from_millis(80);

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
pub(crate) fn strike(
    run: &Run,
    lab: &Lab,
    scenario: &Scenario,
    directors: &mut [Director],
    name: &str,
    fault: Fault,
) -> Result<Moment> {
    match fault {
        Fault::RestartBoth => {
            restart_all(run, directors)?;
            return Ok(Moment::now());
        }
        Fault::RebootBoth => {
            reboot_all(run, lab, scenario, directors)?;
            return Ok(Moment::now());
        }
        Fault::ClockStep => {
            clock::step_and_restore()?;
            return Ok(Moment::now());
        }
        Fault::CleanStop
        | Fault::CutOutside
        | Fault::CutSync
        | Fault::Flap
        | Fault::Freeze
        | Fault::FreezeDeaf
        | Fault::FreezeNode
        | Fault::Handover
        | Fault::KillDaemon
        | Fault::KillNode
        | Fault::LinkDownInside
        | Fault::LinkDownOutside
        | Fault::LinkDownSync
        | Fault::Split => {}
    }
    let director = directors.iter_mut().find(|one| one.name() == name);
    let director = director.context("no such director")?;
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
        Fault::CutOutside | Fault::CutSync => block(lab, &blocked_by(director, fault))?,
        // Ports that are isolated still talk to all that are not.
        Fault::Split => isolate(lab, "on")?,
        Fault::KillDaemon => director.kill()?,
        Fault::CleanStop => director.stop()?,
        Fault::Handover => {
            director.directord(&["handover"])?;
        }
        Fault::LinkDownOutside | Fault::LinkDownInside | Fault::LinkDownSync => {
            let port = director.node().port(bridge_of(fault));
            lab.ip(LAN, &format!("link set {port} down\n"))?;
        }
        Fault::Flap => flap(lab, &director.node().port(bridge_of(fault)))?,
        Fault::ClockStep | Fault::RebootBoth | Fault::RestartBoth => {}
    }
    Ok(Moment::now())
}

/// Every daemon is dead before the first is started again.
fn restart_all(run: &Run, directors: &mut [Director]) -> Result<()> {
    directors.iter_mut().try_for_each(Director::kill)?;
    directors
        .iter_mut()
        .try_for_each(|director| director.spawn(run))
}

/// The same, and nothing that they knew is left.
fn reboot_all(run: &Run, lab: &Lab, scenario: &Scenario, directors: &mut [Director]) -> Result<()> {
    let ports: Vec<String> = directors
        .iter()
        .flat_map(|director| director.node().ports())
        .collect();
    block(lab, &ports)?;
    directors.iter_mut().try_for_each(Director::kill)?;
    lab.ip(LAN, &of_ports(&ports, "link set PORT down")?)?;
    for director in directors.iter() {
        director.detach()?;
        forget_addresses(lab, scenario, director.name())?;
    }
    directors
        .iter_mut()
        .try_for_each(|director| director.spawn(run))?;
    for director in directors.iter_mut() {
        director.wait_answer()?;
        director.add_services(scenario)?;
    }
    lab.ip(LAN, &of_ports(&ports, "link set PORT up")?)
}

/// The pauses are part of the fault: shorter than a master-down time.
fn flap(lab: &Lab, port: &str) -> Result<()> {
    for _ in 0..FLAPS {
        lab.ip(LAN, &format!("link set {port} down\n"))?;
        pass_time_until(Instant::now() + FLAP_DOWN)?;
        lab.ip(LAN, &format!("link set {port} up\n"))?;
        pass_time_until(Instant::now() + FLAP_UP)?;
    }
    Ok(())
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

fn unblock(lab: &Lab, ports: &[String]) -> Result<()> {
    let open = of_ports(ports, "link set dev PORT state 3")?;
    lab.batch("bridge", LAN, &open)
}

/// What carries nothing then.
fn blocked_by(director: &Director, fault: Fault) -> Vec<String> {
    if matches!(fault, Fault::FreezeDeaf | Fault::CutSync) {
        return vec![director.node().port("sync")];
    }
    if fault == Fault::CutOutside {
        return vec![director.node().port("out")];
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
            unblock(lab, &blocked_by(director, fault))?;
            director.thaw()?;
        }
        Fault::CutOutside | Fault::CutSync => unblock(lab, &blocked_by(director, fault))?,
        // These are over when they have happened.
        Fault::Handover => {
            director.directord(&["handover", "--reclaim"])?;
        }
        Fault::ClockStep | Fault::Flap | Fault::RebootBoth | Fault::RestartBoth => {}
        Fault::Split => isolate(lab, "off")?,
        Fault::LinkDownOutside | Fault::LinkDownInside | Fault::LinkDownSync => {
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
    } else if fault == Fault::LinkDownSync {
        "sync"
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
