//! Messages made by hand, good and bad, that were sent to a kernel's backup: an entry that it took
//! is in its table, and what we call skipped, or do not even get to, is not.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ha_manager::decode::capture::Captured;
use ha_manager::decode::{Decoder, EntryRecord, Record, SyncRecord};
use serde_json::Value;
use syncproto::wire::SeqOrder;

use crate::captures::{from_hex, json};

/// Recorded cases, and the entries of all their messages.
const CASES: usize = 31;
const ENTRIES: usize = 203;
/// Entries of messages with another sync id than the backup's: that is not judged here.
const OTHER_SYNC_ID: usize = 4;

#[test]
fn the_verdict_on_an_entry_is_what_a_kernels_backup_did() {
    let (mut compared, mut other_sync_id) = (0, 0);
    for (case, steps) in cases() {
        for step in steps.iter().filter(|step| step["hex"].is_string()) {
            let table = keys_of(step["ip_vs_conn"].as_str().unwrap());
            let message = from_hex(step["hex"].as_str().unwrap());
            for entry in decode(&message).entries {
                let taken = table.contains(&key_of(&entry));
                let ok = serde_json::to_value(entry.verdict).unwrap() == "ok";
                compared += 1;
                if ok && !taken && has_other_sync_id(&case, step) {
                    other_sync_id += 1;
                    continue;
                }
                assert_eq!(ok, taken, "{case}: {}: {entry:?}", step["note"]);
            }
        }
    }
    assert_eq!((compared, other_sync_id), (ENTRIES, OTHER_SYNC_ID));
}

fn has_other_sync_id(case: &str, step: &Value) -> bool {
    let note = step["note"].as_str().unwrap();
    case == "v1_syncid" || note == "other syncid"
}

/// Each case with its steps.
fn cases() -> Vec<(String, Vec<Value>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../syncproto/tests/golden/inject");
    let files = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort();
    assert_eq!(paths.len(), CASES);
    let read = |path: PathBuf| {
        let case: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let steps = case["steps"].as_array().unwrap().clone();
        (case["case"].as_str().unwrap().to_owned(), steps)
    };
    paths.into_iter().map(read).collect()
}

/// Sequence records of version 0 as a little-endian and as a big-endian sender writes them.
#[test]
fn the_byte_order_of_version_0_is_that_of_its_sender_and_can_be_said() {
    let start = "01000034 00069c40 00150015 cb007107 c000020a 0a000015 06000001";
    let little = "44332211 fdffffff 00000000 88776655 05000000 02000000";
    let big = "11223344 fffffffd 00000000 55667788 00000005 00000002";
    for (records, order) in [(little, SeqOrder::Little), (big, SeqOrder::Big)] {
        let message = from_hex(&format!("{start}{records}"));
        let record = decode_by(&message, &Decoder::new(None).with_seq_order(order));
        let seq = &json(&Record::Sync(record))["entries"][0]["seq"];
        assert_eq!(seq["in"]["init_seq"], 0x1122_3344, "{seq}");
        assert_eq!(seq["in"]["delta"], -3);
        assert_eq!(seq["out"]["init_seq"], 0x5566_7788);
        assert_eq!(seq["out"]["previous_delta"], 2);
    }
}

fn decode(message: &[u8]) -> SyncRecord {
    decode_by(message, &Decoder::new(None))
}

/// The message in a datagram to the group.
fn decode_by(message: &[u8], decoder: &Decoder) -> SyncRecord {
    let length = |more: usize| u16::try_from(message.len() + more).unwrap().to_be_bytes();
    let mut frame = from_hex("01005e000051020000000101 0800 4500");
    frame.extend(length(28));
    frame.extend(from_hex("0000000001110000 0a030001 e0000051 ffff 2290"));
    frame.extend(length(8));
    frame.extend([0, 0]);
    frame.extend(message);
    let captured = Captured {
        at: Duration::ZERO,
        frame: &frame,
    };
    match decoder.decode(captured) {
        Some(Record::Sync(record)) => record,
        other => panic!("{:?}", other.as_ref().map(json)),
    }
}

/// Protocol, client and virtual address as `/proc/net/ip_vs_conn` writes them.
fn key_of(entry: &EntryRecord) -> String {
    let protocol = match entry.protocol {
        0 => "IP".to_owned(),
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("IP_{other}"),
    };
    let addr = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => format!("{:08X}", addr.to_bits()),
        IpAddr::V6(addr) => addr
            .segments()
            .map(|group| format!("{group:04x}"))
            .join(":"),
    };
    let (client, virt) = (addr(entry.caddr), addr(entry.vaddr));
    format!(
        "{protocol} {client} {:04X} {virt} {:04X}",
        entry.cport, entry.vport
    )
}

fn keys_of(table: &str) -> BTreeSet<String> {
    let key = |row: &str| row.split_whitespace().take(5).collect::<Vec<_>>().join(" ");
    table.lines().skip(1).map(key).collect()
}
