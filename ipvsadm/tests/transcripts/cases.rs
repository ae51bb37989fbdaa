//! The recorded transcripts.

use std::path::PathBuf;

use serde_json::Value;

/// A transcript: it starts with an empty table, and its steps run in order.
pub(crate) struct Transcript {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

pub(crate) enum Step {
    Case(Case),
    /// Something that happened between two cases, by name.
    Action(String),
}

/// A run of the real program.
pub(crate) struct Case {
    /// Transcript and position, for messages.
    pub(crate) title: String,
    pub(crate) line: Vec<String>,
    pub(crate) stdin: String,
    pub(crate) recorded: Output,
}

/// What a run printed, and its exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: i32,
}

/// Every transcript of the directory, by name.
pub(crate) fn transcripts() -> Vec<Transcript> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    assert_eq!(paths.len(), 17);
    paths
        .iter()
        .map(|path| transcript(&std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn transcript(text: &str) -> Transcript {
    let value: Value = serde_json::from_str(text).unwrap();
    let name = string(&value, "group");
    let steps = value["cases"].as_array().unwrap().iter().enumerate();
    let steps = steps.map(|(at, case)| step(&name, at, case)).collect();
    Transcript { name, steps }
}

fn step(transcript: &str, at: usize, value: &Value) -> Step {
    if value["action"].is_string() {
        return Step::Action(string(value, "action"));
    }
    let words = value["argv"].as_array().unwrap().iter();
    let line: Vec<String> = words.map(|word| word.as_str().unwrap().into()).collect();
    Step::Case(Case {
        title: format!("{transcript}[{at}] ipvsadm {}", line.join(" ")),
        line,
        stdin: string(value, "stdin"),
        recorded: Output {
            stdout: string(value, "stdout"),
            stderr: string(value, "stderr"),
            status: i32::try_from(value["exit"].as_i64().unwrap()).unwrap(),
        },
    })
}

fn string(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().into()
}
