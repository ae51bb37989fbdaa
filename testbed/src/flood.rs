//! A host on the LAN that means no good: nonsense for the sync daemon and for VRRP.
//!
//! Nothing that it sends is a valid message of the pair: a valid advert with a higher priority would
//! be obeyed, as the protocol wants it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};

use crate::director::Director;
use crate::drill::Drill;
use crate::netns::{Tether, own_executable};
use crate::role_counts::RoleCounts;
use crate::topology::INTRUDER;
use crate::traffic::next_word;
use crate::wait::pass_time_until;

/// The hidden subcommand.
pub(crate) const FLOOD: &str = "__flood";
const VRRP: i32 = 112;
const VRRP_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const SYNC_GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 81), 8848);
/// The intruder's interfaces.
const OUTSIDE: &[u8] = b"eth0";
const SYNC: &[u8] = b"eth1";
/// The pair's virtual router and sync id, which the nonsense names most of the time.
const GROUP: u8 = 51;
/// Datagrams of each kind between two pauses: about 16,000 of each in a second.
const BURST: u32 = 16;
const PAUSE: Duration = Duration::from_millis(1);
/// Within this time a daemon has read what waits in its sockets.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(20);
/// Longest sync datagram.
const SYNC_MAX: u64 = 1472;

/// What was sent.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Sent {
    sync: u64,
    vrrp: u64,
}

/// Sends for a time; prints what as JSON. Runs inside the intruder.
///
/// # Errors
/// No raw sockets, or no such interfaces.
pub(crate) fn send(ms: u64, mut seed: u64) -> Result<()> {
    let sync = UdpSocket::bind("0.0.0.0:0")?;
    bind_to(&sync, SYNC)?;
    let vrrp = raw_socket(VRRP)?;
    bind_to(&vrrp, OUTSIDE)?;
    let mut sent = Sent::default();
    let end = Instant::now() + Duration::from_millis(ms);
    while Instant::now() < end {
        for _ in 0..BURST {
            let datagram = sync_nonsense(&mut seed);
            sent.sync += u64::from(sync.send_to(&datagram, SYNC_GROUP).is_ok());
            let (packet, ttl) = vrrp_nonsense(&mut seed);
            vrrp.set_multicast_ttl_v4(ttl)?;
            let to = SocketAddrV4::new(VRRP_GROUP, 0);
            sent.vrrp += u64::from(vrrp.send_to(&packet, to).is_ok());
        }
        thread::sleep(PAUSE);
    }
    crate::say(&serde_json::to_string(&sent)?);
    Ok(())
}

fn bind_to(socket: &UdpSocket, interface: &[u8]) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::OsStr::from_bytes(interface);
    setsockopt(socket, sockopt::BindToDevice, &name.to_owned())?;
    Ok(())
}

/// A raw socket in the clothes of the type that can send to an address.
fn raw_socket(protocol: i32) -> Result<UdpSocket> {
    // SAFETY: socket(2) takes numbers only.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if raw < 0 {
        return Err(io::Error::last_os_error()).context("raw socket");
    }
    // SAFETY: the descriptor was made above and belongs to nobody else.
    Ok(UdpSocket::from(unsafe { OwnedFd::from_raw_fd(raw) }))
}

/// A datagram for the sync daemon: random, cut, or with a header that fits and a body that does not.
fn sync_nonsense(seed: &mut u64) -> Vec<u8> {
    let kind = next_word(seed) % 6;
    let len = next_word(seed) % SYNC_MAX;
    let mut bytes = random_bytes(seed, usize::try_from(len).unwrap_or(0));
    let size = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    let header = match kind {
        // Version 1: reserved, sync id, size, connections, version, spare.
        0 => [0, GROUP, size[0], size[1], 200, 1, 0, 0],
        1 => [0, GROUP, size[0], size[1], 1, 2, 0, 0],
        2 => [0, GROUP, 0xff, 0xff, 3, 1, 0, 0],
        // Version 0: connections, sync id, size.
        3 => [9, GROUP, size[0], size[1], 0, 0, 0, 0],
        4 => [0, GROUP ^ 1, size[0], size[1], 1, 1, 0, 0],
        _ => return bytes,
    };
    for (byte, value) in bytes.iter_mut().zip(header) {
        *byte = value;
    }
    // An entry of unheard-of type and length behind a good header.
    if let (0, Some(entry)) = (kind, bytes.get_mut(8..12)) {
        entry.copy_from_slice(&[0xfe, 6, 0x0f, 0xff]);
    }
    bytes
}

