//! What few connections have beside the rest: shifted sequence numbers, and the data of a persistence
//! engine.

/// How an application helper shifted the sequence numbers of one direction (`struct ip_vs_seq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqRecord {
    /// Sequence number from which `delta` holds.
    pub init_seq: u32,
    /// Unit: bytes.
    pub delta: i32,
    /// What holds before `init_seq`. Unit: bytes.
    pub previous_delta: i32,
}

/// The shifts of both directions; always transmitted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqPair {
    /// Of what the client sends (`in_seq`).
    pub input: SeqRecord,
    /// Of what the server sends (`out_seq`).
    pub output: SeqRecord,
}

/// Name and data of a persistence engine.
///
/// Both are bytes: the wire has no terminator, and what a peer sends need not be text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct Pe {
    name: [u8; Pe::NAME_LEN_MAX],
    name_len: u8,
    data: [u8; Pe::DATA_LEN_MAX],
    data_len: u8,
}

impl Pe {
    /// Longest name. Source: `ip_vs.h: IP_VS_PENAME_MAXLEN`.
    pub const NAME_LEN_MAX: usize = 16;
    /// Longest data. Source: `ip_vs.h: IP_VS_PEDATA_MAXLEN`.
    pub const DATA_LEN_MAX: usize = 255;

    /// `None` unless the name has 1 to 16 bytes and the data 1 to 255.
    pub fn new(name: &[u8], data: &[u8]) -> Option<Pe> {
        if name.is_empty() || data.is_empty() {
            return None;
        }
        let mut pe = Pe {
            name: [0; Pe::NAME_LEN_MAX],
            name_len: u8::try_from(name.len()).ok()?,
            data: [0; Pe::DATA_LEN_MAX],
            data_len: u8::try_from(data.len()).ok()?,
        };
        pe.name.get_mut(..name.len())?.copy_from_slice(name);
        pe.data.get_mut(..data.len())?.copy_from_slice(data);
        Some(pe)
    }

    /// The engine's name as transmitted, 1 to 16 bytes.
    pub fn name(&self) -> &[u8] {
        self.name.get(..self.name_len.into()).unwrap_or_default()
    }

    /// 1 to 255 bytes; of the engine `sip` the Call-ID.
    pub fn data(&self) -> &[u8] {
        self.data.get(..self.data_len.into()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engine_names_and_data_keep_to_the_lengths_of_their_options() {
        let pe = Pe::new(b"sip", b"x@lab").unwrap();
        assert_eq!((pe.name(), pe.data()), (&b"sip"[..], &b"x@lab"[..]));
        assert!(Pe::new(&[b'n'; 16], &[b'd'; 255]).is_some());
        for (name, data) in [(0, 1), (17, 1), (1, 0), (1, 256)] {
            assert_eq!(Pe::new(&[b'n'; 17][..name], &[b'd'; 256][..data]), None);
        }
    }
}
