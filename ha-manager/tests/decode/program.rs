//! `directord decode` as a program.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use serde_json::Value;

const CAPTURE: &str = "../syncproto/tests/golden/sync/v1_tcp_nat_rr_fin.pcap";
/// The user who may do nothing.
const NOBODY: u32 = 65_534;
/// Between two datagrams to a program that may not listen yet.
const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn a_capture_is_printed_as_text_or_one_object_per_line() {
    let capture = path(CAPTURE);
    let text = run(&["decode", &capture]);
    assert_eq!(text.status.code(), Some(0), "{text:?}");
    let lines: Vec<String> = text.stdout.lines().map(Result::unwrap).collect();
    assert_eq!(lines.len(), 2 + 3 + 6);
    assert!(
        lines[0].ends_with("  v1 syncid 2, 116 bytes, 3 entries"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("  TCP  ESTABLISHED 10.100.0.6:40011 "),
        "{}",
        lines[1]
    );

    let json = run(&["decode", &capture, "--json"]);
    let objects: Vec<Value> = json
        .stdout
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    let sizes: Vec<&Value> = objects.iter().map(|object| &object["size"]).collect();
    assert_eq!(sizes, [116, 224]);
}

#[test]
fn standard_input_is_read_for_a_dash() {
    let mut child = directord(&["decode", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let capture = std::fs::read(path(CAPTURE)).unwrap();
    child.stdin.take().unwrap().write_all(&capture).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout.lines().count(), 2);
}

#[test]
fn a_capture_without_anything_to_decode_says_so() {
    let empty = path("../syncproto/tests/golden/sync/v1_tcp_nat_syn_only.pcap");
    assert_eq!(
        run(&["decode", &empty]).stdout,
        b"nothing to decode in 0 frames\n"
    );
    assert_eq!(run(&["decode", &empty, "--json"]).stdout, b"");
}

#[test]
fn what_is_no_capture_is_one_line_and_status_1() {
    let capture = std::fs::read(path(CAPTURE)).unwrap();
    let directory = Scratch::new("broken");
    for (name, content, reason, lines) in [
        (
            "text",
            &b"# not a capture at all\n"[..],
            "not a capture file, neither pcap nor pcapng",
            0,
        ),
        (
            "empty",
            b"",
            "not a capture file, neither pcap nor pcapng",
            0,
        ),
        (
            "cut",
            &capture[..capture.len() - 1],
            "ends in the middle of frame 2",
            1,
        ),
    ] {
        let file = directory.0.join(name);
        std::fs::write(&file, content).unwrap();
        let file = file.to_str().unwrap();
        let output = run(&["decode", file, "--json"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let expected = format!("directord: {file}: {reason}\n");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
        assert_eq!(output.stdout.lines().count(), lines, "{name}");
    }
    let missing = run(&["decode", "/nonexistent/x.pcap"]);
    assert_eq!(missing.status.code(), Some(1));
    let message = "directord: /nonexistent/x.pcap: No such file or directory (os error 2)\n";
    assert_eq!(String::from_utf8(missing.stderr).unwrap(), message);
}

#[test]
fn a_command_line_that_is_not_in_order_exits_with_2() {
    for line in [
        &["decode"][..],
        &["decode", "a.pcap", "-i", "lo"],
        &["decode", "a.pcap", "--port", "0"],
        &["decode", "a.pcap", "--port", "65536"],
        &["decode", "-i", "nosuch0"],
    ] {
        let output = run(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
    }
    let message = run(&["decode", "-i", "nosuch0"]).stderr;
    assert_eq!(message, b"directord: interface nosuch0 does not exist\n");
}

/// Loopback shows every frame twice, as it leaves and as it arrives.
#[test]
fn an_interface_is_decoded_as_it_passes() {
    if !Uid::effective().is_root() {
        println!("skipped: a network namespace needs root");
        return;
    }
    // The namespace is this thread's alone, and what it starts inherits it.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut child = directord(&["decode", "-i", "lo", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = AtomicBool::new(false);
    let line = thread::scope(|scope| {
        scope.spawn(|| {
            while !heard.load(Ordering::SeqCst) {
                sender
                    .send_to(&[0, 9, 0, 8, 0, 1, 0, 0], "127.0.0.1:8850")
                    .unwrap();
                thread::sleep(PAUSE);
            }
        });
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        heard.store(true, Ordering::SeqCst);
        line
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let record: Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [("kind", "sync"), ("dst", "127.0.0.1"), ("verdict", "ok")] {
        assert_eq!(record[field], value);
    }
    for (field, value) in [
        ("dport", 8850),
        ("syncid", 9),
        ("version", 1),
        ("nr_conns", 0),
    ] {
        assert_eq!(record[field], value);
    }
}

#[test]
fn an_interface_that_goes_down_ends_it_with_one_line() {
    if !Uid::effective().is_root() {
        println!("skipped: a network namespace needs root");
        return;
    }
    // Loopback is down in a new namespace.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let output = run(&["decode", "-i", "lo"]);
    let expected = "directord: interface lo: ENETDOWN: Network is down\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_interface_needs_a_privilege_and_says_which() {
    if !Uid::effective().is_root() {
        println!("skipped: becoming another user needs root");
        return;
    }
    let output = directord(&["decode", "-i", "lo"]).uid(NOBODY).output();
    let output = output.unwrap();
    let expected = "directord: listening to an interface needs CAP_NET_RAW (you must be root)\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    assert_eq!(output.status.code(), Some(2));
}

fn directord(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_directord"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    directord(arguments).output().unwrap()
}

fn path(relative: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(relative);
    path.to_str().unwrap().to_owned()
}

/// A directory that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("decode-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
