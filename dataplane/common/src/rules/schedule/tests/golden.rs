//! The picks that were recorded on a kernel director, replayed without packets.
//!
//! The recordings have one step a line, so the strings of a line are all there is to read.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::string::String;

use super::super::hash::{fold4, fold6};
use super::super::locality::{FALLBACK, HalfIdle, SetScan, Verdict, verdict};
use super::super::table::{
    EMPTY, MaglevServer, Probe, fill_dh, fill_mh, fill_sh, flag, table_size,
};
use super::*;
use crate::key::{Be16, Be32};
use crate::rules::persistence::{PersistentService, mask4};
use crate::rules::threshold::{Overload, Thresholds, after_increment, settle};

macro_rules! recordings {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let text = include_str!(concat!(
                    "../../../../../tests/golden/sched/",
                    stringify!($name),
                    ".json"
                ));
                replay(text);
            }
        )*
    };
}

recordings! {
    dh_fwmark dh_single fo lblc_fwmark lblcr_fwmark lc_open lc_udp mh_fallback mh_one_dropped
    mh_order mh_plain mh_port mh_weights nq_open ovf_open ovf_udp persist_rr rr_all_zero rr_equal
    rr_zero_midway sed_open sh6 sh_fallback sh_plain sh_port sh_weights sh_zero_midway thresholds_rr
    wlc_open wlc_syn wrr_4_2_0_6 wrr_5_3_1 wrr_equal
}

/// What a server has beside what schedulers look at.
struct Real {
    addr: SocketAddr,
    last_weight: u32,
    thresholds: Thresholds,
}

struct Director {
    model: Model,
    /// By slot.
    reals: Vec<Real>,
    flags: u32,
    persistent: Option<PersistentService>,
    table: Vec<u16>,
    /// lblc, lblcr: slots by destination, newest first.
    cache: BTreeMap<IpAddr, Vec<u32>>,
    /// Slots by client network.
    templates: BTreeMap<u32, u32>,
    /// Slots by client.
    connections: BTreeMap<SocketAddr, u32>,
}

fn replay(text: &str) {
    let mut director = None;
    let mut picks = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        match words.first().copied() {
            Some("service") => director = Some(Director::new(&words)),
            Some("servers_in_order_added") => {
                let director = director.as_mut().unwrap();
                for server in words[1..].split(|word| *word == "-r").skip(1) {
                    director.add(server);
                }
            }
            Some("do") => {
                let director = director.as_mut().unwrap();
                picks += u32::from(director.step(line, &words));
            }
            _ => {}
        }
    }
    assert!(picks >= 5, "{picks} picks");
}

/// The word after `name`.
fn after<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == name)?;
    words.get(at + 1).copied()
}

fn number(words: &[&str], name: &str) -> Option<u32> {
    after(words, name).map(|text| text.parse().unwrap())
}

/// A fwmark service's server has no port.
fn address(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| SocketAddr::new(text.parse().unwrap(), 0))
}

fn fold(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => fold4(Be32::from_host(addr.to_bits())),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            fold6([96, 64, 32, 0].map(|shift| Be32::from_host((bits >> shift) as u32)))
        }
    }
}

impl Director {
    fn new(words: &[&str]) -> Director {
        let scheduler = Scheduler::from_name(after(words, "-s").unwrap()).unwrap();
        let flags = match after(words, "-b") {
            Some("sh-fallback" | "mh-fallback") => flag::FALLBACK,
            Some("sh-port" | "mh-port") => flag::PORT,
            None => 0,
            Some(other) => panic!("no flag {other}"),
        };
        let persistent = after(words, "-p").map(|_| {
            let service = address(after(words, "-u").unwrap());
            let mask: std::net::Ipv4Addr = after(words, "-M").unwrap().parse().unwrap();
            PersistentService {
                port: Be16::from_host(service.port()),
                fwmark: 0,
                netmask: mask.to_bits(),
            }
        });
        Director {
            model: Model::new(scheduler),
            reals: Vec::new(),
            flags,
            persistent,
            table: Vec::new(),
            cache: BTreeMap::new(),
            templates: BTreeMap::new(),
            connections: BTreeMap::new(),
        }
    }

    fn add(&mut self, server: &[&str]) {
        let slot = self.reals.len() as u32;
        let weight = number(server, "-w").unwrap_or(1);
        self.reals.push(Real {
            addr: address(server[0]),
            last_weight: weight,
            thresholds: Thresholds {
                upper: number(server, "-x").unwrap_or(0),
                lower: number(server, "-y").unwrap_or(0),
            },
        });
        self.model.add(slot, weight);
        self.fill();
    }

    fn fill(&mut self) {
        let scheduler = self.model.scheduler;
        self.table = std::vec![EMPTY; table_size(scheduler as u8) as usize];
        let servers = &self.model.servers;
        match scheduler.name() {
            "dh" => fill_dh(servers.len(), &mut self.table),
            "sh" => {
                let weights = servers.iter().map(|server| server.weight);
                fill_sh(weights, &mut self.table);
            }
            "mh" => {
                let mut maglev: Vec<MaglevServer> = servers
                    .iter()
                    .map(|server| {
                        let real = &self.reals[server.slot as usize];
                        MaglevServer::new(fold(real.addr.ip()), real.addr.port(), real.last_weight)
                    })
                    .collect();
                fill_mh(&mut maglev, &mut self.table).unwrap();
            }
            _ => {}
        }
    }

