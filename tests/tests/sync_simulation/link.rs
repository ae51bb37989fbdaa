//! The link between two nodes.

use std::collections::BTreeMap;

use crate::random::Random;

/// Shares are of datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    /// On top of the common delay, for each datagram its own: overtaking, when it is not 0.
    pub(crate) jitter_ms: usize,
}

impl Faults {
    pub(crate) const NONE: Faults = Faults {
        loss: 0.0,
        duplicate: 0.0,
        jitter_ms: 0,
    };
}

/// Delay of every datagram.
const DELAY_MS: u64 = 3;

#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    /// Number of the node that sent it.
    pub(crate) from: usize,
    pub(crate) port: usize,
    pub(crate) bytes: Vec<u8>,
    /// Entries in it.
    pub(crate) count: u64,
}

/// What became of datagrams, and of the entries in them, by sending node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) datagrams: u64,
    pub(crate) entries: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, datagram: &Datagram) {
        self.datagrams += 1;
        self.entries += datagram.count;
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    faults: Faults,
    pub(crate) now_ms: u64,
    /// By time of arrival, and then in the order of sending.
    flying: BTreeMap<(u64, u64), Datagram>,
    sequence: u64,
    pub(crate) sent: [Tally; 2],
    pub(crate) lost: [Tally; 2],
    pub(crate) duplicated: [Tally; 2],
    pub(crate) delivered: [Tally; 2],
    /// Delivered where nobody listened.
    pub(crate) unheard: [Tally; 2],
}

impl Link {
    pub(crate) fn new(faults: Faults) -> Link {
        Link {
            faults,
            now_ms: 0,
            flying: BTreeMap::new(),
            sequence: 0,
            sent: Default::default(),
            lost: Default::default(),
            duplicated: Default::default(),
            delivered: Default::default(),
            unheard: Default::default(),
        }
    }

    pub(crate) const fn loss(&self) -> f64 {
        self.faults.loss
    }

    pub(crate) fn send(&mut self, datagram: Datagram, random: &mut Random) {
        let from = datagram.from;
        self.sent[from].add(&datagram);
        if chance(random, self.faults.loss) {
            self.lost[from].add(&datagram);
            return;
        }
        if chance(random, self.faults.duplicate) {
            self.duplicated[from].add(&datagram);
            self.fly(datagram.clone(), random);
        }
        self.fly(datagram, random);
    }

    fn fly(&mut self, datagram: Datagram, random: &mut Random) {
        let jitter = random.below(self.faults.jitter_ms + 1) as u64;
        self.sequence += 1;
        let at = self.now_ms + DELAY_MS + jitter;
        self.flying.insert((at, self.sequence), datagram);
    }

    /// The next datagram that has arrived.
    pub(crate) fn next_due(&mut self) -> Option<Datagram> {
        let first = self.flying.first_entry()?;
        if first.key().0 > self.now_ms {
            return None;
        }
        let datagram = first.remove();
        self.delivered[datagram.from].add(&datagram);
        Some(datagram)
    }

    /// When the last datagram that is under way arrives.
    pub(crate) fn last_due_ms(&self) -> Option<u64> {
        let ((at, _), _) = self.flying.last_key_value()?;
        Some(*at)
    }
}

fn chance(random: &mut Random, share: f64) -> bool {
    let unit = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
    unit < share
}
