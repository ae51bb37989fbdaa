use super::absent::{NOT_YET, Only};
use super::*;

const INT_MIN: &str = "-2147483648";
const INT_MAX: &str = "2147483647";
const BELOW_INT: &str = "-2147483649";
const ABOVE_INT: &str = "2147483648";

/// Name, default, least and most that are taken, one below and one above.
const RANGES: [(&str, &str, [&str; 2], [&str; 2]); 18] = [
    ("backup_only", "0", ANY, NO_INT),
    ("cache_bypass", "0", ANY, NO_INT),
    ("conn_reuse_mode", "1", ANY, NO_INT),
    ("expire_nodest_conn", "0", ANY, NO_INT),
    ("expire_quiescent_template", "0", ANY, NO_INT),
    ("lblc_expiration", "86400", INTERVAL, NO_INTERVAL),
    ("lblcr_expiration", "86400", INTERVAL, NO_INTERVAL),
    ("run_estimation", "1", ANY, NO_INT),
    ("secure_tcp", "0", ["0", "3"], ["-1", "4"]),
    ("sloppy_sctp", "0", ANY, NO_INT),
    ("sloppy_tcp", "0", ANY, NO_INT),
    ("sync_persist_mode", "0", ANY, NO_INT),
    ("sync_ports", "1", ["1", "1073741824"], ["0", ABOVE_INT]),
    (
        "sync_qlen_max",
        "4096",
        ["0", "18446744073709551615"],
        ["-1", "18446744073709551616"],
    ),
    ("sync_refresh_period", "0", INTERVAL, NO_INTERVAL),
    ("sync_retries", "0", ["0", "3"], ["-1", "4"]),
    ("sync_sock_size", "0", ANY, NO_INT),
    ("sync_version", "1", ["0", "1"], ["-1", "2"]),
];
const ANY: [&str; 2] = [INT_MIN, INT_MAX];
const INTERVAL: [&str; 2] = ["-8589934", "8589934"];
const NO_INTERVAL: [&str; 2] = ["-8589935", "8589935"];
const NO_INT: [&str; 2] = [BELOW_INT, ABOVE_INT];

/// What is no value of any tunable.
const GARBAGE: [&str; 16] = [
    "",
    " ",
    "on",
    "true",
    "3.5",
    "1e3",
    "+1",
    "--1",
    "-",
    "0x",
    "08",
    "1,2",
    "1 2 3",
    "1;",
    "\u{661}",
    "0000000000000000000001",
];

#[test]
fn every_tunable_has_the_kernels_default_and_range() {
    let mut named: Vec<&str> = RANGES.map(|(name, ..)| name).to_vec();
    named.push("sync_threshold");
    named.sort_unstable();
    assert_eq!(named, SUPPORTED);
    for (name, default, taken, refused) in RANGES {
        assert_eq!(get(&Sysctl::default(), name), default, "{name}");
        for value in taken {
            let mut sysctl = Sysctl::default();
            sysctl.set(name, value).unwrap();
            // Shown as it was written, whatever is made of it.
            assert_eq!(get(&sysctl, name), value, "{name}");
            sysctl.set(name, default).unwrap();
            assert_eq!(sysctl, Sysctl::default(), "{name}");
        }
        for value in refused.iter().chain(&GARBAGE) {
            let mut sysctl = Sysctl::default();
            let refused = sysctl.set(name, value).unwrap_err();
            let SysctlError::Refused { name: key, .. } = &refused else {
                panic!("{refused}")
            };
            assert_eq!(key, name, "{value:?}");
            assert_eq!(sysctl, Sysctl::default(), "{name} {value:?}");
        }
        // The kernel would take the first of them.
        let two = format!("{default} {default}");
        assert!(Sysctl::default().set(name, &two).is_err(), "{name}");
    }
}

