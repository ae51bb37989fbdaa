//! What the kernel's daemons do, and what ours do beside it: groups and peers of both families, both
//! roles at once, versions, lengths, and failures that leave nothing behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use ha_manager::sync::{SyncDaemons, SyncOptions};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use syncproto::wire::Version;

use crate::ends::{
    Director, LIMIT, Other, connect, directors, in_namespaces, pair_with, ports, spec,
};
use crate::host::{Host, ip};

/// The addresses of the other host's end of the link, and of this one's.
const THERE: [&str; 2] = ["10.3.0.1", "fd00:3::1"];
const HERE: [&str; 2] = ["10.3.0.2", "fd00:3::2"];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The kernel sends nothing over IPv6 before the link is up and an address has been checked.
fn start_when_possible(other: &Other, spec: SyncSpec) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let spec = spec.clone();
        match other.does(move |master| master.start(SyncRole::Master, &spec)) {
            Ok(()) => return,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn connect_all(other: &Other, clients: std::ops::Range<u16>) {
    let runner = other.does(|master| master.plane().runner().unwrap());
    clients.for_each(|port| connect(&runner, port));
}

#[test]
fn an_ipv6_group_carries_connections_to_the_peer_and_a_restart_finds_it_again() {
    in_namespaces(|| {
        let (mut backup, master) = directors(&SyncOptions::default());
        let of = |interface: &str| SyncSpec {
            group: Some(address("ff02::81")),
            ..spec(interface, 7)
        };
        backup.start(SyncRole::Backup, &of("sync0")).unwrap();
        start_when_possible(&master, of("sync1"));
        connect_all(&master, 20_000..20_300);
        backup.wait("all of them", |entries| entries.len() == 300);
        let (role, listed) = master.does(|master| master.sync.list()).remove(0);
        assert_eq!((role, listed.maxlen), (SyncRole::Master, 1452));
        assert_eq!(listed.group, Some(address("ff02::81")));
        assert_eq!(backup.sync.list()[0].1.maxlen, 1452);
        master.does(Director::die);
        master.does(Director::come_back);
        let resumed = master.does(|master| master.sync.list());
        assert_eq!(resumed, [(SyncRole::Master, listed)], "as it was recorded");
    });
}

#[test]
fn peers_of_either_family_get_what_a_group_would_and_strangers_are_not_heard() {
    in_namespaces(|| {
        for (there, here) in THERE.into_iter().zip(HERE) {
            let of = |peer: &str| SyncOptions {
                peers: vec![address(peer)],
                ..SyncOptions::default()
            };
            let host = Host::new();
            let master = Other::new(&of(here));
            let mut backup = Director::new(host, &of(there));
            backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
            start_when_possible(&master, spec("sync1", 7));
            let status = backup.status(SyncRole::Backup);
            assert_eq!(
                (status.spec.group, status.peers),
                (None, vec![address(there)])
            );
            // A good message of an address that is no peer's.
            let stranger = if address(there).is_ipv4() {
                "10.3.0.99"
            } else {
                "fd00:3::99"
            };
            let to = SocketAddr::new(address(here), 8848);
            master.does(move |_| {
                let nodad = if stranger.contains(':') {
                    "/64 nodad"
                } else {
                    "/24"
                };
                ip(&format!("addr add {stranger}{nodad} dev sync1"));
                let socket = UdpSocket::bind((stranger, 0)).unwrap();
                for _ in 0..3 {
                    socket.send_to(&[0, 7, 0, 8, 0, 1, 0, 0], to).unwrap();
                }
            });
            wait_for(&backup, "drop_not_peer", 3);
            assert_eq!(backup.counter(SyncRole::Backup, "drop_not_peer"), 3);
            let idle = backup.status(SyncRole::Backup).ports[0].idle_ms;
            assert_eq!(idle, None, "no peer has been heard");
            connect_all(&master, 20_000..20_300);
            let entries = backup.wait("all of them", |entries| entries.len() == 300);
            assert_eq!(ports(&entries), (20_000..20_300).collect::<Vec<u16>>());
            assert!(backup.status(SyncRole::Backup).ports[0].idle_ms.is_some());
        }
    });
}

fn wait_for(backup: &Director, name: &str, least: u64) {
    let deadline = Instant::now() + LIMIT;
    while backup.counter(SyncRole::Backup, name) < least {
        assert!(Instant::now() < deadline, "{name}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_peer_that_is_not_there_costs_the_others_nothing() {
    in_namespaces(|| {
        // One has no host at all.
        let of = |peers: &[&str]| SyncOptions {
            peers: peers.iter().map(|peer| address(peer)).collect(),
            ..SyncOptions::default()
        };
        let host = Host::new();
        let mut options = of(&["10.3.0.77", HERE[0]]);
        // What waits for the missing host's answer to ARP fills its socket's buffer at once.
        options.tunables.sock_size = 1;
        let master = Other::new(&options);
        let mut backup = Director::new(host, &of(&[THERE[0]]));
        backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
        start_when_possible(&master, spec("sync1", 7));
        connect_all(&master, 20_000..22_000);
        backup.wait("all of them", |entries| entries.len() == 2000);
        master.wait_sent(2000);
        let sent = master.does(|master| master.counter(SyncRole::Master, "entries"));
        assert_eq!(sent, 2000, "counted once, whoever got it");
        let lost = master.does(|master| master.counter(SyncRole::Master, "drop_send_error"));
        assert!(lost > 0, "the missing peer's own loss is counted");
    });
}

#[test]
fn a_peer_whose_backup_is_stopped_misses_nothing_that_is_sent_once_it_listens_again() {
    in_namespaces(|| {
        let of = |peer: &str| SyncOptions {
            peers: vec![address(peer)],
            ..SyncOptions::default()
        };
        let host = Host::new();
        let master = Other::new(&of(HERE[0]));
        let mut backup = Director::new(host, &of(THERE[0]));
        start_when_possible(&master, spec("sync1", 7));
        // Nobody listens: its host says so, which is counted and harms nothing.
        let deadline = Instant::now() + LIMIT;
        let mut clients = 20_000..30_000;
        while master.does(|master| master.counter(SyncRole::Master, "peer_refused")) == 0 {
            let port = clients.next().unwrap();
            connect_all(&master, port..port + 1);
            assert!(Instant::now() < deadline);
        }
        backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
        // The word that waits at the master's socket does not cost the first message.
        connect_all(&master, 40_000..40_001);
        backup.wait("the first", |entries| ports(entries).contains(&40_000));
        let lost = master.does(|master| master.counter(SyncRole::Master, "drop_send_error"));
        assert_eq!(lost, 0);
    });
}

#[test]
fn the_version_changes_under_load_and_nothing_is_lost() {
    in_namespaces(|| {
        for threads in [1, 4] {
            let mut options = SyncOptions::default();
            options.tunables.ports = threads;
            let (mut backup, master) = pair_with(&options);
            let runner = master.does(|master| master.plane().runner().unwrap());
            let mut version = Version::V1;
            for (nth, port) in (20_000..23_000).enumerate() {
                connect(&runner, port);
                if nth % 100 == 99 {
                    version = match version {
                        Version::V0 => Version::V1,
                        Version::V1 => Version::V0,
                    };
                    master.does(move |master| master.tune(|to| to.version = version));
                }
                backup.apply();
            }
            let entries = backup.wait("all", |entries| entries.len() == 3000);
            assert_eq!(ports(&entries), (20_000..23_000).collect::<Vec<u16>>());
            master.wait_sent(3000);
            let count = |name| master.does(move |m| m.counter(SyncRole::Master, name));
            assert_eq!((count("entries"), count("drop_queue_full")), (3000, 0));
            // Both were sent: an entry of version 0 has 24 bytes, one of version 1 has 36.
            let (entries, messages, bytes) = (3000, count("messages"), count("bytes"));
            let least = entries * 24 + messages * 4;
            let most = entries * 36 + messages * 8;
            assert!(least < bytes && bytes < most, "{least} < {bytes} < {most}");
        }
    });
}

#[test]
fn a_node_is_master_and_backup_at_once_with_different_ids() {
    in_namespaces(|| {
        let (mut here, other) = directors(&SyncOptions::default());
        here.start(SyncRole::Master, &spec("sync0", 1)).unwrap();
        here.start(SyncRole::Backup, &spec("sync0", 2)).unwrap();
        other.does(|there| {
            there.start(SyncRole::Master, &spec("sync1", 2)).unwrap();
            there.start(SyncRole::Backup, &spec("sync1", 1)).unwrap();
        });
        let runner = here.plane().runner().unwrap();
        (20_000..20_100).for_each(|port| connect(&runner, port));
        connect_all(&other, 30_000..30_100);
        let entries = here.wait("both", |entries| entries.len() == 200);
        let expected: Vec<u16> = (20_000..20_100).chain(30_000..30_100).collect();
        assert_eq!(ports(&entries), expected);
        let there = other.does(|there| ports(&there.wait("both", |entries| entries.len() == 200)));
        assert_eq!(there, expected);
        // None heard itself, which would have been told by the id.
        let refused =
            |director: &Director| director.counter(SyncRole::Backup, "refused_message_sync_id");
        assert_eq!(refused(&here), 0);
        assert_eq!(other.does(move |there| refused(there)), 0);
    });
}

#[test]
fn a_backup_with_sync_id_0_hears_every_id() {
    in_namespaces(|| {
        let (mut backup, master) = directors(&SyncOptions::default());
        backup.start(SyncRole::Backup, &spec("sync0", 0)).unwrap();
        for (nth, sync_id) in [0, 1, 255].into_iter().enumerate() {
            master.does(move |master| {
                master
                    .start(SyncRole::Master, &spec("sync1", sync_id))
                    .unwrap();
            });
            let first = 20_000 + 100 * nth as u16;
            connect_all(&master, first..first + 100);
            backup.wait("all of them", |entries| entries.len() == 100 * (nth + 1));
            master.does(|master| master.stop(SyncRole::Master)).unwrap();
        }
    });
}

#[test]
fn messages_have_the_length_that_was_asked_for_within_its_bounds() {
    in_namespaces(|| {
        let (mut backup, master) = directors(&SyncOptions::default());
        let of = |interface: &str, maxlen| SyncSpec {
            maxlen,
            ..spec(interface, 7)
        };
        // Whatever the master sends is heard.
        backup
            .start(SyncRole::Backup, &of("sync0", 65_535))
            .unwrap();
        assert_eq!(backup.sync.list()[0].1.maxlen, 65_507);
        let mut first = 20_000;
        // The least messages for 300 entries of 36 bytes; a message has no more than 255 of them.
        for (maxlen, filled, least) in [(1, 1, 300), (600, 600, 19), (65_535, 65_507, 2)] {
            let spec = of("sync1", maxlen);
            let listed = master.does(move |master| {
                master.start(SyncRole::Master, &spec).unwrap();
                master.sync.list().remove(0).1
            });
            assert_eq!(listed.maxlen, filled);
            connect_all(&master, first..first + 300);
            first += 300;
            let entries = usize::from(first - 20_000);
            backup.wait("all of them", |found| found.len() == entries);
            master.wait_sent(300);
            let messages = master.does(|master| master.counter(SyncRole::Master, "messages"));
            assert!(messages >= least, "{messages} messages of {maxlen} bytes");
            master.does(|master| master.stop(SyncRole::Master)).unwrap();
        }
        backup.stop(SyncRole::Backup).unwrap();
        backup.start(SyncRole::Backup, &of("sync0", 1)).unwrap();
        assert_eq!(backup.sync.list()[0].1.maxlen, 1024);
    });
}

#[test]
fn a_start_that_fails_halfway_leaves_nothing_behind() {
    in_namespaces(|| {
        let mut options = SyncOptions::default();
        options.tunables.ports = 4;
        let (mut here, _other) = directors(&options);
        let any = Ipv4Addr::UNSPECIFIED;
        let taken = UdpSocket::bind((any, 8850)).unwrap();
        let error = here.start(SyncRole::Backup, &spec("sync0", 1)).unwrap_err();
        let SyncError::Socket(reason) = error else {
            panic!("{error}");
        };
        assert!(
            reason.contains("8850") && reason.contains("in use"),
            "{reason}"
        );
        assert_eq!(here.sync.list(), []);
        assert!(
            here.plane()
                .recorded_sync_daemon(SyncRole::Backup)
                .is_none()
        );
        let idle = SyncError::NotRunning(SyncRole::Backup);
        assert_eq!(here.stop(SyncRole::Backup), Err(idle));
        // The ports before and behind it are free again.
        for port in [8848, 8849, 8851] {
            UdpSocket::bind((any, port)).unwrap();
        }
        drop(taken);
        here.start(SyncRole::Backup, &spec("sync0", 1)).unwrap();
        assert_eq!(here.status(SyncRole::Backup).ports.len(), 4);
    });
}

#[test]
fn a_master_that_cannot_reach_its_peers_does_not_start() {
    in_namespaces(|| {
        let host = Host::new();
        let start = |peers: &[&str]| {
            let options = SyncOptions {
                peers: peers.iter().map(|peer| address(peer)).collect(),
                ..SyncOptions::default()
            };
            let mut plane = host.open();
            let mut sync = SyncDaemons::new(options);
            sync.prepare(&mut plane);
            let started = sync.start(&mut plane, SyncRole::Master, &spec("sync0", 1));
            assert!(started.is_err() && sync.list().is_empty());
            assert!(!plane.sync_master(), "nothing is offered to nobody");
            started.unwrap_err()
        };
        // No route to the second.
        let failed = start(&[THERE[1], "2001:db8::7"]);
        assert!(matches!(failed, SyncError::Socket(_)), "{failed}");
        let own = SyncError::Invalid("peer 10.3.0.2 is an address of this host".to_owned());
        assert_eq!(start(&[HERE[0]]), own);
        let unspecified = Ipv6Addr::UNSPECIFIED.to_string();
        assert!(matches!(
            start(&[unspecified.as_str()]),
            SyncError::Invalid(_)
        ));
    });
}
