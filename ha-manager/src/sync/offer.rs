//! Offers of the programs: which thread sends one, when it is too old, and what is said of it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use dataplane::common::Addr6;
use dataplane::common::offer::Offer6;
use dataplane::{OfferReader, OfferedConn, timer_ns};
use syncproto::conn::{Addresses, Ends, SyncConn};

/// An offer that waited longer is thrown away: what a node that stood still says of its connections may
/// have been overtaken by its peer. What sees packets here afterwards is offered again. The kernel's
/// own messages are at most this late.
pub(super) const STALE_AFTER: Duration = syncproto::limits::FLUSH_AGE;

/// Odd, and without a pattern: the fractional part of the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// The thread of a connection or template, of `threads`, a power of two.
///
/// It depends on nothing but family, protocol, client and virtual service, so that everything that is
/// said of a connection takes one port and stays in order. The kernel takes the address of the
/// connection in memory (`ip_vs_sync.c: select_master_thread_id`), so any such function will do.
pub(super) fn thread_of(offered: &OfferedConn, threads: usize) -> usize {
    let key = &offered.offer.key;
    let mut hash = u64::from(offered.ipv6) << 8 | u64::from(key.protocol);
    let ports = u64::from(key.sport.to_host()) << 16 | u64::from(key.dport.to_host());
    hash = fold(hash ^ ports << 16);
    let words = if offered.ipv6 { 4 } else { 1 };
    for (client, virt) in key.src.iter().zip(&key.dst).take(words) {
        let both = u64::from(client.to_host()) << 32 | u64::from(virt.to_host());
        hash = fold(hash ^ both);
    }
    hash as usize & threads.saturating_sub(1)
}

/// Every bit of the result depends on every bit of `value`.
fn fold(value: u64) -> u64 {
    let wide = u128::from(value ^ MIX) * u128::from(MIX);
    (wide >> 64) as u64 ^ wide as u64
}

/// Whether an offer has waited too long, at `now_ns` of the clock of timers.
pub(super) fn is_stale(offered: &OfferedConn, now_ns: u64) -> bool {
    now_ns.saturating_sub(offered.offer.at_ns) > STALE_AFTER.as_nanos() as u64
}

/// Throws away what lies in the ring from an earlier life; the first offer that is not stale may
/// go with it.
pub(super) fn discard_stale(offers: &mut OfferReader) -> u64 {
    let now_ns = timer_ns();
    let mut discarded = 0;
    while let Some(offer) = offers.next_offer() {
        discarded += 1;
        if !is_stale(&offer, now_ns) {
            break;
        }
    }
    discarded
}

/// What the protocol says of an offer.
///
/// Sequence numbers are there exactly when the flags say so, and are zeros when none are known: as the
/// kernel's (`ip_vs_sync.c: ip_vs_sync_conn`).
pub(super) fn conn_of(offered: OfferedConn) -> SyncConn {
    let OfferedConn { ipv6, offer, extra } = offered;
    let (seq, pe) = extra.map_or((None, None), |extra| (extra.seq, extra.pe.map(Box::new)));
    let mut conn = SyncConn {
        protocol: offer.key.protocol,
        addresses: addresses(ipv6, &offer),
        flags: offer.conn_flags.into(),
        state: offer.state,
        fwmark: offer.fwmark,
        timeout_secs: offer.timeout_secs,
        seq: None,
        pe,
    };
    conn.seq = conn.says_seq().then(|| seq.unwrap_or_default());
    conn
}

fn addresses(ipv6: bool, offer: &Offer6) -> Addresses {
    let key = &offer.key;
    let ends = [
        (key.src, key.sport),
        (key.dst, key.dport),
        (offer.daddr, offer.dport),
    ];
    if ipv6 {
        let [client, virt, dest] =
            ends.map(|(addr, port)| SocketAddrV6::new(v6(addr), port.to_host(), 0, 0));
        Addresses::V6(Ends { client, virt, dest })
    } else {
        let [client, virt, dest] =
            ends.map(|(addr, port)| SocketAddrV4::new(v4(addr), port.to_host()));
        Addresses::V4(Ends { client, virt, dest })
    }
}

