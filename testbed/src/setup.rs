//! Set-up: makes a fresh Debian 12 with cargo able to build and run everything, once.
//!
//! The eBPF programs need a compiler with library sources and a linker for its LLVM. Debian's
//! `rustc-web` and `rust-web-src` bring the first; `bpf-linker` is built against the LLVM library
//! that the compiler itself uses. A machine with rustup's nightly, `rust-src` and `bpf-linker` is
//! taken as it is.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::probe;

/// Set for the children of a testbed that has set up and built already.
pub(crate) const PREPARED: &str = "TANDEM_TESTBED_PREPARED";
/// Where dataplane's build script looks when it does not find the default.
const RUSTC_VARIABLE: &str = "TANDEM_BPF_RUSTC";
const LINKER_VARIABLE: &str = "TANDEM_BPF_LINKER";
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
/// Major versions of LLVM that this version of the linker knows.
const LINKER_LLVM: [u32; 3] = [21, 22, 23];

/// Something the machine lacks and the set-up cannot bring; exit status 2.
#[derive(Debug)]
pub(crate) struct Missing(String);

impl Missing {
    pub(crate) fn new(what: impl Into<String>) -> Missing {
        Missing(what.into())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing: {}", self.0)
    }
}

impl std::error::Error for Missing {}

/// The tools for the eBPF programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tools {
    rustc: PathBuf,
    linker: PathBuf,
}

/// Probes the machine, installs what is missing, and builds the workspace.
///
/// # Errors
/// [`Missing`] when the machine cannot do it; otherwise the build failed.
pub(crate) fn prepare() -> Result<()> {
    probe::machine()?;
    if env::var_os(PREPARED).is_some() {
        return Ok(());
    }
    require_ip()?;
    let tools = match find_tools() {
        Some(tools) => tools,
        None => install_tools()?,
    };
    tools.announce();
    build()
}

/// Programs of others that tests compare ours with, and their Debian packages.
const TEST_PROGRAMS: [(&str, &str, &str); 2] = [
    ("keepalived", "keepalived", "VRRP peer of the tests"),
    ("tshark", "tshark", "dissector of the tests, 130 MB"),
];

/// Installs what only tests need. What cannot be had is said; its tests say that they are skipped.
pub(crate) fn prepare_tests() {
    if env::var_os(PREPARED).is_some() {
        return;
    }
    for (program, package, why) in TEST_PROGRAMS {
        if is_program(program) {
            continue;
        }
        // Without /etc/keepalived/keepalived.conf, which the package does not bring, Debian starts
        // no keepalived.
        if let Err(error) = install_packages(&[package], why, "half a minute") {
            progress(&format!("set-up: {error:#}"));
        }
    }
}

fn is_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Root's own programs are not in everybody's path.
    let dirs = env::split_paths(&path).chain(["/usr/sbin".into()]);
    dirs.into_iter().any(|dir| dir.join(name).is_file())
}

/// A cargo command in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(args)
        .current_dir(workspace())
        .env(PREPARED, "1");
    if let Some(tools) = CHOICE.get() {
        let said = [
            (RUSTC_VARIABLE, &tools.rustc),
            (LINKER_VARIABLE, &tools.linker),
        ];
        command.envs(
            said.into_iter()
                .filter(|(_, path)| !path.as_os_str().is_empty()),
        );
    }
    // What `cargo run` tells about this package means nothing to another cargo.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The folder of the workspace this program was built from.
pub(crate) fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

