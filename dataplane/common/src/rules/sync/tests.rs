use std::format;

use super::*;
use Reason::*;

/// What kind of entry a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Sctp,
    Template,
}
use Kind::*;

/// Milliseconds, the time of every row.
const NOW: u64 = 1_000_000;

/// Number of the row; kind; threshold, period, refresh in seconds, retries, persist mode; whether a
/// template is up the chain; old and present state; packets; timeout in seconds; `sync_endtime`
/// before; after, if it is mentioned; why not, if not.
type Row = (
    u32,
    Kind,
    [u32; 5],
    bool,
    (u8, u8),
    u32,
    u32,
    u64,
    Option<u64>,
    Option<Reason>,
);

#[rustfmt::skip]
const ROWS: [Row; 58] = [
    (1, Tcp, [3, 50, 0, 0, 0], false, (0, 3), 1, 60, 999000, None, Some(State)),
    (2, Tcp, [3, 50, 0, 0, 0], false, (0, 1), 2, 900, 999000, None, Some(PacketCount)),
    (3, Tcp, [3, 50, 0, 0, 0], false, (0, 1), 3, 900, 999000, Some(1900000), None),
    (4, Tcp, [3, 50, 0, 0, 0], false, (1, 1), 4, 900, 1899000, None, Some(PacketCount)),
    (5, Tcp, [3, 50, 0, 0, 0], false, (1, 1), 53, 900, 1895000, Some(1900000), None),
    (6, Tcp, [3, 50, 0, 0, 0], false, (1, 1), 50, 900, 1895000, None, Some(PacketCount)),
    (7, Tcp, [3, 50, 0, 0, 0], false, (1, 4), 7, 120, 1895000, Some(1120000), None),
    (8, Tcp, [3, 50, 0, 0, 0], false, (4, 4), 8, 120, 1119900, None, Some(PacketCount)),
    (9, Tcp, [3, 50, 0, 0, 0], false, (4, 4), 53, 120, 1119900, Some(1120000), None),
    (10, Tcp, [3, 50, 0, 0, 0], false, (4, 5), 9, 120, 1119900, Some(1120000), None),
    (11, Tcp, [3, 50, 0, 0, 0], false, (1, 6), 4, 10, 1895000, Some(1010000), None),
    (12, Tcp, [3, 50, 0, 0, 0], false, (1, 7), 4, 60, 1895000, Some(1060000), None),
    (13, Tcp, [3, 50, 0, 0, 0], false, (7, 8), 53, 30, 1895000, None, Some(State)),
    (14, Tcp, [3, 50, 0, 0, 0], false, (0, 2), 3, 120, 999000, None, Some(State)),
    (15, Tcp, [3, 50, 0, 0, 0], false, (0, 10), 3, 120, 999000, None, Some(State)),
    (16, Tcp, [3, 50, 0, 0, 0], false, (0, 9), 3, 120, 999000, None, Some(State)),
    (17, Tcp, [3, 50, 0, 0, 0], false, (5, 1), 10, 900, 1115000, None, Some(PacketCount)),
    (18, Tcp, [3, 50, 0, 0, 0], false, (5, 1), 103, 900, 1115000, Some(1900000), None),
    (19, Tcp, [0, 1, 0, 0, 0], false, (1, 1), 17, 900, 1899988, Some(1900000), None),
    (20, Tcp, [0, 50, 0, 0, 0], false, (1, 1), 50, 900, 1899988, Some(1900000), None),
    (21, Tcp, [0, 50, 0, 0, 0], false, (1, 1), 51, 900, 1899988, None, Some(PacketCount)),
    (22, Tcp, [3, 0, 0, 0, 0], false, (0, 1), 3, 900, 999000, Some(1900000), None),
    (23, Tcp, [3, 0, 0, 0, 0], false, (1, 1), 53, 900, 1895000, None, Some(PacketCount)),
    (24, Tcp, [3, 0, 0, 0, 0], false, (1, 4), 60, 120, 1895000, Some(1120000), None),
    (25, Udp, [3, 50, 0, 0, 0], false, (0, 0), 3, 300, 999000, Some(1300000), None),
    (26, Udp, [3, 50, 0, 0, 0], false, (0, 0), 4, 300, 1299988, None, Some(PacketCount)),
    (27, Sctp, [3, 50, 0, 0, 0], false, (0, 7), 3, 61, 999000, None, Some(State)),
    (28, Sctp, [3, 50, 0, 0, 0], false, (0, 8), 3, 900, 999000, Some(1900000), None),
    (29, Sctp, [3, 50, 0, 0, 0], false, (8, 9), 5, 61, 1899988, Some(1061000), None),
    (30, Sctp, [3, 50, 0, 0, 0], false, (8, 12), 3, 4, 1899988, None, Some(State)),
    (31, Sctp, [3, 50, 0, 0, 0], false, (9, 13), 6, 61, 1899988, Some(1061000), None),
    (32, Template, [3, 50, 0, 0, 0], false, (0, 0), 1, 360, 999000, Some(1360000), None),
    (33, Template, [3, 50, 0, 0, 0], false, (0, 1), 2, 360, 1359996, Some(1360000), None),
    (34, Template, [3, 50, 10, 0, 0], false, (1, 1), 9, 360, 1358000, None, Some(RetriesUsed)),
    (35, Template, [3, 50, 10, 0, 0], false, (1, 1), 9, 360, 1350000, Some(1360000), None),
    (36, Template, [3, 0, 0, 0, 0], false, (1, 1), 3, 360, 1359948, Some(1360000), None),
    (37, Template, [3, 0, 0, 0, 0], false, (1, 1), 4, 360, 1359948, None, Some(PacketCount)),
    (38, Tcp, [3, 50, 0, 0, 1], true, (0, 1), 3, 900, 999000, None, Some(PersistMode)),
    (39, Tcp, [3, 50, 0, 0, 1], true, (1, 4), 4, 120, 1899988, None, Some(PersistMode)),
    (40, Tcp, [3, 50, 0, 0, 1], false, (0, 1), 3, 900, 999000, Some(1900000), None),
    (41, Template, [3, 50, 0, 0, 1], false, (0, 0), 1, 360, 999000, Some(1360000), None),
    (42, Tcp, [3, 50, 10, 0, 0], false, (0, 1), 3, 900, 999000, Some(1900000), None),
    (43, Tcp, [3, 50, 10, 0, 0], false, (1, 1), 53, 900, 1896000, None, Some(RetriesUsed)),
    (44, Tcp, [3, 50, 10, 0, 0], false, (1, 1), 53, 900, 1889000, Some(1900000), None),
    (45, Tcp, [3, 50, 10, 0, 0], false, (1, 1), 54, 900, 1889000, None, Some(PacketCount)),
    (46, Tcp, [3, 0, 10, 0, 0], false, (1, 1), 54, 900, 1889000, Some(1900000), None),
    (47, Tcp, [3, 0, 10, 0, 0], false, (1, 1), 54, 900, 1896000, None, Some(RetriesUsed)),
    (48, Tcp, [3, 0, 10, 2, 0], false, (1, 1), 20, 900, 1899000, None, Some(RetryEarly)),
    (49, Tcp, [3, 0, 10, 2, 0], false, (1, 1), 20, 900, 1898700, Some(1900001), None),
    (50, Tcp, [3, 0, 10, 2, 0], false, (1, 1), 21, 900, 1898701, Some(1900002), None),
    (51, Tcp, [3, 0, 10, 2, 0], false, (1, 1), 22, 900, 1898702, None, Some(RetriesUsed)),
    (52, Tcp, [3, 50, 10, 2, 0], false, (1, 1), 54, 900, 1898700, None, Some(PacketCount)),
    (53, Tcp, [3, 50, 10, 2, 0], false, (1, 1), 53, 900, 1898700, Some(1900001), None),
    (54, Tcp, [3, 0, 60, 0, 0], false, (1, 1), 9, 30, 1016000, None, Some(RetriesUsed)),
    (55, Tcp, [3, 0, 60, 0, 0], false, (1, 1), 9, 30, 1015000, Some(1030000), None),
    (56, Udp, [3, 0, 60, 0, 0], false, (0, 0), 9, 10, 1001000, None, Some(RetriesUsed)),
    (57, Tcp, [3, 50, 10, 0, 0], false, (1, 4), 9, 120, 1899900, Some(1120000), None),
    (58, Tcp, [3, 0, 10, 0, 0], false, (5, 1), 9, 900, 1899900, None, Some(RetriesUsed)),
];

