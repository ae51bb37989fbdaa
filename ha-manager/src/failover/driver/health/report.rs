//! What an operator is told of the election: problems, by router.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use vrrp::Priority;
use vrrp::wire::MacAddr;

use super::NOT_YET_READY;
use crate::config::VrrpConfig;
use crate::director::Director;
use crate::problems::Problems;
use crate::vrrp_driver::{ElectionView, STARTS_LATER};

/// Who claims an address counts as having it for this long: it is asked again before.
pub(in crate::failover::driver) const CLAIM_HOLD: Duration = Duration::from_secs(15);
/// What was seen counts as a problem for this long.
const HOLD: Duration = Duration::from_secs(60);
/// The same for what goes on all the time while it is there.
const SHORT_HOLD: Duration = Duration::from_secs(10);
/// Addresses that a problem names.
const CLAIMS_SHOWN: usize = 3;

/// Counters of adverts that were sent in earnest, by a node that is configured otherwise.
const OF_ANOTHER_CONFIGURATION: &[&str] = &[
    "refused_address_count",
    "refused_address_list",
    "refused_auth_digest",
    "refused_auth_header",
    "refused_auth_password",
    "refused_auth_type",
    "refused_checksum",
    "refused_interval",
    "refused_peer_unknown",
    "refused_version",
];

/// `grown` are the counters that have; `others_own` says that another router is, or was taken for, the
/// owner of the addresses.
pub(super) fn adverts(
    config: &VrrpConfig,
    grown: &[&str],
    others_own: bool,
    problems: &mut Problems,
) {
    let (name, interface) = (&config.name, &config.interface);
    let mut seen = |key: &str, what: String, hold| {
        let (key, text) = (format!("{key} {name}"), format!("{name}: {what}"));
        problems.seen(&key, text, hold, Instant::now());
    };
    let refused: Vec<&str> = (grown.iter())
        .filter(|name| OF_ANOTHER_CONFIGURATION.contains(name))
        .map(|name| name.trim_start_matches("refused_"))
        .collect();
    if !refused.is_empty() {
        let reasons = refused.join(", ");
        let text = format!(
            "adverts of another router are refused on {interface} ({reasons}): is it configured \
             alike?"
        );
        seen("vrrp adverts", text, SHORT_HOLD);
    }
    if grown.contains(&"same_address") {
        let text = format!("another router on {interface} has this one's address and priority");
        seen("vrrp address", text, SHORT_HOLD);
    }
    let both_own = Priority(config.priority) == Priority::OWNER && others_own;
    if both_own || grown.contains(&"other_owner") {
        let text = format!(
            "another router with priority 255 is heard on {interface}; two masters by configuration"
        );
        seen("vrrp owner", text, HOLD);
    }
}

/// The election has a fault, or none any more.
pub(in crate::failover::driver) fn report_fault(
    config: &VrrpConfig,
    fault: Option<&str>,
    problems: &mut Problems,
) {
    let key = format!("vrrp fault {}", config.name);
    match fault {
        Some(NOT_YET_READY | STARTS_LATER) | None => problems.clear(&key),
        Some(reason) => {
            let text = format!("{}: {reason}, this node cannot be active", config.name);
            problems.set(&key, text, Instant::now());
        }
    }
}

/// Two masters by configuration. Gives back how long that counts.
pub(in crate::failover::driver) fn report_rival(
    config: &VrrpConfig,
    view: &ElectionView,
    director: &mut Director,
) -> Duration {
    let who = view.rival.map_or(String::new(), |(address, priority)| {
        format!(" ({address}, priority {priority})")
    });
    let text = format!(
        "{}: another master{who} is heard on {} all the time while this node is master; \
         two masters by configuration?",
        config.name, config.interface
    );
    let hold = SHORT_HOLD.max(config.advert * 3);
    let key = format!("vrrp rival {}", config.name);
    director.problems.seen(&key, text, hold, Instant::now());
    hold
}

