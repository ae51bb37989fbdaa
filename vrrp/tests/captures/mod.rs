//! The recorded cases: frames as JSON, and the configurations of both routers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use vrrp::announce::Settings;
use vrrp::{Authentication, ChecksumForm, Config, Parameters, Peer};

pub struct Case {
    pub name: String,
    pub json: Value,
}

/// One `vrrp_instance`.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: String,
    pub config: Config,
    pub announce: Settings,
    /// `unicast_src_ip`.
    pub source: Option<IpAddr>,
    pub has_vmac: bool,
    /// What the tracked script is worth.
    pub script_weight: Option<i16>,
}

/// The names of all cases, sorted.
pub fn names() -> BTreeSet<String> {
    let files = fs::read_dir(dir()).unwrap();
    files
        .filter_map(|file| {
            let name = file.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".pcap").map(str::to_owned)
        })
        .collect()
}

pub fn case(name: &str) -> Case {
    let text = fs::read_to_string(dir().join(format!("{name}.json"))).unwrap();
    Case {
        name: name.to_owned(),
        json: serde_json::from_str(&text).unwrap(),
    }
}

pub fn pcap(name: &str) -> PathBuf {
    dir().join(format!("{name}.pcap"))
}

impl Case {
    pub fn frames(&self) -> &[Value] {
        self.json["frames"].as_array().unwrap()
    }

    /// Whether the capture holds more than was kept.
    pub fn is_cut(&self) -> bool {
        self.json["frames_total_in_capture"].as_u64() != Some(self.frames().len() as u64)
    }

    /// What was done, in order: when, the verb, its object.
    pub fn actions(&self) -> Vec<(Duration, String, String)> {
        let actions = self.json["actions"].as_array().unwrap();
        actions
            .iter()
            .map(|action| {
                let words = action["action"].as_str().unwrap();
                let (verb, object) = words.split_once(' ').unwrap_or((words, ""));
                (seconds(&action["t"]), verb.to_owned(), object.to_owned())
            })
            .collect()
    }

    /// The configuration of the first instance of a router, `a` or `b`.
    pub fn config(&self, router: &str) -> Option<Config> {
        let instances = self.instances(router).into_iter();
        instances.map(|instance| instance.config).next()
    }

    /// All instances of a router, in the order of its file; none without a file.
    pub fn instances(&self, router: &str) -> Vec<Instance> {
        let Some(file) = self.json["configs"][router].as_str() else {
            return Vec::new();
        };
        let text = fs::read_to_string(dir().join(file)).unwrap();
        parse(&text)
    }
}

pub fn seconds(value: &Value) -> Duration {
    Duration::from_secs_f64(value.as_f64().unwrap())
}

pub fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// An instance while its lines are read.
#[derive(Default)]
struct Draft {
    name: String,
    parameters: Parameters,
    announce: Settings,
    /// `garp_lower_prio_repeat` and `_delay`: the master's where they are not given.
    lower_prio_repeat: Option<u32>,
    lower_prio_delay: Option<Duration>,
    source: Option<IpAddr>,
    has_vmac: bool,
    auth_type: String,
    auth_pass: String,
    tracks_script: bool,
}

impl Draft {
    fn finish(mut self, script_weight: Option<i16>) -> Instance {
        let password = Authentication::password(&self.auth_pass);
        self.parameters.authentication = match self.auth_type.as_str() {
            "" => Authentication::None,
            "PASS" => Authentication::Simple(password),
            "AH" => Authentication::Header(password),
            other => panic!("auth_type {other}"),
        };
        let strict = self.parameters.strict;
        let none = strict.then_some((0, Duration::ZERO));
        let (repeat, delay) = none.unwrap_or((self.announce.repeat, self.announce.delay));
        self.announce.lower_prio_repeat = self.lower_prio_repeat.unwrap_or(repeat);
        self.announce.lower_prio_delay = self.lower_prio_delay.unwrap_or(delay);
        Instance {
            name: self.name,
            config: Config::new(self.parameters).unwrap(),
            announce: self.announce,
            source: self.source,
            has_vmac: self.has_vmac,
            script_weight: script_weight.filter(|_| self.tracks_script),
        }
    }
}

