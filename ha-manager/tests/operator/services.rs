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
        (
            format!("-A -u {vip} -s rr -p 300 --pe sip"),
            "persistence engines",
        ),
        (
            format!("-E -u {VIP} -s rr -p --pe sip"),
            "persistence engines",
        ),
        (format!("-a -u {VIP} -r {SERVER} -i"), "tunnelling"),
        (format!("-a -u {VIP} -r [fd00::3]:53 -i"), "tunnelling"),
        (
            format!("-a -u {VIP} -r {SERVER} -i --tun-type gre"),
            "GRE tunnels",
        ),
        (
            format!("-a -u {VIP} -r {SERVER} -i --tun-type gue --tun-port 6080"),
            "GUE tunnels",
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

/// Both families, marks, persistence, one packet, thresholds, every scheduler and flag.
const EVERYTHING: &str = "\
-A -t 10.77.0.101:80 -s lblc
-a -t 10.77.0.101:80 -r 10.77.0.3:80 -g -w 1
-A -t 10.77.0.101:443 -s sh -p 360 -b sh-fallback,sh-port
-a -t 10.77.0.101:443 -r 10.77.0.3:8443 -m -w 7
-A -t 10.77.0.102:0 -s mh -p 60 -M 255.255.0.0 -b mh-fallback,mh-port
-a -t 10.77.0.102:0 -r 10.77.0.3:0 -g -w 2
-A -u 10.77.0.101:53 -s ovf -o
-a -u 10.77.0.101:53 -r 10.77.0.3:53 -m -w 1
-A --sctp-service 10.77.0.101:9 -s nq
-a --sctp-service 10.77.0.101:9 -r 10.77.0.3:9 -m -w 1
-A -t [fd00:77::100]:80 -s wrr -p 300 -M 64
-a -t [fd00:77::100]:80 -r [fd00:77::3]:80 -g -w 3
-A -f 7 -s twos
-a -f 7 -r 10.77.0.3:0 -g -w 1
-A -f 7 -6 -s dh -p 20
-a -f 7 -6 -r [fd00:77::3]:0 -m -w 1
";

#[test]
fn what_was_saved_is_restored() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    for line in EVERYTHING.lines() {
        host.admin(line);
    }
    assert_eq!(host.admin("-S -n"), EVERYTHING);
    host.admin("-e -t 10.77.0.101:80 -r 10.77.0.3:80 -g -w 1 -x 10 -y 4");
    let listed = host.admin("-L -n --thresholds -t 10.77.0.101:80");
    let row = "  -> 10.77.0.3:80                 10         4          0          0         \n";
    assert!(listed.ends_with(row), "{listed}");
    let rules = host.file("rules", EVERYTHING.as_bytes());
    host.admin("-C");
    assert_eq!(host.admin("-S -n"), "");
    let mut restore = host.command("ipvsadm");
    restore.arg("-R").stdin(std::fs::File::open(rules).unwrap());
    assert!(restore.status().unwrap().success());
    assert_eq!(host.admin("-S -n"), EVERYTHING);
    for scheduler in [
        "rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq",
        "twos", "none",
    ] {
        host.admin(&format!("-E -f 7 -s {scheduler}"));
        let saved = host.admin("-S -n");
        assert!(
            saved.contains(&format!("-A -f 7 -s {scheduler}\n")),
            "{saved}"
        );
    }
    daemon.is_undisturbed(&host);
}

#[test]
fn refusals_of_ipv6_and_thresholds_have_the_texts_of_the_kernels_errors() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    host.admin("-A -t [fd00:77::100]:80 -s rr");
    host.admin("-a -t [fd00:77::100]:80 -r [fd00:77::3]:80 -m");
    let before = host.admin("-S -n");
    let invalid = "Invalid operation.  Possibly wrong module version, address not unicast, ...";
    let service = "-t [fd00:77::100]:80";
    for (line, complaint) in [
        (format!("-A {service} -s rr"), "Service already exists"),
        (
            format!("-a {service} -r [fd00:77::3]:80 -m"),
            "Destination already exists",
        ),
        (
            format!("-e {service} -r [fd00:77::4]:80 -m"),
            "No such destination",
        ),
        (format!("-a {service} -r [ff02::1]:80 -m"), invalid),
        (format!("-a {service} -r [::]:80 -m"), invalid),
        // Of another host, and nobody can say of which link.
        (format!("-a {service} -r [fe80::1]:80 -m"), invalid),
        (
            format!("-a {service} -r [fd00:77::5]:80 -m -x 1 -y 2"),
            "Numerical result out of range",
        ),
        (
            "-a -t [fd00:77::101]:80 -r [fd00:77::3]:80 -m".to_owned(),
            "Service not defined",
        ),
        ("-D -f 3 -6".to_owned(), "No such service"),
    ] {
        host.ipvsadm(&line).failed(255, complaint);
        assert_eq!(host.admin("-S -n"), before, "ipvsadm {line}");
    }
    let unknown = host.ipvsadm("-L -n -f 3 -6");
    unknown.failed(1, "No such service");
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
