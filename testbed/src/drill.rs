//! Carries out a scenario step by step and judges it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::capture::{Capture, HEADERS, Origin, Record, WHOLE, wall_clock};
use crate::director::Director;
use crate::failover_times;
use crate::false_takeovers;
use crate::fault::{Killed, forget_neighbour, kill_daemon};
use crate::frame::Content;
use crate::kernel_sync;
use crate::listing::{Snapshot, compare};
use crate::load::{RunningLoad, run_to_end};
use crate::order::Outcome;
use crate::outage::Probes;
use crate::phase::Phase;
use crate::report::{Report, spread};
use crate::role_counts::RoleCounts;
use crate::routers::keepalived;
use crate::run::Run;
use crate::scenario::{LoadSpec, Scenario, ServerSpec};
use crate::setup::Missing;
use crate::starts::Start;
use crate::step::{Fault, Step};
use crate::topology::{LAN, Lab};
use crate::wait::{check_interrupt, pass_time_until};

/// The servers that answered an address of the client.
type BySource = BTreeMap<IpAddr, BTreeSet<String>>;

/// Lines of a connection listing that are printed.
const LISTED_MAX: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options<'a> {
    /// The report goes here too.
    pub(crate) json: Option<&'a Path>,
    /// The directory of the run stays.
    pub(crate) keep: bool,
}

/// What a scenario needs of the machine that others do not.
///
/// # Errors
/// The machine lacks it.
pub(crate) fn require(scenario: &Scenario) -> Result<(), Missing> {
    match scenario.steps.as_slice() {
        [Step::KernelSync(_)] => kernel_sync::require_kernel(),
        [Step::FailoverTimes(_) | Step::FalseTakeovers(_)] => keepalived::require().map(|_| ()),
        _ => Ok(()),
    }
}

/// Runs a drill; true when every bound held.
///
/// # Errors
/// The drill could not be carried out.
pub(crate) fn run(scenario: &Scenario, options: Options<'_>) -> Result<bool> {
    let mut report = Report::begin(scenario);
    crate::say(&format!("drill {}: {}", scenario.name, scenario.title));
    if scenario.faults.is_empty() {
        run_part(scenario, None, &mut report, options.keep)?;
    }
    for fault in &scenario.faults {
        run_part(scenario, Some(*fault), &mut report, options.keep)?;
    }
    let passed = report.judge(&scenario.bounds);
    crate::say(report.render().trim_end());
    if let Some(path) = options.json {
        report
            .write_json(path)
            .with_context(|| path.display().to_string())?;
    }
    Ok(passed)
}

/// Carries out the steps once, in a lab of their own.
fn run_part(
    scenario: &Scenario,
    fault: Option<Fault>,
    report: &mut Report,
    keep: bool,
) -> Result<()> {
    let mut run = Run::begin()?;
    report.begin_part(fault.map(Fault::name));
    let what = fault.map_or(String::new(), |fault| format!("{}, ", fault.name()));
    crate::say(&report.event(format!("{what}run {}", run.id())));
    let result = carry_out(scenario, fault, &mut run, report);
    let held = result.is_ok() && report.holds(&scenario.bounds);
    // Nobody wants to look into a drill that was broken off.
    if keep || (!held && check_interrupt().is_ok()) {
        let place = run.keep();
        crate::say(&format!("kept for a look: {}", place.display()));
    }
    result
}

fn carry_out(
    scenario: &Scenario,
    fault: Option<Fault>,
    run: &mut Run,
    report: &mut Report,
) -> Result<()> {
    // These have hosts of their own.
    match scenario.steps.as_slice() {
        [Step::KernelSync(plan)] => return kernel_sync::carry_out(plan, run, report),
        [Step::FailoverTimes(plan)] => {
            return failover_times::carry_out(plan, scenario.seed, run, report);
        }
        [Step::FalseTakeovers(plan)] => return false_takeovers::carry_out(plan, run, report),
        _ => {}
    }
    let mut drill = Drill::set_up(scenario, fault, run, report)?;
    for (index, step) in scenario.steps.iter().enumerate() {
        let done = drill
            .step(step)
            .with_context(|| format!("step {}: {step:?}", index + 1));
        if done.is_err() && check_interrupt().is_ok() {
            for director in &drill.directors {
                crate::complain(&director.log_tail());
            }
        }
        done?;
    }
    drill.finish()
}

