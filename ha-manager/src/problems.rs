//! What is wrong at the moment, for `directord status` and the log.
//!
//! A problem is known by a key, and is there until it is cleared or, if it was only observed, has
//! not been seen for a while. It is logged when it appears, and when its text changes, but no more
//! often than every [`LOG_PAUSE`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// Between two log lines about one problem.
const LOG_PAUSE: Duration = Duration::from_secs(10);
/// Problems at a time; keys come from the configuration, so there are few.
const PROBLEMS_MAX: usize = 512;

/// That one found no room is said for so long after the last.
const LEFT_OUT_HOLD: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Problem {
    text: String,
    logged: Instant,
    /// Gone by itself then.
    until: Option<Instant>,
}

/// The problems there are, by key.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    known: BTreeMap<String, Problem>,
    /// When one found no room the last time.
    left_out: Option<Instant>,
}

impl Problems {
    /// It is there until it is cleared.
    pub(crate) fn set(&mut self, key: &str, text: String, now: Instant) {
        self.put(key, text, None, now);
    }

    /// These are all problems whose keys begin with `prefix`.
    pub(crate) fn set_all(&mut self, prefix: &str, found: BTreeMap<String, String>, now: Instant) {
        let is_over = |key: &String| key.starts_with(prefix) && !found.contains_key(key);
        let over: Vec<String> = self
            .known
            .keys()
            .filter(|key| is_over(key))
            .cloned()
            .collect();
        for key in over {
            self.clear(&key);
        }
        for (key, text) in found {
            self.set(&key, text, now);
        }
    }

    /// It was seen now, and counts as gone when it is not seen again for `hold`.
    pub(crate) fn seen(&mut self, key: &str, text: String, hold: Duration, now: Instant) {
        self.put(key, text, Some(now + hold), now);
    }

    fn put(&mut self, key: &str, text: String, until: Option<Instant>, now: Instant) {
        if let Some(known) = self.known.get_mut(key) {
            known.until = until;
            if known.text != text {
                if now.duration_since(known.logged) >= LOG_PAUSE {
                    warn!("{text}");
                    known.logged = now;
                }
                known.text = text;
            }
            return;
        }
        if self.known.len() == PROBLEMS_MAX {
            if self.left_out.is_none() {
                warn!("more than {PROBLEMS_MAX} problems: no further one is shown");
            }
            self.left_out = Some(now);
            return;
        }
        warn!("{text}");
        self.known.insert(
            key.to_owned(),
            Problem {
                text,
                logged: now,
                until,
            },
        );
    }

    pub(crate) fn clear(&mut self, key: &str) {
        if let Some(problem) = self.known.remove(key) {
            info!(was = problem.text, "a problem is solved");
        }
    }

    /// Forgets what has not been seen for long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        let gone = |problem: &Problem| problem.until.is_some_and(|until| until <= now);
        for (_, problem) in self.known.extract_if(.., |_, problem| gone(problem)) {
            info!(was = problem.text, "a problem is not seen any more");
        }
        // Those that there are say so at least this often.
        self.left_out = (self.left_out).filter(|last| now.duration_since(*last) < LEFT_OUT_HOLD);
    }

    /// In a fixed order.
    pub(crate) fn texts(&self) -> Vec<String> {
        let known = self.known.values().map(|problem| problem.text.clone());
        let more = (self.left_out)
            .map(|_| format!("more than {PROBLEMS_MAX} problems: no further one is shown"));
        known.chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_stays_until_it_is_cleared() {
        let (mut problems, now) = (Problems::default(), Instant::now());
        problems.set("b", "second".to_owned(), now);
        problems.set("a", "first".to_owned(), now);
        problems.set("a", "first, worse".to_owned(), now);
        problems.expire(now + Duration::from_secs(3600));
        assert_eq!(problems.texts(), ["first, worse", "second"]);
        problems.clear("a");
        problems.clear("a");
        assert_eq!(problems.texts(), ["second"]);
    }

    #[test]
    fn what_was_only_observed_fades() {
        let (mut problems, now) = (Problems::default(), Instant::now());
        let hold = Duration::from_secs(60);
        problems.seen("arp", "conflict".to_owned(), hold, now);
        problems.seen("arp", "conflict".to_owned(), hold, now + hold / 2);
        problems.expire(now + hold);
        assert_eq!(problems.texts(), ["conflict"]);
        problems.expire(now + hold * 3 / 2);
        assert_eq!(problems.texts(), [""; 0]);
    }

    #[test]
    fn one_that_finds_no_room_is_said_until_there_is_room_for_a_while() {
        let (mut problems, now) = (Problems::default(), Instant::now());
        for at in 0..=PROBLEMS_MAX {
            problems.set(&format!("{at:04}"), "one".to_owned(), now);
        }
        let full = "more than 512 problems: no further one is shown";
        assert_eq!(problems.texts().len(), PROBLEMS_MAX + 1);
        assert_eq!(problems.texts().last().map(String::as_str), Some(full));
        problems.clear("0000");
        problems.expire(now + LEFT_OUT_HOLD / 2);
        assert_eq!(problems.texts().len(), PROBLEMS_MAX);
        problems.expire(now + LEFT_OUT_HOLD);
        assert_eq!(problems.texts().len(), PROBLEMS_MAX - 1);
    }

    #[test]
    fn all_of_a_kind_are_told_at_once() {
        let (mut problems, now) = (Problems::default(), Instant::now());
        let found = |keys: &[&str]| {
            let pairs = keys
                .iter()
                .map(|key| ((*key).to_owned(), format!("{key}!")));
            pairs.collect::<BTreeMap<_, _>>()
        };
        problems.set("other", "other".to_owned(), now);
        problems.set_all("kind ", found(&["kind a", "kind b"]), now);
        problems.set_all("kind ", found(&["kind b", "kind c"]), now);
        assert_eq!(problems.texts(), ["kind b!", "kind c!", "other"]);
        problems.set_all("kind ", found(&[]), now);
        assert_eq!(problems.texts(), ["other"]);
    }
}
