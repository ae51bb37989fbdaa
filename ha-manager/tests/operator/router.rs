//! What one virtual router says at its start, of a lesser one, and when it is well again.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::libc;

use crate::host::{Host, Neighbour, wait_for};
use crate::node::{ELECTION, MOVED, SYNC, Wire, advertise, becomes, pair};

/// What the FIFO was told so far.
struct Told {
    fifo: RefCell<File>,
    text: RefCell<String>,
}

impl Told {
    fn open(fifo: &Path) -> Told {
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_NONBLOCK);
        Told {
            fifo: RefCell::new(options.open(fifo).unwrap()),
            text: RefCell::default(),
        }
    }

    fn text(&self) -> String {
        let mut chunk = [0; 512];
        while let Ok(length @ 1..) = self.fifo.borrow_mut().read(&mut chunk) {
            let more = std::str::from_utf8(&chunk[..length]).unwrap();
            self.text.borrow_mut().push_str(more);
        }
        self.text.borrow().clone()
    }
}

/// As keepalived: a router is a backup from its start on, also while it does not take part yet.
#[test]
fn the_delay_at_the_start_is_told_as_backup_and_is_no_fault() {
    let host = Host::new();
    let _neighbour = Neighbour::new();
    let fifo = host.dir.join("fifo");
    let delay = Duration::from_millis(1500);
    let config = host.config(&format!(
        "vrrp_startup_delay_ms = 1500\n[sysctl]\nbackup_only = 1\n{SYNC}{ELECTION}\
         [notify]\nfifo = {fifo:?}\n"
    ));
    let begun = Instant::now();
    let daemon = host.start(&config);
    let told = Told::open(&fifo);
    let backup = "INSTANCE \"VI_1\" BACKUP 100\n";
    wait_for("its first word", || told.text() == backup);
    let status = host.status();
    assert_eq!(status["problems"], serde_json::json!([]));
    assert_eq!(
        status["vrrp"][0]["fault"],
        "vrrp_startup_delay_ms is not over"
    );
    becomes(&host, "active");
    assert!(begun.elapsed() >= delay);
    assert_eq!(
        told.text(),
        format!("{backup}INSTANCE \"VI_1\" MASTER 100\n")
    );
    drop(daemon);
}

/// As keepalived: what is bad from the start is told as well.
#[test]
fn a_fault_that_is_there_at_the_start_is_told() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    neighbour.ip("link set lan1 down");
    let fifo = host.dir.join("fifo");
    let daemon = host.start(&pair(&host, &format!("[notify]\nfifo = {fifo:?}\n")));
    let told = Told::open(&fifo);
    let fault = "INSTANCE \"VI_1\" FAULT 100\n";
    wait_for("the fault", || told.text() == fault);
    neighbour.ip("link set lan1 up");
    becomes(&host, "active");
    let rest = ["BACKUP", "MASTER"].map(|word| format!("INSTANCE \"VI_1\" {word} 100\n"));
    assert_eq!(told.text(), fault.to_owned() + &rest.concat());
    drop(daemon);
}

/// Its peers send to one address, and may have learnt another host's hardware address for it.
#[test]
fn a_router_with_peers_announces_its_own_address_when_it_is_well_again() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let wire = Wire::open(&neighbour);
    let value = host.file("value", b"0");
    let config = pair(
        &host,
        &format!(
            "source = \"10.77.0.1\"\npeers = [\"10.77.0.2\"]\ntrack_files = [\"bad weight 0\"]\n\
             [[track_file]]\nname = \"bad\"\nfile = {value:?}\n"
        ),
    );
    let daemon = host.start(&config);
    becomes(&host, "active");
    assert_eq!(wire.announcements("10.77.0.1"), 0, "a start is none");
    fs::write(&value, "1").unwrap();
    becomes(&host, "fault");
    assert_eq!(wire.announcements("10.77.0.1"), 0);
    fs::write(&value, "0").unwrap();
    becomes(&host, "active");
    assert_eq!(wire.announcements("10.77.0.1"), 1);
    drop(daemon);
}

/// Strict mode leaves a lesser master unanswered, and announces nothing over it; that it was heard is
/// told all the same.
#[test]
fn a_lesser_master_is_told_but_not_announced_over_in_strict_mode() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let wire = Wire::open(&neighbour);
    let fifo = host.dir.join("fifo");
    let daemon = host.start(&pair(
        &host,
        &format!("strict = true\n[notify]\nfifo = {fifo:?}\n"),
    ));
    let told = Told::open(&fifo);
    let announced = RefCell::new(0);
    wait_for("both blocks", || {
        *announced.borrow_mut() += wire.announcements(MOVED);
        *announced.borrow() == 10
    });
    let (stop, stopped) = mpsc::channel();
    let heard = || told.text().matches("MASTER_RX_LOWER_PRI 100\n").count();
    std::thread::scope(|scope| {
        let neighbour = &neighbour;
        scope.spawn(move || neighbour.run(move || advertise(50, &stopped)));
        wait_for("its words", || heard() >= 3);
        stop.send(()).unwrap();
    });
    becomes(&host, "active");
    assert_eq!(wire.announcements(MOVED), 0);
    drop(daemon);
}
