//! A director set up by the words of the column `given`.

use std::path::PathBuf;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData};
use dataplane::common::entry::{Conn4, Conn6, ConnWord};
use dataplane::common::key::{Be16, Be32};
use dataplane::common::rules::directing::{Inputs, Mode, Role};
use dataplane::common::rules::{sctp, tcp};
use dataplane::common::service::{ServiceKey4, ServiceKey6};
use dataplane::common::verdict::Action;
use dataplane::common::{SctpState, TcpState};
use dataplane::{
    DataPlane, Edit, Lease, MarkRule, Route, RouteKind, RouterAddress, Tunable, boottime_ns,
};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceKey;
use ipvs_model::timeouts::Timeouts;

use crate::case::words;
use crate::lab::director::*;
use crate::lab::ipvsadm::{ipvsadm, tunable};
use crate::lab::packets::{TCP, endpoint, in_ipv6, text_in_ipv6};
use crate::lab::recount::{expire_all, taken};
use crate::lab::{let_deadlines_pass, local, route};

const NAT_SERVER: &str = "10.200.0.11:8080";

pub struct Bench<'a> {
    pub plane: &'a mut DataPlane,
    pins: PathBuf,
    pub ipv6: bool,
    /// Of the client's packets.
    port: u16,
    /// Where the client's connections go, in IPv4 numbers.
    pub tcp_server: String,
    pub udp_server: String,
    pub sctp_server: String,
    marks: Vec<MarkRule>,
    /// Place of an entry that looks half made.
    half_made: Option<u32>,
}

