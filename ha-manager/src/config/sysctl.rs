//! The section `[sysctl]`: tunables by their kernel names (`net.ipv4.vs.NAME`).
//!
//! A name of the kernel that has no effect here yet takes its default alone, and a value without an
//! effect is refused: none is silently ignored.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;
use syncproto::wire::Version;
use toml::Spanned;

use super::Offence;

/// Unit: messages. The kernel's default depends on its memory; this is about 6 MB of messages.
const DEFAULT_SYNC_QLEN_MAX: u32 = 4096;
/// `ip_vs.h: IPVS_SYNC_REFRESH_PERIOD` is bounded by `INT_MAX / HZ` with Debian's HZ of 250.
const SYNC_REFRESH_SECS_MAX: i64 = i32::MAX as i64 / 250;

/// Unit: seconds. What `lblc_expiration` and `lblcr_expiration` can be, for the same reason.
const CACHE_EXPIRATION_SECS_MAX: i64 = SYNC_REFRESH_SECS_MAX;
/// Unit: seconds. `ip_vs.h: DEFAULT_EXPIRATION`, a day.
const DEFAULT_CACHE_EXPIRATION_SECS: u32 = 24 * 60 * 60;

/// Tunables with an effect here.
#[cfg(test)]
pub(super) const SUPPORTED: [&str; 19] = [
    "backup_only",
    "cache_bypass",
    "conn_reuse_mode",
    "expire_nodest_conn",
    "expire_quiescent_template",
    "lblc_expiration",
    "lblcr_expiration",
    "run_estimation",
    "secure_tcp",
    "sloppy_sctp",
    "sloppy_tcp",
    "sync_persist_mode",
    "sync_ports",
    "sync_qlen_max",
    "sync_refresh_period",
    "sync_retries",
    "sync_sock_size",
    "sync_threshold",
    "sync_version",
];

/// Tunables of the kernel without an effect here so far: their defaults, which alone are taken, and
/// what any other value would ask for. The default of `est_cpulist` is a list of processors that
/// depends on the host.
pub(super) const NOT_YET: [(&str, Option<i64>, &str); 16] = [
    ("am_droprate", Some(10), "the defence against floods"),
    ("amemthresh", Some(1024), "the defence that follows memory"),
    ("conn_lfactor", Some(-4), "a connection table that grows"),
    ("conn_max", Some(1 << 30), "a limit below the table's size"),
    ("conntrack", Some(0), "netfilter's connection tracking"),
    ("debug_level", Some(0), "the kernel's debug messages"),
    ("drop_entry", Some(0), "the defence against floods"),
    ("drop_packet", Some(0), "the defence against floods"),
    ("est_cpulist", None, "processors of its own for estimation"),
    ("est_nice", Some(0), "a thread of its own for estimation"),
    ("ignore_tunneled", Some(0), "tunnels"),
    ("nat_icmp_send", Some(0), "ICMP errors to real servers"),
    ("pmtu_disc", Some(1), "tunnels"),
    ("schedule_icmp", Some(0), "scheduling by ICMP errors"),
    (
        "snat_reroute",
        Some(1),
        "replies on the route of their server",
    ),
    ("svc_lfactor", Some(-3), "a service table that grows"),
];

/// The tunables, with the kernel's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// While the backup sync daemon runs, requests are not handled. Default 0.
    pub backup_only: bool,
    /// A packet by mark for which there is no real server goes on to where it was addressed.
    /// Default 0.
    pub cache_bypass: bool,
    /// A 32-bit number as it stands; its bits count. Default 1.
    pub conn_reuse_mode: u32,
    /// Default 0.
    pub expire_nodest_conn: bool,
    /// Templates of quiesced servers are not used any more. Default 0.
    pub expire_quiescent_template: bool,
    /// How long `lblc` remembers a destination that is not used. Unit: seconds; default 86400.
    pub lblc_expiration_secs: u32,
    /// The same of `lblcr`, and how long a set of servers stays before it shrinks.
    pub lblcr_expiration_secs: u32,
    /// Rates are estimated. Default 1.
    pub run_estimation: bool,
    /// 0 (default) or 3: the second table of TCP timeouts is in use.
    pub secure_tcp: u32,
    /// Default 0.
    pub sloppy_sctp: bool,
    /// Default 0.
    pub sloppy_tcp: bool,
    pub sync: SyncTunables,
}

