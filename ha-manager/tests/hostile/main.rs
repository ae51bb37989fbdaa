//! A real backup under a stream of datagrams that nobody should send, beside one of valid entries.
//!
//! It takes 40 seconds of sending, or as long as it takes to send `TANDEM_HOSTILE_DATAGRAMS`;
//! `TANDEM_HOSTILE_SEED` has the same ones sent again.

#![expect(clippy::unwrap_used, reason = "a test ends there")]
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test ends there"
)]

mod backup;
mod generator;
#[allow(dead_code, reason = "the operator's tests use the rest")]
#[path = "../operator/host.rs"]
mod programs;
mod receiver_table;
mod valid;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backup::{Backup, SYNC_ID, link_drops};
use generator::Generator;
use receiver_table::Expected;
use valid::Valid;

const LENGTH: Duration = Duration::from_secs(40);
/// A datagram of valid entries after so many others.
const VALID_EVERY: u64 = 250;
/// Datagrams to a backup that stands still: several times what its socket holds of short ones.
const UNPACED: u64 = 50_000;
/// What the daemon's own memory may grow by after the first tenth. Unit: KiB.
const GROWN_MAX_KIB: u64 = 8192;
/// Datagrams to one entry that is passed by because its connection is just expiring, at most.
const BUSY_ONCE_IN: u64 = 10_000_000;
/// Every reason a datagram or entry can have to be refused here, and what else is counted of it.
const COUNTED: [&str; 24] = [
    "messages",
    "entries",
    "foreign_messages",
    "refused_message_short",
    "refused_message_size",
    "refused_message_sync_id",
    "refused_entry_no_room",
    "refused_entry_no_seq_block",
    "refused_entry_past_end",
    "refused_entry_version",
    "refused_entry_type",
    "refused_entry_short",
    "refused_option_stray_byte",
    "refused_option_length",
    "refused_option_seq",
    "refused_option_pe_data",
    "refused_option_pe_name",
    "refused_option_unknown",
    "refused_flags",
    "refused_protocol",
    "refused_state",
    "refused_template_state",
    "refused_pe_name_missing",
    "refused_pe_engine",
];

/// What becomes of an entry that is accepted.
const OUTCOMES: [&str; 8] = [
    "applied_new",
    "applied_known",
    "applied_replaced",
    "ignored_late_end",
    "guarded",
    "drop_no_share",
    "drop_reply_collision",
    "drop_busy",
];

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap())
}

#[test]
fn malformed_datagrams_cost_no_valid_entry_and_each_is_counted_by_its_reason() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("TANDEM_HOSTILE_SEED").unwrap_or_else(|| now().as_nanos() as u64);
    let wanted = number("TANDEM_HOSTILE_DATAGRAMS");
    eprintln!("TANDEM_HOSTILE_SEED={seed}, datagrams: {wanted:?}");
    let mut backup = Backup::start();
    let table = backup.table();
    let mut hostile = Generator::new(seed, SYNC_ID);
    let mut valid = Valid::new(SYNC_ID);
    let mut expected = Expected::new();
    let mut resident = Vec::new();
    let begun = Instant::now();
    let mut datagrams = 0;
    loop {
        // Of all that is to be done; the memory is looked at in each tenth.
        let done = match wanted {
            Some(wanted) => datagrams as f64 / wanted as f64,
            None => begun.elapsed().as_secs_f64() / LENGTH.as_secs_f64(),
        };
        if done * 10.0 >= resident.len() as f64 {
            resident.push(backup.anonymous_kib());
        }
        if done >= 1.0 {
            break;
        }
        if datagrams % VALID_EVERY == 0 {
            let datagram = valid.next_datagram();
            table.expect(&datagram, &mut expected);
            backup.send_valid(&datagram);
        }
        let datagram = hostile.datagram();
        table.expect(datagram, &mut expected);
        backup.send_hostile(datagram);
        datagrams += 1;
    }
    let took = begun.elapsed().as_secs_f64();
    let counts = backup.settle();
    let after = backup.anonymous_kib();
    eprintln!(
        "{datagrams} datagrams, {:.0} a second; memory of the daemon: {resident:?}, then {after} KiB",
        datagrams as f64 / took
    );
    eprintln!("{counts:#?}");
    assert_eq!(counts["drop_socket_full"], 0, "the senders wait for room");
    for name in COUNTED {
        let wanted = expected.get(name).copied().unwrap_or_default();
        assert!(wanted > 0, "seed {seed}: no datagram for {name}");
        assert_eq!(counts[name], wanted, "seed {seed}: {name}");
    }
    let refused = |(name, count): (&String, &u64)| name.starts_with("refused_").then_some(*count);
    let wanted = |(name, count): (&&str, &u64)| name.starts_with("refused_").then_some(*count);
    assert_eq!(
        counts.iter().filter_map(refused).sum::<u64>(),
        expected.iter().filter_map(wanted).sum::<u64>(),
        "seed {seed}: a reason that has no name here"
    );
    // What is well formed is taken, and with timeouts of years it fills its share of the table in a
    // long run; then it is refused by name. Nothing is unaccounted for.
    assert_eq!(counts["drop_table_full"], 0);
    let outcomes = OUTCOMES.map(|name| counts[name]);
    assert_eq!(
        outcomes.iter().sum::<u64>(),
        counts["entries"],
        "seed {seed}: {OUTCOMES:?} {outcomes:?}"
    );
    // An entry that comes in the moment in which its connection expires may be passed by, in a long
    // run; valid ones do not expire here.
    assert!(
        counts["drop_busy"] <= datagrams / BUSY_ONCE_IN,
        "seed {seed}: {} busy",
        counts["drop_busy"]
    );
    assert_eq!(link_drops(), 0, "nor does the link lose any");
    assert_eq!(valid.missing_in(&backup.listing()), [""; 0], "seed {seed}");
    let flat = resident[1] + GROWN_MAX_KIB;
    assert!(
        after <= flat && resident.iter().all(|kib| *kib <= flat),
        "{resident:?}, then {after} KiB"
    );

    // More than the socket holds: a datagram is either dropped there and counted, or taken.
    backup.stand_still(true);
    let mut sent = 0;
    for _ in 0..UNPACED {
        sent += u64::from(backup.send_unpaced(hostile.datagram()));
    }
    backup.stand_still(false);
    let last = backup.settle();
    let grown = |prefix: &str| -> u64 {
        let meant = last.iter().filter(|(name, _)| name.starts_with(prefix));
        meant.map(|(name, count)| count - counts[name]).sum()
    };
    let (taken, dropped) = (
        grown("messages") + grown("refused_message_"),
        grown("drop_socket_full"),
    );
    let on_the_way = link_drops();
    eprintln!(
        "of {sent} datagrams at once {taken} were taken, {dropped} dropped, {on_the_way} packets lost by the link"
    );
    assert!(taken > 0 && dropped > 0, "seed {seed}");
    // A long datagram is many packets, and lost with one of them.
    assert!(
        taken + dropped <= sent && taken + dropped + on_the_way >= sent,
        "seed {seed}"
    );
    assert!(backup.anonymous_kib() <= flat);
    backup.stop();
}
