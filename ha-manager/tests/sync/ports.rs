//! Several ports: each connection keeps to one, and all of them are used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::Runner;
use ha_manager::config::SyncTunables;
use ha_manager::sync::SyncOptions;
use ipvs_model::sync::{SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;
use syncproto::limits::{DEFAULT_GROUP, DEFAULT_PORT};
use syncproto::net::{BackupSocket, NetConfig, RecvBatch, backup_socket};
use syncproto::receiver::Receiver;
use syncproto::wire::WalkConfig;

use crate::ends::{LIMIT, datagram, directors, in_namespaces, pair_with, ports, spec};

/// Every packet of a client is offered.
fn every_packet(ports: u16) -> SyncOptions {
    SyncOptions {
        tunables: SyncTunables {
            threshold: 0,
            period: 1,
            ports,
            ..SyncTunables::default()
        },
        ..SyncOptions::default()
    }
}

fn packet(runner: &Runner, port: u16) {
    runner.run(&datagram(port), 1, 1).unwrap();
}

#[test]
fn what_is_said_of_a_connection_takes_one_port_and_keeps_its_order() {
    const CLIENTS: std::ops::Range<u16> = 20_000..20_400;
    const ROUNDS: u32 = 12;
    in_namespaces(|| {
        for threads in [1, 4, 64] {
            let (_here, master) = directors(&every_packet(threads));
            let sockets: Vec<BackupSocket> = (0..threads).map(listen).collect();
            master
                .does(|master| master.start(SyncRole::Master, &spec("sync1", 7)))
                .unwrap();
            let runner = master.does(|master| master.plane().runner().unwrap());
            for round in 0..ROUNDS {
                // Each packet says by the timeout which one it is.
                master.does(move |master| {
                    let udp_secs = 300 + round;
                    let zero = Timeouts {
                        tcp_secs: 0,
                        tcp_fin_secs: 0,
                        udp_secs,
                    };
                    master.plane().set_timeouts(zero).unwrap();
                });
                CLIENTS.for_each(|port| packet(&runner, port));
            }
            let told = hear(&sockets, CLIENTS.len() * ROUNDS as usize);
            let mut used = BTreeSet::new();
            for port in CLIENTS {
                let said = &told[&port];
                let on: BTreeSet<usize> = said.iter().map(|(on, _)| *on).collect();
                assert_eq!(on.len(), 1, "{port} of {threads} ports: {on:?}");
                used.extend(on);
                let rounds: Vec<u32> = said.iter().map(|(_, secs)| *secs - 300).collect();
                assert_eq!(rounds, (0..ROUNDS).collect::<Vec<u32>>(), "{port}");
            }
            // 400 connections leave hardly one of 64 ports empty.
            let least = usize::from(threads) * 9 / 10;
            assert!(used.len() >= least, "{} of {threads}", used.len());
        }
    });
}

fn listen(thread: u16) -> BackupSocket {
    let config = NetConfig {
        interface: "sync0".to_owned(),
        group: DEFAULT_GROUP.into(),
        peers: Vec::new(),
        port: DEFAULT_PORT + thread,
        ttl: 1,
        sock_size: 1 << 20,
    };
    backup_socket(&config).unwrap()
}

/// For each client's port: on which socket, and with what timeout, in the order of arrival there.
fn hear(sockets: &[BackupSocket], entries: usize) -> BTreeMap<u16, Vec<(usize, u32)>> {
    let mut batch = RecvBatch::new(1472);
    let mut receiver = Receiver::new(WalkConfig::default());
    let mut told: BTreeMap<u16, Vec<(usize, u32)>> = BTreeMap::new();
    let mut heard = 0;
    let deadline = Instant::now() + LIMIT;
    while heard < entries {
        for (at, socket) in sockets.iter().enumerate() {
            let received = batch.recv(socket, |datagram| {
                receiver.receive(datagram.bytes, |conn| {
                    heard += 1;
                    let client = conn.addresses.client().port();
                    told.entry(client)
                        .or_default()
                        .push((at, conn.timeout_secs));
                });
            });
            received.unwrap();
        }
        assert!(Instant::now() < deadline, "{heard} of {entries} entries");
        thread::yield_now();
    }
    told
}

#[test]
fn both_roles_have_a_thread_for_each_port() {
    const CLIENTS: std::ops::Range<u16> = 20_000..20_600;
    in_namespaces(|| {
        for threads in [4, 64] {
            let (mut backup, master) = pair_with(&every_packet(threads));
            for role in ["master", "backup"] {
                (0..threads).for_each(|nth| wait_for_thread(&format!("sync-{role}-{nth}")));
            }
            let runner = master.does(|master| master.plane().runner().unwrap());
            CLIENTS.for_each(|port| packet(&runner, port));
            let entries = backup.wait("all", |entries| entries.len() == CLIENTS.len());
            assert_eq!(ports(&entries), CLIENTS.collect::<Vec<u16>>());
            master.wait_sent(CLIENTS.len() as u64);
            let sent = master.does(|master| master.status(SyncRole::Master));
            let received = backup.status(SyncRole::Backup);
            let all = usize::from(threads);
            assert_eq!((sent.ports.len(), received.ports.len()), (all, all));
            let mut total = 0;
            for (nth, (sent, received)) in sent.ports.iter().zip(&received.ports).enumerate() {
                let count = |counters: &[(&str, u64)], wanted| {
                    let found = counters.iter().find(|(name, _)| *name == wanted);
                    found.unwrap().1
                };
                assert_eq!(sent.port, 8848 + nth as u16);
                assert_eq!(sent.port, received.port);
                for name in ["messages", "entries", "bytes"] {
                    let (out, in_) = (count(&sent.counters, name), count(&received.counters, name));
                    assert_eq!(out, in_, "{name} of port {nth} of {threads}");
                }
                total += count(&sent.counters, "entries");
                let has_sent = count(&sent.counters, "messages") > 0;
                let gauges = [sent.idle_ms, sent.lag_us, received.idle_ms];
                assert_eq!(gauges.map(|gauge| gauge.is_some()), [has_sent; 3]);
            }
            assert_eq!(total, CLIENTS.len() as u64);
            let master_counts = |name| master.does(move |m| m.counter(SyncRole::Master, name));
            assert_eq!(
                (master_counts("offered"), master_counts("entries")),
                (600, 600)
            );
            assert_eq!(backup.counter(SyncRole::Backup, "applied_new"), 600);
        }
    });
}

/// A thread gives itself its name, a moment after it was started.
fn wait_for_thread(name: &str) {
    let deadline = Instant::now() + LIMIT;
    while tasks_named(name).is_empty() {
        assert!(Instant::now() < deadline, "no thread {name}");
        thread::yield_now();
    }
}

/// Of this process.
fn tasks_named(name: &str) -> Vec<PathBuf> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let paths = tasks.filter_map(|task| Some(task.ok()?.path()));
    let has_name = |path: &PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    paths.filter(has_name).collect()
}

