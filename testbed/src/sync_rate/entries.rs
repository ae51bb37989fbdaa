//! Entries of connections that nobody has, packed as a master packs them.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::wire::{Entry, messages};
use crate::director::GROUP;

/// Clients of RFC 2544, which no host of the lab has.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Numbers of connections that come from the same address.
pub(crate) const CLIENTS_OF_AN_ADDRESS: u32 = 60_000;
const FIRST_PORT: u16 = 1024;
const TCP: u8 = 6;
const ESTABLISHED: u16 = 1;
const ESTABLISHED_SECS: u32 = 900;

/// Where connection `number` comes from.
pub(crate) fn client(number: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::from_bits(FIRST_CLIENT.to_bits() + number / CLIENTS_OF_AN_ADDRESS);
    let port = u16::try_from(number % CLIENTS_OF_AN_ADDRESS).unwrap_or_default();
    SocketAddrV4::new(address, FIRST_PORT + port)
}

/// What entries are about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) service: SocketAddrV4,
    pub(crate) servers: &'a [SocketAddrV4],
}

impl Target<'_> {
    /// Established, masquerading.
    fn entry(&self, number: u32) -> Entry {
        let at = usize::try_from(number).unwrap_or_default() % self.servers.len().max(1);
        let dest = self.servers.get(at).copied().unwrap_or(self.service);
        Entry {
            protocol: TCP,
            flags: 0,
            state: ESTABLISHED,
            timeout_secs: ESTABLISHED_SECS,
            client: client(number),
            virt: self.service,
            dest,
        }
    }

    /// Datagrams of `count` connections from `first` on.
    pub(crate) fn datagrams(&self, first: u32, count: u32) -> Vec<Vec<u8>> {
        self.pack(first..first.saturating_add(count))
    }

    /// The same from 0 on in an order that has nothing to do with that in which they were made.
    pub(crate) fn shuffled(&self, count: u32) -> Vec<Vec<u8>> {
        /// A prime that no count of a drill is a multiple of, so every connection is among them.
        const STEP: u64 = 611_953;
        let count = u64::from(count.max(1));
        let numbers = (0..count).map(|at| u32::try_from(at * STEP % count).unwrap_or_default());
        self.pack(numbers)
    }

    fn pack(&self, numbers: impl Iterator<Item = u32>) -> Vec<Vec<u8>> {
        messages(GROUP, numbers.map(|number| self.entry(number)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync_rate::wire::clients;

    #[test]
    fn the_datagrams_hold_every_connection_once_in_order() {
        let service = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 100), 80);
        let servers = [SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 11), 8080)];
        let target = Target {
            service,
            servers: &servers,
        };
        let heard = clients(&target.datagrams(59_990, 100));
        let wanted: Vec<_> = (59_990..60_090).map(client).collect();
        assert_eq!(heard, wanted);
        let mut heard = clients(&target.shuffled(1000));
        assert!(!heard.is_sorted());
        heard.sort();
        let wanted: Vec<_> = (0..1000).map(client).collect();
        assert_eq!(heard, wanted);
        assert_eq!(client(60_000).to_string(), "198.18.0.1:1024");
    }
}
