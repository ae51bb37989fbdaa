//! Every connection gets the real server that a kernel director (6.1) gave it, with each scheduler.
//!
//! The recordings say who asked, in which order, and what was edited between; the packets go through
//! the real program.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::collections::BTreeMap;

use dataplane::{DataPlane, Edit, MarkRule, RouteKind};
use ipvs_model::service::ServiceKey;
use lab::director::{connections, view};
use lab::ipvsadm::{ipvsadm, mark_rule, service_of};
use lab::packets::{ACK, FIN, Ip, SYN, endpoint, tcp, udp};
use lab::recount::{expire_all, recount};
use lab::{Lab, fixture, fixture_names, local, route};
use serde_json::Value;

/// How packets of a fwmark service get their mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marking {
    /// By the director's own rule.
    Rule,
    /// `skb->mark`, set before the director sees the packet.
    Skb(u32),
}

#[test]
fn real_servers_are_chosen_as_recorded() {
    let lab = Lab::new();
    let mut options = lab.options(&["lo"]);
    // Those of earlier recordings keep their places for a while.
    options.sizes.servers = 512;
    let mut plane = DataPlane::open(&options).unwrap();
    set_routes(&mut plane);
    let mut wrong = Vec::new();
    let (mut cases, mut picks, mut by_scheduler) = (0, 0, BTreeMap::<String, usize>::new());
    for name in fixture_names("sched") {
        let recording = fixture(&format!("sched/{name}.json"));
        let marks = recording["setup"].as_array().unwrap().iter();
        let marks: Vec<_> = marks
            .map(|text| mark_rule(text.as_str().unwrap()))
            .collect();
        let markings = match marks.first() {
            Some(rule) => vec![Marking::Rule, Marking::Skb(rule.mark)],
            None => vec![Marking::Skb(0)],
        };
        for marking in markings {
            plane.edit(&Edit::Flush).unwrap();
            expire_all(&mut plane);
            let rules: &[MarkRule] = match marking {
                Marking::Rule => &marks,
                Marking::Skb(_) => &[],
            };
            plane.set_mark_rules(rules).unwrap();
            let mut replay = Replay::new(&mut plane, &recording, marking);
            replay.run();
            picks += replay.picks;
            wrong.extend(
                replay
                    .wrong
                    .iter()
                    .map(|one| format!("{name} {marking:?}: {one}")),
            );
            *by_scheduler.entry(replay.scheduler()).or_default() += replay.picks;
            cases += 1;
            recount(&plane);
        }
    }
    println!("{cases} cases, {picks} picks: {by_scheduler:?}");
    println!("not recorded: twos (its choice is random)");
    assert!(picks > 700, "{picks} picks");
    assert!(
        wrong.is_empty(),
        "{} of {picks} picks and {cases} listings differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn set_routes(plane: &mut DataPlane) {
    let routes = [
        local("10.50.0.0", 16),
        local("fd00:50::", 32),
        route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
        route("::", 0, RouteKind::Unicast, 1, None),
    ];
    plane.set_routes(&routes).unwrap();
}

struct Replay<'a> {
    plane: &'a mut DataPlane,
    recording: &'a Value,
    service: ServiceKey,
    mark: u32,
    picks: usize,
    wrong: Vec<String>,
}

impl<'a> Replay<'a> {
    /// The service and its servers as they were at the start.
    fn new(plane: &'a mut DataPlane, recording: &'a Value, marking: Marking) -> Replay<'a> {
        let words = strings(&recording["service"]);
        let service = service_of(&words);
        ipvsadm(plane, &[&["-A"], &words[..]].concat());
        for server in recording["servers_in_order_added"].as_array().unwrap() {
            ipvsadm(
                plane,
                &[&["-a"], &words[..2], &strings(server)[..]].concat(),
            );
        }
        let mark = match marking {
            Marking::Rule => 0,
            Marking::Skb(mark) => mark,
        };
        let wrong = Vec::new();
        Replay {
            plane,
            recording,
            service,
            mark,
            picks: 0,
            wrong,
        }
    }

    fn scheduler(&self) -> String {
        let words = strings(&self.recording["service"]);
        let at = words.iter().position(|word| *word == "-s").unwrap();
        words[at + 1].to_owned()
    }

    fn run(&mut self) {
        for step in self.recording["steps"].as_array().unwrap() {
            let text = |name: &str| step[name].as_str().unwrap_or_default();
            let (client, vip) = (text("client"), text("vip"));
            match text("do") {
                "udp" => self.send(udp(client, vip)),
                "syn" | "open" => self.send(tcp(client, vip, SYN)),
                "fin" => {
                    let server = self.server_of(client, vip).unwrap();
                    self.send(tcp(client, vip, FIN | ACK));
                    self.send(tcp(&server, client, ACK));
                    self.send(tcp(&server, client, FIN | ACK));
                    self.send(tcp(client, vip, ACK));
                    continue;
                }
                "ipvsadm" => {
                    ipvsadm(self.plane, &strings(&step["argv"]));
                    continue;
                }
                other => panic!("step {other}"),
            }
            self.picks += 1;
            let chosen = self.server_of(client, vip);
            let expected = step["dest"].as_str().map(|text| endpoint(text).to_string());
            if chosen != expected {
                self.wrong.push(format!(
                    "pick {}, {client} to {vip}: {chosen:?}, recorded {expected:?}",
                    self.picks
                ));
            }
            if let (Some(server), "open") = (chosen, text("do")) {
                self.send(tcp(&server, client, SYN | ACK));
                self.send(tcp(client, vip, ACK));
            }
        }
        self.compare_listing();
    }

    fn send(&mut self, packet: Ip) {
        self.plane
            .test_run_marked(&packet.frame(), 1, 1, self.mark)
            .unwrap();
    }

    fn server_of(&self, client: &str, vip: &str) -> Option<String> {
        let (client, vip) = (client.parse().unwrap(), vip.parse().unwrap());
        let entries = connections(self.plane).into_iter();
        let mut found = entries.filter(|one| one.client == client && one.virt == vip);
        found.next().map(|entry| entry.dest.to_string())
    }

    /// Address, weight, active and inactive connections of the servers, in list order.
    fn compare_listing(&mut self) {
        let listing = self.recording["listing_unsorted_at_end"].as_str().unwrap();
        let rows = listing
            .lines()
            .skip(3)
            .filter(|line| line.starts_with("  -> "));
        let recorded: Vec<Vec<String>> = rows
            .map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                [1, 3, 4, 5].map(|at| columns[at].to_owned()).to_vec()
            })
            .collect();
        let view = view(self.plane, &self.service);
        let found: Vec<Vec<String>> = view
            .service
            .servers
            .iter()
            .zip(&view.servers)
            .map(|(server, counts)| {
                vec![
                    server.key.to_string(),
                    server.spec.weight.to_string(),
                    counts.active.to_string(),
                    counts.inactive.to_string(),
                ]
            })
            .collect();
        if recorded != found {
            self.wrong
                .push(format!("listing {found:?}, recorded {recorded:?}"));
        }
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect()
}
