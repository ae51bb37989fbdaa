//! A master and a backup, each in a network of its own, with a link between them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dataplane::common::csum;
use dataplane::{DataPlane, Edit, Route, RouteKind, Runner};
use ha_manager::sync::{SyncDaemons, SyncOptions};
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

const LIMIT: Duration = Duration::from_secs(20);
const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 50, 0, 1), 53);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 200, 0, 11), 53);
/// Packets of a connection at which it is offered.
const THRESHOLD: u32 = 3;

/// What the other director is told to do.
type Order = Box<dyn FnOnce(&mut Director) + Send>;

/// A director with its sync daemons.
struct Director {
    plane: Option<DataPlane>,
    sync: SyncDaemons,
    host: Host,
}

impl Director {
    fn new(host: Host, flush_age: Duration) -> Director {
        let mut plane = host.open();
        configure(&mut plane);
        let mut sync = SyncDaemons::new(SyncOptions {
            flush_age,
            ..SyncOptions::default()
        });
        sync.prepare(&mut plane);
        let plane = Some(plane);
        Director { plane, sync, host }
    }

    fn plane(&mut self) -> &mut DataPlane {
        self.plane.as_mut().unwrap()
    }

    fn start(&mut self, role: SyncRole, spec: &SyncSpec) -> Result<(), SyncError> {
        self.sync.start(self.plane.as_mut().unwrap(), role, spec)
    }

    fn stop(&mut self, role: SyncRole) -> Result<(), SyncError> {
        self.sync.stop(self.plane.as_mut().unwrap(), role)
    }

    /// Ends without stopping its daemons.
    fn die(&mut self) {
        self.sync.let_go(self.plane.as_mut().unwrap());
        let flush_age = Duration::from_millis(5);
        self.sync = SyncDaemons::new(SyncOptions {
            flush_age,
            ..SyncOptions::default()
        });
        self.plane = None;
    }

    /// The daemon after it takes over.
    fn come_back(&mut self) {
        let mut plane = self.host.open();
        assert!(plane.was_adopted());
        self.sync.prepare(&mut plane);
        self.sync.resume(&mut plane);
        self.plane = Some(plane);
    }

    /// A whole round of the expiry walk.
    fn walk(&mut self) {
        while !self.plane().expire_step(u32::MAX).round_done {}
    }

    fn counter(&self, role: SyncRole, name: &str) -> u64 {
        let status = self.sync.status();
        let daemon = status.iter().find(|daemon| daemon.role == role).unwrap();
        let counter = daemon.counters.iter().find(|(known, _)| *known == name);
        counter.unwrap().1
    }

    /// Applies what has arrived until `done`.
    fn wait(&mut self, what: &str, done: impl Fn(&[ConnEntry]) -> bool) -> Vec<ConnEntry> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.sync.apply_received(self.plane.as_mut().unwrap());
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
struct Other {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Other {
    /// Takes `sync1` of the calling thread's network.
    fn new(flush_age: Duration) -> Other {
        let (orders, todo): (Sender<Order>, Receiver<Order>) = mpsc::channel();
        let (ready, wait) = mpsc::channel();
        let (go, moved) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(gettid()).unwrap();
            moved.recv().unwrap();
            ip("addr add 10.3.0.1/24 dev sync1");
            ip("link set sync1 up");
            ip("link set lo up");
            let mut director = Director::new(Host::here(), flush_age);
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

    fn does<T: Send + 'static>(&self, work: impl FnOnce(&mut Director) -> T + Send + 'static) -> T {
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

fn spec(interface: &str, sync_id: u8) -> SyncSpec {
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
fn connect(runner: &Runner, port: u16) {
    for _ in 0..THRESHOLD {
        runner.run(&datagram(port), 1, 1).unwrap();
    }
}

fn datagram(port: u16) -> Vec<u8> {
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

fn ports(entries: &[ConnEntry]) -> Vec<u16> {
    let mut ports: Vec<u16> = entries.iter().map(|entry| entry.client.port()).collect();
    ports.sort_unstable();
    ports
}

/// A backup here, a master there.
fn pair(flush_age: Duration) -> (Director, Other) {
    let host = Host::new();
    let other = Other::new(flush_age);
    let mut backup = Director::new(host, flush_age);
    backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
    other
        .does(|master| master.start(SyncRole::Master, &spec("sync1", 7)))
        .unwrap();
    (backup, other)
}

/// Each in namespaces that end with the thread.
fn in_namespaces(test: fn()) {
    thread::spawn(test).join().unwrap();
}

#[test]
fn connections_appear_on_the_peer_within_the_age_of_a_message() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        let mut took = Vec::new();
        for port in 20_000..20_200 {
            connect(&runner, port);
            let begun = Instant::now();
            backup.wait("the connection", |entries| {
                entries.iter().any(|entry| entry.client.port() == port)
            });
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        println!(
            "offered to visible on the peer: p50 {:?}, p99 {:?}, max {:?}",
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            took[took.len() - 1]
        );
        let entries = backup.wait("all of them", |entries| entries.len() == 200);
        assert!(
            entries
                .iter()
                .all(|entry| entry.bound && entry.dest == SERVER.into())
        );
        assert_eq!(
            master.does(|director| director.counter(SyncRole::Master, "entries")),
            200
        );
        assert_eq!(backup.counter(SyncRole::Backup, "applied_new"), 200);
    });
}

#[test]
fn a_master_that_is_stopped_sends_what_it_has_first() {
    in_namespaces(|| {
        // Nothing would be due for two seconds.
        let (mut backup, master) = pair(Duration::from_secs(2));
        let runner = master.does(|director| director.plane().runner().unwrap());
        for port in 20_000..20_100 {
            connect(&runner, port);
        }
        master
            .does(|director| director.stop(SyncRole::Master))
            .unwrap();
        backup.wait("all of them", |entries| entries.len() == 100);
    });
}

#[test]
fn a_backup_that_is_stopped_applies_what_it_has_received() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        for port in 20_000..20_100 {
            connect(&runner, port);
        }
        master
            .does(|director| director.stop(SyncRole::Master))
            .unwrap();
        // Nothing has been applied so far: that is the owner's part, and it has not been asked.
        assert_eq!(backup.plane().connections(0, 1).0, []);
        backup.stop(SyncRole::Backup).unwrap();
        assert_eq!(backup.plane().connections(0, usize::MAX).0.len(), 100);
    });
}

#[test]
fn what_was_due_while_no_daemon_ran_is_offered_by_the_one_that_takes_over() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        connect(&runner, 20_000);
        backup.wait("the first", |entries| entries.len() == 1);
        master.does(Director::die);
        for port in 20_001..20_300 {
            connect(&runner, port);
        }
        master.does(Director::come_back);
        assert_eq!(
            master.does(|director| director.sync.list()).len(),
            1,
            "resumed"
        );
        // What is still in the ring comes by itself, the rest with the walk.
        master.does(Director::walk);
        let entries = backup.wait("all of them", |entries| entries.len() == 300);
        assert_eq!(ports(&entries), (20_000..20_300).collect::<Vec<u16>>());
    });
}

