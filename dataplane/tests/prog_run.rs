//! What the director makes of single packets: `prog_run.table`, run through the real program.
//!
//! Each line of the table is one case on a director of its own set-up. Whatever the case, exactly
//! one verdict moves, every checksum of a packet that is sent holds, statistics of director,
//! service and server agree, and counters equal a recount.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::collections::BTreeSet;

use aya::maps::{Array, HashMap, Map, MapData};
use dataplane::common::TcpState;
use dataplane::common::entry::{Conn4, ConnWord};
use dataplane::common::key::{Be16, Be32};
use dataplane::common::rules::directing::{Inputs, Mode, Role};
use dataplane::common::rules::tcp::TIMEOUT_SECS;
use dataplane::common::service::ServiceKey4;
use dataplane::common::verdict::{Action, Verdict};
use dataplane::{DataPlane, Edit, Lease, RouteKind, TestRun, Tunable, boottime_ns};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceKey;
use ipvs_model::stats::Stats;
use ipvs_model::timeouts::Timeouts;
use lab::director::*;
use lab::packets::*;
use lab::{Lab, let_deadlines_pass, local, route};

const TABLE: &str = include_str!("prog_run.table");

/// Verdicts that need another table than these cases have, and the test that shows them.
const ELSEWHERE: [(Verdict, &str); 1] = [(
    Verdict::TableFull,
    "prog_sequences.rs: a_full_table_refuses_new_connections_and_keeps_old_ones",
)];

/// Verdicts that no packet brings about, and why.
const UNREACHED: [(Verdict, &str); 1] = [(
    Verdict::Failed,
    "every header was checked before it is rewritten; a helper fails only for want of memory",
)];

const VIP: &str = "10.50.0.1";
const NAT_SERVER: &str = "10.200.0.11:8080";

/// TC actions as the kernel numbers them.
const UNSPEC: i32 = -1;
const OK: i32 = 0;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// One line of the table.
struct Case {
    name: &'static str,
    given: &'static str,
    packet: &'static str,
    verdict: Verdict,
    out: &'static str,
    counted: &'static str,
    conns: i64,
    state: Option<&'static str>,
}

fn cases() -> Vec<Case> {
    let lines = TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(case).collect()
}

fn case(line: &'static str) -> Case {
    let columns: Vec<&str> = line.split('|').map(str::trim).collect();
    let [name, given, packet, verdict, out, counted, conns, state] = columns[..] else {
        panic!("eight columns: {line}");
    };
    let known = Verdict::ALL.iter().find(|known| known.name() == verdict);
    Case {
        name,
        given,
        packet,
        verdict: *known.unwrap_or_else(|| panic!("verdict {verdict}: {line}")),
        out,
        counted,
        conns: conns.parse().unwrap(),
        state: (state != "-").then_some(state),
    }
}

#[test]
fn every_verdict_has_a_case() {
    let shown: BTreeSet<&str> = cases().iter().map(|case| case.verdict.name()).collect();
    let elsewhere = ELSEWHERE.iter().chain(&UNREACHED);
    let elsewhere = elsewhere.map(|(verdict, _)| verdict.name());
    let shown: BTreeSet<&str> = shown.into_iter().chain(elsewhere).collect();
    let all: BTreeSet<&str> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    assert_eq!(shown, all);
    println!("{} verdicts", all.len());
    println!("elsewhere: {ELSEWHERE:?}");
    println!("unreached: {UNREACHED:?}");
}

#[test]
fn names_of_cases_are_unique() {
    let mut names = BTreeSet::new();
    let twice: Vec<_> = cases()
        .into_iter()
        .filter(|case| !names.insert(case.name))
        .collect();
    assert!(twice.is_empty(), "{}", twice[0].name);
}

