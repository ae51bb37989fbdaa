//! The section `[[mark]]`: rules that give packets a firewall mark.
//!
//! Programs see packets before netfilter does, so a mark that nftables sets comes too late for a
//! service by mark. These rules stand in for it. A packet of no known connection gets the mark of the
//! first rule that matches; one that matches none keeps the mark it came with (`skb->mark`).

use std::net::IpAddr;

use dataplane::MarkRule;
use dataplane::common::service::mark_rules;
use ipvs_model::protocol::Protocol;
use serde::Deserialize;
use toml::Spanned;

use super::Offence;

/// One rule as typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMark {
    mark: Spanned<u32>,
    family: Option<Spanned<RawFamily>>,
    protocol: Option<RawProtocol>,
    destination: Option<Spanned<String>>,
    source: Option<Spanned<String>>,
    port: Option<Spanned<RawPort>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawFamily {
    Ipv4,
    Ipv6,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawProtocol {
    Tcp,
    Udp,
    Sctp,
}

/// A number, or two with a dash between them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a port is a number, or \"LOW-HIGH\"")]
enum RawPort {
    Number(i64),
    Range(String),
}

/// Network address and prefix length.
type Prefix = (IpAddr, u8);

/// Validates the rules, in their order.
pub(super) fn resolve_all(rules: Vec<Spanned<RawMark>>) -> Result<Vec<MarkRule>, Offence> {
    let most = usize::try_from(mark_rules::MAX).unwrap_or(usize::MAX);
    if let Some(beyond) = rules.get(most) {
        let reason = format!("{} [[mark]] rules are more than {most}", rules.len());
        return Err(Offence::new(beyond, reason));
    }
    rules.into_iter().map(resolve).collect()
}

fn resolve(rule: Spanned<RawMark>) -> Result<MarkRule, Offence> {
    let nameless = Offence::new(
        &rule,
        "a [[mark]] needs a family, a destination or a source".to_owned(),
    );
    let raw = rule.into_inner();
    if *raw.mark.get_ref() == 0 {
        let most = u32::MAX;
        let reason = format!("mark 0 is not between 1 and {most}");
        return Err(Offence::new(&raw.mark, reason));
    }
    let mut ipv6 = None;
    if let Some(family) = &raw.family {
        ipv6 = Some(*family.get_ref() == RawFamily::Ipv6);
    }
    let destination = resolve_prefix("destination", raw.destination.as_ref(), &mut ipv6)?;
    let source = resolve_prefix("source", raw.source.as_ref(), &mut ipv6)?;
    Ok(MarkRule {
        ipv6: ipv6.ok_or(nameless)?,
        protocol: raw.protocol.map(|protocol| match protocol {
            RawProtocol::Tcp => Protocol::Tcp,
            RawProtocol::Udp => Protocol::Udp,
            RawProtocol::Sctp => Protocol::Sctp,
        }),
        destination,
        source,
        ports: raw.port.as_ref().map(resolve_ports).transpose()?,
        mark: raw.mark.into_inner(),
    })
}

/// `ADDRESS[/LENGTH]` of the rule's family, which the first prefix decides when nothing else did.
fn resolve_prefix(
    key: &str,
    prefix: Option<&Spanned<String>>,
    ipv6: &mut Option<bool>,
) -> Result<Option<Prefix>, Offence> {
    let Some(prefix) = prefix else {
        return Ok(None);
    };
    let text = prefix.get_ref();
    let refuse = |reason: String| Err(Offence::new(prefix, format!("{key} {text:?} {reason}")));
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text.as_str(), None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return refuse("is not ADDRESS[/LENGTH]".to_owned());
    };
    let most = if address.is_ipv6() { 128 } else { 32 };
    let length = length.map_or(Ok(most), str::parse::<u8>);
    let length = match length {
        Ok(length) if length <= most => length,
        Ok(_) | Err(_) => {
            return refuse(format!("has a length that is not between 0 and {most}"));
        }
    };
    if has_host_bits(address, length) {
        return refuse(format!("has bits set beyond its length of {length}"));
    }
    if *ipv6.get_or_insert(address.is_ipv6()) != address.is_ipv6() {
        return refuse("is of another family than the rest of the rule".to_owned());
    }
    Ok(Some((address, length)))
}

fn has_host_bits(address: IpAddr, length: u8) -> bool {
    match address {
        IpAddr::V4(address) => {
            let network = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            address.to_bits() & !network != 0
        }
        IpAddr::V6(address) => {
            let network = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            address.to_bits() & !network != 0
        }
    }
}

fn resolve_ports(port: &Spanned<RawPort>) -> Result<(u16, u16), Offence> {
    let refuse = |reason: String| Err(Offence::new(port, reason));
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let ends = match port.get_ref() {
        RawPort::Number(number) => Some((*number, *number)),
        RawPort::Range(text) => match text.split_once('-') {
            Some((low, high)) => number(low).zip(number(high)),
            None => number(text).map(|number| (number, number)),
        },
    };
    let Some((low, high)) = ends else {
        return refuse("port is neither a number nor \"LOW-HIGH\"".to_owned());
    };
    let within = |end: i64| match u16::try_from(end) {
        Ok(end) if end > 0 => Ok(end),
        Ok(_) | Err(_) => {
            let reason = format!("port {end} is not between 1 and {}", u16::MAX);
            Err(Offence::new(port, reason))
        }
    };
    let (first, last) = (within(low)?, within(high)?);
    if first > last {
        return refuse(format!(
            "port {low}-{high} has its ends the wrong way round"
        ));
    }
    Ok((first, last))
}
