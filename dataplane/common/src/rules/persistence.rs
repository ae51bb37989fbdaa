//! Persistence: which template a new connection belongs to, and the ports of both.
//!
//! Source: `ip_vs_core.c: ip_vs_sched_persist`.

use crate::key::{Addr6, Address, Be16, Be32, FlowKey};

/// FTP's control port. Its data ports belong to the same template.
const FTP: Be16 = Be16::from_host(21);

/// What the templates of a service depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PersistentService {
    /// 0 for a fwmark service, and for one that has all ports.
    pub port: Be16,
    /// 0 for a service by address.
    pub fwmark: u32,
    /// IPv4: the mask in host order; IPv6: the prefix length.
    pub netmask: u32,
}

impl PersistentService {
    /// The key of the template of a packet from `client` to `destination`:`port`.
    ///
    /// | the packet's port is | protocol | virtual address | virtual port |
    /// | --- | --- | --- | --- |
    /// | the service's, and not FTP's | packet's | packet's | packet's |
    /// | the service's and FTP's | packet's | packet's | 0 |
    /// | another; a fwmark service | 0 | the mark | 0 |
    /// | another | packet's | packet's | 0 |
    #[inline(always)]
    pub fn template_key<A: Address>(
        &self,
        protocol: u8,
        client: A,
        destination: A,
        port: Be16,
    ) -> FlowKey<A> {
        let client = network(client, self.netmask);
        if port.0 != self.port.0 && self.fwmark != 0 {
            let mark = [Be32::from_host(self.fwmark), Be32(0), Be32(0), Be32(0)];
            return FlowKey::template(client, A::from_words(mark), Be16(0), 0);
        }
        let port = if self.is_own_port(port) {
            port
        } else {
            Be16(0)
        };
        FlowKey::template(client, destination, port, protocol)
    }

    /// The server's port in the template of a packet to `port`.
    #[inline(always)]
    pub const fn template_dport(&self, port: Be16, server_port: Be16) -> Be16 {
        if self.is_own_port(port) {
            server_port
        } else {
            Be16(0)
        }
    }

    /// The server's port in the connection of a packet to `port`.
    #[inline(always)]
    pub const fn connection_dport(&self, port: Be16, server_port: Be16) -> Be16 {
        if port.0 == self.port.0 && server_port.0 != 0 {
            server_port
        } else {
            port
        }
    }

    /// Whether the template is for this port alone.
    #[inline(always)]
    const fn is_own_port(&self, port: Be16) -> bool {
        port.0 == self.port.0 && port.0 != FTP.0
    }
}

/// The network of a client, for which a template stands. `netmask` is as in [`PersistentService`].
#[inline(always)]
pub fn network<A: Address>(client: A, netmask: u32) -> A {
    let words = client.to_words();
    if A::FAMILY == Be32::FAMILY {
        let [first, ..] = words;
        return A::from_words([mask4(first, netmask), Be32(0), Be32(0), Be32(0)]);
    }
    A::from_words(mask6(words, netmask))
}

/// The part of an IPv4 address that a mask in host order leaves.
#[inline(always)]
pub const fn mask4(addr: Be32, netmask: u32) -> Be32 {
    Be32(addr.0 & netmask.to_be())
}

/// The first `prefix_len` bits of an IPv6 address; 128 and more leave all of it.
#[inline(always)]
pub const fn mask6(addr: Addr6, prefix_len: u32) -> Addr6 {
    let [a, b, c, d] = addr;
    [
        keep(a, prefix_len),
        keep(b, prefix_len.saturating_sub(32)),
        keep(c, prefix_len.saturating_sub(64)),
        keep(d, prefix_len.saturating_sub(96)),
    ]
}

/// The first `bits` bits of a word; 32 and more leave all of it.
#[inline(always)]
const fn keep(word: Be32, bits: u32) -> Be32 {
    match u32::MAX.checked_shr(bits) {
        Some(rest) => Be32(word.0 & (!rest).to_be()),
        None => word,
    }
}

#[cfg(test)]
mod tests;
