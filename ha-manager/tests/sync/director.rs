//! The shipped programs as a sync backup: `directord run` in namespaces of the calling thread, and
//! the end of its sync link that datagrams come from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use ipvs_control::{Client, Reply, Request};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use nix::net::if_::if_nametoindex;
use nix::unistd::gettid;
use serde_json::Value;
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::conn::{Addresses, Ends, SyncConn};

use crate::listings::{Difference, LISTINGS, differences};
use crate::programs::{Daemon, Host, Neighbour, ip};

/// Nothing here takes longer, on however slow a machine.
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(3);
/// Expired entries are removed by a walk of about a second.
const WALK_PAUSE: Duration = Duration::from_millis(20);
/// Clients of the connections that say how far the backup has come. No recording has the network.
const MARKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// The same as the listings have it.
const MARKER_TEXT: [&str; 2] = ["C00002FE", "192.0.2.254"];

pub(crate) struct Backup {
    // Ends before the host it runs on.
    _daemon: Daemon,
    pub(crate) host: Host,
    _peer: Neighbour,
    from_v4: UdpSocket,
    from_v6: UdpSocket,
    /// Index of the link's other end, where it is.
    link: u32,
    /// Markers sent so far.
    marks: u16,
}

impl Backup {
    /// Moves the calling thread into new namespaces; `more` are further lines of the configuration.
    pub(crate) fn new(more: &str) -> Backup {
        let host = Host::new();
        let peer = Neighbour::new();
        ip("link add sync0 type veth peer name sync1");
        ip("addr add 10.3.0.2/24 dev sync0");
        ip("link set sync0 up");
        ip(&format!("link set sync1 netns {}", peer.run(gettid)));
        for words in [
            "addr add 10.3.0.1/24 dev sync1",
            "addr add fe80::3:1/64 dev sync1 nodad",
            "link set sync1 up",
            "route add 224.0.0.0/4 dev sync1",
        ] {
            peer.ip(words);
        }
        let (from_v4, from_v6, link) = peer.run(|| {
            (
                UdpSocket::bind("10.3.0.1:0").unwrap(),
                UdpSocket::bind("[::]:0").unwrap(),
                if_nametoindex("sync1").unwrap(),
            )
        });
        let daemon = host.start(&config(&host, more));
        Backup {
            _daemon: daemon,
            host,
            _peer: peer,
            from_v4,
            from_v6,
            link,
            marks: 0,
        }
    }

    /// Runs a command of a recording, which has to work; or says why the director cannot do it.
    pub(crate) fn command(&self, line: &str) -> Result<(), String> {
        if line == "true" {
            return Ok(());
        }
        let words = line.strip_prefix("ipvsadm ");
        let ended = self.host.ipvsadm(words.unwrap_or_else(|| panic!("{line}")));
        match (ended.status, ended.err.as_str()) {
            (Some(0), "") => Ok(()),
            (_, error) => Err(format!("{line}: {}", error.trim_end())),
        }
    }

    pub(crate) fn send(&self, payload: &[u8], group: IpAddr, port: u16) {
        match group {
            IpAddr::V4(_) => self.from_v4.send_to(payload, (group, port)),
            IpAddr::V6(group) => {
                let to = SocketAddrV6::new(group, port, 0, self.link);
                self.from_v6.send_to(payload, to)
            }
        }
        .unwrap();
    }

    /// Waits until everything that was sent to this port has been applied. Datagrams of a port are
    /// applied in their order, so one that is known to change the table says so.
    pub(crate) fn settle(&mut self, sync_id: u8, group: IpAddr, port: u16) {
        self.marks += 1;
        let conn = marker(port, (self.marks % 7 + 1) as u8);
        for message in messages(std::slice::from_ref(&conn), sync_id) {
            self.send(&message, group, port);
        }
        let client = conn.addresses.client();
        self.wait("the marker", |all| {
            all.iter()
                .any(|entry| entry.client == client && entry.state == conn.state)
        });
    }

    /// What differs between the listings here and the recorded ones. Of a line that was too long for
    /// it, the recorded `ipvsadm` printed nothing at all.
    pub(crate) fn differences(&self, kernels: &Value) -> Vec<Difference> {
        let recorded = LISTINGS.iter();
        let recorded =
            recorded.filter(|name| kernels[**name].as_str().is_some_and(|it| !it.is_empty()));
        recorded
            .flat_map(|name| differences(name, &self.listing(name), &kernels[*name]))
            .collect()
    }

    /// A listing as the programs print it, but for the markers.
    fn listing(&self, name: &str) -> String {
        let text = match name {
            "ipvsadm_Lnc" => self.host.admin("-L -n -c"),
            "ipvsadm_Ln" => self.host.admin("-L -n"),
            file => self.host.directord(&["proc", file]).succeeded(),
        };
        let lines = text.split_inclusive('\n');
        lines
            .filter(|line| !MARKER_TEXT.iter().any(|text| line.contains(text)))
            .collect()
    }

