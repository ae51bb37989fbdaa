//! What a flood of entries leaves to forwarding, on the same processor.
//!
//! One processor has all that the second director does: its links hand what they receive to it, as
//! the queue of a network card does, and every thread of its daemon runs there. Packets and entries
//! come from the other one. So packets are forwarded in the kernel's soft interrupts, before any
//! thread of the daemon, as on a host of its own.

use std::fs;
use std::io::IoSliceMut;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use super::burst::{BURST, Burst, Pace};
use super::cpu::{ThreadTimes, pin_process, pin_thread};
use super::entries::Target;
use super::feed::{Feed, Source, difference, handled};
use super::frames::{FRAME, Maker};
use super::{BACKUP, MASTER, SERVERS, SILENT_PORT, VIRTUAL, per_second, percentile};
use crate::capture::wall_clock;
use crate::drill::Drill;
use crate::netns::Namespaces;
use crate::topology::CLIENT;
use crate::wait::wait_until;

/// The processor of the director, and that of everything that feeds it.
const DIRECTOR: usize = 0;
const OTHERS: usize = 1;
/// A service whose server says when its packets came.
const PROBE_PORT: u16 = 10;
/// Clients of this part, which no other part has.
const FIRST_CLIENT: u32 = 5_000_000;
const CLIENTS: u32 = 256;
/// Probes in a second.
const PROBES: u64 = 1000;
const RUN: Duration = Duration::from_millis(2500);
/// Frames in a second that are more than a processor forwards.
const TOO_MANY: u64 = 4_000_000;

/// What one run of packets saw.
#[derive(Clone, Debug, Default)]
struct Forwarded {
    offered: u64,
    /// On the servers' links.
    arrived: u64,
    took: Duration,
    /// Sorted. Unit: microseconds.
    latencies: Vec<f64>,
}

/// What packets need.
#[derive(Debug)]
struct Road {
    client: Namespaces,
    server: Namespaces,
    /// Processes whose `/proc/PID/net/dev` shows the servers' links.
    servers: Vec<u32>,
    silent: Maker,
    probe: Maker,
}

