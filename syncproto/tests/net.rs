//! The sockets, over a pair of virtual Ethernet interfaces between two network namespaces of two
//! threads of this test, which end with them.
#![cfg(feature = "net")]
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what is skipped is said")]

mod common;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use common::random::Random;
use nix::getsockopt_impl;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::sockopt::GetStruct;
use nix::sys::socket::{GetSockOpt, getsockname, getsockopt, sockopt};
use nix::unistd::gettid;
use syncproto::buffer::{Layout, SyncBuffer};
use syncproto::limits::{DEFAULT_GROUP, DEFAULT_PORT};
use syncproto::net::{
    BATCH_MAX, BackupSocket, MasterSocket, NetConfig, NetWarning, RecvBatch, SendBatch,
    backup_socket, interface_mtu, master_sockets,
};

const MAXLEN: usize = 600;
const DEADLINE: Duration = Duration::from_secs(10);

/// What the backup's side tells the master's.
enum Told {
    /// Its thread, which stands for its namespace.
    Thread(i32),
    Listening,
    Heard(Vec<(Vec<u8>, bool)>),
}

#[test]
fn messages_travel_from_a_master_to_a_backup() {
    if let Err(error) = unshare_in_a_thread() {
        println!("skipped: sockets between namespaces: unshare: {error}");
        return;
    }
    let (told, from_backup) = sync_channel(8);
    let (tell, from_master) = sync_channel(8);
    let backup = thread::spawn(move || backup_side(&told, &from_master));
    let master = thread::spawn(move || master_side(&tell, &from_backup));
    // The master's side first: its words are the clearer ones when something is amiss.
    master.join().unwrap();
    backup.join().unwrap();
}

fn master_side(tell: &SyncSender<()>, told: &Receiver<Told>) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let Told::Thread(thread) = told.recv_timeout(DEADLINE).unwrap() else {
        panic!("the backup begins with its thread");
    };
    ip(&format!(
        "link add sync0 type veth peer name sync1 netns {thread}"
    ));
    ip("link set sync0 up");
    let (_, warning) = one_master(&config("sync0", 0));
    assert_eq!(warning, Some(NetWarning::NoAddress("sync0".to_owned())));
    ip("addr add 10.77.0.1/24 dev sync0");
    ip("addr add 10.77.0.3/24 dev sync0");
    tell.send(()).unwrap();
    let Told::Listening = told.recv_timeout(DEADLINE).unwrap() else {
        panic!("the backup listens");
    };
    wait_until_up("sync0");
    let (socket, warning) = one_master(&config("sync0", 0));
    assert_eq!(warning, None);
    let address = getsockname::<nix::sys::socket::SockaddrIn>(socket.as_raw_fd()).unwrap();
    assert_eq!(
        address.ip(),
        Ipv4Addr::new(10, 77, 0, 1),
        "the first address"
    );
    assert!(!getsockopt(&socket, sockopt::IpMulticastLoop).unwrap());
    assert_eq!(getsockopt(&socket, sockopt::IpMulticastTtl).unwrap(), 1);
    let never = libc::IP_PMTUDISC_DONT;
    assert_eq!(
        MtuDiscover.get(&socket).unwrap(),
        never,
        "never \"don't fragment\""
    );
    let large = one_master(&config("sync0", 8192)).0;
    assert_eq!(getsockopt(&large, sockopt::SndBuf).unwrap(), 2 * 8192);
    // More than one batch; the last one is longer than the backup reads, and longer than a frame
    // may be, so it also shows that fragments are sent.
    let mut messages = messages(BATCH_MAX + 5, MAXLEN);
    messages.extend(self::messages(1, 3000));
    let mut batch = SendBatch::new();
    assert_eq!(batch.send(&socket, &[]).unwrap(), 0);
    let mut sent = 0;
    while sent < messages.len() {
        let count = batch.send(&socket, &messages[sent..]).unwrap();
        assert!(count <= BATCH_MAX);
        sent += count;
        if count == 0 {
            wait(&socket, PollFlags::POLLOUT);
        }
    }
    let Told::Heard(heard) = told.recv_timeout(DEADLINE).unwrap() else {
        panic!("the backup says what it heard");
    };
    assert_eq!(heard.len(), messages.len());
    for (message, (bytes, truncated)) in messages.iter().zip(&heard) {
        let message = message.message();
        assert_eq!(*truncated, message.len() > MAXLEN);
        assert_eq!(bytes, &message[..message.len().min(MAXLEN)]);
    }
    // A cut link is an error of the message, not of the socket.
    ip("link set sync0 down");
    assert!(batch.send(&socket, &messages[..1]).is_err());
}

