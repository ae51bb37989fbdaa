//! New connections with each scheduler, by the number of servers.

use dataplane::common::verdict::Event;
use dataplane::{DataPlane, Edit, RouteKind};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceKey;

use crate::family;
use crate::lab::director::{
    DR, add_server, add_service, event_count, server_spec, service, spec_of,
};
use crate::lab::packets::{SYN, endpoint, tcp};
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
                add_server(plane, key, &server(number, ipv6), DR, weight(number));
            }
            there = servers;
            for (scheduler, figures) in &mut rows {
                let spec = spec_of(*scheduler, ipv6);
                plane
                    .edit(&Edit::EditService { key, spec })
                    .expect("scheduler");
                plane.pretend_vips_are_local();
                // A server takes no more connections than its weight.
                let room = if *scheduler == Scheduler::Ovf {
                    CLIENTS
                } else {
                    0
                };
                if room > 0 {
                    set_weights(plane, key, servers, room);
                }
                figures.push(measure(plane, ipv6));
                if room > 0 {
                    set_weights(plane, key, servers, 0);
                }
            }
        }
    }
    for (scheduler, figures) in rows {
        let figures = figures.iter().map(u64::to_string).collect::<Vec<_>>();
        println!("| {} | {} |", scheduler.name(), figures.join(" | "));
    }
}

fn server(number: u32, ipv6: bool) -> String {
    let text = format!("10.92.{}.{}:80", number / 200, number % 200 + 1);
    family(&text, ipv6)
}

fn weight(number: u32) -> u32 {
    number % 3 + 1
}

fn set_weights(plane: &mut DataPlane, service: ServiceKey, servers: u32, more: u32) {
    for number in 0..servers {
        let edit = Edit::EditServer {
            service,
            server: endpoint(&server(number, service.is_ipv6())),
            spec: server_spec(DR, weight(number) + more),
        };
        plane.edit(&edit).expect("weight");
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
