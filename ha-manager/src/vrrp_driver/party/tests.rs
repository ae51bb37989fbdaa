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
    let mut party = Party::open(&[0], &[(spec(config(100)), Arc::default())]).unwrap();
    order(&mut party, BEGUN, |_| {});
    assert_eq!(state(&party), VrrpState::Backup);
    (party, master)
}

fn spec(config: Config) -> RouterSpec {
    RouterSpec {
        name: "VI_1".to_owned(),
        interface: "near0".to_owned(),
        config,
        source: None,
        send_on: None,
        track_interface: true,
    }
}

/// A group of so many backups with nobody else on their LAN.
fn group_of(count: u8) -> Party {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link add near0 type veth peer name far0");
    ip("addr add 10.79.0.1/24 dev near0");
    ip("link set near0 up");
    ip("link set far0 up");
    let router = |vrid: u8| {
        let parameters = Parameters {
            vrid,
            addresses: vec![IpAddr::from([10, 79, 1, vrid])],
            ..Parameters::default()
        };
        (spec(Config::new(parameters).unwrap()), Arc::default())
    };
    let routers: Vec<_> = (1..=count).map(router).collect();
    let members: Vec<_> = (0..routers.len()).collect();
    let mut party = Party::open(&members, &routers).unwrap();
    order_all(&mut party, BEGUN, |_| {});
    party
}

fn order_all(party: &mut Party, now: Duration, change: impl Fn(&mut [Orders])) {
    let mut orders = vec![Orders::default(); party.members.len()];
    change(&mut orders);
    let inbox = Inbox {
        orders,
        ..Inbox::default()
    };
    party.obey(&inbox, now);
    party.serve_faults(None, now);
}

/// What the thread does in each turn, with nothing to read.
fn turn(party: &mut Party, now: Duration) {
    party.serve_faults(None, now);
    party.serve_timers(now);
}

