//! Datagrams that a kernel's master sent, replayed into a backup: its table is the one that the
//! kernel's own backup had. The captures and tables are those of `syncproto/tests/golden/sync`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::{DataPlane, Edit};
use ha_manager::config::SyncTunables;
use ha_manager::sync::SyncDaemons;
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::state::state_name;
use ipvs_model::sync::{SyncRole, SyncSpec};
use serde_json::Value;

use crate::host::Host;

/// Captures that need what the data plane does not have yet. Those whose services alone it cannot
/// have are replayed without them.
const NOT_YET: [(&str, &str); 17] = [
    ("m_ipv6_mcast", "IPv6 group"),
    ("t_persist_refresh", "templates"),
    ("v0_ftp", "FTP helper"),
    ("v0_persist", "templates"),
    ("v1_ftp_active", "FTP helper"),
    ("v1_ftp_passive", "FTP helper"),
    ("v1_fwmark_persist", "templates"),
    ("v1_mixed_family", "IPv6"),
    ("v1_persist_port0", "templates"),
    ("v1_sctp", "SCTP"),
    ("v1_sip_pe", "SIP helper"),
    ("v1_sip_pe_ops", "SIP helper"),
    ("v1_tcp6_dr_persist", "IPv6"),
    ("v1_tcp6_nat", "IPv6"),
    ("v1_tcp_persist", "templates"),
    ("v1_tcp_persist_mode1", "templates"),
    ("v1_tcp_tun", "tunnels"),
];
/// Their services cannot be had yet: firewall marks, a real server on the director's own address,
/// and IPv6.
const NO_SERVICES: [&str; 3] = ["v1_fwmark", "v1_localnode", "v0_tcp6"];

const LIMIT: Duration = Duration::from_secs(20);
/// Seconds by which timers may differ: the kernel's table was read some time after the last
/// datagram.
const TIMER_TOLERANCE: u32 = 8;

#[test]
fn captures_leave_the_tables_that_the_kernels_backup_had() {
    let mut replays = Vec::new();
    let mut seen = BTreeSet::new();
    for path in captures() {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if let Some((_, reason)) = NOT_YET.iter().find(|(known, _)| *known == name) {
            println!("not yet: {name}: {reason}");
            seen.insert(name);
            continue;
        }
        let capture: Arc<Value> =
            Arc::new(serde_json::from_slice(&fs::read(&path).unwrap()).unwrap());
        if NO_SERVICES.contains(&name.as_str()) {
            println!("not yet: {name}: its services");
        } else {
            replays.push((name.clone(), Arc::clone(&capture), "replay_with_services"));
        }
        replays.push((name, capture, "replay_without_services"));
    }
    assert_eq!(seen.len(), NOT_YET.len(), "{seen:?}");
    println!(
        "{} replays, {} captures not yet",
        replays.len(),
        NOT_YET.len()
    );
    assert!(replays.len() >= 40, "{}", replays.len());
    // Each in a network of its own, which ends with its thread; two at a time.
    for pair in replays.chunks(2) {
        let run = |(name, capture, kind): &(String, Arc<Value>, &'static str)| {
            let (title, capture, kind) = (format!("{name}, {kind}"), Arc::clone(capture), *kind);
            thread::spawn(move || replay(&title, &capture, kind))
        };
        let threads: Vec<_> = pair.iter().map(run).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

fn captures() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../syncproto/tests/golden/sync");
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .collect();
    files.sort();
    assert!(files.len() >= 42, "{}", files.len());
    files
}

fn replay(title: &str, capture: &Value, kind: &str) {
    let replay = &capture[kind];
    let host = Host::new();
    let mut plane = host.open();
    if kind == "replay_with_services" {
        configure(&mut plane, capture);
    }
    let mut sync = SyncDaemons::new(SyncTunables::default(), Duration::from_millis(5));
    sync.prepare(&mut plane);
    let spec = daemon_spec(replay["daemon"].as_str().unwrap());
    sync.start(&mut plane, SyncRole::Backup, &spec).unwrap();
    let (_, running) = sync.list().remove(0);
    let payloads: Vec<Vec<u8>> = capture["datagrams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|datagram| unhex(datagram["hex"].as_str().unwrap()))
        .collect();
    let count = payloads.len() as u64;
    host.send(payloads, running.group.unwrap(), running.port);
    let deadline = Instant::now() + LIMIT;
    while heard(&sync) < count {
        assert!(Instant::now() < deadline, "{title}: heard {}", heard(&sync));
        thread::sleep(Duration::from_millis(1));
    }
    // Stopping applies what was received.
    sync.stop(&mut plane, SyncRole::Backup).unwrap();
    let (ours, next) = plane.connections(0, usize::MAX);
    assert_eq!(next, None);
    compare(title, &ours, replay["ip_vs_conn_sync"].as_str().unwrap());
    compare_counts(title, &plane, replay["ipvsadm_Ln"].as_str().unwrap());
}

/// Datagrams that came out of the socket.
fn heard(sync: &SyncDaemons) -> u64 {
    let counters = sync.status().remove(0).counters;
    counters
        .iter()
        .filter(|(name, _)| *name == "messages" || name.starts_with("refused_message"))
        .map(|(_, count)| count)
        .sum()
}

/// Rows without their timers, which may differ a little.
type Rows = BTreeMap<String, u32>;

fn compare(title: &str, ours: &[ConnEntry], kernels: &str) {
    let hex = |addr: &SocketAddr| match addr {
        SocketAddr::V4(addr) => format!("{:08X} {:04X}", u32::from(*addr.ip()), addr.port()),
        SocketAddr::V6(addr) => panic!("{addr}"),
    };
    let ours: Rows = ours
        .iter()
        .map(|entry| {
            let protocol = Protocol::from_number(entry.protocol).unwrap();
            let origin = if entry.flags.contains(ConnFlags::SYNC) {
                "SYNC"
            } else {
                "LOCAL"
            };
            let row = format!(
                "{} {} {} {} {} {origin}",
                protocol.name(),
                hex(&entry.client),
                hex(&entry.virt),
                hex(&entry.dest),
                state_name(entry.protocol, false, entry.state),
            );
            (row, entry.expires_secs)
        })
        .collect();
    let kernels: Rows = kernels
        .lines()
        .skip(1)
        .map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            let expires = words.pop().unwrap().parse().unwrap();
            (words.join(" "), expires)
        })
        .collect();
    let rows = |table: &Rows| table.keys().cloned().collect::<Vec<_>>();
    assert_eq!(rows(&ours), rows(&kernels), "{title}");
    for (row, expires) in &ours {
        let theirs = kernels[row];
        assert!(
            expires.abs_diff(theirs) <= TIMER_TOLERANCE,
            "{title}: {row}: {expires} s, the kernel {theirs} s"
        );
    }
}

