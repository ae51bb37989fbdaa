use super::super::twos::scale;
use super::*;

/// Written from the description alone.
fn by_the_book(servers: &[Candidate], draws: [u64; 2]) -> Option<u32> {
    let usable: Vec<&Candidate> = servers
        .iter()
        .filter(|server| server.weight > 0 && !server.overloaded)
        .collect();
    let hit = |draw: u64| {
        let mut left = draw as i64;
        usable.iter().copied().find(|server| {
            left -= i64::from(server.weight);
            left <= 0
        })
    };
    let (first, second) = (hit(draws[0])?, hit(draws[1])?);
    let cost = |server: &Candidate| (server.active * 256 + server.total) as i32;
    let replaces = (second.weight as i32).wrapping_mul(cost(first))
        > (first.weight as i32).wrapping_mul(cost(second));
    Some(if replaces { second.slot } else { first.slot })
}

#[test]
fn twos_takes_the_better_of_the_two_drawn() {
    const SEED: u64 = 0x5eed_0004;
    let mut next = generator(SEED);
    for _ in 0..20_000 {
        let mut model = Model::new(Scheduler::Twos);
        for slot in 0..next(6) as u32 {
            model.add(slot, (next(4) * next(100)) as u32);
            let server = model.server(slot);
            server.active = next(300) as u32;
            server.total = server.active + next(300) as u32;
            server.overloaded = next(5) == 0;
        }
        let sum: u64 = model
            .servers
            .iter()
            .filter(|server| server.is_usable())
            .map(|server| u64::from(server.weight))
            .sum();
        let random = next(1 << 32) << 32 | next(1 << 32);
        let draws = [random & 0xffff_ffff, random >> 32].map(|half| scale(half, sum + 1));
        let expected = by_the_book(&model.servers, draws);
        assert_eq!(
            model.pick_with(random),
            expected,
            "{:?} {draws:?}, seed {SEED:#x}",
            model.servers
        );
    }
}

#[test]
fn a_draw_is_anything_from_zero_to_the_sum_and_each_as_likely() {
    let most = 0xffff_ffff;
    for sum in [0, 1, 5, 65_535, u64::from(u32::MAX), 1 << 55] {
        let range = sum + 1;
        assert_eq!(scale(0, range), 0);
        let exact = |random: u64| ((u128::from(random) * u128::from(range)) >> 32) as u64;
        for random in [1, 2, 0x7fff_ffff, 0x8000_0000, most - 1, most] {
            assert_eq!(scale(random, range), exact(random), "{sum}");
            assert!(scale(random, range) <= sum);
        }
    }
    let mut hits = [0u32; 6];
    (0..6000u64).for_each(|at| hits[scale(at * (1 << 32) / 6000, 6) as usize] += 1);
    assert!(
        hits.iter().all(|count| count.abs_diff(1000) <= 1),
        "{hits:?}"
    );
}

#[test]
fn the_first_usable_server_has_one_chance_more_than_its_weight() {
    const SEED: u64 = 0x5eed_0005;
    let mut next = generator(SEED);
    let mut model = Model::new(Scheduler::Twos);
    model.add(0, 2);
    model.add(1, 1);
    // Without connections the first draw always stands.
    let mut hits = [0u32; 2];
    for _ in 0..40_000 {
        let slot = model.pick_with(next(1 << 32) << 32 | next(1 << 32));
        hits[slot.unwrap() as usize] += 1;
    }
    // List B, A: B has (1 + 1)/(3 + 1).
    assert!(hits[1].abs_diff(20_000) < 600, "{hits:?}, seed {SEED:#x}");
}

#[test]
fn a_server_that_becomes_unusable_between_the_passes_leaves_the_default() {
    let list = ListHead {
        count: 2,
        ..ListHead::default()
    };
    let server = |slot, overloaded| Candidate {
        slot,
        weight: 1,
        overloaded,
        ..Candidate::default()
    };
    let mut walk = Walk::begin(Scheduler::Twos as u8, list, HEAD, 0, u64::MAX).unwrap();
    assert_eq!(walk.step(server(0, false)), Step::Continue);
    assert_eq!(walk.step(server(1, false)), Step::Continue);
    assert_eq!(walk.step(server(0, true)), Step::Continue);
    assert_eq!(walk.step(server(1, true)), Step::Done);
    assert_eq!(walk.chosen(), Some(1));
}
