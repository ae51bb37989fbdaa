//! A director's surroundings in namespaces of the test's own thread: they end with it.

#![allow(clippy::print_stdout, reason = "what is skipped is said")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unreachable_pub, reason = "a module of several test programs")]
#![allow(unused_imports, reason = "each test program uses a part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use dataplane::{AttachMode, DataPlane, Options, Route, RouteKind, TableSizes};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

pub mod director;
pub mod ipvsadm;
pub mod packets;
pub mod recount;
pub mod sides;
pub mod tap;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A network namespace, a mount namespace and a bpffs in it.
pub struct Lab {
    pub bpffs: PathBuf,
}

impl Lab {
    /// Moves the calling thread into new namespaces.
    pub fn new() -> Lab {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let id = NEXT.fetch_add(1, Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("tandem-lab-{}-{id}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        mount(
            Some("bpf"),
            &dir,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        // A fresh view of the namespace's own settings.
        mount(
            Some("sysfs"),
            "/sys",
            Some("sysfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        ip("link set lo up");
        Lab { bpffs: dir }
    }

    pub fn options(&self, interfaces: &[&str]) -> Options {
        Options {
            pin_dir: self.bpffs.join("director"),
            interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            guarded: Vec::new(),
            attach: AttachMode::Auto,
            sizes: TableSizes {
                connections_v4: 1024,
                connections_v6: 1024,
                services: 16,
                servers: 64,
                hash_tables: 8,
                cache_entries: 256,
            },
        }
    }

    pub fn open(&self, interfaces: &[&str]) -> DataPlane {
        DataPlane::open(&self.options(interfaces)).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.bpffs, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.bpffs);
    }
}

/// Runs `ip` with these words; it must succeed.
pub fn ip(words: &str) {
    let status = Command::new("ip")
        .args(words.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {words}: {status}");
}

/// Writes a setting of this thread's network namespace.
pub fn sysctl(name: &str, value: &str) {
    // `/proc/sys/net` follows the process; a child of this thread is in its namespace.
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let command = format!("echo {value} > {path}");
    let status = Command::new("sh").args(["-c", &command]).status().unwrap();
    assert!(status.success(), "{command}");
}

/// The index of an interface in this thread's namespace.
pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// Names of the recordings of a kind, in alphabetical order.
pub fn fixture_names(kind: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(kind);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{dir:?}: {error}"));
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Loads an object of test data.
pub fn fixture(path: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(path);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap()
}

pub fn local(prefix: &str, prefix_len: u8) -> Route {
    route(prefix, prefix_len, RouteKind::Local, 1, None)
}

pub fn route(
    prefix: &str,
    prefix_len: u8,
    kind: RouteKind,
    ifindex: u32,
    gateway: Option<&str>,
) -> Route {
    Route {
        prefix: prefix.parse().unwrap(),
        prefix_len,
        kind,
        ifindex,
        gateway: gateway.map(|text| text.parse().unwrap()),
    }
}

/// Waits until entries whose deadline has passed by now may be freed.
pub fn let_deadlines_pass() {
    let until = dataplane::timer_ns() + dataplane::common::rules::transition::FREE_AFTER_NS;
    while dataplane::timer_ns() < until {
        std::thread::yield_now();
    }
}

/// Whether the kernel has TCX (6.6 on). If not, says so in a line that the suite counts.
pub fn has_tcx(what: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|number| number.trim().parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 6) {
        println!(
            "skipped: {what} by TCX, which kernel {} lacks",
            release.trim()
        );
    }
    version >= (6, 6)
}
