//! Listings of a director beside those of a kernel: the same rows in any order, with timers that
//! agree.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is compared, by the name it has in the recordings.
pub(crate) const LISTINGS: [&str; 4] =
    ["ip_vs_conn", "ip_vs_conn_sync", "ipvsadm_Lnc", "ipvsadm_Ln"];

/// Unit: seconds. The recordings and the listings here are read some time after the datagram.
const TIMER_TOLERANCE: u32 = 2;
/// Unit: seconds. A row that ends so soon need not be in both listings.
const ENDING: u32 = 1;
/// Columns of the timer in the files of `/proc/net`.
const TIMER_WIDTH: usize = 7;

/// Timers by row; the same row may be listed more than once.
type Rows = BTreeMap<String, Vec<u32>>;

/// A row that is another one here, or is missing, or is too much.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    pub(crate) listing: &'static str,
    /// Without its timer.
    pub(crate) row: String,
    pub(crate) what: String,
}

/// What differs in a listing that was recorded as `kernels`.
pub(crate) fn differences(listing: &'static str, ours: &str, kernels: &Value) -> Vec<Difference> {
    let difference = |row: &str, what: String| Difference {
        listing,
        row: row.to_owned(),
        what,
    };
    let kernels = kernels.as_str().unwrap();
    let ((our_head, our_lines), (head, lines)) = (head(listing, ours), head(listing, kernels));
    // Of services the first line says the size of the table.
    if listing == "ipvsadm_Ln" {
        if our_lines == lines {
            return Vec::new();
        }
        let what = format!("want\n{lines}got\n{our_lines}");
        return vec![difference("", what)];
    }
    let mut all = Vec::new();
    if our_head != head {
        all.push(difference(head, format!("got the head {our_head}")));
    }
    let (ours, kernels) = (rows(listing, our_lines), rows(listing, lines));
    for (row, wanted) in &kernels {
        let got = ours.get(row).map(Vec::as_slice).unwrap_or_default();
        let fits = got.len() == wanted.len()
            && wanted
                .iter()
                .zip(got)
                .all(|(a, b)| a.abs_diff(*b) <= TIMER_TOLERANCE);
        if !fits && wanted.iter().chain(got).any(|timer| *timer > ENDING) {
            all.push(difference(row, format!("want {wanted:?} s, got {got:?} s")));
        }
    }
    for (row, got) in &ours {
        if !kernels.contains_key(row) && got.iter().any(|timer| *timer > ENDING) {
            all.push(difference(row, format!("want none, got {got:?} s")));
        }
    }
    all
}

/// The lines that say what the columns are, and the rest.
fn head<'a>(listing: &str, text: &'a str) -> (&'a str, &'a str) {
    let lines = if listing == "ipvsadm_Lnc" { 2 } else { 1 };
    let length = text.split_inclusive('\n').take(lines).map(str::len).sum();
    text.split_at(length)
}

fn rows(listing: &str, lines: &str) -> Rows {
    let mut rows = Rows::new();
    for line in lines.lines() {
        let (row, timer) = match listing {
            "ip_vs_conn" => without_timer(line, 8),
            "ip_vs_conn_sync" => without_timer(line, 9),
            "ipvsadm_Lnc" => {
                let mut words: Vec<&str> = line.split_whitespace().collect();
                let timer = words.remove(1).split(':');
                let timer = timer.fold(0, |all, part| all * 60 + part.parse::<u32>().unwrap());
                (words.join(" "), timer)
            }
            other => panic!("{other}"),
        };
        let timers = rows.entry(row).or_default();
        // The kernel's file changes while `ipvsadm` reads it, which then says a row twice.
        if listing != "ipvsadm_Lnc" || timers.is_empty() {
            timers.push(timer);
            timers.sort_unstable();
        }
    }
    rows
}

/// A line with its columns, but for the word that is the timer.
fn without_timer(line: &str, place: usize) -> (String, u32) {
    let word = line.split_whitespace().nth(place);
    let word = word.unwrap_or_else(|| panic!("no timer: {line}"));
    let begin = word.as_ptr().addr() - line.as_ptr().addr();
    let end = begin + word.len();
    let column = begin.min(end.saturating_sub(TIMER_WIDTH));
    let row = format!("{}...{}", &line[..column], &line[end..]);
    (row, word.parse().unwrap())
}

impl std::fmt::Display for Difference {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{}: {}: {}", self.listing, self.row, self.what)
    }
}
