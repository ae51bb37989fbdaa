//! Records the frames on chosen links: into a pcap file each, and as short records to ask about.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    getsockopt, recvmsg, setsockopt, socket, sockopt,
};
use nix::{getsockopt_impl, sockopt_impl};
use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::netns::Namespaces;
use crate::wait::wait_until;

/// Memory for records is bounded; frames beyond are counted as dropped.
const RECORDS_MAX: usize = 4 << 20;
/// Asked of the kernel, so that a busy processor loses no frame. Unit: bytes.
const SOCKET_BUFFER: usize = 32 << 20;
/// Time between two looks at whether the capture is to end.
const STOP_POLL_MS: u8 = 20;
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// Frames are stored up to this length; offloads make them longer than the links' MTU.
const SNAP: usize = 65_535;

/// What is worth knowing about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Since the epoch, by the kernel's clock.
    pub(crate) at: Duration,
    pub(crate) origin: Origin,
    pub(crate) content: Content,
}

/// Seen from the far end of the director's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Director,
    Others,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    ArpRequest {
        target: Ipv4Addr,
    },
    ArpReply {
        sender: Ipv4Addr,
    },
    Tcp {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        reset: bool,
    },
    Udp {
        source: Ipv4Addr,
        destination: Ipv4Addr,
    },
    Other,
}

impl Content {
    /// TCP or UDP from or to one of the addresses.
    pub(crate) fn is_service(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        match self {
            Content::Tcp {
                source,
                destination,
                ..
            }
            | Content::Udp {
                source,
                destination,
            } => addresses.contains(source) || addresses.contains(destination),
            Content::ArpRequest { .. } | Content::ArpReply { .. } | Content::Other => false,
        }
    }

    /// ARP that asks who has one of the addresses.
    pub(crate) fn asks_for(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        matches!(self, Content::ArpRequest { target } if addresses.contains(target))
    }

    /// ARP that says who has one of the addresses.
    pub(crate) fn answers_for(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        matches!(self, Content::ArpReply { sender } if addresses.contains(sender))
    }
}

/// A capture in progress; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicBool,
    /// Times that everything waiting on the socket was taken.
    drains: AtomicU64,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    records: Vec<Record>,
    dropped: u64,
}

