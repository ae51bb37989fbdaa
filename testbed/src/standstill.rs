//! What a director that stood still, or was cut off, does to the connections of the one that went on:
//! nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::drill::Drill;
use crate::listing::{ConnectionKey, ConnectionRow, Snapshot, compare};
use crate::plan::{prefix_len, whole};
use crate::puppets::{Kind, SERVERS};

/// Listings show whole seconds, and take a moment.
const LISTED: Duration = Duration::from_secs(2);
/// Harms that are told one by one.
const TOLD_MAX: usize = 6;

/// What became of a director's live connections between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Harm {
    pub(crate) compared: u64,
    /// On another server.
    pub(crate) replaced: u64,
    /// Gone although there was time left.
    pub(crate) gone: u64,
    /// In an earlier state.
    pub(crate) regressed: u64,
    /// Less time left than a connection has that nobody used.
    pub(crate) timers_back: u64,
    /// Finished or reopened by hand, silent since, and yet given time: somebody else spoke of them.
    pub(crate) timers_reset: u64,
    pub(crate) first: Vec<String>,
}

impl Harm {
    pub(crate) fn between(before: &Snapshot, after: &Snapshot) -> Harm {
        let passed = after.taken.duration_since(before.taken);
        let mut harm = Harm::default();
        // Templates have no port of a client.
        let connections = before.connections.iter();
        for (key, old) in connections.filter(|((_, client, _), _)| !client.ends_with(":0")) {
            let now = after.connections.get(key);
            harm.look(key, old, now, passed);
        }
        harm
    }

    fn look(
        &mut self,
        key: &ConnectionKey,
        old: &ConnectionRow,
        now: Option<&ConnectionRow>,
        passed: Duration,
    ) {
        let ends_soon = old.expires <= passed + LISTED;
        let Some(now) = now else {
            if !ends_soon {
                self.compared += 1;
                self.gone += 1;
                self.tell(key, old, "gone");
            }
            return;
        };
        self.compared += 1;
        let said = format!(
            "{} {} {} s",
            now.destination,
            now.connection_state,
            now.expires.as_secs()
        );
        if now.destination != old.destination {
            self.replaced += 1;
            self.tell(key, old, &said);
            return;
        }
        let kind = key.1.parse().ok().and_then(Kind::of);
        let is_silent = matches!(kind, Some(Kind::Finished | Kind::Moved));
        let same_state = now.connection_state == old.connection_state;
        let count = if rank(&now.connection_state) < rank(&old.connection_state) {
            &mut self.regressed
        } else if same_state && now.expires + passed + LISTED < old.expires {
            &mut self.timers_back
        } else if is_silent && now.expires + passed > old.expires + LISTED {
            &mut self.timers_reset
        } else {
            return;
        };
        *count += 1;
        self.tell(key, old, &said);
    }

    fn tell(
        &mut self,
        (protocol, client, service): &ConnectionKey,
        old: &ConnectionRow,
        now: &str,
    ) {
        if self.first.len() < TOLD_MAX {
            let ConnectionRow {
                expires,
                connection_state,
                destination,
            } = old;
            let left = expires.as_secs();
            self.first.push(format!(
                "{protocol} {client} {service}: {destination} {connection_state} {left} s, then {now}"
            ));
        }
    }
}

/// How far a connection has come. A protocol with one state stays where it is.
fn rank(state: &str) -> u8 {
    match state {
        "NONE" => 0,
        "SYN_SENT" | "SYN_RECV" | "SYNACK" => 1,
        "FIN_WAIT" | "CLOSE_WAIT" | "LAST_ACK" => 3,
        "TIME_WAIT" | "CLOSE" => 4,
        // ESTABLISHED, UDP.
        _ => 2,
    }
}

