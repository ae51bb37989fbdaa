//! Recorded transcripts of ipvsadm 1.31 and a kernel director, replayed with the shipped programs, packets
//! included.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::host::{Ended, Host, wait_for};
use crate::network::{self, Director, blocks, connections, without_size};

/// What is replayed, on a host for each list. Left out: `names`, whose host has names of its own, and
/// `daemon`, which is about sync daemons.
const HOSTS: [&[&str]; 3] = [
    &["counters_units"],
    &["traffic"],
    &[
        "ipv6",
        "list_options",
        "long_options",
        "persistence",
        "save_restore",
        "sched_all",
        "semantic_errors",
        "server_forwarding",
        "server_weights_thresholds",
        "service_types",
        "sort_order",
        "usage_errors",
        "zero_clear_set",
    ],
];
/// Begins the message for what this director cannot do yet.
const NOT_YET: &str = "ipvsadm: not supported by this director yet: ";
/// What may be refused so.
const REFUSED: [&str; 5] = [
    "tunnelling",
    "masquerading to 127.0.0.1",
    "GUE tunnels",
    "GRE tunnels",
    "persistence engines",
];
/// Schedulers the recorded kernel was built without.
const NOT_BUILT: &str = "twos";
/// Cases in which we differ on purpose.
const DELIBERATE: [(&str, usize); 2] = [
    // Comments are allowed in the input of -R, so the line after it is carried out.
    ("save_restore", 19),
    ("save_restore", 20),
];
/// Cases that compare, and those that do not for one of the reasons above; a change here is a change of
/// what is promised.
const SAME: usize = 511;
const NOT_COMPARED: usize = 33;

#[test]
fn transcripts_replay_with_the_shipped_programs() {
    let mut tally = Tally::default();
    for groups in HOSTS {
        // In namespaces of a thread of its own.
        let replayed = std::thread::spawn(|| replay_on_a_host(groups)).join();
        tally.add(replayed.unwrap());
    }
    for title in &tally.not_compared {
        println!("not compared: {title}");
    }
    let counts = (tally.same, tally.not_compared.len());
    println!("{} same, {} not compared", counts.0, counts.1);
    assert!(tally.different.is_empty(), "{}", tally.different.join("\n"));
    assert_eq!(counts, (SAME, NOT_COMPARED));
}

#[derive(Default)]
struct Tally {
    same: usize,
    not_compared: Vec<String>,
    different: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.same += other.same;
        self.not_compared.extend(other.not_compared);
        self.different.extend(other.different);
    }
}

/// What this director refused, which is missing from its listings.
#[derive(Default)]
struct Refused {
    /// As listings write them.
    servers: Vec<String>,
    services: Vec<String>,
}

fn replay_on_a_host(groups: &[&str]) -> Tally {
    let host = Host::new();
    let mut director = network::director(&host, "");
    let mut tally = Tally::default();
    for group in groups {
        // A transcript begins with an empty table.
        host.admin("-C");
        tally.add(replay(group, &host, &director));
    }
    director.daemon.is_undisturbed(&host);
    tally
}

fn replay(group: &str, host: &Host, director: &Director) -> Tally {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ipvsadm/tests/golden");
    let text = fs::read_to_string(recordings.join(format!("{group}.json"))).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    let mut tally = Tally::default();
    let mut refused = Refused::default();
    for (at, case) in recorded["cases"].as_array().unwrap().iter().enumerate() {
        if case["action"].is_string() {
            send(host, director, case);
            continue;
        }
        let case = Case::read(case);
        if case.line.iter().any(|word| word == NOT_BUILT) {
            continue;
        }
        let title = format!("{group}[{at}] ipvsadm {}", case.line.join(" "));
        let ours = case.run(host);
        if !refused.note(&case, &ours)
            && !refused.concerns(&case)
            && !DELIBERATE.contains(&(group, at))
            && case.is_numeric()
        {
            let (ours, expected) = (
                refused.seen(&case, &ours),
                refused.seen(&case, &case.recorded),
            );
            if ours == expected {
                tally.same += 1;
            } else {
                tally
                    .different
                    .push(format!("{title}\n  {expected:?}\n  {ours:?}"));
            }
        } else {
            tally.not_compared.push(title);
        }
    }
    tally
}

/// Sends the packets of a recorded action, and waits until they have been counted.
fn send(host: &Host, director: &Director, action: &Value) {
    let before = in_pkts(host);
    let mut from_clients = 0;
    let mut last = "";
    for packet in action["packets"].as_array().unwrap() {
        let text = packet["pkt"].as_str().unwrap();
        let (text, times) = match text.strip_prefix("the same, ") {
            Some(more) => (last, more.split(' ').next().unwrap().parse().unwrap()),
            None => (text, 1),
        };
        director.wire.send(text, times);
        if packet["from"] == "client" {
            from_clients += u64::from(times);
        }
        last = text;
    }
    wait_for("the packets of an action", || {
        in_pkts(host) - before == from_clients
    });
}

/// Packets from clients, of the whole director.
fn in_pkts(host: &Host) -> u64 {
    let text = host.directord(&["proc", "ip_vs_stats"]).succeeded();
    let number = text.lines().nth(2).unwrap().split_whitespace().nth(1);
    u64::from_str_radix(number.unwrap(), 16).unwrap()
}

