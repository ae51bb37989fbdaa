//! The real keepalived as a process in the namespace of a host.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use nix::ifaddrs::getifaddrs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vrrp::{Authentication, Parameters};

use crate::host::{Host, wait_for};

const KEEPALIVED: &str = "keepalived";
/// What it writes when it refuses an advertisement, in small letters.
const COMPLAINTS: [&str; 6] = [
    "bogus",
    "invalid",
    "checksum",
    "incorrect",
    "mismatch",
    "not expected",
];

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Is killed, with its children, when dropped.
pub(crate) struct Keepalived<'a> {
    host: &'a Host,
    child: Child,
    dir: PathBuf,
    vip: IpAddr,
}

/// What [`Keepalived`] is told, besides a router's parameters.
#[derive(Clone, Default)]
pub(crate) struct Extra {
    /// Unicast: the address to send from.
    pub(crate) source: Option<IpAddr>,
    /// A priority is added that stands in [`Keepalived::weigh`].
    pub(crate) is_tracked: bool,
}

impl<'a> Keepalived<'a> {
    pub(crate) fn start(host: &'a Host, parameters: &Parameters, extra: &Extra) -> Keepalived<'a> {
        let id = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("tandem-keepalived-{}-{id}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let config = dir.join("keepalived.conf");
        let weight = dir.join("weight");
        fs::write(&weight, "0\n").unwrap();
        let text = text_of(parameters, extra, weight.to_str().unwrap());
        fs::write(&config, text).unwrap();
        let mut command = Command::new(KEEPALIVED);
        command.args(["--vrrp", "--dont-fork", "--log-console", "--log-detail"]);
        command.arg("--use-file").arg(&config);
        command.arg("--pid").arg(dir.join("main.pid"));
        command.arg("--vrrp_pid").arg(dir.join("vrrp.pid"));
        let log = fs::File::create(dir.join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = host.run(move || command.spawn().unwrap());
        let vip = *parameters.addresses.last().unwrap();
        Keepalived {
            host,
            child,
            dir,
            vip,
        }
    }

    pub(crate) fn is_master(&self) -> bool {
        has_address(self.host, self.vip)
    }

    /// Waits until it is or is not master; when that was.
    #[track_caller]
    pub(crate) fn has_vip(&self, wanted: bool) -> Instant {
        wait_for(&format!("address: {wanted}"), || self.is_master() == wanted);
        Instant::now()
    }

    /// Adds to its priority.
    pub(crate) fn weigh(&self, weight: i32) {
        fs::write(self.dir.join("weight"), format!("{weight}\n")).unwrap();
    }

    /// As when the power goes: nobody has time to say or remove anything.
    pub(crate) fn crash(mut self) {
        self.kill_all();
    }

    /// As the service manager does; [`Keepalived::ended`] waits for the end, which takes a second.
    pub(crate) fn stop(&self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
    }

    pub(crate) fn ended(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// What it refused.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().map(str::to_owned);
        let is_one = |line: &String| {
            let line = line.to_lowercase();
            // While the link was down.
            !line.contains("send advert") && COMPLAINTS.iter().any(|word| line.contains(word))
        };
        lines.filter(is_one).collect()
    }

    /// The parent is held first: it would start its child again.
    fn kill_all(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            return;
        }
        let pid = self.pid();
        kill(pid, Signal::SIGSTOP).unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap().split_whitespace() {
            kill(Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
        kill(pid, Signal::SIGKILL).unwrap();
        self.child.wait().unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Keepalived<'_> {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether the interface of a host has an address.
pub(crate) fn has_address(host: &Host, wanted: IpAddr) -> bool {
    host.run(move || {
        getifaddrs().unwrap().any(|found| {
            let address = found.address.filter(|_| found.interface_name == "dir0");
            address.is_some_and(|address| match wanted {
                IpAddr::V4(wanted) => {
                    address.as_sockaddr_in().map(|found| found.ip()) == Some(wanted)
                }
                IpAddr::V6(wanted) => {
                    address.as_sockaddr_in6().map(|found| found.ip()) == Some(wanted)
                }
            })
        })
    })
}

pub(crate) fn is_installed() -> bool {
    let found = Command::new(KEEPALIVED)
        .arg("--version")
        .stderr(Stdio::null())
        .status();
    let is_installed = found.is_ok_and(|status| status.success());
    if !is_installed {
        println!("skipped: keepalived is not installed");
    }
    is_installed
}

/// The same router in keepalived's words.
fn text_of(parameters: &Parameters, extra: &Extra, weight: &str) -> String {
    let mut lines = String::new();
    let mut line = |text: &str| writeln!(lines, "{text}").unwrap();
    line("global_defs {\n router_id peer\n}");
    if extra.is_tracked {
        line(&format!(
            "vrrp_track_file weight {{\n file {weight}\n weight 1\n}}"
        ));
    }
    line("vrrp_instance VI_1 {\n state BACKUP\n interface dir0");
    let (vrid, priority) = (parameters.vrid, parameters.priority);
    line(&format!(" virtual_router_id {vrid}\n priority {priority}"));
    let seconds = f64::from(parameters.advert_ms) / 1000.0;
    line(&format!(
        " advert_int {seconds}\n version {}",
        parameters.version
    ));
    if !parameters.preempt {
        line(" nopreempt");
    }
    let password = |bytes: &[u8; 8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        text.trim_end_matches('\0').to_owned()
    };
    let authentication = match &parameters.authentication {
        Authentication::None => None,
        Authentication::Simple(bytes) => Some(("PASS", password(bytes))),
        Authentication::Header(bytes) => Some(("AH", password(bytes))),
    };
    if let Some((kind, password)) = authentication {
        line(&format!(
            " authentication {{\n  auth_type {kind}\n  auth_pass {password}\n }}"
        ));
    }
    if let Some(source) = extra.source {
        line(&format!(" unicast_src_ip {source}\n unicast_peer {{"));
        for peer in &parameters.peers {
            line(&format!("  {}", peer.address));
        }
        line(" }");
    }
    if extra.is_tracked {
        line(" track_file {\n  weight weight 1\n }");
    }
    line(" virtual_ipaddress {");
    for address in &parameters.addresses {
        let len = if address.is_ipv4() { 32 } else { 128 };
        line(&format!("  {address}/{len}"));
    }
    line(" }\n}");
    lines
}