fn states(party: &Party) -> Vec<VrrpState> {
    let members = party.group.members().iter();
    members.map(VirtualRouter::state).collect()
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

/// New sockets are needed, and the opener has not got to them: nothing can be heard.
fn change_the_address(party: &mut Party, now: Duration) -> Request {
    ip("addr del 10.79.0.1/24 dev near0");
    ip("addr add 10.79.0.7/24 dev near0");
    assert!(party.look(&mut 1, now));
    assert!(party.members[0].socket().is_none());
    let request = party.take_requests().next();
    request.unwrap()
}

fn give(party: &mut Party, request: Request, now: Duration) {
    drop(request.old);
    let answer = Answer {
        router: request.router,
        opened: request.site.open(),
    };
    assert!(party.take_answer(answer, now).is_none());
    party.serve_faults(None, now);
}

#[test]
fn a_backup_without_sockets_is_at_fault_when_it_would_take_over_and_no_master() {
    let (mut party, _master) = backup_and_master();
    let request = change_the_address(&mut party, LATE);
    // It may have them back before anything is due.
    party.serve_faults(None, LATE);
    assert_eq!(state(&party), VrrpState::Backup);
    party.serve_timers(LATE);
    assert_eq!(state(&party), VrrpState::Fault);
    let fault = view(&party).fault;
    assert_eq!(fault.as_deref(), Some("no socket on interface near0 yet"));
    give(&mut party, request, LATE);
    assert_eq!(
        (state(&party), view(&party).fault),
        (VrrpState::Backup, None)
    );
    assert_eq!(count(&party, "became_master"), 0);
    // Its time begins anew.
    party.serve_timers(LATE + Duration::from_secs(2));
    assert_eq!(state(&party), VrrpState::Backup);
    party.serve_timers(LATE + Duration::from_secs(10));
    assert_eq!(state(&party), VrrpState::Master);
}

/// A raw socket stays bound to the index of an interface that is gone, and never hears anything again.
#[test]
fn a_backup_that_listens_on_an_interface_that_was_exchanged_does_not_take_over() {
    for is_made_again in [false, true] {
        let (mut party, _master) = backup_and_master();
        ip("link del near0");
        if is_made_again {
            ip("link add near0 type veth peer name far0");
            ip("link set far0 up");
            ip("addr add 10.79.0.1/24 dev near0");
            ip("link set near0 up");
        }
        party.serve_timers(LATE);
        assert_eq!(state(&party), VrrpState::Fault);
        assert_eq!(count(&party, "became_master"), 0);
        assert_eq!(party.take_requests().count() == 1, is_made_again);
    }
}

#[test]
fn a_master_that_waits_for_sockets_for_three_intervals_is_at_fault_until_it_has_them() {
    let (mut party, _master) = backup_and_master();
    party.serve_timers(LATE);
    assert_eq!(state(&party), VrrpState::Master);
    let second = Duration::from_secs(1);
    let request = change_the_address(&mut party, LATE + second);
    for unsent in 1..=3 {
        turn(&mut party, LATE + second * unsent);
        assert_eq!(state(&party), VrrpState::Master, "{unsent}");
    }
    let now = LATE + second * 4;
    turn(&mut party, now);
    assert_eq!(state(&party), VrrpState::Fault);
    let fault = view(&party).fault.unwrap();
    let text = "adverts cannot be sent on near0";
    assert!(fault.starts_with(text), "{fault}");
    give(&mut party, request, now);
    assert_eq!(
        (state(&party), view(&party).fault),
        (VrrpState::Backup, None)
    );
}

#[test]
fn a_look_that_fails_for_want_of_descriptors_or_memory_is_no_fault() {
    use nix::libc::{EMFILE, ENODEV, ENOMEM};
    let error = |errno| Err(std::io::Error::from_raw_os_error(errno));
    let (mut party, _master) = backup_and_master();
    party.members[0].conclude(error(EMFILE), LATE);
    assert_eq!(view(&party).fault, None);
    assert_eq!(count(&party, "look_errors"), 1);
    party.members[0].conclude(error(ENODEV), LATE);
    let fault = view(&party).fault;
    assert_eq!(fault.as_deref(), Some("interface near0 is gone"));
    // It stays so until a look says otherwise.
    party.members[0].conclude(error(ENOMEM), LATE);
    assert_eq!(view(&party).fault, fault);
    party.members[0].conclude(Ok(()), LATE);
    assert_eq!(view(&party).fault, None);
    // Without sockets nothing can be heard, for whatever reason.
    let request = change_the_address(&mut party, LATE + Duration::from_secs(5));
    let opened = std::io::Error::from_raw_os_error(EMFILE);
    let answer = Answer {
        router: request.router,
        opened: Err(opened),
    };
    assert!(party.take_answer(answer, LATE).is_none());
    let fault = view(&party).fault.unwrap();
    let text = "no socket on interface near0: ";
    assert!(fault.starts_with(text), "{fault}");
}

#[test]
fn of_many_interfaces_a_few_are_looked_at_in_a_turn_and_each_in_its_turn() {
    let mut party = group_of(10);
    let mut looks = Vec::new();
    loop {
        let mut budget = 4;
        if !party.look(&mut budget, LATE) {
            break;
        }
        looks.push(4 - budget);
    }
    assert_eq!(looks, [4, 4, 2]);
    // They are not all due together again.
    let due: Vec<_> = party.members.iter().map(Member::next_deadline).collect();
    assert!(due.is_sorted() && due[0] < due[9], "{due:?}");
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

/// However large a group is, a turn without news tells no machine anything, and one with news of one
/// member tells it once.
#[test]
fn a_large_group_is_told_what_is_new_alone() {
    let mut party = group_of(64);
    let members = party.members.len();
    assert_eq!(states(&party), vec![VrrpState::Backup; members]);
    assert_eq!(party.events, 64, "one start each");
    let events_of = |party: &mut Party, now| {
        let before = party.events;
        turn(party, now);
        party.events - before
    };
    assert_eq!(events_of(&mut party, BEGUN), 0);
    // Each timer is handed in once when it is due, and never between.
    assert_eq!(events_of(&mut party, LATE), 64);
    assert_eq!(states(&party), vec![VrrpState::Master; members]);
    let millis = Duration::from_millis;
    for pause in [1, 500, 999] {
        assert_eq!(events_of(&mut party, LATE + millis(pause)), 0);
    }
    assert_eq!(events_of(&mut party, LATE + millis(1000)), 64);
    let before = party.events;
    for _ in 0..10 {
        order_all(&mut party, LATE + millis(1001), |orders| {
            orders[7].fault = Some("bad".to_owned());
        });
    }
    assert_eq!(party.events - before, 1);
    assert_eq!(states(&party), vec![VrrpState::Fault; members]);
    let before = party.events;
    for _ in 0..10 {
        order_all(&mut party, LATE + millis(1002), |_| {});
    }
    assert_eq!(party.events - before, 1);
    assert_eq!(states(&party), vec![VrrpState::Backup; members]);
}

#[test]
fn a_group_that_stood_still_is_known_to_have_before_anything_else() {
    let mut party = group_of(3);
    turn(&mut party, LATE);
    let sent = count(&party, "adverts_sent");
    let before = party.events;
    party.serve_faults(None, LATE + Duration::from_secs(4));
    assert_eq!(party.events, before);
    assert_eq!(states(&party), [VrrpState::Backup; 3]);
    let lapsed = party.members.iter().map(|member| {
        let mut counters = member.counters.list().into_iter();
        counters
            .find(|(name, _)| *name == "mastership_lapsed")
            .unwrap()
            .1
    });
    assert_eq!(lapsed.collect::<Vec<_>>(), [1; 3]);
    assert_eq!(count(&party, "adverts_sent"), sent);
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
