//! The hand that edits, applies, expires and flushes while packets are under way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::common::TcpState;
use dataplane::common::entry::ConnWord;
use dataplane::{DataPlane, Edit, OfferReader, SyncedConn, Tunable};
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;

use crate::Random;
use crate::lab::packets::endpoint;
use crate::setup::{FLOWS, KINDS, Kind, MARK, SERVERS, client};

/// What the meddling hand did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    pub edits: u64,
    pub flushes: u64,
    pub applied: u64,
    pub templates_applied: u64,
    pub expired: u64,
    pub swept: u64,
    pub offered: u64,
}

impl Done {
    pub fn is_enough(&self) -> bool {
        self.edits > 100
            && self.flushes > 0
            && self.applied > 1000
            && self.templates_applied > 100
            && self.expired > 100
            && self.swept > 100
            && self.offered > 100
    }
}

pub struct Hand<'a> {
    pub plane: &'a mut DataPlane,
    pub random: Random,
    pub done: Done,
    pub offers: OfferReader,
}

impl Hand<'_> {
    /// Meddles until so many packets were sent.
    pub fn meddle(&mut self, sent: &AtomicU64, packets: u64) {
        let deadline = Instant::now() + Duration::from_secs(600);
        while sent.load(Ordering::SeqCst) < packets {
            assert!(Instant::now() < deadline, "{:?}", self.done);
            match self.random.below(16) {
                0 | 1 => self.done.edits += u64::from(self.edit()),
                2 | 3 => self.apply(),
                4 => self.expire_some(),
                5 => self.tune(),
                6 => {
                    // Rarely enough that the ring is full at times, and entries are marked.
                    while self.offers.next_offer().is_some() {
                        self.done.offered += 1;
                    }
                    if self.random.below(64) == 0 {
                        self.plane.offer_all_again();
                    }
                }
                7 => {
                    self.plane.estimate();
                    self.plane.clean_caches();
                }
                _ => {
                    let report = self.plane.expire_step(1024);
                    self.done.expired += u64::from(report.expired);
                    self.done.swept += u64::from(report.swept);
                }
            }
        }
    }

    fn kind(&mut self) -> (Kind, bool) {
        let kind = KINDS[self.random.below(KINDS.len() as u64) as usize];
        (kind, self.random.below(2) == 0)
    }

    /// One edit. It may be refused (there already, not there), and changes nothing then.
    fn edit(&mut self) -> bool {
        let (kind, ipv6) = self.kind();
        let service = kind.key(ipv6);
        let server = SERVERS[self.random.below(4) as usize];
        let server = kind.server(server, ipv6);
        let mut spec = kind.server_spec(self.random.below(4) as u32);
        if self.random.below(4) == 0 {
            spec.upper_threshold = self.random.below(8) as u32;
            spec.lower_threshold = self.random.below(u64::from(spec.upper_threshold) + 1) as u32;
        }
        let edit = match self.random.below(32) {
            0..=5 => Edit::DeleteServer { service, server },
            6..=14 => Edit::AddServer {
                service,
                server,
                spec,
            },
            15..=20 => Edit::EditServer {
                service,
                server,
                spec,
            },
            21 => Edit::DeleteService { key: service },
            22..=25 => {
                let mut spec = kind.spec(ipv6);
                let schedulers = Scheduler::ALL;
                let at = self.random.below(schedulers.len() as u64) as usize;
                spec.scheduler = schedulers.get(at).copied();
                if self.random.below(4) == 0 {
                    spec.flags.0 ^= ServiceFlags::PERSISTENT;
                    spec.timeout_secs = 1;
                }
                spec.flags.0 ^=
                    [0, ServiceFlags::SCHED1, ServiceFlags::SCHED2][self.random.below(3) as usize];
                Edit::EditService { key: service, spec }
            }
            26 if self.random.below(16) == 0 => {
                let flushed = self.plane.edit(&Edit::Flush).is_ok();
                self.done.flushes += u64::from(flushed);
                self.serve_again();
                return flushed;
            }
            _ => Edit::AddService {
                key: service,
                spec: kind.spec(ipv6),
            },
        };
        self.plane.edit(&edit).is_ok()
    }

    /// Services and servers as they were at the start.
    fn serve_again(&mut self) {
        for ipv6 in [false, true] {
            for kind in KINDS {
                let service = kind.key(ipv6);
                let spec = kind.spec(ipv6);
                let _ = self.plane.edit(&Edit::AddService { key: service, spec });
                for server in SERVERS {
                    let _ = self.plane.edit(&Edit::AddServer {
                        service,
                        server: kind.server(server, ipv6),
                        spec: kind.server_spec(1),
                    });
                }
            }
        }
    }

    /// Entries as another director would send them, for the flows of the generators, and templates.
    fn apply(&mut self) {
        let mut conns = Vec::new();
        let mut templates = Vec::new();
        for _ in 0..32 {
            let (kind, ipv6) = self.kind();
            let server = SERVERS[self.random.below(4) as usize];
            // Most flows are the generators' own; the others see no packet and run out by themselves.
            let flow = self.random.below(2 * FLOWS);
            let template = kind.flags & ServiceFlags::PERSISTENT != 0 && self.random.below(2) == 0;
            let conn = if template {
                template_of(&kind, ipv6, flow, server)
            } else {
                self.connection_of(&kind, ipv6, flow, server)
            };
            if template {
                templates.push(conn);
            } else {
                conns.push(conn);
            }
        }
        let report = self.plane.apply_synced(&conns);
        self.done.applied += report.created + report.updated + report.replaced;
        let report = self.plane.apply_synced(&templates);
        self.done.templates_applied += report.created + report.updated + report.replaced;
    }

    fn connection_of(&mut self, kind: &Kind, ipv6: bool, flow: u64, server: &str) -> SyncedConn {
        let state = match kind.protocol {
            Protocol::Udp => 0,
            Protocol::Tcp => self.random.below(8) as u8,
            Protocol::Sctp => self.random.below(14) as u8,
        };
        let active = match kind.protocol {
            Protocol::Udp => false,
            Protocol::Tcp => matches!(state, 1..=3),
            Protocol::Sctp => state == 8,
        };
        let inactive = if active { 0 } else { ConnFlags::INACTIVE };
        SyncedConn {
            protocol: kind.protocol.number(),
            client: endpoint(&client(flow, ipv6)),
            virt: endpoint(&kind.destination(ipv6)),
            dest: kind.server(server, ipv6),
            flags: ConnFlags(ConnFlags::SYNC | kind.method as u32 | inactive),
            state,
            fwmark: if kind.marked { MARK } else { 0 },
            timeout_secs: 1,
            extra: None,
        }
    }

    fn expire_some(&mut self) {
        let ipv6 = self.random.below(2) == 0;
        let places: Vec<(u32, u32)> = (0..16)
            .map(|_| self.random.below(1024) as u32)
            .map(|index| {
                let word = if ipv6 {
                    self.plane.conn6(index).word
                } else {
                    self.plane.conn4(index).word
                };
                (index, ConnWord(word).generation())
            })
            .collect();
        self.done.expired += self.plane.expire_now(ipv6, &places) as u64;
    }

    fn tune(&mut self) {
        if self.random.below(4) == 0 {
            // Longer than that of templates at times, so that those end while they control.
            let secs = 1 + self.random.below(3) as u32;
            self.plane.set_tcp_timeout(TcpState::Established, secs);
            self.plane.set_tcp_timeout(TcpState::SynRecv, secs);
        }
        let (tunable, values) = [
            (Tunable::ConnReuseMode, 4),
            (Tunable::ExpireNodestConn, 2),
            (Tunable::ExpireQuiescentTemplate, 2),
            (Tunable::SecureTcp, 2),
            (Tunable::SloppyTcp, 2),
            (Tunable::SloppySctp, 2),
            (Tunable::CacheBypass, 2),
        ][self.random.below(7) as usize];
        let value = self.random.below(values) as u32;
        self.plane.set_tunable(tunable, value);
    }
}