/// A packet of protocol 112 with its TTL, invalid or of another virtual router.
fn vrrp_nonsense(seed: &mut u64) -> (Vec<u8>, u32) {
    let kind = next_word(seed) % 6;
    if kind == 0 {
        let len = next_word(seed) % 100;
        return (random_bytes(seed, usize::try_from(len).unwrap_or(0)), 255);
    }
    // Version and type, virtual router, priority, addresses, interval, checksum, one address. A
    // checksum of 0 is wrong for all of them.
    let mut packet = vec![0x31, GROUP, 255, 1, 0, 10, 0, 0, 192, 0, 2, 100];
    let ttl = match kind {
        1 => {
            packet[0] = 0x21;
            255
        }
        2 => {
            packet[1] = GROUP ^ 1;
            255
        }
        3 => {
            packet[3] = 200;
            255
        }
        4 => {
            packet.truncate(5);
            255
        }
        _ => 64,
    };
    (packet, ttl)
}

fn random_bytes(seed: &mut u64, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(next_word(seed).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl Drill<'_> {
    /// Lets the intruder send, and compares the directors before and after.
    pub(crate) fn flood(&mut self, ms: u64) -> Result<()> {
        let before = self.look_at_directors()?;
        let spaces = self.lab.host(INTRUDER)?.spaces();
        let mut command = spaces.command(own_executable()?, Tether::Parent)?;
        let seed = self.scenario.seed.to_string();
        command.args([FLOOD, &ms.to_string(), &seed]);
        let output = command.stdin(Stdio::null()).output().context("intruder")?;
        ensure!(output.status.success(), "the intruder: {}", output.status);
        let sent: Sent = serde_json::from_slice(&output.stdout)?;
        // What still waits in a socket is counted soon.
        let deadline = Instant::now() + SETTLE_LIMIT;
        let after = loop {
            let after = self.look_at_directors()?;
            let left = Unaccounted::between(&before, &after, sent);
            if left == Unaccounted::default() || Instant::now() > deadline {
                break after;
            }
            pass_time_until(Instant::now() + SETTLE_POLL)?;
        };
        let left = Unaccounted::between(&before, &after, sent);
        let mut role_changes = 0;
        let mut grown_kib = 0;
        for (old, new) in before.iter().zip(&after) {
            let changes = new.role_counts.since(&old.role_counts);
            let changes = changes.context("a director was started anew")?.sum();
            role_changes += u64::from(old.role != new.role) + changes;
            grown_kib = grown_kib.max(new.resident_kib.saturating_sub(old.resident_kib));
        }
        let counts = [
            ("sync_sent", sent.sync),
            ("sync_unaccounted", left.sync),
            ("sync_unrefused", left.sync_taken),
            ("vrrp_sent", sent.vrrp),
            ("vrrp_unaccounted", left.vrrp),
            ("role_changes", role_changes),
            ("grown_kib", grown_kib),
        ];
        for (name, value) in counts {
            self.count_figure(format!("flood.{name}"), value);
        }
        self.event(format!(
            "the intruder sent {} sync datagrams and {} VRRP packets; not accounted for: {} and {}; \
             memory grew by {grown_kib} KiB at most",
            sent.sync, sent.vrrp, left.sync, left.vrrp
        ));
        Ok(())
    }

    fn look_at_directors(&self) -> Result<Vec<Look>> {
        self.directors.iter().map(Look::at).collect()
    }
}

/// A director at one moment.
#[derive(Clone, Debug, Default)]
struct Look {
    role: Option<String>,
    role_counts: RoleCounts,
    resident_kib: u64,
    /// Sent by its sync master.
    sync_sent: u64,
    /// Taken by its sync backup, whatever was inside.
    sync_taken: u64,
    /// Refused whole.
    sync_refused: u64,
    /// Entries refused, and messages set aside as of an unknown kind.
    sync_refused_inside: u64,
    vrrp_refused: u64,
}

impl Look {
    fn at(director: &Director) -> Result<Look> {
        let status = director.status()?;
        let counter = |role, name| status.sync_counter(role, name).unwrap_or_default();
        let whole = status.sync_refused_messages("backup").unwrap_or_default();
        let all = status.sync_refused("backup").unwrap_or_default();
        Ok(Look {
            role: status.role().map(str::to_owned),
            role_counts: status.role_counts().unwrap_or_default(),
            resident_kib: director.resident_kib()?,
            sync_sent: counter("master", "messages"),
            sync_taken: counter("backup", "messages"),
            sync_refused: whole,
            sync_refused_inside: all - whole + counter("backup", "foreign_messages"),
            vrrp_refused: status.vrrp_refused().unwrap_or_default(),
        })
    }
}

/// What the counters do not tell of what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unaccounted {
    /// Datagrams neither taken nor refused.
    sync: u64,
    /// Datagrams of the intruder that were taken, and nothing inside them refused.
    sync_taken: u64,
    /// Packets that a director has not refused.
    vrrp: u64,
}

