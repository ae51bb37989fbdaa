//! Rates: an average of what was counted, renewed every two seconds.
//!
//! Source: `ip_vs_est.c`.

use crate::service::StatsRecord;

/// Seconds between renewals.
pub const PERIOD_SECS: u64 = 2;

/// An average goes a quarter (2^-2) of the way to the newest rate.
const WEIGHT_SHIFT: u32 = 2;

/// Connections and packets per second are kept in units of 2^-10.
const COUNT_SHIFT: u32 = 10;

/// Bytes per second are kept in units of 2^-5.
const BYTES_SHIFT: u32 = 5;

/// The average rate of one figure, in units of 2^-`SHIFT` a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Average<const SHIFT: u32> {
    /// The count at the last renewal.
    last: u64,
    rate: u64,
}

impl<const SHIFT: u32> Average<SHIFT> {
    /// Starts at rate zero from a count.
    pub const fn starting_at(count: u64) -> Average<SHIFT> {
        Average {
            last: count,
            rate: 0,
        }
    }

    /// Renews the average after [`PERIOD_SECS`].
    pub const fn renew(&mut self, count: u64) {
        // Counted in two seconds, so one bit less for a rate per second.
        let rate = count.wrapping_sub(self.last) << (SHIFT - 1);
        self.last = count;
        let step = rate.wrapping_sub(self.rate) as i64 >> WEIGHT_SHIFT;
        self.rate = self.rate.wrapping_add(step as u64);
    }

    /// The rate per second as it is shown: halves go down.
    pub const fn per_second(&self) -> u64 {
        self.rate.wrapping_add((1 << (SHIFT - 1)) - 1) >> SHIFT
    }

    /// The rate begins again at zero; counting goes on.
    pub const fn zero(&mut self) {
        self.rate = 0;
    }
}

/// Rates per second as they are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub conns: u64,
    pub in_pkts: u64,
    pub out_pkts: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

/// The rates of a service, a server or the director. It is given the raw counts, not those since the
/// last zeroing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimator {
    conns: Average<COUNT_SHIFT>,
    in_pkts: Average<COUNT_SHIFT>,
    out_pkts: Average<COUNT_SHIFT>,
    in_bytes: Average<BYTES_SHIFT>,
    out_bytes: Average<BYTES_SHIFT>,
}

impl Estimator {
    /// Starts with rates of zero: what was counted before does not count as rate.
    pub const fn starting_at(stats: &StatsRecord) -> Estimator {
        Estimator {
            conns: Average::starting_at(stats.conns),
            in_pkts: Average::starting_at(stats.in_pkts),
            out_pkts: Average::starting_at(stats.out_pkts),
            in_bytes: Average::starting_at(stats.in_bytes),
            out_bytes: Average::starting_at(stats.out_bytes),
        }
    }

    /// Renews the rates after [`PERIOD_SECS`].
    pub const fn renew(&mut self, stats: &StatsRecord) {
        self.conns.renew(stats.conns);
        self.in_pkts.renew(stats.in_pkts);
        self.out_pkts.renew(stats.out_pkts);
        self.in_bytes.renew(stats.in_bytes);
        self.out_bytes.renew(stats.out_bytes);
    }

    pub const fn rates(&self) -> Rates {
        Rates {
            conns: self.conns.per_second(),
            in_pkts: self.in_pkts.per_second(),
            out_pkts: self.out_pkts.per_second(),
            in_bytes: self.in_bytes.per_second(),
            out_bytes: self.out_bytes.per_second(),
        }
    }

    /// When statistics are zeroed (`ip_vs_est.c: ip_vs_zero_estimator`).
    pub const fn zero(&mut self) {
        self.conns.zero();
        self.in_pkts.zero();
        self.out_pkts.zero();
        self.in_bytes.zero();
        self.out_bytes.zero();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten connections a second: 20 in two seconds, 20 << 9 = 10240 = 10.0 in units of 2^-10.
    #[test]
    fn an_average_goes_a_quarter_of_the_way() {
        let mut average = Average::<10>::default();
        let (mut count, mut kept) = (0, [0; 5]);
        for rate in &mut kept {
            count += 20;
            average.renew(count);
            *rate = average.rate;
        }
        // 10240/4; + (10240-2560)/4; + (10240-4480)/4; + (10240-5920)/4; + (10240-7000)/4
        assert_eq!(kept, [2560, 4480, 5920, 7000, 7810]);
        // 7810/1024 = 7.63
        assert_eq!(average.per_second(), 8);
    }

    /// A fall is rounded away from zero: −1 >> 2 is −1.
    #[test]
    fn an_average_falls_to_nothing() {
        let mut average = Average::<10> { last: 7, rate: 5 };
        let mut kept = [0; 5];
        for rate in &mut kept {
            average.renew(7);
            *rate = average.rate;
        }
        assert_eq!(kept, [3, 2, 1, 0, 0]);
    }

    #[test]
    fn halves_are_shown_rounded_down() {
        let shown = |rate| Average::<10> { last: 0, rate }.per_second();
        assert_eq!(
            [shown(512), shown(513), shown(1536), shown(1537)],
            [0, 1, 1, 2]
        );
        let shown = |rate| Average::<5> { last: 0, rate }.per_second();
        assert_eq!([shown(16), shown(17), shown(48), shown(49)], [0, 1, 1, 2]);
    }

    /// 3000 bytes in two seconds are 48000 in units of 2^-5; a quarter is 12000, 375 a second.
    #[test]
    fn bytes_have_five_bits_behind_the_point() {
        let mut estimator = Estimator::default();
        let stats = StatsRecord {
            conns: 4,
            in_pkts: 8,
            out_pkts: 16,
            in_bytes: 3000,
            out_bytes: 300_000,
        };
        estimator.renew(&stats);
        let expected = Rates {
            // 4 << 9 = 2048; a quarter is 512, which is a half.
            conns: 0,
            in_pkts: 1,
            out_pkts: 2,
            in_bytes: 375,
            out_bytes: 37_500,
        };
        assert_eq!(estimator.rates(), expected);
    }

    #[test]
    fn zeroing_keeps_the_count_and_drops_the_rate() {
        let stats = StatsRecord {
            conns: 4000,
            ..StatsRecord::default()
        };
        let mut estimator = Estimator::default();
        estimator.renew(&stats);
        estimator.zero();
        assert_eq!(estimator.rates(), Rates::default());
        estimator.renew(&stats);
        assert_eq!(estimator.rates(), Rates::default());
        assert_eq!(estimator, Estimator::starting_at(&stats));
    }

    #[test]
    fn a_count_that_went_round_is_a_small_step() {
        let mut average = Average::<10>::starting_at(u64::MAX - 9);
        average.renew(10);
        assert_eq!(average.rate, 2560);
    }
}