fn template_of(kind: &Kind, ipv6: bool, flow: u64, server: &str) -> SyncedConn {
    let mut network = endpoint(&client(flow, ipv6));
    network.set_port(0);
    match &mut network {
        std::net::SocketAddr::V4(addr) => {
            let masked = u32::from(*addr.ip()) & 0xffff_ff00;
            addr.set_ip(masked.into());
        }
        std::net::SocketAddr::V6(addr) => {
            let masked = u128::from(*addr.ip()) & !u128::from(u64::MAX);
            addr.set_ip(masked.into());
        }
    }
    let mut virt = endpoint(&crate::setup::family(kind.addr, ipv6));
    if kind.marked {
        let mark = u128::from(MARK);
        let addr: std::net::IpAddr = if ipv6 {
            std::net::Ipv6Addr::from(mark << 96).into()
        } else {
            std::net::Ipv4Addr::from(MARK).into()
        };
        virt = std::net::SocketAddr::new(addr, 0);
    }
    SyncedConn {
        protocol: if kind.marked {
            0
        } else {
            kind.protocol.number()
        },
        client: network,
        virt,
        dest: kind.server(server, ipv6),
        flags: ConnFlags(ConnFlags::SYNC | ConnFlags::TEMPLATE | kind.method as u32),
        state: 0,
        fwmark: if kind.marked { MARK } else { 0 },
        timeout_secs: 1,
        extra: None,
    }
}
