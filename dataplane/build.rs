//! Builds the eBPF object with its own compiler and puts it into `OUT_DIR`.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `TANDEM_BPF_RUSTC` | compiler whose sysroot has the library sources | `/usr/bin/rustc` |
//! | `TANDEM_BPF_LINKER` | bpf-linker | `bpf-linker` in `PATH` or in cargo's `bin` |

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What cargo exports for this build and must not reach the nested one.
const LEAKING: [&str; 12] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "DEBUG",
    "HOST",
    "OPT_LEVEL",
    "OUT_DIR",
    "PROFILE",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "TARGET",
];

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={error}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    for dir in [
        "ebpf/src",
        "ebpf/Cargo.toml",
        "ebpf/Cargo.lock",
        "common",
        "model",
    ] {
        println!("cargo::rerun-if-changed={}", here.join(dir).display());
    }
    let rustc = chosen("TANDEM_BPF_RUSTC").unwrap_or_else(|| "/usr/bin/rustc".into());
    let linker = chosen("TANDEM_BPF_LINKER").unwrap_or_else(find_linker);
    check_tools(&rustc, &linker)?;

    let target_dir = out.join("ebpf");
    let flags = [
        format!(
            "--cfg=bpf_target_arch=\"{}\"",
            variable("CARGO_CFG_TARGET_ARCH")?
        ),
        "-Cdebuginfo=2".into(),
        "-Ctarget-cpu=v3".into(),
        format!("-Clinker={linker}"),
        "-Clink-arg=--btf".into(),
        format!("--remap-path-prefix={}=.", here.display()),
    ];
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(here.join("ebpf"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "-Z",
            "build-std=core",
        ])
        .args(["--target", "bpfel-unknown-none"])
        .arg("--target-dir")
        .arg(&target_dir);
    for (name, _) in env::vars() {
        let prefixes = ["CARGO_CFG_", "CARGO_FEATURE_", "DEP_"];
        let leaks = prefixes.iter().any(|prefix| name.starts_with(prefix));
        if leaks || LEAKING.contains(&name.as_str()) {
            cargo.env_remove(name);
        }
    }
    // A stable compiler needs the bootstrap switch for build-std and inline assembly.
    cargo
        .env("RUSTC", &rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let status = cargo
        .status()
        .map_err(|error| format!("nested cargo: {error}"))?;
    if !status.success() {
        return Err(format!("the eBPF programs did not build ({status})"));
    }
    let object = target_dir.join("bpfel-unknown-none/release/dataplane-ebpf");
    fs::copy(&object, out.join("dataplane.o"))
        .map_err(|error| format!("{}: {error}", object.display()))?;
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

fn chosen(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// `bpf-linker` from cargo's own directory if it is there, else whatever `PATH` has.
fn find_linker() -> String {
    let home = env::var("CARGO_HOME").ok().map(PathBuf::from);
    let home = home.or_else(|| {
        env::var("HOME")
            .ok()
            .map(|home| Path::new(&home).join(".cargo"))
    });
    let installed = home
        .map(|home| home.join("bin/bpf-linker"))
        .filter(|path| path.exists());
    installed.map_or_else(|| "bpf-linker".into(), |path| path.display().to_string())
}

fn check_tools(rustc: &str, linker: &str) -> Result<(), String> {
    let hint = "run `cargo suite` or `cargo drill` once: their set-up installs it";
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output();
    let sysroot = sysroot.map_err(|error| format!("eBPF compiler {rustc}: {error}; {hint}"))?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
    if !sources.exists() {
        return Err(format!(
            "library sources {} are missing; {hint}",
            sources.display()
        ));
    }
    Command::new(linker)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{linker}: {error}; {hint}"))?;
    Ok(())
}
