//! What the kernel hands to a live decoder: on a director most frames are service traffic, which
//! must not fill the socket.
//!
//! A classic BPF program over an Ethernet frame. It may let through what is not decoded, and never
//! holds back what is.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use socket2::SockFilter;

use super::frame::{
    AUTHENTICATION, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN,
    ETHERTYPE_VLAN, UDP, VRRP,
};

const TCP: u8 = 6;

/// Where fields are without a tag. Unit: bytes.
mod offset {
    pub(super) const ETHERTYPE: u32 = 12;
    pub(super) const IPV4: u32 = 14;
    pub(super) const IPV4_PROTOCOL: u32 = IPV4 + 9;
    pub(super) const IPV4_DESTINATION: u32 = IPV4 + 16;
    pub(super) const IPV6_NEXT_HEADER: u32 = IPV4 + 6;
    /// Destination port of UDP in IPv6 without extension headers.
    pub(super) const IPV6_UDP_PORT: u32 = IPV4 + 40 + 2;
}

/// `BPF_LD | BPF_W | BPF_ABS` and so on (`include/uapi/linux/bpf_common.h`).
mod code {
    pub(super) const LOAD_WORD: u16 = 0x20;
    pub(super) const LOAD_HALF: u16 = 0x28;
    pub(super) const LOAD_BYTE: u16 = 0x30;
    /// From X on.
    pub(super) const LOAD_HALF_INDEXED: u16 = 0x48;
    /// Length of an IPv4 header into X.
    pub(super) const LOAD_HEADER_LEN: u16 = 0xb1;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const JUMP_IF_EQUAL: u16 = 0x15;
    pub(super) const JUMP_IF_GREATER: u16 = 0x25;
    pub(super) const JUMP_IF_NOT_LESS: u16 = 0x35;
    pub(super) const RETURN: u16 = 0x06;
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    code: u16,
    /// Steps to pass over when the condition holds, and when not.
    then: u8,
    otherwise: u8,
    value: u32,
}

/// The program for datagrams to these ports or this group, VRRP, ARP and everything of IPv6 that is
/// neither TCP nor UDP.
pub(super) fn program(group: Ipv4Addr, ports: &[RangeInclusive<u16>]) -> Vec<SockFilter> {
    let step = |step: Step| SockFilter::new(step.code, step.then, step.otherwise, step.value);
    steps(group, ports).into_iter().map(step).collect()
}

fn steps(group: Ipv4Addr, ports: &[RangeInclusive<u16>]) -> Vec<Step> {
    /// First of two steps for each range of ports.
    const PORTS: usize = 19;
    let drop = PORTS + 2 * ports.len();
    let accept = drop + 1;
    let mut program = Program::default();
    program.load(code::LOAD_HALF, offset::ETHERTYPE);
    program.if_equal(ETHERTYPE_ARP, accept, 2);
    // A tag moves every offset; tagged frames are rare, as devices take the tag off.
    program.if_equal(ETHERTYPE_VLAN, accept, 3);
    program.if_equal(ETHERTYPE_SERVICE_VLAN, accept, 4);
    program.if_equal(ETHERTYPE_IPV6, 5, 8);
    program.load(code::LOAD_BYTE, offset::IPV6_NEXT_HEADER);
    program.if_equal(TCP, drop, 7);
    program.if_equal(UDP, 18, accept);
    program.if_equal(ETHERTYPE_IPV4, 9, drop);
    program.load(code::LOAD_BYTE, offset::IPV4_PROTOCOL);
    program.if_equal(VRRP, accept, 11);
    program.if_equal(AUTHENTICATION, accept, 12);
    program.if_equal(UDP, 13, drop);
    program.load(code::LOAD_WORD, offset::IPV4_DESTINATION);
    program.if_equal(group.to_bits(), accept, 15);
    program.load(code::LOAD_HEADER_LEN, offset::IPV4);
    program.load(code::LOAD_HALF_INDEXED, offset::IPV4 + 2);
    // To step 19.
    program.load(code::JUMP, 1);
    program.load(code::LOAD_HALF, offset::IPV6_UDP_PORT);
    for (nth, range) in ports.iter().enumerate() {
        let [second, next] = [PORTS + 2 * nth + 1, PORTS + 2 * nth + 2];
        program.branch(code::JUMP_IF_NOT_LESS, *range.start(), second, next);
        program.branch(code::JUMP_IF_GREATER, *range.end(), next, accept);
    }
    program.load(code::RETURN, 0);
    program.load(code::RETURN, u32::MAX);
    program.0
}

/// Steps by their numbers, which branches name.
#[derive(Default)]
struct Program(Vec<Step>);

impl Program {
    /// A step without branches.
    fn load(&mut self, code: u16, value: u32) {
        self.0.push(Step {
            code,
            then: 0,
            otherwise: 0,
            value,
        });
    }

    fn if_equal(&mut self, value: impl Into<u32>, then: usize, otherwise: usize) {
        self.branch(code::JUMP_IF_EQUAL, value, then, otherwise);
    }