/// `ip_vs_ctl.c: proc_do_sync_threshold`.
#[test]
fn the_threshold_is_below_the_period_unless_that_is_0() {
    for (value, expected) in [
        ("0 1", Ok((0, 1))),
        ("0 0", Ok((0, 0))),
        ("2147483647 0", Ok((i32::MAX.cast_unsigned(), 0))),
        ("2147483646 2147483647", Ok((2_147_483_646, 2_147_483_647))),
        ("\t7 \t 8\n", Ok((7, 8))),
        // One number changes the threshold alone, against the period as it is.
        ("0", Ok((0, 50))),
        ("49", Ok((49, 50))),
        ("50", Err("needs a threshold below the period")),
        ("-1", Err("needs a threshold below the period")),
        ("1 1", Err("needs a threshold below the period")),
        ("2 1", Err("needs a threshold below the period")),
        ("-1 50", Err("needs a threshold below the period")),
        ("-1 0", Err("needs a threshold below the period")),
        ("3 -1", Err("needs a threshold below the period")),
        ("2147483648 0", Err("needs a threshold below the period")),
        ("3 2147483648", Err("needs a threshold below the period")),
        ("", Err("is not a threshold and a period")),
        ("x", Err("is not a threshold and a period")),
        ("5 x", Err("is not a threshold and a period")),
        ("1 2 3", Err("is not a threshold and a period")),
        ("3,50", Err("is not a threshold and a period")),
    ] {
        let mut sysctl = Sysctl::default();
        let set = sysctl.set("sync_threshold", value);
        let sync = sysctl.sync();
        match (set, expected) {
            (Ok(()), Ok(pair)) => assert_eq!((sync.threshold, sync.period), pair, "{value:?}"),
            (Err(error), Err(reason)) => {
                assert!(error.to_string().contains(reason), "{value:?}: {error}");
                assert_eq!(sysctl, Sysctl::default(), "nothing is half set: {value:?}");
            }
            (set, expected) => panic!("{value:?}: {set:?}, not {expected:?}"),
        }
    }
    let mut sysctl = Sysctl::default();
    sysctl.set("sync_threshold", "2 5").unwrap();
    assert_eq!(get(&sysctl, "sync_threshold"), "2\t5");
    sysctl.set("sync_threshold", "4").unwrap();
    assert_eq!(get(&sysctl, "sync_threshold"), "4\t5");
    assert!(sysctl.set("sync_threshold", "5").is_err());
}

#[test]
fn numbers_are_written_as_for_the_kernel() {
    for (value, expected) in [
        ("16", 16),
        (" 16\n", 16),
        ("0x10", 16),
        ("0X1f", 31),
        ("020", 16),
        ("-0x10", -16),
        ("-020", -16),
        ("00", 0),
        ("-0", 0),
    ] {
        let mut sysctl = Sysctl::default();
        sysctl.set("conn_reuse_mode", value).unwrap();
        assert_eq!(sysctl.conn_reuse_mode, expected, "{value:?}");
    }
}

/// `ip_vs_ctl.c: proc_do_sync_ports`, `ip_vs_sync.c: start_sync_thread`.
#[test]
fn every_power_of_two_can_be_set_and_64_ports_are_used_at_most() {
    for exponent in 0..31 {
        let ports = 1u32 << exponent;
        let mut sysctl = Sysctl::default();
        sysctl.set("sync_ports", &ports.to_string()).unwrap();
        assert_eq!(get(&sysctl, "sync_ports"), ports.to_string());
        assert_eq!(u32::from(sysctl.sync().ports), ports.min(64));
        for beside in [ports - 1, ports + 1] {
            if beside.count_ones() != 1 {
                let refused = sysctl.set("sync_ports", &beside.to_string()).unwrap_err();
                let reason = format!("sync_ports {beside} is not a power of two");
                assert_eq!(refused.to_string(), reason);
            }
        }
    }
    assert!(Sysctl::default().set("sync_ports", "-2").is_err());
}

