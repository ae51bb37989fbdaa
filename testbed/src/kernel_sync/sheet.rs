//! The report of the rows: a line for each, and what differed below it.

use std::fmt::Write as _;

use anyhow::Result;

use super::packet::Transport;
use super::tables::Differences;
use super::{Row, Shown};
use crate::report::Report;

/// The first port of sync messages.
const SYNC_PORT: u16 = 8848;

/// Collects what rows showed.
pub(super) struct Sheet<'a> {
    report: &'a mut Report,
    text: String,
    rows: u64,
    unequal: u64,
    connections: u64,
    /// Fewest connections of a row with several ports.
    least_of_many: Option<u64>,
    silent_ports: u64,
    other_version: u64,
}

impl<'a> Sheet<'a> {
    pub(super) fn new(report: &'a mut Report) -> Sheet<'a> {
        let head = format!(
            "\n{:<16} {:<3} {:<5} {:>5} {:<15} {:>6} {:>6} {:>6} {:>9} {:>6} {:>7}  {:<7} entries by port\n",
            "master",
            "ver",
            "group",
            "ports",
            "by",
            "TCP",
            "UDP",
            "SCTP",
            "templates",
            "IPv6",
            "s",
            "equal",
        );
        Sheet {
            report,
            text: head,
            rows: 0,
            unequal: 0,
            connections: 0,
            least_of_many: None,
            silent_ports: 0,
            other_version: 0,
        }
    }

    pub(super) fn event(&mut self, what: String) {
        crate::say(&self.report.event(what));
    }

    pub(super) fn note(&mut self, row: &Row, by: &str, shown: Result<Shown>) {
        let (master, backup) = (row.master.name(), row.master.other().name());
        let family = if row.group.is_ipv6() { "IPv6" } else { "IPv4" };
        let name = format!(
            "{:<16} v{:<2} {family:<5} {:>5} {by:<15}",
            format!("{master}->{backup}"),
            row.version,
            row.ports
        );
        let shown = match shown {
            Ok(shown) => shown,
            Err(error) => return self.fail(&name, &error),
        };
        self.rows += 1;
        let kind = |name: &str| shown.kinds.get(name).copied().unwrap_or_default();
        let connections =
            [Transport::Tcp, Transport::Udp, Transport::Sctp].map(|it| kind(it.name()));
        let all: u64 = connections.iter().sum();
        self.connections += all;
        if row.ports > 1 {
            self.least_of_many = Some(self.least_of_many.map_or(all, |least| least.min(all)));
        }
        let ports = (0..row.ports).map(|index| SYNC_PORT + index);
        let heard: Vec<u64> = ports
            .map(|port| shown.by_port.get(&port).map_or(0, |heard| heard.entries))
            .collect();
        // With sockets there are too few connections for all.
        self.silent_ports += heard.iter().filter(|entries| **entries == 0).count() as u64;
        let other = shown.by_port.values().map(|heard| {
            if row.version == 0 {
                heard.messages - heard.version_0
            } else {
                heard.version_0
            }
        });
        self.other_version += other.sum::<u64>();
        let differences = &shown.differences;
        let equal = if differences.count() == 0 {
            "yes"
        } else {
            "NO"
        };
        let [tcp, udp, sctp] = connections;
        let line = format!(
            "{name} {tcp:>6} {udp:>6} {sctp:>6} {:>9} {:>6} {:>7.1}  {equal:<7} {heard:?}",
            kind("templates"),
            shown.ipv6,
            shown.seconds,
        );
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
        self.event(line);
        if differences.count() > 0 {
            self.unequal += 1;
            let Differences {
                missing,
                extra,
                dest,
                state,
                timer,
                origin,
                counters,
                first,
            } = differences;
            let sums = format!(
                "missing {missing}, extra {extra}, other server {dest}, state {state}, timer {timer}, \
                 origin {origin}, counters {counters}"
            );
            let _ = writeln!(self.text, "    {sums}");
            self.event(sums);
            for one in first {
                let _ = writeln!(self.text, "    {one}");
                self.event(one.clone());
            }
        }
    }

    pub(super) fn fail(&mut self, name: &str, error: &anyhow::Error) {
        self.rows += 1;
        self.unequal += 1;
        let line = format!("{name} FAILED: {error:#}");
        let _ = writeln!(self.text, "{line}");
        self.event(line);
    }

    pub(super) fn finish(self) {
        let least = self.least_of_many.unwrap_or_default();
        let figures = [
            ("rows", self.rows),
            ("unequal", self.unequal),
            ("connections", self.connections),
            ("connections_on_many_ports", least),
            ("silent_ports", self.silent_ports),
            ("other_version", self.other_version),
        ];
        for (name, value) in figures {
            let value = u32::try_from(value).unwrap_or(u32::MAX);
            self.report.figure(name, value.into());
        }
        self.report.note(self.text);
    }
}
