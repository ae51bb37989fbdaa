//! Several routers on one thread, and what its owner orders.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use ElectionRole::{Backup, Fault, Master};
use ha_manager::vrrp_driver::{ElectionRole, RouterSpec, ThreadOptions, Yielding};
use vrrp::wire::{Advert, Identification};
use vrrp::{Config, Interval, Parameters, Priority};

use crate::host::{FIRST, Member, ORDINARY, SECOND, pair, parameters, spec, wait_for};

/// Routers with VRIDs from 51 on, named VI_1 and so on, of one family each.
fn specs(priorities: &[u8], families: &[u8]) -> Vec<RouterSpec> {
    let numbered = (1_u8..).zip(priorities.iter().zip(families));
    let spec = |(number, (priority, family)): (u8, (&u8, &u8))| {
        let address: &str = if *family == 4 { "10.78.0" } else { "fe80:" };
        let separator = if *family == 4 { "." } else { ":" };
        let address = format!("{address}{separator}10{number}");
        let address: IpAddr = address.parse().unwrap();
        let parameters = Parameters {
            vrid: 50 + number,
            addresses: vec![address],
            ..parameters(*priority, 100)
        };
        RouterSpec {
            name: format!("VI_{number}"),
            config: Config::new(parameters).unwrap(),
            ..spec(self::parameters(100, 100))
        }
    };
    numbered.map(spec).collect()
}

fn roles(member: &Member) -> Vec<ElectionRole> {
    let views = member.elections.changes();
    views.borrow().iter().map(|view| view.role).collect()
}

fn counter_of(member: &Member, router: usize, name: &str) -> u64 {
    let counters = &member.elections.status()[router].counters;
    let found = counters.iter().find(|(known, _)| *known == name);
    found.unwrap().1
}

#[test]
fn routers_without_a_group_go_their_own_ways_and_do_not_count_each_other() {
    let (a, b) = pair();
    // An active pair: each is the other's backup. One is of IPv6.
    let first = a.elect_all(specs(&[150, 100, 150], &[4, 4, 6]), Vec::new(), ORDINARY);
    let second = b.elect_all(specs(&[100, 150, 100], &[4, 4, 6]), Vec::new(), ORDINARY);
    wait_for("roles", || {
        roles(&first) == [Master, Backup, Master] && roles(&second) == [Backup, Master, Backup]
    });
    wait_for("adverts", || {
        (0..3).all(|router| {
            let heard = |member| counter_of(member, router, "adverts_received");
            heard(&first) + heard(&second) > 10
        })
    });
    assert_eq!(first.view_of(1).master, Some((SECOND, 150)));
    let link_local: IpAddr = "fe80::1".parse().unwrap();
    assert_eq!(second.view_of(2).master, Some((link_local, 150)));
    for member in [&first, &second] {
        for router in 0..3 {
            assert_eq!(counter_of(member, router, "refused_unknown_vrid"), 0);
        }
    }
    // What is bad for one is nothing to the others.
    first.elections.set_fault(0, Some("bad".to_owned()));
    wait_for("a takeover", || roles(&second) == [Master, Master, Backup]);
    assert_eq!(roles(&first), [Fault, Backup, Master]);
}

#[test]
fn a_group_changes_together_and_says_whose_fault_it_is() {
    let (a, b) = pair();
    let both = || vec![vec![0, 1]];
    // Alone the second router of the first node would not be master.
    let first = a.elect_all(specs(&[150, 150, 100], &[4, 6, 4]), both(), ORDINARY);
    let second = b.elect_all(specs(&[100, 100, 150], &[4, 6, 4]), both(), ORDINARY);
    wait_for("roles", || {
        roles(&first) == [Master, Master, Backup] && roles(&second) == [Backup, Backup, Master]
    });
    first.elections.set_fault(1, Some("bad".to_owned()));
    wait_for("a takeover", || roles(&second) == [Master, Master, Master]);
    assert_eq!(roles(&first), [Fault, Fault, Backup]);
    let faults = [0, 1, 2].map(|router| first.view_of(router).fault);
    let expected = [Some("VI_2 of its group: bad"), Some("bad"), None];
    assert_eq!(faults, expected.map(|fault| fault.map(str::to_owned)));
    first.elections.set_fault(1, None);
    wait_for("the return", || {
        roles(&first) == [Master, Master, Backup] && roles(&second) == [Backup, Backup, Master]
    });
    assert_eq!(first.view_of(0).fault, None);
}

/// Each turn begins with another router's packets.
#[test]
fn a_flood_for_one_router_leaves_the_others_their_part() {
    const PACKETS: u32 = 100_000;
    let (a, b) = pair();
    let first = a.elect_all(specs(&[150, 150, 150], &[4, 4, 4]), Vec::new(), ORDINARY);
    let second = b.elect_all(specs(&[100, 100, 100], &[4, 4, 4]), Vec::new(), ORDINARY);
    let is_settled = || roles(&first) == [Master; 3] && roles(&second) == [Backup; 3];
    wait_for("roles", is_settled);
    let transitions = |member: &Member| [1, 2].map(|router| member.view_of(router).transitions);
    let before = [transitions(&first), transitions(&second)];
    // It looks like the first router's but for its checksum.
    a.run(|| {
        let advert = Advert {
            vrid: 51,
            priority: Priority(0),
            interval: Interval::DEFAULT,
            addresses: &["10.78.0.101".parse().unwrap()],
        };
        let mut packet = advert.to_packet("10.78.0.1".parse().unwrap(), Identification::FIRST);
        packet[26] ^= 1;
        let (socket, group) = (crate::raw(), crate::group());
        for _ in 0..PACKETS {
            let _ = socket.send_to(&packet, &group);
        }
    });
    wait_for("the flood", || {
        let arrived = counter_of(&second, 0, "refused_checksum");
        arrived + counter_of(&second, 0, "lost_election") + 1000 >= PACKETS.into()
    });
    assert_eq!([transitions(&first), transitions(&second)], before);
    for router in [1, 2] {
        assert_eq!(counter_of(&second, router, "refused_checksum"), 0);
        assert_eq!(counter_of(&second, router, "lost_election"), 0);
    }
}

