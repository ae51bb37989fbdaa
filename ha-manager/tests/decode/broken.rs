//! Bytes that are no capture, or were one.

use std::io::Cursor;
use std::time::Duration;

use ha_manager::decode::Record;
use ha_manager::decode::capture::CaptureError;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::PcapNgBlock;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, Endianness, TsResolution};

use crate::captures::{self, Recorded, decode};

const FILE_HEADER_LEN: usize = 24;
/// Damaged copies per capture.
const DAMAGED: usize = 200;

#[test]
fn a_capture_cut_anywhere_gives_its_whole_frames_and_one_reason() {
    for Recorded { name, pcap, .. } in some_of_each() {
        let (whole, end) = decode(&pcap, None);
        end.unwrap();
        let ends = frame_ends(&pcap);
        for cut in 0..pcap.len() {
            let (records, end) = decode(&pcap[..cut], None);
            let frames = ends.iter().filter(|end| **end <= cut).count();
            match end {
                Err(CaptureError::NotACapture) => assert!(cut < FILE_HEADER_LEN, "{name} at {cut}"),
                Err(CaptureError::CutShort(frame)) => {
                    assert_eq!(frame, frames as u64 + 1, "{name} at {cut}");
                }
                Ok(()) => assert!(
                    cut == FILE_HEADER_LEN || ends.contains(&cut),
                    "{name} at {cut}"
                ),
                Err(other) => panic!("{name} at {cut}: {other}"),
            }
            assert_eq!(records, whole[..records.len()], "{name} at {cut}");
        }
    }
}

#[test]
fn damaged_captures_never_panic() {
    let mut rng = Rng(0x5eed);
    let mut ends = [0usize; 2];
    for capture in captures::sync().into_iter().chain(captures::vrrp()) {
        let ng = as_pcapng(&capture.pcap, Some(9), Endianness::Little);
        for original in [&capture.pcap, &ng] {
            for _ in 0..DAMAGED {
                let mut damaged = original.clone();
                for _ in 0..1 + rng.below(8) {
                    let at = rng.below(damaged.len());
                    damaged[at] = *rng.pick(&[0, 1, 0x7f, 0x80, 0xff, 4, 8, 12]);
                }
                if rng.below(4) == 0 {
                    damaged.truncate(damaged.len() - rng.below(damaged.len() / 2));
                }
                let (records, end) = decode(&damaged, None);
                ends[usize::from(end.is_err())] += 1;
                for record in &records {
                    assert!(!record.to_string().is_empty());
                    captures::json(record);
                }
                if let Err(error) = end {
                    assert_eq!(error.to_string().lines().count(), 1, "{error}");
                }
            }
        }
    }
    println!("{} read to their end, {} refused", ends[0], ends[1]);
    assert!(ends.iter().all(|count| *count > 1000));
}

#[test]
fn random_bytes_are_not_a_capture() {
    let mut rng = Rng(7);
    for len in 0..300 {
        let bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
        let (records, end) = decode(&bytes, None);
        assert!(matches!(end, Err(CaptureError::NotACapture)), "{len}");
        assert!(records.is_empty());
    }
}

#[test]
fn pcapng_decodes_like_pcap_whatever_its_byte_order_and_resolution() {
    for capture in some_of_each() {
        let (expected, end) = decode(&capture.pcap, None);
        end.unwrap();
        assert!(!expected.is_empty());
        for order in [Endianness::Big, Endianness::Little] {
            for resolution in [None, Some(9), Some(6)] {
                let (records, end) = decode(&as_pcapng(&capture.pcap, resolution, order), None);
                end.unwrap();
                assert_eq!(records, expected, "{} {resolution:?}", capture.name);
            }
        }
    }
}

#[test]
fn either_byte_order_and_resolution_of_pcap_decodes_alike() {
    for capture in some_of_each() {
        let (expected, _) = decode(&capture.pcap, None);
        for endianness in [Endianness::Big, Endianness::Little] {
            for ts_resolution in [TsResolution::MicroSecond, TsResolution::NanoSecond] {
                let header = PcapHeader {
                    endianness,
                    ts_resolution,
                    ..PcapHeader::default()
                };
                let (records, end) = decode(&rewritten(&capture.pcap, header, usize::MAX), None);
                end.unwrap();
                assert_eq!(records, expected);
            }
        }
    }
}

