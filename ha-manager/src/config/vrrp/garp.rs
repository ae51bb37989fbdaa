//! The `garp_` keys: when and how often addresses are announced.

use std::ops::RangeInclusive;
use std::time::Duration;

use ::vrrp::announce::Settings;
use toml::Spanned;

use crate::config::{Offence, resolve_number};

/// keepalived's `garp_master_repeat` and `garp_master_delay`.
const DEFAULT_REPEAT: u32 = 5;
const DEFAULT_DELAY_MS: u64 = 5000;
const REPEAT: RangeInclusive<u32> = 1..=100;
const DELAY_MS: RangeInclusive<u64> = 0..=600_000;
const REFRESH_MS: RangeInclusive<u64> = 0..=86_400_000;
/// A block of 255 addresses has to end at some time.
const INTERVAL_MS: RangeInclusive<u64> = 0..=1000;

/// The keys as typed.
#[derive(Debug)]
pub(super) struct RawGarp {
    pub(super) repeat: Option<Spanned<u32>>,
    pub(super) delay_ms: Option<Spanned<u64>>,
    pub(super) refresh_ms: Option<Spanned<u64>>,
    pub(super) refresh_repeat: Option<Spanned<u32>>,
    pub(super) lower_prio_repeat: Option<Spanned<u32>>,
    pub(super) lower_prio_delay_ms: Option<Spanned<u64>>,
    pub(super) interval_ms: Option<Spanned<u64>>,
    pub(super) na_interval_ms: Option<Spanned<u64>>,
}

impl RawGarp {
    /// Strict mode leaves an advert of a lower priority unanswered.
    pub(super) fn resolve(self, strict: bool) -> Result<Settings, Offence> {
        let repeat = resolve_number("garp_repeat", self.repeat, REPEAT, DEFAULT_REPEAT)?;
        let delay = resolve_number("garp_delay_ms", self.delay_ms, DELAY_MS, DEFAULT_DELAY_MS)?;
        if let Some(lower) = self.lower_prio_repeat.as_ref().filter(|_| strict)
            && *lower.get_ref() > 0
        {
            let reason = "strict mode has no garp_lower_prio_repeat".to_owned();
            return Err(Offence::new(lower, reason));
        }
        let lower_repeat = resolve_number(
            "garp_lower_prio_repeat",
            self.lower_prio_repeat,
            0..=*REPEAT.end(),
            if strict { 0 } else { repeat },
        )?;
        let lower_delay = resolve_number(
            "garp_lower_prio_delay_ms",
            self.lower_prio_delay_ms,
            DELAY_MS,
            if strict { 0 } else { delay },
        )?;
        let pause = |key: &str, value| resolve_number(key, value, INTERVAL_MS, 0);
        let ms = Duration::from_millis;
        Ok(Settings {
            repeat,
            delay: ms(delay),
            refresh: ms(resolve_number(
                "garp_refresh_ms",
                self.refresh_ms,
                REFRESH_MS,
                0,
            )?),
            refresh_repeat: resolve_number("garp_refresh_repeat", self.refresh_repeat, REPEAT, 1)?,
            lower_prio_repeat: lower_repeat,
            lower_prio_delay: ms(lower_delay),
            interval: ms(pause("garp_interval_ms", self.interval_ms)?),
            na_interval: ms(pause("gna_interval_ms", self.na_interval_ms)?),
        })
    }
}
