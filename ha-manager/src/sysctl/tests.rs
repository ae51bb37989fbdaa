use clap::Parser;

use super::*;
use crate::config::Sysctl;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: SysctlArgs,
}

/// What a command printed, complained of, and left behind.
struct Ran {
    done: bool,
    out: String,
    complaints: Vec<String>,
    sysctl: Sysctl,
}

#[test]
fn everything_is_shown_in_the_order_of_names() {
    let ran = run_words(&["-a"]);
    assert!(ran.done);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines.is_sorted(), "{lines:?}");
    assert_eq!(lines[0], "net.ipv4.vs.am_droprate = 10");
    assert!(lines.contains(&"net.ipv4.vs.sync_threshold = 3\t50"));
    let names = run_words(&["-aN"]).out;
    assert_eq!(names.lines().nth(1), Some("net.ipv4.vs.amemthresh"));
    let values = run_words(&["-a", "-n"]).out;
    assert_eq!(values.lines().nth(1), Some("1024"));
}

#[test]
fn a_name_is_found_in_every_spelling() {
    for name in [
        "sync_threshold",
        "net.ipv4.vs.sync_threshold",
        "net/ipv4/vs/sync_threshold",
    ] {
        let ran = run_words(&[name]);
        assert_eq!(ran.out, "net.ipv4.vs.sync_threshold = 3\t50\n", "{name}");
        let value = format!("{name}=9");
        let ran = run_words(&["-w", &value, name]);
        assert_eq!(ran.out, "net.ipv4.vs.sync_threshold = 9\n", "{name}");
        assert_eq!(ran.complaints, [format!("{name}: -w needs NAME=VALUE")]);
        assert!(!ran.done);
    }
}

#[test]
fn each_key_is_on_its_own() {
    let ran = run_words(&[
        "-w",
        "sync_retries=4",
        "sync_retries = 2",
        "colour=1",
        "net.ipv4.ip_forward=1",
        "sync_threshold=5 5",
        "sync_threshold=2 5",
        "drop_entry=3",
        "backup_only=",
    ]);
    assert!(!ran.done);
    assert_eq!(
        ran.out,
        "net.ipv4.vs.sync_retries = 2\nnet.ipv4.vs.sync_threshold = 2 5\n"
    );
    assert_eq!(
        ran.complaints,
        [
            "setting key \"net.ipv4.vs.sync_retries\": 4 is not between 0 and 3",
            "cannot stat net.ipv4.vs.colour: no such tunable",
            "cannot stat net.ipv4.ip_forward: no such tunable",
            "setting key \"net.ipv4.vs.sync_threshold\": \"5 5\" needs a threshold below the \
             period, or a period of 0",
            "setting key \"net.ipv4.vs.drop_entry\": 3 is not supported by this director yet, it \
             has only the default 0: the defence against floods",
            "setting key \"net.ipv4.vs.backup_only\": \"\" is not a number",
        ]
    );
    let sync = ran.sysctl.sync();
    assert_eq!((sync.retries, sync.threshold, sync.period), (2, 2, 5));
}

#[test]
fn without_w_a_value_is_set_too_and_a_name_is_shown() {
    let ran = run_words(&["sync_ports=4", "sync_ports"]);
    assert_eq!(ran.out, "net.ipv4.vs.sync_ports = 4\n".repeat(2));
    assert!(ran.done);
    let quiet = run_words(&["-q", "sync_ports=4"]);
    assert_eq!((quiet.done, quiet.out.as_str()), (true, ""));
    assert_eq!(quiet.sysctl.sync().ports, 4);
}

#[test]
fn unknown_names_can_be_ignored_and_bad_values_cannot() {
    let ran = run_words(&["-e", "colour", "colour=1", "sync_ports=3"]);
    assert_eq!(
        ran.complaints,
        ["setting key \"net.ipv4.vs.sync_ports\": 3 is not a power of two"]
    );
    assert!(!ran.done);
    assert!(run_words(&["-e", "colour"]).done);
}

#[test]
fn what_cannot_be_printed_is_escaped_and_cut() {
    let ran = run_words(&["a\u{1b}[2J\nb"]);
    assert_eq!(
        ran.complaints,
        ["cannot stat net.ipv4.vs.a\\u{1b}[2J\\nb: no such tunable"]
    );
    let long = "x".repeat(100_000);
    let ran = run_words(&[&long, &format!("{long}=1"), &format!("sync_ports={long}")]);
    assert_eq!(ran.complaints.len(), 3);
    for complaint in &ran.complaints {
        assert!(complaint.len() < 200, "{complaint}");
    }
}

#[test]
fn a_command_line_says_what_to_do() {
    for words in [
        &[][..],
        &["-w"],
        &["-a", "sync_ports"],
        &["-p"],
        &["-a", "-p", "file"],
        &["-n", "-N", "sync_ports"],
    ] {
        let line = ["sysctl"].iter().chain(words);
        assert!(Cli::try_parse_from(line).is_err(), "{words:?}");
    }
}

/// Carries a command out on tunables that no director has.
fn run_words(words: &[&str]) -> Ran {
    let line = ["sysctl"].iter().chain(words);
    let args = Cli::try_parse_from(line).unwrap().args;
    let mut sysctl = Sysctl::default();
    let mut call = |request: &Request| {
        if let Request::SetSysctl { name, value } = request {
            return Ok(match sysctl.set(name, value) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::SysctlRefused(error),
            });
        }
        assert_eq!(*request, Request::ListSysctl);
        Ok(Reply::Sysctl(sysctl.list()))
    };
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let mut complain = |complaint: &str| complaints.push(complaint.to_owned());
    let done = run(&args, &mut call, &mut out, &mut complain).unwrap();
    Ran {
        done,
        out: String::from_utf8(out).unwrap(),
        complaints,
        sysctl,
    }
}
