//! Addresses of this host's interfaces: added, removed and listed through rtnetlink.
//!
//! Every call is idempotent: adding what is there and removing what is not are both fine.
//!
//! The kernel carries requests out while they are sent, so that their answers are there when that
//! returns: many requests travel in one message, and nothing is waited for. A role may have hundreds
//! of addresses, and clients wait for all of them.
//!
//! An IPv6 address is usable at once: whoever takes it over is told where it is, and duplicate
//! address detection would keep it silent for a second. One alone in its prefix is deprecated from the
//! start (preferred lifetime 0, as keepalived does), so that this host's own traffic does not come
//! from it.

mod promote;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use promote::Promotion;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};

/// The kernel answers at once; what takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Addresses one listing can hold.
const ADDRESSES_MAX: usize = 1 << 16;
/// Requests that travel together. Their answers have to fit into the socket, which books almost a
/// kilobyte for each.
const BATCH: usize = 64;
/// Unit: bytes. The kernel makes no part of a listing longer.
const PART_MAX: usize = 32 << 10;
/// Answers that are read for one call: a bound, and far above what there can be.
const ANSWERS_MAX: usize = 1 << 17;
/// Listings that something changed beside are not whole, and made again so often.
const LISTINGS_MAX: usize = 16;
/// `INFINITY_LIFE_TIME`: a lifetime without end.
const FOR_EVER: u32 = u32::MAX;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assigned {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
}

/// Why addresses were not changed or listed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{address}/{prefix_len}: {source}")]
    Refused {
        address: IpAddr,
        prefix_len: u8,
        source: io::Error,
    },
    #[error("no netlink socket: {0}")]
    Open(io::Error),
    #[error("addresses cannot be listed: {0}")]
    List(io::Error),
    #[error("netlink: {0}")]
    Socket(Errno),
    #[error("more than {ADDRESSES_MAX} addresses")]
    TooMany,
    #[error("addresses change faster than they can be listed")]
    Changing,
    #[error("no answer from the kernel within {} ms", ANSWER_MAX.as_millis())]
    Late,
}

/// An open netlink socket. Dropping it closes it.
pub struct Addresses {
    socket: OwnedFd,
    /// Of the last request.
    sequence: u32,
}

/// What is asked for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

