//! `directord proc` on a backup that has heard what a kernel's master once sent, against what the
//! kernel's own backup showed.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::host::{Host, elsewhere};

const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);
const GROUP: &str = "224.0.0.81:8848";
/// Captures without templates, on the default port: a backup keeps no templates yet.
const CAPTURES: [&str; 7] = [
    "v0_tcp_nat",
    "v0_udp_dr",
    "v1_tcp_dr",
    "v1_tcp_nat_rr_est",
    "v1_tcp_nat_rr_fin",
    "v1_tcp_nat_rst",
    "v1_udp_nat",
];

#[test]
fn a_backup_shows_connections_and_their_origin_as_the_kernel_does() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../syncproto/tests/golden/sync");
    for capture in CAPTURES {
        let notes = fs::read(golden.join(capture).with_extension("json")).unwrap();
        let notes: Value = serde_json::from_slice(&notes).unwrap();
        let host = Host::new();
        host.admin("--start-daemon backup --mcast-interface sync0");
        let network = [
            "addr add 10.3.0.2/24 dev sync1",
            "route add 224.0.0.0/4 dev sync1",
        ];
        elsewhere("sync1", &network, || {
            let socket = UdpSocket::bind("10.3.0.2:0").unwrap();
            for datagram in notes["datagrams"].as_array().unwrap() {
                let payload = from_hex(datagram["hex"].as_str().unwrap());
                socket.send_to(&payload, GROUP).unwrap();
            }
            // The link goes away with this network.
            for file in ["ip_vs_conn", "ip_vs_conn_sync"] {
                let expected = notes["replay_without_services"][file].as_str().unwrap();
                shows(&host, file, expected);
            }
        });
        println!("{capture}: shown as by the kernel");
    }
}

/// Waits until the file is as expected, and says how it is if it does not become so.
fn shows(host: &Host, file: &str, expected: &str) {
    let expected = table(expected);
    assert!(expected.len() > 1, "{file}");
    let deadline = Instant::now() + LIMIT;
    loop {
        let shown = table(&host.proc(file));
        if shown == expected {
            return;
        }
        if Instant::now() > deadline {
            assert_eq!(shown, expected, "{file}");
        }
        thread::sleep(PAUSE);
    }
}

/// The rows in an order of their own, without the seconds each has left, under the title.
fn table(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let title = lines.next().unwrap().to_owned();
    let without_secs = |row: &str| {
        let (row, _secs) = row.trim_end().rsplit_once(' ').unwrap();
        row.trim_end().to_owned()
    };
    let mut rows: Vec<String> = lines.map(without_secs).collect();
    rows.sort();
    rows.insert(0, title);
    rows
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}
