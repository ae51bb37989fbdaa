//! Attaches the director to interfaces, and detaches it.
//!
//! A pin directory holds one file per map, `link-INDEX-IFACE` for a TCX link, and
//! `filter-INDEX-IFACE` (the program) for an interface that has a clsact filter instead. In names, `.` and `%` are written
//! `%2e` and `%25`, because a bpffs takes no dots.

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

use crate::loader::{DIRECTOR, chain, program};
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
                let partly = made.len() < attachments.len();
                return Err(NotAttached { error, partly });
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

const LINK: &str = "link";
const FILTER: &str = "filter";

/// The pin of an attachment: a device by its index, which a new name does not change, and the name
/// it had.
pub(crate) struct Pin {
    pub(crate) file: String,
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

pub(crate) fn pinned_attachments(pin_dir: &Path) -> Vec<Pin> {
    let entries = fs::read_dir(pin_dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<Pin> = names.filter_map(|name| Pin::from_file(&name)).collect();
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

pub(crate) fn remove_attachment(pin_dir: &Path, pin: &Pin) {
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
