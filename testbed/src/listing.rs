//! Reads the listings of `ipvsadm`, so that two moments can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What `ipvsadm -Ln --stats --exact` and `-Lnc` showed at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) taken: Instant,
    /// Counters by service, and by service and server.
    pub(crate) counters: BTreeMap<String, Vec<u64>>,
    pub(crate) connections: Connections,
}

pub(crate) type Connections = BTreeMap<ConnectionKey, ConnectionRow>;

/// Protocol, source and virtual address as listed.
pub(crate) type ConnectionKey = (String, String, String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionRow {
    pub(crate) expires: Duration,
    pub(crate) connection_state: String,
    pub(crate) destination: String,
}

/// What of an earlier snapshot a later one still has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) services_missing: u64,
    pub(crate) counters_backwards: u64,
    /// Connections that had time left and are gone.
    pub(crate) connections_missing: u64,
    /// Connections that are on another server.
    pub(crate) connections_moved: u64,
    pub(crate) connections_compared: u64,
}

/// # Errors
/// A line has another form than documented.
pub(crate) fn parse_stats(text: &str) -> Result<BTreeMap<String, Vec<u64>>> {
    let mut counters = BTreeMap::new();
    let mut service = String::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        let key = match first {
            "TCP" | "UDP" | "SCTP" | "FWM" => {
                service = format!("{first} {second}");
                service.clone()
            }
            "->" if !service.is_empty() => format!("{service} -> {second}"),
            _ => continue,
        };
        // A mark of IPv6 says so.
        let words = words.filter(|word| *word != "IPv6");
        let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
        counters.insert(
            key,
            numbers.with_context(|| format!("not counters: {line}"))?,
        );
    }
    Ok(counters)
}

/// # Errors
/// A line has another form than documented.
pub(crate) fn parse_connections(text: &str) -> Result<Connections> {
    let mut rows = BTreeMap::new();
    for line in text.lines().skip(2) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [protocol, expire, state, source, service, destination, ..] = words[..] else {
            anyhow::bail!("not a connection: {line}");
        };
        let (minutes, seconds) = expire.split_once(':').context(line.to_owned())?;
        let secs = minutes.parse::<u64>()? * 60 + seconds.parse::<u64>()?;
        let key = (protocol.to_owned(), source.to_owned(), service.to_owned());
        let row = ConnectionRow {
            expires: Duration::from_secs(secs),
            connection_state: state.to_owned(),
            destination: destination.to_owned(),
        };
        rows.insert(key, row);
    }
    Ok(rows)
}

/// `ActiveConn` and `InActConn` by service and server, from `ipvsadm -Ln`.
pub(crate) type Counts = BTreeMap<(String, String, String), (u64, u64)>;

/// # Errors
/// A line has another form than documented.
pub(crate) fn parse_counts(text: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut service = None;
    for line in text.lines().skip(3) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [protocol @ ("TCP" | "UDP" | "SCTP" | "FWM"), address, ..] => {
                service = Some((protocol, address));
            }
            ["->", server, _, _, active, inactive] => {
                let (protocol, address) = service.context("a server without a service")?;
                let key = (protocol.to_owned(), address.to_owned(), server.to_owned());
                counts.insert(key, (active.parse()?, inactive.parse()?));
            }
            _ => anyhow::bail!("not a service or server: {line}"),
        }
    }
    Ok(counts)
}

/// A template has no port of a client; it is no connection.
fn is_template(source: &str) -> bool {
    source.ends_with(":0")
}

/// A connection of a fwmark service has the address it was made to, so its server tells. That one
/// has no port.
fn by_mark(counts: &Counts, destination: &str) -> Option<(String, String, String)> {
    let (address, _) = destination.rsplit_once(':')?;
    let server = format!("{address}:0");
    let found = counts
        .keys()
        .find(|(protocol, _, known)| protocol == "FWM" && *known == server);
    found.cloned()
}

