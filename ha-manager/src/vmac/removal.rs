//! Removing macvlans: those of this daemon when it stops, and those that an earlier life left and this
//! one does not want.
//!
//! One that a killed daemon left goes on answering for the virtual addresses that are on it. If the
//! configuration names it no more, nothing else would ever see it. It is told from that of another
//! director by a name in the network namespace, which a director has as long as it looks after a
//! macvlan: a listening stream socket of an abstract name. Another user who has taken such a name first
//! keeps the macvlan from being removed, which the log says.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use tracing::{info, warn};

use super::links::{Found, Links};
use super::settings::{self, Below};
use super::{VmacError, VmacSpec};

/// Says that a macvlan is looked after, as long as it is held.
pub(super) type Hold = UnixListener;

/// # Errors
/// Somebody else says so.
pub(super) fn hold(name: &str) -> io::Result<Hold> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!(
        "tandem/vmac/{name}"
    ))?)
}

/// Removes what earlier lives left and nobody wants.
///
/// # Errors
/// Interfaces cannot be listed. What cannot be removed is only logged.
pub(super) async fn remove_orphans(links: &Links, wanted: &[VmacSpec]) -> Result<(), VmacError> {
    let mut all = links.list().await?;
    let is_wanted = |(name, found): &(&String, &Found)| {
        let is_that = |spec: &VmacSpec| {
            let below = all.get(&spec.interface);
            spec.name == **name && below.is_some_and(|below| found.is(spec, below.index))
        };
        wanted.iter().any(is_that)
    };
    let orphans = all.iter().filter(|(_, found)| found.is_ours());
    let orphans = orphans.filter(|orphan| !is_wanted(orphan));
    let names: Vec<String> = orphans.map(|(name, _)| name.clone()).collect();
    for name in names {
        let _held = match hold(&name) {
            Ok(held) => held,
            Err(error) => {
                warn!(
                    vmac = name,
                    %error,
                    "this macvlan is not in the configuration, and stays: another director has it, \
                     or somebody has its name"
                );
                continue;
            }
        };
        for (name, gone) in remove(links, std::slice::from_ref(&name), &mut all).await {
            info!(vmac = name, "left by an earlier configuration, and removed");
            let below = all
                .iter()
                .find(|(_, other)| Some(other.index) == gone.below);
            let before = gone.alias.as_deref().zip(gone.below);
            let before = before.and_then(|(alias, index)| Below::from_alias(index, alias));
            if let Some((before, (below, _))) = before.zip(below) {
                restore(below, &before, &all);
            }
        }
    }
    Ok(())
}

/// Removes macvlans by name from the host and from what is known of it; those that are gone. A kernel
/// that does not answer is asked no more.
pub(super) async fn remove(
    links: &Links,
    names: &[String],
    all: &mut BTreeMap<String, Found>,
) -> Vec<(String, Found)> {
    let mut gone = Vec::new();
    for name in names {
        let Some(found) = all.get(name).filter(|found| found.is_macvlan()) else {
            continue;
        };
        match links.remove(found.index).await {
            Ok(()) => gone.extend(all.remove_entry(name)),
            Err(error) => {
                warn!(vmac = name, %error, "not removed");
                if matches!(error, VmacError::Late) {
                    break;
                }
            }
        }
    }
    gone
}

/// Puts an interface below back as it was, unless a macvlan of ours is still on it.
pub(super) fn restore(interface: &str, before: &Below, all: &BTreeMap<String, Found>) {
    let is_on_it = |found: &Found| found.is_ours() && found.below == Some(before.index);
    if !all.values().any(is_on_it) {
        before.restore(interface);
    }
}

impl Found {
    /// Whether a director made it.
    fn is_ours(&self) -> bool {
        let alias = self.alias.as_deref();
        self.is_macvlan() && alias.is_some_and(settings::is_ours)
    }
}
