//! Loads the programs over pinned maps, and takes all of it away again.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use dataplane_common::layout::Layout;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::attach::{pinned_attachments, remove_attachment};
use crate::jumps;
use crate::maps::{NAMES, hash_tables, max_entries};
use crate::{DetachReport, OpenError, Options, TableSizes};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane.o"));

/// The program that is attached.
pub(crate) const DIRECTOR: &str = "director";
/// The one on the way out of virtual routers' interfaces.
pub(crate) const GUARD: &str = "guard";
/// Programs that others jump to, and their places in `PROGRAMS`.
pub(crate) const JUMPED_TO: [(&str, u32); 7] = [
    ("connect4", 3),
    ("connect6", 4),
    ("recall4", 5),
    ("recall6", 6),
    ("schedule4", 1),
    ("schedule6", 2),
    ("director6", 0),
];
/// Programs that user space runs.
const RUN_BY_HAND: [&str; 2] = ["apply", "expire"];

/// What [`load`] gives back.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    pub(crate) adopted: bool,
    pub(crate) sizes: TableSizes,
    /// Held as long as this data plane is in use.
    pub(crate) lock: Flock<File>,
}

/// Takes the pin directory, checks its layout, and loads maps and programs.
pub(crate) fn load(options: &Options) -> Result<Loaded, OpenError> {
    let lock = lock_directory(&options.pin_dir, true)?;
    let adopted = adoptable(&options.pin_dir)?;
    let sizes = if adopted {
        pinned_sizes(&options.pin_dir)?
    } else {
        options.sizes
    };
    let loaded = make_maps(&options.pin_dir, adopted, &sizes).and_then(load_programs);
    if loaded.is_err() && !adopted {
        unpin_maps(&options.pin_dir);
    }
    Ok(Loaded {
        ebpf: loaded?,
        adopted,
        sizes,
        lock,
    })
}

/// The object with its maps, pinned ones or new ones.
pub(crate) fn make_maps(
    pin_dir: &Path,
    adopted: bool,
    sizes: &TableSizes,
) -> Result<Ebpf, OpenError> {
    let mut loader = EbpfLoader::new();
    let pins: Vec<(&str, PathBuf)> = NAMES
        .iter()
        .map(|name| (*name, pin_dir.join(name)))
        .collect();
    for (name, path) in &pins {
        loader.map_pin_path(name, path.as_path());
    }
    if !adopted {
        for (name, entries) in max_entries(sizes) {
            loader.map_max_entries(name, entries);
        }
    }
    loader
        .load(OBJECT)
        .map_err(|error| OpenError::Load(chain(&error)))
}

fn load_programs(mut ebpf: Ebpf) -> Result<Ebpf, OpenError> {
    let jumped_to = JUMPED_TO.iter().map(|(name, _)| *name);
    for name in jumped_to.chain(RUN_BY_HAND).chain([DIRECTOR, GUARD]) {
        let program = program(&mut ebpf, name)?;
        load_program(program)
            .map_err(|error| OpenError::Load(format!("{name}: {}", chain(&error))))?;
        if let Ok(info) = program.info() {
            tracing::debug!(
                program = name,
                instructions = info.size_translated().unwrap_or(0) / 8,
                jited_bytes = info.size_jitted(),
                verified = info.verified_instruction_count(),
                "program loaded"
            );
        }
    }
    Ok(ebpf)
}

/// Loads a program. The verifier gives up when a signal comes in, whatever becomes of the signal;
/// then it is asked again.
fn load_program(program: &mut SchedClassifier) -> Result<(), ProgramError> {
    const TRIES: u32 = 20;
    for _ in 1..TRIES {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
    program.load()
}

/// A program of the object by name.
pub(crate) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, OpenError> {
    let program = ebpf.program_mut(name);
    let program = program.ok_or_else(|| OpenError::Load(format!("no program {name}")))?;
    program
        .try_into()
        .map_err(|error| OpenError::Load(chain(&error)))
}

/// Creates the directory if asked, makes sure it is in a bpffs, and locks it.
fn lock_directory(pin_dir: &Path, create: bool) -> Result<Flock<File>, OpenError> {
    let path = || pin_dir.to_path_buf();
    if create {
        fs::create_dir_all(pin_dir).map_err(|source| OpenError::PinDir {
            path: path(),
            source,
        })?;
    }
    let dir = File::open(pin_dir).map_err(|source| OpenError::PinDir {
        path: path(),
        source,
    })?;
    let kind = statfs(pin_dir).map(|info| info.filesystem_type());
    if kind != Ok(BPF_FS_MAGIC) {
        return Err(OpenError::NotBpffs(path()));
    }
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|_| OpenError::Busy(path()))
}

