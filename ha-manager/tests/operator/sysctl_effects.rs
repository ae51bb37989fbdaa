//! `directord sysctl`: that a change has its effect when the kernel's would. What a kernel's sync daemons
//! do with `sync_ports` was watched in version 6.1.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::net::UdpSocket;
use std::process::Command;

use crate::host::{Daemon, Host, Neighbour, VIP, ended, ip, wait_for};
use crate::sysctl::{set, value};
use crate::wire::Wire;

const MASTER: &str = "--start-daemon master --mcast-interface lan0 --syncid 7";
const BACKUP: &str = "--start-daemon backup --mcast-interface lan0 --syncid 7";

/// A director with a service that has one server, both behind the other end of the link, where somebody
/// listens to its sync messages.
struct Stage {
    host: Host,
    daemon: Daemon,
    wire: Wire,
    heard: Heard,
    _neighbour: Neighbour,
}

/// Entries in the sync messages that have arrived, by version.
struct Heard {
    socket: UdpSocket,
    entries: [u32; 2],
}

#[test]
fn a_threshold_counts_from_the_next_packet_on() {
    let mut stage = Stage::new("");
    stage.host.admin(MASTER);
    stage.packets(4);
    stage.hears_in_all(1);
    set(&stage.host, "sync_threshold=2 5");
    // The fifth to the twelfth: the seventh and the twelfth.
    stage.packets(8);
    stage.hears_in_all(3);
    set(&stage.host, "sync_threshold=20 0");
    // The twentieth, and no other.
    stage.packets(40);
    stage.hears_in_all(4);
    set(&stage.host, "sync_threshold=0 1");
    stage.packets(10);
    stage.hears_in_all(14);
}

#[test]
fn a_refresh_period_counts_from_the_next_packet_on() {
    let mut stage = Stage::new("[sysctl]\nsync_threshold = \"3 0\"");
    stage.host.admin(MASTER);
    stage.packets(6);
    stage.hears_in_all(1);
    set(&stage.host, "sync_refresh_period=1");
    // No packet after the third would be synchronised without.
    wait_for("a refresh", || {
        stage.packets(1);
        stage.heard.so_far() > 1
    });
    set(&stage.host, "sync_refresh_period=0");
    let before = stage.heard.so_far();
    stage.packets(20);
    // Another connection's third packet: whatever was offered before has come by then.
    stage.packets_from(40_001, 3);
    stage.hears_in_all(before + 1);
}

#[test]
fn persist_mode_leaves_the_connections_of_templates_out_at_once() {
    let mut stage = Stage::new("[sysctl]\nsync_threshold = \"0 1\"");
    stage.host.admin(&format!("-E -u {VIP} -s rr -p 60"));
    stage.host.admin(MASTER);
    // The connection and its template, at each packet.
    stage.packets(5);
    stage.hears_in_all(10);
    set(&stage.host, "sync_persist_mode=1");
    stage.packets(5);
    stage.hears_in_all(15);
    set(&stage.host, "sync_persist_mode=0");
    stage.packets(5);
    stage.hears_in_all(25);
}

#[test]
fn a_version_is_that_of_the_next_message() {
    let mut stage = Stage::new("[sysctl]\nsync_threshold = \"0 1\"");
    stage.host.admin(MASTER);
    stage.packets(3);
    stage.hears([0, 3]);
    set(&stage.host, "sync_version=0");
    stage.packets(4);
    stage.hears([4, 3]);
    set(&stage.host, "sync_version=1");
    stage.packets(5);
    stage.hears([4, 8]);
}

