//! Hosts in network namespaces of their own, and election threads in them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ha_manager::vrrp_driver::{
    ElectionRole, ElectionStatus, ElectionView, Elections, RouterSpec, ThreadOptions, start,
};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use vrrp::{Config, Parameters};

pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 100));
pub const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 1));
pub const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2));
/// Nothing here takes longer, on however slow a machine.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How old the owner's pulse may be.
pub const PULSE_MAX: Duration = Duration::from_secs(1);
/// A pulse that is never too old.
pub const ALIVE: u64 = u64::MAX;
/// As every other thread: tests share their processors, and their process its memory.
pub const ORDINARY: ThreadOptions = ThreadOptions {
    rt_priority: 0,
    lock_memory: false,
    startup_delay: Duration::ZERO,
};

const PAUSE: Duration = Duration::from_millis(1);

/// A thread in a network namespace of its own that does what it is told.
pub struct Host {
    pub orders: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    pub tid: nix::unistd::Pid,
}

impl Host {
    pub fn new() -> Host {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let (orders, ordered) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid()).unwrap();
            for order in ordered {
                order();
            }
        });
        let tid = told.recv().unwrap();
        Host { orders, tid }
    }

    pub fn run<T: Send + 'static>(&self, order: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let order = move || tell.send(order()).unwrap();
        self.orders.send(Box::new(order)).unwrap();
        told.recv().expect("the order panicked")
    }

    pub fn ip(&self, words: &str) {
        let words = words.to_owned();
        self.run(move || ip(&words));
    }

    pub fn elect(&self, parameters: Parameters) -> Member {
        self.elect_all(vec![spec(parameters)], Vec::new(), ORDINARY)
    }

    /// Several routers on one thread, all of them ready.
    pub fn elect_all(
        &self,
        specs: Vec<RouterSpec>,
        groups: Vec<Vec<usize>>,
        options: ThreadOptions,
    ) -> Member {
        let pulse = Arc::new(AtomicU64::new(ALIVE));
        let (own, routers) = (Arc::clone(&pulse), specs.len());
        let elections = self.run(move || start(specs, groups, options, own, PULSE_MAX).unwrap());
        for router in 0..routers {
            elections.set_fault(router, None);
        }
        Member { elections, pulse }
    }
}

/// Two hosts with `dir0` towards each other.
pub fn pair() -> (Host, Host) {
    let (a, b) = (Host::new(), Host::new());
    a.run(|| ip("link add dir0 type veth peer name peer0"));
    let tid = b.tid;
    a.run(move || ip(&format!("link set peer0 netns {tid} name dir0")));
    a.ip("addr add 10.78.0.1/24 dev dir0");
    b.ip("addr add 10.78.0.2/24 dev dir0");
    for (host, last) in [(&a, 1), (&b, 2)] {
        host.ip("link set dir0 addrgenmode none");
        host.ip("link set dir0 up");
        host.ip(&format!("addr add fe80::{last}/64 dev dir0 nodad"));
        host.ip(&format!("addr add fd00:78::{last}/64 dev dir0 nodad"));
    }
    (a, b)
}

pub fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "ip {words}");
}

pub fn parameters(priority: u8, advert_ms: u32) -> Parameters {
    Parameters {
        vrid: 51,
        priority,
        advert_ms,
        addresses: vec![VIP],
        ..Parameters::default()
    }
}

pub fn spec(parameters: Parameters) -> RouterSpec {
    RouterSpec {
        name: "VI_1".to_owned(),
        interface: "dir0".to_owned(),
        config: Config::new(parameters).unwrap(),
        source: None,
        send_on: None,
        track_interface: true,
    }
}

/// A running thread with one router.
pub struct Member {
    pub elections: Elections,
    pub pulse: Arc<AtomicU64>,
}

impl Member {
    pub fn view(&self) -> ElectionView {
        self.view_of(0)
    }

    pub fn view_of(&self, router: usize) -> ElectionView {
        self.elections.changes().borrow()[router].clone()
    }

    pub fn status(&self) -> ElectionStatus {
        self.elections.status().remove(0)
    }

    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.status().counters;
        let found = counters.into_iter().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// Waits until it has a role; when that was.
    #[track_caller]
    pub fn becomes(&self, role: ElectionRole) -> Instant {
        wait_for(&format!("{role:?}"), || self.view().role == role);
        Instant::now()
    }

    #[track_caller]
    pub fn fails_with(&self, reason: &str) {
        wait_for(reason, || self.view().fault.as_deref() == Some(reason));
        assert_eq!(self.view().role, ElectionRole::Fault);
    }
}

#[track_caller]
pub fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_there() {
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(PAUSE);
    }
}
