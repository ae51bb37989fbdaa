//! Every command and option of ipvsadm 1.31 as data: short name, long name, whether it takes a
//! value, and the name under which the checks know it.
//!
//! Source: ipvsadm(8) and the observed behaviour of 1.31.

/// A command. The order is that of the columns of the rule matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    AddService,
    EditService,
    DeleteService,
    Flush,
    List,
    AddServer,
    DeleteServer,
    EditServer,
    SetTimeouts,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
}

impl Verb {
    pub const ALL: [Verb; 14] = [
        Verb::AddService,
        Verb::EditService,
        Verb::DeleteService,
        Verb::Flush,
        Verb::List,
        Verb::AddServer,
        Verb::DeleteServer,
        Verb::EditServer,
        Verb::SetTimeouts,
        Verb::StartDaemon,
        Verb::StopDaemon,
        Verb::Restore,
        Verb::Save,
        Verb::Zero,
    ];

    /// Name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::AddService => "add-service",
            Verb::EditService => "edit-service",
            Verb::DeleteService => "delete-service",
            Verb::Flush => "flush",
            Verb::List => "list",
            Verb::AddServer => "add-server",
            Verb::DeleteServer => "delete-server",
            Verb::EditServer => "edit-server",
            Verb::SetTimeouts => "set",
            Verb::StartDaemon => "start-daemon",
            Verb::StopDaemon => "stop-daemon",
            Verb::Restore => "restore",
            Verb::Save => "save",
            Verb::Zero => "zero",
        }
    }
}

/// An option as it can be typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opt {
    TcpService,
    UdpService,
    SctpService,
    FwmarkService,
    Ipv6,
    Scheduler,
    Persistent,
    Netmask,
    Ops,
    Pe,
    SchedFlags,
    RealServer,
    Gatewaying,
    Ipip,
    Masquerading,
    Weight,
    UThreshold,
    LThreshold,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
    Numeric,
    Connection,
    Exact,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    TunInfo,
    NoSort,
    Sort,
    Timeout,
    Daemon,
    McastInterface,
    SyncId,
    SyncMaxlen,
    McastGroup,
    McastPort,
    McastTtl,
}

macro_rules! groups {
    ($($group:ident = $name:literal,)*) => {
        /// What the checks count: options that exclude each other share a group. The order is
        /// that of the checks and decides which of several errors is reported.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Group { $($group,)* }

        impl Group {
            pub const ALL: &'static [Group] = &[$(Group::$group,)*];

            /// Name in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Group::$group => $name,)* }
            }
        }
    };
}

groups! {
    Numeric = "numeric",
    Connection = "connection",
    ServiceAddress = "service-address",
    Scheduler = "scheduler",
    Persistent = "persistent",
    Netmask = "netmask",
    RealServer = "real-server",
    ForwardingMethod = "forwarding-method",
    Weight = "weight",
    UThreshold = "u-threshold",
    LThreshold = "l-threshold",
    McastInterface = "mcast-interface",
    Timeout = "timeout",
    Daemon = "daemon",
    Stats = "stats",
    Rate = "rate",
    Thresholds = "thresholds",
    PersistentConn = "persistent-conn",
    NoSort = "nosort",
    SyncId = "syncid",
    Exact = "exact",
    Ops = "ops",
    Pe = "pe",
    SchedFlags = "sched-flags",
    McastGroup = "mcast-group",
    McastPort = "mcast-port",
    McastTtl = "mcast-ttl",
    SyncMaxlen = "sync-maxlen",
    TunInfo = "tun-info",
    TunType = "tun-type",
    TunPort = "tun-port",
    TunNocsum = "tun-nocsum",
    TunCsum = "tun-csum",
    TunRemcsum = "tun-remcsum",
}

/// The groups given on a command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups(u64);

impl Groups {
    pub const fn has(self, group: Group) -> bool {
        self.0 & (1 << group as u8) != 0
    }

    pub fn has_any(self, groups: &[Group]) -> bool {
        groups.iter().any(|group| self.has(*group))
    }

    pub const fn insert(&mut self, group: Group) {
        self.0 |= 1 << group as u8;
    }
}

/// Whether a word is followed by a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    No,
    Required,
    /// Taken from the next word unless that begins with '-'.
    Optional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Verb(Verb),
    Help,
    Version,
    Option(Opt),
}

/// One row of the table.
#[derive(Debug)]
pub struct Word {
    pub long: &'static str,
    pub short: Option<char>,
    pub value: Value,
    pub meaning: Meaning,
    /// `None`: never counted, accepted anywhere.
    pub group: Option<Group>,
}

const fn verb(long: &'static str, short: Option<char>, value: Value, verb: Verb) -> Word {
    Word {
        long,
        short,
        value,
        meaning: Meaning::Verb(verb),
        group: None,
    }
}

const fn option(
    long: &'static str,
    short: Option<char>,
    value: Value,
    option: Opt,
    group: Group,
) -> Word {
    Word {
        long,
        short,
        value,
        meaning: Meaning::Option(option),
        group: Some(group),
    }
}

const fn uncounted(long: &'static str, short: Option<char>, meaning: Meaning) -> Word {
    Word {
        long,
        short,
        value: Value::No,
        meaning,
        group: None,
    }
}

use Value::{No, Optional, Required};

