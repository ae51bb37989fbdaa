use super::table::{Group, WORDS};
use super::*;
use crate::names::FixedNames;

/// The table of ipvsadm(8) as it is observed, in its own order and typed independently of the
/// matrix: options, then one cell each for -A -E -D -C -L -a -d -e --set start stop -R -S -Z.
const OBSERVED: &str = "
numeric                                         x x x x . x x x x x x x . x
connection                                      x x x x 1 x x x x x x x x x
service-address                                 + + + x 1 + + + x x x x x .
scheduler persistent netmask ops pe sched-flags . . x x x x x x x x x x x x
real-server                                     x x x x x + + + x x x x x x
forwarding-method weight u-threshold            x x x x x . x . x x x x x x
l-threshold tun-type tun-port tun-nocsum        x x x x x . x . x x x x x x
tun-csum tun-remcsum                            x x x x x . x . x x x x x x
timeout daemon                                  x x x x 1 x x x x x x x x x
stats rate thresholds persistent-conn           x x x x . x x x x x x x x x
nosort exact tun-info                           x x x x . x x x x x x x x x
mcast-interface mcast-group mcast-port          x x x x x x x x x . x x x x
mcast-ttl sync-maxlen                           x x x x x x x x x . x x x x
syncid                                          x x x x . x x x x . . x x x
";

#[test]
fn every_cell_of_the_option_table_holds() {
    let mut cells = 0;
    for row in OBSERVED.lines().filter(|row| !row.is_empty()) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let (options, rules) = words.split_at(words.len() - Verb::ALL.len());
        for option in options {
            for (verb, rule) in Verb::ALL.into_iter().zip(rules) {
                check_cell(verb, option, rule);
                cells += 1;
            }
        }
    }
    assert_eq!(cells, Group::ALL.len() * Verb::ALL.len());
}

/// Every spelling of every option of the group, with everything else the command needs.
fn check_cell(verb: Verb, option: &str, rule: &str) {
    let subject = format!("'{option}' option with the '{}' command", verb.name());
    let needed = format!(
        "You need to supply the '{option}' option for the '{}' command",
        verb.name()
    );
    assert_eq!(
        judge(&base(verb, option)),
        (rule == "+").then_some(needed),
        "{subject}"
    );
    for word in WORDS
        .iter()
        .filter(|word| word.group.is_some_and(|group| group.name() == option))
    {
        let mut line = base(verb, option);
        line += &format!(" --{}", word.long);
        if let Some(value) = sample(option, word.long) {
            line += &format!("={value}");
        }
        let expected = (rule == "x").then(|| format!("Illegal {subject}"));
        assert_eq!(judge(&line), expected, "{line}");
        if rule == "1" {
            for other in ["connection", "service-address", "timeout", "daemon"] {
                check_conflict(&line, option, other);
            }
        }
    }
}

fn check_conflict(line: &str, option: &str, other: &str) {
    if option == other {
        return;
    }
    let rank = |name| {
        Group::ALL
            .iter()
            .position(|group| group.name() == name)
            .unwrap()
    };
    let (first, second) = if rank(option) < rank(other) {
        (option, other)
    } else {
        (other, option)
    };
    let typed = if other == "service-address" {
        "tcp-service=192.0.2.1:80"
    } else {
        other
    };
    assert_eq!(
        judge(&format!("{line} --{typed}")).unwrap(),
        format!("The option '{second}' conflicts with the '{first}' option in the 'list' command")
    );
}

/// The command with the options it needs, except the one under test.
fn base(verb: Verb, except: &str) -> String {
    let word = match verb {
        Verb::StartDaemon | Verb::StopDaemon => format!("--{} master", verb.name()),
        Verb::SetTimeouts => "--set 1 2 3".into(),
        Verb::Flush => "--clear".into(),
        Verb::AddService
        | Verb::EditService
        | Verb::DeleteService
        | Verb::List
        | Verb::AddServer
        | Verb::DeleteServer
        | Verb::EditServer
        | Verb::Restore
        | Verb::Save
        | Verb::Zero => format!("--{}", verb.name()),
    };
    let service = matches!(
        verb,
        Verb::AddService
            | Verb::EditService
            | Verb::DeleteService
            | Verb::AddServer
            | Verb::DeleteServer
            | Verb::EditServer
    );
    let server = matches!(
        verb,
        Verb::AddServer | Verb::DeleteServer | Verb::EditServer
    );
    let service = if service && except != "service-address" {
        " -u 192.0.2.1:80"
    } else {
        ""
    };
    let server = if server && except != "real-server" {
        " -r 192.0.2.2:80"
    } else {
        ""
    };
    format!("{word}{service}{server}")
}

