//! Server lists, with the tables of dh, sh and mh behind them, and the scheduler's position.
//!
//! An edit writes a new block beside the one in force and switches with one store.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::rules::schedule::hash::{fold4, fold6};
use dataplane_common::rules::schedule::table::{
    EMPTY, MAGLEV_SIZE, MaglevServer, fill_dh, fill_mh, fill_sh, table_size,
};
use dataplane_common::rules::schedule::{
    ListHead, Position, initial_position, on_list_change, wrr_levels,
};
use dataplane_common::service::{ServerRecord, ServiceRecord, list};
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{EditError, ServerKey, Service};

use super::{Entry, Services};
use crate::convert::{be, be6};
use crate::grace::grace_period;
use crate::mapped::{load, store};
use crate::maps::Maps;

const LIST: usize = core::mem::offset_of!(ServiceRecord, list);
const SCHED: usize = core::mem::offset_of!(ServiceRecord, sched);

/// One server of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Place in `SERVERS`.
    pub(super) slot: u32,
    pub(super) key: ServerKey,
    pub(super) weight: u32,
    /// The last weight above zero.
    pub(super) last_weight: u32,
}

/// More servers than a scheduler's table can name are refused as in the kernel (`EINVAL`).
pub(super) fn check_count(service: &Service) -> Result<(), EditError> {
    let most = match service.spec.scheduler {
        Some(Scheduler::Mh) => MAGLEV_SIZE,
        Some(_) | None => list::SERVERS_MAX,
    };
    if service.servers.len() <= most as usize {
        return Ok(());
    }
    let scheduler = service.spec.scheduler.map_or("none", Scheduler::name);
    Err(EditError::Invalid(format!(
        "{} servers, a service with scheduler {scheduler} has at most {most}",
        service.servers.len()
    )))
}

/// The list of a service in its order. `edited` says what the record of one server will be, because
/// it is not stored yet.
pub(super) fn members(
    maps: &Maps,
    entry: &Entry,
    service: &Service,
    edited: Option<(ServerKey, u32, u32)>,
) -> Vec<Member> {
    let member = |key: ServerKey, weight: u32| match edited {
        Some((server, slot, last_weight)) if server == key => Some(Member {
            slot,
            key,
            weight,
            last_weight,
        }),
        _ => {
            let slot = *entry.slots.get(&key)?;
            let at = core::mem::offset_of!(ServerRecord, last_weight);
            let last_weight = maps.servers.half(slot, at).load(SeqCst);
            Some(Member {
                slot,
                key,
                weight,
                last_weight,
            })
        }
    };
    let servers = service.servers.iter();
    servers
        .filter_map(|server| member(server.key, server.spec.weight))
        .collect()
}

/// The table of a scheduler that has one.
fn table(scheduler: Option<Scheduler>, members: &[Member]) -> Result<Vec<u16>, EditError> {
    let size = scheduler.map_or(0, |scheduler| table_size(scheduler as u8));
    // An empty list needs no slots to find nobody.
    if members.is_empty() || size == 0 {
        return Ok(Vec::new());
    }
    let mut slots = vec![EMPTY; size as usize];
    match scheduler {
        Some(Scheduler::Dh) => fill_dh(members.len(), &mut slots),
        Some(Scheduler::Mh) => {
            let mut servers: Vec<MaglevServer> = members.iter().map(maglev).collect();
            fill_mh(&mut servers, &mut slots)
                .map_err(|error| EditError::Invalid(error.to_string()))?;
        }
        Some(_) | None => fill_sh(members.iter().map(|member| member.weight), &mut slots),
    }
    Ok(slots)
}

fn maglev(member: &Member) -> MaglevServer {
    let fold = match member.key.ip() {
        IpAddr::V4(addr) => fold4(be(addr)),
        IpAddr::V6(addr) => fold6(be6(addr)),
    };
    MaglevServer::new(fold, member.key.port(), member.last_weight)
}

/// Four slots to a word; a last word that is not full ends with empty ones.
fn packed(slots: &[u16]) -> impl Iterator<Item = u64> {
    slots.chunks(list::SLOTS_PER_WORD as usize).map(|slots| {
        let slot = |at: usize| u64::from(slots.get(at).copied().unwrap_or(EMPTY));
        slot(0) | slot(1) << 16 | slot(2) << 32 | slot(3) << 48
    })
}

/// Words of a block.
pub(super) const fn block_words(servers: u32, slots: u32) -> u32 {
    let table = slots.div_ceil(list::SLOTS_PER_WORD);
    list::HEAD.saturating_add(servers).saturating_add(table)
}

pub(super) fn head_of(members: &[Member]) -> ListHead {
    let (wrr_max, wrr_step) = wrr_levels(members.iter().map(|member| member.weight));
    ListHead {
        count: members.len() as u32,
        wrr_max,
        wrr_step,
    }
}

pub(super) fn initial_position_of(scheduler: Option<Scheduler>, head: ListHead) -> Position {
    scheduler.map_or(Position::default(), |scheduler| {
        initial_position(scheduler, head)
    })
}

/// The block in force.
pub(super) fn block_of(maps: &Maps, id: u32) -> u32 {
    list::low(load(maps.services.word(id, LIST)))
}

