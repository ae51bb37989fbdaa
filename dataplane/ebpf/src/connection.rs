//! Connection entries: finding a free place, publishing, marking and freeing.
//!
//! An entry's life: a free place is *claimed* (INIT, next generation), filled in, its keys are
//! inserted, its server counts it, and a swap *publishes* it. It ends in two steps, *mark* (the
//! winner moves the counters) and, a grace period later, *sweep* (the winner deletes the keys and
//! frees the place), or in one when its place or its key is needed at once. Whoever wins the swap
//! of a step does what belongs to it; nobody helps.
//!
//! An entry that controls others is never marked. When its key is needed it is *detached*: the
//! winner deletes the keys, and the entry lives on without them.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use dataplane_common::entry::{Conn, ConnWord, NO_CONTROLLER, NO_SERVER};
use dataplane_common::rules::transition::{is_expired, may_be_freed, removal_delta};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;
use dataplane_common::{FlowKey, FlowRef};

use crate::atomic;
use crate::family::Family;
use crate::maps::{FULL_UNTIL, count};
use crate::server::{add_persistent, bind, unbind};

/// `IP_VS_CONN_F_FWD_MASK`
const FWD_MASK: u16 = 0x7;
/// `IP_VS_CONN_F_TEMPLATE`
pub const TEMPLATE: u16 = 0x1000;
/// `IP_VS_CONN_F_NO_CPORT`
pub const NO_CPORT: u16 = 0x0800;
/// Tries of one compare-and-swap before it is given up.
pub const SWAP_TRIES: u32 = 4;
/// Tries to put a connection under its controller, whose word many processors may move at once.
const CONTROL_TRIES: u32 = 16;
/// Places looked at for a new connection before the table counts as full.
///
/// They are drawn at random, because connections that live long would otherwise stand in rows that
/// no search gets past. A table nine tenths full refuses one new connection in 10^11, one that is
/// full to 99 of 100 refuses one in thirteen.
const ALLOC_PROBES: u32 = 256;
/// Places looked at while the table is known to be full, so that a flood of new connections leaves
/// time for the known ones.
const FULL_PROBES: u32 = 8;
/// How long a table that was found full is taken for full.
const FULL_FOR_NS: u64 = 5_000_000;
/// Masquerading, as `conn_flags & FWD_MASK`.
pub const MASQUERADING: u16 = 0;
/// Local node.
pub const LOCAL_NODE: u16 = 1;
/// Direct routing.
pub const DIRECT_ROUTING: u16 = 3;
/// Sent to its own destination.
pub const BYPASS: u16 = 4;
/// One more controlled connection, as it stands in the word.
const CONTROLS_ONE: u64 = 1 << 22;

/// A claimed place.
pub struct Claim<F: Family> {
    pub conn: *mut Conn<F::Addr>,
    pub index: u32,
    pub word: ConnWord,
}

/// Why a claimed entry could not be published.
pub enum NotPublished {
    /// Another processor made the same connection.
    Exists,
    /// The way back belongs to another connection.
    ///
    /// DIFFERS: in the kernel both connections stand and the newer one gets the replies; here the
    /// older one keeps them while it lives.
    ReplyCollision,
}

/// The forwarding method of a connection.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn method<F: Family>(conn: *const Conn<F::Addr>) -> u16 {
    // SAFETY: the caller vouches for the pointer.
    unsafe { (*conn).conn_flags & FWD_MASK }
}

/// Whether an entry is absent for packets: its timer has ended, and it controls nothing.
#[inline(always)]
pub fn is_over(word: ConnWord, deadline_ns: u64, now_ns: u64) -> bool {
    is_expired(deadline_ns, now_ns) && word.controls() == 0
}

/// Whether a connection has two keys. Without a port of its client there is no way back yet.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn has_way_back<F: Family>(conn: *const Conn<F::Addr>) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe { (*conn).conn_flags & (FWD_MASK | TEMPLATE | NO_CPORT) == MASQUERADING }
}

