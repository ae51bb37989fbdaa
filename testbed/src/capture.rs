//! Records the frames on chosen links: into a pcap file each, and as short records to ask about.

use std::fs::File;
use std::io::{self, BufWriter, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
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
    ControlMessageOwned, LinkAddr, MsgFlags, getsockopt, recvmsg, setsockopt, sockopt,
};
use nix::{getsockopt_impl, sockopt_impl};
use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::frame::{Content, describe};
use crate::netns::Namespaces;
use crate::wait::wait_until;

/// Memory for records is bounded; frames beyond are counted as dropped.
const RECORDS_MAX: usize = 4 << 20;
/// Asked of the kernel, so that a busy processor loses no frame. Unit: bytes.
const SOCKET_BUFFER: usize = 32 << 20;
/// Time between two looks at whether the capture is to end.
const STOP_POLL_MS: u8 = 20;
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// Frames are stored whole; offloads make them longer than the links' MTU.
pub(crate) const WHOLE: usize = 65_535;
/// Frames are stored up to their headers.
pub(crate) const HEADERS: usize = 128;

/// What is worth knowing about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Since the epoch, by the kernel's clock.
    pub(crate) at: Duration,
    /// Index into the links of the capture.
    pub(crate) link: usize,
    pub(crate) origin: Origin,
    pub(crate) content: Content,
}

/// Seen from the far end of a director's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Director,
    Others,
}

/// A capture in progress; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Capture {
    links: Vec<String>,
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
    /// Captures on links inside a namespace, each up to a length; the files are `DIR/LINK.pcap`.
    ///
    /// # Errors
    /// No such link, or no raw sockets.
    pub(crate) fn start(
        spaces: &Namespaces,
        links: &[(String, usize)],
        dir: &Path,
    ) -> Result<Capture> {
        let mut taps = spaces.on_thread(|| {
            let taps = links.iter().map(|(link, snap)| Tap::open(link, *snap, dir));
            taps.collect::<Result<Vec<Tap>>>()
        })?;
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || {
                let result = record_frames(&mut taps, &inside);
                inside.failed.store(result.is_err(), Ordering::SeqCst);
                result
            })?;
        Ok(Capture {
            links: links.iter().map(|(link, _)| link.clone()).collect(),
            shared,
            thread: Some(thread),
        })
    }

    /// The name of the link of a record.
    pub(crate) fn link(&self, record: &Record) -> &str {
        self.links.get(record.link).map_or("", String::as_str)
    }

    /// When the first wanted frame was seen.
    pub(crate) fn first(&self, wanted: impl Fn(&Record) -> bool) -> Option<Duration> {
        let log = self.shared.log();
        let times = log.records.iter().filter(|record| wanted(record));
        times.map(|record| record.at).min()
    }

    /// Shows every record.
    pub(crate) fn each(&self, show: impl FnMut(&Record)) {
        self.shared.log().records.iter().for_each(show);
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

/// One link: its socket, and the file its frames go to.
struct Tap {
    socket: OwnedFd,
    snap: usize,
    file: PcapWriter<BufWriter<File>>,
}

impl Tap {
    fn open(link: &str, snap: usize, dir: &Path) -> Result<Tap> {
        let index = if_nametoindex(link).with_context(|| format!("link {link}"))?;
        let socket = open_socket(index).with_context(|| format!("capture on {link}"))?;
        let path = dir.join(format!("{link}.pcap"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Tap {
            socket,
            snap,
            file: PcapWriter::new(BufWriter::new(file))?,
        })
    }
}

/// A socket that sees the frames of one link, in both directions. Calls on it do not wait.
pub(crate) fn open_socket(index: u32) -> Result<OwnedFd> {
    // Without a protocol it receives nothing before it is bound.
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes numbers only.
    let tap = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if tap < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the descriptor was made above and belongs to nobody else.
    let tap = unsafe { OwnedFd::from_raw_fd(tap) };
    setsockopt(&tap, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
    setsockopt(&tap, sockopt::ReceiveTimestampns, &true)?;
    // SAFETY: an address of zeros is a valid value of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL)?.to_be();
    address.sll_ifindex = i32::try_from(index)?;
    let len = libc::socklen_t::try_from(size_of_val(&address))?;
    // SAFETY: bind(2) reads `len` bytes from a live structure of exactly that size.
    let bound = unsafe { libc::bind(tap.as_raw_fd(), (&raw const address).cast(), len) };
    if bound < 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(tap)
}

fn record_frames(taps: &mut [Tap], shared: &Shared) -> Result<()> {
    let mut frame = vec![0; WHOLE];
    while !shared.stop.load(Ordering::SeqCst) {
        let waiting = taps.iter();
        let waiting = waiting.map(|tap| PollFd::new(tap.socket.as_fd(), PollFlags::POLLIN));
        match poll(
            &mut waiting.collect::<Vec<_>>(),
            PollTimeout::from(STOP_POLL_MS),
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        for (link, tap) in taps.iter_mut().enumerate() {
            while record_one(tap, link, &mut frame, shared)? {}
            // Reading the counter sets it back to nothing.
            let lost = u64::from(getsockopt(&tap.socket, PacketStatistics)?.tp_drops);
            shared.log().dropped += lost;
        }
        shared.drains.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// One frame of a packet socket that does not wait.
pub(crate) struct Taken {
    /// Since the epoch, by the kernel's clock.
    pub(crate) at: Duration,
    /// Of the frame; more than was taken when the buffer is shorter.
    pub(crate) len: usize,
    /// Sent by this host, as the link shows it.
    pub(crate) outgoing: bool,
}

/// What taking a frame may give.
pub(crate) enum Taking {
    Frame(Taken),
    /// Nothing to look at, and there may be more.
    Nothing,
    /// None waits.
    Empty,
}

/// Takes one frame from the socket.
///
/// # Errors
/// The socket does not work any more.
pub(crate) fn take_frame(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Taking> {
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_TRUNC;
    let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
    let message = match message {
        Ok(message) => message,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Taking::Empty),
        // The link has gone down: whoever did it knows.
        Err(Errno::ENETDOWN) => return Ok(Taking::Nothing),
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
        return Ok(Taking::Nothing);
    };
    Ok(Taking::Frame(Taken {
        at: stamp.unwrap_or_else(wall_clock),
        len,
        outgoing: address.pkttype() == libc::PACKET_OUTGOING,
    }))
}

/// Takes one frame from the socket; false when none waits.
fn record_one(tap: &mut Tap, link: usize, frame: &mut [u8], shared: &Shared) -> Result<bool> {
    let buffer = frame.get_mut(..tap.snap).unwrap_or_default();
    let Taken { at, len, outgoing } = match take_frame(&tap.socket, buffer)? {
        Taking::Frame(taken) => taken,
        Taking::Nothing => return Ok(true),
        Taking::Empty => return Ok(false),
    };
    let origin = if outgoing {
        Origin::Others
    } else {
        Origin::Director
    };
    let bytes = frame.get(..len.min(tap.snap)).unwrap_or_default();
    tap.file
        .write_packet(&PcapPacket::new(at, u32::try_from(len)?, bytes))?;
    let mut log = shared.log();
    if log.records.len() < RECORDS_MAX {
        log.records.push(Record {
            at,
            link,
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
