//! Short ways to set up services and to see what a packet did.

use dataplane::common::verdict::{Event, Verdict};
use dataplane::{DataPlane, Edit, ServerView, ServiceView, TestRun};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::state::state_name;

pub use super::recount::recount;

pub const NAT: ForwardMethod = ForwardMethod::Masquerading;
pub const DR: ForwardMethod = ForwardMethod::DirectRouting;

pub fn service(protocol: Protocol, addr: &str) -> ServiceKey {
    ServiceKey::Address {
        protocol,
        addr: addr.parse().unwrap(),
    }
}

pub fn spec(scheduler: Scheduler) -> ServiceSpec {
    spec_of(scheduler, false)
}

/// A service's particulars; each client is a network of its own when it is persistent.
pub fn spec_of(scheduler: Scheduler, ipv6: bool) -> ServiceSpec {
    ServiceSpec {
        scheduler: Some(scheduler),
        flags: ServiceFlags::default(),
        timeout_secs: 0,
        netmask: if ipv6 { 128 } else { u32::MAX },
        pe_name: None,
    }
}

pub fn server_spec(method: ForwardMethod, weight: u32) -> ServerSpec {
    ServerSpec {
        method,
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

pub fn add_service(plane: &mut DataPlane, key: ServiceKey, scheduler: Scheduler) {
    let spec = spec_of(scheduler, key.is_ipv6());
    plane.edit(&Edit::AddService { key, spec }).unwrap();
}

pub fn add_server(
    plane: &mut DataPlane,
    service: ServiceKey,
    server: &str,
    method: ForwardMethod,
    weight: u32,
) {
    let server = server.parse().unwrap();
    let spec = server_spec(method, weight);
    let edit = Edit::AddServer {
        service,
        server,
        spec,
    };
    plane.edit(&edit).unwrap();
}

pub fn edit_weight(plane: &mut DataPlane, service: ServiceKey, server: &str, weight: u32) {
    let view = view(plane, &service);
    let server = server.parse().unwrap();
    let known = view.service.servers.iter().find(|one| one.key == server);
    let method = known.expect("the server is listed").spec.method;
    let spec = server_spec(method, weight);
    let edit = Edit::EditServer {
        service,
        server,
        spec,
    };
    plane.edit(&edit).unwrap();
}

pub fn delete_server(plane: &mut DataPlane, service: ServiceKey, server: &str) {
    let server = server.parse().unwrap();
    plane.edit(&Edit::DeleteServer { service, server }).unwrap();
}

pub fn view(plane: &DataPlane, key: &ServiceKey) -> ServiceView {
    plane.list(Some(key)).unwrap().remove(0)
}

/// The counters of a listed server.
pub fn server_view(plane: &DataPlane, key: &ServiceKey, server: &str) -> ServerView {
    let view = view(plane, key);
    let server = server.parse().unwrap();
    let at = view
        .service
        .servers
        .iter()
        .position(|one| one.key == server);
    view.servers[at.expect("the server is listed")].clone()
}

/// All live connections.
pub fn connections(plane: &DataPlane) -> Vec<ConnEntry> {
    plane.connections(0, usize::MAX).0
}

pub fn state_of(entry: &ConnEntry) -> &'static str {
    let template = entry.flags.contains(ConnFlags::TEMPLATE);
    state_name(entry.protocol, template, entry.state)
}

pub fn verdict_counts(plane: &DataPlane) -> Vec<u64> {
    let counters = plane.counters();
    let counts = counters.iter().map(|(_, count)| *count);
    counts.take(Verdict::COUNT).collect()
}

pub fn event_count(plane: &DataPlane, event: Event) -> u64 {
    let counters = plane.counters();
    let found = counters.iter().find(|(name, _)| *name == event.name());
    found.expect("every event is listed").1
}

/// The one verdict whose counter has moved by one since `before`; `None` when none has moved.
pub fn verdict_since(plane: &DataPlane, before: &[u64]) -> Option<Verdict> {
    let after = verdict_counts(plane);
    let mut moved = Verdict::ALL
        .iter()
        .zip(before.iter().zip(&after))
        .filter(|(_, (before, after))| before != after);
    let (verdict, (before, after)) = moved.next()?;
    assert_eq!(*after, before + 1, "{} moved by one", verdict.name());
    let other = moved.next().map(|(verdict, _)| verdict.name());
    assert_eq!(
        other,
        None,
        "beside {} another counter moved",
        verdict.name()
    );
    Some(*verdict)
}

/// Runs the program over a frame that comes in at `lo`; exactly one verdict counts it.
pub fn run(plane: &DataPlane, frame: &[u8]) -> (Verdict, TestRun) {
    let before = verdict_counts(plane);
    let run = plane.test_run(frame, 1, 1).unwrap();
    let verdict = verdict_since(plane, &before).expect("a verdict counts every frame");
    (verdict, run)
}
