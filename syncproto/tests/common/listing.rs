//! Listings of the kernel, `/proc/net/ip_vs_conn` and `ipvsadm -Ln`, and the same of the model.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use syncproto::states::state_name;

use super::model::{Backup, Key, Row, Server, Service, ServiceKey};

/// The rows of the model as the kernel lists them, each with the milliseconds left until it ends
/// and those since the last entry about it.
pub(crate) fn rows(backup: &Backup) -> BTreeMap<String, (u64, u64)> {
    let times = |row: &Row| {
        let left = row.deadline_ms - backup.now_ms;
        (left, row.timeout_ms - left)
    };
    let rows = backup.rows.iter();
    rows.map(|(key, row)| (line(key, row), times(row)))
        .collect()
}

/// The rows of a recorded listing, each with its seconds left.
pub(crate) fn listed(recorded: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        let left = words.remove(8).parse().unwrap();
        (words.join(" "), left)
    };
    recorded.lines().skip(1).map(row).collect()
}

/// Active and inactive connections by service and server, as `ipvsadm -Ln` lists them.
pub(crate) fn counts(backup: &Backup) -> BTreeMap<(String, String), [i64; 2]> {
    let mut counts = BTreeMap::new();
    for service in &backup.services {
        let name = match service.key {
            ServiceKey::Address { protocol, addr } => format!("{} {addr}", protocol_name(protocol)),
            ServiceKey::Mark { mark, ipv6: false } => format!("FWM {mark}"),
            ServiceKey::Mark { mark, ipv6: true } => format!("FWM {mark} IPv6"),
        };
        for server in &service.servers {
            let numbers = [server.active, server.total - server.active];
            counts.insert((name.clone(), server.addr.to_string()), numbers);
        }
    }
    counts
}

/// The same of a recorded listing.
pub(crate) fn listed_counts(recorded: &str) -> BTreeMap<(String, String), [i64; 2]> {
    let mut counts = BTreeMap::new();
    let mut service = String::new();
    for line in recorded.lines().skip(3) {
        let words: Vec<_> = line.split_whitespace().collect();
        if words[0] == "->" {
            let numbers = [words[4], words[5]].map(|word| word.parse().unwrap());
            counts.insert((service.clone(), words[1].to_owned()), numbers);
        } else {
            let ipv6 = if words[0] == "FWM" && words[2] == "IPv6" {
                " IPv6"
            } else {
                ""
            };
            service = format!("{} {}{ipv6}", words[0], words[1]);
        }
    }
    counts
}

/// Does to the model's services what commands of `ipvsadm` did to the kernel's; other commands are
/// passed over.
pub(crate) fn configure(backup: &mut Backup, commands: &str) {
    for command in commands.split(';') {
        let words: Vec<_> = command.split_whitespace().collect();
        if words.first() != Some(&"ipvsadm") {
            continue;
        }
        let after = |option: &str| {
            let at = words.iter().position(|word| *word == option)?;
            words.get(at + 1).copied()
        };
        let address = |text: &str| match text.parse::<SocketAddr>() {
            Ok(addr) => addr,
            Err(_) => SocketAddr::new(text.trim_matches(['[', ']']).parse::<IpAddr>().unwrap(), 0),
        };
        let by_address = |option, protocol| {
            let addr = address(after(option)?);
            Some(ServiceKey::Address { protocol, addr })
        };
        let by_mark = || {
            let mark = after("-f")?.parse().unwrap();
            let ipv6 = words.contains(&"-6");
            Some(ServiceKey::Mark { mark, ipv6 })
        };
        let key = by_address("-t", 6)
            .or_else(|| by_address("-u", 17))
            .or_else(|| by_address("--sctp-service", 132))
            .or_else(by_mark);
        let Some(key) = key else { continue };
        match words[1] {
            "-A" => backup.services.push(Service {
                key,
                servers: Vec::new(),
            }),
            "-a" => {
                let method = words.iter().find_map(|word| match *word {
                    "-m" => Some(0),
                    "-i" => Some(2),
                    "-g" => Some(3),
                    _ => None,
                });
                let mut addr = address(after("-r").unwrap());
                let vport = match key {
                    ServiceKey::Address { addr, .. } => addr.port(),
                    ServiceKey::Mark { .. } => 0,
                };
                if addr.port() == 0 {
                    addr.set_port(vport);
                }
                let service = backup.services.iter_mut().find(|s| s.key == key).unwrap();
                let server = Server {
                    addr,
                    method: method.unwrap_or(3),
                    active: 0,
                    total: 0,
                    persistent: 0,
                };
                service.servers.insert(0, server);
            }
            other => panic!("{other}: {command}"),
        }
    }
}

fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        0 => "IP",
        6 => "TCP",
        17 => "UDP",
        50 => "ESP",
        51 => "AH",
        132 => "SCTP",
        other => panic!("protocol {other} is in no recording"),
    }
}

fn line(key: &Key, row: &Row) -> String {
    let mut line = protocol_name(key.protocol).to_owned();
    for end in [row.client, key.virt, row.dest] {
        match end.ip() {
            IpAddr::V4(ip) => write!(line, " {:08X}", Ipv4Addr::to_bits(ip)).unwrap(),
            IpAddr::V6(ip) => {
                let groups = Ipv6Addr::segments(&ip).map(|group| format!("{group:04x}"));
                write!(line, " {}", groups.join(":")).unwrap();
            }
        }
        write!(line, " {:04X}", end.port()).unwrap();
    }
    let state = state_name(key.protocol, key.template, row.state.into());
    write!(line, " {state}").unwrap();
    if !row.engine.is_empty() {
        let words = [&row.engine, &key.engine_data].map(|bytes| String::from_utf8(bytes.clone()));
        let [name, data] = words.map(Result::unwrap);
        write!(line, " {name} {data}").unwrap();
    }
    line
}
