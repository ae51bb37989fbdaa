//! One of the two routers of a pair, whichever program it is.

use std::net::IpAddr;
use std::time::Instant;

use ha_manager::vrrp_driver::{ElectionRole, RouterSpec};
use vrrp::{Config, Parameters};

use crate::host::{Host, Member, ORDINARY, ip, spec};
use crate::peer::{Extra, Keepalived};

/// Two hosts with `dir0`, and a switch that they are connected to: a link that goes down at one end
/// is not down for the other host.
pub(crate) fn lan() -> [Host; 3] {
    let hosts = [1, 2].map(|_| Host::new());
    let switch = Host::new();
    switch.ip("link add br0 type bridge mcast_snooping 0");
    switch.ip("link set br0 up");
    for (host, last) in hosts.iter().zip(1..) {
        let tid = host.tid;
        switch.run(move || {
            ip(&format!(
                "link add port{last} type veth peer name peer{last}"
            ));
            ip(&format!("link set port{last} master br0 up"));
            ip(&format!("link set peer{last} netns {tid} name dir0"));
        });
        host.ip("link set dir0 addrgenmode none");
        host.ip(&format!("addr add 10.78.0.{last}/24 dev dir0"));
        host.ip("link set dir0 up");
        host.ip(&format!("addr add fe80::{last}/64 dev dir0 nodad"));
        host.ip(&format!("addr add fd00:78::{last}/64 dev dir0 nodad"));
    }
    let [a, b] = hosts;
    [a, b, switch]
}

pub(crate) struct Side<'a> {
    pub(crate) name: &'static str,
    host: &'a Host,
    parameters: Parameters,
    extra: Extra,
    /// The end of its IPv6 addresses, which go with the interface.
    last: u8,
    router: Router<'a>,
}

enum Router<'a> {
    Ours(Option<Member>),
    Theirs(Option<Keepalived<'a>>),
}

impl<'a> Side<'a> {
    pub(crate) fn ours(host: &'a Host, last: u8, parameters: Parameters) -> Side<'a> {
        Side {
            name: "ours",
            host,
            parameters,
            extra: Extra::default(),
            last,
            router: Router::Ours(None),
        }
    }

    pub(crate) fn theirs(
        host: &'a Host,
        last: u8,
        parameters: Parameters,
        source: Option<IpAddr>,
    ) -> Side<'a> {
        Side {
            name: "keepalived",
            host,
            parameters,
            extra: Extra {
                source,
                is_tracked: true,
            },
            last,
            router: Router::Theirs(None),
        }
    }

    pub(crate) fn start(&mut self) {
        match &mut self.router {
            Router::Ours(router) => {
                let spec = RouterSpec {
                    config: Config::new(self.parameters.clone()).unwrap(),
                    ..spec(Parameters {
                        vrid: 1,
                        addresses: vec![IpAddr::from([10, 78, 0, 100])],
                        ..Parameters::default()
                    })
                };
                *router = Some(self.host.elect_all(vec![spec], Vec::new(), ORDINARY));
            }
            Router::Theirs(router) => {
                *router = Some(Keepalived::start(self.host, &self.parameters, &self.extra));
            }
        }
    }

    /// With a word to the others.
    pub(crate) fn stop(&mut self) {
        self.nothing_was_refused();
        match &mut self.router {
            Router::Ours(router) => router.take().unwrap().elections.stop(),
            Router::Theirs(router) => router.as_ref().unwrap().stop(),
        }
    }

    /// Waits for the end of what was stopped.
    pub(crate) fn ended(&mut self) {
        if let Router::Theirs(router) = &mut self.router
            && let Some(router) = router.take()
        {
            router.ended();
        }
    }

    /// Without one.
    pub(crate) fn crash(&mut self) {
        self.nothing_was_refused();
        match &mut self.router {
            Router::Ours(router) => drop(router.take()),
            Router::Theirs(router) => router.take().unwrap().crash(),
        }
    }

    pub(crate) fn weigh(&self, weight: i32) {
        match &self.router {
            Router::Ours(router) => {
                let elections = &router.as_ref().unwrap().elections;
                elections.set_weights(0, weight);
            }
            Router::Theirs(router) => router.as_ref().unwrap().weigh(weight),
        }
    }

    pub(crate) fn link_down(&self) {
        self.host.ip("link set dir0 down");
    }

    /// Addresses of IPv6 have gone with the link.
    pub(crate) fn link_up(&self) {
        self.host.ip("link set dir0 up");
        let last = self.last;
        self.host
            .ip(&format!("addr replace fd00:78::{last}/64 dev dir0 nodad"));
        self.host
            .ip(&format!("addr replace fe80::{last}/64 dev dir0 nodad"));
    }

    pub(crate) fn is_running(&self) -> bool {
        match &self.router {
            Router::Ours(router) => router.is_some(),
            Router::Theirs(router) => router.is_some(),
        }
    }

    pub(crate) fn is_master(&self) -> bool {
        match &self.router {
            Router::Ours(router) => {
                let router = router.as_ref();
                router.is_some_and(|router| router.view().role == ElectionRole::Master)
            }
            Router::Theirs(router) => router.as_ref().is_some_and(Keepalived::is_master),
        }
    }

    /// Advertisements that have gone over the LAN, as our side counts them; `None` for the other.
    pub(crate) fn adverts(&self) -> Option<u64> {
        match &self.router {
            Router::Ours(Some(router)) => {
                Some(router.counter("adverts_received") + router.counter("adverts_sent"))
            }
            Router::Ours(None) | Router::Theirs(_) => None,
        }
    }

    /// Before a router took part, and while it was in FAULT, what it heard is no matter.
    pub(crate) fn nothing_was_refused(&self) {
        match &self.router {
            Router::Ours(Some(router)) => {
                let counters = router.status().counters.into_iter();
                let is_refusal =
                    |name: &str| name.starts_with("refused_") && name != "refused_not_running";
                let refused = counters.filter(|(name, count)| is_refusal(name) && *count > 0);
                assert_eq!(refused.collect::<Vec<_>>(), []);
            }
            Router::Theirs(Some(router)) => {
                assert_eq!(router.complaints(), Vec::<String>::new());
            }
            Router::Ours(None) | Router::Theirs(None) => {}
        }
    }

    /// When it was that a router is seen to be master first.
    pub(crate) fn looks(&self, wanted: bool) -> Option<Instant> {
        (self.is_master() == wanted).then(Instant::now)
    }
}