impl<'a> Bench<'a> {
    pub fn new(plane: &'a mut DataPlane, pins: PathBuf, ipv6: bool, port: u16) -> Bench<'a> {
        Bench {
            plane,
            pins,
            ipv6,
            port,
            tcp_server: NAT_SERVER.to_owned(),
            udp_server: "10.200.0.11:5353".to_owned(),
            sctp_server: NAT_SERVER.to_owned(),
            marks: Vec::new(),
            half_made: None,
        }
    }

    /// An endpoint in the family of this run.
    pub fn at(&self, text: &str) -> String {
        if self.ipv6 {
            text_in_ipv6(text)
        } else {
            text.to_owned()
        }
    }

    /// An address in the family of this run.
    pub fn host(&self, text: &str) -> String {
        if self.ipv6 {
            in_ipv6(text.parse().unwrap()).to_string()
        } else {
            text.to_owned()
        }
    }

    /// The client, another port of it, a client of its network, and one of another.
    pub fn client(&self, which: &str) -> String {
        let (addr, port) = match which {
            "c" => ("10.100.0.5", self.port),
            "d" => ("10.100.0.5", self.port - 20_000),
            "n" => ("10.100.0.6", self.port),
            "e" => ("10.100.9.5", self.port),
            other => panic!("client {other}"),
        };
        self.at(&format!("{addr}:{port}"))
    }

    pub fn service(&self, protocol: Protocol) -> ServiceKey {
        let port = if protocol == Protocol::Udp { 53 } else { 80 };
        service(protocol, &self.at(&format!("10.50.0.1:{port}")))
    }

    /// No services, no connections, and every setting as at the start.
    pub fn reset(&mut self) {
        self.plane.edit(&Edit::Flush).unwrap();
        expire_all(self.plane);
        self.routes("", RouteKind::Local);
        self.directing(Mode::Standalone, Role::Active, false);
        self.lease(None);
        self.plane.hold_unknown_for(Duration::ZERO);
        self.plane.set_mark_rules(&[]).unwrap();
        self.plane
            .set_router_addresses::<RouterAddress>(&[])
            .unwrap();
        for tunable in [
            Tunable::ExpireNodestConn,
            Tunable::SloppyTcp,
            Tunable::SloppySctp,
            Tunable::ExpireQuiescentTemplate,
            Tunable::CacheBypass,
        ] {
            self.plane.set_tunable(tunable, 0);
        }
        self.plane.set_tunable(Tunable::ConnReuseMode, 1);
        self.timers(1);
    }

    fn timers(&mut self, factor: u32) {
        self.plane.set_timeouts(Timeouts::default()).unwrap();
        for state in TcpState::ALL {
            let secs = factor * tcp::TIMEOUT_SECS[state as usize];
            self.plane.set_tcp_timeout(state, secs);
        }
        for state in SctpState::ALL {
            let secs = factor * sctp::TIMEOUT_SECS[state as usize];
            self.plane.set_sctp_timeout(state, secs);
        }
    }

    /// A default route over `lo` and the virtual addresses; `except` is another network.
    fn routes(&mut self, except: &str, kind: RouteKind) {
        let mut routes = vec![
            route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
            route("::", 0, RouteKind::Unicast, 1, None),
        ];
        if except == "10.50.0.0" {
            // Virtual addresses are elsewhere: the default routes lead there.
        } else {
            routes.push(local("10.50.0.0", 16));
            routes.push(local("fd00:50::", 32));
        }
        if !except.is_empty() && except != "10.50.0.0" {
            let network = |prefix: &str, prefix_len| Route {
                prefix: prefix.parse().unwrap(),
                prefix_len,
                kind,
                ifindex: 1,
                gateway: None,
            };
            routes.push(network(except, 16));
            let second = except.split('.').nth(1).unwrap();
            routes.push(network(&format!("fd00:{second}::"), 32));
        }
        self.plane.set_routes(&routes).unwrap();
    }

    fn directing(&mut self, mode: Mode, role: Role, backup_only: bool) {
        self.plane.set_directing(Inputs {
            mode,
            role,
            backup_daemon_runs: backup_only,
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

    fn services(&mut self) {
        for protocol in Protocol::ALL {
            add_service(self.plane, self.service(protocol), Scheduler::Rr);
        }
    }

    fn server(&mut self, protocol: Protocol, server: &str, method: ForwardMethod) {
        let (service, server) = (self.service(protocol), self.at(server));
        add_server(self.plane, service, &server, method, 1);
    }

    fn with_servers(&mut self, tcp: &str, udp: &str, sctp: &str, method: ForwardMethod) {
        self.services();
        (self.tcp_server, self.udp_server) = (tcp.to_owned(), udp.to_owned());
        self.sctp_server = sctp.to_owned();
        self.server(Protocol::Tcp, tcp, method);
        self.server(Protocol::Udp, udp, method);
        self.server(Protocol::Sctp, sctp, method);
    }

    /// Carries out a word of the column `given`.
    pub fn given(&mut self, word: &str) {
        let tcp_service = self.service(Protocol::Tcp);
        let tcp_server = self.at(&self.tcp_server);
        match word {
            "bare" => self.services(),
            "nat" => self.with_servers(NAT_SERVER, "10.200.0.11:5353", NAT_SERVER, NAT),
            "dr" => {
                let (http, dns) = ("10.200.0.11:80", "10.200.0.11:53");
                self.with_servers(http, dns, http, DR);
            }
            "two" => {
                self.given("nat");
                // The server added last comes first.
                let second = "10.200.0.12:8080";
                self.server(Protocol::Tcp, second, NAT);
                self.server(Protocol::Sctp, second, NAT);
                self.tcp_server = second.to_owned();
                self.sctp_server = second.to_owned();
            }
            "other" => {
                let other = service(Protocol::Tcp, &self.at("10.50.0.2:80"));
                add_service(self.plane, other, Scheduler::Rr);
                add_server(self.plane, other, &tcp_server, NAT, 1);
            }
            "weight0" => edit_weight(self.plane, tcp_service, &tcp_server, 0),
            "remove" => {
                delete_server(self.plane, tcp_service, &tcp_server);
                self.tcp_server = NAT_SERVER.to_owned();
            }
            "readd" => add_server(self.plane, tcp_service, &tcp_server, NAT, 1),
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
            "new-role" => self.plane.hold_unknown_for(Duration::from_secs(3600)),
            "leased" => self.lease(Some(boottime_ns() + 3_600_000_000_000)),
            "no-accept" => {
                let address = self.host("10.50.0.1").parse().unwrap();
                let accept = false;
                let router = RouterAddress { address, accept };
                self.plane.set_router_addresses(&[router]).unwrap();
            }
            "half-made" => self.half_made(),
            "no-service-record" => self.no_service_record(),
            _ if word.starts_with('{') => self.command(&word[1..word.len() - 1]),
            _ if word.contains('=') => self.setting(word),
            _ => self.send(word),
        }
    }

    /// Sends a packet that must get through.
    fn send(&mut self, text: &str) {
        let given = self.frame(text);
        let before = verdict_counts(self.plane);
        let runner = self.plane.runner().expect("a descriptor");
        runner
            .run_marked(&given.frame, 1, 1, given.mark)
            .expect("the program runs");
        let verdict = verdict_since(self.plane, &before).expect("a verdict");
        let sent = verdict.action() == Action::Forward;
        assert!(
            sent || verdict.name() == "pass_local_server",
            "{text}: {verdict:?}"
        );
    }

    /// A tunable, `NAME=VALUE`.
    fn setting(&mut self, word: &str) {
        let (name, value) = word.split_once('=').unwrap();
        let tunable = match name {
            "reuse" => Tunable::ConnReuseMode,
            "sloppy" => {
                self.plane.set_tunable(Tunable::SloppySctp, 1);
                Tunable::SloppyTcp
            }
            "expire_quiescent_template" => Tunable::ExpireQuiescentTemplate,
            "cache_bypass" => Tunable::CacheBypass,
            name => tunable(name),
        };
        self.plane.set_tunable(tunable, value.parse().unwrap());
    }

    /// What stands in braces: `ipvsadm` without its name, `mark ...`, where the client's connections go
    /// (`tcp-server ADDRESS`), or a packet of several words.
    fn command(&mut self, text: &str) {
        let words = words(text);
        match words[0] {
            "mark" => {
                let rule = self.mark_rule(&words[1..]);
                self.marks.push(rule);
                self.plane.set_mark_rules(&self.marks).unwrap();
            }
            "tcp-server" => self.tcp_server = words[1].to_owned(),
            "udp-server" => self.udp_server = words[1].to_owned(),
            "sctp-server" => self.sctp_server = words[1].to_owned(),
            first if !first.starts_with('-') => self.send(text),
            _ => {
                let mut translated: Vec<String> =
                    words.iter().map(|word| self.translated(word)).collect();
                if self.ipv6 && words.contains(&"-f") {
                    translated.push("-6".to_owned());
                }
                let words: Vec<&str> = translated.iter().map(String::as_str).collect();
                ipvsadm(self.plane, &words);
            }
        }
    }

    /// Addresses in the family of this run; a netmask is as many networks in either.
    fn translated(&self, word: &str) -> String {
        if !self.ipv6 {
            return word.to_owned();
        }
        match word {
            "255.255.255.0" => "64".to_owned(),
            "255.255.255.255" => "128".to_owned(),
            _ if word.parse::<std::net::SocketAddrV4>().is_ok() => text_in_ipv6(word),
            _ if word.parse::<std::net::Ipv4Addr>().is_ok() => self.host(word),
            _ => word.to_owned(),
        }
    }

    /// `tcp`, `to=10.50.7.0`, `from=10.100.0.0`, `ports=80-90`, `other-family`, and the mark.
    fn mark_rule(&self, words: &[&str]) -> MarkRule {
        let mut rule = MarkRule {
            ipv6: self.ipv6,
            protocol: None,
            destination: None,
            source: None,
            ports: None,
            mark: 0,
        };
        let network = |text: &str| {
            let len = if self.ipv6 { 64 } else { 24 };
            Some((self.host(text).parse().unwrap(), len))
        };
        for word in words {
            match word.split_once('=') {
                Some(("to", prefix)) => rule.destination = network(prefix),
                Some(("from", prefix)) => rule.source = network(prefix),
                Some(("ports", range)) => {
                    let (low, high) = range.split_once('-').unwrap();
                    rule.ports = Some((low.parse().unwrap(), high.parse().unwrap()));
                }
                Some(_) => panic!("{words:?}"),
                None => match *word {
                    "tcp" => rule.protocol = Some(Protocol::Tcp),
                    "udp" => rule.protocol = Some(Protocol::Udp),
                    "sctp" => rule.protocol = Some(Protocol::Sctp),
                    "other-family" => rule.ipv6 = !rule.ipv6,
                    mark => rule.mark = mark.parse().unwrap(),
                },
            }
        }
        rule
    }

    /// The client's connection looks as if its maker were still at it.
    fn half_made(&mut self) {
        let port = endpoint(&self.client("c")).port();
        let entries = taken(self.plane, self.ipv6).into_iter();
        let mut places = entries.map(|one| one.index);
        let found = places.find(|index| self.port_of(*index) == port);
        let index = found.expect("the client has a connection");
        self.store_word(index, |word| word.with(ConnWord::INIT));
        self.half_made = Some(index);
    }

    /// What was made by hand is put right, so that the next case can begin.
    pub fn finish(&mut self) {
        if let Some(index) = self.half_made {
            self.store_word(index, |word| word.without(ConnWord::INIT));
        }
    }

    fn store_word(&self, index: u32, change: impl Fn(ConnWord) -> ConnWord) {
        let name = if self.ipv6 { "CONNS6" } else { "CONNS4" };
        let map = Map::Array(MapData::from_pin(self.pins.join(name)).unwrap());
        if self.ipv6 {
            let mut conn = self.plane.conn6(index);
            conn.word = change(ConnWord(conn.word)).0;
            let mut conns = Array::<_, Conn6>::try_from(map).unwrap();
            conns.set(index, conn, 0).unwrap();
        } else {
            let mut conn = self.plane.conn4(index);
            conn.word = change(ConnWord(conn.word)).0;
            let mut conns = Array::<_, Conn4>::try_from(map).unwrap();
            conns.set(index, conn, 0).unwrap();
        }
    }

    fn port_of(&self, index: u32) -> u16 {
        if self.ipv6 {
            self.plane.conn6(index).key.sport.to_host()
        } else {
            self.plane.conn4(index).key.sport.to_host()
        }
    }

    /// The TCP service's place is outside the map.
    fn no_service_record(&mut self) {
        let pinned = |name: &str| MapData::from_pin(self.pins.join(name)).unwrap();
        let vip = endpoint(&self.at("10.50.0.1:80"));
        let (port, protocol) = (Be16::from_host(80), TCP);
        match vip.ip() {
            std::net::IpAddr::V4(addr) => {
                let map = Map::HashMap(pinned("SERVICE_IDS4"));
                let mut ids = HashMap::<_, ServiceKey4, u32>::try_from(map).unwrap();
                let key = ServiceKey4 {
                    addr: Be32::from_host(u32::from(addr)),
                    port,
                    protocol,
                    reserved: 0,
                };
                ids.insert(key, 1 << 20, 0).unwrap();
            }
            std::net::IpAddr::V6(addr) => {
                let map = Map::HashMap(pinned("SERVICE_IDS6"));
                let mut ids = HashMap::<_, ServiceKey6, u32>::try_from(map).unwrap();
                let bytes = addr.octets();
                let word =
                    |at: usize| Be32(u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()));
                let key = ServiceKey6 {
                    addr: [word(0), word(4), word(8), word(12)],
                    port,
                    protocol,
                    reserved: 0,
                };
                ids.insert(key, 1 << 20, 0).unwrap();
            }
        }
    }
}
