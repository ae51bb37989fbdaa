//! A director of the built programs, in namespaces of the calling thread: `lan0` for the service,
//! `sync0` for the sync daemons, and the other end of each.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

pub(crate) const LAN_MAC: &str = "02:00:00:00:78:01";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A running `directord`; killed when dropped.
pub(crate) struct Host {
    dir: PathBuf,
    daemon: Child,
}

impl Host {
    /// Moves the calling thread into new namespaces and starts the director.
    pub(crate) fn new() -> Host {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let id = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("tandem-interop-{}-{id}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let bpffs = dir.join("bpf");
        fs::create_dir_all(&bpffs).unwrap();
        let kind = Some("bpf");
        mount(kind, &bpffs, kind, MsFlags::empty(), None::<&str>).unwrap();
        ip("link set lo up");
        ip(&format!(
            "link add lan0 address {LAN_MAC} type veth peer name lan1"
        ));
        ip("addr add 10.78.0.1/24 dev lan0");
        ip("addr add 10.78.0.100/32 dev lan0");
        ip("link add sync0 mtu 1500 type veth peer name sync1");
        ip("addr add 10.3.0.1/24 dev sync0");
        // An IPv6 group needs the link-local address at once, not after a look for duplicates.
        fs::write("/proc/sys/net/ipv6/conf/sync0/accept_dad", "0").unwrap();
        for link in ["lan0", "lan1", "sync0", "sync1"] {
            ip(&format!("link set {link} up"));
        }
        let daemon = start(&dir);
        Host { dir, daemon }
    }

    pub(crate) fn ipvsadm(&self, words: &[&str]) -> Output {
        Command::new(built("ipvsadm"))
            .args(words)
            .env("TANDEM_CONTROL", socket(&self.dir))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// A command of `ipvsadm` that has to work.
    pub(crate) fn admin(&self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let output = self.ipvsadm(&words);
        assert!(output.status.success(), "ipvsadm {line}: {output:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let _ = umount2(&self.dir.join("bpf"), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Returns when the director says that it is ready.
fn start(dir: &Path) -> Child {
    let (socket, pin_dir) = (socket(dir), dir.join("bpf/director"));
    let config = dir.join("director.toml");
    let text = format!(
        "[director]\nname = \"lb1\"\npin_dir = {pin_dir:?}\ncontrol = {socket:?}\n\
         connections_v4 = 1024\nconnections_v6 = 1024\nservices = 8\nservers = 8\ninterfaces = [\"lan0\"]\n"
    );
    fs::write(&config, text).unwrap();
    let log = fs::File::create(dir.join("log")).unwrap();
    let mut daemon = Command::new(built("directord"))
        .arg("run")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let mut out = BufReader::new(daemon.stdout.take().unwrap());
    out.read_line(&mut ready).unwrap();
    let log = || fs::read_to_string(dir.join("log")).unwrap();
    assert!(!ready.is_empty(), "no director: {}", log());
    daemon
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// Does something in a network of its own, to which this end of a link is moved first: a host takes
/// no packets from itself.
pub(crate) fn elsewhere(link: &str, setup: &[&str], then: impl FnOnce() + Send) {
    let (moved, arrival) = mpsc::channel();
    let (tell, there) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            moved.send(gettid()).unwrap();
            there.recv().unwrap();
            ip(&format!("link set {link} up"));
            setup.iter().for_each(|words| ip(words));
            then();
        });
        ip(&format!(
            "link set {link} netns {}",
            arrival.recv().unwrap()
        ));
        tell.send(()).unwrap();
    });
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
}

fn built(program: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_directord")).with_file_name(program);
    assert!(
        path.exists(),
        "{} is missing, build the workspace first: cargo build --release --workspace",
        path.display()
    );
    path
}
