//! The services that are hammered, and who talks to them.

use std::net::SocketAddr;

use dataplane::common::{SctpState, TcpState};
use dataplane::{DataPlane, Edit, MarkRule, RouteKind, Tunable};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};

use crate::lab::director::{DR, NAT};
use crate::lab::packets::{endpoint, text_in_ipv6};
use crate::lab::{local, route};

pub const FLOWS: u64 = 48;
pub const MARK: u32 = 7;
pub const SERVERS: [&str; 4] = [
    "10.200.0.11:8080",
    "10.200.0.12:8080",
    "10.200.0.13:8080",
    "10.200.0.14:80",
];

/// A service in the numbers of IPv4; there is one of each in IPv6 too.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub protocol: Protocol,
    pub addr: &'static str,
    /// Known by [`MARK`], which packets for `addr` get by a rule.
    pub marked: bool,
    pub method: ForwardMethod,
    pub scheduler: Scheduler,
    pub flags: u32,
    /// Upper threshold of its servers.
    pub upper: u32,
}

const PLAIN: Kind = Kind {
    protocol: Protocol::Tcp,
    addr: "10.50.0.1:80",
    marked: false,
    method: NAT,
    scheduler: Scheduler::Rr,
    flags: 0,
    upper: 0,
};

pub const KINDS: [Kind; 9] = [
    PLAIN,
    Kind {
        addr: "10.50.0.2:80",
        method: DR,
        scheduler: Scheduler::Wlc,
        upper: 9,
        ..PLAIN
    },
    Kind {
        protocol: Protocol::Udp,
        addr: "10.50.0.1:53",
        scheduler: Scheduler::Wrr,
        ..PLAIN
    },
    // Shares servers with the first, so ways back collide.
    Kind {
        addr: "10.50.0.3:80",
        scheduler: Scheduler::Wlc,
        upper: 6,
        ..PLAIN
    },
    Kind {
        addr: "10.50.0.4:80",
        scheduler: Scheduler::Lc,
        flags: ServiceFlags::PERSISTENT,
        upper: 12,
        ..PLAIN
    },
    Kind {
        protocol: Protocol::Sctp,
        addr: "10.50.0.1:80",
        scheduler: Scheduler::Sh,
        ..PLAIN
    },
    Kind {
        protocol: Protocol::Udp,
        addr: "10.50.0.1:54",
        flags: ServiceFlags::ONEPACKET,
        ..PLAIN
    },
    Kind {
        addr: "10.50.7.1:90",
        marked: true,
        method: DR,
        scheduler: Scheduler::Lblcr,
        flags: ServiceFlags::PERSISTENT,
        ..PLAIN
    },
    // On port zero, and persistent as it must be.
    Kind {
        protocol: Protocol::Udp,
        addr: "10.50.0.5:0",
        scheduler: Scheduler::Mh,
        flags: ServiceFlags::PERSISTENT,
        ..PLAIN
    },
];

impl Kind {
    pub fn key(&self, ipv6: bool) -> ServiceKey {
        if self.marked {
            return ServiceKey::Fwmark { mark: MARK, ipv6 };
        }
        ServiceKey::Address {
            protocol: self.protocol,
            addr: endpoint(&family(self.addr, ipv6)),
        }
    }

    /// What its clients send to.
    pub fn destination(&self, ipv6: bool) -> String {
        family(&self.addr.replace(":0", ":4444"), ipv6)
    }

    pub fn spec(&self, ipv6: bool) -> ServiceSpec {
        let persistent = self.flags & ServiceFlags::PERSISTENT != 0;
        ServiceSpec {
            scheduler: Some(self.scheduler),
            flags: ServiceFlags(self.flags),
            timeout_secs: u32::from(persistent),
            netmask: if ipv6 { 64 } else { 0xffff_ff00 },
            pe_name: None,
        }
    }

    /// Direct routing keeps the service's port.
    pub fn server(&self, server: &str, ipv6: bool) -> SocketAddr {
        let mut addr = endpoint(&family(server, ipv6));
        if self.method == DR || self.addr.ends_with(":0") {
            let service = self.key(ipv6);
            addr.set_port(match service {
                ServiceKey::Address { addr, .. } => addr.port(),
                ServiceKey::Fwmark { .. } => 0,
            });
        }
        addr
    }

    pub fn server_spec(&self, weight: u32) -> ServerSpec {
        ServerSpec {
            method: self.method,
            weight,
            upper_threshold: self.upper,
            lower_threshold: 0,
        }
    }
}

pub fn family(text: &str, ipv6: bool) -> String {
    if ipv6 {
        text_in_ipv6(text)
    } else {
        text.to_owned()
    }
}

/// Clients of eight addresses in two networks.
pub fn client(flow: u64, ipv6: bool) -> String {
    let (network, host) = (flow % 2, flow % 8 + 1);
    family(&format!("10.100.{network}.{host}:{}", 40_000 + flow), ipv6)
}

pub fn set_up(plane: &mut DataPlane) {
    let routes = [
        local("10.50.0.0", 16),
        local("fd00:50::", 32),
        route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
        route("::", 0, RouteKind::Unicast, 1, None),
    ];
    plane.set_routes(&routes).expect("routes");
    plane.set_tunable(Tunable::ApplyGuardSecs, 0);
    plane.set_sync_master(true);
    for state in TcpState::ALL {
        plane.set_tcp_timeout(state, 1);
    }
    for state in SctpState::ALL {
        plane.set_sctp_timeout(state, 1);
    }
    let second = ipvs_model::timeouts::Timeouts {
        tcp_secs: 1,
        tcp_fin_secs: 1,
        udp_secs: 1,
    };
    plane.set_timeouts(second).expect("timeouts");
    let mut rules = Vec::new();
    for ipv6 in [false, true] {
        for kind in KINDS {
            let service = kind.key(ipv6);
            let spec = kind.spec(ipv6);
            plane
                .edit(&Edit::AddService { key: service, spec })
                .expect("service");
            for server in SERVERS {
                let edit = Edit::AddServer {
                    service,
                    server: kind.server(server, ipv6),
                    spec: kind.server_spec(1),
                };
                // With one port for all of them two servers may be the same.
                let _ = plane.edit(&edit);
            }
            if kind.marked {
                let address = endpoint(&kind.destination(ipv6)).ip();
                rules.push(MarkRule {
                    ipv6,
                    protocol: None,
                    destination: Some((address, if ipv6 { 128 } else { 32 })),
                    source: None,
                    ports: None,
                    mark: MARK,
                });
            }
        }
    }
    plane.set_mark_rules(&rules).expect("rules");
}
