//! A full table of the Internet that leaks into the host's routes: more than the data plane has room for,
//! all at once, and never at rest.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::host::{Daemon, Host, Neighbour, ended, ip, wait_for};
use crate::node::{becomes, has_address, pair, problems};
use crate::witness::alone;

/// More than there is room for.
const MANY: u32 = 70_000;
const LEFT_OUT: &str = "routes of this host are not followed";

/// The lease is of a quarter of a second: whoever is busy for that long loses the role.
#[test]
#[ignore = "slow set: a quarter of a minute"]
fn a_full_table_takes_no_role_away_and_keeps_none_from_being_taken() {
    alone(|| {
        let host = Host::new();
        let neighbour = Neighbour::new();
        let daemon = host.start(&pair(&host, ""));
        becomes(&host, "active");
        let epoch = epoch_of(&host);

        let busy = Busy::of(&daemon);
        let file = batch(&host, "add", 0..MANY);
        let mut coming = Command::new("ip").arg("-batch").arg(file).spawn().unwrap();
        while coming.try_wait().unwrap().is_none() {
            assert_eq!(host.status()["role"], "active");
        }
        wait_for("all that there is room for", || {
            let network = &host.status()["network"];
            network["routes"].as_u64() >= Some(65_535) && network["current"] == true
        });
        busy.say("70 000 routes came in");
        assert_eq!(epoch_of(&host), epoch);
        assert!(problems(&host).iter().any(|text| text.contains(LEFT_OUT)));

        // A routing daemon that changes its mind sixteen times a second.
        let busy = Busy::of(&daemon);
        let begun = Instant::now();
        for round in 0..49 {
            ip(&format!(
                "route replace 16.0.0.0/24 via 10.77.0.{}",
                2 + round % 2
            ));
            wait_for("the next", || {
                begun.elapsed() >= Duration::from_millis(1000 / 16) * round
            });
        }
        busy.say("of 70 000 one changed sixteen times a second");
        assert_eq!(epoch_of(&host), epoch);

        // The role goes and comes with them.
        neighbour.run(|| ip("link set lan1 down"));
        becomes(&host, "fault");
        assert!(!has_address("lan0"));
        neighbour.run(|| ip("link set lan1 up"));
        becomes(&host, "active");
        assert!(has_address("lan0"));
        assert!(host.status()["lease"]["remaining_ms"].as_i64() > Some(0));

        let epoch = epoch_of(&host);
        let busy = Busy::of(&daemon);
        let file = batch(&host, "del", 0..MANY);
        let gone = ended(Command::new("ip").arg("-batch").arg(file));
        assert_eq!(gone.status, Some(0), "{}", gone.err);
        wait_for("the few that are left", || {
            let network = &host.status()["network"];
            network["routes"].as_u64() < Some(100) && network["current"] == true
        });
        busy.say("70 000 routes went");
        assert_eq!(epoch_of(&host), epoch);
        wait_for("no problem", || problems(&host).is_empty());
        let (ended, log) = daemon.stop();
        assert!(ended.success(), "{log}");
        assert!(!log.contains("the lease was not renewed in time"), "{log}");
        assert!(!log.contains("failed"), "{log}");
    });
}

fn epoch_of(host: &Host) -> u64 {
    host.status()["lease"]["epoch"].as_u64().unwrap()
}

/// A file of orders for `ip`.
fn batch(host: &Host, order: &str, which: std::ops::Range<u32>) -> std::path::PathBuf {
    let mut text = String::new();
    for at in which {
        let network = std::net::Ipv4Addr::from_bits(0x1000_0000 | at << 8);
        writeln!(text, "route {order} {network}/24 via 10.77.0.2").unwrap();
    }
    host.file("routes", text.as_bytes())
}

/// How busy the owner of the data plane is.
struct Busy {
    path: String,
    begun: Instant,
    before: Duration,
}

impl Busy {
    fn of(daemon: &Daemon) -> Busy {
        let pid = daemon.child.id();
        let path = format!("/proc/{pid}/task/{pid}/schedstat");
        Busy {
            begun: Instant::now(),
            before: ran(&path),
            path,
        }
    }

    fn say(&self, what: &str) {
        let (ran, of) = (ran(&self.path) - self.before, self.begun.elapsed());
        println!("{what}: the owner ran for {ran:?} of {of:?}");
    }
}

/// The first word is nanoseconds.
fn ran(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}