#[test]
fn a_planned_handover_keeps_the_role_until_another_has_it_and_is_taken_back_on_order() {
    let (a, b) = pair();
    let first = a.elect(parameters(150, 100));
    let second = b.elect(parameters(100, 100));
    first.becomes(Master);
    wait_for("the master", || second.view().master == Some((FIRST, 150)));
    let transitions = first.view().transitions;
    let asked_at = Instant::now();
    first.elections.yield_role(0);
    let taken = second.becomes(Master) - asked_at;
    first.becomes(Backup);
    // The skew of the other: 61 ms; without the word it would be at least 261 ms.
    assert!(taken >= Duration::from_millis(60), "{taken:?}");
    assert!(taken < Duration::from_millis(250), "{taken:?}");
    assert_eq!(first.view().transitions, transitions + 1);
    assert_eq!(first.view().yields, Yielding::Yielded);
    // It is better, and leaves the other alone.
    let heard = first.counter("adverts_received");
    wait_for("ten intervals", || {
        first.counter("adverts_received") > heard + 10
    });
    assert_eq!(first.view().role, Backup);
    assert_eq!(first.counter("handed_over"), 1);
    first.elections.reclaim(0);
    first.becomes(Master);
    second.becomes(Backup);
    assert_eq!(first.view().yields, Yielding::No);
}

#[test]
fn a_role_that_nobody_takes_is_kept() {
    let (a, _b) = pair();
    let first = a.elect(parameters(150, 100));
    first.becomes(Master);
    let before = first.view();
    first.elections.yield_role(0);
    wait_for("the end of it", || first.view().yield_failed == 1);
    let after = first.view();
    assert_eq!(
        (after.role, after.transitions),
        (Master, before.transitions)
    );
    assert_eq!(after.yields, Yielding::No);
    let sent = first.counter("adverts_sent");
    wait_for("adverts", || first.counter("adverts_sent") > sent);
}

#[test]
fn what_tracking_takes_away_is_advertised_and_another_takes_over() {
    let (a, b) = pair();
    let first = a.elect(parameters(150, 100));
    let second = b.elect(parameters(100, 100));
    first.becomes(Master);
    first.elections.set_weights(0, -60);
    wait_for("the word", || first.view().effective_priority == 90);
    second.becomes(Master);
    first.becomes(Backup);
    assert_eq!(first.status().effective_priority, 90);
    assert_eq!(second.counter("priority_zero_received"), 0);
    first.elections.set_weights(0, 0);
    first.becomes(Master);
}

#[test]
fn nobody_takes_part_before_the_delay_at_the_start_is_over() {
    let (a, _b) = pair();
    let delay = Duration::from_millis(700);
    let options = ThreadOptions {
        startup_delay: delay,
        ..ORDINARY
    };
    let started_at = Instant::now();
    let first = a.elect_all(vec![spec(parameters(255, 100))], Vec::new(), options);
    first.fails_with("vrrp_startup_delay_ms is not over");
    let waited = first.becomes(Master) - started_at;
    assert!(waited >= delay, "{waited:?}");
    assert_eq!(first.view().fault, None);
}

#[test]
fn the_status_says_how_the_thread_is_scheduled_and_how_late_it_is() {
    let (a, _b) = pair();
    let options = ThreadOptions {
        rt_priority: 50,
        ..ORDINARY
    };
    let first = a.elect_all(vec![spec(parameters(255, 20))], Vec::new(), options);
    first.becomes(Master);
    wait_for("adverts", || first.counter("adverts_sent") > 20);
    let status = first.status();
    assert_eq!(status.scheduling, "SCHED_RR 50");
    assert!(!status.memory_locked);
    // The first one is not late: it is what makes it master.
    let (late, sent) = (status.lateness.count(), first.counter("adverts_sent"));
    assert!(late > 15 && late < sent, "{late} of {sent}");
    let ordinary = a.elect(parameters(100, 100));
    let reason = "ordinary: no real-time priority is configured";
    wait_for("its word", || ordinary.status().scheduling == reason);
}

#[test]
fn an_interface_that_need_not_be_tracked_may_be_down() {
    let (a, b) = pair();
    let untracked = RouterSpec {
        track_interface: false,
        ..spec(parameters(150, 50))
    };
    let first = a.elect_all(vec![untracked], Vec::new(), ORDINARY);
    first.becomes(Master);
    a.ip("link set dir0 down");
    let errors = first.counter("send_errors");
    wait_for("ten intervals", || {
        first.counter("send_errors") > errors + 10
    });
    assert_eq!((first.view().role, first.view().fault), (Master, None));
    a.ip("link set dir0 up");
    let sent = first.counter("adverts_sent");
    wait_for("adverts", || first.counter("adverts_sent") > sent + 2);
    drop(b);
}
