//! The one owner of the data plane: carries out commands, walks the table, renews the lease.

use std::path::Path;
use std::time::{Duration, Instant};

use dataplane::{Attachment, DataPlane, Lease, boottime_ns};
use ipvs_control::{Reply, Request};
use tracing::{debug, error, info, warn};

use super::Command;
use crate::config::Config;
use crate::netlink::{Link, NetworkState};
use crate::status::{
    InterfaceStatus, LeaseStatus, LinkState, Mode, NetworkStatus, Status, TableStatus,
};
use crate::telemetry::LineQueue;
use crate::{VERSION, services};

pub(super) struct Owner {
    config: Config,
    plane: DataPlane,
    network: NetworkState,
    /// Whether the data plane has the routes of `network`.
    routes_current: bool,
    /// The data plane's refusal of routes is said once, then tried again quietly.
    /// The data plane has taken this host's routes at least once.
    routes_known: bool,
    routes_refused: bool,
    rules_reported: bool,
    /// Epoch of this run: above that of every run before it.
    epoch: u64,
    leases_refused: u64,
    expired: u64,
    /// Connections the last round of the expiry walk found alive.
    live: u32,
    started: Instant,
    log: LineQueue,
    /// Lost log lines that have been reported.
    lost_reported: u64,
}

impl Owner {
    /// Takes the data plane over under a new epoch.
    pub(super) fn new(config: Config, plane: DataPlane, log: LineQueue) -> Owner {
        let epoch = plane.lease().epoch.saturating_add(1);
        let sizes = plane.sizes();
        if sizes != config.sizes {
            warn!(
                connections = sizes.connections_v4,
                services = sizes.services,
                servers = sizes.servers,
                "adopted tables keep their sizes, the configured ones take effect after a detach"
            );
        }
        Owner {
            config,
            plane,
            network: NetworkState::default(),
            routes_current: false,
            routes_known: false,
            routes_refused: false,
            rules_reported: false,
            epoch,
            leases_refused: 0,
            expired: 0,
            live: 0,
            started: Instant::now(),
            log,
            lost_reported: 0,
        }
    }

    pub(super) fn log_ready(&self, control: &Path) {
        let sizes = self.plane.sizes();
        info!(
            version = VERSION,
            adopted = self.plane.was_adopted(),
            epoch = self.epoch,
            connections = sizes.connections_v4,
            memory_mib = self.plane.memory_bytes() >> 20,
            interfaces = self.config.interfaces.join(","),
            routes = self.network.routes.len(),
            control = %control.display(),
            "ready"
        );
    }

    /// The one line on standard output.
    pub(super) fn ready_line(&self, control: &Path) -> String {
        let services = self.plane.services_count();
        let origin = if self.plane.was_adopted() {
            format!("adopted {services} services")
        } else {
            "fresh tables".to_owned()
        };
        format!(
            "directord: ready: {} on {}, {origin}, control socket {}",
            self.config.name,
            self.config.interfaces.join(", "),
            control.display()
        )
    }

    /// The last act: says what stays and how to remove it.
    pub(super) fn let_go(self) {
        let (pin_dir, lease) = (self.config.pin_dir.display().to_string(), self.config.lease);
        drop(self);
        match lease {
            Some(lease) => info!(
                pin_dir,
                lease_ms = lease.as_millis(),
                "stopped; programs stay attached and drop service traffic once the lease has \
                 lapsed; `directord detach` removes them"
            ),
            None => info!(
                pin_dir,
                "stopped; programs stay attached and keep forwarding; `directord detach` removes \
                 them"
            ),
        }
    }

    pub(super) fn table_size(&self) -> u32 {
        self.plane.sizes().connections_v4
    }

    pub(super) const fn lease_length(&self) -> Option<Duration> {
        self.config.lease
    }

    pub(super) fn handle(&mut self, command: Command) {
        match command {
            Command::Request { request, reply } => {
                let answer = if let Request::Status { json } = request {
                    self.status_text(json)
                } else {
                    services::answer(&mut self.plane, request)
                };
                // A client that is gone does not need its answer.
                let _ = reply.send(answer);
            }
            Command::Network(network) => self.set_network(network),
        }
    }

    /// One step of the expiry walk.
    pub(super) fn walk(&mut self, budget: u32) {
        let report = self.plane.expire_step(budget);
        self.expired = self.expired.saturating_add(u64::from(report.swept));
        if let Some(live) = report.live {
            self.live = live;
        }
        if report.expired > 0 || report.swept > 0 {
            debug!(
                expired = report.expired,
                swept = report.swept,
                "expiry walk"
            );
        }
    }

    /// Tries again what failed before.
    pub(super) fn retry(&mut self) {
        self.report_lost_lines();
        if !self.routes_current {
            self.hand_over_routes();
        }
        self.attach_to_new_links();
    }

    /// The report is a log line too: if it is lost, the count has grown and the next one is due.
    fn report_lost_lines(&mut self) {
        let lost = self.log.lost();
        if lost > self.lost_reported {
            warn!(lost, "log lines were lost, standard error was not read");
            self.lost_reported = lost;
        }
    }

    /// Takes over a new picture of the network.
    pub(super) fn set_network(&mut self, network: NetworkState) {
        for name in &self.config.interfaces {
            report_link(name, self.network.links.get(name), network.links.get(name));
        }
        let same_routes = self.routes_current && self.network.routes == network.routes;
        self.network = network;
        self.attach_to_new_links();
        if self.network.extra_rules > 0 && !self.rules_reported {
            self.rules_reported = true;
            warn!(
                rules = self.network.extra_rules,
                "policy routing rules beside the three defaults exist and are ignored"
            );
        }
        if !same_routes {
            self.hand_over_routes();
        }
    }

