//! CRC32c, the checksum of SCTP (RFC 9260 §6.8, appendix A).
//!
//! Remainders are written with the lowest bit as the highest power of x, so that bytes enter as they
//! come off the wire. Without its fixed start and end the checksum is linear: if a message changes by
//! `diff` (old exclusive-or new) in four bytes with n bytes after them, its checksum changes by
//! diff · x^(8(n + 4)), which [`replace`] computes without reading the message.

/// The polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x^0.
const ONE: u32 = 1 << 31;

/// The checksum of a message as it stands in a packet; the field itself must be zero in `message`.
/// The programs do not run this.
pub fn checksum(message: &[u8]) -> u32 {
    let crc = message.iter().fold(u32::MAX, |crc, byte| {
        let mut crc = crc ^ u32::from(*byte);
        for _ in 0..8 {
            crc = times_x(crc);
        }
        crc
    });
    (!crc).to_le()
}

/// A checksum after four bytes of the message changed by `diff`, old exclusive-or new;
/// `bytes_after` (to 65531) follow them. Checksum and `diff` are as they stand in the packet.
#[inline(always)]
pub const fn replace(check: u32, diff: u32, bytes_after: u32) -> u32 {
    let mut distance = bytes_after.wrapping_add(4);
    let mut change = u32::from_le(diff);
    let mut digit = 0;
    while digit < DIGITS {
        let power = digit << DIGIT_BITS | distance as usize & (DIGIT_VALUES - 1);
        change = multiply(change, POWERS[power & (POWERS_COUNT - 1)]);
        distance >>= DIGIT_BITS;
        digit += 1;
    }
    check ^ change.to_le()
}

// Distances to 65535 bytes as four hexadecimal digits: one multiplication for each.
const DIGITS: usize = 4;
const DIGIT_BITS: u32 = 4;
const DIGIT_VALUES: usize = 1 << DIGIT_BITS;
const POWERS_COUNT: usize = DIGITS * DIGIT_VALUES;

/// x^(8 · value · 16^digit) at 16 × digit + value.
const POWERS: [u32; POWERS_COUNT] = powers();

const fn powers() -> [u32; POWERS_COUNT] {
    let mut powers = [ONE; POWERS_COUNT];
    // x^8, one byte further.
    let mut step = ONE >> 8;
    let mut at = 0;
    while at < POWERS_COUNT {
        if at % DIGIT_VALUES == 0 {
            powers[at] = ONE;
        } else {
            powers[at] = multiply(powers[at - 1], step);
        }
        at += 1;
        if at % DIGIT_VALUES == 0 {
            step = multiply(powers[at - 1], step);
        }
    }
    powers
}

/// The product of two remainders, in 32 steps without branches.
#[inline(always)]
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut product, mut a, mut b) = (0, a, b);
    let mut bit = 0;
    while bit < 32 {
        product ^= b & mask(a >> 31);
        b = times_x(b);
        a <<= 1;
        bit += 1;
    }
    product
}

#[inline(always)]
const fn times_x(a: u32) -> u32 {
    a >> 1 ^ POLYNOMIAL & mask(a & 1)
}

/// All bits set for 1, none for 0.
#[inline(always)]
const fn mask(bit: u32) -> u32 {
    bit.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn the_checksum_of_known_messages() {
        // The check value of the CRC catalogues, and RFC 3720 appendix B.4.
        assert_eq!(checksum(b"123456789"), 0xe306_9283u32.to_le());
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aau32.to_le());
        assert_eq!(checksum(&[0xff; 32]), 0x62a8_ab43u32.to_le());
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(checksum(&rising), 0x46dd_794eu32.to_le());
        assert_eq!(checksum(&[]), 0);
    }

    fn generator(mut seed: u64) -> impl FnMut() -> u32 {
        move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 16) as u32
        }
    }

    #[test]
    fn a_replaced_checksum_equals_a_full_computation() {
        const SEED: u64 = 0x5eed_c32c_0001;
        let mut next = generator(SEED);
        let edges = [4, 5, 19, 20, 255, 256, 257, 4095, 4096, 65_534, 65_535];
        let random: Vec<usize> = (0..60).map(|_| 4 + next() as usize % 65_532).collect();
        for length in (4..300).chain(edges).chain(random) {
            let mut message: Vec<u8> = (0..length).map(|_| next() as u8).collect();
            let before = checksum(&message);
            let (old, new): ([u8; 4], [u8; 4]) = (
                message.first_chunk().copied().unwrap(),
                next().to_ne_bytes(),
            );
            message[..4].copy_from_slice(&new);
            let diff = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new);
            assert_eq!(
                replace(before, diff, length as u32 - 4),
                checksum(&message),
                "length {length}, seed {SEED:#x}"
            );
        }
    }

    #[test]
    fn a_change_anywhere_in_the_message_is_found() {
        const SEED: u64 = 0x5eed_c32c_0002;
        let mut next = generator(SEED);
        for _ in 0..300 {
            let length = 12 + next() as usize % 1500;
            let at = next() as usize % (length - 3);
            let mut message: Vec<u8> = (0..length).map(|_| next() as u8).collect();
            let before = checksum(&message);
            let diff = next();
            for (byte, change) in message[at..].iter_mut().zip(diff.to_ne_bytes()) {
                *byte ^= change;
            }
            let after = (length - at - 4) as u32;
            let replaced = replace(before, diff, after);
            assert_eq!(replaced, checksum(&message), "at {at}, seed {SEED:#x}");
        }
    }
}
