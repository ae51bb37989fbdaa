//! Attaches the director to interfaces, and detaches it. An interface with a virtual router's MAC address
//! has the guard on its way out besides.
//!
//! A pin directory holds one file per map, `link-INDEX-IFACE` for a TCX link, and
//! `filter-INDEX-IFACE` (the program) for an interface that has a clsact filter instead; `guardlink` and
//! `guardfilter` for the guard. In names, `.` and `%` are written `%2e` and `%25`, because a bpffs takes no dots.

use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc};
use aya::util::KernelVersion;

use crate::loader::{DIRECTOR, GUARD, chain, program};
use crate::{AttachMode, Attachment, OpenError, Options};

/// Priority and handle of our clsact filters, by which a later start finds them.
const FILTER_PRIORITY: u16 = 50;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 0x5444);

/// Why the director is not attached to every interface, and whether it is to some: those that an
/// earlier start was attached to.
pub(crate) struct NotAttached {
    pub(crate) error: OpenError,
    pub(crate) partly: bool,
}

/// Attaches the director to every interface of the options, replacing what an earlier start left,
/// and then detaches it from where it is not wanted any more.
///
/// On an error nothing is attached that was not attached before.
pub(crate) fn attach(ebpf: &mut Ebpf, options: &Options) -> Result<Vec<Attachment>, NotAttached> {
    let mut attachments = Vec::new();
    let mut pins = Pins::default();
    for interface in &options.interfaces {
        match attach_one(ebpf, options, interface, &mut pins) {
            Ok(attachment) => attachments.push(attachment),
            Err(error) => {
                pins.made
                    .iter()
                    .for_each(|pin| remove_attachment(&options.pin_dir, pin));
                let partly = pins.made.len() < pins.used.len();
                return Err(NotAttached { error, partly });
            }
        }
    }
    detach_others(options, &pins);
    Ok(attachments)
}

/// As [`attach`] for interfaces that may be missing: what cannot be attached is reported and left
/// out.
pub(crate) fn attach_present(
    ebpf: &mut Ebpf,
    options: &Options,
) -> (Vec<Attachment>, Vec<OpenError>) {
    let (mut attachments, mut errors) = (Vec::new(), Vec::new());
    let mut pins = Pins::default();
    for interface in &options.interfaces {
        match attach_one(ebpf, options, interface, &mut pins) {
            Ok(attachment) => attachments.push(attachment),
            Err(OpenError::NoInterface(_)) => {}
            Err(error) => errors.push(error),
        }
    }
    detach_others(options, &pins);
    (attachments, errors)
}

/// A program of ours at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Director,
    /// Keeps in what a virtual router's MAC address must not say.
    Guard,
}

impl Hook {
    const ALL: [Hook; 2] = [Hook::Director, Hook::Guard];

    const fn program(self) -> &'static str {
        match self {
            Hook::Director => DIRECTOR,
            Hook::Guard => GUARD,
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Hook::Director => TcAttachType::Ingress,
            Hook::Guard => TcAttachType::Egress,
        }
    }

    /// How names of pins begin: of a TCX link and of a filter.
    const fn kinds(self) -> [&'static str; 2] {
        match self {
            Hook::Director => ["link", "filter"],
            Hook::Guard => ["guardlink", "guardfilter"],
        }
    }
}

/// What a round of attaching has come by.
#[derive(Default)]
struct Pins {
    /// Files of all that are attached now.
    used: Vec<String>,
    /// Those that were not attached before.
    made: Vec<Pin>,
}

/// Attaches what belongs there to one interface.
fn attach_one(
    ebpf: &mut Ebpf,
    options: &Options,
    interface: &str,
    pins: &mut Pins,
) -> Result<Attachment, OpenError> {
    let tcx = match options.attach {
        AttachMode::Tcx => true,
        AttachMode::Clsact => false,
        AttachMode::Auto => {
            KernelVersion::current().is_ok_and(|now| now >= KernelVersion::new(6, 6, 0))
        }
    };
    let ifindex = crate::interface_index(interface)?;
    let is_guarded = options.guarded.iter().any(|name| name == interface);
    for hook in Hook::ALL {
        if hook == Hook::Guard && !is_guarded {
            continue;
        }
        let pin = Pin::new(hook, tcx, ifindex, interface);
        let path = options.pin_dir.join(&pin.file);
        let known = path.exists();
        let program = program(ebpf, hook.program())?;
        if tcx {
            attach_tcx(program, hook, interface, &path)?;
        } else {
            attach_clsact(program, hook, interface, &path)?;
        }
        pins.used.push(pin.file.clone());
        if !known {
            pins.made.push(pin);
        }
    }
    Ok(Attachment {
        interface: interface.to_owned(),
        ifindex,
        kind: if tcx { "tcx" } else { "clsact" },
    })
}

