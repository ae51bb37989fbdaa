//! Hashes of the schedulers that choose by address.

use crate::key::Be32;

/// An IPv4 address as the number that is hashed.
#[inline(always)]
pub const fn fold4(addr: Be32) -> u32 {
    addr.to_host()
}

/// An IPv6 address as the number that is hashed: exclusive or of its words.
#[inline(always)]
pub const fn fold6(addr: [Be32; 4]) -> u32 {
    let [a, b, c, d] = addr;
    a.to_host() ^ b.to_host() ^ c.to_host() ^ d.to_host()
}

/// The upper `bits` (1..=32) of a multiplicative hash (`hash.h: hash_32`).
#[inline(always)]
pub const fn hash_32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> (32u32.wrapping_sub(bits) & 31)
}

/// A key of [`hsiphash`]; both of its words are this number (`ip_vs_mh.c: generate_hash_secret`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum MaglevKey {
    /// Slot of a client, first slot of a server.
    First = 2_654_435_761,
    /// Distance of a server's slots.
    Second = 2_654_446_892,
}

/// SipHash-1-3 of four bytes, little end first, cut to 32 bits (`siphash.c: hsiphash_1u32` on 64-bit
/// machines).
#[inline(always)]
pub const fn hsiphash(value: u32, key: MaglevKey) -> u32 {
    let key = key as u64;
    let mut v = [
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key,
    ];
    // The last and only block: the bytes, and their number on top.
    let block = value as u64 | 4 << 56;
    v[3] ^= block;
    v = sip_round(v);
    v[0] ^= block;
    v[2] ^= 0xff;
    v = sip_round(sip_round(sip_round(v)));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

#[inline(always)]
const fn sip_round(v: [u64; 4]) -> [u64; 4] {
    let [mut a, mut b, mut c, mut d] = v;
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_siphash_of_known_addresses() {
        let v4 = |octets| fold4(Be32::from_host(u32::from_be_bytes(octets)));
        let v6 = fold6([0x2001_0db8, 0, 0, 0x10].map(Be32::from_host));
        let table = [
            (v4([203, 0, 113, 7]), 0xa86e_2c15),
            (v4([198, 51, 100, 9]), 0xa709_3b00),
            (v4([10, 0, 0, 1]), 0x0308_0ce4),
            (v6, 0x0b22_8ca3),
        ];
        for (fold, hash) in table {
            assert_eq!(hsiphash(fold, MaglevKey::First), hash, "{fold:#x}");
        }
    }

    #[test]
    fn an_ipv6_address_folds_to_the_exclusive_or_of_its_words() {
        let addr = [0x1111_0000, 0x0222_2000, 0x0033_3300, 0x0004_4440].map(Be32::from_host);
        assert_eq!(fold6(addr), 0x1304_5740);
    }
}