impl Drill<'_> {
    /// Packets through the second director alone, and beside known entries at full rate:
    /// `beside.*`.
    pub(crate) fn forwarding_beside(&mut self, entries: u32) -> Result<()> {
        self.warm_up()?;
        // Packets to an address that is nobody's here would pass the director by.
        self.lab
            .ip(BACKUP, &format!("addr add {VIRTUAL}/32 dev lo\n"))?;
        let pid = self.director(BACKUP)?.pid()?;
        let steered = self.steer(BACKUP, &["eth0", "eth1", "eth2"])?;
        self.count_figure("beside.steered_links", steered);
        pin_process(pid, &[DIRECTOR])?;
        let road = self.road()?;
        wait_until("packets are forwarded", Duration::from_secs(5), || {
            let found = self.forward(&road, PROBES, Duration::from_millis(100))?;
            Ok((found.latencies.len() > 1).then_some(()))
        })?;
        let capacity = self.forward(&road, TOO_MANY, RUN)?;
        self.note_forwarded("capacity", &capacity);
        let rate = capacity.arrived * 1000 / u64::try_from(RUN.as_millis())?.max(1) / 2;
        let alone = self.forward(&road, rate, RUN)?;
        self.note_forwarded("alone", &alone);
        let alone = per_second(alone.arrived, alone.took);

        let servers = self.rate_servers();
        let target = Target {
            service: self.rate_service(),
            servers: &servers,
        };
        let datagrams = target.datagrams(0, entries);
        for (name, rate) in [("flooded", rate), ("full", TOO_MANY)] {
            let found = self.forward_in_flood(name, &road, rate, &datagrams)?;
            if name == "flooded" {
                self.report
                    .figure("beside.kept_share", found / alone.max(1.0));
            }
        }
        pin_process(pid, &[DIRECTOR, OTHERS])
    }

    fn forward_in_flood(
        &mut self,
        name: &str,
        road: &Road,
        rate: u64,
        datagrams: &[Vec<u8>],
    ) -> Result<f64> {
        let from = self.lab.host(MASTER)?.spaces().try_clone()?;
        let address = self.director(MASTER)?.sync_address();
        let pid = self.director(BACKUP)?.pid()?;
        let source = Source {
            spaces: &from,
            address,
            backup: pid,
        };
        let stop = AtomicBool::new(false);
        let before = self.director(BACKUP)?.status()?.sync_counts("backup");
        let cpu = ThreadTimes::of(pid)?;
        let (found, flooded) = thread::scope(|scope| {
            let flood = scope.spawn(|| -> Result<()> {
                pin_thread(&[OTHERS])?;
                // The thread that sends is this one's child and stays on its processor.
                for part in datagrams.chunks(BURST * 8).cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    source.send(part, Feed::Window)?;
                }
                Ok(())
            });
            let found = self.forward(road, rate, RUN);
            stop.store(true, Ordering::Relaxed);
            (found, flood.join())
        });
        flooded.unwrap_or_else(|_| bail!("the flood failed"))?;
        let found = found?;
        let cpu = ThreadTimes::of(pid)?.since(&cpu);
        let now = self.director(BACKUP)?.status()?.sync_counts("backup");
        let applied = handled(&difference(&now, &before));
        self.note_forwarded(name, &found);
        self.report.figure(
            format!("beside.{name}.entries_per_s"),
            per_second(applied, found.took),
        );
        let share = cpu.total().as_secs_f64() / found.took.as_secs_f64();
        self.report
            .figure(format!("beside.{name}.cpu_share"), share);
        self.event(format!(
            "beside: {applied} entries applied meanwhile, {:.0} % of the processor",
            share * 100.0
        ));
        Ok(per_second(found.arrived, found.took))
    }

    fn note_forwarded(&mut self, name: &str, found: &Forwarded) {
        let name = format!("beside.{name}");
        let rate = per_second(found.arrived, found.took);
        let share = rate / per_second(found.offered, found.took).max(1.0);
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(&found.latencies, share));
        self.report.figure(format!("{name}.packets_per_s"), rate);
        self.report.figure(format!("{name}.forwarded_share"), share);
        self.report.figure(format!("{name}.p50_us"), p50);
        self.report.figure(format!("{name}.p99_us"), p99);
        self.count_figure(format!("{name}.probes"), found.latencies.len() as u64);
        self.event(format!(
            "{name}: {} packets offered, {} forwarded, {rate:.0} a second; probes: {} came, p50 {p50:.0} us, \
             p99 {p99:.0} us",
            found.offered,
            found.arrived,
            found.latencies.len()
        ));
    }

    fn road(&mut self) -> Result<Road> {
        let director = self.director(BACKUP)?;
        let service = SocketAddr::from((VIRTUAL, PROBE_PORT)).to_string();
        director.ipvsadm(&["-A", "-u", &service, "-s", "rr"])?;
        let server = format!("{}:{PROBE_PORT}", SERVERS[0]);
        director.ipvsadm(&["-a", "-u", &service, "-r", &server, "-m"])?;
        let maker = |port| {
            let service = SocketAddrV4::new(VIRTUAL, port);
            Maker::new(&self.lab, CLIENT, BACKUP, service)
        };
        let mut servers = Vec::new();
        for server in &self.scenario.servers {
            servers.push(self.lab.host(&server.name)?.pid());
        }
        let first = self.scenario.servers.first().context("no server")?;
        Ok(Road {
            client: self.lab.host(CLIENT)?.spaces().try_clone()?,
            server: self.lab.host(&first.name)?.spaces().try_clone()?,
            servers,
            silent: maker(SILENT_PORT)?,
            probe: maker(PROBE_PORT)?,
        })
    }

    fn forward(&self, road: &Road, rate: u64, length: Duration) -> Result<Forwarded> {
        let arrived = || -> Result<u64> {
            let counts = road.servers.iter().map(|pid| received_frames(*pid));
            counts.sum()
        };
        let stop = AtomicBool::new(false);
        let offered = AtomicU64::new(0);
        let before = arrived()?;
        let begun = Instant::now();
        let (latencies, took) = thread::scope(|scope| {
            let listener = scope.spawn(|| listen(&road.server, &stop));
            let sender = scope.spawn(|| send(road, rate, begun + length, &offered));
            let sent = sender.join();
            let took = begun.elapsed();
            let settled = wait_until("the packets have come", Duration::from_secs(2), || {
                let first = arrived()?;
                thread::sleep(Duration::from_millis(20));
                Ok((arrived()? == first).then_some(()))
            });
            stop.store(true, Ordering::Relaxed);
            let latencies = listener.join();
            sent.unwrap_or_else(|_| bail!("the sender failed"))?;
            settled?;
            let latencies = latencies.unwrap_or_else(|_| bail!("the listener failed"))?;
            anyhow::Ok((latencies, took))
        })?;
        Ok(Forwarded {
            offered: offered.into_inner(),
            arrived: arrived()? - before,
            took,
            latencies,
        })
    }

    /// Has what these links of a director receive handled by its processor; how many could be told.
    fn steer(&self, director: &str, links: &[&str]) -> Result<u64> {
        let spaces = self.lab.host(director)?.spaces();
        let place = self.run.dir().join("sys");
        fs::create_dir_all(&place)?;
        spaces.on_thread(|| {
            // /sys shows the network namespace in which it was mounted.
            unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("sysfs"), &place, Some("sysfs"), MsFlags::empty(), none)?;
            let mask = format!("{:x}", 1u32 << DIRECTOR);
            let told = links.iter().filter(|link| {
                let queue = format!("class/net/{link}/queues/rx-0/rps_cpus");
                fs::write(place.join(Path::new(&queue)), &mask).is_ok()
            });
            Ok(told.count() as u64)
        })
    }
}

