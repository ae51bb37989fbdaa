//! Which frames the kernel queues: classic BPF programs that look for addresses of ours.
//!
//! Addresses are kept as ranges, those of neighbours together, so that any number of them can be told
//! from others. Of more ranges than a program may have the nearest become one: then a frame of an
//! address in between gets through as well, and whoever reads it looks again.

use std::net::{Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;

use super::{
    ADVERTISEMENT, FRAME_LEN, FRAME_V6_LEN, ICMP_TYPE, ICMPV6, NEXT_HEADER, SENDER_ADDRESS, TARGET,
};

/// `BPF_LD | BPF_W | BPF_ABS`, the same of a byte, `BPF_JMP | BPF_JEQ | BPF_K`, the same with JGT and
/// JGE, `BPF_RET | BPF_K`.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_ABOVE: u16 = 0x25;
const JUMP_FROM: u16 = 0x35;
const RETURN: u16 = 0x06;
/// A program counts as memory of its socket, of which there are 20 KiB (`net.core.optmem_max` until
/// Linux 6.8), and each range takes up to 64 bytes of it once the kernel has translated it.
const RANGES_MAX: usize = 200;

/// ARP whose sender claims one of these.
pub(super) fn arp(addresses: &[Ipv4Addr]) -> Vec<SockFilter> {
    let words = addresses.iter().map(|address| address.to_bits()).collect();
    let mut program = vec![load_word(SENDER_ADDRESS)];
    accept_ranges(&mut program, words, FRAME_LEN);
    program
}

/// Neighbour advertisements of a target that ends like one of these.
pub(super) fn advertisements(addresses: &[Ipv6Addr]) -> Vec<SockFilter> {
    let last = |address: &Ipv6Addr| {
        let [.., a, b, c, d] = address.octets();
        u32::from_be_bytes([a, b, c, d])
    };
    let words = addresses.iter().map(last).collect();
    let mut program = vec![
        SockFilter::new(LOAD_BYTE, 0, 0, NEXT_HEADER as u32),
        SockFilter::new(JUMP_EQUAL, 1, 0, ICMPV6.into()),
        refuse(),
        SockFilter::new(LOAD_BYTE, 0, 0, ICMP_TYPE as u32),
        SockFilter::new(JUMP_EQUAL, 1, 0, ADVERTISEMENT.into()),
        refuse(),
        load_word(TARGET + 12),
    ];
    accept_ranges(&mut program, words, FRAME_V6_LEN);
    program
}

/// Ends a program: keeps `length` bytes of a frame whose loaded word is in a range, and drops others.
fn accept_ranges(program: &mut Vec<SockFilter>, words: Vec<u32>, length: usize) {
    for (low, high) in ranges(words) {
        // Those before ended below the word.
        program.extend([
            SockFilter::new(JUMP_ABOVE, 3, 0, high),
            SockFilter::new(JUMP_FROM, 0, 1, low),
            SockFilter::new(RETURN, 0, 0, length as u32),
            refuse(),
        ]);
    }
    program.push(refuse());
}

const fn load_word(offset: usize) -> SockFilter {
    SockFilter::new(LOAD_WORD, 0, 0, offset as u32)
}

const fn refuse() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, 0)
}

