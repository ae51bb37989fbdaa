//! New connections with each scheduler, by the number of servers.

use dataplane::common::verdict::Event;
use dataplane::{DataPlane, Edit, RouteKind};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;

use crate::family;
use crate::lab::director::{DR, add_server, add_service, event_count, service, spec_of};
use crate::lab::packets::{SYN, tcp};
use crate::lab::recount::expire_all;
use crate::lab::route;

const SERVERS: [u32; 3] = [4, 64, 1024];
/// Connections of one figure.
const CLIENTS: u32 = 2000;
const VIP: &str = "10.91.0.50:80";

pub fn measure_all(plane: &mut DataPlane) {
    let everywhere = ["0.0.0.0", "::"].map(|any| route(any, 0, RouteKind::Unicast, 1, None));
    plane.set_routes(&everywhere).expect("routes");
    println!("\nns a new connection by direct routing, mean of {CLIENTS} clients\n");
    println!("| scheduler | IPv4: 4 servers | 64 | 1024 | IPv6: 4 servers | 64 | 1024 |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut rows: Vec<(Scheduler, Vec<u64>)> = Vec::new();
    rows.extend(Scheduler::ALL.iter().map(|one| (*one, Vec::new())));
    for ipv6 in [false, true] {
        let key = service(Protocol::Tcp, &family(VIP, ipv6));
        add_service(plane, key, Scheduler::Rr);
        let mut there = 0;
        for servers in SERVERS {
            for number in there..servers {
                let text = format!("10.92.{}.{}:80", number / 200, number % 200 + 1);
                let weight = number % 3 + 1;
                add_server(plane, key, &family(&text, ipv6), DR, weight);
            }
            there = servers;
            for (scheduler, figures) in &mut rows {
                let spec = spec_of(*scheduler, ipv6);
                plane
                    .edit(&Edit::EditService { key, spec })
                    .expect("scheduler");
                plane.pretend_vips_are_local();
                figures.push(measure(plane, ipv6));
            }
        }
    }
    for (scheduler, figures) in rows {
        let figures = figures.iter().map(u64::to_string).collect::<Vec<_>>();
        println!("| {} | {} |", scheduler.name(), figures.join(" | "));
    }
}

/// The mean over clients that were not there before.
fn measure(plane: &mut DataPlane, ipv6: bool) -> u64 {
    let runner = plane.runner().expect("a descriptor");
    let made = event_count(plane, Event::Created);
    let vip = family(VIP, ipv6);
    let frames: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = format!("10.93.{}.7:{}", number % 200, 20_000 + number);
            tcp(&family(&client, ipv6), &vip, SYN).frame()
        })
        .collect();
    let mut total = 0;
    for frame in &frames {
        let run = runner.run(frame, 1, 1).expect("the program runs");
        total += u64::from(run.duration_ns);
    }
    let made = event_count(plane, Event::Created) - made;
    assert_eq!(made, u64::from(CLIENTS), "every client gets a connection");
    expire_all(plane);
    total / u64::from(CLIENTS)
}
