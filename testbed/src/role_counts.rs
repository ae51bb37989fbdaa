//! How often a director changed its roles, by its own count: no clock disturbs it, and no frame need
//! be seen.
//!
//! The election counts the changes of a virtual router. The node counts, as the epoch of its lease,
//! how often it became active: that also tells of an owner that gave every role up because it was late,
//! while the election went on as master.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::drill::Drill;

/// What a director has counted at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoleCounts {
    /// Changes of state of each virtual router.
    pub(crate) transitions: Vec<u64>,
    /// The epoch of the lease: one more whenever the node becomes active.
    pub(crate) epoch: u64,
}

impl RoleCounts {
    /// What came since. Nothing for a daemon that was started meanwhile: it counts anew.
    pub(crate) fn since(&self, before: &RoleCounts) -> Option<RoleCounts> {
        let pairs = self.transitions.iter().zip(&before.transitions);
        let transitions = pairs.map(|(now, before)| now.checked_sub(*before));
        Some(RoleCounts {
            transitions: transitions.collect::<Option<_>>()?,
            epoch: self.epoch.checked_sub(before.epoch)?,
        })
    }

    /// Changes of any kind.
    pub(crate) fn sum(&self) -> u64 {
        self.transitions.iter().sum::<u64>() + self.epoch
    }
}

impl Drill<'_> {
    /// Of each running director.
    pub(crate) fn role_counts(&self) -> Result<BTreeMap<String, RoleCounts>> {
        let mut all = BTreeMap::new();
        for director in self.directors.iter().filter(|one| one.is_running()) {
            if let Some(counts) = director.status()?.role_counts() {
                all.insert(director.name().to_owned(), counts);
            }
        }
        Ok(all)
    }

    /// Of the time since the first fault: `NAME.role_changes.DIRECTOR` and `NAME.promotions.DIRECTOR`;
    /// the virtual router of the second group is `NAME.role_changes.DIRECTOR.group1`.
    pub(crate) fn note_role_changes(&mut self, name: &str) -> Result<()> {
        for (director, now) in self.role_counts()? {
            let before = self.role_counts_before.get(&director);
            let Some(since) = before.and_then(|before| now.since(before)) else {
                continue;
            };
            for (group, changes) in since.transitions.into_iter().enumerate() {
                let group = match group {
                    0 => String::new(),
                    group => format!(".group{group}"),
                };
                self.count_figure(format!("{name}.role_changes.{director}{group}"), changes);
            }
            self.count_figure(format!("{name}.promotions.{director}"), since.epoch);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_was_started_anew_counts_anew() {
        let counts = |transitions: &[u64], epoch| RoleCounts {
            transitions: transitions.to_vec(),
            epoch,
        };
        let before = counts(&[3, 1], 7);
        let since = counts(&[3, 2], 8).since(&before);
        assert_eq!(since.as_ref(), Some(&counts(&[0, 1], 1)));
        assert_eq!(since.unwrap().sum(), 2);
        assert_eq!(counts(&[1, 1], 9).since(&before), None);
    }
}
