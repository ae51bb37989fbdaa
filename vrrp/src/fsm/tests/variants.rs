//! Version 2, IPv6, tracking, preempt delay, yields: one test for each rule.

use std::net::Ipv6Addr;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn the_skew_of_version_2_goes_by_a_second_whatever_the_interval() {
    for (priority, seconds, skew, down) in [
        (150, 1, 414_062, 3_414_062),
        (100, 1, 609_375, 3_609_375),
        (100, 2, 609_375, 6_609_375),
        (1, 20, 996_093, 60_996_093),
        (254, 255, 7_812, 765_007_812),
    ] {
        let router = router(|p| {
            (p.version, p.priority, p.advert_ms) = (2, priority, seconds * 1000);
        });
        assert_eq!(router.skew(), Duration::from_micros(skew));
        assert_eq!(router.master_down(), Duration::from_micros(down));
    }
}

#[test]
fn version_2_learns_no_interval() {
    let mut router = brought_to(router(|p| p.version = 2), VrrpState::Backup);
    router.handle(heard(150, HIGHER, 30), NOW);
    assert_eq!(router.next_deadline(), Some(NOW + DOWN));
}

#[test]
fn the_configured_number_of_adverts_may_be_missing() {
    for (count, down) in [(1, 1_609_375), (3, 3_609_375), (100, 100_609_375)] {
        let router = router(|p| p.down_timer_adverts = count);
        assert_eq!(router.master_down(), Duration::from_micros(down));
        let mut router = brought_to(router, VrrpState::Master);
        // One alone is late each time by some microseconds, and nobody shall be deposed for that.
        let lapse = SECOND * u32::from(count.max(2)) + Duration::from_micros(7_812);
        router.handle(Event::Timer, BEGUN + lapse - MILLI);
        assert_eq!(drained(&mut router), [SENT]);
        router.handle(Event::Timer, BEGUN + lapse - MILLI + lapse);
        assert_eq!(drained(&mut router), [BACKUP]);
    }
}

/// The address is compared as a number in network order, over all sixteen bytes.
#[test]
fn ties_of_ipv6_go_by_the_address_too() {
    let own: Ipv6Addr = "fe80::ff:fe00:101".parse().unwrap();
    for (other, after) in [
        ("fe80::ff:fe00:102", VrrpState::Backup),
        ("fe80::ff:fe00:100", VrrpState::Master),
        ("fe80::fe:ffff:ffff", VrrpState::Master),
        ("fe80:0:0:1::", VrrpState::Backup),
        ("fe80::ff:fe00:101", VrrpState::Master),
    ] {
        let parameters = Parameters {
            vrid: 51,
            addresses: vec!["fe80::100".parse().unwrap()],
            ..Parameters::default()
        };
        let router = VirtualRouter::new(Config::new(parameters).unwrap(), own.into());
        let mut router = brought_to(router, VrrpState::Master);
        let other: Ipv6Addr = other.parse().unwrap();
        router.handle(advert(100, other.into()), NOW);
        assert_eq!(router.state(), after, "{other}");
    }
}

/// RFC 5798 compares 192.0.2.10 above 192.0.2.9, unlike their texts.
#[test]
fn ties_are_no_matter_of_text() {
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    router.set_primary("192.0.2.9".parse().unwrap());
    router.handle(advert(100, "192.0.2.10".parse().unwrap()), NOW);
    assert_eq!(router.state(), VrrpState::Backup);
}

#[test]
fn a_change_of_priority_shifts_a_backup_by_what_it_costs() {
    let mut router = brought_to(router(|_| {}), VrrpState::Backup);
    let begun_by = router.next_deadline().unwrap();
    for priority in [1, 254, 90, 150, 100] {
        let before = (router.next_deadline().unwrap(), router.master_down());
        router.handle(Event::Priority(Priority(priority)), NOW);
        assert_eq!(router.effective_priority(), Priority(priority));
        let after = (router.next_deadline().unwrap(), router.master_down());
        assert_eq!(before.0 + after.1, after.0 + before.1);
    }
    assert_eq!(router.next_deadline(), Some(begun_by), "nothing adds up");
    assert_eq!(drained(&mut router), []);
}

#[test]
fn a_timer_that_a_higher_priority_has_ended_ends_at_once() {
    let mut router = brought_to(router(|p| p.priority = 1), VrrpState::Backup);
    let almost = router.next_deadline().unwrap() - MILLI;
    router.handle(Event::Priority(Priority(254)), almost);
    assert!(router.next_deadline().unwrap() < almost);
    router.handle(Event::Timer, almost);
    assert_eq!(drained(&mut router), [sent(254), MASTER]);
}

#[test]
fn a_master_says_its_new_priority_with_the_next_advert() {
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    router.handle(Event::Priority(Priority(90)), NOW);
    assert_eq!(drained(&mut router), []);
    router.handle(Event::Timer, BEGUN + SECOND);
    assert_eq!(drained(&mut router), [sent(90)]);
}

