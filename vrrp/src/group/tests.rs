use std::net::Ipv4Addr;

use super::*;
use crate::config::{Config, Interval, Parameters, Priority};
use crate::fsm::Heard;

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3));
const BEGUN: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);
/// Of priority 100 and one second.
const DOWN: Duration = Duration::from_micros(3_609_375);

const SENT: Effect = Effect::SendAdvert {
    priority: Priority(100),
};
const GAVE_UP: Effect = Effect::SendAdvert {
    priority: Priority::RESIGNED,
};
const MASTER: Effect = Effect::Became(VrrpState::Master);
const BACKUP: Effect = Effect::Became(VrrpState::Backup);
const FAULT: Effect = Effect::Became(VrrpState::Fault);

fn group_of(parameters: &[(u8, u32)]) -> Group {
    let member = |(vrid, (priority, advert_ms)): (u8, &(u8, u32))| {
        let parameters = Parameters {
            vrid,
            priority: *priority,
            advert_ms: *advert_ms,
            addresses: vec![Ipv4Addr::new(192, 0, 2, 100 + vrid).into()],
            ..Parameters::default()
        };
        VirtualRouter::new(Config::new(parameters).unwrap(), OWN)
    };
    Group::new((51..).zip(parameters).map(member).collect())
}

fn pair() -> Group {
    group_of(&[(100, 1000), (100, 1000)])
}

fn started(mut group: Group) -> Group {
    for member in 0..group.members().len() {
        group.handle(member, Event::Startup, BEGUN);
    }
    drained(&mut group);
    group
}

fn masters() -> Group {
    let mut group = started(pair());
    tick(&mut group, BEGUN + DOWN);
    drained(&mut group);
    assert_eq!(states(&group), [VrrpState::Master; 2]);
    group
}

fn tick(group: &mut Group, now: Duration) {
    for member in 0..group.members().len() {
        group.handle(member, Event::Timer, now);
    }
}

fn drained(group: &mut Group) -> Vec<(usize, Effect)> {
    std::iter::from_fn(|| group.poll_effect()).collect()
}

fn states(group: &Group) -> Vec<VrrpState> {
    group.members().iter().map(VirtualRouter::state).collect()
}

fn advert(priority: u8) -> Event {
    Event::Advert(Heard {
        source: OTHER,
        priority: Priority(priority),
        interval: Interval::DEFAULT,
    })
}

/// As recorded (`v2-sync-group`): the last member to want it is first.
#[test]
fn a_group_is_master_when_the_last_member_wants_it() {
    let mut group = started(pair());
    group.handle(0, Event::Timer, BEGUN + DOWN);
    assert_eq!(drained(&mut group), []);
    let fresh = group.members().first().unwrap().next_deadline();
    assert_eq!(
        fresh,
        Some(BEGUN + DOWN + DOWN),
        "it waits with a fresh timer"
    );
    group.handle(1, Event::Timer, BEGUN + DOWN);
    assert_eq!(
        drained(&mut group),
        [(1, SENT), (1, MASTER), (0, SENT), (0, MASTER)]
    );
}

#[test]
fn a_member_that_hears_a_master_holds_the_others_back() {
    let mut group = started(pair());
    for step in 1..20 {
        let now = BEGUN + SECOND * step;
        group.handle(1, advert(100), now);
        tick(&mut group, now);
    }
    assert_eq!(drained(&mut group), []);
    // The one that waits hears one too, so that it waits for nobody any more.
    let last = BEGUN + SECOND * 19;
    group.handle(0, advert(100), last);
    tick(&mut group, last + DOWN);
    assert_eq!(states(&group), [VrrpState::Master; 2]);
}

#[test]
fn a_member_that_is_master_no_more_takes_the_others_with_it_in_silence() {
    for (event, effect) in [(advert(101), None), (Event::VipLost, Some(GAVE_UP))] {
        let mut group = masters();
        group.handle(0, event, BEGUN + DOWN + SECOND / 2);
        let effects = drained(&mut group);
        let became: Vec<_> = effects.iter().filter(|(_, e)| *e == BACKUP).collect();
        assert_eq!(became, [&(0, BACKUP), &(1, BACKUP)], "{event:?}");
        let said: Vec<_> = effects.iter().filter(|(_, e)| *e != BACKUP).collect();
        let expected = effect.map(|effect| [(0, effect), (1, effect)]);
        let expected = expected.iter().flatten().collect::<Vec<_>>();
        assert_eq!(said, expected, "{event:?}");
    }
}

