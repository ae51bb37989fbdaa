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

/// An IPv6 address as it stands in a packet.
pub type Addr6 = [Be32; 4];

/// An IP address as it stands in a packet, of one family: what the layouts of both families differ
/// in.
pub trait Address: Copy + Eq + Default + core::fmt::Debug + core::hash::Hash + 'static {
    /// Fills the layouts up to a multiple of eight bytes.
    type Align: Copy + Eq + Default + core::fmt::Debug + core::hash::Hash;
    /// Room for later in a connection entry.
    type Reserved: Copy + Default + core::fmt::Debug;
    /// 2 or 10 (`AF_INET`, `AF_INET6`).
    const FAMILY: u8;

    /// As records for both families hold it: IPv4 in the first word.
    fn to_words(self) -> Addr6;

    fn from_words(words: Addr6) -> Self;
}

impl Address for Be32 {
    type Align = [u32; 0];
    type Reserved = [u64; 5];
    const FAMILY: u8 = 2;

    #[inline(always)]
    fn to_words(self) -> Addr6 {
        [self, Be32(0), Be32(0), Be32(0)]
    }

    #[inline(always)]
    fn from_words(words: Addr6) -> Be32 {
        words[0]
    }
}

impl Address for Addr6 {
    type Align = [u32; 1];
    type Reserved = [u64; 8];
    const FAMILY: u8 = 10;

    #[inline(always)]
    fn to_words(self) -> Addr6 {
        self
    }

    #[inline(always)]
    fn from_words(words: Addr6) -> Addr6 {
        words
    }
}

/// Key of a flow table: a packet's addresses as it carries them.
///
/// A connection is found by client → virtual service, and, when it is masqueraded, also by real
/// server → client. Both keys are in one table, so a packet of either direction costs one lookup.
/// A template has one key: client network → virtual address, or → firewall mark.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    pub src: A,
    pub dst: A,
    pub sport: Be16,
    pub dport: Be16,
    /// IP protocol number; 0 in a template of a fwmark service, whose `dst` is the mark.
    pub protocol: u8,
    /// [`FlowKey::KIND_FLOW`] or [`FlowKey::KIND_TEMPLATE`].
    pub kind: u8,
    /// Sets a key apart from those that packets ask for; 0 in these. In a template with data of a
    /// persistence engine it is a hash of them: templates of one client differ in nothing else. In a
    /// connection said to have no port of its client, but with one, it is [`FlowKey4::PORT_UNSURE`].
    pub apart: u16,
}

pub type FlowKey4 = FlowKey<Be32>;
pub type FlowKey6 = FlowKey<Addr6>;

impl FlowKey4 {
    pub const KIND_FLOW: u8 = 0;
    pub const KIND_TEMPLATE: u8 = 1;
    /// See [`FlowKey::apart`].
    pub const PORT_UNSURE: u16 = 1;
}

impl<A> FlowKey<A> {
    pub const fn flow(src: A, sport: Be16, dst: A, dport: Be16, protocol: u8) -> FlowKey<A> {
        FlowKey {
            src,
            dst,
            sport,
            dport,
            protocol,
            kind: FlowKey4::KIND_FLOW,
            apart: 0,
        }
    }

    /// The key of a template; `client` is the masked network, its port is 0.
    pub const fn template(client: A, dst: A, dport: Be16, protocol: u8) -> FlowKey<A> {
        FlowKey {
            src: client,
            dst,
            sport: Be16(0),
            dport,
            protocol,
            kind: FlowKey4::KIND_TEMPLATE,
            apart: 0,
        }
    }

    pub const fn is_template(&self) -> bool {
        self.kind == FlowKey4::KIND_TEMPLATE
    }
}

impl<A: Address> FlowKey<A> {
    /// As records for both families hold it.
    #[inline(always)]
    pub fn to_words(self) -> FlowKey6 {
        FlowKey {
            src: self.src.to_words(),
            dst: self.dst.to_words(),
            sport: self.sport,
            dport: self.dport,
            protocol: self.protocol,
            kind: self.kind,
            apart: self.apart,
        }
    }

    #[inline(always)]
    pub fn from_words(key: FlowKey6) -> FlowKey<A> {
        FlowKey {
            src: A::from_words(key.src),
            dst: A::from_words(key.dst),
            sport: key.sport,
            dport: key.dport,
            protocol: key.protocol,
            kind: key.kind,
            apart: key.apart,
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
    assert!(size_of::<FlowKey6>() == 40);
    assert!(size_of::<FlowRef>() == 8);
};
