//! What few connections have beside the rest, in a side map that user space alone reads and writes.

/// `conn_flags` of an entry that has a record here; never on the wire.
pub const HAS_EXTRA: u16 = 0x4000;
/// Records there can be; their memory is taken when they are made.
pub const EXTRAS_MAX: u32 = 1 << 16;

/// Key of the map `EXTRAS`: a place in a connection table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtraKey {
    /// 2 or 10 (`AF_INET`, `AF_INET6`): which table.
    pub family: u32,
    pub index: u32,
}

/// Value of the map `EXTRAS`.
///
/// | offset | bytes | field |
/// | --- | --- | --- |
/// | 0 | 4 | generation of the place; a record of another one is left over |
/// | 4 | 1 | 1 when there are sequence records |
/// | 5 | 1 | length of the engine's name, 0 to 16 |
/// | 6 | 1 | length of its data, 0 to 255 |
/// | 8 | 24 | sequence records: initial number, delta, previous delta towards the server, then towards the client |
/// | 32 | 16 | name of the persistence engine |
/// | 48 | 256 | its data |
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtraRecord {
    pub generation: u32,
    pub has_seq: u8,
    pub pe_name_len: u8,
    pub pe_data_len: u8,
    pub reserved: u8,
    pub seq: [u32; 6],
    pub pe_name: [u8; 16],
    pub pe_data: [u8; 256],
}

const _: () = assert!(size_of::<ExtraRecord>() == 304);
