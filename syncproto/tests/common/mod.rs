//! What the tests of this crate share: bytes, recordings, random connections.
#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "says how to have a failure again")]

pub(crate) mod listing;
pub(crate) mod model;
pub(crate) mod random;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use syncproto::conn::SyncConn;
use syncproto::receiver::Receiver;
use syncproto::wire::{Message, Walk, WalkConfig, walk};

pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| (byte as char).to_digit(16).unwrap() as u8)
        .collect();
    assert!(digits.len().is_multiple_of(2), "{text}");
    digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
}

pub(crate) fn tests_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Every recording of a folder, by name.
pub(crate) fn recordings(folder: &str) -> Vec<(String, Value)> {
    let folder = tests_dir().join("golden").join(folder);
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    names.sort();
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_str(&text).unwrap())
    };
    names.iter().map(read).collect()
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

/// Value of an option in the command that started a daemon.
pub(crate) fn option_of(command: &str, option: &str) -> Option<usize> {
    let mut words = command.split_whitespace();
    words.find(|word| *word == option)?;
    words.next()?.parse().ok()
}

/// The entries of a message that must be one.
pub(crate) fn entries<'a>(message: &'a [u8], config: &WalkConfig) -> Walk<'a> {
    match walk(message, config) {
        Ok(Message::Entries(walk)) => walk,
        other => panic!("{other:?}"),
    }
}

/// The connections of a message in which nothing may be refused.
pub(crate) fn conns(message: &[u8], config: &WalkConfig) -> Vec<SyncConn> {
    let mut walk = entries(message, config);
    let conns: Vec<_> = walk
        .by_ref()
        .map(|entry| entry.unwrap().conn().unwrap())
        .collect();
    assert_eq!(walk.trailing(), Some(&[][..]));
    // A receiver reads them all into one place, and nothing of one may stay for the next.
    let mut heard = Vec::new();
    Receiver::new(*config).receive(message, |conn| heard.push(conn));
    assert_eq!(heard, conns);
    conns
}
