//! The protocol's numbers: ports and groups, sizes, defaults and ranges.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipvs_model::extra::Pe;

/// UDP port of sync thread 0.
///
/// Thread *i* uses this port plus *i*, see [`port_of_thread`]. Source: `ip_vs_sync.c:
/// IP_VS_SYNC_PORT`; `ipvsadm --sync-port`.
pub const DEFAULT_PORT: u16 = 8848;

/// IPv4 group that messages are sent to.
///
/// There is no default for IPv6: a group has to be given. Source: `ip_vs_sync.c:
/// IP_VS_SYNC_GROUP`; `ipvsadm --mcast-group`.
pub const DEFAULT_GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 81);

/// TTL or hop limit of multicast messages. Source: `ipvsadm --mcast-ttl`.
pub const DEFAULT_TTL: u8 = 1;

/// Sync ids that fit the header.
///
/// The kernel keeps 32 bits and sends the lowest eight; a backup with a larger one hears nobody.
pub const SYNC_IDS: RangeInclusive<u32> = 0..=255;

/// The sync id with which a backup accepts messages of every sync id.
pub const ANY_SYNC_ID: u32 = 0;

/// Threads, and so ports, that a daemon may have.
///
/// Unit: threads. Kernel name: `sync_ports`, a power of two. Source: `ip_vs.h:
/// IPVS_SYNC_PORTS_MAX`.
pub const THREADS: RangeInclusive<u16> = 1..=64;

/// The version byte of a version 1 header. Source: `ip_vs_sync.c: SYNC_PROTO_VER`.
pub const VERSION_BYTE: u8 = 1;

/// The version sent when nothing else is asked for. Kernel name: `sync_version`.
pub const DEFAULT_VERSION: u8 = 1;

/// Sizes of version 0, for IPv4 alone. Unit: bytes.
pub mod v0 {
    /// Source: `ip_vs_sync.c: struct ip_vs_sync_mesg_v0`.
    pub const HEADER_LEN: usize = 4;
    /// Without the sequence block. Source: `ip_vs_sync.c: struct ip_vs_sync_conn_v0`.
    pub const ENTRY_LEN: usize = 24;
    /// With the sequence block.
    pub const ENTRY_WITH_SEQ_LEN: usize = ENTRY_LEN + super::SEQ_BLOCK_LEN;
}

/// Sizes of version 1. Unit: bytes.
pub mod v1 {
    /// Source: `ip_vs_sync.c: struct ip_vs_sync_mesg`.
    pub const HEADER_LEN: usize = 8;
    /// Fixed part. Source: `ip_vs_sync.c: struct ip_vs_sync_v4`.
    pub const ENTRY_IPV4_LEN: usize = 36;
    /// Fixed part. Source: `ip_vs_sync.c: struct ip_vs_sync_v6`.
    pub const ENTRY_IPV6_LEN: usize = 72;
    /// What the 12 bits of an entry's own length can say.
    pub const ENTRY_LEN_MAX: usize = 0x0fff;
    /// Entries begin at multiples of this, counted from the start of the message.
    pub const ALIGNMENT: usize = 4;
    /// Type and length in front of an option's data.
    pub const OPTION_HEADER_LEN: usize = 2;
}

/// Two records of three 32-bit words: sequence numbers towards the server and towards the client.
///
/// Unit: bytes. Source: `ip_vs_sync.c: struct ip_vs_sync_conn_options`.
pub const SEQ_BLOCK_LEN: usize = 24;

/// Longest data of a persistence engine. Unit: bytes. Source: `ip_vs.h: IP_VS_PEDATA_MAXLEN`.
pub const PE_DATA_LEN_MAX: usize = Pe::DATA_LEN_MAX;

/// Longest name of a persistence engine, without a terminating zero.
///
/// Unit: bytes. Source: `ip_vs.h: IP_VS_PENAME_MAXLEN`.
pub const PE_NAME_LEN_MAX: usize = Pe::NAME_LEN_MAX;