fn view(row: &Row) -> (SyncRules, SyncView) {
    let (_, kind, [threshold, period, refresh, retries, mode], under_template, (old, state), ..) =
        *row;
    let rules = SyncRules {
        threshold,
        period,
        refresh_ticks: refresh * 1000,
        retries,
        persist_mode: mode != 0,
    };
    let view = SyncView {
        protocol: match kind {
            Tcp | Template => 6,
            Udp => 17,
            Sctp => 132,
        },
        template: kind == Template,
        under_template,
        state,
        old_state: old,
        pkts: row.5,
        timeout_secs: row.6,
        endtime: row.7,
    };
    (rules, view)
}

#[test]
fn every_row_of_the_truth_table_holds() {
    for row in &ROWS {
        let (rules, view) = view(row);
        let decision = decide(&rules, &view, NOW * NS_PER_TICK);
        match decision {
            Decision::Send { endtime, .. } => assert_eq!(Some(endtime), row.8, "row {}", row.0),
            Decision::Keep(reason) => {
                assert_eq!((None, Some(reason)), (row.8, row.9), "row {}", row.0);
            }
        }
    }
}

/// The rule once more, step by step with signed arithmetic, to hold the other against.
fn model(rules: &SyncRules, view: &SyncView, now: i64) -> Option<i64> {
    let timeout = i64::from(view.timeout_secs) * 1000;
    let endtime = view.endtime as i64;
    let mut next = (now + timeout) / 4 * 4;
    let mut skips_rules = false;
    if !view.template {
        if rules.persist_mode && view.under_template {
            return None;
        }
        let heard: &[u8] = match view.protocol {
            6 => &[1, 4, 5, 6, 7],
            132 => &[8, 9, 10, 11, 13],
            _ => &[],
        };
        if !heard.is_empty() {
            if !heard.contains(&view.state) {
                return None;
            }
            skips_rules = view.state != view.old_state && view.state != heard[0];
        }
    }
    if !skips_rules {
        let refresh = i64::from(rules.refresh_ticks);
        if refresh != 0 {
            let limit = refresh.min((timeout / 2).max(10_000));
            if (next - endtime).abs() < limit {
                let made = endtime % 4;
                if made >= i64::from(rules.retries) || now < endtime - timeout + refresh / 8 {
                    return None;
                }
                next += made + 1;
            }
        }
        let (pkts, threshold) = (view.pkts, rules.threshold);
        let due = match (rules.period, refresh) {
            (0, 0) => pkts == threshold,
            (0, _) => true,
            (period, _) => view.template || pkts % period == threshold,
        };
        if !due {
            return None;
        }
    }
    Some(next)
}

