use std::vec::Vec;

use super::*;

fn server(slot: u32, active: u32, inactive: u32, weight: u32) -> Candidate {
    Candidate {
        slot,
        weight,
        active,
        total: active + inactive,
        overloaded: false,
    }
}

#[test]
fn a_cached_server_is_used_unless_it_left_or_carries_too_much() {
    // Available, active, weight.
    let table = [
        (true, 0, 1, Verdict::Use),
        (true, 3, 3, Verdict::Use),
        (true, 4, 3, Verdict::UnlessHalfIdle),
        (true, 0, 0, Verdict::Refuse),
        (false, 0, 1, Verdict::Refuse),
        (false, 4, 3, Verdict::Refuse),
    ];
    for (available, active, weight, expected) in table {
        let mut server = server(0, active, 0, weight);
        assert_eq!(verdict(&server, available), expected, "{server:?}");
        server.overloaded = true;
        assert_eq!(verdict(&server, available), expected, "{server:?}");
    }
}

fn half_idle(servers: &[Candidate]) -> bool {
    let count = servers.len() as u32;
    let Some(mut search) = HalfIdle::begin(count) else {
        return false;
    };
    for _ in 0..HalfIdle::steps_max(count) {
        if search.step(servers[search.index() as usize]) == Step::Done {
            return search.found();
        }
    }
    panic!("the search keeps to its bound");
}

#[test]
fn a_half_idle_server_has_fewer_active_connections_than_half_its_weight() {
    assert!(!half_idle(&[]));
    assert!(!half_idle(&[server(0, 2, 0, 4), server(1, 0, 0, 0)]));
    assert!(half_idle(&[server(0, 2, 0, 4), server(1, 1, 900, 3)]));
    assert!(half_idle(&[server(0, 0, 0, 1), server(1, 9, 0, 3)]));
    assert!(!half_idle(&[server(0, u32::MAX, 0, u32::MAX)]));
    let overloaded = Candidate {
        overloaded: true,
        ..server(0, 0, 0, 1)
    };
    assert!(half_idle(&[overloaded]));
}

fn scan(members: &[(Candidate, bool)]) -> SetScan {
    let mut scan = SetScan::begin();
    members
        .iter()
        .for_each(|(server, available)| scan.step(*server, *available));
    scan
}

#[test]
fn the_least_loaded_member_must_be_usable_and_the_most_loaded_need_not() {
    let overloaded = Candidate {
        overloaded: true,
        ..server(1, 0, 0, 9)
    };
    let members = [
        (server(0, 0, 0, 0), true),
        (overloaded, true),
        (server(2, 1, 0, 1), true),
        (server(3, 900, 0, 1), false),
        (server(4, 1, 0, 2), true),
    ];
    let slot = |server: Option<Candidate>| server.map(|server| server.slot);
    assert_eq!(slot(scan(&members).least()), Some(4));
    assert_eq!(slot(scan(&members).most()), Some(3));
    assert_eq!(slot(scan(&members[..2]).least()), None);
    assert_eq!(slot(scan(&members[..1]).most()), None);
    assert_eq!(slot(scan(&[]).most()), None);
}

/// Written from the description alone: the extreme of cost over weight, of equals the first.
fn extreme(members: &[(Candidate, bool)], least: bool) -> Option<u32> {
    let cost = |server: &Candidate| i128::from(server.active) * 256 + i128::from(server.total);
    let mut best: Option<&Candidate> = None;
    for (server, available) in members {
        if server.weight == 0 || (least && (!available || server.overloaded)) {
            continue;
        }
        let wins = best.is_none_or(|best| {
            let here = cost(server) * i128::from(best.weight);
            let there = cost(best) * i128::from(server.weight);
            if least { here < there } else { here > there }
        });
        if wins {
            best = Some(server);
        }
    }
    best.map(|server| server.slot)
}

#[test]
fn the_extremes_of_a_set_equal_their_description() {
    const SEED: u64 = 0x5eed_0008;
    let mut seed = SEED;
    let mut next = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        ((seed >> 11) % below) as u32
    };
    for _ in 0..20_000 {
        let members: Vec<(Candidate, bool)> = (0..next(7))
            .map(|slot| {
                let mut server = server(slot, next(6), next(300), next(4));
                server.overloaded = next(4) == 0;
                (server, next(4) != 0)
            })
            .collect();
        let scan = scan(&members);
        let found = [scan.least(), scan.most()].map(|server| server.map(|server| server.slot));
        let expected = [extreme(&members, true), extreme(&members, false)];
        assert_eq!(found, expected, "{members:?}, seed {SEED:#x}");
    }
}

#[test]
fn a_set_shrinks_when_its_last_change_is_longer_ago_than_the_expiration() {
    let changed = 5 * NS_PER_SEC;
    let due = changed + 86_400 * NS_PER_SEC;
    assert!(!is_set_due(2, changed, due, 86_400));
    assert!(is_set_due(2, changed, due + 1, 86_400));
    assert!(!is_set_due(1, changed, due + 1, 86_400));
    assert!(!is_set_due(2, u64::MAX, u64::MAX, u32::MAX));
}

#[test]
fn a_cache_takes_no_entry_above_one_and_a_half_times_its_size() {
    assert_eq!((ENTRIES_PRESSURE, ENTRIES_MAX), (16_384, 24_576));
    assert!(may_grow(24_575));
    assert!(!may_grow(24_576));
}

#[test]
fn every_thirtieth_calm_check_is_a_full_one() {
    let mut checks = Checks::default();
    for _ in 0..3 {
        for _ in 0..29 {
            assert_eq!(checks.next(16_384), Cleaning::Nothing);
        }
        assert_eq!(checks.next(16_384), Cleaning::Full);
    }
}

#[test]
fn checks_under_pressure_do_not_bring_the_full_one_nearer() {
    let mut checks = Checks::default();
    for _ in 0..28 {
        assert_eq!(checks.next(0), Cleaning::Nothing);
    }
    for _ in 0..100 {
        assert_eq!(checks.next(16_385), Cleaning::Pressure { goal: 1 });
    }
    assert_eq!(checks.next(16_387), Cleaning::Pressure { goal: 4 });
    assert_eq!(checks.next(24_576), Cleaning::Pressure { goal: 8192 });
    assert_eq!(checks.next(u64::MAX), Cleaning::Pressure { goal: 8192 });
    assert_eq!(checks.next(0), Cleaning::Nothing);
    assert_eq!(checks.next(20_000), Cleaning::Full);
}

#[test]
fn what_a_cleaning_takes() {
    let (used, expiration) = (7 * NS_PER_SEC, 86_400);
    let after = |secs: u64| used + secs * NS_PER_SEC;
    let pressure = Cleaning::Pressure { goal: 1 };
    assert!(!Cleaning::Nothing.takes(used, u64::MAX, expiration));
    assert!(!Cleaning::Full.takes(used, after(86_400) - 1, expiration));
    assert!(Cleaning::Full.takes(used, after(86_400), expiration));
    assert!(!pressure.takes(used, after(360) - 1, expiration));
    assert!(pressure.takes(used, after(360), expiration));
}
