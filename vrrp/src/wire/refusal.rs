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
    /// Not an IPv4 header, not a whole packet, or not of this protocol.
    IpHeader = "ip_header",
    /// Shorter than its IP header and the eight bytes of every advertisement.
    Short = "short",
    /// Of a virtual router that is not configured on this interface.
    UnknownVrid = "unknown_vrid",
    /// This router takes no part at the moment.
    NotRunning = "not_running",
    /// An authentication header that is not wanted.
    AuthHeader = "auth_header",
    /// Not exactly as long as its addresses need.
    Length = "length",
    /// A time to live other than 255: it may have been forwarded.
    Ttl = "ttl",
    /// Another version than the configured one.
    Version = "version",
    /// Not an advertisement.
    Type = "type",
    /// Another number of addresses than the configured one.
    AddressCount = "address_count",
    /// The length in the IP header is not the one received.
    TotalLength = "total_length",
    /// No known form of the checksum fits.
    Checksum = "checksum",
    /// Not sent to the group of a router that uses it.
    Destination = "destination",
    /// A configured address is missing among the advertised ones.
    AddressList = "address_list",
    /// An interval of zero, with which a master is down at once. Not refused by keepalived.
    IntervalZero = "interval_zero",
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
