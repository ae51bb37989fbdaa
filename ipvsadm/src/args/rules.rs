//! Which options go with which command, and the checks that need the whole line.
//!
//! Source: the observed behaviour of ipvsadm 1.31; the matrix is that of ipvsadm(8) with the
//! exceptions the program makes (`--syncid` is tolerated by `-L`).

use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::ServiceKey;

use super::table::{Group, Groups, Verb};
use super::{AsTyped, Stop, TunnelType};

/// One row per group in the order of the checks, one column per command in the order of
/// [`Verb::ALL`]: `+` required, `.` allowed, `1` at most one of these, `x` illegal.
#[rustfmt::skip]
const MATRIX: &[(Group, &str)] = &[
    //                         AEDCLades--RSZ   (s: --set, then start and stop)
    (Group::Numeric,          "xxxx.xxxxxxx.x"),
    (Group::Connection,       "xxxx1xxxxxxxxx"),
    (Group::ServiceAddress,   "+++x1+++xxxxx."),
    (Group::Scheduler,        "..xxxxxxxxxxxx"),
    (Group::Persistent,       "..xxxxxxxxxxxx"),
    (Group::Netmask,          "..xxxxxxxxxxxx"),
    (Group::RealServer,       "xxxxx+++xxxxxx"),
    (Group::ForwardingMethod, "xxxxx.x.xxxxxx"),
    (Group::Weight,           "xxxxx.x.xxxxxx"),
    (Group::UThreshold,       "xxxxx.x.xxxxxx"),
    (Group::LThreshold,       "xxxxx.x.xxxxxx"),
    (Group::McastInterface,   "xxxxxxxxx.xxxx"),
    (Group::Timeout,          "xxxx1xxxxxxxxx"),
    (Group::Daemon,           "xxxx1xxxxxxxxx"),
    (Group::Stats,            "xxxx.xxxxxxxxx"),
    (Group::Rate,             "xxxx.xxxxxxxxx"),
    (Group::Thresholds,       "xxxx.xxxxxxxxx"),
    (Group::PersistentConn,   "xxxx.xxxxxxxxx"),
    (Group::NoSort,           "xxxx.xxxxxxxxx"),
    (Group::SyncId,           "xxxx.xxxx..xxx"),
    (Group::Exact,            "xxxx.xxxxxxxxx"),
    (Group::Ops,              "..xxxxxxxxxxxx"),
    (Group::Pe,               "..xxxxxxxxxxxx"),
    (Group::SchedFlags,       "..xxxxxxxxxxxx"),
    (Group::McastGroup,       "xxxxxxxxx.xxxx"),
    (Group::McastPort,        "xxxxxxxxx.xxxx"),
    (Group::McastTtl,         "xxxxxxxxx.xxxx"),
    (Group::SyncMaxlen,       "xxxxxxxxx.xxxx"),
    (Group::TunInfo,          "xxxx.xxxxxxxxx"),
    (Group::TunType,          "xxxxx.x.xxxxxx"),
    (Group::TunPort,          "xxxxx.x.xxxxxx"),
    (Group::TunNocsum,        "xxxxx.x.xxxxxx"),
    (Group::TunCsum,          "xxxxx.x.xxxxxx"),
    (Group::TunRemcsum,       "xxxxx.x.xxxxxx"),
];

/// The same for tunnel types; columns: ipip, gue, gre.
const TUNNEL_MATRIX: &[(Group, &str)] = &[
    (Group::TunPort, "x+x"),
    (Group::TunNocsum, "x11"),
    (Group::TunCsum, "x11"),
    (Group::TunRemcsum, "x1x"),
];

const TUNNEL_OPTIONS: &[Group] = &[
    Group::TunType,
    Group::TunPort,
    Group::TunNocsum,
    Group::TunCsum,
    Group::TunRemcsum,
];

/// Checks the options against the matrix, in the order of the groups.
///
/// # Errors
/// The first rule broken.
pub fn check_matrix(verb: Verb, given: Groups) -> Result<(), Stop> {
    check_column(
        MATRIX,
        verb as usize,
        given,
        &format!("'{}' command", verb.name()),
    )
}

