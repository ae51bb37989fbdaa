//! SCTP, whole associations: by masquerading with other ports and by direct routing, in both
//! families, for plain, persistent and fwmark services, under schedulers of each kind.
//!
//! Packets are made by hand and run through the program: not every machine has sockets of SCTP. What
//! is sent is compared byte for byte, with a CRC32c computed anew.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dataplane::common::verdict::Verdict;
use dataplane::{DataPlane, Edit, MarkRule, RouteKind};
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServiceKey, ServiceSpec};
use lab::director::*;
use lab::packets::*;
use lab::recount::{expire_all, recount};
use lab::{Lab, local, route};

const SCHEDULERS: [Scheduler; 4] = [Scheduler::Rr, Scheduler::Wlc, Scheduler::Sh, Scheduler::Mh];
const MARK: u32 = 7;
const CLIENTS: u16 = 6;
/// Associations of each client.
const EACH: u16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Persistent,
    Fwmark,
}

#[derive(Clone, Copy, Debug)]
struct Combination {
    method: ForwardMethod,
    ipv6: bool,
    kind: Kind,
    scheduler: Scheduler,
}

#[test]
fn associations_live_and_end_in_every_combination() {
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    let (mut ran, mut packets) = (0, 0);
    for method in [NAT, DR] {
        for ipv6 in [false, true] {
            for kind in [Kind::Plain, Kind::Persistent, Kind::Fwmark] {
                for scheduler in SCHEDULERS {
                    let combination = Combination {
                        method,
                        ipv6,
                        kind,
                        scheduler,
                    };
                    plane.edit(&Edit::Flush).unwrap();
                    expire_all(&mut plane);
                    packets += run_combination(&mut plane, combination);
                    ran += 1;
                }
            }
        }
    }
    println!("{ran} combinations, {packets} packets; none skipped");
    assert_eq!(ran, 48);
}

struct Director<'a> {
    plane: &'a mut DataPlane,
    combination: Combination,
    key: ServiceKey,
    vip: String,
    packets: usize,
}

fn run_combination(plane: &mut DataPlane, combination: Combination) -> usize {
    let mut director = Director::new(plane, combination);
    let mut chosen: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
    let mut in_order = Vec::new();
    for round in 0..EACH {
        for client in 0..CLIENTS {
            let from = director.client(client, round);
            let server = director.open(&from);
            chosen.entry(client).or_default().push(server);
            in_order.push(server);
        }
    }
    let total = usize::from(CLIENTS * EACH);
    director.check_choices(&chosen, &in_order);
    let active: u32 = view(director.plane, &director.key)
        .servers
        .iter()
        .map(|server| server.active)
        .sum();
    assert_eq!(active as usize, total, "{combination:?}");
    recount(director.plane);
    for round in 0..EACH {
        for client in 0..CLIENTS {
            let from = director.client(client, round);
            director.close(&from, chosen[&client][usize::from(round)]);
        }
    }
    let counts = view(director.plane, &director.key).servers;
    assert!(counts.iter().all(|server| server.active == 0));
    recount(director.plane);
    director.packets
}

