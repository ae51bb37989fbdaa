//! Bytes to connections and back, exact in both directions.
//!
//! Reading never panics, never allocates for a connection without engine data, and looks at each
//! byte a fixed number of times. Writing covers every byte it claims. Three places where a kernel
//! receiver looks away are open for extensions; what is found there is reported and has no effect:
//!
//! * a message whose byte 0 is 0 and that is not version 1: [`Message::Foreign`];
//! * bytes after the last counted entry: [`Walk::trailing`];
//! * options that may be ignored: [`Entry::ignored`].
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod cursor;
mod options;
mod v0;
mod v1;

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::buffer::Layout;
use crate::conn::{Addresses, Ends, Pe, SeqPair, SyncConn};
use crate::flags;
use crate::limits;
use crate::refusal::Refusal;
use crate::states;
use cursor::Cursor;
pub use options::Ignored;

/// Version of a message. Kernel name: `sync_version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    V0,
    #[default]
    V1,
}

/// Byte order of the sequence block in version 0, which is the sender's own and said nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeqOrder {
    Big,
    Little,
}

impl SeqOrder {
    /// The order of this host, which a kernel takes its peers to have.
    pub const HOST: SeqOrder = if cfg!(target_endian = "big") {
        SeqOrder::Big
    } else {
        SeqOrder::Little
    };
}

impl Default for SeqOrder {
    fn default() -> Self {
        SeqOrder::HOST
    }
}

/// What a header is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    V0 {
        count: u8,
    },
    V1 {
        count: u8,
    },
    /// Byte 0 is 0, as of a version 1 message, but the rest is not: a kernel takes it for a
    /// version 0 message without entries. Only messages of eight bytes and more are among them.
    Foreign {
        version: u8,
        spare: u16,
    },
}

/// A header, read before anything is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub sync_id: u8,
    /// What the message says its length is. Unit: bytes.
    pub size: u16,
    pub format: Format,
}

impl Header {
    /// `None` when there are fewer than four bytes.
    pub fn read(message: &[u8]) -> Option<Header> {
        let [count, sync_id, size @ ..] = *message.first_chunk::<{ limits::v0::HEADER_LEN }>()?;
        let format = match message.first_chunk::<{ limits::v1::HEADER_LEN }>() {
            Some(&[0, _, _, _, count, limits::VERSION_BYTE, 0, 0]) => Format::V1 { count },
            Some(&[0, _, _, _, _, version, spare @ ..]) => Format::Foreign {
                version,
                spare: u16::from_be_bytes(spare),
            },
            _ => Format::V0 { count },
        };
        Some(Header {
            sync_id,
            size: u16::from_be_bytes(size),
            format,
        })
    }
}

/// What a receiver accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkConfig {
    /// 0 accepts every sync id.
    pub sync_id: u8,
    pub seq_order: SeqOrder,
    /// Whether IPv6 connections are kept.
    pub ipv6: bool,
    /// The persistence engines there are.
    pub engines: &'static [&'static str],
}

impl Default for WalkConfig {
    /// Everything the protocol can say.
    fn default() -> Self {
        WalkConfig {
            sync_id: limits::ANY_SYNC_ID as u8,
            seq_order: SeqOrder::HOST,
            ipv6: true,
            engines: &["sip"],
        }
    }
}

/// A message whose header was accepted.
#[derive(Clone, Debug)]
pub enum Message<'a> {
    Entries(Walk<'a>),
    /// The whole of a message that is neither version, header included.
    Foreign(&'a [u8]),
}

/// One entry, whether it is accepted or not.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub protocol: u8,
    pub addresses: Addresses,
    /// As on the wire.
    pub flags: u32,
    pub state: u16,
    /// 0 in version 0.
    pub fwmark: u32,
    /// 0 in version 0.
    pub timeout_secs: u32,
    pub seq: Option<SeqPair>,
    pub pe_name: Option<&'a [u8]>,
    pub pe_data: Option<&'a [u8]>,
    pub ignored: Ignored<'a>,
    /// Why a receiver skips the entry, if it does.
    pub verdict: Result<(), Refusal>,
}

impl<'a> Entry<'a> {
    /// To be read into.
    pub(crate) const BLANK: Entry<'static> = {
        let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        Entry {
            protocol: 0,
            addresses: Addresses::V4(Ends {
                client: nowhere,
                virt: nowhere,
                dest: nowhere,
            }),
            flags: 0,
            state: 0,
            fwmark: 0,
            timeout_secs: 0,
            seq: None,
            pe_name: None,
            pe_data: None,
            ignored: Ignored::NONE,
            verdict: Ok(()),
        }
    };

    /// What options say, and the verdict, as they are without options.
    #[inline]
    fn forget_options(&mut self) {
        self.seq = None;
        self.pe_name = None;
        self.pe_data = None;
        self.ignored = Ignored::NONE;
        self.verdict = Ok(());
    }

    /// The connection.
    ///
    /// Allocates when there is engine data, and only then. A name without data means nothing.
    ///
    /// # Errors
    /// The verdict, when it is a refusal.
    #[inline]
    pub fn conn(&self) -> Result<SyncConn, Refusal> {
        self.verdict?;
        let pe = match (self.pe_name, self.pe_data) {
            (Some(name), Some(data)) => Pe::new(before_zero(name), data).map(Box::new),
            _ => None,
        };
        Ok(SyncConn {
            protocol: self.protocol,
            addresses: self.addresses,
            flags: self.flags,
            state: states::check(self.protocol, self.flags, self.state)?,
            fwmark: self.fwmark,
            timeout_secs: self.timeout_secs,
            seq: self.seq,
            pe,
        })
    }

    /// The checks that cost an entry and not its message, in the kernel's order.
    #[inline]
    fn judge(&self, config: &WalkConfig) -> Result<(), Refusal> {
        self.verdict?;
        if flags::forbidden(self.flags) {
            return Err(Refusal::Flags);
        }
        states::check(self.protocol, self.flags, self.state)?;
        if self.pe_data.is_some() {
            let name = self.pe_name.ok_or(Refusal::PeNameMissing)?;
            let mut engines = config.engines.iter();
            if !engines.any(|engine| engine.as_bytes() == before_zero(name)) {
                return Err(Refusal::PeEngine);
            }
        }
        if self.addresses.is_ipv6() && !config.ipv6 {
            return Err(Refusal::Ipv6);
        }
        Ok(())
    }
}