#[test]
fn odd_values_act_as_in_the_kernel() {
    let with = |name, value| {
        let mut sysctl = Sysctl::default();
        sysctl.set(name, value).unwrap();
        sysctl
    };
    // On with any number but 0.
    for value in ["1", "-1", "2"] {
        assert!(with("backup_only", value).backup_only());
        assert!(with("sync_persist_mode", value).sync().persist_mode);
        assert!(with("run_estimation", value).run_estimation());
    }
    assert!(!with("run_estimation", "0").run_estimation());
    // Jiffies in an unsigned number.
    let refresh = |value| with("sync_refresh_period", value).sync().refresh_secs;
    assert_eq!(
        ["8589934", "-1", "-8589934"].map(refresh),
        [8_589_934, 17_179_868, 8_589_935]
    );
    // Only what is above 0 is used.
    let sock_size = |value| with("sync_sock_size", value).sync().sock_size;
    assert_eq!(["-1", "0", "9000"].map(sock_size), [0, 0, 9000]);
    let qlen_max = |value| with("sync_qlen_max", value).sync().qlen_max;
    assert_eq!(["0", "4294967296"].map(qlen_max), [0, u32::MAX]);
    assert_eq!(with("sync_version", "0").sync().version, Version::V0);
    let forgets = with("lblc_expiration", "-1").data_plane();
    assert!(forgets.contains(&(Tunable::LblcExpirationSecs, 0)));
    // Bits count.
    let reuse = with("conn_reuse_mode", "-1").data_plane();
    assert!(reuse.contains(&(Tunable::ConnReuseMode, u32::MAX)));
}

/// Each one reaches a reader of its own, and no other.
#[test]
fn every_supported_tunable_has_an_effect() {
    let view = |sysctl: &Sysctl| {
        let words = sysctl.data_plane().map(|(_, value)| value);
        let rest = (sysctl.backup_only(), sysctl.run_estimation());
        format!("{words:?} {rest:?} {:?}", sysctl.sync())
    };
    let mut seen = vec![view(&Sysctl::default())];
    for name in SUPPORTED {
        let value = match name {
            "run_estimation" | "sync_version" | "conn_reuse_mode" => "0",
            "secure_tcp" => "3",
            "sync_ports" => "2",
            _ => "1",
        };
        let mut sysctl = Sysctl::default();
        sysctl.set(name, value).unwrap();
        let viewed = view(&sysctl);
        assert!(!seen.contains(&viewed), "{name}");
        seen.push(viewed);
    }
}

#[test]
fn what_has_no_effect_yet_shows_its_default_and_takes_nothing_else() {
    for tunable in &NOT_YET {
        let name = tunable.name;
        assert!(!SUPPORTED.contains(&name), "{name}");
        let mut sysctl = Sysctl::default();
        let shown = get(&sysctl, name);
        sysctl.set(name, &shown).unwrap();
        for value in GARBAGE.iter().chain(&["12345", INT_MIN, ABOVE_INT]) {
            let error = sysctl.set(name, value).unwrap_err().to_string();
            assert!(
                error.contains("is not supported by this director yet"),
                "{error}"
            );
            assert!(error.contains(&format!("the default {shown}: ")), "{error}");
        }
        match tunable.default {
            Only::Number(default) => assert_eq!(shown, default.to_string()),
            Only::Processors => assert!(shown.starts_with('0'), "{shown}"),
        }
        assert_eq!(sysctl, Sysctl::default());
    }
}

/// What a kernel has, and what kernels after that one do.
#[test]
fn all_names_of_the_kernel_are_listed_in_their_order() {
    const OF_6_1: &str = "am_droprate amemthresh backup_only cache_bypass conn_reuse_mode conntrack \
        drop_entry drop_packet expire_nodest_conn expire_quiescent_template ignore_tunneled \
        lblc_expiration lblcr_expiration nat_icmp_send pmtu_disc run_estimation schedule_icmp \
        secure_tcp sloppy_sctp sloppy_tcp snat_reroute sync_persist_mode sync_ports \
        sync_qlen_max sync_refresh_period sync_retries sync_sock_size sync_threshold \
        sync_version";
    const LATER: &str = "conn_lfactor conn_max debug_level est_cpulist est_nice svc_lfactor";
    let mut names: Vec<&str> = OF_6_1.split(' ').chain(LATER.split(' ')).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    let listed = Sysctl::default().list();
    let listed: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(listed, names);
}

