//! Every captured advertisement of keepalived 2.2.7 against the bytes of this crate.
//!
//! The configurations recorded with a case are read, every router of it gets its codecs when it is
//! started and loses them when it ends, and then the frames go by in order: what a router sent is
//! what its codec writes, identification and sequence numbers counted by the codec alone; and what
//! it sent is accepted by the other router of the case and by a listener that is always there.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what was compared is said")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::net::{IpAddr, Ipv6Addr};

use captures::{Case, Instance, bytes, case, names, pcap, seconds};
use pcap_file::pcap::PcapReader;
use serde_json::Value;
use vrrp::wire::{GROUP, Refusal, inspect};
use vrrp::{Accepted, AdvertCodec, ChecksumForm, Config, Datagram, Outgoing, Priority, V6Info};

mod captures;

const ETHERNET_LEN: usize = 14;
const IPV6_LEN: usize = 40;
/// The routers and their addresses.
const ROUTERS: [(&str, [&str; 3]); 2] = [
    ("a", ["192.0.2.1", "2001:db8:1::1", "fe80::ff:fe00:101"]),
    ("b", ["192.0.2.2", "2001:db8:1::2", "fe80::ff:fe00:201"]),
];
/// The case in which tracking changes the priority while a router runs.
const TRACKED: &str = "v3-v4-track-script";

#[test]
fn every_advert_is_accepted_and_written_the_same() {
    let mut compared = BTreeMap::new();
    let mut unseen = 0;
    for name in names() {
        let case = case(&name);
        let mut replay = Replay::new(&case);
        for frame in case.frames().iter().filter(|frame| frame["kind"] == "vrrp") {
            let advert = Captured::new(frame);
            replay.run_actions_until(frame);
            replay.is_written_the_same(&advert);
            replay.is_accepted(&advert);
            let kind = match (advert.version(), advert.source.is_ipv4()) {
                (2, true) => "v2 IPv4",
                (2, false) => "v2 IPv6",
                (_, true) => "v3 IPv4",
                (_, false) => "v3 IPv6",
            };
            *compared.entry(kind).or_insert(0) += 1;
        }
        unseen += replay.unseen;
    }
    println!("{compared:?}; {unseen} to a peer whose port was not captured");
    let expected = [
        ("v2 IPv4", 52),
        ("v2 IPv6", 6),
        ("v3 IPv4", 480),
        ("v3 IPv6", 77),
    ];
    assert_eq!(compared, BTreeMap::from(expected));
}

/// One advertisement as captured.
struct Captured<'a> {
    frame: &'a Value,
    packet: Vec<u8>,
    source: IpAddr,
    destination: IpAddr,
    router: usize,
}

impl<'a> Captured<'a> {
    fn new(frame: &'a Value) -> Captured<'a> {
        let whole = bytes(frame["frame_hex"].as_str().unwrap());
        let source = ip(&frame["ip_src"]);
        let is_its =
            |(_, addresses): &(&str, [&str; 3])| addresses.contains(&source.to_string().as_str());
        Captured {
            frame,
            packet: whole[ETHERNET_LEN..].to_vec(),
            source,
            destination: ip(&frame["ip_dst"]),
            router: ROUTERS.iter().position(is_its).unwrap(),
        }
    }

    fn vrid(&self) -> u8 {
        byte(&self.frame["vrrp"]["vrid"])
    }

    fn version(&self) -> u8 {
        byte(&self.frame["vrrp"]["version"])
    }

    fn priority(&self) -> Priority {
        Priority(byte(&self.frame["vrrp"]["priority"]))
    }

    /// What the crate hands to a socket: the kernel writes the header of IPv6.
    fn sent(&self) -> Outgoing {
        let header_len = if self.source.is_ipv6() { IPV6_LEN } else { 0 };
        Outgoing {
            destination: self.destination,
            bytes: self.packet[header_len..].to_vec(),
        }
    }

    fn judged(&self, codec: &mut AdvertCodec, primary: IpAddr) -> Result<Accepted, Refusal> {
        let sent = self.sent();
        let datagram = match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let hop_limit = byte(&self.frame["hop_limit"]);
                let info = V6Info {
                    source,
                    destination,
                    hop_limit,
                };
                Datagram::v6(&sent.bytes, info)
            }
            _ => Datagram::v4(&sent.bytes),
        };
        codec.decode(&datagram, primary, true)
    }
}

/// One virtual router on one router.
struct Running {
    config: Config,
    codec: AdvertCodec,
    /// What is still to be seen of an advertisement that goes to several peers.
    pending: VecDeque<Outgoing>,
}

impl Running {
    fn new(instance: &Instance) -> Running {
        Running {
            config: instance.config.clone(),
            codec: AdvertCodec::new(&instance.config),
            pending: VecDeque::new(),
        }
    }
}

