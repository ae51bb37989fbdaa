use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipvs_control::{Info, ServerEntry, ServiceEntry};
use ipvs_model::entry::ConnEntry;
use ipvs_model::extra::Pe;
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::state::state_name;
use ipvs_model::stats::{Rates, Stats};
use serde_json::Value;

use super::*;

const INFO: Info = Info {
    version: 0x01_02_01,
    conn_table_size: 4096,
};

#[test]
fn an_empty_table_is_three_header_lines() {
    let expected = "IP Virtual Server version 1.2.1 (size=4096)\n\
                    Prot LocalAddress:Port Scheduler Flags\n  \
                    -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
    assert_eq!(ip_vs(INFO, &[]), expected);
}

#[test]
fn address_services_come_before_marks_and_servers_keep_their_order() {
    let mut mark = service(
        ServiceKey::Fwmark {
            mark: 7,
            ipv6: false,
        },
        Some(Scheduler::Wlc),
    );
    mark.spec.flags = ServiceFlags(ServiceFlags::ONEPACKET);
    let mut tcp = service(address(Protocol::Tcp, "10.50.1.1:80"), Some(Scheduler::Rr));
    tcp.servers = vec![
        server("10.200.0.12:8080", ForwardMethod::DirectRouting, 0),
        server("10.200.0.11:8080", ForwardMethod::Masquerading, 100),
    ];
    tcp.servers[1].local = true;
    let text = ip_vs(INFO, &[mark, tcp]);
    let rows: Vec<&str> = text.lines().skip(3).collect();
    assert_eq!(
        rows,
        [
            "TCP  0A320101:0050 rr  ",
            "  -> 0AC8000C:1F90      Route   0      3          4         ",
            "  -> 0AC8000B:1F90      Local   100    3          4         ",
            "FWM  00000007 wlc ops ",
        ]
    );
}

#[test]
fn persistence_is_shown_in_ticks_with_the_mask_as_a_number() {
    let mut v4 = service(address(Protocol::Udp, "10.50.1.1:53"), None);
    v4.spec.flags = ServiceFlags(ServiceFlags::PERSISTENT);
    v4.spec.timeout_secs = 300;
    v4.spec.netmask = 0xffff_ff00;
    let mut v6 = service(
        address(Protocol::Tcp, "[fd00:50::1]:80"),
        Some(Scheduler::Wrr),
    );
    // The kernel shows no `ops` for an IPv6 address.
    v6.spec.flags = ServiceFlags(ServiceFlags::PERSISTENT | ServiceFlags::ONEPACKET);
    v6.spec.timeout_secs = 60;
    v6.spec.netmask = 128;
    v6.servers = vec![server("[fd00:200::11]:80", ForwardMethod::Tunnelling, 1)];
    let text = ip_vs(INFO, &[v4, v6]);
    let rows: Vec<&str> = text.lines().skip(3).collect();
    assert_eq!(
        rows,
        [
            "UDP  0A320101:0035 none  persistent 75000 FFFFFF00",
            "TCP  [fd00:0050:0000:0000:0000:0000:0000:0001]:0050 wrr persistent 15000 80000000",
            "  -> [fd00:0200:0000:0000:0000:0000:0000:0011]:0050      Tunnel  1      3          4         ",
        ]
    );
}

/// Rows recorded from a kernel director.
#[test]
fn connections_print_as_the_kernel_prints_them() {
    let udp = conn(
        17,
        "10.100.0.5:5000",
        "10.50.0.1:80",
        "10.200.0.11:80",
        0,
        899,
    );
    let tcp = conn(
        6,
        "[fd00:100::5]:4001",
        "[fd00:50::1]:80",
        "[fd00:200::11]:80",
        1,
        899,
    );
    let mut template = conn(0, "10.100.0.0:0", "0.0.0.7:0", "10.200.0.11:0", 1, 7);
    template.flags = ConnFlags(ConnFlags::TEMPLATE);
    assert_eq!(
        ConnFile::IpVsConn.rows(&[udp, tcp, template]),
        "UDP 0A640005 1388 0A320001 0050 0AC8000B 0050 UDP             899\n\
         TCP fd00:0100:0000:0000:0000:0000:0000:0005 0FA1 \
         fd00:0050:0000:0000:0000:0000:0000:0001 0050 \
         fd00:0200:0000:0000:0000:0000:0000:0011 0050 ESTABLISHED     899\n\
         IP  0A640000 0000 00000007 0000 0AC8000B 0000 ASSURED           7\n"
    );
}