impl Default for Sysctl {
    fn default() -> Sysctl {
        Sysctl {
            backup_only: false,
            cache_bypass: false,
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            lblc_expiration_secs: DEFAULT_CACHE_EXPIRATION_SECS,
            lblcr_expiration_secs: DEFAULT_CACHE_EXPIRATION_SECS,
            run_estimation: true,
            secure_tcp: 0,
            sloppy_sctp: false,
            sloppy_tcp: false,
            sync: SyncTunables::default(),
        }
    }
}

/// When connections are synchronised, and how much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTunables {
    /// Unit: packets. Kernel name: first value of `sync_threshold`; default 3.
    pub threshold: u32,
    /// Unit: packets; 0 sends once. Kernel name: second value of `sync_threshold`; default 50.
    pub period: u32,
    /// Unit: seconds; 0 is off, the default. Kernel name `sync_refresh_period`.
    pub refresh_secs: u32,
    /// 0 (default) to 3. Kernel name `sync_retries`.
    pub retries: u32,
    /// Connections under a template are not synchronised. Default 0.
    pub persist_mode: bool,
    /// Unit: messages. Default 4096.
    pub qlen_max: u32,
    /// Unit: bytes of socket buffer; 0 (default) leaves the system's. Kernel name
    /// `sync_sock_size`.
    pub sock_size: u32,
    /// Threads, each with a port of its own; a power of two, 1 (default) to 64. Kernel name
    /// `sync_ports`.
    pub ports: u16,
    /// 0 or 1, the default. Kernel name `sync_version`.
    pub version: Version,
}

impl Default for SyncTunables {
    fn default() -> SyncTunables {
        SyncTunables {
            threshold: 3,
            period: 50,
            refresh_secs: 0,
            retries: 0,
            persist_mode: false,
            qlen_max: DEFAULT_SYNC_QLEN_MAX,
            sock_size: 0,
            ports: 1,
            version: Version::V1,
        }
    }
}

/// Names are data, so that those of the kernel can be told from mistakes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct RawSysctl(BTreeMap<Spanned<String>, Spanned<RawValue>>);

/// A number, or the words `sysctl` would print.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a tunable is a number, or numbers in a string")]
enum RawValue {
    Number(i64),
    Text(String),
}

impl RawSysctl {
    pub(super) fn resolve(self) -> Result<Sysctl, Offence> {
        let mut sysctl = Sysctl::default();
        for (name, value) in self.0 {
            sysctl.set(&name, &value)?;
        }
        Ok(sysctl)
    }
}

impl Sysctl {
    fn set(&mut self, name: &Spanned<String>, value: &Spanned<RawValue>) -> Result<(), Offence> {
        let sync = &mut self.sync;
        let full_name = name.get_ref().as_str();
        let name_text = full_name.strip_prefix("net.ipv4.vs.").unwrap_or(full_name);
        let entry = Entry {
            name: name_text,
            value,
        };
        match name_text {
            "backup_only" => self.backup_only = entry.switch()?,
            "cache_bypass" => self.cache_bypass = entry.switch()?,
            "conn_reuse_mode" => self.conn_reuse_mode = entry.any()?.cast_unsigned(),
            "expire_nodest_conn" => self.expire_nodest_conn = entry.switch()?,
            "expire_quiescent_template" => self.expire_quiescent_template = entry.switch()?,
            "lblc_expiration" => self.lblc_expiration_secs = entry.cache_expiration()?,
            "lblcr_expiration" => self.lblcr_expiration_secs = entry.cache_expiration()?,
            "run_estimation" => self.run_estimation = entry.switch()?,
            "secure_tcp" => self.secure_tcp = entry.secure_tcp()?,
            "sloppy_sctp" => self.sloppy_sctp = entry.switch()?,
            "sloppy_tcp" => self.sloppy_tcp = entry.switch()?,
            "sync_persist_mode" => sync.persist_mode = entry.switch()?,
            "sync_ports" => entry.only_one_port()?,
            "sync_qlen_max" => sync.qlen_max = entry.within(1, i64::from(u32::MAX))?,
            "sync_refresh_period" => sync.refresh_secs = entry.within(0, SYNC_REFRESH_SECS_MAX)?,
            "sync_retries" => sync.retries = entry.within(0, 3)?,
            "sync_sock_size" => sync.sock_size = entry.within(0, i64::from(i32::MAX))?,
            "sync_threshold" => entry.threshold(sync)?,
            "sync_version" => entry.only_version_1()?,
            other => {
                let Some((_, default, what)) = NOT_YET.iter().find(|(known, ..)| *known == other)
                else {
                    let reason = format!("unknown tunable {other:?}");
                    return Err(Offence::new(name, reason));
                };
                entry.only_default(*default, what)?;
            }
        }
        Ok(())
    }
}