#[test]
fn a_priority_that_none_can_have_becomes_the_nearest_and_an_owner_keeps_its_own() {
    let mut backup = brought_to(router(|_| {}), VrrpState::Backup);
    for (wrong, nearest) in [(0, 1), (255, 254)] {
        backup.handle(Event::Priority(Priority(wrong)), NOW);
        assert_eq!(backup.effective_priority(), Priority(nearest));
    }
    let mut owner = router(|p| p.priority = 255);
    for event in [Event::Startup, Event::Priority(Priority(90))] {
        owner.handle(event, NOW);
    }
    assert_eq!(owner.effective_priority(), Priority::OWNER);
}

#[test]
fn what_tracking_said_before_the_start_counts() {
    let mut router = router(|_| {});
    router.handle(Event::Priority(Priority(150)), BEGUN);
    router.handle(Event::Startup, BEGUN);
    let down = Duration::from_micros(3_414_062);
    assert_eq!(router.next_deadline(), Some(BEGUN + down));
}

/// As recorded (`v3-v4-preempt-delay`): adverts each second, the delay is 3 s from the first, so
/// that the third is the last to be followed.
#[test]
fn a_preempt_delay_begins_with_the_first_lower_advert() {
    let delayed = router(|p| p.preempt_delay = SECOND * 3);
    let mut router = brought_to(delayed, VrrpState::Backup);
    for step in 0..5 {
        router.handle(advert(99, HIGHER), NOW + SECOND * step);
    }
    assert_eq!(router.next_deadline(), Some(NOW + SECOND * 2 + DOWN));
    assert_eq!(
        (router.tally().accepted, router.tally().lower_priority),
        (3, 2)
    );
}

#[test]
fn an_advert_as_good_as_this_router_cancels_its_preempt_delay() {
    for priority in [100, 150] {
        let delayed = router(|p| p.preempt_delay = SECOND * 3);
        let mut router = brought_to(delayed, VrrpState::Backup);
        router.handle(advert(99, HIGHER), NOW);
        router.handle(advert(priority, HIGHER), NOW + SECOND * 2);
        router.handle(advert(99, HIGHER), NOW + SECOND * 4);
        assert_eq!(router.next_deadline(), Some(NOW + SECOND * 4 + DOWN));
    }
}

#[test]
fn without_a_master_there_is_no_preempt_delay() {
    let delayed = || router(|p| p.preempt_delay = SECOND * 300);
    let mut router = brought_to(delayed(), VrrpState::Backup);
    router.handle(Event::Timer, BEGUN + DOWN);
    assert_eq!(router.state(), VrrpState::Master);
    let mut router = brought_to(delayed(), VrrpState::Backup);
    router.handle(advert(99, HIGHER), NOW);
    router.handle(advert(0, HIGHER), NOW);
    assert_eq!(router.next_deadline(), Some(NOW + SKEW));
}

#[test]
fn a_preempt_delay_begins_anew_after_each_reign_and_fault() {
    let delayed = router(|p| p.preempt_delay = SECOND * 3);
    let mut router = brought_to(delayed, VrrpState::Backup);
    router.handle(advert(99, HIGHER), NOW);
    router.handle(Event::Fault, NOW);
    router.handle(Event::Healthy, NOW + SECOND * 10);
    router.handle(advert(99, HIGHER), NOW + SECOND * 11);
    let deadline = NOW + SECOND * 11 + DOWN;
    assert_eq!(router.next_deadline(), Some(deadline));
    router.handle(Event::Timer, deadline);
    router.handle(advert(150, HIGHER), deadline);
    router.handle(advert(99, HIGHER), deadline + SECOND * 20);
    assert_eq!(router.next_deadline(), Some(deadline + SECOND * 20 + DOWN));
}

/// `v3-v4-vip-deleted`: master again after its own skew, before the other's.
#[test]
fn a_master_that_lost_an_address_is_back_after_its_skew() {
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    router.handle(Event::VipLost, NOW);
    router.handle(Event::Timer, NOW + SKEW);
    assert_eq!(drained(&mut router), [GAVE_UP, BACKUP, SENT, MASTER]);
}

#[test]
fn a_router_that_yielded_follows_every_master_until_it_may_preempt_again() {
    let mut router = Stand::Yielded.router();
    for step in 0..100 {
        router.handle(advert(1, LOWER), NOW + SECOND * step);
    }
    let last = NOW + SECOND * 99;
    assert_eq!(router.next_deadline(), Some(last + DOWN));
    assert_eq!(router.master(), Some((LOWER, Priority(1))));
    router.handle(Event::Reclaim, last);
    for step in 1..3 {
        router.handle(advert(1, LOWER), last + SECOND * step);
    }
    router.handle(Event::Timer, last + DOWN);
    assert_eq!(drained(&mut router), [SENT, MASTER]);
}

