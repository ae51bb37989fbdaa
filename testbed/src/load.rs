//! A client process that is running, seen from the drill.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::client::LOAD;
use crate::netns::{Tether, end, own_executable};
use crate::order::{FlowProgress, LoadOrder, Message, Outcome};
use crate::plan;
use crate::run::Run;
use crate::scenario::{LoadSpec, Scenario};
use crate::topology::{CLIENT, Lab};
use crate::traffic::next_word;
use crate::wait::{check_interrupt, wait_until};

/// Beyond what the load itself allows for.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const UNASKED: &str = "a client reports what it was not asked";

/// Dropping it ends the client.
#[derive(Debug)]
pub(crate) struct RunningLoad {
    child: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Message>,
    patience: Duration,
    ports: Vec<u16>,
    /// How far each flow was when the phase began.
    base: Vec<u64>,
}

impl RunningLoad {
    /// # Errors
    /// The client cannot be started.
    pub(crate) fn start(
        run: &Run,
        lab: &Lab,
        scenario: &Scenario,
        load: &LoadSpec,
    ) -> Result<RunningLoad> {
        let order = serde_json::to_string(&order(scenario, load)?)?;
        let spaces = lab.host(CLIENT)?.spaces();
        let mut command = spaces.command(own_executable()?, Tether::Parent)?;
        command
            .args([LOAD, &order])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("start a client")?;
        run.record(child.id())?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("a client has no output")?;
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in read_messages(output) {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let patience = Duration::from_millis(load.patience_ms);
        Ok(RunningLoad {
            child,
            input,
            messages,
            patience,
            ports: Vec::new(),
            base: Vec::new(),
        })
    }

    /// The client's ports of all flows, known once the load is ready.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Waits until each flow has had an answer.
    ///
    /// # Errors
    /// A flow did not get there.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        match self.next_message()? {
            Message::Ready(ports) => {
                self.ports = ports;
                Ok(())
            }
            Message::Outcome(outcome) => bail!("the load ended at once: {:?}", outcome.failures),
            Message::Progress(_) | Message::Quiet(_) => bail!(UNASKED),
        }
    }

    /// Waits until each flow has had one more answer to a request sent from now on.
    ///
    /// # Errors
    /// Not all of them in time.
    pub(crate) fn wait_progress(&mut self, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let first = self.progress()?;
        wait_until("every flow goes on", limit, || {
            let now = self.progress()?;
            // The answer to a request already under way is not enough.
            let goes_on = |(first, now): (&FlowProgress, &FlowProgress)| now.done >= first.done + 2;
            Ok(first.iter().zip(&now).all(goes_on).then_some(()))
        })?;
        Ok(begun.elapsed())
    }

    /// How far each flow is.
    ///
    /// # Errors
    /// The client is gone, or the load has ended.
    pub(crate) fn progress(&mut self) -> Result<Vec<FlowProgress>> {
        self.tell("progress")?;
        match self.next_message()? {
            Message::Progress(flows) => Ok(flows),
            Message::Outcome(outcome) => bail!("the load has ended: {:?}", outcome.failures),
            Message::Ready(_) | Message::Quiet(_) => bail!(UNASKED),
        }
    }

    /// Tells that a phase began at a time of the monotonic clock.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn tell_phase(&mut self, at_ns: u64) -> Result<()> {
        self.tell(&format!("phase {at_ns}"))
    }

    /// The answer to [`RunningLoad::tell_phase`]: how long no flow had had an answer.
    ///
    /// # Errors
    /// The client is gone, or the load has ended.
    pub(crate) fn quiet_ms(&mut self) -> Result<f64> {
        match self.next_message()? {
            Message::Quiet(ms) => Ok(ms),
            Message::Outcome(outcome) => bail!("the load has ended: {:?}", outcome.failures),
            Message::Ready(_) | Message::Progress(_) => bail!(UNASKED),
        }
    }

    /// From here on [`RunningLoad::all_did`] counts.
    ///
    /// # Errors
    /// The client is gone, or the load has ended.
    pub(crate) fn remember_progress(&mut self) -> Result<()> {
        let flows = self.progress()?;
        self.base = flows.iter().map(|flow| flow.done).collect();
        Ok(())
    }

    /// Whether every living flow has done an amount since then.
    ///
    /// # Errors
    /// The client is gone, or the load has ended.
    pub(crate) fn all_did(&mut self, amount: u64) -> Result<bool> {
        let flows = self.progress()?;
        let base = self.base.iter().copied().chain(std::iter::repeat(0));
        let mut living = flows.iter().zip(base).filter(|(flow, _)| !flow.is_broken);
        Ok(living.all(|(flow, base)| flow.done >= base + amount))
    }

    /// Has idle flows used once more.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn use_flows(&mut self) -> Result<()> {
        self.tell("use")
    }

    /// Ends a load that has no end of its own.
    ///
    /// # Errors
    /// The client is gone or does not end.
    pub(crate) fn stop(mut self) -> Result<Outcome> {
        self.tell_stop()?;
        self.finish()
    }

    /// Begins to end a load; [`RunningLoad::finish`] waits for it.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn tell_stop(&mut self) -> Result<()> {
        self.tell("stop")
    }

    /// Waits for the end of a load.
    ///
    /// # Errors
    /// The client is gone or does not end.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        loop {
            match self.next_message()? {
                Message::Outcome(outcome) => return Ok(*outcome),
                Message::Ready(_) | Message::Progress(_) | Message::Quiet(_) => {}
            }
        }
    }

    fn tell(&mut self, what: &str) -> Result<()> {
        let input = self.input.as_mut().context("a client takes no orders")?;
        writeln!(input, "{what}").context("a client is gone")
    }

    fn next_message(&mut self) -> Result<Message> {
        let deadline = Instant::now() + self.patience + ANSWER_LIMIT;
        loop {
            match self.messages.recv_timeout(Duration::from_millis(20)) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Disconnected) => bail!("a client ended without a report"),
                Err(RecvTimeoutError::Timeout) => check_interrupt()?,
            }
            if Instant::now() > deadline {
                bail!("a client does not report");
            }
        }
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn order(scenario: &Scenario, load: &LoadSpec) -> Result<LoadOrder> {
    let service = scenario.service(&load.service)?;
    let port = load.port.unwrap_or(service.address.port());
    let is_ipv6 = service.address.is_ipv6();
    let sources = (0..load.sources).map(|index| plan::source(index, is_ipv6));
    let mut sources: Vec<IpAddr> = sources.collect();
    if load.after.is_some() {
        sources.reverse();
    }
    // Loads of one scenario send different bytes.
    let mut seed = load.name.bytes().fold(scenario.seed, |seed, byte| {
        seed.rotate_left(8) ^ u64::from(byte)
    });
    Ok(LoadOrder {
        protocol: service.protocol,
        address: SocketAddr::new(service.address.ip(), port),
        kind: load.kind,
        count: load.count,
        parallel: load.parallel,
        interval_ms: load.interval_ms,
        up: load.up,
        down: load.down,
        patience_ms: load.patience_ms,
        use_rounds: load.use_rounds,
        seed: next_word(&mut seed),
        sources,
        ports_from: 0,
    })
}

fn read_messages(output: ChildStdout) -> impl Iterator<Item = Message> {
    let lines = BufReader::new(output)
        .lines()
        .map_while(std::io::Result::ok);
    lines.map_while(|line| serde_json::from_str(&line).ok())
}

/// Runs a load from start to end.
///
/// # Errors
/// The client cannot be started or does not end.
pub(crate) fn run_to_end(
    run: &Run,
    lab: &Lab,
    scenario: &Scenario,
    load: &LoadSpec,
) -> Result<Outcome> {
    RunningLoad::start(run, lab, scenario, load)?.finish()
}