    /// Does one step; says whether that was a pick.
    fn step(&mut self, line: &str, words: &[&str]) -> bool {
        let kind = words[1];
        if kind == "ipvsadm" {
            self.edit(words);
            return false;
        }
        let client = address(after(words, "client").unwrap());
        if kind == "fin" {
            let slot = self.connections[&client];
            self.model.server(slot).active -= 1;
            return false;
        }
        assert!(matches!(kind, "udp" | "syn" | "open"), "{line}");
        let vip = address(after(words, "vip").unwrap());
        let expected =
            (!line.contains("\"dest\": null")).then(|| address(after(words, "dest").unwrap()).ip());
        let chosen = self.pick(client, vip);
        let addr = chosen.map(|slot| self.reals[slot as usize].addr.ip());
        assert_eq!(addr, expected, "{line}");
        if let Some(slot) = chosen {
            self.connections.insert(client, slot);
            self.connect(slot, kind != "udp");
        }
        true
    }

    fn connect(&mut self, slot: u32, active: bool) {
        let thresholds = self.reals[slot as usize].thresholds;
        let server = self.model.server(slot);
        server.active += u32::from(active);
        server.total += 1;
        match after_increment(thresholds, server.total, server.total) {
            Overload::Set => server.overloaded = true,
            Overload::Clear => server.overloaded = false,
            Overload::Keep => {}
        }
    }

    fn edit(&mut self, words: &[&str]) {
        let at = words.iter().position(|word| *word == "-r").unwrap();
        let server = &words[at + 1..];
        let addr = address(server[0]);
        if words.contains(&"-a") {
            self.add(server);
            return;
        }
        let found = |known: &Candidate| self.reals[known.slot as usize].addr == addr;
        let slot = self.model.servers.iter().find(|known| found(known));
        let slot = slot.unwrap().slot;
        if words.contains(&"-d") {
            self.model.remove(slot);
        } else {
            let weight = number(server, "-w").unwrap_or(1);
            self.model.set_weight(slot, weight);
            let real = &mut self.reals[slot as usize];
            if weight > 0 {
                real.last_weight = weight;
            }
            real.thresholds = Thresholds::default();
            assert_eq!(settle(real.thresholds, 0), Overload::Clear);
        }
        // dh goes on with its table when a server is edited; it comes out the same.
        self.fill();
    }

    fn pick(&mut self, client: SocketAddr, vip: SocketAddr) -> Option<u32> {
        let Some(service) = self.persistent else {
            return self.schedule(client, vip);
        };
        let IpAddr::V4(addr) = client.ip() else {
            panic!("no IPv6 here");
        };
        let network = mask4(Be32::from_host(addr.to_bits()), service.netmask).to_host();
        if let Some(slot) = self.templates.get(&network) {
            return Some(*slot);
        }
        let slot = self.schedule(client, vip)?;
        self.templates.insert(network, slot);
        Some(slot)
    }

    fn schedule(&mut self, client: SocketAddr, vip: SocketAddr) -> Option<u32> {
        match self.model.scheduler.name() {
            "dh" => self.look_up(fold(vip.ip()), client.port()),
            "sh" | "mh" => self.look_up(fold(client.ip()), client.port()),
            "lblc" | "lblcr" => self.remembered(vip.ip()),
            _ => self.model.pick(),
        }
    }

    fn look_up(&self, fold: u32, port: u16) -> Option<u32> {
        let scheduler = self.model.scheduler as u8;
        let mut probe = Probe::begin(scheduler, self.flags, fold, port)?;
        for _ in 0..Probe::steps_max(scheduler, self.flags) {
            let index = self.table[probe.slot() as usize];
            let server = self.model.servers.get(usize::from(index)).copied();
            if probe.step(server) == Step::Done {
                return probe.chosen();
            }
        }
        panic!("the lookup keeps to its bound");
    }

    /// No time passes here, so sets do not shrink.
    fn remembered(&mut self, destination: IpAddr) -> Option<u32> {
        let set = self.cache.get(&destination).cloned().unwrap_or_default();
        let mut scan = SetScan::begin();
        for slot in &set {
            scan.step(*self.model.server(*slot), true);
        }
        if let Some(server) = scan.least() {
            let used = match verdict(&server, true) {
                Verdict::Use => true,
                Verdict::UnlessHalfIdle => !self.is_somebody_half_idle(),
                Verdict::Refuse => false,
            };
            if used {
                return Some(server.slot);
            }
        }
        let replicates = self.model.scheduler == Scheduler::Lblcr;
        let scheduler = self.model.scheduler;
        self.model.scheduler = Scheduler::from_number(FALLBACK).unwrap();
        let chosen = self.model.pick();
        self.model.scheduler = scheduler;
        let chosen = chosen?;
        let entry = self.cache.entry(destination).or_default();
        if !replicates {
            entry.clear();
        }
        if !entry.contains(&chosen) {
            entry.insert(0, chosen);
        }
        Some(chosen)
    }

    fn is_somebody_half_idle(&self) -> bool {
        let servers = &self.model.servers;
        let Some(mut search) = HalfIdle::begin(servers.len() as u32) else {
            return false;
        };
        while search.step(servers[search.index() as usize]) == Step::Continue {}
        search.found()
    }
}

/// A recording that nobody replays would be forgotten.
#[test]
fn every_recording_is_replayed() {
    let names: Vec<String> = std::fs::read_dir(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/sched"
    ))
    .unwrap()
    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
    .filter(|name| name.ends_with(".json"))
    .collect();
    assert_eq!(names.len(), 33, "{names:?}");
}
