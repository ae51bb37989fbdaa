//! Two directors with one virtual MAC address: a client notices nothing of a takeover.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::lan::{Lan, Node, Recording, Sent, wait_for};

/// What differs between the families.
struct Family {
    vip: &'static str,
    /// In brackets for IPv6.
    vip_in_url: &'static str,
    vips: &'static str,
    vmac: [u8; 6],
    vmac_text: &'static str,
    device: &'static str,
    server: &'static str,
    server_in_url: &'static str,
    client: &'static str,
}

const IPV4: Family = Family {
    vip: "192.0.2.100",
    vip_in_url: "192.0.2.100",
    vips: "\"192.0.2.100/24\"",
    vmac: [0, 0, 0x5e, 0, 1, 51],
    vmac_text: "00:00:5e:00:01:33",
    device: "vrrp.51",
    server: "192.0.2.4",
    server_in_url: "192.0.2.4",
    client: "192.0.2.3",
};
const IPV6: Family = Family {
    vip: "2001:db8:1::100",
    vip_in_url: "[2001:db8:1::100]",
    vips: "\"fe80::100/64\", \"2001:db8:1::100/64\"",
    vmac: [0, 0, 0x5e, 0, 2, 51],
    vmac_text: "00:00:5e:00:02:33",
    device: "vrrp6.51",
    server: "2001:db8:1::4",
    server_in_url: "[2001:db8:1::4]",
    client: "2001:db8:1::3",
};

impl Family {
    fn config(&self, priority: u8, more: &str) -> String {
        format!(
            "[sysctl]\nbackup_only = 1\n[sync]\ninterface = \"eth0\"\n\
             [[vrrp]]\nname = \"VI_1\"\ninterface = \"eth0\"\nvrid = 51\nadvert_ms = 100\n\
             priority = {priority}\nvmac = true\nvips = [{}]\n{more}",
            self.vips
        )
    }

    fn add_service(&self, node: &Node) {
        let (vip, server) = (self.vip_in_url, self.server_in_url);
        node.admin(&format!("-A -t {vip}:80 -s rr"));
        node.admin(&format!("-a -t {vip}:80 -r {server}:8080 -m"));
    }

    /// An echo of lines, whose way back to the client leads through the virtual address.
    fn serve(&self, lan: &Lan) {
        if self.vmac[4] == 2 {
            for (number, node) in (1..).zip([&lan.a, &lan.b, &lan.client, &lan.server]) {
                node.ip(&format!("addr add 2001:db8:1::{number}/64 dev eth0 nodad"));
            }
        }
        let (client, vip, server) = (self.client, self.vip, self.server);
        lan.server
            .ip(&format!("route add {client} via {vip} dev eth0"));
        lan.server.run(move || {
            let listener = TcpListener::bind((server, 8080)).unwrap();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    thread::spawn(move || {
                        for line in lines.map_while(Result::ok) {
                            writeln!(stream, "{line}").unwrap();
                        }
                    });
                }
            });
        });
    }

    /// Both the client and the server, whose gateway it is, know the address by its virtual MAC.
    #[track_caller]
    fn neighbours_are_kept(&self, lan: &Lan) {
        for node in [&lan.client, &lan.server] {
            let known = node.neighbour(self.vip);
            assert_eq!(known.as_deref(), Some(self.vmac_text), "{}", node.name);
        }
    }

    fn has_vip(&self, node: &Node) -> bool {
        let shown = node.ip(&format!("-o addr show dev {}", self.device));
        shown.contains(self.vip)
    }
}

/// A client's connection.
struct Talk {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
    said: u32,
}

impl Talk {
    fn new(lan: &Lan, family: &Family) -> Talk {
        let vip = family.vip;
        let connect = move || TcpStream::connect((vip, 80)).expect("a connection");
        let stream = lan.client.run(connect);
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Talk {
            answers: BufReader::new(stream.try_clone().unwrap()),
            stream,
            said: 0,
        }
    }

    /// Says something, and hears it again.
    #[track_caller]
    fn goes_on(&mut self) {
        self.said += 1;
        writeln!(self.stream, "{}", self.said).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        assert_eq!(line, format!("{}\n", self.said));
    }
}

#[test]
fn a_client_keeps_its_neighbour_and_its_connection_across_takeovers() {
    takeovers(&IPV4);
}

#[test]
fn so_does_a_client_by_ipv6() {
    takeovers(&IPV6);
}

