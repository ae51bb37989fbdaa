//! What single packets do not show of templates, thresholds and caches: timers, servers that go, and
//! templates that another director made.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::time::{Duration, Instant};

use dataplane::common::verdict::{Event, Verdict};
use dataplane::{DataPlane, Edit, RouteKind, SyncedConn, Tunable};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use ipvs_model::protocol::Protocol;
use lab::director::*;
use lab::ipvsadm::ipvsadm;
use lab::packets::{ACK, SYN, TCP, endpoint, tcp, text_in_ipv6};
use lab::recount::{expire_all, overload_agrees, recount, taken};
use lab::{Lab, local, route};

const PATIENCE: Duration = Duration::from_secs(10);

/// A director with one persistent TCP service and two servers, in one family.
struct Director<'a> {
    plane: &'a mut DataPlane,
    ipv6: bool,
    /// Events before this family's turn.
    before: Vec<u64>,
}

fn event_counts(plane: &DataPlane) -> Vec<u64> {
    let counts = Event::ALL.iter().map(|event| event_count(plane, *event));
    counts.collect()
}

impl Director<'_> {
    /// Without services and connections.
    fn new(plane: &mut DataPlane, ipv6: bool) -> Director<'_> {
        plane.edit(&Edit::Flush).unwrap();
        expire_all(plane);
        for tunable in [Tunable::ExpireQuiescentTemplate, Tunable::ExpireNodestConn] {
            plane.set_tunable(tunable, 0);
        }
        let routes = [
            local("10.50.0.0", 16),
            local("fd00:50::", 32),
            route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
            route("::", 0, RouteKind::Unicast, 1, None),
        ];
        plane.set_routes(&routes).unwrap();
        let before = event_counts(plane);
        Director {
            plane,
            ipv6,
            before,
        }
    }

    /// How often it happened since.
    fn moved(&self, event: Event) -> u64 {
        let at = Event::ALL.iter().position(|one| *one == event);
        let at = at.expect("every event is listed");
        event_counts(self.plane)[at] - self.before[at]
    }

    /// With a service of these options and two servers; the second is chosen first.
    fn serving<'a>(plane: &'a mut DataPlane, ipv6: bool, options: &str) -> Director<'a> {
        let mut director = Director::new(plane, ipv6);
        director.ipvsadm(&format!("-A -t 10.50.0.1:80 -s rr {options}"));
        director.ipvsadm("-a -t 10.50.0.1:80 -r 10.200.0.11:8080 -m");
        director.ipvsadm("-a -t 10.50.0.1:80 -r 10.200.0.12:8080 -m");
        director
    }

    fn at(&self, text: &str) -> String {
        if self.ipv6 {
            text_in_ipv6(text)
        } else {
            text.to_owned()
        }
    }

    fn ipvsadm(&mut self, command: &str) {
        let words: Vec<String> = command
            .split_whitespace()
            .map(|word| {
                if word.parse::<std::net::SocketAddrV4>().is_ok() {
                    self.at(word)
                } else {
                    word.to_owned()
                }
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ipvsadm(self.plane, &words);
    }

    fn key(&self) -> ipvs_model::service::ServiceKey {
        service(Protocol::Tcp, &self.at("10.50.0.1:80"))
    }

    /// A packet of the client's port to the service.
    fn send(&self, port: u16, flags: u8) -> Verdict {
        let client = self.at(&format!("10.100.0.5:{port}"));
        let packet = tcp(&client, &self.at("10.50.0.1:80"), flags);
        run(self.plane, &packet.frame()).0
    }

    fn template(&self) -> ConnEntry {
        let entries = connections(self.plane);
        let mut templates = entries
            .into_iter()
            .filter(|one| one.flags.contains(ConnFlags::TEMPLATE));
        let first = templates.next().expect("a template");
        assert!(templates.next().is_none(), "one template");
        first
    }

    fn templates(&self) -> usize {
        let entries = connections(self.plane);
        let is_template = |one: &&ConnEntry| one.flags.contains(ConnFlags::TEMPLATE);
        entries.iter().filter(is_template).count()
    }

    /// Walks until it is so.
    fn walk_until(&mut self, what: &str, done: impl Fn(&Director<'_>) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
            self.plane.expire_step(u32::MAX);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends connections whose client has this port, and sees that they are gone.
    fn end_connection(&mut self, port: u16) {
        let plane = &*self.plane;
        let ours = taken(plane, self.ipv6).into_iter().filter(|one| {
            let sport = if self.ipv6 {
                plane.conn6(one.index).key.sport
            } else {
                plane.conn4(one.index).key.sport
            };
            sport.to_host() == port
        });
        let places: Vec<_> = ours.map(|one| (one.index, one.word.generation())).collect();
        assert_eq!(places.len(), 1, "one connection of port {port}");
        assert_eq!(self.plane.expire_now(self.ipv6, &places), 1);
    }
}

fn in_both_families(test: impl Fn(&mut DataPlane, bool)) {
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    for ipv6 in [false, true] {
        test(&mut plane, ipv6);
    }
}

#[test]
fn a_template_outlives_its_timer_while_it_controls_connections() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 1");
        director.send(1000, SYN);
        let before = director.template();
        assert!(
            before.controls == 1 && before.expires_secs <= 1,
            "{before:?}"
        );
        director.walk_until("the timer is postponed", |director| {
            director.moved(Event::Postponed) == 1
        });
        let template = director.template();
        assert_eq!(template.controls, 1);
        assert!((59..=60).contains(&template.expires_secs), "{template:?}");
        recount(director.plane);
        // The minute is its timeout from now on.
        director.send(1001, SYN);
        let template = director.template();
        assert_eq!(template.controls, 2);
        assert!((59..=60).contains(&template.expires_secs), "{template:?}");
        recount(director.plane);
    });
}

