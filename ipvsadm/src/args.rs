//! The command line, read as typed.
//!
//! Words are read from left to right and every value is checked where it stands, because the first
//! mistake is the one that is reported and because some options change how later ones are read
//! (`-r` takes the port of a service given before it, `-M` is a prefix length after an IPv6
//! service). [`rules`] then judges the combination, and [`crate::command`] resolves the result.

pub mod address;
pub mod rules;
pub mod table;
pub mod words;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::{ServiceKey, WEIGHT_MAX};
use ipvs_model::sync::{SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;

use crate::names::Names;
use address::{host_port, host_v4, inet_aton, number};
use table::{Groups, Meaning, Opt, Verb};
use words::{Found, Words};

/// Persistence timeout in seconds of `-p` without a value.
pub const PERSISTENCE_SECS_DEFAULT: u32 = 360;
/// Largest persistence timeout and largest value of `--set`, in seconds: 31 days.
pub const TIMEOUT_SECS_MAX: u32 = 31 * 24 * 60 * 60;
/// Netmask of an IPv4 service that names none.
pub const NETMASK_V4_DEFAULT: u32 = u32::MAX;
/// Prefix length of an IPv6 service that names none.
pub const PREFIX_V6_DEFAULT: u32 = 128;
/// Largest `--sync-maxlen`: a UDP datagram without its headers.
pub const SYNC_MAXLEN_MAX: u16 = 65535 - 20 - 8;
/// Interface of a sync daemon that names none.
pub const MCAST_INTERFACE_DEFAULT: &str = "eth0";

/// Why a command line is not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `-h`.
    Help,
    /// `-v`.
    Version,
    /// Not even a command; exit status 255.
    TryHelp,
    /// An option popt refuses; exit status 255, and a restore goes on with the next line.
    BadOption(String),
    /// A mistake with its own message; exit status 2.
    Fail(String),
}

/// Where a command line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Shell,
    /// A line of the input of `-R`, where `-R` is not a command.
    Restore,
}

/// How a tunnelled packet is wrapped (`IP_VS_CONN_F_TUNNEL_TYPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelType {
    Ipip,
    Gue,
    Gre,
}

/// The checksum of the outer header (`IP_VS_TUNNEL_ENCAP_FLAG_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelChecksum {
    None,
    Full,
    Remote,
}

/// How packets to a tunnelled server are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub kind: TunnelType,
    /// UDP port of the outer header, for GUE.
    pub port: u32,
    pub checksum: TunnelChecksum,
}

impl Tunnel {
    /// The default, and the one kind a director's listings can hold so far.
    pub const IPIP: Tunnel = Tunnel {
        kind: TunnelType::Ipip,
        port: 0,
        checksum: TunnelChecksum::None,
    };
}

/// One command line.
#[derive(Clone, Debug)]
pub struct AsTyped {
    pub verb: Verb,
    /// Which options were given.
    pub given: Groups,
    pub service: Option<ServiceKey>,
    /// IPv4: mask as a number; IPv6: prefix length.
    pub netmask: u32,
    pub scheduler: Option<String>,
    pub persistent_secs: Option<u32>,
    pub pe_name: Option<String>,
    /// What `-b` came to.
    pub sched_flags: ServiceFlags,
    pub server: Option<SocketAddr>,
    pub method: ForwardMethod,
    pub weight: u32,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
    pub tunnel: Tunnel,
    pub timeouts: Timeouts,
    /// Of `--start-daemon` and `--stop-daemon`.
    pub sync_role: SyncRole,
    pub sync: SyncSpec,
}

impl AsTyped {
    fn new(verb: Verb) -> AsTyped {
        AsTyped {
            verb,
            given: Groups::default(),
            service: None,
            netmask: NETMASK_V4_DEFAULT,
            scheduler: None,
            persistent_secs: None,
            pe_name: None,
            sched_flags: ServiceFlags::default(),
            server: None,
            method: ForwardMethod::DirectRouting,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            tunnel: Tunnel::IPIP,
            timeouts: Timeouts {
                tcp_secs: 0,
                tcp_fin_secs: 0,
                udp_secs: 0,
            },
            sync_role: SyncRole::Master,
            sync: SyncSpec {
                interface: MCAST_INTERFACE_DEFAULT.into(),
                sync_id: 0,
                maxlen: 0,
                group: None,
                port: 0,
                ttl: 0,
            },
        }
    }
}

