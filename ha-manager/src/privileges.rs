//! What a director must be allowed to do, checked before anything is touched, and the rest given
//! up once it is set up.

use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// What the daemon keeps for its whole life. Map access and `BPF_PROG_TEST_RUN`, which all edits
/// and expiry use, need CAP_BPF; CAP_NET_ADMIN is needed to attach programs, and with CAP_PERFMON
/// to load them. CAP_SYS_ADMIN is not among them: only finding maps by number needs it.
const KEPT: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// What the election's thread keeps, and it alone: sockets are opened again when an interface comes
/// back. The packet sockets of the owner are opened before it gives the capability up.
const ELECTION: Capability = Capability::CAP_NET_RAW;

/// What the script runner keeps: to run scripts as their users, and to end them.
const RUNNER: [Capability; 3] = [
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_KILL,
];

/// What is missing, or could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("missing privileges: {0}; run as root or grant these capabilities")]
    Missing(String),
    #[error("{} is not in a bpffs; mount one with: mount -t bpf bpf {}", pin_dir.display(), mount.display())]
    NoBpffs { pin_dir: PathBuf, mount: PathBuf },
    #[error("{}: {source}", path.display())]
    Inspect { path: PathBuf, source: Errno },
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("no_new_privs: {0}")]
    NoNewPrivs(Errno),
}

/// Checks that this process may load and pin programs, and take part in an election.
///
/// # Errors
/// What is missing, by name.
pub fn check(pin_dir: &Path, has_election: bool) -> Result<(), PrivilegeError> {
    let effective = caps::read(None, CapSet::Effective)?;
    if let Some(missing) = missing(&effective, &needed(has_election)) {
        return Err(PrivilegeError::Missing(missing));
    }
    check_bpffs(pin_dir)
}

/// Gives up every capability the running daemon does not need, and any way to get more.
///
/// Capabilities belong to threads: any other thread has to call [`drop_all`] or [`keep_election`].
///
/// # Errors
/// The kernel refused; the caller should not go on with more than it needs.
pub fn drop_unneeded() -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?;
    let kept: CapsHashSet = KEPT.into_iter().collect();
    drop_bounding(&kept)?;
    keep_only(&kept)
}

/// Gives up every capability of the calling thread but the election's, and any way to get more.
///
/// # Errors
/// The kernel refused.
pub fn keep_election() -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?;
    keep_only(&CapsHashSet::from([ELECTION]))
}

/// Gives up every capability of the calling thread, and any way to get one.
///
/// # Errors
/// The kernel refused.
pub fn drop_all() -> Result<(), PrivilegeError> {
    prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?;
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set)?;
    }
    Ok(())
}

/// Gives up what running scripts as other users does not need: the calling process has one thread.
///
/// `for_root` says that some script is wanted as root: what root may have is left to that script,
/// by the bounding set, though not to the calling process itself.
///
/// # Errors
/// The kernel refused.
pub fn keep_runner(for_root: bool) -> Result<(), PrivilegeError> {
    let kept = CapsHashSet::from(RUNNER);
    if !for_root {
        prctl::set_no_new_privs().map_err(PrivilegeError::NoNewPrivs)?;
        drop_bounding(&kept)?;
    }
    keep_only(&kept)
}

/// What a script runner lacks, by name.
pub(crate) fn missing_for_runner() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("the user root".to_owned());
    }
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    missing(&effective, &RUNNER)
}

/// The bounding set can be lowered only while CAP_SETPCAP is there, so it comes first.
fn drop_bounding(kept: &CapsHashSet) -> Result<(), PrivilegeError> {
    if caps::has_cap(None, CapSet::Permitted, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    Ok(())
}

/// Of what is permitted, and nothing can be inherited.
fn keep_only(kept: &CapsHashSet) -> Result<(), PrivilegeError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = permitted.intersection(kept).copied().collect();
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(())
}

/// Names of the capabilities that are not there.
fn missing(effective: &CapsHashSet, needed: &[Capability]) -> Option<String> {
    let missing: Vec<String> = needed
        .iter()
        .filter(|wanted| !effective.contains(*wanted))
        .map(|wanted| wanted.to_string())
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn needed(has_election: bool) -> Vec<Capability> {
    let kept = KEPT.into_iter();
    kept.chain(has_election.then_some(ELECTION)).collect()
}

/// The nearest directory that exists must be on a bpffs.
fn check_bpffs(pin_dir: &Path) -> Result<(), PrivilegeError> {
    for path in pin_dir.ancestors() {
        match statfs(path) {
            Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => return Ok(()),
            Ok(_) => {
                let mount = pin_dir.parent().unwrap_or(pin_dir);
                return Err(PrivilegeError::NoBpffs {
                    pin_dir: pin_dir.into(),
                    mount: mount.into(),
                });
            }
            Err(Errno::ENOENT) => {}
            Err(source) => {
                return Err(PrivilegeError::Inspect {
                    path: path.into(),
                    source,
                });
            }
        }
    }
    Err(PrivilegeError::Inspect {
        path: pin_dir.into(),
        source: Errno::ENOENT,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let some = CapsHashSet::from([Capability::CAP_NET_ADMIN]);
        assert_eq!(
            missing(&some, &needed(false)).unwrap(),
            "CAP_BPF, CAP_PERFMON"
        );
        let kept: CapsHashSet = KEPT.into_iter().collect();
        assert_eq!(missing(&kept, &needed(false)), None);
        assert_eq!(missing(&kept, &needed(true)).unwrap(), "CAP_NET_RAW");
    }

    #[test]
    fn a_pin_directory_outside_a_bpffs_is_refused_with_the_remedy() {
        let error = check_bpffs(Path::new("/proc/nonexistent/tandem")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/proc/nonexistent/tandem is not in a bpffs; mount one with: \
             mount -t bpf bpf /proc/nonexistent"
        );
    }
}
