//! A backup's table as far as the listing in `/proc/net/ip_vs_conn` shows it, and the rules by
//! which entries change it where no service is configured.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use syncproto::conn::SyncConn;
use syncproto::states::state_name;

/// Rows without their timer; by what identifies a connection, the row's other columns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<Key, Row>,
}

/// Protocol, client, virtual service, template, engine data.
type Key = (u8, SocketAddr, SocketAddr, bool, Vec<u8>);

#[derive(Clone, Debug)]
struct Row {
    dest: SocketAddr,
    state: u8,
    engine: Vec<u8>,
}

impl Table {
    /// What a backup does with an accepted entry, and the row that the listing then shows.
    pub(crate) fn apply(&mut self, conn: &SyncConn) -> String {
        let key = key(conn);
        let dest = conn.addresses.dest();
        let inactive = conn.flags & 0x100 != 0;
        match self.rows.get_mut(&key) {
            // A late report on a connection that was replaced.
            Some(row) if !conn.is_template() && row.dest != dest && inactive => {}
            // The real server of a template never changes.
            Some(row) if conn.is_template() || row.dest == dest => row.state = conn.state,
            _ => {
                let engine = conn.pe.as_ref().filter(|_| conn.is_template());
                let engine = engine.map_or_else(Vec::new, |pe| pe.name().to_vec());
                let row = Row {
                    dest,
                    state: conn.state,
                    engine,
                };
                self.rows.insert(key.clone(), row);
            }
        }
        line(&key, &self.rows[&key])
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.rows.iter().map(|(key, row)| line(key, row)).collect();
        lines.sort();
        lines
    }
}

/// The lines of a recorded `/proc/net/ip_vs_conn`, without their timers.
pub(crate) fn listed(recorded: &str) -> Vec<String> {
    let without_timer = |line: &str| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        words.remove(8);
        words.join(" ")
    };
    let mut lines: Vec<_> = recorded.lines().skip(1).map(without_timer).collect();
    lines.sort();
    lines
}

fn key(conn: &SyncConn) -> Key {
    let mut client = conn.addresses.client();
    let engine = conn.pe.as_ref().filter(|_| conn.is_template());
    let data = engine.map_or_else(Vec::new, |pe| pe.data().to_vec());
    if !data.is_empty() {
        // The engine finds its templates by its data in place of the client's port.
        client.set_port(0);
    }
    let virt = conn.addresses.virt();
    (conn.protocol, client, virt, conn.is_template(), data)
}

fn line(key: &Key, row: &Row) -> String {
    let (protocol, client, virt, template, data) = key;
    let name = match protocol {
        0 => "IP",
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        other => panic!("protocol {other} is in no recording"),
    };
    let mut line = name.to_owned();
    for end in [client, virt, &row.dest] {
        match end {
            SocketAddr::V4(end) => write!(line, " {:08X}", end.ip().to_bits()).unwrap(),
            SocketAddr::V6(end) => {
                let groups = end.ip().segments().map(|group| format!("{group:04x}"));
                write!(line, " {}", groups.join(":")).unwrap();
            }
        }
        write!(line, " {:04X}", end.port()).unwrap();
    }
    write!(
        line,
        " {}",
        state_name(*protocol, *template, row.state.into())
    )
    .unwrap();
    if !row.engine.is_empty() {
        let name: Vec<u8> = row.engine.iter().copied().take_while(|b| *b != 0).collect();
        let name = String::from_utf8(name).unwrap();
        write!(line, " {name} {}", String::from_utf8(data.clone()).unwrap()).unwrap();
    }
    line
}