fn build() -> Result<()> {
    let begun = Instant::now();
    let status = cargo(&["build", "--release", "--workspace"])
        .status()
        .context("cargo")?;
    ensure!(status.success(), "the workspace does not build");
    progress(&format!("build: {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

impl Tools {
    /// Hands the choice to the build. The defaults are left unsaid, so that a build started by
    /// hand finds nothing changed.
    fn announce(&self) {
        let default = default_linker().is_some_and(|path| path == self.linker);
        CHOICE.get_or_init(|| Tools {
            rustc: if self.rustc == Path::new(SYSTEM_RUSTC) {
                PathBuf::new()
            } else {
                self.rustc.clone()
            },
            linker: if default {
                PathBuf::new()
            } else {
                self.linker.clone()
            },
        });
    }
}

/// Empty paths stand for the defaults.
static CHOICE: std::sync::OnceLock<Tools> = std::sync::OnceLock::new();

/// Tools that are there: named by the environment, Debian's, or rustup's.
fn find_tools() -> Option<Tools> {
    let named = (env::var_os(RUSTC_VARIABLE), env::var_os(LINKER_VARIABLE));
    if let (Some(rustc), Some(linker)) = named {
        return Some(Tools {
            rustc: rustc.into(),
            linker: linker.into(),
        });
    }
    let linker = default_linker()?;
    let rustc = system_compiler()
        .map(|_| SYSTEM_RUSTC.into())
        .or_else(nightly_compiler)?;
    Some(Tools { rustc, linker })
}

/// The LLVM of Debian's compiler, if it is new enough and has its library sources.
fn system_compiler() -> Option<u32> {
    let sources = Path::new("/usr/lib/rustlib/src/rust/library/core");
    if !sources.exists() || !Path::new(SYSTEM_RUSTC).exists() {
        return None;
    }
    let llvm = llvm_major(&output(Command::new(SYSTEM_RUSTC).arg("-vV"))?)?;
    LINKER_LLVM.contains(&llvm).then_some(llvm)
}

fn nightly_compiler() -> Option<PathBuf> {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    let root = PathBuf::from(output(&mut command)?.trim_end());
    let sources = root.join("lib/rustlib/src/rust/library/core");
    sources.exists().then(|| root.join("bin/rustc"))
}

/// The linker that the build finds by itself: in PATH or where cargo installs.
fn default_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(cargo_bin());
    dirs.map(|dir| dir.join(LINKER)).find(|file| file.is_file())
}

fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    Some(home?.join("bin"))
}

fn require_ip() -> Result<()> {
    if output(Command::new("ip").arg("-V")).is_none() {
        install_packages(&["iproute2"], "links and routes of the lab", "10 s")?;
    }
    Ok(())
}

fn install_tools() -> Result<Tools> {
    if system_compiler().is_none() {
        let packages = ["rustc-web", "rust-web-src"];
        install_packages(
            &packages,
            "compiler of the eBPF programs, 137 MB",
            "half a minute",
        )?;
    }
    let llvm = system_compiler().ok_or_else(|| {
        Missing::new(format!(
            "a compiler for eBPF: {SYSTEM_RUSTC} has no sources or a foreign LLVM"
        ))
    })?;
    if default_linker().is_none() {
        install_linker(llvm)?;
    }
    find_tools().ok_or_else(|| Missing::new("bpf-linker: installed, but not found").into())
}

fn install_linker(llvm: u32) -> Result<()> {
    progress(&format!(
        "set-up: {LINKER} {LINKER_VERSION} for LLVM {llvm}, about a minute"
    ));
    let begun = Instant::now();
    let features = format!("llvm-{llvm},no-llvm-linking");
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["install", LINKER, "--version", LINKER_VERSION, "--locked"]);
    command.args([
        "--no-default-features",
        "--features",
        &features,
        "--target",
        &target,
    ]);
    // Links nothing of LLVM by itself; this binds it to the library that the compiler brings, and
    // the explicit target keeps the argument away from build scripts.
    command.env("RUSTFLAGS", format!("-C link-arg=-lLLVM-{llvm}"));
    command
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .current_dir("/");
    let status = command.status().context("cargo install")?;
    if !status.success() {
        return Err(Missing::new(format!("{LINKER}: cargo could not install it")).into());
    }
    progress(&format!(
        "set-up: {LINKER} took {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn install_packages(packages: &[&str], why: &str, how_long: &str) -> Result<()> {
    let names = packages.join(" ");
    progress(&format!(
        "set-up: packages {names} ({why}), about {how_long}"
    ));
    let begun = Instant::now();
    let no_archive = |said: &str| {
        let reason = said
            .lines()
            .rev()
            .find(|line| line.starts_with("E:"))
            .unwrap_or("no answer");
        Missing::new(format!(
            "packages {names}: no package archive has them ({reason})"
        ))
    };
    apt(&["update", "-q"]).map_err(|said| no_archive(&said))?;
    let install = [
        "install",
        "-y",
        "-q",
        "--no-install-recommends",
        "--no-remove",
    ];
    let args: Vec<&str> = install.iter().chain(packages).copied().collect();
    apt(&args).map_err(|said| no_archive(&said))?;
    progress(&format!(
        "set-up: {names} took {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Runs apt-get; the error is what it said.
fn apt(args: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    command
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("E: apt-get: {error}")),
    }
}

/// Standard output of a command that succeeded.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Major number in the `LLVM version:` line of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

fn progress(line: &str) {
    crate::complain(line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_what_the_compiler_says() {
        let text = "rustc 1.96.0\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }

    #[test]
    fn what_is_missing_is_one_line() {
        let text = Missing::new("root: run this as root").to_string();
        assert_eq!(text, "missing: root: run this as root");
    }
}
