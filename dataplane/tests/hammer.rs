//! Two processors send packets of the same flows from both ends, while a third hand edits
//! services, applies entries and expires them. Afterwards every counter equals a recount.
//!
//! `TANDEM_HAMMER_PACKETS` (per generator) and `TANDEM_HAMMER_SEED` change a run; the seed is
//! printed.

#![allow(clippy::print_stdout, reason = "figures of a run")]

mod lab;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::common::batch::{BatchItem, BatchResult};
use dataplane::common::entry::{ConnWord, NO_SERVER, server_conns};
use dataplane::common::key::{Be16, Be32, FlowKey4};
use dataplane::common::{TcpState, rules::transition::is_expired};
use dataplane::{DataPlane, Edit, RouteKind, Runner, Tunable, timer_ns};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceKey;
use lab::director::{server_spec, spec};
use lab::packets::{ACK, FIN, RST, SYN, tcp, udp};
use lab::{Lab, local, route};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const FLOWS: u64 = 48;
const SERVERS: [&str; 4] = [
    "10.200.0.11:8080",
    "10.200.0.12:8080",
    "10.200.0.13:8080",
    "10.200.0.14:80",
];
const SERVICES: [(Protocol, &str, ForwardMethod, Scheduler); 4] = [
    (
        Protocol::Tcp,
        "10.50.0.1:80",
        ForwardMethod::Masquerading,
        Scheduler::Rr,
    ),
    (
        Protocol::Tcp,
        "10.50.0.2:80",
        ForwardMethod::DirectRouting,
        Scheduler::Wlc,
    ),
    (
        Protocol::Udp,
        "10.50.0.1:53",
        ForwardMethod::Masquerading,
        Scheduler::Wrr,
    ),
    (
        Protocol::Tcp,
        "10.50.0.3:80",
        ForwardMethod::Masquerading,
        Scheduler::Wlc,
    ),
];

#[test]
fn counters_equal_a_recount_after_packets_edits_applied_entries_and_expiry_at_once() {
    let packets: u64 = setting("TANDEM_HAMMER_PACKETS").unwrap_or(600_000);
    let seed = setting("TANDEM_HAMMER_SEED").unwrap_or_else(|| timer_ns() | 1);
    println!("hammer: seed {seed}, {packets} packets from each of two generators");
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    set_up(&mut plane);

    let running = AtomicBool::new(true);
    let sent = AtomicU64::new(0);
    let done = std::thread::scope(|scope| {
        for processor in 0..2 {
            let runner = plane.runner().expect("a descriptor");
            let (sent, running) = (&sent, &running);
            scope.spawn(move || generate(&runner, processor, running, seed, sent));
        }
        let done = meddle(&mut plane, &sent, 2 * packets, seed);
        running.store(false, Ordering::SeqCst);
        done
    });
    println!("hammer: {} packets, {done:?}", sent.load(Ordering::SeqCst));
    let counters: Vec<_> = plane
        .counters()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    println!("hammer: {counters:?}");
    assert!(sent.load(Ordering::SeqCst) >= 2 * packets);

    recount(&plane);
    let counter = |name: &str| {
        plane
            .counters()
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, count)| *count)
    };
    assert_eq!(counter("drop_internal"), 0);
    assert!(
        counter("conn_created") > 1000,
        "the run must make connections"
    );
    everything_expires(&mut plane);
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// What the meddling hand did.
#[derive(Debug, Default)]
struct Done {
    edits: u64,
    applied: u64,
    expired: u64,
    swept: u64,
    offered: u64,
}

impl Done {
    fn is_enough(&self) -> bool {
        self.edits > 100
            && self.applied > 1000
            && self.expired > 100
            && self.swept > 100
            && self.offered > 100
    }
}

fn set_up(plane: &mut DataPlane) {
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.50.0.0", 16), everywhere])
        .expect("routes");
    plane.set_tunable(Tunable::ApplyGuardSecs, 0);
    plane.set_sync_master(true);
    for state in TcpState::ALL {
        plane.set_tcp_timeout(state, 1);
    }
    let second = ipvs_model::timeouts::Timeouts {
        tcp_secs: 1,
        tcp_fin_secs: 1,
        udp_secs: 1,
    };
    plane.set_timeouts(second).expect("timeouts");
    for (protocol, addr, method, scheduler) in SERVICES {
        let service = key(protocol, addr);
        plane
            .edit(&Edit::AddService {
                key: service,
                spec: spec(scheduler),
            })
            .expect("service");
        for server in SERVERS {
            let server = server_of(server, addr, method);
            let edit = Edit::AddServer {
                service,
                server,
                spec: server_spec(method, 1),
            };
            plane.edit(&edit).expect("server");
        }
    }
}

