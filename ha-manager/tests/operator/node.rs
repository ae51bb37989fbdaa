//! A node of a pair, and what is at the other end of its link.

use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{MsgFlags, sendto};
use socket2::{Domain, Protocol, Socket, Type};
use vrrp::net::socket::{AdvertSocket, Place};
use vrrp::{AdvertCodec, Config, Parameters, Priority};

use crate::host::{Daemon, Host, Neighbour, ended, wait_for};

/// The address that moves. Others have to stay where they are.
pub(crate) const MOVED: &str = "10.77.0.200";
pub(crate) const ELECTION: &str = "[[vrrp]]\nname = \"VI_1\"\ninterface = \"lan0\"\nvrid = 51\nadvert_ms = 50\n\
     garp_delay_ms = 200\nvips = [\"10.77.0.200\"]\n";
pub(crate) const SYNC: &str = "[sync]\ninterface = \"lan0\"\n";

/// A node of a pair; `more` goes into its `[[vrrp]]` section.
pub(crate) fn pair(host: &Host, more: &str) -> PathBuf {
    host.config(&format!(
        "[sysctl]\nbackup_only = 1\n{SYNC}{ELECTION}{more}"
    ))
}

/// The other node, at the other end of the link; also its control socket.
pub(crate) fn other(host: &Host, sync: &str, vrrp: &str) -> (PathBuf, PathBuf) {
    let (pins, socket) = (host.dir.join("bpf/other"), host.dir.join("run/other.sock"));
    let more =
        format!("interfaces = [\"lan1\"]\n[sysctl]\nbackup_only = 1\n{SYNC}{sync}{ELECTION}{vrrp}");
    let more = more.replace("lan0", "lan1");
    let config = host.config_of("other.toml", &pins, &socket, &more);
    (config, socket)
}

