//! Statistics of a service, a server or the whole director: totals and rates.

/// Totals since the last zeroing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct Stats {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets from clients.
    pub in_pkts: u64,
    /// Packets from servers that passed through the director.
    pub out_pkts: u64,
    /// Bytes from clients, counted as IP packet lengths.
    pub in_bytes: u64,
    /// Bytes from servers that passed through the director, counted as IP packet lengths.
    pub out_bytes: u64,
}

impl Stats {
    /// What was counted since `zero` was taken.
    #[must_use]
    pub const fn since(self, zero: Stats) -> Stats {
        Stats {
            conns: self.conns.wrapping_sub(zero.conns),
            in_pkts: self.in_pkts.wrapping_sub(zero.in_pkts),
            out_pkts: self.out_pkts.wrapping_sub(zero.out_pkts),
            in_bytes: self.in_bytes.wrapping_sub(zero.in_bytes),
            out_bytes: self.out_bytes.wrapping_sub(zero.out_bytes),
        }
    }

    #[must_use]
    pub const fn plus(self, other: Stats) -> Stats {
        Stats {
            conns: self.conns.wrapping_add(other.conns),
            in_pkts: self.in_pkts.wrapping_add(other.in_pkts),
            out_pkts: self.out_pkts.wrapping_add(other.out_pkts),
            in_bytes: self.in_bytes.wrapping_add(other.in_bytes),
            out_bytes: self.out_bytes.wrapping_add(other.out_bytes),
        }
    }
}

/// Rates of a service, a server or the whole director, each a second, as they are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct Rates {
    /// Connections scheduled.
    pub cps: u64,
    /// Packets from clients.
    pub pps_in: u64,
    /// Packets from servers.
    pub pps_out: u64,
    /// Bytes from clients.
    pub bps_in: u64,
    /// Bytes from servers.
    pub bps_out: u64,
}
