//! lc, wlc, sed, nq, fo, ovf.

use super::*;

/// Active, inactive, weight of servers in list order.
fn model(scheduler: Scheduler, servers: &[(u32, u32, u32)]) -> Model {
    let mut model = Model::new(scheduler);
    model.servers = (0..)
        .zip(servers)
        .map(|(slot, (active, inactive, weight))| Candidate {
            slot,
            weight: *weight,
            active: *active,
            total: active + inactive,
            overloaded: false,
        })
        .collect();
    model
}

fn pick(scheduler: Scheduler, servers: &[(u32, u32, u32)]) -> Vec<char> {
    model(scheduler, servers).picks(1)
}

const ALL: [Scheduler; 6] = [
    Scheduler::Lc,
    Scheduler::Wlc,
    Scheduler::Sed,
    Scheduler::Nq,
    Scheduler::Fo,
    Scheduler::Ovf,
];

#[test]
fn wlc_takes_the_least_loaded_for_its_weight() {
    let mut model = model(Scheduler::Wlc, &[(3, 10, 2), (1, 300, 1), (2, 0, 2)]);
    let costs: Vec<i64> = model.servers.iter().map(overhead).collect();
    assert_eq!(costs, [781, 557, 514]);
    assert_eq!(model.picks(1), letters("C"));
    model.server(2).weight = 0;
    assert_eq!(model.picks(1), letters("A"));
    model.server(0).overloaded = true;
    model.server(1).weight = 0;
    assert_eq!(model.picks(1), letters("-"));
}

#[test]
fn lc_takes_the_least_loaded_whatever_its_weight() {
    let servers = [(3, 0, 100), (2, 256, 1), (2, 255, 1)];
    assert_eq!(pick(Scheduler::Lc, &servers), letters("C"));
}

#[test]
fn sed_takes_the_shortest_wait_and_ignores_inactive_connections() {
    let servers = [(1, 0, 2), (0, 500, 1), (2, 900, 4)];
    assert_eq!(pick(Scheduler::Sed, &servers), letters("C"));
}

#[test]
fn nq_takes_the_first_idle_server_before_a_better_one() {
    let servers = [(2, 0, 100), (0, 9, 1), (0, 0, 50)];
    assert_eq!(pick(Scheduler::Nq, &servers), letters("B"));
    let servers = [(1, 0, 2), (0, 0, 0), (2, 0, 4)];
    assert_eq!(pick(Scheduler::Nq, &servers), letters("C"));
}

#[test]
fn fo_takes_the_largest_weight_however_loaded() {
    let servers = [(0, 0, 2), (900, 900, 7), (0, 0, 7)];
    assert_eq!(pick(Scheduler::Fo, &servers), letters("B"));
}

#[test]
fn ovf_passes_over_a_server_with_more_active_connections_than_weight() {
    let servers = [(2, 0, 3), (7, 900, 7)];
    assert_eq!(pick(Scheduler::Ovf, &servers), letters("B"));
    let servers = [(2, 0, 3), (8, 0, 7)];
    assert_eq!(pick(Scheduler::Ovf, &servers), letters("A"));
    let servers = [(4, 0, 3), (8, 0, 7)];
    assert_eq!(pick(Scheduler::Ovf, &servers), letters("-"));
}

#[test]
fn of_equals_the_first_in_the_walk_is_taken() {
    for scheduler in ALL {
        let servers = [(0, 0, 0), (2, 2, 3), (2, 2, 3)];
        assert_eq!(pick(scheduler, &servers), letters("B"), "{scheduler:?}");
    }
}

#[test]
fn the_largest_weights_and_counts_do_not_overflow() {
    let most = i32::MAX as u32;
    let servers = [(1 << 20, 0, most), ((1 << 20) - 1, 0, most)];
    for scheduler in [Scheduler::Lc, Scheduler::Wlc, Scheduler::Sed, Scheduler::Nq] {
        assert_eq!(pick(scheduler, &servers), letters("B"), "{scheduler:?}");
    }
}

/// Written from the description alone, with fractions compared in wide numbers.
fn by_the_book(scheduler: Scheduler, servers: &[Candidate]) -> Option<u32> {
    let usable = servers
        .iter()
        .filter(|server| server.weight > 0 && !server.overloaded);
    let cost = |server: &Candidate| i128::from(server.active) * 256 + i128::from(server.total);
    let delay = |server: &Candidate| i128::from(server.active) + 1;
    // The smallest of value over weight; of equals the first.
    let least = |value: &dyn Fn(&Candidate) -> i128, weighted: bool| {
        let mut best: Option<&Candidate> = None;
        for server in usable.clone() {
            let weight = |of: &Candidate| if weighted { i128::from(of.weight) } else { 1 };
            if best.is_none_or(|best| value(server) * weight(best) < value(best) * weight(server)) {
                best = Some(server);
            }
        }
        best
    };
    let heaviest = |eligible: &dyn Fn(&Candidate) -> bool| {
        let mut best: Option<&Candidate> = None;
        for server in usable.clone().filter(|server| eligible(server)) {
            if best.is_none_or(|best| server.weight > best.weight) {
                best = Some(server);
            }
        }
        best
    };
    let chosen = match scheduler.name() {
        "lc" => least(&cost, false),
        "wlc" => least(&cost, true),
        "sed" => least(&delay, true),
        "nq" => usable
            .clone()
            .find(|server| server.active == 0)
            .or_else(|| least(&delay, true)),
        "fo" => heaviest(&|_| true),
        "ovf" => heaviest(&|server| server.active <= server.weight),
        other => panic!("{other} does not rank"),
    };
    chosen.map(|server| server.slot)
}

#[test]
fn each_equals_its_description_while_servers_and_connections_come_and_go() {
    const SEED: u64 = 0x5eed_0003;
    for scheduler in ALL {
        let mut next = generator(SEED);
        let mut model = Model::new(scheduler);
        let mut added = 0;
        for _ in 0..20_000 {
            let count = model.servers.len() as u64;
            let any = |next: &mut dyn FnMut(u64) -> u64| next(count.max(1)) as usize;
            match next(10) {
                0 if count < 7 => {
                    model.add(added, next(5) as u32);
                    added += 1;
                }
                1 if count > 0 => {
                    let slot = model.servers[any(&mut next)].slot;
                    model.remove(slot);
                }
                2 if count > 0 => {
                    let slot = model.servers[any(&mut next)].slot;
                    model.set_weight(slot, (next(5) * next(3)) as u32);
                }
                3 if count > 0 => {
                    let server = &mut model.servers[any(&mut next)];
                    server.overloaded = !server.overloaded;
                }
                4 | 5 if count > 0 => {
                    // A connection turns inactive, or ends.
                    let server = &mut model.servers[any(&mut next)];
                    if next(2) == 0 {
                        server.active = server.active.saturating_sub(1);
                    } else if server.total > server.active {
                        server.total -= 1;
                    }
                }
                _ => {
                    let expected = by_the_book(scheduler, &model.servers);
                    let chosen = model.pick();
                    assert_eq!(
                        chosen, expected,
                        "{scheduler:?}: {:?}, seed {SEED:#x}",
                        model.servers
                    );
                    if let Some(slot) = chosen {
                        let server = model.server(slot);
                        server.active += 1;
                        server.total += 1;
                    }
                }
            }
        }
    }
}
