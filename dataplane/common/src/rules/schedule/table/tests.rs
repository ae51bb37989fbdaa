use std::vec;
use std::vec::Vec;

use super::super::hash::{fold4, fold6};
use super::*;
use crate::key::Be32;

fn v4(a: u8, b: u8, c: u8, d: u8) -> u32 {
    fold4(Be32::from_host(u32::from_be_bytes([a, b, c, d])))
}

fn v6() -> u32 {
    fold6([0x2001_0db8, 0, 0, 0x10].map(Be32::from_host))
}

fn slot(scheduler: u8, flags: u32, fold: u32, port: u16) -> u32 {
    Probe::begin(scheduler, flags, fold, port).unwrap().slot()
}

fn clients() -> [u32; 5] {
    [
        v4(203, 0, 113, 7),
        v4(198, 51, 100, 9),
        v4(10, 0, 0, 1),
        v4(10, 0, 0, 2),
        v6(),
    ]
}

#[test]
fn slots_of_sh() {
    let expected = [(124, 32), (110, 18), (39, 203), (137, 45), (192, 100)];
    for (client, (plain, by_port)) in clients().into_iter().zip(expected) {
        assert_eq!(slot(SH, 0, client, 40_000), plain);
        assert_eq!(slot(SH, flag::PORT, client, 0), plain);
        assert_eq!(slot(SH, flag::PORT, client, 40_000), by_port);
    }
}

#[test]
fn slots_of_dh() {
    assert_eq!(slot(DH, flag::PORT, v4(192, 0, 2, 10), 40_000), 162);
    assert_eq!(slot(DH, 0, v4(203, 0, 113, 7), 0), 124);
}

#[test]
fn slots_of_mh() {
    let [first, second, third, _, ipv6] = clients();
    let expected = [
        (first, 1705, 2964),
        (second, 667, 3322),
        (third, 3711, 2940),
        (ipv6, 897, 2219),
    ];
    for (client, plain, by_port) in expected {
        assert_eq!(slot(MH, 0, client, 40_000), plain);
        assert_eq!(slot(MH, flag::PORT, client, 40_000), by_port);
    }
}

fn counts(table: &[u16], servers: usize) -> Vec<usize> {
    let count = |index| {
        table
            .iter()
            .filter(move |slot| usize::from(**slot) == index)
    };
    (0..servers).map(|index| count(index).count()).collect()
}

fn sh(weights: &[u32]) -> Vec<u16> {
    let mut table = vec![0; HASH_SIZE as usize];
    fill_sh(weights.iter().copied(), &mut table);
    table
}

#[test]
fn sh_gives_a_server_its_weight_in_slots_a_turn() {
    let table = sh(&[3, 1, 2]);
    assert_eq!(table[..12], [0, 0, 0, 1, 2, 2, 0, 0, 0, 1, 2, 2]);
    assert_eq!(counts(&table, 3), [129, 43, 84]);
    assert_eq!(sh(&[2, 0, 1])[..8], [0, 0, 1, 2, 0, 0, 1, 2]);
    assert!(sh(&[]).iter().all(|slot| *slot == EMPTY));
    assert!(sh(&[u32::MAX, 1]).iter().all(|slot| *slot == 0));
    let equal = sh(&[1, 1, 1]);
    let found = clients().map(|client| equal[slot(SH, 0, client, 0) as usize]);
    assert_eq!(found[..4], [1, 2, 0, 2]);
}

#[test]
fn dh_gives_servers_slots_in_turn() {
    let mut table = vec![0; HASH_SIZE as usize];
    fill_dh(3, &mut table);
    assert!(
        table
            .iter()
            .zip((0..3).cycle())
            .all(|(slot, index)| *slot == index)
    );
    fill_dh(0, &mut table);
    assert!(table.iter().all(|slot| *slot == EMPTY));
    // More than slots: the last ones get none.
    fill_dh(300, &mut table);
    assert!(table.iter().zip(0..).all(|(slot, index)| *slot == index));
}

/// Servers 10.0.0.21:80, .22:80, ... with these last weights.
fn maglev(weights: &[u32], size: usize) -> Vec<u16> {
    let mut servers: Vec<MaglevServer> = (21..)
        .zip(weights)
        .map(|(host, weight)| MaglevServer::new(v4(10, 0, 0, host), 80, *weight))
        .collect();
    let mut table = vec![0; size];
    fill_mh(&mut servers, &mut table).unwrap();
    table
}

const SIZE: usize = MAGLEV_SIZE as usize;