/// Detaches from devices that are not listed, and from those that are attached in another way now.
fn detach_others(options: &Options, pins: &Pins) {
    for pin in pinned_attachments(&options.pin_dir) {
        if !pins.used.contains(&pin.file) {
            remove_attachment(&options.pin_dir, &pin);
        }
    }
}

fn attach_tcx(
    program: &mut SchedClassifier,
    hook: Hook,
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
            .and_then(|link| program.attach_to_link(link).map_err(|error| chain(&error)));
        if let Ok(id) = replaced {
            // The pin keeps the link; this descriptor is not needed.
            drop(
                program
                    .take_link(id)
                    .map_err(|error| failed(chain(&error)))?,
            );
            return Ok(());
        }
        // The interface was made anew meanwhile: the old link leads nowhere.
        fs::remove_file(pin).map_err(|error| failed(error.to_string()))?;
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::default());
    let id = program.attach_with_options(interface, hook.direction(), order);
    let id = id.map_err(|error| failed(chain(&error)))?;
    let link = program
        .take_link(id)
        .map_err(|error| failed(chain(&error)))?;
    let link = FdLink::try_from(link).map_err(|error| failed(chain(&error)))?;
    link.pin(pin).map_err(|error| failed(chain(&error)))?;
    Ok(())
}

fn attach_clsact(
    program: &mut SchedClassifier,
    hook: Hook,
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
            hook.direction(),
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
    let fresh = program.attach_with_options(interface, hook.direction(), options);
    let id = match fresh {
        Ok(id) => id,
        Err(_) => {
            let old = known().map_err(|error| failed(error.to_string()))?;
            program
                .attach_to_link(old)
                .map_err(|error| failed(chain(&error)))?
        }
    };
    let link = program
        .take_link(id)
        .map_err(|error| failed(chain(&error)))?;
    // Dropping the link would take the filter away; it has to outlive this process.
    std::mem::forget(link);
    match fs::remove_file(pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error.to_string())),
        _ => {}
    }
    program.pin(pin).map_err(|error| failed(chain(&error)))
}

/// The pin of an attachment: a device by its index, which a new name does not change, and the name
/// it had.
pub(crate) struct Pin {
    pub(crate) file: String,
    hook: Hook,
    is_link: bool,
    ifindex: u32,
    interface: String,
}

impl Pin {
    fn new(hook: Hook, is_link: bool, ifindex: u32, interface: &str) -> Pin {
        let encoded = interface.replace('%', "%25").replace('.', "%2e");
        let [link, filter] = hook.kinds();
        let kind = if is_link { link } else { filter };
        Pin {
            file: format!("{kind}-{ifindex}-{encoded}"),
            hook,
            is_link,
            ifindex,
            interface: interface.to_owned(),
        }
    }

    fn from_file(file: &str) -> Option<Pin> {
        let (kind, rest) = file.split_once('-')?;
        let (ifindex, encoded) = rest.split_once('-')?;
        let interface = encoded.replace("%2e", ".").replace("%25", "%");
        let mut hooks = Hook::ALL.into_iter();
        let hook = hooks.find(|hook| hook.kinds().contains(&kind))?;
        Some(Pin {
            file: file.to_owned(),
            hook,
            is_link: kind == hook.kinds()[0],
            ifindex: ifindex.parse().ok()?,
            interface,
        })
    }
}

pub(crate) fn pinned_attachments(pin_dir: &Path) -> Vec<Pin> {
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<Pin> = names.filter_map(|name| Pin::from_file(&name)).collect();
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

pub(crate) fn remove_attachment(pin_dir: &Path, pin: &Pin) {
    if !pin.is_link {
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
        pin.hook.direction(),
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
