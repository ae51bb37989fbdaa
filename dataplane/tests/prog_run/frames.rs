//! Frames of the column `packet`.

use crate::bench::Bench;
use crate::lab::packets::*;

/// A frame, what it carries when that is TCP, UDP or SCTP, and its mark.
pub struct Given {
    pub frame: Vec<u8>,
    pub ip: Option<Ip>,
    pub mark: u32,
}

impl Bench<'_> {
    /// The packet that a word names: `c:SA` TCP flags, `c:1` or `c:10,6` SCTP chunks, `cu` UDP from the
    /// client; `d` and `e` in place of `c` are another port of the same client and a client of another
    /// network, `s` the server.
    pub fn packet(&self, word: &str) -> Ip {
        let (who, what) = word.split_once(':').unwrap_or_else(|| {
            let (who, udp) = word.split_at(1);
            assert_eq!(udp, "u", "packet {word}");
            (who, "u")
        });
        let client = self.client(if who == "s" { "c" } else { who });
        let (vip, server) = match what {
            "u" => ("10.50.0.1:53", &self.udp_server),
            _ if what.starts_with(|first: char| first.is_ascii_digit()) => {
                ("10.50.0.1:80", &self.sctp_server)
            }
            _ => ("10.50.0.1:80", &self.tcp_server),
        };
        let (vip, server) = (self.at(vip), self.at(server));
        let (src, dst) = if who == "s" {
            (server, client)
        } else {
            (client, vip)
        };
        if what == "u" {
            return udp(&src, &dst);
        }
        if what.starts_with(|first: char| first.is_ascii_digit()) {
            let kinds = what.split(',').map(|kind| kind.parse().unwrap());
            let mut packet = sctp(&src, &dst, DATA);
            packet.payload = kinds.flat_map(chunk).collect();
            return packet;
        }
        tcp(&src, &dst, flags(what))
    }

    /// The frame of the column `packet`.
    pub fn frame(&self, text: &str) -> Given {
        let words: Vec<&str> = text.split_whitespace().collect();
        let bare = |frame| Given {
            frame,
            ip: None,
            mark: 0,
        };
        match words[0] {
            "mpls" => return bare(frame([0; 6], 0x8847, &[0x60; 60])),
            "icmp" => {
                let (client, vip) = (self.host("10.100.0.5"), self.host("10.50.0.1"));
                return bare(ip_frame([0; 6], &icmp_echo(&client, &vip, 8, 1)));
            }
            "arp" | "arp-reply" => {
                let mac = words.get(2).map_or([0xff; 6], |word| mac(&word[4..]));
                let body = arp(if words[0] == "arp" { 1 } else { 2 }, words[1]);
                return bare(frame(mac, 0x0806, &body));
            }
            "ndp" => {
                let target = self.host(words[1]).parse().unwrap();
                let mac = words
                    .get(2)
                    .map_or([0x33, 0x33, 0xff, 0, 0, 1], |word| mac(&word[4..]));
                return bare(frame(mac, ETH_IPV6, &neighbour_solicitation(target)));
            }
            // A message of ICMPv6, `ext` behind a header of options.
            "icmp6" => {
                let (client, vip) = (self.host("10.100.0.5"), self.host("10.50.0.1"));
                let kind = words[1].parse().unwrap();
                let packet = icmpv6(&client, &vip, kind, words.contains(&"ext"));
                return bare(ip_frame([0; 6], &packet));
            }
            "vlan" => {
                let inner = self.packet(words[1]).frame();
                let tagged = [&[0, 5], &inner[12..]].concat();
                return bare(frame([0; 6], 0x8100, &tagged));
            }
            _ => {}
        }
        self.odd(self.packet(words[0]), &words[1..])
    }

    /// A packet with what is odd about it. Lengths are those of IPv4; IPv6 headers are 20 bytes longer.
    fn odd(&self, mut ip: Ip, words: &[&str]) -> Given {
        let longer = if self.ipv6 { 20 } else { 0 };
        let (mut to, mut version_ihl, mut protocol, mut mark) = ([0; 6], None, None, 0);
        let (mut total_len, mut frame_len) = (None, None);
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<usize>().unwrap_or_else(|_| panic!("{word}"));
            match name {
                "ttl" => ip.ttl = number() as u8,
                "tos" => ip.tos = number() as u8,
                "opt" => ip.options = vec![1; number()],
                "ext" => ip.extensions = extensions(value),
                "pay" => ip.payload = (0..number()).map(|at| at as u8 ^ 0x5a).collect(),
                "nocsum" => ip.no_checksum = true,
                "frag" => {
                    ip.fragment = u16::from_str_radix(value, 16).unwrap();
                    if self.ipv6 {
                        ip.extensions.push((44, fragment_header(ip.fragment)));
                    }
                }
                "src" => ip.src = endpoint(&self.at(value)),
                "dst" => ip.dst = endpoint(&self.at(value)),
                "mac" => to = mac(value),
                "mark" => mark = number() as u32,
                "len" => total_len = Some(number() + longer),
                "cut" => frame_len = Some(number() + longer),
                "short" => {
                    let len = number() + longer;
                    (total_len, frame_len) = (Some(len), Some(len));
                }
                "pad" => frame_len = Some(ip.bytes().len() + number()),
                "ver" => version_ihl = Some((number() << 4 | 5) as u8),
                "ihl" => version_ihl = Some((0x40 | number()) as u8),
                "proto" => protocol = Some(number() as u8),
                _ => panic!("packet word {word}"),
            }
        }
        let mut bytes = ip.bytes();
        bytes[0] = version_ihl.unwrap_or(bytes[0]);
        let at = if self.ipv6 { 6 } else { 9 };
        bytes[at] = protocol.unwrap_or(bytes[at]);
        if let Some(len) = total_len {
            if self.ipv6 {
                bytes[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
            } else {
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            }
        }
        bytes.resize(frame_len.unwrap_or(bytes.len()), 0x77);
        let ethertype = if self.ipv6 { ETH_IPV6 } else { ETH_IPV4 };
        Given {
            frame: frame(to, ethertype, &bytes),
            ip: Some(ip),
            mark,
        }
    }
}

fn flags(letters: &str) -> u8 {
    let one = |letter| match letter {
        'F' => FIN,
        'S' => SYN,
        'R' => RST,
        'P' => PSH,
        'A' => ACK,
        other => panic!("flag {other}"),
    };
    letters.chars().map(one).fold(0, |all, flag| all | flag)
}

/// Headers by type, `0,60`, each of eight bytes; `60x32` has that many bytes.
fn extensions(text: &str) -> Vec<(u8, Vec<u8>)> {
    let one = |word: &str| {
        let (kind, len) = word.split_once('x').unwrap_or((word, "8"));
        let len: usize = len.parse().unwrap();
        let mut header = vec![0; len];
        header[1] = (len / 8 - 1) as u8;
        // One option that fills up the rest (RFC 8200 §4.2).
        header[2] = 1;
        header[3] = (len - 4) as u8;
        (kind.parse().unwrap(), header)
    };
    text.split(',').map(one).collect()
}

/// The fragment header of IPv6 (RFC 8200 §4.5) for flags and offset of the IPv4 field.
fn fragment_header(field: u16) -> Vec<u8> {
    let more = u16::from(field & 0x2000 != 0);
    let offset = ((field & 0x1fff) << 3 | more).to_be_bytes();
    vec![0, 0, offset[0], offset[1], 0, 0, 0, 7]
}

pub fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}
