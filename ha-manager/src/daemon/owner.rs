//! The one owner of the data plane: carries out commands, walks the table, renews the lease.

mod status;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::{Attachment, ConnectionCount, DataPlane};
use ipvs_control::{Reply, Request};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::Command;
use super::full_tables::FullTables;
use crate::config::Config;
use crate::director::Director;
use crate::failover::driver::{Event, Failover};
use crate::metrics::server::Trouble;
use crate::netlink::NetworkState;
use crate::telemetry::LineQueue;
use crate::{VERSION, services};

/// A pass over all servers that takes longer is a problem: a lease may be a quarter of a second.
const PASS_MAX: Duration = Duration::from_millis(50);

pub(super) struct Owner {
    config: Config,
    director: Director,
    /// With a `[[vrrp]]` section.
    failover: Option<Failover>,
    expired: u64,
    /// Table positions in one step of the walk.
    walk_budget: u32,
    /// What the last round of the expiry walk found.
    found: ConnectionCount,
    full_tables: FullTables,
    started: Instant,
    log: LineQueue,
    /// Lost log lines that have been reported.
    lost_reported: u64,
    metrics: Option<Trouble>,
    /// Metrics are not told again before.
    metrics_rest: Instant,
}

impl Owner {
    pub(super) fn new(
        config: Config,
        plane: DataPlane,
        failover: Option<Failover>,
        log: LineQueue,
    ) -> Owner {
        let sizes = plane.sizes();
        if sizes != config.sizes {
            warn!(
                connections_v4 = sizes.connections_v4,
                connections_v6 = sizes.connections_v6,
                services = sizes.services,
                servers = sizes.servers,
                hash_tables = sizes.hash_tables,
                cache_entries = sizes.cache_entries,
                "adopted tables keep their sizes, the configured ones take effect after a detach"
            );
        }
        Owner {
            full_tables: FullTables::new(&plane),
            director: Director::new(&config, plane),
            config,
            failover,
            expired: 0,
            walk_budget: super::running::WALK_BUDGET,
            found: ConnectionCount::default(),
            started: Instant::now(),
            log,
            lost_reported: 0,
            metrics: None,
            metrics_rest: Instant::now(),
        }
    }

    /// The first picture of the network, then what the role wants before anything is directed: a
    /// pair removes what an earlier life left behind.
    pub(super) async fn bring_up(&mut self, network: NetworkState) {
        self.director.set_network(network);
        self.director.follow_all_routes();
        if let Some(failover) = &mut self.failover {
            failover.bring_up(&mut self.director).await;
        }
        self.director.tend_sync();
        self.renew_lease();
    }

    pub(super) fn log_ready(&self, control: &Path) {
        let plane = &self.director.plane;
        let sizes = plane.sizes();
        info!(
            version = VERSION,
            adopted = plane.was_adopted(),
            epoch = self.director.epoch(),
            connections_v4 = sizes.connections_v4,
            connections_v6 = sizes.connections_v6,
            services = sizes.services,
            servers = sizes.servers,
            hash_tables = sizes.hash_tables,
            cache_entries = sizes.cache_entries,
            memory_mib = plane.memory_bytes() >> 20,
            interfaces = self.config.interfaces.join(","),
            routes = self.director.network.routes.routes().len(),
            control = %control.display(),
            "ready"
        );
    }

