//! The connection as both versions of the protocol speak of it.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use ipvs_model::flags::ConnFlags;

pub use ipvs_model::extra::{Pe, SeqPair, SeqRecord};

/// One connection, as an entry of a message says it.
///
/// Version 1 carries all of it. Version 0 carries IPv4 only, the low 16 bits of the flags, and
/// neither `fwmark`, `timeout_secs` nor `pe`: they are 0 and `None` in what was read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConn {
    /// IP protocol number; 0 in a template of a fwmark service.
    pub protocol: u8,
    pub addresses: Addresses,
    /// `IP_VS_CONN_F_*` as on the wire, not yet masked: see [`crate::flags`].
    pub flags: u32,
    /// State number of the protocol; of a template 0 (none) or 1 (assured).
    pub state: u8,
    /// Mark of the packet that made the connection; 0 is none.
    pub fwmark: u32,
    /// The whole timeout of the connection, not what is left of it. Unit: seconds; 0 says nothing.
    pub timeout_secs: u32,
    /// Shifts of the sequence numbers. `None` leaves what the receiver has.
    pub seq: Option<SeqPair>,
    /// What a persistence engine stored. Boxed, as only templates of SIP services have it.
    pub pe: Option<Box<Pe>>,
}

impl SyncConn {
    /// Whether this is a persistence template.
    pub const fn is_template(&self) -> bool {
        self.flags & ConnFlags::TEMPLATE != 0
    }

    /// Whether the flags say that sequence numbers are shifted.
    pub const fn says_seq(&self) -> bool {
        self.flags & (ConnFlags::IN_SEQ | ConnFlags::OUT_SEQ) != 0
    }
}

/// Where a connection comes from, what it was addressed to, and who serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends<A> {
    /// The client; in a template its network, masked, and port 0.
    pub client: A,
    /// The virtual service; in a template of a fwmark service the mark in place of the address.
    pub virt: A,
    /// The real server.
    pub dest: A,
}

/// The ends of a connection. An entry has one family: mixed families do not travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    V4(Ends<SocketAddrV4>),
    /// Flow label and scope are not transmitted and stay 0.
    V6(Ends<SocketAddrV6>),
}

impl Addresses {
    pub const fn is_ipv6(&self) -> bool {
        matches!(self, Addresses::V6(_))
    }

    pub fn client(&self) -> SocketAddr {
        match self {
            Addresses::V4(ends) => ends.client.into(),
            Addresses::V6(ends) => ends.client.into(),
        }
    }

    pub fn virt(&self) -> SocketAddr {
        match self {
            Addresses::V4(ends) => ends.virt.into(),
            Addresses::V6(ends) => ends.virt.into(),
        }
    }

    pub fn dest(&self) -> SocketAddr {
        match self {
            Addresses::V4(ends) => ends.dest.into(),
            Addresses::V6(ends) => ends.dest.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_without_engine_data_is_small() {
        assert!(size_of::<SyncConn>() <= 160);
    }
}