/// One line of the section.
#[derive(Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    value: &'a Spanned<RawValue>,
}

impl Entry<'_> {
    fn refuse<T>(self, reason: &str) -> Result<T, Offence> {
        let text = match self.value.get_ref() {
            RawValue::Number(number) => number.to_string(),
            RawValue::Text(text) => format!("{text:?}"),
        };
        let reason = format!("{} {text} {reason}", self.name);
        Err(Offence::new(self.value, reason))
    }

    /// The numbers as typed, at most two.
    fn numbers(self) -> Option<Vec<i64>> {
        match self.value.get_ref() {
            RawValue::Number(number) => Some(vec![*number]),
            RawValue::Text(text) => {
                let words = text.split_whitespace().map(i64::from_str);
                words.collect::<Result<Vec<i64>, _>>().ok()
            }
        }
    }

    fn number(self) -> Result<i64, Offence> {
        match self.numbers().as_deref() {
            Some([number]) => Ok(*number),
            Some(_) | None => self.refuse("is not a number"),
        }
    }

    fn within(self, least: i64, most: i64) -> Result<u32, Offence> {
        let number = self.number()?;
        match u32::try_from(number) {
            Ok(value) if (least..=most).contains(&number) => Ok(value),
            Ok(_) | Err(_) => self.refuse(&format!("is not between {least} and {most}")),
        }
    }

    /// A number as the kernel keeps it.
    fn any(self) -> Result<i32, Offence> {
        match i32::try_from(self.number()?) {
            Ok(value) => Ok(value),
            Err(_) => self.refuse(&format!("is not between {} and {}", i32::MIN, i32::MAX)),
        }
    }

    /// As in the kernel every number but 0 is on.
    fn switch(self) -> Result<bool, Offence> {
        Ok(self.any()? != 0)
    }

    fn cache_expiration(self) -> Result<u32, Offence> {
        self.within(0, CACHE_EXPIRATION_SECS_MAX)
    }

    /// What has no effect here may stand there with the value that asks for none.
    fn only_default(self, default: Option<i64>, what: &str) -> Result<(), Offence> {
        match (default, self.numbers().as_deref()) {
            (Some(default), Some([number])) if *number == default => Ok(()),
            (Some(default), _) => self.refuse(&format!(
                "is not supported by this director yet, it has only the default {default}: {what}"
            )),
            (None, _) => self.refuse(&format!("is not supported by this director yet: {what}")),
        }
    }

    fn secure_tcp(self) -> Result<u32, Offence> {
        match self.within(0, 3)? {
            value @ (0 | 3) => Ok(value),
            _ => self
                .refuse("(the defence that follows memory) is not supported by this director yet"),
        }
    }

    fn only_one_port(self) -> Result<(), Offence> {
        match self.number()? {
            1 => Ok(()),
            ports if ports > 0 && ports.count_ones() == 1 => {
                self.refuse("is not supported by this director yet, it has one")
            }
            _ => self.refuse("is not a power of two"),
        }
    }

    fn only_version_1(self) -> Result<(), Offence> {
        match self.within(0, 1)? {
            1 => Ok(()),
            _ => self.refuse("is not supported by this director yet, it sends version 1"),
        }
    }

    /// One value changes the first only; `ip_vs_ctl.c: proc_do_sync_threshold`.
    fn threshold(self, to: &mut SyncTunables) -> Result<(), Offence> {
        let numbers = self.numbers().unwrap_or_default();
        let (threshold, period) = match numbers[..] {
            [threshold] => (threshold, i64::from(to.period)),
            [threshold, period] => (threshold, period),
            _ => return self.refuse("is not a threshold and a period"),
        };
        let most = i64::from(i32::MAX);
        let within = (0..=most).contains(&threshold) && (0..=most).contains(&period);
        if !within || period != 0 && threshold >= period {
            return self.refuse("needs a threshold below the period, or a period of 0");
        }
        to.threshold = u32::try_from(threshold).unwrap_or(u32::MAX);
        to.period = u32::try_from(period).unwrap_or(u32::MAX);
        Ok(())
    }
}
