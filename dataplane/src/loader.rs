//! Loads the programs over pinned maps, attaches them, and takes all of it away again.
//!
//! A pin directory holds one file per map, `link-INDEX-IFACE` for a TCX link, and
//! `filter-INDEX-IFACE` (the program) for an interface that has a clsact filter instead. In names, `.` and `%` are written
//! `%2e` and `%25`, because a bpffs takes no dots.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, tc};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use dataplane_common::layout::Layout;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::maps::{NAMES, max_entries};
use crate::{AttachMode, Attachment, DetachReport, OpenError, Options, TableSizes};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane.o"));

/// Priority and handle of our clsact filters, by which a later start finds them.
const FILTER_PRIORITY: u16 = 50;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x5444);
const DIRECTOR: &str = "director";

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
    let loaded = load_object(&options.pin_dir, adopted, &sizes);
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

fn load_object(pin_dir: &Path, adopted: bool, sizes: &TableSizes) -> Result<Ebpf, OpenError> {
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
    let failed = |error: String| OpenError::Load(error);
    let mut ebpf = loader.load(OBJECT).map_err(|error| failed(chain(&error)))?;
    for name in [DIRECTOR, "apply", "expire"] {
        let program = program(&mut ebpf, name)?;
        load_program(program).map_err(|error| failed(chain(&error)))?;
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
    if found != Layout::CURRENT {
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
    Ok(TableSizes {
        connections_v4: entries("CONNS4")?,
        services: entries("SERVICES")?,
        servers: entries("SERVERS")?,
    })
}

/// Attaches the director to every interface of the options, replacing what an earlier start left,
/// and then detaches it from where it is not wanted any more.
///
/// On an error nothing is attached that was not attached before.
pub(crate) fn attach(ebpf: &mut Ebpf, options: &Options) -> Result<Vec<Attachment>, OpenError> {
    let mut attachments = Vec::new();
    let mut made = Vec::new();
    for interface in &options.interfaces {
        match attach_one(ebpf, options, interface) {
            Ok((attachment, pin)) => {
                attachments.push(attachment);
                made.extend(pin);
            }
            Err(error) => {
                made.iter()
                    .for_each(|pin| remove_attachment(&options.pin_dir, pin));
                return Err(error);
            }
        }
    }
    detach_others(options, &attachments);
    Ok(attachments)
}

/// As [`attach`] for interfaces that may be missing: what cannot be attached is reported and left
/// out.
pub(crate) fn attach_present(
    ebpf: &mut Ebpf,
    options: &Options,
) -> (Vec<Attachment>, Vec<OpenError>) {
    let (mut attachments, mut errors) = (Vec::new(), Vec::new());
    for interface in &options.interfaces {
        match attach_one(ebpf, options, interface) {
            Ok((attachment, _)) => attachments.push(attachment),
            Err(OpenError::NoInterface(_)) => {}
            Err(error) => errors.push(error),
        }
    }
    detach_others(options, &attachments);
    (attachments, errors)
}

/// Attaches to one interface; gives the pin too when it was not attached before.
fn attach_one(
    ebpf: &mut Ebpf,
    options: &Options,
    interface: &str,
) -> Result<(Attachment, Option<Pin>), OpenError> {
    let tcx = match options.attach {
        AttachMode::Tcx => true,
        AttachMode::Clsact => false,
        AttachMode::Auto => {
            KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(6, 6, 0))
        }
    };
    let ifindex = crate::interface_index(interface)?;
    let pin = Pin::new(if tcx { LINK } else { FILTER }, ifindex, interface);
    let path = options.pin_dir.join(&pin.file);
    let known = path.exists();
    let director = program(ebpf, DIRECTOR)?;
    if tcx {
        attach_tcx(director, interface, &path)?;
    } else {
        attach_clsact(director, interface, &path)?;
    }
    let attachment = Attachment {
        interface: interface.to_owned(),
        ifindex,
        kind: if tcx { "tcx" } else { "clsact" },
    };
    Ok((attachment, (!known).then_some(pin)))
}

/// Detaches from devices that are not listed, and from those that are attached in another way now.
fn detach_others(options: &Options, attachments: &[Attachment]) {
    for pin in pinned_attachments(&options.pin_dir) {
        let kind = if pin.file.starts_with(LINK) {
            "tcx"
        } else {
            "clsact"
        };
        let wanted = attachments
            .iter()
            .any(|attachment| attachment.ifindex == pin.ifindex && attachment.kind == kind);
        if !wanted
            || attachments
                .iter()
                .all(|attachment| attachment.interface != pin.interface)
        {
            remove_attachment(&options.pin_dir, &pin);
        }
    }
}

fn attach_tcx(
    director: &mut SchedClassifier,
    interface: &str,
    pin: &Path,
) -> Result<(), OpenError> {
    let failed = |reason: String| OpenError::Attach {
        interface: interface.to_owned(),
        kind: "tcx",
        reason,
    };
    if pin.exists() {
        let replaced = PinnedLink::from_pin(pin)
            .map_err(|error| chain(&error))
            .and_then(|old| {
                let link = SchedClassifierLink::try_from(FdLink::from(old));
                link.map_err(|error| chain(&error))
            })
            .and_then(|link| director.attach_to_link(link).map_err(|error| chain(&error)));
        if let Ok(id) = replaced {
            // The pin keeps the link; this descriptor is not needed.
            drop(
                director
                    .take_link(id)
                    .map_err(|error| failed(chain(&error)))?,
            );
            return Ok(());
        }
        // The interface was made anew meanwhile: the old link leads nowhere.
        fs::remove_file(pin).map_err(|error| failed(error.to_string()))?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = director.attach_with_options(interface, TcAttachType::Ingress, order);
    let id = id.map_err(|error| failed(chain(&error)))?;
    let link = director
        .take_link(id)
        .map_err(|error| failed(chain(&error)))?;
    let link = FdLink::try_from(link).map_err(|error| failed(chain(&error)))?;
    link.pin(pin).map_err(|error| failed(chain(&error)))?;
    Ok(())
}

fn attach_clsact(
    director: &mut SchedClassifier,
    interface: &str,
    pin: &Path,
) -> Result<(), OpenError> {
    let failed = |reason: String| OpenError::Attach {
        interface: interface.to_owned(),
        kind: "clsact",
        reason,
    };
    // Already there is fine: the qdisc is shared.
    let _ = tc::qdisc_add_clsact(interface);
    let known = || {
        SchedClassifierLink::attached(
            interface,
            TcAttachType::Ingress,
            FILTER_PRIORITY,
            FILTER_HANDLE,
            None,
        )
    };
    let options = NlOptions {
        priority: FILTER_PRIORITY,
        handle: FILTER_HANDLE,
        ..NlOptions::default()
    };
    let options = TcAttachOptions::Netlink(options);
    let fresh = director.attach_with_options(interface, TcAttachType::Ingress, options);
    let id = match fresh {
        Ok(id) => id,
        Err(_) => {
            let old = known().map_err(|error| failed(error.to_string()))?;
            director
                .attach_to_link(old)
                .map_err(|error| failed(chain(&error)))?
        }
    };
    let link = director
        .take_link(id)
        .map_err(|error| failed(chain(&error)))?;
    // Dropping the link would take the filter away; it has to outlive this process.
    std::mem::forget(link);
    match fs::remove_file(pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error.to_string())),
        _ => {}
    }
    director.pin(pin).map_err(|error| failed(chain(&error)))
}

