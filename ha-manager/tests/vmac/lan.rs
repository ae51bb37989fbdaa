//! The LAN of the recordings: directors `dira` (192.0.2.1) and `dirb` (192.0.2.2), a client (192.0.2.3) and a
//! server (192.0.2.4), each in a network namespace of its own, on one bridge that is in the test's.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::net::if_::if_indextoname;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// Nothing here takes longer, on however slow a machine.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Lan {
    pub(crate) dir: PathBuf,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) client: Node,
    pub(crate) server: Node,
}

type Order = Box<dyn FnOnce() + Send>;

/// A host with `eth0`: a thread in a network namespace of its own that does what it is told.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    orders: mpsc::Sender<Order>,
    dir: PathBuf,
}

/// A running `directord`; killed when dropped.
pub(crate) struct Director {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

/// A frame that a host sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// `dira`, `dirb`, `client` or `server`.
    pub(crate) by: String,
    pub(crate) bytes: Vec<u8>,
}

/// Everything that hosts send, from its start on.
pub(crate) struct Recording {
    socket: Socket,
    pub(crate) frames: Vec<Sent>,
}

impl Lan {
    /// Moves the calling thread into new namespaces.
    pub(crate) fn new() -> Lan {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let id = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("tandem-vmac-{}-{id}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let bpffs = dir.join("bpf");
        fs::create_dir_all(&bpffs).unwrap();
        let (kind, none) = (Some("bpf"), MsFlags::empty());
        mount(kind, &bpffs, kind, none, None::<&str>).unwrap();
        ip("link add br0 type bridge");
        ip("link set br0 up");
        let node = |name, number| Node::new(name, number, &dir);
        Lan {
            a: node("dira", 1),
            b: node("dirb", 2),
            client: node("client", 3),
            server: node("server", 4),
            dir,
        }
    }

    /// Cuts a host off, or plugs it in again.
    pub(crate) fn plug(&self, node: &Node, state: &str) {
        ip(&format!("link set {} {state}", node.name));
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let _ = umount2(&self.dir.join("bpf"), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Node {
    /// With the addresses of the recordings.
    fn new(name: &'static str, number: u8, dir: &Path) -> Node {
        let (orders, ordered) = mpsc::channel::<Order>();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for order in ordered {
                order();
            }
        });
        let node = Node {
            name,
            orders,
            dir: dir.to_path_buf(),
        };
        let tid = node.run(gettid);
        ip(&format!(
            "link add {name} type veth peer name eth0 netns {tid}"
        ));
        ip(&format!("link set {name} master br0 up"));
        for words in [
            "link set lo up".to_owned(),
            format!("link set eth0 address 02:00:00:00:0{number}:01"),
            format!("addr add 192.0.2.{number}/24 dev eth0"),
            "link set eth0 up".to_owned(),
        ] {
            node.ip(&words);
        }
        node
    }

    /// Does something there.
    pub(crate) fn run<T: Send + 'static>(&self, order: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let order = move || tell.send(order()).unwrap();
        self.orders.send(Box::new(order)).unwrap();
        told.recv().expect("the order panicked")
    }

    /// Runs `ip` there; what it prints.
    pub(crate) fn ip(&self, words: &str) -> String {
        let words = words.to_owned();
        self.run(move || ip(&words))
    }

    /// The MAC address a host has for another, if it knows one.
    pub(crate) fn neighbour(&self, address: &str) -> Option<String> {
        let line = self.ip(&format!("neigh show {address} dev eth0"));
        let mut words = line.split(' ');
        words.find(|word| *word == "lladdr")?;
        words.next().map(str::to_owned)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join(format!("{}.sock", self.name))
    }

    /// Starts a director; `more` are sections behind its own.
    pub(crate) fn direct(&self, more: &str) -> Director {
        let (name, socket) = (self.name, self.socket());
        let pins = self.dir.join("bpf").join(name);
        let text = format!(
            "[director]\nname = {name:?}\npin_dir = {pins:?}\ncontrol = {socket:?}\n\
             metrics = \"off\"\nconnections_v4 = 256\nconnections_v6 = 256\nservices = 8\n\
             servers = 8\ninterfaces = [\"eth0\"]\n{more}\n"
        );
        let config = self.dir.join(format!("{name}.toml"));
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_directord"));
        command.arg("run").arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());
        let mut child = self.run(move || {
            // SAFETY: the call is safe between fork and exec.
            unsafe {
                command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
            }
            command.spawn().unwrap()
        });
        let log = collect(child.stderr.take().unwrap());
        let mut director = Director { child, log };
        wait_for("a director that is ready", || {
            let ended = director.child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", director.log());
            director.log().contains(" ready ")
        });
        director
    }

