//! What `ss` shows of the TCP sockets of a host.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::plan;
use crate::scenario::Scenario;
use crate::topology::{CLIENT, Lab};

/// Established connections, one line each, with the kernel's figures.
const SS: [&str; 3] = ["-HtinO", "state", "established"];

/// Ports of the client with unacknowledged data on the way at this moment, from the client and to
/// it: sent, and not yet acknowledged (`tcpi_unacked`), at both ends of the connection.
///
/// # Errors
/// A host does not tell.
pub(crate) fn in_flight_both_ways(lab: &Lab, scenario: &Scenario) -> Result<BTreeSet<u16>> {
    let listing = |host: &str| lab.output(host, "ss", &SS).with_context(|| host.to_owned());
    thread::scope(|scope| {
        let down: Vec<_> = scenario
            .servers
            .iter()
            .map(|server| scope.spawn(|| listing(&server.name)))
            .collect();
        let up = unacknowledged(&listing(CLIENT)?, End::Local);
        let mut both = BTreeSet::new();
        for server in down {
            let Ok(text) = server.join() else {
                bail!("a thread panicked");
            };
            both.extend(up.intersection(&unacknowledged(&text?, End::Remote)));
        }
        Ok(both)
    })
}

/// Which end of the connections in a listing is the client's.
#[derive(Clone, Copy, Debug)]
enum End {
    Local,
    Remote,
}

fn unacknowledged(listing: &str, client: End) -> BTreeSet<u16> {
    let ports = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        // Without a state: queues, local and remote address.
        let (local, remote) = (words.nth(2)?, words.next()?);
        let end = match client {
            End::Local => local,
            End::Remote => remote,
        };
        let end: SocketAddr = end.parse().ok()?;
        let is_client = [false, true].map(plan::client).contains(&end.ip());
        let count = words.find_map(|word| word.strip_prefix("unacked:"))?;
        (is_client && count.parse::<u64>().ok()? > 0).then_some(end.port())
    });
    ports.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
0      16384  192.0.2.10:40000 192.0.2.100:80  cubic wscale:7,7 rto:204 unacked:3 rcv_space:14480
0      0      192.0.2.10:40001 192.0.2.100:80  cubic wscale:7,7 rto:204 rcv_space:14480
0      0      192.0.2.99:40002 192.0.2.100:80  cubic wscale:7,7 rto:204 unacked:1
0      0      [2001:db8:2::10]:40003 [2001:db8:2::100]:80  cubic wscale:7,7 rto:204 unacked:1
";

    #[test]
    fn connections_with_data_on_the_way_are_found_by_the_clients_port() {
        let with_data = [40_000, 40_003].into();
        assert_eq!(unacknowledged(LISTING, End::Local), with_data);
        assert_eq!(unacknowledged(LISTING, End::Remote), [].into());
        let server = LISTING.replace(
            "192.0.2.10:40000 192.0.2.100:80",
            "10.0.0.11:80 192.0.2.10:7",
        );
        assert_eq!(unacknowledged(&server, End::Remote), [7].into());
    }
}