#[test]
fn a_member_that_stood_still_takes_the_others_with_it() {
    let mut group = masters();
    group.handle(1, Event::Timer, BEGUN + DOWN + SECOND * 4);
    assert_eq!(drained(&mut group), [(1, BACKUP), (0, BACKUP)]);
}

#[test]
fn a_bad_member_makes_all_faulty_and_all_say_so() {
    let mut group = masters();
    group.handle(1, Event::Fault, BEGUN + DOWN);
    let expected = [
        (1, GAVE_UP),
        (1, GAVE_UP),
        (1, FAULT),
        (0, GAVE_UP),
        (0, GAVE_UP),
        (0, FAULT),
    ];
    assert_eq!(drained(&mut group), expected);
    // The other gets bad as well, so that the first has to wait for it.
    group.handle(0, Event::Fault, BEGUN + DOWN);
    group.handle(1, Event::Healthy, BEGUN + DOWN);
    assert_eq!(drained(&mut group), []);
    group.handle(0, Event::Healthy, BEGUN + DOWN);
    assert_eq!(drained(&mut group), [(0, BACKUP), (1, BACKUP)]);
}

#[test]
fn a_member_that_was_not_started_is_left_alone_and_nobody_is_master_without_it() {
    let mut group = pair();
    group.handle(0, Event::Startup, BEGUN);
    group.handle(0, Event::Timer, BEGUN + DOWN);
    group.handle(0, Event::Fault, BEGUN + DOWN);
    assert_eq!(drained(&mut group), [(0, BACKUP), (0, FAULT)]);
    group.handle(1, Event::Startup, BEGUN + DOWN);
    assert_eq!(drained(&mut group), [(1, FAULT)], "its group is bad");
    group.handle(0, Event::Healthy, BEGUN + DOWN * 2);
    assert_eq!(drained(&mut group), [(0, BACKUP), (1, BACKUP)]);
}

#[test]
fn a_group_starts_as_master_only_if_all_are_owners() {
    let mut owners = group_of(&[(255, 1000), (255, 1000)]);
    owners.handle(0, Event::Startup, BEGUN);
    assert_eq!(drained(&mut owners), [(0, BACKUP)]);
    owners.handle(1, Event::Startup, BEGUN);
    assert_eq!(states(&owners), [VrrpState::Master; 2]);
    let mut mixed = started(group_of(&[(255, 1000), (100, 1000)]));
    assert_eq!(states(&mixed), [VrrpState::Backup; 2]);
    tick(&mut mixed, BEGUN + DOWN);
    assert_eq!(states(&mixed), [VrrpState::Master; 2]);
}

#[test]
fn all_stop_together_and_all_say_so() {
    let mut group = masters();
    group.handle(0, Event::Shutdown, BEGUN + DOWN);
    let gave_up = |(_, effect): &&(usize, Effect)| *effect == GAVE_UP;
    assert_eq!(drained(&mut group).iter().filter(gave_up).count(), 4);
    assert_eq!(states(&group), [VrrpState::Initialize; 2]);
    group.handle(1, Event::Shutdown, BEGUN + DOWN);
    assert_eq!(drained(&mut group), []);
}