fn backup_side(tell: &SyncSender<Told>, told: &Receiver<()>) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    tell.send(Told::Thread(gettid().as_raw())).unwrap();
    told.recv_timeout(DEADLINE).unwrap();
    ip("link set sync1 up");
    ip("link set sync1 mtu 1400");
    // The route check of incoming packets wants an address.
    ip("addr add 10.77.0.2/24 dev sync1");
    assert_eq!(interface_mtu("sync1").unwrap(), 1400);
    ip("link set sync1 mtu 1500");
    let socket = backup_socket(&config("sync1", 0)).unwrap();
    let also = backup_socket(&config("sync1", 100_000)).unwrap();
    assert_eq!(getsockopt(&also, sockopt::RcvBuf).unwrap(), 200_000);
    // Takes hardly one message, and is not read.
    let small = backup_socket(&config("sync1", 1)).unwrap();
    assert_eq!((socket.drops().unwrap(), small.drops().unwrap()), (0, 0));
    let mut batch = RecvBatch::new(MAXLEN);
    assert_eq!(
        batch.recv(&socket, |_| panic!("nothing was sent")).unwrap(),
        0
    );
    tell.send(Told::Listening).unwrap();
    let mut heard = Vec::new();
    while heard.len() < BATCH_MAX + 6 {
        wait(&socket, PollFlags::POLLIN);
        let mut count = 0;
        let received = batch.recv(&socket, |datagram| {
            heard.push((datagram.bytes.to_vec(), datagram.truncated));
            count += 1;
        });
        assert_eq!(received.unwrap(), count);
    }
    assert_eq!(socket.drops().unwrap(), 0);
    assert!(small.drops().unwrap() > 0);
    tell.send(Told::Heard(heard)).unwrap();
}

fn config(interface: &str, sock_size: usize) -> NetConfig {
    NetConfig {
        interface: interface.to_owned(),
        group: DEFAULT_GROUP.into(),
        peers: Vec::new(),
        port: DEFAULT_PORT,
        ttl: 1,
        sock_size,
    }
}

fn one_master(config: &NetConfig) -> (MasterSocket, Option<NetWarning>) {
    let (mut sockets, warning) = master_sockets(config).unwrap();
    assert_eq!(sockets.len(), 1);
    (sockets.remove(0), warning)
}

/// Two hosts with a link between them, both in the hands of the calling thread.
struct Hosts([File; 2]);

