//! The link-layer addresses with which a packet socket is told where to send.
//!
//! All of the host are listed in one go, and that takes as long as the host has addresses: they are
//! looked up beforehand, and once more for whatever has come since.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::LinkAddr;

/// Those of the network namespace they were listed in.
#[derive(Debug, Default)]
pub struct Links {
    /// By interface index.
    known: BTreeMap<u32, LinkAddr>,
}

impl Links {
    /// All there are.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    pub fn list() -> Result<Links, Errno> {
        let mut known = BTreeMap::new();
        for interface in getifaddrs()? {
            let address = interface.address.as_ref();
            let Some(link) = address.and_then(|address| address.as_link_addr()) else {
                continue;
            };
            if let Ok(ifindex) = u32::try_from(link.ifindex()) {
                known.insert(ifindex, *link);
            }
        }
        Ok(Links { known })
    }

    /// Lists them anew, once for all, if one of these interfaces is not known.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    pub fn know(&mut self, ifindexes: impl IntoIterator<Item = u32>) -> Result<(), Errno> {
        let mut wanted = ifindexes.into_iter();
        if wanted.any(|ifindex| !self.known.contains_key(&ifindex)) {
            *self = Links::list()?;
        }
        Ok(())
    }

    /// That of an interface.
    ///
    /// # Errors
    /// ENODEV: it is not known.
    pub fn get(&self, ifindex: u32) -> Result<LinkAddr, Errno> {
        self.known.get(&ifindex).copied().ok_or(Errno::ENODEV)
    }
}