impl Services {
    /// Writes a list beside the one in force and switches to it.
    pub(super) fn switch_list(
        &mut self,
        maps: &mut Maps,
        id: u32,
        scheduler: Option<Scheduler>,
        members: &[Member],
    ) -> Result<(), EditError> {
        let block = self.write_list(maps, scheduler, members)?;
        self.put_in_force(maps, id, scheduler, block, members);
        Ok(())
    }

    /// A new block with a list and the table of its scheduler.
    pub(super) fn write_list(
        &mut self,
        maps: &mut Maps,
        scheduler: Option<Scheduler>,
        members: &[Member],
    ) -> Result<u32, EditError> {
        let slots = table(scheduler, members)?;
        let words = block_words(members.len() as u32, slots.len() as u32);
        let block = self.arena.allocate(words).or_else(|| {
            grace_period();
            self.arena.reuse_retired();
            self.arena.allocate(words)
        });
        let Some(block) = block else {
            return Err(EditError::NoSpace(
                "the space for server lists is used up".into(),
            ));
        };
        let head = head_of(members);
        let counts = list::pack(head.count, slots.len() as u32);
        let levels = list::pack(head.wrr_max, head.wrr_step);
        let servers = members
            .iter()
            .map(|member| list::pack(member.slot, member.weight));
        let contents = [counts, levels, 0, 0].into_iter();
        for (at, word) in (block..).zip(contents.chain(servers).chain(packed(&slots))) {
            maps.lists.write(at, word);
        }
        Ok(block)
    }

    /// Switches a service to a list that has been written, and its scheduler with it.
    pub(super) fn put_in_force(
        &mut self,
        maps: &Maps,
        id: u32,
        scheduler: Option<Scheduler>,
        block: u32,
        members: &[Member],
    ) {
        self.switch_block(maps, id, block, members);
        let Some(scheduler) = scheduler else { return };
        let sched = maps.services.word(id, SCHED);
        for _ in 0..64 {
            let old = load(sched);
            let next = on_list_change(scheduler, Position::from_word(old), head_of(members));
            if swap(sched, old, next.to_word()) {
                break;
            }
        }
    }

    /// Switches a service to a list that has been written.
    pub(super) fn switch_block(&mut self, maps: &Maps, id: u32, block: u32, members: &[Member]) {
        let old = load(maps.services.word(id, LIST));
        let edits = list::high(old).wrapping_add(1);
        let word = list::pack(block, edits);
        store!(maps.services, id, ServiceRecord.list, word, word);
        for (index, member) in (0..).zip(members) {
            store!(
                maps.servers,
                member.slot,
                ServerRecord.list_index,
                half,
                index
            );
        }
        self.arena.retire(list::low(old));
    }
}

/// rr: when the server at the position leaves, the position moves back to its predecessor
/// (`ip_vs_rr.c: ip_vs_rr_del_dest`).
pub(super) fn step_back(maps: &Maps, id: u32, gone: Option<u32>, before: Option<u32>) {
    let sched = maps.services.word(id, SCHED);
    let old = load(sched);
    let position = Position::from_word(old);
    if position.slot.is_some() && position.slot == gone {
        let next = Position {
            slot: before,
            ..position
        };
        swap(sched, old, next.to_word());
    }
}

/// The server before `slot` in the list in force.
pub(super) fn predecessor(maps: &Maps, id: u32, slot: Option<u32>) -> Option<u32> {
    let block = block_of(maps, id);
    let index = maps.servers.read(slot?).list_index;
    let before = index.checked_sub(1)?;
    Some(list::low(maps.lists.read(block + list::HEAD + before)))
}

fn swap(word: &AtomicU64, old: u64, new: u64) -> bool {
    word.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u32, weight: u32) -> Member {
        Member {
            slot,
            key: format!("10.0.0.{}:80", slot + 1).parse().unwrap(),
            weight,
            last_weight: weight,
        }
    }

    #[test]
    fn slots_come_back_from_their_words() {
        let slots: Vec<u16> = (0..10).collect();
        let words: Vec<u64> = packed(&slots).collect();
        assert_eq!(words.len(), 3);
        for slot in 0..12u32 {
            let word = words[(slot / list::SLOTS_PER_WORD) as usize];
            let expected = slots.get(slot as usize).copied().unwrap_or(EMPTY);
            assert_eq!(list::slot_of(word, slot), expected);
        }
    }

    #[test]
    fn a_table_has_the_size_of_its_scheduler_and_an_empty_list_has_none() {
        let servers = [member(0, 1), member(1, 3)];
        for (scheduler, size) in [
            (Some(Scheduler::Sh), 256),
            (Some(Scheduler::Dh), 256),
            (Some(Scheduler::Mh), 4093),
            (Some(Scheduler::Wlc), 0),
            (None, 0),
        ] {
            assert_eq!(table(scheduler, &servers).unwrap().len(), size);
            assert!(table(scheduler, &[]).unwrap().is_empty());
        }
    }

    #[test]
    fn sh_goes_by_weight_and_dh_does_not() {
        let servers = [member(0, 1), member(1, 3)];
        let share = |scheduler| {
            let slots = table(Some(scheduler), &servers).unwrap();
            slots.iter().filter(|slot| **slot == 1).count()
        };
        assert_eq!((share(Scheduler::Sh), share(Scheduler::Dh)), (192, 128));
    }
}
