//! Whole transcripts against a model director.

use std::collections::BTreeMap;
use std::path::Path;

use ipvsadm::names::{FixedNames, Services};
use ipvsadm::{World, run};

use crate::cases::{Case, Output, Step, Transcript, transcripts};
use crate::director::ModelDirector;
use crate::program;

/// Recorded cases by how they compare; a change here is a change of what is promised.
const SAME: usize = 602;
const SAME_BUT_ORDER: usize = 9;
const SAME_BUT_REFUSED_SERVERS: usize = 6;
const NOT_COMPARED: usize = 8;

/// Cases in which we differ on purpose, and why.
const DELIBERATE: &[(&str, usize, &str)] = &[
    (
        "save_restore",
        19,
        "comments are allowed in the input of -R",
    ),
    (
        "save_restore",
        20,
        "comments are allowed in the input of -R: the line after it was run",
    ),
];
/// Transcripts with addresses that the original sorts the wrong way round.
const MISSORTED: &[&str] = &["semantic_errors"];
/// Begins the message for what this director cannot do yet.
const NOT_YET: &str = "ipvsadm: not supported by this director yet: ";

/// How a case compares.
enum Verdict {
    Same,
    SameButOrder(&'static str),
    SameButRefusedServers,
    NotCompared(String),
    Different(Output),
}

#[test]
fn transcripts_replay_as_recorded() {
    let mut counts = BTreeMap::new();
    let mut failures = Vec::new();
    for transcript in transcripts() {
        let director = ModelDirector::start(&transcript.name);
        for (case, verdict) in replay(&transcript, &director) {
            let class = match verdict {
                Verdict::Same => "same",
                Verdict::SameButOrder(why) => {
                    println!("same but for the order ({why}): {}", case.title);
                    "same but for the order"
                }
                Verdict::SameButRefusedServers => {
                    println!("same without the servers refused before: {}", case.title);
                    "same without refused servers"
                }
                Verdict::NotCompared(why) => {
                    println!("not compared ({why}): {}", case.title);
                    "not compared"
                }
                Verdict::Different(ours) => {
                    failures.push(format!("{}\n  {:?}\n  {ours:?}", case.title, case.recorded));
                    "different"
                }
            };
            *counts.entry(class).or_insert(0) += 1;
        }
    }
    println!("{counts:?}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let count = |class| counts.get(class).copied().unwrap_or(0);
    assert_eq!(count("same"), SAME);
    assert_eq!(count("same but for the order"), SAME_BUT_ORDER);
    assert_eq!(
        count("same without refused servers"),
        SAME_BUT_REFUSED_SERVERS
    );
    assert_eq!(count("not compared"), NOT_COMPARED);
}

/// The built program, for transcripts that need no names and nothing that is refused.
#[test]
fn the_program_replays_transcripts() {
    let alone = [
        "daemon",
        "ipv6",
        "persistence",
        "server_weights_thresholds",
        "service_types",
        "zero_clear_set",
    ];
    for transcript in transcripts()
        .iter()
        .filter(|transcript| alone.contains(&transcript.name.as_str()))
    {
        let director = ModelDirector::start(&format!("program-{}", transcript.name));
        for step in &transcript.steps {
            let Step::Case(case) = step else {
                panic!("{} has actions", transcript.name)
            };
            let output = program::run(&case.line, &case.stdin, director.socket());
            assert_eq!(output, case.recorded, "{}", case.title);
        }
    }
}

fn replay<'s>(transcript: &'s Transcript, director: &ModelDirector) -> Vec<(&'s Case, Verdict)> {
    let names = names(&transcript.name);
    let mut refused_servers = Vec::new();
    let mut verdicts = Vec::new();
    for (at, step) in transcript.steps.iter().enumerate() {
        let case = match step {
            Step::Case(case) => case,
            Step::Action(action) => {
                director.act(action);
                continue;
            }
        };
        let ours = run_in_process(case, director.socket(), &names);
        let deliberate = DELIBERATE
            .iter()
            .find(|(name, of, _)| transcript.name == *name && at == *of);
        let verdict = match (ours.stderr.strip_prefix(NOT_YET), deliberate) {
            (Some(feature), _) => {
                refused_servers.extend(value_of(&case.line, "-r"));
                Verdict::NotCompared(format!("{} not supported yet", feature.trim_end()))
            }
            (None, Some((.., why))) => {
                assert_ne!(ours, case.recorded, "{} differs no more", case.title);
                Verdict::NotCompared(format!("differs on purpose: {why}"))
            }
            (None, None) => compare(&transcript.name, case, ours, &refused_servers),
        };
        verdicts.push((case, verdict));
    }
    verdicts
}

fn compare(transcript: &str, case: &Case, ours: Output, refused_servers: &[String]) -> Verdict {
    let mut ours = ours;
    let mut recorded = case.recorded.clone();
    // When a connection expires depends on when the transcript was recorded.
    mask_expiry(&mut ours);
    mask_expiry(&mut recorded);
    if ours == recorded {
        return Verdict::Same;
    }
    let kept = without_lines(&recorded.stdout, refused_servers);
    if ours
        == (Output {
            stdout: kept,
            ..recorded.clone()
        })
    {
        return Verdict::SameButRefusedServers;
    }
    let reason = if case.line.iter().any(|word| word == "--nosort") {
        Some("the kernel lists in the order of its hash")
    } else if MISSORTED.contains(&transcript) {
        Some("the original does not sort these")
    } else {
        None
    };
    let same_blocks = blocks(&ours.stdout) == blocks(&recorded.stdout);
    match reason {
        Some(reason) if same_blocks && ours.status == recorded.status => {
            Verdict::SameButOrder(reason)
        }
        Some(_) | None => Verdict::Different(ours),
    }
}

fn run_in_process(case: &Case, socket: &Path, names: &FixedNames) -> Output {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut world = World {
        program: "ipvsadm",
        socket,
        names,
        input: &mut case.stdin.as_bytes(),
        out: &mut out,
        err: &mut err,
    };
    let status = run(&case.line, &mut world).into();
    Output {
        stdout: String::from_utf8(out).unwrap(),
        stderr: String::from_utf8(err).unwrap(),
        status,
    }
}

/// The names of the host the transcripts were recorded on, as far as they occur.
fn names(transcript: &str) -> FixedNames {
    let services = Services::parse(
        "http 80/tcp www\nhttps 443/tcp\nhttps 443/udp\ndomain 53/tcp\ndomain 53/udp\n\
         mdns 5353/udp\nhttp-alt 8080/tcp webcache\nhttp-alt 8080/udp\n",
    );
    let host = |ip: &str, names: &[&str]| {
        (
            ip.parse().unwrap(),
            names.iter().map(|name| (*name).into()).collect(),
        )
    };
    let hosts = if transcript == "names" {
        vec![
            host("192.0.2.50", &["web.lab", "web"]),
            host("198.51.100.50", &["rs1.lab"]),
            host("2001:db8::50", &["six.lab"]),
        ]
    } else {
        Vec::new()
    };
    FixedNames { hosts, services }
}

fn value_of(line: &[String], option: &str) -> Option<String> {
    let at = line.iter().position(|word| word == option)?;
    line.get(at + 1).cloned()
}

fn without_lines(text: &str, servers: &[String]) -> String {
    text.split_inclusive('\n')
        .filter(|line| {
            !servers
                .iter()
                .any(|server| line.contains(&format!(" {server} ")))
        })
        .collect()
}

/// Services with their servers, in an order of their own.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.split_inclusive('\n') {
        let continues = line.starts_with("  ->") || line.starts_with("-a ");
        match blocks.last_mut() {
            Some(block) if continues => block.push_str(line),
            Some(_) | None => blocks.push(line.into()),
        }
    }
    blocks.sort();
    blocks
}

fn mask_expiry(output: &mut Output) {
    if !output.stdout.starts_with("IPVS connection entries") {
        return;
    }
    let mask = |line: &str| match (line.get(..4), line.get(4..9), line.get(9..)) {
        (Some(protocol), Some(expiry), Some(rest)) if expiry.as_bytes()[2] == b':' => {
            format!("{protocol}--:--{rest}")
        }
        _ => line.into(),
    };
    output.stdout = output.stdout.split_inclusive('\n').map(mask).collect();
}
