//! The steps of a drill that concern a pair of directors.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::director::{Director, GROUP};
use crate::drill::Drill;
use crate::fault::{forget_neighbours, restore, strike};
use crate::listing::{Connections, Followed, follow, miscounted, parse_connections, parse_counts};
use crate::phase::{Moment, Phase};
use crate::plan;
use crate::scenario::{Forwarding, LoadKind, LoadSpec, Protocol};
use crate::sockets::in_flight_both_ways;
use crate::status::Status;
use crate::step::{Fault, SyncDaemonRole};
use crate::wait::{check_interrupt, pass_time_until, wait_until};

/// Pause between two listings of all connections.
const LISTING_PAUSE: Duration = Duration::from_millis(50);

impl Drill<'_> {
    pub(crate) fn elected(
        &mut self,
        name: &str,
        active: &str,
        group: Option<u8>,
        limit_ms: u64,
    ) -> Result<()> {
        let begun = Instant::now();
        let directors = &self.directors;
        wait_until(
            &format!("{active} is active, the other one standby"),
            Duration::from_millis(limit_ms),
            || {
                for director in directors.iter().filter(|one| one.is_running()) {
                    if is_in_charge(&director.status()?, group) != Some(director.name() == active) {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            },
        )?;
        let took = begun.elapsed().as_secs_f64() * 1000.0;
        self.report.figure(format!("{name}.elected_ms"), took);
        let of = group.map_or(String::new(), |group| format!(" for group {group}"));
        self.event(format!("{active} is active{of}, the other one standby"));
        Ok(())
    }

    pub(crate) fn start_sync(
        &mut self,
        director: &str,
        role: SyncDaemonRole,
        sync_id: Option<u8>,
    ) -> Result<()> {
        let sync_id = sync_id.unwrap_or(GROUP);
        let role = role.name();
        self.director(director)?.start_sync_as(role, sync_id)?;
        self.event(format!(
            "{director}: sync daemon as {role}, sync id {sync_id}"
        ));
        Ok(())
    }

    pub(crate) fn synced(
        &mut self,
        name: &str,
        (from, on): (&str, &str),
        loads: &[String],
        limit_ms: u64,
    ) -> Result<()> {
        let wanted = self.flows_of(loads)?;
        let without = self.scenario.pair.as_ref().is_some_and(|pair| !pair.sync);
        let limit = Duration::from_millis(if without { 0 } else { limit_ms });
        let begun = Instant::now();
        let found = loop {
            let here = connections_of(self.director(from)?)?;
            let there = connections_of(self.director(on)?)?;
            let found = follow(&wanted, &here, &there);
            check_interrupt()?;
            if found.is_complete() || begun.elapsed() > limit {
                break found;
            }
            pass_time_until(Instant::now() + LISTING_PAUSE)?;
        };
        let Followed {
            offered,
            listed,
            missing,
            wrong_server,
            timers_dead,
        } = found;
        let counts = [
            ("flows_offered", offered),
            ("flows_listed", listed),
            ("flows_missing", missing),
            ("wrong_server", wrong_server),
            ("timers_dead", timers_dead),
        ];
        for (figure, count) in counts {
            self.count_figure(format!("{name}.{figure}"), count);
        }
        let after = begun.elapsed().as_secs_f64() * 1000.0;
        self.report.figure(format!("{name}.after_ms"), after);
        self.event(format!(
            "{on} lists {listed} of the {offered} flows that {from} directs, {wrong_server} with \
             another server"
        ));
        Ok(())
    }

    /// The flows of background loads as a listing names them.
    fn flows_of(&self, loads: &[String]) -> Result<BTreeSet<(String, String, String)>> {
        let mut keys = BTreeSet::new();
        for name in loads {
            let running = self
                .background
                .get(name)
                .with_context(|| format!("load {name} is not running"))?;
            let load = self.scenario.load_spec(name)?;
            let service = self.scenario.service(&load.service)?;
            let protocol = match service.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            };
            let client = plan::client(service.address.is_ipv6());
            for port in running.ports() {
                keys.insert((
                    protocol.to_owned(),
                    SocketAddr::new(client, *port).to_string(),
                    service.address.to_string(),
                ));
            }
        }
        Ok(keys)
    }

    pub(crate) fn begin_fault(
        &mut self,
        name: &str,
        director: &str,
        fault: Option<Fault>,
    ) -> Result<()> {
        let fault = fault.or(self.fault).context("which fault?")?;
        self.note_sync(name, director)?;
        if self.phases.is_empty() {
            self.role_counts_before = self.role_counts()?;
        }
        for other in self.directors.iter().filter(|one| one.name() != director) {
            let left = forget_neighbours(&self.lab, other.name())?;
            self.report
                .figure(format!("{}neighbours", dotted(name)), left as f64);
        }
        let counted = Instant::now();
        let both = in_flight_both_ways(&self.lab, self.scenario)?;
        let mut phase = Phase::begin(name, director, Some(fault));
        let age_ms = counted.elapsed().as_secs_f64() * 1000.0;
        self.report
            .figure(format!("{}inflight_age_ms", dotted(name)), age_ms);
        let (run, scenario) = (self.run, self.scenario);
        let directors = &mut self.directors;
        let dead = strike(run, &self.lab, scenario, directors, director, fault)?;
        let took = phase.begun.elapsed_ms();
        if matches!(fault, Fault::RestartBoth | Fault::RebootBoth) {
            self.note_starts(&phase.prefix, phase.begun.wall)?;
        }
        let is_silenced = matches!(
            fault,
            Fault::KillNode
                | Fault::KillDaemon
                | Fault::Freeze
                | Fault::FreezeNode
                | Fault::FreezeDeaf
        );
        if is_silenced {
            phase.dead = Some(dead);
        }
        for (load, running) in &self.background {
            let ports: BTreeSet<u16> = running.ports().iter().copied().collect();
            let of_load = ports.intersection(&both).copied().collect();
            phase.in_flight.insert(load.clone(), of_load);
        }
        self.tell_phase(&mut phase)?;
        self.phases.push(phase);
        self.event(format!("{director}: {} in {took:.1} ms", fault.name()));
        Ok(())
    }

    /// Tells every background load that a phase has begun.
    fn tell_phase(&mut self, phase: &mut Phase) -> Result<()> {
        for running in self.background.values_mut() {
            running.tell_phase(phase.begun.monotonic_ns)?;
        }
        for (load, running) in &mut self.background {
            phase.quiet_ms.insert(load.clone(), running.quiet_ms()?);
        }
        let scenario = self.scenario;
        for (load, running) in &mut self.background {
            if scenario.load_spec(load)?.kind != LoadKind::Streams {
                running.remember_progress()?;
            }
        }
        Ok(())
    }

    /// What the sync daemons have done so far.
    fn note_sync(&mut self, name: &str, master: &str) -> Result<()> {
        let prefix = dotted(name);
        let mut figures: Vec<(&str, Option<u64>)> = Vec::new();
        for director in self.directors.iter().filter(|one| one.is_running()) {
            let status = director.status()?;
            if director.name() == master {
                for (figure, counter) in [
                    ("offered", "offered"),
                    ("sent", "entries"),
                    ("messages", "messages"),
                ] {
                    figures.push((figure, status.sync_counter("master", counter)));
                }
                figures.push(("dropped", dropped(&status)));
            } else {
                figures.push(("received", status.sync_counter("backup", "entries")));
                figures.push(("refused", status.sync_refused("backup")));
            }
        }
        for (figure, value) in figures {
            if let Some(value) = value {
                self.count_figure(format!("{prefix}sync.{figure}"), value);
            }
        }
        Ok(())
    }

    pub(crate) fn takeover(&mut self, by: &str, group: Option<u8>, limit_ms: u64) -> Result<()> {
        let (prefix, begun) = {
            let phase = self.phases.last().context("nothing has happened yet")?;
            (phase.prefix.clone(), phase.begun)
        };
        let director = self.director(by)?;
        let limit = Duration::from_millis(limit_ms);
        let active = wait_until("takeover", limit, || {
            let status = director.status()?;
            let is_active = is_in_charge(&status, group) == Some(true);
            Ok(is_active.then(|| status.since_ms(group.unwrap_or(0).into())))
        });
        let since_ms = match active {
            Ok(since_ms) => since_ms,
            Err(error) => {
                check_interrupt()?;
                self.event(format!("{by} does not take over: {error:#}"));
                return Ok(());
            }
        };
        let since_ms = since_ms.context("status has no since_ms")?;
        // The state may be older than the role; neither is older than the phase.
        let took = (begun.elapsed_ms() - since_ms as f64).max(0.0);
        if let Some(phase) = self.phases.last_mut() {
            let after = Duration::from_secs_f64(took / 1000.0);
            let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            phase.taken_over_ns = Some(begun.monotonic_ns.saturating_add(after_ns));
        }
        self.report.figure(format!("{prefix}takeover_ms"), took);
        self.note_wait(
            &prefix,
            by,
            begun.wall + Duration::from_secs_f64(took / 1000.0),
        );
        self.event(format!(
            "{by} has taken over, by its own status {took:.0} ms after"
        ));
        self.note_first_announcements(by, group.unwrap_or(0), &prefix, begun)?;
        // Until then clients go to whoever had the address before, and the takeover is not over.
        if let Some(ms) = self.report.found(&format!("{prefix}garp_ms"))
            && let Some(phase) = self.phases.last_mut()
        {
            let after = Duration::from_secs_f64(ms / 1000.0);
            let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            let announced = begun.monotonic_ns.saturating_add(after_ns);
            phase.taken_over_ns = phase.taken_over_ns.max(Some(announced));
        }
        Ok(())
    }

    pub(crate) fn use_flows(&mut self, load: &str) -> Result<()> {
        let running = self.background.get_mut(load);
        running.context("it is not running")?.use_flows()?;
        self.event(format!("the flows of {load} are used"));
        Ok(())
    }

    pub(crate) fn went_on(&mut self, load: &str, amount: u64, limit_ms: u64) -> Result<()> {
        let running = self.background.get_mut(load).context("it is not running")?;
        let limit = Duration::from_millis(limit_ms);
        let done = wait_until("every living flow goes on", limit, || {
            Ok(running.all_did(amount)?.then_some(()))
        });
        check_interrupt()?;
        match done {
            Ok(()) => self.event(format!("every living flow of {load} went on by {amount}")),
            Err(error) => self.event(format!("load {load}: {error:#}")),
        }
        Ok(())
    }

    pub(crate) fn recount(&mut self, name: &str, director: &str, limit_ms: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(limit_ms);
        let (off, compared) = loop {
            let director = self.director(director)?;
            let before = director.ipvsadm(&["-L", "-n"])?;
            let connections = connections_of(director)?;
            let counts = parse_counts(&director.ipvsadm(&["-L", "-n"])?)?;
            let stood_still = counts == parse_counts(&before)?;
            let off = miscounted(&counts, &connections);
            // Expired connections leave the counters with the next round of a walk.
            if (stood_still && off == 0) || Instant::now() > deadline {
                break (off, counts.len() as u64);
            }
            pass_time_until(Instant::now() + LISTING_PAUSE)?;
        };
        self.count_figure(format!("{name}.counters_off"), off);
        self.count_figure(format!("{name}.counters_compared"), compared);
        self.event(format!(
            "{director}: counters of {compared} servers recounted, {off} are off"
        ));
        Ok(())
    }

    pub(crate) fn bring_back(&mut self, director: &str, phase: &str) -> Result<()> {
        let struck = |past: &&mut Phase| past.director == director && past.fault.is_some();
        let past = self.phases.iter_mut().rev().find(struck);
        let past = past.context("nothing has happened to it")?;
        past.returned = Some(Moment::now());
        let fault = past.fault.context("nothing has happened to it")?;
        let begun = (!phase.is_empty()).then(|| Phase::begin(phase, director, None));
        let target = self
            .directors
            .iter_mut()
            .find(|one| one.name() == director)
            .context("no such director")?;
        restore(self.run, &self.lab, self.scenario, target, fault)?;
        if let Some(mut phase) = begun {
            self.tell_phase(&mut phase)?;
            self.phases.push(phase);
        }
        self.event(format!("{director} is there again"));
        Ok(())
    }

    pub(crate) fn handover_refused(&mut self, name: &str, director: &str) -> Result<()> {
        let asked = self.director(director)?;
        let refused = asked.directord(&["handover"]).err();
        let active = asked.status()?.role() == Some("active");
        self.count_figure(format!("{name}.refused"), refused.is_some().into());
        self.count_figure(format!("{name}.active"), active.into());
        let why = refused.map_or("carried out".to_owned(), |why| format!("{why:#}"));
        self.event(format!("{director}: handover: {why}"));
        Ok(())
    }

    pub(crate) fn note_covered(&mut self, director: &str) -> Result<()> {
        let listed = connections_of(self.director(director)?)?;
        let clients = [false, true].map(plan::client);
        let tcp = listed.keys().filter(|(protocol, ..)| protocol == "TCP");
        let ends = tcp.filter_map(|(_, source, _)| source.parse::<SocketAddr>().ok());
        let ports = ends.filter(|end| clients.contains(&end.ip()));
        let ports: BTreeSet<u16> = ports.map(|end| end.port()).collect();
        let count = ports.len();
        let phase = self.phases.last_mut().context("nothing has happened yet")?;
        phase.covered = Some(ports);
        self.event(format!("{director} knows of {count} TCP connections"));
        Ok(())
    }

    /// The figures' prefix for the method of a load's service.
    pub(crate) fn method_of(&self, load: &LoadSpec) -> Result<Forwarding> {
        Ok(self.scenario.service(&load.service)?.forwarding)
    }
}

/// Whether a director serves, all or a group of addresses; none in a state of neither.
fn is_in_charge(status: &Status, group: Option<u8>) -> Option<bool> {
    let state = match group {
        Some(group) => status.router_state(group.into()),
        None => status.role(),
    };
    match state? {
        "active" | "master" => Some(true),
        "standby" | "backup" => Some(false),
        _ => None,
    }
}

fn connections_of(director: &Director) -> Result<Connections> {
    parse_connections(&director.ipvsadm(&["-L", "-n", "-c"])?)
}

/// What a master's daemon did not send, whatever the reason.
fn dropped(status: &Status) -> Option<u64> {
    let reasons = ["drop_queue_full", "drop_send_error", "drop_stale"];
    let counts = reasons.map(|reason| status.sync_counter("master", reason));
    counts.into_iter().sum()
}

fn dotted(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("{name}.")
    }
}
