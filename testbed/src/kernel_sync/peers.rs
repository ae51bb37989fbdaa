//! A kernel director and ours beside each other, in namespaces of one machine.
//!
//! ```text
//!             outside 192.0.2.0/24                         inside 10.0.0.0/24
//!            ┌ k0 ────── eth0 .1   kernel    .1 eth1 ────── k1 ┐
//!   client  ─┤                     .1 eth2                     ├─ server .11
//!       .10  │                       │ sync 10.9.9.0/24        │
//!            │                     .2 eth2                     │
//!            └ t0 ────── eth0 .2   tandem    .2 eth1 ────── t1 ┘
//! ```
//!
//! Both have the virtual addresses 192.0.2.100 and 2001:db8:2::100. The servers .21 and .22 are there
//! for the directors' neighbour tables only: what is sent to them ends at the server's links. The
//! client reaches a director by the link that it sends on.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::packet::{Flow, Mac, Transport, send_flows};
use super::tables::{self, Entries};
use crate::director::{Director, shipped};
use crate::listing::{Counts, parse_counts};
use crate::netns::{Holder, Namespaces, Tether, ip, sysctl};
use crate::node::Node;
use crate::plan::{Net, prefix_len, whole};
use crate::run::Run;
use crate::setup::Missing;
use crate::step::SyncDaemonRole;
use crate::sync_rate::burst::Burst;

/// Modules that a kernel director and this drill need, where they are not built in.
const MODULES: [&str; 4] = ["veth", "ip_vs", "ip_vs_rr", "sctp"];
/// What `ip_vs` shows when it is there.
const KERNEL_TABLE: &str = "/proc/thread-self/net/ip_vs";
/// The sync id of both.
const SYNC_ID: &str = "7";
/// Last number of the virtual addresses.
const VIRTUAL: u8 = 100;
/// Last numbers of the servers that do not answer.
pub(crate) const SILENT: [u8; 2] = [21, 22];
/// Last number of the server that does.
pub(crate) const ANSWERING: u8 = 11;
/// Last number of the client's own address.
const CLIENT: u8 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Kernel,
    Tandem,
}

impl Side {
    pub(crate) const BOTH: [Side; 2] = [Side::Kernel, Side::Tandem];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Side::Kernel => "kernel",
            Side::Tandem => "tandem",
        }
    }

    pub(crate) const fn other(self) -> Side {
        match self {
            Side::Kernel => Side::Tandem,
            Side::Tandem => Side::Kernel,
        }
    }

    /// Last number of its addresses, and last byte of the Ethernet addresses of its links.
    const fn number(self) -> u8 {
        match self {
            Side::Kernel => 1,
            Side::Tandem => 2,
        }
    }

    /// The client's and the server's link to it.
    const fn links(self) -> [&'static str; 2] {
        match self {
            Side::Kernel => ["k0", "k1"],
            Side::Tandem => ["t0", "t1"],
        }
    }
}

/// A virtual service that both have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub(crate) transport: Transport,
    pub(crate) port: u16,
    pub(crate) is_direct: bool,
    /// Unit: seconds; 0 is not persistent.
    pub(crate) persistent_s: u32,
    pub(crate) servers: &'static [u8],
    /// Of 1000 flows of a row.
    pub(crate) share: u32,
}

/// The two directors, their client and their server; dropping it ends them.
pub(crate) struct Peers {
    // Dropped first.
    director: Director,
    ipvsadm: PathBuf,
    client: Holder,
    server: Holder,
    kernel: Holder,
    tandem: Holder,
}

