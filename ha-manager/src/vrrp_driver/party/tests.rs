use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use vrrp::net::socket::{AdvertSocket, Place};
use vrrp::{AdvertCodec, Config, Parameters};

use super::super::{ElectionRole, Orders};
use super::*;

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 79, 0, 100));
/// Unit: milliseconds. Nothing here takes longer, on however slow a machine.
const LIMIT: u16 = 30_000;
const BEGUN: Duration = Duration::from_secs(1000);
/// Long after the master-down time.
const LATE: Duration = Duration::from_secs(1100);

fn config(priority: u8) -> Config {
    let parameters = Parameters {
        vrid: 51,
        priority,
        addresses: vec![VIP],
        ..Parameters::default()
    };
    Config::new(parameters).unwrap()
}

/// A backup, and the master's sockets in another namespace.
fn backup_and_master() -> (Party, AdvertSocket) {
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
        let place = Place {
            interface: "far0",
            send_on: None,
            source: None,
            neighbours: &[],
        };
        AdvertSocket::open(&place, &config(150)).unwrap()
    });
    let tid = told.recv().unwrap();
    ip("link add near0 type veth peer name far0");
    ip(&format!("link set far0 netns {tid}"));
    ip("addr add 10.79.0.1/24 dev near0");
    ip("link set near0 up");
    go.send(()).unwrap();
    let master = master.join().unwrap();
    let spec = RouterSpec {
        name: "VI_1".to_owned(),
        interface: "near0".to_owned(),
        config: config(100),
        source: None,
        send_on: None,
        track_interface: true,
    };
    let mut party = Party::open(&[0], &[(spec, Arc::default())]).unwrap();
    order(&mut party, BEGUN, |_| {});
    assert_eq!(state(&party), VrrpState::Backup);
    (party, master)
}

/// Hands in orders that differ from those without fault in a way, and looks at faults.
fn order(party: &mut Party, now: Duration, change: impl FnOnce(&mut Orders)) {
    let mut orders = Orders::default();
    change(&mut orders);
    let inbox = Inbox {
        orders: vec![orders],
        ..Inbox::default()
    };
    party.obey(&inbox, now);
    party.serve_faults(None, now);
}

fn state(party: &Party) -> VrrpState {
    party.group.members()[0].state()
}

fn view(party: &Party) -> ElectionView {
    party.views().next().unwrap().1
}

fn count(party: &Party, name: &str) -> u64 {
    let mut list = party.members[0].counters.list().into_iter();
    list.find(|(known, _)| *known == name).unwrap().1
}

fn lateness_max_us(party: &Party) -> u64 {
    party.members[0].counters.lateness_max_us()
}

/// The master's advertisement arrives in the queue, and nobody reads it.
fn advertise(party: &Party, master: &AdvertSocket, priority: u8) {
    let mut codec = AdvertCodec::new(&config(priority));
    for outgoing in codec.encode(Priority(priority), master.source()) {
        master.send(&outgoing).unwrap();
    }
    let fd = party.members[0].socket().unwrap().fd(Queue::Election);
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::from(LIMIT)), Ok(1));
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "ip {words}");
}

#[test]
fn a_thread_that_was_late_reads_its_queue_before_it_takes_over() {
    let (mut party, master) = backup_and_master();
    advertise(&party, &master, 150);
    party.serve_timers(LATE);
    assert_eq!(state(&party), VrrpState::Backup);
    assert_eq!(view(&party).master, Some((master.source(), 150)));
    // With nothing heard it does.
    party.serve_timers(LATE + Duration::from_secs(10));
    assert_eq!(state(&party), VrrpState::Master);
}

#[test]
fn lateness_is_measured_on_a_master_s_own_adverts() {
    let (mut party, _master) = backup_and_master();
    party.serve_timers(LATE);
    assert_eq!(lateness_max_us(&party), 0);
    party.serve_timers(LATE + Duration::from_micros(1_000_250));
    assert_eq!(lateness_max_us(&party), 250);
    assert_eq!(party.members[0].counters.lateness().count(), 1);
}

#[test]
fn a_fault_of_any_kind_is_one() {
    let (mut party, _master) = backup_and_master();
    let mut reasons = Vec::new();
    for (owner, node) in [(true, true), (false, true), (false, false)] {
        order(&mut party, BEGUN, |orders| {
            orders.fault = owner.then(|| "owner".to_owned());
        });
        party.serve_faults(node.then(|| "pulse".to_owned()).as_ref(), BEGUN);
        reasons.push((view(&party).role, view(&party).fault));
    }
    let fault = |reason: &str| (ElectionRole::Fault, Some(reason.to_owned()));
    let healthy = (ElectionRole::Backup, None);
    assert_eq!(reasons, [fault("owner"), fault("pulse"), healthy]);
}

#[test]
fn a_master_whose_thread_stood_still_is_told_apart_and_sends_nothing() {
    let (mut party, _master) = backup_and_master();
    party.serve_timers(LATE);
    let sent = count(&party, "adverts_sent");
    let now = LATE + Duration::from_secs(4);
    let inbox = Inbox {
        orders: vec![Orders::default()],
        asked: 1,
        ..Inbox::default()
    };
    party.obey(&inbox, now);
    party.serve_faults(None, now);
    let view = view(&party);
    assert_eq!((view.role, view.answered), (ElectionRole::Backup, 1));
    assert_eq!(count(&party, "mastership_lapsed"), 1);
    assert_eq!(count(&party, "adverts_sent"), sent);
}

#[test]
fn weights_change_the_priority_and_stand_until_they_are_others() {
    let (mut party, _master) = backup_and_master();
    for (weights, priority) in [(-30, 70), (-30, 70), (-300, 1), (500, 254), (0, 100)] {
        order(&mut party, BEGUN, |orders| orders.weights = weights);
        assert_eq!(view(&party).effective_priority, priority, "{weights}");
    }
}

#[test]
fn a_lost_address_is_an_event_once_for_each_order() {
    let (mut party, _master) = backup_and_master();
    party.serve_timers(LATE);
    assert_eq!(state(&party), VrrpState::Master);
    order(&mut party, LATE, |orders| orders.vips_lost = 1);
    assert_eq!(state(&party), VrrpState::Backup);
    assert!(count(&party, "priority_zero_sent") > 0);
    party.serve_timers(LATE + Duration::from_secs(1));
    assert_eq!(state(&party), VrrpState::Master);
    order(&mut party, LATE + Duration::from_secs(1), |orders| {
        orders.vips_lost = 1;
    });
    assert_eq!(state(&party), VrrpState::Master);
}

#[test]
fn routers_in_no_group_stand_alone_and_wrong_groups_are_refused() {
    assert_eq!(
        complete(vec![vec![1, 2]], 4).unwrap(),
        [vec![1, 2], vec![0], vec![3]]
    );
    assert_eq!(complete(Vec::new(), 1).unwrap(), [[0]]);
    for groups in [vec![vec![2]], vec![vec![0, 0]], vec![vec![0], vec![1, 0]]] {
        assert!(matches!(complete(groups, 2), Err(ElectionError::Group(_))));
    }
}