impl Drill<'_> {
    /// Remembers the connections of a director.
    pub(crate) fn regard(&mut self, name: &str, director: &str) -> Result<()> {
        let snapshot = self.director(director)?.snapshot()?;
        let all = snapshot.connections.len();
        let moved = SERVERS.map(|server| server.to_string());
        let kinds = count_kinds(&snapshot, &moved[1]);
        for (figure, count) in kinds {
            self.count_figure(format!("{name}.{figure}"), count);
        }
        self.regarded.insert(name.to_owned(), snapshot);
        self.event(format!("{name}: {director} lists {all} connections"));
        Ok(())
    }

    /// Compares the connections of a director with those remembered.
    pub(crate) fn unharmed(&mut self, name: &str, director: &str) -> Result<()> {
        let after = self.director(director)?.snapshot()?;
        let before = self.regarded.get(name).context("nothing is remembered")?;
        let harm = Harm::between(before, &after);
        let backwards = compare(before, &after).counters_backwards;
        for (figure, count) in [
            ("compared", harm.compared),
            ("replaced", harm.replaced),
            ("gone", harm.gone),
            ("regressed", harm.regressed),
            ("timers_back", harm.timers_back),
            ("timers_reset", harm.timers_reset),
            ("counters_backwards", backwards),
        ] {
            self.count_figure(format!("{name}.{figure}"), count);
        }
        self.event(format!(
            "{name}: of {} connections of {director} {} replaced, {} gone, {} regressed; timers: {} back, \
             {} reset",
            harm.compared,
            harm.replaced,
            harm.gone,
            harm.regressed,
            harm.timers_back,
            harm.timers_reset
        ));
        for one in harm.first {
            self.event(one);
        }
        Ok(())
    }

    /// What the sync daemons that run have counted.
    pub(crate) fn sync_counts(&mut self, name: &str) -> Result<()> {
        const SHOWN: [&str; 11] = [
            "offered",
            "entries",
            "drop_stale",
            "drop_queue_full",
            "drop_send_error",
            "applied_new",
            "applied_known",
            "applied_replaced",
            "ignored_late_end",
            "guarded",
            "drop_busy",
        ];
        let mut figures = Vec::new();
        for director in self.directors.iter().filter(|one| one.is_running()) {
            let status = director.status()?;
            for role in ["master", "backup"] {
                let counts = status.sync_counts(role);
                if counts.is_empty() {
                    continue;
                }
                let shown = SHOWN.iter().filter_map(|counter| {
                    let count = *counts.get(*counter)?;
                    Some((
                        format!("{name}.{}.{role}.{counter}", director.name()),
                        count,
                    ))
                });
                let shown: Vec<(String, u64)> = shown.collect();
                let words: Vec<String> = shown
                    .iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(figure, count)| {
                        let counter = figure.rsplit('.').next().unwrap_or_default();
                        format!("{counter} {count}")
                    })
                    .collect();
                figures.push((
                    format!(
                        "{name}: {} as {role}: {}",
                        director.name(),
                        words.join(", ")
                    ),
                    shown,
                ));
            }
        }
        for (line, shown) in figures {
            self.event(line);
            for (figure, count) in shown {
                self.count_figure(figure, count);
            }
        }
        Ok(())
    }

    /// Virtual addresses that an operator gives to a director.
    pub(crate) fn give_addresses(&mut self, director: &str) -> Result<()> {
        let outside = self.scenario.virtual_addresses().into_iter();
        let outside = outside.map(|address| (address, whole(address), "eth0"));
        let inside = self.scenario.inside_virtual_addresses().into_iter();
        let inside = inside.map(|address| (address, prefix_len(address), "eth1"));
        let mut batch = String::new();
        for (address, length, link) in outside.chain(inside) {
            writeln!(batch, "addr replace {address}/{length} dev {link}")?;
        }
        self.lab.ip(director, &batch)?;
        self.event(format!("{director} has the virtual addresses"));
        Ok(())
    }

    /// A host sends what is for an address to a director, whatever anybody announces.
    pub(crate) fn pin(&mut self, host: &str, address: IpAddr, director: &str) -> Result<()> {
        self.lead_to(host, address, director)?;
        self.event(format!("{host} sends to {director} what is for {address}"));
        Ok(())
    }

    /// The same without a word.
    pub(crate) fn lead_to(&self, host: &str, address: IpAddr, director: &str) -> Result<()> {
        let inside = self.scenario.inside_virtual_addresses().contains(&address);
        let link = if inside { "eth1" } else { "eth0" };
        let [a, b, c, d, e, f] = self.lab.ethernet(director, link)?;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let line = format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent\n");
        self.lab.ip(host, &line)
    }

    /// A host asks again who has an address.
    pub(crate) fn ask_again(&self, host: &str, address: IpAddr) -> Result<()> {
        self.lab
            .ip(host, &format!("neigh del {address} dev eth0\n"))
    }
}

