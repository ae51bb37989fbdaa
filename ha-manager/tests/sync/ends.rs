//! Two directors, each in a network of its own, with a link between them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dataplane::common::csum;
use dataplane::{DataPlane, Edit, Route, RouteKind, Runner};
use ha_manager::config::SyncTunables;
use ha_manager::sync::{SyncDaemonStatus, SyncDaemons, SyncOptions};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use crate::host::{Host, ip};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 50, 0, 1), 53);
pub(crate) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 0, 11), 53);
/// Packets of a connection at which it is offered.
pub(crate) const THRESHOLD: u32 = 3;

/// What the other director is told to do.
type Order = Box<dyn FnOnce(&mut Director) + Send>;

/// A director with its sync daemons.
pub(crate) struct Director {
    pub(crate) plane: Option<DataPlane>,
    pub(crate) sync: SyncDaemons,
    options: SyncOptions,
    host: Host,
}

impl Director {
    pub(crate) fn new(host: Host, options: &SyncOptions) -> Director {
        let mut plane = host.open();
        configure(&mut plane);
        let mut sync = SyncDaemons::new(options.clone());
        sync.prepare(&mut plane);
        Director {
            plane: Some(plane),
            sync,
            options: options.clone(),
            host,
        }
    }

    pub(crate) fn plane(&mut self) -> &mut DataPlane {
        self.plane.as_mut().unwrap()
    }

    pub(crate) fn start(&mut self, role: SyncRole, spec: &SyncSpec) -> Result<(), SyncError> {
        self.sync.start(self.plane.as_mut().unwrap(), role, spec)
    }

    pub(crate) fn stop(&mut self, role: SyncRole) -> Result<(), SyncError> {
        self.sync.stop(self.plane.as_mut().unwrap(), role)
    }

    /// Ends without stopping its daemons.
    pub(crate) fn die(&mut self) {
        self.sync.let_go(self.plane.as_mut().unwrap());
        self.sync = SyncDaemons::new(self.options.clone());
        self.plane = None;
    }

    /// The daemon after it takes over.
    pub(crate) fn come_back(&mut self) {
        let mut plane = self.host.open();
        assert!(plane.was_adopted());
        self.sync.prepare(&mut plane);
        self.sync.resume(&mut plane);
        self.plane = Some(plane);
    }

    /// Everything else stays as it was set.
    pub(crate) fn tune(&mut self, change: impl FnOnce(&mut SyncTunables)) {
        change(&mut self.options.tunables);
        let tunables = self.options.tunables;
        self.sync
            .set_tunables(self.plane.as_mut().unwrap(), tunables);
    }

    /// A whole round of the expiry walk.
    pub(crate) fn walk(&mut self) {
        while !self.plane().expire_step(u32::MAX).round_done {}
    }

    pub(crate) fn status(&self, role: SyncRole) -> SyncDaemonStatus {
        let mut all = self.sync.status().into_iter();
        all.find(|daemon| daemon.role == role).unwrap()
    }

    pub(crate) fn counter(&self, role: SyncRole, name: &str) -> u64 {
        let daemon = self.status(role);
        let counter = daemon.counters.iter().find(|(known, _)| *known == name);
        counter.unwrap().1
    }

    /// A bounded part of what has arrived.
    pub(crate) fn apply(&mut self) {
        self.sync.apply_received(self.plane.as_mut().unwrap());
    }

    /// Applies what has arrived until `done`.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        done: impl Fn(&[ConnEntry]) -> bool,
    ) -> Vec<ConnEntry> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.apply();
            let (entries, _) = self.plane().connections(0, usize::MAX);
            if done(&entries) {
                return entries;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {} entries",
                entries.len()
            );
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// The director at the other end of the link.
pub(crate) struct Other {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Other {
    /// Waits until the master has told that it sent so many entries: the peer may have them a moment
    /// before.
    pub(crate) fn wait_sent(&self, entries: u64) {
        let deadline = Instant::now() + LIMIT;
        while self.does(|master| master.counter(SyncRole::Master, "entries")) < entries {
            assert!(Instant::now() < deadline, "{entries} entries");
            thread::yield_now();
        }
    }

