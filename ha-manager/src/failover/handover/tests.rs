use super::*;

const FLUSH: Duration = Duration::from_millis(5);

fn vip() -> IpAddr {
    "192.0.2.100".parse().unwrap()
}

fn handover(now: Instant) -> (Handover, oneshot::Receiver<Reply>) {
    let (reply, answer) = oneshot::channel();
    let member = Member::new(3, "VI_1".to_owned(), vec![vip()]);
    (
        Handover::new(vec![member], Duration::from_secs(10), reply, now),
        answer,
    )
}

const fn progress(is_offering: bool, backlog: u64) -> Progress {
    Progress {
        is_copied: true,
        is_offering,
        backlog,
        flush_age: FLUSH,
    }
}

/// One whose routers are yielded.
fn passing(now: Instant) -> (Handover, oneshot::Receiver<Reply>) {
    let (mut handover, answer) = handover(now);
    let nothing = Progress {
        is_copied: false,
        ..progress(false, 0)
    };
    assert!(handover.look(nothing, now));
    (handover, answer)
}

#[test]
fn nothing_is_yielded_before_everything_offered_has_been_sent() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (mut handover, _answer) = handover(start);
    assert!(!handover.look(progress(true, 0), at(1)));
    assert!(!handover.look(progress(false, 4), at(20)));
    // A message may be filling.
    assert!(!handover.look(progress(false, 0), at(22)));
    assert!(!handover.look(progress(false, 1), at(40)));
    assert!(handover.look(progress(false, 0), at(41)));
    assert_eq!(handover.stage, Stage::Passing { since: at(41) });
    assert!(!handover.look(progress(false, 0), at(42)), "once");
}

#[test]
fn a_table_that_never_gets_told_holds_nothing_up_for_ever() {
    let start = Instant::now();
    let (mut handover, _answer) = handover(start);
    assert!(!handover.look(progress(true, 9), start + TELLING_MAX - TICK));
    assert!(handover.look(progress(true, 9), start + TELLING_MAX));
}

#[test]
fn a_router_is_served_until_its_new_place_was_announced() {
    let now = Instant::now();
    let (mut handover, mut answer) = passing(now);
    assert!(!handover.keeps_serving(3, now), "it is still its master");
    handover.heard(3, now);
    assert!(handover.keeps_serving(3, now) && !handover.keeps_serving(4, now));
    handover.announced("192.0.2.101".parse().unwrap(), now);
    assert!(handover.keeps_serving(3, now));
    handover.announced(vip(), now);
    assert!(!handover.keeps_serving(3, now) && !handover.is_over(now));
    handover.left(3, now + Duration::from_millis(2));
    assert!(handover.is_over(now));
    handover.answer();
    let Reply::Text(text) = answer.try_recv().unwrap() else {
        panic!("it was handed over");
    };
    assert_eq!(
        text,
        "VI_1 handed over: connections are not copied: no sync master runs, taken after 0.0 ms, \
         let go 2.0 ms later\n"
    );
}

#[test]
fn an_announcement_that_is_not_seen_is_waited_for_a_moment() {
    let now = Instant::now();
    let (mut handover, _answer) = passing(now);
    // One from before the other is master says nothing.
    handover.heard(3, now);
    assert_eq!(handover.tick(), now + ANNOUNCEMENT_MAX);
    assert!(!handover.keeps_serving(3, now + ANNOUNCEMENT_MAX));
}

#[test]
fn an_announcement_may_be_seen_before_its_advert() {
    let now = Instant::now();
    let (mut handover, _answer) = passing(now);
    handover.announced(vip(), now);
    handover.heard(3, now);
    assert!(!handover.keeps_serving(3, now));
}

#[test]
fn a_router_that_nobody_takes_is_a_refusal_with_its_reason() {
    let now = Instant::now();
    let (mut handover, mut answer) = passing(now);
    handover.kept(3, "nobody took over");
    handover.left(3, now);
    assert!(handover.is_over(now));
    handover.answer();
    let refusal = Reply::BadRequest("VI_1: nobody took over".to_owned());
    assert_eq!(answer.try_recv().unwrap(), refusal);
}

#[test]
fn a_router_that_is_lost_before_anybody_took_it_is_said_to_be() {
    let now = Instant::now();
    let (mut handover, mut answer) = passing(now);
    handover.left(3, now);
    handover.answer();
    assert!(
        matches!(answer.try_recv().unwrap(), Reply::BadRequest(reason)
        if reason.contains("lost before anybody took it"))
    );
}

/// As long as the intervals want, and no longer.
#[test]
fn an_election_that_never_answers_is_given_up() {
    let now = Instant::now();
    let (handover, mut answer) = passing(now);
    assert!(!handover.is_over(now + Duration::from_millis(9999)));
    assert!(handover.is_over(now + Duration::from_secs(10)));
    handover.answer();
    let refusal = Reply::BadRequest("VI_1: the election does not answer".to_owned());
    assert_eq!(answer.try_recv().unwrap(), refusal);
}