/// IPv4 addresses stand in the first word.
fn v4([addr, ..]: Addr6) -> Ipv4Addr {
    Ipv4Addr::from(addr.to_host())
}

fn v6(addr: Addr6) -> Ipv6Addr {
    let bits = addr.iter().fold(0, |bits: u128, word| {
        bits << 32 | u128::from(word.to_host())
    });
    Ipv6Addr::from_bits(bits)
}

#[cfg(test)]
mod tests {
    use dataplane::Extra;
    use dataplane::common::offer::{Offer, Offer4};
    use dataplane::common::{Be16, Be32, FlowKey};
    use syncproto::conn::{Pe, SeqPair};

    use super::*;

    fn word(host: u32) -> Be32 {
        Be32::from_host(host)
    }

    fn port(host: u16) -> Be16 {
        Be16::from_host(host)
    }

    fn offered4(client: u32, client_port: u16, virt: u32, virt_port: u16) -> OfferedConn {
        let offer = Offer4 {
            key: FlowKey::flow(
                word(client),
                port(client_port),
                word(virt),
                port(virt_port),
                6,
            ),
            ..Offer::default()
        };
        OfferedConn {
            ipv6: false,
            offer: offer.to_words(),
            extra: None,
        }
    }

    fn offered6(client: [u32; 4], client_port: u16, virt: [u32; 4]) -> OfferedConn {
        OfferedConn {
            ipv6: true,
            offer: Offer6 {
                key: FlowKey::flow(
                    client.map(word),
                    port(client_port),
                    virt.map(word),
                    port(80),
                    6,
                ),
                ..Offer::default()
            },
            extra: None,
        }
    }

    #[test]
    fn offers_of_both_families_become_entries() {
        let short = Offer4 {
            key: FlowKey::template(word(0xcb00_7100), word(7), port(0), 0),
            daddr: word(0x0a00_0015),
            conn_flags: 0x1100,
            fwmark: 7,
            timeout_secs: 360,
            state: 1,
            ..Offer::default()
        };
        let conn = conn_of(OfferedConn {
            ipv6: false,
            offer: short.to_words(),
            extra: None,
        });
        assert_eq!(conn.addresses.client(), "203.0.113.0:0".parse().unwrap());
        assert_eq!(conn.addresses.virt(), "0.0.0.7:0".parse().unwrap());
        assert_eq!(conn.addresses.dest(), "10.0.0.21:0".parse().unwrap());
        assert!(conn.is_template());
        assert_eq!((conn.fwmark, conn.timeout_secs, conn.state), (7, 360, 1));
        let prefix = [0x2001_0db8, 0, 0];
        let at = |last| [prefix[0], prefix[1], prefix[2], last];
        let mut offered = offered6(at(7), 40_000, at(0x100));
        offered.offer.daddr = at(0x21).map(word);
        offered.offer.dport = port(8080);
        let conn = conn_of(offered);
        let expected = [
            "[2001:db8::7]:40000",
            "[2001:db8::100]:80",
            "[2001:db8::21]:8080",
        ];
        let ends = &conn.addresses;
        let found = [ends.client(), ends.virt(), ends.dest()];
        assert_eq!(found, expected.map(|text| text.parse().unwrap()));
        assert_eq!(conn.protocol, 6);
    }

    #[test]
    fn what_few_connections_have_beside_the_rest_is_said_too() {
        let pe = Pe::new(b"sip", b"call@lab").unwrap();
        let seq = SeqPair::default();
        let extra = Extra {
            seq: Some(seq),
            pe: Some(pe.clone()),
        };
        let mut offered = offered4(1, 2, 3, 4);
        offered.offer.conn_flags = 0x0200;
        offered.extra = Some(Box::new(extra));
        let conn = conn_of(offered);
        assert_eq!((conn.seq, conn.pe), (Some(seq), Some(Box::new(pe))));
    }

