use std::net::{Ipv4Addr, SocketAddrV4};

use super::*;
use crate::conn::{Addresses, Ends};
use crate::limits::{v0, v1};
use crate::wire::{Message, WalkConfig, walk};

const AGE: Duration = Duration::from_millis(5);
const ENTRY: usize = v1::ENTRY_IPV4_LEN;

#[test]
fn a_part_filled_message_is_due_at_the_flush_age_of_its_first_entry() {
    let (mut sender, t0) = sender(3, 10);
    assert_eq!(sender.next_deadline(), None);
    assert!(sender.poll_transmit(t0).is_none());
    sender.push(&conn(1), t0);
    sender.push(&conn(2), t0 + AGE / 2);
    assert_eq!(sender.next_deadline(), Some(t0 + AGE));
    assert!(sender.poll_transmit(t0 + AGE - NANO).is_none());
    assert_eq!(ports(&mut sender, t0 + AGE), [[1, 2]]);
    assert_eq!(sender.next_deadline(), None);
}

#[test]
fn a_filled_message_is_due_at_once() {
    let (mut sender, t0) = sender(2, 10);
    for port in 1..=5 {
        sender.push(&conn(port), t0);
    }
    assert_eq!(sender.queued_messages(), 2);
    assert!(sender.next_deadline().unwrap() <= t0);
    assert_eq!(ports(&mut sender, t0), [[1, 2], [3, 4]]);
    assert_eq!(sender.next_deadline(), Some(t0 + AGE));
    assert_eq!(ports(&mut sender, t0 + AGE), [[5]]);
}

#[test]
fn what_does_not_fit_any_more_opens_the_next_message() {
    let (mut sender, t0) = sender(3, 10);
    let large = SyncConn {
        seq: Some(Default::default()),
        ..conn(9)
    };
    for conn in [conn(1), conn(2), large] {
        sender.push(&conn, t0);
    }
    assert_eq!(ports(&mut sender, t0), [[1, 2]]);
    assert_eq!(ports(&mut sender, t0 + AGE), [[9]]);
}

#[test]
fn an_entry_too_long_for_a_message_has_one_alone() {
    let t0 = now();
    let mut sender = Sender::new(SenderConfig {
        maxlen: 1,
        flush_age: AGE,
        ..SenderConfig::default()
    });
    for port in 1..=3 {
        sender.push(&conn(port), t0);
    }
    assert_eq!(ports(&mut sender, t0), [[1], [2], [3]]);
}

#[test]
fn a_full_queue_drops_the_filled_message_and_counts_its_entries() {
    let (mut sender, t0) = sender(2, 2);
    for port in 1..=9 {
        sender.push(&conn(port), t0);
    }
    assert_eq!(sender.counters().drop_queue_full, 4);
    assert_eq!(sender.queued_messages(), 2);
    assert_eq!(
        ports(&mut sender, t0 + AGE),
        [vec![1, 2], vec![3, 4], vec![9]]
    );
    check_balance(&sender, 9);
}

#[test]
fn flush_makes_everything_due_and_nothing_that_comes_later() {
    let (mut sender, t0) = sender(2, 10);
    sender.flush();
    for port in 1..=3 {
        sender.push(&conn(port), t0);
    }
    assert_eq!(
        ports(&mut sender, t0),
        [[1, 2]],
        "flushed when it was empty"
    );
    sender.flush();
    assert_eq!(sender.next_deadline(), Some(t0));
    assert_eq!(ports(&mut sender, t0), [[3]]);
    sender.push(&conn(4), t0);
    assert!(sender.poll_transmit(t0).is_none());
    // What was to be flushed has gone with the message it filled.
    sender.flush();
    sender.push(&conn(5), t0);
    sender.push(&conn(6), t0);
    assert_eq!(ports(&mut sender, t0), [[4, 5]]);
}

#[test]
fn discard_leaves_nothing_and_counts_it() {
    let (mut sender, t0) = sender(2, 10);
    for port in 1..=5 {
        sender.push(&conn(port), t0);
    }
    assert_eq!(sender.pending_entries(), 5);
    sender.flush();
    sender.discard();
    assert_eq!(sender.counters().drop_discarded, 5);
    assert_eq!(sender.next_deadline(), None);
    assert!(sender.poll_transmit(t0 + AGE).is_none());
    check_balance(&sender, 5);
    sender.push(&conn(6), t0);
    assert!(sender.poll_transmit(t0).is_none(), "the flush is forgotten");
}

