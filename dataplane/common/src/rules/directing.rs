//! Who directs when.

/// How this node came to its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No election: the node directs what reaches it.
    Standalone,
    Vrrp,
    Raft,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Active,
    Standby,
}

/// What the programs do with service traffic. The number stands in `Settings::function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Function {
    /// Both directions are handled.
    Direct = 0,
    /// Requests pass, replies of known connections are handled.
    ReplyOnly = 1,
    /// Everything passes.
    Pass = 2,
    /// Service traffic is dropped, and ARP for virtual addresses gets no answer.
    Drop = 3,
}

impl Function {
    /// An unknown number drops: fail closed.
    pub const fn from_number(number: u32) -> Function {
        match number {
            0 => Function::Direct,
            1 => Function::ReplyOnly,
            2 => Function::Pass,
            _ => Function::Drop,
        }
    }

    /// Whether the host may answer who asks for a virtual address, by ARP or neighbour discovery.
    /// Under a lapsed lease it must not: another node may have the address.
    pub const fn answers_for_addresses(self) -> bool {
        match self {
            Function::Direct | Function::ReplyOnly | Function::Pass => true,
            Function::Drop => false,
        }
    }
}

/// Everything the decision depends on but the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    pub mode: Mode,
    pub role: Role,
    pub backup_daemon_runs: bool,
    /// Kernel name `backup_only`.
    pub backup_only: bool,
}

/// What this node does while its lease holds.
///
/// Without Raft the role never gates directing, as in the kernel: only `backup_only` does, while
/// the backup daemon runs, and for requests alone (`ip_vs_core.c: ip_vs_in_hook`).
pub const fn function(inputs: Inputs) -> Function {
    match (inputs.mode, inputs.role) {
        (Mode::Raft, Role::Standby) => Function::Pass,
        (Mode::Raft, Role::Active) => Function::Direct,
        (Mode::Standalone | Mode::Vrrp, Role::Active | Role::Standby) => {
            if inputs.backup_daemon_runs && inputs.backup_only {
                Function::ReplyOnly
            } else {
                Function::Direct
            }
        }
    }
}

/// The same with the lease on top: a lapsed lease drops, whatever the role.
pub const fn under_lease(function: Function, lease_deadline_ns: u64, now_ns: u64) -> Function {
    if now_ns > lease_deadline_ns {
        Function::Drop
    } else {
        function
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Function::*;
    use Mode::*;
    use Role::*;

    #[test]
    fn every_combination_of_inputs_has_its_function() {
        // mode, role, backup daemon runs, backup_only, function
        let table = [
            (Standalone, Active, false, false, Direct),
            (Standalone, Active, false, true, Direct),
            (Standalone, Active, true, false, Direct),
            (Standalone, Active, true, true, ReplyOnly),
            (Standalone, Standby, false, false, Direct),
            (Standalone, Standby, false, true, Direct),
            (Standalone, Standby, true, false, Direct),
            (Standalone, Standby, true, true, ReplyOnly),
            (Vrrp, Active, false, false, Direct),
            (Vrrp, Active, false, true, Direct),
            (Vrrp, Active, true, false, Direct),
            (Vrrp, Active, true, true, ReplyOnly),
            (Vrrp, Standby, false, false, Direct),
            (Vrrp, Standby, false, true, Direct),
            (Vrrp, Standby, true, false, Direct),
            (Vrrp, Standby, true, true, ReplyOnly),
            (Raft, Active, false, false, Direct),
            (Raft, Active, false, true, Direct),
            (Raft, Active, true, false, Direct),
            (Raft, Active, true, true, Direct),
            (Raft, Standby, false, false, Function::Pass),
            (Raft, Standby, false, true, Function::Pass),
            (Raft, Standby, true, false, Function::Pass),
            (Raft, Standby, true, true, Function::Pass),
        ];
        for (mode, role, backup_daemon_runs, backup_only, expected) in table {
            let inputs = Inputs {
                mode,
                role,
                backup_daemon_runs,
                backup_only,
            };
            let base = function(inputs);
            assert_eq!(base, expected, "{inputs:?}");
            assert_eq!(
                under_lease(base, 1000, 1000),
                expected,
                "{inputs:?} lease holds"
            );
            assert_eq!(
                under_lease(base, 1000, 1001),
                Function::Drop,
                "{inputs:?} lease lapsed"
            );
            assert_eq!(
                under_lease(base, crate::settings::LEASE_FOREVER, u64::MAX),
                expected
            );
            // Who asks for an address by ARP or neighbour discovery is answered under a lease, and
            // never without, whatever else holds.
            assert!(under_lease(base, 1000, 1000).answers_for_addresses());
            assert!(!under_lease(base, 1000, 1001).answers_for_addresses());
        }
        // That is all there are.
        let combinations = [Standalone, Vrrp, Raft].len() * [Active, Standby].len() * 2 * 2;
        assert_eq!(table.len(), combinations);
        for (at, row) in table.iter().enumerate() {
            let inputs = |row: &(Mode, Role, bool, bool, Function)| (row.0, row.1, row.2, row.3);
            let same = |other| inputs(other) == inputs(row);
            assert_eq!(table.iter().position(same), Some(at));
        }
    }

    #[test]
    fn numbers_round_trip_and_an_unknown_one_drops() {
        for function in [Direct, ReplyOnly, Function::Pass, Function::Drop] {
            assert_eq!(Function::from_number(function as u32), function);
        }
        assert_eq!(Function::from_number(99), Function::Drop);
    }
}