/// The instances of a configuration of keepalived, as far as these captures go.
fn parse(text: &str) -> Vec<Instance> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut script_weight = None;
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [] => {}
            ["}"] => {
                blocks.pop();
            }
            ["vrrp_instance", name, "{"] => {
                blocks.push("vrrp_instance".to_owned());
                drafts.push(Draft {
                    name: name.to_owned(),
                    ..Draft::default()
                });
            }
            [block, .., "{"] => blocks.push(block.to_owned()),
            _ => match (blocks.last().map(String::as_str), drafts.last_mut()) {
                (Some("vrrp_script"), _) => {
                    if let ["weight", weight] = words[..] {
                        script_weight = Some(weight.parse().unwrap());
                    }
                }
                (Some(block), Some(draft)) => draft.line(block, &words),
                _ => {}
            },
        }
    }
    let finish = |draft: Draft| draft.finish(script_weight);
    drafts.into_iter().map(finish).collect()
}

impl Draft {
    fn line(&mut self, block: &str, words: &[&str]) {
        let parameters = &mut self.parameters;
        let is_on = |word: &&&str| matches!(**word, "on" | "true" | "yes");
        match (block, words) {
            ("virtual_ipaddress", [address, ..]) => {
                let (address, _) = address.split_once('/').unwrap();
                parameters.addresses.push(address.parse().unwrap());
            }
            ("unicast_peer", [address, ..]) => {
                parameters.peers.push(Peer::new(address.parse().unwrap()));
            }
            ("track_script", _) => self.tracks_script = true,
            ("authentication", ["auth_type", kind]) => self.auth_type = (*kind).to_owned(),
            ("authentication", ["auth_pass", pass]) => self.auth_pass = (*pass).to_owned(),
            ("vrrp_instance", ["virtual_router_id", vrid]) => {
                parameters.vrid = vrid.parse().unwrap();
            }
            (_, ["version", version]) => parameters.version = version.parse().unwrap(),
            (_, ["priority", priority]) => parameters.priority = priority.parse().unwrap(),
            (_, ["advert_int", seconds]) => {
                parameters.advert_ms = millis(seconds).as_millis().try_into().unwrap();
            }
            (_, ["nopreempt"]) => parameters.preempt = false,
            (_, ["preempt_delay", delay]) => parameters.preempt_delay = millis(delay),
            (_, ["strict_mode", word]) => parameters.strict = is_on(&word),
            (_, ["higher_prio_send_advert", word]) => {
                parameters.higher_prio_send_advert = is_on(&word);
            }
            (_, ["lower_prio_no_advert", word]) => {
                parameters.lower_prio_no_advert = is_on(&word);
            }
            (_, ["old_unicast_checksum"]) => parameters.checksum = ChecksumForm::OldUnicast,
            (_, ["unicast_src_ip", source]) => self.source = Some(source.parse().unwrap()),
            (_, ["use_vmac", ..]) => self.has_vmac = true,
            (_, ["garp_master_repeat", count]) => self.announce.repeat = count.parse().unwrap(),
            (_, ["garp_master_delay", delay]) => self.announce.delay = millis(delay),
            (_, ["garp_master_refresh", delay]) => self.announce.refresh = millis(delay),
            (_, ["garp_master_refresh_repeat", count]) => {
                self.announce.refresh_repeat = count.parse().unwrap();
            }
            (_, ["garp_lower_prio_repeat", count]) => {
                self.lower_prio_repeat = Some(count.parse().unwrap());
            }
            (_, ["garp_lower_prio_delay", delay]) => self.lower_prio_delay = Some(millis(delay)),
            (_, ["state" | "interface", _] | ["vmac_xmit_base"]) => {}
            // Interfaces are tracked by the actions of the case.
            ("track_interface", _) => {}
            (block, words) => panic!("{block}: {words:?} is not understood"),
        }
    }
}

/// Seconds, perhaps with a fraction.
fn millis(seconds: &str) -> Duration {
    let seconds: f64 = seconds.parse().unwrap();
    Duration::from_millis((seconds * 1000.0).round() as u64)
}