/// Reads a command line without the program's name. The combination of options is not yet judged.
///
/// # Errors
/// The first mistake, or a request for help or the version.
pub fn parse(line: &[String], names: &dyn Names, origin: Origin) -> Result<AsTyped, Stop> {
    let mut words = Words::new(line);
    let Ok(Some(first)) = words.next_option() else {
        return Err(Stop::TryHelp);
    };
    let mut typed = match first.word.meaning {
        Meaning::Verb(Verb::Restore) if origin == Origin::Restore => return Err(Stop::TryHelp),
        Meaning::Verb(verb) => AsTyped::new(verb),
        Meaning::Help => return Err(Stop::Help),
        Meaning::Version => return Err(Stop::Version),
        Meaning::Option(_) => return Err(Stop::TryHelp),
    };
    typed.read_daemon_role(first.value.unwrap_or_default())?;
    let mut sched_flags = "";
    loop {
        let found = match words.next_option() {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(error) => {
                return Err(Stop::BadOption(format!(
                    "{}: {}",
                    words.last(),
                    error.text()
                )));
            }
        };
        let option = match found.word.meaning {
            Meaning::Option(option) => option,
            Meaning::Verb(_) | Meaning::Help | Meaning::Version => {
                return fail(format!("invalid option `{}'", words.last()));
            }
        };
        typed.count(&found)?;
        if option == Opt::SchedFlags {
            sched_flags = found.value.unwrap_or_default();
        }
        typed.read_option(option, found.value, names)?;
    }
    let mut arguments = words.into_arguments().into_iter();
    if typed.verb == Verb::SetTimeouts {
        typed.timeouts = timeouts(&mut arguments)?;
    }
    if let Some(argument) = arguments.next() {
        return fail(format!("unexpected argument {argument}"));
    }
    typed.sched_flags = scheduler_flags(typed.scheduler.as_deref(), sched_flags)?;
    Ok(typed)
}

impl AsTyped {
    fn read_daemon_role(&mut self, text: &str) -> Result<(), Stop> {
        let complaint = match self.verb {
            Verb::StartDaemon => "illegal start-daemon parameter specified",
            Verb::StopDaemon => "illegal start_daemon specified",
            Verb::AddService
            | Verb::EditService
            | Verb::DeleteService
            | Verb::Flush
            | Verb::List
            | Verb::AddServer
            | Verb::DeleteServer
            | Verb::EditServer
            | Verb::SetTimeouts
            | Verb::Restore
            | Verb::Save
            | Verb::Zero => return Ok(()),
        };
        let named = SyncRole::ALL.into_iter().find(|role| role.name() == text);
        self.sync_role = named.ok_or(Stop::Fail(complaint.into()))?;
        Ok(())
    }

    fn count(&mut self, found: &Found<'_>) -> Result<(), Stop> {
        let Some(group) = found.word.group else {
            return Ok(());
        };
        if self.given.has(group) {
            return fail(format!("multiple '{}' options specified", group.name()));
        }
        self.given.insert(group);
        Ok(())
    }