/// Entries a message can count.
///
/// The count is one byte. The kernel does not stop there with very large messages, and its count
/// wraps; a sender that closes a message at 255 entries stays compatible.
pub const ENTRIES_MAX: usize = 255;

/// Payload of a master's messages unless it is told otherwise: an Ethernet frame's, whatever the
/// MTU of the interface.
///
/// Unit: bytes. Kernel name: `sync_maxlen`. Source: `ip_vs_sync.c: start_sync_thread`.
pub const DEFAULT_PAYLOAD_IPV4: usize = 1500 - IPV4_UDP_HEADERS_LEN;
/// As [`DEFAULT_PAYLOAD_IPV4`], for an IPv6 group.
pub const DEFAULT_PAYLOAD_IPV6: usize = 1500 - IPV6_UDP_HEADERS_LEN;

/// Unit: bytes.
pub const IPV4_UDP_HEADERS_LEN: usize = 20 + 8;
/// Unit: bytes.
pub const IPV6_UDP_HEADERS_LEN: usize = 40 + 8;

/// Payloads a master may be told; a value outside is clamped. IPv6 ends 20 bytes earlier.
///
/// Unit: bytes. Kernel name: `sync_maxlen`; 0 is the default.
pub const MASTER_PAYLOADS_IPV4: RangeInclusive<usize> = 1..=65_535 - IPV4_UDP_HEADERS_LEN;
/// Payloads a backup may be told; a value outside is clamped. IPv6 ends 20 bytes earlier.
///
/// Unit: bytes. Kernel name: `sync_maxlen`; 0 is the default, what the MTU of the interface leaves.
pub const BACKUP_PAYLOADS_IPV4: RangeInclusive<usize> = 1024..=65_535 - IPV4_UDP_HEADERS_LEN;

/// Longest message of a master that was told `asked`; 0 asks for the default.
///
/// A value outside [`MASTER_PAYLOADS_IPV4`] is clamped, not refused. Unit: bytes. Source:
/// `ip_vs_sync.c: start_sync_thread`.
pub fn master_maxlen(asked: usize, ipv6: bool) -> usize {
    let (default, max) = if ipv6 {
        (DEFAULT_PAYLOAD_IPV6, PAYLOAD_IPV6_MAX)
    } else {
        (DEFAULT_PAYLOAD_IPV4, *MASTER_PAYLOADS_IPV4.end())
    };
    match asked {
        0 => default,
        asked => asked.clamp(*MASTER_PAYLOADS_IPV4.start(), max),
    }
}

/// Longest message a backup reads that was told `asked`; 0 asks for what the MTU of its interface
/// leaves, at least that of Ethernet.
///
/// A value outside [`BACKUP_PAYLOADS_IPV4`] is clamped, not refused. Unit: bytes. Source:
/// `ip_vs_sync.c: start_sync_thread`.
pub fn backup_maxlen(asked: usize, mtu: usize, ipv6: bool) -> usize {
    let (headers, max) = if ipv6 {
        (IPV6_UDP_HEADERS_LEN, PAYLOAD_IPV6_MAX)
    } else {
        (IPV4_UDP_HEADERS_LEN, *BACKUP_PAYLOADS_IPV4.end())
    };
    match asked {
        0 => mtu.clamp(BACKUP_MTU_MIN, 65_535) - headers,
        asked => asked.clamp(*BACKUP_PAYLOADS_IPV4.start(), max),
    }
}

/// A backup whose interface has a smaller MTU is ready for Ethernet's all the same. Unit: bytes.
const BACKUP_MTU_MIN: usize = 1500;

/// What a datagram over IPv6 carries at most. Unit: bytes.
const PAYLOAD_IPV6_MAX: usize = 65_535 - IPV6_UDP_HEADERS_LEN;

/// Room for datagrams that a backup's sockets have together when `sync_sock_size` asks for none.
///
/// DIFFERS: the kernel's have the system's default, `net.core.rmem_default`; of usual messages that is
/// 18 ms of a master with 200 000 entries per second, and a thread may have to wait longer for a
/// processor. Unit: bytes, as given to `SO_RCVBUF`: the kernel books twice as many.
pub const RECEIVE_ROOM: usize = 4 << 20;
/// Each port's, however many there are. Unit: bytes.
pub const RECEIVE_ROOM_MIN: usize = 1 << 20;