impl Director<'_> {
    fn new(plane: &mut DataPlane, combination: Combination) -> Director<'_> {
        let routes = [
            local("10.50.0.0", 16),
            local("fd00:50::", 32),
            route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
            route("::", 0, RouteKind::Unicast, 1, None),
        ];
        plane.set_routes(&routes).unwrap();
        let ipv6 = combination.ipv6;
        let vip = family("10.50.0.1:2905", ipv6);
        let key = if combination.kind == Kind::Fwmark {
            let rule = MarkRule {
                ipv6,
                protocol: Some(Protocol::Sctp),
                destination: Some((endpoint(&vip).ip(), if ipv6 { 128 } else { 32 })),
                source: None,
                ports: None,
                mark: MARK,
            };
            plane.set_mark_rules(&[rule]).unwrap();
            ServiceKey::Fwmark { mark: MARK, ipv6 }
        } else {
            service(Protocol::Sctp, &vip)
        };
        let persistent = combination.kind == Kind::Persistent;
        let spec = ServiceSpec {
            flags: ServiceFlags(if persistent {
                ServiceFlags::PERSISTENT
            } else {
                0
            }),
            timeout_secs: if persistent { 100 } else { 0 },
            ..spec_of(combination.scheduler, ipv6)
        };
        plane.edit(&Edit::AddService { key, spec }).unwrap();
        for host in 11..14 {
            let port = if combination.method == NAT {
                3905
            } else {
                2905
            };
            let server = family(&format!("10.200.0.{host}:{port}"), ipv6);
            add_server(plane, key, &server, combination.method, 1);
        }
        Director {
            plane,
            combination,
            key,
            vip,
            packets: 0,
        }
    }

    fn client(&self, client: u16, round: u16) -> String {
        let port = 30_000 + round * 100 + client;
        family(&format!("10.100.{client}.5:{port}"), self.combination.ipv6)
    }

    fn is_nat(&self) -> bool {
        self.combination.method == NAT
    }

    /// A packet from the client comes out as it must.
    fn request(&mut self, from: &str, server: Option<SocketAddr>, payload: Vec<u8>) {
        let packet = Ip {
            payload,
            ..sctp(from, &self.vip, DATA)
        };
        let (verdict, run) = run(self.plane, &packet.frame());
        self.packets += 1;
        let server = server.unwrap_or_else(|| self.server_of(from));
        let (expected, dst) = if self.is_nat() {
            (Verdict::Masqueraded, server)
        } else {
            (Verdict::Direct, packet.dst)
        };
        let combination = self.combination;
        assert_eq!(verdict, expected, "{combination:?}");
        let sent = Ip {
            dst,
            ttl: 63,
            ..packet
        };
        assert_eq!(run.frame[14..], sent.bytes(), "{combination:?}");
        assert!(checksums_hold(&run.frame[14..]), "{combination:?}");
    }

    /// A packet from the server, by direct routing past the director.
    fn reply(&mut self, server: SocketAddr, to: &str, payload: Vec<u8>) {
        if !self.is_nat() {
            return;
        }
        let packet = Ip {
            payload,
            ..sctp(&server.to_string(), to, DATA)
        };
        let (verdict, run) = run(self.plane, &packet.frame());
        self.packets += 1;
        let combination = self.combination;
        assert_eq!(verdict, Verdict::Reply, "{combination:?}");
        let sent = Ip {
            src: endpoint(&self.vip),
            ttl: 63,
            ..packet
        };
        assert_eq!(run.frame[14..], sent.bytes(), "{combination:?}");
        assert!(checksums_hold(&run.frame[14..]), "{combination:?}");
    }

    fn server_of(&self, from: &str) -> SocketAddr {
        let client = endpoint(from);
        let entries = connections(self.plane);
        let mut own = entries
            .iter()
            .filter(|one| !one.flags.contains(ConnFlags::TEMPLATE));
        let entry = own.find(|one| one.client == client);
        entry.expect("the client has a connection").dest
    }

    fn state(&self, from: &str) -> &'static str {
        let client = endpoint(from);
        let entries = connections(self.plane);
        let entry = entries.iter().find(|one| one.client == client);
        entry.map_or("-", state_of)
    }

    /// From INIT to data both ways.
    fn open(&mut self, from: &str) -> SocketAddr {
        self.request(from, None, chunk(INIT));
        let server = self.server_of(from);
        self.reply(server, from, chunk(INIT_ACK));
        // A cookie with the first data behind it, as most stacks send it.
        let cookie = [chunk(COOKIE_ECHO), chunk(DATA)].concat();
        self.request(from, Some(server), cookie);
        self.reply(server, from, [chunk(COOKIE_ACK), chunk(DATA)].concat());
        assert_eq!(self.state(from), "ESTABLISHED", "{:?}", self.combination);
        for len in [1, 2, 3, 333, 1400] {
            let payload: Vec<u8> = chunk(DATA).into_iter().chain(vec![0xa5; len]).collect();
            self.request(from, Some(server), payload.clone());
            self.reply(server, from, payload);
        }
        server
    }

    fn close(&mut self, from: &str, server: SocketAddr) {
        self.request(from, Some(server), chunk(SHUTDOWN));
        self.reply(server, from, chunk(SHUTDOWN_ACK));
        self.request(from, Some(server), chunk(SHUTDOWN_COMPLETE));
        assert_eq!(self.state(from), "CLOSED", "{:?}", self.combination);
    }

    /// What each scheduler promises, whatever the service is known by.
    fn check_choices(&self, chosen: &BTreeMap<u16, Vec<SocketAddr>>, in_order: &[SocketAddr]) {
        let combination = self.combination;
        let servers: Vec<SocketAddr> = view(self.plane, &self.key)
            .service
            .servers
            .iter()
            .map(|server| server.key)
            .collect();
        let persistent = combination.kind == Kind::Persistent;
        let hashed = matches!(combination.scheduler, Scheduler::Sh | Scheduler::Mh);
        if persistent || hashed {
            for (client, servers) in chosen {
                let first = servers[0];
                let all = servers.iter().all(|server| *server == first);
                assert!(all, "{combination:?}, client {client}: {servers:?}");
            }
        }
        let first_round = &in_order[..usize::from(CLIENTS)];
        if !hashed {
            // Newest first, each in turn; wlc evens out in the same order.
            let turns: Vec<_> = servers.iter().cycle().take(first_round.len()).collect();
            let picked: Vec<_> = first_round.iter().collect();
            assert_eq!(picked, turns, "{combination:?}");
        }
        let templates = connections(self.plane)
            .iter()
            .filter(|one| one.flags.contains(ConnFlags::TEMPLATE))
            .map(|one| (one.controls, one.state))
            .collect::<Vec<_>>();
        let expected = if persistent {
            vec![(u32::from(EACH), 1); usize::from(CLIENTS)]
        } else {
            Vec::new()
        };
        assert_eq!(templates, expected, "{combination:?}: assured templates");
    }
}

fn family(text: &str, ipv6: bool) -> String {
    if ipv6 {
        text_in_ipv6(text)
    } else {
        text.to_owned()
    }
}