/// Rows recorded from a kernel's backup, which has one connection of its own.
#[test]
fn the_origin_of_a_connection_is_shown_between_state_and_expiry() {
    let mut synced = conn(
        6,
        "10.100.0.6:40011",
        "10.50.0.1:80",
        "10.200.0.13:80",
        5,
        116,
    );
    synced.flags = ConnFlags(ConnFlags::SYNC | ConnFlags::INACTIVE);
    let mut own = synced.clone();
    (own.flags, own.expires_secs) = (ConnFlags(ConnFlags::INACTIVE), 115);
    let text =
        ConnFile::IpVsConnSync.header().to_owned() + &ConnFile::IpVsConnSync.rows(&[synced, own]);
    assert_eq!(
        text,
        "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n\
         TCP 0A640006 9C4B 0A320001 0050 0AC8000D 0050 TIME_WAIT   SYNC       116\n\
         TCP 0A640006 9C4B 0A320001 0050 0AC8000D 0050 TIME_WAIT   LOCAL      115\n"
    );
}

#[test]
fn other_protocols_are_shown_by_number() {
    let of = |protocol| conn(protocol, "10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3", 0, 1);
    let text = ConnFile::IpVsConn.rows(&[of(47), of(58)]);
    let first: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(first, ["IP_47", "ICMPv6"]);
}

/// Every table that was recorded from a kernel's master or backup: templates, firewall marks, IPv6,
/// SCTP, persistence engines.
#[test]
fn recorded_connection_tables_are_printed_as_they_were() {
    let mut tables = Vec::new();
    for path in recordings() {
        let text = fs::read_to_string(&path).unwrap();
        collect_tables(&serde_json::from_str(&text).unwrap(), &mut tables);
    }
    let (mut rows, mut templates, mut v6) = (0, 0, 0);
    for (file, table) in &tables {
        let recorded: Vec<&str> = table.lines().skip(1).collect();
        for row in recorded {
            let entry = read_row(row, *file);
            assert_eq!(file.rows(std::slice::from_ref(&entry)), format!("{row}\n"));
            rows += 1;
            templates += usize::from(entry.flags.contains(ConnFlags::TEMPLATE));
            v6 += usize::from(entry.client.is_ipv6());
        }
        assert_eq!(table.lines().next(), Some(file.header().trim_end()));
    }
    println!(
        "{rows} rows of {} tables, {templates} templates, {v6} of IPv6",
        tables.len()
    );
    assert!(rows > 1000 && templates > 50 && v6 > 50);
}

/// As recorded before and after a zeroing, on two processors.
#[test]
fn statistics_are_hexadecimal_and_zeroing_leaves_those_of_processors_alone() {
    let text = include_str!("../../tests/golden/listings.json");
    let recorded: Value = serde_json::from_str(text).unwrap();
    let totals = stats([22, 55, 13, 0xac7, 0x31c]);
    let processors = [
        stats([11, 26, 5, 0x47f, 0xf8]),
        stats([11, 29, 8, 0x648, 0x224]),
    ];
    let rates = Rates {
        cps: 2,
        pps_in: 5,
        pps_out: 1,
        bps_in: 0x111,
        bps_out: 0x50,
    };
    let now = &recorded["proc"];
    assert_eq!(now["ip_vs_stats"], ip_vs_stats(totals, rates));
    assert_eq!(
        now["ip_vs_stats_percpu"],
        ip_vs_stats_percpu(&processors, totals, rates)
    );
    let zeroed = &recorded["proc_zeroed"];
    let (totals, rates) = (Stats::default(), Rates::default());
    assert_eq!(zeroed["ip_vs_stats"], ip_vs_stats(totals, rates));
    assert_eq!(
        zeroed["ip_vs_stats_percpu"],
        ip_vs_stats_percpu(&processors, totals, rates)
    );
}

#[test]
fn names_without_a_printer_are_refused_by_name() {
    for (name, file) in [
        ("ip_vs", ProcFile::IpVs),
        ("ip_vs_stats", ProcFile::Stats),
        ("ip_vs_stats_percpu", ProcFile::StatsPercpu),
    ] {
        assert_eq!(ProcFile::from_name(name), Ok(file));
        assert!(ALL.contains(name));
    }
    for file in [ConnFile::IpVsConn, ConnFile::IpVsConnSync] {
        assert_eq!(ProcFile::from_name(file.name()), Ok(ProcFile::Conns(file)));
    }
    for name in NOT_YET {
        assert_eq!(ProcFile::from_name(name), Err(ProcError::NotYet(name)));
    }
    assert!(matches!(
        ProcFile::from_name("../passwd"),
        Err(ProcError::Unknown(_))
    ));
}