impl Capture {
    /// Captures on `links` inside a namespace; the files are `DIR/LINK.pcap`.
    ///
    /// # Errors
    /// No such link, or no raw sockets.
    pub(crate) fn start(spaces: &Namespaces, links: &[&str], dir: &Path) -> Result<Capture> {
        let mut taps = spaces.on_thread(|| {
            let indexes: Result<Vec<Tap>> = links.iter().map(|link| Tap::open(link, dir)).collect();
            Ok((open_socket()?, indexes?))
        })?;
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let result = record_frames(&taps.0, &mut taps.1, &inside);
                inside.failed.store(result.is_err(), Ordering::SeqCst);
                result
            })?;
        Ok(Capture {
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn count(&self, wanted: impl Fn(&Record) -> bool) -> u64 {
        self.shared
            .log()
            .records
            .iter()
            .filter(|record| wanted(record))
            .count() as u64
    }

    /// Waits until every frame that was on the wire before the call is recorded.
    ///
    /// # Errors
    /// The capture ended.
    pub(crate) fn settle(&self) -> Result<()> {
        let drains = || self.shared.drains.load(Ordering::SeqCst);
        // The drain under way may have begun before the last frame came.
        let enough = drains() + 2;
        wait_until("the capture has caught up", SETTLE_LIMIT, || {
            self.dropped()?;
            Ok((drains() >= enough).then_some(()))
        })
    }

    /// Frames that were not recorded.
    ///
    /// # Errors
    /// The capture itself failed.
    pub(crate) fn dropped(&self) -> Result<u64> {
        if self.shared.failed.load(Ordering::SeqCst) {
            bail!("the capture ended early");
        }
        Ok(self.shared.log().dropped)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            crate::complain(&format!("capture: {error:#}"));
        }
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time as captures measure it.
pub(crate) fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

struct Tap {
    index: usize,
    file: PcapWriter<BufWriter<File>>,
}

impl Tap {
    fn open(link: &str, dir: &Path) -> Result<Tap> {
        let index = if_nametoindex(link).with_context(|| format!("link {link}"))? as usize;
        let path = dir.join(format!("{link}.pcap"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Tap {
            index,
            file: PcapWriter::new(BufWriter::new(file))?,
        })
    }
}

/// A socket that sees the frames of all links of the namespace.
fn open_socket() -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let tap = socket(
        AddressFamily::Packet,
        SockType::Raw,
        flags,
        SockProtocol::EthAll,
    )?;
    setsockopt(&tap, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
    setsockopt(&tap, sockopt::ReceiveTimestampns, &true)?;
    Ok(tap)
}

fn record_frames(tap: &OwnedFd, links: &mut [Tap], shared: &Shared) -> Result<()> {
    let mut frame = vec![0; SNAP];
    while !shared.stop.load(Ordering::SeqCst) {
        let mut waiting = [PollFd::new(
            std::os::fd::AsFd::as_fd(tap),
            PollFlags::POLLIN,
        )];
        match poll(&mut waiting, PollTimeout::from(STOP_POLL_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        while record_one(tap, &mut frame, links, shared)? {}
        // Reading the counter sets it back to nothing.
        let lost = u64::from(getsockopt(tap, PacketStatistics)?.tp_drops);
        shared.log().dropped += lost;
        shared.drains.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Takes one frame from the socket; false when none waits.
fn record_one(tap: &OwnedFd, frame: &mut [u8], links: &mut [Tap], shared: &Shared) -> Result<bool> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(frame)];
    let flags = MsgFlags::MSG_TRUNC;
    let message = recvmsg::<LinkAddr>(tap.as_raw_fd(), &mut parts, Some(&mut control), flags);
    let message = match message {
        Ok(message) => message,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
        Err(error) => return Err(error).context("receive a frame"),
    };
    let (len, address) = (message.bytes, message.address);
    let stamp = message.cmsgs()?.find_map(|control| {
        if let ControlMessageOwned::ScmTimestampns(at) = control {
            return Some(Duration::from(at));
        }
        None
    });
    let Some(address) = address else {
        return Ok(true);
    };
    let Some(link) = links
        .iter_mut()
        .find(|link| link.index == address.ifindex())
    else {
        return Ok(true);
    };
    let at = stamp.unwrap_or_else(wall_clock);
    let outgoing = address.pkttype() == libc::PACKET_OUTGOING;
    let origin = if outgoing {
        Origin::Others
    } else {
        Origin::Director
    };
    let bytes = frame.get(..len.min(SNAP)).unwrap_or_default();
    link.file
        .write_packet(&PcapPacket::new(at, u32::try_from(len)?, bytes))?;
    let mut log = shared.log();
    if log.records.len() < RECORDS_MAX {
        log.records.push(Record {
            at,
            origin,
            content: describe(bytes),
        });
    } else {
        log.dropped += 1;
    }
    Ok(true)
}

sockopt_impl!(
    /// Frames seen and lost by a packet socket since the last reading.
    PacketStatistics, GetOnly, libc::SOL_PACKET, libc::PACKET_STATISTICS, libc::tpacket_stats);

/// What an Ethernet frame carries.
fn describe(frame: &[u8]) -> Content {
    parse(frame).unwrap_or(Content::Other)
}

fn parse(frame: &[u8]) -> Option<Content> {
    let (ethernet, rest) = frame.split_at_checked(14)?;
    match ethernet.get(12..)? {
        [0x08, 0x06] => parse_arp(rest),
        [0x08, 0x00] => parse_ipv4(rest),
        _ => None,
    }
}

fn parse_arp(packet: &[u8]) -> Option<Content> {
    match packet.get(6..8)? {
        [0, 1] => Some(Content::ArpRequest {
            target: address_at(packet, 24)?,
        }),
        [0, 2] => Some(Content::ArpReply {
            sender: address_at(packet, 14)?,
        }),
        _ => None,
    }
}

fn parse_ipv4(packet: &[u8]) -> Option<Content> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let source = address_at(packet, 12)?;
    let destination = address_at(packet, 16)?;
    match i32::from(*packet.get(9)?) {
        libc::IPPROTO_TCP => {
            let reset = packet.get(header_len + 13)? & 0x04 != 0;
            Some(Content::Tcp {
                source,
                destination,
                reset,
            })
        }
        libc::IPPROTO_UDP => Some(Content::Udp {
            source,
            destination,
        }),
        _ => None,
    }
}

fn address_at(packet: &[u8], offset: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = packet.get(offset..offset + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    #[test]
    fn a_reset_is_recognised() {
        let reset = Content::Tcp {
            source: CLIENT,
            destination: SERVICE,
            reset: true,
        };
        assert_eq!(describe(&tcp_frame(0x14)), reset);
        let ack = Content::Tcp {
            source: CLIENT,
            destination: SERVICE,
            reset: false,
        };
        assert_eq!(describe(&tcp_frame(0x10)), ack);
    }

    #[test]
    fn an_arp_reply_names_who_answers() {
        let mut frame = vec![0; 42];
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        frame[20..22].copy_from_slice(&[0, 2]);
        frame[28..32].copy_from_slice(&SERVICE.octets());
        assert_eq!(describe(&frame), Content::ArpReply { sender: SERVICE });
    }

    #[test]
    fn a_cut_frame_is_only_other() {
        let frame = tcp_frame(0x10);
        for len in 0..frame.len() - 1 {
            let content = describe(&frame[..len]);
            assert!(len >= 48 || content == Content::Other, "{len}: {content:?}");
        }
    }

    #[test]
    fn service_packets_are_those_with_an_address_of_the_service() {
        let service: BTreeSet<Ipv4Addr> = [SERVICE].into();
        assert!(describe(&tcp_frame(0x10)).is_service(&service));
        assert!(!describe(&tcp_frame(0x10)).is_service(&BTreeSet::new()));
        assert!(!Content::ArpReply { sender: SERVICE }.is_service(&service));
    }

    fn tcp_frame(tcp_flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&CLIENT.octets());
        frame[30..34].copy_from_slice(&SERVICE.octets());
        frame[47] = tcp_flags;
        frame
    }
}