    /// The one line on standard output.
    pub(super) fn ready_line(&self, control: &Path) -> String {
        let plane = &self.director.plane;
        let services = plane.services_count();
        let origin = if plane.was_adopted() {
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

    /// Gives the role up, in the order of [`crate::failover`].
    pub(super) async fn leave(&mut self) {
        if let Some(failover) = &mut self.failover {
            failover.leave(&mut self.director).await;
        }
    }

    /// The last act: says what stays and how to remove it.
    pub(super) fn let_go(mut self) {
        self.director.let_go();
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

    /// Places for connections of both families.
    pub(super) fn table_size(&self) -> u32 {
        let sizes = self.director.plane.sizes();
        sizes.connections_v4.saturating_add(sizes.connections_v6)
    }

    /// Takes one sample of every counter for the rates, if they are wanted.
    pub(super) fn estimate(&mut self) {
        if !self.director.sysctl().run_estimation() {
            return;
        }
        let begun = Instant::now();
        self.director.plane.estimate();
        let remedy = "run_estimation = 0 turns it off, by `directord sysctl` or in [sysctl]";
        self.judge_pass("estimating rates", begun.elapsed(), remedy);
    }

    /// Says what holds everything else up.
    fn judge_pass(&mut self, what: &str, took: Duration, remedy: &str) {
        if took > PASS_MAX {
            let text = format!(
                "{what} takes longer than {} ms and holds everything else up; {remedy}",
                PASS_MAX.as_millis()
            );
            let hold = Duration::from_secs(60);
            let problems = &mut self.director.problems;
            problems.seen(what, text, hold, Instant::now());
        }
    }

    /// Forgets destinations that lblc and lblcr need not remember any more.
    pub(super) fn clean_caches(&mut self) {
        self.director.plane.clean_caches();
    }

    pub(super) const fn lease_length(&self) -> Option<Duration> {
        self.director.lease_length()
    }

    /// Woken when the sync backup has received something.
    pub(super) fn received(&self) -> Arc<Notify> {
        self.director.sync.daemons.received()
    }

    /// The picture of the network in force.
    pub(super) const fn network(&self) -> &NetworkState {
        &self.director.network
    }

    /// Whether another turn of following the host's routes is wanted.
    pub(super) const fn has_routes_to_follow(&self) -> bool {
        self.director.has_routes_to_follow()
    }

    /// One turn of it. A bulk change takes many, between which everything else has its own.
    pub(super) fn follow_routes(&mut self) {
        self.renew_lease();
        self.director.follow_routes();
    }

    /// Where the director is attached.
    pub(super) fn attachments(&self) -> Vec<Attachment> {
        self.director.plane.attachments()
    }

    /// Macvlans that cannot be had now.
    pub(super) fn report_vmacs(&mut self, wanting: Vec<String>) {
        let now = Instant::now();
        let keyed = wanting.into_iter().enumerate();
        let found = keyed.map(|(at, text)| (format!("vmac {at}"), text));
        self.director
            .problems
            .set_all("vmac ", found.collect(), now);
    }

    /// Waits for what the failover manager has to do; without one, for ever.
    pub(super) async fn failover_event(&mut self) -> Event {
        match &mut self.failover {
            Some(failover) => failover.event().await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn fail_over(&mut self, event: Event) {
        let Some(failover) = &mut self.failover else {
            return;
        };
        failover.handle(event, &mut self.director).await;
        if event == Event::Handover && failover.hurries_the_walk() {
            self.walk(self.walk_budget);
        }
    }

    /// Tells the election that this loop turns.
    pub(super) fn beat(&mut self) {
        if let Some(failover) = &mut self.failover {
            failover.beat(&mut self.director);
        }
    }

    /// Tells the election whether this node can be master.
    pub(super) fn check_health(&mut self) {
        if let Some(failover) = &mut self.failover {
            failover.check_health(&mut self.director);
        }
    }

    pub(super) fn handle(&mut self, command: Command) {
        match command {
            Command::Request {
                request: Request::Handover { instance, reclaim },
                reply,
            } => match &mut self.failover {
                Some(failover) => {
                    let name = instance.as_deref();
                    failover.hand_over(name, reclaim, reply, &mut self.director);
                }
                None => {
                    let reason = "there is no [[vrrp]] section: nothing can be handed over";
                    let _ = reply.send(Reply::BadRequest(reason.to_owned()));
                }
            },
            Command::Request { request, reply } => {
                let answer = self.answer(request);
                // A client that is gone does not need its answer.
                let _ = reply.send(answer);
            }
            Command::Metrics { reply } => {
                // Without an answer the page of before is shown; who has given up waiting wants none.
                if !reply.is_closed()
                    && let Some(snapshot) = self.tell_metrics()
                {
                    let _ = reply.send(snapshot);
                }
            }
            Command::Network(network) => {
                let differs = self.director.set_network(network);
                if let Some(failover) = &mut self.failover {
                    failover.network_changed(&mut self.director, differs);
                }
            }
        }
    }

    fn answer(&mut self, request: Request) -> Reply {
        let director = &mut self.director;
        let done = match request {
            Request::Status { json } => return self.status_text(json),
            // Its answer takes its time: see `handle`.
            Request::Handover { .. } => {
                return Reply::BadRequest("the director is stopping".to_owned());
            }
            Request::ListSyncDaemons => return Reply::SyncDaemons(director.sync.daemons.list()),
            Request::StartSyncDaemon { role, spec } => director.start_sync_by_hand(role, &spec),
            Request::StopSyncDaemon { role } => director.stop_sync_by_hand(role),
            Request::ListSysctl => return Reply::Sysctl(director.sysctl().list()),
            Request::SetSysctl { name, value } => {
                return match director.set_sysctl(&name, &value) {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::SysctlRefused(error),
                };
            }
            request @ (Request::AddService { .. }
            | Request::EditService { .. }
            | Request::DeleteService { .. }
            | Request::Flush
            | Request::AddServer { .. }
            | Request::EditServer { .. }
            | Request::DeleteServer { .. }
            | Request::Zero { .. }
            | Request::SetTimeouts(_)
            | Request::GetTimeouts
            | Request::Info
            | Request::ListServices { .. }
            | Request::ListConnections { .. }
            | Request::Proc { .. }) => return services::answer(&mut director.plane, request),
        };
        match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::SyncRefused(error),
        }
    }

    /// Puts what the sync backup has received into the table, a bounded part at a time.
    pub(super) fn apply_received(&mut self) {
        let director = &mut self.director;
        director.sync.daemons.apply_received(&mut director.plane);
    }

    /// Table positions in one step of the walk when it is hurried.
    pub(super) fn set_walk_budget(&mut self, budget: u32) {
        self.walk_budget = budget;
    }

    /// One step of the expiry walk.
    pub(super) fn walk(&mut self, budget: u32) {
        let report = self.director.plane.expire_step(budget);
        self.expired = self.expired.saturating_add(u64::from(report.swept));
        if let Some(found) = report.live {
            self.found = found;
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
    pub(super) async fn retry(&mut self) {
        self.report_lost_lines();
        self.report_metrics();
        let Director {
            plane, problems, ..
        } = &mut self.director;
        self.full_tables
            .look(plane, self.found, problems, Instant::now());
        // Sync daemons that are started anew may take as long as a short lease.
        self.renew_lease();
        self.director.retry();
        if let Some(failover) = &mut self.failover {
            failover.retry(&mut self.director).await;
        }
    }

    /// What is wrong with the server of metrics is shown from here on.
    pub(super) fn watch_metrics(&mut self, trouble: Option<Trouble>) {
        self.metrics = trouble;
        self.report_metrics();
    }

    fn report_metrics(&mut self) {
        let problems = &mut self.director.problems;
        match self.metrics.as_ref().and_then(Trouble::text) {
            Some(text) => problems.set("metrics", text, Instant::now()),
            None => problems.clear("metrics"),
        }
    }

    /// The report is a log line too: if it is lost, the count has grown and the next one is due.
    fn report_lost_lines(&mut self) {
        let lost = self.log.lost();
        if lost > self.lost_reported {
            warn!(lost, "log lines were lost, standard error was not read");
            self.lost_reported = lost;
        }
    }

    pub(super) fn renew_lease(&mut self) {
        match &mut self.failover {
            Some(failover) => failover.renew_lease(&mut self.director),
            None => {
                self.director.renew_lease();
            }
        }
    }
}
