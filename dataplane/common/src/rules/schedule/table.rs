//! dh, sh, mh: schedulers that look a server up in a table of the list's indexes.
//!
//! User space fills a table when the list changes ([`fill_dh`], [`fill_sh`], [`fill_mh`]); a
//! [`Probe`] says which slot a packet wants to see, is shown the server there, and ends with a choice.

use core::fmt;

use ipvs_model::scheduler::Scheduler;

use super::hash::{MaglevKey, hash_32, hsiphash};
use super::wrr::gcd;
use super::{Candidate, HEAD, Step};

/// A slot with no server.
pub const EMPTY: u16 = crate::service::list::EMPTY_SLOT;

/// Slots of dh and sh as a power of two (`CONFIG_IP_VS_DH_TAB_BITS`, `CONFIG_IP_VS_SH_TAB_BITS`).
pub const HASH_BITS: u32 = 8;

/// Slots of dh and sh.
pub const HASH_SIZE: u32 = 1 << HASH_BITS;

/// Slots of mh: the prime of `CONFIG_IP_VS_MH_TAB_INDEX` 12.
pub const MAGLEV_SIZE: u32 = 4093;

/// Bits that a weight, in units of the common divisor, keeps: half the table's index
/// (`ip_vs_mh.c: ip_vs_mh_shift_weight`).
pub const MAGLEV_SHIFT_BITS: u32 = 6;

pub const DH: u8 = Scheduler::Dh as u8;
const SH: u8 = Scheduler::Sh as u8;
const MH: u8 = Scheduler::Mh as u8;

/// Service flags that change a lookup (`IP_VS_SVC_F_SCHED1`, `IP_VS_SVC_F_SCHED2`).
pub mod flag {
    /// sh-fallback, mh-fallback: look on when the server found is not usable.
    pub const FALLBACK: u32 = 0x08;
    /// sh-port, mh-port: the client's port counts too.
    pub const PORT: u32 = 0x10;
}

/// Slots of a scheduler's table; 0 when it has none.
#[inline(always)]
pub const fn table_size(scheduler: u8) -> u32 {
    match scheduler {
        DH | SH => HASH_SIZE,
        MH => MAGLEV_SIZE,
        _ => 0,
    }
}

/// Fills the table of dh: servers in turn, whatever their weights (`ip_vs_dh.c: ip_vs_dh_reassign`).
///
/// With more servers than slots the last ones get none.
pub fn fill_dh(count: usize, out: &mut [u16]) {
    assign((0..count).cycle(), out);
}

/// Fills the table of sh: servers in turn, each as many slots as its weight says, and one if that is
/// zero (`ip_vs_sh.c: ip_vs_sh_reassign`). `weights` are those of the list, in its order.
pub fn fill_sh(weights: impl Iterator<Item = u32> + Clone, out: &mut [u16]) {
    let turn = weights.enumerate().flat_map(|(index, weight)| {
        core::iter::repeat_n(index, usize::try_from(weight).unwrap_or(usize::MAX).max(1))
    });
    assign(turn.cycle(), out);
}

/// Writes list indexes into the slots, and [`EMPTY`] where there is nobody.
fn assign(mut indexes: impl Iterator<Item = usize>, out: &mut [u16]) {
    for slot in out {
        *slot = indexes
            .next()
            .and_then(|index| u16::try_from(index).ok())
            .unwrap_or(EMPTY);
    }
}

/// A real server on its way into the table of mh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaglevServer {
    /// Folded address.
    fold: u32,
    /// Host order.
    port: u16,
    /// The last weight above zero: a quiesced server keeps its slots.
    last_weight: u32,
    turns: u32,
    /// The slot it wants next.
    position: usize,
    /// Distance to the one after that.
    skip: usize,
}

impl MaglevServer {
    pub const fn new(fold: u32, port: u16, last_weight: u32) -> MaglevServer {
        MaglevServer {
            fold,
            port,
            last_weight,
            turns: 0,
            position: 0,
            skip: 0,
        }
    }

    fn set_up(&mut self, size: usize, divisor: u32, shift: u32) {
        let value = self.fold.wrapping_add(u32::from(self.port));
        let hash = |key| usize::try_from(hsiphash(value, key)).unwrap_or(0);
        self.position = hash(MaglevKey::First).checked_rem(size).unwrap_or(0);
        self.skip = hash(MaglevKey::Second)
            .checked_rem(size.saturating_sub(1))
            .unwrap_or(0)
            + 1;
        let turns = self.last_weight.checked_div(divisor).unwrap_or(0) >> shift;
        self.turns = turns.max(u32::from(self.last_weight > 0));
    }

    /// Takes the next free slot of its own sequence; `false` when there is none.
    fn take(&mut self, index: u16, out: &mut [u16]) -> bool {
        let size = out.len();
        // The size is prime, so the sequence comes by every slot.
        for _ in 0..size {
            if let Some(slot) = out.get_mut(self.position)
                && *slot == EMPTY
            {
                *slot = index;
                return true;
            }
            self.position += self.skip;
            if self.position >= size {
                self.position -= size;
            }
        }
        false
    }
}