#[test]
fn where_the_sequences_of_mh_begin_and_how_far_they_go() {
    for (host, offset, skip) in [(21, 3746, 2888), (22, 735, 3681), (23, 1303, 3599)] {
        let mut server = MaglevServer::new(v4(10, 0, 0, host), 80, 1);
        server.set_up(SIZE, 1, 0);
        assert_eq!((server.position, server.skip), (offset, skip));
    }
}

#[test]
fn tables_of_mh() {
    let table = maglev(&[1, 1, 1], SIZE);
    assert_eq!(counts(&table, 3), [1365, 1364, 1364]);
    let first = [
        0, 1, 2, 2, 2, 0, 1, 1, 2, 0, 2, 0, 2, 1, 1, 2, 2, 2, 0, 2, 0, 2, 2, 2,
    ];
    assert_eq!(table[..24], first);
    let [a, b, c, _, ipv6] = clients();
    let found = [a, b, c, ipv6].map(|client| table[slot(MH, 0, client, 0) as usize]);
    assert_eq!(found, [2, 2, 0, 0]);

    let table = maglev(&[1, 2, 3], SIZE);
    assert_eq!(counts(&table, 3), [683, 1364, 2046]);
    let first = [
        0, 1, 2, 2, 2, 2, 1, 1, 2, 0, 2, 0, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2,
    ];
    assert_eq!(table[..24], first);
    assert_eq!(maglev(&[10, 20, 30], SIZE), table);

    assert_eq!(counts(&maglev(&[100, 1], SIZE), 2), [4013, 80]);

    let table = maglev(&[1, 1, 1], 251);
    assert_eq!(counts(&table, 3), [84, 84, 83]);
    let first = [
        0, 2, 0, 2, 1, 1, 1, 1, 0, 0, 1, 1, 2, 0, 0, 2, 0, 2, 2, 0, 2, 2, 1, 0,
    ];
    assert_eq!(table[..24], first);
}

#[test]
fn a_server_that_never_had_a_weight_has_no_slot_in_mh() {
    assert_eq!(counts(&maglev(&[0, 5, 5], SIZE), 3)[0], 0);
    assert!(maglev(&[0, 0], SIZE).iter().all(|slot| *slot == EMPTY));
    assert!(maglev(&[], SIZE).iter().all(|slot| *slot == EMPTY));
}

#[test]
fn more_servers_than_slots_are_refused_by_mh() {
    let mut servers = vec![MaglevServer::new(1, 80, 1); SIZE + 1];
    let mut table = vec![7; SIZE];
    let refused = Err(TooManyServers {
        servers: SIZE + 1,
        slots: SIZE,
    });
    assert_eq!(fill_mh(&mut servers, &mut table), refused);
    assert!(table.iter().all(|slot| *slot == EMPTY));
    // As many as slots: one each, all with the same sequence.
    servers.pop();
    assert_eq!(fill_mh(&mut servers, &mut table), Ok(()));
    let mut sorted = table.clone();
    sorted.sort_unstable();
    assert!(sorted.iter().zip(0..).all(|(slot, index)| *slot == index));
}

#[test]
fn a_table_of_a_useless_size_ends_too() {
    let mut servers = [MaglevServer::new(1, 80, 1), MaglevServer::new(2, 80, 0)];
    for size in 2..40 {
        assert_eq!(fill_mh(&mut servers, &mut vec![0; size]), Ok(()));
    }
    assert!(fill_mh(&mut servers, &mut []).is_err());
    assert_eq!(fill_mh(&mut [], &mut []), Ok(()));
}

/// Written from the description alone.
fn maglev_by_the_book(servers: &[(u32, u16, u32)], size: usize) -> Vec<u16> {
    let divisor = (1..=200).rev().find(|divisor| {
        let mut some = servers.iter().filter(|(_, _, weight)| *weight > 0);
        some.clone().count() > 0 && some.all(|(_, _, weight)| weight % divisor == 0)
    });
    let Some(divisor) = divisor else {
        return vec![EMPTY; size];
    };
    let largest = servers.iter().map(|(_, _, weight)| weight / divisor).max();
    let mut shift = 0;
    while largest.unwrap() >> shift >= 1 << 6 {
        shift += 1;
    }
    let mut state: Vec<(usize, usize, u32)> = servers
        .iter()
        .map(|(fold, port, weight)| {
            let value = fold.wrapping_add(u32::from(*port));
            let offset = hsiphash(value, MaglevKey::First) as usize % size;
            let skip = hsiphash(value, MaglevKey::Second) as usize % (size - 1) + 1;
            let turns = ((weight / divisor) >> shift).max(u32::from(*weight != 0));
            (offset, skip, turns)
        })
        .collect();
    let mut table: Vec<Option<u16>> = vec![None; size];
    let mut left = size;
    loop {
        for (index, (position, skip, turns)) in (0..).zip(&mut state) {
            for _ in 0..*turns {
                while table[*position].is_some() {
                    *position = (*position + *skip) % size;
                }
                table[*position] = Some(index);
                left -= 1;
                if left == 0 {
                    return table.into_iter().map(Option::unwrap).collect();
                }
            }
        }
    }
}

