//! What is sent, repeatable by its seed: it depends on nothing that happens.

use std::net::SocketAddr;
use std::time::Instant;

use dataplane::Edit;
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::conn::{Pe, SeqPair, SeqRecord, SyncConn};
use syncproto::states::state_count;
use syncproto::wire::{SeqOrder, Version};

use crate::node::SYNC_ID;
use crate::plan::{
    self, AH, CLIENTS, ESP, MARK, NO_CPORT, ODD_CLIENT, Planned, SCTP, SERVERS, TCP, TEMPLATE, UDP,
    VIPS, VPORTS,
};
use crate::random::Random;

/// Steps of a burst, at most.
const BURST_MAX: usize = 16;
/// Entries of a message, at most.
const ENTRIES_MAX: usize = 60;
/// One burst of so many has an edit.
const EDIT_ONE_IN: usize = 3;
/// One message of so many is damaged.
const DAMAGED_ONE_IN: usize = 12;
/// Connections that are mentioned again.
const REMEMBERED: usize = 1500;
/// Longest timeout of what is to end. Unit: seconds.
const SHORT_SECS: u32 = 5;
/// Calls that templates are made for.
const CALLS: usize = 3;

const INACTIVE: u32 = 0x0100;
const SEQ: u32 = 0x0600;
const ONE_PACKET: u32 = 0x2000;

pub(crate) enum Step {
    Edit(Edit),
    Message(Vec<u8>),
}

pub(crate) struct Traffic {
    random: Random,
    remembered: Vec<SyncConn>,
    planned: Vec<Planned>,
    /// Whether each service is there, and each of its servers.
    present: Vec<(bool, Vec<bool>)>,
}

impl Traffic {
    pub(crate) fn new(seed: u64) -> Traffic {
        let planned = plan::services();
        let absent = |service: &Planned| (false, vec![false; service.servers.len()]);
        Traffic {
            random: Random::seeded(seed),
            remembered: Vec::new(),
            present: planned.iter().map(absent).collect(),
            planned,
        }
    }

    pub(crate) fn burst(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.random.one_in(EDIT_ONE_IN) {
            self.edits(&mut steps);
        }
        for _ in 0..=self.random.below(BURST_MAX) {
            steps.push(Step::Message(self.message()));
        }
        steps
    }

    /// A service comes, with some servers, or goes; or one of its servers does.
    fn edits(&mut self, steps: &mut Vec<Step>) {
        let at = self.random.below(self.planned.len());
        let key = self.planned[at].key;
        let servers = self.planned[at].servers.len();
        if !self.present[at].0 {
            self.present[at].0 = true;
            let spec = service_spec(&key);
            steps.push(Step::Edit(Edit::AddService { key, spec }));
            for place in 0..servers {
                if !self.random.one_in(3) {
                    steps.push(self.server(at, place));
                }
            }
        } else if self.random.one_in(6) {
            self.present[at] = (false, vec![false; servers]);
            steps.push(Step::Edit(Edit::DeleteService { key }));
        } else {
            let place = self.random.below(servers);
            steps.push(self.server(at, place));
        }
    }

    /// It comes when it is not there, and goes when it is.
    fn server(&mut self, at: usize, place: usize) -> Step {
        let service = self.planned[at].key;
        let (server, method) = self.planned[at].servers[place];
        let is_there = &mut self.present[at].1[place];
        *is_there = !*is_there;
        Step::Edit(if *is_there {
            Edit::AddServer {
                service,
                server,
                spec: ServerSpec {
                    method: ForwardMethod::from_number(method as u8).unwrap(),
                    weight: 1,
                    upper_threshold: 0,
                    lower_threshold: 0,
                },
            }
        } else {
            Edit::DeleteServer { service, server }
        })
    }