    #[test]
    fn sequence_numbers_are_said_exactly_when_the_flags_say_so() {
        let mut known = SeqPair::default();
        known.input.delta = 3;
        for (flags, extra, said) in [
            (0x0200, None, Some(SeqPair::default())),
            (0x0400, Some(known), Some(known)),
            (0x0600, Some(known), Some(known)),
            (0x0100, Some(known), None),
            (0x0100, None, None),
        ] {
            let mut offered = offered4(1, 2, 3, 4);
            offered.offer.conn_flags = flags;
            offered.extra = extra.map(|seq| {
                Box::new(Extra {
                    seq: Some(seq),
                    pe: None,
                })
            });
            assert_eq!(conn_of(offered).seq, said, "{flags:#x}");
        }
    }

    #[test]
    fn one_connection_has_one_thread_whatever_else_is_said_of_it() {
        for threads in [1, 2, 64] {
            let first = offered4(0x0a64_0005, 40_000, 0x0a32_0001, 80);
            let mut later = first.clone();
            later.offer.daddr[0] = word(9);
            later.offer.dport = port(9);
            later.offer.state = 7;
            later.offer.conn_flags = 0x0180;
            later.offer.timeout_secs = 9;
            later.offer.at_ns = 9;
            let thread = thread_of(&first, threads);
            assert!(thread < threads);
            assert_eq!(thread, thread_of(&later, threads));
        }
        let offered = offered4(0x0a64_0005, 40_000, 0x0a32_0001, 80);
        let others = [
            offered4(0x0a64_0005, 40_001, 0x0a32_0001, 80),
            offered4(0x0a64_0006, 40_000, 0x0a32_0001, 80),
            offered4(0x0a64_0005, 40_000, 0x0a32_0002, 80),
            offered4(0x0a64_0005, 40_000, 0x0a32_0001, 81),
        ];
        let many = 1 << 30;
        for other in others {
            assert_ne!(thread_of(&offered, many), thread_of(&other, many));
        }
    }

    /// Connections as they come: clients with rising ports, many clients with one port, networks of
    /// templates, both families. Every one of 64 threads gets within a fifth of its share.
    #[test]
    fn threads_get_equal_shares_of_regular_connections() {
        const EACH: u32 = 2000;
        const THREADS: usize = 64;
        const TOTAL: u32 = EACH * THREADS as u32;
        type Nth = fn(u32) -> OfferedConn;
        let kinds: [(&str, Nth); 5] = [
            ("ports of two clients", |n| {
                offered4(0x0a64_0005 + (n >> 16), n as u16, 0x0a32_0001, 80)
            }),
            ("clients", |n| {
                offered4(0x0a00_0000 + n, 1024, 0x0a32_0001, 443)
            }),
            ("networks", |n| offered4(n << 8, 0, 0x0a32_0001, 0)),
            ("virtual addresses", |n| {
                offered4(0x0a64_0005, 40_000, 0x0a00_0000 + n, 80)
            }),
            ("IPv6 networks", |n| {
                offered6([0x2001_0db8, n, 0, 1], 40_000, [0x2001_0db8, 0, 0, 2])
            }),
        ];
        for (kind, nth) in kinds {
            let mut shares = [0; THREADS];
            for n in 0..TOTAL {
                shares[thread_of(&nth(n), THREADS)] += 1;
            }
            let (least, most) = (shares.iter().min(), shares.iter().max());
            let within = EACH * 4 / 5..=EACH * 6 / 5;
            assert!(
                shares.iter().all(|share| within.contains(share)),
                "{kind}: {least:?} to {most:?}"
            );
        }
    }
}