impl Hosts {
    /// `addresses`: of each on its end of the link, `sync0` or `sync1`.
    fn new(addresses: [&str; 2]) -> Hosts {
        let host = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let hosts = Hosts([host(), host()]);
        hosts.enter(0);
        ip("link add sync0 type veth peer name sync1");
        // A child that waits stands for the other host.
        hosts.enter(1);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        hosts.enter(0);
        ip(&format!("link set sync1 netns {}", child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        for (at, address) in addresses.iter().enumerate() {
            hosts.enter(at);
            ip(&format!("addr add {address} dev sync{at}"));
            ip(&format!("link set sync{at} up"));
        }
        for at in 0..2 {
            hosts.enter(at);
            wait_until_up(&format!("sync{at}"));
            // Addresses that are being checked for duplicates cannot be used yet.
            let end = now() + DEADLINE;
            while ip(&format!("addr show dev sync{at}")).contains("tentative") {
                assert!(now() < end, "sync{at} has no address it may use");
                thread::yield_now();
            }
        }
        hosts
    }

    fn enter(&self, at: usize) {
        setns(&self.0[at], CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// Sends all of them, one after the other.
fn send_all(batch: &mut SendBatch, socket: &MasterSocket, messages: &[SyncBuffer]) {
    let mut sent = 0;
    while sent < messages.len() {
        let count = batch.send(socket, &messages[sent..]).unwrap();
        sent += count;
        if count == 0 {
            wait(socket, PollFlags::POLLOUT);
        }
    }
}

/// As many messages as are expected; there is no further one then.
fn hear(batch: &mut RecvBatch, socket: &BackupSocket, expected: &[SyncBuffer]) {
    let mut heard: Vec<Vec<u8>> = Vec::new();
    while heard.len() < expected.len() {
        wait(socket, PollFlags::POLLIN);
        (batch.recv(socket, |datagram| heard.push(datagram.bytes.to_vec()))).unwrap();
    }
    assert!(heard.iter().eq(expected.iter().map(SyncBuffer::message)));
}

fn in_a_thread(test: fn()) {
    if let Err(error) = unshare_in_a_thread() {
        println!("skipped: sockets between namespaces: unshare: {error}");
        return;
    }
    thread::spawn(test).join().unwrap();
}

#[test]
fn messages_travel_in_an_ipv6_group_in_fragments_where_they_are_long() {
    in_a_thread(|| {
        let hosts = Hosts::new(["fd00:77::1/64", "fd00:77::2/64"]);
        // One of the link, one of the site.
        for group in ["ff02::81", "ff05::81"] {
            let of = |interface: &str| NetConfig {
                group: group.parse().unwrap(),
                ttl: 3,
                ..config(interface, 0)
            };
            hosts.enter(1);
            let backup = backup_socket(&of("sync1")).unwrap();
            hosts.enter(0);
            let (master, warning) = one_master(&of("sync0"));
            assert_eq!(warning, None);
            assert_eq!(getsockopt(&master, sockopt::Ipv6MulticastHops).unwrap(), 3);
            let never = libc::IPV6_PMTUDISC_DONT;
            assert_eq!(MtuDiscover6.get(&master).unwrap(), never);
            let (mut send, mut recv) = (SendBatch::new(), RecvBatch::new(65_487));
            let mut sent = messages(40, 1452);
            sent.extend(messages(3, 65_487));
            for message in sent.chunks(2) {
                send_all(&mut send, &master, message);
                hear(&mut recv, &backup, message);
            }
            // Its own node's backup hears nothing of it.
            let own = backup_socket(&of("sync0")).unwrap();
            send_all(&mut send, &master, &sent[..1]);
            hear(&mut recv, &backup, &sent[..1]);
            let count = recv.recv(&own, |_| panic!("heard itself")).unwrap();
            assert_eq!(count, 0);
        }
    });
}

#[test]
fn peers_hear_each_other_and_no_stranger_and_a_dead_one_costs_no_message() {
    in_a_thread(|| {
        for addresses in [
            ["10.77.0.1/24", "10.77.0.2/24"],
            ["fd00:77::1/64", "fd00:77::2/64"],
        ] {
            let hosts = Hosts::new(addresses);
            let [near, far] = addresses.map(|address| {
                let text = address.split('/').next().unwrap();
                text.parse::<IpAddr>().unwrap()
            });
            let of = |interface: &str, peer: IpAddr| NetConfig {
                peers: vec![peer],
                ..config(interface, 0)
            };
            hosts.enter(0);
            let said = master_sockets(&of("sync0", near)).unwrap_err().to_string();
            assert_eq!(said, format!("peer {near} is an address of this host"));
            let (master, _) = one_master(&of("sync0", far));
            let (mut send, mut recv) = (SendBatch::new(), RecvBatch::new(1472));
            let sent = messages(20, 1400);
            // Nobody listens there: the peer's host says so, of each message when the next is sent.
            // No more often than its kernel allows itself to say.
            for message in sent.chunks(1).take(4) {
                assert_eq!(send.send(&master, message).unwrap(), 1);
                wait_for_error(&master);
            }
            assert_eq!(send.refused(), 3, "of the last it has not been asked");
            hosts.enter(1);
            let backup = backup_socket(&of("sync1", near)).unwrap();
            let taken = backup_socket(&of("sync1", near)).unwrap_err().to_string();
            assert!(taken.contains("Address already in use"), "{taken}");
            // The refusal that waits does not cost the first message.
            send_all(&mut send, &master, &sent);
            hear(&mut recv, &backup, &sent);
            assert_eq!((send.refused(), recv.strangers()), (4, 0));
            // Another address of the same host is nobody's peer.
            hosts.enter(0);
            let other = match near {
                IpAddr::V4(_) => "10.77.0.9/24",
                IpAddr::V6(_) => "fd00:77::9/64 nodad",
            };
            ip(&format!("addr add {other} dev sync0"));
            let stranger = other.split('/').next().unwrap();
            let stranger: IpAddr = stranger.parse().unwrap();
            let socket = std::net::UdpSocket::bind((stranger, 0)).unwrap();
            socket
                .send_to(sent[0].message(), (far, DEFAULT_PORT))
                .unwrap();
            wait(&backup, PollFlags::POLLIN);
            let count = recv.recv(&backup, |_| panic!("a stranger is heard"));
            assert_eq!((count.unwrap(), recv.strangers()), (1, 1));
        }
    });
}

/// Until what a peer's host said has arrived.
fn wait_for_error(socket: &MasterSocket) {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::try_from(DEADLINE).unwrap()).unwrap();
    let events = fds[0].revents().unwrap();
    assert!(events.contains(PollFlags::POLLERR), "no word from the peer");
}

/// `IPV6_MTU_DISCOVER`.
#[derive(Clone, Copy)]
struct MtuDiscover6;
getsockopt_impl!(
    MtuDiscover6,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int,
    GetStruct<libc::c_int>
);

/// Messages of at most `maxlen` bytes, and hardly less.
fn messages(count: usize, maxlen: usize) -> Vec<SyncBuffer> {
    let mut random = Random::new(85);
    let mut message = || {
        let mut buffer = SyncBuffer::new(Layout {
            maxlen,
            ..Layout::default()
        });
        while !buffer.is_full() {
            buffer.push(&random.conn(false), now());
        }
        buffer
    };
    (0..count).map(|_| message()).collect()
}

/// Whether this may be done at all; a namespace made for the answer ends with its thread.
fn unshare_in_a_thread() -> nix::Result<()> {
    thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET))
        .join()
        .unwrap()
}

fn wait(socket: &impl AsFd, for_what: PollFlags) {
    let mut fds = [PollFd::new(socket.as_fd(), for_what)];
    let ready = poll(&mut fds, PollTimeout::try_from(DEADLINE).unwrap()).unwrap();
    assert_eq!(ready, 1, "nothing for {DEADLINE:?}");
}

/// Before that the kernel throws away what is sent, without a word.
fn wait_until_up(interface: &str) {
    let end = now() + DEADLINE;
    while !ip(&format!("link show {interface}")).contains("state UP") {
        assert!(now() < end, "{interface} does not come up");
        thread::yield_now();
    }
}

/// `IP_MTU_DISCOVER`.
#[derive(Clone, Copy)]
struct MtuDiscover;
getsockopt_impl!(
    MtuDiscover,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int,
    GetStruct<libc::c_int>
);

/// A child has the namespace of the thread that starts it.
fn ip(arguments: &str) -> String {
    let done = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {arguments}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "waits for other threads")]
fn now() -> Instant {
    Instant::now()
}
