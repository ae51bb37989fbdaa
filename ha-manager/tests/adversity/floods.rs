//! Adverts as fast as somebody can send them, to a director with many virtual routers: its real-time
//! thread leaves the processor to others, and its own adverts keep their interval.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimestampns, RxqOvfl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockFilter, Socket, Type};
use vrrp::wire::{Advert, GROUP, Identification, PROTOCOL};
use vrrp::{AdvertCodec, Authentication, Config, Interval, Parameters, Priority};

use crate::flood::{Flood, to_group, watch};
use crate::host::{Daemon, Host, Neighbour, wait_for};
use crate::router::{parameters, section};
use crate::witness::alone;

/// Of a processor. The thread rests a third of the time; the kernel would stop it at 95 %.
const SHARE_MAX: f64 = 0.75;
/// Of each kind of flood.
const LENGTH: Duration = Duration::from_secs(3);
const ADVERT_MS: u32 = 100;
/// An advert may be so late. A backup waits for three of them.
const LATE_MAX: Duration = Duration::from_millis(50);
/// Where the flood says that it comes from.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 66);

#[test]
fn a_flood_of_adverts_leaves_the_processor_to_others_with_16_routers() {
    alone(|| under_floods(16));
}

#[test]
#[ignore = "slow set: a quarter of a minute"]
fn a_flood_of_adverts_leaves_the_processor_to_others_with_64_routers() {
    alone(|| under_floods(64));
}

/// Each of them is worth the sum of a keyed digest.
#[test]
#[ignore = "slow set: a quarter of a minute"]
fn a_flood_of_adverts_with_a_wrong_digest_leaves_the_processor_to_others() {
    alone(|| {
        let (host, neighbour) = (Host::new(), Neighbour::new());
        let more = "version = 2\nadvert_ms = 1000\npriority = 255\nauth = \"ah\"\nauth_pass = \"secret12\"";
        let (daemon, routers) = start(&host, 16, more);
        let frames = (1..=routers).map(|vrid| {
            let vips = [vip(vrid)];
            let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
            let config = Config::new(Parameters {
                version: 2,
                priority: 100,
                authentication: Authentication::Header(*b"another1"),
                ..parameters(vrid, 1000, &vips)
            });
            let mut codec = AdvertCodec::new(&config.unwrap());
            let packets = codec.encode(Priority(100), SOURCE.into());
            to_group(&packets[0].bytes)
        });
        let frames: Vec<_> = frames.collect();
        let digests = || counted(&host, "refused_auth_digest");
        let before = digests();
        bear(&host, &daemon, &neighbour, frames, "wrong digest", None);
        assert!(digests() > before + 1000);
        ends_well(daemon);
    });
}

fn under_floods(count: u8) {
    let (host, neighbour) = (Host::new(), Neighbour::new());
    let more = format!("advert_ms = {ADVERT_MS}\npriority = 255");
    let (daemon, routers) = start(&host, count, &more);
    // Of routers it does not have: each of its sockets gets a copy.
    let unknown = (routers + 1..=routers + 64).map(|vrid| advert(vrid, 100));
    bear(
        &host,
        &daemon,
        &neighbour,
        unknown.collect(),
        "unknown VRIDs",
        Some(count),
    );
    // Of lesser masters, which have to be answered.
    let lesser = (1..=routers).map(|vrid| advert(vrid, 1));
    bear(
        &host,
        &daemon,
        &neighbour,
        lesser.collect(),
        "lesser masters",
        Some(count),
    );
    let broken = (1..=routers).map(|vrid| {
        let mut frame = advert(vrid, 0);
        // Into the checksum.
        frame[14 + 26] ^= 1;
        frame
    });
    bear(
        &host,
        &daemon,
        &neighbour,
        broken.collect(),
        "broken adverts",
        Some(count),
    );
    ends_well(daemon);
}

/// A director that is master of so many routers.
fn start(host: &Host, count: u8, more: &str) -> (Daemon, u8) {
    let sections = (1..=count).map(|vrid| section(vrid, &[vip(vrid)], more));
    let config = host.config(&sections.collect::<String>());
    // It may have a password.
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let daemon = host.start(&config);
    wait_for("all of its roles", || {
        let status = host.status();
        let mut routers = status["vrrp"].as_array().unwrap().iter();
        let scheduling = &status["election"]["scheduling"];
        assert_eq!(scheduling, "SCHED_RR 50");
        routers.all(|router| router["is_serving"] == true)
    });
    (daemon, count)
}

fn vip(vrid: u8) -> String {
    format!("10.77.1.{vrid}")
}

/// The frame of an advert, as the director's routers would accept it.
fn advert(vrid: u8, priority: u8) -> Vec<u8> {
    let advert = Advert {
        vrid,
        priority: Priority(priority),
        interval: Interval::from_centis(10).unwrap(),
        addresses: &[vip(vrid).parse().unwrap()],
    };
    to_group(&advert.to_packet(SOURCE, Identification::FIRST))
}

