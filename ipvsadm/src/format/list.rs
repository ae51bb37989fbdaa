//! The tables of `-L`.
//!
//! Columns are padded to the right, so lines end in blanks, and names are cut to their column;
//! both are part of what scripts have come to read.

use ipvs_control::{Info, ServerEntry, ServiceEntry};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::ServiceKey;

use super::save;
use super::{
    NamesOrNumbers, endpoint, netmask, protocol_of, rate, scheduler_flags, scheduler_name, stats,
};
use crate::args::Tunnel;
use crate::command::Columns;

/// Width of a service's name, and where an IPv4 one is cut.
const SERVICE_WIDTH: usize = 33;
/// Width of a server's name, and where an IPv4 one is cut.
const SERVER_WIDTH: usize = 28;
/// Where every other service name is cut: the original builds it in 60 bytes.
const SERVICE_NAME_MAX: usize = 59;

/// How to print a table.
#[derive(Clone, Copy)]
pub struct View<'n> {
    pub columns: Columns,
    pub names: NamesOrNumbers<'n>,
    pub exact: bool,
}

/// First line of a listing of all services.
pub fn head(info: &Info) -> String {
    let [_, major, minor, patch] = info.version.to_be_bytes();
    format!(
        "IP Virtual Server version {major}.{minor}.{patch} (size={})\n",
        info.conn_table_size
    )
}

/// The two title lines and the services in the order given.
pub fn table(services: &[ServiceEntry], view: &View<'_>) -> String {
    let mut text = title(view.columns);
    for service in services {
        text += &service_line(service, view);
        for server in &service.servers {
            text += &server_line(server, protocol_of(&service.key), view);
        }
    }
    text
}

fn title(columns: Columns) -> String {
    let plain =
        "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward ";
    let short = "  -> RemoteAddress:Port\n";
    match columns {
        Columns::Plain => format!("{plain}Weight ActiveConn InActConn\n"),
        Columns::TunnelInfo => format!("{plain}TunnelInfo    Weight ActiveConn InActConn\n"),
        Columns::Stats => stats::title() + short,
        Columns::Rate => rate::title() + short,
        Columns::Thresholds => format!(
            "{:<33} {:<10} {:<10} {:<10} {:<10}\n{short}",
            "Prot LocalAddress:Port", "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
        ),
        Columns::PersistentConn => format!(
            "{:<33} {:<9} {:<11} {:<10} {:<10}\n{short}",
            "Prot LocalAddress:Port", "Weight", "PersistConn", "ActiveConn", "InActConn"
        ),
    }
}

fn service_line(service: &ServiceEntry, view: &View<'_>) -> String {
    let name = service_name(&service.key, view.names);
    let counters = match view.columns {
        Columns::Stats => stats::columns(&service.stats, view.exact),
        Columns::Rate => rate::service_columns(&service.rates, view.exact),
        Columns::Plain | Columns::Thresholds | Columns::PersistentConn | Columns::TunnelInfo => {
            return format!("{name} {}\n", service_flags(service));
        }
    };
    format!("{name:<SERVICE_WIDTH$}{counters}\n")
}

fn service_name(key: &ServiceKey, names: NamesOrNumbers<'_>) -> String {
    match key {
        ServiceKey::Address { protocol, addr } => {
            let name = format!(
                "{:<4} {}",
                protocol.name(),
                endpoint(*addr, Some(*protocol), names)
            );
            cut(
                &name,
                if addr.is_ipv4() {
                    SERVICE_WIDTH
                } else {
                    SERVICE_NAME_MAX
                },
            )
        }
        // The original prints the mark as a signed number.
        ServiceKey::Fwmark { mark, ipv6: false } => format!("FWM  {}", mark.cast_signed()),
        ServiceKey::Fwmark { mark, ipv6: true } => format!("FWM  {} IPv6", mark.cast_signed()),
    }
}

fn service_flags(service: &ServiceEntry) -> String {
    let spec = &service.spec;
    let mut text = String::from(scheduler_name(spec));
    if let Some(flags) = scheduler_flags(spec) {
        text += &format!(" ({flags})");
    }
    if spec.flags.contains(ServiceFlags::PERSISTENT) {
        text += &format!(" persistent {}", spec.timeout_secs);
        if let Some(mask) = netmask(&service.key, spec) {
            text += &format!(" mask {mask}");
        }
        if let Some(engine) = &spec.pe_name {
            text += &format!(" pe {engine}");
        }
    }
    if spec.flags.contains(ServiceFlags::ONEPACKET) {
        text += " ops";
    }
    text
}

fn server_line(server: &ServerEntry, protocol: Option<Protocol>, view: &View<'_>) -> String {
    let name = endpoint(server.key, protocol, view.names);
    let name = if server.key.is_ipv4() {
        cut(&name, SERVER_WIDTH)
    } else {
        name
    };
    let ServerEntry {
        active,
        inactive,
        persistent,
        ..
    } = server;
    let weight = server.spec.weight;
    let columns = match view.columns {
        Columns::Plain => {
            format!(
                " {:<7} {weight:<6} {active:<10} {inactive:<10}",
                method_name(server)
            )
        }
        Columns::TunnelInfo => format!(
            " {:<7} {:<13} {weight:<6} {active:<10} {inactive:<10}",
            method_name(server),
            tunnel_info(server)
        ),
        Columns::Stats => stats::columns(&server.stats, view.exact),
        Columns::Rate => rate::server_columns(&server.rates, view.exact),
        Columns::Thresholds => format!(
            " {:<10} {:<10} {active:<10} {inactive:<10}",
            server.spec.upper_threshold, server.spec.lower_threshold
        ),
        Columns::PersistentConn => {
            format!(" {weight:<9} {persistent:<11} {active:<10} {inactive:<10}")
        }
    };
    format!("  -> {name:<SERVER_WIDTH$}{columns}\n")
}

fn method_name(server: &ServerEntry) -> &'static str {
    if server.local {
        ForwardMethod::LocalNode.name()
    } else {
        server.spec.method.name()
    }
}

fn tunnel_info(server: &ServerEntry) -> String {
    if server.spec.method == ForwardMethod::Tunnelling && !server.local {
        save::tunnel_info(&Tunnel::IPIP)
    } else {
        "n/a".into()
    }
}

fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}
