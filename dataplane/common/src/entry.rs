//! Connection entries and the word that vouches for them.

use crate::key::{Addr6, Address, Be16, Be32, FlowKey};

/// A server slot that means "no real server bound".
pub const NO_SERVER: u32 = u32::MAX;
/// A place in the connection table that means "not controlled".
pub const NO_CONTROLLER: u32 = u32::MAX;

/// The fields of an entry that change together, changed only by compare-and-swap.
///
/// | bits | field |
/// | --- | --- |
/// | 0..5 | state, the protocol's number |
/// | 5..10 | state at the last time the entry was offered for synchronisation |
/// | 10..22 | flags |
/// | 22..44 | connections a template controls |
/// | 44..64 | generation of the place in the table |
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnWord(pub u64);

impl ConnWord {
    /// The place is taken.
    pub const LIVE: u64 = 1 << 10;
    /// Being made: nobody but its maker may touch it.
    pub const INIT: u64 = 1 << 11;
    /// Marked for removal; its counters have moved. Readers treat it as absent.
    pub const DEAD: u64 = 1 << 12;
    /// Being swept: the one who set it deletes the keys.
    pub const GONE: u64 = 1 << 13;
    /// Counts as inactive (`IP_VS_CONN_F_INACTIVE`).
    pub const INACTIVE: u64 = 1 << 14;
    /// No reply seen (`IP_VS_CONN_F_NOOUTPUT`).
    pub const NOOUTPUT: u64 = 1 << 15;
    /// Has to be offered for synchronisation: it was due, and nobody could be told.
    pub const DIRTY: u64 = 1 << 16;
    /// Saw a packet here since it was made or refreshed by synchronisation last.
    pub const LOCAL: u64 = 1 << 17;
    /// Its keys are gone while it lives on: an invalid template, or a connection that made room for
    /// another one and still controls some.
    pub const DETACHED: u64 = 1 << 18;

    const STATE_MASK: u64 = 0x1f;
    const OLD_STATE_SHIFT: u32 = 5;
    const CONTROLS_SHIFT: u32 = 22;
    const CONTROLS_MASK: u64 = 0x3f_ffff;
    const GENERATION_SHIFT: u32 = 44;
    /// Generations wrap here.
    pub const GENERATION_MASK: u32 = 0xf_ffff;

    /// A free place that will have `generation` next.
    pub const fn free(generation: u32) -> ConnWord {
        ConnWord(((generation & Self::GENERATION_MASK) as u64) << Self::GENERATION_SHIFT)
    }

    /// The next incarnation of a free place, not yet published.
    #[must_use]
    pub const fn claimed(self) -> ConnWord {
        let next = Self::free(self.generation().wrapping_add(1));
        ConnWord(next.0 | Self::LIVE | Self::INIT)
    }

    pub const fn state(self) -> u8 {
        (self.0 & Self::STATE_MASK) as u8
    }

    pub const fn old_state(self) -> u8 {
        ((self.0 >> Self::OLD_STATE_SHIFT) & Self::STATE_MASK) as u8
    }

    pub const fn controls(self) -> u32 {
        ((self.0 >> Self::CONTROLS_SHIFT) & Self::CONTROLS_MASK) as u32
    }

    pub const fn generation(self) -> u32 {
        (self.0 >> Self::GENERATION_SHIFT) as u32
    }