    /// An interface that came back is another device: the director has to be attached anew.
    fn attach_to_new_links(&mut self) {
        let attachments = self.plane.attachments();
        let is_new = |name: &&String| {
            let Some(link) = self.network.links.get(*name) else {
                return false;
            };
            !attachments
                .iter()
                .any(|known| known.interface == **name && known.ifindex == link.ifindex)
        };
        let new: Vec<&String> = self.config.interfaces.iter().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        match self.plane.reattach() {
            Ok(()) => info!(interfaces = ?new, "attached to interfaces that came back"),
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                warn!(interfaces = ?new, ?errors, "cannot attach to interfaces, trying again");
            }
        }
    }

    fn hand_over_routes(&mut self) {
        let routes = self.network.routes.len();
        match self.plane.set_routes(&self.network.routes) {
            Ok(()) => {
                self.routes_known = true;
                self.routes_current = true;
                self.routes_refused = false;
                debug!(routes, "routes handed over");
            }
            Err(error) => {
                if !self.routes_refused {
                    warn!(
                        routes,
                        ?error,
                        "the data plane did not take the routes, trying again"
                    );
                }
                self.routes_current = false;
                self.routes_refused = true;
            }
        }
    }

    /// Moves the deadline ahead by the length of the lease; without a length there is none.
    ///
    /// Not before the data plane knows this host's addresses and routes: those of the daemon before
    /// may have moved to another node since.
    pub(super) fn renew_lease(&mut self) {
        if !self.routes_known {
            return;
        }
        let deadline_boottime_ns = self.config.lease.map(|length| {
            boottime_ns().saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX))
        });
        if self.plane.set_lease(Lease {
            epoch: self.epoch,
            deadline_boottime_ns,
        }) {
            return;
        }
        if self.leases_refused == 0 {
            let in_force = self.plane.lease().epoch;
            error!(
                epoch = self.epoch,
                in_force, "a higher epoch is in force, lease refused"
            );
        }
        self.leases_refused = self.leases_refused.saturating_add(1);
    }

    fn status_text(&self, json: bool) -> Reply {
        match self.status() {
            Ok(status) => Reply::Text(if json {
                status.to_json()
            } else {
                status.to_text()
            }),
            Err(error) => Reply::BadRequest(error),
        }
    }

    fn status(&self) -> Result<Status, String> {
        let services = services::list(&self.plane, None)
            .map_err(|error| format!("services cannot be listed: {error:?}"))?;
        let sizes = self.plane.sizes();
        let servers = || services.iter().flat_map(|service| &service.servers);
        let lease = self.lease_status();
        Ok(Status {
            name: self.config.name.clone(),
            version: VERSION,
            mode: Mode::Standalone,
            uptime_secs: self.started.elapsed().as_secs(),
            adopted: self.plane.was_adopted(),
            pin_dir: self.config.pin_dir.clone(),
            directing: lease.directing(),
            lease,
            interfaces: self.interfaces(),
            network: NetworkStatus {
                routes: count(self.network.routes.len()),
                ignored_rules: self.network.extra_rules,
                current: self.routes_current,
            },
            services: count(services.len()),
            servers: count(servers().count()),
            tables: TableStatus {
                connections_v4_size: sizes.connections_v4,
                connections_live: u64::from(self.live_connections()),
                services_size: sizes.services,
                servers_size: sizes.servers,
                memory_bytes: self.plane.memory_bytes(),
                expired: self.expired,
            },
            log_lines_lost: self.log.lost(),
            counters: self.plane.counters(),
        })
    }

    /// Counted now in a table that takes a moment, else as of the last round of the expiry walk.
    fn live_connections(&self) -> u32 {
        const COUNTED_MAX: u32 = 1 << 18;
        if self.table_size() <= COUNTED_MAX {
            self.plane.connection_count().live
        } else {
            self.live
        }
    }

    fn lease_status(&self) -> LeaseStatus {
        let lease = self.plane.lease();
        let length = self.config.lease.unwrap_or_default();
        LeaseStatus {
            epoch: lease.epoch,
            length_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
            remaining_ms: lease
                .deadline_boottime_ns
                .map(|deadline_ns| remaining_ms(deadline_ns, boottime_ns())),
            refused: self.leases_refused,
        }
    }

    fn interfaces(&self) -> Vec<InterfaceStatus> {
        let attachments = self.plane.attachments();
        self.config
            .interfaces
            .iter()
            .map(|name| interface_status(name, self.network.links.get(name), &attachments))
            .collect()
    }
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

fn report_link(interface: &str, before: Option<&Link>, after: Option<&Link>) {
    match (before, after) {
        (Some(_), None) => {
            warn!(
                interface,
                "interface is gone, its traffic is not handled any more"
            );
        }
        (Some(before), Some(after)) if before.ifindex != after.ifindex => {
            warn!(interface, "interface was replaced by another device");
        }
        (Some(before), Some(after)) if before.state != after.state => match after.state {
            LinkState::Up => info!(interface, "link is up"),
            LinkState::NoCarrier => warn!(interface, "link has no carrier"),
            LinkState::Down | LinkState::Gone => warn!(interface, "link is down"),
        },
        (None, Some(after)) => info!(interface, ifindex = after.ifindex, "interface found"),
        (Some(_), Some(_)) | (None, None) => {}
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
        };
        let status = interface_status("eth0", Some(&link(2)), &attachments);
        assert_eq!(status.attachment.as_deref(), Some("tcx"));
        let status = interface_status("eth0", Some(&link(9)), &attachments);
        assert_eq!(status.attachment, None);
        let status = interface_status("eth0", None, &attachments);
        assert_eq!((status.link, status.attachment), (LinkState::Gone, None));
    }
}
