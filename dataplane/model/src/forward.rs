//! Forwarding methods.

/// How packets of a connection reach its real server; the number is `IP_VS_CONN_F_FWD_MASK` of
/// the connection's flags and `fwd_method` of the netlink interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
#[repr(u8)]
pub enum ForwardMethod {
    Masquerading = 0,
    LocalNode = 1,
    Tunnelling = 2,
    DirectRouting = 3,
    Bypass = 4,
}

impl ForwardMethod {
    pub const fn from_number(number: u8) -> Option<ForwardMethod> {
        match number {
            0 => Some(ForwardMethod::Masquerading),
            1 => Some(ForwardMethod::LocalNode),
            2 => Some(ForwardMethod::Tunnelling),
            3 => Some(ForwardMethod::DirectRouting),
            4 => Some(ForwardMethod::Bypass),
            _ => None,
        }
    }

    /// Name in listings; the kernel shows a bypass as `Masq`.
    pub const fn name(self) -> &'static str {
        match self {
            ForwardMethod::Masquerading | ForwardMethod::Bypass => "Masq",
            ForwardMethod::LocalNode => "Local",
            ForwardMethod::Tunnelling => "Tunnel",
            ForwardMethod::DirectRouting => "Route",
        }
    }
}
