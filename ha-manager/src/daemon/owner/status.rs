//! What the owner tells of itself: status and metrics.

use std::time::{Duration, Instant};

use dataplane::common::rules::directing::Function;
use dataplane::{Attachment, ConnectionCount, DataPlane, Fill, ServiceView, boottime_ns};
use ipvs_control::Reply;

use super::Owner;
use crate::VERSION;
use crate::failover::driver::Failover;
use crate::metrics::{self, Snapshot};
use crate::netlink::Link;
use crate::status::{
    ConnectionTable, Directing, InterfaceStatus, LeaseStatus, LinkState, Mode, NetworkStatus,
    Status, TableStatus,
};

/// Telling metrics leaves so many times its own length to everything else.
const METRICS_REST: u32 = 20;
/// The page of before is not shown for ever.
const METRICS_REST_MAX: Duration = Duration::from_secs(5);

impl Owner {
    pub(super) fn status_text(&self, json: bool) -> Reply {
        match self.status() {
            Ok(status) => Reply::Text(if json {
                status.to_json()
            } else {
                status.to_text()
            }),
            Err(error) => Reply::BadRequest(error),
        }
    }

    /// What metrics tell. Nothing in the middle of a change of role, nor so soon after the last time that
    /// somebody who asks all the time could hold the owner up.
    pub(super) fn tell_metrics(&mut self) -> Option<Snapshot> {
        let is_busy = self.failover.as_ref().is_some_and(Failover::is_changing);
        let begun = Instant::now();
        if is_busy || begun < self.metrics_rest {
            return None;
        }
        // It is not renewed meanwhile.
        self.renew_lease();
        let snapshot = self.snapshot().ok();
        let took = begun.elapsed();
        self.metrics_rest = Instant::now() + (took * METRICS_REST).min(METRICS_REST_MAX);
        self.judge_pass(
            "listing all servers for metrics",
            took,
            "metrics = \"off\" turns it off",
        );
        snapshot
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let plane = &self.director.plane;
        let services = list_services(plane)?;
        let (backends, left_out) = metrics::backends(&services);
        Ok(Snapshot {
            // As of the last round of the walk: nobody can have tables counted by asking often.
            status: self.status_of(&services, self.found),
            totals: plane.totals(),
            backends,
            left_out,
        })
    }

    fn status(&self) -> Result<Status, String> {
        let services = list_services(&self.director.plane)?;
        Ok(self.status_of(&services, self.connections_found()))
    }

    fn status_of(&self, services: &[ServiceView], found: ConnectionCount) -> Status {
        let (director, failover) = (&self.director, self.failover.as_ref());
        let plane = &director.plane;
        let sizes = plane.sizes();
        let servers = || services.iter().flat_map(|service| &service.servers);
        let lease = self.lease_status();
        Status {
            name: self.config.name.clone(),
            version: VERSION,
            mode: failover.map_or(Mode::Standalone, |_| Mode::Vrrp),
            role: failover.map(Failover::role),
            uptime_secs: self.started.elapsed().as_secs(),
            adopted: plane.was_adopted(),
            pin_dir: self.config.pin_dir.clone(),
            directing: lease.directing(match director.function() {
                Function::ReplyOnly => Directing::RepliesOnly,
                // Of these only the first is met without Raft.
                Function::Direct | Function::Pass | Function::Drop => Directing::Yes,
            }),
            lease,
            vrrp: failover.map_or_else(Vec::new, |failover| failover.status(director)),
            election: failover.and_then(Failover::thread),
            tracked: failover.map_or_else(Vec::new, Failover::tracked),
            notify_lines_lost: failover.map_or(0, Failover::notify_lines_lost),
            claims_lost: failover.map_or(0, Failover::claims_lost),
            split_brains: failover.map_or_else(Vec::new, Failover::split_brains),
            split_brain: failover.map_or_else(Vec::new, Failover::split_brain),
            sync: director.sync.status(),
            problems: director.problems.texts(),
            interfaces: self.interfaces(),
            network: NetworkStatus {
                routes: count(director.network.routes.routes().len()),
                ignored_rules: director.network.extra_rules,
                current: director.routes_current(),
            },
            services: count(services.len()),
            servers: count(servers().count()),
            overloaded: count(servers().filter(|server| server.overloaded).count()),
            mark_rules: count(plane.mark_rules().len()),
            tables: TableStatus {
                connections_v4: table_status(found.v4, sizes.connections_v4),
                connections_v6: table_status(found.v6, sizes.connections_v6),
                connections_live: u64::from(found.live()),
                services_size: sizes.services,
                servers_size: sizes.servers,
                hash_tables_size: sizes.hash_tables,
                cache_entries_size: sizes.cache_entries,
                memory_bytes: plane.memory_bytes(),
                expired: self.expired,
            },
            log_lines_lost: self.log.lost(),
            counters: plane.counters(),
        }
    }

