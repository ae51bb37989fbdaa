//! The built program, and what can be seen of it without a transcript.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ipvs_control::SOCKET_ENV;

use crate::cases::Output;
use crate::director::ModelDirector;

/// No director will ever answer here.
pub(crate) const NO_SOCKET: &str = "/nonexistent/control.sock";

pub(crate) fn command(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipvsadm"));
    // Messages repeat the name under which the program was started.
    command.arg0("ipvsadm").env(SOCKET_ENV, socket);
    command
}

pub(crate) fn run(line: &[String], stdin: &str, socket: &Path) -> Output {
    let mut command = command(socket);
    command.args(line);
    finish(command, stdin)
}

fn finish(mut command: Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Output {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        status: output.status.code().unwrap(),
    }
}

#[test]
fn a_missing_director_is_named_with_what_to_do() {
    for line in ["-L", "-C", "--set 1 2 3", "-S"] {
        let line: Vec<String> = line.split(' ').map(String::from).collect();
        let output = run(&line, "", Path::new(NO_SOCKET));
        assert_eq!(output.status, 2);
        assert_eq!(output.stdout, "");
        assert_eq!(output.stderr.lines().count(), 1);
        for part in [NO_SOCKET, "directord", "TANDEM_CONTROL"] {
            assert!(output.stderr.contains(part), "{}", output.stderr);
        }
    }
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(Path::new(NO_SOCKET))
        .arg("-h")
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}

#[test]
fn saved_rules_are_restored_by_the_programs_named_for_it() {
    let director = ModelDirector::start("wrappers");
    let run_as = |name: &str, line: &str, stdin: &str| {
        let mut command = command(director.socket());
        command.arg0(name).args(line.split_whitespace());
        let output = finish(command, stdin);
        (output.stdout, output.stderr, output.status)
    };
    let done = |stdout: &str| (stdout.to_owned(), String::new(), 0);
    let rules = "-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 192.0.2.9:80 -m -w 1\n";
    let before = run_as("ipvsadm", "-A -u 192.0.2.1:53", "");
    assert_eq!(before, done(""));
    let commented = format!("# saved\n{rules}");
    assert_eq!(run_as("/sbin/ipvsadm-restore", "", &commented), done(""));
    assert_eq!(run_as("/sbin/ipvsadm-save", "-n", ""), done(rules));
    for (name, line) in [
        ("ipvsadm-save", "-x"),
        ("ipvsadm-save", "-n -n"),
        ("ipvsadm-restore", "-n"),
    ] {
        let (stdout, stderr, status) = run_as(name, line, rules);
        assert_eq!((stdout.as_str(), status), ("", 1), "{name} {line}");
        assert_eq!(stderr.lines().count(), 2);
        assert!(stderr.starts_with(&format!("Usage: {name} ")), "{stderr}");
    }
    assert_eq!(run_as("ipvsadm-save", "-n", ""), done(rules));
}

#[test]
fn messages_repeat_the_name_of_the_program() {
    let output = command(Path::new(NO_SOCKET))
        .arg0("/sbin/ipvsadm")
        .arg("--nosuch")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "Try `/sbin/ipvsadm -h' or '/sbin/ipvsadm --help' for more information.\n"
    );
}

#[test]
fn what_the_director_cannot_be_asked_is_refused_by_name_without_asking() {
    for (line, what, status) in [
        (
            "-a -f 1 -r 192.0.2.1:1 -i --tun-type gue --tun-port 6080",
            "GUE tunnels",
            255,
        ),
        (
            "-e -f 1 -r 192.0.2.1:1 -i --tun-type gre",
            "GRE tunnels",
            255,
        ),
    ] {
        let words: Vec<String> = line.split(' ').map(String::from).collect();
        let output = run(&words, "", Path::new(NO_SOCKET));
        assert_eq!(output.status, status, "{line}");
        let expected = format!("ipvsadm: not supported by this director yet: {what}\n");
        assert_eq!(output.stderr, expected, "{line}");
    }
}
