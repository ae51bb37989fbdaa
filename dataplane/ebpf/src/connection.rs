//! Connection entries: finding a free place, publishing, marking and freeing.
//!
//! An entry's life: a free place is *claimed* (INIT, next generation), filled in, its keys are
//! inserted, its server counts it, and a swap *publishes* it. It ends in two steps, *mark* (the
//! winner moves the counters) and, a grace period later, *sweep* (the winner deletes the keys and
//! frees the place), or in one when its place or its key is needed at once. Whoever wins the swap
//! of a step does what belongs to it; nobody helps.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use dataplane_common::entry::{Conn4, ConnWord, NO_SERVER};
use dataplane_common::rules::transition::{may_be_freed, removal_delta};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;
use dataplane_common::{FlowKey4, FlowRef};

use crate::atomic;
use crate::maps::{CONNS4, FLOWS4, FULL_UNTIL, SERVERS, count};

/// `IP_VS_CONN_F_FWD_MASK`
const FWD_MASK: u16 = 0x7;
/// Tries of one compare-and-swap before it is given up.
pub const SWAP_TRIES: u32 = 4;
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

/// A claimed place.
pub struct Claim {
    pub conn: *mut Conn4,
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
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn method(conn: *const Conn4) -> u16 {
    // SAFETY: the caller vouches for the pointer.
    unsafe { (*conn).conn_flags & FWD_MASK }
}

/// Adds to the packed counters of a server.
#[inline(always)]
pub fn add_conns(server: u32, delta: u64) {
    if delta == 0 || server == NO_SERVER {
        return;
    }
    if let Some(record) = SERVERS.get_ptr_mut(server) {
        // SAFETY: the pointer is a map value; the field is aligned.
        unsafe { atomic::add(&raw mut (*record).conns, delta) }
    }
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
pub fn claim(settings: *const Settings, now_ns: u64) -> Option<Claim> {
    // SAFETY: `settings` is a map value.
    let mask = unsafe { (*settings).conns4_mask };
    let full_until = FULL_UNTIL.get_ptr_mut(0)?;
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
            probe as *mut c_void,
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
    let conn = CONNS4.get_ptr_mut(search.index)?;
    Some(Claim {
        conn,
        index: search.index,
        word: ConnWord(search.word),
    })
}

/// Looks at one place. Returns 1 to end the loop.
unsafe extern "C" fn probe(_: u32, search: *mut c_void) -> i64 {
    let search = search.cast::<Search>();
    // SAFETY: `claim` hands in its own `Search`.
    unsafe {
        let index = bpf_get_prandom_u32() & (*search).mask;
        let Some(conn) = CONNS4.get_ptr_mut(index) else {
            return 1;
        };
        if let Some(word) = try_claim(conn, (*search).now_ns) {
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
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn try_claim(conn: *mut Conn4, now_ns: u64) -> Option<ConnWord> {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let mut word = ConnWord(atomic::load(&raw const (*conn).word));
        if !word.is_free() {
            // Marked ones too: whoever marked them may be gone.
            let over = !word.is(ConnWord::INIT | ConnWord::GONE)
                && word.controls() == 0
                && may_be_freed((*conn).deadline_ns, now_ns);
            if !over || !take_down(conn, word) {
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
/// `claim.conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn release(claim: &Claim) {
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
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn reply_key(conn: *const Conn4) -> FlowKey4 {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let key = &(*conn).key;
        FlowKey4::flow(
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
/// `claim.conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn publish(
    claim: &Claim,
    live: ConnWord,
    conns_delta: u64,
    now_ns: u64,
) -> Result<(), NotPublished> {
    let conn = claim.conn;
    let generation = claim.word.generation();
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        // A copy, because the entry is where others read it.
        let key = (*conn).key;
        let here = FlowRef::new(claim.index, generation, false);
        if !insert(&key, here, now_ns) {
            release(claim);
            return Err(NotPublished::Exists);
        }
        if method(conn) == MASQUERADING {
            let back = FlowRef::new(claim.index, generation, true);
            if !insert(&reply_key(conn), back, now_ns) {
                // If this fails, the key names a place of another generation: the next connection
                // that wants it deletes it.
                let _ = FLOWS4.remove(key);
                release(claim);
                return Err(NotPublished::ReplyCollision);
            }
        }
        add_conns((*conn).server, conns_delta);
        // Nobody else touches an INIT entry, so this cannot fail.
        atomic::swap(&raw mut (*conn).word, claim.word.0, live.0);
    }
    count(Event::Created);
    Ok(())
}

/// Inserts a key that may be held by a connection that is over.
#[inline(always)]
fn insert(key: &FlowKey4, flow: FlowRef, now_ns: u64) -> bool {
    FLOWS4.insert(key, flow, BPF_NOEXIST as u64).is_ok()
        || (reclaim_key(key, now_ns) && FLOWS4.insert(key, flow, BPF_NOEXIST as u64).is_ok())
}

/// Frees the connection that holds `key`, if it is over, or the key, if its connection has gone
/// without it. False when the connection is alive.
#[inline(never)]
fn reclaim_key(key: &FlowKey4, now_ns: u64) -> bool {
    let Some(flow) = FLOWS4.get_ptr(key) else {
        return true;
    };
    // SAFETY: the value is eight aligned bytes.
    let flow = unsafe { *flow };
    let Some(conn) = CONNS4.get_ptr_mut(flow.index) else {
        return false;
    };
    // SAFETY: `conn` is an element of the map.
    unsafe {
        let word = ConnWord(atomic::load(&raw const (*conn).word));
        if word.is_free() || word.generation() != flow.generation() {
            return FLOWS4.remove(key).is_ok();
        }
        if word.is(ConnWord::INIT | ConnWord::GONE) || !may_be_freed((*conn).deadline_ns, now_ns) {
            return false;
        }
        take_down(conn, word)
    }
}

/// Marks an entry for removal; the winner takes it off its server.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn mark(conn: *mut Conn4, word: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let server = (*conn).server;
        if !atomic::swap(&raw mut (*conn).word, word.0, word.with(ConnWord::DEAD).0) {
            return false;
        }
        add_conns(server, removal_delta(word));
    }
    true
}

/// Deletes the keys of a marked entry and frees its place, if nobody was faster.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn sweep(conn: *mut Conn4, marked: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let gone = marked.with(ConnWord::GONE);
        if !atomic::swap(&raw mut (*conn).word, marked.0, gone.0) {
            return false;
        }
        let key = (*conn).key;
        let keys_deleted =
            (method(conn) != MASQUERADING || delete(&reply_key(conn))) && delete(&key);
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

/// Deletes a key; true when it is gone.
#[inline(always)]
fn delete(key: &FlowKey4) -> bool {
    const ENOENT: i32 = 2;
    match FLOWS4.remove(key) {
        Ok(()) => true,
        Err(error) => error == -ENOENT,
    }
}

/// Marks and sweeps at once: for a key or a place that is needed now.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn take_down(conn: *mut Conn4, word: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        if word.is(ConnWord::DEAD) {
            return sweep(conn, word);
        }
        mark(conn, word) && sweep(conn, word.with(ConnWord::DEAD))
    }
}
