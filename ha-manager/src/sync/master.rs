//! The threads of a sync master: offers of the programs in, datagrams out.
//!
//! ```text
//!  one port:    ring --------------------------------------------> port --> group or peers
//!  more:        ring --> dealer --bounded queue of batches--> port i --> group or peers, port i
//! ```

mod dealer;
mod lane;
mod outlets;
mod port;

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dataplane::OfferReader;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use syncproto::net::{NetConfig, master_sockets};
use syncproto::sender::{Sender, SenderConfig};
use syncproto::wire::Version;
use tracing::warn;

use super::losses::Losses;
use super::offer::discard_stale;
use super::start::wrap_warning;
use super::{SyncDaemonStatus, add_up, not_started, refused};
use crate::privileges;
use dealer::Dealer;
use lane::lane;
use outlets::Outlets;
use port::{Orders, Port, Source, Told};

/// Offers taken before messages are sent. They fill fewer messages than a sender keeps for reuse.
const OFFERS_MAX: usize = 2048;
/// While messages are being filled the offers are looked at this often.
const FILLING: Duration = Duration::from_millis(1);
/// At a stop, the longest wait of all threads together for sockets that take no more.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// A running master.
pub(super) struct Master {
    spec: SyncSpec,
    nets: Vec<NetConfig>,
    threads: Threads,
    orders: Arc<Orders>,
    /// What each port tells.
    told: Vec<Arc<Mutex<Told>>>,
    warning: Option<String>,
}

/// A port's sockets, and what is odd about them.
pub(super) struct Opened {
    outlets: Vec<Outlets>,
    warning: Option<String>,
}

/// A thread gives back the ring when it reads it.
type Thread = JoinHandle<Option<OfferReader>>;

/// What ends when the pipe is closed: the one that reads the ring, and by that the others.
struct Threads {
    stop: Option<PipeWriter>,
    running: Vec<Thread>,
}

impl Master {
    /// Opens the sockets of all ports.
    ///
    /// # Errors
    /// That of the first port that cannot be had; none is kept then.
    pub(super) fn open(nets: &[NetConfig]) -> Result<Opened, SyncError> {
        let mut opened = Opened {
            outlets: Vec::with_capacity(nets.len()),
            warning: None,
        };
        for net in nets {
            let (sockets, warning) = master_sockets(net).map_err(refused)?;
            opened.outlets.push(Outlets::new(sockets));
            opened.warning = opened
                .warning
                .or(warning.map(|warning| warning.to_string()));
        }
        Ok(opened)
    }

    pub(super) fn start(
        spec: SyncSpec,
        nets: Vec<NetConfig>,
        opened: Opened,
        config: &SenderConfig,
        offers: OfferReader,
    ) -> Result<Master, SyncError> {
        let orders = Arc::new(Orders {
            is_version_0: AtomicBool::new(config.version == Version::V0),
            queue_max: AtomicUsize::new(config.queue_max),
            hurries: AtomicBool::new(false),
            losses: Losses::default(),
            stop_by: OnceLock::new(),
        });
        let told: Vec<Arc<Mutex<Told>>> = nets.iter().map(|_| Arc::default()).collect();
        let mut offers = offers;
        // What an earlier daemon left: what had a packet since then is offered again in any case.
        let left = discard_stale(&mut offers);
        if let Some(first) = told.first() {
            super::lock(first).counts.drop_stale = left;
        }
        let mut master = Master {
            spec,
            nets,
            threads: Threads {
                stop: None,
                running: Vec::new(),
            },
            orders,
            told,
            warning: opened.warning,
        };
        master.warning = master.warning.or_else(|| wrap_warning(&master.nets));
        match master.spawn(opened.outlets, config, offers) {
            Ok(()) => Ok(master),
            Err(error) => {
                master.stop();
                Err(not_started(error))
            }
        }
    }

