//! Edits that are refused, and leave the services as they were.

use crate::host::{Host, VIP};

const SERVER: &str = "10.77.0.3:53";

#[test]
fn an_edit_that_does_not_fit_is_refused_and_changes_nothing() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    host.admin(&format!("-A -u {VIP} -s rr"));
    host.admin(&format!("-a -u {VIP} -r {SERVER} -m -w 3"));
    let before = host.admin("-S -n");
    let vip = "-u 10.77.0.101:53";
    for (line, complaint) in [
        (format!("-A -u {VIP} -s wrr"), "Service already exists"),
        (format!("-E {vip} -s wrr"), "No such service"),
        (format!("-D {vip}"), "No such service"),
        (format!("-Z {vip}"), "No such service"),
        (format!("-a {vip} -r {SERVER} -m"), "Service not defined"),
        (
            format!("-a -u {VIP} -r {SERVER} -m"),
            "Destination already exists",
        ),
        (
            format!("-e -u {VIP} -r 10.77.0.4:53 -m -w 1"),
            "No such destination",
        ),
        (
            format!("-d -u {VIP} -r 10.77.0.4:53"),
            "No such destination",
        ),
        (
            format!("-E -u {VIP} -s fastest"),
            "Scheduler or persistence engine not found",
        ),
    ] {
        host.ipvsadm(&line).failed(255, complaint);
        assert_eq!(host.admin("-S -n"), before, "ipvsadm {line}");
    }
    let unknown = host.ipvsadm(&format!("-L {vip}"));
    unknown.failed(1, "No such service");
    daemon.is_undisturbed(&host);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    host.admin(&format!("-A -u {VIP} -s rr"));
    let before = host.admin("-S -n");
    let vip = "10.77.0.101:53";
    for (line, what) in [
        (format!("-A -u {vip} -s rr -p 300"), "persistent services"),
        (format!("-E -u {VIP} -s rr -p"), "persistent services"),
        ("-A -f 7 -s rr".to_owned(), "fwmark services"),
        ("-A -t [fd00::1]:80 -s rr".to_owned(), "IPv6 services"),
        (
            "-A --sctp-service 10.77.0.101:80 -s rr".to_owned(),
            "SCTP services",
        ),
        (format!("-A -u {vip} -s mh"), "scheduler mh"),
        (format!("-a -u {VIP} -r {SERVER} -i"), "tunnelling"),
        (
            format!("-a -u {VIP} -r {SERVER} -i --tun-type gre"),
            "GRE tunnels",
        ),
        (
            format!("-a -u {VIP} -r {SERVER} -m -x 10"),
            "connection thresholds",
        ),
        (
            format!("-a -u {VIP} -r 10.77.0.1:53 -m"),
            "masquerading to 10.77.0.1, an address of this host",
        ),
    ] {
        let complaint = format!("ipvsadm: not supported by this director yet: {what}");
        host.ipvsadm(&line).failed(255, &complaint);
        assert_eq!(host.admin("-S -n"), before, "ipvsadm {line}");
    }
    daemon.is_undisturbed(&host);
}

#[test]
fn a_full_table_is_refused_by_name() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    for last in 1..=8 {
        host.admin(&format!("-A -u 10.77.0.{last}:7 -s rr"));
    }
    let before = host.admin("-S -n");
    host.ipvsadm(&format!("-A -u {VIP} -s rr"))
        .failed(255, "No space left on device: the table holds 8 services");
    assert_eq!(host.admin("-S -n"), before);
    daemon.is_undisturbed(&host);
}