fn key(protocol: Protocol, addr: &str) -> ServiceKey {
    ServiceKey::Address {
        protocol,
        addr: addr.parse().expect("an address"),
    }
}

/// Direct routing keeps the service's port. The fourth service shares servers with the first, so
/// ways back collide.
fn server_of(server: &str, service: &str, method: ForwardMethod) -> SocketAddr {
    let mut addr: SocketAddr = server.parse().expect("an address");
    if method == ForwardMethod::DirectRouting {
        addr.set_port(service.parse::<SocketAddr>().expect("an address").port());
    }
    addr
}

/// xorshift64*, so that a printed seed repeats the choices.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Sends from clients on one processor, from servers on the other, over the same flows.
fn generate(runner: &Runner, processor: usize, running: &AtomicBool, seed: u64, sent: &AtomicU64) {
    let mut cpus = CpuSet::new();
    cpus.set(processor).expect("a processor");
    // With one processor the two generators still interleave.
    let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
    let frames = if processor == 0 {
        client_frames()
    } else {
        server_frames()
    };
    let mut random = Random(seed.wrapping_add(processor as u64 * 0x9e37_79b9) | 1);
    while running.load(Ordering::Relaxed) {
        let at = random.below(frames.len() as u64) as usize;
        runner.run(&frames[at], 1, 1).expect("the program runs");
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

fn client_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for flow in 0..FLOWS {
        let client = format!("10.100.0.{}:{}", flow % 8 + 1, 40_000 + flow);
        for (protocol, addr, _, _) in SERVICES {
            if protocol == Protocol::Udp {
                frames.push(udp(&client, addr).frame());
                continue;
            }
            for flags in [SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST] {
                frames.push(tcp(&client, addr, flags).frame());
            }
        }
    }
    frames
}

fn server_frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for flow in 0..FLOWS {
        let client = format!("10.100.0.{}:{}", flow % 8 + 1, 40_000 + flow);
        for server in SERVERS {
            for flags in [SYN | ACK, ACK, ACK, FIN | ACK, RST] {
                frames.push(tcp(server, &client, flags).frame());
            }
            frames.push(udp(server, &client).frame());
        }
        // New connections from this processor too.
        frames.push(tcp(&client, "10.50.0.1:80", SYN).frame());
        frames.push(tcp(&client, "10.50.0.2:80", SYN).frame());
    }
    frames
}

/// Edits, applies and expires until enough packets were sent and enough of each was done.
fn meddle(plane: &mut DataPlane, sent: &AtomicU64, packets: u64, seed: u64) -> Done {
    let mut random = Random(seed.rotate_left(17) | 1);
    let mut done = Done::default();
    let mut offers = plane.offers().expect("the ring of offers");
    let deadline = Instant::now() + Duration::from_secs(120);
    while sent.load(Ordering::SeqCst) < packets || !done.is_enough() {
        assert!(
            Instant::now() < deadline,
            "after {} packets: {done:?}",
            sent.load(Ordering::SeqCst)
        );
        match random.below(8) {
            0 => done.edits += u64::from(edit(plane, &mut random)),
            1 | 2 => done.applied += apply(plane, &mut random),
            3 => {
                let places: Vec<(u32, u32)> = (0..16)
                    .map(|_| random.below(1024) as u32)
                    .map(|index| (index, ConnWord(plane.conn4(index).word).generation()))
                    .collect();
                done.expired += plane.expire_now(&places) as u64;
            }
            4 => {
                // Rarely enough that the ring is full at times, and entries are marked.
                while offers.next_offer().is_some() {
                    done.offered += 1;
                }
                if random.below(64) == 0 {
                    plane.offer_all_again();
                }
            }
            _ => {
                let report = plane.expire_step(1024);
                done.expired += u64::from(report.expired);
                done.swept += u64::from(report.swept);
            }
        }
    }
    done
}

fn edit(plane: &mut DataPlane, random: &mut Random) -> bool {
    let (protocol, addr, method, scheduler) = SERVICES[random.below(4) as usize];
    let service = key(protocol, addr);
    let server = server_of(SERVERS[random.below(4) as usize], addr, method);
    let edit = match random.below(6) {
        0 => Edit::DeleteServer { service, server },
        1 | 2 => {
            let spec = server_spec(method, random.below(4) as u32);
            Edit::AddServer {
                service,
                server,
                spec,
            }
        }
        3 => {
            let spec = server_spec(method, random.below(4) as u32);
            Edit::EditServer {
                service,
                server,
                spec,
            }
        }
        4 if random.below(8) == 0 => Edit::DeleteService { key: service },
        _ => Edit::AddService {
            key: service,
            spec: spec(scheduler),
        },
    };
    // An edit may be refused (there already, not there); it changes nothing then.
    plane.edit(&edit).is_ok()
}