impl Unaccounted {
    fn between(before: &[Look], after: &[Look], sent: Sent) -> Unaccounted {
        let grown = |field: fn(&Look) -> u64| {
            let pairs = before.iter().zip(after);
            pairs.map(move |(old, new)| field(new).saturating_sub(field(old)))
        };
        let genuine: u64 = grown(|look| look.sync_sent).sum();
        let taken: u64 = grown(|look| look.sync_taken).sum();
        let refused: u64 = grown(|look| look.sync_refused).sum();
        let refused_inside: u64 = grown(|look| look.sync_refused_inside).sum();
        // Every director receives every packet of VRRP.
        let vrrp = grown(|look| look.vrrp_refused).min().unwrap_or_default();
        Unaccounted {
            sync: (sent.sync + genuine).saturating_sub(taken + refused),
            sync_taken: taken.saturating_sub(genuine + refused_inside),
            vrrp: sent.vrrp.saturating_sub(vrrp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_of_every_length_and_never_longer_than_a_datagram() {
        let mut seed = 1;
        let lengths: Vec<usize> = (0..5000).map(|_| sync_nonsense(&mut seed).len()).collect();
        assert!(lengths.iter().any(|len| *len < 8));
        assert!(lengths.iter().all(|len| *len < 1472));
    }

    #[test]
    fn what_no_counter_tells_is_unaccounted() {
        let before = [Look::default(), Look::default()];
        let master = Look {
            sync_sent: 10,
            vrrp_refused: 7,
            ..Look::default()
        };
        let backup = Look {
            sync_taken: 50,
            sync_refused: 58,
            sync_refused_inside: 30,
            vrrp_refused: 8,
            ..Look::default()
        };
        let sent = Sent { sync: 100, vrrp: 8 };
        let left = Unaccounted::between(&before, &[master, backup], sent);
        let expected = Unaccounted {
            sync: 2,
            sync_taken: 10,
            vrrp: 1,
        };
        assert_eq!(left, expected);
    }

    #[test]
    fn no_advert_for_the_pair_is_valid() {
        let mut seed = 1;
        for _ in 0..5000 {
            let (packet, ttl) = vrrp_nonsense(&mut seed);
            let checksum = packet.get(6..8).unwrap_or_default();
            let for_the_pair = packet.starts_with(&[0x31, GROUP]) && ttl == 255;
            assert!(!for_the_pair || packet.len() < 8 || checksum == [0, 0]);
        }
    }
}
