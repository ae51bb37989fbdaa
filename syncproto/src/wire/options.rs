//! What may follow the fixed part of a version 1 entry.
//!
//! ```text
//!  0        1        2          2 + length
//!  +--------+--------+----------+
//!  | type   | length | data     |      length: 1..255, of the data alone
//!  +--------+--------+----------+
//! ```
//!
//! | type | data |
//! |---|---|
//! | 1 | sequence records, 24 bytes |
//! | 2 | data of a persistence engine, 1 to 255 bytes |
//! | 3 | name of the engine, 1 to 16 bytes, no terminator |
//!
//! Bit 0x40 of a type lets a receiver that does not know it pass over it; it is no part of the
//! type. Bit 0x80 is. Source: `ip_vs_sync.c: IPVS_OPT_*`.

use crate::conn::{Pe, SeqPair, SeqRecord};
use crate::limits::{PE_NAME_LEN_MAX, SEQ_BLOCK_LEN, v1};
use crate::refusal::Refusal;
use crate::wire::cursor::Cursor;
use crate::wire::{Entry, SeqOrder};

const SEQ_DATA: u8 = 1;
const PE_DATA: u8 = 2;
const PE_NAME: u8 = 3;
/// Source: `ip_vs_sync.c: IPVS_OPT_F_PARAM`.
const MAY_BE_IGNORED: u8 = 0x40;

/// Options that nobody has to know: one of the places where extensions ride. They have no effect;
/// this iterator over type and data reports them.
#[derive(Clone, Copy, Debug)]
pub struct Ignored<'a> {
    options: &'a [u8],
    /// At most one per three bytes of an entry of at most 4095.
    count: u16,
}

impl Ignored<'_> {
    pub(super) const NONE: Ignored<'static> = Ignored {
        options: &[],
        count: 0,
    };

    /// How many are left.
    #[inline]
    pub const fn count_left(&self) -> u16 {
        self.count
    }
}

impl<'a> Iterator for Ignored<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut cursor = Cursor::new(self.options);
        loop {
            let [kind, length] = cursor.array()?;
            let data = cursor.take(length.into())?;
            self.options = cursor.rest();
            if !matches!(kind & !MAY_BE_IGNORED, SEQ_DATA | PE_DATA | PE_NAME) {
                return Some((kind, data));
            }
        }
    }
}

/// Reads the options of an entry into it. A mandatory option that is not known becomes its
/// verdict, and what follows it is not looked at.
///
/// # Errors
/// The refusals of [`crate::refusal::Consequence::Stop`] that begin with `option`.
pub(super) fn read<'a>(bytes: &'a [u8], entry: &mut Entry<'a>) -> Result<(), Refusal> {
    let mut cursor = Cursor::new(bytes);
    let mut ignored: u16 = 0;
    while !cursor.is_empty() {
        let [kind, length] = cursor.array().ok_or(Refusal::OptionStrayByte)?;
        let data = match cursor.take(length.into()) {
            Some(data) if !data.is_empty() => data,
            _ => return Err(Refusal::OptionLength),
        };
        match kind & !MAY_BE_IGNORED {
            SEQ_DATA => match <&[u8; SEQ_BLOCK_LEN]>::try_from(data) {
                Ok(block) if entry.seq.is_none() => {
                    entry.seq = Some(read_seq(block, SeqOrder::Big));
                }
                _ => return Err(Refusal::OptionSeq),
            },
            PE_DATA if entry.pe_data.is_none() => entry.pe_data = Some(data),
            PE_DATA => return Err(Refusal::OptionPeData),
            PE_NAME if entry.pe_name.is_none() && data.len() <= PE_NAME_LEN_MAX => {
                entry.pe_name = Some(data);
            }
            PE_NAME => return Err(Refusal::OptionPeName),
            _ if kind & MAY_BE_IGNORED != 0 => ignored = ignored.saturating_add(1),
            _ => {
                entry.verdict = Err(Refusal::OptionUnknown);
                break;
            }
        }
    }
    entry.ignored = Ignored {
        options: bytes,
        count: ignored,
    };
    Ok(())
}

/// Bytes that the options of a connection take.
pub(super) fn len(seq: Option<&SeqPair>, pe: Option<&Pe>) -> usize {
    let seq = seq.map_or(0, |_| v1::OPTION_HEADER_LEN.saturating_add(SEQ_BLOCK_LEN));
    let pe = pe.map_or(0, |pe| {
        let data = v1::OPTION_HEADER_LEN.saturating_add(pe.data().len());
        let name = v1::OPTION_HEADER_LEN.saturating_add(pe.name().len());
        data.saturating_add(name)
    });
    seq.saturating_add(pe)
}

/// Writes the options of a connection, in the kernel's order.
pub(super) fn write(seq: Option<&SeqPair>, pe: Option<&Pe>, out: &mut Vec<u8>) {
    if let Some(seq) = seq {
        out.extend_from_slice(&[SEQ_DATA, SEQ_BLOCK_LEN as u8]);
        write_seq(seq, SeqOrder::Big, out);
    }
    if let Some(pe) = pe {
        for (kind, data) in [(PE_DATA, pe.data()), (PE_NAME, pe.name())] {
            // Both are at most 255 bytes long by construction.
            out.extend_from_slice(&[kind, data.len() as u8]);
            out.extend_from_slice(data);
        }
    }
}

/// The sequence block, which version 0 has in the sender's byte order.
///
/// ```text
///  0          4        8                12         16       20               24
///  +----------+--------+----------------+----------+--------+----------------+
///  | init_seq | delta  | previous_delta | init_seq | delta  | previous_delta |
///  +----------+--------+----------------+----------+--------+----------------+
///    from the client                      from the server
/// ```
pub(super) fn read_seq(block: &[u8; SEQ_BLOCK_LEN], order: SeqOrder) -> SeqPair {
    let (words, _) = block.as_chunks::<4>();
    let word = |index: usize| {
        let bytes = words.get(index).copied().unwrap_or_default();
        match order {
            SeqOrder::Big => u32::from_be_bytes(bytes),
            SeqOrder::Little => u32::from_le_bytes(bytes),
        }
    };
    let record = |first: usize| SeqRecord {
        init_seq: word(first),
        delta: word(first.wrapping_add(1)) as i32,
        previous_delta: word(first.wrapping_add(2)) as i32,
    };
    SeqPair {
        input: record(0),
        output: record(3),
    }
}

/// The counterpart of [`read_seq`].
pub(super) fn write_seq(seq: &SeqPair, order: SeqOrder, out: &mut Vec<u8>) {
    for record in [seq.input, seq.output] {
        let words = [
            record.init_seq,
            record.delta as u32,
            record.previous_delta as u32,
        ];
        for word in words {
            out.extend_from_slice(&match order {
                SeqOrder::Big => word.to_be_bytes(),
                SeqOrder::Little => word.to_le_bytes(),
            });
        }
    }
}
