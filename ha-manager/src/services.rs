//! Requests of the control socket carried out on the data plane.

use dataplane::{DataPlane, Edit, ServiceView};
use ipvs_control::{ConnectionPage, Info, Reply, Request, ServerEntry, ServiceEntry};
use ipvs_model::service::{EditError, ServiceKey};
use ipvs_model::timeouts::Timeouts;
use tracing::{info, warn};

use crate::proc::{self, ProcFile};

/// IPVS version this director speaks for, as the kernel packs it: 1.2.1.
pub const IPVS_VERSION: u32 = 0x01_02_01;
/// Connections in one page of a listing.
pub const PAGE_MAX: usize = 4096;

/// Carries out a request; [`Request::Status`] is the daemon's own and is answered there.
pub fn answer(plane: &mut DataPlane, request: Request) -> Reply {
    match request {
        Request::AddService { key, spec } => change(plane, &Edit::AddService { key, spec }),
        Request::EditService { key, spec } => change(plane, &Edit::EditService { key, spec }),
        Request::DeleteService { key } => change(plane, &Edit::DeleteService { key }),
        Request::Flush => change(plane, &Edit::Flush),
        Request::AddServer {
            service,
            server,
            spec,
        } => change(
            plane,
            &Edit::AddServer {
                service,
                server,
                spec,
            },
        ),
        Request::EditServer {
            service,
            server,
            spec,
        } => change(
            plane,
            &Edit::EditServer {
                service,
                server,
                spec,
            },
        ),
        Request::DeleteServer { service, server } => {
            change(plane, &Edit::DeleteServer { service, server })
        }
        Request::Zero { service } => {
            let zeroed = plane.zero(service.as_ref());
            log_change("zero statistics", service.as_ref(), &zeroed);
            done(zeroed)
        }
        Request::SetTimeouts(timeouts) => set_timeouts(plane, timeouts),
        Request::GetTimeouts => Reply::Timeouts(plane.timeouts()),
        Request::Info => Reply::Info(info_of(plane)),
        Request::ListServices { service } => match list(plane, service.as_ref()) {
            Ok(services) => Reply::Services(services),
            Err(error) => Reply::Refused(error),
        },
        Request::ListConnections { cursor } => {
            let (entries, next) = plane.connections(cursor, PAGE_MAX);
            Reply::Connections(ConnectionPage { entries, next })
        }
        Request::Proc { name } => proc_text(plane, &name),
        Request::Status { .. }
        | Request::Handover { .. }
        | Request::StartSyncDaemon { .. }
        | Request::StopSyncDaemon { .. }
        | Request::ListSyncDaemons
        | Request::ListSysctl
        | Request::SetSysctl { .. } => {
            Reply::BadRequest("only the daemon itself can answer that".to_owned())
        }
    }
}

/// Services with servers and statistics.
///
/// # Errors
/// [`EditError::NoSuchService`].
pub fn list(
    plane: &DataPlane,
    service: Option<&ServiceKey>,
) -> Result<Vec<ServiceEntry>, EditError> {
    Ok(plane.list(service)?.into_iter().map(entry_of).collect())
}

fn info_of(plane: &DataPlane) -> Info {
    let sizes = plane.sizes();
    Info {
        version: IPVS_VERSION,
        conn_table_size: sizes.connections_v4.saturating_add(sizes.connections_v6),
    }
}

/// A listing of connections is put together from pages by whoever asks, so that no single request
/// holds up the others for the length of the table.
fn proc_text(plane: &DataPlane, name: &str) -> Reply {
    match ProcFile::from_name(name) {
        Ok(ProcFile::IpVs) => match list(plane, None) {
            Ok(services) => Reply::Text(proc::ip_vs(info_of(plane), &services)),
            Err(error) => Reply::Refused(error),
        },
        Ok(ProcFile::Conns(file)) => {
            Reply::BadRequest(format!("{} is listed page by page", file.name()))
        }
        Ok(ProcFile::Stats) => Reply::Text(proc::ip_vs_stats(plane.totals(), plane.total_rates())),
        Ok(ProcFile::StatsPercpu) => Reply::Text(proc::ip_vs_stats_percpu(
            &plane.percpu_totals(),
            plane.totals(),
            plane.total_rates(),
        )),
        Err(error) => Reply::BadRequest(error.to_string()),
    }
}

fn set_timeouts(plane: &mut DataPlane, timeouts: Timeouts) -> Reply {
    let result = plane.set_timeouts(timeouts);
    info!(
        tcp_secs = timeouts.tcp_secs,
        tcp_fin_secs = timeouts.tcp_fin_secs,
        udp_secs = timeouts.udp_secs,
        result = outcome(&result),
        "set timeouts"
    );
    done(result)
}

