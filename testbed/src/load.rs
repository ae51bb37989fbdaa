//! A client process that is running, seen from the drill.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::client::{LOAD, LoadOrder, Message, Outcome};
use crate::netns::{Tether, end, own_executable};
use crate::run::Run;
use crate::scenario::{LoadSpec, Scenario};
use crate::topology::{CLIENT, Lab};
use crate::traffic::next_word;
use crate::wait::{check_interrupt, wait_until};

/// Beyond what the load itself allows for.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Dropping it ends the client.
#[derive(Debug)]
pub(crate) struct RunningLoad {
    child: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Message>,
    patience: Duration,
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
        })
    }

    /// Waits until each flow has had an answer.
    ///
    /// # Errors
    /// A flow did not get there.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        match self.next_message()? {
            Message::Ready(_) => Ok(()),
            Message::Outcome(outcome) => bail!("the load ended at once: {:?}", outcome.failures),
            Message::Progress(_) => bail!("a client reports what it was not asked"),
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
            let all = first.iter().zip(&now).all(|(first, now)| *now >= first + 2);
            Ok(all.then_some(()))
        })?;
        Ok(begun.elapsed())
    }

    /// Ends a load that has no end of its own.
    ///
    /// # Errors
    /// The client is gone or does not end.
    pub(crate) fn stop(mut self) -> Result<Outcome> {
        self.tell("stop")?;
        self.finish()
    }

    /// Waits for the end of a load.
    ///
    /// # Errors
    /// The client is gone or does not end.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        loop {
            match self.next_message()? {
                Message::Outcome(outcome) => return Ok(*outcome),
                Message::Ready(_) | Message::Progress(_) => {}
            }
        }
    }

    fn progress(&mut self) -> Result<Vec<u64>> {
        self.tell("progress")?;
        match self.next_message()? {
            Message::Progress(rounds) => Ok(rounds),
            Message::Outcome(outcome) => bail!("the load has ended: {:?}", outcome.failures),
            Message::Ready(_) => bail!("a client reports what it was not asked"),
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
    // Loads of one scenario send different bytes.
    let mut seed = load.name.bytes().fold(scenario.seed, |seed, byte| {
        seed.rotate_left(8) ^ u64::from(byte)
    });
    Ok(LoadOrder {
        protocol: service.protocol,
        address: service.address,
        kind: load.kind,
        count: load.count,
        parallel: load.parallel,
        interval_ms: load.interval_ms,
        up: load.up,
        down: load.down,
        patience_ms: load.patience_ms,
        seed: next_word(&mut seed),
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