impl Addresses {
    /// # Errors
    /// No netlink socket can be had.
    pub fn open() -> io::Result<Addresses> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let limit = i64::try_from(ANSWER_MAX.as_millis()).unwrap_or(i64::MAX);
        let limit = TimeVal::milliseconds(limit);
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        Ok(Addresses {
            socket,
            sequence: 0,
        })
    }

    /// Adds all that are not there yet.
    ///
    /// # Errors
    /// The first that was refused; the others may have been added.
    pub fn add(&mut self, addresses: &[Assigned]) -> Result<(), AddressError> {
        self.change(Change::Add, addresses)
    }

    /// Removes all that are there, and no other of their subnets.
    ///
    /// # Errors
    /// The first that was refused; the others may have been removed.
    pub fn remove(&mut self, addresses: &[Assigned]) -> Result<(), AddressError> {
        let _others_stay = Promotion::on(addresses);
        self.change(Change::Remove, addresses)
    }

    fn change(&mut self, change: Change, addresses: &[Assigned]) -> Result<(), AddressError> {
        let mut result = Ok(());
        for batch in addresses.chunks(BATCH) {
            let first = self.sequence.wrapping_add(1);
            let mut requests = Vec::new();
            for assigned in batch {
                self.sequence = self.sequence.wrapping_add(1);
                append(&mut requests, request(change, assigned), self.sequence);
            }
            self.send(&requests)?;
            let refused = self.answers(first, batch)?;
            let refused = refused.into_iter().find(|(_, code)| !change.is_done(*code));
            if let (Some((at, code)), Ok(())) = (refused, &result) {
                result = Err(AddressError::Refused {
                    address: at.address,
                    prefix_len: at.prefix_len,
                    source: io::Error::from_raw_os_error(code.saturating_neg()),
                });
            }
        }
        result
    }

    fn send(&self, requests: &[u8]) -> Result<(), AddressError> {
        let sent = send(self.socket.as_raw_fd(), requests, MsgFlags::empty());
        sent.map(drop).map_err(failure)
    }

    /// One for each request, `first` being the sequence number of the first; those that are not 0.
    fn answers(
        &self,
        first: u32,
        batch: &[Assigned],
    ) -> Result<Vec<(Assigned, i32)>, AddressError> {
        let mut missing = batch.len();
        let mut refused = Vec::new();
        self.each_message(|message| {
            let at = message.header.sequence_number.wrapping_sub(first);
            // An answer to a call that had been given up is not ours.
            let Some(assigned) = batch.get(at as usize) else {
                return Ok(true);
            };
            if let NetlinkPayload::Error(answer) = message.payload {
                missing = missing.saturating_sub(1);
                if let Some(code) = answer.code {
                    refused.push((*assigned, code.get()));
                }
            }
            Ok(missing > 0)
        })?;
        Ok(refused)
    }

    /// All addresses of this host, of both families.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub fn list(&mut self) -> Result<Vec<Assigned>, AddressError> {
        for _ in 0..LISTINGS_MAX {
            if let Some(found) = self.list_once()? {
                return Ok(found);
            }
        }
        Err(AddressError::Changing)
    }

    /// None if something changed meanwhile: a part of it may be missing then.
    fn list_once(&mut self) -> Result<Option<Vec<Assigned>>, AddressError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let everything = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let mut request = Vec::new();
        append(&mut request, (header, everything), self.sequence);
        self.send(&request)?;
        let mut listing = Listing::default();
        self.each_message(|message| {
            if message.header.sequence_number != self.sequence {
                return Ok(true);
            }
            listing.take(message)
        })?;
        Ok((!listing.is_interrupted).then_some(listing.found))
    }

    /// Hands over what the kernel answers, until `take` wants no more.
    fn each_message(
        &self,
        mut take: impl FnMut(NetlinkMessage<RouteNetlinkMessage>) -> Result<bool, AddressError>,
    ) -> Result<(), AddressError> {
        let mut part = vec![0; PART_MAX];
        for _ in 0..ANSWERS_MAX {
            let length = recv(self.socket.as_raw_fd(), &mut part, MsgFlags::empty());
            let mut rest = part.get(..length.map_err(failure)?).unwrap_or_default();
            while let Ok(message) = NetlinkMessage::deserialize(rest) {
                let length = (message.header.length as usize).next_multiple_of(4);
                if !take(message)? {
                    return Ok(());
                }
                rest = rest.get(length.max(4)..).unwrap_or_default();
            }
        }
        Err(AddressError::Late)
    }
}

/// What a listing has brought so far.
#[derive(Debug, Default)]
struct Listing {
    found: Vec<Assigned>,
    is_interrupted: bool,
}

impl Listing {
    /// Gives back whether more is to come.
    fn take(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> Result<bool, AddressError> {
        self.is_interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        if let NetlinkPayload::Error(refused) = message.payload {
            return Err(AddressError::List(refused.to_io()));
        }
        if let NetlinkPayload::Done(_) = message.payload {
            return Ok(false);
        }
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) =
            message.payload
        {
            if self.found.len() == ADDRESSES_MAX {
                return Err(AddressError::TooMany);
            }
            self.found.extend(assigned_of(&message));
        }
        Ok(true)
    }
}

impl Change {
    /// Whether the answer says that the host is as it should be. So does a missing interface when an
    /// address is to go.
    fn is_done(self, code: i32) -> bool {
        let done: &[Errno] = match self {
            Change::Add => &[Errno::EEXIST],
            Change::Remove => &[Errno::EADDRNOTAVAIL, Errno::ENODEV],
        };
        done.iter().any(|errno| code == -(*errno as i32))
    }
}

fn failure(error: Errno) -> AddressError {
    if error == Errno::EAGAIN {
        AddressError::Late
    } else {
        AddressError::Socket(error)
    }
}

fn request(change: Change, assigned: &Assigned) -> (NetlinkHeader, RouteNetlinkMessage) {
    let mut header = NetlinkHeader::default();
    let message = message(assigned);
    let message = match change {
        Change::Add => {
            header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
            RouteNetlinkMessage::NewAddress(message)
        }
        Change::Remove => {
            header.flags = NLM_F_REQUEST | NLM_F_ACK;
            RouteNetlinkMessage::DelAddress(message)
        }
    };
    (header, message)
}