/// How many servers have other counters than their listed connections give.
pub(crate) fn miscounted(counts: &Counts, connections: &Connections) -> u64 {
    let mut recounted = Counts::new();
    let flows = connections
        .iter()
        .filter(|((_, source, _), _)| !is_template(source));
    for ((protocol, _, service), row) in flows {
        let mut key = (protocol.clone(), service.clone(), row.destination.clone());
        if !counts.contains_key(&key)
            && let Some(by_mark) = by_mark(counts, &row.destination)
        {
            key = by_mark;
        }
        let (active, inactive) = recounted.entry(key).or_default();
        // ip_vs_proto_tcp.c: tcp_state_active_table. Other protocols are never active.
        let is_active = matches!(
            row.connection_state.as_str(),
            "ESTABLISHED" | "SYN_SENT" | "SYN_RECV" | "SYNACK"
        );
        let counter = if is_active { active } else { inactive };
        *counter += 1;
    }
    let off = counts.iter().filter(|(key, counted)| {
        let again = recounted.get(key).copied().unwrap_or_default();
        again != **counted
    });
    let unknown = recounted.keys().filter(|key| !counts.contains_key(key));
    (off.count() + unknown.count()) as u64
}

/// What one director lists of the flows that another one directs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    /// Flows that the first one lists.
    pub(crate) offered: u64,
    /// Of them, listed by the other one with the same real server.
    pub(crate) listed: u64,
    pub(crate) missing: u64,
    pub(crate) wrong_server: u64,
    /// Listed without any time left.
    pub(crate) timers_dead: u64,
}

impl Followed {
    pub(crate) fn is_complete(&self) -> bool {
        self.offered > 0 && self.missing + self.wrong_server + self.timers_dead == 0
    }
}

pub(crate) fn follow(
    wanted: &BTreeSet<ConnectionKey>,
    here: &Connections,
    there: &Connections,
) -> Followed {
    let mut found = Followed::default();
    for key in wanted {
        let Some(row) = here.get(key) else {
            continue;
        };
        found.offered += 1;
        match there.get(key) {
            None => found.missing += 1,
            Some(other) if other.destination != row.destination => found.wrong_server += 1,
            Some(other) => {
                found.listed += 1;
                found.timers_dead += u64::from(other.expires.is_zero());
            }
        }
    }
    found
}

