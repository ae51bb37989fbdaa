//! Edits against real maps, without the programs: needs root.

mod bench;
mod routes;

use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::rules::schedule::table::{EMPTY, MAGLEV_SIZE};
use dataplane_common::service::{CacheKey, CacheRecord, ServerRecord, ServiceRecord, vip};
use dataplane_common::settings::Settings;
use ipvs_model::flags::ServiceFlags;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{EditError, ServerSpec, ServiceKey, ServiceSpec};

use crate::convert::{be, be6};
use crate::mapped::load;
use crate::{Edit, MarkRule, Route, RouteKind, RouterAddress, mark_rules};
use bench::{Bpffs, Plane, add, add_server, at, block, edit_server, place, share, spec, weight};

#[test]
fn every_kind_of_service_outlives_the_daemon() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let keys = [
        at(Protocol::Tcp, "192.0.2.1:21"),
        at(Protocol::Sctp, "[2001:db8::1]:0"),
        ServiceKey::Fwmark {
            mark: 7,
            ipv6: false,
        },
        ServiceKey::Fwmark {
            mark: 7,
            ipv6: true,
        },
        at(Protocol::Udp, "192.0.2.1:53"),
    ];
    for (key, scheduler) in keys.iter().zip(Scheduler::ALL) {
        let spec = ServiceSpec {
            flags: ServiceFlags(ServiceFlags::PERSISTENT | ServiceFlags::ONEPACKET),
            timeout_secs: 360,
            netmask: if key.is_ipv6() { 64 } else { 0xffff_ff00 },
            ..spec(key, *scheduler)
        };
        plane.edit(&Edit::AddService { key: *key, spec }).unwrap();
        let limits = ServerSpec {
            upper_threshold: 9,
            lower_threshold: 3,
            ..weight(5)
        };
        for host in 1..4 {
            let server = if key.is_ipv6() {
                format!("[2001:db8:1::{host}]:80")
            } else {
                format!("10.0.0.{host}:80")
            };
            add_server(&mut plane, *key, &server, limits);
        }
    }
    let rule = MarkRule {
        ipv6: true,
        protocol: Some(Protocol::Tcp),
        destination: Some(("2001:db8::".parse().unwrap(), 32)),
        source: None,
        ports: Some((80, 90)),
        mark: 7,
    };
    mark_rules::set(&mut plane.maps, &[rule; 3]).unwrap();
    mark_rules::set(&mut plane.maps, &[rule; 2]).unwrap();
    let before = plane.given();
    assert_eq!(before.len(), keys.len());
    drop(plane);
    let mut plane = bpffs.open();
    assert_eq!(plane.given(), before);
    assert_eq!(mark_rules::get(&plane.maps), [rule; 2]);
    assert_eq!(plane.counts(), [2, 1, 1]);
    let vip4 = be("192.0.2.1".parse().unwrap()).0;
    let vip6 = be6("2001:db8::1".parse().unwrap());
    assert_eq!(plane.maps.vips4.get(&vip4, 0).unwrap(), 2);
    assert_eq!(plane.maps.vips6.get(&vip6, 0).unwrap(), 1);
    let router = |accept| RouterAddress {
        address: "2001:db8::1".parse().unwrap(),
        accept,
    };
    let not_accepted = |plane: &Plane| plane.maps.settings.read(0).not_accepted;
    for (accept, value) in [
        (true, vip::ROUTER),
        (false, vip::ROUTER | vip::NOT_ACCEPTED),
    ] {
        let Plane { maps, services, .. } = &mut plane;
        services
            .set_router_addresses(maps, vec![router(accept)])
            .unwrap();
        assert_eq!(plane.maps.vips6.get(&vip6, 0).unwrap(), 1 | value);
        assert_eq!(not_accepted(&plane), u32::from(!accept));
    }
    plane.edit(&Edit::Flush).unwrap();
    drop(plane);
    let mut plane = bpffs.open();
    assert_eq!(not_accepted(&plane), 1);
    let value = plane.maps.vips6.get(&vip6, 0).unwrap();
    assert_eq!(value, vip::ROUTER | vip::NOT_ACCEPTED);
    let Plane { maps, services, .. } = &mut plane;
    services.set_router_addresses(maps, vec![]).unwrap();
    assert_eq!(
        (plane.maps.vips6.keys().count(), not_accepted(&plane)),
        (0, 0)
    );
    assert_eq!(plane.maps.vips4.keys().count(), 0);
    assert_eq!(plane.counts(), [0; 3]);
    assert!(plane.given().is_empty());
}

#[test]
fn a_fwmark_service_is_always_for_this_host_and_an_address_when_it_is_local() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let mark = ServiceKey::Fwmark {
        mark: 7,
        ipv6: true,
    };
    let six = at(Protocol::Tcp, "[2001:db8::1]:80");
    add(&mut plane, mark, Scheduler::Rr);
    add(&mut plane, six, Scheduler::Rr);
    let local = |plane: &Plane, key: &ServiceKey| {
        let id = plane.id(key);
        plane.maps.services.read(id).flags & ServiceRecord::VIP_LOCAL != 0
    };
    assert!(local(&plane, &mark) && !local(&plane, &six));
    plane.set_routes(&[Route {
        prefix: "2001:db8::1".parse().unwrap(),
        prefix_len: 128,
        kind: RouteKind::Local,
        ifindex: 1,
        gateway: None,
    }]);
    assert!(local(&plane, &mark) && local(&plane, &six));
}

