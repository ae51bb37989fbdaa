//! The model of a backup's table, where no recording has an example of its rules.
#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod common;

use common::listing::{configure, counts};
use common::model::{Applied, Backup};
use syncproto::conn::{Addresses, Ends, SyncConn};

const INACTIVE: u32 = 0x100;
const NO_CPORT: u32 = 0x800;
const TEMPLATE: u32 = 0x1000;

#[test]
fn another_real_server_replaces_a_connection_unless_it_tells_of_an_end() {
    let mut backup = Backup::default();
    assert_eq!(
        backup.apply(&conn("10.1.0.9:4000", "10.200.0.11:80")),
        Applied::Created
    );
    let mut other = conn("10.1.0.9:4000", "10.200.0.12:80");
    other.flags = INACTIVE;
    assert_eq!(backup.apply(&other), Applied::Late);
    assert_eq!(dest(&backup), "10.200.0.11:80");
    other.flags = 0;
    assert_eq!(backup.apply(&other), Applied::Replaced);
    assert_eq!(dest(&backup), "10.200.0.12:80");
    assert_eq!(backup.rows.len(), 1);
    backup.check();
}

#[test]
fn the_real_server_of_a_template_never_changes() {
    let mut backup = Backup::default();
    let mut template = conn("10.1.0.0:0", "10.200.0.11:80");
    template.flags = TEMPLATE | INACTIVE;
    assert_eq!(backup.apply(&template), Applied::Created);
    let mut other = conn("10.1.0.0:0", "10.200.0.12:80");
    other.flags = TEMPLATE;
    assert_eq!(backup.apply(&other), Applied::Updated);
    assert_eq!(dest(&backup), "10.200.0.11:80");
    backup.check();
}

#[test]
fn a_connection_that_waits_for_its_clients_port_is_found_by_one_that_has_it() {
    let mut backup = Backup::default();
    let mut waiting = conn("10.1.0.9:0", "10.200.0.11:80");
    waiting.flags = NO_CPORT;
    backup.apply(&waiting);
    let told = conn("10.1.0.9:4000", "10.200.0.11:80");
    assert_eq!(backup.apply(&told), Applied::Updated);
    assert_eq!(backup.rows.len(), 1);
    // Without the flag, port 0 is a port like another.
    let mut backup = Backup::default();
    waiting.flags = 0;
    backup.apply(&waiting);
    assert_eq!(backup.apply(&told), Applied::Created);
    assert_eq!(backup.rows.len(), 2);
}

#[test]
fn services_and_real_servers_are_looked_for_in_the_kernels_order() {
    let services = "ipvsadm -A -t 10.50.0.1:80 -s rr; ipvsadm -A -t 10.50.0.1:21 -s rr;
        ipvsadm -A -t 10.50.0.2:0 -s rr -p; ipvsadm -A -f 7 -s rr;
        ipvsadm -a -t 10.50.0.1:80 -r 10.200.0.11:80 -m;
        ipvsadm -a -t 10.50.0.1:21 -r 10.200.0.11:2121 -m;
        ipvsadm -a -t 10.50.0.2:0 -r 10.200.0.11:0 -g;
        ipvsadm -a -f 7 -r 10.200.0.11:0 -m; ipvsadm -a -f 7 -r 10.200.0.11:80 -m";
    // Virtual service, real server, mark, method; the service and the server that it is bound to.
    let by_port = Some(("TCP 10.50.0.1:80", "10.200.0.11:80"));
    let ftp = Some(("TCP 10.50.0.1:21", "10.200.0.11:2121"));
    let any_port = Some(("TCP 10.50.0.2:0", "10.200.0.11:0"));
    let [marked, marked_any] = ["10.200.0.11:80", "10.200.0.11:0"].map(|to| Some(("FWM 7", to)));
    let cases = [
        ("10.50.0.1:80", "10.200.0.11:80", 0, 0, by_port),
        ("10.50.0.1:80", "10.200.0.11:81", 0, 0, None),
        ("10.50.0.1:80", "10.200.0.12:80", 0, 0, None),
        // A mark goes before an address, but for one that no service has.
        ("10.50.0.1:80", "10.200.0.11:80", 7, 0, marked),
        ("10.50.0.1:80", "10.200.0.11:80", 8, 0, by_port),
        ("10.50.0.9:99", "10.200.0.11:99", 7, 0, marked_any),
        // With a mark and another method than masquerading the server of port 0 goes first.
        ("10.50.0.1:80", "10.200.0.11:80", 7, 3, marked_any),
        ("10.50.0.1:80", "10.200.0.11:80", 8, 3, by_port),
        // Data connections of FTP: from port 20, or to a port that is not privileged.
        ("10.50.0.1:20", "10.200.0.11:2121", 0, 0, ftp),
        ("10.50.0.1:1024", "10.200.0.11:2121", 0, 0, ftp),
        ("10.50.0.1:1023", "10.200.0.11:2121", 0, 0, None),
        // The service of every port.
        ("10.50.0.2:8000", "10.200.0.11:8000", 0, 0, any_port),
    ];
    for (virt, dest, fwmark, method, bound) in cases {
        let mut backup = Backup::default();
        configure(&mut backup, services);
        let mut conn = conn("10.1.0.9:4000", dest);
        if let Addresses::V4(ends) = &mut conn.addresses {
            ends.virt = virt.parse().unwrap();
        }
        conn.fwmark = fwmark;
        conn.flags = method;
        backup.apply(&conn);
        backup.check();
        let found: Vec<_> = counts(&backup)
            .into_iter()
            .filter(|(_, [active, _])| *active == 1)
            .map(|(place, _)| place)
            .collect();
        let bound = bound.map(|(service, server)| (service.to_owned(), server.to_owned()));
        assert_eq!(
            found,
            Vec::from_iter(bound),
            "{virt} {dest} {fwmark} {method}"
        );
    }
}

#[test]
fn an_entry_without_a_timeout_has_its_states_own() {
    for (protocol, flags, state, secs) in [
        (6, 0, 1, 900),
        (6, 0, 6, 10),
        (6, 0, 0, 2),
        (17, 0, 0, 300),
        (132, 0, 8, 900),
        (132, 0, 12, 4),
        (50, 0, 0, 180),
        (6, TEMPLATE, 1, 180),
    ] {
        let mut backup = Backup::default();
        let conn = SyncConn {
            protocol,
            flags,
            state,
            timeout_secs: 0,
            ..conn("10.1.0.9:4000", "10.200.0.11:80")
        };
        backup.apply(&conn);
        backup.advance(secs * 1000 - 1);
        assert_eq!(backup.rows.len(), 1, "{conn:?}");
        backup.advance(1);
        assert_eq!(backup.rows.len(), 0, "{conn:?}");
    }
}

fn conn(client: &str, dest: &str) -> SyncConn {
    SyncConn {
        protocol: 6,
        addresses: Addresses::V4(Ends {
            client: client.parse().unwrap(),
            virt: "10.50.0.1:80".parse().unwrap(),
            dest: dest.parse().unwrap(),
        }),
        flags: 0,
        state: 1,
        fwmark: 0,
        timeout_secs: 900,
        seq: None,
        pe: None,
    }
}

fn dest(backup: &Backup) -> String {
    let row = backup.rows.values().next().unwrap();
    row.dest.to_string()
}
