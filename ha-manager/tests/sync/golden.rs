//! Recordings of a kernel's sync daemons: `syncproto/tests/golden`.

use std::fs;
use std::path::Path;

use serde_json::Value;

/// A capture, or a case of hand-made datagrams.
#[derive(Clone, Debug)]
pub(crate) struct Recording {
    pub(crate) name: String,
    pub(crate) json: Value,
}

/// All recordings of a folder, by name.
pub(crate) fn recordings(folder: &str) -> Vec<Recording> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../syncproto/tests/golden");
    let files = fs::read_dir(golden.join(folder)).unwrap();
    let mut all: Vec<Recording> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .map(|path| Recording {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            json: serde_json::from_slice(&fs::read(&path).unwrap()).unwrap(),
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let text = value[key].as_str();
    text.unwrap_or_else(|| panic!("{key} is no text: {}", value[key]))
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

/// The payload of a datagram, or of a step.
pub(crate) fn payload(datagram: &Value) -> Vec<u8> {
    let digits = text(datagram, "hex").as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
    digits.map(|pair| byte(pair).unwrap()).collect()
}

/// The word behind an option of a command.
pub(crate) fn option<'a>(command: &'a str, name: &str) -> Option<&'a str> {
    let mut words = command.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()
}
