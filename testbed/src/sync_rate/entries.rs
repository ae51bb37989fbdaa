//! Entries of connections that nobody has, packed as a master packs them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use syncproto::conn::{Addresses, Ends, SyncConn};
use syncproto::sender::{Sender, SenderConfig};

use crate::director::GROUP;

/// Clients of RFC 2544, which no host of the lab has.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Numbers of connections that come from the same address.
pub(crate) const CLIENTS_OF_AN_ADDRESS: u32 = 60_000;
const FIRST_PORT: u16 = 1024;
const TCP: u8 = 6;
const ESTABLISHED: u8 = 1;
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
    pub(crate) fn conn(&self, number: u32) -> SyncConn {
        let at = usize::try_from(number).unwrap_or_default() % self.servers.len().max(1);
        let dest = self.servers.get(at).copied().unwrap_or(self.service);
        SyncConn {
            protocol: TCP,
            addresses: Addresses::V4(Ends {
                client: client(number),
                virt: self.service,
                dest,
            }),
            flags: 0,
            state: ESTABLISHED,
            fwmark: 0,
            timeout_secs: ESTABLISHED_SECS,
            seq: None,
            pe: None,
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
        let mut sender = Sender::new(SenderConfig {
            sync_id: GROUP,
            queue_max: usize::MAX,
            ..SenderConfig::default()
        });
        let now = Instant::now();
        let mut datagrams = Vec::new();
        let mut take = |sender: &mut Sender| {
            while let Some(message) = sender.poll_transmit(now) {
                datagrams.push(message.message().to_vec());
                sender.recycle(message);
            }
        };
        for number in numbers {
            sender.push(&self.conn(number), now);
            take(&mut sender);
        }
        sender.flush();
        take(&mut sender);
        datagrams
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncproto::receiver::Receiver;
    use syncproto::wire::WalkConfig;

    #[test]
    fn the_datagrams_hold_every_connection_once_in_order() {
        let service = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 100), 80);
        let servers = [SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 11), 8080)];
        let target = Target {
            service,
            servers: &servers,
        };
        let mut receiver = Receiver::new(WalkConfig::default());
        let mut heard = Vec::new();
        for datagram in target.datagrams(59_990, 100) {
            receiver.receive(&datagram, |conn| heard.push(conn.addresses.client()));
        }
        let wanted: Vec<_> = (59_990..60_090).map(|it| client(it).into()).collect();
        assert_eq!(heard, wanted);
        heard.clear();
        for datagram in target.shuffled(1000) {
            receiver.receive(&datagram, |conn| heard.push(conn.addresses.client()));
        }
        heard.sort();
        let wanted: Vec<_> = (0..1000).map(|it| client(it).into()).collect();
        assert_eq!(heard, wanted);
        assert_eq!(client(60_000).to_string(), "198.18.0.1:1024");
    }
}