#[test]
fn the_number_of_ports_is_fixed_while_any_daemon_runs() {
    in_namespaces(|| {
        let (mut here, _other) = directors(&SyncOptions::default());
        let count = |director: &crate::ends::Director, role| director.status(role).ports.len();
        here.start(SyncRole::Backup, &spec("sync0", 1)).unwrap();
        here.tune(|tunables| tunables.ports = 4);
        here.start(SyncRole::Master, &spec("sync0", 1)).unwrap();
        assert_eq!(count(&here, SyncRole::Backup), 1);
        assert_eq!(
            count(&here, SyncRole::Master),
            1,
            "as the one that ran first"
        );
        here.stop(SyncRole::Backup).unwrap();
        here.start(SyncRole::Backup, &spec("sync0", 1)).unwrap();
        assert_eq!(
            count(&here, SyncRole::Backup),
            1,
            "the master has run all the time"
        );
        for role in SyncRole::ALL {
            here.stop(role).unwrap();
        }
        for role in SyncRole::ALL {
            here.start(role, &spec("sync0", 1)).unwrap();
            assert_eq!(count(&here, role), 4);
        }
    });
}

/// What finds no room waits: in front of the queue, in the dealer, and in the ring.
#[test]
fn the_shortest_queues_of_the_shortest_messages_lose_nothing() {
    const CLIENTS: std::ops::Range<u16> = 20_000..23_000;
    in_namespaces(|| {
        for threads in [1, 4] {
            let options = every_packet(threads);
            let options = SyncOptions {
                tunables: SyncTunables {
                    qlen_max: 1,
                    ..options.tunables
                },
                flush_age: Duration::from_millis(1),
                ..options
            };
            let (mut backup, master) = directors(&options);
            backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
            let short = SyncSpec {
                maxlen: 1,
                ..spec("sync1", 7)
            };
            master
                .does(move |master| master.start(SyncRole::Master, &short))
                .unwrap();
            let runner = master.does(|master| master.plane().runner().unwrap());
            for port in CLIENTS {
                packet(&runner, port);
                backup.apply();
            }
            let counts = move |name| master.does(move |m| m.counter(SyncRole::Master, name));
            let deadline = Instant::now() + LIMIT;
            while counts("entries") < CLIENTS.len() as u64 {
                assert!(Instant::now() < deadline);
                backup.apply();
            }
            assert_eq!(
                counts("messages"),
                CLIENTS.len() as u64,
                "one entry in each"
            );
            assert_eq!((counts("drop_queue_full"), counts("drop_stale")), (0, 0));
            // So many short messages can be more than a socket's buffer: every one is accounted for.
            let deadline = Instant::now() + LIMIT;
            loop {
                backup.apply();
                let [heard, dropped] = ["messages", "drop_socket_full"]
                    .map(|name| backup.counter(SyncRole::Backup, name));
                if heard + dropped == CLIENTS.len() as u64 {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{heard} heard, {dropped} dropped"
                );
            }
        }
    });
}

