//! Carries out the commands of recordings: `ipvsadm` with the options that occur there, settings
//! written to `/proc`, and one `nft` rule that marks packets.

use std::net::{IpAddr, SocketAddr};

use dataplane::{DataPlane, Edit, MarkRule, Tunable};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};

/// A command as one line.
pub fn carry_out(plane: &mut DataPlane, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words[0] {
        "echo" => {
            let name = words[2].rsplit('/').next().unwrap();
            plane.set_tunable(tunable(name), words[1].parse().unwrap());
        }
        "ipvsadm" => ipvsadm(plane, &words[1..]),
        other => panic!("command {other}"),
    }
}

/// What the tunnels need, this director cannot do yet.
pub fn is_tunnelling(command: &str) -> bool {
    command.split_whitespace().any(|word| word == "-i")
}

pub fn tunable(name: &str) -> Tunable {
    match name {
        "conn_reuse_mode" => Tunable::ConnReuseMode,
        "expire_nodest_conn" => Tunable::ExpireNodestConn,
        "secure_tcp" => Tunable::SecureTcp,
        "sloppy_tcp" => Tunable::SloppyTcp,
        "sloppy_sctp" => Tunable::SloppySctp,
        other => panic!("tunable {other}"),
    }
}

/// `nft` with one rule `ip daddr PREFIX meta mark set MARK`: the same as a rule of the director.
pub fn mark_rule(command: &str) -> MarkRule {
    let words: Vec<&str> = command.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|one| *one == word).unwrap();
        words[at + 1].trim_end_matches(['\'', ';'])
    };
    assert!(command.starts_with("nft ") && command.matches("add rule").count() == 1);
    let (addr, len) = after("daddr").split_once('/').unwrap();
    MarkRule {
        ipv6: false,
        protocol: None,
        destination: Some((addr.parse().unwrap(), len.parse().unwrap())),
        source: None,
        ports: None,
        mark: after("set").parse().unwrap(),
    }
}

/// `ipvsadm` with these arguments; it must succeed.
pub fn ipvsadm(plane: &mut DataPlane, words: &[&str]) {
    let edit = parse(words);
    plane
        .edit(&edit)
        .unwrap_or_else(|error| panic!("{words:?}: {error:?}"));
}

/// The value after an option.
fn after<'a>(words: &[&'a str], option: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == option);
    at.map(|at| words[at + 1])
}

pub fn service_of(words: &[&str]) -> ServiceKey {
    let options = [
        ("-t", Protocol::Tcp),
        ("-u", Protocol::Udp),
        ("--sctp-service", Protocol::Sctp),
    ];
    for (option, protocol) in options {
        if let Some(addr) = after(words, option) {
            let addr = addr.parse().unwrap();
            return ServiceKey::Address { protocol, addr };
        }
    }
    let mark = after(words, "-f").unwrap_or_else(|| panic!("service of {words:?}"));
    ServiceKey::Fwmark {
        mark: mark.parse().unwrap(),
        ipv6: words.contains(&"-6"),
    }
}

fn parse(words: &[&str]) -> Edit {
    let key = service_of(words);
    let service = key;
    match words[0] {
        "-A" => Edit::AddService {
            key,
            spec: service_spec(&key, words),
        },
        "-E" => Edit::EditService {
            key,
            spec: service_spec(&key, words),
        },
        "-D" => Edit::DeleteService { key },
        "-a" => Edit::AddServer {
            service,
            server: server(&key, words),
            spec: server_spec(words),
        },
        "-e" => Edit::EditServer {
            service,
            server: server(&key, words),
            spec: server_spec(words),
        },
        "-d" => Edit::DeleteServer {
            service,
            server: server(&key, words),
        },
        other => panic!("ipvsadm {other}"),
    }
}

fn service_spec(key: &ServiceKey, words: &[&str]) -> ServiceSpec {
    let mut flags = 0;
    let mut timeout_secs = 0;
    if let Some(at) = words.iter().position(|word| *word == "-p") {
        flags |= ServiceFlags::PERSISTENT;
        timeout_secs = words
            .get(at + 1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(360);
    }
    if words.contains(&"-o") {
        flags |= ServiceFlags::ONEPACKET;
    }
    for name in after(words, "-b").unwrap_or_default().split(',') {
        flags |= match name {
            "" => 0,
            "sh-fallback" | "mh-fallback" | "flag-1" => ServiceFlags::SCHED1,
            "sh-port" | "mh-port" | "flag-2" => ServiceFlags::SCHED2,
            other => panic!("scheduler flag {other}"),
        };
    }
    let netmask = match after(words, "-M") {
        Some(mask) => match mask.parse::<std::net::Ipv4Addr>() {
            Ok(mask) => u32::from(mask),
            Err(_) => mask.parse().unwrap(),
        },
        None if key.is_ipv6() => 128,
        None => u32::MAX,
    };
    let scheduler = after(words, "-s").unwrap_or("wlc");
    ServiceSpec {
        scheduler: Some(Scheduler::from_name(scheduler).unwrap_or_else(|| panic!("{scheduler}"))),
        flags: ServiceFlags(flags),
        timeout_secs,
        netmask,
        pe_name: None,
    }
}

/// Without a port the server has the service's.
fn server(key: &ServiceKey, words: &[&str]) -> SocketAddr {
    let text = after(words, "-r").unwrap_or_else(|| panic!("server of {words:?}"));
    let port = match key {
        ServiceKey::Address { addr, .. } => addr.port(),
        ServiceKey::Fwmark { .. } => 0,
    };
    let without = || {
        let addr: IpAddr = text.trim_matches(['[', ']']).parse().unwrap();
        SocketAddr::new(addr, port)
    };
    text.parse().unwrap_or_else(|_| without())
}

fn server_spec(words: &[&str]) -> ServerSpec {
    let number = |option, default| after(words, option).map_or(default, |one| one.parse().unwrap());
    let method = if words.contains(&"-m") {
        ForwardMethod::Masquerading
    } else {
        ForwardMethod::DirectRouting
    };
    ServerSpec {
        method,
        weight: number("-w", 1),
        upper_threshold: number("-x", 0),
        lower_threshold: number("-y", 0),
    }
}
