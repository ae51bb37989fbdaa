//! What an election watches, and who is told: through the shipped program.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;

use crate::host::{Host, Neighbour, wait_for};
use crate::node::{becomes, other, pair, problems};

/// A file's value lowers the priority, by which the other takes over; a value that is a fault ends the
/// role; every change of role is a line of the FIFO, in order.
#[test]
fn what_is_tracked_moves_the_role_and_every_change_is_told() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let (value, fifo) = (host.file("value", b"0"), host.dir.join("fifo"));
    let tracking = format!(
        "track_files = [\"load weight 1\"]\n[[track_file]]\nname = \"load\"\nfile = {value:?}\n\
         [notify]\nfifo = {fifo:?}\n"
    );
    let (config, other_socket) = other(&host, "", "priority = 90\n");
    let first = host.start(&pair(&host, &tracking));
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo)
        .unwrap();
    let mut told = String::new();
    let mut is_told = |line: &str| {
        let mut chunk = [0; 512];
        while let Ok(length @ 1..) = reader.read(&mut chunk) {
            told.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
        told.ends_with(&format!("{line}\n"))
    };
    becomes(&host, "active");
    let second = host.start_at(&neighbour, &config);
    wait_for("master", || is_told("INSTANCE \"VI_1\" MASTER 100"));
    wait_for("the other knows it", || {
        host.status_at(&other_socket)["vrrp"][0]["master"]["priority"] == 100
    });
    fs::write(&value, "-20").unwrap();
    becomes(&host, "standby");
    let status = host.status();
    let instance = &status["vrrp"][0];
    assert_eq!(
        (&instance["effective_priority"], &instance["weights"]),
        (&80.into(), &(-20).into())
    );
    assert_eq!(status["tracked"][0]["name"], "load");
    wait_for("backup", || is_told("INSTANCE \"VI_1\" BACKUP 80"));
    fs::write(&value, "0").unwrap();
    becomes(&host, "active");
    wait_for("master again", || is_told("INSTANCE \"VI_1\" MASTER 100"));
    fs::write(&value, "-254").unwrap();
    becomes(&host, "fault");
    wait_for("fault", || is_told("INSTANCE \"VI_1\" FAULT 100"));
    let texts = problems(&host);
    let is_said = |text: &String| text.contains("load") && text.ends_with("cannot be active");
    assert!(texts.iter().any(is_said), "{texts:?}");
    wait_for("the other is active", || {
        host.status_at(&other_socket)["role"] == "active"
    });
    let (ended, _) = first.stop();
    assert!(ended.success());
    assert!(is_told("INSTANCE \"VI_1\" STOP 100"), "{told}");
    drop(second);
}
