//! When a director announces its addresses, as the wire has it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::capture::{Origin, Record};
use crate::drill::Drill;
use crate::phase::Moment;
use crate::wait::{check_interrupt, wait_until};

/// Announcements follow a takeover at once.
const LIMIT: Duration = Duration::from_secs(1);

impl Drill<'_> {
    /// After the beginning of the last phase, all addresses of a director.
    pub(crate) fn announced(&mut self, by: &str, limit_ms: u64) -> Result<()> {
        let phase = self.phases.last().context("nothing has happened yet")?;
        let (prefix, begun) = (phase.prefix.clone(), phase.begun);
        let limit = Duration::from_millis(limit_ms);
        for group in 0..self.scenario.groups() {
            self.note_announcements(by, group, &prefix, begun, limit)?;
        }
        Ok(())
    }

    /// What follows a takeover.
    pub(crate) fn note_first_announcements(
        &mut self,
        by: &str,
        group: u8,
        prefix: &str,
        from: Moment,
    ) -> Result<()> {
        self.note_announcements(by, group, prefix, from, LIMIT)
    }

    /// The first announcement of a group of addresses since a moment, outside and inside: `garp_ms`,
    /// `garp_inside_ms`.
    fn note_announcements(
        &mut self,
        by: &str,
        group: u8,
        prefix: &str,
        from: Moment,
        limit: Duration,
    ) -> Result<()> {
        let outside = self.scenario.virtual_addresses_of(group);
        let inside = self.scenario.inside_virtual_addresses_of(group);
        for (figure, addresses, bridge) in [
            ("garp_ms", outside, "out"),
            ("garp_inside_ms", inside, "in"),
        ] {
            let port = self.director(by)?.node().port(bridge);
            let capture = self.capture.as_ref().context("nothing is captured")?;
            let announced = |record: &Record| {
                record.origin == Origin::Director
                    && record.at >= from.wall
                    && record.content.announces(&addresses)
                    && capture.link(record) == port
            };
            let first = wait_until("an announcement", limit, || Ok(capture.first(announced)));
            check_interrupt()?;
            let Ok(at) = first else {
                self.event(format!("{by} announces nothing on {port}"));
                continue;
            };
            let ms = at.saturating_sub(from.wall).as_secs_f64() * 1000.0;
            self.report.figure(format!("{prefix}{figure}"), ms);
            self.event(format!("{by} announces on {port} {ms:.0} ms after"));
        }
        Ok(())
    }
}