#[test]
fn backup_only_holds_at_once() {
    let stage = Stage::new("");
    let directing = || stage.host.status()["directing"].clone();
    stage.packets(2);
    // Without a backup daemon it has no effect.
    set(&stage.host, "backup_only=1");
    assert_eq!(directing(), "yes");
    stage.packets(1);
    stage.host.admin(BACKUP);
    assert_eq!(directing(), "replies-only");
    set(&stage.host, "backup_only=0");
    assert_eq!(directing(), "yes");
    stage.packets(1);
    set(&stage.host, "backup_only=-1");
    assert_eq!(directing(), "replies-only");
    stage.wire.send(&stage.packet(40_000), 5);
    set(&stage.host, "backup_only=0");
    // The five have passed it.
    stage.packets(1);
    assert_eq!(stage.handled(), 5);
}

/// `ip_vs_sync.c: start_sync_thread`: both roles have as many as the first that started.
#[test]
fn ports_are_counted_when_the_first_daemon_starts() {
    let host = Host::new();
    let _daemon = host.start(&host.config(""));
    let start = |role| {
        host.admin(match role {
            "backup" => BACKUP,
            _ => MASTER,
        })
    };
    let stop = |role| host.admin(&format!("--stop-daemon {role}"));
    start("backup");
    assert_eq!(ports_in_use(), 1);
    set(&host, "sync_ports=4");
    assert_eq!(value(&host, "sync_ports"), "4");
    assert_eq!(ports_in_use(), 1);
    start("master");
    stop("backup");
    start("backup");
    assert_eq!(ports_in_use(), 1);
    stop("backup");
    stop("master");
    start("backup");
    assert_eq!(ports_in_use(), 4);
    // More can be written, and are not used.
    set(&host, "sync_ports=128");
    assert_eq!(value(&host, "sync_ports"), "128");
    stop("backup");
    start("backup");
    assert_eq!(ports_in_use(), 64);
    set(&host, "sync_ports=1");
    assert_eq!(ports_in_use(), 64);
    stop("backup");
    start("backup");
    assert_eq!(ports_in_use(), 1);
}

#[test]
fn a_queue_is_bounded_from_the_next_message_on() {
    let mut stage = Stage::new("[sysctl]\nsync_threshold = \"0 1\"");
    // One entry a message.
    stage.host.admin(&format!("{MASTER} --sync-maxlen 60"));
    stage.packets(3);
    stage.hears_in_all(3);
    set(&stage.host, "sync_qlen_max=0");
    let dropped = || {
        let status = stage.host.status();
        status["sync"][0]["counters"]["drop_queue_full"].as_u64()
    };
    assert_eq!(dropped(), Some(0));
    wait_for("a message that was thrown away", || {
        stage.packets(8);
        dropped() > Some(0)
    });
    set(&stage.host, "sync_qlen_max=4096");
    // What was lost is offered again by and by, which is none of this test's business.
    let before = stage.heard.so_far();
    stage.packets(8);
    wait_for("messages again", || stage.heard.so_far() >= before + 8);
}

#[test]
fn a_socket_buffer_is_that_of_the_next_start() {
    let host = Host::new();
    let _daemon = host.start(&host.config(""));
    host.admin(BACKUP);
    let before = receive_buffers();
    assert_eq!(before.len(), 1);
    set(&host, "sync_sock_size=50000");
    assert_eq!(receive_buffers(), before);
    host.admin("--stop-daemon backup");
    host.admin(BACKUP);
    // The kernel doubles what it is told.
    assert_eq!(receive_buffers(), [100_000]);
    set(&host, "sync_sock_size=0");
    host.admin("--stop-daemon backup");
    host.admin(BACKUP);
    assert_eq!(receive_buffers(), before);
}

#[test]
fn rates_are_estimated_while_they_are_wanted() {
    let stage = Stage::new("[sysctl]\nrun_estimation = 0");
    set(&stage.host, "run_estimation=1");
    wait_for("a rate", || {
        stage.packets(40);
        let rates = stage.host.admin("-L -n --rate");
        let line = rates.lines().find(|line| line.starts_with("UDP")).unwrap();
        line.split_whitespace().skip(2).any(|rate| rate != "0")
    });
}