    pub(crate) fn admin(&self, line: &str) {
        let program = Path::new(env!("CARGO_BIN_EXE_directord")).with_file_name("ipvsadm");
        let mut command = Command::new(program);
        command.args(line.split(' '));
        command.env("TANDEM_CONTROL", self.socket());
        succeeded(&mut command);
    }

    pub(crate) fn status(&self) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_directord"));
        command.args(["status", "--json"]);
        command.env("TANDEM_CONTROL", self.socket());
        serde_json::from_slice(&succeeded(&mut command).stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn becomes(&self, role: &str) {
        wait_for(&format!("{} {role}", self.name), || {
            self.status()["role"] == role
        });
    }
}

impl Director {
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn stop(mut self) -> String {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        wait_for("its end", || self.child.try_wait().unwrap().is_some());
        self.log()
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Recording {
    /// Of the calling thread's namespace, the bridge's.
    pub(crate) fn start() -> Recording {
        let protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let kind = Type::RAW.nonblocking();
        let socket = Socket::new(Domain::PACKET, kind, Some(protocol)).unwrap();
        socket.set_recv_buffer_size(1 << 22).unwrap();
        Recording {
            socket,
            frames: Vec::new(),
        }
    }

    /// Takes in what has been sent by now.
    pub(crate) fn read(&mut self) {
        loop {
            let mut bytes = vec![0_u8; 2048];
            // SAFETY: an all-zero address is valid; it and the buffer are written within their
            // lengths, which are given.
            let (len, from) = unsafe {
                let mut from: libc::sockaddr_ll = std::mem::zeroed();
                let mut from_len = size_of::<libc::sockaddr_ll>() as u32;
                let len = libc::recvfrom(
                    self.socket.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                );
                (len, from)
            };
            let Ok(len) = usize::try_from(len) else {
                return;
            };
            bytes.truncate(len);
            let device = if_indextoname(from.sll_ifindex.cast_unsigned());
            let device = device.map_or(String::new(), |name| name.into_string().unwrap());
            // The bridge's own copies, and what goes out of its ports, have been sent by somebody.
            if device != "br0" && from.sll_pkttype != libc::PACKET_OUTGOING {
                self.frames.push(Sent { by: device, bytes });
            }
        }
    }

    /// Waits until hosts have sent what is looked for.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, what: &str, are_there: impl Fn(&[Sent]) -> bool) {
        wait_for(what, || {
            self.read();
            are_there(&self.frames)
        });
    }
}

impl Sent {
    pub(crate) fn is_from(&self, mac: [u8; 6]) -> bool {
        self.bytes.get(6..12) == Some(&mac)
    }

    fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }

    pub(crate) fn is_advert(&self) -> bool {
        match self.ethertype() {
            0x0800 => self.bytes[23] == 112,
            0x86dd => self.bytes[20] == 112,
            _ => false,
        }
    }

    /// Whose MAC address it says an address has: the sender's in ARP, the target's in a neighbour
    /// advertisement.
    pub(crate) fn claim(&self) -> Option<([u8; 6], IpAddr)> {
        if self.ethertype() == 0x0806 {
            let body = self.bytes.get(14..42)?;
            let address = <[u8; 4]>::try_from(&body[14..18]).ok()?;
            return Some((body[8..14].try_into().ok()?, address.into()));
        }
        let is_one = self.ethertype() == 0x86dd && self.bytes[20] == 58;
        let message = self.bytes.get(54..86).filter(|_| is_one)?;
        let target = <[u8; 16]>::try_from(&message[8..24]).ok()?;
        (message[0] == 136).then_some((message[26..32].try_into().ok()?, target.into()))
    }

    /// IGMP, or MLD with its router alert.
    pub(crate) fn is_membership(&self) -> bool {
        match self.ethertype() {
            0x0800 => self.bytes[23] == 2,
            0x86dd => self.bytes[20] == 0 && self.bytes[54] == 58,
            _ => false,
        }
    }
}

#[track_caller]
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(PAUSE);
    }
}

pub(crate) fn ip(words: &str) -> String {
    let mut command = Command::new("ip");
    let output = succeeded(command.args(words.split_whitespace()));
    String::from_utf8(output.stdout).unwrap()
}

fn succeeded(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    output
}

/// Reads a pipe to its end on a thread of its own.
fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let text = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&text);
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            sink.lock().unwrap().extend_from_slice(&chunk[..length]);
        }
    });
    text
}
