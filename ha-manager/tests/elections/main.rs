//! Election threads on both ends of a veth pair, each end in a namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use ha_manager::vrrp_driver::{ElectionRole, start};
use host::{
    ALIVE, FIRST, Host, LIMIT, Member, ORDINARY, PULSE_MAX, SECOND, VIP, pair, parameters, spec,
    wait_for,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use vrrp::net::socket::{AdvertSocket, BUFFER_LEN, Place, Queue};
use vrrp::wire::{Advert, GROUP, Identification, PROTOCOL};
use vrrp::{Interval, Parameters, Priority};

mod clock;
mod groups;
mod host;

/// A pair with its master and backup, which know each other.
fn elected(advert_ms: u32) -> (Host, Host, Member, Member) {
    let (a, b) = pair();
    let first = a.elect(parameters(150, advert_ms));
    let second = b.elect(parameters(100, advert_ms));
    first.becomes(ElectionRole::Master);
    wait_for("known master", || {
        second.view().master == Some((FIRST, 150))
    });
    assert_eq!(second.view().role, ElectionRole::Backup);
    (a, b, first, second)
}

#[test]
fn a_backup_takes_over_from_a_master_that_is_gone_and_yields_when_it_is_back() {
    let (a, _b, first, second) = elected(100);
    assert_eq!(first.view().master, None);
    let gone_at = Instant::now();
    drop(first);
    let waited = second.becomes(ElectionRole::Master) - gone_at;
    // Master-down from the last advertisement, which is up to an interval old.
    assert!(waited >= Duration::from_millis(250), "{waited:?}");
    assert_eq!(second.counter("priority_zero_received"), 0);
    let first = a.elect(parameters(150, 100));
    first.becomes(ElectionRole::Master);
    second.becomes(ElectionRole::Backup);
    assert_eq!(second.counter("became_master"), 1);
    assert_eq!(first.counter("send_errors"), 0);
}

#[test]
fn a_stopped_master_says_so_twice_and_is_followed_after_the_skew() {
    let (_a, _b, first, second) = elected(1000);
    let stopped_at = Instant::now();
    first.elections.stop();
    let waited = second.becomes(ElectionRole::Master) - stopped_at;
    // 609 ms of skew; without the word it would be at least 2.6 s.
    let bounds = Duration::from_millis(600)..Duration::from_millis(2500);
    assert!(bounds.contains(&waited), "{waited:?}");
    assert_eq!(second.counter("priority_zero_received"), 2);
}

#[test]
fn a_fault_hands_over_and_its_end_brings_the_better_one_back() {
    let (_a, _b, first, second) = elected(100);
    let reason = "interface eth1 has no carrier";
    first.elections.set_fault(0, Some(reason.to_owned()));
    first.fails_with(reason);
    second.becomes(ElectionRole::Master);
    assert_eq!(first.counter("priority_zero_sent"), 2);
    first.elections.set_fault(0, None);
    first.becomes(ElectionRole::Master);
    second.becomes(ElectionRole::Backup);
    assert_eq!(first.view().fault, None);
    // Backup, master, fault, backup, master; and a fault at first if the thread was quick.
    assert!((5..=6).contains(&first.view().transitions));
    let status = first.status();
    assert_eq!(
        (status.name.as_str(), status.interface.as_str()),
        ("VI_1", "dir0")
    );
    assert_eq!(
        (status.vrid, status.priority, status.effective_priority),
        (51, 150, 150)
    );
    assert!(status.since < LIMIT);
}

#[test]
fn nobody_is_advertised_for_who_gives_no_sign_of_life() {
    let (_a, _b, first, second) = elected(100);
    first.pulse.store(0, Ordering::Relaxed);
    first.fails_with("the owner of the data plane gives no sign of life");
    second.becomes(ElectionRole::Master);
    first.pulse.store(ALIVE, Ordering::Relaxed);
    first.becomes(ElectionRole::Master);
    second.becomes(ElectionRole::Backup);
}

/// An advertisement of many addresses does not fit the smallest interface; nothing else is wrong
/// with that.
#[test]
fn a_master_that_cannot_send_is_none_until_it_can() {
    let (a, b) = pair();
    let many = |priority| Parameters {
        addresses: (1..=30)
            .map(|last| IpAddr::from([10, 78, 1, last]))
            .collect(),
        ..parameters(priority, 100)
    };
    let first = a.elect(many(150));
    first.becomes(ElectionRole::Master);
    a.ip("link set dir0 mtu 68");
    let reason = "adverts cannot be sent on dir0: Message too long (os error 90)";
    first.fails_with(reason);
    // Since three intervals; then what a master says when it gives up.
    assert!(first.counter("send_errors") >= 6);
    // It is tried again, and mastership that cannot be told to anybody is not shown.
    let (reopened, became) = (
        first.counter("sockets_reopened"),
        first.counter("became_master"),
    );
    let views = first.elections.changes();
    wait_for("two more tries", || {
        assert_ne!(views.borrow()[0].role, ElectionRole::Master);
        first.counter("sockets_reopened") >= reopened + 2 && first.counter("became_master") > became
    });
    a.ip("link set dir0 mtu 1500");
    first.becomes(ElectionRole::Master);
    assert_eq!(first.view().fault, None);
    drop(b);
}

#[test]
fn a_question_is_answered_with_a_view_of_after_it() {
    let (_a, _b, first, _second) = elected(100);
    assert_eq!(first.view().answered, 0);
    let (one, two) = (first.elections.ask(), first.elections.ask());
    assert_eq!((one, two), (1, 2));
    wait_for("the answer", || first.view().answered == two);
    assert_eq!(first.view().role, ElectionRole::Master);
}

#[test]
fn a_router_that_has_resigned_does_not_come_back() {
    let (_a, _b, first, second) = elected(100);
    first.elections.resign();
    first.becomes(ElectionRole::Init);
    second.becomes(ElectionRole::Master);
    let transitions = first.view().transitions;
    first.elections.set_fault(0, Some("bad".to_owned()));
    first.elections.set_fault(0, None);
    // The thread goes on: it counts what it hears and does not take part.
    wait_for("advertisements", || {
        first.counter("refused_not_running") > 5
    });
    assert_eq!(first.view().role, ElectionRole::Init);
    assert_eq!(first.view().transitions, transitions);
    first.elections.stop();
    assert_eq!(second.counter("priority_zero_received"), 2);
}

#[test]
fn two_masters_find_each_other_and_the_addresses_are_announced_again() {
    let (a, b) = pair();
    b.ip("link set dir0 down");
    let first = a.elect(parameters(150, 100));
    let second = b.elect(parameters(100, 100));
    second.fails_with("interface dir0 is down");
    // The other side has no carrier and does not care.
    first.becomes(ElectionRole::Master);
    b.ip("link set dir0 up");
    second.becomes(ElectionRole::Backup);
    // What another master would send.
    let worse = Advert {
        vrid: 51,
        priority: Priority(100),
        interval: Interval::from_centis(10).unwrap(),
        addresses: &[VIP],
    };
    let packet = worse.to_packet(v4(SECOND), Identification::FIRST);
    let before = first.counter("adverts_sent");
    b.run(move || raw().send_to(&packet, &group()).unwrap());
    wait_for("its word", || first.view().rx_lower == 1);
    assert_eq!(first.view().rival, Some((SECOND, 100)));
    assert_eq!(first.view().announce, 0);
    assert_eq!(first.counter("other_master"), 1);
    wait_for("answer", || first.counter("adverts_sent") > before);
    assert_eq!(first.view().role, ElectionRole::Master);
}

#[test]
fn an_interface_may_go_and_come_back_as_another() {
    let a = Host::new();
    let first = a.elect(parameters(150, 50));
    first.fails_with("interface dir0 is gone");
    for round in 1..=2 {
        a.ip("link add dir0 type veth peer name far0");
        a.ip("link set far0 up");
        a.ip("link set dir0 up");
        first.fails_with("interface dir0 has no IPv4 address");
        a.ip("addr add 10.78.0.1/24 dev dir0");
        first.becomes(ElectionRole::Master);
        wait_for("advertisements", || {
            first.counter("adverts_sent") > round * 10
        });
        a.ip("link del dir0");
        first.fails_with("interface dir0 is gone");
    }
    assert!(first.counter("sockets_reopened") >= 2);
    assert!(first.counter("send_errors") > 0);
}

#[test]
fn a_virtual_address_is_no_source() {
    let a = Host::new();
    a.ip("link add dir0 type veth peer name far0");
    a.ip("link set far0 up");
    a.ip("link set dir0 up");
    a.ip("addr add 10.78.0.100/32 dev dir0");
    let first = a.elect(parameters(150, 50));
    first.fails_with("interface dir0 has no address but the virtual ones");
    let owner = a.elect(parameters(255, 50));
    owner.becomes(ElectionRole::Master);
}

#[test]
fn the_packets_are_those_of_the_encoder() {
    let (a, b) = pair();
    let config = spec(parameters(100, 50)).config;
    let place = Place {
        interface: "dir0",
        send_on: None,
        source: None,
        neighbours: &[],
    };
    let capture = b.run(move || AdvertSocket::open(&place, &config).unwrap());
    let first = a.elect(parameters(150, 50));
    let mut identification = Identification::FIRST;
    let advert = Advert {
        vrid: 51,
        priority: Priority(150),
        interval: Interval::from_centis(5).unwrap(),
        addresses: &[VIP],
    };
    for _ in 0..5 {
        let mut buffer = [0; BUFFER_LEN];
        let mut received = None;
        wait_for("packet", || {
            received = capture.receive(Queue::Election, &mut buffer).unwrap();
            received.is_some()
        });
        let len = received.unwrap().len;
        let expected = advert.to_packet(v4(FIRST), identification);
        assert_eq!(buffer[..len], expected);
        identification = identification.next();
    }
    first.elections.stop();
}

#[test]
fn a_flood_is_counted_and_changes_no_role() {
    const PACKETS: u32 = 120_000;
    let (a, b, first, second) = elected(200);
    let transitions = [&first, &second].map(|member| member.view().transitions);
    let floods = [(&a, FIRST), (&b, SECOND)].map(|(host, from)| {
        let (tell, done) = mpsc::channel();
        let flood = move || tell.send(flood(v4(from), PACKETS)).unwrap();
        host.orders.send(Box::new(flood)).unwrap();
        done
    });
    let sent = floods.map(|done| done.recv_timeout(LIMIT).unwrap());
    for (member, sent) in [(&first, sent[1]), (&second, sent[0])] {
        let counters = |prefix: &str| -> u64 {
            let counters = member.status().counters.into_iter();
            let wanted = counters.filter(|(name, _)| name.starts_with(prefix));
            wanted.map(|(_, count)| count).sum()
        };
        // Losses are told with the next packet that is queued: the advertisements that go on.
        wait_for("end of the flood", || {
            counters("refused_") + counters("lost_") + 1000 >= u64::from(sent)
        });
        for reason in [
            "short",
            "unknown_vrid",
            "length",
            "ttl",
            "version",
            "checksum",
        ] {
            let name = format!("refused_{reason}");
            assert!(member.counter(&name) > 0, "{name}");
        }
    }
    // As many advertisements as before, and nobody has moved.
    let heard = second.counter("adverts_received");
    wait_for("advertisements", || {
        second.counter("adverts_received") > heard + 5
    });
    assert_eq!(first.view().role, ElectionRole::Master);
    assert_eq!(second.view().role, ElectionRole::Backup);
    let after = [&first, &second].map(|member| member.view().transitions);
    assert_eq!(transitions, after);
}

#[test]
fn without_the_capability_it_does_not_start() {
    let a = Host::new();
    a.ip("link add dir0 type veth peer name far0");
    a.ip("addr add 10.78.0.1/24 dev dir0");
    a.ip("link set far0 up");
    a.ip("link set dir0 up");
    let error = a.run(|| {
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_RAW).unwrap();
        let pulse = Arc::new(AtomicU64::new(ALIVE));
        let specs = vec![spec(parameters(100, 100))];
        start(specs, Vec::new(), ORDINARY, pulse, PULSE_MAX).unwrap_err()
    });
    let expected = "no socket for VI_1 on dir0: Operation not permitted (os error 1)";
    assert_eq!(error.to_string(), expected);
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    }
}