fn change(plane: &mut DataPlane, edit: &Edit) -> Reply {
    let result = plane.edit(edit);
    log_edit(edit, &result);
    if let Err(EditError::DataPlane(reason)) = &result {
        warn!(reason, "the data plane refused a change");
    }
    done(result)
}

fn log_edit(edit: &Edit, result: &Result<(), EditError>) {
    let title = title(edit);
    match edit {
        Edit::AddService { key, spec } | Edit::EditService { key, spec } => {
            let scheduler = spec.scheduler.map_or("none", |scheduler| scheduler.name());
            let (flags, result) = (spec.flags.0, outcome(result));
            info!(service = %key, scheduler, flags, result, "{title}");
        }
        Edit::AddServer {
            service,
            server,
            spec,
        }
        | Edit::EditServer {
            service,
            server,
            spec,
        } => {
            let (method, weight, result) = (spec.method.name(), spec.weight, outcome(result));
            info!(%service, %server, method, weight, result, "{title}");
        }
        Edit::DeleteServer { service, server } => {
            info!(%service, %server, result = outcome(result), "{title}");
        }
        Edit::DeleteService { key } => log_change(title, Some(key), result),
        Edit::Flush => log_change(title, None, result),
    }
}

const fn title(edit: &Edit) -> &'static str {
    match edit {
        Edit::AddService { .. } => "add service",
        Edit::EditService { .. } => "edit service",
        Edit::DeleteService { .. } => "delete service",
        Edit::Flush => "delete all services",
        Edit::AddServer { .. } => "add server",
        Edit::EditServer { .. } => "edit server",
        Edit::DeleteServer { .. } => "delete server",
    }
}

fn log_change(title: &str, service: Option<&ServiceKey>, result: &Result<(), EditError>) {
    let service = service.map(tracing::field::display);
    info!(service, result = outcome(result), "{title}");
}

/// What became of a change, for the log.
fn outcome(result: &Result<(), EditError>) -> String {
    match result {
        Ok(()) => "done".to_owned(),
        Err(error) => format!("refused: {error:?}"),
    }
}

fn done(result: Result<(), EditError>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Refused(error),
    }
}

fn entry_of(view: ServiceView) -> ServiceEntry {
    let ServiceView {
        service,
        stats,
        rates,
        servers,
    } = view;
    let servers = service
        .servers
        .into_iter()
        .zip(servers)
        .map(|(server, view)| ServerEntry {
            key: server.key,
            spec: server.spec,
            active: view.active,
            inactive: view.inactive,
            persistent: view.persistent,
            stats: view.stats,
            rates: view.rates,
            local: view.local,
        })
        .collect();
    ServiceEntry {
        key: service.key,
        spec: service.spec,
        stats,
        rates,
        servers,
    }
}

#[cfg(test)]
mod tests {
    use dataplane::ServerView;
    use ipvs_model::flags::ServiceFlags;
    use ipvs_model::forward::ForwardMethod;
    use ipvs_model::protocol::Protocol;
    use ipvs_model::scheduler::Scheduler;
    use ipvs_model::service::{Server, ServerSpec, Service, ServiceSpec};
    use ipvs_model::stats::{Rates, Stats};

    use super::*;

    #[test]
    fn a_listing_pairs_each_server_with_its_own_numbers() {
        let (key, spec) = service();
        let keys = ["10.0.0.3:80", "10.0.0.2:80"].map(|key| key.parse().unwrap());
        let view = |active, local| ServerView {
            active,
            inactive: active + 1,
            persistent: 0,
            stats: Stats {
                conns: u64::from(active),
                ..Stats::default()
            },
            rates: Rates {
                cps: u64::from(active),
                ..Rates::default()
            },
            local,
            overloaded: false,
        };
        let servers = keys
            .map(|key| Server {
                key,
                spec: server_spec(),
            })
            .to_vec();
        let entry = entry_of(ServiceView {
            service: Service { key, spec, servers },
            stats: Stats::default(),
            rates: Rates::default(),
            servers: vec![view(30, false), view(20, true)],
        });
        let seen: Vec<_> = entry
            .servers
            .iter()
            .map(|s| (s.key, s.active, s.stats.conns, s.rates.cps, s.local))
            .collect();
        assert_eq!(
            seen,
            [(keys[0], 30, 30, 30, false), (keys[1], 20, 20, 20, true)]
        );
    }

    fn service() -> (ServiceKey, ServiceSpec) {
        let addr = "192.0.2.1:80".parse().unwrap();
        let spec = ServiceSpec {
            scheduler: Some(Scheduler::Rr),
            flags: ServiceFlags(0),
            timeout_secs: 0,
            netmask: u32::MAX,
            pe_name: None,
        };
        (
            ServiceKey::Address {
                protocol: Protocol::Tcp,
                addr,
            },
            spec,
        )
    }

    fn server_spec() -> ServerSpec {
        ServerSpec {
            method: ForwardMethod::Masquerading,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }
}
