//! Asks the kernel for all there is.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::RouteTable;
use futures_util::{Stream, TryStreamExt};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use nix::errno::Errno;
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use vrrp::wire::MacAddr;

use super::routes::{self, Reading};
use super::{Link, NetlinkError, NetworkState};
use crate::status::LinkState;

/// Messages after which the others have their turn: of events that would be lost.
const YIELD_EVERY: usize = 1024;

/// Takes a whole picture.
pub(super) async fn whole(ask: &Handle, reserved: usize) -> Result<NetworkState, NetlinkError> {
    let links = links(ask).await?;
    let mut reading = Reading::default();
    for request in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        read_routes(ask.route().get(request).execute(), &mut reading).await?;
    }
    let (routes, addresses) = reading.finish();
    Ok(NetworkState {
        links,
        routes: RouteTable::new(&routes, reserved).unwrap_or_default(),
        addresses,
        extra_rules: count_extra_rules(ask, IpVersion::V4).await?
            + count_extra_rules(ask, IpVersion::V6).await?,
    })
}

pub(super) async fn links(ask: &Handle) -> Result<BTreeMap<String, Link>, NetlinkError> {
    let mut links = BTreeMap::new();
    let mut messages = ask.link().get().execute();
    while let Some(message) = messages.try_next().await? {
        if let Some((name, link)) = link_of(&message) {
            links.insert(name, link);
        }
    }
    Ok(links)
}

/// A kernel without policy routing, or without IPv6, has no rules to list.
async fn count_extra_rules(ask: &Handle, family: IpVersion) -> Result<u32, NetlinkError> {
    let mut extra_rules = 0;
    let mut rules = ask.rule().get(family).execute();
    loop {
        match rules.try_next().await {
            Ok(Some(rule)) => extra_rules += u32::from(!routes::is_default_rule(&rule)),
            Ok(None) => return Ok(extra_rules),
            Err(rtnetlink::Error::NetlinkError(refused))
                if has_no_such_thing(refused.raw_code()) =>
            {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a kernel without policy routing, or without this family, says.
fn has_no_such_thing(code: i32) -> bool {
    [Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT]
        .map(|error| -(error as i32))
        .contains(&code)
}

/// A kernel without IPv6 lists its IPv4 routes once more, which changes nothing.
async fn read_routes(
    stream: impl Stream<Item = Result<RouteMessage, rtnetlink::Error>>,
    reading: &mut Reading,
) -> Result<(), NetlinkError> {
    let mut stream = std::pin::pin!(stream);
    for count in 1usize.. {
        match stream.try_next().await {
            Ok(Some(message)) => reading.add(&message),
            Ok(None) => break,
            Err(rtnetlink::Error::NetlinkError(refused))
                if has_no_such_thing(refused.raw_code()) =>
            {
                break;
            }
            Err(error) => return Err(error.into()),
        }
        if count.is_multiple_of(YIELD_EVERY) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

fn link_of(message: &LinkMessage) -> Option<(String, Link)> {
    let name = message.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name.clone())
        } else {
            None
        }
    })?;
    let mac = message.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Address(address) = attribute {
            <[u8; 6]>::try_from(address.as_slice()).ok().map(MacAddr)
        } else {
            None
        }
    });
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let flags = message.header.flags;
    let state = if !flags.contains(LinkFlags::Up) {
        LinkState::Down
    } else if flags.contains(LinkFlags::LowerUp) {
        LinkState::Up
    } else {
        LinkState::NoCarrier
    };
    Some((
        name,
        Link {
            ifindex: message.header.index,
            state,
            mac: mac.filter(|_| is_ethernet),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carrier_and_administrative_state_are_told_apart() {
        let state = |flags| {
            let mut message = LinkMessage::default();
            message.header.index = 7;
            message.header.flags = flags;
            message.header.link_layer_type = LinkLayerType::Ether;
            message.attributes = vec![
                LinkAttribute::IfName("eth0".to_owned()),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
            ];
            let (name, link) = link_of(&message).unwrap();
            assert_eq!((name.as_str(), link.ifindex), ("eth0", 7));
            assert_eq!(link.mac, Some(MacAddr([2, 0, 0, 0, 0, 7])));
            link.state
        };
        assert_eq!(state(LinkFlags::Up | LinkFlags::LowerUp), LinkState::Up);
        assert_eq!(state(LinkFlags::Up), LinkState::NoCarrier);
        assert_eq!(state(LinkFlags::LowerUp), LinkState::Down);
        assert_eq!(link_of(&LinkMessage::default()), None);
    }
}
