//! A steady stream of valid entries, whose connections are all known afterwards.

use std::collections::BTreeMap;

/// Connections; each is mentioned again when all have been.
const CONNECTIONS: u32 = 65_536;
const IN_A_DATAGRAM: u32 = 20;
const STATES: [(u16, &str); 2] = [(1, "ESTABLISHED"), (4, "FIN_WAIT")];

#[derive(Clone, Debug)]
pub(crate) struct Valid {
    sync_id: u8,
    /// Entries sent so far.
    sent: u32,
}

impl Valid {
    pub(crate) fn new(sync_id: u8) -> Valid {
        Valid { sync_id, sent: 0 }
    }

    /// Version 1, TCP, masquerading, 900 seconds.
    pub(crate) fn next_datagram(&mut self) -> Vec<u8> {
        let size = (8 + 36 * IN_A_DATAGRAM) as u16;
        let [high, low] = size.to_be_bytes();
        let mut bytes = vec![0, self.sync_id, high, low, IN_A_DATAGRAM as u8, 1, 0, 0];
        for _ in 0..IN_A_DATAGRAM {
            let [_, _, high, low] = (self.sent % CONNECTIONS).to_be_bytes();
            let (state, _) = STATES[(self.sent / CONNECTIONS) as usize % STATES.len()];
            bytes.extend([0, 6, 0, 36, 0, 0, 0, 0]);
            bytes.extend(state.to_be_bytes());
            bytes.extend([0x9c, 0x40, 0, 80, 0x1f, 0x90]);
            bytes.extend([0, 0, 0, 0, 0, 0, 0x03, 0x84]);
            bytes.extend([10, 200, high, low, 192, 0, 2, 10, 10, 0, 0, 21]);
            self.sent += 1;
        }
        bytes
    }

    /// What the listing of `/proc/net/ip_vs_conn` does not tell as it was said last.
    pub(crate) fn missing_in(&self, listing: &str) -> Vec<String> {
        let lines = listing.lines().filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [protocol, client, rest @ ..] = words.get(..8)? else {
                return None;
            };
            Some(((*protocol, *client), rest.join(" ")))
        });
        let found: BTreeMap<_, _> = lines.collect();
        let mut missing = Vec::new();
        for number in 0..self.sent.min(CONNECTIONS) {
            // The last time that this one was mentioned.
            let round = (self.sent - 1 - number) / CONNECTIONS;
            let (_, state) = STATES[round as usize % STATES.len()];
            let client = format!("0AC8{number:04X}");
            let wanted = format!("9C40 C000020A 0050 0A000015 1F90 {state}");
            if found.get(&("TCP", client.as_str())) != Some(&wanted) {
                missing.push(format!("{client} {wanted}"));
            }
        }
        missing
    }
}
