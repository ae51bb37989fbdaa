//! The rows of `-L -c`.
//!
//! Source: the observed output of 1.31; the state names are those of `/proc/net/ip_vs_conn`.

use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use ipvs_model::protocol::Protocol;
use ipvs_model::state::state_name;

use super::{NamesOrNumbers, endpoint};

/// The title lines; those of `--persistent-conn` announce the persistence engine.
pub fn title(persistence_engine: bool) -> String {
    let head = "IPVS connection entries\n";
    if persistence_engine {
        format!(
            "{head}pro expire {:<11} {:<18} {:<18} {:<18} {:<16} {}\n",
            "state", "source", "virtual", "destination", "pe name", "pe_data"
        )
    } else {
        format!(
            "{head}pro expire {:<11} {:<18} {:<18} {}\n",
            "state", "source", "virtual", "destination"
        )
    }
}

/// The row of one connection or template.
pub fn row(entry: &ConnEntry, names: NamesOrNumbers<'_>) -> String {
    let protocol = Protocol::from_number(entry.protocol);
    let text = |addr| endpoint(addr, protocol, names);
    let template = entry.flags.contains(ConnFlags::TEMPLATE);
    format!(
        "{:<3} {:02}:{:02}  {:<11} {:<18} {:<18} {}\n",
        protocol.map_or_else(
            || other_protocol(entry.protocol),
            |known| known.name().into()
        ),
        entry.expires_secs / 60,
        entry.expires_secs % 60,
        state_name(entry.protocol, template, entry.state),
        text(entry.client),
        text(entry.virt),
        text(entry.dest),
    )
}

/// How the kernel calls protocols that no service can have (`ip_vs_proto.c: ip_vs_proto_name`).
fn other_protocol(number: u8) -> String {
    match number {
        0 => "IP".into(),
        1 => "ICMP".into(),
        58 => "ICMPv6".into(),
        number => format!("IP_{number}"),
    }
}
