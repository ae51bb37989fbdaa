use super::*;

#[test]
fn timers_are_exact_to_the_microsecond() {
    for (priority, advert_ms, skew, down) in [
        (254, 1000, 7_812, 3_007_812),
        (150, 1000, 414_062, 3_414_062),
        (100, 1000, 609_375, 3_609_375),
        (1, 1000, 996_093, 3_996_093),
        (254, 100, 781, 300_781),
        (150, 100, 41_406, 341_406),
        (100, 100, 60_937, 360_937),
        (1, 100, 99_609, 399_609),
        (254, 10, 78, 30_078),
        (150, 10, 4_140, 34_140),
        (100, 10, 6_093, 36_093),
        (1, 10, 9_960, 39_960),
        (1, 40_950, 40_790_039, 163_640_039),
    ] {
        let router = router(|p| (p.priority, p.advert_ms) = (priority, advert_ms));
        assert_eq!(router.skew(), Duration::from_micros(skew));
        assert_eq!(router.master_down(), Duration::from_micros(down));
    }
}

#[test]
fn an_owner_is_master_at_once() {
    for (before, event) in [
        (VrrpState::Initialize, Event::Startup),
        (VrrpState::Fault, Event::Healthy),
    ] {
        let mut router = brought_to(router(|p| p.priority = 255), before);
        router.handle(event, NOW);
        assert_eq!(drained(&mut router), [sent(255), MASTER]);
        assert_eq!(router.next_deadline(), Some(NOW + SECOND));
    }
}

#[test]
fn an_owner_that_hears_another_is_one_no_more_until_it_is_started_again() {
    for source in [LOWER, HIGHER] {
        let mut router = router(|p| p.priority = 255);
        router.handle(Event::Startup, BEGUN);
        drained(&mut router);
        router.handle(advert(255, source), NOW);
        assert_eq!(drained(&mut router), [BACKUP]);
        assert_eq!(router.tally().other_owner, 1);
        assert_eq!(router.effective_priority(), Priority(254));
        // Neither tracking nor a fault makes it one again.
        router.handle(Event::Priority(Priority(100)), NOW);
        router.handle(Event::Fault, NOW);
        router.handle(Event::Healthy, NOW);
        assert_eq!(drained(&mut router), [FAULT, BACKUP]);
        assert_eq!(router.effective_priority(), Priority(254));
        router.handle(Event::Shutdown, NOW);
        router.handle(Event::Startup, NOW);
        assert_eq!(drained(&mut router), [INITIALIZE, sent(255), MASTER]);
    }
    // Its own packet coming back is no other owner.
    let mut router = router(|p| p.priority = 255);
    router.handle(Event::Startup, BEGUN);
    router.handle(advert(255, OWN), NOW);
    assert_eq!(router.state(), VrrpState::Master);
    assert_eq!(
        (router.tally().other_owner, router.tally().same_address),
        (0, 1)
    );
}

#[test]
fn a_backup_that_may_not_preempt_follows_every_master() {
    let mut router = brought_to(router(|p| p.preempt = false), VrrpState::Backup);
    router.handle(advert(1, LOWER), NOW);
    assert_eq!(router.next_deadline(), Some(NOW + DOWN));
    assert_eq!(router.master(), Some((LOWER, Priority(1))));
}

#[test]
fn a_backup_learns_the_interval_of_its_master() {
    let mut router = brought_to(router(|_| {}), VrrpState::Backup);
    router.handle(heard(150, HIGHER, 30), NOW);
    let down = Duration::from_micros(900_000 + 182_812);
    assert_eq!(router.next_deadline(), Some(NOW + down));
    // The skew after priority 0 goes by it, and its own advertisements do not.
    router.handle(heard(0, HIGHER, 30), NOW);
    let skew = Duration::from_micros(182_812);
    assert_eq!(router.next_deadline(), Some(NOW + skew));
    router.handle(Event::Timer, NOW + skew);
    assert_eq!(router.next_deadline(), Some(NOW + skew + SECOND));
}