/// Written from the description alone.
fn lookup_by_the_book(
    scheduler: u8,
    flags: u32,
    (fold, port): (u32, u16),
    table: &[u16],
    servers: &[Candidate],
) -> Option<u32> {
    let size = table.len() as u64;
    let port = if flags & flag::PORT != 0 { port } else { 0 };
    let hash = |offset: u64| {
        let value = (offset + u64::from(port) + u64::from(fold)) as u32;
        if scheduler == MH {
            u64::from(hsiphash(value, MaglevKey::First)) % size
        } else {
            (offset + u64::from(hash_32((u64::from(port) + u64::from(fold)) as u32, 8))) % size
        }
    };
    let server = |slot: u64| servers.get(usize::from(table[slot as usize]));
    let usable = |server: &Candidate| server.weight > 0 && !server.overloaded;
    let slot = hash(0);
    let first = server(slot)?;
    if usable(first) {
        return Some(first.slot);
    }
    if flags & flag::FALLBACK == 0 {
        return None;
    }
    for i in 0..size {
        let r = (i + slot) % size;
        let server = server(hash(r))?;
        if usable(server) {
            return Some(server.slot);
        }
    }
    None
}

fn lookup(
    scheduler: u8,
    flags: u32,
    (fold, port): (u32, u16),
    table: &[u16],
    servers: &[Candidate],
) -> Option<u32> {
    let mut probe = Probe::begin(scheduler, flags, fold, port)?;
    for _ in 0..Probe::steps_max(scheduler, flags) {
        assert!(probe.slot() < table_size(scheduler));
        let index = table[probe.slot() as usize];
        if probe.step(servers.get(usize::from(index)).copied()) == Step::Done {
            return probe.chosen();
        }
    }
    panic!("the lookup keeps to its bound");
}

#[test]
fn lookups_and_tables_equal_their_descriptions() {
    const SEED: u64 = 0x5eed_0006;
    let mut next = {
        let mut seed = SEED;
        move |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 11) % below
        }
    };
    for round in 0..150 {
        let servers: Vec<Candidate> = (0..next(6) as u32)
            .map(|slot| Candidate {
                slot,
                weight: (next(3) * next(60)) as u32,
                overloaded: next(4) == 0,
                ..Candidate::default()
            })
            .collect();
        // What a quiesced server had before, or never had.
        let ends: Vec<(u32, u16, u32)> = servers
            .iter()
            .map(|server| {
                let before = if server.weight > 0 {
                    server.weight
                } else {
                    next(40) as u32
                };
                (next(1 << 32) as u32, next(1 << 16) as u16, before)
            })
            .collect();
        let mut maglev: Vec<MaglevServer> = ends
            .iter()
            .map(|(fold, port, weight)| MaglevServer::new(*fold, *port, *weight))
            .collect();
        let mut mh = vec![0; SIZE];
        fill_mh(&mut maglev, &mut mh).unwrap();
        assert_eq!(
            mh,
            maglev_by_the_book(&ends, SIZE),
            "{ends:?}, seed {SEED:#x}"
        );
        let mut dh = vec![0; HASH_SIZE as usize];
        fill_dh(servers.len(), &mut dh);
        let weights: Vec<u32> = servers.iter().map(|server| server.weight).collect();
        for (scheduler, table) in [(DH, dh), (SH, sh(&weights)), (MH, mh)] {
            for _ in 0..100 {
                let known = flag::FALLBACK | flag::PORT;
                let flags = if scheduler == DH {
                    0
                } else {
                    next(64) as u32 & known
                };
                let client = (next(1 << 32) as u32, next(1 << 16) as u16);
                assert_eq!(
                    lookup(scheduler, flags, client, &table, &servers),
                    lookup_by_the_book(scheduler, flags, client, &table, &servers),
                    "{scheduler} {flags:#x} {client:?} {servers:?}, round {round}, seed {SEED:#x}"
                );
            }
        }
    }
}

#[test]
fn a_lookup_among_nobody_usable_ends_within_its_bound() {
    let servers = [Candidate::default()];
    for scheduler in [DH, SH, MH] {
        let table = vec![0; table_size(scheduler) as usize];
        let flags = flag::FALLBACK;
        assert_eq!(lookup(scheduler, flags, (5, 0), &table, &servers), None);
        let empty = vec![EMPTY; table.len()];
        assert_eq!(lookup(scheduler, flags, (5, 0), &empty, &servers), None);
    }
}
