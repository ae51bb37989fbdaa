//! The shape of the workspace: who imports whom, and the rules that every crate keeps.
//!
//! ```text
//!         ipvsadm      testbed (runs the shipped binaries)
//!              \        /
//!             ipvs-control <------ ha-manager ------> vrrp
//!                   |              /        \
//!                   |        syncproto    dataplane ---> dataplane-common <--- dataplane-ebpf
//!                   |             |            |                |
//!                   +-------------+-> ipvs-model <--------------+
//! ```
//!
//! Arrows point at what is imported; `ha-manager` and `ipvsadm` also import `ipvs-model`, and
//! `tests` may import all but `dataplane-ebpf`. [`ALLOWED`] is the same as data.
#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each of our packages may import of ours. An edge need not exist yet.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("dataplane", &["dataplane-common", "ipvs-model"]),
    ("dataplane-common", &["ipvs-model"]),
    ("dataplane-ebpf", &["dataplane-common"]),
    (
        "ha-manager",
        &[
            "dataplane",
            "ipvs-control",
            "ipvs-model",
            "syncproto",
            "vrrp",
        ],
    ),
    ("ipvs-control", &["ipvs-model"]),
    ("ipvs-model", &[]),
    ("ipvsadm", &["ipvs-control", "ipvs-model"]),
    ("syncproto", &["ipvs-model"]),
    ("testbed", &["ipvs-control"]),
    ("tests", EVERYTHING_BUT_THE_PROGRAMS),
    ("vrrp", &[]),
];

const EVERYTHING_BUT_THE_PROGRAMS: &[&str] = &[
    "dataplane",
    "dataplane-common",
    "ha-manager",
    "ipvs-control",
    "ipvs-model",
    "ipvsadm",
    "syncproto",
    "testbed",
    "vrrp",
];

/// Crates that do IO: protocol code does without them unless its feature `net` is on.
const IO_CRATES: [&str; 10] = [
    "async-io",
    "libc",
    "mio",
    "netlink-sys",
    "nix",
    "pnet",
    "rtnetlink",
    "rustix",
    "socket2",
    "tokio",
];

/// Crates that read no clock and never wait, each with its own `clippy.toml`.
const TIMELESS: [&str; 4] = ["dataplane/common", "dataplane/model", "syncproto", "vrrp"];

/// Folders that hold nothing of ours.
const NOT_SOURCE: [&str; 2] = [".git", "target"];

#[test]
fn packages_import_only_what_the_graph_allows() {
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let packages = packages();
    let ours: BTreeSet<_> = packages.keys().map(String::as_str).collect();
    let placed: BTreeSet<_> = allowed.keys().copied().collect();
    assert_eq!(
        ours, placed,
        "the packages there are, and those with a place in the graph"
    );
    for (name, package) in &packages {
        for (import, kind) in imports(package) {
            if ours.contains(import.as_str()) {
                let fits = allowed[name.as_str()].contains(&import.as_str());
                assert!(fits, "{name} must not import {import} ({kind} dependency)");
            }
        }
    }
}

#[test]
fn the_graph_has_no_cycle() {
    let allowed: BTreeMap<_, _> = ALLOWED.into_iter().collect();
    let mut left = allowed.clone();
    while !left.is_empty() {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, imports)| imports.iter().all(|import| !left.contains_key(import)))
            .map(|(name, _)| *name)
            .collect();
        assert!(
            !free.is_empty(),
            "these import each other: {:?}",
            left.keys()
        );
        left.retain(|name, _| !free.contains(name));
    }
}

#[test]
fn protocol_crates_have_no_socket_crate_without_their_features() {
    for package in ["syncproto", "vrrp"] {
        let options = "--locked --no-default-features --edges normal --prefix none --format {p}";
        let args = ["tree", "--package", package].into_iter();
        let tree = cargo(&args.chain(options.split(' ')).collect::<Vec<_>>());
        let names: Vec<_> = tree
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(names.first(), Some(&package));
        for name in names {
            assert!(!IO_CRATES.contains(&name), "{package} pulls in {name}");
        }
    }
}

#[test]
fn timeless_crates_repeat_the_root_lints_and_forbid_clocks() {
    let root = read("clippy.toml");
    for package in TIMELESS {
        let own = read(&format!("{package}/clippy.toml"));
        // A crate's file replaces the root one.
        for setting in root.lines() {
            assert!(
                own.lines().any(|line| line == setting),
                "{package}: {setting} is missing"
            );
        }
        for method in ["Instant::now", "SystemTime::now", "sleep"] {
            let forbidden = own
                .lines()
                .any(|line| line.contains(method) && line.contains("reason"));
            assert!(
                forbidden,
                "{package}: {method} is not forbidden with a reason"
            );
        }
    }
}

#[test]
fn every_member_inherits_the_lints() {
    for (name, package) in packages() {
        if name == "dataplane-ebpf" {
            // A workspace of its own.
            continue;
        }
        let manifest = text(&package, "manifest_path");
        let inherits = fs::read_to_string(manifest)
            .unwrap()
            .contains("[lints]\nworkspace = true\n");
        assert!(inherits, "{name}: [lints] workspace = true is missing");
    }
}

#[test]
fn every_package_states_its_licence() {
    for (name, package) in packages() {
        let expected = if name == "dataplane-ebpf" {
            "MIT OR GPL-2.0-only"
        } else {
            "MIT OR Apache-2.0"
        };
        assert_eq!(text(&package, "license"), expected, "{name}");
    }
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    // Put together here, so that this file does not name them.
    let places = ["home", "root", "Users"].map(|user| format!("/{user}/"));
    let mut files = Vec::new();
    collect(root(), &mut files);
    assert!(files.contains(&root().join("Cargo.toml")));
    for file in files {
        // What is not text was not written by hand.
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            let named = places.iter().find(|place| line.contains(place.as_str()));
            assert_eq!(named, None, "{}:{number}", file.display());
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Standard output of a cargo command in the workspace.
fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Our packages by name, those of the workspace and the eBPF programs.
fn packages() -> BTreeMap<String, Value> {
    let mut packages = BTreeMap::new();
    for manifest in ["Cargo.toml", "dataplane/ebpf/Cargo.toml"] {
        let args = [
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--manifest-path",
            manifest,
        ];
        let metadata: Value = serde_json::from_str(&cargo(&args)).unwrap();
        for package in metadata["packages"].as_array().unwrap() {
            packages.insert(text(package, "name").to_owned(), package.clone());
        }
    }
    packages
}

/// What a package depends on, and how.
fn imports(package: &Value) -> Vec<(String, String)> {
    let dependencies = package["dependencies"].as_array().unwrap();
    let kind = |dependency: &Value| dependency["kind"].as_str().unwrap_or("normal").to_owned();
    dependencies
        .iter()
        .map(|dependency| (text(dependency, "name").to_owned(), kind(dependency)))
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// All files below a folder.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if entry.file_type().unwrap().is_dir() {
            if !NOT_SOURCE.iter().any(|skipped| name == *skipped) {
                collect(&entry.path(), files);
            }
        } else {
            files.push(entry.path());
        }
    }
}
