//! The connection as both versions of the protocol speak of it.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use ipvs_model::flags::ConnFlags;

use crate::limits::{PE_DATA_LEN_MAX, PE_NAME_LEN_MAX};

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

/// How an application helper shifted the sequence numbers of one direction (`struct ip_vs_seq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqRecord {
    /// Sequence number from which `delta` holds.
    pub init_seq: u32,
    /// Unit: bytes.
    pub delta: i32,
    /// What holds before `init_seq`. Unit: bytes.
    pub previous_delta: i32,
}

/// The shifts of both directions; always transmitted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqPair {
    /// Of what the client sends (`in_seq`).
    pub input: SeqRecord,
    /// Of what the server sends (`out_seq`).
    pub output: SeqRecord,
}

/// Name and data of a persistence engine.
///
/// Both are bytes: the wire has no terminator, and what a peer sends need not be text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pe {
    name: [u8; PE_NAME_LEN_MAX],
    name_len: u8,
    data: [u8; PE_DATA_LEN_MAX],
    data_len: u8,
}

impl Pe {
    /// `None` unless the name has 1 to 16 bytes and the data 1 to 255.
    pub fn new(name: &[u8], data: &[u8]) -> Option<Pe> {
        if name.is_empty() || data.is_empty() {
            return None;
        }
        let mut pe = Pe {
            name: [0; PE_NAME_LEN_MAX],
            name_len: u8::try_from(name.len()).ok()?,
            data: [0; PE_DATA_LEN_MAX],
            data_len: u8::try_from(data.len()).ok()?,
        };
        pe.name.get_mut(..name.len())?.copy_from_slice(name);
        pe.data.get_mut(..data.len())?.copy_from_slice(data);
        Some(pe)
    }

    /// The engine's name as transmitted, 1 to 16 bytes.
    pub fn name(&self) -> &[u8] {
        self.name.get(..self.name_len.into()).unwrap_or_default()
    }

    /// 1 to 255 bytes; of the engine `sip` the Call-ID.
    pub fn data(&self) -> &[u8] {
        self.data.get(..self.data_len.into()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_names_and_data_keep_to_the_lengths_of_their_options() {
        let pe = Pe::new(b"sip", b"x@lab").unwrap();
        assert_eq!((pe.name(), pe.data()), (&b"sip"[..], &b"x@lab"[..]));
        assert!(Pe::new(&[b'n'; 16], &[b'd'; 255]).is_some());
        for (name, data) in [(0, 1), (17, 1), (1, 0), (1, 256)] {
            assert_eq!(Pe::new(&vec![b'n'; name], &vec![b'd'; data]), None);
        }
    }

    #[test]
    fn a_connection_without_engine_data_is_small() {
        assert!(size_of::<SyncConn>() <= 160);
    }
}
