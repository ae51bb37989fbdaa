//! Connection states and their names. The transition rules are in `dataplane-common`.

/// TCP connection state (`IP_VS_TCP_S_*`); the number is the one sync messages carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TcpState {
    None = 0,
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait = 4,
    TimeWait = 5,
    Close = 6,
    CloseWait = 7,
    LastAck = 8,
    Listen = 9,
    SynAck = 10,
}

impl TcpState {
    pub const COUNT: usize = 11;
    pub const ALL: [TcpState; Self::COUNT] = [
        TcpState::None,
        TcpState::Established,
        TcpState::SynSent,
        TcpState::SynRecv,
        TcpState::FinWait,
        TcpState::TimeWait,
        TcpState::Close,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Listen,
        TcpState::SynAck,
    ];

    pub const fn from_number(number: u8) -> Option<TcpState> {
        if (number as usize) < Self::COUNT {
            Some(Self::ALL[number as usize])
        } else {
            None
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            TcpState::None => "NONE",
            TcpState::Established => "ESTABLISHED",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::FinWait => "FIN_WAIT",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Close => "CLOSE",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::Listen => "LISTEN",
            TcpState::SynAck => "SYNACK",
        }
    }

    /// Whether a connection in this state counts as active (`ip_vs_proto_tcp.c: tcp_state_active_table`).
    pub const fn is_active(self) -> bool {
        matches!(
            self,
            TcpState::Established | TcpState::SynSent | TcpState::SynRecv | TcpState::SynAck
        )
    }
}

/// SCTP connection state (`IP_VS_SCTP_S_*`); the number is the one sync messages carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SctpState {
    None = 0,
    /// One INIT seen.
    Init1 = 1,
    Init = 2,
    CookieSent = 3,
    CookieReplied = 4,
    CookieWait = 5,
    Cookie = 6,
    CookieEchoed = 7,
    Established = 8,
    ShutdownSent = 9,
    ShutdownReceived = 10,
    ShutdownAckSent = 11,
    Rejected = 12,
    Closed = 13,
}

impl SctpState {
    pub const COUNT: usize = 14;
    pub const ALL: [SctpState; Self::COUNT] = [
        SctpState::None,
        SctpState::Init1,
        SctpState::Init,
        SctpState::CookieSent,
        SctpState::CookieReplied,
        SctpState::CookieWait,
        SctpState::Cookie,
        SctpState::CookieEchoed,
        SctpState::Established,
        SctpState::ShutdownSent,
        SctpState::ShutdownReceived,
        SctpState::ShutdownAckSent,
        SctpState::Rejected,
        SctpState::Closed,
    ];

    pub const fn from_number(number: u8) -> Option<SctpState> {
        if (number as usize) < Self::COUNT {
            Some(Self::ALL[number as usize])
        } else {
            None
        }
    }

    /// As `/proc/net/ip_vs_conn` shows it (`ip_vs_proto_sctp.c: sctp_state_name_table`).
    pub const fn name(self) -> &'static str {
        match self {
            SctpState::None => "NONE",
            SctpState::Init1 => "INIT1",
            SctpState::Init => "INIT",
            SctpState::CookieSent => "C-SENT",
            SctpState::CookieReplied => "C-REPLIED",
            SctpState::CookieWait => "C-WAIT",
            SctpState::Cookie => "COOKIE",
            SctpState::CookieEchoed => "C-ECHOED",
            SctpState::Established => "ESTABLISHED",
            SctpState::ShutdownSent => "S-SENT",
            SctpState::ShutdownReceived => "S-RECEIVED",
            SctpState::ShutdownAckSent => "S-ACK-SENT",
            SctpState::Rejected => "REJECTED",
            SctpState::Closed => "CLOSED",
        }
    }

    /// Whether a connection in this state counts as active (`ip_vs_proto_sctp.c: set_sctp_state`).
    pub const fn is_active(self) -> bool {
        matches!(self, SctpState::Established)
    }
}

/// Name of a connection's state as `ipvsadm -Lc` and `/proc/net/ip_vs_conn` print it.
pub fn state_name(protocol: u8, template: bool, state: u8) -> &'static str {
    if template {
        return if state == 0 { "NONE" } else { "ASSURED" };
    }
    match protocol {
        6 => match TcpState::from_number(state) {
            Some(state) => state.name(),
            None => "ERR!",
        },
        17 => "UDP",
        132 => match SctpState::from_number(state) {
            Some(state) => state.name(),
            None => "ERR!",
        },
        _ => "NONE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_states_number_leads_back_to_it() {
        for (number, state) in (0..).zip(TcpState::ALL) {
            assert_eq!(
                (number, TcpState::from_number(number)),
                (state as u8, Some(state))
            );
        }
        for (number, state) in (0..).zip(SctpState::ALL) {
            assert_eq!(
                (number, SctpState::from_number(number)),
                (state as u8, Some(state))
            );
        }
        assert_eq!(TcpState::from_number(11), None);
        assert_eq!(SctpState::from_number(14), None);
    }

    #[test]
    fn a_state_is_named_by_its_protocol() {
        assert_eq!(state_name(6, false, 1), "ESTABLISHED");
        assert_eq!(state_name(17, false, 0), "UDP");
        assert_eq!(state_name(132, false, 7), "C-ECHOED");
        assert_eq!(state_name(132, false, 14), "ERR!");
        assert_eq!(state_name(1, false, 0), "NONE");
        assert_eq!(state_name(132, true, 1), "ASSURED");
    }
}