/// Fields are dropped in order: traffic, the directors, captures, then the hosts.
pub(crate) struct Drill<'a> {
    pub(crate) probes: Probes,
    pub(crate) background: BTreeMap<String, RunningLoad>,
    pub(crate) directors: Vec<Director>,
    pub(crate) capture: Option<Capture>,
    pub(crate) lab: Lab,
    pub(crate) scenario: &'a Scenario,
    pub(crate) run: &'a Run,
    pub(crate) report: &'a mut Report,
    /// What the drill runs for.
    pub(crate) fault: Option<Fault>,
    /// What happened to directors so far.
    pub(crate) phases: Vec<Phase>,
    /// Of background loads that have ended.
    pub(crate) outcomes: BTreeMap<String, Outcome>,
    snapshots: BTreeMap<String, Snapshot>,
    /// Connections of directors that something must not harm.
    pub(crate) regarded: BTreeMap<String, Snapshot>,
    /// Which servers answered which source addresses, of loads that had several.
    by_source: BTreeMap<String, BySource>,
    killed: Option<Killed>,
    /// What each director had counted before the first fault.
    pub(crate) role_counts_before: BTreeMap<String, RoleCounts>,
    /// When the elections of all directors began, if all were started at once.
    pub(crate) starts: Vec<Start>,
}

