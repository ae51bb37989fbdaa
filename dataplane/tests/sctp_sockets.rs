//! SCTP through the director with real sockets, by masquerading and direct routing, over IPv4 and
//! IPv6. The server's port is not the service's with masquerading, so each packet's CRC32c is mended.
//!
//! Kernels without SCTP sockets skip it by name; crafted packets cover them (`matrix_sctp.rs`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dataplane::{AttachMode, DataPlane, RouteKind};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use lab::director::*;
use lab::{Lab, has_tcx, ifindex, ip, local, route, sysctl};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};

const IPPROTO_SCTP: i32 = 132;
/// How long any step may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// What one side sends: some packets of it.
const BYTES: usize = 20_000;

/// One family's addresses.
struct Addresses {
    client: &'static str,
    towards_clients: &'static str,
    towards_servers: &'static str,
    vip: &'static str,
    server: &'static str,
    everywhere: &'static str,
    prefix: u8,
    host: u8,
}

const IPV4: Addresses = Addresses {
    client: "10.100.0.5",
    towards_clients: "10.100.0.1",
    towards_servers: "10.200.0.1",
    vip: "10.50.0.1",
    server: "10.200.0.11",
    everywhere: "0.0.0.0",
    prefix: 24,
    host: 32,
};

const IPV6: Addresses = Addresses {
    client: "fd00:100::5",
    towards_clients: "fd00:100::1",
    towards_servers: "fd00:200::1",
    vip: "fd00:50::1",
    server: "fd00:200::11",
    everywhere: "::",
    prefix: 64,
    host: 128,
};

impl Addresses {
    fn socket(&self, addr: &str, port: u16) -> SocketAddr {
        SocketAddr::new(addr.parse().unwrap(), port)
    }

    fn is_ipv6(&self) -> bool {
        self.host == 128
    }
}

/// `None` where the kernel has no SCTP.
fn socket(domain: Domain) -> Option<Socket> {
    let socket = Socket::new(domain, Type::STREAM, Some(IPPROTO_SCTP.into()));
    match socket {
        Ok(socket) => {
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.set_write_timeout(Some(DEADLINE)).unwrap();
            Some(socket)
        }
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
        Err(error) => panic!("SCTP socket: {error}"),
    }
}

/// A thread in a network namespace of its own; it says which thread it is and waits to be told.
fn host<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> (i32, Sender<()>, JoinHandle<T>) {
    let (told, wait) = channel();
    let (say, name) = channel();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        say.send(nix::unistd::gettid().as_raw()).unwrap();
        wait.recv().unwrap();
        ip("link set lo up");
        body()
    });
    (name.recv().unwrap(), told, thread)
}

fn configure(commands: &[String]) {
    for command in commands {
        ip(command);
    }
}

/// The link of a host to the director, with its address and its way to everybody else.
fn attach_host(addresses: &Addresses, link: &str, addr: &str, gateway: &str) {
    let nodad = if addresses.is_ipv6() { " nodad" } else { "" };
    configure(&[
        format!("addr add {addr}/{} dev {link}{nodad}", addresses.prefix),
        format!("link set {link} up"),
        format!("route add default via {gateway} dev {link}"),
    ]);
}

fn echo(addresses: &Addresses, listen: SocketAddr) -> usize {
    let domain = Domain::for_address(listen);
    let listener = socket(domain).unwrap();
    listener.bind(&listen.into()).unwrap();
    listener.listen(4).unwrap();
    let (mut peer, from) = listener.accept().unwrap();
    let from = from.as_socket().unwrap();
    assert_eq!(from.ip().to_string(), addresses.client, "the client's own");
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = vec![0; 65_536];
    let mut echoed = 0;
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => return echoed,
            Ok(len) => {
                peer.write_all(&buffer[..len]).unwrap();
                echoed += len;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return echoed,
            Err(error) => panic!("server: {error}"),
        }
    }
}

fn talk(addresses: &Addresses, to: SocketAddr) -> usize {
    let mut socket = socket(Domain::for_address(to)).unwrap();
    let from = addresses.socket(addresses.client, 0);
    socket.bind(&from.into()).unwrap();
    socket.connect_timeout(&to.into(), DEADLINE).unwrap();
    let sent: Vec<u8> = (0..BYTES).map(|at| at as u8).collect();
    let mut heard = vec![0; BYTES];
    for (out, back) in sent.chunks(1000).zip(heard.chunks_mut(1000)) {
        socket.write_all(out).unwrap();
        socket.read_exact(back).unwrap();
    }
    assert_eq!(heard, sent);
    heard.len()
}

