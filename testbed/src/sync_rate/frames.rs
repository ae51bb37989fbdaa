//! Frames of UDP, one after the other from another client, made without a host behind.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};

use super::burst::{BURST, Burst};
use super::entries::client;
use crate::topology::Lab;

/// Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// The shortest frame of Ethernet.
pub(crate) const FRAME: usize = 60;
const PAYLOAD: usize = FRAME - HEADERS;

/// Makes frames to one service of a director.
#[derive(Clone, Debug)]
pub(crate) struct Maker {
    template: [u8; FRAME],
}

impl Maker {
    /// From the client's `eth0` to a director's `eth0`.
    ///
    /// # Errors
    /// An interface has no address.
    pub(crate) fn new(lab: &Lab, from: &str, to: &str, service: SocketAddrV4) -> Result<Maker> {
        let mut template = [0; FRAME];
        let mut put = |at: usize, bytes: &[u8]| {
            for (place, byte) in template.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
        };
        put(0, &mac(lab, to)?);
        put(6, &mac(lab, from)?);
        put(12, &[0x08, 0x00]);
        let total = u16::try_from(FRAME - 14)?.to_be_bytes();
        put(14, &[0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 17]);
        put(30, &service.ip().octets());
        put(36, &service.port().to_be_bytes());
        put(38, &u16::try_from(8 + PAYLOAD)?.to_be_bytes());
        Ok(Maker { template })
    }

    /// The frame of client `number`. UDP without a checksum, which IPv4 allows.
    pub(crate) fn frame(&self, number: u32, payload: u64) -> [u8; FRAME] {
        let from = client(number);
        let mut frame = self.template;
        let mut put = |at: usize, bytes: &[u8]| {
            for (place, byte) in frame.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
        };
        put(26, &from.ip().octets());
        put(34, &from.port().to_be_bytes());
        put(HEADERS, &payload.to_be_bytes());
        let sum = header_checksum(frame.get(14..34).unwrap_or_default());
        for (place, byte) in frame.iter_mut().skip(24).zip(sum.to_be_bytes()) {
            *place = byte;
        }
        frame
    }

    /// Sends one frame of each of these clients.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn send_each(
        &self,
        burst: &mut Burst,
        clients: std::ops::Range<u32>,
        mut before: impl FnMut(u64),
    ) -> Result<()> {
        let clients: Vec<u32> = clients.collect();
        for some in clients.chunks(BURST) {
            before(some.len() as u64);
            let frames: Vec<_> = some.iter().map(|number| self.frame(*number, 0)).collect();
            burst.send_all(&frames)?;
        }
        Ok(())
    }
}

fn header_checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).filter_map(|pair| {
        let pair: [u8; 2] = pair.try_into().ok()?;
        Some(u32::from(u16::from_be_bytes(pair)))
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}

/// The Ethernet address of a host's `eth0`.
fn mac(lab: &Lab, host: &str) -> Result<[u8; 6]> {
    let text = lab.output(host, "ip", &["-o", "link", "show", "dev", "eth0"])?;
    let mut words = text.split_whitespace();
    words.find(|word| *word == "link/ether");
    let word = words.next().context("no Ethernet address")?;
    let bytes: Vec<u8> = word
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .try_into()
        .ok()
        .with_context(|| format!("not an Ethernet address: {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0x00,
            0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(header_checksum(&header), 0xb861);
    }
}