/// One port's part of [`RECEIVE_ROOM`]. Unit: bytes.
pub fn receive_room(ports: usize) -> usize {
    (RECEIVE_ROOM / ports.max(1)).max(RECEIVE_ROOM_MIN)
}

/// Packets a connection must have received before it is first mentioned.
///
/// Unit: packets. Kernel name: first value of `sync_threshold`. Source: `ip_vs.h:
/// DEFAULT_SYNC_THRESHOLD`.
pub const DEFAULT_THRESHOLD: u32 = 3;

/// Packets between two mentions.
///
/// Unit: packets. Kernel name: second value of `sync_threshold`. Source: `ip_vs.h:
/// DEFAULT_SYNC_PERIOD`.
pub const DEFAULT_PERIOD: u32 = 50;

/// Least time between two mentions; zero leaves the decision to the number of packets.
///
/// Kernel name: `sync_refresh_period`.
pub const DEFAULT_REFRESH: Duration = Duration::ZERO;

/// Mentions that are repeated inside a refresh period.
///
/// Kernel name: `sync_retries`; the kernel keeps two bits.
pub const RETRIES: RangeInclusive<u32> = 0..=3;
/// Kernel name: `sync_retries`.
pub const DEFAULT_RETRIES: u32 = 0;

/// Age at which the kernel sends a part-filled buffer. Source: `ip_vs.h: IPVS_SYNC_FLUSH_TIME`.
pub const FLUSH_AGE: Duration = Duration::from_secs(2);

/// Queued messages that wake a sender at once. Source: `ip_vs.h: IPVS_SYNC_WAKEUP_RATE`.
pub const WAKEUP_MESSAGES: usize = 8;

/// Delay of a sender after the first queued message. Source: `ip_vs.h: IPVS_SYNC_SEND_DELAY`.
pub const SEND_DELAY: Duration = Duration::from_millis(20);

