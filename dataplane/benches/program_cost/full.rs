//! Tables with many connections: what a connection takes, what a lookup costs, how long a sweep lasts.

use std::time::{Duration, Instant};

use dataplane::common::batch::{BatchItem, BatchResult};
use dataplane::common::entry::NO_SERVER;
use dataplane::common::key::{Addr6, Be16, Be32, FlowKey6};
use dataplane::{DataPlane, RouteKind, Tunable, timer_ns};

use crate::lab::packets::{ACK, Ip, octets, tcp};
use crate::lab::recount::expire_all;
use crate::lab::{Lab, local, route};

/// Packets of as many connections, so that what a lookup touches is not in the processor's caches.
const SAMPLE: u32 = 20_000;
const CLIENTS_EACH: u32 = 50_000;
/// Steps as the daemon makes them.
const STEP: u32 = 1 << 12;

pub fn measure_all(lab: &Lab, plane: &mut DataPlane, count: u32) {
    // What `lookups` touches is filled over again.
    plane.set_tunable(Tunable::ApplyGuardSecs, 0);
    expire_all(plane);
    let routes = [
        local("10.91.0.0", 16),
        local("fd00:91::", 32),
        route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
        route("::", 0, RouteKind::Unicast, 1, None),
    ];
    plane.set_routes(&routes).expect("routes");
    println!("\n| table | empty | {count} connections |");
    println!("| --- | --- | --- |");
    for ipv6 in [false, true] {
        let name = if ipv6 { "IPv6" } else { "IPv4" };
        let few = SAMPLE.min(count);
        fill(plane, ipv6, few, 900);
        let alone = lookups(plane, ipv6, few, few);
        let filled = fill(plane, ipv6, count, 900);
        let among = lookups(plane, ipv6, few, count);
        println!("| {name}: a packet of one of {few} connections, ns | {alone} | {among} |");
        println!("| {name}: connections made, a second | | {:.0} |", filled);
        // Once more, with a timer that ends at once.
        fill(plane, ipv6, count, 1);
        let end = timer_ns() + 1_500_000_000;
        while timer_ns() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let there = plane.connection_count().taken();
        let start = Instant::now();
        let (mut expired, mut swept, mut longest) = (0, 0, Duration::ZERO);
        while swept < there {
            assert!(
                start.elapsed() < Duration::from_secs(300),
                "{expired} {swept}"
            );
            let step = Instant::now();
            let report = plane.expire_step(STEP);
            longest = longest.max(step.elapsed());
            expired += report.expired;
            swept += report.swept;
        }
        println!(
            "| {name}: full expiry sweep, ms (longest step, us) | | {} ({}) |",
            start.elapsed().as_millis(),
            longest.as_micros()
        );
        assert_eq!(expired, swept);
    }
    memory(lab);
}

/// What one family's tables take, by making another data plane with tables of one place there.
fn memory(lab: &Lab) {
    let bytes = |connections_v4, connections_v6| {
        let mut options = lab.options(&["lo"]);
        options.pin_dir = lab.bpffs.join("memory");
        options.sizes.connections_v4 = connections_v4;
        options.sizes.connections_v6 = connections_v6;
        let plane = DataPlane::open(&options).expect("the data plane opens");
        let bytes = plane.memory_bytes();
        drop(plane);
        DataPlane::detach(&options.pin_dir).expect("detached");
        bytes
    };
    let places = 1 << 20;
    let (none, four, six) = (bytes(256, 256), bytes(places, 256), bytes(256, places));
    for (name, with) in [("IPv4", four), ("IPv6", six)] {
        let each = (with - none) as f64 / f64::from(places - 256);
        println!("{name}: {each:.0} bytes a masqueraded connection, all maps");
    }
}

fn words(addr: std::net::IpAddr) -> Addr6 {
    let mut words = [Be32(0); 4];
    for (word, bytes) in words.iter_mut().zip(octets(addr).chunks(4)) {
        *word = Be32(u32::from_ne_bytes(bytes.try_into().expect("four bytes")));
    }
    words
}

/// Packet of the connection of that number.
fn packet(number: u32, ipv6: bool) -> Ip {
    let (host, port) = (number / CLIENTS_EACH, number % CLIENTS_EACH + 1024);
    let (client, vip) = if ipv6 {
        (format!("[fd00:100::{host:x}]:{port}"), "[fd00:91::77]:80")
    } else {
        (format!("10.100.{host}.1:{port}"), "10.91.0.77:80")
    };
    tcp(&client, vip, ACK)
}

/// Masqueraded connections of no server; gives back how many a second.
fn fill(plane: &mut DataPlane, ipv6: bool, count: u32, timeout_secs: u32) -> f64 {
    let mut spent = Duration::ZERO;
    let numbers: Vec<u32> = (0..count).collect();
    let server = if ipv6 { "fd00:200::11" } else { "10.200.0.11" };
    let daddr = words(server.parse().expect("an address"));
    for chunk in numbers.chunks(256) {
        let mut items: Vec<BatchItem> = chunk
            .iter()
            .map(|number| {
                let packet = packet(*number, ipv6);
                let port = |addr: std::net::SocketAddr| Be16::from_host(addr.port());
                BatchItem {
                    key: FlowKey6::flow(
                        words(packet.src.ip()),
                        port(packet.src),
                        words(packet.dst.ip()),
                        port(packet.dst),
                        6,
                    ),
                    daddr,
                    dport: Be16::from_host(8080),
                    server: NO_SERVER,
                    timeout_secs,
                    state: 1,
                    family: if ipv6 { 10 } else { 2 },
                    ..BatchItem::default()
                }
            })
            .collect();
        let run = Instant::now();
        plane.apply(&mut items);
        spent += run.elapsed();
        let refused = items.iter().find(|item| {
            let result = BatchResult::from_number(item.result);
            !matches!(
                result,
                Some(BatchResult::Created | BatchResult::Updated | BatchResult::TableFull)
            )
        });
        assert!(refused.is_none(), "{refused:?}");
    }
    f64::from(count) / spent.as_secs_f64()
}

/// Mean cost of one packet each of `few` connections spread over the first `count`.
fn lookups(plane: &DataPlane, ipv6: bool, few: u32, count: u32) -> u64 {
    let runner = plane.runner().expect("a descriptor");
    let frames: Vec<_> = (0..few)
        .map(|number| packet(number * (count / few), ipv6).frame())
        .collect();
    let mut total = 0;
    for frame in &frames {
        let run = runner.run(frame, 1, 1).expect("the program runs");
        total += u64::from(run.duration_ns);
    }
    total / u64::from(few)
}
