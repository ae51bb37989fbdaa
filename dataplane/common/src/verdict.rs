//! The one list of what can become of a packet, shared with status and metrics.

/// What the program does with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Left to the next program or the stack, untouched.
    Pass,
    /// Sent on by the director.
    Forward,
    /// Dropped, and counted by reason.
    Drop,
}

macro_rules! verdicts {
    ($($(#[$meta:meta])* $variant:ident = $number:literal, $action:ident, $name:literal;)*) => {
        /// What became of a packet. The number is its place in the map `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Verdict { $($(#[$meta])* $variant = $number,)* }

        impl Verdict {
            pub const ALL: &'static [Verdict] = &[$(Verdict::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            pub const fn name(self) -> &'static str {
                match self { $(Verdict::$variant => $name,)* }
            }

            pub const fn action(self) -> Action {
                match self { $(Verdict::$variant => Action::$action,)* }
            }
        }
    };
}

verdicts! {
    /// Not addressed to this host at link level, or tagged for a VLAN device.
    NotHost = 0, Pass, "pass_not_host";
    /// Neither IP nor ARP.
    NotIp = 1, Pass, "pass_not_ip";
    /// A protocol that has no services, ICMP included.
    OtherProtocol = 2, Pass, "pass_other_protocol";
    /// No virtual service has that address and port.
    NoService = 3, Pass, "pass_no_service";
    /// A TCP packet of no connection that may not start one.
    NoConnection = 4, Pass, "pass_no_connection";
    /// Port 20: active FTP data is never scheduled.
    SourcePort20 = 5, Pass, "pass_source_port_20";
    /// Service traffic on a node that does not direct, for an address of this host.
    Standby = 6, Pass, "pass_standby";
    /// The real server is this host.
    LocalServer = 7, Pass, "pass_local_server";
    /// A reply whose TTL ends here; the stack sends the error.
    ReplyTtl = 8, Pass, "pass_reply_ttl";
    /// ARP while directing, or ARP that is not for a virtual address.
    Arp = 9, Pass, "pass_arp";
    /// An IP header that cannot be right; the stack counts it.
    BadHeader = 10, Pass, "pass_bad_header";
    /// A fragment that is not addressed to a virtual address.
    OtherFragment = 11, Pass, "pass_fragment";
    /// Sent to a real server with a new destination.
    Masqueraded = 12, Forward, "forward_masquerading";
    /// Sent to a real server as it was.
    Direct = 13, Forward, "forward_direct_routing";
    /// Sent to a client with the virtual address as its source.
    Reply = 14, Forward, "forward_reply";
    /// No usable server; port unreachable was sent.
    NoServer = 15, Drop, "drop_no_server";
    /// TTL ended at the director; time exceeded was sent.
    TtlExceeded = 16, Drop, "drop_ttl_exceeded";
    /// An ICMP error was due and not sent: too many of late, or it could not be made.
    IcmpSuppressed = 17, Drop, "drop_icmp_suppressed";
    /// The connection's real server was removed.
    ServerGone = 18, Drop, "drop_server_gone";
    /// The lease has lapsed: service traffic stops here.
    LeaseLapsed = 19, Drop, "drop_lease_lapsed";
    /// The lease has lapsed: an ARP request for a virtual address gets no answer.
    LeaseLapsedArp = 20, Drop, "drop_lease_lapsed_arp";
    /// Service traffic for a virtual address that is not on this host; routing it would send it
    /// back onto the LAN.
    VipNotLocal = 21, Drop, "drop_vip_not_local";
    /// A fragment addressed to a virtual address.
    Fragment = 22, Drop, "drop_fragment";
    /// No place for a new connection.
    TableFull = 23, Drop, "drop_table_full";
    /// Another processor is making the connection at this moment.
    Busy = 24, Drop, "drop_busy";
    /// A truncated transport header, addressed to a virtual address.
    TooShort = 25, Drop, "drop_too_short";
    /// No route to the real server.
    NoServerRoute = 26, Drop, "drop_no_server_route";
    /// No route to the client.
    NoClientRoute = 27, Drop, "drop_no_client_route";
    /// The new connection's way back belongs to another connection.
    ReplyCollision = 28, Drop, "drop_reply_collision";
    /// The packet could not be rewritten or sent.
    Failed = 29, Drop, "drop_failed";
    /// A map that must be there is not.
    Internal = 30, Drop, "drop_internal";
    /// A new connection from an address no client can have, or from one of this host's own.
    MartianSource = 31, Drop, "drop_martian_source";
    /// Sent to its own destination, because no real server could be had (`cache_bypass`).
    Bypassed = 32, Forward, "forward_bypass";
    /// The lease has lapsed: a neighbour solicitation for a virtual address gets no answer.
    LeaseLapsedNdp = 33, Drop, "drop_lease_lapsed_ndp";
    /// Another port than 21 of an FTP service without persistence.
    FtpPort = 34, Pass, "pass_ftp_port";
    /// A service on port zero that is not persistent takes nothing; port unreachable was sent.
    PortZero = 35, Drop, "drop_port_zero";
    /// More IPv6 extension headers than are looked at, in a packet for a virtual address.
    ExtensionHeaders = 36, Drop, "drop_extension_headers";
    /// No service traffic, for a virtual address that takes nothing else (`accept = false`).
    NotAccepted = 37, Drop, "drop_not_accepted";
    /// A packet of a connection that is not known here, just after this node took the role: the node
    /// before it may be telling of the connection at this moment. Its sender sends it again.
    NotYetKnown = 38, Drop, "drop_not_yet_known";
}

/// Events that are counted beside verdicts, after them in `COUNTERS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// A compare-and-swap was tried again.
    SwapRetry = 64,
    /// A compare-and-swap was given up after its bound.
    SwapGivenUp = 65,
    /// An expired entry was freed because its place or its key was needed.
    Reclaimed = 66,
    /// A connection was made.
    Created = 67,
    /// A connection made room for a new one of the same client port.
    Reused = 68,
    /// A place was looked at and found taken when a new connection needed one.
    AllocProbe = 69,
    /// A connection was offered to the backup.
    SyncOffered = 70,
    /// A connection was to be offered, and the ring was full; it is marked and offered later.
    SyncRingFull = 71,
    /// A persistence template was made.
    TemplateCreated = 72,
    /// A persistence template was given up, because its server takes nobody any more.
    TemplateInvalidated = 73,
    /// A timer ended while its entry controlled others; it was given another minute.
    Postponed = 74,
    /// lblc, lblcr: a destination was not remembered for want of room.
    CacheFull = 75,
    /// A message was kept from going out with a virtual router's MAC address.
    HeldBack = 76,
}

impl Event {
    pub const ALL: &'static [Event] = &[
        Event::SwapRetry,
        Event::SwapGivenUp,
        Event::Reclaimed,
        Event::Created,
        Event::Reused,
        Event::AllocProbe,
        Event::SyncOffered,
        Event::SyncRingFull,
        Event::TemplateCreated,
        Event::TemplateInvalidated,
        Event::Postponed,
        Event::CacheFull,
        Event::HeldBack,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Event::SwapRetry => "swap_retry",
            Event::SwapGivenUp => "swap_given_up",
            Event::Reclaimed => "reclaimed",
            Event::Created => "conn_created",
            Event::Reused => "conn_reused",
            Event::AllocProbe => "alloc_probe",
            Event::SyncOffered => "sync_offered",
            Event::SyncRingFull => "sync_ring_full",
            Event::TemplateCreated => "template_created",
            Event::TemplateInvalidated => "template_invalidated",
            Event::Postponed => "expiry_postponed",
            Event::CacheFull => "cache_full",
            Event::HeldBack => "vmac_held_back",
        }
    }
}

/// Elements of the map `COUNTERS`.
pub const COUNTERS: usize = 128;

const _: () = assert!(Verdict::COUNT <= Event::SwapRetry as usize);
