//! What a daemon is started with: checked, and with every default filled in.

use std::io;
use std::net::IpAddr;

use dataplane::OpenError;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use syncproto::limits;
use syncproto::net::{NetConfig, NetError};
use tracing::warn;

use super::SyncOptions;

/// Longest interface name, as the kernel's `IP_VS_IFNAME_MAXLEN` less its terminating zero.
const INTERFACE_NAME_MAX: usize = 15;

/// Where the first port's messages travel. A group that is asked for goes before the peers.
pub(super) fn net_config(spec: &SyncSpec, options: &SyncOptions) -> Result<NetConfig, SyncError> {
    let name = &spec.interface;
    if name.is_empty() || name.len() > INTERFACE_NAME_MAX {
        let length = name.len();
        let reason = format!("interface name of {length} bytes is not between 1 and 15");
        return Err(SyncError::Invalid(reason));
    }
    let peers = match spec.group {
        Some(group) if !group.is_multicast() => return Err(no_group(group)),
        Some(_) => Vec::new(),
        None => options.peers.clone(),
    };
    let or = |value: u16, default: u16| if value == 0 { default } else { value };
    Ok(NetConfig {
        interface: name.clone(),
        group: spec.group.unwrap_or(limits::DEFAULT_GROUP.into()),
        peers,
        port: or(spec.port, limits::DEFAULT_PORT),
        ttl: if spec.ttl == 0 {
            limits::DEFAULT_TTL
        } else {
            spec.ttl
        },
        sock_size: options.tunables.sock_size as usize,
    })
}

/// One for each thread.
pub(super) fn of_ports(first: &NetConfig, ports: u16) -> Vec<NetConfig> {
    let nth = |thread| NetConfig {
        port: limits::port_of_thread(first.port, thread),
        ..first.clone()
    };
    (0..ports).map(nth).collect()
}

/// Ports wrap as the kernel's, and 0 is among those that do: nobody can be heard there.
pub(super) fn wrap_warning(nets: &[NetConfig]) -> Option<String> {
    let thread = nets.iter().position(|net| net.port == 0)?;
    Some(format!(
        "the port of thread {thread} is 0, behind 65535: its part of the connections is not copied"
    ))
}

/// The spec with every default filled in; one that has peers has no group.
pub(super) fn filled(role: SyncRole, spec: &SyncSpec, net: &NetConfig, mtu: u32) -> SyncSpec {
    let ipv6 = net.is_ipv6();
    let maxlen = match role {
        SyncRole::Master => limits::master_maxlen(spec.maxlen.into(), ipv6),
        SyncRole::Backup => limits::backup_maxlen(spec.maxlen.into(), mtu as usize, ipv6),
    };
    SyncSpec {
        interface: net.interface.clone(),
        sync_id: spec.sync_id,
        maxlen: u16::try_from(maxlen).unwrap_or(u16::MAX),
        group: net.peers.is_empty().then_some(net.group),
        port: net.port,
        ttl: net.ttl,
    }
}

pub(super) fn refused(error: NetError) -> SyncError {
    match error {
        NetError::NoInterface(name) => SyncError::NoDevice(name),
        NetError::NotMulticast(group) => no_group(group),
        peers @ (NetError::NotAPeer(_)
        | NetError::OwnAddress(_)
        | NetError::MixedPeers(..)
        | NetError::ManyPeers(_)) => SyncError::Invalid(peers.to_string()),
        step @ NetError::Step { .. } => SyncError::Socket(step.to_string()),
    }
}

