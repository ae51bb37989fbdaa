//! Macvlans in a network namespace of the test's own thread.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use dataplane::Attachment;
use ha_manager::netlink::{Follower, NetworkState};
use ha_manager::privileges;
use ha_manager::vmac::{Tender, VmacError, VmacSpec, Vmacs};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use vrrp::wire::MacAddr;

const NAME: &str = "vrrp.51";
const MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, 51]);
const LIMIT: Duration = Duration::from_secs(30);
/// Settings of the interface below, and what they are while a macvlan is on it.
const BELOW: [(&str, &str); 3] = [
    ("arp_ignore", "1"),
    ("arp_filter", "1"),
    ("arp_announce", "2"),
];

fn ipv4() -> VmacSpec {
    VmacSpec {
        name: NAME.to_owned(),
        interface: "lan0".to_owned(),
        mac: MAC,
        adverts_ipv6: false,
        ipv4: true,
        ipv6: false,
        groups: BTreeSet::new(),
    }
}

fn ipv6() -> VmacSpec {
    VmacSpec {
        name: "vrrp6.51".to_owned(),
        mac: MacAddr([0, 0, 0x5e, 0, 2, 51]),
        adverts_ipv6: true,
        ipv4: false,
        ipv6: true,
        ..ipv4()
    }
}

fn own_namespace() {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    plug_in();
}

