//! Reads what `directord status --json` prints.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::role_counts::RoleCounts;

/// The status of a director at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Status(Value);

impl Status {
    /// # Errors
    /// Not an object in JSON.
    pub(crate) fn parse(text: &str) -> Result<Status> {
        let value: Value = serde_json::from_str(text)?;
        value.as_object().context("the status is no object")?;
        Ok(Status(value))
    }

    /// `active`, `standby` or `fault`; nothing for a director that is alone.
    pub(crate) fn role(&self) -> Option<&str> {
        self.0.get("role")?.as_str()
    }

    /// How long a virtual router has been in its state. Unit: milliseconds.
    pub(crate) fn since_ms(&self, router: usize) -> Option<u64> {
        self.0.get("vrrp")?.get(router)?.get("since_ms")?.as_u64()
    }

    /// `master`, `backup` or another state of a virtual router.
    pub(crate) fn router_state(&self, router: usize) -> Option<&str> {
        self.0.get("vrrp")?.get(router)?.get("state")?.as_str()
    }

    /// How the director sees that another one is master too: `adverts`, `arp`, `sync`.
    pub(crate) fn split_brain(&self) -> Vec<String> {
        let seen = self.0.get("split_brain").and_then(Value::as_array);
        let seen = seen.into_iter().flatten();
        let by = seen.filter_map(|one| one.get("seen_by")?.as_str());
        by.map(str::to_lowercase).collect()
    }

    /// What it has counted of its roles; nothing for a director that is alone.
    pub(crate) fn role_counts(&self) -> Option<RoleCounts> {
        let routers = self.0.get("vrrp")?.as_array()?;
        let transitions = routers
            .iter()
            .map(|router| router.get("transitions")?.as_u64());
        let transitions: Vec<u64> = transitions.collect::<Option<_>>()?;
        Some(RoleCounts {
            transitions: (!transitions.is_empty()).then_some(transitions)?,
            epoch: self.0.get("lease")?.get("epoch")?.as_u64()?,
        })
    }

    /// Packets by what became of them, since the tables were made.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let counters = self.0.get("counters").and_then(Value::as_object);
        let counters = counters.into_iter().flatten();
        counters
            .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
            .collect()
    }

    /// A counter of the running sync daemon with a role.
    pub(crate) fn sync_counter(&self, role: &str, name: &str) -> Option<u64> {
        self.sync_counters(role)?.get(name)?.as_u64()
    }

    /// Every counter of the running sync daemon with a role; none of one that does not run.
    pub(crate) fn sync_counts(&self, role: &str) -> BTreeMap<String, u64> {
        let counters = self.sync_counters(role).and_then(Value::as_object);
        let counters = counters.into_iter().flatten();
        counters
            .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)))
            .collect()
    }

    /// The sum of what a sync daemon refused, whatever the reason.
    pub(crate) fn sync_refused(&self, role: &str) -> Option<u64> {
        Some(sum_of(self.sync_counters(role)?, "refused_"))
    }

    /// The number of messages that a sync daemon refused whole.
    pub(crate) fn sync_refused_messages(&self, role: &str) -> Option<u64> {
        Some(sum_of(self.sync_counters(role)?, "refused_message_"))
    }

    /// The sum of what all virtual routers refused, whatever the reason.
    pub(crate) fn vrrp_refused(&self) -> Option<u64> {
        let routers = self.0.get("vrrp")?.as_array()?;
        let counters = routers.iter().filter_map(|router| router.get("counters"));
        Some(counters.map(|counters| sum_of(counters, "refused_")).sum())
    }

    fn sync_counters(&self, role: &str) -> Option<&Value> {
        let daemons = self.0.get("sync")?.as_array()?;
        let daemon = daemons
            .iter()
            .find(|daemon| daemon.get("role").and_then(Value::as_str) == Some(role));
        daemon?.get("counters")
    }
}

fn sum_of(counters: &Value, prefix: &str) -> u64 {
    let entries = counters.as_object().into_iter().flatten();
    let meant = entries.filter(|(name, _)| name.starts_with(prefix));
    meant.filter_map(|(_, count)| count.as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"mode": "vrrp", "role": "standby", "lease": {"epoch": 2},
        "vrrp": [{"state": "backup", "since_ms": 12, "transitions": 1,
                  "counters": {"adverts_received": 9, "refused_ttl": 2, "refused_checksum": 1}}],
        "sync": [{"role": "backup", "counters": {"entries": 7, "refused_flags": 3,
                  "refused_message_size": 1}}]}"#;

    #[test]
    fn roles_and_counters_are_found() {
        let status = Status::parse(TEXT).unwrap();
        assert_eq!(status.role(), Some("standby"));
        assert_eq!(status.router_state(0), Some("backup"));
        assert_eq!(status.router_state(1), None);
        assert_eq!(status.since_ms(0), Some(12));
        let counts = RoleCounts {
            transitions: vec![1],
            epoch: 2,
        };
        assert_eq!(status.role_counts(), Some(counts));
        assert_eq!(status.sync_counter("backup", "entries"), Some(7));
        assert_eq!(status.sync_counter("master", "entries"), None);
        assert_eq!(status.sync_refused("backup"), Some(4));
        assert_eq!(status.sync_refused_messages("backup"), Some(1));
        assert_eq!(status.vrrp_refused(), Some(3));
    }

    #[test]
    fn a_director_alone_has_no_role() {
        let status = Status::parse("{}").unwrap();
        assert_eq!(status.role(), None);
        assert_eq!(status.vrrp_refused(), None);
        assert!(Status::parse("[]").is_err());
    }
}
