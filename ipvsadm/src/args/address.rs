//! Addresses, ports and numbers as the original reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipvs_model::protocol::Protocol;

use crate::names::Names;

/// An address and, if one was written, its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub ip: IpAddr,
    pub port: Option<u16>,
}

/// Reads `HOST[:PORT]`.
///
/// IPv6 is `[ADDRESS]:PORT` or a bare address; a bracketed address needs a port. Everything else
/// is cut at its last colon into an IPv4 address or host name and a port number or service name.
/// Service names depend on the protocol; without one there are none.
pub fn host_port(text: &str, protocol: Option<Protocol>, names: &dyn Names) -> Option<HostPort> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        let port_text = after.strip_prefix(':')?;
        let ip = host.parse::<Ipv6Addr>().ok()?.into();
        return Some(HostPort {
            ip,
            port: Some(port(port_text, protocol, names)?),
        });
    }
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Some(HostPort {
            ip: ip.into(),
            port: None,
        });
    }
    let (host, port_text) = match text.rsplit_once(':') {
        Some((host, port_text)) => (host, Some(port_text)),
        None => (text, None),
    };
    let ip = host_v4(host, names)?.into();
    match port_text {
        None => Some(HostPort { ip, port: None }),
        Some(port_text) => Some(HostPort {
            ip,
            port: Some(port(port_text, protocol, names)?),
        }),
    }
}

/// An IPv4 address in any notation of `inet_aton`, or the first one of a host.
pub fn host_v4(text: &str, names: &dyn Names) -> Option<Ipv4Addr> {
    match inet_aton(text) {
        Some(ip) => Some(ip),
        None if text.is_empty() || text.contains(':') => None,
        None => names.address_of(text),
    }
}

/// IPv4 as `inet_aton` reads it: one to four parts, each decimal, octal (`0`) or hexadecimal
/// (`0x`), the last filling the rest.
pub fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let text = text.trim_end_matches(|c: char| c.is_ascii_whitespace());
    let parts: Vec<u32> = text.split('.').map(aton_part).collect::<Option<_>>()?;
    let (last, leading) = parts.split_last()?;
    if leading.len() > 3 || leading.iter().any(|part| *part > 0xff) {
        return None;
    }
    let last_bits = 32 - 8 * leading.len();
    if u64::from(*last) >= 1 << last_bits {
        return None;
    }
    let number = leading
        .iter()
        .zip([24, 16, 8])
        .fold(*last, |number, (part, shift)| number | (part << shift));
    Some(Ipv4Addr::from(number))
}

/// A number as `strtol` with base 10 reads it, if it is the whole text and within the range.
pub fn number(text: &str, range: RangeInclusive<u32>) -> Option<u32> {
    let blanks = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let text = text.trim_start_matches(blanks);
    let (negative, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u32 = digits.parse().ok()?;
    (range.contains(&value) && !(negative && value != 0)).then_some(value)
}

fn aton_part(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match hexadecimal {
        Some(digits) => (digits, 16),
        None if text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

fn port(text: &str, protocol: Option<Protocol>, names: &dyn Names) -> Option<u16> {
    match number(text, 0..=u32::from(u16::MAX)) {
        Some(port) => u16::try_from(port).ok(),
        None => names.port_of(text, protocol?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{FixedNames, Services};

    fn names() -> FixedNames {
        FixedNames {
            hosts: vec![("192.0.2.50".parse().unwrap(), vec!["web.lab".into()])],
            services: Services::parse("http 80/tcp www # web\ndomain 53/udp\n"),
        }
    }

    fn read(text: &str) -> Option<String> {
        let found = host_port(text, Some(Protocol::Tcp), &names())?;
        Some(match found.port {
            Some(port) => format!("{} {port}", found.ip),
            None => found.ip.to_string(),
        })
    }

    #[test]
    fn addresses_come_in_many_forms() {
        assert_eq!(read("192.0.2.1:80").unwrap(), "192.0.2.1 80");
        assert_eq!(read("192.0.2.1").unwrap(), "192.0.2.1");
        assert_eq!(read("10.1:80").unwrap(), "10.0.0.1 80");
        assert_eq!(read("0x7f.1:0").unwrap(), "127.0.0.1 0");
        assert_eq!(read("web.lab:www").unwrap(), "192.0.2.50 80");
        assert_eq!(read("[2001:db8::1]:80").unwrap(), "2001:db8::1 80");
        assert_eq!(read("2001:db8::1").unwrap(), "2001:db8::1");
        assert_eq!(read("192.0.2.1:+80").unwrap(), "192.0.2.1 80");
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            "80",
            ":80",
            "192.0.2.1:",
            "192.0.2.1:65536",
            "192.0.2.1:-1",
            "192.0.2.1:domain",
            "300.0.0.1:80",
            "192.0.2.1:80:90",
            "[2001:db8::1]",
            "[2001:db8::1]:",
            "[web.lab]:80",
            "[fe80::1%lo]:80",
            "[192.0.2.1]:80",
            "nohost:80",
            "1.2.3.4.5:80",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_service_name_needs_a_protocol() {
        assert_eq!(host_port("192.0.2.1:http", None, &names()), None);
    }

    #[test]
    fn inet_aton_reads_octal_and_short_forms() {
        assert_eq!(inet_aton("24"), Some(Ipv4Addr::new(0, 0, 0, 24)));
        assert_eq!(inet_aton("010.1.2.3"), Some(Ipv4Addr::new(8, 1, 2, 3)));
        assert_eq!(inet_aton("1.2.65535"), Some(Ipv4Addr::new(1, 2, 255, 255)));
        assert_eq!(inet_aton("4294967295"), Some(Ipv4Addr::BROADCAST));
        for text in [
            "",
            "256.1",
            "1.2.65536",
            "1..2",
            "4294967296",
            "09",
            "a",
            "+1",
        ] {
            assert_eq!(inet_aton(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_strtol_numbers() {
        assert_eq!(number(" +010", 0..=10), Some(10));
        for text in [
            "",
            " ",
            "1 ",
            "-1",
            "11",
            "0x1",
            "1.0",
            "99999999999999999999",
        ] {
            assert_eq!(number(text, 0..=10), None, "{text}");
        }
    }
}
