use super::*;

/// The rule in one place: at or above the upper threshold overloaded, below the lower one not, and
/// in between as before.
fn by_the_book(thresholds: Thresholds, connections: u32, overloaded: bool) -> bool {
    let lower = match thresholds.lower {
        0 => thresholds.upper - thresholds.upper / 4,
        lower => lower,
    };
    if thresholds.upper == 0 || connections < lower {
        false
    } else {
        connections >= thresholds.upper || overloaded
    }
}

fn apply(overload: Overload, flag: bool) -> bool {
    match overload {
        Overload::Keep => flag,
        Overload::Set => true,
        Overload::Clear => false,
    }
}

#[test]
fn the_lower_limit_is_three_quarters_of_the_upper_rounded_up() {
    let limit = |upper, lower| Thresholds { upper, lower }.lower_limit();
    let defaults = [0, 1, 2, 3, 4, 5, 8, 100, u32::MAX].map(|upper| limit(upper, 0));
    assert_eq!(defaults, [0, 1, 2, 3, 3, 4, 6, 75, 0xc000_0000]);
    assert_eq!(limit(100, 30), 30);
}

#[test]
fn without_an_upper_threshold_nobody_is_overloaded() {
    let none = Thresholds::default();
    for connections in 0..5 {
        assert_eq!(
            after_increment(none, connections, connections),
            Overload::Keep
        );
        assert_eq!(
            before_decrement(none, connections, connections),
            Overload::Keep
        );
        assert_eq!(settle(none, connections), Overload::Clear);
    }
}

#[test]
fn a_server_is_overloaded_from_the_upper_threshold_until_below_the_lower() {
    const SEED: u64 = 0x5eed_0007;
    let mut seed = SEED;
    let mut next = move |below: u32| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 33) as u32 % below
    };
    for _ in 0..2000 {
        let mut thresholds = Thresholds::default();
        let (mut connections, mut flag) = (0u32, false);
        for _ in 0..60 {
            let before = flag;
            match next(9) {
                0 => {
                    let upper = next(12);
                    let lower = next(upper + 1);
                    thresholds = Thresholds { upper, lower };
                    flag = apply(settle(thresholds, connections), flag);
                }
                // More often than not an overloaded server gets nobody, but synchronisation may add.
                1..=4 => {
                    connections += 1;
                    flag = apply(after_increment(thresholds, connections, connections), flag);
                }
                _ if connections > 0 => {
                    let left = connections - 1;
                    flag = apply(before_decrement(thresholds, connections, left), flag);
                    connections = left;
                }
                _ => {}
            }
            let expected = by_the_book(thresholds, connections, before);
            assert_eq!(
                flag, expected,
                "{thresholds:?}, {connections} connections, seed {SEED:#x}"
            );
        }
    }
}

#[test]
fn a_change_that_was_overtaken_does_not_count() {
    let thresholds = Thresholds { upper: 8, lower: 0 };
    assert_eq!(after_increment(thresholds, 8, 6), Overload::Set);
    assert_eq!(after_increment(thresholds, 8, 5), Overload::Keep);
    assert_eq!(before_decrement(thresholds, 6, 7), Overload::Clear);
    assert_eq!(before_decrement(thresholds, 6, 8), Overload::Keep);
}
