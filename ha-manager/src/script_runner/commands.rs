//! Which programs a configuration may run, and as whom.

use std::ffi::CString;

use nix::unistd::{User, getgrouplist};

use super::RunnerError;
use super::frame::{Account, ScriptCommand};
use crate::config::Config;

/// As keepalived's default; a host that has no such user has this one.
const DEFAULT_USERS: [&str; 2] = ["keepalived_script", "nobody"];
/// Groups of one user, for the size of a frame.
const GROUPS_MAX: usize = 512;

/// A command as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub argv: Vec<String>,
    /// `None`: `keepalived_script` if there is such a user, else `nobody`.
    pub user: Option<String>,
}

/// Each command once.
pub(super) fn of(config: &Config) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    let mut add = |argv: &[String], user: &Option<String>| {
        let wanted = Wanted {
            argv: argv.to_vec(),
            user: user.clone(),
        };
        if !all.contains(&wanted) {
            all.push(wanted);
        }
    };
    for script in &config.track_scripts {
        add(&script.argv, &script.user);
    }
    let instances = config.vrrp.iter().map(|vrrp| &vrrp.notify);
    let groups = config.vrrp_groups.iter().map(|group| &group.notify);
    for scripts in instances.chain(groups) {
        for argv in scripts.all() {
            add(argv, &config.notify.user);
        }
    }
    all
}

/// The command with its user as the kernel knows one.
pub(super) fn resolve(wanted: &Wanted) -> Result<ScriptCommand, RunnerError> {
    Ok(ScriptCommand {
        argv: wanted.argv.clone(),
        account: account(wanted.user.as_deref())?,
    })
}

fn account(name: Option<&str>) -> Result<Account, RunnerError> {
    let candidates = match &name {
        Some(name) => std::slice::from_ref(name),
        None => &DEFAULT_USERS,
    };
    for candidate in candidates {
        let found = User::from_name(candidate).map_err(|source| RunnerError::LookUp {
            user: (*candidate).to_owned(),
            source,
        })?;
        if let Some(user) = found {
            return resolved(user);
        }
    }
    Err(RunnerError::NoUser(candidates.join(" or ")))
}

fn resolved(user: User) -> Result<Account, RunnerError> {
    let name = CString::new(user.name.as_str()).unwrap_or_default();
    let groups = getgrouplist(&name, user.gid).map_err(|source| RunnerError::LookUp {
        user: user.name.clone(),
        source,
    })?;
    if groups.len() > GROUPS_MAX {
        return Err(RunnerError::TooManyGroups(user.name));
    }
    Ok(Account {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(|group| group.as_raw()).collect(),
        home: user.dir.to_string_lossy().into_owned(),
        name: user.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_looked_up_with_its_groups() {
        let root = account(Some("root")).unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0));
        let error = account(Some("no-such-user-here")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "scripts: there is no user no-such-user-here"
        );
        let default = account(None).unwrap();
        assert!(DEFAULT_USERS.contains(&default.name.as_str()));
        assert_ne!(default.uid, 0);
    }
}
