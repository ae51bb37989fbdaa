//! The programs load, attach, and balance one connection.

mod lab;

use dataplane::common::verdict::Verdict;
use dataplane::{Edit, RouteKind};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::*;
use lab::packets::*;
use lab::*;

#[test]
fn a_connection_is_masqueraded_both_ways() {
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    let key = ServiceKey::Address {
        protocol: Protocol::Tcp,
        addr: "10.50.0.1:80".parse().unwrap(),
    };
    plane
        .set_routes(&[
            local("10.50.0.1", 32),
            route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
        ])
        .unwrap();
    let spec = ServiceSpec {
        scheduler: Some(Scheduler::Rr),
        flags: ServiceFlags::default(),
        timeout_secs: 0,
        netmask: u32::MAX,
        pe_name: None,
    };
    plane.edit(&Edit::AddService { key, spec }).unwrap();
    let spec = ServerSpec {
        method: ForwardMethod::Masquerading,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let server = "10.200.0.11:8080".parse().unwrap();
    plane
        .edit(&Edit::AddServer {
            service: key,
            server,
            spec,
        })
        .unwrap();
    let run = plane
        .test_run(&tcp("10.100.0.5:40000", "10.50.0.1:80", SYN).frame(), 1, 1)
        .unwrap();
    println!(
        "{run:?} {:?}",
        plane
            .counters()
            .iter()
            .filter(|c| c.1 > 0)
            .collect::<Vec<_>>()
    );
    println!("{:?}", plane.connections(0, 10));
    assert_eq!(run.action, 7);
    assert!(checksums_hold(&run.frame[14..]));
    let run = plane
        .test_run(
            &tcp("10.200.0.11:8080", "10.100.0.5:40000", SYN | ACK).frame(),
            1,
            1,
        )
        .unwrap();
    assert_eq!(run.action, 7);
    assert!(checksums_hold(&run.frame[14..]));
    println!(
        "{run:?} {:?}",
        plane
            .counters()
            .iter()
            .filter(|c| c.1 > 0)
            .collect::<Vec<_>>()
    );
    println!("{:?}", plane.list(None));
    let _ = Verdict::ALL;
}
