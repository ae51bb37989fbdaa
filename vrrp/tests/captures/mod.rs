//! The recorded cases: frames as JSON, and the configurations of both routers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use vrrp::{Config, Parameters};

pub struct Case {
    pub name: String,
    pub json: Value,
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

    /// The configuration of a router, `a` or `b`.
    pub fn config(&self, router: &str) -> Option<Config> {
        let file = self.json["configs"][router].as_str()?;
        let text = fs::read_to_string(dir().join(file)).unwrap();
        Some(parse(&text))
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

/// The one instance of a configuration of keepalived, as far as these captures go.
fn parse(text: &str) -> Config {
    let mut parameters = Parameters::default();
    let mut in_addresses = false;
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["virtual_ipaddress", "{"] => in_addresses = true,
            ["}"] => in_addresses = false,
            [address] if in_addresses => {
                let (address, _) = address.split_once('/').unwrap();
                let address: Ipv4Addr = address.parse().unwrap();
                parameters.addresses.push(address);
            }
            ["virtual_router_id", vrid] => parameters.vrid = vrid.parse().unwrap(),
            ["priority", priority] => parameters.priority = priority.parse().unwrap(),
            ["advert_int", seconds] => {
                let seconds: f64 = seconds.parse().unwrap();
                parameters.advert_ms = (seconds * 1000.0).round() as u32;
            }
            ["nopreempt"] => parameters.preempt = false,
            ["strict_mode", "on"] => parameters.lower_prio_no_advert = true,
            ["higher_prio_send_advert", "true"] => parameters.higher_prio_send_advert = true,
            _ => {}
        }
    }
    Config::new(parameters).unwrap()
}