impl<'a> Drill<'a> {
    fn set_up(
        scenario: &'a Scenario,
        fault: Option<Fault>,
        run: &'a Run,
        report: &'a mut Report,
    ) -> Result<Drill<'a>> {
        let lab = Lab::up(run, scenario).context("lab")?;
        crate::say(&report.event(format!("lab is up: {} hosts", lab.hosts())));
        let capture = scenario
            .capture
            .then(|| start_capture(scenario, run, &lab).context("capture"));
        let capture = capture.transpose()?;
        let mut directors = Vec::new();
        for node in scenario.directors() {
            let name = node.name.clone();
            let mut director = Director::new(run, &lab, scenario, node)?;
            director.start(run).context(name)?;
            director.add_services(scenario)?;
            directors.push(director);
        }
        crate::say(&report.event("directord answers".to_owned()));
        let services = scenario.services.len();
        crate::say(&report.event(format!("{services} services added by ipvsadm")));
        Ok(Drill {
            probes: Probes::default(),
            background: BTreeMap::new(),
            directors,
            capture,
            lab,
            scenario,
            run,
            report,
            fault,
            phases: Vec::new(),
            outcomes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            regarded: BTreeMap::new(),
            by_source: BTreeMap::new(),
            killed: None,
            role_counts_before: BTreeMap::new(),
            starts: Vec::new(),
        })
    }

    /// # Errors
    /// The lab has no such director.
    pub(crate) fn director(&mut self, name: &str) -> Result<&mut Director> {
        let mut all = self.directors.iter_mut();
        all.find(|director| director.name() == name)
            .with_context(|| format!("no director {name}"))
    }

    pub(crate) fn first_director(&mut self) -> Result<&mut Director> {
        self.directors.first_mut().context("no director")
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Run { load } => self.run_load(load),
            Step::Start { load } => self.start_load(load),
            Step::Stop { load } => self.stop_load(load),
            Step::Progress { load, limit_ms } => self.progress(load, *limit_ms),
            Step::Hold { ms } => self.hold(*ms),
            Step::KillDaemon => self.kill_daemon(),
            Step::LeaseOver => self.lease_over(),
            Step::Watch { name, ms } => self.watch(name, *ms),
            Step::ForgetNeighbour { host, address } => {
                forget_neighbour(&self.lab, host, *address)?;
                self.event(format!("{host} forgets who has {address}"));
                Ok(())
            }
            Step::RestartDaemon => self.restart_daemon(),
            Step::Snapshot { name } => self.snapshot(name),
            Step::Compare { before, after } => self.compare(before, after),
            Step::Show => self.show(),
            Step::Elected {
                name,
                active,
                limit_ms,
                group,
            } => self.elected(name, active, *group, *limit_ms),
            Step::Announced { only, .. }
            | Step::Fault { only, .. }
            | Step::Takeover { only, .. }
            | Step::Split { only, .. }
                if only.is_some() && *only != self.fault =>
            {
                Ok(())
            }
            Step::StartSync {
                director,
                role,
                sync_id,
            } => self.start_sync(director, *role, *sync_id),
            Step::Synced {
                name,
                from,
                on,
                loads,
                limit_ms,
            } => self.synced(name, (from, on), loads, *limit_ms),
            Step::Fault {
                phase,
                director,
                fault,
                only: _,
            } => self.begin_fault(phase, director, *fault),
            Step::Takeover {
                by,
                limit_ms,
                group,
                only: _,
            } => self.takeover(by, *group, *limit_ms),
            Step::Split {
                name,
                seen,
                limit_ms,
                only: _,
            } => self.split(name, *seen, *limit_ms),
            Step::Announced {
                by,
                limit_ms,
                only: _,
            } => self.announced(by, *limit_ms),
            Step::RoleChanges { name } => self.note_role_changes(name),
            Step::Settled { name, limit_ms } => self.settled(name, *limit_ms),
            Step::Use { load } => self.use_flows(load),
            Step::WentOn {
                load,
                amount,
                limit_ms,
            } => self.went_on(load, *amount, *limit_ms),
            Step::Recount {
                name,
                director,
                limit_ms,
            } => self.recount(name, director, *limit_ms),
            Step::Return { director, phase } => self.bring_back(director, phase),
            Step::Covered { director } => self.note_covered(director),
            Step::Flood { ms } => self.flood(*ms),
            Step::Matrix => self.matrix(),
            Step::OpenPuppets { set, by } => self.open_puppets(*set, by),
            Step::MovePuppets { set, by } => self.move_puppets(*set, by),
            Step::Regard { name, director } => self.regard(name, director),
            Step::Unharmed { name, director } => self.unharmed(name, director),
            Step::SyncCounts { name } => self.sync_counts(name),
            Step::GiveAddresses { director } => self.give_addresses(director),
            Step::Pin {
                host,
                address,
                director,
            } => self.pin(host, *address, director),
            Step::KernelSync(_) | Step::FailoverTimes(_) | Step::FalseTakeovers(_) => {
                bail!("this is a drill of its own")
            }
            Step::SyncRate { entries } => self.sync_rate(*entries),
            Step::SyncPersistCost { packets } => self.sync_persist_cost(*packets),
            Step::AddProbes => self.add_probes(),
            Step::StartProbes => self.start_probes(),
            Step::EndProbes { name } => self.end_probes(name),
            Step::HandoverRefused { name, director } => self.handover_refused(name, director),
            Step::Directing => self.directing(),
            Step::Conclude => self.conclude(),
        }
    }

    fn run_load(&mut self, name: &str) -> Result<()> {
        let load = self.scenario.load_spec(name)?;
        let outcome = run_to_end(self.run, &self.lab, self.scenario, load)?;
        self.take_outcome(load, &outcome)
    }

    fn start_load(&mut self, name: &str) -> Result<()> {
        let load = self.scenario.load_spec(name)?;
        let mut running = RunningLoad::start(self.run, &self.lab, self.scenario, load)?;
        running.wait_ready()?;
        self.background.insert(name.to_owned(), running);
        self.event(format!("load {name} is running"));
        Ok(())
    }

    fn stop_load(&mut self, name: &str) -> Result<()> {
        let running = self.background.remove(name).context("it is not running")?;
        let outcome = running.stop()?;
        let load = self.scenario.load_spec(name)?;
        self.take_outcome(load, &outcome)?;
        self.outcomes.insert(name.to_owned(), outcome);
        Ok(())
    }

    fn progress(&mut self, name: &str, limit_ms: u64) -> Result<()> {
        let running = self.background.get_mut(name).context("it is not running")?;
        let took = running.wait_progress(Duration::from_millis(limit_ms))?;
        self.report
            .figure(format!("{name}.resumed_ms"), took.as_secs_f64() * 1000.0);
        self.event(format!("every flow of {name} had another answer"));
        Ok(())
    }

    fn hold(&mut self, ms: u64) -> Result<()> {
        pass_time_until(Instant::now() + Duration::from_millis(ms))?;
        self.event(format!("{ms} ms have passed"));
        Ok(())
    }

    fn kill_daemon(&mut self) -> Result<()> {
        let name = self.first_director()?.name().to_owned();
        self.kill_named(&name)
    }

    /// SIGKILL of one director's daemon.
    pub(crate) fn kill_named(&mut self, director: &str) -> Result<()> {
        self.killed = Some(kill_daemon(self.director(director)?)?);
        self.event("directord killed with SIGKILL".to_owned());
        Ok(())
    }

    pub(crate) fn lease_over(&mut self) -> Result<()> {
        let killed = self.killed.context("the daemon has not been killed")?;
        let lease_ms = self.scenario.director.lease_ms;
        ensure!(lease_ms > 0, "a lease of 0 does not end");
        pass_time_until(killed.at + Duration::from_millis(lease_ms))?;
        self.event(format!("the lease of {lease_ms} ms has ended"));
        Ok(())
    }

    fn watch(&mut self, window: &str, ms: u64) -> Result<()> {
        let from = wall_clock();
        pass_time_until(Instant::now() + Duration::from_millis(ms))?;
        let to = wall_clock();
        let capture = self.capture.as_ref().context("nothing is captured")?;
        capture.settle()?;
        let virtual_addresses = self.scenario.virtual_addresses();
        let service = self.service_addresses();
        let count = |origin: Origin, wanted: &dyn Fn(&Content) -> bool| {
            let within = |record: &Record| (from..=to).contains(&record.at);
            capture.count(|record| {
                record.origin == origin && within(record) && wanted(&record.content)
            })
        };
        let asked = |content: &Content| content.asks_for(&virtual_addresses);
        let answered = |content: &Content| content.answers_for(&virtual_addresses);
        let counts = [
            (
                "sent",
                count(Origin::Director, &|content| content.is_service(&service)),
            ),
            (
                "offered",
                count(Origin::Others, &|content| content.is_service(&service)),
            ),
            ("arp_requests", count(Origin::Others, &asked)),
            ("arp_replies", count(Origin::Director, &answered)),
        ];
        for (name, value) in counts {
            self.count_figure(format!("{window}.{name}"), value);
        }
        self.event(format!(
            "watched the director's links for {ms} ms: {window}"
        ));
        Ok(())
    }

    /// Addresses that only service traffic has.
    pub(crate) fn service_addresses(&self) -> BTreeSet<IpAddr> {
        let servers = self.scenario.servers.iter().flat_map(ServerSpec::addresses);
        self.scenario
            .virtual_addresses()
            .into_iter()
            .chain(servers)
            .collect()
    }

    fn restart_daemon(&mut self) -> Result<()> {
        let run = self.run;
        self.first_director()?.start(run)?;
        self.event("directord answers again".to_owned());
        Ok(())
    }

    fn snapshot(&mut self, name: &str) -> Result<()> {
        let snapshot = self.first_director()?.snapshot()?;
        let (services, connections) = (snapshot.counters.len(), snapshot.connections.len());
        self.snapshots.insert(name.to_owned(), snapshot);
        self.event(format!(
            "snapshot {name}: {services} services and servers, {connections} connections"
        ));
        Ok(())
    }

    fn compare(&mut self, before: &str, after: &str) -> Result<()> {
        let find = |name: &str| {
            self.snapshots
                .get(name)
                .with_context(|| format!("no {name}"))
        };
        let kept = compare(find(before)?, find(after)?);
        self.count_figure("kept.services_missing", kept.services_missing);
        self.count_figure("kept.counters_backwards", kept.counters_backwards);
        self.count_figure("kept.connections_missing", kept.connections_missing);
        self.count_figure("kept.connections_moved", kept.connections_moved);
        self.count_figure("kept.connections_compared", kept.connections_compared);
        Ok(())
    }

    fn show(&mut self) -> Result<()> {
        let listings: [&[&str]; 3] = [&["-Ln"], &["-Ln", "--stats"], &["-Lnc"]];
        for director in self.directors.iter().filter(|one| one.is_running()) {
            let place = match &self.scenario.pair {
                Some(_) => format!("{}: ", director.name()),
                None => String::new(),
            };
            for args in listings {
                let text = director.ipvsadm(args)?;
                print_listing(&format!("{place}ipvsadm {}", args.join(" ")), &text);
            }
            let text = director.directord(&["status"])?;
            print_listing(&format!("{place}directord status"), &text);
        }
        Ok(())
    }

    pub(crate) fn take_outcome(&mut self, load: &LoadSpec, outcome: &Outcome) -> Result<()> {
        let name = &load.name;
        let counts = [
            ("connections", outcome.connections),
            ("failed", outcome.failed),
            ("rounds", outcome.rounds),
            ("lost", outcome.lost),
            ("wrong_bytes", outcome.wrong_bytes),
            ("resets", outcome.resets),
            ("retransmissions", outcome.retransmissions),
            ("moved", outcome.moved),
        ];
        for (what, value) in counts {
            self.count_figure(format!("{name}.{what}"), value);
        }
        self.report
            .figure(format!("{name}.latency_p50_ms"), outcome.latency_p50_ms);
        self.report
            .figure(format!("{name}.latency_max_ms"), outcome.latency_max_ms);
        let members = &self.scenario.service(&load.service)?.servers;
        let weights = members
            .iter()
            .map(|member| (member.server.clone(), member.weight));
        let weights: BTreeMap<String, u32> = weights.collect();
        for server in weights.keys() {
            let share = outcome.by_server.get(server).copied().unwrap_or_default();
            self.count_figure(format!("{name}.share.{server}"), share);
        }
        self.report.figure(
            format!("{name}.spread"),
            spread(&outcome.by_server, &weights),
        );
        if load.sources > 0 {
            let earlier = match &load.after {
                Some(earlier) => Some(self.by_source.get(earlier).context("no earlier load")?),
                None => None,
            };
            let strayed = count_strayed(&outcome.by_source, earlier);
            self.count_figure(format!("{name}.strayed"), strayed);
            let sources = outcome.by_source.len() as u64;
            self.count_figure(format!("{name}.sources"), sources);
            self.by_source
                .insert(name.clone(), outcome.by_source.clone());
        }
        self.event(format!(
            "load {name}: {} connections, {} answers, {} failed, by server {:?}",
            outcome.connections, outcome.rounds, outcome.failed, outcome.by_server
        ));
        for failure in &outcome.failures {
            self.event(format!("load {name}: {failure}"));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let still: Vec<String> = self.background.keys().cloned().collect();
        ensure!(
            still.is_empty(),
            "the scenario does not stop {}",
            still.join(", ")
        );
        for director in self.directors.iter_mut().filter(|one| one.is_running()) {
            let ended = director.check_alive().and_then(|()| director.stop());
            if let Err(error) = ended {
                crate::complain(&director.log_tail());
                return Err(error);
            }
        }
        if let Some(capture) = &self.capture {
            capture.settle()?;
            let service = self.service_addresses();
            let resets = capture.count(|record| {
                let reset = matches!(record.content, Content::Tcp { reset: true, .. });
                reset && record.content.is_service(&service)
            });
            let dropped = capture.dropped()?;
            self.count_figure("wire.resets", resets);
            self.count_figure("wire.not_captured", dropped);
        }
        Ok(())
    }

    pub(crate) fn event(&mut self, what: String) {
        crate::say(&self.report.event(what));
    }

    pub(crate) fn count_figure(&mut self, name: impl Into<String>, count: u64) {
        // Counts of a drill stay far below 2^52.
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact for every count a drill reaches"
        )]
        self.report.figure(name, count as f64);
    }
}