#[test]
fn a_template_without_connections_ends_with_its_timer() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 1");
        director.send(1000, SYN);
        director.end_connection(1000);
        assert_eq!(director.template().controls, 0);
        director.walk_until("the template is gone", |director| {
            director.plane.connection_count().taken() == 0
        });
        assert_eq!(director.moved(Event::Postponed), 0);
        assert_eq!(recount(director.plane).keys, 0);
        director.send(1001, SYN);
        let server = endpoint(&director.at("10.200.0.11:8080"));
        assert_eq!(
            director.template().dest,
            server,
            "the scheduler's turn again"
        );
    });
}

#[test]
fn a_new_connection_restarts_the_templates_timer_and_other_packets_do_not() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 100");
        director.send(1000, SYN);
        assert!(director.template().expires_secs >= 99);
        director.walk_until("a second has gone by", |director| {
            director.send(1000, ACK);
            director.template().expires_secs <= 98
        });
        director.send(1001, SYN);
        assert!(director.template().expires_secs >= 99);
    });
}

#[test]
fn another_timeout_of_the_service_is_for_new_templates() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 100");
        director.send(1000, SYN);
        director.ipvsadm("-E -t 10.50.0.1:80 -s rr -p 700");
        director.send(1001, SYN);
        let expires = director.template().expires_secs;
        assert!((99..=100).contains(&expires), "{expires}");
    });
}

#[test]
fn an_invalid_template_lives_on_unfindable_until_its_connections_are_gone() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 1");
        director
            .plane
            .set_tunable(Tunable::ExpireQuiescentTemplate, 1);
        director.send(1000, SYN);
        let (first, second) = ("10.200.0.12:8080", "10.200.0.11:8080");
        let (first, second) = (director.at(first), director.at(second));
        let key = director.key();
        edit_weight(director.plane, key, &first, 0);
        director.send(1001, SYN);
        assert_eq!(director.templates(), 2);
        let entries = connections(director.plane);
        let invalid = entries.iter().find(|one| {
            one.flags.contains(ConnFlags::TEMPLATE) && one.dest.ip() == endpoint(&first).ip()
        });
        let invalid = invalid.expect("the first template is listed");
        assert_eq!((invalid.virt.port(), invalid.dest.port()), (65_535, 65_535));
        assert_eq!((invalid.client.port(), invalid.controls), (0, 1));
        recount(director.plane);
        // Its server has a weight again: that does not bring it back.
        edit_weight(director.plane, key, &first, 1);
        director.send(1002, SYN);
        let third = connections(director.plane);
        let third = third.iter().find(|one| one.client.port() == 1002);
        assert_eq!(third.unwrap().dest, endpoint(&second));
        for port in [1000, 1001, 1002] {
            director.end_connection(port);
        }
        director.walk_until("its timer ends", |director| {
            let postponed = director.moved(Event::Postponed);
            director.plane.connection_count().taken() as u64 <= postponed
        });
        recount(director.plane);
    });
}

#[test]
fn templates_keep_the_place_of_a_removed_server() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 100");
        director.send(1000, SYN);
        director.end_connection(1000);
        let key = director.key();
        let server = director.at("10.200.0.12:8080");
        let slot = director.plane.server_slot(&key, endpoint(&server));
        delete_server(director.plane, key, &server);
        director.plane.expire_step(u32::MAX);
        add_server(director.plane, key, &server, NAT, 1);
        assert_eq!(director.plane.server_slot(&key, endpoint(&server)), slot);
        assert_eq!(server_view(director.plane, &key, &server).persistent, 1);
        director.send(1001, SYN);
        assert_eq!(director.template().controls, 1, "the template goes on");
        recount(director.plane);
    });
}

#[test]
fn expire_nodest_conn_ends_connections_and_templates_of_removed_servers() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 100");
        director.send(1000, SYN);
        director.send(1001, SYN);
        let key = director.key();
        let server = director.at("10.200.0.12:8080");
        delete_server(director.plane, key, &server);
        director.plane.set_tunable(Tunable::ExpireNodestConn, 1);
        director.walk_until("both are gone", |director| {
            director.plane.connection_count().taken() == 0
        });
        recount(director.plane);
    });
}

