//! Macvlans through rtnetlink.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode,
};
use nix::errno::Errno;
use rtnetlink::{Handle, LinkMacVlan, LinkUnspec};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use vrrp::wire::MacAddr;

use super::{ANSWER_MAX, VmacError, VmacSpec};

/// Prefix length of link-local addresses (RFC 4291 §2.5.6).
const LINK_LOCAL_LEN: u8 = 64;

/// An open netlink socket. Dropping it closes it.
pub(super) struct Links {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What is known of an interface.
pub(super) struct Found {
    pub(super) index: u32,
    pub(super) alias: Option<String>,
    /// Index of the interface below.
    pub(super) below: Option<u32>,
    pub(super) mac: Option<MacAddr>,
    kind: Option<InfoKind>,
    mode: Option<MacVlanMode>,
}

/// What the kernel said to a request.
pub(super) type Answer = Result<(), rtnetlink::Error>;

impl Links {
    pub(super) fn open() -> io::Result<Links> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Links {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// One that no answer ever comes from.
    #[cfg(test)]
    pub(super) fn silent() -> Links {
        let (unheard, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
        Links {
            handle,
            connection: tokio::spawn(async move {
                let _unheard = unheard;
                std::future::pending().await
            }),
        }
    }

    pub(super) async fn list(&self) -> Result<BTreeMap<String, Found>, VmacError> {
        let listing = async {
            let mut links = BTreeMap::new();
            let mut messages = std::pin::pin!(self.handle.link().get().execute());
            while let Some(message) = messages.try_next().await.map_err(listing_failed)? {
                links.extend(found(&message));
            }
            Ok(links)
        };
        timeout(ANSWER_MAX, listing)
            .await
            .unwrap_or(Err(VmacError::Late))
    }

    /// Not up yet: its settings come first.
    pub(super) async fn create(&self, spec: &VmacSpec, below: u32) -> Result<Answer, VmacError> {
        let message = LinkMacVlan::new(&spec.name, below, MacVlanMode::Private)
            .address(spec.mac.0.to_vec())
            .build();
        answer(self.handle.link().add(message).execute()).await
    }

    pub(super) async fn set_alias(&self, name: &str, alias: &str) -> Result<Answer, VmacError> {
        let message = LinkUnspec::new_with_name(name).alias(alias).build();
        answer(self.handle.link().set(message).execute()).await
    }

    pub(super) async fn up(&self, name: &str) -> Result<Answer, VmacError> {
        let message = LinkUnspec::new_with_name(name).up().build();
        answer(self.handle.link().set(message).execute()).await
    }

    /// One that is gone need not be removed.
    pub(super) async fn remove(&self, index: u32) -> Result<(), VmacError> {
        let removed = answer(self.handle.link().del(index).execute()).await?;
        match removed {
            Err(error) if !is(&error, Errno::ENODEV) => Err(VmacError::Remove(Box::new(error))),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Usable at once, and without a route: that of the interface below stays the only one.
    pub(super) async fn add_link_local(
        &self,
        index: u32,
        address: Ipv6Addr,
    ) -> Result<Answer, VmacError> {
        let mut request = self
            .handle
            .address()
            .add(index, address.into(), LINK_LOCAL_LEN);
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        let flags = AddressAttribute::Flags(flags);
        request.message_mut().attributes.push(flags);
        Ok(match answer(request.execute()).await? {
            Err(error) if is(&error, Errno::EEXIST) => Ok(()),
            other => other,
        })
    }
}

impl Found {
    #[cfg(test)]
    pub(super) fn macvlan(index: u32) -> Found {
        Found {
            index,
            alias: None,
            below: None,
            mac: None,
            kind: Some(InfoKind::MacVlan),
            mode: Some(MacVlanMode::Private),
        }
    }

    pub(super) fn is_macvlan(&self) -> bool {
        self.kind == Some(InfoKind::MacVlan)
    }

    /// Whether it is what `spec` asks for, on the interface of this index.
    pub(super) fn is(&self, spec: &VmacSpec, below: u32) -> bool {
        self.is_macvlan()
            && self.mode == Some(MacVlanMode::Private)
            && self.below == Some(below)
            && self.mac == Some(spec.mac)
    }

    /// In words: what has the name.
    pub(super) fn describe(&self, all: &BTreeMap<String, Found>) -> String {
        let mut text = match &self.kind {
            Some(InfoKind::MacVlan) => {
                let mode = self.mode.map_or("unknown", mode_name);
                format!("a macvlan of mode {mode}")
            }
            Some(kind) => format!("of kind {kind}"),
            None => "of no macvlan's kind".to_owned(),
        };
        let mut named = all.iter();
        let below = named.find(|(_, other)| Some(other.index) == self.below);
        if let Some((below, _)) = below {
            text.push_str(&format!(" on {below}"));
        }
        if let Some(mac) = self.mac {
            text.push_str(&format!(" with MAC address {mac}"));
        }
        text
    }
}

const fn mode_name(mode: MacVlanMode) -> &'static str {
    match mode {
        MacVlanMode::Private => "private",
        MacVlanMode::Vepa => "vepa",
        MacVlanMode::Bridge => "bridge",
        MacVlanMode::Passthrough => "passthru",
        MacVlanMode::Source => "source",
        MacVlanMode::Other(_) | _ => "unknown",
    }
}

fn listing_failed(error: rtnetlink::Error) -> VmacError {
    VmacError::List(Box::new(error))
}

async fn answer(request: impl Future<Output = Answer>) -> Result<Answer, VmacError> {
    timeout(ANSWER_MAX, request)
        .await
        .map_err(|_| VmacError::Late)
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(refused) if refused.raw_code() == -(errno as i32))
}

fn found(message: &LinkMessage) -> Option<(String, Found)> {
    let mut name = None;
    let mut found = Found {
        index: message.header.index,
        alias: None,
        below: None,
        mac: None,
        kind: None,
        mode: None,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::IfAlias(text) = attribute {
            found.alias = Some(text.clone());
        } else if let LinkAttribute::Link(index) = attribute {
            found.below = Some(*index);
        } else if let LinkAttribute::Address(bytes) = attribute {
            found.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            found.take(infos);
        }
    }
    Some((name?, found))
}

impl Found {
    fn take(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            if let LinkInfo::Kind(kind) = info {
                self.kind = Some(kind.clone());
            } else if let LinkInfo::Data(InfoData::MacVlan(data)) = info {
                let mut modes = data.iter().filter_map(|one| {
                    if let InfoMacVlan::Mode(mode) = one {
                        Some(*mode)
                    } else {
                        None
                    }
                });
                self.mode = modes.next_back();
            }
        }
    }
}