pub(crate) fn compare(before: &Snapshot, after: &Snapshot) -> Kept {
    let mut kept = Kept::default();
    for (name, old) in &before.counters {
        match after.counters.get(name) {
            None => kept.services_missing += 1,
            Some(new) => {
                let backwards = old.iter().zip(new).filter(|(old, new)| new < old).count();
                kept.counters_backwards += backwards as u64;
            }
        }
    }
    // Seconds are rounded in the listing, so the last one does not count.
    let passed = after.taken.duration_since(before.taken) + Duration::from_secs(1);
    for (key, old) in before
        .connections
        .iter()
        .filter(|(_, row)| row.expires > passed)
    {
        kept.connections_compared += 1;
        match after.connections.get(key) {
            None => kept.connections_missing += 1,
            Some(new) if new.destination != old.destination => kept.connections_moved += 1,
            Some(_) => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  192.0.2.100:80                     60      600      480    40000    90000
  -> 10.0.0.11:8080                     30      300      240    20000    45000
";
    const CONNECTIONS: &str = "\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 192.0.2.10:40000   192.0.2.100:80     10.0.0.11:8080
UDP 00:02  UDP         192.0.2.10:40001   192.0.2.100:53     10.0.0.11:5353
";

    #[test]
    fn counters_are_read_by_service_and_server() {
        let counters = parse_stats(STATS).unwrap();
        assert_eq!(
            counters["TCP 192.0.2.100:80"],
            [60, 600, 480, 40_000, 90_000]
        );
        assert_eq!(counters["TCP 192.0.2.100:80 -> 10.0.0.11:8080"][0], 30);
        assert_eq!(counters.len(), 2);
    }

    #[test]
    fn connections_are_read_with_their_time_left() {
        let rows = parse_connections(CONNECTIONS).unwrap();
        let tcp = rows
            .values()
            .find(|row| row.connection_state == "ESTABLISHED")
            .unwrap();
        assert_eq!(tcp.expires, Duration::from_secs(899));
        assert_eq!(tcp.destination, "10.0.0.11:8080");
    }

    #[test]
    fn everything_is_kept_between_equal_snapshots() {
        let before = snapshot();
        let kept = compare(&before, &before);
        assert_eq!(
            kept,
            Kept {
                connections_compared: 2,
                ..Kept::default()
            }
        );
    }

    #[test]
    fn a_lost_connection_counts_only_if_it_had_time_left() {
        let before = snapshot();
        let mut after = snapshot();
        after.taken = before.taken + Duration::from_secs(10);
        after.connections.clear();
        let kept = compare(&before, &after);
        assert_eq!(
            (kept.connections_compared, kept.connections_missing),
            (1, 1)
        );
    }

    #[test]
    fn moved_connections_smaller_counters_and_lost_services_are_seen() {
        let before = snapshot();
        let mut after = snapshot();
        for row in after.connections.values_mut() {
            row.destination = "10.0.0.12:8080".to_owned();
        }
        after
            .counters
            .remove("TCP 192.0.2.100:80 -> 10.0.0.11:8080");
        after.counters.insert(
            "TCP 192.0.2.100:80".to_owned(),
            vec![59, 600, 480, 40_000, 1],
        );
        let kept = compare(&before, &after);
        assert_eq!(kept.connections_moved, 2);
        assert_eq!(kept.counters_backwards, 2);
        assert_eq!(kept.services_missing, 1);
    }

    const SERVICES: &str = "\
IP Virtual Server version 1.2.1 (size=65536)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.100:80 rr
  -> 10.0.0.11:8080               Masq    1      1          0
  -> 10.0.0.12:8080               Masq    1      0          0
UDP  192.0.2.100:53 rr
  -> 10.0.0.11:5353               Masq    1      0          1
";

    #[test]
    fn counters_are_recounted_from_connections() {
        let counts = parse_counts(SERVICES).unwrap();
        let mut connections = parse_connections(CONNECTIONS).unwrap();
        assert_eq!(counts.len(), 3);
        assert_eq!(miscounted(&counts, &connections), 0);
        for row in connections.values_mut() {
            row.connection_state = "FIN_WAIT".to_owned();
        }
        assert_eq!(miscounted(&counts, &connections), 1);
        for row in connections.values_mut() {
            row.destination = "10.0.0.13:8080".to_owned();
        }
        assert_eq!(
            miscounted(&counts, &connections),
            4,
            "two too many, two unknown"
        );
    }

    #[test]
    fn templates_are_no_connections_and_marks_are_found_by_their_servers() {
        let services = "\
IP Virtual Server version 1.2.1 (size=65536)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  7 rr persistent 300
  -> 10.0.0.11:0                  Masq    1      1          0
";
        let connections = "\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 192.0.2.10:40000   192.0.2.100:80     10.0.0.11:80
IP  04:59  ASSURED     192.0.2.10:0       0.0.0.7:0          10.0.0.11:0
";
        let counts = parse_counts(services).unwrap();
        let connections = parse_connections(connections).unwrap();
        assert_eq!((counts.len(), connections.len()), (1, 2));
        assert_eq!(miscounted(&counts, &connections), 0);
    }

    #[test]
    fn flows_are_followed_to_the_other_director() {
        let here = parse_connections(CONNECTIONS).unwrap();
        let wanted: BTreeSet<ConnectionKey> = here.keys().cloned().collect();
        let mut there = here.clone();
        assert!(follow(&wanted, &here, &there).is_complete());
        assert!(!follow(&BTreeSet::new(), &here, &there).is_complete());
        there.pop_first();
        let last = there.values_mut().next().unwrap();
        last.destination = "10.0.0.13:8080".to_owned();
        let found = follow(&wanted, &here, &there);
        assert_eq!((found.offered, found.missing), (2, 1));
        assert_eq!((found.listed, found.wrong_server), (0, 1));
        let last = there.values_mut().next().unwrap();
        (last.destination, last.expires) = ("10.0.0.11:5353".to_owned(), Duration::ZERO);
        assert_eq!(follow(&wanted, &here, &there).timers_dead, 1);
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            taken: Instant::now(),
            counters: parse_stats(STATS).unwrap(),
            connections: parse_connections(CONNECTIONS).unwrap(),
        }
    }
}
