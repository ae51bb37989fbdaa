//! Internet checksum arithmetic (RFC 1624).

/// Folds a 32-bit or longer sum into 16 bits.
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A checksum after one 32-bit field changed, all as they stand in the packet
/// (RFC 1624 §3, equation 3).
pub const fn replace32(check: u16, old: u32, new: u32) -> u16 {
    let sum = (!check) as u64 + halves(!old) + halves(new);
    !fold(sum)
}

/// A checksum after one 16-bit field changed, all as they stand in the packet.
pub const fn replace16(check: u16, old: u16, new: u16) -> u16 {
    !fold((!check) as u64 + (!old) as u64 + new as u64)
}

const fn halves(value: u32) -> u64 {
    (value & 0xffff) as u64 + (value >> 16) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(words: &[u16]) -> u16 {
        !fold(words.iter().map(|word| u64::from(*word)).sum())
    }

    #[test]
    fn an_updated_checksum_equals_a_full_computation() {
        // A small generator keeps the inputs reproducible.
        let mut seed = 0x2545_f491u32;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed
        };
        for _ in 0..100_000 {
            let mut words = [0u16; 10];
            words.iter_mut().for_each(|word| *word = next() as u16);
            let check = full(&words);
            let (old, new) = (u32::from(words[3]) | u32::from(words[4]) << 16, next());
            (words[3], words[4]) = (new as u16, (new >> 16) as u16);
            assert_eq!(replace32(check, old, new), full(&words));
            let check = full(&words);
            let (old, new) = (words[7], next() as u16);
            words[7] = new;
            assert_eq!(replace16(check, old, new), full(&words));
        }
    }
}
