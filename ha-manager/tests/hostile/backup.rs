//! A backup as an operator starts it, and the sockets of those who send to it.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::{Pid, gettid};

use crate::programs::{Daemon, Host, Neighbour, ip};
use crate::receiver_table;

pub(crate) const SYNC_ID: u8 = 51;
/// What a backup reads at most on a link with an MTU of 1500. Unit: bytes.
const MAXLEN: usize = 1472;
const GROUP: &str = "224.0.0.81:8848";
const PORT: &str = ":2290";
/// How much is sent ahead of a backup that must not lose anything.
#[derive(Clone, Copy)]
struct Window {
    /// Datagrams between two looks at how many wait: fewer than a link holds on their way.
    burst: u32,
    /// What may wait in the socket then. Unit: bytes of kernel memory.
    waiting: u64,
}

/// Where a backup has the receive buffer that it asks for, 8 MiB of kernel memory.
const WIDE: Window = Window {
    burst: 256,
    waiting: 1 << 20,
};
/// Less than a third of the smallest default buffer.
const NARROW: Window = Window {
    burst: 32,
    waiting: 64 << 10,
};
/// What a backup asks for. Unit: bytes.
const ROOM: usize = 4 << 20;
/// A longer datagram takes a good part of the buffer.
const LONG: usize = 4000;
/// Nothing here takes longer, on however slow a machine.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_micros(30);

pub(crate) struct Backup {
    // Ends before the host it runs on.
    daemon: Daemon,
    host: Host,
    _peer: Neighbour,
    hostile: UdpSocket,
    valid: UdpSocket,
    window: Window,
    /// Sent since the last look.
    unseen: u32,
}

impl Backup {
    /// Moves the calling thread into new namespaces.
    pub(crate) fn start() -> Backup {
        let host = Host::new();
        let peer = Neighbour::new();
        ip("link add sync0 type veth peer name sync1");
        ip("addr add 10.3.0.2/24 dev sync0");
        ip("link set sync0 up");
        ip(&format!("link set sync1 netns {}", peer.run(gettid)));
        for words in [
            "addr add 10.3.0.1/24 dev sync1",
            "link set sync1 up",
            "route add 224.0.0.0/4 dev sync1",
        ] {
            peer.ip(words);
        }
        let socket = || {
            let socket = UdpSocket::bind("10.3.0.1:0").unwrap();
            socket.connect(GROUP).unwrap();
            socket
        };
        let (hostile, valid) = peer.run(move || (socket(), socket()));
        let window = match setsockopt(&hostile, sockopt::RcvBufForce, &ROOM) {
            Ok(()) => WIDE,
            Err(_) => NARROW,
        };
        let text = format!(
            "[director]\nname = \"lb1\"\npin_dir = {:?}\ncontrol = {:?}\ninterfaces = [\"lan0\"]\n\
             connections_v4 = 262144\nconnections_v6 = 262144\nservices = 8\nservers = 8\n\
             log_level = \"warn\"\n",
            host.pin_dir(),
            host.socket()
        );
        let config = host.file("director.toml", text.as_bytes());
        let daemon = host.start(&config);
        let start = format!("--start-daemon backup --mcast-interface sync0 --syncid {SYNC_ID}");
        host.admin(&start);
        Backup {
            daemon,
            host,
            _peer: peer,
            hostile,
            valid,
            window,
            unseen: 0,
        }
    }

    pub(crate) fn table(&self) -> receiver_table::Backup {
        receiver_table::Backup {
            sync_id: SYNC_ID,
            maxlen: MAXLEN,
            engine: b"sip",
        }
    }

    pub(crate) fn send_hostile(&mut self, datagram: &[u8]) {
        self.wait_for_room(datagram.len());
        self.hostile.send(datagram).unwrap();
    }

    pub(crate) fn send_valid(&mut self, datagram: &[u8]) {
        self.wait_for_room(datagram.len());
        self.valid.send(datagram).unwrap();
    }

    /// Whether it left.
    pub(crate) fn send_unpaced(&mut self, datagram: &[u8]) -> bool {
        self.hostile.send(datagram).is_ok()
    }

    /// Has it stand still, or go on.
    pub(crate) fn stand_still(&self, is_still: bool) {
        let signal = if is_still {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        let pid = i32::try_from(self.daemon.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn wait_for_room(&mut self, len: usize) {
        self.unseen += 1;
        let most = match len {
            LONG.. => 0,
            _ if self.unseen >= self.window.burst => self.window.waiting,
            _ => return,
        };
        self.wait_until("room in the socket", || (waiting() <= most).then_some(()));
        // A long one is followed by a look.
        self.unseen = if len >= LONG { self.window.burst } else { 0 };
    }

    fn wait_until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(PAUSE);
        }
    }

    /// Waits until something has been made of everything that was sent; the counters then.
    pub(crate) fn settle(&mut self) -> BTreeMap<String, u64> {
        let deadline = Instant::now() + LIMIT;
        let mut last = BTreeMap::new();
        let counts = loop {
            let waiting = waiting();
            let now = self.counts();
            let handled = handled(&now);
            // What the thread has read a moment ago is told with the next batch.
            if waiting == 0 && handled == now["entries"] && now == last {
                break now;
            }
            assert!(
                Instant::now() < deadline,
                "{waiting} bytes wait, {handled} entries were handled: {now:#?}"
            );
            last = now;
            thread::sleep(PAUSE * 1000);
        };
        assert_eq!(self.daemon.child.try_wait().unwrap(), None, "it runs");
        counts
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let status = self.host.status();
        let daemons = status["sync"].as_array().unwrap();
        let backup = daemons.iter().find(|it| it["role"] == "backup").unwrap();
        let counters = backup["counters"].as_object().unwrap();
        let named = counters
            .iter()
            .filter_map(|(name, count)| Some((name.clone(), count.as_u64()?)));
        named.collect()
    }

    pub(crate) fn listing(&self) -> String {
        self.host.directord(&["proc", "ip_vs_conn"]).succeeded()
    }

    /// Memory that the daemon itself has: without the tables, which it maps. Unit: KiB.
    pub(crate) fn anonymous_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.daemon.child.id());
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.unwrap().split_whitespace().next().unwrap();
        number.parse().unwrap()
    }

    /// That it ends as it should.
    pub(crate) fn stop(self) {
        let (status, log) = self.daemon.stop();
        assert!(status.success(), "{status}\n{log}");
    }
}

/// Entries of which something was made.
fn handled(counts: &BTreeMap<String, u64>) -> u64 {
    let ends = [
        "applied_",
        "ignored_late",
        "guarded",
        "drop_",
        "unsupported_",
    ];
    let meant = counts.iter().filter(|(name, _)| {
        ends.iter().any(|end| name.starts_with(end)) && !name.starts_with("drop_socket")
    });
    meant.map(|(_, count)| count).sum()
}

/// Packets that the sync link had no room for.
pub(crate) fn link_drops() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let counts = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("sync0:"));
    // Bytes, packets, errors, dropped.
    let drops = counts.unwrap().split_whitespace().nth(3);
    drops.unwrap().parse().unwrap()
}

/// What waits in the backup's socket. Unit: bytes of kernel memory.
fn waiting() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let sockets = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let waiting = words.get(4)?.split(':').nth(1)?;
        let is_ours = words.get(1)?.ends_with(PORT);
        is_ours.then(|| u64::from_str_radix(waiting, 16).unwrap())
    });
    sockets.sum()
}