#[test]
fn packets_are_handled_as_the_table_says() {
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    let mut wrong = Vec::new();
    let cases = cases();
    for (case, port) in cases.iter().zip(40_001..) {
        let mut bench = Bench {
            plane: &mut plane,
            pins: lab.bpffs.join("director"),
            client: format!("10.100.0.5:{port}"),
            tcp_server: NAT_SERVER,
            udp_server: "10.200.0.11:5353",
        };
        bench.reset();
        if let Err(difference) = bench.check(case) {
            wrong.push(format!("{}: {difference}", case.name));
        }
        recount(&plane);
    }
    println!("{} cases", cases.len());
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

struct Bench<'a> {
    plane: &'a mut DataPlane,
    pins: std::path::PathBuf,
    client: String,
    /// Where the client's connections go.
    tcp_server: &'static str,
    udp_server: &'static str,
}

impl Bench<'_> {
    /// No services, and every setting as at the start.
    fn reset(&mut self) {
        self.plane.edit(&Edit::Flush).unwrap();
        self.routes("", RouteKind::Local);
        self.directing(Mode::Standalone, Role::Active, false);
        self.lease(None);
        self.plane.set_tunable(Tunable::ConnReuseMode, 1);
        self.plane.set_tunable(Tunable::ExpireNodestConn, 0);
        self.plane.set_tunable(Tunable::SloppyTcp, 0);
        self.timers(1);
    }

    fn timers(&mut self, factor: u32) {
        for state in TcpState::ALL {
            self.plane
                .set_tcp_timeout(state, factor * TIMEOUT_SECS[state as usize]);
        }
        self.plane.set_timeouts(Timeouts::default()).unwrap();
        if factor == 0 {
            for state in TcpState::ALL {
                self.plane.set_tcp_timeout(state, 0);
            }
        }
    }

    /// A default route over `lo` and the virtual addresses; `except` is another prefix of 16 bits.
    fn routes(&mut self, except: &str, kind: RouteKind) {
        let mut routes = vec![route("0.0.0.0", 0, RouteKind::Unicast, 1, None)];
        if except != "10.50.0.0" {
            routes.push(local("10.50.0.0", 16));
            if !except.is_empty() {
                routes.push(route(except, 16, kind, 1, None));
            }
        }
        self.plane.set_routes(&routes).unwrap();
    }

    fn directing(&mut self, mode: Mode, role: Role, backup_only: bool) {
        let backup_daemon_runs = backup_only;
        self.plane.set_directing(Inputs {
            mode,
            role,
            backup_daemon_runs,
            backup_only,
        });
    }

    fn lease(&mut self, deadline_boottime_ns: Option<u64>) {
        let epoch = self.plane.lease().epoch;
        assert!(self.plane.set_lease(Lease {
            epoch,
            deadline_boottime_ns
        }));
    }

    fn tcp_service(&self) -> ServiceKey {
        service(Protocol::Tcp, "10.50.0.1:80")
    }

    fn services(&mut self) {
        add_service(self.plane, self.tcp_service(), Scheduler::Rr);
        add_service(
            self.plane,
            service(Protocol::Udp, "10.50.0.1:53"),
            Scheduler::Rr,
        );
    }

    /// Carries out a word of the column `given`.
    fn given(&mut self, word: &str) {
        let tcp_service = self.tcp_service();
        let udp_service = service(Protocol::Udp, "10.50.0.1:53");
        match word {
            "bare" => self.services(),
            "nat" => {
                self.services();
                add_server(self.plane, tcp_service, self.tcp_server, NAT, 1);
                add_server(self.plane, udp_service, self.udp_server, NAT, 1);
            }
            "two" => {
                self.given("nat");
                // The server added last comes first.
                add_server(self.plane, tcp_service, "10.200.0.12:8080", NAT, 1);
                self.tcp_server = "10.200.0.12:8080";
            }
            "dr" => {
                (self.tcp_server, self.udp_server) = ("10.200.0.11:80", "10.200.0.11:53");
                self.services();
                add_server(self.plane, tcp_service, self.tcp_server, DR, 1);
                add_server(self.plane, udp_service, self.udp_server, DR, 1);
            }
            "other" => {
                let other = service(Protocol::Tcp, "10.50.0.2:80");
                add_service(self.plane, other, Scheduler::Rr);
                add_server(self.plane, other, self.tcp_server, NAT, 1);
            }
            "weight0" => edit_weight(self.plane, tcp_service, self.tcp_server, 0),
            "remove" => {
                delete_server(self.plane, tcp_service, self.tcp_server);
                if self.tcp_server != NAT_SERVER {
                    self.tcp_server = NAT_SERVER;
                }
            }
            "readd" => add_server(self.plane, tcp_service, self.tcp_server, NAT, 1),
            "sloppy" => self.plane.set_tunable(Tunable::SloppyTcp, 1),
            "nodest" => self.plane.set_tunable(Tunable::ExpireNodestConn, 1),
            "timers=0" => self.timers(0),
            "timers" => self.timers(1),
            // Long enough past its deadline that an entry may be freed.
            "over" => let_deadlines_pass(),
            "server-local" => self.routes("10.200.0.0", RouteKind::Local),
            "client-local" => self.routes("10.100.0.0", RouteKind::Local),
            "no-server-route" => self.routes("10.200.0.0", RouteKind::Unusable),
            "no-client-route" => self.routes("10.100.0.0", RouteKind::Unusable),
            "vip-elsewhere" => self.routes("10.50.0.0", RouteKind::Unicast),
            "pass" => self.directing(Mode::Raft, Role::Standby, false),
            "reply-only" => self.directing(Mode::Vrrp, Role::Standby, true),
            "lapsed" => self.lease(Some(boottime_ns() - 1)),
            "leased" => self.lease(Some(boottime_ns() + 3_600_000_000_000)),
            "half-made" => self.half_made(),
            "no-service-record" => self.no_service_record(),
            _ => match word.strip_prefix("reuse=") {
                Some(mode) => {
                    let mode = mode.parse().unwrap();
                    self.plane.set_tunable(Tunable::ConnReuseMode, mode);
                }
                None => {
                    let packet = self.packet(word).frame();
                    let (verdict, _) = run(self.plane, &packet);
                    let sent = verdict.action() == Action::Forward;
                    assert!(
                        sent || verdict == Verdict::LocalServer,
                        "{word}: {verdict:?}"
                    );
                }
            },
        }
    }

    /// The client's connection looks as if its maker were still at it.
    fn half_made(&mut self) {
        let pinned = MapData::from_pin(self.pins.join("CONNS4")).unwrap();
        let mut conns = Array::<_, Conn4>::try_from(Map::Array(pinned)).unwrap();
        let port = endpoint(&self.client).1;
        let of_client = |conn: &Conn4| conn.key.sport.to_host() == port;
        let sizes = self.plane.sizes();
        let found = (0..sizes.connections_v4).find(|index| of_client(&self.plane.conn4(*index)));
        let index = found.expect("the client has a connection");
        let mut conn = self.plane.conn4(index);
        conn.word = ConnWord(conn.word).with(ConnWord::INIT).0;
        conns.set(index, conn, 0).unwrap();
    }

    /// The TCP service's place is outside the map.
    fn no_service_record(&mut self) {
        let pinned = MapData::from_pin(self.pins.join("SERVICE_IDS4")).unwrap();
        let mut ids = HashMap::<_, ServiceKey4, u32>::try_from(Map::HashMap(pinned)).unwrap();
        let vip: std::net::Ipv4Addr = VIP.parse().unwrap();
        let key = ServiceKey4 {
            addr: Be32::from_host(u32::from(vip)),
            port: Be16::from_host(80),
            protocol: TCP,
            reserved: 0,
        };
        ids.insert(key, 1 << 20, 0).unwrap();
    }

    /// The packet that the first word names: `c:FLAGS`, `s:FLAGS`, `cu` or `su`.
    fn packet(&self, word: &str) -> Ip {
        let flags = |letters: &str| {
            let one = |letter| match letter {
                'F' => FIN,
                'S' => SYN,
                'R' => RST,
                'P' => PSH,
                'A' => ACK,
                other => panic!("flag {other}"),
            };
            letters.chars().map(one).fold(0, |all, flag| all | flag)
        };
        match word.split_once(':') {
            Some(("c", letters)) => tcp(&self.client, "10.50.0.1:80", flags(letters)),
            Some(("s", letters)) => tcp(self.tcp_server, &self.client, flags(letters)),
            None if word == "cu" => udp(&self.client, "10.50.0.1:53"),
            None if word == "su" => udp(self.udp_server, &self.client),
            _ => panic!("packet {word}"),
        }
    }

    /// The frame of the column `packet`, and what it carries when that is TCP or UDP.
    fn frame(&self, text: &str) -> (Vec<u8>, Option<Ip>) {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[0] {
            "ipv6" => return (frame([0; 6], 0x86dd, &[0x60; 60]), None),
            "icmp" => {
                return (
                    frame([0; 6], 0x0800, &icmp_echo("10.100.0.5", VIP, 8, 1)),
                    None,
                );
            }
            "arp" | "arp-reply" => {
                let mac = words.get(2).map_or([0xff; 6], |word| mac(&word[4..]));
                let body = arp(if words[0] == "arp" { 1 } else { 2 }, words[1]);
                return (frame(mac, 0x0806, &body), None);
            }
            "vlan" => {
                let inner = self.packet(words[1]).frame();
                let tagged = [&[0, 5], &inner[12..]].concat();
                return (frame([0; 6], 0x8100, &tagged), None);
            }
            _ => {}
        }
        let mut ip = self.packet(words[0]);
        let (mut to, mut version_ihl, mut protocol) = ([0; 6], None, None);
        let (mut total_len, mut frame_len) = (None, None);
        for word in &words[1..] {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<usize>().unwrap_or_else(|_| panic!("{word}"));
            match name {
                "ttl" => ip.ttl = number() as u8,
                "tos" => ip.tos = number() as u8,
                "opt" => ip.options = vec![1; number()],
                "pay" => ip.payload = (0..number()).map(|at| at as u8 ^ 0x5a).collect(),
                "nocsum" => ip.no_checksum = true,
                "frag" => ip.fragment = u16::from_str_radix(value, 16).unwrap(),
                "src" => ip.src = endpoint(value),
                "dst" => ip.dst = endpoint(value),
                "mac" => to = mac(value),
                "len" => total_len = Some(number()),
                "cut" => frame_len = Some(number()),
                "short" => (total_len, frame_len) = (Some(number()), Some(number())),
                "pad" => frame_len = Some(ip.bytes().len() + number()),
                "ver" => version_ihl = Some((number() << 4 | 5) as u8),
                "ihl" => version_ihl = Some((0x40 | number()) as u8),
                "proto" => protocol = Some(number() as u8),
                _ => panic!("packet word {word}"),
            }
        }
        let mut bytes = ip.bytes();
        bytes[0] = version_ihl.unwrap_or(bytes[0]);
        bytes[9] = protocol.unwrap_or(bytes[9]);
        if let Some(len) = total_len {
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
        bytes.resize(frame_len.unwrap_or(bytes.len()), 0x77);
        (frame(to, 0x0800, &bytes), Some(ip))
    }

    fn check(&mut self, case: &Case) -> Result<(), String> {
        for word in case.given.split_whitespace() {
            self.given(word);
        }
        let (frame, ip) = self.frame(case.packet);
        let before = (self.plane.connection_count().live, self.statistics());
        let (verdict, run) = run(self.plane, &frame);
        let same = |what: &str, found: String, expected: String| {
            let text = format!("{what} {found}, expected {expected}");
            if found == expected { Ok(()) } else { Err(text) }
        };
        same("verdict", verdict.name().into(), case.verdict.name().into())?;
        let action = match verdict.action() {
            Action::Pass => UNSPEC,
            Action::Drop if !case.out.starts_with("icmp") => SHOT,
            Action::Forward if case.given.contains("client-local") => OK,
            Action::Drop | Action::Forward => REDIRECT,
        };
        same("action", run.action.to_string(), action.to_string())?;
        self.check_frame(case.out, &frame, ip.as_ref(), &run)?;
        let live = self.plane.connection_count().live;
        let change = i64::from(live) - i64::from(before.0);
        same("connections", change.to_string(), case.conns.to_string())?;
        let counted = counted(case.counted, ip.map_or(0, |ip| ip.bytes().len() as u64));
        for ((whose, before), (_, after)) in before.1.iter().zip(self.statistics()) {
            // A removed server is in no list.
            if after.in_pkts >= before.in_pkts && after.out_pkts >= before.out_pkts {
                let change = after.since(*before);
                same(whose, format!("{change:?}"), format!("{counted:?}"))?;
            }
        }
        let client = self.client.parse().unwrap();
        let state = connections(self.plane)
            .iter()
            .find(|one| one.client == client)
            .map(state_of);
        same("state", format!("{state:?}"), format!("{:?}", case.state))
    }

    /// Statistics of the director, of all services, and of all servers.
    fn statistics(&self) -> [(&'static str, Stats); 3] {
        let (mut services, mut servers) = (Stats::default(), Stats::default());
        for view in self.plane.list(None).unwrap() {
            services = services.plus(view.stats);
            for server in view.servers {
                servers = servers.plus(server.stats);
            }
        }
        [
            ("director", self.plane.totals()),
            ("services", services),
            ("servers", servers),
        ]
    }

    fn check_frame(
        &self,
        out: &str,
        frame: &[u8],
        ip: Option<&Ip>,
        run: &TestRun,
    ) -> Result<(), String> {
        let same = |expected: &[u8]| {
            if run.frame[14..] == *expected {
                return Ok(());
            }
            Err(format!(
                "frame\n  {:02x?}, expected\n  {expected:02x?}",
                &run.frame[14..]
            ))
        };
        let (out, ip) = match (out, ip) {
            ("-", _) => return Ok(()),
            ("same", _) => return same(&frame[14..]),
            (out, Some(ip)) => (out, ip),
            (out, None) => panic!("{out} of a frame without addresses"),
        };
        let mut sent = ip.clone();
        sent.ttl = sent.ttl.wrapping_sub(1);
        match out {
            "server" => {
                let tcp = ip.protocol == TCP;
                sent.dst = endpoint(if tcp {
                    self.tcp_server
                } else {
                    self.udp_server
                });
                sent.no_checksum = false;
            }
            "client" => {
                let port = if ip.protocol == TCP { 80 } else { 53 };
                sent.src = (VIP.parse().unwrap(), port);
                sent.no_checksum = false;
            }
            "ttl" => {}
            _ => {
                let (kind, code) = out.strip_prefix("icmp ").unwrap().split_once('/').unwrap();
                return same(&icmp_error(
                    ip,
                    kind.parse().unwrap(),
                    code.parse().unwrap(),
                ));
            }
        }
        let mut expected = sent.bytes();
        let fill = frame.len() - 14 - ip.bytes().len();
        expected.resize(expected.len() + fill, 0x77);
        let packet = &run.frame[14..run.frame.len() - fill];
        assert!(sent.no_checksum || checksums_hold(packet), "{packet:02x?}");
        same(&expected)
    }
}

/// What the statistics of one packet of `bytes` are.
fn counted(text: &str, bytes: u64) -> Stats {
    match text {
        "-" => Stats::default(),
        "in" => Stats {
            in_pkts: 1,
            in_bytes: bytes,
            ..Stats::default()
        },
        "out" => Stats {
            out_pkts: 1,
            out_bytes: bytes,
            ..Stats::default()
        },
        "conn+in" => Stats {
            conns: 1,
            ..counted("in", bytes)
        },
        other => panic!("counted {other}"),
    }
}

fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// The error that a director sends about a packet: from the virtual address, quoting so much that
/// 576 bytes are not exceeded.
fn icmp_error(about: &Ip, kind: u8, code: u8) -> Vec<u8> {
    let mut quote = about.bytes();
    quote.truncate(576 - 28);
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&quote);
    let check = checksum(&[&body]);
    body[2..4].copy_from_slice(&check.to_be_bytes());
    let mut packet = vec![0x45, about.tos & 0x1e | 0xc0];
    packet.extend_from_slice(&(20 + body.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 1, 0, 0]);
    packet.extend_from_slice(&about.dst.0.octets());
    packet.extend_from_slice(&about.src.0.octets());
    let check = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend_from_slice(&body);
    packet
}
