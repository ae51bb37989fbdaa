//! A data plane with its sync master, and somebody who listens at the other end of the link.

#![allow(clippy::print_stdout, reason = "says what was compared")]

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::common::entry::ConnWord;
use dataplane::{DataPlane, Edit, MarkRule, RouteKind, Runner};
use ha_manager::sync::{SyncDaemons, SyncOptions};
use ipvs_model::sync::SyncRole;
use syncproto::limits;

use crate::lab::ipvsadm::carry_out;
use crate::lab::{Lab, ifindex, ip, local, route, sysctl};
use crate::scenario::{Scenario, differences, entries, on_two_ports};

/// As the kernel's master.
const FLUSH_AGE: Duration = limits::FLUSH_AGE;
/// A director walks its table this often.
const WALK: Duration = Duration::from_secs(1);
/// A packet that comes later than this after its time may be on the other side of a period.
const LATE: Duration = Duration::from_millis(80);
/// Nothing else here takes longer.
const LIMIT: Duration = Duration::from_secs(20);
/// What a master that has stopped sent is there by then.
const SETTLED: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Master {
    plane: DataPlane,
    // Last: the plane is pinned in it.
    _lab: Lab,
}

impl Master {
    /// Moves the calling thread into new namespaces.
    pub(crate) fn new() -> Master {
        let lab = Lab::new();
        ip("link add sync0 type veth peer name sync1");
        // Both ends are here: what one sends has an address of this host.
        sysctl("net.ipv4.conf.sync1.accept_local", "1");
        for name in ["all", "sync1"] {
            sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0");
        }
        ip("addr add 10.3.0.1/24 dev sync0");
        ip("-6 addr add fe80::3:1/64 dev sync0 nodad");
        ip("-6 addr add fe80::3:2/64 dev sync1 nodad");
        ip("link set sync0 up");
        ip("link set sync1 up");
        let mut plane = lab.open(&["lo"]);
        let routes = [
            local("10.50.0.0", 16),
            local("fd00:50::", 32),
            route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
            route("::", 0, RouteKind::Unicast, 1, None),
        ];
        plane.set_routes(&routes).unwrap();
        Master { plane, _lab: lab }
    }

    /// What the master here sends that the kernel's did not, or the other way round. When packets came
    /// late, which a period of refreshing may not forgive, all is done once more.
    pub(crate) fn run(&mut self, scenario: &Scenario) -> Vec<String> {
        let (late, wrong) = self.attempt(scenario);
        if wrong.is_empty() || late <= LATE {
            return wrong;
        }
        println!("{}: once more, {late:?} late", scenario.name);
        self.attempt(scenario).1
    }

    /// How late a packet was at most, and what is wrong.
    fn attempt(&mut self, scenario: &Scenario) -> (Duration, Vec<String>) {
        for command in &scenario.commands {
            if command.starts_with("nft ") {
                self.plane.set_mark_rules(&[mark_rule(command)]).unwrap();
            } else {
                carry_out(&mut self.plane, command);
            }
        }
        let mut sync = SyncDaemons::new(SyncOptions {
            tunables: scenario.tunables,
            flush_age: FLUSH_AGE,
            ..SyncOptions::default()
        });
        sync.prepare(&mut self.plane);
        let started = sync.start(&mut self.plane, SyncRole::Master, &scenario.spec);
        started.unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
        let (_, running) = sync.list().remove(0);
        let ports = running.port..running.port + scenario.tunables.ports;
        let group = running.group.unwrap();
        let listeners: Vec<UdpSocket> = ports.map(|port| listener(group, port)).collect();
        // What a start has offered again comes with the next round; there is nothing yet.
        self.walk();
        self.walk();
        let late = self.feed(scenario, &mut sync);
        sync.stop(&mut self.plane, SyncRole::Master).unwrap();
        let kernels = entries(&scenario.messages);
        let heard = heard(&listeners, kernels.len());
        self.clear();
        let messages: Vec<Vec<u8>> = heard.iter().flatten().cloned().collect();
        let ours = entries(&messages);
        println!(
            "{}: {} packets, {} entries; in messages of {:?}, the kernel {:?}; {}; late by {late:?}",
            scenario.name,
            scenario.packets.len(),
            ours.len(),
            counts(&messages),
            counts(&scenario.messages),
            if ours == kernels {
                "all in the same order"
            } else {
                "in another order"
            },
        );
        let mut wrong = differences(&kernels, &ours);
        wrong.extend(on_two_ports(&heard));
        for what in &mut wrong {
            *what = format!("{}:\n{what}", scenario.name);
        }
        (late, wrong)
    }

