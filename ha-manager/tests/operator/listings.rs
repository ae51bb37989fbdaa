//! What a director shows after packets of every kind, held against a kernel director that got the same.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use serde_json::Value;

use crate::host::{Host, wait_for};
use crate::network::{self, blocks, connections, without_size};

const RECORDED: &str = include_str!("../golden/listings.json");
/// The association that got no answer to its INIT: four seconds are its timeout, and it was gone before
/// the last listing was recorded.
const SHORT_LIVED: [&str; 2] = ["10.100.0.11:40162", "0A64000B 9CE2"];
/// A row is shown at most so long after its packets. Unit: seconds.
const RECORDED_LATE: u32 = 8;

#[test]
fn listings_are_those_of_a_kernel_director() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let host = Host::new();
    let director = network::director(&host, &mark_sections(&recorded));
    assert_eq!(host.status()["mark_rules"], 3);
    for line in texts(&recorded["commands"]) {
        host.admin(line);
    }
    for packet in recorded["packets"].as_array().unwrap() {
        director.wire.send(packet["pkt"].as_str().unwrap(), 1);
    }
    let proc = |name: &str| host.directord(&["proc", name]).succeeded();
    let of_kernel = |name: &str| recorded["proc"][name].as_str().unwrap();
    wait_for("the last packet", || {
        counts(&proc("ip_vs_stats")) == counts(of_kernel("ip_vs_stats"))
    });

    for (line, expected) in recorded["ipvsadm"].as_object().unwrap() {
        let (ours, expected) = (host.admin(line), expected.as_str().unwrap());
        match line.as_str() {
            "-L -n -c" => {
                let ours = connections(&without_short_lived(&ours));
                assert_eq!(ours, connections(expected), "{line}");
            }
            // Rates take their time.
            "-L -n --rate" => {}
            _ => assert_eq!(without_size(&ours), without_size(expected), "{line}"),
        }
    }
    let services = without_size(&proc("ip_vs"));
    assert_eq!(blocks(&services), blocks(&without_size(of_kernel("ip_vs"))));
    for name in ["ip_vs_conn", "ip_vs_conn_sync"] {
        let ours = without_short_lived(&proc(name));
        let expected = without_short_lived(of_kernel(name));
        compare_rows(&ours, &expected);
    }
    check_statistics(&host, of_kernel("ip_vs_stats_percpu"));
}

/// Every row is there and none besides, and its timer stands where the kernel's stood a moment later.
fn compare_rows(ours: &str, expected: &str) {
    assert_eq!(ours.lines().next(), expected.lines().next());
    let rows = |text: &str| {
        let mut rows: Vec<(String, u32)> = text
            .lines()
            .skip(1)
            .map(|row| {
                let (row, expires) = row.trim_end().rsplit_once(' ').unwrap();
                (row.trim_end().to_owned(), expires.parse().unwrap())
            })
            .collect();
        rows.sort();
        rows
    };
    let (ours, expected) = (rows(ours), rows(expected));
    let names = |rows: &[(String, u32)]| -> Vec<String> {
        rows.iter().map(|(row, _)| row.clone()).collect()
    };
    assert_eq!(names(&ours), names(&expected));
    for ((row, ours), (_, recorded)) in ours.iter().zip(&expected) {
        let possible = *recorded..=recorded + RECORDED_LATE;
        assert!(possible.contains(ours), "{row}: {ours}, not {possible:?}");
    }
}

/// The figures of the whole director: rows of processors add up to the total, zeroing empties the total
/// and the rates and leaves the rows alone.
fn check_statistics(host: &Host, recorded: &str) {
    let read = || host.directord(&["proc", "ip_vs_stats_percpu"]).succeeded();
    let titles = |text: &str| -> Vec<String> {
        let is_title = |line: &&str| line.contains("Total") || line.contains("s ");
        text.lines().filter(is_title).map(str::to_owned).collect()
    };
    wait_for("rates", || rates_of(&read()).iter().any(|rate| *rate > 0));
    check_rates(&host.admin("-L -n --rate"));
    let before = read();
    assert_eq!(titles(&before), titles(recorded));
    let (rows, total) = percpu(&before);
    let (_, recorded_total) = percpu(recorded);
    assert_eq!(total, recorded_total);
    let sum = rows.iter().fold([0; 5], |mut sum, row| {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
        sum
    });
    assert_eq!(sum, total);
    host.admin("-Z");
    let after = read();
    assert_eq!(percpu(&after), (rows, [0; 5]));
    assert_eq!(rates_of(&after), [0; 5]);
    let zero = counts(&host.directord(&["proc", "ip_vs_stats"]).succeeded());
    assert_eq!(zero, [0; 5]);
}

/// Who got packets has a rate by now, or had one of less than a half; who got none has none.
fn check_rates(text: &str) {
    let numbers = |line: &str| -> Vec<u64> {
        let words = line.get(33..).unwrap_or_default().split_whitespace();
        words.map(|word| word.parse().unwrap()).collect()
    };
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        numbers(line.unwrap_or_else(|| panic!("{name}: {text}")))
    };
    assert!(of("TCP  10.50.0.1:80 ")[3] > 0, "{text}");
    assert_eq!(of("TCP  10.50.0.3:80 "), [0; 5]);
    assert_eq!(of("FWM  11 "), [0; 5]);
}

fn percpu(text: &str) -> (Vec<[u64; 5]>, [u64; 5]) {
    let mut rows = Vec::new();
    for line in text.lines().skip(2) {
        let (name, numbers) = line.split_at(3);
        if name == "  ~" {
            return (rows, numbers_of(numbers));
        }
        let number = u64::from_str_radix(name.trim(), 16).unwrap();
        assert_eq!(number, rows.len() as u64);
        rows.push(numbers_of(numbers));
    }
    panic!("no total: {text}");
}

fn rates_of(text: &str) -> [u64; 5] {
    numbers_of(text.lines().last().unwrap())
}

/// The third line of `ip_vs_stats`.
fn counts(text: &str) -> [u64; 5] {
    numbers_of(text.lines().nth(2).unwrap())
}

fn numbers_of(line: &str) -> [u64; 5] {
    let numbers = line.split_whitespace();
    let numbers: Vec<u64> = numbers
        .map(|number| u64::from_str_radix(number, 16).unwrap())
        .collect();
    numbers.try_into().unwrap()
}

fn mark_sections(recorded: &Value) -> String {
    let section = |text: &str| {
        let (destination, mark) = text.split_once(' ').unwrap();
        format!("[[mark]]\nmark = {mark}\ndestination = \"{destination}\"\n")
    };
    texts(&recorded["marks"]).map(section).collect()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    let texts = list.as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap())
}

fn without_short_lived(text: &str) -> String {
    let is_kept = |line: &&str| !SHORT_LIVED.iter().any(|it| line.contains(it));
    text.split_inclusive('\n').filter(is_kept).collect()
}
