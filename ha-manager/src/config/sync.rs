//! The section `[sync]`: what the sync daemons of this node's role run with.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipvs_model::sync::{SyncRole, SyncSpec};
use serde::Deserialize;
use syncproto::net::{PEERS_MAX, is_a_hosts};
use syncproto::wire::SeqOrder;
use toml::Spanned;

use super::{Offence, resolve_interface, resolve_number};

/// Unit: bytes. The longest UDP payload over IPv4.
const MAXLEN_MAX: u16 = 65_507;
/// Unit: milliseconds. The kernel's flush age of two seconds is the upper bound.
const FLUSH_MS_MAX: u64 = 2000;
/// Age at which a part-filled message is sent when nothing else is said.
pub const DEFAULT_FLUSH: Duration = Duration::from_millis(5);
/// What connections of the peer may fill of each table when nothing else is said. Unit: percent.
pub const DEFAULT_TABLE_SHARE: u32 = 90;
/// Less would lose what a pair is for. Unit: percent.
const TABLE_SHARE_MIN: u32 = 10;
/// `ip_vs_sync.c: IP_VS_SYNC_PORT` and group.
const DEFAULT_PORT: u16 = 8848;
const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);

/// What the sync daemons of a role are started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// `maxlen` 0 is taken from the interface.
    pub spec: SyncSpec,
    /// Sync id of the backup; that of `spec`, which is the master's, unless the file has another.
    pub backup_id: u8,
    /// Age at which a part-filled message is sent. 1 to 2000 ms, default 5 ms.
    pub flush: Duration,
    /// Unicast addresses that are sent to and heard in place of a group. At most 16, of one family;
    /// none by default.
    pub peers: Vec<IpAddr>,
    /// Byte order of version 0's sequence block, which the protocol leaves to the sender's host.
    pub seq_order: SeqOrder,
    /// What connections of the peer may fill of each table. 10 to 100 percent, default 90.
    pub table_share: u32,
}

impl SyncConfig {
    /// What the daemon of a role is started with.
    pub fn spec_of(&self, role: SyncRole) -> SyncSpec {
        let sync_id = match role {
            SyncRole::Master => self.spec.sync_id,
            SyncRole::Backup => self.backup_id,
        };
        SyncSpec {
            sync_id,
            ..self.spec.clone()
        }
    }

    /// Whether messages travel in IPv6.
    pub fn is_ipv6(&self) -> bool {
        let to = self.peers.first().copied().or(self.spec.group);
        to.is_some_and(|to| to.is_ipv6())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSync {
    interface: Spanned<String>,
    syncid: Option<Spanned<u64>>,
    backup_syncid: Option<Spanned<u64>>,
    maxlen: Option<Spanned<u16>>,
    group: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
    ttl: Option<Spanned<u8>>,
    flush_ms: Option<Spanned<u64>>,
    peers: Option<Spanned<Vec<Spanned<String>>>>,
    v0_byte_order: Option<ByteOrder>,
    table_share: Option<Spanned<u32>>,
}

/// The byte order in which a sender of version 0 writes sequence records: that of its processor.
#[derive(Clone, Copy, Debug, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// This host's.
    #[default]
    Host,
    Little,
    Big,
}

impl ByteOrder {
    pub const fn order(self) -> SeqOrder {
        match self {
            ByteOrder::Host => SeqOrder::HOST,
            ByteOrder::Little => SeqOrder::Little,
            ByteOrder::Big => SeqOrder::Big,
        }
    }
}

impl RawSync {
    /// `vrid` is the default of `syncid`, as keepalived has it. No peer has one of the addresses in
    /// `virtual_addresses`.
    pub(super) fn resolve(
        self,
        vrid: Option<u8>,
        virtual_addresses: &[IpAddr],
    ) -> Result<SyncConfig, Offence> {
        let default_id = u64::from(vrid.unwrap_or(0));
        let sync_id = resolve_number("syncid", self.syncid, 0..=255, default_id)?;
        let backup_id = resolve_number("backup_syncid", self.backup_syncid, 0..=255, sync_id)?;
        let flush_ms = resolve_number("flush_ms", self.flush_ms, 1..=FLUSH_MS_MAX, 0)?;
        let flush = match flush_ms {
            0 => DEFAULT_FLUSH,
            ms => Duration::from_millis(ms),
        };
        let share = TABLE_SHARE_MIN..=100;
        let table_share =
            resolve_number("table_share", self.table_share, share, DEFAULT_TABLE_SHARE)?;
        let peers = resolve_peers(self.peers, virtual_addresses)?;
        if let Some(group) = self.group.as_ref().filter(|_| !peers.is_empty()) {
            let reason = "group and peers: messages go to one or the other".to_owned();
            return Err(Offence::new(group, reason));
        }
        let group = match self.group {
            Some(group) => Some(resolve_group(group)?),
            None if peers.is_empty() => Some(DEFAULT_GROUP.into()),
            None => None,
        };
        Ok(SyncConfig {
            spec: SyncSpec {
                interface: resolve_interface(self.interface)?,
                sync_id: u8::try_from(sync_id).unwrap_or(u8::MAX),
                maxlen: resolve_number("maxlen", self.maxlen, 1..=MAXLEN_MAX, 0)?,
                group,
                port: resolve_number("port", self.port, 1..=u16::MAX, DEFAULT_PORT)?,
                ttl: resolve_number("ttl", self.ttl, 1..=u8::MAX, 1)?,
            },
            backup_id: u8::try_from(backup_id).unwrap_or(u8::MAX),
            flush,
            peers,
            seq_order: self.v0_byte_order.unwrap_or_default().order(),
            table_share,
        })
    }
}

fn resolve_peers(
    peers: Option<Spanned<Vec<Spanned<String>>>>,
    virtual_addresses: &[IpAddr],
) -> Result<Vec<IpAddr>, Offence> {
    let Some(peers) = peers else {
        return Ok(Vec::new());
    };
    let count = peers.get_ref().len();
    if count == 0 || count > PEERS_MAX {
        let reason = format!("{count} peers are not between 1 and {PEERS_MAX}");
        return Err(Offence::new(&peers, reason));
    }
    let mut found: Vec<IpAddr> = Vec::with_capacity(count);
    for peer in peers.into_inner() {
        let text = peer.get_ref();
        let refuse = |reason: &str| Err(Offence::new(&peer, format!("peer {text}{reason}")));
        let Ok(address) = text.parse::<IpAddr>() else {
            return refuse(": not an address");
        };
        if address.is_multicast() {
            return refuse(" is a multicast address: that is a group");
        }
        if !is_a_hosts(address) {
            return refuse(" is not an address another host can have");
        }
        if virtual_addresses.contains(&address) {
            return refuse(" is a virtual address, and this node's own while it is active");
        }
        if found.contains(&address) {
            return refuse(" is there twice");
        }
        if found
            .first()
            .is_some_and(|first| first.is_ipv6() != address.is_ipv6())
        {
            return refuse(" is of another family than the first");
        }
        found.push(address);
    }
    Ok(found)
}

fn resolve_group(group: Spanned<String>) -> Result<IpAddr, Offence> {
    let text = group.get_ref();
    let reason = match text.parse::<IpAddr>() {
        Ok(addr) if addr.is_multicast() => return Ok(addr),
        Ok(_) => format!("group {text} is not a multicast address"),
        Err(_) => format!("group {text:?} is not an address"),
    };
    Err(Offence::new(&group, reason))
}
