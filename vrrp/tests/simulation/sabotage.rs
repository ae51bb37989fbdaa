//! Broken routers, to see whether it is noticed.

use std::time::Duration;

use vrrp::Parameters;

use crate::rules;
use crate::trial::{BEST, ONE_MASTER, SUCCESSION};

/// Ways to break a router, each of which breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Hears nothing as master.
    DeafMaster,
    /// Hears nothing but priority 0 as backup.
    DeafBackup,
    DeafToResignation,
    /// Stands still without anybody being told.
    StandsStill,
    /// Has 100 for `down_timer_adverts`.
    Patient,
    /// Preempts though it should not.
    Preempts,
    /// Preempts at once though it should wait.
    Hurries,
    /// Does not preempt though it should.
    NeverPreempts,
    /// Is a backup after its start, whatever its priority.
    Modest,
    /// Does not hear what tracking says.
    Untracked,
    /// Goes on yielding for ever.
    YieldsForEver,
    /// Says priority 0 whenever it is master no more.
    ResignsAlways,
    Reclaims,
    /// Gives way to everybody.
    Meek,
    TalksInFault,
    TalksInYield,
    NeverResigns,
    NeverAnswers,
    SkipsBeats,
    BreaksRanks,
    /// Knows no sequence number that it has heard before.
    Forgets,
    NeverAnnounces,
    /// Gives way without a last word, so that the better one does not know that there was another.
    LeavesUnheard,
}

impl Sabotage {
    pub(crate) const ALL: [Sabotage; 23] = [
        Sabotage::DeafMaster,
        Sabotage::DeafBackup,
        Sabotage::DeafToResignation,
        Sabotage::StandsStill,
        Sabotage::Patient,
        Sabotage::Preempts,
        Sabotage::Hurries,
        Sabotage::NeverPreempts,
        Sabotage::Modest,
        Sabotage::Untracked,
        Sabotage::YieldsForEver,
        Sabotage::ResignsAlways,
        Sabotage::Reclaims,
        Sabotage::Meek,
        Sabotage::TalksInFault,
        Sabotage::TalksInYield,
        Sabotage::NeverResigns,
        Sabotage::NeverAnswers,
        Sabotage::SkipsBeats,
        Sabotage::BreaksRanks,
        Sabotage::Forgets,
        Sabotage::NeverAnnounces,
        Sabotage::LeavesUnheard,
    ];

    pub(crate) fn breaks(self) -> &'static str {
        match self {
            Sabotage::DeafMaster => rules::TWO_MASTERS,
            Sabotage::DeafBackup => rules::TOO_EARLY,
            Sabotage::DeafToResignation => rules::RESIGNATION,
            Sabotage::StandsStill => rules::TAKE_OVER,
            Sabotage::Patient => rules::STOOD_STILL,
            Sabotage::Preempts => rules::NOPREEMPT,
            Sabotage::Hurries => rules::PREEMPT_DELAY,
            Sabotage::NeverPreempts => rules::TAKE_OVER,
            Sabotage::Modest => rules::OWNER,
            Sabotage::Untracked => rules::OWN_PRIORITY,
            Sabotage::YieldsForEver => rules::PATIENCE,
            Sabotage::ResignsAlways => rules::NO_FAREWELL,
            Sabotage::Reclaims => rules::YIELDED,
            Sabotage::Meek => rules::ABDICATION,
            Sabotage::TalksInFault => rules::SILENCE,
            Sabotage::TalksInYield => rules::YIELDING,
            Sabotage::NeverResigns => rules::FAREWELL,
            Sabotage::NeverAnswers => rules::ANSWER,
            Sabotage::SkipsBeats => rules::BEAT,
            Sabotage::BreaksRanks => rules::GROUP,
            Sabotage::Forgets => rules::REPLAY,
            Sabotage::NeverAnnounces | Sabotage::LeavesUnheard => rules::ANNOUNCED,
        }
    }

    /// What is wrong at the end of a trial, if nobody has noticed before.
    pub(crate) const AT_LAST: [(Sabotage, &str); 3] = [
        (Sabotage::DeafMaster, ONE_MASTER),
        (Sabotage::NeverPreempts, BEST),
        (Sabotage::DeafToResignation, SUCCESSION),
    ];

    /// What a router is told instead.
    pub(crate) fn change(self, parameters: &mut Parameters) {
        match self {
            Sabotage::Patient => parameters.down_timer_adverts = 100,
            Sabotage::Preempts => parameters.preempt = true,
            Sabotage::Hurries => parameters.preempt_delay = Duration::ZERO,
            Sabotage::NeverPreempts if parameters.priority != 255 => {
                (parameters.preempt, parameters.preempt_delay) = (false, Duration::ZERO);
            }
            _ => {}
        }
    }
}
