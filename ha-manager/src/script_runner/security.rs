//! What may be run as root: only what nobody else can write or replace.

use std::fs::{Metadata, canonicalize, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `S_IWGRP`, `S_IWOTH`, `S_ISVTX` of `stat(2)`.
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Why a program must not be run as root, `None` when it may be.
///
/// Every part of its path, as written and with symbolic links followed, must belong to root and be
/// writable by nobody else. A sticky directory (`/tmp`) may be: what root owns there stays.
pub(super) fn objection(program: &Path) -> Option<String> {
    let refuse = |path: &Path, why: &str| {
        Some(format!(
            "{} is not run as root: {} {why}",
            program.display(),
            path.display()
        ))
    };
    let real = match canonicalize(program) {
        Ok(real) => real,
        Err(error) => return refuse(program, &format!("cannot be looked at: {error}")),
    };
    for path in program.ancestors().chain(real.ancestors()) {
        if path.as_os_str().is_empty() {
            continue;
        }
        match symlink_metadata(path) {
            Ok(found) => {
                if let Some(why) = writable_by_others(&found) {
                    return refuse(path, why);
                }
            }
            Err(error) => return refuse(path, &format!("cannot be looked at: {error}")),
        }
    }
    None
}

fn writable_by_others(found: &Metadata) -> Option<&'static str> {
    let mode = found.mode();
    if found.uid() != 0 {
        return Some("does not belong to root");
    }
    // The mode of a symbolic link means nothing; its directory decides.
    if found.file_type().is_symlink() || (found.is_dir() && mode & STICKY != 0) {
        return None;
    }
    if mode & OTHERS_WRITE != 0 {
        return Some("is writable by everyone");
    }
    (mode & GROUP_WRITES != 0 && found.gid() != 0).then_some("is writable by its group")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::PathBuf;

    use super::*;

    /// In a sticky directory of root's.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Dir(path)
        }

        fn script(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn root_runs_only_what_nobody_else_can_change() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let dir = Dir::new("objection");
        assert_eq!(objection(&dir.script("good", 0o755)), None);
        // Root's own group may write.
        assert_eq!(objection(&dir.script("group-of-root", 0o775)), None);
        let open = objection(&dir.script("open", 0o757)).unwrap();
        assert!(
            open.contains("open is not run as root") && open.ends_with("is writable by everyone"),
            "{open}"
        );
        let given = dir.script("given", 0o755);
        chown(&given, Some(65534), None).unwrap();
        assert!(
            objection(&given)
                .unwrap()
                .ends_with("does not belong to root")
        );
        let group = dir.script("group", 0o775);
        chown(&group, None, Some(65534)).unwrap();
        assert!(
            objection(&group)
                .unwrap()
                .ends_with("is writable by its group")
        );
        let link = dir.0.join("link");
        symlink(&given, &link).unwrap();
        assert!(
            objection(&link)
                .unwrap()
                .ends_with("does not belong to root")
        );
        assert!(objection(&dir.0.join("none")).unwrap().contains("looked"));
        fs::set_permissions(&dir.0, Permissions::from_mode(0o777)).unwrap();
        let good = objection(&dir.0.join("good")).unwrap();
        assert!(good.ends_with("is writable by everyone"), "{good}");
    }
}