/// As `tcpdump -s 60` makes them; the header's snapshot length is then less than a frame was.
#[test]
fn frames_cut_by_their_capture_are_shown_and_said_to_be() {
    let capture = captures::sync()
        .into_iter()
        .find(|capture| capture.name == "v1_tcp_nat_rr_fin");
    let header = PcapHeader {
        snaplen: 60,
        ..PcapHeader::default()
    };
    let (records, end) = decode(&rewritten(&capture.unwrap().pcap, header, 60), None);
    end.unwrap();
    assert_eq!(records.len(), 2);
    for record in records {
        let Record::Sync(sync) = record else {
            panic!("{record}")
        };
        assert_eq!(
            (sync.version, sync.syncid, sync.entries.len()),
            (Some(1), Some(2), 0)
        );
        assert_eq!(captures::json(&Record::Sync(sync))["verdict"], "truncated");
    }
}

#[test]
fn frames_that_are_not_of_ethernet_are_refused_by_their_name() {
    for (link, name) in [(DataLink::LINUX_SLL2, "LINUX_SLL2"), (DataLink::RAW, "RAW")] {
        let header = PcapHeader {
            datalink: link,
            ..PcapHeader::default()
        };
        let (_, end) = decode(
            &rewritten(&captures::sync()[0].pcap, header, usize::MAX),
            None,
        );
        assert!(matches!(end, Err(CaptureError::LinkType(found)) if found == name));
    }
}

/// Both directories, in small numbers: these tests are quadratic.
fn some_of_each() -> Vec<Recorded> {
    let wanted = [
        "m_ipv6_mcast",
        "v0_persist",
        "v1_sip_pe_ops",
        "v1_tcp_nat_rr_fin",
        "v2-ah-pair",
        "v3-v4-garp",
        "v3-v6",
    ];
    let all = captures::sync().into_iter().chain(captures::vrrp());
    let chosen: Vec<Recorded> = all
        .filter(|capture| wanted.contains(&&*capture.name))
        .collect();
    assert_eq!(chosen.len(), wanted.len());
    chosen
}

/// Where each frame of a pcap file in little endian ends.
fn frame_ends(pcap: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = FILE_HEADER_LEN;
    while at < pcap.len() {
        let length = u32::from_le_bytes(pcap[at + 8..at + 12].try_into().unwrap());
        at += 16 + length as usize;
        ends.push(at);
    }
    ends
}

fn packets(pcap: &[u8]) -> Vec<PcapPacket<'static>> {
    let mut reader = PcapReader::new(Cursor::new(pcap)).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        packets.push(packet.unwrap().into_owned());
    }
    packets
}

/// The frames again, under another header and none longer than `snap_len`.
fn rewritten(pcap: &[u8], header: PcapHeader, snap_len: usize) -> Vec<u8> {
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for packet in packets(pcap) {
        let kept = packet.data.len().min(snap_len);
        let raw = pcap_file::pcap::RawPcapPacket {
            ts_sec: packet.timestamp.as_secs().try_into().unwrap(),
            ts_frac: match header.ts_resolution {
                TsResolution::MicroSecond => packet.timestamp.subsec_micros(),
                TsResolution::NanoSecond => packet.timestamp.subsec_nanos(),
            },
            incl_len: kept.try_into().unwrap(),
            orig_len: packet.orig_len,
            data: packet.data[..kept].into(),
        };
        writer.write_raw_packet(&raw).unwrap();
    }
    writer.into_writer()
}

/// The frames as pcapng, with times of a resolution the interface names, or not.
fn as_pcapng(pcap: &[u8], resolution: Option<u8>, order: Endianness) -> Vec<u8> {
    let mut writer = PcapNgWriter::with_endianness(Vec::new(), order).unwrap();
    let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
    interface
        .options
        .extend(resolution.map(InterfaceDescriptionOption::IfTsResol));
    writer.write_block(&interface.into_block()).unwrap();
    for packet in packets(pcap) {
        // The library writes nanoseconds, always.
        let timestamp = match resolution {
            Some(9) => packet.timestamp,
            _ => Duration::from_nanos(packet.timestamp.as_micros().try_into().unwrap()),
        };
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp,
            original_len: packet.orig_len,
            data: packet.data,
            options: Vec::new(),
        };
        writer.write_block(&block.into_block()).unwrap();
    }
    writer.into_inner()
}

/// xorshift64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<'t, T>(&mut self, from: &'t [T]) -> &'t T {
        &from[self.below(from.len())]
    }
}
