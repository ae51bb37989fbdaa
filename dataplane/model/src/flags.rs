//! Flag words with the kernel's values (`include/uapi/linux/ip_vs.h`).

/// Flags of a connection as they travel in sync messages (`IP_VS_CONN_F_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct ConnFlags(pub u32);

impl ConnFlags {
    pub const FWD_MASK: u32 = 0x7;
    /// Created or refreshed by synchronisation.
    pub const SYNC: u32 = 0x20;
    pub const HASHED: u32 = 0x40;
    /// No reply has been seen; the INPUT-ONLY state table applies.
    pub const NOOUTPUT: u32 = 0x80;
    pub const INACTIVE: u32 = 0x100;
    pub const OUT_SEQ: u32 = 0x200;
    pub const IN_SEQ: u32 = 0x400;
    pub const NO_CPORT: u32 = 0x800;
    pub const TEMPLATE: u32 = 0x1000;
    pub const ONE_PACKET: u32 = 0x2000;
    pub const NFCT: u32 = 0x10000;

    pub const fn contains(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Flags of a virtual service (`IP_VS_SVC_F_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct ServiceFlags(pub u32);

impl ServiceFlags {
    pub const PERSISTENT: u32 = 0x1;
    pub const HASHED: u32 = 0x2;
    pub const ONEPACKET: u32 = 0x4;
    pub const SCHED1: u32 = 0x8;
    pub const SCHED2: u32 = 0x10;
    pub const SCHED3: u32 = 0x20;

    pub const fn contains(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}