    /// Counted now in tables that take a moment, else as of the last round of the expiry walk.
    fn connections_found(&self) -> ConnectionCount {
        const COUNTED_MAX: u32 = 1 << 18;
        if self.table_size() <= COUNTED_MAX {
            self.director.plane.connection_count()
        } else {
            self.found
        }
    }

    fn lease_status(&self) -> LeaseStatus {
        let lease = self.director.plane.lease();
        let length = self.config.lease.unwrap_or_default();
        LeaseStatus {
            epoch: lease.epoch,
            length_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            remaining_ms: lease
                .deadline_boottime_ns
                .map(|deadline_ns| remaining_ms(deadline_ns, boottime_ns())),
            refused: self.director.leases_refused(),
        }
    }

    fn interfaces(&self) -> Vec<InterfaceStatus> {
        let attachments = self.director.plane.attachments();
        let links = &self.director.network.links;
        self.config
            .interfaces
            .iter()
            .map(|name| interface_status(name, links.get(name), &attachments))
            .collect()
    }
}

/// The size is known before the first round of the walk.
const fn table_status(found: Fill, size: u32) -> ConnectionTable {
    ConnectionTable {
        size,
        live: found.live,
        taken: found.taken,
    }
}

fn list_services(plane: &DataPlane) -> Result<Vec<ServiceView>, String> {
    let services = plane.list(None);
    services.map_err(|error| format!("services cannot be listed: {error:?}"))
}

/// An attachment counts only while the interface is still the one it was made on.
fn interface_status(
    name: &str,
    link: Option<&Link>,
    attachments: &[Attachment],
) -> InterfaceStatus {
    let ifindex = link.map(|link| link.ifindex);
    let attachment = attachments
        .iter()
        .find(|found| found.interface == name && Some(found.ifindex) == ifindex)
        .map(|found| found.kind.to_owned());
    let link = link.map_or(LinkState::Gone, |link| link.state);
    InterfaceStatus {
        name: name.to_owned(),
        ifindex,
        attachment,
        link,
    }
}

/// Milliseconds from `now` to `deadline`, negative when it has passed.
fn remaining_ms(deadline_ns: u64, now_ns: u64) -> i64 {
    let ms = |ns: u64| i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX);
    if deadline_ns > now_ns {
        // A lease in force never shows as lapsed for want of a millisecond.
        ms(deadline_ns - now_ns).max(1)
    } else {
        -ms(now_ns - deadline_ns)
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_has_lapsed_from_its_deadline_on() {
        assert_eq!(remaining_ms(2_000_000_000, 500_000_000), 1500);
        assert_eq!(remaining_ms(1_000_001, 1_000_000), 1);
        assert_eq!(remaining_ms(1_000_000, 1_000_000), 0);
        assert_eq!(remaining_ms(1_000_000, 3_150_000_000), -3149);
    }

    #[test]
    fn an_attachment_of_a_replaced_interface_does_not_count() {
        let attachments = [Attachment {
            interface: "eth0".to_owned(),
            ifindex: 2,
            kind: "tcx",
        }];
        let link = |ifindex| Link {
            ifindex,
            state: LinkState::Up,
            mac: None,
        };
        let status = interface_status("eth0", Some(&link(2)), &attachments);
        assert_eq!(status.attachment.as_deref(), Some("tcx"));
        let status = interface_status("eth0", Some(&link(9)), &attachments);
        assert_eq!(status.attachment, None);
        let status = interface_status("eth0", None, &attachments);
        assert_eq!((status.link, status.attachment), (LinkState::Gone, None));
    }
}