/// Puts one more connection under a controller; false when that is not there any more.
///
/// # Safety
/// `controller` is an entry of the connection table.
#[inline(always)]
pub unsafe fn control<F: Family>(controller: *mut Conn<F::Addr>, generation: u32) -> bool {
    for _ in 0..CONTROL_TRIES {
        // SAFETY: the caller vouches for the pointer.
        unsafe {
            let word = ConnWord(atomic::load(&raw const (*controller).word));
            if !word.is_usable(generation) {
                return false;
            }
            let Some(next) = word.controlling_one_more() else {
                return false;
            };
            let next = next.with(ConnWord::LOCAL);
            if atomic::swap(&raw mut (*controller).word, word.0, next.0) {
                return true;
            }
        }
    }
    count(Event::SwapGivenUp);
    false
}

/// Takes one connection off its controller. An entry that controls something keeps its place and
/// generation, so there is nothing to compare.
#[inline(always)]
pub fn uncontrol<F: Family>(controller: u32) {
    if controller == NO_CONTROLLER {
        return;
    }
    if let Some(controller) = F::conn(controller) {
        // SAFETY: an entry of the table; the field is aligned.
        unsafe { atomic::add(&raw mut (*controller).word, CONTROLS_ONE.wrapping_neg()) }
    }
}

/// Takes the place that user space found free, or else any.
#[inline(always)]
pub fn claim_near<F: Family>(
    settings: *const Settings,
    hint: u32,
    now_ns: u64,
) -> Option<Claim<F>> {
    if let Some(conn) = F::conn(hint) {
        // SAFETY: an entry of the table.
        unsafe {
            let word = ConnWord(atomic::load(&raw const (*conn).word));
            let claimed = word.claimed();
            if word.is_free() && atomic::swap(&raw mut (*conn).word, word.0, claimed.0) {
                return Some(Claim {
                    conn,
                    index: hint,
                    word: claimed,
                });
            }
        }
    }
    claim::<F>(settings, now_ns)
}

/// A search for a place in progress, as the loop's callback gets it.
struct Search {
    now_ns: u64,
    mask: u32,
    index: u32,
    found: u32,
    word: u64,
}

/// Takes a free place, or one whose connection has expired.
#[inline(always)]
pub fn claim<F: Family>(settings: *const Settings, now_ns: u64) -> Option<Claim<F>> {
    // SAFETY: `settings` is a map value.
    let mask = unsafe { F::mask(settings) };
    let full_until = FULL_UNTIL.get_ptr_mut(F::FULL)?;
    // SAFETY: the value is this processor's own.
    let full = unsafe { *full_until } > now_ns;
    let mut search = Search {
        now_ns,
        mask,
        index: 0,
        found: 0,
        word: 0,
    };
    // SAFETY: the callback has the signature the helper asks for and its context outlives the call.
    unsafe {
        bpf_loop(
            if full { FULL_PROBES } else { ALLOC_PROBES },
            probe::<F> as *mut c_void,
            (&raw mut search).cast::<c_void>(),
            0,
        );
    }
    if search.found == 0 {
        if !full {
            // SAFETY: as above.
            unsafe { *full_until = now_ns + FULL_FOR_NS }
        }
        return None;
    }
    let conn = F::conn(search.index)?;
    Some(Claim {
        conn,
        index: search.index,
        word: ConnWord(search.word),
    })
}

/// Looks at one place. Returns 1 to end the loop.
unsafe extern "C" fn probe<F: Family>(_: u32, search: *mut c_void) -> i64 {
    let search = search.cast::<Search>();
    // SAFETY: `claim` hands in its own `Search`.
    unsafe {
        let index = bpf_get_prandom_u32() & (*search).mask;
        let Some(conn) = F::conn(index) else {
            return 1;
        };
        if let Some(word) = try_claim::<F>(conn, index, (*search).now_ns) {
            (*search).index = index;
            (*search).word = word.0;
            (*search).found = 1;
            return 1;
        }
    }
    count(Event::AllocProbe);
    0
}