fn sample(group: &str, long: &str) -> Option<&'static str> {
    Some(match group {
        "service-address" if long == "fwmark-service" => "7",
        "service-address" | "real-server" => "192.0.2.9:80",
        "scheduler" => "rr",
        "pe" => "sip",
        "netmask" => "255.255.255.0",
        "sched-flags" => "flag-1",
        "weight" | "u-threshold" | "l-threshold" | "tun-port" | "syncid" | "sync-maxlen"
        | "mcast-port" | "mcast-ttl" => "9",
        "tun-type" => "gue",
        "mcast-interface" => "sync0",
        "mcast-group" => "224.0.0.81",
        _ => return None,
    })
}

/// The message of the matrix alone; the line itself has to be readable.
fn judge(line: &str) -> Option<String> {
    let typed = read(line).unwrap_or_else(|stop| panic!("{line}: {stop:?}"));
    match rules::check_matrix(typed.verb, typed.given) {
        Ok(()) => None,
        Err(Stop::Fail(text)) => Some(text),
        Err(stop) => panic!("{line}: {stop:?}"),
    }
}

fn read(line: &str) -> Result<AsTyped, Stop> {
    let words: Vec<String> = line.split(' ').map(String::from).collect();
    parse(&words, &FixedNames::default(), Origin::Shell)
}

