//! What the machine must allow: each probe tries the thing itself and names what is missing.

use std::io;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::setup::Missing;

/// `BPF_MAP_CREATE` of bpf(2).
const MAP_CREATE: libc::c_int = 0;
/// `BPF_MAP_TYPE_ARRAY`.
const MAP_ARRAY: u32 = 2;

/// Root, the bpf system call, and network namespaces.
///
/// # Errors
/// The first thing that is missing.
pub(crate) fn machine() -> Result<(), Missing> {
    if !geteuid().is_root() {
        return Err(Missing::new(
            "root: run this as root, it makes network namespaces",
        ));
    }
    if let Err(error) = create_map() {
        return Err(Missing::new(format!(
            "BPF: this kernel or container refuses bpf(2): {error}"
        )));
    }
    if let Err(error) = make_namespaces() {
        let what = "network namespaces: unshare(2) is refused here";
        return Err(Missing::new(format!("{what}: {error}")));
    }
    Ok(())
}

/// Creates the smallest possible map, which goes away at once.
fn create_map() -> io::Result<()> {
    // map_type, key_size, value_size, max_entries, map_flags
    let attr: [u32; 5] = [MAP_ARRAY, 4, 4, 1, 0];
    // SAFETY: bpf(2) reads `size_of_val(&attr)` bytes from a live array of exactly that size and
    // keeps no pointer to it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_CREATE,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    nix::unistd::close(i32::try_from(result).map_err(io::Error::other)?)?;
    Ok(())
}

/// On a thread that ends, and its namespaces with it.
fn make_namespaces() -> io::Result<()> {
    let both = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    let thread = thread::spawn(move || unshare(both));
    let result = thread
        .join()
        .map_err(|_| io::Error::other("the probe panicked"))?;
    Ok(result?)
}
