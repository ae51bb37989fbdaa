//! Runs tshark and reads what it prints.

use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// What the dissector found in one datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dissected {
    pub(crate) sync_id: u32,
    pub(crate) size: u32,
    pub(crate) count: u32,
    pub(crate) entries: Vec<DissectedEntry>,
    /// Client, virtual and server address of each entry of the family.
    pub(crate) addresses_ipv4: Vec<[IpAddr; 3]>,
    pub(crate) addresses_ipv6: Vec<[IpAddr; 3]>,
    /// In and out, each initial number, delta, previous delta; version 0 only.
    pub(crate) seqs: Vec<[[u32; 3]; 2]>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DissectedEntry {
    pub(crate) protocol: u32,
    pub(crate) flags: u32,
    pub(crate) state: u32,
    /// Client, virtual, server.
    pub(crate) ports: [u32; 3],
    /// Version 1 only.
    pub(crate) fwmark_and_timeout: Option<(u32, u32)>,
}

/// The fields asked for, one column each.
const FIELDS: [&str; 26] = [
    "ipvs.syncid",
    "ipvs.size",
    "ipvs.conncount",
    "ipvs.proto",
    "ipvs.flags",
    "ipvs.flags.v1",
    "ipvs.state",
    "ipvs.cport",
    "ipvs.vport",
    "ipvs.dport",
    "ipvs.fwmark",
    "ipvs.timeout",
    "ipvs.caddr",
    "ipvs.vaddr",
    "ipvs.daddr",
    "ipvs.caddr6",
    "ipvs.vaddr6",
    "ipvs.daddr6",
    "ipvs.in_seq.initial",
    "ipvs.in_seq.delta",
    "ipvs.in_seq.pdelta",
    "ipvs.out_seq.initial",
    "ipvs.out_seq.delta",
    "ipvs.out_seq.pdelta",
    "_ws.malformed",
    "_ws.expert.message",
];

/// Why there is nothing to compare with.
pub(crate) fn tshark_is_missing() -> Option<&'static str> {
    match Command::new("tshark").arg("--version").output() {
        Err(error) if error.kind() == ErrorKind::NotFound => Some("tshark is not installed"),
        found => {
            assert!(found.unwrap().status.success());
            None
        }
    }
}

/// Every frame of a capture, none of which may have anything to complain about.
pub(crate) fn dissect(pcap: &[u8]) -> Vec<Dissected> {
    let mut command = Command::new("tshark");
    command.args([
        "-n",
        "-r",
        "-",
        "-T",
        "fields",
        "-E",
        "occurrence=a",
        "-E",
        "aggregator=,",
    ]);
    command.args(FIELDS.into_iter().flat_map(|field| ["-e", field]));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(pcap).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(row).collect()
}

fn row(line: &str) -> Dissected {
    let columns: Vec<Vec<&str>> = line
        .split('\t')
        .map(|column| {
            column
                .split(',')
                .filter(|value| !value.is_empty())
                .collect()
        })
        .collect();
    let column = |name: &str| {
        let at = FIELDS.iter().position(|field| *field == name).unwrap();
        &columns[at]
    };
    for complaint in ["_ws.malformed", "_ws.expert.message"] {
        assert!(column(complaint).is_empty(), "{complaint}: {line}");
    }
    let numbers =
        |name: &str| -> Vec<u32> { column(name).iter().map(|text| number(text)).collect() };
    let one = |name: &str| -> u32 {
        let found = numbers(name);
        assert_eq!(found.len(), 1, "{name}: {line}");
        found[0]
    };
    let addresses = |names: [&str; 3]| -> Vec<[IpAddr; 3]> {
        let [client, virt, dest] = names.map(|name| -> Vec<IpAddr> {
            column(name)
                .iter()
                .map(|text| text.parse().unwrap())
                .collect()
        });
        assert!(client.len() == virt.len() && virt.len() == dest.len());
        let ends = client.into_iter().zip(virt).zip(dest);
        ends.map(|((client, virt), dest)| [client, virt, dest])
            .collect()
    };
    // The two versions have their flags in fields of their own.
    let is_v1 = !column("ipvs.flags.v1").is_empty();
    let flags = numbers(if is_v1 { "ipvs.flags.v1" } else { "ipvs.flags" });
    let [protocols, states, cports, vports, dports, marks, timeouts] = [
        "ipvs.proto",
        "ipvs.state",
        "ipvs.cport",
        "ipvs.vport",
        "ipvs.dport",
        "ipvs.fwmark",
        "ipvs.timeout",
    ]
    .map(numbers);
    let entry = |nth: usize| DissectedEntry {
        protocol: protocols[nth],
        flags: flags[nth],
        state: states[nth],
        ports: [cports[nth], vports[nth], dports[nth]],
        fwmark_and_timeout: is_v1.then(|| (marks[nth], timeouts[nth])),
    };
    let seq = |direction: &str| {
        ["initial", "delta", "pdelta"].map(|word| numbers(&format!("ipvs.{direction}_seq.{word}")))
    };
    let (input, output) = (seq("in"), seq("out"));
    let record = |seq: &[Vec<u32>; 3], nth: usize| [seq[0][nth], seq[1][nth], seq[2][nth]];
    Dissected {
        sync_id: one("ipvs.syncid"),
        size: one("ipvs.size"),
        count: one("ipvs.conncount"),
        entries: (0..protocols.len()).map(entry).collect(),
        addresses_ipv4: addresses(["ipvs.caddr", "ipvs.vaddr", "ipvs.daddr"]),
        addresses_ipv6: addresses(["ipvs.caddr6", "ipvs.vaddr6", "ipvs.daddr6"]),
        seqs: (0..input[0].len())
            .map(|nth| [record(&input, nth), record(&output, nth)])
            .collect(),
    }
}

/// Decimal, or hexadecimal with its prefix.
fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).unwrap(),
        None => text.parse().unwrap(),
    }
}