/// Frames at a pace until the end, and probes among them.
fn send(road: &Road, rate: u64, end: Instant, offered: &AtomicU64) -> Result<()> {
    road.client.enter_thread()?;
    pin_thread(&[OTHERS])?;
    let mut burst = Burst::frames("eth0")?;
    let mut pace = Pace::new(rate);
    let frames: Vec<[u8; FRAME]> = (FIRST_CLIENT..FIRST_CLIENT + CLIENTS)
        .map(|number| road.silent.frame(number, 0))
        .collect();
    let mut probe_due = Instant::now();
    for some in frames.chunks(BURST).cycle() {
        let now = Instant::now();
        if now >= end {
            break;
        }
        pace.wait_for(some.len() as u64);
        burst.send_all(some)?;
        offered.fetch_add(some.len() as u64, Ordering::Relaxed);
        if now >= probe_due {
            probe_due = now + Duration::from_micros(1_000_000 / PROBES);
            let at = u64::try_from(wall_clock().as_nanos())?;
            burst.send_all(&[road.probe.frame(FIRST_CLIENT, at)])?;
            offered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The latencies of the probes that arrive, by the clock of the server's kernel. Unit:
/// microseconds.
fn listen(server: &Namespaces, stop: &AtomicBool) -> Result<Vec<f64>> {
    server.enter_thread()?;
    pin_thread(&[OTHERS])?;
    let socket = UdpSocket::bind((SERVERS[0], PROBE_PORT))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let mut bytes = [0u8; 64];
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let fd = socket.as_raw_fd();
        let Ok(message) =
            recvmsg::<SockaddrIn>(fd, &mut parts, Some(&mut control), MsgFlags::empty())
        else {
            continue;
        };
        let stamp = message.cmsgs()?.find_map(|control| {
            if let ControlMessageOwned::ScmTimestampns(at) = control {
                return Some(Duration::from(at));
            }
            None
        });
        let sent = bytes.first_chunk().map(|at| u64::from_be_bytes(*at));
        let (Some(stamp), Some(sent)) = (stamp, sent) else {
            continue;
        };
        let lag = stamp.saturating_sub(Duration::from_nanos(sent));
        latencies.push(lag.as_secs_f64() * 1e6);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Frames that the `eth0` of a process's namespace has received.
fn received_frames(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("eth0:"));
    let frames = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(frames.context("no eth0")?.parse()?)
}
