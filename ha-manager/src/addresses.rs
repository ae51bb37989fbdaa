//! Addresses of this host's interfaces: added, removed and listed through rtnetlink.
//!
//! Every call is idempotent: adding what is there and removing what is not are both fine. All
//! requests of a call are on their way before the first answer is awaited.
//!
//! An IPv6 address is usable at once: whoever takes it over is told where it is, and duplicate
//! address detection would keep it silent for a second. One alone in its prefix is deprecated from the
//! start (preferred lifetime 0, as keepalived does), so that this host's own traffic does not come
//! from it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use nix::errno::Errno;
use rtnetlink::{AddressMessageBuilder, Handle};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The kernel answers within microseconds; what takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Addresses one listing can hold.
const ADDRESSES_MAX: usize = 1 << 16;
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
        source: rtnetlink::Error,
    },
    #[error("no netlink socket: {0}")]
    Open(io::Error),
    #[error("addresses cannot be listed: {0}")]
    List(#[from] rtnetlink::Error),
    #[error("more than {ADDRESSES_MAX} addresses")]
    TooMany,
    #[error("no answer from the kernel within {} ms", ANSWER_MAX.as_millis())]
    Late,
}

/// An open netlink socket. Dropping it closes it.
pub struct Addresses {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Addresses {
    /// # Errors
    /// No netlink socket can be had.
    pub fn open() -> io::Result<Addresses> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Addresses {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Adds all that are not there yet.
    ///
    /// # Errors
    /// The first that was refused; the others may have been added.
    pub async fn add(&self, addresses: &[Assigned]) -> Result<(), AddressError> {
        let requests = addresses.iter().map(|assigned| async {
            let handle = self.handle.address();
            let (address, prefix_len) = (assigned.address, assigned.prefix_len);
            let mut request = handle.add(assigned.ifindex, address, prefix_len);
            *request.message_mut() = message(assigned);
            accept(request.execute().await, Errno::EEXIST, assigned)
        });
        all(requests).await
    }

    /// Removes all that are there.
    ///
    /// # Errors
    /// The first that was refused; the others may have been removed.
    pub async fn remove(&self, addresses: &[Assigned]) -> Result<(), AddressError> {
        let requests = addresses.iter().map(|assigned| async {
            let request = self.handle.address().del(message(assigned));
            accept(request.execute().await, Errno::EADDRNOTAVAIL, assigned)
        });
        all(requests).await
    }

    /// All addresses of this host, of both families.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub async fn list(&self) -> Result<Vec<Assigned>, AddressError> {
        let listed = async {
            let request = self.handle.address().get();
            let mut messages = std::pin::pin!(request.execute());
            let mut found = Vec::new();
            while let Some(message) = messages.try_next().await? {
                if found.len() == ADDRESSES_MAX {
                    return Err(AddressError::TooMany);
                }
                found.extend(assigned_of(&message));
            }
            Ok(found)
        };
        timeout(ANSWER_MAX, listed)
            .await
            .unwrap_or(Err(AddressError::Late))
    }
}

async fn all(
    requests: impl Iterator<Item = impl Future<Output = Result<(), AddressError>>>,
) -> Result<(), AddressError> {
    match timeout(ANSWER_MAX, join_all(requests)).await {
        Ok(answers) => answers.into_iter().collect(),
        Err(_) => Err(AddressError::Late),
    }
}

/// `already` says that the host is as it should be. So does a missing interface when an address
/// is to go.
fn accept(
    answer: Result<(), rtnetlink::Error>,
    already: Errno,
    assigned: &Assigned,
) -> Result<(), AddressError> {
    match answer {
        Ok(()) => Ok(()),
        Err(rtnetlink::Error::NetlinkError(refused)) if is_already(refused.raw_code(), already) => {
            Ok(())
        }
        Err(source) => Err(AddressError::Refused {
            address: assigned.address,
            prefix_len: assigned.prefix_len,
            source,
        }),
    }
}

fn is_already(code: i32, already: Errno) -> bool {
    let gone = already == Errno::EADDRNOTAVAIL && code == -(Errno::ENODEV as i32);
    gone || code == -(already as i32)
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
    fn what_is_as_it_should_be_is_no_error() {
        assert!(is_already(-(Errno::EEXIST as i32), Errno::EEXIST));
        assert!(!is_already(-(Errno::ENODEV as i32), Errno::EEXIST));
        for gone in [Errno::EADDRNOTAVAIL, Errno::ENODEV] {
            assert!(is_already(-(gone as i32), Errno::EADDRNOTAVAIL));
        }
        assert!(!is_already(-(Errno::EPERM as i32), Errno::EADDRNOTAVAIL));
    }
}