    pub const fn is(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// Free: nothing is there.
    pub const fn is_free(self) -> bool {
        !self.is(Self::LIVE)
    }

    /// Published, not being removed, and of this generation.
    pub const fn is_usable(self, generation: u32) -> bool {
        self.0 & (Self::LIVE | Self::INIT | Self::DEAD | Self::GONE) == Self::LIVE
            && self.generation() == generation
    }

    /// With one controlled connection more; 2^22 − 1 is the most.
    pub const fn controlling_one_more(self) -> Option<ConnWord> {
        if self.controls() == Self::CONTROLS_MASK as u32 {
            return None;
        }
        Some(ConnWord(self.0 + (1 << Self::CONTROLS_SHIFT)))
    }

    #[must_use]
    pub const fn with_state(self, state: u8) -> ConnWord {
        ConnWord(self.0 & !Self::STATE_MASK | state as u64 & Self::STATE_MASK)
    }

    /// After its state was offered: that state is the old one now, and the mark is off.
    #[must_use]
    pub const fn offered(self) -> ConnWord {
        let old = Self::STATE_MASK << Self::OLD_STATE_SHIFT;
        let state = (self.0 & Self::STATE_MASK) << Self::OLD_STATE_SHIFT;
        ConnWord(self.0 & !old & !Self::DIRTY | state)
    }

    /// With the state a synchronised entry brings: the peer knows it.
    #[must_use]
    pub const fn synced(self, state: u8) -> ConnWord {
        let old = Self::STATE_MASK << Self::OLD_STATE_SHIFT;
        let state_bits = (state as u64 & Self::STATE_MASK) << Self::OLD_STATE_SHIFT;
        ConnWord(self.with_state(state).0 & !old & !Self::LOCAL | state_bits)
    }

    #[must_use]
    pub const fn with(self, flags: u64) -> ConnWord {
        ConnWord(self.0 | flags)
    }

    #[must_use]
    pub const fn without(self, flags: u64) -> ConnWord {
        ConnWord(self.0 & !flags)
    }
}

/// A connection or template: one element of the table `CONNS4` or `CONNS6`.
///
/// What every packet needs comes first (with IPv4 in one cache line), then what synchronisation,
/// listings and removal need.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Conn<A: Address> {
    /// See [`ConnWord`].
    pub word: u64,
    /// CLOCK_MONOTONIC (coarse) nanoseconds at which the entry counts as absent, unless it controls
    /// others.
    pub deadline_ns: u64,
    /// Client → virtual service, also the key in `FLOWS4` or `FLOWS6`.
    pub key: FlowKey<A>,
    pub daddr: A,
    pub dport: Be16,
    /// Low 16 bits of the connection's kernel flags: forwarding method, TEMPLATE, SYNC, …
    /// INACTIVE and NOOUTPUT live in the word.
    pub conn_flags: u16,
    /// Place of the real server in `SERVERS`, or [`NO_SERVER`].
    pub server: u32,
    pub server_generation: u32,
    pub align: A::Align,
    /// Packets received from the client.
    pub in_pkts: u64,
    /// The current timeout in seconds.
    pub timeout_secs: u32,
    pub fwmark: u32,
    /// Kernel name `sync_endtime`, see [`crate::rules::sync::SyncView::endtime`]; 0 when the
    /// connection was never offered here.
    pub sync_endtime: u64,
    /// The controlling template or connection, as a place in this table with its generation;
    /// [`NO_CONTROLLER`].
    pub controller: u32,
    pub controller_generation: u32,
    /// CLOCK_MONOTONIC nanoseconds of creation.
    pub created_ns: u64,
    pub reserved: A::Reserved,
}

pub type Conn4 = Conn<Be32>;
pub type Conn6 = Conn<Addr6>;

/// Adds to the packed counters of a server: active in the upper half, total in the lower.
///
/// Whatever the order of concurrent adds, both halves come out right, because no half ever falls
/// below zero between them.
pub mod server_conns {
    pub const TOTAL_ONE: u64 = 1;
    pub const ACTIVE_ONE: u64 = 1 << 32;

    pub const fn active(conns: u64) -> u32 {
        (conns >> 32) as u32
    }

    pub const fn total(conns: u64) -> u32 {
        conns as u32
    }
}

const _: () = {
    assert!(size_of::<Conn4>() == 128);
    assert!(size_of::<Conn6>() == 192);
    assert!(core::mem::offset_of!(Conn6, in_pkts) == 88);
    assert!(core::mem::offset_of!(Conn4, sync_endtime) == 64);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_word_do_not_overlap() {
        let word = ConnWord::free(0xa_bcde)
            .with(ConnWord::LIVE | ConnWord::NOOUTPUT)
            .with_state(9);
        assert_eq!(word.generation(), 0xa_bcde);
        assert_eq!((word.state(), word.old_state(), word.controls()), (9, 0, 0));
        assert!(word.is_usable(0xa_bcde) && !word.is_usable(1));
        assert!(!word.with(ConnWord::DEAD).is_usable(0xa_bcde));
    }

    #[test]
    fn a_claimed_place_has_the_next_generation_and_is_nobodys() {
        let word = ConnWord::free(ConnWord::GENERATION_MASK).claimed();
        assert_eq!(word.generation(), 0);
        assert!(word.is(ConnWord::INIT) && !word.is_usable(0));
    }

    #[test]
    fn an_offered_state_is_the_old_one_and_no_longer_marked() {
        let word = ConnWord(ConnWord::LIVE | ConnWord::DIRTY)
            .with_state(3)
            .offered();
        assert_eq!((word.state(), word.old_state()), (3, 3));
        assert!(!word.is(ConnWord::DIRTY) && word.is(ConnWord::LIVE));
    }

    #[test]
    fn a_synced_state_is_known_and_not_from_here() {
        let word = ConnWord(ConnWord::LIVE | ConnWord::LOCAL | ConnWord::INACTIVE)
            .with_state(3)
            .synced(1);
        assert_eq!((word.state(), word.old_state()), (1, 1));
        assert!(!word.is(ConnWord::LOCAL) && word.is(ConnWord::INACTIVE));
    }

    #[test]
    fn packed_counters_survive_any_order_of_adds() {
        use server_conns::*;
        let mut conns = 0u64;
        conns = conns.wrapping_add(TOTAL_ONE + ACTIVE_ONE);
        conns = conns.wrapping_add(TOTAL_ONE);
        conns = conns.wrapping_sub(ACTIVE_ONE);
        conns = conns.wrapping_sub(TOTAL_ONE);
        assert_eq!((active(conns), total(conns)), (0, 1));
    }
}
