//! A director between two TAP devices: clients behind one, servers behind the other.
//!
//! Clients (10.100/16) are behind 10.1.0.2, servers (10.200/16) behind 10.2.0.2, and the director
//! routes 10.50/16 locally, as in the recordings. With IPv6 too, clients (fd00:100::/32) are behind
//! fd00:1::2, servers (fd00:200::/32) behind fd00:2::2, and fd00:50::/32 is local.

use std::time::{Duration, Instant};

use dataplane::{AttachMode, DataPlane, Options, Route, RouteKind};

use super::packets::{ETH_IPV4, ETH_IPV6, ICMPV6, PEER_MAC_TEXT, icmp_echo, transport_of};
use super::tap::Tap;
use super::{Lab, ifindex, ip, local, route, sysctl};

/// Longest wait for a packet that must come.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

pub const SIDES: [Side; 2] = [Side::Client, Side::Server];
pub const INTERFACES: [&str; 2] = ["client0", "server0"];

impl Side {
    pub fn from_name(name: &str) -> Side {
        match name {
            "client" => Side::Client,
            "server" => Side::Server,
            _ => panic!("side {name}"),
        }
    }
}

pub struct Sides {
    client: Option<Tap>,
    server: Option<Tap>,
    pub lab: Lab,
    /// IPv6 is there too.
    dual: bool,
    /// Number of the next mark.
    mark: u16,
}

impl Sides {
    /// With IPv4 alone.
    pub fn new() -> Sides {
        Sides::with(false)
    }

    /// With both families.
    pub fn dual() -> Sides {
        Sides::with(true)
    }

    fn with(dual: bool) -> Sides {
        let lab = Lab::new();
        for name in ["all", "default"] {
            let ipv6 = |what: &str, value| sysctl(&format!("net.ipv6.conf.{name}.{what}"), value);
            ipv6("disable_ipv6", if dual { "0" } else { "1" });
            if dual {
                ipv6("forwarding", "1");
                ipv6("accept_dad", "0");
                ipv6("router_solicitations", "0");
            }
        }
        sysctl("net.ipv4.ip_forward", "1");
        for name in ["all", "default"] {
            sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0");
            sysctl(&format!("net.ipv4.conf.{name}.send_redirects"), "0");
        }
        ip("route add local 10.50.0.0/16 dev lo");
        if dual {
            ip("-6 route add local fd00:50::/32 dev lo");
        }
        let mut sides = Sides {
            client: None,
            server: None,
            lab,
            dual,
            mark: 0,
        };
        for side in SIDES {
            sides.plug_in(side);
        }
        sides
    }

    /// Makes the device of a side, and makes it anew if it is there: another device of that name.
    pub fn plug_in(&mut self, side: Side) {
        let (own, peer, dev, clients) = match side {
            Side::Client => ("10.1.0.1/24", "10.1.0.2", INTERFACES[0], "10.100.0.0/16"),
            Side::Server => ("10.2.0.1/24", "10.2.0.2", INTERFACES[1], "10.200.0.0/16"),
        };
        let place = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        // The device goes with its descriptor, which a child that is being started may still hold.
        *place = None;
        let deadline = Instant::now() + PATIENCE;
        while nix::net::if_::if_nametoindex(dev).is_ok() {
            assert!(Instant::now() < deadline, "{dev} does not go away");
            std::thread::sleep(Duration::from_millis(1));
        }
        *place = Some(Tap::new(dev, own));
        ip(&format!(
            "neigh add {peer} lladdr {PEER_MAC_TEXT} dev {dev} nud permanent"
        ));
        ip(&format!("route add {clients} via {peer}"));
        if self.dual {
            let (own, peer, hosts) = match side {
                Side::Client => ("fd00:1::1/64", "fd00:1::2", "fd00:100::/32"),
                Side::Server => ("fd00:2::1/64", "fd00:2::2", "fd00:200::/32"),
            };
            ip(&format!("-6 addr add {own} dev {dev} nodad"));
            ip(&format!(
                "-6 neigh add {peer} lladdr {PEER_MAC_TEXT} dev {dev} nud permanent"
            ));
            ip(&format!("-6 route add {hosts} via {peer}"));
        }
    }

    pub fn options(&self, attach: AttachMode) -> Options {
        Options {
            attach,
            ..self.lab.options(&INTERFACES)
        }
    }