/// Active and inactive connections of every server, as `ipvsadm -Ln` lists them.
fn compare_counts(title: &str, plane: &DataPlane, kernels: &str) {
    let mut theirs = BTreeMap::new();
    let servers = kernels.lines().filter(|line| line.starts_with("  -> "));
    for line in servers.filter(|line| !line.contains("RemoteAddress")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, server, _, _, active, inactive] = words[..] else {
            panic!("{title}: {line}");
        };
        theirs.insert(server.to_owned(), (active.to_owned(), inactive.to_owned()));
    }
    let mut ours = BTreeMap::new();
    for view in plane.list(None).unwrap() {
        for (server, counts) in view.service.servers.iter().zip(&view.servers) {
            let pair = (counts.active.to_string(), counts.inactive.to_string());
            ours.insert(server.key.to_string(), pair);
        }
    }
    if !ours.is_empty() {
        assert_eq!(ours, theirs, "{title}");
    }
}

/// The services that the capture's commands made.
fn configure(plane: &mut DataPlane, capture: &Value) {
    let commands = capture["commands"].as_array().unwrap();
    for command in commands.iter().filter(|command| command["on"] == "di") {
        let words: Vec<&str> = command["cmd"]
            .as_str()
            .unwrap()
            .split_whitespace()
            .collect();
        let (["ipvsadm", verb @ ("-A" | "-a"), kind, virt], rest) =
            (words.get(..4).unwrap_or_default(), words.get(4..))
        else {
            continue;
        };
        let protocol = match *kind {
            "-t" => Protocol::Tcp,
            "-u" => Protocol::Udp,
            other => panic!("{other}"),
        };
        let service = ServiceKey::Address {
            protocol,
            addr: virt.parse().unwrap(),
        };
        let edit = if *verb == "-A" {
            add_service(service)
        } else {
            add_server(service, rest.unwrap())
        };
        plane.edit(&edit).unwrap();
    }
}

fn add_service(key: ServiceKey) -> Edit {
    Edit::AddService {
        key,
        spec: ServiceSpec {
            scheduler: Some(Scheduler::Rr),
            flags: ServiceFlags(0),
            timeout_secs: 0,
            netmask: u32::MAX,
            pe_name: None,
        },
    }
}

fn add_server(service: ServiceKey, words: &[&str]) -> Edit {
    let at = words.iter().position(|word| *word == "-r").unwrap();
    let method = if words.contains(&"-g") {
        ForwardMethod::DirectRouting
    } else {
        ForwardMethod::Masquerading
    };
    Edit::AddServer {
        service,
        server: words[at + 1].parse().unwrap(),
        spec: ServerSpec {
            method,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        },
    }
}

/// What the kernel's backup was started with.
fn daemon_spec(command: &str) -> SyncSpec {
    let words: Vec<&str> = command.split_whitespace().collect();
    let value = |option: &str| {
        let at = words.iter().position(|word| *word == option)?;
        words.get(at + 1).copied()
    };
    SyncSpec {
        interface: "sync0".into(),
        sync_id: value("--syncid").unwrap().parse().unwrap(),
        // A backup's has to be that of its master at least; the kernel takes less for the least.
        maxlen: value("--sync-maxlen").map_or(0, |value| value.parse().unwrap()),
        group: value("--mcast-group").map(|value| value.parse().unwrap()),
        port: value("--mcast-port").map_or(0, |value| value.parse().unwrap()),
        ttl: value("--mcast-ttl").map_or(0, |value| value.parse().unwrap()),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}
