//! Looks after the macvlans in a task of its own: the owner of the data plane tells it what there is,
//! and waits for no answer of the kernel.

use std::collections::BTreeSet;

use dataplane::Attachment;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::Vmacs;
use crate::netlink::NetworkState;

/// What [`Vmacs::tend`] goes by.
#[derive(Clone, Default)]
struct Told {
    network: NetworkState,
    attached: Vec<Attachment>,
}

/// The task, from where the data plane is owned.
pub struct Tender {
    /// Interfaces that matter to it.
    names: BTreeSet<String>,
    /// The task ends when this is gone.
    told: Option<watch::Sender<Told>>,
    wanting: watch::Receiver<Vec<String>>,
    task: JoinHandle<Vmacs>,
}

impl Tender {
    /// Takes them over. Nothing happens before something is told.
    pub fn start(vmacs: Vmacs) -> Tender {
        let specs = vmacs.specs.iter();
        let names = specs.flat_map(|spec| [spec.name.clone(), spec.interface.clone()]);
        let names = names.collect();
        let (told, hears) = watch::channel(Told::default());
        let (tells, wanting) = watch::channel(Vec::new());
        Tender {
            names,
            told: Some(told),
            wanting,
            task: tokio::spawn(run(vmacs, hears, tells)),
        }
    }

    /// What the network is like now, and where the programs are attached. Never waits; only what was
    /// told last counts.
    pub fn tell(&self, network: &NetworkState, attached: Vec<Attachment>) {
        if let Some(told) = self.told.as_ref().filter(|_| !self.names.is_empty()) {
            let network = self.excerpt(network);
            told.send_replace(Told { network, attached });
        }
    }

    /// What cannot be had, as of the last round, when one has ended. Safe to drop at any time.
    pub async fn wanting(&mut self) -> Vec<String> {
        match self.wanting.changed().await {
            Ok(()) => self.wanting.borrow_and_update().clone(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Removes what is ours; see [`Vmacs::stop`].
    pub async fn stop(&mut self) {
        self.told = None;
        match (&mut self.task).await {
            Ok(mut vmacs) => vmacs.stop().await,
            Err(error) => warn!(%error, "macvlans are not looked after any more, and stay"),
        }
    }

    /// Only what matters.
    fn excerpt(&self, network: &NetworkState) -> NetworkState {
        let mut links = network.links.clone();
        links.retain(|name, _| self.names.contains(name));
        let mut addresses = network.addresses.clone();
        addresses.retain(|(address, ifindex)| {
            address.is_ipv6() && links.values().any(|link| link.ifindex == *ifindex)
        });
        NetworkState {
            links,
            addresses,
            ..NetworkState::default()
        }
    }
}

async fn run(
    mut vmacs: Vmacs,
    mut told: watch::Receiver<Told>,
    wanting: watch::Sender<Vec<String>>,
) -> Vmacs {
    while told.changed().await.is_ok() {
        let Told { network, attached } = told.borrow_and_update().clone();
        let goes_on = || told.has_changed().is_ok();
        let round = vmacs.tend_while(&network, &attached, goes_on).await;
        wanting.send_replace(round);
    }
    vmacs
}
