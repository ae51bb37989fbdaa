//! A strict reader of the Prometheus text format 0.0.4: what it takes, every scraper takes.

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// A page that kept every rule.
#[derive(Debug, Default)]
pub(crate) struct Page {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Page {
    /// The one sample with this name and these labels, all of them.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter();
        let labels = labels.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let key = (name.to_owned(), labels.collect());
        match self.samples.get(&key) {
            Some(value) => *value,
            None => panic!("no {key:?} in {:#?}", self.of(name)),
        }
    }

    /// All samples of that name.
    pub(crate) fn of(&self, name: &str) -> Vec<(&Labels, f64)> {
        let samples = self.samples.iter();
        let samples = samples.filter(|((known, _), _)| known == name);
        samples
            .map(|((_, labels), value)| (labels, *value))
            .collect()
    }

    #[track_caller]
    pub(crate) fn kind(&self, family: &str) -> &str {
        let kind = self.kinds.get(family);
        kind.unwrap_or_else(|| panic!("no family {family}"))
    }
}

/// Reads a page, or says which rule it breaks.
pub(crate) fn read(text: &str) -> Result<Page, String> {
    if !text.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    let mut page = Page::default();
    let mut helped = BTreeSet::new();
    // Its samples have to stand together.
    let mut current = String::new();
    for line in text.lines() {
        let refuse = |reason: &str| Err(format!("{reason}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else {
                return refuse("no text");
            };
            if !is_name(name) || !helped.insert(name.to_owned()) {
                return refuse("a bad or second HELP");
            }
            unescape(help, false).ok_or_else(|| format!("a bad escape: {line}"))?;
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else {
                return refuse("no kind");
            };
            if !["counter", "gauge", "histogram"].contains(&kind) {
                return refuse("no such kind");
            }
            if (kind == "counter") != name.ends_with("_total") {
                return refuse("a counter ends with _total, and nothing else does");
            }
            if name != current || page.kinds.contains_key(name) {
                return refuse("TYPE does not follow its HELP");
            }
            page.kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let (name, labels, value) = sample(line).ok_or_else(|| format!("no sample: {line}"))?;
            let Some(kind) = page.kinds.get(&current) else {
                return refuse("a sample before its TYPE");
            };
            if !belongs(&name, &labels, &current, kind) {
                return refuse("a sample of another family");
            }
            if kind == "counter" && !(value >= 0.0 && value.is_finite()) {
                return refuse("a counter below zero");
            }
            if page.samples.insert((name, labels), value).is_some() {
                return refuse("a sample twice");
            }
        }
    }
    check_histograms(&page)?;
    Ok(page)
}

fn belongs(name: &str, labels: &Labels, family: &str, kind: &str) -> bool {
    match (name.strip_prefix(family), kind) {
        (Some("_bucket"), "histogram") => labels.contains_key("le"),
        (Some("_sum" | "_count"), "histogram") => !labels.contains_key("le"),
        (Some(""), "counter" | "gauge") => !labels.contains_key("le"),
        _ => false,
    }
}

/// Buckets grow, and the last one is the count.
fn check_histograms(page: &Page) -> Result<(), String> {
    for (family, _) in page.kinds.iter().filter(|(_, kind)| *kind == "histogram") {
        let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
        for (labels, value) in page.of(&format!("{family}_bucket")) {
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap_or_default();
            let bound = number(&bound).ok_or_else(|| format!("{family}: le {bound}"))?;
            series.entry(labels).or_default().push((bound, value));
        }
        for (labels, mut buckets) in series {
            buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
            let grows = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
            let last = buckets.last().copied();
            let count = page
                .samples
                .get(&(format!("{family}_count"), labels.clone()));
            let sum = page.samples.get(&(format!("{family}_sum"), labels));
            if !grows || sum.is_none() || last != count.map(|count| (f64::INFINITY, *count)) {
                return Err(format!("{family}: {buckets:?}, {sum:?}, {count:?}"));
            }
        }
    }
    Ok(())
}

/// `NAME{LABEL="VALUE",...} NUMBER`
fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let mut labels = Labels::new();
    let mut rest = match rest.strip_prefix('{') {
        None => rest,
        Some(mut rest) => loop {
            let (label, after) = rest.split_once("=\"")?;
            let end = end_of_value(after)?;
            let value = unescape(&after[..end], true)?;
            let is_new = labels.insert(label.to_owned(), value).is_none();
            if !is_new || !is_name(label) || label.contains(':') {
                return None;
            }
            rest = after[end..].strip_prefix('"')?;
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break rest.strip_prefix('}')?,
            }
        },
    };
    rest = rest.strip_prefix(' ')?;
    let value = number(rest)?;
    is_name(name).then(|| (name.to_owned(), labels, value))
}

/// Where the closing quote stands.
fn end_of_value(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' if !is_escaped => return Some(at),
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    None
}

fn unescape(text: &str, quotes: bool) -> Option<String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                '"' if quotes => '"',
                _ => return None,
            },
            '"' if quotes => return None,
            c => c,
        });
    }
    Some(out)
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        text => {
            let is_plain = text
                .chars()
                .all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
            text.parse().ok().filter(|_| is_plain)
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    text.starts_with(is_first) && text.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

#[test]
fn the_reader_refuses_what_breaks_a_rule() {
    let head = "# HELP a_total A.\n# TYPE a_total counter\n";
    assert!(read(&format!("{head}a_total{{b=\"c\\\\\\\"\"}} 1\n")).is_ok());
    for (rest, reason) in [
        ("a_total 1", "does not end"),
        ("a_total 1\na_total 2\n", "a sample twice"),
        ("a_total -1\n", "a counter below zero"),
        ("a_total  1\n", "no sample"),
        ("a_total{b=\"c\"d=\"e\"} 1\n", "no sample"),
        ("a_total{b=\"c\",b=\"e\"} 1\n", "no sample"),
        ("a_total{b=\"c} 1\n", "no sample"),
        ("a_total{b=\"\\x\"} 1\n", "no sample"),
        ("b 1\n", "a sample of another family"),
        ("# TYPE a_total counter\n", "TYPE does not follow its HELP"),
        ("# HELP a_total A.\n", "a bad or second HELP"),
        (
            "# HELP b B.\n# TYPE b counter\n",
            "a counter ends with _total",
        ),
        ("# HELP b B.\nb 1\n", "a sample before its TYPE"),
    ] {
        let error = read(&format!("{head}{rest}")).expect_err(rest);
        assert!(error.contains(reason), "{rest}: {error}");
    }
    let head = "# HELP h H.\n# TYPE h histogram\n";
    let good = "h_bucket{le=\"0.1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 1.5\nh_count 2\n";
    assert!(read(&format!("{head}{good}")).is_ok());
    for (from, to) in [
        ("h_count 2", "h_count 3"),
        ("\"0.1\"} 1", "\"0.1\"} 3"),
        ("h_sum 1.5\n", ""),
    ] {
        assert!(read(&format!("{head}{}", good.replace(from, to))).is_err());
    }
}
