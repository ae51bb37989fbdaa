//! A director's host: namespaces of the calling thread, with a bpffs, and one end of a sync link.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use dataplane::{AttachMode, DataPlane, Options, TableSizes};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

/// Places in the table of each family.
pub(crate) const CONNECTIONS: u32 = 8192;

/// Namespaces of the calling thread, with a bpffs and the sync link.
pub(crate) struct Host {
    bpffs: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Host {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        link();
        Host::here()
    }

    /// In the network of the calling thread.
    pub(crate) fn here() -> Host {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let name = format!("tandem-replay-{}-{}", std::process::id(), gettid());
        let bpffs = std::env::temp_dir().join(name);
        fs::create_dir_all(&bpffs).unwrap();
        let (kind, none) = (Some("bpf"), MsFlags::empty());
        mount(kind, &bpffs, kind, none, None::<&str>).unwrap();
        Host { bpffs }
    }

    pub(crate) fn open(&self) -> DataPlane {
        let options = Options {
            pin_dir: self.bpffs.join("director"),
            interfaces: vec!["lo".into()],
            guarded: Vec::new(),
            attach: AttachMode::Auto,
            sizes: TableSizes {
                connections_v4: CONNECTIONS,
                connections_v6: CONNECTIONS,
                services: 16,
                servers: 64,
                hash_tables: 1,
                cache_entries: 16,
            },
        };
        DataPlane::open(&options).unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.bpffs, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.bpffs);
    }
}

fn link() {
    ip("link add sync0 type veth peer name sync1");
    ip("addr add 10.3.0.2/24 dev sync0");
    ip("addr add fd00:3::2/64 dev sync0 nodad");
    ip("link set sync0 up");
}

pub(crate) fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
}
