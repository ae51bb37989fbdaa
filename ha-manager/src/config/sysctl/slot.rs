//! Where the value of a tunable stands, and what the kernel takes for it.

use std::ops::RangeInclusive;

/// Unit: characters of a number, with its sign; `sysctl.c: proc_get_long` reads no longer one.
const WORD_MAX: usize = 20;

/// The two numbers of `sync_threshold`. Unit: packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Threshold {
    pub(super) threshold: i32,
    /// 0 synchronises once.
    pub(super) period: i32,
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold {
            threshold: 3,
            period: 50,
        }
    }
}

/// The value of one tunable, by the rule it is written by. A rule that is broken is said in words that
/// follow name and value.
pub(super) enum Slot<'a> {
    /// Whatever the kernel keeps: `proc_dointvec`.
    Any(&'a mut i32),
    /// A number without a sign: `proc_doulongvec_minmax`.
    Count(&'a mut u64),
    /// `ip_vs_ctl.c: proc_do_sync_ports`.
    PowerOfTwo(&'a mut i32),
    /// `ip_vs_ctl.c: proc_do_defense_mode`, of which only what does not follow memory is here.
    SecureTcp(&'a mut i32),
    /// `ip_vs_ctl.c: proc_do_sync_threshold`.
    Threshold(&'a mut Threshold),
    /// `proc_dointvec_minmax` and its like.
    Within(&'a mut i32, RangeInclusive<i32>),
}

impl Slot<'_> {
    /// As the kernel prints it.
    pub(super) fn text(&self) -> String {
        match self {
            Slot::Any(value)
            | Slot::PowerOfTwo(value)
            | Slot::SecureTcp(value)
            | Slot::Within(value, _) => value.to_string(),
            Slot::Count(value) => value.to_string(),
            Slot::Threshold(Threshold { threshold, period }) => format!("{threshold}\t{period}"),
        }
    }

    /// Takes a value, or gives back the rule that it breaks and stays as it was.
    pub(super) fn write(self, text: &str) -> Result<(), String> {
        match self {
            Slot::Any(value) => *value = within(number(text)?, &(i32::MIN..=i32::MAX))?,
            Slot::Count(value) => {
                *value = match u64::try_from(number(text)?) {
                    // Not even a sign that makes no difference.
                    Ok(number) if !text.contains('-') => number,
                    Ok(_) | Err(_) => return Err(format!("is not between 0 and {}", u64::MAX)),
                };
            }
            Slot::PowerOfTwo(value) => {
                *value = match i32::try_from(number(text)?) {
                    Ok(number) if number > 0 && number.count_ones() == 1 => number,
                    Ok(_) | Err(_) => return Err("is not a power of two".to_owned()),
                };
            }
            Slot::SecureTcp(value) => {
                *value = match within(number(text)?, &(0..=3))? {
                    number @ (0 | 3) => number,
                    _ => {
                        return Err(
                            "(the defence that follows memory) is not supported by this \
                                    director yet"
                                .to_owned(),
                        );
                    }
                };
            }
            Slot::Threshold(value) => *value = threshold(text, *value)?,
            Slot::Within(value, range) => *value = within(number(text)?, &range)?,
        }
        Ok(())
    }
}

/// One number changes the threshold alone.
fn threshold(text: &str, before: Threshold) -> Result<Threshold, String> {
    let (threshold, period) = match numbers(text).unwrap_or_default()[..] {
        [threshold] => (threshold, i128::from(before.period)),
        [threshold, period] => (threshold, period),
        _ => return Err("is not a threshold and a period".to_owned()),
    };
    let unsigned = |number| i32::try_from(number).ok().filter(|number| *number >= 0);
    match (unsigned(threshold), unsigned(period)) {
        (Some(threshold), Some(period)) if period == 0 || threshold < period => {
            Ok(Threshold { threshold, period })
        }
        _ => Err("needs a threshold below the period, or a period of 0".to_owned()),
    }
}

fn within(number: i128, range: &RangeInclusive<i32>) -> Result<i32, String> {
    match i32::try_from(number) {
        Ok(value) if range.contains(&value) => Ok(value),
        Ok(_) | Err(_) => {
            let (least, most) = (range.start(), range.end());
            Err(format!("is not between {least} and {most}"))
        }
    }
}

/// DIFFERS: the kernel takes the first number of several and forgets the others; here a value that is
/// not wholly used is refused.
pub(super) fn number(text: &str) -> Result<i128, String> {
    match numbers(text).as_deref() {
        Some([number]) => Ok(*number),
        Some(_) | None => Err("is not a number".to_owned()),
    }
}

/// Numbers between spaces, at most three.
fn numbers(text: &str) -> Option<Vec<i128>> {
    text.split_ascii_whitespace().take(3).map(word).collect()
}

/// As `sysctl.c: proc_get_long` reads a number: decimal, hexadecimal after `0x`, octal after `0`.
fn word(word: &str) -> Option<i128> {
    if word.len() > WORD_MAX {
        return None;
    }
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match (lower.strip_prefix("0x"), lower.strip_prefix('0')) {
        (Some(digits), _) => (16, digits),
        (None, Some(digits)) if !digits.is_empty() => (8, digits),
        (None, _) => (10, lower.as_str()),
    };
    // What `from_str_radix` would take beside digits.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    Some(sign * i128::from_str_radix(digits, radix).ok()?)
}
