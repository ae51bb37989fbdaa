//! The tables of two directors, as their `/proc` files and `ipvsadm` show them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

/// Protocol, client and virtual address.
pub(crate) type Key = (String, SocketAddr, SocketAddr);

/// A line of `ip_vs_conn_sync`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) dest: SocketAddr,
    pub(crate) state: String,
    /// `LOCAL` or `SYNC`.
    pub(crate) origin: String,
    /// Unit: seconds.
    pub(crate) expires: i64,
}

pub(crate) type Entries = BTreeMap<Key, Entry>;

/// # Errors
/// A line has another form than the kernel gives it.
pub(crate) fn parse(text: &str) -> Result<Entries> {
    let mut entries = Entries::new();
    for line in text.lines().skip(1) {
        let wrong = || format!("not an entry: {line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [
            protocol,
            client,
            client_port,
            virt,
            virt_port,
            dest,
            dest_port,
            state,
            origin,
            expires,
        ] = words[..]
        else {
            anyhow::bail!(wrong());
        };
        let [client, virt, dest] = [(client, client_port), (virt, virt_port), (dest, dest_port)]
            .map(|(address, port)| end(address, port));
        let key = (
            protocol.to_owned(),
            client.with_context(wrong)?,
            virt.with_context(wrong)?,
        );
        let entry = Entry {
            dest: dest.with_context(wrong)?,
            state: state.to_owned(),
            origin: origin.to_owned(),
            expires: expires.parse().with_context(wrong)?,
        };
        entries.insert(key, entry);
    }
    Ok(entries)
}

/// An IPv4 address is eight digits, an IPv6 one stands in brackets or is eight groups.
fn end(address: &str, port: &str) -> Option<SocketAddr> {
    let port = u16::from_str_radix(port, 16).ok()?;
    let bare = address.trim_matches(|c| c == '[' || c == ']');
    let address = if bare.contains(':') {
        IpAddr::V6(bare.parse::<Ipv6Addr>().ok()?)
    } else {
        IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(bare, 16).ok()?))
    };
    Some(SocketAddr::new(address, port))
}

/// How a backup's table differs from its master's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    pub(crate) missing: u64,
    /// In the backup's only.
    pub(crate) extra: u64,
    pub(crate) dest: u64,
    pub(crate) state: u64,
    pub(crate) timer: u64,
    /// Not marked as made here by the master, and as told by the backup.
    pub(crate) origin: u64,
    /// Servers with other numbers of active or inactive connections.
    pub(crate) counters: u64,
    /// The first few, in words.
    pub(crate) first: Vec<String>,
}

/// Differences that are told in words.
const TOLD_MAX: usize = 4;

impl Differences {
    /// Timers may differ by a tolerance in seconds.
    pub(crate) fn between(master: &Entries, backup: &Entries, tolerance: i64) -> Differences {
        let mut found = Differences::default();
        for (key, here) in master {
            let Some(there) = backup.get(key) else {
                found.missing += 1;
                found.tell(|| format!("{} is missing", title(key)));
                continue;
            };
            let pairs = [
                (&mut found.dest, here.dest != there.dest),
                (&mut found.state, here.state != there.state),
                (
                    &mut found.timer,
                    (here.expires - there.expires).abs() > tolerance,
                ),
                (
                    &mut found.origin,
                    here.origin != "LOCAL" || there.origin != "SYNC",
                ),
            ];
            let mut differs = false;
            for (count, is_other) in pairs {
                *count += u64::from(is_other);
                differs |= is_other;
            }
            if differs {
                found.tell(|| {
                    let side = |entry: &Entry| {
                        let Entry {
                            dest,
                            state,
                            origin,
                            expires,
                        } = entry;
                        format!("{dest} {state} {origin} {expires} s")
                    };
                    format!("{}: {} there, {} here", title(key), side(here), side(there))
                });
            }
        }
        for key in backup.keys().filter(|key| !master.contains_key(*key)) {
            found.extra += 1;
            found.tell(|| format!("{} is the backup's alone", title(key)));
        }
        found
    }

    pub(crate) fn count(&self) -> u64 {
        self.missing
            + self.extra
            + self.dest
            + self.state
            + self.timer
            + self.origin
            + self.counters
    }

    /// Adds those of another comparison.
    pub(crate) fn add(&mut self, more: Differences) {
        let pairs = [
            (&mut self.missing, more.missing),
            (&mut self.extra, more.extra),
            (&mut self.dest, more.dest),
            (&mut self.state, more.state),
            (&mut self.timer, more.timer),
            (&mut self.origin, more.origin),
            (&mut self.counters, more.counters),
        ];
        for (sum, count) in pairs {
            *sum += count;
        }
        self.first.extend(more.first);
    }

    /// Says what differs, if not too much has been said.
    pub(crate) fn tell(&mut self, what: impl FnOnce() -> String) {
        if self.first.len() < TOLD_MAX {
            self.first.push(what());
        }
    }
}

fn title((protocol, client, virt): &Key) -> String {
    format!("{protocol} {client} {virt}")
}

/// A template has no port of a client.
pub(crate) fn is_template((_, client, _): &Key) -> bool {
    client.port() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires
UDP C6120001 4E20 C0000264 1389 0A000015 3A99 UDP         LOCAL      299
TCP [2001:0db8:000c:0000:0000:0000:0000:0001] 0000 [2001:0db8:0002:0000:0000:0000:0000:0100] 1F43 [2001:0db8:0010:0000:0000:0000:0000:0021] 1F43 ASSURED     LOCAL      178
";

    #[test]
    fn both_families_are_read_and_a_template_is_known() {
        let entries = parse(TEXT).unwrap();
        let keys: Vec<&Key> = entries.keys().collect();
        assert_eq!(keys[0].1, "[2001:db8:c::1]:0".parse().unwrap());
        assert!(is_template(keys[0]) && !is_template(keys[1]));
        assert_eq!(entries[keys[1]].dest, "10.0.0.21:15001".parse().unwrap());
        assert!(parse("head\nTCP nonsense\n").is_err());
    }

    #[test]
    fn every_kind_of_difference_is_counted() {
        let master = parse(TEXT).unwrap();
        let mut backup = master.clone();
        for entry in backup.values_mut() {
            entry.origin = "SYNC".to_owned();
        }
        let equal = Differences::between(&master, &backup, 5);
        assert_eq!(equal, Differences::default());
        let (key, mut entry) = backup.pop_first().unwrap();
        (entry.state, entry.expires) = ("NONE".to_owned(), 170);
        backup.insert(key.clone(), entry);
        let found = Differences::between(&master, &backup, 5);
        assert_eq!((found.state, found.timer, found.count()), (1, 1, 2));
        let entry = backup.remove(&key).unwrap();
        backup.insert((key.0, key.2, key.1), entry);
        let found = Differences::between(&master, &backup, 5);
        assert_eq!((found.missing, found.extra, found.first.len()), (1, 1, 2));
        let origin = Differences::between(&master, &master, 5).origin;
        assert_eq!(origin, 2, "neither came by synchronisation");
    }
}