#[test]
fn a_flush_leaves_templates_to_their_timers() {
    in_both_families(|plane, ipv6| {
        let mut director = Director::serving(plane, ipv6, "-p 1");
        director.send(1000, SYN);
        director.plane.edit(&Edit::Flush).unwrap();
        assert_eq!(director.templates(), 1);
        recount(director.plane);
        director.end_connection(1000);
        director.walk_until("its timer ends", |director| {
            director.plane.connection_count().taken() == 0
        });
        recount(director.plane);
    });
}

/// A template as another director's message tells of it.
fn synced_template(director: &Director<'_>, server: &str) -> SyncedConn {
    SyncedConn {
        protocol: TCP,
        client: endpoint(&director.at("10.100.0.5:0")),
        virt: endpoint(&director.at("10.50.0.1:80")),
        dest: endpoint(&director.at(server)),
        flags: ConnFlags(ConnFlags::SYNC | ConnFlags::TEMPLATE),
        state: 0,
        fwmark: 0,
        timeout_secs: 50,
        extra: None,
    }
}

#[test]
fn a_synchronised_template_decides_where_its_client_goes() {
    in_both_families(|plane, ipv6| {
        let director = Director::serving(plane, ipv6, "-p 100");
        // Not the one whose turn it is.
        let template = synced_template(&director, "10.200.0.11:8080");
        let report = director.plane.apply_synced(&[template]);
        assert_eq!(report.created, 1, "{report:?}");
        let entry = director.template();
        assert!(
            entry.bound && (49..=50).contains(&entry.expires_secs),
            "{entry:?}"
        );
        recount(director.plane);
        director.send(1000, SYN);
        let entry = director.template();
        assert_eq!(entry.controls, 1);
        assert_eq!(entry.dest, endpoint(&director.at("10.200.0.11:8080")));
        recount(director.plane);
    });
}

#[test]
fn a_synchronised_template_without_its_server_is_not_used() {
    in_both_families(|plane, ipv6| {
        let director = Director::serving(plane, ipv6, "-p 100");
        let template = synced_template(&director, "10.200.0.77:8080");
        assert_eq!(director.plane.apply_synced(&[template]).created, 1);
        assert!(!director.template().bound);
        director.send(1000, SYN);
        assert_eq!(director.templates(), 2);
        assert_eq!(director.moved(Event::TemplateInvalidated), 1);
        recount(director.plane);
    });
}

#[test]
fn overload_ends_below_the_lower_threshold() {
    in_both_families(|plane, ipv6| {
        // (upper, lower, connections at which OVERLOAD is off again)
        for (upper, lower, off) in [(4, 0, 2), (4, 1, 0), (4, 4, 3), (1, 0, 0), (5, 0, 3)] {
            let mut director = Director::new(plane, ipv6);
            director.ipvsadm("-A -t 10.50.0.1:80 -s rr");
            let thresholds = format!("-x {upper} -y {lower}");
            let port = 8000 + upper * 10 + lower;
            let server = format!("10.200.0.11:{port}");
            director.ipvsadm(&format!("-a -t 10.50.0.1:80 -r {server} -m {thresholds}"));
            let (key, server) = (director.key(), director.at(&server));
            let is_overloaded =
                |director: &Director<'_>| server_view(director.plane, &key, &server).overloaded;
            let base = 1000 + upper * 100 + lower * 10;
            for at in 0..upper {
                assert!(!is_overloaded(&director), "{at} of {thresholds}");
                assert_eq!(director.send(base + at, SYN), Verdict::Masqueraded);
            }
            assert!(is_overloaded(&director), "{thresholds}");
            assert_eq!(director.send(base + upper, SYN), Verdict::NoServer);
            for left in (0..upper).rev() {
                director.end_connection(base + left);
                let expected = left > off;
                assert_eq!(is_overloaded(&director), expected, "{left} of {thresholds}");
                overload_agrees(director.plane);
            }
            director.walk_until("all are gone", |director| {
                director.plane.connection_count().taken() == 0
            });
        }
    });
}

#[test]
fn a_full_cache_still_serves() {
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    for scheduler in ["lblc", "lblcr"] {
        let mut director = Director::new(&mut plane, false);
        director.ipvsadm(&format!("-A -f 7 -s {scheduler}"));
        director.ipvsadm("-a -f 7 -r 10.200.0.11:0 -g");
        let entries = director.plane.sizes().cache_entries;
        for destination in 0..4 * entries {
            let (third, last) = (destination / 200, destination % 200 + 1);
            let vip = format!("10.60.{third}.{last}:80");
            let packet = tcp("10.100.0.5:1000", &vip, SYN);
            let before = verdict_counts(director.plane);
            let frame = packet.frame();
            director.plane.test_run_marked(&frame, 1, 1, 7).unwrap();
            let verdict = verdict_since(director.plane, &before);
            if verdict == Some(Verdict::TableFull) {
                break;
            }
            assert_eq!(verdict, Some(Verdict::Direct), "{scheduler}, {vip}");
        }
        let refused = director.moved(Event::CacheFull);
        println!("{scheduler}: {refused} destinations found no room in {entries}");
        assert!(refused > 0);
        expire_all(director.plane);
    }
}