fn append(
    requests: &mut Vec<u8>,
    (header, message): (NetlinkHeader, RouteNetlinkMessage),
    sequence: u32,
) {
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.header.sequence_number = sequence;
    message.finalize();
    let start = requests.len();
    let length = message.buffer_len();
    requests.resize(start + length.next_multiple_of(4), 0);
    if let Some(place) = requests.get_mut(start..start + length) {
        message.serialize(place);
    }
}

fn message(assigned: &Assigned) -> AddressMessage {
    let address = match assigned.address {
        IpAddr::V4(address) => return message_v4(assigned, address),
        IpAddr::V6(address) => address,
    };
    let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
        .index(assigned.ifindex)
        .address(address, assigned.prefix_len)
        .build();
    let flags = AddressAttribute::Flags(AddressFlags::Nodad);
    message.attributes.push(flags);
    if assigned.prefix_len == 128 {
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = FOR_EVER;
        let lifetimes = AddressAttribute::CacheInfo(lifetimes);
        message.attributes.push(lifetimes);
    }
    message
}

fn message_v4(assigned: &Assigned, address: Ipv4Addr) -> AddressMessage {
    AddressMessageBuilder::<Ipv4Addr>::new()
        .index(assigned.ifindex)
        .address(address, assigned.prefix_len)
        .build()
}

/// The local end is the address; `IFA_ADDRESS` is the peer's on a point-to-point link, and the
/// address itself where IPv6 has no peer.
fn assigned_of(message: &AddressMessage) -> Option<Assigned> {
    let (mut local, mut only) = (None, None);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            local = Some(*address);
        } else if let AddressAttribute::Address(address @ IpAddr::V6(_)) = attribute {
            only = Some(*address);
        }
    }
    let address = local.or(only)?;
    Some(Assigned {
        ifindex: message.header.index,
        address,
        prefix_len: message.header.prefix_len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_end_of_a_message_is_the_address() {
        for (address, prefix_len) in [("192.0.2.100", 32), ("2001:db8::100", 64)] {
            let assigned = Assigned {
                ifindex: 3,
                address: address.parse().unwrap(),
                prefix_len,
            };
            assert_eq!(assigned_of(&message(&assigned)), Some(assigned));
        }
        assert_eq!(assigned_of(&AddressMessage::default()), None);
    }

    #[test]
    fn an_ipv6_address_skips_detection_and_is_deprecated_when_alone_in_its_prefix() {
        for (prefix_len, preferred) in [(128, Some(0)), (64, None)] {
            let message = message(&Assigned {
                ifindex: 3,
                address: "2001:db8::100".parse().unwrap(),
                prefix_len,
            });
            let nodad = AddressAttribute::Flags(AddressFlags::Nodad);
            assert!(message.attributes.contains(&nodad));
            let lifetime = message.attributes.iter().find_map(|attribute| {
                if let AddressAttribute::CacheInfo(lifetimes) = attribute {
                    assert_eq!(lifetimes.ifa_valid, FOR_EVER);
                    Some(lifetimes.ifa_preferred)
                } else {
                    None
                }
            });
            assert_eq!(lifetime, preferred);
        }
    }

    #[test]
    fn a_listing_that_was_changed_beside_is_not_whole() {
        let assigned = Assigned {
            ifindex: 3,
            address: "192.0.2.100".parse().unwrap(),
            prefix_len: 32,
        };
        for interrupted in [0, NLM_F_DUMP_INTR] {
            let mut listing = Listing::default();
            let address = RouteNetlinkMessage::NewAddress(message(&assigned));
            let mut part = NetlinkMessage::from(address);
            assert!(listing.take(part.clone()).unwrap());
            // The kernel marks all that follow the change.
            part.header.flags |= interrupted;
            assert!(listing.take(part).unwrap());
            assert_eq!(listing.found, [assigned, assigned]);
            assert_eq!(listing.is_interrupted, interrupted != 0);
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_no_error() {
        assert!(Change::Add.is_done(-(Errno::EEXIST as i32)));
        assert!(!Change::Add.is_done(-(Errno::ENODEV as i32)));
        for gone in [Errno::EADDRNOTAVAIL, Errno::ENODEV] {
            assert!(Change::Remove.is_done(-(gone as i32)));
        }
        assert!(!Change::Remove.is_done(-(Errno::EPERM as i32)));
    }
}