pub const WORDS: &[Word] = &[
    verb("add-service", Some('A'), No, Verb::AddService),
    verb("edit-service", Some('E'), No, Verb::EditService),
    verb("delete-service", Some('D'), No, Verb::DeleteService),
    verb("clear", Some('C'), No, Verb::Flush),
    verb("list", Some('L'), No, Verb::List),
    verb("list", Some('l'), No, Verb::List),
    verb("add-server", Some('a'), No, Verb::AddServer),
    verb("delete-server", Some('d'), No, Verb::DeleteServer),
    verb("edit-server", Some('e'), No, Verb::EditServer),
    verb("set", None, No, Verb::SetTimeouts),
    verb("start-daemon", None, Required, Verb::StartDaemon),
    verb("stop-daemon", None, Required, Verb::StopDaemon),
    verb("restore", Some('R'), No, Verb::Restore),
    verb("save", Some('S'), No, Verb::Save),
    verb("zero", Some('Z'), No, Verb::Zero),
    uncounted("help", Some('h'), Meaning::Help),
    uncounted("version", Some('v'), Meaning::Version),
    option(
        "tcp-service",
        Some('t'),
        Required,
        Opt::TcpService,
        Group::ServiceAddress,
    ),
    option(
        "udp-service",
        Some('u'),
        Required,
        Opt::UdpService,
        Group::ServiceAddress,
    ),
    option(
        "sctp-service",
        None,
        Required,
        Opt::SctpService,
        Group::ServiceAddress,
    ),
    option(
        "fwmark-service",
        Some('f'),
        Required,
        Opt::FwmarkService,
        Group::ServiceAddress,
    ),
    uncounted("ipv6", Some('6'), Meaning::Option(Opt::Ipv6)),
    option(
        "scheduler",
        Some('s'),
        Required,
        Opt::Scheduler,
        Group::Scheduler,
    ),
    option(
        "persistent",
        Some('p'),
        Optional,
        Opt::Persistent,
        Group::Persistent,
    ),
    option("netmask", Some('M'), Required, Opt::Netmask, Group::Netmask),
    option("ops", Some('o'), No, Opt::Ops, Group::Ops),
    option("pe", None, Required, Opt::Pe, Group::Pe),
    option(
        "sched-flags",
        Some('b'),
        Required,
        Opt::SchedFlags,
        Group::SchedFlags,
    ),
    option(
        "real-server",
        Some('r'),
        Required,
        Opt::RealServer,
        Group::RealServer,
    ),
    option(
        "gatewaying",
        Some('g'),
        No,
        Opt::Gatewaying,
        Group::ForwardingMethod,
    ),
    option("ipip", Some('i'), No, Opt::Ipip, Group::ForwardingMethod),
    option(
        "masquerading",
        Some('m'),
        No,
        Opt::Masquerading,
        Group::ForwardingMethod,
    ),
    option("weight", Some('w'), Required, Opt::Weight, Group::Weight),
    option(
        "u-threshold",
        Some('x'),
        Required,
        Opt::UThreshold,
        Group::UThreshold,
    ),
    option(
        "l-threshold",
        Some('y'),
        Required,
        Opt::LThreshold,
        Group::LThreshold,
    ),
    option("tun-type", None, Required, Opt::TunType, Group::TunType),
    option("tun-port", None, Required, Opt::TunPort, Group::TunPort),
    option("tun-nocsum", None, No, Opt::TunNocsum, Group::TunNocsum),
    option("tun-csum", None, No, Opt::TunCsum, Group::TunCsum),
    option("tun-remcsum", None, No, Opt::TunRemcsum, Group::TunRemcsum),
    option("numeric", Some('n'), No, Opt::Numeric, Group::Numeric),
    option(
        "connection",
        Some('c'),
        No,
        Opt::Connection,
        Group::Connection,
    ),
    option("exact", Some('X'), No, Opt::Exact, Group::Exact),
    option("stats", None, No, Opt::Stats, Group::Stats),
    option("rate", None, No, Opt::Rate, Group::Rate),
    option("thresholds", None, No, Opt::Thresholds, Group::Thresholds),
    option(
        "persistent-conn",
        None,
        No,
        Opt::PersistentConn,
        Group::PersistentConn,
    ),
    option("tun-info", None, No, Opt::TunInfo, Group::TunInfo),
    option("nosort", None, No, Opt::NoSort, Group::NoSort),
    uncounted("sort", None, Meaning::Option(Opt::Sort)),
    option("timeout", None, No, Opt::Timeout, Group::Timeout),
    option("daemon", None, No, Opt::Daemon, Group::Daemon),
    option(
        "mcast-interface",
        None,
        Required,
        Opt::McastInterface,
        Group::McastInterface,
    ),
    option("syncid", None, Required, Opt::SyncId, Group::SyncId),
    option(
        "sync-maxlen",
        None,
        Required,
        Opt::SyncMaxlen,
        Group::SyncMaxlen,
    ),
    option(
        "mcast-group",
        None,
        Required,
        Opt::McastGroup,
        Group::McastGroup,
    ),
    option(
        "mcast-port",
        None,
        Required,
        Opt::McastPort,
        Group::McastPort,
    ),
    option("mcast-ttl", None, Required, Opt::McastTtl, Group::McastTtl),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_taken_twice() {
        for (at, word) in WORDS.iter().enumerate() {
            for other in &WORDS[at + 1..] {
                let same_list = word.long == "list" && other.long == "list";
                assert!(same_list || word.long != other.long, "--{}", word.long);
                assert!(
                    word.short.is_none() || word.short != other.short,
                    "--{}",
                    other.long
                );
            }
        }
    }

    #[test]
    fn every_group_can_be_given() {
        for group in Group::ALL {
            assert!(
                WORDS.iter().any(|word| word.group == Some(*group)),
                "{}",
                group.name()
            );
        }
    }
}