fn goes_through(addresses: &'static Addresses, method: ForwardMethod) {
    let lab = Lab::new();
    let direct = method == ForwardMethod::DirectRouting;
    let vip = addresses.socket(addresses.vip, 3868);
    let port = if direct { 3868 } else { 3869 };
    let served = if direct {
        addresses.vip
    } else {
        addresses.server
    };
    let listen = addresses.socket(served, port);

    let (client, start_client, talking) = host(move || {
        attach_host(
            addresses,
            "client",
            addresses.client,
            addresses.towards_clients,
        );
        if direct {
            // Replies come in beside the director's link.
            sysctl("net.ipv4.conf.all.rp_filter", "0");
            sysctl("net.ipv4.conf.front.rp_filter", "0");
            ip("link set front up");
        }
        talk(addresses, vip)
    });
    let (server, start_server, echoing) = host(move || {
        attach_host(
            addresses,
            "server",
            addresses.server,
            addresses.towards_servers,
        );
        if direct {
            // Replies do not come by the director.
            let (vip, host, client) = (addresses.vip, addresses.host, addresses.client);
            configure(&[
                format!("addr add {vip}/{host} dev lo"),
                "link set back up".into(),
                format!("route add {client}/{host} dev back"),
                format!("neigh add {client} lladdr 02:00:00:00:00:77 dev back"),
            ]);
        }
        echo(addresses, listen)
    });
    let nodad = if addresses.is_ipv6() { " nodad" } else { "" };
    configure(&[
        "link add clients type veth peer name client".into(),
        "link add servers type veth peer name server".into(),
        format!("link set client netns {client}"),
        format!("link set server netns {server}"),
        format!(
            "addr add {}/{} dev clients{nodad}",
            addresses.towards_clients, addresses.prefix
        ),
        format!(
            "addr add {}/{} dev servers{nodad}",
            addresses.towards_servers, addresses.prefix
        ),
        format!("addr add {}/{} dev lo", addresses.vip, addresses.host),
        "link set clients up".into(),
        "link set servers up".into(),
    ]);
    sysctl("net.ipv4.conf.all.rp_filter", "0");
    sysctl("net.ipv4.conf.default.rp_filter", "0");
    if direct {
        // The client's end of the way back takes what is not of its network.
        configure(&[
            "link add back type veth peer name front".into(),
            "link set front address 02:00:00:00:00:77".into(),
            format!("link set back netns {server}"),
            format!("link set front netns {client}"),
        ]);
    }
    let mut options = lab.options(&["clients", "servers"]);
    options.attach = if has_tcx("SCTP") {
        AttachMode::Tcx
    } else {
        AttachMode::Clsact
    };
    let mut plane = DataPlane::open(&options).unwrap();
    let (clients, servers) = (ifindex("clients"), ifindex("servers"));
    let network = |addr: &str| {
        let cut = addr.rfind(['.', ':']).unwrap();
        let end = if addresses.is_ipv6() { ":" } else { ".0" };
        format!("{}{end}", &addr[..cut])
    };
    let on_link = |addr: &str, at: u32| {
        route(
            &network(addr),
            addresses.prefix,
            RouteKind::Unicast,
            at,
            None,
        )
    };
    plane
        .set_routes(&[
            on_link(addresses.client, clients),
            on_link(addresses.server, servers),
            local(addresses.vip, addresses.host),
            local(addresses.towards_clients, addresses.host),
            local(addresses.towards_servers, addresses.host),
        ])
        .unwrap();
    let key = service(Protocol::Sctp, &vip.to_string());
    add_service(&mut plane, key, Scheduler::Rr);
    let at = addresses.socket(addresses.server, port).to_string();
    add_server(&mut plane, key, &at, method, 1);

    start_server.send(()).unwrap();
    start_client.send(()).unwrap();
    assert_eq!(talking.join().unwrap(), BYTES);
    assert_eq!(echoing.join().unwrap(), BYTES);
    let connections = connections(&plane);
    assert_eq!(connections.len(), 1);
    let stats = view(&plane, &key).stats;
    assert_eq!(stats.conns, 1);
    assert_eq!(stats.out_pkts == 0, direct, "replies come by, or not");
    println!(
        "SCTP {} by {}: {BYTES} bytes there and back, {} packets, {}",
        if addresses.is_ipv6() { "IPv6" } else { "IPv4" },
        method.name(),
        stats.in_pkts,
        state_of(&connections[0]),
    );
}

#[test]
fn associations_go_through_the_director() {
    if socket(Domain::IPV4).is_none() {
        println!("skipped: SCTP with real sockets, which this kernel lacks");
        return;
    }
    for addresses in [&IPV4, &IPV6] {
        for method in [ForwardMethod::Masquerading, ForwardMethod::DirectRouting] {
            let run = thread::spawn(move || goes_through(addresses, method));
            let family = addresses.everywhere;
            assert!(run.join().is_ok(), "{family} by {}", method.name());
        }
    }
}
