//! Two nodes that are both active for one address and do not hear each other's adverts.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::io::Write;
use std::net::TcpStream;

use serde_json::Value;

use crate::host::{Host, wait_for};
use crate::lan::{Lan, SERVICES, VIPS, configs, instance};
use crate::node::problems;

fn seen(status: &Value) -> Vec<String> {
    let seen = status["split_brain"].as_array().unwrap().iter();
    let mut seen: Vec<String> = seen
        .map(|split| split["seen_by"].as_str().unwrap().to_owned())
        .collect();
    seen.sort_unstable();
    seen
}

/// Their virtual routers have different numbers, so that only ARP and the sync daemons tell.
#[test]
fn a_split_brain_is_seen_by_arp_and_sync_on_both_sides_and_healed() {
    let host = Host::new();
    let lan = Lan::new();
    let apart = instance(0, 100).replace("vrid = 51", "vrid = 61");
    let (own, others, other) = configs(&host, [&instance(0, 100), &apart]);
    // One id, as a pair has.
    let text = std::fs::read_to_string(&others).unwrap();
    std::fs::write(&others, text.replace("[sync]\n", "[sync]\nsyncid = 51\n")).unwrap();
    let first = host.start(&own);
    let second = host.start_at(&lan.second, &others);
    for line in SERVICES {
        host.admin(line);
        host.admin_at(&other, line);
    }
    wait_for("both active", || {
        [host.status(), host.status_at(&other)]
            .iter()
            .all(|status| status["role"] == "active")
    });
    // Whichever of them a client reaches tells its peer of the connection.
    let mut clients = Vec::new();
    wait_for("both see it by ARP, and one by sync", || {
        if clients.len() < 200 {
            // None of them lives long in a split brain.
            let client = lan.hub.run(|| {
                let mut client = TcpStream::connect((VIPS[0], 80)).ok()?;
                client.write_all(b"question").ok()?;
                Some(client)
            });
            clients.extend(client);
        }
        let [one, two] = [host.status(), host.status_at(&other)].map(|status| seen(&status));
        let has = |seen: &[String], by: &str| seen.iter().any(|seen| seen == by);
        has(&one, "arp") && has(&two, "arp") && (has(&one, "sync") || has(&two, "sync"))
    });
    let status = host.status();
    assert!(status["split_brains"]["arp"].as_u64() > Some(0), "{status}");
    let texts = problems(&host);
    assert!(
        texts
            .iter()
            .any(|text| text.starts_with("VI_1: another host answers for 10.77.0.200")),
        "{texts:?}"
    );
    let (ended, log) = second.stop();
    assert!(ended.success());
    assert!(
        log.contains("another host answers for 10.77.0.200"),
        "{log}"
    );
    wait_for("healed", || {
        seen(&host.status()).is_empty() && problems(&host).is_empty()
    });
    first.logs(&["a split brain is not seen any more", "arp"]);
    first.logs(&["a split brain has healed: the addresses are announced again"]);
    drop(clients);
}