    /// Has the packets come in at their times, and does what a director does meanwhile. Gives back how
    /// late a packet was at most.
    fn feed(&mut self, scenario: &Scenario, sync: &mut SyncDaemons) -> Duration {
        let runner: Runner = self.plane.runner().unwrap();
        let begun = Instant::now();
        let mut walked = begun;
        let mut late = Duration::ZERO;
        for (time, frame) in &scenario.packets {
            loop {
                if walked.elapsed() >= WALK {
                    walked = Instant::now();
                    self.walk();
                    sync.tend(&mut self.plane);
                }
                let left = time.saturating_sub(begun.elapsed());
                if left.is_zero() {
                    break;
                }
                thread::sleep(left.min(WALK.saturating_sub(walked.elapsed())));
            }
            late = late.max(begun.elapsed().saturating_sub(*time));
            runner.run(frame, 1, 1).unwrap();
        }
        late
    }

    /// A whole round of the expiry walk.
    fn walk(&mut self) {
        while !self.plane.expire_step(u32::MAX).round_done {}
    }

    /// Makes the data plane as it was when it was opened.
    fn clear(&mut self) {
        let plane = &mut self.plane;
        plane.edit(&Edit::Flush).unwrap();
        plane.set_mark_rules(&[]).unwrap();
        let sizes = plane.sizes();
        let deadline = Instant::now() + LIMIT;
        // A template is not marked while it controls connections.
        loop {
            for (ipv6, count) in [(false, sizes.connections_v4), (true, sizes.connections_v6)] {
                let place = |index| {
                    let word = match ipv6 {
                        false => plane.conn4(index).word,
                        true => plane.conn6(index).word,
                    };
                    (index, ConnWord(word).generation())
                };
                let places: Vec<(u32, u32)> = (0..count).map(place).collect();
                plane.expire_now(ipv6, &places);
            }
            while !plane.expire_step(u32::MAX).round_done {}
            let left = plane.connection_count();
            if left.taken() == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "{left:?}");
        }
    }
}

/// The rule of `nft '...; add rule inet m p ip daddr ADDRESS meta mark set MARK'`.
fn mark_rule(command: &str) -> MarkRule {
    let words: Vec<&str> = command.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|known| *known == word).unwrap();
        words[at + 1].trim_end_matches('\'')
    };
    let addr: IpAddr = after("daddr").parse().unwrap();
    MarkRule {
        ipv6: addr.is_ipv6(),
        protocol: None,
        destination: Some((addr, 32)),
        source: None,
        ports: None,
        mark: after("set").parse().unwrap(),
    }
}

/// Hears the group at the other end of the link.
fn listener(group: IpAddr, port: u16) -> UdpSocket {
    let socket = match group {
        IpAddr::V4(group) => {
            let socket = UdpSocket::bind((group, port)).unwrap();
            // By its interface, as the address is that of the other end.
            let index = ifindex("sync1");
            let joined = socket2::SockRef::from(&socket)
                .join_multicast_v4_n(&group, &socket2::InterfaceIndexOrAddress::Index(index));
            joined.unwrap();
            socket
        }
        IpAddr::V6(group) => {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let socket = UdpSocket::bind(any).unwrap();
            socket.join_multicast_v6(&group, ifindex("sync1")).unwrap();
            socket
        }
    };
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Everything that came, by port; waits for so many entries, but not long.
fn heard(listeners: &[UdpSocket], count: usize) -> Vec<Vec<Vec<u8>>> {
    let deadline = Instant::now() + SETTLED;
    let mut messages = vec![Vec::new(); listeners.len()];
    loop {
        for (socket, messages) in listeners.iter().zip(&mut messages) {
            let mut buffer = vec![0; 65_536];
            match socket.recv(&mut buffer) {
                Ok(length) => messages.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        let heard: usize = messages.iter().map(|of_port| entries(of_port).len()).sum();
        if heard >= count || Instant::now() > deadline {
            return messages;
        }
        thread::sleep(PAUSE);
    }
}

/// Entries by message.
fn counts(messages: &[Vec<u8>]) -> Vec<usize> {
    let messages = messages.iter().map(std::slice::from_ref);
    messages.map(|message| entries(message).len()).collect()
}
