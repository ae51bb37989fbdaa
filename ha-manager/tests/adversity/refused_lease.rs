//! A data plane that takes the lease no longer, because a higher epoch is in force.

use std::mem::offset_of;

use aya::maps::{Array, Map, MapData};
use dataplane::common::settings::Settings;

use crate::host::{Host, Neighbour, wait_for};
use crate::node::{becomes, has_address, other, pair, problems};
use crate::witness::alone;

const LEN: usize = size_of::<Settings>();

/// The node would have the addresses and the programs would drop: it gives the role up, says why, and
/// the other one takes it.
#[test]
fn a_role_whose_lease_is_refused_is_given_up_whole() {
    alone(|| {
        let host = Host::new();
        let neighbour = Neighbour::new();
        let (config, other_socket) = other(&host, "", "priority = 90\n");
        let first = host.start(&pair(&host, ""));
        becomes(&host, "active");
        let second = host.start_at(&neighbour, &config);
        wait_for("the other knows its master", || {
            host.status_at(&other_socket)["vrrp"][0]["master"]["priority"] == 100
        });

        raise_the_epoch(&host);
        wait_for("the other is active", || {
            host.status_at(&other_socket)["role"] == "active"
        });
        wait_for("nothing is left of the role", || {
            host.status()["role"] == "fault" && !has_address("lan0")
        });
        let status = host.status();
        let router = &status["vrrp"][0];
        let reason = "the data plane does not take the lease";
        assert_eq!(router["state"], "fault");
        assert_eq!(router["fault"], reason);
        assert_eq!(router["vips"][0]["present"], false);
        // It has said so: the other did not wait for a master-down time.
        assert_eq!(router["counters"]["priority_zero_sent"], 2);
        assert!(status["lease"]["refused"].as_u64() > Some(0));
        assert_eq!(status["sync"][0]["role"], "backup");
        let problem = format!("VI_1: {reason}, this node cannot be active");
        assert!(problems(&host).contains(&problem), "{status}");
        first.logs(&[
            "WARN",
            "the data plane does not take the lease: the role is given up",
        ]);
        first.logs(&["ERROR", "a higher epoch is in force, lease refused"]);
        let (ended, log) = first.stop();
        assert!(ended.success());
        // Once, not at every renewal.
        assert_eq!(log.matches("the role is given up").count(), 1, "{log}");
        drop(second);
    });
}

/// As another director does that takes the data plane over.
fn raise_the_epoch(host: &Host) {
    let map = MapData::from_pin(host.pin_dir().join("SETTINGS")).unwrap();
    let mut settings: Array<_, [u8; LEN]> = Array::try_from(Map::Array(map)).unwrap();
    let mut bytes = settings.get(&0, 0).unwrap();
    let at = offset_of!(Settings, lease_epoch);
    let epoch = &mut bytes[at..at + 8];
    let higher = u64::from_ne_bytes(epoch.try_into().unwrap()) + 1000;
    epoch.copy_from_slice(&higher.to_ne_bytes());
    settings.set(0, bytes, 0).unwrap();
}
