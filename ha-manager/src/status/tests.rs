use ipvs_model::sync::SyncRole;

use super::*;
use crate::failover::split::SeenBy;
use crate::vrrp_driver::Lateness;

#[test]
fn a_healthy_director_reads_at_a_glance() {
    assert_eq!(
        healthy().to_text(),
        "director     lb1, standalone, up 3 d 04:12:55, tables adopted from pins, version 0.1.0\n\
         directing    yes, never fenced (epoch 4)\n\
         interfaces   eth0    tcx  up\n\
         \x20            inside  tcx  up\n\
         routes       7\n\
         services     2 of 4096 with 5 of 16384 servers\n\
         connections  131072 of 1048576 IPv4 (12.5 %)\n\
         \x20            0 of 262144 IPv6 (0.0 %)\n\
         expired      99 since start\n\
         memory       330.5 MiB\n\
         pinned in    /sys/fs/bpf/tandem\n\
         counters     (packets since the tables were made; zeroes left out)\n\
         \x20 forwarded       1234567\n\
         \x20 no_server             3\n"
    );
}

#[test]
fn what_is_wrong_is_in_capitals() {
    let mut status = healthy();
    status.adopted = false;
    status.lease = LeaseStatus {
        epoch: 5,
        length_ms: 1000,
        remaining_ms: Some(-2150),
        refused: 3,
    };
    status.directing = status.lease.directing(Directing::Yes);
    status.interfaces[0].link = LinkState::NoCarrier;
    status.interfaces[1] = InterfaceStatus {
        name: "inside".to_owned(),
        ifindex: None,
        attachment: None,
        link: LinkState::Gone,
    };
    status.network = NetworkStatus {
        routes: 0,
        ignored_rules: 2,
        current: false,
    };
    status.counters.clear();
    status.log_lines_lost = 17;
    status.tables.connections_v6.taken = 236_000;
    let text = status.to_text();
    for line in [
        "directing    NO, LEASE LAPSED 2.1 s ago (epoch 5); RENEWAL REFUSED 3 times by a higher epoch",
        "interfaces   eth0    tcx  NO CARRIER",
        "             inside  NOT ATTACHED  GONE",
        "routes       0, NOT CURRENT, 2 POLICY RULES IGNORED",
        "log          17 LINES LOST",
        "             0 of 262144 IPv6 (0.0 %), 236000 PLACES TAKEN",
        "counters     all zero",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(text.contains("tables fresh"), "{text}");
    assert_eq!(status.directing, Directing::LeaseLapsed);
}

#[test]
fn marking_rules_and_overloaded_servers_are_shown_when_there_are_any() {
    let mut status = healthy();
    (status.overloaded, status.mark_rules) = (1, 3);
    let text = status.to_text();
    let lines = "services     2 of 4096 with 5 of 16384 servers, 1 overloaded\nmark rules   3\n";
    assert!(text.contains(lines), "{text}");
}

#[test]
fn a_running_lease_says_when_it_lapses() {
    let mut status = healthy();
    status.lease.remaining_ms = Some(640);
    assert!(
        status
            .to_text()
            .contains("directing    yes, lease lapses in 0.6 s (epoch 4)\n")
    );
}

#[test]
fn json_has_every_counter_and_stable_names() {
    let json: serde_json::Value = serde_json::from_str(&healthy().to_json()).unwrap();
    assert_eq!(json["mode"], "standalone");
    assert_eq!(json["directing"], "yes");
    assert_eq!(json["lease"]["epoch"], 4);
    assert!(json["lease"]["remaining_ms"].is_null());
    assert_eq!(json["interfaces"][1]["link"], "up");
    assert_eq!(json["tables"]["connections_live"], 131_072);
    assert_eq!(json["tables"]["connections_v4"]["taken"], 131_080);
    assert_eq!(json["tables"]["connections_v6"]["size"], 262_144);
    assert_eq!(json["counters"]["never"], 0);
    assert_eq!(json["counters"]["no_server"], 3);
}

#[test]
fn a_healthy_active_node_reads_at_a_glance() {
    assert_eq!(
        text_of_pair(&active()),
        "director     lb1, vrrp active, up 3 d 04:12:55, tables adopted from pins, version 0.1.0\n\
         directing    yes, lease lapses in 0.2 s (epoch 4)\n\
         vrrp         VI_1 is master for 01:00:05\n\
         \x20            vrid 51 on eth0, priority 150, 1 transition\n\
         addresses    192.0.2.100/32  eth0    here\n\
         \x20            10.0.0.254/24   inside  here\n\
         sync         master on eth2, id 51, 224.0.0.81:8848\n\
         \x20            messages 12, entries 345\n"
    );
}

#[test]
fn a_healthy_standby_node_reads_at_a_glance() {
    assert_eq!(
        text_of_pair(&standby()),
        "director     lb1, vrrp standby, up 3 d 04:12:55, tables adopted from pins, version 0.1.0\n\
         directing    replies only, lease lapses in 0.2 s (epoch 4)\n\
         vrrp         VI_1 is backup for 01:00:05\n\
         \x20            vrid 51 on eth0, priority 150, 1 transition\n\
         \x20            master is 192.0.2.2, priority 200\n\
         addresses    192.0.2.100/32  eth0    not here\n\
         \x20            10.0.0.254/24   inside  not here\n\
         sync         backup on eth2, id 51, 224.0.0.81:8848\n\
         \x20            nothing yet\n"
    );
}

#[test]
fn a_node_at_fault_says_so_in_capitals() {
    let mut status = standby();
    status.role = Some(Role::Fault);
    let reason = "interface inside has no carrier";
    status.vrrp[0].state = VrrpState::Fault;
    status.vrrp[0].master = None;
    status.vrrp[0].fault = Some(reason.to_owned());
    status.vrrp[0].effective_priority = 0;
    status.problems = vec![format!("VI_1: {reason}, this node cannot be active")];
    assert_eq!(
        text_of_pair(&status),
        "director     lb1, vrrp FAULT, up 3 d 04:12:55, tables adopted from pins, version 0.1.0\n\
         PROBLEM      VI_1: interface inside has no carrier, this node cannot be active\n\
         directing    replies only, lease lapses in 0.2 s (epoch 4)\n\
         vrrp         VI_1 is FAULT for 01:00:05: interface inside has no carrier\n\
         \x20            vrid 51 on eth0, priority 150 (now 0), 1 transition\n\
         addresses    192.0.2.100/32  eth0    not here\n\
         \x20            10.0.0.254/24   inside  not here\n\
         sync         backup on eth2, id 51, 224.0.0.81:8848\n\
         \x20            nothing yet\n"
    );
}

#[test]
fn what_is_wrong_with_a_pair_is_in_capitals() {
    let mut status = active();
    status.problems = vec![
        "VI_1: another host answers for 192.0.2.100 (02:00:00:00:00:09)".to_owned(),
        "sync: messages with other sync ids arrive on eth2 (ours: 51)".to_owned(),
    ];
    status.vrrp[0].vips[1].present = false;
    status.sync[0].by = By::Manual;
    assert_eq!(
        text_of_pair(&status),
        "director     lb1, vrrp active, up 3 d 04:12:55, tables adopted from pins, version 0.1.0\n\
         PROBLEM      VI_1: another host answers for 192.0.2.100 (02:00:00:00:00:09)\n\
         PROBLEM      sync: messages with other sync ids arrive on eth2 (ours: 51)\n\
         directing    yes, lease lapses in 0.2 s (epoch 4)\n\
         vrrp         VI_1 is master for 01:00:05\n\
         \x20            vrid 51 on eth0, priority 150, 1 transition\n\
         addresses    192.0.2.100/32  eth0    here\n\
         \x20            10.0.0.254/24   inside  NOT HERE\n\
         sync         master on eth2, id 51, 224.0.0.81:8848, started by hand\n\
         \x20            messages 12, entries 345\n"
    );
    let mut status = standby();
    status.vrrp[0].vips[0].present = true;
    status.vrrp[0].master = None;
    let text = status.to_text();
    assert!(text.contains("\n             NO MASTER HEARD\n"), "{text}");
    assert!(
        text.contains("\naddresses    192.0.2.100/32  eth0    HERE\n"),
        "{text}"
    );
}

#[test]
fn json_of_a_pair_has_stable_names() {
    let json: serde_json::Value = serde_json::from_str(&standby().to_json()).unwrap();
    let expected = serde_json::json!({
        "mode": "vrrp",
        "role": "standby",
        "directing": "replies-only",
        "vrrp": [{
            "name": "VI_1", "interface": "eth0", "vrid": 51, "state": "backup",
            "priority": 150, "effective_priority": 150, "since_ms": 3_605_000, "transitions": 1,
            "master": {"address": "192.0.2.2", "priority": 200},
            "is_serving": false, "yields": "no", "yield_failed": 0, "weights": 0,
            "lateness": {"buckets": [], "sum_us": 0, "max_us": 0},
            "vips": [
                {"address": "192.0.2.100/32", "interface": "eth0", "present": false},
                {"address": "10.0.0.254/24", "interface": "inside", "present": false},
            ],
            "fault": null,
            "counters": {"adverts_sent": 10, "refused_ttl": 0},
        }],
        "sync": [{
            "role": "backup", "by": "role", "interface": "eth2", "sync_id": 51, "maxlen": 1472,
            "group": "224.0.0.81", "peers": [], "port": 8848, "ttl": 1, "version": null,
            "counters": {"messages": 0, "entries": 0}, "ports": [],
        }],
        "problems": [],
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&json[name], value, "{name}");
    }
    let json: serde_json::Value = serde_json::from_str(&active().to_json()).unwrap();
    assert_eq!(json["role"], "active");
    assert_eq!(json["vrrp"][0]["state"], "master");
    assert!(json["vrrp"][0]["master"].is_null());
    assert_eq!(json["sync"][0]["role"], "master");
    // A director without a peer has no role.
    let json: serde_json::Value = serde_json::from_str(&healthy().to_json()).unwrap();
    assert_eq!(json.get("role"), None);
}

/// What a pair's status has before the lines that every director's has.
fn text_of_pair(status: &Status) -> String {
    let text = status.to_text();
    let end = text.find("interfaces ").unwrap();
    text[..end].to_owned()
}

fn active() -> Status {
    let vip = |address: &str, interface: &str| VipStatus {
        address: address.to_owned(),
        interface: interface.to_owned(),
        present: true,
    };
    let vrrp = VrrpStatus {
        name: "VI_1".to_owned(),
        interface: "eth0".to_owned(),
        vrid: 51,
        state: VrrpState::Master,
        priority: 150,
        effective_priority: 150,
        since_ms: 3_605_000,
        transitions: 1,
        master: None,
        is_serving: true,
        yields: Yields::No,
        yield_failed: 0,
        weights: 0,
        lateness: LatenessStatus::default(),
        vips: vec![
            vip("192.0.2.100/32", "eth0"),
            vip("10.0.0.254/24", "inside"),
        ],
        fault: None,
        counters: vec![("adverts_sent", 10), ("refused_ttl", 0)],
    };
    let sync = SyncStatus {
        role: SyncRole::Master,
        by: By::Role,
        interface: "eth2".to_owned(),
        sync_id: 51,
        maxlen: 1472,
        group: Some([224, 0, 0, 81].into()),
        port: 8848,
        ttl: 1,
        peers: Vec::new(),
        version: Some(1),
        counters: vec![("messages", 12), ("entries", 345)],
        ports: Vec::new(),
    };
    let mut status = healthy();
    status.mode = Mode::Vrrp;
    status.role = Some(Role::Active);
    status.lease.remaining_ms = Some(240);
    status.vrrp = vec![vrrp];
    status.sync = vec![sync];
    status
}

/// What an operator should know of an election beside its state.
#[test]
fn an_instance_tells_of_its_thread_its_weights_and_its_handover() {
    let mut status = standby();
    status.election = Some(ThreadStatus {
        scheduling: "SCHED_RR 50".to_owned(),
        memory_locked: true,
    });
    let tracked = |name: &str, good| TrackStatus {
        kind: "script",
        name: name.to_owned(),
        good,
        last: "exit 1".to_owned(),
        runs: 3,
        bad: 1,
    };
    status.tracked = vec![tracked("web", Some(true)), tracked("db", Some(false))];
    status.notify_lines_lost = 2;
    status.split_brain = vec![SplitStatus {
        seen_by: SeenBy::Arp,
        instance: Some("VI_1".to_owned()),
        who: "02:00:00:00:00:09 has 192.0.2.100".to_owned(),
        since_ms: 61_000,
    }];
    let instance = &mut status.vrrp[0];
    instance.effective_priority = 130;
    instance.weights = -20;
    instance.yields = Yields::Yielded;
    let classes = Lateness {
        counts: [970, 25, 4, 1, 0, 0, 0, 0, 0, 0],
        sum_us: 30_000,
    };
    instance.lateness = LatenessStatus::new(&classes, 417);
    let text = status.to_text();
    for line in [
        "SPLIT BRAIN  VI_1: seen by arp for 00:01:01: 02:00:00:00:00:09 has 192.0.2.100",
        "election     SCHED_RR 50, memory locked",
        "tracked      script web: good, exit 1",
        "             script db: BAD, exit 1",
        "notify       2 LINES LOST, the FIFO is not read",
        "             vrid 51 on eth0, priority 150 (now 130), 1 transition",
        "             adverts late by at most 417 us, 99 % of 1000 by 100 us",
        "             handed over: does not preempt until handover --reclaim",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&status.to_json()).unwrap();
    let instance = &json["vrrp"][0];
    assert_eq!(instance["yields"], "yielded");
    assert_eq!(
        instance["lateness"]["buckets"][0],
        serde_json::json!([50, 970])
    );
    assert_eq!(
        instance["lateness"]["buckets"][9],
        serde_json::json!([null, 0])
    );
    assert_eq!(json["split_brain"][0]["seen_by"], "arp");
    assert_eq!(json["election"]["scheduling"], "SCHED_RR 50");
}

fn standby() -> Status {
    let mut status = active();
    status.role = Some(Role::Standby);
    status.directing = Directing::RepliesOnly;
    status.vrrp[0].state = VrrpState::Backup;
    status.vrrp[0].is_serving = false;
    status.vrrp[0].master = Some(MasterStatus {
        address: "192.0.2.2".to_owned(),
        priority: 200,
    });
    for vip in &mut status.vrrp[0].vips {
        vip.present = false;
    }
    status.sync[0].role = SyncRole::Backup;
    status.sync[0].version = None;
    status.sync[0].counters = vec![("messages", 0), ("entries", 0)];
    status
}

fn healthy() -> Status {
    let interface = |name: &str, ifindex| InterfaceStatus {
        name: name.to_owned(),
        ifindex: Some(ifindex),
        attachment: Some("tcx".to_owned()),
        link: LinkState::Up,
    };
    let lease = LeaseStatus {
        epoch: 4,
        length_ms: 0,
        remaining_ms: None,
        refused: 0,
    };
    Status {
        name: "lb1".to_owned(),
        version: "0.1.0",
        mode: Mode::Standalone,
        role: None,
        uptime_secs: 3 * 86_400 + 4 * 3600 + 12 * 60 + 55,
        adopted: true,
        pin_dir: "/sys/fs/bpf/tandem".into(),
        directing: lease.directing(Directing::Yes),
        lease,
        vrrp: Vec::new(),
        election: None,
        tracked: Vec::new(),
        notify_lines_lost: 0,
        claims_lost: 0,
        split_brains: Vec::new(),
        split_brain: Vec::new(),
        sync: Vec::new(),
        problems: Vec::new(),
        interfaces: vec![interface("eth0", 2), interface("inside", 3)],
        network: NetworkStatus {
            routes: 7,
            ignored_rules: 0,
            current: true,
        },
        services: 2,
        servers: 5,
        overloaded: 0,
        mark_rules: 0,
        tables: TableStatus {
            connections_v4: ConnectionTable {
                size: 1 << 20,
                live: 131_072,
                taken: 131_080,
            },
            connections_v6: ConnectionTable {
                size: 1 << 18,
                live: 0,
                taken: 0,
            },
            connections_live: 131_072,
            services_size: 4096,
            servers_size: 16_384,
            hash_tables_size: 256,
            cache_entries_size: 65_536,
            memory_bytes: (330 << 20) + (1 << 19),
            expired: 99,
        },
        log_lines_lost: 0,
        counters: vec![("forwarded", 1_234_567), ("never", 0), ("no_server", 3)],
    }
}
