//! Two nodes that are both active for one address: each sees it by adverts, ARP and the other's sync
//! daemon, as far as there is something to see.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::path::Path;
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use serde_json::Value;

use crate::host::{Host, wait_for};
use crate::lan::{Conversation, Lan, SERVICES, VIPS, configs, instance};
use crate::node::{Wire, problems};
use crate::translator::{Addresses, Passes, Translator};

/// The first director's interface and the second's.
const LINKS: [&str; 2] = ["lan0", "lan1"];
/// From which they advertise to the translator, and where that is.
const SOURCES: [&str; 2] = ["10.77.0.31", "10.77.0.32"];
const BELOW: &str = "10.77.0.9";
const ABOVE: &str = "10.77.0.99";

fn seen(status: &Value) -> Vec<String> {
    let seen = status["split_brain"].as_array().unwrap().iter();
    let mut seen: Vec<String> = seen
        .map(|split| split["seen_by"].as_str().unwrap().to_owned())
        .collect();
    seen.sort_unstable();
    seen
}

/// Their virtual routers have different numbers, so that only ARP and the sync daemons tell.
#[test]
fn a_split_brain_is_seen_by_arp_and_sync_on_both_sides_and_healed() {
    let host = Host::new();
    let lan = Lan::new();
    let apart = both_vips().replace("vrid = 51", "vrid = 61");
    let (own, others, other) = configs(&host, [&both_vips(), &apart]);
    // One id, as a pair has.
    let text = std::fs::read_to_string(&others).unwrap();
    std::fs::write(&others, text.replace("[sync]\n", "[sync]\nsyncid = 51\n")).unwrap();
    let first = host.start(&own);
    let second = host.start_at(&lan.second, &others);
    for line in SERVICES {
        host.admin(line);
        host.admin_at(&other, line);
    }
    wait_for("both active", || {
        on_both(&host, &other, |status| status["role"] == "active")
    });
    let conversations = talk_to_both(&lan);
    wait_for("both see it by ARP and sync", || {
        on_both(&host, &other, |status| seen(status) == ["arp", "sync"])
    });
    for conversation in conversations {
        conversation.end();
    }
    let status = host.status();
    assert!(status["split_brains"]["arp"].as_u64() > Some(0), "{status}");
    wait_for("who answers", || answered_for(&problems(&host)));
    let wire = Wire::open(&lan.hub);
    let (ended, log) = second.stop();
    assert!(ended.success());
    assert!(log.contains("another host answers for 10.77.0.20"), "{log}");
    wire.announcements(VIPS[0]);
    wait_for("healed", || {
        seen(&host.status()).is_empty() && problems(&host).is_empty()
    });
    wait_for("announced", || wire.announcements(VIPS[0]) > 0);
    first.logs(&["a split brain is not seen any more", "arp"]);
    first.logs(&["a split brain has healed: the addresses are announced again"]);
}