    fn spawn(
        &mut self,
        outlets: Vec<Outlets>,
        config: &SenderConfig,
        offers: OfferReader,
    ) -> io::Result<()> {
        let (stopped, stop) = io::pipe()?;
        self.threads.stop = Some(stop);
        let is_dealt = outlets.len() > 1;
        let (mut offers, mut stopped) = (Some(offers), Some(stopped));
        let mut lanes = Vec::new();
        for (index, (outlets, told)) in outlets.into_iter().zip(&self.told).enumerate() {
            let (config, told) = (config.clone(), Arc::clone(told));
            let orders = Arc::clone(&self.orders);
            let (source, stopped) = if is_dealt {
                let (entry, exit) = lane();
                lanes.push(entry);
                (Some(Source::Lane(exit)), None)
            } else {
                (offers.take().map(Source::Ring), stopped.take())
            };
            let Some(source) = source else { break };
            self.threads
                .spawn(format!("sync-master-{index}"), move || {
                    let age = config.flush_age;
                    let sender = Sender::new(config);
                    let port = Port::new(source, sender, age, outlets, orders, told);
                    port.run(stopped.as_ref().map(AsFd::as_fd))
                })?;
        }
        let (Some(offers), Some(stopped)) = (offers, stopped) else {
            return Ok(());
        };
        let orders = Arc::clone(&self.orders);
        self.threads.spawn("sync-dealer".to_owned(), move || {
            let dealer = Dealer {
                offers,
                lanes,
                orders,
            };
            Some(dealer.run(stopped.as_fd()))
        })
    }

    /// What was offered is sent first. Gives back the reading end of the ring, unless the thread had
    /// failed.
    pub(super) fn stop(self) -> Option<OfferReader> {
        // From now on, however many threads wait for one another.
        self.orders.stop_by();
        self.threads.stop()
    }

    /// From the next message on; a message at hand of the other version is sent as it is.
    pub(super) fn set_version(&self, version: Version) {
        let is_version_0 = version == Version::V0;
        self.orders.is_version_0.store(is_version_0, Relaxed);
    }

    /// Unit: messages of each port.
    pub(super) fn set_queue_max(&self, queue_max: usize) {
        self.orders.queue_max.store(queue_max, Relaxed);
    }

    /// From the next offer on: whether a message is sent at once, and not when it has come of age.
    pub(super) fn hurry(&self, is_wanted: bool) {
        self.orders.hurries.store(is_wanted, Relaxed);
    }

    pub(super) fn spec(&self) -> &SyncSpec {
        &self.spec
    }

    /// The earliest time ([`dataplane::timer_ns`]) of offers that were lost since the last call: the
    /// peer has to be told again.
    pub(super) fn lost_since(&self) -> Option<u64> {
        self.orders.losses.take()
    }

    /// Messages of all ports that wait for their sockets.
    pub(super) fn backlog(&self) -> u64 {
        let queued = self.told.iter().map(|told| super::lock(told).queued);
        queued.sum()
    }

    /// Whether all threads are still there.
    pub(super) fn is_alive(&self) -> bool {
        !self.threads.running.iter().any(JoinHandle::is_finished)
    }

    pub(super) fn status(&self) -> SyncDaemonStatus {
        let ports = self.nets.iter().zip(&self.told);
        let ports = ports.map(|(net, told)| Told::status(told, net.port));
        let ports: Vec<_> = ports.collect();
        let failed = "a thread of the sync master has failed";
        let problem = (!self.is_alive()).then(|| failed.to_owned());
        let peers = self.nets.first().map(|net| net.peers.clone());
        SyncDaemonStatus {
            role: SyncRole::Master,
            spec: self.spec.clone(),
            peers: peers.unwrap_or_default(),
            version: Some(self.orders.version()),
            counters: add_up(&ports),
            ports,
            problem,
            warning: self.warning.clone(),
        }
    }
}

impl Threads {
    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce() -> Option<OfferReader> + Send + 'static,
    ) -> io::Result<()> {
        let run = move || {
            if let Err(error) = privileges::drop_all() {
                warn!(%error, "sync master keeps its capabilities");
            }
            run()
        };
        self.running
            .push(thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }

    fn stop(self) -> Option<OfferReader> {
        drop(self.stop);
        let mut offers = None;
        for thread in self.running {
            match thread.join() {
                Ok(found) => offers = offers.or(found),
                Err(_) => warn!("a thread of the sync master had failed"),
            }
        }
        offers
    }
}
