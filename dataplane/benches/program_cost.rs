//! What the director costs a packet, measured by `BPF_PROG_TEST_RUN`, and what a connection costs
//! in kernel memory.
//!
//! Each figure is the best of several rounds of 250 runs a call (a packet loses one of its TTL in
//! each run). Masqueraded packets go back and forth between two connections, so every run finds
//! its connection and rewrites. `TANDEM_YARDSTICK` names a command that is run between the rounds,
//! so that another program is measured at the same time; its output is printed as it is.
//! `TANDEM_BENCH_CONNS` fills the table first.

#![allow(clippy::print_stdout, reason = "the figures are the program's output")]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::process::Command;

use dataplane::common::batch::{BatchItem, BatchResult};
use dataplane::common::entry::NO_SERVER;
use dataplane::common::key::{Be16, Be32, FlowKey4};
use dataplane::{DataPlane, Edit, RouteKind};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
use lab::packets::{ACK, Ip, SYN, tcp};
use lab::{Lab, local, route};

const REPEAT: u32 = 250;
const CALLS: u32 = 2000;
const ROUNDS: u32 = 5;

fn main() {
    let sizes: u32 = number("TANDEM_BENCH_TABLE").unwrap_or(1 << 20);
    let lab = Lab::new();
    let mut options = lab.options(&["lo"]);
    options.sizes.connections_v4 = sizes;
    let mut plane = DataPlane::open(&options).expect("the data plane opens");
    println!(
        "table: {sizes} connections, maps {:.1} MiB, {:.0} bytes a connection (all maps)",
        plane.memory_bytes() as f64 / 1048576.0,
        plane.memory_bytes() as f64 / f64::from(sizes),
    );
    set_up(&mut plane);
    if let Some(count) = number("TANDEM_BENCH_CONNS") {
        fill(&mut plane, count);
    }
    let (a, b, direct) = ("10.91.2.2:80", "10.91.2.3:81", "10.91.2.4:80");
    let client = "10.91.1.2:40000";
    for vip in [a, b, direct] {
        plane
            .test_run(&tcp(client, vip, SYN).frame(), 1, 1)
            .expect("the program runs");
        plane
            .test_run(&tcp(client, vip, ACK).frame(), 1, 1)
            .expect("the program runs");
    }
    let data = |src: &str, dst: &str| {
        Ip {
            ttl: 255,
            payload: vec![0; 10],
            ..tcp(src, dst, ACK)
        }
        .frame()
    };
    let cases = [
        ("nat request", data(client, a)),
        ("nat reply", data(b, client)),
        ("direct routing", data(client, direct)),
        ("no service", data(client, "10.91.9.9:80")),
        ("not ip", lab::packets::frame([0; 6], 0x86dd, &[0; 60])),
    ];
    let mut best = [(u32::MAX, u32::MAX); 5];
    for _ in 0..ROUNDS {
        for ((_, frame), (alone, master)) in cases.iter().zip(&mut best) {
            *alone = (*alone).min(measure(&plane, frame));
            // One packet in fifty is offered.
            plane.set_sync_master(true);
            *master = (*master).min(measure(&plane, frame));
            plane.set_sync_master(false);
        }
        yardstick();
    }
    for ((name, _), (alone, master)) in cases.iter().zip(best) {
        println!(
            "{name}: {alone} ns/packet, as sync master {master} ns (best of {ROUNDS} x {} runs)",
            REPEAT * CALLS
        );
    }
    let used: Vec<_> = plane
        .counters()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    println!("counters: {used:?}");
}

fn number(name: &str) -> Option<u32> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

fn set_up(plane: &mut DataPlane) {
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.91.2.0", 24), everywhere])
        .expect("routes");
    let services = [
        ("10.91.2.2:80", "10.91.2.3:81", ForwardMethod::Masquerading),
        ("10.91.2.3:81", "10.91.2.2:80", ForwardMethod::Masquerading),
        ("10.91.2.4:80", "10.92.0.1:80", ForwardMethod::DirectRouting),
    ];
    // Their servers stand in for hosts elsewhere although they look local here.
    let elsewhere = route("10.91.2.0", 24, RouteKind::Unicast, 1, None);
    for (vip, server, method) in services {
        plane.set_routes(&[elsewhere, everywhere]).expect("routes");
        let addr = vip.parse().expect("an address");
        let service = ServiceKey::Address {
            protocol: Protocol::Tcp,
            addr,
        };
        let spec = ServiceSpec {
            scheduler: Some(Scheduler::Rr),
            flags: ServiceFlags::default(),
            timeout_secs: 0,
            netmask: u32::MAX,
            pe_name: None,
        };
        plane
            .edit(&Edit::AddService { key: service, spec })
            .expect("service");
        let server = server.parse().expect("an address");
        let spec = ServerSpec {
            method,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        };
        plane
            .edit(&Edit::AddServer {
                service,
                server,
                spec,
            })
            .expect("server");
    }
    plane.pretend_vips_are_local();
}

fn measure(plane: &DataPlane, frame: &[u8]) -> u32 {
    let runner = plane.runner().expect("a descriptor");
    let mut offers = plane.offers().expect("the ring of offers");
    let mut total = 0u64;
    for _ in 0..CALLS {
        while offers.next_offer().is_some() {}
        total += u64::from(
            runner
                .run(frame, 1, REPEAT)
                .expect("the program runs")
                .duration_ns,
        );
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

/// Connections of no server, so that lookups miss the processor's caches.
fn fill(plane: &mut DataPlane, count: u32) {
    let mut created = 0;
    let start = std::time::Instant::now();
    let numbers: Vec<u32> = (0..count).collect();
    for chunk in numbers.chunks(256) {
        let mut items: Vec<BatchItem> = chunk
            .iter()
            .map(|number| BatchItem {
                key: FlowKey4::flow(
                    Be32::from_host(0x0a64_0000 + number / 50_000),
                    Be16::from_host((number % 50_000 + 1024) as u16),
                    Be32::from_host(0x0a32_0001),
                    Be16::from_host(80),
                    6,
                ),
                daddr: Be32::from_host(0x0ac8_000b),
                dport: Be16::from_host(8080),
                server: NO_SERVER,
                timeout_secs: 900,
                state: 1,
                ..BatchItem::default()
            })
            .collect();
        plane.apply(&mut items);
        created += items
            .iter()
            .filter(|i| i.result == BatchResult::Created as u8)
            .count();
    }
    let secs = start.elapsed().as_secs_f64();
    println!(
        "filled: {created} of {count} NAT connections in {secs:.2} s ({:.2} M/s)",
        created as f64 / secs / 1e6
    );
}