#[test]
fn what_a_version_cannot_carry_is_counted_and_costs_nothing_else() {
    let t0 = now();
    let mut sender = Sender::new(SenderConfig {
        version: Version::V0,
        ..SenderConfig::default()
    });
    let nowhere = "[::]:1".parse().unwrap();
    let ipv6 = SyncConn {
        addresses: Addresses::V6(Ends {
            client: nowhere,
            virt: nowhere,
            dest: nowhere,
        }),
        ..conn(1)
    };
    sender.push(&ipv6, t0);
    assert_eq!(sender.next_deadline(), None);
    sender.push(&conn(2), t0);
    sender.push(&ipv6, t0);
    assert_eq!(sender.counters().not_carried, 2);
    sender.flush();
    let message = sender.poll_transmit(t0).unwrap();
    assert_eq!(message.message().len(), v0::HEADER_LEN + v0::ENTRY_LEN);
    check_balance(&sender, 3);
}

#[test]
fn another_version_begins_another_message_and_queues_what_was_packed() {
    use Version::{V0, V1};
    // Versions set between entries, the entries given in each, and the messages that come of it.
    type Case = (
        &'static [(Version, &'static [u16])],
        &'static [(Version, &'static [u16])],
    );
    let cases: [Case; 6] = [
        (&[(V1, &[1])], &[(V1, &[1])]),
        (&[(V0, &[1])], &[(V0, &[1])]),
        (&[(V1, &[1]), (V0, &[2])], &[(V1, &[1]), (V0, &[2])]),
        (&[(V1, &[1]), (V1, &[2])], &[(V1, &[1, 2])]),
        // Nothing was said in the version between.
        (
            &[(V1, &[1]), (V0, &[]), (V1, &[2])],
            &[(V1, &[1]), (V1, &[2])],
        ),
        (
            &[(V0, &[1, 2, 3, 4, 5]), (V1, &[6])],
            &[(V0, &[1, 2, 3, 4]), (V0, &[5]), (V1, &[6])],
        ),
    ];
    for (given, expected) in cases {
        let t0 = now();
        let mut sender = Sender::new(SenderConfig {
            maxlen: v0::HEADER_LEN + 4 * v0::ENTRY_LEN,
            flush_age: AGE,
            ..SenderConfig::default()
        });
        let mut pushed = 0;
        for (version, ports) in given {
            let packed = sender.current.count();
            let queued = sender.queued_messages();
            let other = sender.config.version != *version;
            sender.set_version(*version);
            let filled = usize::from(other && packed > 0);
            assert_eq!(sender.queued_messages(), queued + filled, "queued at once");
            for port in *ports {
                sender.push(&conn(*port), t0);
                pushed += 1;
            }
        }
        sender.flush();
        let mut sent = Vec::new();
        while let Some(message) = sender.poll_transmit(t0) {
            sent.push((message.version(), ports_of(&message)));
            sender.recycle(message);
        }
        let expected: Vec<_> = expected.iter().map(|(v, p)| (*v, p.to_vec())).collect();
        assert_eq!(sent, expected, "{given:?}");
        check_balance(&sender, pushed);
    }
}

#[test]
fn a_buffer_of_the_other_version_is_used_again_with_the_right_header() {
    let (mut sender, t0) = sender(2, 10);
    for round in 0..100u16 {
        let version = if round % 2 == 0 {
            Version::V0
        } else {
            Version::V1
        };
        sender.set_version(version);
        sender.push(&conn(round), t0);
        sender.flush();
        let message = sender.poll_transmit(t0).unwrap();
        assert_eq!(message.version(), version);
        assert_eq!(ports_of(&message), [round]);
        let plain = match version {
            Version::V0 => v0::HEADER_LEN + v0::ENTRY_LEN,
            Version::V1 => v1::HEADER_LEN + v1::ENTRY_IPV4_LEN,
        };
        assert_eq!(message.message().len(), plain);
        sender.recycle(message);
    }
}

#[test]
fn a_version_switch_into_a_full_queue_drops_and_counts() {
    let (mut sender, t0) = sender(2, 1);
    for port in 1..=3 {
        sender.push(&conn(port), t0);
    }
    sender.set_version(Version::V0);
    assert_eq!(sender.counters().drop_queue_full, 1);
    sender.push(&conn(4), t0);
    sender.flush();
    assert_eq!(ports(&mut sender, t0), [vec![1, 2], vec![4]]);
    check_balance(&sender, 4);
}