/// The port of thread `thread`, counted from 0, over the configured base.
///
/// Ports wrap at 65535, as in the kernel's 16-bit arithmetic.
pub const fn port_of_thread(base: u16, thread: u16) -> u16 {
    base.wrapping_add(thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_message_holds_as_many_entries_as_the_kernels() {
        let fit = |payload: usize, header: usize, entry: usize| (payload - header) / entry;
        let (v0_header, v0_entry) = (v0::HEADER_LEN, v0::ENTRY_LEN);
        assert_eq!(fit(DEFAULT_PAYLOAD_IPV4, v0_header, v0_entry), 61);
        assert_eq!(
            fit(DEFAULT_PAYLOAD_IPV4, v1::HEADER_LEN, v1::ENTRY_IPV4_LEN),
            40
        );
        assert_eq!(
            fit(DEFAULT_PAYLOAD_IPV6, v1::HEADER_LEN, v1::ENTRY_IPV6_LEN),
            20
        );
        assert_eq!((DEFAULT_PAYLOAD_IPV4, DEFAULT_PAYLOAD_IPV6), (1472, 1452));
    }

    #[test]
    fn an_entry_with_every_option_fits_its_length_field() {
        let option = |data: usize| v1::OPTION_HEADER_LEN + data;
        let options = option(SEQ_BLOCK_LEN) + option(PE_DATA_LEN_MAX) + option(PE_NAME_LEN_MAX);
        assert_eq!(v1::ENTRY_IPV4_LEN + options, 337);
        assert_eq!(v1::ENTRY_IPV6_LEN + options, 373);
        const { assert!(v1::ENTRY_LEN_MAX >= 373) };
    }

    #[test]
    fn fixed_parts_keep_the_alignment() {
        for length in [v1::HEADER_LEN, v1::ENTRY_IPV4_LEN, v1::ENTRY_IPV6_LEN] {
            assert!(length.is_multiple_of(v1::ALIGNMENT));
        }
    }

    #[test]
    fn lengths_are_those_of_worked_examples() {
        // One IPv4 connection in version 0, alone and with a sequence block.
        assert_eq!(v0::HEADER_LEN + v0::ENTRY_LEN, 0x1c);
        assert_eq!(v0::HEADER_LEN + v0::ENTRY_WITH_SEQ_LEN, 0x34);
        // In version 1 one IPv4 connection, one IPv6 connection, and two IPv4 connections of which
        // the first has a sequence option and two bytes of padding after it.
        assert_eq!(v1::HEADER_LEN + v1::ENTRY_IPV4_LEN, 0x2c);
        assert_eq!(v1::HEADER_LEN + v1::ENTRY_IPV6_LEN, 0x50);
        let first = v1::ENTRY_IPV4_LEN + v1::OPTION_HEADER_LEN + SEQ_BLOCK_LEN;
        assert_eq!(first, 0x3e);
        let padded = first.next_multiple_of(v1::ALIGNMENT);
        assert_eq!(v1::HEADER_LEN + padded + v1::ENTRY_IPV4_LEN, 0x6c);
    }

    #[test]
    fn the_largest_messages_are_those_of_udp() {
        assert_eq!(*MASTER_PAYLOADS_IPV4.end(), 65_507);
        assert_eq!(BACKUP_PAYLOADS_IPV4.end(), MASTER_PAYLOADS_IPV4.end());
        assert!(BACKUP_PAYLOADS_IPV4.contains(&DEFAULT_PAYLOAD_IPV4));
    }

    #[test]
    fn defaults_are_within_their_ranges() {
        assert!(DEFAULT_GROUP.is_multicast());
        assert!(RETRIES.contains(&DEFAULT_RETRIES));
        assert!(SYNC_IDS.contains(&ANY_SYNC_ID));
        assert!(THREADS.start().is_power_of_two() && THREADS.end().is_power_of_two());
        const { assert!(DEFAULT_THRESHOLD < DEFAULT_PERIOD) };
    }

    #[test]
    fn a_masters_maxlen_is_clamped_and_its_default_ignores_the_mtu() {
        let cases = [
            (0, 1472, 1452),
            (1, 1, 1),
            (600, 600, 600),
            (65_507, 65_507, 65_487),
            (usize::MAX, 65_507, 65_487),
        ];
        for (asked, ipv4, ipv6) in cases {
            assert_eq!(master_maxlen(asked, false), ipv4, "asked {asked}");
            assert_eq!(master_maxlen(asked, true), ipv6, "asked {asked}");
        }
    }

    #[test]
    fn a_backups_maxlen_is_clamped_and_its_default_is_what_the_mtu_leaves() {
        let defaults = [
            (0, 1472, 1452),
            (1280, 1472, 1452),
            (1500, 1472, 1452),
            (9000, 8972, 8952),
            (65_536, 65_507, 65_487),
        ];
        for (mtu, ipv4, ipv6) in defaults {
            assert_eq!(backup_maxlen(0, mtu, false), ipv4, "MTU {mtu}");
            assert_eq!(backup_maxlen(0, mtu, true), ipv6, "MTU {mtu}");
        }
        for (asked, ipv4) in [(1, 1024), (1023, 1024), (2000, 2000), (65_535, 65_507)] {
            assert_eq!(backup_maxlen(asked, 9000, false), ipv4, "asked {asked}");
        }
        assert_eq!(backup_maxlen(65_535, 9000, true), 65_487);
    }

    #[test]
    fn ports_share_the_room_for_datagrams_and_none_has_too_little() {
        let shares = [0, 1, 2, 4, 64].map(receive_room);
        assert_eq!(shares, [4 << 20, 4 << 20, 2 << 20, 1 << 20, 1 << 20]);
    }

    #[test]
    fn threads_take_ports_upwards_and_around() {
        assert_eq!(port_of_thread(DEFAULT_PORT, 0), 8848);
        assert_eq!(port_of_thread(DEFAULT_PORT, 63), 8911);
        assert_eq!(port_of_thread(65_535, 1), 0);
    }
}