/// Sends packets of the protocol that are wrong in one way or another; how many went out.
fn flood(from: Ipv4Addr, packets: u32) -> u32 {
    let advert = Advert {
        vrid: 51,
        priority: Priority(0),
        interval: Interval::DEFAULT,
        addresses: &[VIP],
    };
    let whole = advert.to_packet(from, Identification::FIRST);
    let (socket, group) = (raw(), group());
    let mut random = 1_u64;
    let mut sent = 0;
    for number in 0..packets {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let noise = random.to_be_bytes();
        let mut packet = whole.clone();
        match number % 8 {
            0 => packet.truncate(20 + number as usize % 8),
            1 => packet[21] = 52,
            2 => packet.push(noise[0]),
            3 => packet[8] = 64,
            4 => {
                packet[20] = 0x21;
                packet.extend([0; 8]);
            }
            // Looks like the master's in everything but the sum.
            5 => packet[26] ^= 1 | noise[0],
            6 => packet[20..28].copy_from_slice(&noise),
            _ => packet.extend(noise.repeat(100)),
        }
        sent += u32::from(socket.send_to(&packet, &group).is_ok());
    }
    sent
}

fn raw() -> Socket {
    let protocol = Protocol::from(i32::from(PROTOCOL));
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).unwrap();
    socket.set_header_included_v4(true).unwrap();
    socket.bind_device(Some(b"dir0")).unwrap();
    socket
}

fn group() -> SockAddr {
    SockAddr::from(SocketAddrV4::new(GROUP, 0))
}