fn takeovers(family: &Family) {
    let lan = Lan::new();
    let mut recording = Recording::start();
    family.serve(&lan);
    let first = lan.a.direct(&family.config(150, ""));
    let second = lan.b.direct(&family.config(100, ""));
    family.add_service(&lan.a);
    family.add_service(&lan.b);
    lan.a.becomes("active");
    lan.b.becomes("standby");
    let holders = || [&lan.a, &lan.b].map(|node| family.has_vip(node));
    assert_eq!(holders(), [true, false]);
    let mut talk = Talk::new(&lan, family);
    for _ in 0..10 {
        talk.goes_on();
    }
    family.neighbours_are_kept(&lan);
    wait_for("the connection on the standby", || {
        lan.b.status()["tables"]["connections_live"].as_u64() > Some(0)
    });
    recording.read();
    let of_standby = |sent: &&Sent| sent.by == "dirb" && sent.is_from(family.vmac);
    let said = recording.frames.iter().find(of_standby);
    assert!(said.is_none(), "{said:02x?}");

    // The node is gone, all at once.
    lan.plug(&lan.a, "down");
    drop(first);
    lan.b.becomes("active");
    talk.goes_on();
    family.neighbours_are_kept(&lan);
    assert!(family.has_vip(&lan.b));

    // It comes back with what it has left on the macvlan, and takes over again.
    lan.plug(&lan.a, "up");
    let first = lan.a.direct(&family.config(150, ""));
    lan.a.becomes("active");
    lan.b.becomes("standby");
    talk.goes_on();
    family.neighbours_are_kept(&lan);
    assert_eq!(holders(), [true, false]);

    // The last word of one that stops, and the other goes on.
    first.stop();
    lan.b.becomes("active");
    talk.goes_on();
    family.neighbours_are_kept(&lan);
    recording.read();
    only_the_virtual_mac_speaks_for_the_address(&recording.frames, family);
    let log = second.stop();
    for node in [&lan.a, &lan.b] {
        let left = node.ip("-o link show");
        assert!(!left.contains(family.device), "{left}\n{log}");
    }
}

fn only_the_virtual_mac_speaks_for_the_address(frames: &[Sent], family: &Family) {
    let vip: IpAddr = family.vip.parse().unwrap();
    let mut claims = 0;
    for sent in frames {
        if let Some((mac, address)) = sent.claim()
            && address == vip
        {
            claims += 1;
            let is_virtual = mac == family.vmac && sent.is_from(mac);
            assert!(is_virtual, "{sent:02x?}");
        }
        // Memberships, and what a host says of other addresses.
        let is_upkeep = sent.is_membership() || sent.claim().is_some_and(|(_, at)| at.is_ipv6());
        if sent.is_from(family.vmac) && is_upkeep {
            let about = sent.claim().map(|(_, address)| address);
            let moves = [vip, "fe80::100".parse().unwrap()];
            assert!(about.is_some_and(|at| moves.contains(&at)), "{sent:02x?}");
        }
    }
    assert!(claims > 0);
}

/// With its addresses, the programs and the election's sockets.
#[test]
fn a_macvlan_that_was_removed_comes_back_with_all_that_was_there() {
    let lan = Lan::new();
    let mut recording = Recording::start();
    IPV4.serve(&lan);
    let director = lan.a.direct(&IPV4.config(150, ""));
    IPV4.add_service(&lan.a);
    lan.a.becomes("active");
    let mut talk = Talk::new(&lan, &IPV4);
    talk.goes_on();
    lan.a.ip("link del vrrp.51");
    wait_for("the address", || {
        let shown = lan.a.ip("-o addr show");
        shown.contains("vrrp.51") && shown.contains(IPV4.vip)
    });
    lan.a.becomes("active");
    talk.goes_on();
    Talk::new(&lan, &IPV4).goes_on();
    recording.read();
    recording.frames.clear();
    recording.wait_for("an advert", |frames| {
        let mut adverts = frames.iter().filter(|sent| sent.is_advert());
        adverts.any(|sent| sent.is_from(IPV4.vmac))
    });
    let log = director.stop();
    assert!(!lan.a.ip("-o link show").contains("vrrp.51"), "{log}");
}

#[test]
fn an_address_that_is_not_accepted_serves_and_does_nothing_else() {
    let lan = Lan::new();
    IPV4.serve(&lan);
    let director = lan.a.direct(&IPV4.config(150, "accept = false\n"));
    IPV4.add_service(&lan.a);
    lan.a.becomes("active");
    Talk::new(&lan, &IPV4).goes_on();
    let dropped = || lan.a.status()["counters"]["drop_not_accepted"].as_u64();
    let ask = |to: &'static str| {
        lan.client.run(move || {
            let socket = UdpSocket::bind("192.0.2.3:0").unwrap();
            socket.connect(to).unwrap();
            let patience = Some(Duration::from_millis(10));
            socket.set_read_timeout(patience).unwrap();
            // The stack of a host that takes it says that nobody listens there.
            let _ = socket.send(b"question");
            socket.recv(&mut [0; 16]).unwrap_err().kind()
        })
    };
    wait_for("a refusal by the host's own address", || {
        ask("192.0.2.1:9") == ErrorKind::ConnectionRefused
    });
    wait_for("a drop", || {
        assert_ne!(ask("192.0.2.100:9"), ErrorKind::ConnectionRefused);
        dropped() > Some(0)
    });
    Talk::new(&lan, &IPV4).goes_on();
    director.stop();
}
