//! How many processes of a name there are.

use std::fs::{File, read_dir};
use std::io::{self, Read};
use std::path::Path;

use crate::config::TrackProcess;

/// `TASK_COMM_LEN` without the terminating zero: the kernel cuts names of programs to it.
const COMM_LEN: usize = 15;
/// Unit: bytes. No command line that is looked for is longer.
const COMMAND_LINE_MAX: u64 = 8 << 10;
/// Unit: bytes; more than `/proc/PID/stat` has up to the state.
const STAT_MAX: u64 = 256;

/// Counts the processes that each of these looks for, in one pass over `proc`.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn count(proc: &Path, wanted: &[&TrackProcess]) -> io::Result<Vec<u32>> {
    let mut counts = vec![0u32; wanted.len()];
    let by_name = wanted.iter().any(|process| !process.full_command);
    let by_line = wanted.iter().any(|process| process.full_command);
    for entry in read_dir(proc)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let path = entry.path();
        // A process that ends meanwhile has nothing to read.
        let comm = if by_name { comm(&path) } else { None };
        let line = if by_line { command_line(&path) } else { None };
        for (count, process) in counts.iter_mut().zip(wanted) {
            let is_it = if process.full_command {
                line.as_deref() == Some(process.process.as_bytes())
            } else {
                comm.as_deref() == Some(cut(process.process.as_bytes())) && !is_zombie(&path)
            };
            *count += u32::from(is_it);
        }
    }
    Ok(counts)
}

fn cut(name: &[u8]) -> &[u8] {
    name.get(..COMM_LEN).unwrap_or(name)
}

fn comm(process: &Path) -> Option<Vec<u8>> {
    let mut comm = read(&process.join("comm"), STAT_MAX)?;
    if comm.last() == Some(&b'\n') {
        comm.pop();
    }
    Some(comm)
}

/// Words joined by one space. A kernel thread and a zombie have none.
fn command_line(process: &Path) -> Option<Vec<u8>> {
    let mut line = read(&process.join("cmdline"), COMMAND_LINE_MAX)?;
    if line.last() == Some(&0) {
        line.pop();
    }
    for byte in &mut line {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    (!line.is_empty()).then_some(line)
}

/// `PID (COMM) STATE ...`; the name may contain anything.
fn is_zombie(process: &Path) -> bool {
    let Some(stat) = read(&process.join("stat"), STAT_MAX) else {
        return true;
    };
    let state = stat.rsplit(|&byte| byte == b')').next();
    let state = state.and_then(|rest| rest.get(1));
    matches!(state, Some(b'Z' | b'X') | None)
}

fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    fn process(process: &str, full_command: bool) -> TrackProcess {
        TrackProcess {
            name: "p".to_owned(),
            process: process.to_owned(),
            weight: 0,
            reverse: false,
            quorum: 1,
            full_command,
            interval: Duration::from_secs(1),
        }
    }

    #[test]
    fn processes_are_counted_by_name_or_by_command_line() {
        let proc = std::env::temp_dir().join(format!("track-proc-{}", std::process::id()));
        let add = |pid: &str, comm: &str, state: &str, line: &str| {
            let dir = proc.join(pid);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(dir.join("stat"), format!("{pid} ({comm}) {state} 1 1")).unwrap();
            fs::write(dir.join("cmdline"), line).unwrap();
        };
        add("1", "haproxy", "S", "/usr/sbin/haproxy\0-f\0/etc/h.cfg\0");
        add("2", "haproxy", "R", "/usr/sbin/haproxy\0-f\0/etc/g.cfg\0");
        add("3", "haproxy", "Z", "");
        add("4", "a) Z (b", "S", "x\0");
        add(
            "5",
            "a-very-long-nam",
            "S",
            "a-very-long-name-of-a-program\0",
        );
        fs::create_dir_all(proc.join("6")).unwrap();
        fs::create_dir_all(proc.join("self")).unwrap();
        let wanted = [
            process("haproxy", false),
            process("/usr/sbin/haproxy -f /etc/h.cfg", true),
            process("a) Z (b", false),
            process("a-very-long-name-of-a-program", false),
            process("a-very-long-name-of-a-program", true),
            process("none", false),
        ];
        let wanted: Vec<_> = wanted.iter().collect();
        assert_eq!(count(&proc, &wanted).unwrap(), [2, 1, 1, 1, 1, 0]);
        assert_eq!(count(&proc, &wanted[1..2]).unwrap(), [1]);
        fs::remove_dir_all(&proc).unwrap();
        assert!(count(&proc, &wanted).is_err());
    }
}