/// Equal priorities, and something in between that makes each director the lesser one in the other's
/// eyes: neither yields, and all three ways show it to both.
#[test]
fn masters_that_hear_each_other_and_do_not_yield_are_a_split_brain_to_both() {
    let host = Host::new();
    let lan = Lan::new();
    let sections = SOURCES.map(|source| {
        let unicast = format!("source = \"{source}\"\npeers = [\"{BELOW}\"]\n");
        // It covers no addresses of the IP header.
        format!("{}{unicast}checksum = \"rfc9568\"\n", both_vips())
    });
    crate::host::ip(&format!("addr add {}/24 dev lan0", SOURCES[0]));
    lan.second
        .ip(&format!("addr add {}/24 dev lan1", SOURCES[1]));
    lan.hub.ip(&format!("addr add {ABOVE}/24 dev br0"));
    let addresses = Addresses {
        directors: SOURCES.map(|source| source.parse().unwrap()),
        below: BELOW.parse().unwrap(),
        above: ABOVE.parse().unwrap(),
    };
    let translator = Translator::new(&lan.hub, addresses);
    let (own, others, other) = configs(&host, sections.each_ref().map(String::as_str));
    let first = host.start(&own);
    let second = host.start_at(&lan.second, &others);
    for line in SERVICES {
        host.admin(line);
        host.admin_at(&other, line);
    }
    wait_for("both active", || {
        on_both(&host, &other, |status| status["role"] == "active")
    });

    translator.set(Passes::AllAsLesser);
    let conversations = talk_to_both(&lan);
    wait_for("both see it by all three", || {
        on_both(&host, &other, |status| {
            seen(status) == ["adverts", "arp", "sync"]
        })
    });
    let (rival, answers) = ("is heard on", "another host answers for");
    wait_for("both say so", || {
        on_both(&host, &other, |status| {
            let has = |words: &str| status["problems"].to_string().contains(words);
            let total = |by: &str| status["split_brains"][by].as_u64();
            status["role"] == "active"
                && [rival, answers, "another sync master"].into_iter().all(has)
                && ["adverts", "arp", "sync"]
                    .into_iter()
                    .all(|by| total(by) > Some(0))
        })
    });
    for daemon in [&first, &second] {
        daemon.logs(&["another master (10.77.0.9, priority 100)", rival]);
    }
    for conversation in conversations {
        conversation.end();
    }

    let wire = Wire::open(&lan.hub);
    let mended = Instant::now();
    translator.set(Passes::FirstAsGreater);
    wait_for("one of them", || {
        host.status()["role"] == "active" && host.status_at(&other)["role"] == "standby"
    });
    println!("one master {:?} after", mended.elapsed());
    let of_first = mac(&lan, 0);
    let mut last = wire.last_announcer(VIPS[0]);
    wait_for("the one that stays has the last word", || {
        last = wire.last_announcer(VIPS[0]).or(last);
        last == Some(of_first)
    });
    println!("its last word {:?} after", mended.elapsed());
    wait_for("nobody sees it any more", || {
        on_both(&host, &other, |status| {
            seen(status).is_empty() && status["problems"] == serde_json::json!([])
        })
    });
    println!("forgotten {:?} after", mended.elapsed());
    assert_ne!(wire.last_announcer(VIPS[0]), Some(mac(&lan, 1)));
    first.logs(&["a split brain has healed: the addresses are announced again"]);
    // Clients that believe the announcements get there.
    for vip in VIPS {
        lan.hub.ip(&format!("neigh del {vip} dev br0"));
    }
    let conversation = lan.connect(VIPS[1]);
    conversation.goes_on();
    conversation.end();
    drop((first, second));
}

/// One virtual router with both addresses.
fn both_vips() -> String {
    let [one, other] = VIPS;
    instance(0, 100).replace(&format!("[{one:?}]"), &format!("[{one:?}, {other:?}]"))
}

fn on_both(host: &Host, other: &Path, holds: impl Fn(&Value) -> bool) -> bool {
    holds(&host.status()) && holds(&host.status_at(other))
}

fn answered_for(problems: &[String]) -> bool {
    let words = "VI_1: another host answers for 10.77.0.200";
    problems.iter().any(|text| text.starts_with(words))
}

/// A client on either side of the split: one talks to the first director, the other one to the
/// second, whoever announces what. So both have connections to tell a peer of.
fn talk_to_both(lan: &Lan) -> [Conversation; 2] {
    for (nth, vip) in VIPS.into_iter().enumerate() {
        let mac = mac(lan, nth).map(|byte| format!("{byte:02x}")).join(":");
        lan.hub.ip(&format!(
            "neigh replace {vip} lladdr {mac} nud permanent dev br0"
        ));
    }
    VIPS.map(|vip| lan.connect(vip))
}

/// The Ethernet address of a director.
fn mac(lan: &Lan, nth: usize) -> [u8; 6] {
    let link = LINKS[nth];
    let find = move || {
        let mut all = getifaddrs().unwrap();
        let found = all.find_map(|found| {
            let address = found.address?.as_link_addr()?.addr()?;
            (found.interface_name == link).then_some(address)
        });
        found.unwrap()
    };
    if nth == 0 {
        find()
    } else {
        lan.second.run(find)
    }
}