    /// Goes on at one of two later steps.
    fn branch(&mut self, code: u16, value: impl Into<u32>, then: usize, otherwise: usize) {
        let next = self.0.len() + 1;
        // The program has far fewer steps than 256.
        let over = |step: usize| u8::try_from(step - next).unwrap_or(u8::MAX);
        self.0.push(Step {
            code,
            then: over(then),
            otherwise: over(otherwise),
            value: value.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::super::Decoder;
    use super::super::capture::{CaptureError, Captured, read};
    use super::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);

    #[test]
    fn nothing_that_is_decoded_is_held_back() {
        let mut accepted = 0;
        for path in captures() {
            // The one capture with another port has this one.
            let decoder = Decoder::new(Some(9500));
            let filter = steps(GROUP, &decoder.ports);
            read::<CaptureError>(&path, &mut |captured| {
                if decoder.decode(captured).is_some() {
                    assert!(passes(&filter, captured.frame), "{}", path.display());
                    accepted += 1;
                }
                Ok(())
            })
            .unwrap();
        }
        println!("{accepted} frames");
        assert!(accepted > 1000);
    }

    #[test]
    fn service_traffic_is_held_back() {
        let decoder = Decoder::new(None);
        let filter = steps(GROUP, &decoder.ports);
        let ipv4 = |protocol: u8, port: u16| {
            let mut frame = vec![0; 60];
            frame[12..14].copy_from_slice(&[8, 0]);
            frame[14] = 0x46;
            frame[23] = protocol;
            frame[40..42].copy_from_slice(&port.to_be_bytes());
            frame
        };
        let ipv6 = |protocol: u8, port: u16| {
            let mut frame = vec![0; 80];
            frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            frame[20] = protocol;
            frame[56..58].copy_from_slice(&port.to_be_bytes());
            frame
        };
        for (port, is_sync) in [(8847, false), (8848, true), (8911, true), (8912, false)] {
            assert_eq!(passes(&filter, &ipv4(UDP, port)), is_sync, "{port}");
            assert_eq!(passes(&filter, &ipv6(UDP, port)), is_sync, "{port}");
            assert!(!passes(&filter, &ipv4(TCP, port)) && !passes(&filter, &ipv6(TCP, port)));
            // Nor would it be decoded: the two agree.
            let at = Duration::ZERO;
            for frame in [ipv4(TCP, port), ipv6(TCP, port)] {
                assert_eq!(decoder.decode(Captured { at, frame: &frame }), None);
            }
        }
        assert!(!passes(&filter, &ipv4(1, 0)));
        assert!(passes(&filter, &ipv6(58, 0)));
        for short in 0..42 {
            passes(&filter, &ipv4(UDP, 8848)[..short]);
        }
    }

    fn captures() -> Vec<PathBuf> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directories = ["../syncproto/tests/golden/sync", "../vrrp/tests/golden"];
        let files = directories
            .iter()
            .flat_map(|directory| fs::read_dir(manifest.join(directory)).unwrap());
        files
            .map(|file| file.unwrap().path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "pcap")
            })
            .collect()
    }

    /// Runs the program as the kernel does: a load past the frame ends it with a drop.
    fn passes(program: &[Step], frame: &[u8]) -> bool {
        run(program, frame).is_some_and(|accepted| accepted != 0)
    }

    fn run(program: &[Step], frame: &[u8]) -> Option<u32> {
        let (mut at, mut accumulator, mut index) = (0, 0, 0);
        loop {
            let Step {
                code,
                then,
                otherwise,
                value,
            } = program[at];
            let bytes = |from: u32, count| frame.get(from as usize..)?.get(..count);
            let big_endian = |bytes: &[u8]| {
                bytes
                    .iter()
                    .fold(0, |word, byte| word << 8 | u32::from(*byte))
            };
            let condition = match code {
                code::LOAD_WORD => {
                    accumulator = big_endian(bytes(value, 4)?);
                    None
                }
                code::LOAD_HALF => {
                    accumulator = big_endian(bytes(value, 2)?);
                    None
                }
                code::LOAD_BYTE => {
                    accumulator = big_endian(bytes(value, 1)?);
                    None
                }
                code::LOAD_HALF_INDEXED => {
                    accumulator = big_endian(bytes(index + value, 2)?);
                    None
                }
                code::LOAD_HEADER_LEN => {
                    index = 4 * (bytes(value, 1)?[0] as u32 & 0xf);
                    None
                }
                code::JUMP => {
                    at += value as usize;
                    None
                }
                code::JUMP_IF_EQUAL => Some(accumulator == value),
                code::JUMP_IF_GREATER => Some(accumulator > value),
                code::JUMP_IF_NOT_LESS => Some(accumulator >= value),
                code::RETURN => return Some(value),
                other => panic!("code {other:#x}"),
            };
            at += 1 + match condition {
                Some(true) => usize::from(then),
                Some(false) => usize::from(otherwise),
                None => 0,
            };
        }
    }
}