    /// Attached to both sides, with the host's routes.
    pub fn open(&self, attach: AttachMode) -> DataPlane {
        let mut plane = DataPlane::open(&self.options(attach)).unwrap();
        let mut known = routes();
        if self.dual {
            known.extend(routes6());
        }
        plane.set_routes(&known).unwrap();
        plane
    }

    pub fn tap(&mut self, side: Side) -> &mut Tap {
        match side {
            Side::Client => self.client.as_mut().unwrap(),
            Side::Server => self.server.as_mut().unwrap(),
        }
    }

    /// Sends an IP packet in and gives back everything that comes out.
    pub fn exchange(&mut self, from: Side, packet: &[u8]) -> Vec<(Side, Vec<u8>)> {
        self.tap(from).inject(packet);
        self.drain()
    }

    /// The same with a whole frame.
    pub fn exchange_frame(&mut self, from: Side, frame: &[u8]) -> Vec<(Side, Vec<u8>)> {
        self.tap(from).inject_frame(frame);
        self.drain()
    }

    /// Every IP packet that came out so far, in order per side. What IPv6 does by itself (neighbours,
    /// routers, multicast groups) is left out.
    pub fn drain(&mut self) -> Vec<(Side, Vec<u8>)> {
        let frames = self.drain_frames().into_iter();
        let packets = frames.filter(|(_, frame)| {
            let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
            ethertype == ETH_IPV4 || ethertype == ETH_IPV6 && !is_ipv6_upkeep(&frame[14..])
        });
        packets
            .map(|(side, frame)| (side, frame[14..].to_vec()))
            .collect()
    }

    /// Every frame that came out so far, in order per side.
    ///
    /// An echo request to the director follows on each side. The director's stack and both devices
    /// keep their order, so whatever an earlier packet caused comes before the echo reply.
    pub fn drain_frames(&mut self) -> Vec<(Side, Vec<u8>)> {
        let mut out = Vec::new();
        for side in SIDES {
            self.mark += 1;
            let (peer, own) = match side {
                Side::Client => ("10.1.0.2", "10.1.0.1"),
                Side::Server => ("10.2.0.2", "10.2.0.1"),
            };
            let mark = self.mark;
            let tap = self.tap(side);
            tap.inject(&icmp_echo(peer, own, 8, mark));
            let end = icmp_echo(own, peer, 0, mark);
            loop {
                let frame = tap.frame(PATIENCE);
                let frame = frame.expect("the director answers an echo request");
                if frame[12..14] == [8, 0] && frame[23] == 1 && frame[34..] == end[20..] {
                    break;
                }
                out.push((side, frame));
            }
        }
        out
    }
}

/// Multicast listeners, routers and neighbours (RFC 2710, RFC 3810, RFC 4861).
fn is_ipv6_upkeep(packet: &[u8]) -> bool {
    let (protocol, at) = transport_of(packet);
    protocol == ICMPV6 && matches!(packet.get(at), Some(130..=137 | 143))
}

/// The IPv4 routes of [`Sides`], as the director's user space would read them from the host.
pub fn routes() -> Vec<Route> {
    let (client, server) = (ifindex("client0"), ifindex("server0"));
    let via = |prefix, len, dev, gateway| route(prefix, len, RouteKind::Unicast, dev, gateway);
    vec![
        local("127.0.0.0", 8),
        local("10.50.0.0", 16),
        local("10.1.0.1", 32),
        local("10.2.0.1", 32),
        via("10.1.0.0", 24, client, None),
        via("10.2.0.0", 24, server, None),
        via("10.100.0.0", 16, client, Some("10.1.0.2")),
        via("10.200.0.0", 16, server, Some("10.2.0.2")),
    ]
}

/// The IPv6 routes of [`Sides::dual`].
pub fn routes6() -> Vec<Route> {
    let (client, server) = (ifindex("client0"), ifindex("server0"));
    let via = |prefix, len, dev, gateway| route(prefix, len, RouteKind::Unicast, dev, gateway);
    vec![
        local("::1", 128),
        local("fd00:50::", 32),
        local("fd00:1::1", 128),
        local("fd00:2::1", 128),
        via("fd00:1::", 64, client, None),
        via("fd00:2::", 64, server, None),
        via("fd00:100::", 32, client, Some("fd00:1::2")),
        via("fd00:200::", 32, server, Some("fd00:2::2")),
    ]
}