/// Whether the directory holds maps to take over. Foreign or half-made ones are refused by name.
fn adoptable(pin_dir: &Path) -> Result<bool, OpenError> {
    let missing: Vec<&str> = NAMES
        .iter()
        .copied()
        .filter(|name| !pin_dir.join(name).exists())
        .collect();
    if missing.len() == NAMES.len() {
        return Ok(false);
    }
    let torn = |reason: String| OpenError::Torn {
        path: pin_dir.to_path_buf(),
        reason,
    };
    if !pin_dir.join("LAYOUT").exists() {
        return Err(torn("LAYOUT is missing".into()));
    }
    let pinned = MapData::from_pin(pin_dir.join("LAYOUT"));
    let pinned = pinned.map_err(|error| torn(format!("LAYOUT: {}", chain(&error))))?;
    let info = pinned
        .info()
        .map_err(|error| torn(format!("LAYOUT: {}", chain(&error))))?;
    if info.value_size() as usize != size_of::<Layout>() {
        return Err(OpenError::OtherLayout {
            path: pin_dir.to_path_buf(),
            found: format!("a layout word of {} bytes", info.value_size()),
        });
    }
    let map = Array::<_, Layout>::try_from(aya::maps::Map::Array(pinned));
    let map = map.map_err(|error| torn(format!("LAYOUT: {}", chain(&error))))?;
    let found = map
        .get(&0, 0)
        .map_err(|error| torn(format!("LAYOUT: {}", chain(&error))))?;
    if found == Layout::default() {
        return Err(torn("its maps were never finished".into()));
    }
    if !found.is_adoptable() {
        return Err(OpenError::OtherLayout {
            path: pin_dir.to_path_buf(),
            found: format!(
                "version {} with type sizes {:?}",
                found.version, found.sizes
            ),
        });
    }
    match missing.first() {
        Some(name) => Err(torn(format!("{name} is missing"))),
        None => Ok(true),
    }
}

/// Marks the maps as whole; the last step of making them.
pub(crate) fn seal(layout: &mut Array<MapData, Layout>) -> Result<(), OpenError> {
    layout
        .set(0, Layout::CURRENT, 0)
        .map_err(|error| OpenError::Map(chain(&error)))
}

fn pinned_sizes(pin_dir: &Path) -> Result<TableSizes, OpenError> {
    let entries = |name: &str| -> Result<u32, OpenError> {
        let map = MapData::from_pin(pin_dir.join(name));
        let info = map.and_then(|map| map.info());
        info.map(|info| info.max_entries())
            .map_err(|error| OpenError::Map(chain(&error)))
    };
    let (services, servers) = (entries("SERVICES")?, entries("SERVERS")?);
    Ok(TableSizes {
        connections_v4: entries("CONNS4")?,
        connections_v6: entries("CONNS6")?,
        services,
        servers,
        hash_tables: hash_tables(entries("LISTS")?, services, servers),
        cache_entries: entries("CACHE")?,
    })
}

/// Removes everything a director left in its pin directory: attachments first, then maps.
pub(crate) fn detach(pin_dir: &Path) -> Result<DetachReport, OpenError> {
    let lock = lock_directory(pin_dir, false)?;
    let mut removed = Vec::new();
    for pin in pinned_attachments(pin_dir) {
        remove_attachment(pin_dir, &pin);
        removed.push(pin.file);
    }
    let tables = jumps::pinned(pin_dir).into_iter().map(|(_, pin)| pin);
    for pin in NAMES
        .map(|name| pin_dir.join(name))
        .into_iter()
        .chain(tables)
    {
        if fs::remove_file(&pin).is_ok() {
            removed.extend(
                pin.file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            );
        }
    }
    // Other files are not ours: then the directory stays.
    if fs::remove_dir(pin_dir).is_ok() {
        removed.push(pin_dir.display().to_string());
    }
    drop(lock);
    Ok(DetachReport { removed })
}

/// Takes maps away that were made by this start.
pub(crate) fn unpin_maps(pin_dir: &Path) {
    for name in NAMES {
        let _ = fs::remove_file(pin_dir.join(name));
    }
}

/// An error with everything that caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The descriptor of a program, for the test runs that user space makes.
pub(crate) fn descriptor(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd, OpenError> {
    let program = program(ebpf, name)?;
    let fd = program
        .fd()
        .map_err(|error| OpenError::Load(chain(&error)))?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|error| OpenError::Load(error.to_string()))
}
