use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use vrrp::{Config, Interval, Parameters};

use super::super::ElectionRole;
use super::*;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 100);
/// Unit: milliseconds. Nothing here takes longer, on however slow a machine.
const LIMIT: u16 = 30_000;
const BEGUN: Duration = Duration::from_secs(1000);
/// Long after the master-down time.
const LATE: Duration = Duration::from_secs(1100);

/// A backup, its counters, and the master's sockets in another namespace.
fn backup_and_master() -> (Router, Counters, AdvertSocket) {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let (tell, told) = mpsc::channel();
    let (go, went) = mpsc::channel();
    let master = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tell.send(gettid()).unwrap();
        went.recv().unwrap();
        ip("addr add 10.79.0.2/24 dev far0");
        ip("link set far0 up");
        AdvertSocket::open("far0", 51).unwrap()
    });
    let tid = told.recv().unwrap();
    ip("link add near0 type veth peer name far0");
    ip(&format!("link set far0 netns {tid}"));
    ip("addr add 10.79.0.1/24 dev near0");
    ip("link set near0 up");
    go.send(()).unwrap();
    let master = master.join().unwrap();
    let parameters = Parameters {
        vrid: 51,
        addresses: vec![VIP],
        ..Parameters::default()
    };
    let spec = RouterSpec {
        name: "VI_1".to_owned(),
        interface: "near0".to_owned(),
        config: Config::new(parameters).unwrap(),
    };
    let (mut router, counters) = (Router::open(&spec).unwrap(), Counters::default());
    router.set_fault(None, BEGUN);
    router.serve_faults(None, BEGUN, &counters);
    assert_eq!(router.machine.state(), VrrpState::Backup);
    (router, counters, master)
}

/// The master's advertisement arrives in the queue, and nobody reads it.
fn advertise(router: &Router, master: &AdvertSocket, priority: u8) {
    let advert = Advert {
        vrid: 51,
        priority: Priority(priority),
        interval: Interval::DEFAULT,
        addresses: &[VIP],
    };
    let packet = advert.to_packet(master.source(), Identification::FIRST);
    master.send(&packet).unwrap();
    let fd = router.socket().unwrap().fd(Queue::Election);
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(LIMIT)), Ok(1));
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "ip {words}");
}

#[test]
fn a_thread_that_was_late_reads_its_queue_before_it_takes_over() {
    let (mut router, counters, master) = backup_and_master();
    advertise(&router, &master, 150);
    router.serve_timer(1, LATE, &counters);
    assert_eq!(router.machine.state(), VrrpState::Backup);
    assert_eq!(router.view().master, Some((master.source(), 150)));
    // With nothing heard it does.
    let later = LATE + Duration::from_secs(10);
    router.serve_timer(1, later, &counters);
    assert_eq!(router.machine.state(), VrrpState::Master);
}

#[test]
fn lateness_is_measured_on_a_master_s_own_adverts() {
    let (mut router, counters, _master) = backup_and_master();
    router.serve_timer(1, LATE, &counters);
    assert_eq!(counters.lateness_max_us(), 0);
    router.serve_timer(1, LATE + Duration::from_micros(1_000_250), &counters);
    assert_eq!(counters.lateness_max_us(), 250);
}

#[test]
fn a_fault_of_any_kind_is_one() {
    let (mut router, counters, _master) = backup_and_master();
    let mut reasons = Vec::new();
    for (owner, pulse) in [(true, true), (false, true), (false, false)] {
        router.set_fault(owner.then(|| "owner".to_owned()), BEGUN);
        router.serve_faults(pulse.then(|| "pulse".to_owned()), BEGUN, &counters);
        reasons.push((router.view().role, router.view().fault));
    }
    let fault = |reason: &str| (ElectionRole::Fault, Some(reason.to_owned()));
    let healthy = (ElectionRole::Backup, None);
    assert_eq!(reasons, [fault("owner"), fault("pulse"), healthy]);
}

#[test]
fn a_master_whose_thread_stood_still_is_told_apart_and_sends_nothing() {
    let (mut router, counters, _master) = backup_and_master();
    router.serve_timer(1, LATE, &counters);
    let sent = count(&counters, "adverts_sent");
    router.asked(1);
    router.serve_faults(None, LATE + Duration::from_secs(4), &counters);
    let view = router.view();
    assert_eq!((view.role, view.answered), (ElectionRole::Backup, 1));
    assert_eq!(count(&counters, "mastership_lapsed"), 1);
    assert_eq!(count(&counters, "adverts_sent"), sent);
}

fn count(counters: &Counters, name: &str) -> u64 {
    let mut list = counters.list().into_iter();
    list.find(|(known, _)| *known == name).unwrap().1
}