/// How many addresses were answered by several servers, or by another one than earlier.
fn count_strayed(now: &BySource, earlier: Option<&BySource>) -> u64 {
    let strayed = now.iter().filter(|(source, servers)| {
        let before = earlier.map(|earlier| earlier.get(*source));
        servers.len() != 1 || before.is_some_and(|before| before != Some(servers))
    });
    strayed.count() as u64
}

fn start_capture(scenario: &Scenario, run: &Run, lab: &Lab) -> Result<Capture> {
    let ports = scenario
        .directors()
        .into_iter()
        .flat_map(|node| node.ports());
    let links: Vec<(String, usize)> = ports
        .map(|port| {
            // Streams would fill the memory; what directors say to each other is short.
            let whole = scenario.pair.is_none() || port.ends_with("-sync");
            (port, if whole { WHOLE } else { HEADERS })
        })
        .collect();
    Capture::start(lab.host(LAN)?.spaces(), &links, run.dir())
}

fn print_listing(title: &str, text: &str) {
    crate::say(&format!("\n$ {title}"));
    // Only the list of connections grows with the load.
    let connections = title.ends_with("-Lnc");
    let shown_max = if connections { LISTED_MAX } else { usize::MAX };
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().take(shown_max) {
        crate::say(line);
    }
    let more = lines.len().saturating_sub(shown_max);
    if more > 0 {
        crate::say(&format!("... and {more} lines more"));
    }
    crate::say("");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_strayed_that_had_two_servers_or_another_one_than_before() {
        let by_source = |servers: &[&[&str]]| -> BySource {
            let sets = servers
                .iter()
                .map(|set| set.iter().map(|name| (*name).to_owned()).collect());
            (0..)
                .map(|index| crate::plan::source(index, false))
                .zip(sets)
                .collect()
        };
        let before = by_source(&[&["a"], &["b"], &["a"]]);
        assert_eq!(count_strayed(&before, None), 0);
        assert_eq!(count_strayed(&before, Some(&before)), 0);
        assert_eq!(count_strayed(&by_source(&[&["a", "b"], &["b"]]), None), 1);
        let after = by_source(&[&["a"], &["a"], &["a", "b"], &["b"]]);
        assert_eq!(count_strayed(&after, Some(&before)), 3);
    }
}