#[test]
fn a_router_that_yielded_takes_over_when_there_is_no_master_and_preempts_after_it() {
    let mut router = Stand::Yielded.router();
    router.handle(advert(0, LOWER), NOW);
    router.handle(Event::Timer, NOW + SKEW);
    assert_eq!(router.state(), VrrpState::Master);
    assert!(!router.has_yielded());
    assert_eq!(
        (router.tally().yielded, router.tally().yield_failed),
        (1, 0)
    );
}

#[test]
fn an_owner_that_yielded_follows_too() {
    let mut router = router(|p| p.priority = 255);
    for event in [
        Event::Startup,
        Event::Yield,
        advert(1, LOWER),
        advert(1, LOWER),
    ] {
        router.handle(event, NOW);
    }
    assert_eq!(Stand::of(&router), Stand::Yielded);
    assert_eq!(router.tally().accepted, 1);
}

/// Only a master's word ends it; a yielding master neither answers nor advertises.
#[test]
fn a_yielding_master_is_silent() {
    let mut router = Stand::Yielding.router();
    for step in 0..2000 {
        let now = BEGUN + MILLI * step;
        router.handle(Event::Timer, now);
        router.handle(advert(0, HIGHER), now);
    }
    assert_eq!(drained(&mut router), []);
    assert_eq!(router.next_deadline(), Some(BEGUN + PATIENCE));
}

#[test]
fn a_yield_waits_for_the_worst_of_backups_in_each_version() {
    for (version, advert_ms, patience) in [
        (3, 10, 9_960 + 10_000 + 100_000),
        (3, 1000, 996_093 + 1_000_000 + 100_000),
        (2, 5000, 996_093 + 5_000_000 + 100_000),
    ] {
        let slow = router(|p| (p.version, p.advert_ms) = (version, advert_ms));
        let mut router = brought_to(slow, VrrpState::Master);
        router.handle(Event::Yield, BEGUN);
        let patience = Duration::from_micros(patience);
        assert_eq!(router.next_deadline(), Some(BEGUN + patience));
        router.handle(Event::Timer, BEGUN + patience);
        assert_eq!(
            drained(&mut router),
            [GAVE_UP, GAVE_UP, Effect::YieldFailed, SENT],
            "even at 10 ms, where it waits longer than backups of a silent master do"
        );
        assert_eq!(router.tally().yield_failed, 1);
    }
}

#[test]
fn a_yielding_master_that_stood_still_has_yielded() {
    let mut router = Stand::Yielding.router();
    let lapse = SECOND * 3 + Duration::from_micros(7_812);
    router.handle(Event::Timer, BEGUN + PATIENCE + lapse);
    assert_eq!(drained(&mut router), [BACKUP]);
    assert!(router.has_yielded());
}

#[test]
fn strict_mode_leaves_a_lower_master_unanswered_but_not_unheard() {
    let mut router = brought_to(router(|p| p.strict = true), VrrpState::Master);
    router.handle(advert(99, HIGHER), NOW);
    assert_eq!(drained(&mut router), [Effect::LowerPriorityHeard]);
}

/// The backup of priority 254 would take over after 0.78 ms here; a master alone goes on.
#[test]
fn a_master_that_is_a_little_late_each_time_stays_master_whatever_backups_wait_for() {
    for count in [1, 2, 3] {
        let fast = router(|p| (p.advert_ms, p.down_timer_adverts) = (100, count));
        let mut router = brought_to(fast, VrrpState::Master);
        for beat in 0..1000 {
            let late = MILLI * (beat % 2);
            router.handle(Event::Timer, router.next_deadline().unwrap() + late);
            assert_eq!(drained(&mut router), [SENT], "{count}");
        }
    }
}

/// A link that goes down and up is what is done to a node whose role was handed over for that.
#[test]
fn a_fault_does_not_bring_a_role_back_that_was_handed_over() {
    for (priority, master) in [(254, 99), (255, 99)] {
        let mut router = brought_to(router(|p| p.priority = priority), VrrpState::Master);
        for event in [Event::Yield, advert(master, HIGHER), Event::Fault] {
            router.handle(event, NOW);
        }
        drained(&mut router);
        router.handle(Event::Healthy, NOW + SECOND);
        assert_eq!(drained(&mut router), [BACKUP]);
        assert!(router.has_yielded());
        let heard = NOW + SECOND * 2;
        router.handle(advert(master, HIGHER), heard);
        assert_eq!(router.master(), Some((HIGHER, Priority(master))));
        // Until the other is lost.
        let down = router.next_deadline().unwrap();
        router.handle(Event::Timer, down);
        assert_eq!(router.state(), VrrpState::Master);
        assert!(!router.has_yielded());
    }
}