    fn message(&mut self) -> Vec<u8> {
        let version = if self.random.one_in(4) {
            Version::V0
        } else {
            Version::V1
        };
        let sync_id = if self.random.one_in(100) {
            SYNC_ID + 1
        } else {
            SYNC_ID
        };
        let mut buffer = SyncBuffer::new(Layout {
            version,
            sync_id,
            seq_order: SeqOrder::HOST,
            maxlen: [1472, 1472, 400, 9000][self.random.below(4)],
        });
        for _ in 0..=self.random.below(ENTRIES_MAX) {
            let conn = self.conn(version);
            if buffer.push(&conn, Instant::now()) == Packed::Full {
                break;
            }
            self.remember(conn);
        }
        let mut bytes = buffer.message().to_vec();
        if self.random.one_in(DAMAGED_ONE_IN) && !bytes.is_empty() {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn remember(&mut self, conn: SyncConn) {
        // What is to end is not mentioned again.
        if (1..=SHORT_SECS).contains(&conn.timeout_secs) {
            return;
        }
        if self.remembered.len() < REMEMBERED {
            self.remembered.push(conn);
        } else {
            let at = self.random.below(REMEMBERED);
            self.remembered[at] = conn;
        }
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        match self.random.below(6) {
            0 => bytes.truncate(self.random.below(bytes.len())),
            1 => {
                let more = 1 + self.random.below(40);
                bytes.extend(self.random.bytes(more));
                self.set_size(bytes);
            }
            2 => {
                // Cut, but of the size it says.
                bytes.truncate(self.random.below(bytes.len()));
                self.set_size(bytes);
            }
            3 => bytes[0] = self.random.next() as u8,
            _ => {
                for _ in 0..=self.random.below(3) {
                    let at = self.random.below(bytes.len());
                    bytes[at] ^= 1 << self.random.below(8);
                }
            }
        }
    }

    fn set_size(&self, bytes: &mut [u8]) {
        let size = (bytes.len() as u16).to_be_bytes();
        if let Some(at) = bytes.get_mut(2..4) {
            at.copy_from_slice(&size);
        }
    }

    /// One that was mentioned before, more often than not.
    fn conn(&mut self, version: Version) -> SyncConn {
        let mut conn = if self.remembered.is_empty() || self.random.one_in(4) {
            self.new_conn()
        } else {
            let at = self.random.below(self.remembered.len());
            let known = self.remembered[at].clone();
            self.changed(known)
        };
        if version == Version::V0 {
            // What version 0 does not say. Few are of a state with a short timeout.
            if ends_soon(&conn) && !self.random.one_in(20) {
                conn.state = 1 + u8::from(conn.protocol == SCTP);
            }
            conn.flags &= 0xffff;
            conn.seq = (conn.flags & SEQ != 0).then(|| conn.seq.unwrap_or_default());
        }
        conn
    }

    fn changed(&mut self, known: SyncConn) -> SyncConn {
        let mut conn = known;
        if self.random.one_in(3) {
            conn.flags ^= INACTIVE;
        }
        if self.random.one_in(16) {
            conn.flags ^= self.random.next() as u32 & (SEQ | 0x8f);
        }
        if self.random.one_in(6) {
            self.set_dest(&mut conn);
        }
        if self.random.one_in(10) {
            conn.fwmark = self.fwmark();
        }
        if self.random.one_in(12) && conn.flags & (TEMPLATE | NO_CPORT) == NO_CPORT {
            // The client's port is known now.
            self.set_client_port(&mut conn);
            conn.flags &= !NO_CPORT;
        }
        self.set_state_and_timeout(&mut conn);
        self.set_seq(&mut conn);
        conn
    }

    fn new_conn(&mut self) -> SyncConn {
        let ipv6 = self.random.one_in(4);
        let protocol = [TCP, TCP, TCP, UDP, UDP, SCTP, AH, ESP][self.random.below(8)];
        let vport = VPORTS[self.random.below(VPORTS.len())];
        let vip = 1 + self.random.below(VIPS.into()) as u8;
        let mut client = SocketAddr::new(
            plan::client(ipv6, 1 + self.random.below(CLIENTS.into()) as u8),
            1000 + self.random.below(2) as u16,
        );
        let virt = SocketAddr::new(plan::vip(ipv6, vip), vport);
        let mut flags = self.random.next() as u32 & !(SEQ | NO_CPORT | TEMPLATE | ONE_PACKET | 7);
        flags &= if self.random.one_in(4) {
            u32::MAX
        } else {
            0x01a0
        };
        flags |= [0, 0, 0, 3, 3, 1, 2, self.random.below(8) as u32][self.random.below(8)];
        if self.random.one_in(16) {
            flags |= self.random.next() as u32 & SEQ;
        }
        match self.random.below(20) {
            0 => {
                flags |= NO_CPORT;
                client.set_port(0);
            }
            1 => {
                client.set_ip(plan::client(ipv6, ODD_CLIENT));
                if self.random.one_in(2) {
                    flags |= NO_CPORT;
                } else {
                    client.set_port(0);
                }
            }
            _ => {}
        }
        let mut conn = SyncConn {
            protocol,
            addresses: plan::addresses(client, virt, SocketAddr::new(virt.ip(), 0)),
            flags,
            state: 0,
            fwmark: self.fwmark(),
            timeout_secs: 0,
            seq: None,
            pe: None,
        };
        self.set_dest(&mut conn);
        if self.random.one_in(5) {
            self.make_template(&mut conn);
        } else if self.random.one_in(100) {
            conn.pe = Some(self.call());
        }
        if self.random.one_in(100) {
            conn.flags |= [ONE_PACKET, TEMPLATE | NO_CPORT][self.random.below(2)];
        }
        self.set_state_and_timeout(&mut conn);
        self.set_seq(&mut conn);
        conn
    }

    fn make_template(&mut self, conn: &mut SyncConn) {
        let ipv6 = conn.addresses.is_ipv6();
        let (mut client, mut virt) = (conn.addresses.client(), conn.addresses.virt());
        let mut dest = conn.addresses.dest();
        conn.flags = conn.flags & !NO_CPORT | TEMPLATE;
        client.set_port(0);
        if self.random.one_in(4) {
            conn.fwmark = MARK;
            conn.protocol = 0;
            virt = SocketAddr::new(mark_address(ipv6), 0);
            dest.set_port(0);
        } else if self.random.one_in(4) {
            conn.protocol = UDP;
            conn.pe = Some(self.call());
        }
        if self.random.one_in(4) {
            client.set_port(1000);
        }
        conn.addresses = plan::addresses(client, virt, dest);
    }

    fn call(&mut self) -> Box<Pe> {
        Box::new(Pe::new(b"sip", call(self.random.below(CALLS)).as_bytes()).unwrap())
    }

    fn set_dest(&mut self, conn: &mut SyncConn) {
        let (client, virt) = (conn.addresses.client(), conn.addresses.virt());
        let number = 1 + self.random.below(SERVERS.into()) as u8;
        let vip = (1..=VIPS).find(|vip| plan::vip(virt.is_ipv6(), *vip) == virt.ip());
        // Of a mark.
        let vip = vip.unwrap_or(4);
        let port = match virt.port() {
            0 => 0,
            vport if self.random.one_in(3) => plan::mapped(vport),
            vport => vport,
        };
        let dest = SocketAddr::new(plan::server(virt.is_ipv6(), vip, number), port);
        conn.addresses = plan::addresses(client, virt, dest);
    }

    fn set_client_port(&mut self, conn: &mut SyncConn) {
        let mut client = conn.addresses.client();
        if client.ip() != plan::client(client.is_ipv6(), ODD_CLIENT) {
            client.set_port(1000 + self.random.below(2) as u16);
        }
        conn.addresses = plan::addresses(client, conn.addresses.virt(), conn.addresses.dest());
    }

    fn fwmark(&mut self) -> u32 {
        match self.random.below(10) {
            0..7 => 0,
            7 => MARK + 1,
            _ => MARK,
        }
    }

    fn set_seq(&mut self, conn: &mut SyncConn) {
        let says = conn.flags & SEQ != 0;
        // Version 1 may say one without the other.
        let has = if self.random.one_in(50) { !says } else { says };
        let mut record = || SeqRecord {
            init_seq: self.random.next() as u32,
            delta: self.random.next() as i32,
            previous_delta: self.random.next() as i32,
        };
        conn.seq = has.then(|| SeqPair {
            input: record(),
            output: record(),
        });
    }

    fn set_state_and_timeout(&mut self, conn: &mut SyncConn) {
        let states = if conn.flags & TEMPLATE != 0 {
            2
        } else {
            state_count(conn.protocol).unwrap_or(1)
        };
        conn.state = self.random.below(states.into()) as u8;
        if self.random.one_in(200) {
            conn.state = states as u8 + self.random.below(5) as u8;
        }
        conn.timeout_secs = match self.random.below(40) {
            0..6 if !ends_soon(conn) => 0,
            6 if self.random.one_in(5) => 1 + self.random.below(SHORT_SECS as usize) as u32,
            7 => u32::MAX - self.random.below(2) as u32,
            8 => [4_294_967, 4_294_968, 2_147_484][self.random.below(3)],
            _ => 60 + self.random.below(900) as u32,
        };
    }
}

/// Whether its state has a short timeout.
const fn ends_soon(conn: &SyncConn) -> bool {
    conn.flags & TEMPLATE == 0
        && matches!(
            (conn.protocol, conn.state),
            (TCP, 0 | 6) | (SCTP, 0 | 1 | 12)
        )
}

fn call(number: usize) -> String {
    format!("call-{number}@lab")
}

/// Whether it is what the templates of a call have.
pub(crate) fn is_call(data: &[u8]) -> bool {
    (0..CALLS).any(|number| call(number).as_bytes() == data)
}

/// As a template of a fwmark service has it.
fn mark_address(ipv6: bool) -> std::net::IpAddr {
    if ipv6 {
        std::net::Ipv6Addr::from_bits(u128::from(MARK) << 96).into()
    } else {
        std::net::Ipv4Addr::from_bits(MARK).into()
    }
}

fn service_spec(key: &ServiceKey) -> ServiceSpec {
    // A service of every port is persistent, as the kernel wants it.
    let is_of_every_port = matches!(key, ServiceKey::Address { addr, .. } if addr.port() == 0);
    let (flags, timeout_secs) = if is_of_every_port {
        (ServiceFlags::PERSISTENT, 360)
    } else {
        (0, 0)
    };
    ServiceSpec {
        scheduler: Some(Scheduler::Rr),
        flags: ServiceFlags(flags),
        timeout_secs,
        netmask: if key.is_ipv6() { 128 } else { u32::MAX },
        pe_name: None,
    }
}
