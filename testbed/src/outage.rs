//! For how long, and how many, packets between a client and the real servers do not get through.
//!
//! Numbered datagrams leave both ends every half millisecond. A receiver has the kernel's time of each
//! arrival, so that neither a sender that was not scheduled nor a receiver that was late looks like an
//! outage: an outage is the time from the sending of a datagram to the first arrival of it or of a later
//! one on the same way, when it is longer than that of any other datagram.

use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use crate::capture::wall_clock;
use crate::drill::Drill;
use crate::plan;
use crate::scenario::Side;
use crate::topology::CLIENT;
use crate::wait::{pass_time_until, wait_until};

/// Services of this drill's own; direct routing leaves the port as it is.
const PORT: u16 = 779;
const SERVER_PORT: u16 = 7779;
const DIRECT_PORT: u16 = 780;
/// Time between two datagrams of one way.
const PACE: Duration = Duration::from_micros(500);
const STOP_POLL_MS: u8 = 20;
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// After which a datagram that is on the way is lost.
const LAST: Duration = Duration::from_millis(300);
/// An hour of datagrams.
const NUMBERS_MAX: u32 = 7_200_000;

/// A real server's host and address.
type Server = (String, IpAddr);

/// One direction of one service, in use.
struct Way {
    name: &'static str,
    stop: Arc<AtomicBool>,
    heard_enough: Arc<AtomicBool>,
    sender: JoinHandle<Result<Vec<Duration>>>,
    receiver: JoinHandle<Result<Vec<(u32, Duration)>>>,
}

/// All ways in use; what runs ends when this is dropped.
#[derive(Default)]
pub(crate) struct Probes {
    ways: Vec<Way>,
}

/// What a way showed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outage {
    sent: u64,
    lost: u64,
    longest: Duration,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for way in &self.ways {
            way.stop.store(true, Ordering::SeqCst);
            way.heard_enough.store(true, Ordering::SeqCst);
        }
    }
}

impl Drill<'_> {
    /// Adds the services of the probes to every director.
    pub(crate) fn add_probes(&mut self) -> Result<()> {
        let (vip, nat, direct) = self.probe_ends()?;
        for director in &self.directors {
            let service = SocketAddr::new(vip, PORT).to_string();
            director.ipvsadm(&["-A", "-u", &service, "-s", "rr"])?;
            let server = SocketAddr::new(nat.1, SERVER_PORT).to_string();
            director.ipvsadm(&["-a", "-u", &service, "-r", &server, "-m"])?;
            let service = SocketAddr::new(vip, DIRECT_PORT).to_string();
            director.ipvsadm(&["-A", "-u", &service, "-s", "rr"])?;
            let server = SocketAddr::new(direct.1, DIRECT_PORT).to_string();
            director.ipvsadm(&["-a", "-u", &service, "-r", &server, "-g"])?;
        }
        Ok(())
    }

    /// Datagrams go both ways through masquerading, and to a server by direct routing.
    pub(crate) fn start_probes(&mut self) -> Result<()> {
        let (vip, nat, direct) = self.probe_ends()?;
        let client = self.lab.host(CLIENT)?.spaces();
        let open = |port| client.on_thread(|| socket(plan::client(vip.is_ipv6()), 0, (vip, port)));
        let (nat_client, direct_client) = (open(PORT)?, open(DIRECT_PORT)?);
        let nat_server = self.lab.host(&nat.0)?.spaces();
        let to_client = (
            nat_client.local_addr()?.ip(),
            nat_client.local_addr()?.port(),
        );
        // Only what comes from the client through a director is taken.
        let nat_server = nat_server.on_thread(|| socket(nat.1, SERVER_PORT, to_client))?;
        let to_client = (
            direct_client.local_addr()?.ip(),
            direct_client.local_addr()?.port(),
        );
        let direct_server = self.lab.host(&direct.0)?.spaces();
        let direct_server = direct_server.on_thread(|| socket(vip, DIRECT_PORT, to_client))?;
        for (from, to) in [(&nat_client, &nat_server), (&direct_client, &direct_server)] {
            open_way(from, to)?;
        }
        let ways = [
            ("nat_request", &nat_client, &nat_server),
            ("nat_reply", &nat_server, &nat_client),
            ("direct_request", &direct_client, &direct_server),
        ];
        for (name, from, to) in ways {
            let way = Way::start(name, from.try_clone()?, to.try_clone()?)?;
            self.probes.ways.push(way);
        }
        self.event("datagrams are sent every half millisecond".to_owned());
        Ok(())
    }

    /// Ends them: `NAME.WAY.sent`, `.lost` and `.outage_ms`, and over all ways `NAME.lost` and
    /// `NAME.outage_ms`.
    pub(crate) fn end_probes(&mut self, name: &str) -> Result<()> {
        let (mut lost, mut longest) = (0, Duration::ZERO);
        for way in std::mem::take(&mut self.probes.ways) {
            let way_name = way.name;
            let found = way.finish()?;
            let prefix = format!("{name}.{way_name}");
            self.count_figure(format!("{prefix}.sent"), found.sent);
            self.count_figure(format!("{prefix}.lost"), found.lost);
            let ms = found.longest.as_secs_f64() * 1000.0;
            self.report.figure(format!("{prefix}.outage_ms"), ms);
            self.event(format!(
                "{way_name}: {} of {} datagrams lost, longest outage {ms:.2} ms",
                found.lost, found.sent
            ));
            lost += found.lost;
            longest = longest.max(found.longest);
        }
        self.count_figure(format!("{name}.lost"), lost);
        let ms = longest.as_secs_f64() * 1000.0;
        self.report.figure(format!("{name}.outage_ms"), ms);
        Ok(())
    }

    /// A virtual address, and a server of each side with its address.
    fn probe_ends(&self) -> Result<(IpAddr, Server, Server)> {
        let vips = self.scenario.virtual_addresses();
        let vip = vips.into_iter().next().context("no virtual address")?;
        let server = |side: Side| -> Result<Server> {
            let mut servers = self.scenario.servers.iter();
            let server = servers.find(|server| server.side == side);
            let server = server.with_context(|| format!("no server {side:?}"))?;
            Ok((server.name.clone(), server.address_of(vip.is_ipv6())))
        };
        Ok((vip, server(Side::Inside)?, server(Side::Outside)?))
    }
}

