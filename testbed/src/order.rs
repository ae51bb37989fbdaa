//! What a client is told to do, and what it tells: one JSON object for each line.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::meter::FlowOutcome;
use crate::scenario::{LoadKind, Protocol};
use crate::traffic::{Request, next_word};

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LoadOrder {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    pub(crate) kind: LoadKind,
    pub(crate) count: u32,
    pub(crate) parallel: u32,
    pub(crate) interval_ms: u64,
    pub(crate) up: u32,
    pub(crate) down: u32,
    pub(crate) patience_ms: u64,
    #[serde(default)]
    pub(crate) use_rounds: u32,
    pub(crate) seed: u64,
    /// Where connections come from, one after the other; none leaves it to the host.
    #[serde(default)]
    pub(crate) sources: Vec<IpAddr>,
    /// Connection `number` comes from this port plus `number`; 0 leaves it to the host.
    #[serde(default)]
    pub(crate) ports_from: u16,
}

/// What a load saw.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) connections: u64,
    pub(crate) failed: u64,
    /// Requests answered.
    pub(crate) rounds: u64,
    /// Datagrams without an answer.
    pub(crate) lost: u64,
    pub(crate) wrong_bytes: u64,
    pub(crate) resets: u64,
    /// Segments sent again, by both ends.
    pub(crate) retransmissions: u64,
    /// Answers on a flow that came from another server than its first one.
    pub(crate) moved: u64,
    pub(crate) latency_p50_ms: f64,
    pub(crate) latency_max_ms: f64,
    pub(crate) by_server: BTreeMap<String, u64>,
    /// Which servers answered which of the addresses that connections came from.
    pub(crate) by_source: BTreeMap<IpAddr, BTreeSet<String>>,
    pub(crate) failures: Vec<String>,
    /// Every flow of a load of flows.
    pub(crate) flows: Vec<FlowOutcome>,
    /// Connections that ended after the first phase.
    pub(crate) tries: Vec<Try>,
}

/// One new connection.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Try {
    /// On the monotonic clock.
    pub(crate) begun_ns: u64,
    pub(crate) took_us: u64,
    pub(crate) is_answered: bool,
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct FlowProgress {
    /// Answers; bytes both ways in the present phase for streams.
    pub(crate) done: u64,
    pub(crate) is_broken: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// The client's port of each flow; 0 where it could not be opened.
    Ready(Vec<u16>),
    Progress(Vec<FlowProgress>),
    /// The shortest time since a flow's last answer. Unit: milliseconds.
    Quiet(f64),
    Outcome(Box<Outcome>),
}

impl LoadOrder {
    /// Where connection `number` comes from; port 0 is any.
    pub(crate) fn source(&self, number: u64) -> Option<SocketAddr> {
        let count = self.sources.len() as u64;
        let index = number.checked_rem(count)?;
        let address = self.sources.get(usize::try_from(index).ok()?).copied()?;
        let port = match self.ports_from {
            0 => 0,
            first => first.checked_add(u16::try_from(number).ok()?)?,
        };
        Some(SocketAddr::new(address, port))
    }

    /// What connection `number` says first; its bytes are its own.
    pub(crate) fn request(&self, number: u64) -> Request {
        let mut seed = self.seed ^ number.rotate_left(32);
        Request {
            connection: number,
            seed: next_word(&mut seed),
            round: 0,
            up: self.up,
            down: self.down,
        }
    }
}
