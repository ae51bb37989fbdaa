use super::*;

const NOW: Duration = Duration::from_secs(1000);
const DELAY: Duration = Duration::from_secs(5);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn with(change: impl FnOnce(&mut Settings)) -> Announcements {
    let mut settings = Settings::default();
    change(&mut settings);
    Announcements::new(settings, Family::V4)
}

/// Everything that is due now.
fn polled(announcements: &mut Announcements, now: Duration, vips: usize) -> Vec<usize> {
    std::iter::from_fn(|| announcements.poll(now, vips)).collect()
}

/// All blocks until `end`: when each began after `NOW`, and how many announcements it had.
fn blocks(announcements: &mut Announcements, vips: usize, end: Duration) -> Vec<(Duration, usize)> {
    let mut blocks = Vec::new();
    while let Some(due) = announcements.next_due().filter(|due| *due <= end) {
        let due = due.max(NOW);
        blocks.push((due - NOW, polled(announcements, due, vips).len()));
    }
    blocks
}

#[test]
fn a_block_is_rounds_of_all_addresses_in_order() {
    let mut announcements = with(|settings| settings.repeat = 3);
    announcements.begin(NOW);
    assert_eq!(announcements.next_due(), Some(NOW));
    assert_eq!(polled(&mut announcements, NOW, 2), [0, 1, 0, 1, 0, 1]);
    assert_eq!(announcements.next_due(), Some(NOW + DELAY));
}

#[test]
fn a_second_block_follows_the_first_and_no_third() {
    let mut announcements = with(|_| {});
    announcements.begin(NOW);
    let blocks = blocks(&mut announcements, 1, NOW + DELAY * 10);
    assert_eq!(blocks, [(Duration::ZERO, 5), (DELAY, 5)]);
    assert_eq!(announcements.next_due(), None);
}

#[test]
fn without_a_delay_there_is_one_block() {
    let mut announcements = with(|settings| settings.delay = Duration::ZERO);
    announcements.begin(NOW);
    assert_eq!(polled(&mut announcements, NOW, 1).len(), 5);
    assert_eq!(announcements.next_due(), None);
    announcements.again(NOW + DELAY);
    assert_eq!(announcements.next_due(), Some(NOW + DELAY));
}

#[test]
fn however_often_it_is_asked_blocks_keep_their_distance() {
    let mut announcements = with(|_| {});
    announcements.begin(NOW);
    polled(&mut announcements, NOW, 1);
    for after in 0..50 {
        announcements.again(NOW + ms(after));
        announcements.lower_priority(NOW + ms(after));
        assert_eq!(announcements.next_due(), Some(NOW + GAP));
    }
    let second = NOW + GAP + DELAY;
    let blocks = blocks(&mut announcements, 1, second);
    assert_eq!(
        blocks,
        [(GAP, 5), (GAP + DELAY, 5)],
        "both causes are one block"
    );
    announcements.again(second + DELAY);
    announcements.stop();
    assert_eq!(announcements.next_due(), None);
    assert_eq!(announcements.poll(second + DELAY, 1), None);
}

/// `v3-v4-garp`: repeat 3, delay 2, refresh 3, `refresh_repeat` 2, recorded for 10.5 s.
#[test]
fn the_refresh_comes_at_keepalived_s_times() {
    let mut announcements = with(|settings| {
        (settings.repeat, settings.delay) = (3, ms(2000));
        (settings.refresh, settings.refresh_repeat) = (ms(3000), 2);
    });
    announcements.begin(NOW);
    let blocks = blocks(&mut announcements, 1, NOW + ms(10_500));
    let expected = [(0, 3), (2000, 3), (3000, 2), (6000, 2), (9000, 2)];
    assert_eq!(blocks, expected.map(|(at, count)| (ms(at), count)));
}

/// `v3-v4-split-heal-garp`: `garp_lower_prio_repeat` 2, `garp_lower_prio_delay` 1.
#[test]
fn a_lower_master_leads_to_its_own_blocks_beside_the_others() {
    let mut announcements = with(|settings| {
        (settings.lower_prio_repeat, settings.lower_prio_delay) = (2, ms(1000));
    });
    announcements.begin(NOW);
    polled(&mut announcements, NOW, 1);
    announcements.lower_priority(NOW + ms(3370));
    let blocks = blocks(&mut announcements, 1, NOW + DELAY * 4);
    let expected = [(3370, 2), (4370, 2), (5000, 5)];
    assert_eq!(blocks, expected.map(|(at, count)| (ms(at), count)));
}

#[test]
fn a_repeat_of_zero_for_lower_masters_has_no_block() {
    let mut announcements = with(|settings| settings.lower_prio_repeat = 0);
    announcements.lower_priority(NOW);
    assert_eq!(announcements.next_due(), None);
}

#[test]
fn announcements_keep_the_interval_of_their_family() {
    for (family, spacing) in [(Family::V4, 10), (Family::V6, 30)] {
        let settings = Settings {
            repeat: 2,
            interval: ms(10),
            na_interval: ms(30),
            ..Settings::default()
        };
        let mut announcements = Announcements::new(settings, family);
        announcements.begin(NOW);
        let blocks = blocks(&mut announcements, 2, NOW + ms(1000));
        let expected = [0, 1, 2, 3].map(|number| (ms(number * spacing), 1));
        assert_eq!(blocks, expected);
    }
}

#[test]
fn a_late_refresh_makes_no_burst_and_keeps_the_beat() {
    let mut announcements = with(|settings| {
        (settings.repeat, settings.refresh) = (0, ms(1000));
    });
    announcements.begin(NOW);
    assert_eq!(polled(&mut announcements, NOW, 1), []);
    assert_eq!(polled(&mut announcements, NOW + ms(1300), 1), [0]);
    assert_eq!(announcements.next_due(), Some(NOW + ms(2000)));
    assert_eq!(polled(&mut announcements, NOW + ms(9300), 1), [0]);
    let next = announcements.next_due();
    assert_eq!(next, Some(NOW + ms(10_300)));
}

#[test]
fn addresses_that_went_away_are_not_announced() {
    let mut announcements = with(|settings| settings.interval = ms(10));
    announcements.begin(NOW);
    assert_eq!(announcements.poll(NOW, 3), Some(0));
    assert_eq!(announcements.poll(NOW + ms(10), 3), Some(1));
    // One is left: the next round begins.
    assert_eq!(announcements.poll(NOW + ms(20), 1), Some(0));
    assert_eq!(announcements.poll(NOW + ms(30), 0), None);
    assert_eq!(announcements.next_due(), Some(NOW + DELAY));
}

#[test]
fn what_is_put_off_is_due_later_and_nothing_of_it_is_lost() {
    let mut announcements = with(|settings| settings.repeat = 2);
    announcements.begin(NOW);
    assert_eq!(announcements.poll(NOW, 2), Some(0));
    announcements.put_off(NOW + ms(1));
    assert_eq!(announcements.next_due(), Some(NOW + ms(1)));
    assert_eq!(announcements.poll(NOW, 2), None);
    let rest = polled(&mut announcements, NOW + ms(1), 2);
    assert_eq!(rest, [1, 0, 1]);
    // A new master does not wait.
    announcements.put_off(NOW + ms(100));
    announcements.begin(NOW + ms(2));
    assert_eq!(announcements.next_due(), Some(NOW + ms(2)));
}
