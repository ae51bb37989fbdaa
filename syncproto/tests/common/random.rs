//! Random connections and damage, repeatable by their seed.

use std::net::{SocketAddrV4, SocketAddrV6};

use syncproto::conn::{Addresses, Ends, Pe, SeqPair, SeqRecord, SyncConn};
use syncproto::states::state_count;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by `SYNCPROTO_SEED`, else by `fallback`; prints how to have it again.
    pub(crate) fn new(fallback: u64) -> Self {
        let seed = std::env::var("SYNCPROTO_SEED");
        let seed = seed.ok().map_or(fallback, |seed| seed.parse().unwrap());
        println!("again with: SYNCPROTO_SEED={seed} cargo test --release -p syncproto");
        Random(seed)
    }

    /// Without a look at the environment.
    pub(crate) fn seeded(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn end_v4(&mut self) -> SocketAddrV4 {
        SocketAddrV4::new((self.next() as u32).into(), self.next() as u16)
    }

    fn end_v6(&mut self) -> SocketAddrV6 {
        let address = u128::from(self.next()) << 64 | u128::from(self.next());
        SocketAddrV6::new(address.into(), self.next() as u16, 0, 0)
    }

    fn seq(&mut self) -> SeqRecord {
        SeqRecord {
            init_seq: self.next() as u32,
            delta: self.next() as i32,
            previous_delta: self.next() as i32,
        }
    }

    /// A connection that every receiver accepts and both versions say completely, but for
    /// addresses and engine data of version 1.
    pub(crate) fn conn(&mut self, version_1: bool) -> SyncConn {
        let protocol = [6, 17, 132, 50, 51][self.below(5)];
        let template = self.one_in(4);
        let mut flags = self.next() as u32 & !(0x40 | 0x2000);
        if !version_1 {
            flags &= 0xffff;
        }
        flags = if template {
            (flags | 0x1000) & !0x0800
        } else {
            flags & !0x1000
        };
        let states = if template {
            2
        } else {
            state_count(protocol).unwrap()
        };
        let seq = flags & 0x0600 != 0;
        let addresses = if version_1 && self.one_in(3) {
            Addresses::V6(Ends {
                client: self.end_v6(),
                virt: self.end_v6(),
                dest: self.end_v6(),
            })
        } else {
            Addresses::V4(Ends {
                client: self.end_v4(),
                virt: self.end_v4(),
                dest: self.end_v4(),
            })
        };
        let pe = (version_1 && self.one_in(4)).then(|| {
            let length = 1 + self.below(255);
            Box::new(Pe::new(b"sip", &self.bytes(length)).unwrap())
        });
        SyncConn {
            protocol,
            addresses,
            flags,
            state: self.below(states.into()) as u8,
            fwmark: if version_1 { self.next() as u32 } else { 0 },
            timeout_secs: if version_1 { self.next() as u32 } else { 0 },
            seq: seq.then(|| SeqPair {
                input: self.seq(),
                output: self.seq(),
            }),
            pe,
        }
    }
}
