//! Unicast: `peers` and `source`.

use std::net::IpAddr;

use ::vrrp::Peer;
use toml::Spanned;

use super::Vip;
use crate::config::Offence;

/// Peers as typed: `ADDRESS [min_ttl N] [max_ttl N]`.
pub(super) fn resolve_peers(peers: Option<Vec<Spanned<String>>>) -> Result<Vec<Peer>, Offence> {
    let peers = peers.unwrap_or_default().into_iter();
    peers.map(resolve_peer).collect()
}

fn resolve_peer(text: Spanned<String>) -> Result<Peer, Offence> {
    let refused =
        |reason: &str| Offence::new(&text, format!("peer {:?}: {reason}", text.get_ref()));
    let mut words = text.get_ref().split_whitespace();
    let address = words.next().unwrap_or_default().parse();
    let mut peer = Peer::new(address.map_err(|_| refused("not an address"))?);
    while let Some(key) = words.next() {
        let ttl = words.next().and_then(|ttl| ttl.parse().ok());
        let ttl = ttl.ok_or_else(|| refused("not ADDRESS [min_ttl N] [max_ttl N], N up to 255"))?;
        match key {
            "min_ttl" => peer.min_ttl = ttl,
            "max_ttl" => peer.max_ttl = ttl,
            _ => return Err(refused("not ADDRESS [min_ttl N] [max_ttl N]")),
        }
    }
    Ok(peer)
}

/// The address adverts come from. It outlives the role, so it is no virtual one.
pub(super) fn resolve_source(
    source: Option<Spanned<String>>,
    vips: &[Vip],
    peers: &[Peer],
    is_owner: bool,
) -> Result<Option<IpAddr>, Offence> {
    let Some(source) = source else {
        return Ok(None);
    };
    let text = source.get_ref();
    let refuse = |reason: &str| Err(Offence::new(&source, format!("source {text:?} {reason}")));
    let Ok(address) = text.parse::<IpAddr>() else {
        return refuse("is not an address");
    };
    if !syncproto::net::is_a_hosts(address) {
        return refuse("is not an address this host can have");
    }
    if vips
        .iter()
        .any(|vip| vip.address.is_ipv6() != address.is_ipv6())
    {
        return refuse("is of another family than vips");
    }
    if !is_owner && vips.iter().any(|vip| vip.address == address) {
        return refuse("is a virtual address: the peer's too while that is master");
    }
    if peers.iter().any(|peer| peer.address == address) {
        return refuse("is one of the peers, and no other router's");
    }
    if let IpAddr::V6(address) = address
        && peers.is_empty()
        && !address.is_unicast_link_local()
    {
        return refuse("is not link-local, as adverts to the IPv6 group have it");
    }
    Ok(Some(address))
}
