//! The transcript of the real ipvsadm about sync daemons, replayed against a director.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::host::Host;

/// Cases of the transcript.
const CASES: usize = 61;
/// What the director cannot do yet, and cases that show it: those that start such a daemon, list
/// it and stop it.
const NOT_YET: [(&str, [usize; 3]); 2] = [
    ("an IPv6 group of a backup", [15, 16, 17]),
    ("an IPv6 group of a master", [18, 19, 20]),
];
const REFUSED: &str = "ipvsadm: not supported by this director yet: IPv6 groups\n";

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
        let not_yet = NOT_YET.iter().find(|(_, cases)| cases.contains(&nth));
        if let Some((what, [start, ..])) = not_yet {
            println!("not compared ({what} is refused): daemon[{nth}]");
            if nth == *start {
                assert_eq!(ours, (String::new(), REFUSED.to_owned(), Some(255)));
            }
            continue;
        }
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
    assert_eq!(same, CASES - 6);
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