fn plug_in() {
    ip("link add lan0 type veth peer name lan1");
    ip("link set lan1 up");
    ip("link set lan0 up");
    ip("addr add 192.0.2.1/24 dev lan0");
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn setting(family: &str, interface: &str, name: &str) -> String {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{name}");
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn set(family: &str, interface: &str, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{family}/conf/{interface}/{name}");
    fs::write(path, value).unwrap();
}

fn settings_below() -> [String; 3] {
    BELOW.map(|(name, _)| setting("ipv4", "lan0", name))
}

fn is_there(name: &str) -> bool {
    if_nametoindex(name).is_ok()
}

async fn picture() -> NetworkState {
    Follower::start(0).await.unwrap().state().clone()
}

/// As when the programs are attached to all there is.
async fn tend(vmacs: &mut Vmacs) -> Vec<String> {
    let picture = picture().await;
    let links = picture.links.iter();
    let attached = links.map(|(name, link)| Attachment {
        interface: name.clone(),
        ifindex: link.ifindex,
        kind: "tcx",
    });
    vmacs.tend(&picture, &attached.collect::<Vec<_>>()).await
}

async fn refusal(spec: VmacSpec) -> VmacError {
    let started = Vmacs::start(vec![spec]).await;
    started.err().expect("a refusal")
}

#[tokio::test]
async fn a_macvlan_is_made_with_its_settings_and_leaves_nothing() {
    own_namespace();
    set("ipv4", "lan0", "arp_filter", "0");
    set("ipv4", "lan0", "arp_announce", "1");
    let mut vmacs = Vmacs::start(vec![ipv4(), ipv6()]).await.unwrap();
    // Not before the programs are attached to it.
    assert_eq!(vmacs.tend(&picture().await, &[]).await, [""; 0]);
    assert!(!ip("link show dev vrrp.51").contains("UP"));
    assert_eq!(tend(&mut vmacs).await, [""; 0]);
    let shown = ip("-d link show dev vrrp.51");
    for part in [
        "macvlan mode private",
        "00:00:5e:00:01:33",
        "vrrp.51@lan0",
        "LOWER_UP",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for (name, value) in [
        ("arp_ignore", "1"),
        ("accept_local", "1"),
        ("rp_filter", "0"),
        ("promote_secondaries", "1"),
    ] {
        assert_eq!(setting("ipv4", NAME, name), value, "{name}");
    }
    assert_eq!(setting("ipv6", NAME, "disable_ipv6"), "1");
    assert_eq!(setting("ipv6", "vrrp6.51", "disable_ipv6"), "0");
    assert_eq!(setting("ipv6", "vrrp6.51", "addr_gen_mode"), "1");
    assert_eq!(setting("ipv6", "vrrp6.51", "accept_ra"), "0");
    assert_eq!(settings_below(), BELOW.map(|(_, value)| value));
    assert_eq!(ip("-o addr show dev vrrp.51"), "");
    vmacs.stop().await;
    assert_eq!([NAME, "vrrp6.51"].map(is_there), [false; 2]);
    assert_eq!(settings_below(), ["0", "0", "1"]);
}

#[tokio::test]
async fn adverts_of_ipv6_come_from_the_address_of_the_interface_below() {
    own_namespace();
    let mut vmacs = Vmacs::start(vec![ipv6()]).await.unwrap();
    let deadline = Instant::now() + LIMIT;
    let own = || {
        let shown = ip("-6 -o addr show dev lan0 scope link");
        if shown.contains("tentative") {
            return None;
        }
        let mut words = shown.split_whitespace();
        words
            .find(|word| word.starts_with("fe80::"))
            .map(str::to_owned)
    };
    let address = loop {
        if let Some(address) = own() {
            break address;
        }
        assert!(Instant::now() < deadline, "lan0 has no link-local address");
    };
    // Twice: the second time it is there.
    for _ in 0..2 {
        assert_eq!(tend(&mut vmacs).await, [""; 0]);
        let shown = ip("-6 -o addr show dev vrrp6.51");
        assert!(shown.contains(&address), "{shown}");
        assert!(!shown.contains("tentative"), "{shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
    }
    assert_eq!(ip("-6 route show fe80::/64 dev vrrp6.51"), "");
    vmacs.stop().await;
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_taken_over_and_put_back() {
    own_namespace();
    let before = settings_below();
    drop(Vmacs::start(vec![ipv4()]).await.unwrap());
    let index = if_nametoindex(NAME).unwrap();
    ip("addr add 192.0.2.100/32 dev vrrp.51");
    let mut second = Vmacs::start(vec![ipv4()]).await.unwrap();
    assert_eq!(if_nametoindex(NAME), Ok(index), "the same device");
    assert!(ip("addr show dev vrrp.51").contains("192.0.2.100"));
    // Nobody else's change is undone.
    set("ipv4", "lan0", "arp_ignore", "2");
    second.stop().await;
    assert!(!is_there(NAME));
    assert_eq!(settings_below(), ["2", &before[1], &before[2]]);
}

/// Killed while it was active, and started again with another configuration.
#[tokio::test]
async fn what_the_configuration_names_no_more_goes_with_its_addresses() {
    own_namespace();
    let before = settings_below();
    let renamed = VmacSpec {
        name: "vip0".to_owned(),
        ..ipv4()
    };
    // The same name for another router.
    let other = VmacSpec {
        mac: MacAddr([0, 0, 0x5e, 0, 1, 52]),
        ..ipv4()
    };
    for specs in [vec![], vec![renamed], vec![other], vec![ipv6()]] {
        drop(Vmacs::start(vec![ipv4()]).await.unwrap());
        ip("addr add 192.0.2.100/32 dev vrrp.51");
        ip("link set vrrp.51 up");
        ip("link add vrrp.9 link lan0 address 00:00:5e:00:01:09 type macvlan mode private");
        let mut vmacs = Vmacs::start(specs.clone()).await.unwrap();
        assert!(!ip("addr show").contains("192.0.2.100"), "{specs:?}");
        assert_eq!(is_there(NAME), specs.iter().any(|spec| spec.name == NAME));
        if specs.is_empty() {
            assert_eq!(settings_below(), before);
        }
        vmacs.stop().await;
        // That of somebody else is not ours to remove.
        assert!(is_there("vrrp.9"));
        ip("link del vrrp.9");
        assert!(!is_there(NAME));
        assert_eq!(settings_below(), before, "{specs:?}");
    }
}

#[tokio::test]
async fn what_another_director_looks_after_stays_with_the_settings_below() {
    own_namespace();
    let mut first = Vmacs::start(vec![ipv4()]).await.unwrap();
    ip("addr add 192.0.2.100/32 dev vrrp.51");
    let mut second = Vmacs::start(vec![ipv6()]).await.unwrap();
    assert!(ip("addr show dev vrrp.51").contains("192.0.2.100"));
    second.stop().await;
    assert!(is_there(NAME));
    assert_eq!(settings_below(), BELOW.map(|(_, value)| value));
    first.stop().await;
    assert_eq!(settings_below(), ["0"; 3]);
}

/// The macvlan of another instance is looked at first, which knows nothing of how it was before.
#[tokio::test]
async fn what_the_interface_below_was_like_is_known_from_any_macvlan_on_it() {
    own_namespace();
    let before = settings_below();
    drop(Vmacs::start(vec![ipv4()]).await.unwrap());
    let added = VmacSpec {
        name: "vrrp.7".to_owned(),
        mac: MacAddr([0, 0, 0x5e, 0, 1, 7]),
        ..ipv4()
    };
    drop(Vmacs::start(vec![added.clone(), ipv4()]).await.unwrap());
    let mut third = Vmacs::start(vec![added, ipv4()]).await.unwrap();
    assert_eq!(settings_below(), BELOW.map(|(_, value)| value));
    third.stop().await;
    assert_eq!(settings_below(), before);
}

#[tokio::test]
async fn one_that_somebody_set_down_is_brought_up_again() {
    own_namespace();
    let mut vmacs = Vmacs::start(vec![ipv4()]).await.unwrap();
    privileges::drop_unneeded().unwrap();
    for _ in 0..2 {
        assert_eq!(tend(&mut vmacs).await, [""; 0]);
        assert!(ip("link show dev vrrp.51").contains("LOWER_UP"));
        ip("link set vrrp.51 down");
    }
    // Not before the programs are attached.
    assert_eq!(vmacs.tend(&picture().await, &[]).await, [""; 0]);
    assert!(!ip("link show dev vrrp.51").contains("UP"));
    vmacs.stop().await;
}

#[tokio::test]
async fn an_equal_one_of_somebody_else_is_used_and_stays() {
    own_namespace();
    let before = settings_below();
    ip("link add vrrp.51 link lan0 address 00:00:5e:00:01:33 type macvlan mode private");
    let mut vmacs = Vmacs::start(vec![ipv4()]).await.unwrap();
    assert_eq!(tend(&mut vmacs).await, [""; 0]);
    assert!(ip("link show dev vrrp.51").contains("LOWER_UP"));
    vmacs.stop().await;
    assert!(is_there(NAME));
    assert_eq!(settings_below(), before);
}

#[tokio::test]
async fn another_thing_of_the_name_is_refused_by_name() {
    own_namespace();
    let before = settings_below();
    for (make, what) in [
        (
            "link add vrrp.51 type veth peer name other0",
            "of kind veth",
        ),
        (
            "link add vrrp.51 link lan0 address 00:00:5e:00:01:33 type macvlan mode bridge",
            "a macvlan of mode bridge on lan0 with MAC address 00:00:5e:00:01:33",
        ),
        (
            "link add vrrp.51 link lan0 address 00:00:5e:00:01:34 type macvlan mode private",
            "a macvlan of mode private on lan0 with MAC address 00:00:5e:00:01:34",
        ),
        (
            "link add vrrp.51 link lan1 address 00:00:5e:00:01:33 type macvlan mode private",
            "a macvlan of mode private on lan1 with MAC address 00:00:5e:00:01:33",
        ),
    ] {
        ip(make);
        let error = refusal(ipv4()).await.to_string();
        let text = "vmac vrrp.51: there is an interface of this name already, ";
        assert!(error.starts_with(text) && error.contains(what), "{error}");
        assert!(is_there(NAME));
        ip("link del vrrp.51");
    }
    assert_eq!(settings_below(), before);
}

#[tokio::test]
async fn all_are_made_or_none() {
    own_namespace();
    let before = settings_below();
    let nowhere = VmacSpec {
        interface: "nowhere0".to_owned(),
        ..ipv6()
    };
    let error = Vmacs::start(vec![ipv4(), nowhere]).await.err().unwrap();
    let text = "interface nowhere0 below vmac vrrp6.51 does not exist";
    assert_eq!(error.to_string(), text);
    assert!(!is_there(NAME));
    assert_eq!(settings_below(), before);
    // A MAC address that the interface below has already.
    let mac = ip("-o link show dev lan0");
    let mac = mac.split("link/ether ").nth(1).unwrap();
    let octets = mac.split(' ').next().unwrap().split(':');
    let octets: Vec<u8> = octets
        .map(|octet| u8::from_str_radix(octet, 16).unwrap())
        .collect();
    let error = refusal(VmacSpec {
        mac: MacAddr(octets.try_into().unwrap()),
        ..ipv4()
    });
    let error = error.await.to_string();
    let text = "vmac vrrp.51: lan0 below has the MAC address ";
    assert!(error.starts_with(text), "{error}");
    assert!(!is_there(NAME));
    assert_eq!(settings_below(), before);
}

#[tokio::test]
async fn a_host_that_filters_by_the_way_back_does_so_loosely_there() {
    own_namespace();
    for (all, own) in [("1", "2"), ("2", "2"), ("0", "0")] {
        set("ipv4", "all", "rp_filter", all);
        let mut vmacs = Vmacs::start(vec![ipv4()]).await.unwrap();
        assert_eq!(setting("ipv4", NAME, "rp_filter"), own);
        vmacs.stop().await;
        assert_eq!(setting("ipv4", "all", "rp_filter"), all);
    }
}

/// With what the daemon keeps of its privileges.
#[tokio::test]
async fn what_went_with_the_interface_below_is_made_again() {
    own_namespace();
    let mut vmacs = Vmacs::start(vec![ipv4()]).await.unwrap();
    privileges::drop_unneeded().unwrap();
    assert_eq!(tend(&mut vmacs).await, [""; 0]);
    ip("link del lan0");
    assert!(!is_there(NAME));
    // Without the interface below there is nothing to do.
    assert_eq!(tend(&mut vmacs).await, [""; 0]);
    plug_in();
    assert_eq!(settings_below(), ["0"; 3]);
    assert_eq!(tend(&mut vmacs).await, [""; 0]);
    assert!(ip("-d link show dev vrrp.51").contains("macvlan mode private"));
    assert_eq!(setting("ipv4", NAME, "arp_ignore"), "1");
    assert_eq!(settings_below(), BELOW.map(|(_, value)| value));
    // And alone, if somebody else removed it; unless something else has the name by now.
    ip("link del vrrp.51");
    ip("link add vrrp.51 type veth peer name other0");
    let wanting = tend(&mut vmacs).await;
    assert!(wanting[0].contains("of kind veth"), "{wanting:?}");
    ip("link del vrrp.51");
    assert_eq!(tend(&mut vmacs).await, [""; 0]);
    assert!(is_there(NAME));
    vmacs.stop().await;
    assert!(!is_there(NAME));
    assert_eq!(settings_below(), ["0"; 3]);
}

/// The owner of the data plane only tells what it sees.
#[tokio::test]
async fn a_task_of_its_own_does_the_same_and_leaves_nothing() {
    own_namespace();
    let before = settings_below();
    let mut tender = Tender::start(Vmacs::start(vec![ipv4()]).await.unwrap());
    ip("link del vrrp.51");
    tender.tell(&picture().await, Vec::new());
    assert_eq!(tender.wanting().await, [""; 0]);
    assert!(is_there(NAME));
    let picture = picture().await;
    let attached = Attachment {
        interface: NAME.to_owned(),
        ifindex: picture.links[NAME].ifindex,
        kind: "tcx",
    };
    tender.tell(&picture, vec![attached]);
    assert_eq!(tender.wanting().await, [""; 0]);
    assert!(ip("link show dev vrrp.51").contains("LOWER_UP"));
    tender.stop().await;
    assert!(!is_there(NAME));
    assert_eq!(settings_below(), before);
}
