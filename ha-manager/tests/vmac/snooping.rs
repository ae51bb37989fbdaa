//! A LAN whose switch gives groups of IPv6 only to whom they were reported by (RFC 4541).

use std::net::UdpSocket;

use serde_json::Value;

use crate::lan::{Lan, Node, Recording, ip, wait_for};

const VIP: &str = "2001:db8:1::100";
const VMAC: [u8; 6] = [0, 0, 0x5e, 0, 2, 51];
const VMAC_TEXT: &str = "00:00:5e:00:02:33";
const ADVERTS: &str = "ff02::12";
/// That of both addresses.
const SOLICITED: &str = "ff02::1:ff00:100";

fn config(priority: u8) -> String {
    format!(
        "[[vrrp]]\nname = \"VI_1\"\ninterface = \"eth0\"\nvrid = 51\nadvert_ms = 100\n\
         priority = {priority}\nvmac = true\nvips = [\"fe80::100/64\", \"{VIP}/64\"]\n"
    )
}

/// Asks all the time who is in which group; intervals in hundredths of a second.
fn snoop() {
    ip(
        "link set br0 type bridge mcast_query_response_interval 50 mcast_query_interval 100 \
        mcast_startup_query_interval 50",
    );
    ip("link set br0 type bridge mcast_snooping 1 mcast_querier 1");
}

/// Whether the switch sends a group to a host.
fn is_member(node: &Node, group: &str) -> bool {
    let mut command = std::process::Command::new("bridge");
    let output = command
        .args(["mdb", "show", "dev", "br0"])
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let (port, group) = (format!(" port {} ", node.name), format!(" grp {group} "));
    listed
        .lines()
        .any(|line| line.contains(&port) && line.contains(&group))
}

fn heard(node: &Node) -> Option<u64> {
    let status: Value = node.status();
    assert_eq!(status["role"], "standby");
    status["vrrp"][0]["counters"]["adverts_received"].as_u64()
}

/// The macvlan's own reports stay inside on both: the interface below speaks for it.
#[test]
fn a_switch_that_snoops_sends_adverts_and_questions_to_a_router_with_a_virtual_mac() {
    let lan = Lan::new();
    snoop();
    for (number, node) in (1..).zip([&lan.a, &lan.b, &lan.client]) {
        node.ip(&format!("addr add 2001:db8:1::{number}/64 dev eth0 nodad"));
    }
    // It knows a group of every host: what has not been reported it gives to nobody.
    wait_for("groups of the hosts", || {
        let own = ["ff02::1:ff00:1", "ff02::1:ff00:2", "ff02::1:ff00:3"];
        let mut nodes = [&lan.a, &lan.b, &lan.client].into_iter().zip(own);
        nodes.all(|(node, group)| is_member(node, group))
    });
    let mut recording = Recording::start();
    let first = lan.a.direct(&config(150));
    lan.a.becomes("active");
    let second = lan.b.direct(&config(100));
    for node in [&lan.a, &lan.b] {
        wait_for("its groups", || {
            is_member(node, ADVERTS) && is_member(node, SOLICITED)
        });
    }
    lan.b.becomes("standby");
    let before = heard(&lan.b);
    // Several times as long as it waits for a master.
    wait_for("twenty adverts", || {
        heard(&lan.b) > before.map(|count| count + 20)
    });
    finds_the_address(&lan);

    // The other, as soon as it has the address.
    lan.plug(&lan.a, "down");
    drop(first);
    lan.b.becomes("active");
    lan.client.ip("neigh flush dev eth0");
    finds_the_address(&lan);
    recording.read();
    let of_macvlan = |sent: &&crate::lan::Sent| sent.is_from(VMAC) && sent.is_membership();
    let said = recording.frames.iter().find(of_macvlan);
    assert!(said.is_none(), "{said:02x?}");
    second.stop();
    // Nobody is left to listen there.
    wait_for("no member", || !is_member(&lan.b, ADVERTS));
}

/// A client that does not know its MAC address asks for it.
#[track_caller]
fn finds_the_address(lan: &Lan) {
    wait_for("an answer", || {
        lan.client.run(|| {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            let _ = socket.send_to(b"question", (VIP, 9));
        });
        lan.client.neighbour(VIP).as_deref() == Some(VMAC_TEXT)
    });
}
