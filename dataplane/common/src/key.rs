//! Keys of the flow tables.

/// A 32-bit number in network byte order, as it stands in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Be32(pub u32);

impl Be32 {
    pub const fn from_host(value: u32) -> Be32 {
        Be32(value.to_be())
    }

    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// A 16-bit number in network byte order, as it stands in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Be16(pub u16);

impl Be16 {
    pub const fn from_host(value: u16) -> Be16 {
        Be16(value.to_be())
    }

    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// Key of the IPv4 flow table: a packet's addresses as it carries them.
///
/// A connection is found by client → virtual service, and, when it is masqueraded, also by real
/// server → client. Both keys are in one table, so a packet of either direction costs one lookup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey4 {
    pub src: Be32,
    pub dst: Be32,
    pub sport: Be16,
    pub dport: Be16,
    /// IP protocol number; 0 in a template of a fwmark service, whose `dst` is the mark.
    pub protocol: u8,
    /// [`FlowKey4::KIND_FLOW`] or [`FlowKey4::KIND_TEMPLATE`].
    pub kind: u8,
    pub reserved: u16,
}

impl FlowKey4 {
    pub const KIND_FLOW: u8 = 0;
    pub const KIND_TEMPLATE: u8 = 1;

    pub const fn flow(src: Be32, sport: Be16, dst: Be32, dport: Be16, protocol: u8) -> FlowKey4 {
        FlowKey4 {
            src,
            dst,
            sport,
            dport,
            protocol,
            kind: Self::KIND_FLOW,
            reserved: 0,
        }
    }
}

/// Value of a flow table: where the connection is, and which incarnation of that place is meant.
///
/// | bits of `tag` | meaning |
/// | --- | --- |
/// | 0..20 | generation the entry's word must show |
/// | 31 | the key is the way back (real server → client) |
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowRef {
    pub index: u32,
    pub tag: u32,
}

impl FlowRef {
    pub const REPLY: u32 = 1 << 31;

    pub const fn new(index: u32, generation: u32, reply: bool) -> FlowRef {
        FlowRef {
            index,
            tag: generation | if reply { Self::REPLY } else { 0 },
        }
    }

    pub const fn generation(self) -> u32 {
        self.tag & !Self::REPLY
    }

    pub const fn is_reply(self) -> bool {
        self.tag & Self::REPLY != 0
    }
}

const _: () = {
    assert!(size_of::<FlowKey4>() == 16);
    assert!(size_of::<FlowRef>() == 8);
};