impl Stage {
    fn new(sections: &str) -> Stage {
        let host = Host::new();
        let neighbour = Neighbour::new();
        ip("route add 10.100.0.0/16 via 10.77.0.2");
        ip("route add 10.200.0.0/16 via 10.77.0.2");
        let daemon = host.start(&host.config(sections));
        wait_for("the link", || {
            host.status()["interfaces"][0]["link"] == "up"
        });
        host.admin(&format!("-A -u {VIP} -s rr"));
        host.admin(&format!("-a -u {VIP} -r 10.200.0.11:53 -m"));
        Stage {
            host,
            daemon,
            wire: Wire::open(&neighbour),
            heard: Heard::open(&neighbour),
            _neighbour: neighbour,
        }
    }

    fn packet(&self, port: u16) -> String {
        format!("UDP 10.100.0.11:{port} > {VIP} len 8")
    }

    /// Packets of one connection; all have been handled.
    fn packets(&self, count: u32) {
        self.packets_from(40_000, count);
    }

    fn packets_from(&self, port: u16, count: u32) {
        let handled = self.handled() + u64::from(count);
        self.wire.send(&self.packet(port), count);
        wait_for("the packets", || self.handled() >= handled);
    }

    /// Packets to the service so far.
    fn handled(&self) -> u64 {
        let stats = self.host.admin("-L -n --stats --exact");
        let line = stats.lines().find(|line| line.starts_with("UDP")).unwrap();
        let packets = line.split_whitespace().nth(3).unwrap();
        packets.parse().unwrap()
    }

    /// So many entries of version 1, and none of version 0, since the start.
    #[track_caller]
    fn hears_in_all(&mut self, count: u32) {
        self.hears([0, count]);
    }

    #[track_caller]
    fn hears(&mut self, expected: [u32; 2]) {
        wait_for(&format!("{expected:?} entries"), || {
            let heard = self.heard.by_version();
            for (heard, expected) in heard.iter().zip(&expected) {
                assert!(heard <= expected, "{heard:?}, not {expected:?}");
            }
            heard == expected
        });
        assert!(self.daemon.child.try_wait().unwrap().is_none());
    }
}

impl Heard {
    fn open(neighbour: &Neighbour) -> Heard {
        let socket = neighbour.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:8848").unwrap();
            let (group, own) = ([224, 0, 0, 81], [10, 77, 0, 2]);
            socket
                .join_multicast_v4(&group.into(), &own.into())
                .unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        Heard {
            socket,
            entries: [0; 2],
        }
    }

    fn by_version(&mut self) -> [u32; 2] {
        let mut message = [0; 2048];
        while let Ok(length @ 4..) = self.socket.recv(&mut message) {
            // Version 0 begins with the number of its entries, version 1 with 0.
            match message[..length] {
                [0, _, _, _, entries, 1, ..] => self.entries[1] += u32::from(entries),
                [entries, ..] => self.entries[0] += u32::from(entries),
                [] => {}
            }
        }
        self.entries
    }

    fn so_far(&mut self) -> u32 {
        self.by_version().iter().sum()
    }
}

/// Sockets of the backup in this namespace.
fn ports_in_use() -> usize {
    receive_buffers().len()
}

/// Their receive buffers. Unit: bytes.
fn receive_buffers() -> Vec<u32> {
    let mut command = Command::new("ss");
    let listed = ended(command.args(["-H", "-O", "-u", "-a", "-n", "-m"])).succeeded();
    let buffer_of = |line: &str| {
        let port: u16 = {
            let local = line.split_whitespace().nth(3)?;
            local.rsplit_once(':')?.1.parse().ok()?
        };
        let (_, memory) = line.split_once(",rb")?;
        let digits = memory.split(',').next()?;
        (8848..8848 + 64)
            .contains(&port)
            .then(|| digits.parse().ok())?
    };
    listed.lines().filter_map(buffer_of).collect()
}