#[test]
fn names_are_taken_in_either_spelling_and_others_are_unknown() {
    for name in [
        "sync_retries",
        "net.ipv4.vs.sync_retries",
        "net/ipv4/vs/sync_retries",
    ] {
        let mut sysctl = Sysctl::default();
        sysctl.set(name, "2").unwrap();
        assert_eq!(sysctl.sync().retries, 2, "{name}");
    }
    for name in [
        "",
        "colour",
        "SYNC_RETRIES",
        " sync_retries",
        "vs.sync_retries",
        "net.ipv4.vs",
        "net.ipv4.vs.",
        "net.ipv4.vs.net.ipv4.vs.sync_retries",
        "net.ipv4.ip_forward",
    ] {
        let unknown = SysctlError::Unknown(name.to_owned());
        assert_eq!(Sysctl::default().set(name, "2"), Err(unknown));
    }
}

#[test]
fn a_refusal_repeats_a_bounded_part_of_what_was_sent() {
    let long = "9".repeat(60_000);
    for (name, value) in [
        ("sync_retries", &long),
        ("drop_entry", &long),
        (&long, &long),
    ] {
        let error = Sysctl::default().set(name, value).unwrap_err().to_string();
        assert!(error.len() < 250, "{error}");
    }
}

#[test]
fn what_is_listed_can_be_set_again() {
    let mut sysctl = Sysctl::default();
    for (name, value) in sysctl.list() {
        sysctl.set(&name, &value).unwrap();
    }
    assert_eq!(sysctl, Sysctl::default());
}

/// What a kernel was given, and what it made of it.
#[derive(Deserialize)]
struct Recorded {
    default: BTreeMap<String, String>,
    written: Vec<String>,
    shown: BTreeMap<String, Vec<Option<String>>>,
}

#[test]
fn what_is_written_is_judged_as_by_a_kernel() {
    let recorded = include_str!("../../../tests/golden/sysctl.json");
    let recorded: Recorded = serde_json::from_str(recorded).unwrap();
    assert_eq!(recorded.default.len(), 29);
    let mut differing = 0;
    for (name, default) in &recorded.default {
        let ours = get(&Sysctl::default(), name);
        // The kernel's follows its memory.
        assert!(ours == *default || name == "sync_qlen_max", "{name} {ours}");
        for (text, shown) in recorded.written.iter().zip(&recorded.shown[name]) {
            let mut sysctl = Sysctl::default();
            let set = sysctl.set(name, text).is_ok();
            let case = format!("{name} {text:?}");
            match shown {
                Some(shown) if set => assert_eq!(get(&sysctl, name), *shown, "{case}"),
                Some(shown) => {
                    assert!(differs(name, text, shown, default), "{case}");
                    differing += 1;
                }
                None => assert!(!set, "{case}"),
            }
        }
    }
    assert!(differing > 0);
}

/// What a kernel takes and is refused here: values without an effect, and more numbers than count.
fn differs(name: &str, text: &str, shown: &str, default: &str) -> bool {
    let numbers = text.split_whitespace().count();
    let is_unused = numbers > shown.split_whitespace().count();
    let is_absent = NOT_YET.iter().any(|tunable| tunable.name == name);
    is_unused || is_absent && shown != default || name == "secure_tcp" && shown == "1"
}

fn get(sysctl: &Sysctl, name: &str) -> String {
    let all = sysctl.list();
    let found = all.into_iter().find(|(known, _)| known == name);
    found.unwrap().1
}