    /// Leaves the director as it was when it started: the daemon is stopped, the services are gone,
    /// and every connection is told to end, which it does within about a second.
    pub(crate) fn empty(&mut self) {
        let stopped = self.host.ipvsadm("--stop-daemon backup");
        assert!(stopped.status.is_some());
        self.host.admin("-C");
        self.host
            .admin("--start-daemon backup --mcast-interface sync0 --syncid 0");
        let ending: Vec<SyncConn> = self.connections().iter().map(ended_soon).collect();
        let group = Ipv4Addr::new(224, 0, 0, 81).into();
        for message in messages(&ending, 0) {
            self.send(&message, group, 8848);
        }
        // What has expired counts for its server until it is removed.
        let deadline = Instant::now() + LIMIT;
        while self.places_taken() > 0 {
            assert!(Instant::now() < deadline, "{} places", self.places_taken());
            thread::sleep(WALK_PAUSE);
        }
        self.host.admin("--stop-daemon backup");
    }

    fn wait(&self, what: &str, done: impl Fn(&[ConnEntry]) -> bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let entries = self.connections();
            if done(&entries) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {entries:#?}");
            thread::sleep(PAUSE);
        }
    }

    /// In the tables of both families.
    fn places_taken(&self) -> u64 {
        let reply = self.ask(&Request::Status { json: true });
        let Reply::Text(text) = reply else {
            panic!("{reply:?}");
        };
        let status: Value = serde_json::from_str(&text).unwrap();
        let families = ["connections_v4", "connections_v6"];
        let taken = families.map(|family| status["tables"][family]["taken"].as_u64().unwrap());
        taken.iter().sum()
    }

    fn ask(&self, request: &Request) -> Reply {
        let mut client = Client::connect(&self.host.socket()).unwrap();
        client.call(request).unwrap()
    }

    fn connections(&self) -> Vec<ConnEntry> {
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            let reply = self.ask(&Request::ListConnections { cursor });
            let Reply::Connections(page) = reply else {
                panic!("{reply:?}");
            };
            all.extend(page.entries);
            match page.next {
                Some(next) => cursor = next,
                None => return all,
            }
        }
    }
}

/// Of tables that hold what any recording makes. The larger they are, the shorter are the steps of the
/// walk, and the sooner is an entry removed that has expired.
fn config(host: &Host, more: &str) -> PathBuf {
    let (pin_dir, socket) = (host.pin_dir(), host.socket());
    let text = format!(
        "[director]\nname = \"lb1\"\npin_dir = {pin_dir:?}\ncontrol = {socket:?}\n\
         interfaces = [\"lan0\"]\nconnections_v4 = 16384\nconnections_v6 = 16384\n\
         services = 16\nservers = 64\n{more}\n"
    );
    host.file("backup.toml", text.as_bytes())
}

fn marker(port: u16, state: u8) -> SyncConn {
    let end = |last| (Ipv4Addr::new(192, 0, 2, last), port);
    entry(
        6,
        [(MARKER, port), end(253), end(252)].map(|(addr, port)| SocketAddr::from((addr, port))),
        state,
        3600,
    )
}

/// An entry that makes a connection end in a second.
fn ended_soon(of: &ConnEntry) -> SyncConn {
    let ends = [of.client, of.virt, of.dest];
    SyncConn {
        flags: of.flags.0 & !ConnFlags::ONE_PACKET,
        fwmark: of.fwmark,
        pe: of.pe.clone(),
        ..entry(of.protocol, ends, of.state, 1)
    }
}

fn entry(protocol: u8, ends: [SocketAddr; 3], state: u8, timeout_secs: u32) -> SyncConn {
    SyncConn {
        protocol,
        addresses: addresses(ends),
        flags: 0,
        state,
        fwmark: 0,
        timeout_secs,
        seq: None,
        pe: None,
    }
}

fn addresses(ends: [SocketAddr; 3]) -> Addresses {
    if let [
        SocketAddr::V4(client),
        SocketAddr::V4(virt),
        SocketAddr::V4(dest),
    ] = ends
    {
        return Addresses::V4(Ends { client, virt, dest });
    }
    let [client, virt, dest] = ends.map(|end| match end.ip() {
        IpAddr::V6(addr) => SocketAddrV6::new(addr, end.port(), 0, 0),
        IpAddr::V4(_) => SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, end.port(), 0, 0),
    });
    Addresses::V6(Ends { client, virt, dest })
}

/// As few messages of version 1 as hold the connections.
fn messages(conns: &[SyncConn], sync_id: u8) -> Vec<Vec<u8>> {
    let layout = Layout {
        sync_id,
        maxlen: 1472,
        ..Layout::default()
    };
    let (mut buffer, mut messages) = (SyncBuffer::new(layout), Vec::new());
    let now = Instant::now();
    for conn in conns {
        if buffer.push(conn, now) != Packed::Stored {
            messages.push(buffer.message().to_vec());
            buffer.clear();
            assert_eq!(buffer.push(conn, now), Packed::Stored, "{conn:?}");
        }
    }
    if !conns.is_empty() {
        messages.push(buffer.message().to_vec());
    }
    messages
}