fn no_group(group: IpAddr) -> SyncError {
    SyncError::Invalid(format!("{group} is not a multicast group"))
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
pub(super) fn no_offers(error: OpenError) -> SyncError {
    SyncError::Socket(format!("cannot read the offers of the programs: {error}"))
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
pub(super) fn not_started(error: io::Error) -> SyncError {
    SyncError::Socket(format!("cannot start the thread: {error}"))
}

/// 64 ports to 16 peers are 1024 sockets, which is what a process is often allowed at first. It may
/// take as many as its hard limit says; one that has no more is told so by the start of a daemon.
pub(super) fn allow_many_sockets() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(())
    });
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(group: Option<&str>, maxlen: u16) -> SyncSpec {
        SyncSpec {
            interface: "eth2".to_owned(),
            sync_id: 7,
            maxlen,
            group: group.map(|text| text.parse().unwrap()),
            port: 0,
            ttl: 0,
        }
    }

    #[test]
    fn what_is_left_out_is_filled_in_as_the_kernel_does() {
        let options = SyncOptions::default();
        let net = net_config(&spec(None, 0), &options).unwrap();
        assert_eq!(net.group, limits::DEFAULT_GROUP);
        assert_eq!((net.port, net.ttl), (8848, 1));
        // Of what maxlen may be: unsaid, too small, too large.
        let cases = [
            (
                None,
                SyncRole::Master,
                [(0, 1472), (1, 1), (65_535, 65_507)],
            ),
            (
                None,
                SyncRole::Backup,
                [(0, 8972), (1, 1024), (65_535, 65_507)],
            ),
            (
                Some("ff02::81"),
                SyncRole::Master,
                [(0, 1452), (1, 1), (65_535, 65_487)],
            ),
            (
                Some("ff02::81"),
                SyncRole::Backup,
                [(0, 8952), (1, 1024), (65_535, 65_487)],
            ),
        ];
        for (group, role, lengths) in cases {
            for (asked, expected) in lengths {
                let spec = spec(group, asked);
                let net = net_config(&spec, &options).unwrap();
                let filled = filled(role, &spec, &net, 9000);
                assert_eq!(filled.maxlen, expected, "{group:?} {role:?} {asked}");
                assert_eq!(filled.group, Some(net.group));
            }
        }
    }

    #[test]
    fn peers_take_the_place_of_the_default_group_alone() {
        let options = SyncOptions {
            peers: vec!["192.0.2.7".parse().unwrap()],
            ..SyncOptions::default()
        };
        let of_group = net_config(&spec(Some("224.0.0.82"), 0), &options).unwrap();
        assert_eq!(of_group.peers, Vec::<IpAddr>::new());
        let of_peers = net_config(&spec(None, 0), &options).unwrap();
        assert_eq!(of_peers.peers, options.peers);
        let filled = filled(SyncRole::Master, &spec(None, 0), &of_peers, 1500);
        assert_eq!(filled.group, None);
    }

    #[test]
    fn threads_take_ports_upwards_and_around() {
        let spec = SyncSpec {
            port: 65_534,
            ..spec(None, 0)
        };
        let net = net_config(&spec, &SyncOptions::default()).unwrap();
        let nets = of_ports(&net, 4);
        let ports: Vec<u16> = nets.iter().map(|net| net.port).collect();
        assert_eq!(ports, [65_534, 65_535, 0, 1]);
        assert!(wrap_warning(&nets).unwrap().contains("thread 2"));
        assert_eq!(wrap_warning(&of_ports(&net, 2)), None);
    }

    #[test]
    fn what_is_no_group_or_no_name_is_refused() {
        let refused = |spec: &SyncSpec| net_config(spec, &SyncOptions::default()).unwrap_err();
        for group in ["10.0.0.1", "2001:db8::1"] {
            let reason = format!("{group} is not a multicast group");
            assert_eq!(refused(&spec(Some(group), 0)), SyncError::Invalid(reason));
        }
        for interface in ["", "a-name-of-16-byt"] {
            let spec = SyncSpec {
                interface: interface.to_owned(),
                ..spec(None, 0)
            };
            assert!(
                matches!(refused(&spec), SyncError::Invalid(_)),
                "{interface}"
            );
        }
    }

    #[test]
    fn all_ports_and_peers_may_have_their_sockets() {
        allow_many_sockets();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(soft, hard);
    }
}