#[test]
fn what_was_learnt_is_forgotten_with_a_fault() {
    let mut router = brought_to(router(|_| {}), VrrpState::Backup);
    router.handle(heard(150, HIGHER, 30), NOW);
    router.handle(Event::Fault, NOW);
    assert_eq!(router.master(), None);
    router.handle(Event::Healthy, NOW);
    assert_eq!(router.next_deadline(), Some(NOW + DOWN));
}

#[test]
fn resignations_cannot_put_off_a_take_over() {
    let mut router = brought_to(router(|_| {}), VrrpState::Backup);
    for step in 0..100 {
        router.handle(advert(0, HIGHER), NOW + Duration::from_millis(step));
    }
    assert_eq!(router.next_deadline(), Some(NOW + SKEW));
    assert_eq!(router.tally().resigned, 100);
}

#[test]
fn a_worse_master_is_not_followed_but_counted_and_outlived() {
    let mut router = brought_to(router(|_| {}), VrrpState::Backup);
    for step in 0..3 {
        router.handle(advert(99, HIGHER), NOW + SECOND * step);
    }
    assert_eq!(router.tally().lower_priority, 3);
    router.handle(Event::Timer, BEGUN + DOWN);
    assert_eq!(router.state(), VrrpState::Master);
}

#[test]
fn answers_to_a_stream_of_adverts_are_few_and_none_is_forgotten() {
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    let gap = SECOND / 64;
    let mut answers = 0;
    for step in 0..100_000_u32 {
        let now = NOW + Duration::from_micros(10) * step;
        router.handle(advert(50, HIGHER), now);
        router.handle(Event::Timer, now);
        let sent = drained(&mut router);
        answers += sent
            .iter()
            .filter(|e| **e == Effect::LowerPriorityHeard)
            .count();
        answers += sent.len();
    }
    // In one second 64 advertisements, 64 announcements counted twice, and the ends.
    assert!((180..=200).contains(&answers), "{answers}");
    let last = NOW + SECOND;
    router.handle(advert(50, HIGHER), last);
    assert!(router.next_deadline().unwrap() <= last + gap);
    assert_eq!(router.state(), VrrpState::Master);
}

#[test]
fn an_answer_can_be_left_out_and_the_rest_stays() {
    let mut router = brought_to(router(|p| p.lower_prio_no_advert = true), VrrpState::Master);
    router.handle(advert(99, HIGHER), NOW);
    assert_eq!(drained(&mut router), [Effect::LowerPriorityHeard]);
    assert_eq!(router.next_deadline(), Some(BEGUN + SECOND));
}

#[test]
fn a_last_advert_can_be_sent_before_yielding() {
    let mut router = brought_to(
        router(|p| p.higher_prio_send_advert = true),
        VrrpState::Master,
    );
    router.handle(advert(101, LOWER), NOW);
    assert_eq!(drained(&mut router), [SENT, BACKUP]);
}

#[test]
fn a_late_timer_keeps_the_beat_and_a_missed_one_makes_no_burst() {
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    let late = Duration::from_millis(300);
    router.handle(Event::Timer, BEGUN + SECOND + late);
    assert_eq!(router.next_deadline(), Some(BEGUN + SECOND * 2));
    router.handle(Event::Timer, BEGUN + SECOND * 4 + late);
    assert_eq!(router.next_deadline(), Some(BEGUN + SECOND * 5 + late));
    assert_eq!(drained(&mut router), [SENT, SENT]);
}