#[test]
fn a_scheduler_with_a_table_finds_one_behind_the_list_and_the_others_none() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let key = at(Protocol::Tcp, "192.0.2.1:80");
    add(&mut plane, key, Scheduler::Sh);
    assert_eq!(block(&plane, &key), (vec![], vec![]));
    add_server(&mut plane, key, "10.0.0.1:80", weight(1));
    add_server(&mut plane, key, "10.0.0.2:80", weight(3));
    let (servers, slots) = block(&plane, &key);
    assert_eq!(servers[0], place(&plane, &key, "10.0.0.2:80").0);
    assert_eq!((share(&slots, 0), share(&slots, 1)), (192, 64));
    for scheduler in [
        Scheduler::Mh,
        Scheduler::Dh,
        Scheduler::Wrr,
        Scheduler::Mh,
        Scheduler::Rr,
    ] {
        let spec = spec(&key, scheduler);
        plane.edit(&Edit::EditService { key, spec }).unwrap();
        let id = plane.id(&key);
        let record = plane.maps.services.read(id);
        assert_eq!(record.scheduler, scheduler as u8);
        assert_eq!(record.protocol, Protocol::Tcp.number());
        let (servers, slots) = block(&plane, &key);
        assert_eq!(servers.len(), 2);
        let expected = scheduler_slots(scheduler);
        assert_eq!(slots.len(), expected, "{}", scheduler.name());
        assert!(!slots.contains(&EMPTY));
    }
}

fn scheduler_slots(scheduler: Scheduler) -> usize {
    if scheduler == Scheduler::Mh {
        MAGLEV_SIZE as usize
    } else if scheduler == Scheduler::Dh {
        256
    } else {
        0
    }
}

#[test]
fn a_quiesced_server_keeps_its_slots_of_mh() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let key = at(Protocol::Tcp, "[2001:db8::1]:80");
    add(&mut plane, key, Scheduler::Mh);
    let server = "[2001:db8:1::1]:80";
    add_server(&mut plane, key, "[2001:db8:1::2]:80", weight(1));
    add_server(&mut plane, key, server, weight(2));
    let (_, before) = block(&plane, &key);
    assert_eq!(share(&before, 0), 2729);
    edit_server(&mut plane, key, server, weight(0));
    assert_eq!(block(&plane, &key).1, before);
    edit_server(&mut plane, key, server, weight(1));
    assert_ne!(block(&plane, &key).1, before);
    // One that never had a weight gets none.
    let (service, known) = (key, server.parse().unwrap());
    plane
        .edit(&Edit::DeleteServer {
            service,
            server: known,
        })
        .unwrap();
    add_server(&mut plane, key, server, weight(0));
    assert_eq!(share(&block(&plane, &key).1, 0), 0);
}

#[test]
fn mh_takes_as_many_servers_as_it_has_slots() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let key = at(Protocol::Tcp, "192.0.2.1:80");
    add(&mut plane, key, Scheduler::Rr);
    for host in 0..=MAGLEV_SIZE {
        let server = format!("10.1.{}.{}:80", host >> 8, host & 255);
        add_server(&mut plane, key, &server, weight(1));
    }
    let spec = spec(&key, Scheduler::Mh);
    let edit = Edit::EditService { key, spec };
    assert!(matches!(plane.edit(&edit), Err(EditError::Invalid(_))));
    let server = "10.1.0.0:80".parse().unwrap();
    let service = key;
    plane.edit(&Edit::DeleteServer { service, server }).unwrap();
    plane.edit(&edit).unwrap();
    let refused = plane.edit(&Edit::AddServer {
        service,
        server,
        spec: weight(1),
    });
    assert!(refused.is_err());
    assert_eq!(block(&plane, &key).0.len(), MAGLEV_SIZE as usize);
}

#[test]
fn a_server_that_comes_back_has_its_place_whatever_its_service() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    for (key, server) in [
        (at(Protocol::Tcp, "192.0.2.1:80"), "10.0.0.1:80"),
        (at(Protocol::Sctp, "[2001:db8::1]:80"), "[2001:db8:1::1]:80"),
        (
            ServiceKey::Fwmark {
                mark: 9,
                ipv6: true,
            },
            "[2001:db8:1::1]:80",
        ),
        (
            ServiceKey::Fwmark {
                mark: 9,
                ipv6: false,
            },
            "10.0.0.1:0",
        ),
    ] {
        add(&mut plane, key, Scheduler::Rr);
        add_server(&mut plane, key, server, weight(1));
        let before = place(&plane, &key, server);
        plane.edit(&Edit::DeleteService { key }).unwrap();
        let flags = plane.maps.servers.read(before.0).flags;
        assert_eq!(flags, ServerRecord::USED);
        drop(plane);
        plane = bpffs.open();
        add(&mut plane, key, Scheduler::Rr);
        add_server(&mut plane, key, server, weight(1));
        assert_eq!(place(&plane, &key, server), before, "{key}");
    }
}

