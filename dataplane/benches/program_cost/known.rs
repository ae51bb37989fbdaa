//! Packets of known connections, and packets that are nobody's.

use std::process::Command;

use dataplane::{DataPlane, RouteKind};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;

use crate::family;
use crate::lab::director::{DR, NAT, add_server, add_service, service};
use crate::lab::packets::{ACK, COOKIE_ECHO, DATA, INIT, Ip, SYN, frame, sctp, tcp};
use crate::lab::route;

const REPEAT: u32 = 250;
const CALLS: u32 = 1000;
const ROUNDS: u32 = 5;

const CLIENT: &str = "10.91.0.9:40000";
/// The first two are each other's server.
const ONE: &str = "10.91.0.2:80";
const OTHER: &str = "10.91.0.3:81";
const DIRECT: &str = "10.91.0.4:80";
const CASES: [&str; 7] = [
    "nat request",
    "nat reply",
    "direct routing",
    "sctp nat request",
    "sctp nat, 1400 bytes",
    "no service",
    "not ip",
];

/// Every address leads to `lo`; the virtual ones are taken for this host's.
pub fn set_up(plane: &mut DataPlane) {
    let everywhere = ["0.0.0.0", "::"].map(|any| route(any, 0, RouteKind::Unicast, 1, None));
    plane.set_routes(&everywhere).expect("routes");
    for ipv6 in [false, true] {
        let services = [
            (Protocol::Tcp, ONE, OTHER, NAT),
            (Protocol::Tcp, OTHER, ONE, NAT),
            (Protocol::Sctp, ONE, OTHER, NAT),
            (Protocol::Sctp, OTHER, ONE, NAT),
            (Protocol::Tcp, DIRECT, "10.92.0.1:80", DR),
        ];
        for (protocol, vip, server, method) in services {
            let key = service(protocol, &family(vip, ipv6));
            add_service(plane, key, Scheduler::Rr);
            add_server(plane, key, &family(server, ipv6), method, 1);
        }
    }
    plane.pretend_vips_are_local();
}

/// The frames of [`CASES`], after their connections were opened.
fn frames(plane: &DataPlane, ipv6: bool) -> [Vec<u8>; 7] {
    let at = |text: &str| family(text, ipv6);
    let client = at(CLIENT);
    let send = |packet: Ip| {
        let run = plane.test_run(&packet.frame(), 1, 1);
        run.expect("the program runs");
    };
    for vip in [ONE, OTHER, DIRECT] {
        send(tcp(&client, &at(vip), SYN));
        send(tcp(&client, &at(vip), ACK));
    }
    for vip in [ONE, OTHER] {
        send(sctp(&client, &at(vip), INIT));
        send(sctp(&client, &at(vip), COOKIE_ECHO));
    }
    let data = |src: &str, dst: &str| {
        let packet = Ip {
            ttl: 255,
            payload: vec![0; 10],
            ..tcp(src, dst, ACK)
        };
        packet.frame()
    };
    let chunk = |len: usize| {
        let mut packet = Ip {
            ttl: 255,
            ..sctp(&client, &at(ONE), DATA)
        };
        packet.payload.resize(16 + len, 0);
        packet.frame()
    };
    [
        data(&client, &at(ONE)),
        data(&at(OTHER), &client),
        data(&client, &at(DIRECT)),
        chunk(0),
        chunk(1400),
        data(&client, &at("10.91.0.99:80")),
        frame([0; 6], 0x8847, &[0; 60]),
    ]
}

pub fn measure_all(plane: &mut DataPlane) {
    set_up(plane);
    let families = [false, true].map(|ipv6| frames(plane, ipv6));
    let mut best = [[(u32::MAX, u32::MAX); CASES.len()]; 2];
    for _ in 0..ROUNDS {
        for (frames, best) in families.iter().zip(&mut best) {
            for (frame, (alone, master)) in frames.iter().zip(best) {
                *alone = (*alone).min(measure(plane, frame));
                // One packet in fifty is offered.
                plane.set_sync_master(true);
                *master = (*master).min(measure(plane, frame));
                plane.set_sync_master(false);
            }
        }
        yardstick();
    }
    println!(
        "\nns a packet, best of {ROUNDS} x {} runs\n",
        REPEAT * CALLS
    );
    println!("| path | IPv4 | as sync master | IPv6 | as sync master |");
    println!("| --- | --- | --- | --- | --- |");
    for ((name, four), six) in CASES.iter().zip(best[0]).zip(best[1]) {
        println!(
            "| {name} | {} | {} | {} | {} |",
            four.0, four.1, six.0, six.1
        );
    }
}

fn measure(plane: &DataPlane, frame: &[u8]) -> u32 {
    let runner = plane.runner().expect("a descriptor");
    let mut offers = plane.offers().expect("the ring of offers");
    let mut total = 0u64;
    for _ in 0..CALLS {
        while offers.next_offer().is_some() {}
        let run = runner.run(frame, 1, REPEAT).expect("the program runs");
        total += u64::from(run.duration_ns);
    }
    (total / u64::from(CALLS)) as u32
}

fn yardstick() {
    let Ok(command) = std::env::var("TANDEM_YARDSTICK") else {
        return;
    };
    let output = Command::new("sh")
        .args(["-c", &command])
        .output()
        .expect("the yardstick runs");
    print!("yardstick: {}", String::from_utf8_lossy(&output.stdout));
}
