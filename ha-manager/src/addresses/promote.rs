//! `promote_secondaries` while addresses are removed.
//!
//! Of several IPv4 addresses of one subnet on an interface the first is the primary one, and with it the
//! kernel removes all others (`devinet.c: __inet_del_ifa`), unless this setting says that the next is to
//! take its place. A virtual address that came first would take this host's own with it, or one of
//! another virtual router that stays. The setting matters at that moment alone, so it is put back.

use std::collections::BTreeSet;
use std::fs;

use nix::net::if_::if_indextoname;
use tracing::warn;

use super::Assigned;

/// Secondaries are promoted as long as this is there.
pub(super) struct Promotion {
    /// Files of settings that were off before.
    changed: Vec<String>,
}

impl Promotion {
    /// On the interfaces of addresses that may have others in their subnet.
    pub(super) fn on(addresses: &[Assigned]) -> Promotion {
        let shared = addresses
            .iter()
            .filter(|at| at.address.is_ipv4() && at.prefix_len < 32);
        let interfaces: BTreeSet<u32> = shared.map(|at| at.ifindex).collect();
        let mut changed = Vec::new();
        for interface in interfaces {
            // One that is gone has no addresses either.
            let Ok(name) = if_indextoname(interface) else {
                continue;
            };
            let name = name.to_string_lossy();
            let path = format!("/proc/sys/net/ipv4/conf/{name}/promote_secondaries");
            if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "0") {
                match fs::write(&path, "1") {
                    Ok(()) => changed.push(path),
                    Err(error) => warn!(
                        path,
                        %error,
                        "not set: a virtual address that is removed may take others of its subnet along"
                    ),
                }
            }
        }
        Promotion { changed }
    }
}

impl Drop for Promotion {
    fn drop(&mut self) {
        for path in &self.changed {
            if let Err(error) = fs::write(path, "0") {
                warn!(path, %error, "not put back");
            }
        }
    }
}