    fn read_option(
        &mut self,
        option: Opt,
        value: Option<&str>,
        names: &dyn Names,
    ) -> Result<(), Stop> {
        let text = value.unwrap_or_default();
        match option {
            Opt::TcpService => self.read_service(Protocol::Tcp, text, names)?,
            Opt::UdpService => self.read_service(Protocol::Udp, text, names)?,
            Opt::SctpService => self.read_service(Protocol::Sctp, text, names)?,
            Opt::FwmarkService => self.read_fwmark(text)?,
            Opt::Ipv6 => self.read_ipv6()?,
            Opt::Scheduler => self.scheduler = Some(text.into()),
            Opt::Persistent => {
                self.persistent_secs = Some(match value {
                    None => PERSISTENCE_SECS_DEFAULT,
                    Some(text) => timeout(text, 1)?,
                });
            }
            Opt::Netmask => self.read_netmask(text, names)?,
            Opt::Pe => self.pe_name = Some(text.into()),
            Opt::RealServer => self.read_server(text, names)?,
            Opt::Gatewaying => self.method = ForwardMethod::DirectRouting,
            Opt::Ipip => self.method = ForwardMethod::Tunnelling,
            Opt::Masquerading => self.method = ForwardMethod::Masquerading,
            Opt::Weight => self.weight = within(text, 0..=WEIGHT_MAX, "weight")?,
            Opt::UThreshold => {
                self.upper_threshold = within(text, 0..=WEIGHT_MAX, "u_threshold")?;
            }
            Opt::LThreshold => {
                self.lower_threshold = within(text, 0..=WEIGHT_MAX, "l_threshold")?;
            }
            Opt::TunType => self.tunnel.kind = tunnel_type(text)?,
            Opt::TunPort => self.tunnel.port = within(text, 1..=65535, "tunnel port")?,
            Opt::TunNocsum => self.tunnel.checksum = TunnelChecksum::None,
            Opt::TunCsum => self.tunnel.checksum = TunnelChecksum::Full,
            Opt::TunRemcsum => self.tunnel.checksum = TunnelChecksum::Remote,
            Opt::McastInterface => self.sync.interface = text.into(),
            Opt::SyncId => self.sync.sync_id = within(text, 0..=u8::MAX, "syncid")?,
            Opt::SyncMaxlen => {
                self.sync.maxlen = within(text, 1..=SYNC_MAXLEN_MAX, "sync-maxlen")?;
            }
            Opt::McastGroup => self.sync.group = Some(multicast_group(text)?),
            Opt::McastPort => self.sync.port = within(text, 1..=u16::MAX, "mcast-port")?,
            Opt::McastTtl => self.sync.ttl = within(text, 1..=u8::MAX, "mcast-ttl")?,
            // That they were given is all there is to know; the flags of -b are read at the end.
            Opt::Ops
            | Opt::SchedFlags
            | Opt::Numeric
            | Opt::Connection
            | Opt::Exact
            | Opt::Stats
            | Opt::Rate
            | Opt::Thresholds
            | Opt::PersistentConn
            | Opt::TunInfo
            | Opt::NoSort
            | Opt::Sort
            | Opt::Timeout
            | Opt::Daemon => {}
        }
        Ok(())
    }

    fn read_service(
        &mut self,
        protocol: Protocol,
        text: &str,
        names: &dyn Names,
    ) -> Result<(), Stop> {
        let Some(found) = host_port(text, Some(protocol), names) else {
            return fail("illegal virtual server address[:port] specified");
        };
        if found.ip.is_ipv6() {
            self.netmask = PREFIX_V6_DEFAULT;
        }
        let addr = SocketAddr::new(found.ip, found.port.unwrap_or(0));
        self.service = Some(ServiceKey::Address { protocol, addr });
        Ok(())
    }

    fn read_fwmark(&mut self, text: &str) -> Result<(), Stop> {
        let Some(mark) = number(text, 1..=u32::MAX) else {
            return fail(format!("invalid fwmark value `{text}' specified"));
        };
        self.service = Some(ServiceKey::Fwmark { mark, ipv6: false });
        Ok(())
    }

    fn read_ipv6(&mut self) -> Result<(), Stop> {
        let Some(ServiceKey::Fwmark { ipv6, .. }) = &mut self.service else {
            return fail("-6 used before -f\n");
        };
        *ipv6 = true;
        self.netmask = PREFIX_V6_DEFAULT;
        Ok(())
    }

    fn read_netmask(&mut self, text: &str, names: &dyn Names) -> Result<(), Stop> {
        let (read, complaint) = if self.service.is_some_and(|service| service.is_ipv6()) {
            (number(text, 1..=128), "illegal ipv6 netmask specified")
        } else {
            let mask = host_v4(text, names).map(u32::from);
            (mask, "illegal virtual server persistent mask specified")
        };
        self.netmask = read.ok_or(Stop::Fail(complaint.into()))?;
        Ok(())
    }

