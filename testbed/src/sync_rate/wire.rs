//! The few bytes that drills put on the sync link and look up in a director's table themselves. The
//! code of the directors, which is what drills are about, has no part in them.

use std::net::SocketAddrV4;

/// Of a message of version 1. Unit: bytes.
const HEADER: usize = 8;
/// Of an IPv4 entry without options. Unit: bytes.
const ENTRY: usize = 36;
/// What a payload of 1472 bytes has room for.
pub(crate) const ENTRIES_OF_A_MESSAGE: usize = 40;
const VERSION: u8 = 1;
/// Where a message says how many entries it has.
const COUNT_AT: usize = 4;

/// An IPv4 entry of version 1, without mark and options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) protocol: u8,
    pub(crate) flags: u32,
    pub(crate) state: u16,
    pub(crate) timeout_secs: u32,
    pub(crate) client: SocketAddrV4,
    pub(crate) virt: SocketAddrV4,
    pub(crate) dest: SocketAddrV4,
}

impl Entry {
    fn put_in(&self, message: &mut Vec<u8>) {
        let length = u16::try_from(ENTRY).unwrap_or_default();
        message.extend_from_slice(&[0, self.protocol]);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&self.flags.to_be_bytes());
        message.extend_from_slice(&self.state.to_be_bytes());
        let ends = [self.client, self.virt, self.dest];
        for end in ends {
            message.extend_from_slice(&end.port().to_be_bytes());
        }
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(&self.timeout_secs.to_be_bytes());
        for end in ends {
            message.extend_from_slice(&end.ip().octets());
        }
    }
}

/// Messages of a group, each as full as a master makes it; what is left over is in the last one.
pub(crate) fn messages(sync_id: u8, entries: impl Iterator<Item = Entry>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut message = Vec::new();
    let mut count = 0;
    for entry in entries {
        if count == 0 {
            message = Vec::with_capacity(HEADER + ENTRIES_OF_A_MESSAGE * ENTRY);
            message.extend_from_slice(&[0; HEADER]);
        }
        entry.put_in(&mut message);
        count += 1;
        if count == ENTRIES_OF_A_MESSAGE {
            messages.push(headed(sync_id, count, std::mem::take(&mut message)));
            count = 0;
        }
    }
    if count > 0 {
        messages.push(headed(sync_id, count, message));
    }
    messages
}

fn headed(sync_id: u8, count: usize, message: Vec<u8>) -> Vec<u8> {
    let mut message = message;
    let [high, low] = u16::try_from(message.len())
        .unwrap_or_default()
        .to_be_bytes();
    let count = u8::try_from(count).unwrap_or_default();
    let header = [0, sync_id, high, low, count, VERSION, 0, 0];
    for (place, byte) in message.iter_mut().zip(header) {
        *place = byte;
    }
    message
}

/// Entries that these messages say they have.
pub(crate) fn count(messages: &[Vec<u8>]) -> u64 {
    let counts = messages.iter().filter_map(|message| message.get(COUNT_AT));
    counts.map(|count| u64::from(*count)).sum()
}

/// Key of a director's table of flows: what packets from a client to a service are found by.
pub(crate) type Key = [u8; 16];

/// In network byte order: addresses, ports, protocol; the rest sets other kinds of keys apart.
pub(crate) fn flow_key(client: SocketAddrV4, service: SocketAddrV4, protocol: u8) -> Key {
    let [a, b, c, d] = client.ip().octets();
    let [e, f, g, h] = service.ip().octets();
    let [i, j] = client.port().to_be_bytes();
    let [k, l] = service.port().to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, protocol, 0, 0, 0]
}

/// The client of each entry of messages of plain IPv4 entries.
#[cfg(test)]
pub(crate) fn clients(messages: &[Vec<u8>]) -> Vec<SocketAddrV4> {
    let entries = messages
        .iter()
        .flat_map(|message| message[HEADER..].chunks(ENTRY));
    let client = |entry: &[u8]| {
        let address: [u8; 4] = entry[24..28].try_into().unwrap();
        let port = u16::from_be_bytes([entry[10], entry[11]]);
        SocketAddrV4::new(address.into(), port)
    };
    entries.map(client).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    /// The worked examples of the protocol's description.
    fn described() -> [Entry; 2] {
        [
            Entry {
                protocol: 6,
                flags: 0,
                state: 1,
                timeout_secs: 900,
                client: end("203.0.113.7:40000"),
                virt: end("192.0.2.10:80"),
                dest: end("10.0.0.21:8080"),
            },
            Entry {
                protocol: 6,
                flags: 0x0183,
                state: 4,
                timeout_secs: 120,
                client: end("198.51.100.9:51234"),
                virt: end("192.0.2.10:443"),
                dest: end("192.0.2.21:443"),
            },
        ]
    }

    fn hex(messages: &[Vec<u8>]) -> String {
        let bytes = messages.iter().flatten();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn one_connection_of_version_1_is_as_described() {
        let found = messages(5, described().into_iter().take(1));
        assert_eq!(
            hex(&found),
            "0005002c010100000006002400000000\
             00019c4000501f900000000000000384\
             cb007107c000020a0a000015"
        );
    }

    #[test]
    fn two_connections_of_version_1_are_as_described() {
        let found = messages(5, described().into_iter());
        assert_eq!(
            hex(&found),
            "0005005002010000000600240000000000019c4000501f900000000000000384\
             cb007107c000020a0a00001500060024000001830004c82201bb01bb00000000\
             00000078c6336409c000020ac0000215"
        );
    }

    #[test]
    fn a_message_has_as_many_entries_as_its_room_holds() {
        let [entry, _] = described();
        let found = messages(5, std::iter::repeat_n(entry, 83));
        let lengths: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1448, 1448, 8 + 3 * 36]);
        assert_eq!(found[0][2..5], [0x05, 0xa8, 40]);
        assert_eq!(count(&found), 83);
        assert_eq!(clients(&found), [entry.client; 83]);
    }

    #[test]
    fn a_key_is_what_stands_in_the_packets() {
        let key = flow_key(end("198.18.0.1:1024"), end("192.0.2.100:9"), 17);
        let wanted = [
            198, 18, 0, 1, 192, 0, 2, 100, 0x04, 0x00, 0x00, 0x09, 17, 0, 0, 0,
        ];
        assert_eq!(key, wanted);
    }
}
