//! `[[vrrp_group]]`, `[[track_…]]` and `[notify]`.

use super::*;

/// Two instances; what follows begins at line 12.
const TWO: &str = "[director]
interfaces = [\"eth0\", \"eth1\"]
[[vrrp]]
name = \"outside\"
interface = \"eth0\"
vrid = 51
vips = [\"192.0.2.100\"]
[[vrrp]]
name = \"inside\"
interface = \"eth1\"
vrid = 52\nvips = [\"10.0.0.254\"]
";

const TRACKED: &str = "[[track_script]]
name = \"http\"
script = [\"/usr/local/bin/check\", \"-q\"]
weight = -20
[[track_process]]
name = \"proxy\"
process = \"haproxy\"
[[track_file]]
name = \"drain\"
file = \"/run/drain\"
";

fn two(more: &str) -> Result<Config, ConfigError> {
    parse(&(TWO.to_owned() + more))
}

#[test]
fn a_group_names_its_members() {
    let config =
        two("[[vrrp_group]]\nname = \"G1\"\nmembers = [\"inside\", \"outside\"]\n").unwrap();
    let group = &config.vrrp_groups[0];
    assert_eq!(
        (group.name.as_str(), &group.members[..]),
        ("G1", &[1, 0][..])
    );
    assert!(!group.tracking_weight && !group.track.own_interface);
}

#[test]
fn bad_groups_are_refused_where_they_stand() {
    let group = |lines: &str| format!("{TWO}[[vrrp_group]]\nname = \"G1\"\n{lines}\n");
    let other = "members = [\"inside\"]\n[[vrrp_group]]\n";
    let cases: &[(String, usize, &str)] = &[
        ("".to_owned(), 13, "missing field `members`"),
        ("members = []".to_owned(), 15, "members is empty"),
        (
            "members = [\"x\"]".to_owned(),
            15,
            "member \"x\" is not the name of a [[vrrp]]",
        ),
        (
            "members = [\"inside\",\n\"inside\"]".to_owned(),
            16,
            "member \"inside\" is there twice",
        ),
        (
            format!("{other}name = \"G2\"\nmembers = [\"inside\"]"),
            18,
            "member \"inside\" is in group G1 too",
        ),
        (
            format!("{other}name = \"G1\"\nmembers = [\"outside\"]"),
            17,
            "two groups have the name \"G1\"",
        ),
        (
            format!("{other}name = \"a b\"\nmembers = [\"outside\"]"),
            17,
            "name \"a b\" is not one word",
        ),
        (
            "members = [\"inside\"]\ntrack_interfaces = [\"eth3 weight 5\"]".to_owned(),
            16,
            "weights have no effect in a group without sync_group_tracking_weight",
        ),
    ];
    for (lines, line, reason) in cases {
        refused(&group(lines), *line, reason);
    }
    // The same for what a member tracks.
    let members = "members = [\"inside\"]";
    let text = group(members).replace(
        "vrid = 52",
        "vrid = 52\ntrack_interfaces = [\"eth3 weight 5\"]",
    );
    refused(&text, 12, "weights have no effect in a group");
    let allowed = format!("{members}\nsync_group_tracking_weight = true");
    assert!(parse(&text.replace(members, &allowed)).is_ok());
}

#[test]
fn references_have_the_weight_of_the_definition_unless_they_have_one() {
    let text = TWO.replace(
        "vrid = 51",
        "vrid = 51\ntrack_interfaces = [\"eth2\", \"eth3 weight -30 reverse\"]\n\
         track_scripts = [\"http\"]\ntrack_processes = [\"proxy weight 254\"]\n\
         track_files = [\"drain weight 0\"]",
    );
    let config = parse(&(text + TRACKED)).unwrap();
    let track = &config.vrrp[0].track;
    let interfaces: Vec<_> = track.interfaces.iter().collect();
    assert_eq!(
        (interfaces[0].name.as_str(), interfaces[0].weight),
        ("eth2", 0)
    );
    assert_eq!((interfaces[1].weight, interfaces[1].reverse), (-30, true));
    let of = |weight| TrackRef {
        index: 0,
        weight,
        reverse: false,
    };
    assert_eq!(track.scripts, [of(-20)]);
    assert_eq!(track.processes, [of(254)]);
    assert_eq!(track.files, [of(0)]);
    assert!(track.own_interface);
    let script = &config.track_scripts[0];
    assert_eq!((script.rise, script.fall, script.init_fail), (1, 1, false));
    assert_eq!(
        (script.interval, script.timeout),
        (Duration::from_secs(1), Duration::ZERO)
    );
    let process = &config.track_processes[0];
    assert_eq!(
        (process.weight, process.quorum, process.full_command),
        (1, 1, false)
    );
    assert_eq!(config.track_files[0].weight, 1);
}

#[test]
fn bad_references_are_refused_where_they_stand() {
    let cases: &[(&str, &str)] = &[
        (
            "track_interfaces = [\"a/b\"]",
            "\"a/b\" is not an interface name",
        ),
        (
            "track_interfaces = [\"eth0\"]",
            "eth0 is the instance's own and tracked anyway",
        ),
        (
            "track_interfaces = [\"eth2\", \"eth2\"]",
            "track_interfaces \"eth2\": is there twice",
        ),
        (
            "track_interfaces = [\"eth2 weight 254\"]",
            "weight 254 is not between -253 and 253",
        ),
        (
            "track_interfaces = [\"eth2 reverse\"]",
            "is not NAME [weight W [reverse]]",
        ),
        (
            "track_interfaces = [\"\"]",
            "is not NAME [weight W [reverse]]",
        ),
        (
            "track_scripts = [\"x\"]",
            "track_scripts \"x\": there is no [[track_script]] of that name",
        ),
        (
            "track_scripts = [\"http weight -254\"]",
            "weight -254 is not between -253 and 253",
        ),
        (
            "track_scripts = [\"http\", \"http weight 3\"]",
            "is there twice",
        ),
        (
            "track_processes = [\"x\"]",
            "track_processes \"x\": there is no [[track_process]]",
        ),
        (
            "track_processes = [\"proxy weight 255\"]",
            "weight 255 is not between -254 and 254",
        ),
        (
            "track_files = [\"x\"]",
            "there is no [[track_file]] of that name",
        ),
        (
            "track_files = [\"drain weight x\"]",
            "weight x is not between -254 and 254",
        ),
    ];
    for (line, reason) in cases {
        let text = TWO.replace("vrid = 51", &format!("vrid = 51\n{line}"));
        refused(&(text + TRACKED), 7, reason);
    }
    let text = TWO.replace(
        "vrid = 51",
        "vrid = 51\ndont_track_primary = true\ntrack_interfaces = [\"eth0 weight 5\"]",
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn bad_definitions_are_refused_where_they_stand() {
    let script = "[[track_script]]\nname = \"a\"\nscript = [\"/bin/true\"]\n";
    let long = format!("script = [\"/bin/x\", \"{}\"]", "y".repeat(4096));
    let many = format!("script = [\"/bin/x\"{}]", ", \"y\"".repeat(64));
    let cases: &[(&str, &str, usize, &str)] = &[
        (
            "[[track_script]]",
            "name = \"a\"\nscript = []",
            4,
            "script is empty",
        ),
        (
            "[[track_script]]",
            "name = \"a\"\nscript = [\"true\"]",
            4,
            "\"true\" is not an absolute path",
        ),
        (
            "[[track_script]]",
            &format!("name = \"a\"\n{long}"),
            4,
            "4102 bytes are more than 4096",
        ),
        (
            "[[track_script]]",
            &format!("name = \"a\"\n{many}"),
            4,
            "65 words are more than 64",
        ),
        (
            "[[track_script]]",
            "name = \"a\"\nscript = [\"/bin/\\u0000\"]",
            4,
            "a word contains a zero byte",
        ),
        (
            "[[track_script]]",
            "script = [\"/bin/true\"]\nname = \"a b\"",
            4,
            "name \"a b\" is not one word",
        ),
        (
            script,
            "interval_ms = 9",
            5,
            "interval_ms 9 is not between 10 and 86400000",
        ),
        (
            script,
            "timeout_ms = 86400001",
            5,
            "timeout_ms 86400001 is not between",
        ),
        (script, "rise = 0", 5, "rise 0 is not between 1 and 10000"),
        (script, "fall = 0", 5, "fall 0 is not between 1 and 10000"),
        (
            script,
            "weight = 254",
            5,
            "weight 254 is not between -253 and 253",
        ),
        (
            script,
            "user = \"a b\"",
            5,
            "user \"a b\" is not a user's name",
        ),
        (
            script,
            script,
            6,
            "two [[track_script]] sections have the name \"a\"",
        ),
        (
            "[[track_process]]",
            "name = \"a\"\nprocess = \"\"",
            4,
            "process \"\" cannot be",
        ),
        (
            "[[track_process]]\nname = \"a\"\nprocess = \"b\"",
            "quorum = 0",
            5,
            "quorum 0 is not between",
        ),
        (
            "[[track_file]]",
            "name = \"a\"\nfile = \"run/x\"",
            4,
            "file is not an absolute path",
        ),
        (
            "[[track_file]]\nname = \"a\"\nfile = \"/x\"",
            "weight = -255",
            5,
            "weight -255 is not between -254 and 254",
        ),
        (
            "[notify]",
            "fifo = \"x\"",
            3,
            "fifo is not an absolute path",
        ),
        ("[notify]", "fifo = \"/\"", 3, "fifo names no file"),
        (
            "[notify]",
            "timeout_ms = 99",
            3,
            "timeout_ms 99 is not between 100 and 3600000",
        ),
        (
            "[notify]",
            "priority_changes = true",
            3,
            "priority_changes without fifo",
        ),
        (
            "[notify]",
            "user = \"\"",
            3,
            "user \"\" is not a user's name",
        ),
    ];
    for (section, lines, line, reason) in cases {
        // A line more of the director, counted from the section.
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n{section}\n{lines}\n");
        refused(&text.replace("\n\n", "\n"), line + 1, reason);
    }
}

#[test]
fn commands_are_lists_of_words() {
    let text = TWO.replace(
        "vrid = 51",
        "vrid = 51\nnotify_master = [\"/etc/tandem/up\", \"now\"]\nnotify = [\"/etc/tandem/any\"]\nnotify_stop = []\n\
         notify_master_rx_lower_pri = [\"/etc/tandem/lower\"]",
    );
    let more =
        "[notify]\nfifo = \"/run/tandem/notify\"\nuser = \"nobody\"\npriority_changes = true\n";
    let config = parse(&(text.clone() + more)).unwrap();
    let notify = &config.vrrp[0].notify;
    assert_eq!(
        notify.master.as_ref().unwrap()[..],
        ["/etc/tandem/up", "now"]
    );
    let lower = notify.master_rx_lower_pri.as_ref().unwrap();
    assert_eq!(lower[..], ["/etc/tandem/lower"]);
    assert_eq!((&notify.stop, notify.all().count()), (&None, 3));
    assert_eq!(config.notify.timeout, Duration::from_secs(10));
    assert!(config.notify.priority_changes);
    refused(
        &text.replace("\"/etc/tandem/any\"", "\"any\""),
        8,
        "notify: \"any\" is not an absolute path; no shell looks it up",
    );
}

#[test]
fn metrics_are_served_for_this_host_unless_something_else_is_said() {
    let metrics = |value: &str| {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\nmetrics = \"{value}\"\n");
        parse(&text)
            .unwrap()
            .metrics
            .map(|address| address.to_string())
    };
    assert_eq!(metrics("off"), None);
    assert_eq!(metrics(""), None);
    assert_eq!(metrics("[::]:9140").as_deref(), Some("[::]:9140"));
    for (value, reason) in [
        (
            "9140",
            "metrics \"9140\" is neither ADDRESS:PORT nor \"off\"",
        ),
        ("lb1:9140", "is neither ADDRESS:PORT"),
        ("127.0.0.1:0", "has no port"),
        ("224.0.0.1:9140", "is a group's address"),
    ] {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\nmetrics = \"{value}\"\n");
        refused(&text, 3, reason);
    }
    for (line, reason) in [
        (
            "vrrp_rt_priority = 99",
            "vrrp_rt_priority 99 is not between 0 and 98",
        ),
        (
            "vrrp_startup_delay_ms = 600001",
            "vrrp_startup_delay_ms 600001 is not between",
        ),
    ] {
        refused(
            &format!("[director]\ninterfaces = [\"eth0\"]\n{line}\n"),
            3,
            reason,
        );
    }
}

#[test]
fn what_nothing_depends_on_is_remarked_upon() {
    let remarks = two(TRACKED).unwrap().remarks();
    assert_eq!(
        remarks,
        [
            "[[track_script]] http: nothing depends on it",
            "[[track_process]] proxy: nothing depends on it",
            "[[track_file]] drain: nothing depends on it",
        ]
    );
    let group = "[[vrrp_group]]\nname = \"G1\"\nmembers = [\"inside\"]\n\
                 track_scripts = [\"http weight 0\"]\ntrack_processes = [\"proxy\"]\n";
    let remarks = two(&format!("{TRACKED}{group}")).unwrap().remarks();
    assert_eq!(remarks, ["[[track_file]] drain: nothing depends on it"]);
}
