//! Why an advertisement is not taken.

/// Declares the reasons once: variant, name, counter.
macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why an advertisement is not taken, in the order in which it is looked at.
        ///
        /// The order is that of keepalived 2.2.7, so that counters of both can be compared.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Refusal {
            $($(#[$doc])* $variant,)*
        }

        impl Refusal {
            pub const ALL: &[Refusal] = &[$(Refusal::$variant,)*];

            /// Its stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Refusal::$variant => $name,)* }
            }

            /// The name of the counter of such packets.
            pub const fn counter(self) -> &'static str {
                match self { $(Refusal::$variant => concat!("refused_", $name),)* }
            }
        }
    };
}

refusals! {
    /// The packet did not fit the buffer it was received or captured in.
    Truncated = "truncated",
    /// Not an IP header of the router's family, not a whole packet, or not of this protocol.
    IpHeader = "ip_header",
    /// Shorter than its IP header, its authentication header, and the eight bytes of every
    /// advertisement.
    Short = "short",
    /// Over IPv6, to the group of a router with peers or to one address of a router that uses the
    /// group. Over IPv4 this is [`Refusal::Destination`], which comes later.
    Cast = "cast",
    /// Of a virtual router that is not configured on this interface.
    UnknownVrid = "unknown_vrid",
    /// This router takes no part at the moment.
    NotRunning = "not_running",
    /// An authentication header that is not wanted, is missing, or is none of VRRP.
    AuthHeader = "auth_header",
    /// Not exactly as long as its addresses need.
    Length = "length",
    /// A time to live other than 255 by multicast: it may have been forwarded.
    Ttl = "ttl",
    /// Another version than the configured one.
    Version = "version",
    /// Another kind of authentication than the configured one.
    AuthType = "auth_type",
    /// Not the configured password.
    AuthPassword = "auth_password",
    /// The sum in the authentication header is not what the configured password makes of the packet.
    AuthDigest = "auth_digest",
    /// The authentication header names another sender than the IP header.
    AuthSender = "auth_sender",
    /// A sequence number that was there already.
    AuthReplay = "auth_replay",
    /// Another interval than the configured one, which version 2 does not learn.
    Interval = "interval",
    /// Not an advertisement.
    Type = "type",
    /// Another number of addresses than the configured one.
    AddressCount = "address_count",
    /// The length in the IP header is not the one received.
    TotalLength = "total_length",
    /// No accepted form of the checksum fits.
    Checksum = "checksum",
    /// Not sent to the group of a router that uses it, or not to the address of one that has peers.
    Destination = "destination",
    /// A configured address is missing among the advertised ones.
    AddressList = "address_list",
    /// The sender is not among the configured peers.
    PeerUnknown = "peer_unknown",
    /// A time to live outside the range configured for the peer.
    PeerTtl = "peer_ttl",
    /// An interval of zero, with which a master is down at once. Not refused by keepalived.
    IntervalZero = "interval_zero",
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
