//! Frames of a capture file: pcap in micro- or nanoseconds, either byte order, and pcapng.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::ENHANCED_PACKET_BLOCK;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

/// First block of a pcapng file, the same in either byte order.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Stands for standard input.
const STANDARD_INPUT: &str = "-";
/// Default of `if_tsresol`: microseconds.
const TSRESOL_DEFAULT: u8 = 6;
/// The bit of `if_tsresol` that makes it a power of two.
const TSRESOL_BINARY: u8 = 0x80;
const NANOS_PER_SEC: u128 = 1_000_000_000;

/// Why a capture is not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("not a capture file, neither pcap nor pcapng")]
    NotACapture,
    #[error("frames of link type {0}, only ETHERNET is decoded: capture on one interface")]
    LinkType(String),
    #[error("ends in the middle of frame {0}")]
    CutShort(u64),
    #[error("damaged at frame {frame}: {reason}")]
    Damaged { frame: u64, reason: String },
}

/// A frame and when it was seen.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'f> {
    /// Since the epoch.
    pub at: Duration,
    pub frame: &'f [u8],
}

/// Hands every frame of a capture to `each`, in order.
///
/// # Errors
/// The file cannot be read, is no capture of Ethernet frames, or ends badly; the frames before that
/// were good. Or the error of `each`, at once.
pub fn read<E: From<CaptureError>>(
    path: &Path,
    each: &mut dyn FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let file = || -> Result<Box<dyn Read>, CaptureError> {
        if path.as_os_str() == STANDARD_INPUT {
            return Ok(Box::new(io::stdin()));
        }
        Ok(Box::new(File::open(path)?))
    };
    read_from(file()?, each)
}

/// [`read`], from an open file.
///
/// # Errors
/// See [`read`].
pub fn read_from<E: From<CaptureError>>(
    mut source: Box<dyn Read>,
    each: &mut dyn FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut magic = Vec::new();
    source
        .by_ref()
        .take(PCAPNG_MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .map_err(CaptureError::Read)?;
    let is_pcapng = magic == PCAPNG_MAGIC;
    let whole: Box<dyn Read> = Box::new(Cursor::new(magic).chain(source));
    if is_pcapng {
        let reader = PcapNgReader::new(whole).map_err(not_a_capture)?;
        read_pcapng(reader, each)
    } else {
        let reader = PcapReader::new(whole).map_err(not_a_capture)?;
        check_link(reader.header().datalink)?;
        read_pcap(reader, each)
    }
}

/// The records are taken raw: the checked ones of the library refuse a file whose frames were cut
/// to a snapshot length.
fn read_pcap<E: From<CaptureError>>(
    mut reader: PcapReader<Box<dyn Read>>,
    each: &mut dyn FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let nanos_per_unit = match reader.header().ts_resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    let mut begun = 0u64;
    while let Some(packet) = reader.next_raw_packet() {
        begun = begun.saturating_add(1);
        let packet = packet.map_err(|error| bad_end(error, begun))?;
        let nanos = u64::from(packet.ts_frac).saturating_mul(nanos_per_unit);
        let at = Duration::from_secs(packet.ts_sec.into()) + Duration::from_nanos(nanos);
        each(Captured {
            at,
            frame: &packet.data,
        })?;
    }
    Ok(())
}

/// The library reads the blocks and the interfaces. It takes the time for nanoseconds whatever the
/// interface says, so the block of a frame is read here.
fn read_pcapng<E: From<CaptureError>>(
    mut reader: PcapNgReader<Box<dyn Read>>,
    each: &mut dyn FnMut(Captured<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut begun = 0u64;
    loop {
        let block = match reader.next_raw_block() {
            None => return Ok(()),
            Some(Ok(block)) if block.type_ == ENHANCED_PACKET_BLOCK => block.body.into_owned(),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(bad_end(error, begun.saturating_add(1)).into()),
        };
        begun = begun.saturating_add(1);
        let damaged = |reason: &str| CaptureError::Damaged {
            frame: begun,
            reason: reason.to_owned(),
        };
        let block = PacketBlock::parse(&block, reader.section().endianness)
            .ok_or_else(|| damaged("its block is shorter than it says"))?;
        let interface = usize::try_from(block.interface)
            .ok()
            .and_then(|index| reader.interfaces().get(index))
            .ok_or_else(|| damaged("its interface is not described"))?;
        check_link(interface.linktype)?;
        let at = time_of(block.units, resolution_of(interface));
        each(Captured {
            at,
            frame: block.frame,
        })?;
    }
}

/// Body of an enhanced packet block, options left out.
///
/// ```text
/// 0           4           8           12          16          20
/// | interface | time, high| time, low | captured  | original  | frame ...
/// ```
struct PacketBlock<'b> {
    interface: u32,
    /// In units of the interface.
    units: u64,
    frame: &'b [u8],
}

impl PacketBlock<'_> {
    fn parse(body: &[u8], order: Endianness) -> Option<PacketBlock<'_>> {
        let word = |bytes: [u8; 4]| match order {
            Endianness::Big => u32::from_be_bytes(bytes),
            Endianness::Little => u32::from_le_bytes(bytes),
        };
        let (interface, rest) = body.split_first_chunk()?;
        let (high, rest) = rest.split_first_chunk()?;
        let (low, rest) = rest.split_first_chunk()?;
        let (captured, rest) = rest.split_first_chunk()?;
        let (_original, rest): (&[u8; 4], _) = rest.split_first_chunk()?;
        let captured = usize::try_from(word(*captured)).ok()?;
        Some(PacketBlock {
            interface: word(*interface),
            units: u64::from(word(*high)) << 32 | u64::from(word(*low)),
            frame: rest.get(..captured)?,
        })
    }
}

