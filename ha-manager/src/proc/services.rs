//! Text of `ip_vs` (`ip_vs_ctl.c: ip_vs_info_seq_show`).

use std::fmt::{self, Write};
use std::net::SocketAddr;

use ipvs_control::{Info, ServerEntry, ServiceEntry};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::service::ServiceKey;

use super::hex_addr;

/// Unit: ticks per second. Debian's `CONFIG_HZ`, in which `ip_vs` shows persistence timeouts.
const HZ: u64 = 250;

/// The whole of `ip_vs`: services with an address first, then mark services.
pub fn ip_vs(info: Info, services: &[ServiceEntry]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_ip_vs(&mut text, info, services);
    text
}

fn write_ip_vs(to: &mut String, info: Info, services: &[ServiceEntry]) -> fmt::Result {
    let [_, major, minor, patch] = info.version.to_be_bytes();
    let size = info.conn_table_size;
    writeln!(
        to,
        "IP Virtual Server version {major}.{minor}.{patch} (size={size})"
    )?;
    to.push_str("Prot LocalAddress:Port Scheduler Flags\n");
    to.push_str("  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n");
    let (addresses, marks): (Vec<_>, Vec<_>) = services
        .iter()
        .partition(|service| matches!(service.key, ServiceKey::Address { .. }));
    for service in addresses.into_iter().chain(marks) {
        write_service(to, service)?;
        for server in &service.servers {
            write_server(to, server)?;
        }
    }
    Ok(())
}

fn write_service(to: &mut String, service: &ServiceEntry) -> fmt::Result {
    match service.key {
        ServiceKey::Address { protocol, addr } => {
            write!(to, "{}  {}", protocol.name(), bracketed(addr))?;
        }
        ServiceKey::Fwmark { mark, .. } => write!(to, "FWM  {mark:08X}")?,
    }
    let spec = &service.spec;
    write!(
        to,
        " {} ",
        spec.scheduler.map_or("none", |scheduler| scheduler.name())
    )?;
    let has_address = matches!(service.key, ServiceKey::Address { .. });
    let shows_ops = !(has_address && service.key.is_ipv6());
    if shows_ops && spec.flags.contains(ServiceFlags::ONEPACKET) {
        to.push_str("ops ");
    }
    // The kernel's format for an IPv4 address ends in a blank of its own.
    if has_address && shows_ops {
        to.push(' ');
    }
    if spec.flags.contains(ServiceFlags::PERSISTENT) {
        let ticks = u64::from(spec.timeout_secs) * HZ;
        // The kernel keeps an IPv6 prefix length as a number and prints it as if it were a mask.
        let mask = if service.key.is_ipv6() {
            spec.netmask.swap_bytes()
        } else {
            spec.netmask
        };
        write!(to, "persistent {ticks} {mask:08X}")?;
    }
    to.push('\n');
    Ok(())
}

fn write_server(to: &mut String, server: &ServerEntry) -> fmt::Result {
    let method = if server.local {
        ForwardMethod::LocalNode
    } else {
        server.spec.method
    };
    writeln!(
        to,
        "  -> {}      {:<7} {:<6} {:<10} {:<10}",
        bracketed(server.key),
        method.name(),
        server.spec.weight,
        server.active,
        server.inactive,
    )
}

/// Address and port; an IPv6 address stands in brackets.
fn bracketed(addr: SocketAddr) -> String {
    let hex = hex_addr(addr.ip());
    let port = addr.port();
    if addr.is_ipv6() {
        format!("[{hex}]:{port:04X}")
    } else {
        format!("{hex}:{port:04X}")
    }
}
