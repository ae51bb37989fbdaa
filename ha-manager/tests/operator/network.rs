//! The network that recordings of listings were made in, folded onto one link: clients and servers are
//! behind the neighbour, virtual addresses are the director's.

use std::fmt::Write;

use crate::host::{Daemon, Host, Neighbour, ip, wait_for};
use crate::wire::Wire;

/// A director in that network.
pub(crate) struct Director {
    pub(crate) wire: Wire,
    pub(crate) daemon: Daemon,
    _neighbour: Neighbour,
}

/// Sets the network up and starts a director with these sections beside `[director]`.
pub(crate) fn director(host: &Host, sections: &str) -> Director {
    let neighbour = Neighbour::new();
    neighbour.ip("addr add fd00:77::2/64 dev lan1 nodad");
    for words in [
        "addr add fd00:77::1/64 dev lan0 nodad",
        "route add 10.100.0.0/16 via 10.77.0.2",
        "route add 10.200.0.0/16 via 10.77.0.2",
        "-6 route add fd00:100::/32 via fd00:77::2",
        "-6 route add fd00:200::/32 via fd00:77::2",
        "route add local 10.50.0.0/16 dev lo",
        "-6 route add local fd00:50::/32 dev lo",
    ] {
        ip(words);
    }
    let mut text = format!(
        "[director]\nname = \"lb1\"\npin_dir = {:?}\ncontrol = {:?}\ninterfaces = [\"lan0\"]\n\
         connections_v4 = 1024\nconnections_v6 = 1024\nservices = 64\nservers = 256\n",
        host.pin_dir(),
        host.socket()
    );
    let _ = writeln!(text, "{sections}");
    let config = host.file("listings.toml", text.as_bytes());
    let daemon = host.start(&config);
    wait_for("the link", || {
        host.status()["interfaces"][0]["link"] == "up"
    });
    Director {
        wire: Wire::open(&neighbour),
        daemon,
        _neighbour: neighbour,
    }
}

/// Services with their servers, in an order of their own.
pub(crate) fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.split_inclusive('\n') {
        let continues = line.starts_with("  ->") || line.starts_with("-a ");
        match blocks.last_mut() {
            Some(block) if continues => block.push_str(line),
            Some(_) | None => blocks.push(line.into()),
        }
    }
    blocks.sort();
    blocks
}

/// A listing without the size of the connection table, which is another thing here.
pub(crate) fn without_size(text: &str) -> String {
    match (text.split_once("(size="), text.split_once(")\n")) {
        (Some((before, _)), Some((_, after))) if text.starts_with("IP Virtual Server") => {
            format!("{before}(size)\n{after}")
        }
        _ => text.to_owned(),
    }
}

/// The rows of `ipvsadm -L -c`, sorted, without what depends on the moment.
pub(crate) fn connections(text: &str) -> Vec<String> {
    let mut rows: Vec<String> = text.lines().map(without_expiry).collect();
    rows.sort();
    rows
}

fn without_expiry(row: &str) -> String {
    match row.split_once(':') {
        Some((before, after)) if before.len() >= 6 && !row.starts_with("pro ") => {
            let protocol = before.split(' ').next().unwrap_or_default();
            format!(
                "{protocol} {}",
                after.get(2..).unwrap_or_default().trim_start()
            )
        }
        Some(_) | None => row.to_owned(),
    }
}