fn address(protocol: Protocol, addr: &str) -> ServiceKey {
    ServiceKey::Address {
        protocol,
        addr: addr.parse().unwrap(),
    }
}

fn service(key: ServiceKey, scheduler: Option<Scheduler>) -> ServiceEntry {
    let spec = ServiceSpec {
        scheduler,
        flags: ServiceFlags(0),
        timeout_secs: 0,
        netmask: u32::MAX,
        pe_name: None,
    };
    ServiceEntry {
        key,
        spec,
        stats: Stats::default(),
        rates: Rates::default(),
        servers: Vec::new(),
    }
}

fn server(key: &str, method: ForwardMethod, weight: u32) -> ServerEntry {
    ServerEntry {
        key: key.parse().unwrap(),
        spec: ServerSpec {
            method,
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
        },
        active: 3,
        inactive: 4,
        persistent: 0,
        stats: Stats::default(),
        rates: Rates::default(),
        local: false,
    }
}

fn conn(
    protocol: u8,
    client: &str,
    virt: &str,
    dest: &str,
    state: u8,
    expires_secs: u32,
) -> ConnEntry {
    ConnEntry {
        protocol,
        client: client.parse().unwrap(),
        virt: virt.parse().unwrap(),
        dest: dest.parse().unwrap(),
        flags: ConnFlags(0),
        state,
        expires_secs,
        in_pkts: 1,
        controls: 0,
        fwmark: 0,
        bound: true,
        pe: None,
    }
}

fn stats([conns, in_pkts, out_pkts, in_bytes, out_bytes]: [u64; 5]) -> Stats {
    Stats {
        conns,
        in_pkts,
        out_pkts,
        in_bytes,
        out_bytes,
    }
}

/// Files in which tables of kernel directors stand.
fn recordings() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recorded = here.join("../syncproto/tests/golden");
    let mut paths = vec![here.join("tests/golden/listings.json")];
    for directory in ["sync", "inject"] {
        for entry in fs::read_dir(recorded.join(directory)).unwrap() {
            paths.push(entry.unwrap().path());
        }
    }
    paths.retain(|path| path.extension().is_some_and(|it| it == "json"));
    assert!(paths.len() > 60);
    paths
}

fn collect_tables(value: &Value, tables: &mut Vec<(ConnFile, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("ip_vs_conn", Value::String(text)) => {
                        tables.push((ConnFile::IpVsConn, text.clone()));
                    }
                    ("ip_vs_conn_sync", Value::String(text)) => {
                        tables.push((ConnFile::IpVsConnSync, text.clone()));
                    }
                    (_, field) => collect_tables(field, tables),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                collect_tables(value, tables);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The entry that a recorded row is of.
fn read_row(row: &str, file: ConnFile) -> ConnEntry {
    let words: Vec<&str> = row.split_whitespace().collect();
    let protocol = match words[0] {
        "IP" => 0,
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        other => panic!("{other}"),
    };
    let end = |at: usize| {
        let ip: IpAddr = if words[at].len() == 8 {
            Ipv4Addr::from_bits(u32::from_str_radix(words[at], 16).unwrap()).into()
        } else {
            words[at].parse::<Ipv6Addr>().unwrap().into()
        };
        (ip, u16::from_str_radix(words[at + 1], 16).unwrap()).into()
    };
    let named = |template| (0..16).find(|state| state_name(protocol, template, *state) == words[7]);
    let is_template = named(false).is_none();
    let mut flags = 0;
    if is_template {
        flags |= ConnFlags::TEMPLATE;
    }
    if file == ConnFile::IpVsConnSync && words[8] == "SYNC" {
        flags |= ConnFlags::SYNC;
    }
    let expires = match file {
        ConnFile::IpVsConn => 8,
        ConnFile::IpVsConnSync => 9,
    };
    ConnEntry {
        protocol,
        client: end(1),
        virt: end(3),
        dest: end(5),
        flags: ConnFlags(flags),
        state: named(is_template).unwrap_or_else(|| panic!("{row}")),
        expires_secs: words[expires].parse().unwrap(),
        in_pkts: 0,
        controls: 0,
        fwmark: 0,
        bound: true,
        pe: words.get(expires + 1).map(|name| {
            let data = words[expires + 2];
            Box::new(Pe::new(name.as_bytes(), data.as_bytes()).unwrap())
        }),
    }
}
