use std::path::Path;

use super::*;
use crate::netlink::Link;
use crate::script_runner::Trouble;
use crate::status::LinkState;

const PAIR: &str = "[director]
interfaces = [\"eth0\"]
[[track_process]]
name = \"proxy\"
process = \"haproxy\"
quorum = 2
interval_ms = 3600000
[[track_file]]
name = \"load\"
file = \"/nonexistent/load\"
";

fn instance(name: &str, vrid: u8, lines: &str) -> String {
    format!(
        "[[vrrp]]\nname = \"{name}\"\ninterface = \"eth0\"\nvrid = {vrid}\n\
         vips = [\"192.0.2.{vrid}\"]\n{lines}\n"
    )
}

fn tracking(sections: &str) -> Tracking {
    let text = format!("{PAIR}{sections}");
    let config = Config::parse(&text, Path::new("d.toml"), "host").unwrap();
    let (scripts, processes, files) = objects::objects(&config);
    Tracking {
        scripts,
        processes,
        files,
        instances: standing::watched(&config),
        readings: mpsc::channel(1).1,
        tasks: Vec::new(),
        runner: None,
        _stop: None,
    }
}

fn network(links: &[(&str, LinkState)]) -> NetworkState {
    let mut network = NetworkState::default();
    for (name, state) in links {
        let link = Link {
            ifindex: 2,
            state: *state,
            mac: None,
        };
        network.links.insert((*name).to_owned(), link);
    }
    network
}

fn up() -> NetworkState {
    network(&[("eth0", LinkState::Up), ("eth1", LinkState::Up)])
}

fn standing(fault: Option<&str>, weights: i32, ready: bool) -> Standing {
    Standing {
        fault: fault.map(str::to_owned),
        weights,
        ready,
    }
}

fn counted(count: u32) -> Reading {
    Reading::Process {
        index: 0,
        count: Ok(count),
    }
}

fn found(found: Found) -> Reading {
    Reading::File { index: 0, found }
}

#[test]
fn the_own_interface_is_a_condition_unless_it_is_not_tracked() {
    let lines = "track_interfaces = [\"eth1 weight -30\"]";
    let tracking_ = tracking(&instance("a", 1, lines));
    assert_eq!(tracking_.of(0, &up()), standing(None, 0, true));
    for (state, text) in [
        (LinkState::Down, "interface eth0 is down"),
        (LinkState::NoCarrier, "interface eth0 has no carrier"),
    ] {
        let network = network(&[("eth0", state), ("eth1", LinkState::Up)]);
        assert_eq!(tracking_.of(0, &network), standing(Some(text), 0, true));
    }
    let none = tracking_.of(0, &NetworkState::default());
    let text = "interface eth0 does not exist";
    assert_eq!(none, standing(Some(text), -30, true));
    // There is no such instance.
    assert_eq!(tracking_.of(9, &up()), standing(None, 0, true));
}

#[test]
fn a_process_counts_as_its_weight_says_once_it_was_counted() {
    let lines = "track_processes = [\"proxy weight 0\"]";
    let weighted = "track_processes = [\"proxy weight 20\"]";
    let reversed = "track_processes = [\"proxy weight -20 reverse\"]";
    let all = [lines, weighted, reversed];
    let sections = all.iter().zip(1..).map(|(lines, vrid)| {
        let name = format!("i{vrid}");
        instance(&name, vrid, lines)
    });
    let mut tracking = tracking(&sections.collect::<String>());
    let of = |tracking: &Tracking| [0, 1, 2].map(|index| tracking.of(index, &up()));
    // A condition that nobody has looked at makes a router not ready, a weight does not.
    assert_eq!(
        of(&tracking),
        [
            standing(None, 0, false),
            standing(None, 0, true),
            standing(None, 0, true)
        ]
    );
    assert!(tracking.take(counted(1)));
    assert_eq!(
        of(&tracking),
        [
            standing(Some("track_process proxy: 1 of 2"), 0, true),
            standing(None, 0, true),
            standing(None, 0, true),
        ]
    );
    assert!(!tracking.take(counted(0)), "it is as bad as before");
    assert!(tracking.take(counted(2)));
    assert_eq!(
        of(&tracking),
        [
            standing(None, 0, true),
            standing(None, 20, true),
            standing(None, -20, true)
        ]
    );
    let status = tracking.status();
    let status = status.first().unwrap();
    let seen = (status.good, status.last.as_str(), status.runs, status.bad);
    assert_eq!(seen, (Some(true), "2 of 2", 3, 2));
    let error = Reading::Process {
        index: 0,
        count: Err("/proc: Permission denied".to_owned()),
    };
    assert!(tracking.take(error));
    let problems: Vec<String> = tracking.problems().into_values().collect();
    let text = "track_process proxy cannot be counted: /proc: Permission denied";
    assert_eq!(problems, [text]);
}

#[test]
fn a_file_counts_times_its_weight_and_0_without_a_number() {
    let lines = "track_files = [\"load weight -2\"]";
    let mut tracking = tracking(&instance("a", 1, lines));
    assert_eq!(tracking.of(0, &up()), standing(None, 0, false));
    assert!(tracking.take(found(Found::Missing)));
    assert_eq!(tracking.of(0, &up()), standing(None, 0, true));
    assert!(!tracking.take(found(Found::Number(0))));
    assert!(tracking.take(found(Found::Number(10))));
    assert_eq!(tracking.of(0, &up()), standing(None, -20, true));
    assert!(tracking.take(found(Found::Number(127))));
    let fault = Some("track_file load: value 127");
    assert_eq!(tracking.of(0, &up()), standing(fault, 0, true));
    assert!(tracking.problems().is_empty());
    assert!(tracking.take(found(Found::Unusable("not a regular file".to_owned()))));
    let problems: Vec<String> = tracking.problems().into_values().collect();
    let text = "track_file load counts as 0: /nonexistent/load: not a regular file";
    assert_eq!(problems, [text]);
    assert_eq!(tracking.of(0, &up()), standing(None, 0, true));
}

#[test]
fn in_a_group_weights_are_conditions_unless_they_may_count() {
    let group = |lines: &str| {
        let members = ["a", "b"].map(|name| format!("{name:?}")).join(", ");
        format!("[[vrrp_group]]\nname = \"g\"\nmembers = [{members}]\n{lines}\n")
    };
    let sections = |lines: &str| {
        instance("a", 1, "track_processes = [\"proxy\"]") + &instance("b", 2, "") + &group(lines)
    };
    let eth1_down = network(&[("eth0", LinkState::Up), ("eth1", LinkState::Down)]);

    let mut plain = tracking(&sections("track_interfaces = [\"eth1\"]"));
    // The default weight of a process is 1.
    assert_eq!(plain.of(0, &up()), standing(None, 0, false));
    assert!(plain.take(counted(0)));
    let fault = Some("track_process proxy: 0 of 2; interface eth1 is down");
    assert_eq!(plain.of(0, &eth1_down), standing(fault, 0, true));
    let fault = Some("interface eth1 is down");
    assert_eq!(plain.of(1, &eth1_down), standing(fault, 0, true));

    let lines = "sync_group_tracking_weight = true\ntrack_interfaces = [\"eth1 weight -30\"]";
    let mut weighted = tracking(&sections(lines));
    assert!(weighted.take(counted(2)));
    assert_eq!(weighted.of(0, &eth1_down), standing(None, -29, true));
    assert_eq!(weighted.of(1, &eth1_down), standing(None, -30, true));
}

#[test]
fn a_script_counts_from_its_first_result_and_what_cannot_run_is_bad_and_named() {
    let script = "[[track_script]]\nname = \"check\"\nscript = [\"/bin/check\"]\nfall = 2\n";
    let uses = instance("a", 1, "track_scripts = [\"check\"]");
    let mut checked = tracking(&format!("{script}{uses}"));
    let ran = |outcome| Reading::Script { index: 0, outcome };
    assert_eq!(checked.of(0, &up()), standing(None, 0, false));
    assert!(checked.take(ran(Outcome::Exited(0))));
    assert_eq!(checked.of(0, &up()), standing(None, 0, true));
    assert!(!checked.take(ran(Outcome::Exited(1))));
    assert!(checked.problems().is_empty());
    let missing = "/bin/check: No such file or directory";
    assert!(checked.take(ran(Outcome::Refused(missing.to_owned()))));
    let fault = format!("track_script check: {missing}");
    assert_eq!(checked.of(0, &up()), standing(Some(&fault), 0, true));
    let problems: Vec<String> = checked.problems().into_values().collect();
    assert_eq!(
        problems,
        [format!("track_script check cannot be run: {missing}")]
    );

    // With init_fail it is bad until it is good.
    let script = format!("{script}init_fail = true\nrise = 2\n");
    let mut checked = tracking(&format!("{script}{uses}"));
    let fault = Some("track_script check: has not run yet");
    assert_eq!(checked.of(0, &up()), standing(fault, 0, true));
    assert!(!checked.take(ran(Outcome::Exited(0))));
    assert!(checked.take(ran(Outcome::Exited(0))));
    assert_eq!(checked.of(0, &up()), standing(None, 0, true));
}

#[test]
fn what_is_wrong_with_the_runner_is_named_and_no_script_of_its_own() {
    let script = "[[track_script]]\nname = \"check\"\nscript = [\"/bin/check\"]\n";
    let mut checked = tracking(&format!(
        "{script}{}",
        instance("a", 1, "track_scripts = [\"check\"]")
    ));
    for outcome in [Outcome::Lost, Outcome::Silent, Outcome::TimedOut] {
        let fault = format!("track_script check: {outcome}");
        checked.take(Reading::Script { index: 0, outcome });
        assert_eq!(checked.of(0, &up()), standing(Some(&fault), 0, true));
        assert!(checked.problems().is_empty());
    }
    let stuck = Trouble::Stuck {
        runs: 3,
        program: "/bin/check".to_owned(),
    };
    let (key, text) = objects::trouble(&stuck);
    assert_eq!(key, "runs");
    assert!(
        text.starts_with(
            "3 runs of scripts were killed and do not end, the oldest of /bin/check: "
        ),
        "{text}"
    );
    assert_eq!(objects::trouble(&Trouble::Gone).0, "runner");
    assert_eq!(objects::trouble(&Trouble::Silent).0, "runner");
}