/// Floods, and measures. Adverts of the router `heard` are timed.
fn bear(
    host: &Host,
    daemon: &Daemon,
    neighbour: &Neighbour,
    frames: Vec<Vec<u8>>,
    what: &str,
    heard: Option<u8>,
) {
    let ear = heard.map(|vrid| Ear::begin(neighbour, vrid));
    let before = roles(host);
    let flood = Flood::begin(neighbour, frames);
    let (ran, begun) = (election_time(daemon), Instant::now());
    let mut longest = Duration::ZERO;
    watch(LENGTH, || {
        let asked = Instant::now();
        host.status();
        longest = longest.max(asked.elapsed());
    });
    let ran = election_time(daemon) - ran;
    let share = ran.as_secs_f64() / begun.elapsed().as_secs_f64();
    let rate = flood.end();
    println!(
        "{what}: {rate:.0} a second, {:.0} % of a processor, answered within {longest:?}",
        share * 100.0
    );
    assert!(share < SHARE_MAX, "{what}: {share}");
    assert_eq!(roles(host), before, "{what}");
    if let Some(ear) = ear {
        let (gap, count, lost) = ear.end();
        println!("{what}: {count} adverts, at most {gap:?} apart, {lost} not heard");
        assert_eq!(lost, 0);
        let interval = Duration::from_millis(ADVERT_MS.into());
        assert!(gap < interval + LATE_MAX, "{what}: {gap:?}");
    }
}

fn ends_well(daemon: Daemon) {
    let (ended, log) = daemon.stop();
    assert!(ended.success());
    for words in ["was not renewed in time", "gives no sign of life"] {
        assert!(!log.contains(words), "{words}\n{log}");
    }
}

/// Transitions of all routers.
fn roles(host: &Host) -> Vec<u64> {
    let status = host.status();
    let routers = status["vrrp"].as_array().unwrap().iter();
    routers
        .map(|router| router["transitions"].as_u64().unwrap())
        .collect()
}

fn counted(host: &Host, name: &str) -> u64 {
    let status = host.status();
    let routers = status["vrrp"].as_array().unwrap().iter();
    routers
        .map(|router| router["counters"][name].as_u64().unwrap())
        .sum()
}

/// What the election thread has had of a processor so far.
fn election_time(daemon: &Daemon) -> Duration {
    let tasks = format!("/proc/{}/task", daemon.child.id());
    for task in fs::read_dir(tasks).unwrap() {
        let task = task.unwrap().path();
        if fs::read_to_string(task.join("comm")).unwrap() == "vrrp\n" {
            let stat = fs::read_to_string(task.join("stat")).unwrap();
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            let fields: Vec<&str> = fields.split(' ').collect();
            // utime and stime (proc_pid_stat(5)), in ticks of 10 ms, which USER_HZ fixes.
            let ticks = [11, 12].map(|at: usize| fields[at].parse::<u64>().unwrap());
            return Duration::from_millis(10 * ticks.iter().sum::<u64>());
        }
    }
    panic!("no election thread");
}

/// Hears the adverts of one router of the director, and when the kernel had them.
struct Ear {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Duration, u64, u32)>,
}

impl Ear {
    fn begin(neighbour: &Neighbour, vrid: u8) -> Ear {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = neighbour.run(move || {
            let socket = open(vrid);
            thread::spawn(move || listen(&socket, &stopped))
        });
        Ear { stop, thread }
    }

    /// The longest time between two, how many there were, and how many found the queue full.
    fn end(self) -> (Duration, u64, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn open(vrid: u8) -> Socket {
    let protocol = Protocol::from(i32::from(PROTOCOL));
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).unwrap();
    // Load a byte, compare, take all of it or nothing (linux/bpf_common.h).
    let program = [
        SockFilter::new(0x30, 0, 0, 21),
        SockFilter::new(0x15, 0, 1, vrid.into()),
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ];
    socket.attach_filter(&program).unwrap();
    setsockopt(&socket, RcvBufForce, &(8 << 20)).unwrap();
    setsockopt(&socket, ReceiveTimestampns, &true).unwrap();
    setsockopt(&socket, RxqOvfl, &1).unwrap();
    let index = nix::net::if_::if_nametoindex("lan1").unwrap();
    let interface = InterfaceIndexOrAddress::Index(index);
    socket.join_multicast_v4_n(&GROUP, &interface).unwrap();
    let pause = Some(Duration::from_millis(20));
    socket.set_read_timeout(pause).unwrap();
    socket
}

fn listen(socket: &Socket, stopped: &AtomicBool) -> (Duration, u64, u32) {
    let (mut gap, mut count, mut lost) = (Duration::ZERO, 0, 0);
    let mut last: Option<Duration> = None;
    while !stopped.load(Ordering::Relaxed) {
        let mut bytes = [0; 64];
        let mut slices = [std::io::IoSliceMut::new(&mut bytes)];
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
        let fd = socket.as_raw_fd();
        let received = recvmsg::<()>(fd, &mut slices, Some(&mut control), MsgFlags::empty());
        let Ok(message) = received else {
            continue;
        };
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmTimestampns(at) = control {
                let at = Duration::from(at);
                gap = gap.max(last.map_or(gap, |last| at.saturating_sub(last)));
                last = Some(at);
                count += 1;
            } else if let ControlMessageOwned::RxqOvfl(more) = control {
                lost = more;
            }
        }
    }
    (gap, count, lost)
}