/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn try_claim<F: Family>(
    conn: *mut Conn<F::Addr>,
    index: u32,
    now_ns: u64,
) -> Option<ConnWord> {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let mut word = ConnWord(atomic::load(&raw const (*conn).word));
        if !word.is_free() {
            // Marked ones too: whoever marked them may be gone.
            let over = !word.is(ConnWord::INIT | ConnWord::GONE)
                && word.controls() == 0
                && may_be_freed((*conn).deadline_ns, now_ns);
            if !over || !take_down::<F>(conn, index, word) {
                return None;
            }
            count(Event::Reclaimed);
            word = ConnWord(atomic::load(&raw const (*conn).word));
            if !word.is_free() {
                return None;
            }
        }
        let claimed = word.claimed();
        atomic::swap(&raw mut (*conn).word, word.0, claimed.0).then_some(claimed)
    }
}

/// Gives a claimed place back.
///
/// # Safety
/// `claim.conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn release<F: Family>(claim: &Claim<F>) {
    // SAFETY: the caller vouches for the pointer. Nobody else touches an INIT entry.
    unsafe {
        atomic::store(
            &raw mut (*claim.conn).word,
            ConnWord::free(claim.word.generation()).0,
        );
    }
}

/// The key of a connection's way back.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn reply_key<F: Family>(conn: *const Conn<F::Addr>) -> FlowKey<F::Addr> {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let key = &(*conn).key;
        FlowKey::flow(
            (*conn).daddr,
            (*conn).dport,
            key.src,
            key.sport,
            key.protocol,
        )
    }
}

/// Inserts the keys of a filled entry, counts it, and publishes it as `live`.
///
/// # Safety
/// `claim.conn` is an entry of the connection table.
#[inline(never)]
pub unsafe fn publish<F: Family>(
    claim: &Claim<F>,
    live: ConnWord,
    now_ns: u64,
) -> Result<(), NotPublished> {
    let conn = claim.conn;
    let generation = claim.word.generation();
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        // The entry is nobody else's, so its key can be used where it lies.
        let key = &*(&raw const (*conn).key);
        let here = FlowRef::new(claim.index, generation, false);
        if !insert::<F>(key, here, now_ns) {
            release(claim);
            return Err(NotPublished::Exists);
        }
        if has_way_back::<F>(conn) {
            let back = FlowRef::new(claim.index, generation, true);
            if !insert::<F>(&reply_key::<F>(conn), back, now_ns) {
                // If this fails, the key names a place of another generation: the next connection
                // that wants it deletes it.
                let _ = F::delete(key);
                release(claim);
                return Err(NotPublished::ReplyCollision);
            }
        }
        let server = (*conn).server;
        if server != NO_SERVER {
            if key.is_template() {
                add_persistent(server, 1);
            } else {
                bind(server, removal_delta(live).wrapping_neg());
            }
        }
        // Nobody else touches an INIT entry, so this cannot fail.
        atomic::swap(&raw mut (*conn).word, claim.word.0, live.0);
        count(if key.is_template() {
            Event::TemplateCreated
        } else {
            Event::Created
        });
    }
    Ok(())
}

/// Inserts a key that may be held by a connection that is over.
#[inline(always)]
fn insert<F: Family>(key: &FlowKey<F::Addr>, flow: FlowRef, now_ns: u64) -> bool {
    F::insert(key, flow) || (reclaim_key::<F>(key, now_ns) && F::insert(key, flow))
}