/// Everything that is checked after the words have been read.
///
/// # Errors
/// The first rule broken.
pub fn check(typed: &AsTyped) -> Result<(), Stop> {
    check_matrix(typed.verb, typed.given)?;
    match typed.verb {
        Verb::AddService | Verb::EditService => check_service(typed),
        Verb::AddServer | Verb::EditServer => check_server(typed),
        Verb::List => check_list(typed.given),
        Verb::DeleteService
        | Verb::Flush
        | Verb::DeleteServer
        | Verb::SetTimeouts
        | Verb::StartDaemon
        | Verb::StopDaemon
        | Verb::Restore
        | Verb::Save
        | Verb::Zero => Ok(()),
    }
}

fn check_column(
    matrix: &[(Group, &str)],
    column: usize,
    given: Groups,
    subject: &str,
) -> Result<(), Stop> {
    let mut chosen: Option<Group> = None;
    for (group, row) in matrix {
        let name = group.name();
        match (row.as_bytes().get(column), given.has(*group)) {
            (Some(b'+'), false) => {
                return fail(format!(
                    "You need to supply the '{name}' option for the {subject}"
                ));
            }
            (Some(b'x'), true) => {
                return fail(format!("Illegal '{name}' option with the {subject}"));
            }
            (Some(b'1'), true) => match chosen {
                None => chosen = Some(*group),
                Some(earlier) => {
                    return fail(format!(
                        "The option '{name}' conflicts with the '{}' option in the {subject}",
                        earlier.name()
                    ));
                }
            },
            _ => {}
        }
    }
    Ok(())
}

fn check_service(typed: &AsTyped) -> Result<(), Stop> {
    let Some(ServiceKey::Address { protocol, addr }) = typed.service else {
        return Ok(());
    };
    if addr.port() == 0 && typed.persistent_secs.is_none() {
        return fail("Zero port specified for non-persistent service");
    }
    if typed.given.has(Group::Ops) && protocol != Protocol::Udp {
        return fail("One-Packet Scheduling is only for UDP virtual services");
    }
    Ok(())
}

fn check_server(typed: &AsTyped) -> Result<(), Stop> {
    let tunnelled = typed.method == ForwardMethod::Tunnelling;
    let ipv6 = |key: ServiceKey| key.is_ipv6();
    if !tunnelled && typed.service.map(ipv6) != typed.server.map(|server| server.is_ipv6()) {
        return fail("Different address family is allowed only for tunneling servers");
    }
    if !tunnelled && typed.given.has_any(TUNNEL_OPTIONS) {
        return fail("Tunnel options conflict with forward method");
    }
    if tunnelled {
        let (column, name) = match typed.tunnel.kind {
            TunnelType::Ipip => (0, "ipip"),
            TunnelType::Gue => (1, "gue"),
            TunnelType::Gre => (2, "gre"),
        };
        check_column(
            TUNNEL_MATRIX,
            column,
            typed.given,
            &format!("'{name}' tunnel type"),
        )?;
    }
    Ok(())
}

fn check_list(given: Groups) -> Result<(), Stop> {
    let no_table = [Group::Connection, Group::Timeout, Group::Daemon];
    let columns = [Group::Stats, Group::Rate, Group::Thresholds];
    if given.has_any(&no_table) && given.has_any(&columns)
        || given.has_any(&[Group::Timeout, Group::Daemon]) && given.has(Group::PersistentConn)
    {
        return fail("options conflicts in the list command");
    }
    Ok(())
}

fn fail(text: impl Into<String>) -> Result<(), Stop> {
    Err(Stop::Fail(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_a_row_per_group_in_order_and_a_cell_per_command() {
        let rows: Vec<Group> = MATRIX.iter().map(|(group, _)| *group).collect();
        assert_eq!(rows, Group::ALL);
        for (group, row) in MATRIX {
            assert_eq!(row.len(), Verb::ALL.len(), "{}", group.name());
            assert!(
                row.bytes().all(|cell| b"+.1x".contains(&cell)),
                "{}",
                group.name()
            );
        }
        for (at, verb) in Verb::ALL.iter().enumerate() {
            assert_eq!(*verb as usize, at);
        }
    }
}
