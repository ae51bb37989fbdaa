//! Every counter counted anew from the entries alone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dataplane::DataPlane;
use dataplane::common::entry::{Conn, ConnWord, NO_CONTROLLER, NO_SERVER, server_conns};
use dataplane::common::key::Address;

/// The low bits of `conn_flags` are the forwarding method; 0 is masquerading.
const METHOD_MASK: u16 = 7;
/// Without a port of its client a connection has no way back.
const NO_CPORT: u16 = 0x800;

/// What is of interest here in an entry of either family.
#[derive(Clone, Copy, Debug)]
pub struct Raw {
    pub index: u32,
    pub word: ConnWord,
    pub template: bool,
    pub method: u16,
    pub has_cport: bool,
    pub server: u32,
    pub server_generation: u32,
    pub controller: u32,
    pub controller_generation: u32,
    pub deadline_ns: u64,
}

fn raw<A: Address>(index: u32, conn: Conn<A>) -> Raw {
    Raw {
        index,
        word: ConnWord(conn.word),
        template: conn.key.is_template(),
        method: conn.conn_flags & METHOD_MASK,
        has_cport: conn.conn_flags & NO_CPORT == 0,
        server: conn.server,
        server_generation: conn.server_generation,
        controller: conn.controller,
        controller_generation: conn.controller_generation,
        deadline_ns: conn.deadline_ns,
    }
}

/// The entries in every place that is taken.
pub fn taken(plane: &DataPlane, ipv6: bool) -> Vec<Raw> {
    let sizes = plane.sizes();
    let all: Box<dyn Iterator<Item = Raw>> = if ipv6 {
        Box::new((0..sizes.connections_v6).map(|index| raw(index, plane.conn6(index))))
    } else {
        Box::new((0..sizes.connections_v4).map(|index| raw(index, plane.conn4(index))))
    };
    all.filter(|one| !one.word.is_free()).collect()
}

/// What a recount found, for a line of output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recount {
    pub taken: usize,
    pub templates: usize,
    pub controlled: usize,
    pub keys: usize,
    pub servers_in_use: usize,
}

/// Active, total and persistent of every server, connections under every template, and the keys in
/// the flow tables.
pub fn recount(plane: &DataPlane) -> Recount {
    let servers = plane.sizes().servers as usize;
    let (mut conns, mut persistent) = (vec![0u64; servers], vec![0u64; servers]);
    let mut found = Recount::default();
    for ipv6 in [false, true] {
        let entries = taken(plane, ipv6);
        let controlled = controlled(&entries);
        for one in &entries {
            found.keys += keys_of(one);
            found.taken += 1;
            found.templates += usize::from(one.template);
            if one.word.is(ConnWord::DEAD) {
                continue;
            }
            if one.controller != NO_CONTROLLER {
                let controller = entries.iter().find(|other| {
                    other.index == one.controller
                        && other.word.generation() == one.controller_generation
                        && !other.word.is(ConnWord::DEAD)
                });
                assert!(controller.is_some(), "{one:?} has lost what controls it");
            }
            let under = controlled.get(&(one.index, one.word.generation()));
            let under = under.copied().unwrap_or(0);
            found.controlled += under as usize;
            assert_eq!(
                one.word.controls(),
                under,
                "connections under {one:?} (IPv6: {ipv6})"
            );
            if one.server == NO_SERVER {
                continue;
            }
            let place = one.server as usize;
            if one.template {
                persistent[place] += 1;
            } else {
                let active = !one.word.is(ConnWord::INACTIVE);
                conns[place] +=
                    server_conns::TOTAL_ONE + u64::from(active) * server_conns::ACTIVE_ONE;
            }
        }
    }
    let pair = |conns: &u64| (server_conns::active(*conns), server_conns::total(*conns));
    let counted: Vec<_> = plane.server_conns().iter().map(pair).collect();
    let recounted: Vec<_> = conns.iter().map(pair).collect();
    assert_eq!(
        counted, recounted,
        "active and total connections by server place"
    );
    assert_eq!(
        plane.server_persistent(),
        persistent,
        "templates by server place"
    );
    assert_eq!(plane.flow_count(), found.keys, "keys in the flow tables");
    found.servers_in_use = conns.iter().filter(|conns| **conns != 0).count();
    found
}

/// Connections under each place and generation.
fn controlled(entries: &[Raw]) -> HashMap<(u32, u32), u32> {
    let mut controlled = HashMap::new();
    for one in entries {
        if one.controller != NO_CONTROLLER && !one.word.is(ConnWord::DEAD) {
            let controller = (one.controller, one.controller_generation);
            *controlled.entry(controller).or_default() += 1;
        }
    }
    controlled
}

/// Elements an entry has in its flow table.
fn keys_of(one: &Raw) -> usize {
    if one.word.is(ConnWord::DETACHED) {
        0
    } else if one.template || one.method != 0 || !one.has_cport {
        1
    } else {
        2
    }
}

/// Ends every connection and every template, whatever their timers, and sees that nothing is left.
pub fn expire_all(plane: &mut DataPlane) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while plane.connection_count().taken() > 0 {
        assert!(
            Instant::now() < deadline,
            "left: {:?} {:?}",
            taken(plane, false),
            taken(plane, true)
        );
        for ipv6 in [false, true] {
            let places: Vec<_> = taken(plane, ipv6)
                .iter()
                .map(|one| (one.index, one.word.generation()))
                .collect();
            plane.expire_now(ipv6, &places);
        }
        while !plane.expire_step(u32::MAX).round_done {}
    }
}

/// OVERLOAD is as the thresholds say, for servers whose connections do not change at the moment.
///
/// Between the lower and the upper threshold it may be either: it is set on the way up and
/// cleared on the way down.
pub fn overload_agrees(plane: &DataPlane) {
    for view in plane.list(None).expect("the list") {
        for (server, counts) in view.service.servers.iter().zip(&view.servers) {
            let spec = server.spec;
            let total = counts.active + counts.inactive;
            let upper = spec.upper_threshold;
            let lower = if spec.lower_threshold == 0 {
                upper - upper / 4
            } else {
                spec.lower_threshold
            };
            let expected = if upper == 0 || total < lower {
                Some(false)
            } else if total >= upper {
                Some(true)
            } else {
                None
            };
            if let Some(expected) = expected {
                assert_eq!(
                    counts.overloaded, expected,
                    "OVERLOAD of {} with {total} connections, thresholds {lower}..{upper}",
                    server.key
                );
            }
        }
    }
}
