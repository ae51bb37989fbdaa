//! What tracked objects do to a router: weights on its priority, or Fault.
//!
//! Rules only; who watches interfaces, scripts, processes and files is somebody else.

use crate::config::Priority;

/// A value of a file, times its weight, from which on a router is in Fault.
const FILE_FAULT: i64 = -254;
/// The most that one object can change.
const WEIGHT_MAX: i64 = 254;

/// What one object says of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To be added to the priority; 0 changes nothing.
    Weight(i32),
    /// The router takes no part as long as this is so.
    Fault,
}

/// Judges an interface, a script, or a process.
///
/// A positive weight counts while the object is good, a negative one while it is bad; without a
/// weight a bad object is a fault. `reverse` takes good for bad (keepalived).
pub fn judge(good: bool, weight: i16, reverse: bool) -> Verdict {
    match (good != reverse, weight) {
        (false, 0) => Verdict::Fault,
        (true, 1..) | (false, ..=-1) => Verdict::Weight(i32::from(weight)),
        (true, ..=0) | (false, 1..) => Verdict::Weight(0),
    }
}

/// Judges the number in a file.
///
/// It counts times the weight, and is a fault from -254 on down; without a weight any number but 0
/// is a fault. `reverse` turns the sign of the product, and without a weight the sense (keepalived).
pub fn judge_file(value: i64, weight: i16, reverse: bool) -> Verdict {
    if weight == 0 {
        let is_fault = (value == 0) == reverse;
        return if is_fault {
            Verdict::Fault
        } else {
            Verdict::Weight(0)
        };
    }
    let product = value.saturating_mul(i64::from(weight));
    let product = if reverse {
        product.saturating_neg()
    } else {
        product
    };
    if product <= FILE_FAULT {
        return Verdict::Fault;
    }
    // Within 254 now.
    Verdict::Weight(i32::try_from(product.min(WEIGHT_MAX)).unwrap_or_default())
}

/// The priority that a router has with the sum of all weights: 1 to 254. An owner stays one.
pub fn effective(base: Priority, sum: i32) -> Priority {
    if base == Priority::OWNER {
        return base;
    }
    let priority = i32::from(base.0).saturating_add(sum).clamp(1, 254);
    Priority(u8::try_from(priority).unwrap_or(base.0))
}

/// How the results of a script count: the first one at once, later ones when `rise` good ones or
/// `fall` bad ones have followed each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    rise: u32,
    fall: u32,
    standing: Option<bool>,
    /// Results in a row against the standing.
    against: u32,
}

impl Vote {
    /// `rise` and `fall` of 0 count as 1.
    pub fn new(rise: u32, fall: u32) -> Vote {
        Vote {
            rise,
            fall,
            standing: None,
            against: 0,
        }
    }

    /// Whether the object is good; nobody knows before the first result.
    pub fn standing(&self) -> Option<bool> {
        self.standing
    }

    /// Takes a result; tells whether the standing has changed.
    pub fn hear(&mut self, good: bool) -> bool {
        let needed = if good { self.rise } else { self.fall };
        match self.standing {
            Some(standing) if standing == good => {
                self.against = 0;
                return false;
            }
            Some(_) => self.against = self.against.saturating_add(1),
            None => self.against = needed,
        }
        if self.against < needed {
            return false;
        }
        self.against = 0;
        self.standing = Some(good);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_counts_while_its_weight_says_and_is_a_fault_without() {
        for reverse in [false, true] {
            let judge = |good: bool, weight| judge(good != reverse, weight, reverse);
            assert_eq!(judge(true, 20), Verdict::Weight(20));
            assert_eq!(judge(false, 20), Verdict::Weight(0));
            assert_eq!(judge(true, -20), Verdict::Weight(0));
            assert_eq!(judge(false, -20), Verdict::Weight(-20));
            assert_eq!(judge(true, 0), Verdict::Weight(0));
            assert_eq!(judge(false, 0), Verdict::Fault);
        }
    }

    #[test]
    fn a_file_counts_times_its_weight() {
        for (value, weight, reverse, verdict) in [
            (5, 2, false, Verdict::Weight(10)),
            (5, 2, true, Verdict::Weight(-10)),
            (5, -2, false, Verdict::Weight(-10)),
            (-253, 1, false, Verdict::Weight(-253)),
            (-254, 1, false, Verdict::Fault),
            (127, 2, true, Verdict::Fault),
            (1000, 1, false, Verdict::Weight(254)),
            (i64::MAX, 254, false, Verdict::Weight(254)),
            (i64::MIN, 254, true, Verdict::Weight(254)),
            (i64::MIN, i16::MAX, false, Verdict::Fault),
            (0, 0, false, Verdict::Weight(0)),
            (7, 0, false, Verdict::Fault),
            (-7, 0, false, Verdict::Fault),
            (0, 0, true, Verdict::Fault),
            (7, 0, true, Verdict::Weight(0)),
        ] {
            assert_eq!(
                judge_file(value, weight, reverse),
                verdict,
                "{value} {weight}"
            );
        }
    }

    #[test]
    fn a_priority_stays_one_of_a_backup_and_an_owner_an_owner() {
        for (base, sum, effective_) in [
            (150, -60, 90),
            (150, 0, 150),
            (100, 253, 254),
            (100, -253, 1),
            (100, i32::MIN, 1),
            (254, i32::MAX, 254),
            (255, -200, 255),
            (255, 1, 255),
        ] {
            assert_eq!(effective(Priority(base), sum), Priority(effective_));
        }
    }

    #[test]
    fn the_first_result_counts_at_once_and_later_ones_in_a_row() {
        for first in [true, false] {
            let mut vote = Vote::new(3, 2);
            assert_eq!(vote.standing(), None);
            assert!(vote.hear(first));
            assert_eq!(vote.standing(), Some(first));
        }
        let mut vote = Vote::new(3, 2);
        let mut heard = |results: &[bool]| -> Vec<bool> {
            let changes = results.iter().map(|good| vote.hear(*good));
            changes.collect()
        };
        assert_eq!(
            heard(&[true, false, true, false]),
            [true, false, false, false]
        );
        assert_eq!(heard(&[false]), [true], "two bad ones in a row");
        assert_eq!(heard(&[true, true, false]), [false, false, false]);
        assert_eq!(heard(&[true, true, true]), [false, false, true]);
        let mut vote = Vote::new(0, 0);
        assert!(vote.hear(true) && vote.hear(false) && vote.hear(true));
    }
}