/// Frees the connection that holds `key`, if it is over, or the key, if its connection has gone
/// without it. False when the connection is alive.
#[inline(never)]
fn reclaim_key<F: Family>(key: &FlowKey<F::Addr>, now_ns: u64) -> bool {
    let Some(flow) = F::find(key) else {
        return true;
    };
    let Some(conn) = F::conn(flow.index) else {
        return false;
    };
    // SAFETY: `conn` is an element of the map.
    unsafe {
        let word = ConnWord(atomic::load(&raw const (*conn).word));
        let gone = word.is_free() || word.generation() != flow.generation();
        if gone || word.is(ConnWord::DETACHED) {
            return F::delete_if(key, flow);
        }
        if word.is(ConnWord::INIT | ConnWord::GONE)
            || word.controls() != 0
            || !may_be_freed((*conn).deadline_ns, now_ns)
        {
            return false;
        }
        if !take_down::<F>(conn, flow.index, word) {
            return false;
        }
    }
    count(Event::Reclaimed);
    true
}

/// Marks an entry for removal; the winner takes it off its server and its controller. The caller
/// has seen that it controls nothing.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn mark<F: Family>(conn: *mut Conn<F::Addr>, word: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let server = (*conn).server;
        let controller = (*conn).controller;
        let template = (*conn).key.is_template();
        if !atomic::swap(&raw mut (*conn).word, word.0, word.with(ConnWord::DEAD).0) {
            return false;
        }
        if server != NO_SERVER {
            if template {
                add_persistent(server, 1u64.wrapping_neg());
            } else {
                unbind(server, removal_delta(word));
            }
        }
        uncontrol::<F>(controller);
    }
    true
}

/// Deletes the keys of an entry, unless they are gone already.
///
/// # Safety
/// `conn` is an entry of the connection table, and the caller has won it.
#[inline(always)]
unsafe fn delete_keys<F: Family>(conn: *mut Conn<F::Addr>, index: u32, generation: u32) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        // The winner alone changes the entry, so its key can be used where it lies.
        let key = &*(&raw const (*conn).key);
        let back = FlowRef::new(index, generation, true);
        (!has_way_back::<F>(conn) || F::delete_if(&reply_key::<F>(conn), back))
            && F::delete_if(key, FlowRef::new(index, generation, false))
    }
}

/// Deletes the keys of a marked entry and frees its place, if nobody was faster.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn sweep<F: Family>(conn: *mut Conn<F::Addr>, index: u32, marked: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let gone = marked.with(ConnWord::GONE);
        if !atomic::swap(&raw mut (*conn).word, marked.0, gone.0) {
            return false;
        }
        let keys_deleted =
            marked.is(ConnWord::DETACHED) || delete_keys::<F>(conn, index, gone.generation());
        // A key that could not be deleted (its bucket was locked too long) leaves the entry marked,
        // and the walk tries again.
        let next = if keys_deleted {
            ConnWord::free(gone.generation())
        } else {
            marked
        };
        atomic::store(&raw mut (*conn).word, next.0);
        keys_deleted
    }
}

/// Marks and sweeps at once: for a key or a place that is needed now. The caller has seen that the
/// entry controls nothing.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn take_down<F: Family>(conn: *mut Conn<F::Addr>, index: u32, word: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        if word.is(ConnWord::DEAD) {
            return sweep::<F>(conn, index, word);
        }
        mark::<F>(conn, word) && sweep::<F>(conn, index, word.with(ConnWord::DEAD))
    }
}

/// Makes an entry unfindable, for a connection that needs its key; it lives on until its timer ends
/// and it controls nothing any more.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn detach<F: Family>(conn: *mut Conn<F::Addr>, index: u32, word: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let detached = word.with(ConnWord::DETACHED);
        if !atomic::swap(&raw mut (*conn).word, word.0, detached.0) {
            return false;
        }
        // A key that stays behind is nobody's: packets that find it see that it is detached.
        let _ = delete_keys::<F>(conn, index, word.generation());
    }
    true
}

/// Makes room for a new connection with the key of this one.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(never)]
pub unsafe fn make_way<F: Family>(conn: *mut Conn<F::Addr>, index: u32, word: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        if word.controls() != 0 {
            detach::<F>(conn, index, word)
        } else {
            take_down::<F>(conn, index, word)
        }
    }
}
