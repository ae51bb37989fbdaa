//! Datagrams that a kernel's master sent, replayed into a backup: its listings are those that the
//! kernel's own backup had. The captures are those of `syncproto/tests/golden/sync`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::director::Backup;
use crate::golden::{Recording, list, option, payload, recordings, text};
use crate::workers::on_each;

/// Captures whose services need what the director does not have yet; without services they are
/// replayed like all others.
const NOT_YET: [(&str, &str); 3] = [
    ("v1_sip_pe", "persistence engine"),
    ("v1_sip_pe_ops", "persistence engine"),
    ("v1_tcp_tun", "tunnels"),
];

/// Captures of a master with more ports than one: as many as its backup needs.
const PORTS: [(&str, &str); 1] = [("m_sync_ports4", "[sysctl]\nsync_ports = 4")];

/// Directors that the replays are shared out to. They wait most of the time, for timers.
const DIRECTORS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WithServices,
    WithoutServices,
}

impl Kind {
    const fn key(self) -> &'static str {
        match self {
            Kind::WithServices => "replay_with_services",
            Kind::WithoutServices => "replay_without_services",
        }
    }
}

#[test]
fn captures_leave_the_listings_that_the_kernels_backup_had() {
    let captures = recordings("sync");
    assert_eq!(captures.len(), 42);
    let kinds = [Kind::WithServices, Kind::WithoutServices];
    let all = captures
        .iter()
        .flat_map(|capture| kinds.map(|kind| (capture.clone(), kind)));
    let (later, replays): (Vec<_>, Vec<_>) =
        all.partition(|(capture, kind)| *kind == Kind::WithServices && is_later(&capture.name));
    let later: BTreeSet<String> = later.into_iter().map(|(capture, _)| capture.name).collect();
    assert_eq!(later.len(), NOT_YET.len());
    for (name, reason) in NOT_YET {
        println!("not yet: {name}, with services: {reason}");
    }
    println!("{} replays, {} not yet", replays.len(), NOT_YET.len());
    assert_eq!(replays.len(), 81);
    let (of_ports, of_one): (Vec<_>, Vec<_>) = replays
        .into_iter()
        .partition(|(capture, _)| PORTS.iter().any(|(name, _)| *name == capture.name));
    assert_eq!(of_ports.len(), 2 * PORTS.len());
    let mut wrong = replay_all(DIRECTORS, of_one, "");
    for (name, settings) in PORTS {
        let its = of_ports.iter().filter(|(capture, _)| capture.name == name);
        wrong.extend(replay_all(1, its.cloned().collect(), settings));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// On so many directors of these settings.
fn replay_all(directors: usize, replays: Vec<(Recording, Kind)>, settings: &str) -> Vec<String> {
    let backup = || Backup::new(settings);
    on_each(directors, replays, backup, |backup, (capture, kind)| {
        let wrong = replay(backup, &capture, kind);
        backup.empty();
        wrong
    })
}

fn is_later(name: &str) -> bool {
    NOT_YET.iter().any(|(known, _)| *known == name)
}

fn replay(backup: &mut Backup, capture: &Recording, kind: Kind) -> Vec<String> {
    let recorded = &capture.json[kind.key()];
    let title = format!("{}, {}", capture.name, kind.key());
    if kind == Kind::WithServices {
        for line in services(capture) {
            if let Err(error) = backup.command(line) {
                return vec![format!("{title}: {error}")];
            }
        }
    }
    let daemon = text(recorded, "daemon");
    if let Err(error) = backup.command(daemon) {
        return vec![format!("{title}: {error}")];
    }
    let sync_id = option(daemon, "--syncid").unwrap().parse().unwrap();
    let mut groups = BTreeSet::new();
    for datagram in list(&capture.json, "datagrams") {
        let group: IpAddr = text(datagram, "dst").parse().unwrap();
        let port: u16 = datagram["dport"].as_u64().unwrap().try_into().unwrap();
        backup.send(&payload(datagram), group, port);
        groups.insert((group, port));
    }
    for (group, port) in groups {
        backup.settle(sync_id, group, port);
    }
    let found = backup.differences(recorded);
    found
        .iter()
        .map(|what| format!("{title}: {what}"))
        .collect()
}

/// The commands that made the capture's services.
fn services(capture: &Recording) -> impl Iterator<Item = &str> {
    let commands = list(&capture.json, "commands").iter();
    let lines = commands.filter(|command| command["on"] == "di");
    lines
        .map(|command| text(command, "cmd"))
        .filter(|line| line.starts_with("ipvsadm -A") || line.starts_with("ipvsadm -a"))
}
