//! A virtual router as somebody typed it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{DOWN_TIMER_ADVERTS, Family, Priority};
use crate::wire::checksum::ChecksumForm;

/// Bytes of a password; a shorter one is filled up with zeros (RFC 2338 §5.3.10).
pub const PASSWORD_LEN: usize = 8;

/// How a router of version 2 over IPv4 proves that it belongs here.
///
/// RFC 2338 §5.3.6, taken back by RFC 3768 and still spoken by keepalived. Neither keeps an attacker
/// away: the text can be read by everybody on the LAN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    None,
    /// Type 1: the password stands at the end of each advertisement.
    Simple([u8; PASSWORD_LEN]),
    /// Type 2: an authentication header with HMAC-MD5 and a sequence number stands before it.
    Header([u8; PASSWORD_LEN]),
}

impl Authentication {
    /// A password as it stands on the wire: cut to eight bytes, or filled up with zeros.
    pub fn password(text: &str) -> [u8; PASSWORD_LEN] {
        let mut password = [0; PASSWORD_LEN];
        for (to, from) in password.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        password
    }

    /// The type as it stands in an advertisement (RFC 2338 §5.3.6).
    pub const fn number(&self) -> u8 {
        match self {
            Authentication::None => 0,
            Authentication::Simple(_) => 1,
            Authentication::Header(_) => 2,
        }
    }

    pub const fn is_none(&self) -> bool {
        matches!(self, Authentication::None)
    }

    pub const fn is_header(&self) -> bool {
        matches!(self, Authentication::Header(_))
    }
}

/// Never shows the password.
impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Authentication::None => "None",
            Authentication::Simple(_) => "Simple(..)",
            Authentication::Header(_) => "Header(..)",
        })
    }
}

/// Another router of the same virtual router, told of by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: IpAddr,
    /// The least time to live its advertisements may come with. Default 0.
    ///
    /// A range other than the whole one switches `check_unicast_src` on, as in keepalived.
    pub min_ttl: u8,
    /// The most. Default 255.
    pub max_ttl: u8,
}

impl Peer {
    /// A peer any number of hops away.
    pub const fn new(address: IpAddr) -> Peer {
        Peer {
            address,
            min_ttl: 0,
            max_ttl: u8::MAX,
        }
    }

    pub(super) const fn has_ttl_range(&self) -> bool {
        self.min_ttl != 0 || self.max_ttl != u8::MAX
    }
}

/// A virtual router as somebody typed it; [`Config::new`](super::Config::new) judges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Version of the protocol, 2 or 3. Default 3.
    pub version: u8,
    /// The kind of the addresses. Default: that of the first one.
    pub family: Option<Family>,
    /// Number of the virtual router on its LAN, 1 to 255.
    pub vrid: u8,
    /// 1 to 255, default 100; 255 says that the addresses are the interface's own.
    pub priority: u8,
    /// Whether to take over from a master of lower priority. Default true.
    pub preempt: bool,
    /// How long a master of lower priority is left alone, from its first advertisement on, 0 to
    /// 1000 s. Default 0.
    pub preempt_delay: Duration,
    /// Time between two advertisements. Unit: milliseconds. Version 3: 10 to 40950 in steps of 10;
    /// version 2: 1000 to 255000 in steps of 1000, the same on all routers. Default 1000.
    ///
    /// A backup takes over after three to four of them. Backups of version 3 learn the interval of
    /// the master; one configured with a much shorter interval than the running master's is master
    /// for a moment when it starts, since it has not yet heard the other.
    pub advert_ms: u32,
    /// The virtual addresses in the order they are advertised in; other routers must have the same.
    pub addresses: Vec<IpAddr>,
    /// Version 2 over IPv4 only. Default none.
    pub authentication: Authentication,
    /// Intervals without an advertisement before the master counts as gone, 1 to 100. Default 3,
    /// the standard's; with 1 a single lost advertisement is a takeover.
    pub down_timer_adverts: u8,
    /// Leaves an advertisement of a lower priority unanswered while master, as RFC 5798 does; kept
    /// from keepalived. Default false: the answer ends the other's mastership sooner.
    pub lower_prio_no_advert: bool,
    /// Sends a last advertisement before yielding to a better master, so that the LAN's switches
    /// and the other hear of the conflict; kept from keepalived. Default false.
    pub higher_prio_send_advert: bool,
    /// Compares the addresses (and for peers the source) only when the sender is another one than
    /// that of the last accepted advertisement. Default false.
    pub skip_check_adv_addr: bool,
    /// The form of the checksum that is sent in version 3 over IPv4; all are accepted. Default that
    /// of RFC 5798.
    ///
    /// [`ChecksumForm::OldUnicast`] is for peers only, and then the only one accepted, as with
    /// keepalived's `old_unicast_checksum`.
    pub checksum: ChecksumForm,
    /// Routers to send advertisements to one by one. Default none: to the group.
    pub peers: Vec<Peer>,
    /// Accepts advertisements of the listed peers alone, and looks at their times to live. Default
    /// false.
    pub check_unicast_src: bool,
    /// Time to live of what is sent to peers, 1 to 255. Default 255.
    pub unicast_ttl: u8,
    /// Refuses whatever the standards do not have. Default false.
    pub strict: bool,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters {
            version: 3,
            family: None,
            vrid: 0,
            priority: Priority::DEFAULT.0,
            preempt: true,
            preempt_delay: Duration::ZERO,
            advert_ms: 1000,
            addresses: Vec::new(),
            authentication: Authentication::None,
            down_timer_adverts: DOWN_TIMER_ADVERTS,
            lower_prio_no_advert: false,
            higher_prio_send_advert: false,
            skip_check_adv_addr: false,
            checksum: ChecksumForm::Rfc5798,
            peers: Vec::new(),
            check_unicast_src: false,
            unicast_ttl: u8::MAX,
            strict: false,
        }
    }
}