/// A case with its routers as they were at the time of the next frame.
struct Replay<'a> {
    case: &'a Case,
    /// What runs on each router, by VRID.
    running: [BTreeMap<u8, Running>; 2],
    /// A listener for each router that is always there.
    listeners: [BTreeMap<u8, AdvertCodec>; 2],
    /// Who has been started and not yet stopped.
    is_up: [bool; 2],
    /// Who hears nothing: reception was blocked by a firewall.
    is_blocked: [bool; 2],
    actions_done: usize,
    unseen: usize,
}

impl<'a> Replay<'a> {
    fn new(case: &'a Case) -> Replay<'a> {
        Replay {
            case,
            running: Default::default(),
            listeners: Default::default(),
            is_up: [false; 2],
            is_blocked: [false; 2],
            actions_done: 0,
            unseen: 0,
        }
    }

    fn run_actions_until(&mut self, frame: &Value) {
        let now = seconds(&frame["t"]);
        let actions = self.case.actions();
        for (at, verb, object) in &actions[self.actions_done..] {
            if *at > now {
                break;
            }
            self.actions_done += 1;
            let Some(router) = ROUTERS.iter().position(|(name, _)| name == object) else {
                continue;
            };
            match verb.as_str() {
                "start" => self.start(router),
                "block" => self.is_blocked[router] = true,
                "unblock" => self.is_blocked[router] = false,
                // A last advertisement may still come.
                "stop" | "kill9" => self.is_up[router] = false,
                // Nothing that codecs know of.
                "dummy" | "dumdown" | "dumup" | "delvip" => {}
                other => panic!("{}: {other}", self.case.name),
            }
        }
    }

    fn start(&mut self, router: usize) {
        self.is_up[router] = true;
        let instances = self.case.instances(ROUTERS[router].0);
        let vrid = |instance: &Instance| instance.config.vrid();
        let running = instances.iter().map(|one| (vrid(one), Running::new(one)));
        self.running[router] = running.collect();
        let listeners = instances
            .iter()
            .map(|one| (vrid(one), AdvertCodec::new(&one.config)));
        self.listeners[router] = listeners.collect();
    }

    fn is_written_the_same(&mut self, advert: &Captured<'_>) {
        let name = &self.case.name;
        let running = self.running[advert.router].get_mut(&advert.vrid()).unwrap();
        // Tracking changes the priority, giving up makes it zero.
        let priority = advert.priority();
        if name != TRACKED && priority != Priority::RESIGNED {
            assert_eq!(priority, running.config.priority(), "{name}");
        }
        let expected = advert.sent();
        // What goes to a peer elsewhere does not pass the port that was captured.
        while let Some(pending) = running.pending.pop_front() {
            if pending == expected {
                return;
            }
            self.unseen += 1;
        }
        running.pending = running.codec.encode(priority, advert.source).into();
        while let Some(sent) = running.pending.pop_front() {
            if sent.destination == advert.destination {
                assert_eq!(sent, expected, "{name}");
                if let (IpAddr::V6(source), IpAddr::V6(to)) = (advert.source, advert.destination) {
                    is_the_usual_header(&advert.packet, source, to);
                }
                return;
            }
            self.unseen += 1;
        }
        panic!("{name}: not sent to {}", advert.destination);
    }

    fn is_accepted(&mut self, advert: &Captured<'_>) {
        let name = &self.case.name;
        let config = &self.running[advert.router][&advert.vrid()].config;
        let interval = config.interval();
        let listener = self.listeners[advert.router].get_mut(&advert.vrid());
        let mut hearers = vec![(listener.unwrap(), advert.destination)];
        let other = 1 - advert.router;
        let found = self.running[other].get_mut(&advert.vrid());
        let [v4, v6, _] = ROUTERS[other].1;
        let primary = if advert.source.is_ipv4() { v4 } else { v6 };
        let is_for_other =
            advert.destination.is_multicast() || advert.destination.to_string() == primary;
        let is_there = self.is_up[other] && !self.is_blocked[other];
        if let Some(running) = found.filter(|_| is_for_other && is_there) {
            hearers.push((&mut running.codec, advert.destination));
        }
        for (codec, primary) in hearers {
            let accepted = advert.judged(codec, primary);
            let accepted = accepted.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            assert_eq!(accepted.heard.source, advert.source, "{name}");
            assert_eq!(accepted.heard.priority, advert.priority(), "{name}");
            assert_eq!(accepted.heard.interval, interval, "{name}");
            assert_eq!(accepted.form, expected_form(advert), "{name}");
        }
    }
}

/// The header the kernel wrote for the socket's hop limit and traffic class; its flow label is its
/// own.
fn is_the_usual_header(packet: &[u8], source: Ipv6Addr, destination: Ipv6Addr) {
    let len = u16::try_from(packet.len() - IPV6_LEN).unwrap();
    let addresses = [source.octets(), destination.octets()].concat();
    assert_eq!((packet[0], packet[1] & 0xf0), (0x6c, 0));
    assert_eq!(packet[4..6], len.to_be_bytes());
    // DIFFERS: keepalived leaves the hop limit of what goes to peers at 64, the kernel's; our own
    // sockets have `unicast_ttl`, 255, as over IPv4, so that a peer may ask for it.
    let hop_limit = if destination.is_multicast() { 255 } else { 64 };
    assert_eq!(packet[6..8], [112, hop_limit]);
    assert_eq!(packet[8..IPV6_LEN], addresses);
}

#[test]
fn every_advert_is_read_as_it_was_by_others() {
    let mut read = 0;
    for name in names() {
        for frame in case(&name).frames().iter().filter(|f| f["kind"] == "vrrp") {
            is_read_the_same(&name, &Captured::new(frame));
            read += 1;
        }
    }
    assert_eq!(read, 615);
}

fn is_read_the_same(name: &str, advert: &Captured<'_>) {
    let found = inspect(&advert.packet).unwrap();
    let (frame, fields) = (advert.frame, &advert.frame["vrrp"]);
    let ttl = if advert.source.is_ipv4() {
        "ttl"
    } else {
        "hop_limit"
    };
    assert_eq!((found.src, found.dst), (advert.source, advert.destination));
    assert_eq!(frame[ttl], found.ttl, "{name}");
    assert_eq!(fields["version"], found.version.unwrap(), "{name}");
    assert_eq!(fields["vrid"], found.vrid.unwrap(), "{name}");
    assert_eq!(fields["priority"], found.priority.unwrap(), "{name}");
    let addrs = fields["addrs"].as_array().unwrap();
    let addrs: Vec<_> = addrs.iter().map(ip).collect();
    assert_eq!(addrs, found.addrs, "{name}");
    let interval = match fields["adver_int_s"].as_u64() {
        Some(seconds) => seconds * 100,
        None => fields["max_adver_int_cs"].as_u64().unwrap(),
    };
    assert_eq!(interval, u64::from(found.advert_int_cs.unwrap()), "{name}");
    assert_eq!(
        fields["auth_type"].as_u64(),
        found.auth_type.map(u64::from),
        "{name}"
    );
    let header = found.auth_header;
    assert_eq!(header.is_some(), frame["ah"].is_object(), "{name}");
    if let Some(header) = header {
        let recorded = &frame["ah"];
        assert!(header.is_usual);
        assert_eq!(recorded["spi_as_addr"], header.sender.to_string());
        assert_eq!(recorded["seq"], header.sequence);
        assert_eq!(bytes(recorded["icv"].as_str().unwrap()), header.sum);
    }
    assert_eq!(found.checksum_form, Some(expected_form(advert)), "{name}");
    assert_eq!(found.verdict, Ok::<_, Refusal>(()), "{name}");
}

/// The form by the recomputations recorded with the frame.
fn expected_form(advert: &Captured<'_>) -> ChecksumForm {
    let fields = &advert.frame["vrrp"];
    let sum = &fields["checksum"];
    if advert.source.is_ipv6() {
        assert_eq!(*sum, fields["csum_v6_pseudo"]);
        return ChecksumForm::Ipv6;
    }
    if advert.version() == 2 {
        assert_eq!(*sum, fields["csum_no_pseudo"]);
        return ChecksumForm::Rfc3768;
    }
    if *sum == fields["csum_v4_pseudo"] {
        return ChecksumForm::Rfc5798;
    }
    assert!(advert.destination != GROUP && *sum == fields["csum_v4_pseudo_mcast_dst"]);
    ChecksumForm::OldUnicast
}

#[test]
fn no_frame_is_left_out_but_three_answers_of_kernels() {
    let frames: usize = names().iter().map(|name| case(name).frames().len()).sum();
    // Adverts as counted above; gratuitous ARP and unsolicited advertisements as in announced.rs.
    println!("{} cases, {frames} frames", names().len());
    assert_eq!((names().len(), frames), (35, 615 + 420 + 65 + 3));
}

#[test]
fn the_capture_files_hold_the_frames() {
    for name in names() {
        let mut reader = PcapReader::new(File::open(pcap(&name)).unwrap()).unwrap();
        let mut packets = BTreeSet::new();
        while let Some(packet) = reader.next_packet() {
            packets.insert(packet.unwrap().data.into_owned());
        }
        for frame in case(&name).frames() {
            let whole = bytes(frame["frame_hex"].as_str().unwrap());
            assert!(packets.contains(&whole), "{name}");
        }
    }
}

fn ip(value: &Value) -> IpAddr {
    value.as_str().unwrap().parse().unwrap()
}

fn byte(value: &Value) -> u8 {
    u8::try_from(value.as_u64().unwrap()).unwrap()
}
