//! The section `[sync]`: what the sync daemons of this node's role run with.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipvs_model::sync::SyncSpec;
use serde::Deserialize;
use toml::Spanned;

use super::{Offence, resolve_interface, resolve_number};

/// Unit: bytes. The longest UDP payload over IPv4.
const MAXLEN_MAX: u16 = 65_507;
/// Unit: milliseconds. The kernel's flush age of two seconds is the upper bound.
const FLUSH_MS_MAX: u64 = 2000;
/// Age at which a part-filled message is sent when nothing else is said.
pub const DEFAULT_FLUSH: Duration = Duration::from_millis(5);
/// `ip_vs_sync.c: IP_VS_SYNC_PORT` and group.
const DEFAULT_PORT: u16 = 8848;
const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);

/// What the sync daemons of a role are started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// `maxlen` 0 is taken from the interface.
    pub spec: SyncSpec,
    /// Age at which a part-filled message is sent. 1 to 2000 ms, default 5 ms.
    pub flush: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSync {
    interface: Spanned<String>,
    syncid: Option<Spanned<u64>>,
    maxlen: Option<Spanned<u16>>,
    group: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
    ttl: Option<Spanned<u8>>,
    flush_ms: Option<Spanned<u64>>,
}

impl RawSync {
    /// `vrid` is the default of `syncid`, as keepalived has it.
    pub(super) fn resolve(self, vrid: Option<u8>) -> Result<SyncConfig, Offence> {
        let default_id = u64::from(vrid.unwrap_or(0));
        let sync_id = resolve_number("syncid", self.syncid, 0..=255, default_id)?;
        let flush_ms = resolve_number("flush_ms", self.flush_ms, 1..=FLUSH_MS_MAX, 0)?;
        let flush = match flush_ms {
            0 => DEFAULT_FLUSH,
            ms => Duration::from_millis(ms),
        };
        Ok(SyncConfig {
            spec: SyncSpec {
                interface: resolve_interface(self.interface)?,
                sync_id: u8::try_from(sync_id).unwrap_or(u8::MAX),
                maxlen: resolve_number("maxlen", self.maxlen, 1..=MAXLEN_MAX, 0)?,
                group: Some(self.group.map_or(Ok(DEFAULT_GROUP.into()), resolve_group)?),
                port: resolve_number("port", self.port, 1..=u16::MAX, DEFAULT_PORT)?,
                ttl: resolve_number("ttl", self.ttl, 1..=u8::MAX, 1)?,
            },
            flush,
        })
    }
}

fn resolve_group(group: Spanned<String>) -> Result<IpAddr, Offence> {
    let text = group.get_ref();
    let reason = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(addr)) if addr.is_multicast() => return Ok(addr.into()),
        Ok(IpAddr::V4(_)) => format!("group {text} is not a multicast address"),
        Ok(IpAddr::V6(_)) => {
            format!("group {text}: IPv6 groups are not supported by this director yet")
        }
        Err(_) => format!("group {text:?} is not an address"),
    };
    Err(Offence::new(&group, reason))
}
