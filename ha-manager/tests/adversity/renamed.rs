//! An interface that gets another name while its addresses are in use.

use std::process::Command;

use crate::host::{Host, Neighbour, ended, ip, wait_for};
use crate::node::{Wire, becomes, has_address, pair, problems};
use crate::witness::alone;

/// The name is gone, the device and its addresses are not.
#[test]
fn an_interface_that_is_renamed_keeps_no_address_of_a_role_that_is_given_up() {
    alone(|| {
        let host = Host::new();
        let neighbour = Neighbour::new();
        let daemon = host.start(&pair(&host, ""));
        becomes(&host, "active");
        assert!(has_address("lan0"));
        // Kernels before 6.2 rename nothing that is up; addresses stay when it is down.
        if ended(Command::new("ip").args(["link", "set", "lan0", "name", "lan9"])).status != Some(0)
        {
            let batch = "link set lan0 down\nlink set lan0 name lan9\nlink set lan9 up\n";
            let file = host.file("rename", batch.as_bytes());
            let renamed = ended(Command::new("ip").arg("-batch").arg(file));
            assert_eq!(renamed.status, Some(0), "{}", renamed.err);
        }
        becomes(&host, "fault");
        wait_for("the address to be gone", || !has_address("lan9"));
        let status = host.status();
        let router = &status["vrrp"][0];
        assert_eq!(router["state"], "fault");
        assert_eq!(router["vips"][0]["present"], false);
        let fault = "VI_1: interface lan0 is gone, this node cannot be active";
        assert!(problems(&host).contains(&fault.to_owned()), "{status}");

        ip("link set lan9 name lan0");
        becomes(&host, "active");
        assert!(has_address("lan0"));
        wait_for("no problem", || problems(&host).is_empty());
        // It is answered for there.
        let wire = Wire::open(&neighbour);
        wait_for("an answer", || {
            wire.ask(&neighbour);
            wire.answers() > 0
        });
        let (ended, log) = daemon.stop();
        assert!(ended.success(), "{log}");
        assert!(!has_address("lan0"));
        assert!(!log.contains("removing the addresses failed"), "{log}");
    });
}