#[test]
fn a_group_yields_and_reclaims_together_with_the_patience_of_its_slowest() {
    let patience = Duration::from_micros(996_093 + 1_000_000 + 100_000);
    let masters = || {
        let mut group = started(group_of(&[(100, 100), (100, 1000)]));
        tick(&mut group, BEGUN + DOWN);
        drained(&mut group);
        group
    };
    let at = BEGUN + DOWN;
    let mut group = masters();
    group.handle(0, Event::Yield, at);
    assert_eq!(
        drained(&mut group),
        [(0, GAVE_UP), (0, GAVE_UP), (1, GAVE_UP), (1, GAVE_UP)]
    );
    assert_eq!(group.next_deadline(), Some(at + patience));
    group.handle(1, advert(90), at + SECOND);
    assert_eq!(drained(&mut group), [(1, BACKUP), (0, BACKUP)]);
    assert!(group.members().iter().all(VirtualRouter::has_yielded));
    group.handle(0, Event::Reclaim, at + SECOND);
    assert!(!group.members().iter().any(VirtualRouter::has_yielded));

    let mut group = masters();
    group.handle(1, Event::Yield, at);
    drained(&mut group);
    tick(&mut group, at + patience);
    let failed = Effect::YieldFailed;
    assert_eq!(
        drained(&mut group),
        [(0, failed), (0, SENT), (1, failed), (1, SENT)]
    );
}

/// As keepalived: the others announce with their own `garp_lower_prio_repeat`, and only the member
/// that heard it says so. Both do when a peer of theirs advertises for both at the same moment.
#[test]
fn a_fault_of_a_member_does_not_bring_back_a_role_that_all_handed_over() {
    let mut group = masters();
    let now = BEGUN + DOWN;
    group.handle(0, Event::Yield, now);
    group.handle(0, advert(90), now);
    group.handle(1, Event::Fault, now);
    group.handle(1, Event::Healthy, now + SECOND);
    assert_eq!(states(&group), [VrrpState::Backup; 2]);
    assert!(group.members().iter().all(VirtualRouter::has_yielded));
    group.handle(1, Event::Fault, now + SECOND);
    group.handle(0, Event::Reclaim, now + SECOND);
    group.handle(1, Event::Healthy, now + SECOND);
    assert!(!group.members().iter().any(VirtualRouter::has_yielded));
}

#[test]
fn a_lower_master_that_one_member_met_is_announced_over_by_all() {
    let mut group = masters();
    let now = BEGUN + DOWN + SECOND / 2;
    group.handle(1, advert(99), now);
    let expected = [
        (1, SENT),
        (1, Effect::LowerPriorityHeard),
        (0, Effect::LowerPriorityInGroup),
    ];
    assert_eq!(drained(&mut group), expected);
    group.handle(0, advert(99), now);
    let heard = (0, Effect::LowerPriorityHeard);
    assert!(drained(&mut group).contains(&heard));
}

#[test]
fn a_master_of_the_group_that_gives_up_is_announced_over_by_all() {
    let mut group = masters();
    group.handle(1, advert(0), BEGUN + DOWN + SECOND / 2);
    let again = Effect::AnnounceAgain;
    assert_eq!(drained(&mut group), [(1, SENT), (1, again), (0, again)]);
}

#[test]
fn members_that_stood_still_are_masters_no_more_without_any_event() {
    let mut group = masters();
    group.note_time(BEGUN + DOWN + SECOND);
    assert_eq!(drained(&mut group), []);
    group.note_time(BEGUN + DOWN + SECOND * 4);
    assert_eq!(drained(&mut group), [(0, BACKUP), (1, BACKUP)]);
}

#[test]
fn a_group_that_stood_still_has_no_role_to_yield() {
    let mut group = masters();
    group.handle(0, Event::Yield, BEGUN + DOWN + SECOND * 4);
    assert_eq!(drained(&mut group), [(0, BACKUP), (1, BACKUP)]);
    assert!(!group.members().iter().any(VirtualRouter::has_yielded));
}

#[test]
fn who_is_bad_is_known() {
    let mut group = started(pair());
    group.handle(1, Event::Fault, BEGUN);
    assert_eq!(
        [0, 1, 2].map(|member| group.is_bad(member)),
        [false, true, false]
    );
    group.handle(1, Event::Healthy, BEGUN);
    assert!(!group.is_bad(1));
}

#[test]
fn a_group_of_one_is_a_router() {
    let mut group = started(group_of(&[(100, 1000)]));
    assert_eq!(group.next_deadline(), Some(BEGUN + DOWN));
    tick(&mut group, BEGUN + DOWN);
    assert_eq!(drained(&mut group), [(0, SENT), (0, MASTER)]);
    group.handle(7, Event::Fault, BEGUN + DOWN);
    assert_eq!(drained(&mut group), [], "there is no such member");
}