/// Stops a director's first thread, and no other, for a while.
pub(crate) fn stand_still(daemon: &Daemon, length: Duration) {
    let pid = daemon.child.id().cast_signed();
    let order = |request| {
        // SAFETY: these requests read and write no memory of either process.
        let done = unsafe { libc::ptrace(request, pid, 0, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    order(libc::PTRACE_SEIZE);
    order(libc::PTRACE_INTERRUPT);
    let mut status = 0;
    // SAFETY: `status` is written before the call returns.
    let stopped = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert!(stopped == pid && libc::WIFSTOPPED(status), "{status:#x}");
    let begun = Instant::now();
    wait_for("its time", || begun.elapsed() >= length);
    order(libc::PTRACE_DETACH);
}

/// A router at the other end that hears nobody, until it is stopped.
#[expect(clippy::unwrap_used, reason = "a test ends there")]
pub(crate) fn advertise(priority: u8, stopped: &mpsc::Receiver<()>) {
    let parameters = Parameters {
        vrid: 51,
        priority,
        advert_ms: 50,
        addresses: vec![MOVED.parse().unwrap()],
        ..Parameters::default()
    };
    let config = Config::new(parameters).unwrap();
    let place = Place {
        interface: "lan1",
        send_on: None,
        source: None,
        neighbours: &[],
    };
    let socket = AdvertSocket::open(&place, &config).unwrap();
    let mut codec = AdvertCodec::new(&config);
    let pause = Duration::from_millis(50);
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        for outgoing in codec.encode(Priority(priority), socket.source()) {
            socket.send(&outgoing).unwrap();
        }
    }
}

/// The ARP of the other end of the link.
pub(crate) struct Wire {
    socket: Arc<Socket>,
}

#[expect(clippy::unwrap_used, reason = "a test ends there")]
impl Wire {
    pub(crate) fn open(neighbour: &Neighbour) -> Wire {
        let socket = neighbour.run(|| {
            let kind = Type::RAW.nonblocking().cloexec();
            let protocol = Protocol::from(i32::from(0x0806_u16.to_be()));
            Socket::new(Domain::PACKET, kind, Some(protocol)).unwrap()
        });
        Wire {
            socket: Arc::new(socket),
        }
    }

    /// Asks who has the address that moves, as a host 10.77.0.3.
    pub(crate) fn ask(&self, neighbour: &Neighbour) {
        let socket = Arc::clone(&self.socket);
        neighbour.run(move || {
            let own = [2, 0, 0, 0, 0x77, 3];
            let address: Ipv4Addr = MOVED.parse().unwrap();
            let frame = [
                &[0xff; 6][..],
                &own,
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
                &own,
                &[10, 77, 0, 3],
                &[0; 6],
                &address.octets(),
            ]
            .concat();
            let lan1 = getifaddrs().unwrap().find_map(|found| {
                let address = found.address?.as_link_addr().copied();
                address.filter(|_| found.interface_name == "lan1")
            });
            let fd = socket.as_raw_fd();
            sendto(fd, &frame, &lan1.unwrap(), MsgFlags::MSG_DONTWAIT).unwrap();
        });
    }

    /// Frames since the last call in which `lan0` says that the address that moves is its own.
    pub(crate) fn answers(&self) -> usize {
        let address: Ipv4Addr = MOVED.parse().unwrap();
        self.count(|frame| frame.get(28..32) == Some(&address.octets()))
    }

    /// Gratuitous ones of an address, since the last call.
    pub(crate) fn announcements(&self, address: &str) -> usize {
        let address: Ipv4Addr = address.parse().unwrap();
        let own = Some(&address.octets()[..]);
        self.count(|frame| (frame.get(28..32), frame.get(38..42)) == (own, own))
    }

    /// Who announced an address last, if anybody has since the last call.
    pub(crate) fn last_announcer(&self, address: &str) -> Option<[u8; 6]> {
        let address: Ipv4Addr = address.parse().unwrap();
        let own = Some(&address.octets()[..]);
        let mut last = None;
        let mut frame = [0; 64];
        while let Ok(length) = (&*self.socket).read(&mut frame) {
            let frame = &frame[..length];
            if (frame.get(28..32), frame.get(38..42)) == (own, own) {
                last = frame.get(6..12).and_then(|mac| mac.try_into().ok());
            }
        }
        last
    }

    fn count(&self, is_meant: impl Fn(&[u8]) -> bool) -> usize {
        let mut count = 0;
        let mut frame = [0; 64];
        while let Ok(length) = (&*self.socket).read(&mut frame) {
            let frame = &frame[..length];
            let from_lan0 = frame.get(6..12) == Some(&[2, 0, 0, 0, 0x77, 1]);
            count += usize::from(from_lan0 && is_meant(frame));
        }
        count
    }
}

#[track_caller]
pub(crate) fn becomes(host: &Host, role: &str) {
    wait_for(role, || host.status()["role"] == role);
}

/// That the status has this problem, and the log has it in one line.
#[track_caller]
pub(crate) fn is_a_problem(host: &Host, daemon: Daemon, problem: &str) {
    wait_for(problem, || problems(host).contains(&problem.to_owned()));
    let words = ended(host.command("directord").arg("status")).succeeded();
    assert!(
        words.contains(&format!("PROBLEM      {problem}\n")),
        "{words}"
    );
    let (_, log) = daemon.stop();
    let lines = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains(problem));
    assert_eq!(lines.count(), 1, "{log}");
}

#[expect(clippy::unwrap_used, reason = "a test ends there")]
pub(crate) fn problems(host: &Host) -> Vec<String> {
    let status = host.status();
    let problems = status["problems"].as_array().unwrap().iter();
    problems
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Whether the address that moves is on this host's interface.
pub(crate) fn has_address(interface: &str) -> bool {
    let mut command = Command::new("ip");
    let listed = ended(command.args(["-4", "-o", "addr", "show", "dev", interface]));
    listed.out.contains(MOVED)
}
