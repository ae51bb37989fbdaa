//! The sections `[[vrrp_group]]`: instances that are master together, or not at all.

use serde::Deserialize;
use toml::Spanned;

use super::notify::{NotifyScripts, RawScripts};
use super::track::{RawRefs, RawTrack, Track, Tracked};
use super::words::{RawCommand, resolve_word};
use super::{Offence, VrrpConfig};

/// Our own bound.
const GROUPS_MAX: usize = 64;

/// A sync group, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    pub name: String,
    /// Places in [`super::Config::vrrp`]; none is in two groups.
    pub members: Vec<usize>,
    /// For all members.
    pub track: Track,
    /// Besides those of the members.
    pub notify: NotifyScripts,
    /// Whether what members and group track may move priorities; otherwise all weights count as 0.
    pub tracking_weight: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGroup {
    name: Spanned<String>,
    members: Spanned<Vec<Spanned<String>>>,
    sync_group_tracking_weight: Option<bool>,
    track_interfaces: RawRefs,
    track_scripts: RawRefs,
    track_processes: RawRefs,
    track_files: RawRefs,
    notify: RawCommand,
    notify_master: RawCommand,
    notify_backup: RawCommand,
    notify_fault: RawCommand,
    notify_stop: RawCommand,
}

/// What of an instance only its group can judge.
pub(super) struct Member {
    /// A reference with a weight of its own.
    pub(super) weighted: Option<Spanned<String>>,
}

/// `members` are beside the instances `vrrp`, in the same order.
pub(super) fn resolve_all(
    groups: Vec<RawGroup>,
    vrrp: &[VrrpConfig],
    members: &[Member],
    tracked: &Tracked,
) -> Result<Vec<GroupConfig>, Offence> {
    let count = groups.len();
    let mut found: Vec<GroupConfig> = Vec::new();
    for raw in groups {
        let at = raw.name.clone();
        let group = raw.resolve(vrrp, members, tracked, &found)?;
        if count > GROUPS_MAX {
            let reason = format!("{count} [[vrrp_group]] sections are more than {GROUPS_MAX}");
            return Err(Offence::new(&at, reason));
        }
        if found.iter().any(|other| other.name == group.name) {
            let reason = format!("two groups have the name {:?}", group.name);
            return Err(Offence::new(&at, reason));
        }
        found.push(group);
    }
    Ok(found)
}

impl RawGroup {
    fn resolve(
        self,
        vrrp: &[VrrpConfig],
        members: &[Member],
        tracked: &Tracked,
        others: &[GroupConfig],
    ) -> Result<GroupConfig, Offence> {
        let indices = resolve_members(self.members, vrrp, others)?;
        let track = RawTrack {
            interfaces: self.track_interfaces,
            scripts: self.track_scripts,
            processes: self.track_processes,
            files: self.track_files,
        };
        let tracking_weight = self.sync_group_tracking_weight.unwrap_or(false);
        if !tracking_weight {
            let of_members = indices.iter().filter_map(|index| members.get(*index));
            let mut weighted = of_members.filter_map(|member| member.weighted.as_ref());
            if let Some(text) = track.weighted().or_else(|| weighted.next()) {
                let reason = format!(
                    "{:?}: weights have no effect in a group without sync_group_tracking_weight",
                    text.get_ref()
                );
                return Err(Offence::new(text, reason));
            }
        }
        let notify = RawScripts {
            master: self.notify_master,
            backup: self.notify_backup,
            fault: self.notify_fault,
            stop: self.notify_stop,
            any: self.notify,
            master_rx_lower_pri: None,
        };
        Ok(GroupConfig {
            name: resolve_word(self.name)?,
            members: indices,
            track: track.resolve(tracked, None)?,
            notify: notify.resolve()?,
            tracking_weight,
        })
    }
}

fn resolve_members(
    names: Spanned<Vec<Spanned<String>>>,
    vrrp: &[VrrpConfig],
    others: &[GroupConfig],
) -> Result<Vec<usize>, Offence> {
    if names.get_ref().is_empty() {
        let reason = "members is empty, at least one is needed".to_owned();
        return Err(Offence::new(&names, reason));
    }
    let mut members = Vec::new();
    for name in names.into_inner() {
        let text = name.get_ref();
        let refuse = |reason: String| Err(Offence::new(&name, format!("member {text:?} {reason}")));
        let Some(index) = vrrp.iter().position(|vrrp| vrrp.name == *text) else {
            return refuse("is not the name of a [[vrrp]]".to_owned());
        };
        if members.contains(&index) {
            return refuse("is there twice".to_owned());
        }
        if let Some(other) = others.iter().find(|other| other.members.contains(&index)) {
            return refuse(format!("is in group {} too", other.name));
        }
        members.push(index);
    }
    Ok(members)
}