/// A run of the real program.
struct Case {
    line: Vec<String>,
    stdin: String,
    recorded: Ended,
}

/// Of an output, what does not depend on the moment or the kernel's hash.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    out: Vec<String>,
    err: String,
    status: Option<i32>,
}

impl Case {
    fn read(value: &Value) -> Case {
        let text = |field: &str| value[field].as_str().unwrap().to_owned();
        let words = value["argv"].as_array().unwrap().iter();
        let status = i32::try_from(value["exit"].as_i64().unwrap()).unwrap();
        Case {
            line: words.map(|word| word.as_str().unwrap().into()).collect(),
            stdin: text("stdin"),
            recorded: Ended {
                status: Some(status),
                out: text("stdout"),
                err: text("stderr"),
            },
        }
    }

    fn run(&self, host: &Host) -> Ended {
        let mut command = host.command("ipvsadm");
        // Messages repeat the name under which the program was started.
        command.arg0("ipvsadm").args(&self.line);
        command.stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read its input closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(self.stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ended {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn has(&self, words: &[&str]) -> bool {
        self.line.iter().any(|word| words.contains(&word.as_str()))
    }

    /// Whether the output has no names, which are those of the host.
    fn is_numeric(&self) -> bool {
        let named = ["TCP ", "UDP ", "SCTP ", "FWM ", "-A ", "-a "];
        let has_names = |line: &str| named.iter().any(|it| line.starts_with(it));
        self.has(&["-n", "--numeric", "-Ln", "-ln", "-Sn", "-Lnc"])
            || !self.recorded.out.lines().any(has_names)
    }

    fn value_of(&self, option: &str) -> Option<&str> {
        let at = self.line.iter().position(|word| word == option)?;
        self.line.get(at + 1).map(String::as_str)
    }

    /// The service a command is about, as listings write it.
    fn service(&self) -> Option<String> {
        let of = |option, protocol| Some(format!("{protocol}  {}", self.value_of(option)?));
        of("-t", "TCP").or_else(|| of("-u", "UDP"))
    }
}

impl Refused {
    /// Whether the director could not do what the case asked.
    fn note(&mut self, case: &Case, ours: &Ended) -> bool {
        let mut found = false;
        for line in ours.err.lines() {
            let Some(what) = line.strip_prefix(NOT_YET) else {
                continue;
            };
            let known = |it: &&str| what.starts_with(*it);
            assert!(REFUSED.iter().any(known), "{:?}: {line}", case.line);
            found = true;
        }
        if found && case.has(&["--pe"]) {
            self.services.extend(case.service());
        } else if found {
            let words = case.stdin.lines().filter(|line| line.contains(" -i"));
            let words = words.flat_map(str::split_whitespace);
            let words: Vec<&str> = words.chain(case.line.iter().map(String::as_str)).collect();
            let pairs = words.windows(2).filter(|pair| pair[0] == "-r");
            for pair in pairs {
                let server = pair[1];
                let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
                // A tunnel has the port of its service, whatever was asked; by mark there is none.
                for name in [server, host] {
                    let ports = ["", ":80", ":0"].map(|port| format!("{name}{port}"));
                    self.servers.extend(ports);
                }
            }
        }
        found
    }

    /// Whether the case is about something that is not there.
    fn concerns(&self, case: &Case) -> bool {
        let service = case.service();
        let server = case.value_of("-r");
        service.is_some_and(|service| self.services.contains(&service))
            || server.is_some_and(|server| self.servers.iter().any(|it| it == server))
    }

    fn seen(&self, case: &Case, output: &Ended) -> Seen {
        let text = without_size(&output.out);
        let out = if text.starts_with("IPVS connection entries") {
            connections(&text)
        } else if case.has(&["--rate"]) {
            let kept = self.without(&text);
            kept.lines().map(without_numbers).collect()
        } else {
            blocks(&self.without(&text))
        };
        let err = output.err.lines().filter(|line| !line.starts_with(NOT_YET));
        Seen {
            out,
            err: err.map(|line| format!("{line}\n")).collect(),
            status: output.status,
        }
    }

    fn without(&self, text: &str) -> String {
        let mut kept = String::new();
        let mut in_refused_service = false;
        for line in text.split_inclusive('\n') {
            let saved = line.replace("-A -t", "TCP ").replace("-A -u", "UDP ");
            let is_server = line.starts_with("  -> ") || line.starts_with("-a ");
            if !is_server {
                let is_refused = |it: &String| saved.starts_with(&format!("{it} "));
                in_refused_service = self.services.iter().any(is_refused);
            }
            let is_refused = |it: &String| line.contains(&format!(" {it} "));
            let in_refused_server = is_server && self.servers.iter().any(is_refused);
            if !(in_refused_service || in_refused_server) {
                kept.push_str(line);
            }
        }
        kept
    }
}

/// Rates depend on the moment: what is left is who has any.
fn without_numbers(line: &str) -> String {
    line.get(..33).unwrap_or(line).trim_end().to_owned()
}
