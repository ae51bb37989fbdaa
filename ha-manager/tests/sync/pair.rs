//! A master and a backup, each in a network of its own, with a link between them.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::timer_ns;
use ha_manager::sync::SyncOptions;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};

use crate::ends::{Director, LIMIT, Other, SERVER, connect, in_namespaces, pair_with, ports, spec};
use crate::host::{Host, ip};

/// A backup here, a master there.
fn pair(flush_age: Duration) -> (Director, Other) {
    pair_with(&SyncOptions {
        flush_age,
        ..SyncOptions::default()
    })
}

#[test]
fn connections_appear_on_the_peer_within_the_age_of_a_message() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        let mut took = Vec::new();
        for port in 20_000..20_200 {
            connect(&runner, port);
            let begun = Instant::now();
            backup.wait("the connection", |entries| {
                entries.iter().any(|entry| entry.client.port() == port)
            });
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        println!(
            "offered to visible on the peer: p50 {:?}, p99 {:?}, max {:?}",
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            took[took.len() - 1]
        );
        let entries = backup.wait("all of them", |entries| entries.len() == 200);
        assert!(
            entries
                .iter()
                .all(|entry| entry.bound && entry.dest == SERVER.into())
        );
        master.wait_sent(200);
        assert_eq!(
            master.does(|director| director.counter(SyncRole::Master, "entries")),
            200
        );
        assert_eq!(backup.counter(SyncRole::Backup, "applied_new"), 200);
    });
}

#[test]
fn a_master_that_is_stopped_sends_what_it_has_first() {
    in_namespaces(|| {
        // Nothing would be due for two seconds.
        let (mut backup, master) = pair(Duration::from_secs(2));
        let runner = master.does(|director| director.plane().runner().unwrap());
        for port in 20_000..20_100 {
            connect(&runner, port);
        }
        master
            .does(|director| director.stop(SyncRole::Master))
            .unwrap();
        backup.wait("all of them", |entries| entries.len() == 100);
    });
}

#[test]
fn a_backup_that_is_stopped_applies_what_it_has_received() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        for port in 20_000..20_100 {
            connect(&runner, port);
        }
        master
            .does(|director| director.stop(SyncRole::Master))
            .unwrap();
        // Nothing has been applied so far: that is the owner's part, and it has not been asked.
        assert_eq!(backup.plane().connections(0, 1).0, []);
        backup.stop(SyncRole::Backup).unwrap();
        assert_eq!(backup.plane().connections(0, usize::MAX).0.len(), 100);
    });
}

#[test]
fn what_was_due_while_no_daemon_ran_is_offered_by_the_one_that_takes_over() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        connect(&runner, 20_000);
        backup.wait("the first", |entries| entries.len() == 1);
        master.does(Director::die);
        for port in 20_001..20_300 {
            connect(&runner, port);
        }
        master.does(Director::come_back);
        assert_eq!(
            master.does(|director| director.sync.list()).len(),
            1,
            "resumed"
        );
        // What is still in the ring comes by itself, the rest with the walk.
        master.does(Director::walk);
        let entries = backup.wait("all of them", |entries| entries.len() == 300);
        assert_eq!(ports(&entries), (20_000..20_300).collect::<Vec<u16>>());
    });
}

#[test]
fn a_peer_that_missed_everything_is_told_again_after_a_restart() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        backup.stop(SyncRole::Backup).unwrap();
        for port in 20_000..20_050 {
            connect(&runner, port);
        }
        master.does(|director| {
            let deadline = Instant::now() + LIMIT;
            while director.counter(SyncRole::Master, "entries") < 50 {
                assert!(Instant::now() < deadline);
                thread::sleep(Duration::from_micros(200));
            }
        });
        backup.start(SyncRole::Backup, &spec("sync0", 7)).unwrap();
        master.does(Director::die);
        master.does(Director::come_back);
        master.does(Director::walk);
        backup.wait("all of them", |entries| entries.len() == 50);
    });
}

#[test]
fn what_could_not_be_sent_is_offered_again_when_it_can() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        connect(&runner, 20_000);
        backup.wait("the first", |entries| entries.len() == 1);
        master.does(|_| ip("link set sync1 down"));
        for port in 20_001..20_050 {
            connect(&runner, port);
        }
        let deadline = Instant::now() + LIMIT;
        while master.does(|director| director.counter(SyncRole::Master, "drop_send_error")) < 49 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(
            master.does(|director| director.counter(SyncRole::Master, "entries")),
            1
        );
        master.does(|_| ip("link set sync1 up"));
        // As the owner does about once a second.
        for _ in 0..10 {
            master.does(|director| {
                director.sync.tend(director.plane.as_mut().unwrap());
                director.walk();
            });
        }
        backup.wait("all of them", |entries| entries.len() == 50);
    });
}

/// Sends are counted up to an offer that is known to be behind all others.
fn sent_until(backup: &mut Director, master: &Other, port: u16) -> u64 {
    let runner = master.does(|director| director.plane().runner().unwrap());
    let before = master.does(|director| director.counter(SyncRole::Master, "entries"));
    connect(&runner, port);
    backup.wait("the last", |entries| ports(entries).contains(&port));
    master.wait_sent(before + 1);
    master.does(|director| director.counter(SyncRole::Master, "entries"))
}

