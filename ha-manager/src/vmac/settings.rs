//! Settings of the macvlans and of the interfaces below them (`ip-sysctl`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};

use tracing::warn;

use super::{VmacError, VmacSpec};

/// Settings of the interface below, where IPv4 addresses are on the macvlan: its stack answers ARP
/// requests for its own addresses alone, and names no other in its own. Kept in this order.
const BELOW: [(&str, u32); 3] = [("arp_ignore", 1), ("arp_filter", 1), ("arp_announce", 2)];
/// IPv4 settings of the macvlan. It answers for its own addresses only, whatever else the host has;
/// what comes from the peer may have an address of this host, or one whose way back is another.
const OWN: [(&str, u32); 3] = [
    ("arp_ignore", 1),
    ("accept_local", 1),
    ("promote_secondaries", 1),
];
/// IPv6 settings of a macvlan that has it: no addresses but those it is given, and nothing learned from
/// routers (`addr_gen_mode` 1 is none).
const OWN_IPV6: [(&str, u32); 3] = [("addr_gen_mode", 1), ("accept_ra", 0), ("autoconf", 0)];

/// Aliases of our macvlans begin so.
const ALIAS: &str = "tandem vmac:";

/// What an interface below was like before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Below {
    pub(super) index: u32,
    /// Of [`BELOW`], those that were changed.
    changed: BTreeMap<String, u32>,
}

/// Whether a macvlan with this alias was made by us.
pub(super) fn is_ours(alias: &str) -> bool {
    alias.starts_with(ALIAS)
}

impl Below {
    pub(super) fn read(index: u32, spec: &VmacSpec) -> Result<Below, VmacError> {
        let mut changed = BTreeMap::new();
        for (name, wanted) in BELOW {
            let value = read(&spec.interface, name).map_err(failed(spec, &spec.interface, name))?;
            if value < wanted {
                changed.insert(name.to_owned(), value);
            }
        }
        Ok(Below { index, changed })
    }

    /// `tandem vmac: arp_filter=0 arp_ignore=0`.
    pub(super) fn to_alias(&self) -> String {
        let mut alias = ALIAS.to_owned();
        for (name, value) in &self.changed {
            alias.push_str(&format!(" {name}={value}"));
        }
        alias
    }

    /// `None` when the alias is not ours.
    pub(super) fn from_alias(index: u32, alias: &str) -> Option<Below> {
        let words = alias.strip_prefix(ALIAS)?.split_whitespace();
        let setting = |word: &str| {
            let (name, value) = word.split_once('=')?;
            BELOW.iter().find(|(known, _)| *known == name)?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Some(Below {
            index,
            changed: words.filter_map(setting).collect(),
        })
    }

    /// What either says.
    pub(super) fn or(mut self, other: Below) -> Below {
        for (name, value) in other.changed {
            self.changed.entry(name).or_insert(value);
        }
        self
    }

    /// Puts back what is still as we set it, where the interface is still the one that was changed.
    pub(super) fn restore(&self, interface: &str) {
        let now = nix::net::if_::if_nametoindex(interface);
        if now.ok() != Some(self.index) {
            return;
        }
        for (name, set) in BELOW {
            let Some(before) = self.changed.get(name) else {
                continue;
            };
            if read(interface, name).ok() != Some(set) {
                continue;
            }
            if let Err(error) = write(&path("ipv4", interface, name), *before) {
                warn!(interface, setting = name, %error, "not put back");
            }
        }
    }
}

/// Settings of the macvlan, before it goes up.
pub(super) fn prepare(spec: &VmacSpec) -> Result<(), VmacError> {
    let own = &spec.name;
    for (name, value) in OWN {
        write(&path("ipv4", own, name), value).map_err(failed(spec, own, name))?;
    }
    let filters = read("all", "rp_filter").map_err(failed(spec, "all", "rp_filter"))?;
    let loose = if filters == 0 { 0 } else { 2 };
    write(&path("ipv4", own, "rp_filter"), loose).map_err(failed(spec, own, "rp_filter"))?;
    if spec.ipv6 {
        for (name, value) in OWN_IPV6 {
            let path = path("ipv6", own, name);
            write(&path, value).map_err(|source| VmacError::Setting {
                name: own.clone(),
                path,
                source,
            })?;
        }
        return Ok(());
    }
    let path = path("ipv6", own, "disable_ipv6");
    match write(&path, 1) {
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done.map_err(|source| VmacError::Setting {
            name: own.clone(),
            path,
            source,
        }),
    }
}

/// Settings of the interface below, before the macvlan goes up. What is stricter stays.
pub(super) fn prepare_below(spec: &VmacSpec) -> Result<(), VmacError> {
    if !spec.ipv4 {
        return Ok(());
    }
    let below = &spec.interface;
    for (name, wanted) in BELOW {
        let set = || -> io::Result<()> {
            if read(below, name)? < wanted {
                write(&path("ipv4", below, name), wanted)?;
            }
            Ok(())
        };
        set().map_err(failed(spec, below, name))?;
    }
    Ok(())
}

/// The error of an IPv4 setting.
fn failed<'a>(
    spec: &'a VmacSpec,
    interface: &'a str,
    name: &'a str,
) -> impl FnOnce(io::Error) -> VmacError {
    move |source| VmacError::Setting {
        name: spec.name.clone(),
        path: path("ipv4", interface, name),
        source,
    }
}

fn path(family: &str, interface: &str, name: &str) -> String {
    format!("/proc/sys/net/{family}/conf/{interface}/{name}")
}

fn read(interface: &str, name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(path("ipv4", interface, name))?;
    let value = text.trim().parse();
    value.map_err(|_| io::Error::new(ErrorKind::InvalidData, text))
}

fn write(path: &str, value: u32) -> io::Result<()> {
    fs::write(path, value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_before_is_read_back_from_the_alias() {
        let changed =
            BTreeMap::from([("arp_ignore".to_owned(), 0), ("arp_announce".to_owned(), 1)]);
        let below = Below { index: 3, changed };
        let alias = below.to_alias();
        assert_eq!(alias, "tandem vmac: arp_announce=1 arp_ignore=0");
        assert!(is_ours(&alias));
        assert_eq!(Below::from_alias(3, &alias), Some(below));
    }

    #[test]
    fn an_alias_of_somebody_else_says_nothing() {
        assert_eq!(Below::from_alias(3, "uplink arp_ignore=0"), None);
        let odd = "tandem vmac: forwarding=0 arp_filter=x arp_ignore arp_announce=0";
        let below = Below::from_alias(3, odd).unwrap();
        assert_eq!(below.to_alias(), "tandem vmac: arp_announce=0");
    }
}
