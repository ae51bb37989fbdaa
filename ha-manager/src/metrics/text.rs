//! The Prometheus text format, version 0.0.4.
//!
//! Written here rather than by `prometheus-client`, which knows the OpenMetrics format alone: there
//! the type of a counter stands under its name without `_total`, so that readers of the older format
//! find none.

use std::fmt::{self, Display, Write};

/// The media type.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Names and values of labels.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family. Its samples follow at once, before any other family.
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let Text(text) = self;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {}", Escaped(help, false));
        let _ = writeln!(text, "# TYPE {name} {}", kind.name());
        Family { text, name }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// A family whose samples are being written.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.write("", labels, None, value);
    }

    /// Counts of each bucket, its upper bound in seconds beside it; the last one has none. `sum` is in
    /// seconds.
    pub(super) fn histogram(
        &mut self,
        labels: Labels<'_>,
        buckets: &[(Option<f64>, u64)],
        sum: f64,
    ) {
        let mut below = 0_u64;
        for (bound, count) in buckets {
            below = below.saturating_add(*count);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            self.write("_bucket", labels, Some(&bound), below);
        }
        self.write("_sum", labels, None, sum);
        self.write("_count", labels, None, below);
    }

    fn write(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        bound: Option<&str>,
        value: impl Display,
    ) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        for (nth, (label, value)) in labels.iter().copied().chain(bound).enumerate() {
            self.text.push(if nth == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"{}\"", Escaped(value, true));
        }
        if !labels.is_empty() || bound.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Text with backslashes and line ends escaped, and quotes too where the second part says so.
struct Escaped<'a>(&'a str, bool);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.1 => f.write_str("\\\"")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_written_as_the_format_has_it() {
        let mut text = Text::default();
        text.family(Kind::Gauge, "a_b", "One \\ two\n\"three\"")
            .sample(&[], 7);
        let mut family = text.family(Kind::Counter, "c_total", "C.");
        family.sample(&[("x", "a\\b\n\"c\""), ("y", "")], u64::MAX);
        family.sample(&[("x", "ü")], -1);
        assert_eq!(
            text.into_string(),
            "# HELP a_b One \\\\ two\\n\"three\"\n# TYPE a_b gauge\na_b 7\n\
             # HELP c_total C.\n# TYPE c_total counter\n\
             c_total{x=\"a\\\\b\\n\\\"c\\\"\",y=\"\"} 18446744073709551615\nc_total{x=\"ü\"} -1\n"
        );
    }

    #[test]
    fn buckets_add_up() {
        let mut text = Text::default();
        let buckets = [(Some(0.000_05), 2), (Some(0.05), 3), (None, 1)];
        text.family(Kind::Histogram, "h", "H.")
            .histogram(&[("i", "1")], &buckets, 0.25);
        let text = text.into_string();
        let samples: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            samples,
            [
                "h_bucket{i=\"1\",le=\"0.00005\"} 2",
                "h_bucket{i=\"1\",le=\"0.05\"} 5",
                "h_bucket{i=\"1\",le=\"+Inf\"} 6",
                "h_sum{i=\"1\"} 0.25",
                "h_count{i=\"1\"} 6",
            ]
        );
    }
}