/// A batch of entries as another director would send them, for the flows of the generators.
fn apply(plane: &mut DataPlane, random: &mut Random) -> u64 {
    let mut items = Vec::new();
    for _ in 0..32 {
        let (protocol, addr, method, _) = SERVICES[random.below(4) as usize];
        let server = server_of(SERVERS[random.below(4) as usize], addr, method);
        let service = key(protocol, addr);
        let (slot, generation) = plane
            .server_slot(&service, server)
            .unwrap_or((NO_SERVER, 0));
        // Most flows are the generators' own; the others see no packet and run out by themselves.
        let flow = random.below(2 * FLOWS);
        let be = |addr: SocketAddr| match addr {
            SocketAddr::V4(addr) => (
                Be32::from_host(u32::from(*addr.ip())),
                Be16::from_host(addr.port()),
            ),
            SocketAddr::V6(_) => (Be32(0), Be16(0)),
        };
        let client = format!("10.100.0.{}:{}", flow % 8 + 1, 40_000 + flow);
        let (caddr, cport) = be(client.parse().expect("an address"));
        let (vaddr, vport) = be(addr.parse().expect("an address"));
        let (daddr, dport) = be(server);
        let state = if protocol == Protocol::Udp {
            0
        } else {
            random.below(8) as u8
        };
        let active = TcpState::from_number(state).is_some_and(TcpState::is_active);
        items.push(BatchItem {
            key: FlowKey4::flow(caddr, cport, vaddr, vport, protocol.number()),
            daddr,
            dport,
            conn_flags: method as u16,
            server: slot,
            server_generation: generation,
            timeout_secs: 1,
            state,
            inactive: u8::from(protocol == Protocol::Udp || !active),
            ..BatchItem::default()
        });
    }
    plane.apply(&mut items);
    let applied = |item: &&BatchItem| {
        matches!(
            BatchResult::from_number(item.result),
            Some(BatchResult::Created | BatchResult::Updated)
        )
    };
    items.iter().filter(applied).count() as u64
}

/// Active and total of every server, and the keys in the flow table, from the entries alone.
fn recount(plane: &DataPlane) {
    let mut conns: BTreeMap<u32, u64> = BTreeMap::new();
    let (mut keys, mut taken) = (0, 0);
    for index in 0..plane.sizes().connections_v4 {
        let conn = plane.conn4(index);
        let word = ConnWord(conn.word);
        if word.is_free() {
            continue;
        }
        taken += 1;
        assert!(
            !word.is(ConnWord::INIT | ConnWord::GONE),
            "place {index} was left half made"
        );
        keys += if conn.conn_flags & 7 == 0 { 2 } else { 1 };
        if word.is(ConnWord::DEAD) || conn.server == NO_SERVER {
            continue;
        }
        let active = if word.is(ConnWord::INACTIVE) {
            0
        } else {
            server_conns::ACTIVE_ONE
        };
        *conns.entry(conn.server).or_default() += server_conns::TOTAL_ONE + active;
    }
    println!(
        "hammer: {taken} places taken, {keys} keys, {} servers in use",
        conns.len()
    );
    for (slot, counted) in (0..).zip(plane.server_conns()) {
        let found = conns.get(&slot).copied().unwrap_or(0);
        let pair = |conns| (server_conns::active(conns), server_conns::total(conns));
        assert_eq!(
            pair(counted),
            pair(found),
            "active and total of server {slot}"
        );
    }
    assert_eq!(plane.flow_count(), keys, "keys in the flow table");
}

/// One second after the last packet the walk leaves nothing behind.
fn everything_expires(plane: &mut DataPlane) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now_ns = timer_ns();
        plane.expire_step(256);
        let overdue = (0..plane.sizes().connections_v4)
            .map(|index| plane.conn4(index))
            .filter(|conn| !ConnWord(conn.word).is_free())
            .filter(|conn| is_expired(conn.deadline_ns + 3_000_000_000, now_ns))
            .count();
        assert_eq!(
            overdue, 0,
            "entries that outlived their timer by three seconds"
        );
        if plane.connection_count().taken == 0 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{:?} left",
            plane.connection_count()
        );
    }
    recount(plane);
    assert_eq!(plane.flow_count(), 0);
    assert!(plane.server_conns().iter().all(|conns| *conns == 0));
}
