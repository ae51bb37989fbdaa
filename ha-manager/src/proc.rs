//! Text of `/proc/net/ip_vs`, `ip_vs_conn` and `ip_vs_conn_sync`, byte for byte as a kernel director
//! shows them (`ip_vs_ctl.c: ip_vs_info_seq_show`, `ip_vs_conn.c: ip_vs_conn_seq_show`,
//! `ip_vs_conn_sync_seq_show`).

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use ipvs_control::{Info, ServerEntry, ServiceEntry};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::service::ServiceKey;
use ipvs_model::state::state_name;

/// Unit: ticks per second. Debian's `CONFIG_HZ`, in which `ip_vs` shows persistence timeouts.
const HZ: u64 = 250;

/// What `directord proc` can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcFile {
    IpVs,
    Conns(ConnFile),
}

/// The two listings of the connection table. Both are put together page by page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnFile {
    IpVsConn,
    /// With the column `Origin`: `SYNC` for what a sync message created or last changed.
    IpVsConnSync,
}

/// A name this director prints nothing for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcError {
    #[error(
        "{0} is known to IPVS, but not yet to this director; \
         it has ip_vs, ip_vs_conn and ip_vs_conn_sync"
    )]
    NotYet(&'static str),
    #[error(
        "{0:?} is no file of IPVS in /proc/net; \
         this director has ip_vs, ip_vs_conn and ip_vs_conn_sync"
    )]
    Unknown(String),
}

/// Files of the kernel that are refused by name.
const NOT_YET: [&str; 4] = [
    "ip_vs_app",
    "ip_vs_stats",
    "ip_vs_stats_percpu",
    "ip_vs_status",
];

impl ProcFile {
    /// # Errors
    /// See [`ProcError`].
    pub fn from_name(name: &str) -> Result<ProcFile, ProcError> {
        match name {
            "ip_vs" => Ok(ProcFile::IpVs),
            "ip_vs_conn" => Ok(ProcFile::Conns(ConnFile::IpVsConn)),
            "ip_vs_conn_sync" => Ok(ProcFile::Conns(ConnFile::IpVsConnSync)),
            _ => match NOT_YET.into_iter().find(|known| *known == name) {
                Some(known) => Err(ProcError::NotYet(known)),
                // What cannot be a file name is not echoed at length.
                None => Err(ProcError::Unknown(name.chars().take(32).collect())),
            },
        }
    }
}

impl ConnFile {
    /// Name in `/proc/net`.
    pub const fn name(self) -> &'static str {
        match self {
            ConnFile::IpVsConn => "ip_vs_conn",
            ConnFile::IpVsConnSync => "ip_vs_conn_sync",
        }
    }

    /// First line, with its line feed.
    pub const fn header(self) -> &'static str {
        match self {
            ConnFile::IpVsConn => {
                "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
            }
            ConnFile::IpVsConnSync => {
                "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n"
            }
        }
    }

    /// A line per entry, without the header.
    pub fn rows(self, entries: &[ConnEntry]) -> String {
        let mut text = String::new();
        for entry in entries {
            // Writing to a string cannot fail.
            let _ = write_conn(&mut text, self, entry);
        }
        text
    }
}

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

fn write_conn(to: &mut String, file: ConnFile, entry: &ConnEntry) -> fmt::Result {
    let template = entry.flags.contains(ConnFlags::TEMPLATE);
    let protocol = protocol_name(entry.protocol);
    write!(to, "{protocol:<3}")?;
    for end in [entry.client, entry.virt, entry.dest] {
        write!(to, " {} {:04X}", hex_addr(end.ip()), end.port())?;
    }
    let state = state_name(entry.protocol, template, entry.state);
    write!(to, " {state:<11}")?;
    match file {
        ConnFile::IpVsConn => {}
        ConnFile::IpVsConnSync => write!(to, " {:<6}", origin(entry.flags))?,
    }
    writeln!(to, " {:>7}", entry.expires_secs)
}

/// `ip_vs_conn.c: ip_vs_origin_name`.
const fn origin(flags: ConnFlags) -> &'static str {
    if flags.contains(ConnFlags::SYNC) {
        "SYNC"
    } else {
        "LOCAL"
    }
}

/// `ip_vs_proto.c: ip_vs_proto_name`.
fn protocol_name(number: u8) -> String {
    match number {
        0 => "IP".to_owned(),
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("IP_{other}"),
    }
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

/// IPv4 as one number, IPv6 as eight full groups (`%pI6`).
fn hex_addr(addr: IpAddr) -> String {
    match addr {
        IpAddr::V4(addr) => format!("{:08X}", addr.to_bits()),
        IpAddr::V6(addr) => addr
            .segments()
            .map(|group| format!("{group:04x}"))
            .join(":"),
    }
}

#[cfg(test)]
mod tests {
    use ipvs_model::protocol::Protocol;
    use ipvs_model::scheduler::Scheduler;
    use ipvs_model::service::{ServerSpec, ServiceSpec};
    use ipvs_model::stats::Stats;

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
        let mut own = synced;
        (own.flags, own.expires_secs) = (ConnFlags(ConnFlags::INACTIVE), 115);
        let text = ConnFile::IpVsConnSync.header().to_owned()
            + &ConnFile::IpVsConnSync.rows(&[synced, own]);
        assert_eq!(
            text,
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n\
             TCP 0A640006 9C4B 0A320001 0050 0AC8000D 0050 TIME_WAIT   SYNC       116\n\
             TCP 0A640006 9C4B 0A320001 0050 0AC8000D 0050 TIME_WAIT   LOCAL      115\n"
        );
    }

    #[test]
    fn other_protocols_are_shown_by_number() {
        assert_eq!(protocol_name(47), "IP_47");
        assert_eq!(protocol_name(58), "ICMPv6");
    }

    #[test]
    fn names_without_a_printer_are_refused_by_name() {
        assert_eq!(ProcFile::from_name("ip_vs"), Ok(ProcFile::IpVs));
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
        }
    }
}
