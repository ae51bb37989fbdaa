//! Two directors, a client and a server on one LAN: a bridge, with a network namespace for each.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::unistd::gettid;

use crate::host::{Host, Neighbour, ip, wait_for};
use crate::node::{SYNC, has_address};

/// The two addresses that move, each with a service.
pub(crate) const VIPS: [&str; 2] = ["10.77.0.200", "10.77.0.201"];
const SERVER: &str = "10.77.0.10";
const PORT: u16 = 80;
/// An exchange that takes longer has failed: more than one retransmission.
const EXCHANGE_MAX: Duration = Duration::from_secs(20);

/// The LAN. Its first director's host is the calling thread's namespace.
pub(crate) struct Lan {
    /// The bridge, and the client on it.
    pub(crate) hub: Neighbour,
    /// The second director's host; its interface is `lan1`, as 10.77.0.2.
    pub(crate) second: Neighbour,
    _server: Neighbour,
}

impl Lan {
    pub(crate) fn new() -> Lan {
        let [hub, second, server] = [(); 3].map(|()| Neighbour::bare());
        let tid = |of: &Neighbour| of.run(gettid);
        ip(&format!("link set lan1 netns {}", tid(&hub)));
        hub.ip("link set lo up");
        hub.ip("link add br0 type bridge mcast_snooping 0");
        for (port, interface, of) in [("p2", "lan1", &second), ("p3", "lan0", &server)] {
            hub.ip(&format!("link add {port} type veth peer name far"));
            hub.ip(&format!("link set far netns {}", tid(of)));
            of.ip(&format!("link set far name {interface}"));
        }
        hub.ip("link set lan1 name p1");
        for port in ["p1", "p2", "p3"] {
            hub.ip(&format!("link set {port} master br0 up"));
        }
        hub.ip("addr add 10.77.0.9/24 dev br0");
        hub.ip("link set br0 up");
        for (of, interface, address) in [(&second, "lan1", "10.77.0.2"), (&server, "lan0", SERVER)]
        {
            of.ip("link set lo up");
            of.ip(&format!("addr add {address}/24 dev {interface}"));
        }
        // It has the virtual addresses for itself, as a server of direct routing.
        server.run(|| {
            for file in ["arp_ignore", "arp_announce"] {
                let value = if file == "arp_ignore" { "1" } else { "2" };
                let path = format!("/proc/sys/net/ipv4/conf/all/{file}");
                std::fs::write(path, value).unwrap();
            }
        });
        for vip in VIPS {
            server.ip(&format!("addr add {vip}/32 dev lo"));
        }
        second.ip("link set lan1 up");
        server.ip("link set lan0 up");
        server.run(serve);
        Lan {
            hub,
            second,
            _server: server,
        }
    }

    /// Connects the client to one of the addresses.
    pub(crate) fn connect(&self, vip: &str) -> Conversation {
        let to = SocketAddrV4::new(vip.parse().unwrap(), PORT);
        self.hub.run(move || Conversation::begin(to.into()))
    }
}

/// A service for each address, with the server behind it.
pub(crate) const SERVICES: [&str; 4] = [
    "-A -t 10.77.0.200:80 -s rr",
    "-a -t 10.77.0.200:80 -r 10.77.0.10:80 -g",
    "-A -t 10.77.0.201:80 -s rr",
    "-a -t 10.77.0.201:80 -r 10.77.0.10:80 -g",
];

/// Sends back what it gets.
fn serve() {
    for vip in VIPS {
        let listener = TcpListener::bind((vip, PORT)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || {
                    let mut bytes = [0; 8];
                    while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok()
                    {
                    }
                });
            }
        });
    }
}

/// A connection that is used all the time.
pub(crate) struct Conversation {
    stream: TcpStream,
    stop: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    thread: JoinHandle<Duration>,
}

impl Conversation {
    fn begin(to: SocketAddr) -> Conversation {
        let stream = TcpStream::connect_timeout(&to, EXCHANGE_MAX).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(EXCHANGE_MAX)).unwrap();
        let (stop, exchanges) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = {
            let (mut stream, stop) = (stream.try_clone().unwrap(), Arc::clone(&stop));
            let exchanges = Arc::clone(&exchanges);
            thread::spawn(move || {
                let mut longest = Duration::ZERO;
                let mut nth = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    nth += 1;
                    let begun = Instant::now();
                    stream.write_all(&nth.to_be_bytes()).unwrap();
                    let mut back = [0; 8];
                    stream.read_exact(&mut back).unwrap();
                    assert_eq!(u64::from_be_bytes(back), nth);
                    longest = longest.max(begun.elapsed());
                    exchanges.store(nth, Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(500));
                }
                longest
            })
        };
        let conversation = Conversation {
            stream,
            stop,
            exchanges,
            thread,
        };
        conversation.goes_on();
        conversation
    }

    /// That it has not come to an end.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        let before = self.exchanges.load(Ordering::Relaxed);
        wait_for("the connection goes on", || {
            self.exchanges.load(Ordering::Relaxed) > before + 20
        });
    }

    /// Ends it; the longest exchange.
    pub(crate) fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().unwrap();
        self.stream.shutdown(Shutdown::Both).unwrap();
        longest
    }

    /// As `ipvsadm -Lnc` has it.
    pub(crate) fn client(&self) -> String {
        self.stream.local_addr().unwrap().to_string()
    }
}

/// Configuration of the first and of the second director, and the second's socket. `vrrp` are the
/// sections of each, in which the interface is `lan0`.
pub(crate) fn configs(host: &Host, vrrp: [&str; 2]) -> (PathBuf, PathBuf, PathBuf) {
    let first = host.config(&format!("{SYNC}{}", vrrp[0]));
    let (pins, socket) = (host.dir.join("bpf/other"), host.dir.join("run/other.sock"));
    let more = format!("interfaces = [\"lan0\"]\n{SYNC}{}", vrrp[1]);
    let second = host.config_of("other.toml", &pins, &socket, &more.replace("lan0", "lan1"));
    (first, second, socket)
}

/// A section for one of the addresses.
pub(crate) fn instance(nth: usize, priority: u8) -> String {
    let (name, vrid, vip) = (nth + 1, nth + 51, VIPS[nth]);
    format!(
        "[[vrrp]]\nname = \"VI_{name}\"\ninterface = \"lan0\"\nvrid = {vrid}\nadvert_ms = 50\n\
         priority = {priority}\ngarp_delay_ms = 200\nvips = [\"{vip}\"]\n"
    )
}

/// What the instances of a status are.
pub(crate) fn states(status: &serde_json::Value) -> Vec<String> {
    let instances = status["vrrp"].as_array().unwrap().iter();
    instances
        .map(|instance| {
            let is_serving = instance["is_serving"] == true;
            let state = instance["state"].as_str().unwrap();
            // The steps of a role follow the election.
            if is_serving == (state == "master") {
                state.to_owned()
            } else {
                "between".to_owned()
            }
        })
        .collect()
}

/// The sync daemons of a status, as `role/by`.
pub(crate) fn daemons(status: &serde_json::Value) -> Vec<String> {
    let daemons = status["sync"].as_array().unwrap().iter();
    daemons
        .map(|daemon| {
            let [role, by] = ["role", "by"].map(|key| daemon[key].as_str().unwrap());
            format!("{role}/{by}")
        })
        .collect()
}

/// Whether this thread's host has the first address.
pub(crate) fn has_first() -> bool {
    has_address("lan0")
}