/// More servers than a table of mh has slots (the kernel says `EINVAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyServers {
    pub servers: usize,
    pub slots: usize,
}

impl fmt::Display for TooManyServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooManyServers { servers, slots } = self;
        write!(f, "{servers} servers are more than the {slots} slots of mh")
    }
}

impl core::error::Error for TooManyServers {}

/// Fills the table of mh (`ip_vs_mh.c: ip_vs_mh_permutate, ip_vs_mh_populate`). `servers` are those
/// of the list, in its order; the length of `out` is a prime, [`MAGLEV_SIZE`].
///
/// # Errors
/// [`TooManyServers`]; the table is empty then.
pub fn fill_mh(servers: &mut [MaglevServer], out: &mut [u16]) -> Result<(), TooManyServers> {
    out.fill(EMPTY);
    if servers.len() > out.len() {
        return Err(TooManyServers {
            servers: servers.len(),
            slots: out.len(),
        });
    }
    let divisor = servers
        .iter()
        .fold(0, |divisor, server| gcd(divisor, server.last_weight));
    let largest = servers.iter().map(|server| server.last_weight).max();
    let units = largest.and_then(|largest| largest.checked_div(divisor));
    // No server, or none that ever had a weight.
    let Some(units) = units else { return Ok(()) };
    let shift = (u32::BITS - units.leading_zeros()).saturating_sub(MAGLEV_SHIFT_BITS);
    for server in servers.iter_mut() {
        server.set_up(out.len(), divisor, shift);
    }
    // Each round takes at least one slot.
    for _ in 0..out.len() {
        for (index, server) in (0..).zip(servers.iter_mut()) {
            for _ in 0..server.turns {
                if !server.take(index, out) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// One lookup in progress.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// What is hashed: folded address and port.
    value: u32,
    /// The slot to look at.
    slot: u32,
    /// The slot looked at first.
    first: u32,
    /// Slots that were looked at after the first.
    tries: u32,
    /// Place in `SERVERS` of the choice, or [`HEAD`].
    chosen: u32,
    scheduler: u8,
    fallback: bool,
    reserved: u16,
}

impl Probe {
    /// Begins a lookup. `fold` is the folded address that counts, the client's or for dh the
    /// packet's destination; `port` the client's port in host order, 0 if its protocol has none.
    ///
    /// Gives `None` for schedulers without a table.
    #[inline(always)]
    pub const fn begin(scheduler: u8, service_flags: u32, fold: u32, port: u16) -> Option<Probe> {
        if table_size(scheduler) == 0 {
            return None;
        }
        let by_port = scheduler != DH && service_flags & flag::PORT != 0;
        let value = fold.wrapping_add(if by_port { port as u32 } else { 0 });
        let slot = if scheduler == MH {
            maglev_slot(value)
        } else {
            hash_32(value, HASH_BITS)
        };
        Some(Probe {
            value,
            slot,
            first: slot,
            tries: 0,
            chosen: HEAD,
            scheduler,
            fallback: scheduler != DH && service_flags & flag::FALLBACK != 0,
            reserved: 0,
        })
    }

    /// The most steps a lookup takes.
    pub const fn steps_max(scheduler: u8, service_flags: u32) -> u32 {
        if scheduler != DH && service_flags & flag::FALLBACK != 0 {
            1 + table_size(scheduler)
        } else {
            1
        }
    }

    /// The slot of the table to show next, below [`table_size`].
    #[inline(always)]
    pub const fn slot(&self) -> u32 {
        self.slot
    }

    /// Shows the server in [`Probe::slot`]; `None` if the slot is empty or there is no table. One
    /// that is in the table but no longer in the list is shown with weight 0.
    #[inline(always)]
    pub fn step(&mut self, server: Option<Candidate>) -> Step {
        let Some(server) = server else {
            return Step::Done;
        };
        if server.is_usable() {
            self.chosen = server.slot;
            return Step::Done;
        }
        let size = table_size(self.scheduler);
        if !self.fallback || self.tries >= size {
            return Step::Done;
        }
        let offset = self.first + self.tries;
        let offset = if offset >= size {
            offset - size
        } else {
            offset
        };
        self.slot = if self.scheduler == MH {
            maglev_slot(self.value.wrapping_add(offset))
        } else {
            (offset + self.first) & (HASH_SIZE - 1)
        };
        self.tries += 1;
        Step::Continue
    }

    /// The chosen server's place in `SERVERS`.
    #[inline(always)]
    pub const fn chosen(&self) -> Option<u32> {
        if self.chosen == HEAD {
            None
        } else {
            Some(self.chosen)
        }
    }
}

#[inline(always)]
const fn maglev_slot(value: u32) -> u32 {
    hsiphash(value, MaglevKey::First) % MAGLEV_SIZE
}

#[cfg(test)]
mod tests;