impl Way {
    fn start(name: &'static str, from: UdpSocket, to: UdpSocket) -> Result<Way> {
        let stop = Arc::new(AtomicBool::new(false));
        let heard_enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&heard_enough);
        let receiver = thread::Builder::new().name("outage-in".into());
        let receiver = receiver.spawn(move || receive_all(&to, &told))?;
        let told = Arc::clone(&stop);
        let sender = thread::Builder::new().name("outage-out".into());
        let sender = sender.spawn(move || send_all(&from, &told))?;
        Ok(Way {
            name,
            stop,
            heard_enough,
            sender,
            receiver,
        })
    }

    fn finish(self) -> Result<Outage> {
        self.stop.store(true, Ordering::SeqCst);
        let sent = self.sender.join();
        let sent = sent.unwrap_or_else(|_| bail!("a sender panicked"))?;
        pass_time_until(Instant::now() + LAST)?;
        self.heard_enough.store(true, Ordering::SeqCst);
        let heard = self.receiver.join();
        let heard = heard.unwrap_or_else(|_| bail!("a receiver panicked"))?;
        Ok(judge(&sent, &heard))
    }
}

/// Times of sending by number, and numbers with times of arrival.
fn judge(sent: &[Duration], heard: &[(u32, Duration)]) -> Outage {
    let mut arrived: Vec<Option<Duration>> = vec![None; sent.len()];
    for (number, at) in heard {
        if let Some(slot) = arrived.get_mut(*number as usize) {
            slot.get_or_insert(*at);
        }
    }
    let lost = arrived.iter().filter(|at| at.is_none()).count() as u64;
    let mut longest = Duration::ZERO;
    // From the end: of every datagram, the first arrival of it or of a later one; of those after the last
    // arrival, the end.
    let end = sent.last().copied().unwrap_or_default();
    let mut next: Option<Duration> = None;
    for (sent, arrived) in sent.iter().zip(&arrived).rev() {
        next = match (next, *arrived) {
            (Some(next), Some(arrived)) => Some(next.min(arrived)),
            (next, arrived) => arrived.or(next),
        };
        longest = longest.max(next.unwrap_or(end).saturating_sub(*sent));
    }
    Outage {
        sent: sent.len() as u64,
        lost,
        longest,
    }
}