#[test]
fn another_queue_bound_holds_for_what_is_filled_next() {
    let (mut sender, t0) = sender(1, 4);
    let fill =
        |sender: &mut Sender, count: u16| (0..count).for_each(|port| sender.push(&conn(port), t0));
    fill(&mut sender, 4);
    sender.set_queue_max(2);
    assert_eq!(
        (sender.queued_messages(), sender.counters().drop_queue_full),
        (4, 0)
    );
    fill(&mut sender, 1);
    assert_eq!(sender.counters().drop_queue_full, 1);
    for _ in 0..3 {
        sender.poll_transmit(t0).unwrap();
    }
    fill(&mut sender, 2);
    assert_eq!(
        (sender.queued_messages(), sender.counters().drop_queue_full),
        (2, 2)
    );
    sender.set_queue_max(5);
    fill(&mut sender, 3);
    assert_eq!(
        (sender.queued_messages(), sender.counters().drop_queue_full),
        (5, 2)
    );
}

#[test]
fn buffers_given_back_are_used_again() {
    let (mut sender, t0) = sender(2, 10);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..1000u16 {
        let now = t0 + AGE * u32::from(round);
        for port in 0..5 {
            sender.push(&conn(port), now);
        }
        while let Some(message) = sender.poll_transmit(now + AGE) {
            seen.insert(message.message().as_ptr());
            sender.recycle(message);
        }
    }
    assert!(seen.len() <= 4, "{} buffers", seen.len());
}

#[test]
fn every_entry_is_accounted_for_whatever_happens() {
    let mut state = 7u64;
    let mut below = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % bound
    };
    for _ in 0..200 {
        let (mut sender, mut now) = sender(1 + below(5) as usize, 1 + below(4) as usize);
        let mut pushed = 0;
        for _ in 0..300 {
            now += Duration::from_micros(below(4000));
            match below(12) {
                0 => sender.flush(),
                1 if below(10) == 0 => sender.discard(),
                1 if below(3) == 0 => sender.set_queue_max(below(5) as usize),
                1 => sender.set_version([Version::V0, Version::V1][below(2) as usize]),
                2 | 3 => {
                    if let Some(message) = sender.poll_transmit(now) {
                        assert!(message.count() > 0);
                        sender.recycle(message);
                    }
                }
                _ => {
                    sender.push(&conn(pushed as u16), now);
                    pushed += 1;
                }
            }
            let due = sender.next_deadline().is_some_and(|due| due <= now);
            check_balance(&sender, pushed);
            assert_eq!(due, sender.poll_transmit(now).is_some());
        }
    }
}

/// A sender whose messages hold `entries` entries, and a time.
fn sender(entries: usize, queue_max: usize) -> (Sender, Instant) {
    let config = SenderConfig {
        maxlen: v1::HEADER_LEN + entries * ENTRY,
        flush_age: AGE,
        queue_max,
        ..SenderConfig::default()
    };
    (Sender::new(config), now())
}

/// Told apart by its client port.
fn conn(port: u16) -> SyncConn {
    let end = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    SyncConn {
        protocol: 6,
        addresses: Addresses::V4(Ends {
            client: end(port),
            virt: end(80),
            dest: end(8080),
        }),
        flags: 0,
        state: 1,
        fwmark: 0,
        timeout_secs: 900,
        seq: None,
        pe: None,
    }
}

/// Client ports in the messages that are due.
fn ports(sender: &mut Sender, now: Instant) -> Vec<Vec<u16>> {
    let mut messages = Vec::new();
    while let Some(message) = sender.poll_transmit(now) {
        messages.push(ports_of(&message));
        sender.recycle(message);
    }
    messages
}

/// Client ports in a message.
fn ports_of(message: &SyncBuffer) -> Vec<u16> {
    let Ok(Message::Entries(walk)) = walk(message.message(), &WalkConfig::default()) else {
        panic!("{message:?}");
    };
    let port = |entry: crate::wire::Entry<'_>| entry.addresses.client().port();
    walk.map(|entry| port(entry.unwrap())).collect()
}

fn check_balance(sender: &Sender, pushed: u64) {
    let counters = sender.counters();
    let dropped = counters.drop_queue_full + counters.drop_discarded + counters.not_carried;
    assert_eq!(
        counters.entries + dropped + sender.pending_entries(),
        pushed
    );
}

const NANO: Duration = Duration::from_nanos(1);

#[expect(clippy::disallowed_methods, reason = "some time to begin with")]
fn now() -> Instant {
    Instant::now()
}
