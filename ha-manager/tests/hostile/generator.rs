//! Datagrams that nobody should send: random ones, and valid ones with something wrong.
//!
//! Addresses, ports and changed bytes come from small sets, so that what is accepted all the same
//! names a bounded number of connections.

/// Of xorshift64*.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn byte(&mut self) -> u8 {
        self.word() as u8
    }

    fn one_of<T: Copy>(&mut self, set: &[T]) -> T {
        set[self.below(set.len() as u64) as usize]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// Longest payload of UDP over IPv4.
const DATAGRAM_MAX: u64 = 65_507;
/// A little more than a backup reads at most with an MTU of 1500.
const USUAL_MAX: u64 = 1600;

#[derive(Clone, Debug)]
pub(crate) struct Generator {
    random: Random,
    sync_id: u8,
    last: Vec<u8>,
}

impl Generator {
    pub(crate) fn new(seed: u64, sync_id: u8) -> Generator {
        Generator {
            random: Random::new(seed),
            sync_id,
            last: vec![0],
        }
    }

    pub(crate) fn datagram(&mut self) -> &[u8] {
        let kind = self.random.below(1000);
        // The same again once in a while.
        if kind >= 20 {
            self.last = match kind {
                20..22 => self.huge(),
                22..120 => self.noise(),
                120..400 => self.v0(),
                _ => self.v1(),
            };
            self.spoil(kind);
        }
        &self.last
    }

    /// Longer than any backup reads; some say so, some say what a backup reads.
    fn huge(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let len = USUAL_MAX + random.below(DATAGRAM_MAX - USUAL_MAX + 1);
        let len = random.one_of(&[len, len, DATAGRAM_MAX]) as usize;
        let mut bytes = random.bytes(len);
        let size = random.one_of(&[len as u16, 1472, 0xffff]);
        bytes[..8].copy_from_slice(&[0, self.sync_id, 0, 0, 40, 1, 0, 0]);
        bytes[2..4].copy_from_slice(&size.to_be_bytes());
        bytes
    }

    /// Random bytes; most with a header that fits.
    fn noise(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let len = random.below(USUAL_MAX);
        let len = random.one_of(&[len, len, len % 12, len % 100]);
        let mut bytes = random.bytes(len as usize);
        let count = random.one_of(&[0, 1, 2, 9, 255]);
        let header = match random.below(4) {
            0 => return bytes,
            1 => [count, self.sync_id, 0, 0, 0, 0, 0, 0],
            2 => [0, self.sync_id, 0, 0, count, 2, 0, 0],
            _ => [0, self.sync_id, 0, 0, count, 1, 0, 0],
        };
        let keep = usize::from(random.one_of(&[4u8, 8]));
        for (byte, value) in bytes.iter_mut().zip(header).take(keep) {
            *byte = value;
        }
        set_size(&mut bytes);
        bytes
    }

    fn v0(&mut self) -> Vec<u8> {
        let count = self.random.below(9) as u8;
        let mut bytes = vec![count, self.sync_id, 0, 0];
        for _ in 0..count {
            let flags = self.flags();
            let protocol = self.protocol();
            bytes.extend([self.random.byte(), protocol]);
            let ports = self.ports();
            bytes.extend(ports);
            let addresses = self.addresses(4);
            bytes.extend(addresses);
            bytes.extend((flags as u16).to_be_bytes());
            let state = self.state();
            bytes.extend(state.to_be_bytes());
            if flags & 0x0600 != 0 && !self.random.once_in(8) {
                bytes.extend(self.random.bytes(24));
            }
        }
        set_size(&mut bytes);
        bytes
    }

    fn v1(&mut self) -> Vec<u8> {
        let count = self.random.below(7) as u8;
        let mut bytes = vec![0, self.sync_id, 0, 0, count, 1, 0, 0];
        for _ in 0..count {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let entry = self.entry_v1();
            bytes.extend(entry);
        }
        let random = &mut self.random;
        if random.once_in(20) {
            bytes[4] = random.byte();
        }
        if random.once_in(20) {
            let len = random.below(80) as usize;
            bytes.extend(random.bytes(len));
        }
        set_size(&mut bytes);
        bytes
    }

    fn entry_v1(&mut self) -> Vec<u8> {
        let kind = match self.random.below(40) {
            0 => self.random.byte(),
            1..12 => 1,
            _ => 0,
        };
        let flags = self.flags() | u32::from(self.random.once_in(8)) << 16;
        let protocol = self.protocol();
        let mut entry = vec![kind, protocol, 0, 0];
        entry.extend(flags.to_be_bytes());
        let state = self.state();
        entry.extend(state.to_be_bytes());
        let ports = self.ports();
        entry.extend(ports);
        entry.extend([0, 0, 0, self.random.one_of(&[0, 0, 7])]);
        // Long enough to outlive this, as a rule.
        let timeout = self.random.one_of(&[0u32, 60, 900, 900, u32::MAX]);
        entry.extend(timeout.to_be_bytes());
        let addresses = self.addresses(if kind & 1 == 1 { 16 } else { 4 });
        entry.extend(addresses);
        while self.random.once_in(3) && entry.len() < 900 {
            let option = self.option();
            entry.extend(option);
        }
        let random = &mut self.random;
        let len = match random.below(40) {
            0 => random.below(4096) as u16,
            1 => random.one_of(&[0, 35, 36, 37, 71, 72, 73]),
            _ => entry.len() as u16,
        };
        let version = if random.once_in(60) {
            random.byte() & 0xf0
        } else {
            0
        };
        entry[2..4].copy_from_slice(&(len & 0x0fff | u16::from(version) << 8).to_be_bytes());
        entry
    }

    fn option(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let kind = match random.below(12) {
            0 => random.byte(),
            1 => random.one_of(&[0, 4, 5, 0x45, 0x81, 0xc1]),
            2..5 => random.one_of(&[1, 0x41]),
            5..8 => random.one_of(&[2, 0x42]),
            _ => random.one_of(&[3, 0x43]),
        };
        let content = match kind & 0x3f {
            1 if !random.once_in(10) => random.bytes(24),
            3 if !random.once_in(10) => random.one_of(&["sip", "sip", "foo", "sip\0x"]).into(),
            _ => {
                let len = random.one_of(&[1u64, 5, 17, 255]);
                let len = random.below(len) as usize + 1;
                // Few contents, few templates.
                vec![random.one_of(b"ab"); len]
            }
        };
        let len = match random.below(30) {
            0 => 0,
            1 => random.byte(),
            _ => content.len() as u8,
        };
        let mut option = vec![kind, len];
        option.extend(content);
        if random.once_in(40) {
            option.push(kind);
        }
        option
    }

    fn flags(&mut self) -> u32 {
        let mut flags = self.random.below(5) as u32;
        for (bit, times) in [
            (0x0007, 30),
            (0x0008, 20),
            (0x0020, 3),
            (0x0040, 3),
            (0x0080, 3),
            (0x0100, 4),
            (0x0200, 8),
            (0x0400, 8),
            (0x0800, 12),
            (0x1000, 6),
            (0x2000, 20),
            (0x8000, 20),
        ] {
            if self.random.once_in(times) {
                flags |= bit;
            }
        }
        flags
    }

    fn protocol(&mut self) -> u8 {
        match self.random.below(12) {
            0 => self.random.byte(),
            1 => 0,
            _ => self.random.one_of(&[6, 6, 17, 132, 51, 50]),
        }
    }

    fn state(&mut self) -> u16 {
        let random = &mut self.random;
        match random.below(10) {
            0 => random.below(16) as u16,
            1 => random.one_of(&[11, 14, 255, 256, 257, u16::MAX]),
            _ => random.one_of(&[0, 1]),
        }
    }

    fn ports(&mut self) -> [u8; 6] {
        let mut port = || (self.random.below(4) as u16).to_be_bytes();
        let (client, service, server) = (port(), port(), port());
        [client, service, server].concat().try_into().unwrap()
    }

    /// Three of so many bytes each.
    fn addresses(&mut self, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for first in [198, 203, 172] {
            let mut address = vec![0; len];
            address[0] = first;
            address[len - 1] = self.random.below(4) as u8;
            all.extend(address);
        }
        all
    }

    /// Something goes wrong with what was well-formed so far.
    fn spoil(&mut self, kind: u64) {
        let random = &mut self.random;
        let bytes = &mut self.last;
        match random.below(16) {
            0 if !bytes.is_empty() => {
                let changes = random.one_of(&[1, 1, 1, 3, 20]);
                for _ in 0..changes {
                    // What decides lies at the beginning.
                    let end = random.one_of(&[bytes.len(), bytes.len().min(48)]);
                    let at = random.below(end as u64) as usize;
                    bytes[at] ^= random.one_of(&[1, 0x10, 0x40, 0x80]);
                }
            }
            1 => {
                let len = random.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(len);
                if random.once_in(2) {
                    set_size(bytes);
                }
            }
            2 if bytes.len() >= 4 => {
                let size = random.one_of(&[0, 3, 4, 8, 36, 1472, 0xffff, kind as u16]);
                bytes[2..4].copy_from_slice(&size.to_be_bytes());
            }
            3 if bytes.len() >= 2 => bytes[1] = random.byte(),
            4 if bytes.len() >= 8 => {
                let at = random.one_of(&[5, 5, 6, 7]);
                bytes[at] = random.byte();
            }
            _ => {}
        }
    }
}

/// Has the header say the length, when there is one.
fn set_size(bytes: &mut [u8]) {
    let len = (bytes.len() as u16).to_be_bytes();
    if let Some(size) = bytes.get_mut(2..4) {
        size.copy_from_slice(&len);
    }
}
