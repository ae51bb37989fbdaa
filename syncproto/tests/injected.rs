//! Hand-made datagrams and what the kernel's backup made of each: `golden/inject`.
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "says what was compared")]

mod common;

use common::listing::{configure, counts, listed, listed_counts, rows};
use common::model::{Backup, LONGEST_TIMEOUT};
use common::{hex, list, option_of, recordings, text};
use syncproto::receiver::Receiver;
use syncproto::wire::{SeqOrder, WalkConfig};

/// From a datagram to the listing after it, at least.
const STEP_MS: u64 = 150;
/// A step took up to seven times that, as the timers of the recordings show.
const STRETCH: u64 = 7;

#[test]
fn each_datagram_has_the_effect_it_had_on_the_kernel() {
    let (mut datagrams, mut accepted, mut refused, mut counted) = (0, 0, 0, 0);
    let recordings = recordings("inject");
    assert_eq!(recordings.len(), 31);
    for (name, recording) in recordings {
        let setup = list(&recording, "setup");
        let daemon = setup.last().unwrap().as_str().unwrap();
        let mut receiver = Receiver::new(WalkConfig {
            sync_id: option_of(daemon, "--syncid").unwrap() as u8,
            seq_order: SeqOrder::Little,
            ..WalkConfig::default()
        });
        let mut backup = Backup::default();
        for command in setup {
            configure(&mut backup, command.as_str().unwrap());
        }
        for step in list(&recording, "steps") {
            if let Some(secs) = step.get("sleep") {
                backup.advance((secs.as_f64().unwrap() * 1000.0) as u64);
                continue;
            }
            if let Some(command) = step.get("command") {
                configure(&mut backup, command.as_str().unwrap());
                continue;
            }
            datagrams += 1;
            receiver.receive(&hex(text(step, "hex")), |conn| {
                backup.apply(&conn);
                backup.check();
            });
            backup.advance(STEP_MS);
            let said = format!("{name}, {}", step["note"]);
            compare(&said, &backup, text(step, "ip_vs_conn"));
            if let Some(listing) = step.get("ipvsadm_Ln") {
                let recorded = listed_counts(listing.as_str().unwrap());
                assert_eq!(counts(&backup), recorded, "{said}");
                counted += recorded.len();
            }
        }
        accepted += receiver.counters().entries;
        refused += receiver.counters().refused.total();
    }
    println!(
        "{datagrams} datagrams: {accepted} entries accepted, {refused} refusals, \
         {counted} counts of real servers"
    );
    assert!(accepted > 120 && refused > 50 && counted > 10);
}

/// The same rows, with timers that ran as long as the steps may have taken.
fn compare(said: &str, backup: &Backup, recorded: &str) {
    let (rows, listed) = (rows(backup), listed(recorded));
    for (line, (left_ms, age_ms)) in &rows {
        let least = left_ms.saturating_sub(age_ms * (STRETCH - 1)) / 1000;
        match listed.get(line) {
            // What the listing shows of a timer that had to be cut short varies.
            Some(_) if *left_ms > (LONGEST_TIMEOUT - 10) * 1000 => {}
            Some(left) => {
                let fits = (least..=left_ms / 1000).contains(left);
                assert!(fits, "{said}: {line} has {left} s left, not {left_ms} ms");
            }
            None => assert_eq!(least, 0, "{said}: {line} in {listed:#?}"),
        }
    }
    for line in listed.keys() {
        assert!(rows.contains_key(line), "{said}: {line} in {rows:#?}");
    }
}
