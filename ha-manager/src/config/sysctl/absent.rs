//! Tunables of the kernel without an effect here so far.

use std::fs;

use super::slot;

/// The processors this host can have, as a list.
const PROCESSORS: &str = "/sys/devices/system/cpu/possible";

/// A tunable whose default alone is taken.
pub(in crate::config) struct Absent {
    pub(in crate::config) name: &'static str,
    pub(in crate::config) default: Only,
    /// What any other value would ask for.
    what: &'static str,
}

/// What stands there with the value that asks for no effect.
#[derive(Clone, Copy)]
pub(in crate::config) enum Only {
    Number(i32),
    /// All processors of the host, as a list.
    Processors,
}

const fn absent(name: &'static str, default: i32, what: &'static str) -> Absent {
    Absent {
        name,
        default: Only::Number(default),
        what,
    }
}

/// All of them, by name.
pub(in crate::config) const NOT_YET: [Absent; 16] = [
    absent("am_droprate", 10, "the defence against floods"),
    absent("amemthresh", 1024, "the defence that follows memory"),
    absent("conn_lfactor", -4, "a connection table that grows"),
    absent("conn_max", 1 << 30, "a limit below the table's size"),
    absent("conntrack", 0, "netfilter's connection tracking"),
    absent("debug_level", 0, "the kernel's debug messages"),
    absent("drop_entry", 0, "the defence against floods"),
    absent("drop_packet", 0, "the defence against floods"),
    Absent {
        name: "est_cpulist",
        default: Only::Processors,
        what: "processors of its own for estimation",
    },
    absent("est_nice", 0, "a thread of its own for estimation"),
    absent("ignore_tunneled", 0, "tunnels"),
    absent("nat_icmp_send", 0, "ICMP errors to real servers"),
    absent("pmtu_disc", 1, "tunnels"),
    absent("schedule_icmp", 0, "scheduling by ICMP errors"),
    absent("snat_reroute", 1, "replies on the route of their server"),
    absent("svc_lfactor", -3, "a service table that grows"),
];

pub(super) fn find(name: &str) -> Option<&'static Absent> {
    NOT_YET.iter().find(|tunable| tunable.name == name)
}

impl Absent {
    /// The default, as the kernel prints it.
    pub(in crate::config) fn text(&self) -> String {
        match self.default {
            Only::Number(number) => number.to_string(),
            Only::Processors => {
                let list = fs::read_to_string(PROCESSORS).unwrap_or_default();
                list.trim().to_owned()
            }
        }
    }

    /// The default may be written; anything else gives back why not.
    pub(super) fn check(&self, text: &str) -> Result<(), String> {
        let is_default = match self.default {
            Only::Number(default) => slot::number(text) == Ok(default.into()),
            Only::Processors => text.trim() == self.text(),
        };
        if is_default {
            return Ok(());
        }
        let (default, what) = (self.text(), self.what);
        Err(format!(
            "is not supported by this director yet, it has only the default {default}: {what}"
        ))
    }
}
