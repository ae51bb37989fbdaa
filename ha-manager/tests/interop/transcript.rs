//! The transcript of the real ipvsadm about sync daemons, replayed against a director.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::host::Host;

/// Cases of the transcript.
const CASES: usize = 61;

#[test]
fn sync_daemons_are_started_listed_and_stopped_as_by_the_real_program() {
    let host = Host::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ipvsadm/tests/golden/daemon.json");
    let transcript: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let cases = transcript["cases"].as_array().unwrap();
    assert_eq!(cases.len(), CASES);
    let mut same = 0;
    for (nth, case) in cases.iter().enumerate() {
        let words: Vec<&str> = case["argv"]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        let output = host.ipvsadm(&words);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ours = (
            text(output.stdout),
            // Messages repeat the name under which the program was started.
            without_path(&text(output.stderr)),
            output.status.code().map(i64::from),
        );
        let recorded = |field: &str| case[field].as_str().unwrap().to_owned();
        let expected = (
            recorded("stdout"),
            recorded("stderr"),
            case["exit"].as_i64(),
        );
        assert_eq!(ours, expected, "daemon[{nth}] {words:?}");
        same += 1;
    }
    println!("{same} cases as recorded");
    assert_eq!(same, CASES);
}

fn without_path(message: &str) -> String {
    let words = message.split_inclusive(' ');
    let without = |word: &str| match (word.find('/'), word.find("ipvsadm")) {
        (Some(slash), Some(name)) if slash < name => {
            format!("{}{}", &word[..slash], &word[name..])
        }
        _ => word.to_owned(),
    };
    words.map(without).collect()
}