/// A small generator (xorshift64*), so that a failure can be had again from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

#[test]
fn the_decision_agrees_with_a_model_written_apart() {
    const SEED: u64 = 0x5eed_0001;
    let mut random = Random(SEED);
    let mut sent = 0;
    for case in 0..300_000 {
        let rules = SyncRules {
            threshold: random.below(6) as u32,
            period: [0, 1, 5, 50][random.below(4) as usize],
            refresh_ticks: [0, 8000, 10_000, 60_000][random.below(4) as usize],
            retries: random.below(4) as u32,
            persist_mode: random.below(4) == 0,
        };
        let timeout_secs = [2, 10, 30, 60, 120, 900][random.below(6) as usize];
        let around = 1_000_000 + u64::from(timeout_secs) * 1000;
        let view = SyncView {
            protocol: [6, 17, 132][random.below(3) as usize],
            template: random.below(5) == 0,
            under_template: random.below(3) == 0,
            state: random.below(14) as u8,
            old_state: random.below(14) as u8,
            pkts: random.below(120) as u32,
            timeout_secs,
            endtime: around - 20_000 + random.below(25_000),
        };
        let expected = model(&rules, &view, 1_000_000);
        let found = match decide(&rules, &view, NOW * NS_PER_TICK) {
            Decision::Send { endtime, .. } => Some(endtime as i64),
            Decision::Keep(_) => None,
        };
        let said = format!("seed {SEED:#x}, case {case}: {rules:?} {view:?}");
        assert_eq!(found, expected, "{said}");
        sent += u32::from(found.is_some());
    }
    assert!(sent > 30_000, "the cases must reach the rules: {sent}");
}

