//! Marking rules: they give a packet of no connection its firewall mark, where a mark from netfilter
//! cannot be seen (TC runs before it).

use std::net::IpAddr;

use dataplane_common::Be32;
use dataplane_common::service::{MarkRecord, mark_rules};
use dataplane_common::settings::Settings;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::EditError;

use crate::convert::{AF_INET, AF_INET6, addr_words, ip_of};
use crate::grace::grace_period;
use crate::mapped::{load, store};
use crate::maps::Maps;
use crate::routes::masked;

/// One rule; what is `None` matches everything. The first rule that matches decides. Without one
/// `skb->mark` counts, as another TC program may have set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkRule {
    pub ipv6: bool,
    pub protocol: Option<Protocol>,
    /// A prefix and its length.
    pub destination: Option<(IpAddr, u8)>,
    pub source: Option<(IpAddr, u8)>,
    /// Lowest and highest destination port.
    pub ports: Option<(u16, u16)>,
    pub mark: u32,
}

/// Puts rules in force: all of them with one store.
pub(crate) fn set(maps: &mut Maps, rules: &[MarkRule]) -> Result<(), EditError> {
    if rules.len() > mark_rules::MAX as usize {
        let text = format!(
            "{} marking rules, at most {} are kept",
            rules.len(),
            mark_rules::MAX
        );
        return Err(EditError::NoSpace(text));
    }
    let records = rules.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    let in_force = in_force(maps);
    // A program run may still look at the part that was in force before.
    grace_period();
    let first = if in_force.0 == 0 { mark_rules::MAX } else { 0 };
    for (at, record) in (first..).zip(&records) {
        maps.mark_rules.write(at, *record);
    }
    let word = mark_rules::pack(first, records.len() as u32);
    store!(maps.settings, 0, Settings.mark_rules, word, word);
    Ok(())
}

/// The rules in force.
pub(crate) fn get(maps: &Maps) -> Vec<MarkRule> {
    let (first, count) = in_force(maps);
    let end = first.saturating_add(count).min(maps.mark_rules.len());
    (first..end)
        .map(|at| rule(&maps.mark_rules.read(at)))
        .collect()
}

/// First rule and number.
fn in_force(maps: &Maps) -> (u32, u32) {
    let word = load(
        maps.settings
            .word(0, core::mem::offset_of!(Settings, mark_rules)),
    );
    (word as u32, (word >> 32) as u32)
}

fn record(rule: &MarkRule) -> Result<MarkRecord, EditError> {
    let (destination, destination_mask) = prefix(rule.ipv6, rule.destination)?;
    let (source, source_mask) = prefix(rule.ipv6, rule.source)?;
    let (low, high) = rule.ports.unwrap_or((0, 0));
    // A highest port of 0 is every port.
    if rule.ports.is_some() && (high == 0 || low > high) {
        return Err(EditError::Invalid(format!("ports {low}-{high}")));
    }
    Ok(MarkRecord {
        family: if rule.ipv6 { AF_INET6 } else { AF_INET },
        protocol: rule.protocol.map_or(0, Protocol::number),
        ports: [low, high],
        reserved: 0,
        mark: rule.mark,
        destination,
        destination_mask,
        source,
        source_mask,
    })
}

/// Address and mask.
fn prefix(ipv6: bool, prefix: Option<(IpAddr, u8)>) -> Result<([Be32; 4], [Be32; 4]), EditError> {
    let Some((addr, length)) = prefix else {
        return Ok(Default::default());
    };
    if addr.is_ipv6() != ipv6 || masked(addr, length) != Some(addr) {
        return Err(EditError::Invalid(format!("prefix {addr}/{length}")));
    }
    let ones = match addr {
        IpAddr::V4(_) => IpAddr::from([0xff; 4]),
        IpAddr::V6(_) => IpAddr::from([0xff; 16]),
    };
    let mask = masked(ones, length).map_or_else(Default::default, addr_words);
    Ok((addr_words(addr), mask))
}

fn rule(record: &MarkRecord) -> MarkRule {
    let prefix = |addr: [Be32; 4], mask: [Be32; 4]| {
        let length: u32 = mask.iter().map(|word| word.0.count_ones()).sum();
        (length > 0).then(|| (ip_of(addr, record.family), length as u8))
    };
    let [low, high] = record.ports;
    MarkRule {
        ipv6: record.family == AF_INET6,
        protocol: Protocol::from_number(record.protocol),
        destination: prefix(record.destination, record.destination_mask),
        source: prefix(record.source, record.source_mask),
        ports: (high > 0).then_some((low, high)),
        mark: record.mark,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ipv6: bool) -> MarkRule {
        MarkRule {
            ipv6,
            protocol: None,
            destination: None,
            source: None,
            ports: None,
            mark: 9,
        }
    }

    fn prefix(text: &str, length: u8) -> Option<(IpAddr, u8)> {
        Some((text.parse().unwrap(), length))
    }

    #[test]
    fn a_rule_survives_the_map() {
        let rules = [
            all(false),
            MarkRule {
                protocol: Some(Protocol::Sctp),
                destination: prefix("192.0.2.0", 24),
                source: prefix("10.1.2.3", 32),
                ports: Some((0, 1023)),
                ..all(false)
            },
            MarkRule {
                destination: prefix("2001:db8::", 33),
                ports: Some((80, 80)),
                ..all(true)
            },
        ];
        for given in rules {
            assert_eq!(rule(&record(&given).unwrap()), given);
        }
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        for odd in [
            MarkRule {
                ports: Some((5, 4)),
                ..all(false)
            },
            MarkRule {
                ports: Some((0, 0)),
                ..all(false)
            },
            MarkRule {
                source: prefix("2001:db8::", 32),
                ..all(false)
            },
            MarkRule {
                destination: prefix("192.0.2.1", 24),
                ..all(false)
            },
            MarkRule {
                destination: prefix("192.0.2.0", 33),
                ..all(false)
            },
        ] {
            assert!(
                matches!(record(&odd), Err(EditError::Invalid(_))),
                "{odd:?}"
            );
        }
    }
}