/// The option `if_tsresol` of an interface.
fn resolution_of(interface: &InterfaceDescriptionBlock<'_>) -> u8 {
    let mut resolution = TSRESOL_DEFAULT;
    for option in &interface.options {
        if let InterfaceDescriptionOption::IfTsResol(value) = option {
            resolution = *value;
        }
    }
    resolution
}

/// A time in units of `10^-n` or, with the high bit, `2^-n` seconds; cut to nanoseconds.
fn time_of(units: u64, resolution: u8) -> Duration {
    let exponent = u32::from(resolution & !TSRESOL_BINARY);
    let base: u128 = if resolution & TSRESOL_BINARY == 0 {
        10
    } else {
        2
    };
    // A unit too small to be told from nothing.
    let Some(units_per_sec) = base.checked_pow(exponent) else {
        return Duration::ZERO;
    };
    let nanos = u128::from(units)
        .saturating_mul(NANOS_PER_SEC)
        .checked_div(units_per_sec)
        .unwrap_or_default();
    let secs = nanos / NANOS_PER_SEC;
    let subsec = nanos % NANOS_PER_SEC;
    match (u64::try_from(secs), u32::try_from(subsec)) {
        (Ok(secs), Ok(subsec)) => Duration::new(secs, subsec),
        _ => Duration::MAX,
    }
}

fn check_link(link: DataLink) -> Result<(), CaptureError> {
    if link == DataLink::ETHERNET {
        Ok(())
    } else {
        Err(CaptureError::LinkType(format!("{link:?}")))
    }
}

fn not_a_capture(error: PcapError) -> CaptureError {
    if let PcapError::IoError(error) = error
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        CaptureError::Read(error)
    } else {
        CaptureError::NotACapture
    }
}

fn bad_end(error: PcapError, frame: u64) -> CaptureError {
    match error {
        PcapError::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            CaptureError::CutShort(frame)
        }
        PcapError::IoError(error) => CaptureError::Read(error),
        PcapError::IncompleteBuffer
        | PcapError::InvalidField(_)
        | PcapError::Utf8Error(_)
        | PcapError::FromUtf8Error(_)
        | PcapError::InvalidInterfaceId(_) => CaptureError::Damaged {
            frame,
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_pcapng_have_the_resolution_of_their_interface() {
        let nanos = |nanos| Duration::from_nanos(nanos);
        assert_eq!(time_of(1_500_000, 6), nanos(1_500_000_000));
        assert_eq!(time_of(1_500_000_001, 9), nanos(1_500_000_001));
        assert_eq!(time_of(3, TSRESOL_BINARY | 1), nanos(1_500_000_000));
        assert_eq!(time_of(7, 0), Duration::from_secs(7));
        for extreme in [0x7f, 0xff, 38, 39] {
            assert_eq!(time_of(1, extreme), Duration::ZERO);
        }
        assert_eq!(time_of(u64::MAX, 0), Duration::from_secs(u64::MAX));
    }
}
