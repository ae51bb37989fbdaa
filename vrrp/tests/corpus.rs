//! What the fuzzers found worth keeping, replayed: `fuzz/corpus`.
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "says what was replayed")]

#[path = "fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::Path;

/// Together the corpora stay small enough to be read and kept.
const FILES_MAX: usize = 300;
const BYTES_MAX: usize = 1 << 20;

#[test]
fn every_kept_input_still_passes() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let (mut files, mut bytes) = (0, 0);
    for (target, body) in bodies::TARGETS {
        let mut paths: Vec<_> = fs::read_dir(corpora.join(target))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{target} has no corpus");
        println!("{target}: {} inputs", paths.len());
        for path in paths {
            // Shown when the body fails.
            println!("{}", path.display());
            let input = fs::read(&path).unwrap();
            body(&input);
            files += 1;
            bytes += input.len();
        }
    }
    println!("{files} inputs, {bytes} bytes");
    assert!(files <= FILES_MAX && bytes <= BYTES_MAX);
}