#[test]
fn thresholds_are_judged_by_the_connections_there_are() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let key = at(Protocol::Tcp, "192.0.2.1:80");
    add(&mut plane, key, Scheduler::Rr);
    let server = "10.0.0.1:80";
    add_server(&mut plane, key, server, weight(1));
    let (slot, _) = place(&plane, &key, server);
    let conns = core::mem::offset_of!(ServerRecord, conns);
    plane.maps.servers.word(slot, conns).store(8, SeqCst);
    let limits = |upper, lower| ServerSpec {
        upper_threshold: upper,
        lower_threshold: lower,
        ..weight(1)
    };
    for (upper, lower, overloaded) in [
        (9, 0, false),
        (8, 0, true),
        (10, 8, true),
        (10, 9, false),
        (8, 8, true),
        (0, 0, false),
    ] {
        edit_server(&mut plane, key, server, limits(upper, lower));
        let views = plane.services.list(&plane.maps, Some(&key)).unwrap();
        let seen = views[0].servers[0].overloaded;
        assert_eq!(seen, overloaded, "{upper} {lower}");
    }
}

#[test]
fn an_ipv6_next_hop_is_written_where_none_is_in_force() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let key = at(Protocol::Tcp, "[2001:db8::1]:80");
    add(&mut plane, key, Scheduler::Rr);
    let server = "[2001:db8:1::1]:80";
    add_server(&mut plane, key, server, weight(1));
    let (slot, _) = place(&plane, &key, server);
    assert_eq!(plane.maps.servers.read(slot).next_hop, 0);
    let mut last = None;
    for gateway in [
        Some("fe80::1"),
        Some("fe80::2"),
        None,
        None,
        Some("fe80::3"),
    ] {
        let route = Route {
            prefix: "2001:db8:1::".parse().unwrap(),
            prefix_len: 48,
            kind: RouteKind::Unicast,
            ifindex: 5,
            gateway: gateway.map(|text| text.parse().unwrap()),
        };
        plane.set_routes(&[route]);
        let record = plane.maps.servers.read(slot);
        let which = (record.next_hop >> 32) as usize;
        assert_eq!(record.next_hop as u32, 5);
        let expected = gateway.unwrap_or("2001:db8:1::1");
        assert_eq!(record.gateways[which], be6(expected.parse().unwrap()));
        if let Some((hop, old)) = last {
            assert_eq!(which == old, hop == gateway, "only a change moves it");
        }
        last = Some((gateway, which));
    }
}

#[test]
fn the_cache_forgets_what_is_of_no_use() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let key = at(Protocol::Tcp, "192.0.2.1:80");
    add(&mut plane, key, Scheduler::Lblc);
    add_server(&mut plane, key, "10.0.0.1:80", weight(1));
    let id = plane.id(&key);
    let generation = plane.maps.services.read(id).generation;
    let cached = core::mem::offset_of!(ServiceRecord, cached);
    let insert = |plane: &mut Plane, service_generation: u32, host: u32, last_use_ns: u64| {
        let key = CacheKey {
            service: id,
            service_generation,
            destination: [dataplane_common::Be32(host); 4],
        };
        let record = CacheRecord {
            last_use_ns,
            ..CacheRecord::default()
        };
        plane.maps.cache.insert(key, record, 0).unwrap();
        plane.maps.services.word(id, cached).fetch_add(1, SeqCst);
    };
    // Of a service that had the place before.
    insert(&mut plane, generation.wrapping_sub(1), 1, u64::MAX);
    plane.maps.services.word(id, cached).fetch_sub(1, SeqCst);
    insert(&mut plane, generation, 2, 0);
    insert(&mut plane, generation, 3, crate::timer_ns());
    let seen = |plane: &Plane| {
        let entries = plane.maps.cache.keys().flatten().count();
        (entries, load(plane.maps.services.word(id, cached)))
    };
    let clean = |plane: &mut Plane| plane.services.clean_caches(&mut plane.maps);
    clean(&mut plane);
    assert_eq!(seen(&plane), (2, 2), "the orphan goes at once");
    let expiration = core::mem::offset_of!(Settings, lblc_expiration_secs);
    plane.maps.settings.half(0, expiration).store(1, SeqCst);
    // The thirtieth check is a full one.
    (2..30).for_each(|_| clean(&mut plane));
    assert_eq!(seen(&plane), (2, 2));
    clean(&mut plane);
    assert_eq!(seen(&plane), (1, 1), "what nobody used goes");
    let spec = spec(&key, Scheduler::Lblcr);
    plane.edit(&Edit::EditService { key, spec }).unwrap();
    assert_eq!(seen(&plane), (0, 0), "another scheduler begins anew");
}
