//! The recorded captures, and how they are read here.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use ha_manager::decode::capture::{CaptureError, read_from};
use ha_manager::decode::{Decoder, Record};
use serde_json::Value;

/// A capture and what was written down about it.
pub(crate) struct Recorded {
    pub(crate) name: String,
    pub(crate) pcap: Vec<u8>,
    pub(crate) notes: Value,
}

/// Sync captures of kernels.
pub(crate) fn sync() -> Vec<Recorded> {
    let all = recorded("../syncproto/tests/golden/sync");
    assert_eq!(all.len(), 42);
    all
}

/// VRRP captures of keepalived.
pub(crate) fn vrrp() -> Vec<Recorded> {
    let all = recorded("../vrrp/tests/golden");
    assert_eq!(all.len(), 35);
    all
}

/// Every capture of a directory, by name.
fn recorded(directory: &str) -> Vec<Recorded> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let files = std::fs::read_dir(&directory).unwrap();
    let mut paths: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "pcap")
        })
        .collect();
    paths.sort();
    let read = |path: PathBuf| Recorded {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        notes: serde_json::from_slice(&std::fs::read(path.with_extension("json")).unwrap())
            .unwrap(),
        pcap: std::fs::read(path).unwrap(),
    };
    paths.into_iter().map(read).collect()
}

/// The records of a whole capture, and how it ended.
pub(crate) fn decode(pcap: &[u8], port: Option<u16>) -> (Vec<Record>, Result<(), CaptureError>) {
    let decoder = Decoder::new(port);
    let mut records = Vec::new();
    let end = read_from(Box::new(Cursor::new(pcap.to_vec())), &mut |captured| {
        records.extend(decoder.decode(captured));
        Ok(())
    });
    (records, end)
}

/// A record as `--json` prints it.
pub(crate) fn json(record: &Record) -> Value {
    serde_json::to_value(record).unwrap()
}

/// Blanks between bytes are passed over.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.replace(' ', "");
    let digits = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.map(byte).collect()
}