/// Another node's sync master sends although every virtual router is active here.
pub(in crate::failover::driver) fn report_other_sync_master(
    interface: &str,
    hold: Duration,
    problems: &mut Problems,
) {
    let text = format!(
        "sync: another sync master with this pair's id sends on {interface} while this node is \
         active: two active nodes?"
    );
    problems.seen("sync split", text, hold, Instant::now());
}

/// Somebody else takes virtual addresses away while this node is active, or adds them while it is not.
/// Whoever does so again and again is seen all the time, and written to the log once.
pub(in crate::failover::driver) fn report_meddler(
    config: &VrrpConfig,
    is_active: bool,
    addresses: &[String],
    problems: &mut Problems,
) {
    let what = if is_active {
        "removed by somebody else, and restored"
    } else {
        "added by somebody else while this node is not active, and removed"
    };
    let first: Vec<&str> = (addresses.iter().take(CLAIMS_SHOWN))
        .map(String::as_str)
        .collect();
    let (name, first) = (&config.name, first.join(", "));
    let text = format!("{name}: virtual addresses ({first}) were {what}");
    let key = format!("meddler {}", config.name);
    problems.seen(&key, text, SHORT_HOLD, Instant::now());
}

/// `backup_only` keeps a node from directing while a sync backup runs, as in the kernel: also one
/// that is active for some of its virtual routers.
pub(in crate::failover::driver) fn report_backup_only(gates: bool, problems: &mut Problems) {
    if gates {
        let text = "backup_only = 1 keeps this node from directing requests although it is active: \
                    a sync backup runs too";
        problems.set("backup_only", text.to_owned(), Instant::now());
    } else {
        problems.clear("backup_only");
    }
}

/// Addresses are on another host: one problem for all of them.
pub(in crate::failover::driver) fn report_claims(
    config: &VrrpConfig,
    claims: &BTreeMap<IpAddr, MacAddr>,
    problems: &mut Problems,
) {
    let first = claims.iter().take(CLAIMS_SHOWN);
    let first: Vec<String> = first.map(|(at, mac)| format!("{at} ({mac})")).collect();
    let more = match claims.len().saturating_sub(CLAIMS_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!(
        "{}: another host answers for {}{more}",
        config.name,
        first.join(", ")
    );
    problems.seen(&claim_key(config), text, CLAIM_HOLD, Instant::now());
}

/// Who is not active does not care who answers.
pub(in crate::failover::driver) fn forget_claims(config: &VrrpConfig, problems: &mut Problems) {
    problems.clear(&claim_key(config));
}

fn claim_key(config: &VrrpConfig) -> String {
    format!("claim {}", config.name)
}

#[cfg(test)]
mod tests {
    use super::super::tests::config;
    use super::*;

    /// A network manager that deletes an address whenever it is restored, four times a second.
    #[test]
    fn who_meddles_with_addresses_all_the_time_is_one_problem() {
        let (mut problems, config) = (Problems::default(), config());
        for _ in 0..100 {
            let addresses = ["192.0.2.100".to_owned()];
            report_meddler(&config, true, &addresses, &mut problems);
        }
        let text =
            "VI_1: virtual addresses (192.0.2.100) were removed by somebody else, and restored";
        assert_eq!(problems.texts(), [text]);
        problems.expire(Instant::now() + SHORT_HOLD);
        assert_eq!(problems.texts(), [""; 0]);
    }

    #[test]
    fn however_many_addresses_are_claimed_there_is_one_problem() {
        let (mut problems, config) = (Problems::default(), config());
        let mut claims = BTreeMap::new();
        for last in 100..200 {
            claims.insert(IpAddr::from([192, 0, 2, last]), MacAddr([2, 0, 0, 0, 0, 9]));
            report_claims(&config, &claims, &mut problems);
        }
        let mac = "02:00:00:00:00:09";
        let text = format!(
            "VI_1: another host answers for 192.0.2.100 ({mac}), 192.0.2.101 ({mac}), 192.0.2.102 \
             ({mac}) and 97 more"
        );
        assert_eq!(problems.texts(), [text]);
        forget_claims(&config, &mut problems);
        assert_eq!(problems.texts(), [""; 0]);
    }
}