/// Removes everything a director left in its pin directory: attachments first, then maps.
pub(crate) fn detach(pin_dir: &Path) -> Result<DetachReport, OpenError> {
    let lock = lock_directory(pin_dir, false)?;
    let mut removed = Vec::new();
    for pin in pinned_attachments(pin_dir) {
        remove_attachment(pin_dir, &pin);
        removed.push(pin.file);
    }
    for name in NAMES {
        if fs::remove_file(pin_dir.join(name)).is_ok() {
            removed.push(name.to_owned());
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

const LINK: &str = "link";
const FILTER: &str = "filter";

/// The pin of an attachment: a device by its index, which a new name does not change, and the name
/// it had.
struct Pin {
    file: String,
    ifindex: u32,
    interface: String,
}

impl Pin {
    fn new(kind: &str, ifindex: u32, interface: &str) -> Pin {
        let encoded = interface.replace('%', "%25").replace('.', "%2e");
        let file = format!("{kind}-{ifindex}-{encoded}");
        Pin {
            file,
            ifindex,
            interface: interface.to_owned(),
        }
    }

    fn from_file(file: &str) -> Option<Pin> {
        let (kind, rest) = file.split_once('-')?;
        let (ifindex, encoded) = rest.split_once('-')?;
        let interface = encoded.replace("%2e", ".").replace("%25", "%");
        let known = kind == LINK || kind == FILTER;
        known.then_some(Pin {
            file: file.to_owned(),
            ifindex: ifindex.parse().ok()?,
            interface,
        })
    }
}

fn pinned_attachments(pin_dir: &Path) -> Vec<Pin> {
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<Pin> = names.filter_map(|name| Pin::from_file(&name)).collect();
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

fn remove_attachment(pin_dir: &Path, pin: &Pin) {
    if pin.file.starts_with(FILTER) {
        remove_filter(pin);
    } else if let Err(error) = detach_link(&pin_dir.join(&pin.file)) {
        tracing::warn!(interface = pin.interface, %error, "TCX link not detached");
    }
    if let Err(error) = fs::remove_file(pin_dir.join(&pin.file)) {
        tracing::warn!(pin = pin.file, %error, "pin not removed");
    }
}

/// Takes our filter off a device, whatever its name is now; one that is gone took it along.
fn remove_filter(pin: &Pin) {
    use aya::programs::links::Link;
    let name = nix::net::if_::if_indextoname(pin.ifindex);
    let Some(name) = name.ok().and_then(|name| name.into_string().ok()) else {
        return;
    };
    let link = SchedClassifierLink::attached(
        &name,
        TcAttachType::Ingress,
        FILTER_PRIORITY,
        FILTER_HANDLE,
        None,
    );
    if let Ok(link) = link
        && let Err(error) = link.detach()
    {
        tracing::warn!(interface = name, error = %chain(&error), "clsact filter not removed");
    }
}

/// Detaches a pinned link at once. Unpinning alone leaves that to the kernel, some time after the
/// last reference is gone.
fn detach_link(pin: &Path) -> io::Result<()> {
    /// `bpf(2)` commands.
    const BPF_OBJ_GET: libc::c_long = 7;
    const BPF_LINK_DETACH: libc::c_long = 34;
    /// Leading part of `union bpf_attr` for the first one.
    #[repr(C)]
    struct ObjGet {
        pathname: u64,
        bpf_fd: u32,
        file_flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut get = ObjGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    // SAFETY: the attributes and the path they point to live during the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw mut get,
            size_of::<ObjGet>(),
        )
    };
    let fd = i32::try_from(fd)
        .ok()
        .filter(|fd| *fd >= 0)
        .ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the descriptor is new and nobody else's.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut detach = link.as_raw_fd() as u32;
    // SAFETY: the attributes live during the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_DETACH,
            &raw mut detach,
            size_of::<u32>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
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
