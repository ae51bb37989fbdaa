//! Whether a packet was handled as its line says.

use std::net::SocketAddr;

use dataplane::TestRun;
use dataplane::common::verdict::Action;
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use ipvs_model::stats::Stats;

use crate::bench::Bench;
use crate::case::{Case, words};
use crate::frames::Given;
use crate::lab::director::*;
use crate::lab::packets::*;

/// TC actions as the kernel numbers them.
const UNSPEC: i32 = -1;
const OK: i32 = 0;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

fn same(what: &str, found: String, expected: String) -> Result<(), String> {
    let text = format!("{what} {found}, expected {expected}");
    if found == expected { Ok(()) } else { Err(text) }
}

impl Bench<'_> {
    pub fn check(&mut self, case: &Case) -> Result<(), String> {
        for word in words(case.given) {
            self.given(word);
        }
        let given = self.frame(case.packet);
        let live = self.plane.connection_count().live();
        let (statistics, verdicts) = (self.statistics(), verdict_counts(self.plane));
        let events: Vec<_> = case.events();
        let event_counts: Vec<u64> = events
            .iter()
            .map(|(event, _)| event_count(self.plane, *event))
            .collect();
        let run = self
            .plane
            .test_run_marked(&given.frame, 1, 1, given.mark)
            .unwrap();
        let verdict = verdict_since(self.plane, &verdicts).ok_or("no verdict")?;
        same("verdict", verdict.name().into(), case.verdict.name().into())?;
        let action = match verdict.action() {
            Action::Pass => UNSPEC,
            Action::Drop if !case.out.starts_with("icmp") => SHOT,
            Action::Forward if case.given.contains("client-local") => OK,
            Action::Drop | Action::Forward => REDIRECT,
        };
        same("action", run.action.to_string(), action.to_string())?;
        self.check_frame(case.out, &given, &run)?;
        let change = i64::from(self.plane.connection_count().live()) - i64::from(live);
        same("connections", change.to_string(), case.conns.to_string())?;
        let bytes = given.ip.as_ref().map_or(0, |ip| ip.bytes().len() as u64);
        let counted = counted(case.counted, bytes);
        for ((whose, before), (_, after)) in statistics.iter().zip(self.statistics()) {
            // A removed server is in no list.
            if after.in_pkts >= before.in_pkts && after.out_pkts >= before.out_pkts {
                let change = after.since(*before);
                same(whose, format!("{change:?}"), format!("{counted:?}"))?;
            }
        }
        for ((event, expected), before) in events.iter().zip(event_counts) {
            let moved = event_count(self.plane, *event) - before;
            same(event.name(), moved.to_string(), expected.to_string())?;
        }
        let client = given.ip.map(|ip| {
            if ip.dst.port() >= 20_000 {
                ip.dst
            } else {
                ip.src
            }
        });
        let client = client.unwrap_or_else(|| endpoint(&self.client("c")));
        let entries = connections(self.plane);
        let own = entries
            .iter()
            .find(|one| one.client == client && !one.flags.contains(ConnFlags::TEMPLATE));
        let state = own.map(state_of);
        same("state", format!("{state:?}"), format!("{:?}", case.state))?;
        for word in words(case.also) {
            self.check_also(word, own, &entries)?;
        }
        Ok(())
    }

    /// A word of the last column.
    fn check_also(
        &self,
        word: &str,
        own: Option<&ConnEntry>,
        entries: &[ConnEntry],
    ) -> Result<(), String> {
        if word.starts_with(['+', '-']) {
            return Ok(());
        }
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let is_template = |one: &&ConnEntry| one.flags.contains(ConnFlags::TEMPLATE);
        match name {
            "server" => {
                let server = own.map(|entry| entry.dest.to_string());
                same(
                    "server",
                    format!("{server:?}"),
                    format!("{:?}", Some(self.at(value))),
                )
            }
            // NETWORK>VIRTUAL>SERVER>CONNECTIONS; the virtual address may be a mark.
            "template" => {
                let mut parts = value.split('>');
                let mut part = || parts.next().unwrap();
                let client = endpoint(&self.at(part()));
                let virt = self.virt(part());
                let dest = endpoint(&self.at(part()));
                let controls: u32 = part().parse().unwrap();
                let mut templates = entries.iter().filter(is_template);
                let found = templates.any(|one| {
                    (one.client, one.virt, one.dest, one.controls) == (client, virt, dest, controls)
                });
                let all: Vec<_> = entries.iter().filter(is_template).collect();
                same(
                    "template",
                    format!("{found} {all:?}"),
                    format!("true {all:?}"),
                )
            }
            "templates" => {
                let count = entries.iter().filter(is_template).count();
                same("templates", count.to_string(), value.to_string())
            }
            "assured" => {
                let states: Vec<u8> = entries
                    .iter()
                    .filter(is_template)
                    .map(|one| one.state)
                    .collect();
                same(
                    "template state",
                    format!("{states:?}"),
                    format!("[{value}]"),
                )
            }
            "overloaded" | "spare" => {
                let key = self.service(ipvs_model::protocol::Protocol::Tcp);
                let view = server_view(self.plane, &key, &self.at(value));
                let expected = name == "overloaded";
                same(
                    "OVERLOAD",
                    view.overloaded.to_string(),
                    expected.to_string(),
                )
            }
            _ => panic!("word {word}"),
        }
    }

    /// A virtual address, or `mark7` as a template shows it.
    fn virt(&self, text: &str) -> SocketAddr {
        match text.strip_prefix("mark") {
            Some(mark) => {
                let mark: u32 = mark.parse().unwrap();
                if self.ipv6 {
                    let addr = std::net::Ipv6Addr::from(u128::from(mark) << 96);
                    SocketAddr::new(addr.into(), 0)
                } else {
                    SocketAddr::new(std::net::Ipv4Addr::from(mark).into(), 0)
                }
            }
            None => endpoint(&self.at(text)),
        }
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

    fn check_frame(&self, out: &str, given: &Given, run: &TestRun) -> Result<(), String> {
        let frame = &given.frame;
        let same = |expected: &[u8]| {
            if run.frame[14..] == *expected {
                return Ok(());
            }
            Err(format!(
                "frame\n  {:02x?}, expected\n  {expected:02x?}",
                &run.frame[14..]
            ))
        };
        let (out, ip) = match (out, &given.ip) {
            ("-", _) => return Ok(()),
            ("same", _) => return same(&frame[14..]),
            (out, Some(ip)) => (out, ip),
            (out, None) => panic!("{out} of a frame without addresses"),
        };
        let mut sent = ip.clone();
        sent.ttl = sent.ttl.wrapping_sub(1);
        let (what, value) = out.split_once('=').unwrap_or((out, ""));
        match what {
            "server" => {
                let server = match (value, ip.protocol) {
                    ("", TCP) => &self.tcp_server,
                    ("", SCTP) => &self.sctp_server,
                    ("", _) => &self.udp_server,
                    (value, _) => value,
                };
                sent.dst = endpoint(&self.at(server));
                sent.no_checksum = false;
            }
            "client" => {
                let port = if ip.protocol == UDP { 53 } else { 80 };
                let default = format!("10.50.0.1:{port}");
                let vip = if value.is_empty() { &default } else { value };
                sent.src = endpoint(&self.at(vip));
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
        if !sent.no_checksum && !checksums_hold(packet) {
            return Err(format!("checksums of {packet:02x?}"));
        }
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