#[test]
fn a_change_of_state_is_forced_whatever_becomes_of_the_endtime() {
    for row in &ROWS {
        let (rules, view) = view(row);
        if let Decision::Send { forced, .. } = decide(&rules, &view, NOW * NS_PER_TICK) {
            let changed = matches!(row.1, Tcp | Sctp) && view.state != view.old_state;
            assert_eq!(forced, changed, "row {}", row.0);
        }
    }
}

/// An established connection mentioned `ago` seconds ago, whose last packet came `idle` seconds ago.
fn copied(ago: u64, idle: u64) -> (Copied, u64) {
    let now = 10_000_000;
    let copied = Copied {
        endtime: (now - ago * 1000 + 900_000) & !RETRY_MASK,
        from_peer: false,
        local: true,
        timeout_secs: 900,
        deadline_ns: (now - idle * 1000 + 900_000) * NS_PER_TICK,
    };
    (copied, now * NS_PER_TICK)
}

#[test]
fn a_connection_in_use_is_told_again_after_a_quarter_of_its_timeout() {
    for (ago, idle, expected) in [
        (10, 0, false),
        (224, 0, false),
        (226, 0, true),
        (800, 5, true),
        // No packet since: the copy ends no sooner than the connection.
        (226, 226, false),
        (800, 800, false),
    ] {
        let (copied, now_ns) = copied(ago, idle);
        assert_eq!(is_overdue(&copied, now_ns), expected, "{ago} s, {idle} s");
        let told = Copied {
            local: false,
            ..copied
        };
        assert!(!is_overdue(&told, now_ns), "the peer has told of it since");
    }
}

#[test]
fn a_connection_of_the_peers_is_told_once_it_is_used_here() {
    for (from_peer, local, expected) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ] {
        let (used, now_ns) = copied(0, 0);
        let copied = Copied {
            endtime: 0,
            from_peer,
            local,
            ..used
        };
        assert_eq!(is_overdue(&copied, now_ns), expected);
    }
}

#[test]
fn endtimes_leave_the_low_bits_to_the_repetitions() {
    assert_eq!(first_endtime(999_003 * NS_PER_TICK), 999_000);
    assert_eq!(next_endtime(1_000_003 * NS_PER_TICK, 900), 1_900_000);
}

/// The packet counts for nothing, and neither does the state.
#[test]
fn while_a_role_is_handed_over_what_the_peer_has_not_heard_is_news() {
    for row in &ROWS {
        let (rules, view) = view(row);
        let is_left_out = rules.persist_mode && view.under_template;
        let changed = view.state != view.old_state;
        let said = format!("row {}", row.0);
        assert_eq!(is_news(&rules, &view, false), !is_left_out, "{said}");
        assert_eq!(
            is_news(&rules, &view, true),
            changed && !is_left_out,
            "{said}"
        );
    }
}