#[test]
fn a_peer_that_missed_everything_is_told_again_after_a_restart() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        backup.stop(SyncRole::Backup).unwrap();
        for port in 20_000..20_050 {
            connect(&runner, port);
        }
        master.does(|director| {
            let deadline = Instant::now() + LIMIT;
            while director.counter(SyncRole::Master, "entries") < 50 {
                assert!(Instant::now() < deadline);
                thread::sleep(Duration::from_micros(200));
            }
        });
        backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
        master.does(Director::die);
        master.does(Director::come_back);
        master.does(Director::walk);
        backup.wait("all of them", |entries| entries.len() == 50);
    });
}

#[test]
fn what_could_not_be_sent_is_offered_again_when_it_can() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        connect(&runner, 20_000);
        backup.wait("the first", |entries| entries.len() == 1);
        master.does(|_| ip("link set sync1 down"));
        for port in 20_001..20_050 {
            connect(&runner, port);
        }
        let deadline = Instant::now() + LIMIT;
        while master.does(|director| director.counter(SyncRole::Master, "drop_send_error")) < 49 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            master.does(|director| director.counter(SyncRole::Master, "entries")),
            1
        );
        master.does(|_| ip("link set sync1 up"));
        // As the owner does about once a second.
        for _ in 0..10 {
            master.does(|director| {
                director.sync.tend(director.plane.as_mut().unwrap());
                director.walk();
            });
        }
        backup.wait("all of them", |entries| entries.len() == 50);
    });
}

#[test]
fn other_sync_ids_are_not_heard_and_counted() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        backup.stop(SyncRole::Backup).unwrap();
        backup.start(SyncRole::Backup, &spec("sync0", 8)).unwrap();
        connect(&runner, 20_000);
        let deadline = Instant::now() + LIMIT;
        while backup.counter(SyncRole::Backup, "refused_message_sync_id") == 0 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        backup.stop(SyncRole::Backup).unwrap();
        assert_eq!(backup.plane().connections(0, 1).0, []);
    });
}

#[test]
fn starting_and_stopping_is_refused_as_the_kernel_refuses_it() {
    in_namespaces(|| {
        let host = Host::new();
        let mut director = Director::new(host, Duration::from_millis(5));
        let gone = SyncError::NoDevice("gone0".into());
        for role in SyncRole::ALL {
            let idle = SyncError::NotRunning(role);
            assert_eq!(director.stop(role), Err(idle.clone()));
            assert_eq!(director.start(role, &spec("gone0", 1)), Err(gone.clone()));
            director.start(role, &spec("sync0", 1)).unwrap();
            assert_eq!(
                director.start(role, &spec("sync0", 2)),
                Err(SyncError::Running(role))
            );
            // The interface is looked at before the role.
            assert_eq!(director.start(role, &spec("gone0", 1)), Err(gone.clone()));
        }
        let listed = director.sync.list();
        assert_eq!(listed.len(), 2, "both roles at once");
        let (role, filled) = &listed[0];
        assert_eq!(
            (*role, filled.maxlen, filled.port, filled.ttl),
            (SyncRole::Master, 1472, 8848, 1)
        );
        assert_eq!(filled.group.unwrap().to_string(), "224.0.0.81");
        for role in SyncRole::ALL {
            director.stop(role).unwrap();
        }
        let bad = SyncSpec {
            group: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
            ..spec("sync0", 1)
        };
        assert!(matches!(
            director.start(SyncRole::Backup, &bad),
            Err(SyncError::Invalid(_))
        ));
    });
}
