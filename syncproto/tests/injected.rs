//! Hand-made datagrams and what the kernel's backup made of each: `golden/inject`.
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "says what was compared")]

mod common;

use common::table::{Table, listed};
use common::{hex, list, option_of, recordings, text};
use syncproto::receiver::Receiver;
use syncproto::wire::{SeqOrder, WalkConfig};

#[test]
fn each_datagram_has_the_effect_it_had_on_the_kernel() {
    let (mut datagrams, mut accepted, mut refused) = (0, 0, 0);
    let recordings = recordings("inject");
    assert_eq!(recordings.len(), 31);
    for (name, recording) in recordings {
        let daemon = list(&recording, "setup").last().unwrap().as_str().unwrap();
        let mut receiver = Receiver::new(WalkConfig {
            sync_id: option_of(daemon, "--syncid").unwrap() as u8,
            seq_order: SeqOrder::Little,
            ..WalkConfig::default()
        });
        let mut table = Table::default();
        for step in list(&recording, "steps") {
            if step.get("hex").is_none() {
                continue;
            }
            datagrams += 1;
            let mut shown = Vec::new();
            receiver.receive(&hex(text(step, "hex")), |conn| {
                shown.push(table.apply(&conn));
            });
            let listed = listed(text(step, "ip_vs_conn"));
            // What is accepted is there; nothing is there that was not, now or earlier: earlier
            // ones may have expired.
            let all = table.lines();
            let note = &step["note"];
            for line in &shown {
                assert!(
                    listed.contains(line),
                    "{name}, {note}: {line} in {listed:#?}"
                );
            }
            for line in &listed {
                assert!(all.contains(line), "{name}, {note}: {line} in {all:#?}");
            }
        }
        accepted += receiver.counters().entries;
        refused += receiver.counters().refused.total();
    }
    println!("{datagrams} datagrams: {accepted} entries accepted, {refused} refusals");
    assert!(accepted > 120 && refused > 50);
}