/// What was offered by now is older than a re-offer goes back.
fn let_pass(span: Duration) {
    let since = timer_ns();
    while Duration::from_nanos(timer_ns() - since) < span {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_loss_has_that_offered_again_which_had_a_packet_since_and_nothing_else() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        // What the start has asked for is over.
        master.does(Director::walk);
        assert_eq!(sent_until(&mut backup, &master, 20_000), 1);
        let_pass(Duration::from_millis(1500));
        master.does(|director| {
            ip("link set sync1 down");
            let runner = director.plane().runner().unwrap();
            connect(&runner, 20_001);
            let deadline = Instant::now() + LIMIT;
            while director.counter(SyncRole::Master, "drop_send_error") == 0 {
                assert!(Instant::now() < deadline);
                thread::sleep(Duration::from_millis(1));
            }
            ip("link set sync1 up");
            director.sync.tend(director.plane.as_mut().unwrap());
            director.walk();
            director.walk();
        });
        backup.wait("what was lost", |entries| ports(entries).contains(&20_001));
        assert_eq!(sent_until(&mut backup, &master, 20_002), 3);
    });
}

#[test]
fn a_daemon_that_is_resumed_tells_of_what_had_a_packet_since_the_last_sign_of_life() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        sent_until(&mut backup, &master, 20_000);
        let_pass(Duration::from_millis(2500));
        master.does(|director| director.sync.tend(director.plane.as_mut().unwrap()));
        sent_until(&mut backup, &master, 20_001);
        master.does(Director::die);
        master.does(Director::come_back);
        master.does(|director| {
            director.walk();
            director.walk();
        });
        let sent = sent_until(&mut backup, &master, 20_002);
        assert_eq!(sent, 2, "the second again, and the third");
        // One that is started has all of them told again.
        master.does(|director| {
            director.stop(SyncRole::Master).unwrap();
            director.start(SyncRole::Master, &spec("sync1", 7)).unwrap();
            director.walk();
            director.walk();
        });
        assert_eq!(sent_until(&mut backup, &master, 20_003), 4);
    });
}

#[test]
fn what_could_not_be_resumed_is_over_with_a_start_or_when_it_is_given_up() {
    in_namespaces(|| {
        for is_started in [true, false] {
            let mut director = Director::new(Host::new(), &SyncOptions::default());
            director.start(SyncRole::Backup, &spec("sync0", 1)).unwrap();
            director.die();
            ip("link set sync0 name away0");
            director.come_back();
            assert_eq!(director.sync.problems().len(), 1);
            ip("link set away0 name sync0");
            let Director { plane, sync, .. } = &mut director;
            let plane = plane.as_mut().unwrap();
            if is_started {
                sync.start(plane, SyncRole::Backup, &spec("sync0", 2))
                    .unwrap();
            } else {
                sync.forget_unresumed(plane);
                assert_eq!(plane.recorded_sync_daemon(SyncRole::Backup), None);
            }
            assert_eq!(sync.problems(), Vec::<String>::new());
            sync.tend(plane);
            assert_eq!(sync.runs(SyncRole::Backup), is_started);
        }
    });
}

#[test]
fn other_sync_ids_are_not_heard_and_counted() {
    in_namespaces(|| {
        let (mut backup, master) = pair(Duration::from_millis(5));
        let runner = master.does(|director| director.plane().runner().unwrap());
        backup.stop(SyncRole::Backup).unwrap();
        backup.start(SyncRole::Backup, &spec("sync0", 8)).unwrap();
        connect(&runner, 20_000);
        let deadline = Instant::now() + LIMIT;
        while backup.counter(SyncRole::Backup, "refused_message_sync_id") == 0 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        backup.stop(SyncRole::Backup).unwrap();
        assert_eq!(backup.plane().connections(0, 1).0, []);
    });
}

#[test]
fn starting_and_stopping_is_refused_as_the_kernel_refuses_it() {
    in_namespaces(|| {
        let host = Host::new();
        let mut director = Director::new(host, &SyncOptions::default());
        let gone = SyncError::NoDevice("gone0".into());
        for role in SyncRole::ALL {
            let idle = SyncError::NotRunning(role);
            assert_eq!(director.stop(role), Err(idle.clone()));
            assert_eq!(director.start(role, &spec("gone0", 1)), Err(gone.clone()));
            director.start(role, &spec("sync0", 1)).unwrap();
            assert_eq!(
                director.start(role, &spec("sync0", 2)),
                Err(SyncError::Running(role))
            );
            // The interface is looked at before the role.
            assert_eq!(director.start(role, &spec("gone0", 1)), Err(gone.clone()));
        }
        let listed = director.sync.list();
        assert_eq!(listed.len(), 2, "both roles at once");
        let (role, filled) = &listed[0];
        assert_eq!(
            (*role, filled.maxlen, filled.port, filled.ttl),
            (SyncRole::Master, 1472, 8848, 1)
        );
        assert_eq!(filled.group.unwrap().to_string(), "224.0.0.81");
        for role in SyncRole::ALL {
            director.stop(role).unwrap();
        }
        let bad = SyncSpec {
            group: Some(Ipv4Addr::new(10, 0, 0, 1).into()),
            ..spec("sync0", 1)
        };
        assert!(matches!(
            director.start(SyncRole::Backup, &bad),
            Err(SyncError::Invalid(_))
        ));
    });
}