    fn read_server(&mut self, text: &str, names: &dyn Names) -> Result<(), Stop> {
        let (protocol, service_port) = match self.service {
            Some(ServiceKey::Address { protocol, addr }) => (Some(protocol), addr.port()),
            Some(ServiceKey::Fwmark { .. }) => (Some(Protocol::Tcp), 0),
            None => (None, 0),
        };
        let Some(found) = host_port(text, protocol, names) else {
            return fail("illegal real server address[:port] specified");
        };
        self.server = Some(SocketAddr::new(
            found.ip,
            found.port.unwrap_or(service_port),
        ));
        Ok(())
    }
}

/// Names of the scheduler flags, their bits and the scheduler they need (`ip_vs.h`,
/// `IP_VS_SVC_F_SCHED*`).
pub const SCHED_FLAGS: &[(&str, u32, Option<&str>)] = &[
    ("flag-1", ServiceFlags::SCHED1, None),
    ("flag-2", ServiceFlags::SCHED2, None),
    ("flag-3", ServiceFlags::SCHED3, None),
    ("sh-fallback", ServiceFlags::SCHED1, Some("sh")),
    ("sh-port", ServiceFlags::SCHED2, Some("sh")),
    ("mh-fallback", ServiceFlags::SCHED1, Some("mh")),
    ("mh-port", ServiceFlags::SCHED2, Some("mh")),
];

/// DIFFERS: a lone comma names no flag; the original crashes on it.
fn scheduler_flags(scheduler: Option<&str>, text: &str) -> Result<ServiceFlags, Stop> {
    let mut bits = 0;
    for name in text.split(',').filter(|name| !name.is_empty()) {
        let known = SCHED_FLAGS.iter().find(|(flag, ..)| *flag == name);
        let Some((_, bit, needs)) = known else {
            return fail(format!("invalid scheduler flag `{name}'"));
        };
        if needs.is_some() && *needs != scheduler {
            return fail(format!("incompatible scheduler flag `{name}'"));
        }
        bits |= bit;
    }
    Ok(ServiceFlags(bits))
}

fn timeouts<'w>(arguments: &mut impl Iterator<Item = &'w str>) -> Result<Timeouts, Stop> {
    let (Some(tcp), Some(tcp_fin), Some(udp)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return fail("--set option requires 3 timeout values");
    };
    Ok(Timeouts {
        tcp_secs: timeout(tcp, 0)?,
        tcp_fin_secs: timeout(tcp_fin, 0)?,
        udp_secs: timeout(udp, 0)?,
    })
}

fn timeout(text: &str, least: u32) -> Result<u32, Stop> {
    match number(text, least..=TIMEOUT_SECS_MAX) {
        Some(secs) => Ok(secs),
        None => fail(format!("invalid timeout value `{text}' specified")),
    }
}

fn within<N>(text: &str, range: RangeInclusive<N>, name: &str) -> Result<N, Stop>
where
    N: Copy + Into<u32> + TryFrom<u32>,
{
    let (least, most) = range.into_inner();
    match number(text, least.into()..=most.into()).map(N::try_from) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) | None => fail(format!("illegal {name} specified")),
    }
}

fn tunnel_type(text: &str) -> Result<TunnelType, Stop> {
    match text {
        "ipip" => Ok(TunnelType::Ipip),
        "gue" => Ok(TunnelType::Gue),
        "gre" => Ok(TunnelType::Gre),
        _ => fail("illegal tunnel type specified"),
    }
}

fn multicast_group(text: &str) -> Result<IpAddr, Stop> {
    if text.contains(':') {
        match text.parse::<Ipv6Addr>() {
            Ok(group) if group.is_multicast() => Ok(group.into()),
            Ok(_) | Err(_) => fail(format!("invalid IPv6 mcast-group `{text}'")),
        }
    } else {
        match inet_aton(text) {
            Some(group) if group.is_multicast() => Ok(group.into()),
            Some(_) | None => fail(format!("invalid IPv4 mcast-group `{text}'")),
        }
    }
}

fn fail<T>(text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Fail(text.into()))
}

#[cfg(test)]
mod tests;
