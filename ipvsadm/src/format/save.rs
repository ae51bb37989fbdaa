//! The text of `-S`, which `-R` reads back.
//!
//! Thresholds, timeouts and sync daemons are not part of it, as in the original.

use ipvs_control::ServiceEntry;
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::ServiceKey;

use super::{NamesOrNumbers, endpoint, netmask, protocol_of, scheduler_flags, scheduler_name};
use crate::args::{Tunnel, TunnelChecksum, TunnelType};

/// One line per service and server, in the order given.
pub fn rules(services: &[ServiceEntry], names: NamesOrNumbers<'_>) -> String {
    let mut text = String::new();
    for service in services {
        let name = service_option(&service.key, names);
        text += &format!("-A {name}{}\n", service_options(service));
        for server in &service.servers {
            let tunnel = match server.spec.method {
                ForwardMethod::Tunnelling => tunnel_options(&Tunnel::IPIP),
                ForwardMethod::Masquerading
                | ForwardMethod::LocalNode
                | ForwardMethod::DirectRouting
                | ForwardMethod::Bypass => String::new(),
            };
            text += &format!(
                "-a {name} -r {} -{} -w {}{tunnel}\n",
                endpoint(server.key, protocol_of(&service.key), names),
                method_letter(server.spec.method),
                server.spec.weight,
            );
        }
    }
    text
}

/// The column of `--tun-info`, cut to 15 characters.
pub fn tunnel_info(tunnel: &Tunnel) -> String {
    let checksum = match tunnel.checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    let text = match tunnel.kind {
        TunnelType::Ipip => "ipip".into(),
        TunnelType::Gue => format!("gue:{}:{checksum}", tunnel.port),
        TunnelType::Gre => format!("gre:{checksum}"),
    };
    text.chars().take(15).collect()
}

/// The options of a tunnel, with a leading blank.
pub fn tunnel_options(tunnel: &Tunnel) -> String {
    let checksum = match tunnel.checksum {
        TunnelChecksum::None => "--tun-nocsum",
        TunnelChecksum::Full => "--tun-csum",
        TunnelChecksum::Remote => "--tun-remcsum",
    };
    match tunnel.kind {
        TunnelType::Ipip => " --tun-type ipip".into(),
        TunnelType::Gue => format!(" --tun-type gue --tun-port {} {checksum}", tunnel.port),
        TunnelType::Gre => format!(" --tun-type gre {checksum}"),
    }
}

fn service_option(key: &ServiceKey, names: NamesOrNumbers<'_>) -> String {
    match key {
        ServiceKey::Address { protocol, addr } => {
            let option = match protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {}", endpoint(*addr, Some(*protocol), names))
        }
        ServiceKey::Fwmark { mark, ipv6: false } => format!("-f {mark}"),
        ServiceKey::Fwmark { mark, ipv6: true } => format!("-f {mark} -6"),
    }
}

fn service_options(service: &ServiceEntry) -> String {
    let spec = &service.spec;
    let mut text = format!(" -s {}", scheduler_name(spec));
    if spec.flags.contains(ServiceFlags::PERSISTENT) {
        text += &format!(" -p {}", spec.timeout_secs);
        if let Some(mask) = netmask(&service.key, spec) {
            text += &format!(" -M {mask}");
        }
    }
    if let Some(engine) = &spec.pe_name {
        text += &format!(" --pe {engine}");
    }
    if spec.flags.contains(ServiceFlags::ONEPACKET) {
        text += " -o";
    }
    if let Some(flags) = scheduler_flags(spec) {
        text += &format!(" -b {flags}");
    }
    text
}

const fn method_letter(method: ForwardMethod) -> char {
    match method {
        ForwardMethod::Masquerading | ForwardMethod::Bypass => 'm',
        ForwardMethod::Tunnelling => 'i',
        ForwardMethod::DirectRouting | ForwardMethod::LocalNode => 'g',
    }
}