/// The kernel compares names as C strings: one with a zero in it ends there.
fn before_zero(name: &[u8]) -> &[u8] {
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Opens a message: checks its header and leaves its entries to the iterator.
///
/// # Errors
/// The refusals of [`crate::refusal::Consequence::Message`].
pub fn walk<'a>(message: &'a [u8], config: &WalkConfig) -> Result<Message<'a>, Refusal> {
    let header = Header::read(message).ok_or(Refusal::MessageShort)?;
    if message.len() != usize::from(header.size) {
        return Err(Refusal::MessageSize);
    }
    if config.sync_id != 0 && header.sync_id != config.sync_id {
        return Err(Refusal::MessageSyncId);
    }
    let (version, count, header_len) = match header.format {
        Format::V0 { count } => (Version::V0, count, limits::v0::HEADER_LEN),
        Format::V1 { count } => (Version::V1, count, limits::v1::HEADER_LEN),
        Format::Foreign { .. } => return Ok(Message::Foreign(message)),
    };
    let entries = message.get(header_len..).unwrap_or_default();
    Ok(Message::Entries(Walk {
        version,
        left: count,
        cursor: Cursor::new(entries),
        stopped: false,
        config: *config,
    }))
}

/// The entries of a message: each with its verdict, or the refusal that ends the walk.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    version: Version,
    left: u8,
    cursor: Cursor<'a>,
    stopped: bool,
    config: WalkConfig,
}

impl<'a> Walk<'a> {
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Bytes after the last counted entry and its padding, once all entries have been walked;
    /// `None` before that, and for ever when the walk was stopped.
    pub const fn trailing(&self) -> Option<&'a [u8]> {
        if self.left == 0 && !self.stopped {
            Some(self.cursor.rest())
        } else {
            None
        }
    }
}

impl<'a> Walk<'a> {
    /// As [`Iterator::next`], into an entry that is used again and again: moving entries about would
    /// cost more than reading them.
    #[inline]
    pub(crate) fn next_into(&mut self, entry: &mut Entry<'a>) -> Option<Result<(), Refusal>> {
        if self.stopped {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let read = match self.version {
            Version::V0 => v0::read(&mut self.cursor, self.config.seq_order, entry),
            Version::V1 => v1::read(&mut self.cursor, entry),
        };
        match read {
            Ok(()) => entry.verdict = entry.judge(&self.config),
            Err(_) => self.stopped = true,
        }
        Some(read)
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Entry<'a>, Refusal>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let mut entry = Entry::BLANK;
        let read = self.next_into(&mut entry)?;
        Some(read.map(|()| entry))
    }
}

/// Bytes that a connection takes in a message, without padding; `None` when the version cannot
/// carry it: version 0 has no IPv6.
#[inline]
pub(crate) fn entry_len(version: Version, conn: &SyncConn) -> Option<usize> {
    match version {
        Version::V0 => v0::len(conn),
        Version::V1 => Some(v1::len(conn)),
    }
}

/// Appends a connection that takes `length` bytes, see [`entry_len`]; nothing when the version
/// cannot carry it.
pub(crate) fn write_entry(layout: &Layout, conn: &SyncConn, length: usize, out: &mut Vec<u8>) {
    match (layout.version, &conn.addresses) {
        (Version::V0, Addresses::V4(ends)) => v0::write(conn, ends, layout.seq_order, out),
        (Version::V0, Addresses::V6(_)) => {}
        (Version::V1, _) => v1::write(conn, length, out),
    }
}

/// Begins a message of ours: a header that counts nothing yet.
///
/// ```text
///  version 0: count, sync id, size (2)
///  version 1: 0, sync id, size (2), count, 1, spare (2)
/// ```
pub(crate) fn write_header(version: Version, sync_id: u8, out: &mut Vec<u8>) {
    match version {
        Version::V0 => out.extend_from_slice(&[0, sync_id, 0, 0]),
        Version::V1 => {
            out.extend_from_slice(&[0, sync_id, 0, 0, 0, limits::VERSION_BYTE, 0, 0]);
        }
    }
}

/// Fills in what changes with every entry of a message begun by [`write_header`].
#[inline]
pub(crate) fn set_header(version: Version, size: u16, count: u8, message: &mut [u8]) {
    let [high, low] = size.to_be_bytes();
    match version {
        Version::V0 => {
            if let Some(header) = message.first_chunk_mut::<{ limits::v0::HEADER_LEN }>() {
                let [_, sync_id, ..] = *header;
                *header = [count, sync_id, high, low];
            }
        }
        Version::V1 => {
            if let Some([_, _, size @ .., counted]) = message.first_chunk_mut::<5>() {
                *size = [high, low];
                *counted = count;
            }
        }
    }
}