/// In order, apart from each other, at most [`RANGES_MAX`], first and last word included.
fn ranges(mut words: Vec<u32>) -> Vec<(u32, u32)> {
    words.sort_unstable();
    words.dedup();
    let mut gaps: Vec<u32> = words
        .iter()
        .zip(words.iter().skip(1))
        .map(|(word, next)| next - word)
        .collect();
    // Wider than this stay apart; next to each other are one in any case.
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    let widest = gaps.get(RANGES_MAX - 1).copied().unwrap_or(1).max(1);
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for word in words {
        match ranges.last_mut() {
            Some((_, high)) if word - *high <= widest => *high = word,
            Some(_) | None => ranges.push((word, word)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::os::unix::net::UnixDatagram;

    use socket2::SockRef;
    use vrrp::wire::{MacAddr, arp as frames, ndp};

    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    /// Sockets whose second end keeps what the program lets through.
    struct Filtered(UnixDatagram, UnixDatagram);

    impl Filtered {
        fn new(program: &[SockFilter]) -> Filtered {
            let (near, far) = UnixDatagram::pair().unwrap();
            SockRef::from(&far).attach_filter(program).unwrap();
            far.set_nonblocking(true).unwrap();
            Filtered(near, far)
        }

        fn lets_through(&self, frame: &[u8]) -> bool {
            // One that is filtered away is a refusal to some kernels' senders.
            let _ = self.0.send(frame);
            let mut kept = [0; FRAME_V6_LEN];
            match self.1.recv(&mut kept) {
                Ok(length) => {
                    assert_eq!(kept[..length], frame[..length]);
                    true
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    false
                }
            }
        }
    }

    #[test]
    fn every_ipv4_address_is_watched_however_many_there_are() {
        // Next to each other, and apart.
        for (count, step) in [(1_u32, 1), (255, 1), (5000, 1), (50, 3), (200, 7), (300, 7)] {
            let address = |nth: u32| Ipv4Addr::from_bits(0xc000_0200 + nth * step);
            let addresses: Vec<_> = (0..count).rev().map(address).collect();
            let socket = Filtered::new(&arp(&addresses));
            for address in &addresses {
                let frame = frames::gratuitous(*address, MAC);
                assert!(socket.lets_through(&frame), "{address} of {count}");
            }
            for other in [
                0xc000_01ff,
                0xc000_0200 + (count - 1) * step + 1,
                0,
                u32::MAX,
            ] {
                let frame = frames::gratuitous(Ipv4Addr::from_bits(other), MAC);
                assert!(!socket.lets_through(&frame), "{other:x} beside {count}");
            }
            if step > 1 && count as usize <= RANGES_MAX {
                let between = Ipv4Addr::from_bits(0xc000_0201);
                assert!(!socket.lets_through(&frames::gratuitous(between, MAC)));
            }
        }
    }

    /// Of 64 virtual routers with 255 addresses each, all apart.
    #[test]
    fn of_too_many_ranges_the_nearest_become_one_and_no_address_is_left_out() {
        let word = |nth: u32| 0x0a00_0000 + nth * 4 + u32::from(nth.is_multiple_of(97)) * (nth % 3);
        let words: Vec<u32> = (0..16_320).map(word).collect();
        let found = ranges(words.clone());
        assert!(found.len() <= RANGES_MAX, "{}", found.len());
        assert!(found.is_sorted_by(|one, next| one.1 < next.0));
        let holds = |word: &u32| found.iter().any(|(low, high)| low <= word && word <= high);
        assert!(words.iter().all(holds));
        let ends: BTreeSet<u32> = found.iter().flat_map(|(low, high)| [*low, *high]).collect();
        assert!(ends.is_subset(&words.iter().copied().collect()));
        let addresses: Vec<_> = words.iter().copied().map(Ipv4Addr::from_bits).collect();
        let program = arp(&addresses);
        // Two instructions of eight bytes for one.
        assert!(program.len() * 16 < 20 << 10, "{}", program.len());
        let socket = Filtered::new(&program);
        for address in addresses.iter().step_by(41) {
            assert!(socket.lets_through(&frames::gratuitous(*address, MAC)));
        }
    }

    #[test]
    fn without_addresses_nothing_is_let_through() {
        let any = frames::gratuitous(Ipv4Addr::LOCALHOST, MAC);
        assert!(!Filtered::new(&arp(&[])).lets_through(&any));
    }

    #[test]
    fn only_advertisements_of_a_target_of_ours_are_let_through() {
        let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        let ours: Vec<_> = (0x100..0x100 + 300).map(address).collect();
        let socket = Filtered::new(&advertisements(&ours));
        for target in &ours {
            let mut frame = ndp::unsolicited(*target, MAC, false);
            assert!(socket.lets_through(&frame), "{target}");
            frame[ICMP_TYPE] = super::super::SOLICITATION;
            assert!(!socket.lets_through(&frame));
            frame[ICMP_TYPE] = ADVERTISEMENT;
            frame[NEXT_HEADER] = 17;
            assert!(!socket.lets_through(&frame));
        }
        for last in [0, 0xff, 0x100 + 300, u16::MAX] {
            let frame = ndp::unsolicited(address(last), MAC, false);
            assert!(!socket.lets_through(&frame), "{last:x}");
        }
    }
}
