//! A director's host: a network and a mount namespace of the calling thread, with a bpffs, two
//! interfaces, and a client at the end of one.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::fs;
use std::io::{self, Read};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TcAttachType};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};

/// The user who may do nothing.
pub(crate) const NOBODY: u32 = 65_534;
/// The service most tests have.
pub(crate) const VIP: &str = "10.77.0.100:53";

/// Nothing here takes longer, on however slow a machine.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);
const LAN_MAC: &str = "02:00:00:00:77:01";

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Host {
    pub(crate) dir: PathBuf,
}

/// What a command that has ended left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A running `directord`; killed when dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    /// Its one line on standard output.
    pub(crate) ready: String,
    log: Option<Collected>,
}

/// Everything that comes out of a pipe.
pub(crate) struct Collected {
    text: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

/// Another host, at the end of `lan0`: a network namespace and a thread that carries out orders in
/// it.
pub(crate) struct Neighbour {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

type Order = Box<dyn FnOnce() + Send>;

/// Somebody in another network namespace, at the end of `lan0`.
pub(crate) struct Client {
    orders: Option<mpsc::Sender<(SocketAddrV4, u32)>>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Moves the calling thread into new namespaces.
    pub(crate) fn new() -> Host {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let id = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("tandem-operator-{}-{id}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        for part in ["bpf", "bin"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        // Others may look in, so that what refuses them is what is tested.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        let bpffs = dir.join("bpf");
        let (kind, none) = (Some("bpf"), MsFlags::empty());
        mount(kind, &bpffs, kind, none, None::<&str>).unwrap();
        for program in ["directord", "ipvsadm"] {
            let place = dir.join("bin").join(program);
            fs::write(&place, "").unwrap();
            let from = built(program);
            mount(
                Some(&from),
                &place,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        }
        ip("link set lo up");
        ip(&format!(
            "link add lan0 address {LAN_MAC} type veth peer name lan1"
        ));
        ip("addr add 10.77.0.1/24 dev lan0");
        ip("addr add 10.77.0.100/32 dev lan0");
        ip("link set lan0 up");
        ip("link set lan1 up");
        Host { dir }
    }

    pub(crate) fn pin_dir(&self) -> PathBuf {
        self.dir.join("bpf/director")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("run/control.sock")
    }

    /// Writes a configuration of small tables; `more` are further lines of its section.
    pub(crate) fn config(&self, more: &str) -> PathBuf {
        self.config_of("director.toml", &self.pin_dir(), &self.socket(), more)
    }

    pub(crate) fn config_of(
        &self,
        name: &str,
        pin_dir: &Path,
        socket: &Path,
        more: &str,
    ) -> PathBuf {
        let interfaces = if more.contains("interfaces") {
            ""
        } else {
            "interfaces = [\"lan0\"]\n"
        };
        // Several directors may be in one namespace.
        let metrics = if more.contains("metrics") {
            ""
        } else {
            "metrics = \"off\"\n"
        };
        let text = format!(
            "[director]\nname = \"lb1\"\npin_dir = {pin_dir:?}\ncontrol = {socket:?}\n\
             connections_v4 = 256\nconnections_v6 = 256\nservices = 8\nservers = 8\n\
             {metrics}{interfaces}{more}\n"
        );
        self.file(name, text.as_bytes())
    }

    pub(crate) fn file(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// One of the two programs, told by the environment where the control socket is.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.dir.join("bin").join(program));
        command.env("TANDEM_CONTROL", self.socket());
        end_with_this_thread(&mut command);
        command
    }

    pub(crate) fn directord(&self, words: &[&str]) -> Ended {
        ended(self.command("directord").args(words))
    }

    /// `directord run` that is not expected to come up; it uses the socket of its configuration.
    pub(crate) fn run(&self, config: &Path) -> Ended {
        let mut command = self.command("directord");
        command.env_remove("TANDEM_CONTROL");
        ended(command.arg("run").arg("--config").arg(config))
    }

    pub(crate) fn ipvsadm(&self, line: &str) -> Ended {
        ended(self.command("ipvsadm").args(line.split_whitespace()))
    }

    /// Runs a command of `ipvsadm` that has to work, and returns its output.
    pub(crate) fn admin(&self, line: &str) -> String {
        self.ipvsadm(line).succeeded()
    }

    /// The same of the director at the other socket.
    pub(crate) fn admin_at(&self, socket: &Path, line: &str) -> String {
        let mut command = self.command("ipvsadm");
        command.env("TANDEM_CONTROL", socket);
        ended(command.args(line.split_whitespace())).succeeded()
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let text = self.directord(&["status", "--json"]).succeeded();
        serde_json::from_str(&text).unwrap()
    }

    /// What the director at the other socket says of itself.
    pub(crate) fn status_at(&self, socket: &Path) -> serde_json::Value {
        let mut command = self.command("directord");
        command.env("TANDEM_CONTROL", socket);
        let text = ended(command.args(["status", "--json"])).succeeded();
        serde_json::from_str(&text).unwrap()
    }

    /// Starts a director that has to come up.
    pub(crate) fn start(&self, config: &Path) -> Daemon {
        Daemon::ready(self.spawn(config))
    }

    /// The same at the other end of the link.
    pub(crate) fn start_at(&self, neighbour: &Neighbour, config: &Path) -> Daemon {
        let mut command = self.run_command(config);
        Daemon::ready(neighbour.run(move || command.spawn().unwrap()))
    }

    /// Starts a director whose output nobody reads.
    pub(crate) fn spawn(&self, config: &Path) -> Child {
        self.run_command(config).spawn().unwrap()
    }

    fn run_command(&self, config: &Path) -> Command {
        let mut command = self.command("directord");
        command.env_remove("TANDEM_CONTROL");
        command.arg("run").arg("--config").arg(config);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Names in the pin directory, sorted; none if it is not there.
    pub(crate) fn pins(&self) -> Vec<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.pin_dir()).into_iter().flatten() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
        names.sort();
        names
    }

    /// Programs on the way in of an interface, by their number. Where there is no TCX, the pins
    /// alone tell.
    pub(crate) fn programs(&self, interface: &str) -> Vec<u32> {
        let found = SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
        let (_, programs) = found.unwrap_or_default();
        programs
            .iter()
            .map(aya::programs::ProgramInfo::id)
            .collect()
    }

    /// That nothing is pinned, attached or left listening.
    #[track_caller]
    pub(crate) fn is_untouched(&self) {
        assert_eq!(self.pins(), [""; 0]);
        assert_eq!(self.programs("lan0"), [0; 0]);
        assert!(!self.socket().exists());
        let pin_dir = self.pin_dir();
        let detached = self.directord(&["detach", "--pin-dir", pin_dir.to_str().unwrap()]);
        let nothing = format!("nothing is pinned in {}\n", pin_dir.display());
        assert_eq!(detached.succeeded(), nothing);
    }

    /// Moves `lan1` to somebody else's namespace. Before a director starts: its end of the link
    /// goes when this one does.
    pub(crate) fn client(&self) -> Client {
        let (orders, ordered) = mpsc::channel::<(SocketAddrV4, u32)>();
        let (tell, done) = mpsc::channel();
        let (moved, arrival) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            moved.send(gettid()).unwrap();
            // The first order only says that the interface is there.
            ordered.recv().unwrap();
            ip("addr add 10.77.0.2/24 dev lan1");
            ip("link set lan1 up");
            ip(&format!(
                "neigh add 10.77.0.100 lladdr {LAN_MAC} nud permanent dev lan1"
            ));
            let socket = UdpSocket::bind("10.77.0.2:4000").unwrap();
            tell.send(()).unwrap();
            for (to, count) in ordered {
                for _ in 0..count {
                    socket.send_to(b"question", to).unwrap();
                }
                tell.send(()).unwrap();
            }
        });
        let tid = arrival.recv().unwrap();
        ip(&format!("link set lan1 netns {tid}"));
        orders.send((VIP.parse().unwrap(), 0)).unwrap();
        done.recv().unwrap();
        Client {
            orders: Some(orders),
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for mounted in ["bin/directord", "bin/ipvsadm", "bpf"] {
            let _ = umount2(&self.dir.join(mounted), MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Ended {
    /// What a command printed that did what it was told and had nothing to complain of.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!((self.status, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// That a command ended with this status and this one line, and printed nothing else.
    #[track_caller]
    pub(crate) fn failed(&self, status: i32, line: &str) {
        assert_eq!(self.err, format!("{line}\n"));
        assert_eq!((self.status, self.out.as_str()), (Some(status), ""));
        assert_eq!(self.err.lines().count(), 1);
    }
}

impl Daemon {
    /// Waits until it has come up.
    fn ready(mut child: Child) -> Daemon {
        let log = collect(child.stderr.take().unwrap());
        let out = collect(child.stdout.take().unwrap());
        let deadline = Instant::now() + LIMIT;
        let ready = loop {
            if let Some((line, _)) = out.text().split_once('\n') {
                break line.to_owned();
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("directord: {status}\n{}", log.text());
            }
            assert!(Instant::now() < deadline, "not ready: {}", log.text());
            thread::sleep(PAUSE);
        };
        Daemon {
            child,
            ready,
            log: Some(log),
        }
    }

    /// Waits until the log has a line with all of these words.
    #[track_caller]
    pub(crate) fn logs(&self, words: &[&str]) {
        wait_for(&format!("{words:?} in the log"), || {
            let text = self.log.as_ref().unwrap().text();
            let has = |line: &str| words.iter().all(|word| line.contains(word));
            text.lines().any(has)
        });
    }

    /// Ends it as a service manager does; the exit status and the whole log.
    pub(crate) fn stop(mut self) -> (ExitStatus, String) {
        signal(&self.child, Signal::SIGTERM);
        let status = end_of(&mut self.child);
        (status, self.log.take().unwrap().all())
    }

    /// Kills it on the spot.
    pub(crate) fn kill(mut self) {
        signal(&self.child, Signal::SIGKILL);
        self.child.wait().unwrap();
    }

    /// That it still runs, and answers.
    #[track_caller]
    pub(crate) fn is_undisturbed(&mut self, host: &Host) {
        assert_eq!(self.child.try_wait().unwrap(), None);
        assert_eq!(host.status()["directing"], "yes");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(log) = self.log.take_if(|_| thread::panicking()) {
            eprintln!("{}", log.text());
        }
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Collected {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// Waits for the end of the pipe.
    pub(crate) fn all(self) -> String {
        let Collected { text, thread } = self;
        thread.join().unwrap();
        let text = text.lock().unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Neighbour {
    /// A host that has nothing yet.
    pub(crate) fn bare() -> Neighbour {
        let (orders, ordered) = mpsc::channel::<Order>();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            for order in ordered {
                order();
            }
        });
        Neighbour {
            orders: Some(orders),
            thread: Some(thread),
        }
    }

    /// Moves `lan1` to a namespace of its own, as 10.77.0.2.
    pub(crate) fn new() -> Neighbour {
        let neighbour = Neighbour::bare();
        let tid = neighbour.run(gettid);
        ip(&format!("link set lan1 netns {tid}"));
        for words in [
            "link set lo up",
            "addr add 10.77.0.2/24 dev lan1",
            "link set lan1 up",
        ] {
            neighbour.ip(words);
        }
        neighbour
    }

    /// Runs `ip` there.
    pub(crate) fn ip(&self, words: &str) {
        let words = words.to_owned();
        self.run(move || ip(&words));
    }

    /// Does something there.
    pub(crate) fn run<T: Send + 'static>(&self, order: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let order = move || tell.send(order()).unwrap();
        let orders = self.orders.as_ref().unwrap();
        orders.send(Box::new(order)).unwrap();
        told.recv().unwrap()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Client {
    /// Sends datagrams, all from one port.
    pub(crate) fn send(&self, to: &str, count: u32) {
        let orders = self.orders.as_ref().unwrap();
        orders.send((to.parse().unwrap(), count)).unwrap();
        self.done.recv().unwrap();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits for the end of a child; one that does not end is killed.
pub(crate) fn end_of(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("a command did not end");
        }
        thread::sleep(PAUSE);
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// Runs a command to its end.
pub(crate) fn ended(command: &mut Command) -> Ended {
    command.stdin(Stdio::null());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = collect(child.stdout.take().unwrap());
    let err = collect(child.stderr.take().unwrap());
    let status = end_of(&mut child).code();
    Ended {
        status,
        out: out.all(),
        err: err.all(),
    }
}

/// Reads a pipe to its end on a thread of its own.
pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> Collected {
    let text = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&text);
    let thread = thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            sink.lock().unwrap().extend_from_slice(&chunk[..length]);
        }
    });
    Collected { text, thread }
}

/// Runs `ip` with these words; it must succeed.
pub(crate) fn ip(words: &str) {
    let ended = ended(Command::new("ip").args(words.split_whitespace()));
    assert_eq!(ended.status, Some(0), "ip {words}: {}", ended.err);
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

fn end_with_this_thread(command: &mut Command) {
    let tie = || -> io::Result<()> { Ok(prctl::set_pdeathsig(Signal::SIGKILL)?) };
    // SAFETY: between fork and exec the closure makes one system call, takes no lock and allocates
    // nothing.
    unsafe { command.pre_exec(tie) };
}
