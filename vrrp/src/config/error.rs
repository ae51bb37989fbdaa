//! Why a virtual router cannot run.

use std::net::IpAddr;
use std::time::Duration;

/// Why a virtual router cannot run as described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("version {0} is not supported, only 2 and 3 are")]
    Version(u8),
    #[error("vrid {0} is not between 1 and 255")]
    Vrid(u8),
    #[error("priority {0} is not between 1 and 255")]
    Priority(u8),
    #[error("advert_ms {0} is not a multiple of 10 between 10 and 40950")]
    AdvertInterval(u32),
    #[error("advert_ms {0} is not a multiple of 1000 between 1000 and 255000, as version 2 needs")]
    AdvertSeconds(u32),
    #[error("no virtual address is given, at least one is needed")]
    NoAddress,
    #[error("{0} virtual addresses are given, an advertisement can name 255")]
    TooManyAddresses(usize),
    #[error("virtual address {0} is not of the router's address family")]
    AddressFamily(IpAddr),
    #[error("virtual address {0} is given twice")]
    AddressTwice(IpAddr),
    #[error("{0} cannot be a virtual address")]
    AddressKind(IpAddr),
    #[error("priority 255, the owner of the addresses, always preempts")]
    OwnerWithoutPreempt,
    #[error("preempt_delay {0:?} is longer than 1000 s")]
    PreemptDelay(Duration),
    #[error("preempt_delay without preempt says nothing")]
    PreemptDelayWithoutPreempt,
    #[error("priority 255, the owner of the addresses, preempts without preempt_delay")]
    PreemptDelayOfOwner,
    #[error("down_timer_adverts {0} is not between 1 and 100")]
    DownTimerAdverts(u8),
    #[error("authentication exists in version 2 only")]
    AuthenticationVersion,
    #[error("authentication exists for IPv4 only")]
    AuthenticationFamily,
    #[error("the password is empty")]
    PasswordEmpty,
    #[error("a form of the checksum can be chosen in version 3 over IPv4 only")]
    ChecksumChoice,
    #[error("the old form of the checksum is for unicast peers only")]
    ChecksumWithoutPeers,
    #[error("{0} unicast peers are given, at most 255 can be")]
    TooManyPeers(usize),
    #[error("unicast peer {0} is not of the router's address family")]
    PeerFamily(IpAddr),
    #[error("unicast peer {0} is given twice")]
    PeerTwice(IpAddr),
    #[error("{0} cannot be a unicast peer")]
    PeerKind(IpAddr),
    #[error("unicast peer {0} is a virtual address")]
    PeerIsVirtual(IpAddr),
    #[error("min_ttl {min} of unicast peer {address} is above max_ttl {max}")]
    PeerTtl { address: IpAddr, min: u8, max: u8 },
    #[error("unicast_ttl {0} is not between 1 and 255")]
    UnicastTtl(u8),
    #[error("unicast_ttl and check_unicast_src are for unicast peers only")]
    UnicastWithoutPeers,
    #[error("strict mode has no unicast peers")]
    StrictPeers,
    #[error("strict mode has no version 2 over IPv6")]
    StrictVersion2Ipv6,
    #[error("in strict mode the first virtual address has to be link-local, {0} is not")]
    StrictLinkLocal(IpAddr),
    #[error("strict mode has no authentication")]
    StrictAuthentication,
    #[error("strict mode has no preempt_delay")]
    StrictPreemptDelay,
    #[error("strict mode has no higher_prio_send_advert")]
    StrictHigherPrioSendAdvert,
    #[error("in strict mode down_timer_adverts is 3")]
    StrictDownTimerAdverts,
}