fn message(line: &str) -> String {
    match read(line).and_then(|typed| rules::check(&typed)) {
        Err(Stop::Fail(text) | Stop::BadOption(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn persistence_has_an_optional_value() {
    let secs = |line| read(line).unwrap().persistent_secs;
    assert_eq!(secs("-A -t 192.0.2.1:80"), None);
    assert_eq!(secs("-A -t 192.0.2.1:80 -p"), Some(360));
    assert_eq!(secs("-A -t 192.0.2.1:80 -p -M 255.255.255.0"), Some(360));
    assert_eq!(secs("-A -t 192.0.2.1:80 -p 60"), Some(60));
    assert_eq!(secs("-A -t 192.0.2.1:80 -p60"), Some(60));
    assert_eq!(
        secs("-A -t 192.0.2.1:80 --persistent=2678400"),
        Some(2_678_400)
    );
    assert_eq!(
        message("-A -t 192.0.2.1:80 -p 2678401"),
        "invalid timeout value `2678401' specified"
    );
}

#[test]
fn the_first_mistake_is_reported() {
    assert_eq!(
        message("-A -t bad --nosuch"),
        "illegal virtual server address[:port] specified"
    );
    assert_eq!(message("-A --nosuch -t bad"), "--nosuch: unknown option");
    assert_eq!(message("-L extra -w x"), "illegal weight specified");
    assert_eq!(message("-L extra -w 1"), "unexpected argument extra");
    assert_eq!(
        message("-L -s rr -n -w 1"),
        "Illegal 'scheduler' option with the 'list' command"
    );
    assert_eq!(message("-A -t 192.0.2.1:80 -AD"), "invalid option `-AD'");
    assert_eq!(read("x"), Err(Stop::TryHelp));
    assert_eq!(read("x -h"), Err(Stop::Help));
}

impl PartialEq for AsTyped {
    fn eq(&self, other: &AsTyped) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

#[test]
fn the_server_port_is_that_of_a_service_given_before() {
    let port = |line| read(line).unwrap().server.unwrap().port();
    assert_eq!(port("-a -t 192.0.2.1:80 -r 192.0.2.2"), 80);
    assert_eq!(port("-a -r 192.0.2.2 -t 192.0.2.1:80"), 0);
    assert_eq!(port("-a -f 3 -r 192.0.2.2"), 0);
    assert_eq!(port("-a -f 3 -r 192.0.2.2:81"), 81);
}

#[test]
fn the_netmask_is_a_prefix_length_after_an_ipv6_service() {
    let mask = |line| read(line).unwrap().netmask;
    assert_eq!(mask("-A -t 192.0.2.1:80"), u32::MAX);
    assert_eq!(mask("-A -t 192.0.2.1:80 -M 255.255.255.0"), 0xffff_ff00);
    assert_eq!(mask("-A -t 192.0.2.1:80 -M 24"), 24);
    assert_eq!(mask("-A -t [2001:db8::1]:80"), 128);
    assert_eq!(mask("-A -t [2001:db8::1]:80 -M 64"), 64);
    assert_eq!(mask("-A -M 255.255.255.0 -t [2001:db8::1]:80"), 128);
    assert_eq!(mask("-A -f 3 -6 -M 64"), 64);
    assert_eq!(mask("-A -f 3 -M 255.0.0.0 -6"), 128);
    assert_eq!(
        message("-A -t [2001:db8::1]:80 -M 0"),
        "illegal ipv6 netmask specified"
    );
}

#[test]
fn scheduler_flags_are_read_at_the_end() {
    let flags = |line| read(line).unwrap().sched_flags.0;
    assert_eq!(flags("-A -f 1 -b sh-port -s sh"), 0x10);
    assert_eq!(flags("-A -f 1 -s mh -b mh-fallback,mh-port"), 0x18);
    assert_eq!(flags("-A -f 1 -b flag-1,flag-2,flag-3"), 0x38);
    assert_eq!(flags("-A -f 1 -b ,"), 0);
    assert_eq!(
        message("-A -f 1 -b sh-port"),
        "incompatible scheduler flag `sh-port'"
    );
    assert_eq!(
        message("-A -f 1 -s sh -b flag-1,x"),
        "invalid scheduler flag `x'"
    );
}

#[test]
fn tunnel_options_depend_on_the_type() {
    let line = |rest: &str| format!("-a -t 192.0.2.1:80 -r 192.0.2.2 {rest}");
    assert!(read(&line("-i --tun-type gue --tun-port 1 --tun-remcsum")).is_ok());
    for (rest, text) in [
        ("--tun-csum", "Tunnel options conflict with forward method"),
        (
            "-m --tun-type ipip",
            "Tunnel options conflict with forward method",
        ),
        (
            "-i --tun-csum",
            "Illegal 'tun-csum' option with the 'ipip' tunnel type",
        ),
        (
            "-i --tun-type gre --tun-port 1",
            "Illegal 'tun-port' option with the 'gre' tunnel type",
        ),
        (
            "-i --tun-type gue --tun-csum",
            "You need to supply the 'tun-port' option for the 'gue' tunnel type",
        ),
        (
            "-i --tun-type gre --tun-csum --tun-nocsum",
            "The option 'tun-csum' conflicts with the 'tun-nocsum' option in the 'gre' tunnel type",
        ),
        ("-i --tun-type x", "illegal tunnel type specified"),
        (
            "-i --tun-type gue --tun-port 0",
            "illegal tunnel port specified",
        ),
    ] {
        assert_eq!(message(&line(rest)), text, "{rest}");
    }
}

#[test]
fn listings_refuse_columns_where_there_is_no_table() {
    let text = "options conflicts in the list command";
    for line in [
        "-L -c --stats",
        "-L --timeout --rate",
        "-L --daemon --persistent-conn",
    ] {
        assert_eq!(message(line), text, "{line}");
    }
    let typed = read("-L -c --persistent-conn").unwrap();
    assert_eq!(rules::check(&typed), Ok(()));
}

#[test]
fn the_input_of_a_restore_cannot_restore() {
    let line = ["-R".to_string()];
    let parsed = parse(&line, &FixedNames::default(), Origin::Restore);
    assert_eq!(parsed, Err(Stop::TryHelp));
}
