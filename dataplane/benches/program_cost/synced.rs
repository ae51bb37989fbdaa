//! What it costs to apply connections another director tells of: new ones and known ones, with their
//! real servers configured here.

use std::net::SocketAddr;
use std::time::Duration;

use dataplane::{ApplyReport, DataPlane, SyncedConn};
use ipvs_model::flags::ConnFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use nix::time::{ClockId, clock_gettime};

use crate::family;
use crate::lab::director::{DR, NAT, add_server, add_service, service};
use crate::lab::packets::endpoint;
use crate::lab::recount::expire_all;

/// Entries handed over at once: what a batch of full datagrams holds.
const BATCH: usize = 1280;
const SERVERS: u32 = 16;
const CLIENTS_EACH: u32 = 50_000;
const ESTABLISHED: u8 = 1;
/// The best of them counts.
const ROUNDS: u32 = 3;

pub fn measure_all(plane: &mut DataPlane, count: u32) {
    expire_all(plane);
    println!("\n| entries applied, {count} connections | new, ns | known, ns | new/s | known/s |");
    println!("| --- | --- | --- | --- | --- |");
    for (ipv6, method, name) in [
        (false, NAT, "IPv4, masquerading"),
        (false, DR, "IPv4, direct routing"),
        (true, NAT, "IPv6, masquerading"),
    ] {
        let port = if method == NAT { 80 } else { 81 };
        let vip = family(&format!("10.91.0.78:{port}"), ipv6);
        let key = service(Protocol::Tcp, &vip);
        add_service(plane, key, Scheduler::Rr);
        let servers: Vec<String> = (0..SERVERS)
            .map(|at| family(&format!("10.200.1.{}:{port}", at + 1), ipv6))
            .collect();
        for server in &servers {
            add_server(plane, key, server, method, 1);
        }
        let conns: Vec<SyncedConn> = (0..count)
            .map(|number| conn(number, ipv6, &vip, &servers, method))
            .collect();
        let (mut first, mut again) = (Duration::MAX, Duration::MAX);
        for _ in 0..ROUNDS {
            expire_all(plane);
            let (spent, report) = apply(plane, &conns);
            assert_eq!(report.created, u64::from(count), "{report:?}");
            first = first.min(spent);
            for _ in 0..ROUNDS {
                let (spent, report) = apply(plane, &conns);
                assert_eq!(report.updated, u64::from(count), "{report:?}");
                again = again.min(spent);
            }
        }
        let each = |spent: Duration| spent.as_nanos() as f64 / f64::from(count);
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} M | {:.2} M |",
            each(first),
            each(again),
            1000.0 / each(first),
            1000.0 / each(again)
        );
        expire_all(plane);
    }
}

fn apply(plane: &mut DataPlane, conns: &[SyncedConn]) -> (Duration, ApplyReport) {
    let mut sum = ApplyReport::default();
    let start = spent();
    for batch in conns.chunks(BATCH) {
        let report = plane.apply_synced(batch);
        sum.created += report.created;
        sum.updated += report.updated;
    }
    (spent() - start, sum)
}

/// Processor time of this thread: others may be at work here.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    time.into()
}

fn conn(
    number: u32,
    ipv6: bool,
    vip: &str,
    servers: &[String],
    method: ForwardMethod,
) -> SyncedConn {
    let (host, port) = (number / CLIENTS_EACH, number % CLIENTS_EACH + 1024);
    let client = family(&format!("10.100.{host}.1:{port}"), ipv6);
    let server = &servers[number as usize % servers.len()];
    let to: SocketAddr = endpoint(server);
    SyncedConn {
        protocol: 6,
        client: endpoint(&client),
        virt: endpoint(vip),
        dest: to,
        flags: ConnFlags(ConnFlags::SYNC | method as u32),
        state: ESTABLISHED,
        fwmark: 0,
        timeout_secs: 900,
        extra: None,
    }
}
