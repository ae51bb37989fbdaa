//! The real keepalived with `use_vmac` as the other router: both have the same virtual MAC address.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lan::{Lan, Node, wait_for};

const VIP: &str = "192.0.2.100";
const VMAC: &str = "00:00:5e:00:01:33";
const CONFIG: &str = "vrrp_instance VI_1 {
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority 100
  advert_int 0.1
  version 3
  use_vmac
  virtual_ipaddress {
    192.0.2.100/24
  }
}
";

fn ours(priority: u8) -> String {
    format!(
        "[[vrrp]]\nname = \"VI_1\"\ninterface = \"eth0\"\nvrid = 51\nadvert_ms = 100\n\
         priority = {priority}\nvmac = true\nvips = [\"{VIP}/24\"]\n"
    )
}

/// Its processes are killed when dropped.
struct Keepalived {
    child: Child,
    dir: PathBuf,
}

impl Keepalived {
    fn start(lan: &Lan, node: &Node) -> Keepalived {
        let dir = lan.dir.join("keepalived");
        fs::create_dir_all(&dir).unwrap();
        let config = dir.join("keepalived.conf");
        fs::write(&config, CONFIG).unwrap();
        let mut command = Command::new("keepalived");
        command.args(["--vrrp", "--dont-fork", "--log-console", "--log-detail"]);
        command.arg("--use-file").arg(&config);
        command.arg("--pid").arg(dir.join("main.pid"));
        command.arg("--vrrp_pid").arg(dir.join("vrrp.pid"));
        let log = fs::File::create(dir.join("log")).unwrap();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = node.run(move || command.spawn().unwrap());
        Keepalived { child, dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Nobody has time to say or remove anything: the parent goes first.
    fn kill_all(&mut self) {
        let _ = self.child.kill();
        let pid = fs::read_to_string(self.dir.join("vrrp.pid"));
        if let Some(pid) = pid.ok().and_then(|text| text.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        self.kill_all();
    }
}

fn is_installed() -> bool {
    let mut command = Command::new("keepalived");
    let found = command.arg("--version").stderr(Stdio::null()).status();
    let is_installed = found.is_ok_and(|status| status.success());
    if !is_installed {
        println!("skipped: keepalived is not installed");
    }
    is_installed
}

fn has_vip(node: &Node) -> bool {
    node.ip("-o addr show").contains(VIP)
}

/// The client has asked where the address is, and knows it by this MAC address.
fn is_known(lan: &Lan) {
    lan.client.run(|| {
        let socket = std::net::UdpSocket::bind("192.0.2.3:0").unwrap();
        let _ = socket.send_to(b"question", (VIP, 9));
    });
    wait_for("the neighbour entry", || {
        lan.client.neighbour(VIP).as_deref() == Some(VMAC)
    });
}

#[test]
fn keepalived_is_heard_and_hears_by_the_same_virtual_address() {
    if !is_installed() {
        return;
    }
    let lan = Lan::new();
    let mut peer = Keepalived::start(&lan, &lan.b);
    wait_for("keepalived as master", || has_vip(&lan.b));
    is_known(&lan);

    // The better one takes over, and keepalived gives way.
    let first = lan.a.direct(&ours(150));
    lan.a.becomes("active");
    wait_for("keepalived as backup", || !has_vip(&lan.b));
    is_known(&lan);
    first.stop();
    wait_for("keepalived as master again", || has_vip(&lan.b));
    is_known(&lan);

    // The worse one hears its adverts, and goes on when they end.
    let second = lan.a.direct(&ours(50));
    wait_for("its master", || {
        let status = lan.a.status();
        status["role"] == "standby" && status["vrrp"][0]["master"]["address"] == "192.0.2.2"
    });
    assert!(has_vip(&lan.b) && !has_vip(&lan.a));
    lan.plug(&lan.b, "down");
    peer.kill_all();
    lan.a.becomes("active");
    is_known(&lan);
    let log = peer.log().to_lowercase();
    for complaint in ["bogus", "invalid", "checksum", "mismatch"] {
        assert!(!log.contains(complaint), "{complaint}: {log}");
    }
    second.stop();
}