/// Connections by hand that are in the state that they were brought into.
fn count_kinds(snapshot: &Snapshot, second: &str) -> BTreeMap<&'static str, u64> {
    let mut counts: BTreeMap<&'static str, u64> = [("finished", 0), ("moved", 0)].into();
    for ((_, client, _), row) in &snapshot.connections {
        let kind = client.parse::<SocketAddr>().ok().and_then(Kind::of);
        let state = row.connection_state.as_str();
        let is_second = row.destination.starts_with(second);
        match kind {
            Some(Kind::Finished) if state == "CLOSE_WAIT" => {
                *counts.entry("finished").or_default() += 1;
            }
            Some(Kind::Moved) if state == "ESTABLISHED" && is_second => {
                *counts.entry("moved").or_default() += 1;
            }
            Some(_) | None => {}
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn snapshot(rows: &[(&str, &str, &str, u64)], at: Instant) -> Snapshot {
        let rows = rows.iter().map(|(client, state, destination, secs)| {
            let key = ("TCP".to_owned(), (*client).to_owned(), "v".to_owned());
            let row = ConnectionRow {
                expires: Duration::from_secs(*secs),
                connection_state: (*state).to_owned(),
                destination: (*destination).to_owned(),
            };
            (key, row)
        });
        Snapshot {
            taken: at,
            counters: BTreeMap::new(),
            connections: rows.collect(),
        }
    }

    #[test]
    fn every_harm_has_its_count() {
        let then = Instant::now();
        let later = then + Duration::from_secs(5);
        // The second kind from last is finished, the last one moved.
        let rows = [
            ("a:1", "ESTABLISHED", "s1", 900),
            ("b:1", "FIN_WAIT", "s1", 100),
            ("c:1", "ESTABLISHED", "s1", 900),
            ("d:1", "ESTABLISHED", "s1", 5),
            ("e:1", "ESTABLISHED", "s1", 500),
            ("198.18.2.1:30000", "CLOSE_WAIT", "s1", 50),
            ("f:0", "NONE", "s1", 100),
        ];
        let before = snapshot(&rows, then);
        assert_eq!(Harm::between(&before, &before).first, [""; 0]);
        let after = [
            ("a:1", "ESTABLISHED", "s2", 900),
            ("b:1", "ESTABLISHED", "s1", 900),
            ("e:1", "ESTABLISHED", "s1", 400),
            ("198.18.2.1:30000", "CLOSE_WAIT", "s1", 60),
        ];
        let harm = Harm::between(&before, &snapshot(&after, later));
        let counts = [
            harm.compared,
            harm.replaced,
            harm.gone,
            harm.regressed,
            harm.timers_back,
            harm.timers_reset,
        ];
        assert_eq!(counts, [5, 1, 1, 1, 1, 1], "{harm:?}");
        assert_eq!(harm.first.len(), 5);
    }

    #[test]
    fn time_that_passes_and_packets_are_no_harm() {
        let then = Instant::now();
        let later = then + Duration::from_secs(5);
        let before = [
            ("a:1", "ESTABLISHED", "s1", 900),
            ("b:1", "ESTABLISHED", "s1", 800),
            ("198.18.3.1:30000", "ESTABLISHED", "s1", 890),
        ];
        let after = [
            ("a:1", "TIME_WAIT", "s1", 120),
            ("b:1", "ESTABLISHED", "s1", 900),
            ("198.18.3.1:30000", "ESTABLISHED", "s1", 885),
        ];
        let harm = Harm::between(&snapshot(&before, then), &snapshot(&after, later));
        let compared = Harm {
            compared: 3,
            ..Harm::default()
        };
        assert_eq!(harm, compared);
    }
}
