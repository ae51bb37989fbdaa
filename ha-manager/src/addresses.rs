//! IPv4 addresses of this host's interfaces: added, removed and listed through rtnetlink.
//!
//! Every call is idempotent: adding what is there and removing what is not are both fine. All
//! requests of a call are on their way before the first answer is awaited.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use nix::errno::Errno;
use rtnetlink::{AddressMessageBuilder, Handle};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The kernel answers within microseconds; what takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Addresses one listing can hold.
const ADDRESSES_MAX: usize = 1 << 16;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assigned {
    pub ifindex: u32,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
}

/// Why addresses were not changed or listed.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{address}/{prefix_len}: {source}")]
    Refused {
        address: Ipv4Addr,
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
            let mut request = handle.add(assigned.ifindex, address.into(), prefix_len);
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

    /// All IPv4 addresses of this host.
    ///
    /// # Errors
    /// See [`AddressError`].
    pub async fn list(&self) -> Result<Vec<Assigned>, AddressError> {
        let listed = async {
            let mut request = self.handle.address().get();
            request.message_mut().header.family = AddressFamily::Inet;
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
    AddressMessageBuilder::<Ipv4Addr>::new()
        .index(assigned.ifindex)
        .address(assigned.address, assigned.prefix_len)
        .build()
}

/// The local end is the address; `IFA_ADDRESS` is the peer's on a point-to-point link.
fn assigned_of(message: &AddressMessage) -> Option<Assigned> {
    let address = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Local(IpAddr::V4(address)) = attribute {
            Some(*address)
        } else {
            None
        }
    })?;
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
        let assigned = Assigned {
            ifindex: 3,
            address: Ipv4Addr::new(192, 0, 2, 100),
            prefix_len: 32,
        };
        assert_eq!(assigned_of(&message(&assigned)), Some(assigned));
        assert_eq!(assigned_of(&AddressMessage::default()), None);
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
