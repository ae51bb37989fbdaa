//! The table of programs that others jump to: one for each start.
//!
//! A program hands a packet over in scratch maps that each start's programs have of their own, so none
//! may jump into those of another start. A table is pinned as `programs-N` before anything is attached
//! (the kernel empties one that nobody refers to), and goes when no program of its start is attached
//! any more. If only some interfaces could be attached to, both stay.

use std::fs;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};

use crate::OpenError;
use crate::loader::{JUMPED_TO, chain, program};

/// The map's name in the object.
const MAP: &str = "PROGRAMS";
const PIN: &str = "programs-";

/// The table of this start.
pub(crate) struct Jumps {
    pin: PathBuf,
    _table: ProgramArray<MapData>,
}

impl Jumps {
    /// Fills and pins a new table.
    pub(crate) fn make(ebpf: &mut Ebpf, pin_dir: &Path) -> Result<Jumps, OpenError> {
        let failed = |error: &dyn std::error::Error| OpenError::Load(chain(error));
        let last = pinned(pin_dir).into_iter().map(|(number, _)| number).max();
        let pin = pin_dir.join(format!(
            "{PIN}{}",
            last.map_or(1, |last| last.wrapping_add(1))
        ));
        let map = ebpf.take_map(MAP);
        let map = map.ok_or_else(|| OpenError::Map(format!("{MAP} is not in the object")))?;
        map.pin(&pin).map_err(|error| failed(&error))?;
        let table = ProgramArray::try_from(map).map_err(|error| failed(&error));
        match table.and_then(|mut table| fill(ebpf, &mut table).map(|()| table)) {
            Ok(table) => Ok(Jumps { pin, _table: table }),
            Err(error) => {
                let _ = fs::remove_file(&pin);
                Err(error)
            }
        }
    }

    /// The programs of this start are attached everywhere: tables of others are not needed.
    pub(crate) fn remove_others(&self, pin_dir: &Path) {
        for (_, pin) in pinned(pin_dir) {
            if pin != self.pin
                && let Err(error) = fs::remove_file(&pin)
            {
                tracing::warn!(pin = %pin.display(), %error, "pin not removed");
            }
        }
    }

    /// The programs of this start are attached nowhere.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_file(&self.pin);
    }
}

fn fill(ebpf: &mut Ebpf, table: &mut ProgramArray<MapData>) -> Result<(), OpenError> {
    for (name, place) in JUMPED_TO {
        let fd = program(ebpf, name)?.fd();
        let fd = fd.map_err(|error| OpenError::Load(format!("{name}: {}", chain(&error))))?;
        let set = table.set(place, fd, 0);
        set.map_err(|error| OpenError::Load(format!("{name}: {}", chain(&error))))?;
    }
    Ok(())
}

/// Tables in a pin directory: number and file.
pub(crate) fn pinned(pin_dir: &Path) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix(PIN)?.parse().ok();
    entries
        .filter_map(|entry| {
            let number = number(entry.file_name().to_str()?)?;
            Some((number, entry.path()))
        })
        .collect()
}
