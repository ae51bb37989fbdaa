//! Addresses of a virtual router that its adverts do not name, of both families: they come and go
//! with the role, are announced, and are restored.

use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, Socket, Type};
use vrrp::wire::{MacAddr, ndp};

use crate::host::{Host, Neighbour, ended, ip, wait_for};

const VIPS: [&str; 3] = ["2001:db8:77::100/128", "fd77::254/64", "10.77.0.201/32"];
const CONFIG: &str = "[sysctl]\nbackup_only = 1\n[[vrrp]]\nname = \"VI_1\"\ninterface = \"lan0\"\n\
     vrid = 51\nadvert_ms = 50\ngarp_repeat = 2\ngarp_delay_ms = 200\nvips = [\"10.77.0.200\"]\n\
     vips_excluded = [\"2001:db8:77::100\", \"fd77::254/64\", \"10.77.0.201\"]\n";
/// Of the director's interface.
const LAN0: MacAddr = MacAddr([2, 0, 0, 0, 0x77, 1]);
/// ETH_P_IPV6 in network order, as a packet socket wants it.
const IPV6_FRAMES: i32 = 0x86dd_u16.to_be() as i32;

#[test]
fn excluded_addresses_follow_the_role_and_ipv6_ones_are_advertised() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    // What an earlier life left behind goes first.
    ip("addr add 2001:db8:77::100/128 dev lan0 nodad");
    let advertised = advertisements(&neighbour);
    let daemon = host.start(&host.config(CONFIG));
    wait_for("active", || host.status()["role"] == "active");
    wait_for("the addresses", || present() == [true; 3]);
    let vips = &host.status()["vrrp"][0]["vips"];
    let shown = |at: usize| (vips[at]["address"].clone(), vips[at]["present"].clone());
    assert_eq!(shown(0), ("10.77.0.200/32".into(), true.into()));
    for (at, vip) in (1..).zip(VIPS) {
        assert_eq!(shown(at), (vip.into(), true.into()));
    }
    // Two rounds at once, and two more after the delay.
    for _ in 0..4 {
        for vip in ["2001:db8:77::100", "fd77::254"] {
            assert_eq!(advertised.recv().unwrap(), vip.parse::<Ipv6Addr>().unwrap());
        }
    }

    ip("addr del 2001:db8:77::100/128 dev lan0");
    wait_for("it is restored", || present() == [true; 3]);
    let again = advertised.recv().unwrap();
    assert_eq!(again.to_string(), "2001:db8:77::100");

    let (status, log) = daemon.stop();
    assert!(status.success());
    assert_eq!(present(), [false; 3]);
    let left = log.find("removing virtual addresses that were left behind");
    assert!(left < log.find("ready version") && left.is_some(), "{log}");
    assert!(
        log.contains("removed by somebody else, and restored"),
        "{log}"
    );
}

fn present() -> [bool; 3] {
    let mut command = Command::new("ip");
    let listed = ended(command.args(["-o", "addr", "show", "dev", "lan0"]));
    VIPS.map(|vip| listed.out.contains(vip))
}

/// The addresses that are advertised to `lan1`, as this director has to advertise them.
#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn advertisements(neighbour: &Neighbour) -> Receiver<Ipv6Addr> {
    let (tell, told) = channel();
    neighbour.run(move || {
        let kind = Type::RAW.cloexec();
        let protocol = Protocol::from(IPV6_FRAMES);
        let socket = Socket::new(Domain::PACKET, kind, Some(protocol)).unwrap();
        thread::spawn(move || {
            loop {
                let mut frame = [0; 2000];
                let Ok(len) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) else {
                    return;
                };
                let Some(address) = address_of(&frame[..len]) else {
                    continue;
                };
                let expected = ndp::unsolicited(address, LAN0, false);
                assert_eq!(frame[..len], expected);
                if tell.send(address).is_err() {
                    return;
                }
            }
        });
    });
    told
}

/// What an unsolicited neighbour advertisement is about; the host's own solicitations are none.
fn address_of(frame: &[u8]) -> Option<Ipv6Addr> {
    const ADVERTISEMENT: u8 = 136;
    const SOLICITED: u8 = 0x40;
    let is_one = frame.get(6..12)? == LAN0.0
        && *frame.get(20)? == 58
        && *frame.get(54)? == ADVERTISEMENT
        && *frame.get(58)? & SOLICITED == 0;
    let octets: [u8; 16] = frame.get(62..78)?.try_into().ok()?;
    is_one.then_some(Ipv6Addr::from(octets))
}
