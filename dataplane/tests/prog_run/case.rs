//! Lines of the table.

use dataplane::common::verdict::{Event, Verdict};

const TABLE: &str = include_str!("../prog_run.table");

/// One line of the table.
pub struct Case {
    /// The families it is run in: `46`, `4` or `6`.
    pub families: &'static str,
    pub name: &'static str,
    pub given: &'static str,
    pub packet: &'static str,
    pub verdict: Verdict,
    pub out: &'static str,
    pub counted: &'static str,
    pub conns: i64,
    pub state: Option<&'static str>,
    /// What else holds afterwards.
    pub also: &'static str,
}

pub fn cases() -> Vec<Case> {
    let lines = TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(case).collect()
}

fn case(line: &'static str) -> Case {
    let columns: Vec<&str> = line.split('|').map(str::trim).collect();
    let (columns, also) = match columns[..] {
        [ref most @ .., also] if most.len() == 9 => (most, also),
        ref all => (all, ""),
    };
    let [
        families,
        name,
        given,
        packet,
        verdict,
        out,
        counted,
        conns,
        state,
    ] = *columns
    else {
        panic!("nine or ten columns: {line}");
    };
    let known = Verdict::ALL.iter().find(|known| known.name() == verdict);
    Case {
        families,
        name,
        given,
        packet,
        verdict: *known.unwrap_or_else(|| panic!("verdict {verdict}: {line}")),
        out,
        counted,
        conns: conns.parse().unwrap_or_else(|_| panic!("{line}")),
        state: (state != "-").then_some(state),
        also,
    }
}

impl Case {
    /// Events that must have moved, and by how much. Those that depend on what other processors do, or
    /// on chance, are not looked at.
    pub fn events(&self) -> Vec<(Event, u64)> {
        let looked_at = Event::ALL.iter().filter(|event| {
            !matches!(
                event,
                Event::SwapRetry | Event::SwapGivenUp | Event::AllocProbe
            )
        });
        let expected = looked_at.map(|event| {
            let one_each = self.also.split_whitespace();
            let named = one_each.filter(|word| word.strip_prefix('+') == Some(event.name()));
            let implied = *event == Event::Created
                && self.counted.starts_with("conn")
                && !self
                    .also
                    .split_whitespace()
                    .any(|word| word == "-conn_created");
            (*event, named.count() as u64 + u64::from(implied))
        });
        expected.collect()
    }
}

/// Words, with what stands in braces as one: `nat {-D -t A} c:S`.
pub fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (word, after) = if rest.starts_with('{') {
            let end = rest.find('}').unwrap_or_else(|| panic!("brace: {text}"));
            (&rest[..=end], &rest[end + 1..])
        } else {
            rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()))
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}