/// Whether this machine can have a kernel director.
///
/// # Errors
/// It cannot.
pub(crate) fn require_kernel() -> Result<(), Missing> {
    for module in MODULES {
        // Built in, or not there: what follows tells.
        let _ = std::process::Command::new("modprobe")
            .args(["-q", module])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    if Path::new(KERNEL_TABLE).exists() {
        return Ok(());
    }
    let what = "ip_vs: this kernel has no IPVS (module ip_vs), so there is no kernel director";
    Err(Missing::new(what))
}

/// The path of Debian's `ipvsadm`.
///
/// # Errors
/// [`Missing`] when this machine cannot have a kernel director.
pub(crate) fn kernel_ipvsadm() -> Result<PathBuf> {
    require_kernel()?;
    let own = shipped("ipvsadm")?.canonicalize()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs
        .map(|dir| dir.join("ipvsadm"))
        .find(|path| path.canonicalize().is_ok_and(|real| real != own));
    let what = "ipvsadm: Debian's package ipvsadm, for the kernel director";
    found.ok_or_else(|| Missing::new(what).into())
}

impl Peers {
    /// Makes both directors, ours with these tunables, and their services.
    ///
    /// # Errors
    /// Something could not be made.
    pub(crate) fn up(
        run: &Run,
        ipvsadm: &Path,
        services: &[Service],
        tunables: &[(&str, String)],
    ) -> Result<Peers> {
        let node = Node::single();
        let bpffs = node.bpffs_dir(run);
        let start = |bpffs: Option<&Path>| -> Result<Holder> {
            let holder = Holder::start(bpffs)?;
            run.record(holder.pid())?;
            Ok(holder)
        };
        let (client, server) = (start(None)?, start(None)?);
        let (kernel, tandem) = (start(None)?, start(Some(&bpffs))?);
        let mut rest = String::from("[sysctl]\nsloppy_sctp = 1\n");
        for (name, value) in tunables {
            writeln!(rest, "{name} = {value}")?;
        }
        let director = Director::alone(run, tandem.spaces(), node, 0, &rest)?;
        let mut peers = Peers {
            director,
            ipvsadm: ipvsadm.to_owned(),
            client,
            server,
            kernel,
            tandem,
        };
        peers.join().context("links")?;
        for (name, value) in tunables {
            let written = peers.kernel_sysctl(&format!("ipv4/vs/{name}"), value);
            written.with_context(|| format!("{name} of the kernel"))?;
        }
        peers.kernel_sysctl("ipv4/vs/sloppy_sctp", "1")?;
        peers.director.start(run).context("tandem")?;
        for side in Side::BOTH {
            for service in services {
                let added = peers.add_service(side, service);
                added.with_context(|| format!("{}: {service:?}", side.name()))?;
            }
        }
        Ok(peers)
    }

    fn join(&self) -> Result<()> {
        let pids = |side: Side| match side {
            Side::Kernel => self.kernel.pid(),
            Side::Tandem => self.tandem.pid(),
        };
        for (host, end) in [(&self.client, 0), (&self.server, 1)] {
            let mut batch = String::from("link set lo up\n");
            for side in Side::BOTH {
                let link = side.links()[end];
                let [near, far] = [false, true].map(|far| show(mac(side, end, far)));
                writeln!(
                    batch,
                    "link add {link} address {near} type veth peer name eth{end} address {far} netns {}",
                    pids(side)
                )?;
                for ipv6 in [false, true] {
                    let (net, number) = [(Net::Outside, CLIENT), (Net::Inside, ANSWERING)][end];
                    let own = net.host(number, ipv6);
                    add(&mut batch, own, prefix_len(own), link)?;
                }
                writeln!(batch, "link set {link} up")?;
            }
            let settings = ["0", "0"];
            quiet(host.spaces(), settings)?;
            ip(host.spaces(), &batch)?;
        }
        let batch = format!(
            "link set lo up\nlink add eth2 type veth peer name eth2 netns {}\n",
            self.tandem.pid()
        );
        ip(self.kernel.spaces(), &batch)?;
        for side in Side::BOTH {
            self.configure(side)?;
        }
        Ok(())
    }

    fn configure(&self, side: Side) -> Result<()> {
        quiet(self.spaces(side), ["1", "1"])?;
        let mut batch = String::from("link set lo up\n");
        for ipv6 in [false, true] {
            for (end, net) in [(0, Net::Outside), (1, Net::Inside)] {
                let own = net.host(side.number(), ipv6);
                add(&mut batch, own, prefix_len(own), &format!("eth{end}"))?;
            }
            let vip = virtual_address(ipv6);
            add(&mut batch, vip, whole(vip), "eth0")?;
        }
        writeln!(batch, "addr add 10.9.9.{}/24 dev eth2", side.number())?;
        for link in ["eth0", "eth1", "eth2"] {
            writeln!(batch, "link set {link} up")?;
        }
        for ipv6 in [false, true] {
            for number in SILENT {
                let (server, lladdr) = (Net::Inside.host(number, ipv6), show(mac(side, 1, false)));
                writeln!(
                    batch,
                    "neigh add {server} lladdr {lladdr} dev eth1 nud permanent"
                )?;
            }
            // Clients are anywhere behind the client.
            let gateway = Net::Outside.host(CLIENT, ipv6);
            writeln!(batch, "route add default via {gateway} dev eth0")?;
        }
        ip(self.spaces(side), &batch)
    }

    pub(crate) fn spaces(&self, side: Side) -> &Namespaces {
        match side {
            Side::Kernel => self.kernel.spaces(),
            Side::Tandem => self.tandem.spaces(),
        }
    }

    pub(crate) fn client(&self) -> &Namespaces {
        self.client.spaces()
    }

    pub(crate) fn server(&self) -> &Namespaces {
        self.server.spaces()
    }

    fn kernel_sysctl(&self, name: &str, value: &str) -> Result<()> {
        sysctl(self.kernel.spaces(), name, value)
    }

    /// The output of a director's own `ipvsadm`.
    ///
    /// # Errors
    /// It failed; the message is what it said.
    pub(crate) fn ipvsadm(&self, side: Side, args: &[&str]) -> Result<String> {
        match side {
            Side::Tandem => self.director.ipvsadm(args),
            Side::Kernel => output(self.kernel.spaces(), &self.ipvsadm, args),
        }
    }

    fn add_service(&self, side: Side, service: &Service) -> Result<()> {
        for ipv6 in [false, true] {
            let flag = service.transport.ipvsadm_flag();
            let end = |address: IpAddr, port| std::net::SocketAddr::new(address, port).to_string();
            let address = end(virtual_address(ipv6), service.port);
            let persistent = service.persistent_s.to_string();
            let mut args = vec!["-A", flag, &address, "-s", "rr"];
            if service.persistent_s > 0 {
                args.extend(["-p", &persistent]);
            }
            self.ipvsadm(side, &args)?;
            for number in service.servers {
                // Masquerading changes the port too.
                let (method, port) = if service.is_direct {
                    ("-g", service.port)
                } else {
                    ("-m", service.port + 10_000)
                };
                let server = end(Net::Inside.host(*number, ipv6), port);
                self.ipvsadm(side, &["-a", flag, &address, "-r", &server, method])?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// The director's `ipvsadm` refused.
    pub(crate) fn start_sync(
        &self,
        side: Side,
        role: SyncDaemonRole,
        group: Option<IpAddr>,
    ) -> Result<()> {
        let group = group.map(|group| group.to_string());
        let mut args = vec!["--start-daemon", role.name(), "--mcast-interface", "eth2"];
        args.extend(["--syncid", SYNC_ID]);
        if let Some(group) = &group {
            args.extend(["--mcast-group", group]);
        }
        self.ipvsadm(side, &args)?;
        Ok(())
    }

    /// # Errors
    /// The director's `ipvsadm` refused.
    pub(crate) fn stop_sync(&self, side: Side, role: SyncDaemonRole) -> Result<()> {
        self.ipvsadm(side, &["--stop-daemon", role.name()])?;
        Ok(())
    }

    /// Sends the packets of flows to a director.
    ///
    /// # Errors
    /// They cannot be sent.
    pub(crate) fn feed(&self, side: Side, flows: &[Flow]) -> Result<()> {
        let [near, far] = [false, true].map(|far| mac(side, 0, far));
        self.client().on_thread(|| {
            let mut burst = Burst::frames(side.links()[0])?;
            send_flows(&mut burst, [near, far], flows)
        })
    }

    /// A director's `ip_vs_conn_sync`.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn table(&self, side: Side) -> Result<Entries> {
        let text = match side {
            Side::Tandem => self.director.directord(&["proc", "ip_vs_conn_sync"])?,
            Side::Kernel => self.kernel.spaces().on_thread(|| {
                let path = format!("{KERNEL_TABLE}_conn_sync");
                fs::read_to_string(&path).context(path)
            })?,
        };
        tables::parse(&text)
    }

    /// Active and inactive connections by service and server.
    ///
    /// # Errors
    /// `ipvsadm` failed.
    pub(crate) fn counts(&self, side: Side) -> Result<Counts> {
        parse_counts(&self.ipvsadm(side, &["-L", "-n"])?)
    }

    /// Lets the client's connections, and the server's answers, go by one of the directors.
    ///
    /// # Errors
    /// `ip` refused.
    pub(crate) fn route_by(&self, side: Side) -> Result<()> {
        let [near, far] = side.links();
        let mut batches = [String::new(), String::new()];
        for ipv6 in [false, true] {
            let (vip, own) = (virtual_address(ipv6), Net::Outside.host(CLIENT, ipv6));
            let gateway = Net::Inside.host(side.number(), ipv6);
            let length = whole(vip);
            let [client, server] = &mut batches;
            writeln!(client, "route replace {vip}/{length} dev {near} src {own}")?;
            writeln!(
                server,
                "route replace {own}/{length} via {gateway} dev {far}"
            )?;
        }
        let [client, server] = batches;
        ip(self.client(), &client)?;
        ip(self.server(), &server)
    }

    /// The end of our director's log.
    pub(crate) fn log_tail(&self) -> String {
        self.director.log_tail()
    }

    /// What `directord status --json` prints.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) fn status(&self) -> Result<crate::status::Status> {
        self.director.status()
    }

    /// Ends our director as an operator does.
    ///
    /// # Errors
    /// It ends with an error.
    pub(crate) fn down(mut self) -> Result<()> {
        self.director.stop()
    }
}

pub(crate) fn virtual_address(ipv6: bool) -> IpAddr {
    Net::Outside.host(VIRTUAL, ipv6)
}

/// The Ethernet address of a link to a director: of the client's or server's end, or the far one.
fn mac(side: Side, end: usize, far: bool) -> Mac {
    let end = u8::from(end == 1);
    [2, 0, 0, u8::from(far), end, side.number()]
}

fn show(mac: Mac) -> String {
    let bytes: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.join(":")
}

fn add(batch: &mut String, address: IpAddr, length: u8, link: &str) -> Result<()> {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    writeln!(batch, "addr add {address}/{length} dev {link}{nodad}")?;
    Ok(())
}

/// No duplicate address detection and no router advertisements; forwarding of both families as told.
fn quiet(spaces: &Namespaces, [forward, forward6]: [&str; 2]) -> Result<()> {
    for (name, value) in [
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/dad_transmits", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ip_forward", forward),
        ("ipv6/conf/all/forwarding", forward6),
    ] {
        sysctl(spaces, name, value)?;
    }
    Ok(())
}

fn output(spaces: &Namespaces, program: &Path, args: &[&str]) -> Result<String> {
    let mut command = spaces.command(program, Tether::Parent)?;
    let output = command.args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| program.display().to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} {}: {}, {}",
            program.display(),
            args.join(" "),
            output.status,
            said.trim_end()
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
