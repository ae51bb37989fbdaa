//! Runs programs from user space (`BPF_PROG_TEST_RUN`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use dataplane_common::batch::mark;

/// `bpf(2)` command.
const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// Bytes of `struct __sk_buff`.
const SK_BUFF: usize = 192;
/// Offsets in it.
const SK_BUFF_MARK: usize = 8;
const SK_BUFF_IFINDEX: usize = 40;

/// What one run of a program over a frame gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRun {
    /// The program's return code: a TC action.
    pub action: i32,
    pub frame: Vec<u8>,
    /// Mean duration of a run in nanoseconds.
    pub duration_ns: u32,
}

/// Descriptors of the loaded programs.
pub(crate) struct Programs {
    pub(crate) director: OwnedFd,
    pub(crate) apply: OwnedFd,
    pub(crate) expire: OwnedFd,
}

/// Runs the director over frames from any thread; outlives the data plane it came from.
#[derive(Debug)]
pub struct Runner(OwnedFd);

impl Runner {
    /// Runs the director over a frame as if it came in on `ifindex`, `repeat` times.
    ///
    /// # Errors
    /// The kernel's, when it cannot run the program.
    pub fn run(&self, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<TestRun> {
        self.run_marked(frame, ifindex, repeat, 0)
    }

    /// The same with a firewall mark on the frame.
    ///
    /// # Errors
    /// The kernel's, when it cannot run the program.
    pub fn run_marked(
        &self,
        frame: &[u8],
        ifindex: u32,
        repeat: u32,
        mark: u32,
    ) -> io::Result<TestRun> {
        let mut context = [0u8; SK_BUFF];
        context[SK_BUFF_MARK..SK_BUFF_MARK + 4].copy_from_slice(&mark.to_ne_bytes());
        context[SK_BUFF_IFINDEX..SK_BUFF_IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        run(&self.0, frame, &context, repeat)
    }
}

/// Leading part of `union bpf_attr` for the command, as the kernel lays it out.
#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

impl Programs {
    /// Runs *apply* over the first `items` items of a region.
    pub(crate) fn apply(&self, region: u32, items: u32) {
        batch(&self.apply, region, items, "apply");
    }

    /// Runs *expire* over the first `items` items of a region.
    pub(crate) fn expire(&self, region: u32, items: u32) {
        batch(&self.expire, region, items, "expire");
    }

    pub(crate) fn runner(&self) -> io::Result<Runner> {
        self.director.try_clone().map(Runner)
    }
}

fn batch(program: &OwnedFd, region: u32, items: u32, name: &str) {
    let mut context = [0u8; SK_BUFF];
    let mark = mark(region, items).to_ne_bytes();
    context[SK_BUFF_MARK..SK_BUFF_MARK + 4].copy_from_slice(&mark);
    // The program looks at the context alone; the kernel wants a frame all the same.
    if let Err(error) = run(program, &[0; 64], &context, 1) {
        tracing::error!(program = name, %error, "program could not be run");
    }
}

fn run(program: &OwnedFd, frame: &[u8], context: &[u8], repeat: u32) -> io::Result<TestRun> {
    // Room for headers that the program puts in front.
    let mut out = vec![0u8; frame.len() + 256];
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat,
        ctx_size_in: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRunAttr::default()
    };
    loop {
        // SAFETY: the attributes describe buffers that live during the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                &raw mut attr,
                size_of::<TestRunAttr>(),
            )
        };
        if done == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    out.truncate(attr.data_size_out as usize);
    Ok(TestRun {
        action: attr.retval as i32,
        frame: out,
        duration_ns: attr.duration,
    })
}