/// A master whose last advertisement is older than the best backup waits for: what follows each
/// event. Nothing is sent, not even priority 0, and nothing is heard as master.
#[test]
fn a_master_that_stood_still_is_a_backup_before_anything_else() {
    let lapse = SECOND * 3 + Duration::from_micros(7_812);
    let at = BEGUN + lapse;
    for preempt in [true, false] {
        for input in Input::ALL {
            let mut router = brought_to(router(|p| p.preempt = preempt), VrrpState::Master);
            router.handle(input.event(), at);
            let (more, deadline) = match input {
                Input::Shutdown => (Some(INITIALIZE), None),
                Input::Fault => (Some(FAULT), None),
                Input::Resigned => (None, Some(at + SKEW)),
                Input::Startup
                | Input::Healthy
                | Input::Worse
                | Input::EqualLower
                | Input::EqualSame
                | Input::EqualHigher
                | Input::Better
                | Input::Early
                | Input::Due
                | Input::VipLost
                | Input::Yield
                | Input::Reclaim => (None, Some(at + DOWN)),
                Input::Raised => (None, Some(at + DOWN - FIFTY)),
            };
            let expected: Vec<Effect> = [BACKUP].into_iter().chain(more).collect();
            assert_eq!(drained(&mut router), expected, "{input:?}");
            assert_eq!(router.next_deadline(), deadline, "{input:?}");
            assert_eq!(router.tally().lapsed, 1);
            assert_eq!(router.tally().other_master, 0);
        }
    }
    // A moment earlier nobody can have taken over.
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    router.handle(Event::Timer, at - Duration::from_micros(1));
    assert_eq!(drained(&mut router), [SENT]);
    assert_eq!(router.tally().lapsed, 0);
}

#[test]
fn a_master_that_stood_still_follows_the_new_one_or_wins_it_back_in_time() {
    let at = BEGUN + SECOND * 10;
    for (preempt, deadline) in [(false, at + SECOND + DOWN), (true, at + DOWN)] {
        let mut router = brought_to(router(|p| p.preempt = preempt), VrrpState::Master);
        router.handle(Event::Timer, at);
        router.handle(advert(90, LOWER), at + SECOND);
        assert_eq!(drained(&mut router), [BACKUP]);
        assert_eq!(router.next_deadline(), Some(deadline), "{preempt}");
    }
    // An owner has nobody to wait for but waits all the same.
    let mut router = brought_to(router(|p| p.priority = 255), VrrpState::Master);
    router.handle(Event::Timer, at);
    assert_eq!(drained(&mut router), [BACKUP]);
    router.handle(Event::Timer, router.next_deadline().unwrap());
    assert_eq!(drained(&mut router), [sent(255), MASTER]);
}

#[test]
fn how_long_a_master_may_stand_still_goes_by_its_own_interval() {
    // It was backup of a slow master before.
    let mut router = brought_to(router(|p| p.advert_ms = 100), VrrpState::Backup);
    router.handle(heard(150, HIGHER, 1000), NOW);
    let master_at = router.next_deadline().unwrap();
    router.handle(Event::Timer, master_at);
    router.handle(Event::Timer, master_at + Duration::from_millis(301));
    assert_eq!(drained(&mut router), [SENT, MASTER, BACKUP]);
    let down = Duration::from_micros(360_937);
    assert_eq!(router.master_down(), down);
}

#[test]
fn a_tie_goes_by_the_address_the_router_has_now() {
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    router.set_primary(Ipv4Addr::new(192, 0, 2, 200).into());
    router.handle(advert(100, HIGHER), NOW);
    assert_eq!(router.state(), VrrpState::Master);
}

#[test]
fn a_master_remembers_who_else_says_to_be_one() {
    let mut router = brought_to(router(|_| {}), VrrpState::Master);
    assert_eq!(router.rival(), None);
    router.handle(advert(90, HIGHER), NOW);
    assert_eq!(router.rival(), Some((HIGHER, Priority(90))));
    // A flood of others changes that no more often than it is answered.
    router.handle(advert(80, LOWER), NOW + Duration::from_micros(10));
    assert_eq!(router.rival(), Some((HIGHER, Priority(90))));
    router.handle(advert(80, LOWER), NOW + SECOND / 2);
    assert_eq!(router.rival(), Some((LOWER, Priority(80))));
    router.handle(advert(200, HIGHER), NOW + SECOND / 2);
    assert_eq!((router.state(), router.rival()), (VrrpState::Backup, None));
}