    /// Takes `sync1` of the calling thread's network.
    pub(crate) fn new(options: &SyncOptions) -> Other {
        let options = options.clone();
        let (orders, todo): (Sender<Order>, Receiver<Order>) = mpsc::channel();
        let (ready, wait) = mpsc::channel();
        let (go, moved) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(gettid()).unwrap();
            moved.recv().unwrap();
            ip("addr add 10.3.0.1/24 dev sync1");
            ip("addr add fd00:3::1/64 dev sync1 nodad");
            ip("link set sync1 up");
            ip("link set lo up");
            let mut director = Director::new(Host::here(), &options);
            for order in todo {
                order(&mut director);
            }
        });
        let other = wait.recv().unwrap();
        ip(&format!("link set sync1 netns {other}"));
        go.send(()).unwrap();
        Other {
            orders: Some(orders),
            thread: Some(thread),
        }
    }

    pub(crate) fn does<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Director) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |director| answer.send(work(director)).unwrap());
        self.orders.as_ref().unwrap().send(order).unwrap();
        answered.recv().unwrap()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.orders = None;
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

fn configure(plane: &mut DataPlane) {
    let route = |prefix: Ipv4Addr, prefix_len, kind| Route {
        prefix: prefix.into(),
        prefix_len,
        kind,
        ifindex: 1,
        gateway: None,
    };
    let routes = [
        route(*VIP.ip(), 32, RouteKind::Local),
        route(Ipv4Addr::UNSPECIFIED, 0, RouteKind::Unicast),
    ];
    plane.set_routes(&routes).unwrap();
    let key = ServiceKey::Address {
        protocol: Protocol::Udp,
        addr: VIP.into(),
    };
    let spec = ServiceSpec {
        scheduler: Some(Scheduler::Rr),
        flags: ServiceFlags(0),
        timeout_secs: 0,
        netmask: u32::MAX,
        pe_name: None,
    };
    plane.edit(&Edit::AddService { key, spec }).unwrap();
    let spec = ServerSpec {
        method: ForwardMethod::Masquerading,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let edit = Edit::AddServer {
        service: key,
        server: SERVER.into(),
        spec,
    };
    plane.edit(&edit).unwrap();
}

pub(crate) fn spec(interface: &str, sync_id: u8) -> SyncSpec {
    SyncSpec {
        interface: interface.into(),
        sync_id,
        maxlen: 0,
        group: None,
        port: 0,
        ttl: 0,
    }
}

/// As many datagrams of a client as make the director offer the connection.
pub(crate) fn connect(runner: &Runner, port: u16) {
    for _ in 0..THRESHOLD {
        runner.run(&datagram(port), 1, 1).unwrap();
    }
}

pub(crate) fn datagram(port: u16) -> Vec<u8> {
    // For the loopback device, whose address is all zeros.
    let mut frame = vec![0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 8, 0];
    let mut header = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 100, 0, 5];
    header.extend(VIP.ip().octets());
    let sum = csum::fold(
        header
            .chunks(2)
            .map(|pair| u64::from(pair[0]) << 8 | u64::from(pair[1]))
            .sum(),
    );
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    frame.extend(header);
    frame.extend(port.to_be_bytes());
    frame.extend(VIP.port().to_be_bytes());
    // Length, and no checksum.
    frame.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    frame
}

pub(crate) fn ports(entries: &[ConnEntry]) -> Vec<u16> {
    let mut ports: Vec<u16> = entries.iter().map(|entry| entry.client.port()).collect();
    ports.sort_unstable();
    ports
}

/// Directors here and there, without daemons.
pub(crate) fn directors(options: &SyncOptions) -> (Director, Other) {
    let host = Host::new();
    let other = Other::new(options);
    (Director::new(host, options), other)
}

/// A backup here, a master there.
pub(crate) fn pair_with(options: &SyncOptions) -> (Director, Other) {
    let (mut backup, other) = directors(options);
    backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
    other
        .does(|master| master.start(SyncRole::Master, &spec("sync1", 7)))
        .unwrap();
    (backup, other)
}

/// Each in namespaces that end with the thread.
pub(crate) fn in_namespaces(test: fn()) {
    thread::spawn(test).join().unwrap();
}