/// Prints what threads and owner need for an entry, in time of a processor, when there are many: of
/// the way from the ring to the socket, from the socket to the owner, and into the maps. The kernel
/// does the receiving host's part of a virtual link in the sender's time.
#[test]
fn what_an_entry_costs_is_shown() {
    const CLIENTS: std::ops::Range<u16> = 20_000..25_000;
    const ROUNDS: u64 = 10;
    in_namespaces(|| {
        let mut options = every_packet(1);
        // As many as may be, for what arrives while the only processor is taken.
        options.tunables.sock_size = 1 << 20;
        let (mut backup, master) = directors(&options);
        backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
        let runner = master.does(|master| {
            // The ring fills before anybody reads it.
            master.plane().set_sync_master(true);
            master.plane().runner().unwrap()
        });
        for _ in 0..ROUNDS {
            CLIENTS.for_each(|port| packet(&runner, port));
        }
        let before = ["sync-master-0", "sync-backup-0"].map(tasks_named);
        master
            .does(|master| master.start(SyncRole::Master, &spec("sync1", 7)))
            .unwrap();
        // The first offer is thrown away with what an earlier daemon may have left.
        let expected = CLIENTS.len() as u64 * ROUNDS - 1;
        let deadline = Instant::now() + LIMIT;
        let (mut applying, mut applied) = (Duration::ZERO, 0);
        loop {
            let begun = cpu_time();
            backup.apply();
            let took = cpu_time() - begun;
            let names = ["applied_new", "applied_known", "guarded"];
            let sum = names.map(|name| backup.counter(SyncRole::Backup, name));
            let sum = sum.iter().sum::<u64>();
            if sum > applied {
                applying += took;
                applied = sum;
            }
            let offered = master.does(|master| {
                let names = ["offered", "drop_stale"];
                names.map(|name| master.counter(SyncRole::Master, name))
            });
            let heard = backup.counter(SyncRole::Backup, "entries");
            if offered[0] == expected && heard == applied && heard > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{offered:?} sent, {heard} heard");
        }
        let sent = master.does(|master| master.counter(SyncRole::Master, "entries"));
        // Other tests of this process may have such threads too: of those that are new, the busiest.
        let [masters, backups] = before;
        let busiest = |name: &str, but: &[PathBuf]| {
            let tasks = tasks_named(name).into_iter();
            let tasks = tasks.filter(|task| !but.contains(task));
            tasks.filter_map(|task| busy_ns(&task)).max().unwrap_or(0)
        };
        let sending = busiest("sync-master-0", &masters) / sent.max(1);
        println!("sent: {sent} entries, {sending} ns each");
        if let [backup] = backups.as_slice() {
            let receiving = busy_ns(backup).unwrap_or(0) / applied.max(1);
            println!("received: {applied} entries, {receiving} ns each");
        }
        let each = applying.as_nanos() / u128::from(applied.max(1));
        println!("applied: {applied} entries, {each} ns each");
        let dropped = backup.counter(SyncRole::Backup, "drop_socket_full");
        println!("messages dropped at the backup's socket: {dropped}");
    });
}

/// Time a task has had a processor. Unit: nanoseconds.
fn busy_ns(task: &std::path::Path) -> Option<u64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Of the calling thread.
fn cpu_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}
