//! Which routers a trial has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use vrrp::{Authentication, Parameters, Peer};

use crate::random::Random;

pub(crate) fn address(index: usize, is_v6: bool) -> IpAddr {
    let last = u8::try_from(index).unwrap() + 1;
    if is_v6 {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(last)).into()
    } else {
        Ipv4Addr::new(192, 0, 2, last).into()
    }
}

/// Two or three nodes of one or two members, which fit each other.
pub(crate) fn parameters(random: &mut Random) -> Vec<Vec<Parameters>> {
    let count = 2 + random.index(2);
    let members = if random.is_one_in(4) { 2 } else { 1 };
    let version = if random.is_one_in(4) { 2 } else { 3 };
    let is_v6 = random.is_one_in(4);
    let is_unicast = random.is_one_in(5);
    let is_mixed = version == 3 && random.is_one_in(5);
    let may_not_preempt = random.is_one_in(3);
    let advert_ms = match version {
        2 => random.one_of(&[1000, 3000]),
        _ => random.one_of(&[10, 50, 100, 1000]),
    };
    let password = Authentication::password("tandem");
    let authentication = match random.below(4) {
        0 if version == 2 && !is_v6 => Authentication::Simple(password),
        1 if version == 2 && !is_v6 => Authentication::Header(password),
        _ => Authentication::None,
    };
    let down_timer_adverts = random.one_of(&[3, 3, 3, 3, 1, 2, 5]);
    let mut node = |index: usize| -> Vec<Parameters> {
        let priority = random.one_of(&[1, 50, 99, 100, 100, 150, 254, 255]);
        let preempt = priority == 255 || !(may_not_preempt && random.is_one_in(2));
        let has_delay = preempt && priority != 255 && random.is_one_in(5);
        let delay = Duration::from_millis(u64::from(advert_ms) * (1 + random.below(8)));
        let own_ms = if is_mixed {
            random.one_of(&[10, 100, 300, 1000])
        } else {
            advert_ms
        };
        let others = (0..count).filter(|other| *other != index);
        let peers = others.map(|other| Peer::new(address(other, is_v6)));
        let peers: Vec<_> = if is_unicast {
            peers.collect()
        } else {
            Vec::new()
        };
        let member = |vrid: u8| Parameters {
            version,
            vrid,
            priority,
            preempt,
            preempt_delay: if has_delay { delay } else { Duration::ZERO },
            advert_ms: own_ms,
            addresses: vec![if is_v6 {
                Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(vrid) + 0x100).into()
            } else {
                Ipv4Addr::new(192, 0, 2, 100 + vrid).into()
            }],
            authentication,
            down_timer_adverts,
            lower_prio_no_advert: random.is_one_in(6),
            // As the director has it.
            higher_prio_send_advert: !random.is_one_in(4),
            peers: peers.clone(),
            ..Parameters::default()
        };
        (51..51 + members).map(member).collect()
    };
    (0..count).map(&mut node).collect()
}
