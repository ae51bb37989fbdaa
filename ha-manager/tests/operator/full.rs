//! A connection table that is full.

use crate::host::{Host, Neighbour, VIP, wait_for};
use crate::wire::Wire;

#[test]
fn a_full_connection_table_is_a_problem_that_names_the_key_to_raise() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let daemon = host.start(&host.config(""));
    host.admin(&format!("-A -u {VIP} -s rr"));
    host.admin(&format!("-a -u {VIP} -r 10.77.0.2:53 -m"));
    wait_for("the link", || {
        host.status()["interfaces"][0]["link"] == "up"
    });
    let wire = Wire::open(&neighbour);
    let full = "the table of IPv4 connections is full: ";
    let raise = "raise connections_v4 in [director]";
    // The table has 256 places.
    let mut port = 10_000;
    wait_for("the problem", || {
        for _ in 0..300 {
            port += 1;
            wire.send(&format!("UDP 10.77.0.2:{port} > {VIP} len 1"), 1);
        }
        let status = host.status();
        let problems = status["problems"].as_array().map_or(&[][..], Vec::as_slice);
        problems.iter().any(|problem| {
            let text = problem.as_str().unwrap_or_default();
            text.starts_with(full) && text.ends_with(raise)
        })
    });
    daemon.logs(&[full, raise]);
    let status = host.status();
    let (v4, v6) = (
        &status["tables"]["connections_v4"],
        &status["tables"]["connections_v6"],
    );
    assert_eq!(
        (v4["size"].as_u64(), v6["size"].as_u64()),
        (Some(256), Some(256))
    );
    assert!(v4["taken"].as_u64() > Some(230), "{status}");
    assert_eq!(v6["taken"], 0);
}