fn socket(own: IpAddr, port: u16, peer: (IpAddr, u16)) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((own, port)).with_context(|| format!("{own}:{port}"))?;
    socket.connect(peer)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    Ok(socket)
}

/// Until a first datagram has arrived, which the others follow.
fn open_way(from: &UdpSocket, to: &UdpSocket) -> Result<()> {
    wait_until("a first datagram gets through", OPEN_LIMIT, || {
        from.send(&u32::MAX.to_be_bytes())?;
        let mut bytes = [0; 4];
        match to.recv(&mut bytes) {
            Ok(_) => Ok(Some(())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
}

fn send_all(socket: &UdpSocket, stop: &AtomicBool) -> Result<Vec<Duration>> {
    let mut sent = Vec::new();
    let mut due = Instant::now();
    for number in 0..NUMBERS_MAX {
        if stop.load(Ordering::SeqCst) {
            return Ok(sent);
        }
        let at = wall_clock();
        match socket.send(&number.to_be_bytes()) {
            // It left; what an earlier one met is told instead when nobody listens any more.
            Ok(_) => sent.push(at),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => sent.push(at),
            Err(error) => return Err(error.into()),
        }
        due += PACE;
        // What was missed is not made up for.
        due = due.max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    bail!("more than {NUMBERS_MAX} datagrams")
}

fn receive_all(socket: &UdpSocket, stop: &AtomicBool) -> Result<Vec<(u32, Duration)>> {
    let mut heard = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(STOP_POLL_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        while let Some(one) = receive(socket)? {
            heard.push(one);
        }
    }
    Ok(heard)
}

/// A number with the kernel's time of its arrival; none when nothing waits.
fn receive(socket: &UdpSocket) -> Result<Option<(u32, Duration)>> {
    let mut bytes = [0; 4];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags);
    let at = match message {
        Ok(message) => message.cmsgs()?.find_map(|control| {
            if let ControlMessageOwned::ScmTimestampns(at) = control {
                return Some(Duration::from(at));
            }
            None
        }),
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
        // Nobody listened for an earlier one.
        Err(Errno::ECONNREFUSED) => return Ok(Some((u32::MAX, Duration::ZERO))),
        Err(error) => return Err(error).context("receive a datagram"),
    };
    let at = at.unwrap_or_else(wall_clock);
    Ok(Some((u32::from_be_bytes(bytes), at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_outage_lasts_from_a_lost_datagram_to_the_next_arrival() {
        let sent: Vec<Duration> = (0..10).map(|number| ms(number * 10)).collect();
        let heard: Vec<(u32, Duration)> = [0, 1, 2, 6, 7, 8, 9]
            .map(|number| (number, ms(u64::from(number) * 10 + 1)))
            .to_vec();
        let found = judge(&sent, &heard);
        let expected = Outage {
            sent: 10,
            lost: 3,
            longest: ms(31),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_sender_that_stood_still_is_no_outage_and_a_late_datagram_is_one() {
        let sent = [ms(0), ms(10), ms(500), ms(510)];
        let heard = [(0, ms(1)), (1, ms(18)), (2, ms(501)), (3, ms(511))];
        let found = judge(&sent, &heard);
        assert_eq!((found.lost, found.longest), (0, ms(8)));
    }

    #[test]
    fn an_outage_that_does_not_end_counts_until_the_end() {
        let sent = [ms(0), ms(10), ms(20), ms(700)];
        let found = judge(&sent, &[(0, ms(1))]);
        assert_eq!((found.lost, found.longest), (3, ms(690)));
    }

    #[test]
    fn what_was_overtaken_is_no_outage() {
        let sent = [ms(0), ms(1)];
        let heard = [(1, ms(2)), (0, ms(50))];
        assert_eq!(judge(&sent, &heard).longest, ms(2));
        assert_eq!(judge(&[], &[]).lost, 0);
    }
}
