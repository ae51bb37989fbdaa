use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::config::{Config, Parameters};
use crate::effect::Effect;

mod rules;
mod variants;

const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const LOWER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const HIGHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3));
/// When a router under test got into its state.
const BEGUN: Duration = Duration::from_secs(1000);
/// When it is given an event, if not at its deadline.
const NOW: Duration = Duration::from_millis(1_000_500);
/// Master-down time and skew of priority 100 and one second.
const DOWN: Duration = Duration::from_micros(3_609_375);
const SKEW: Duration = Duration::from_micros(609_375);
const SECOND: Duration = Duration::from_secs(1);

fn router(change: impl FnOnce(&mut Parameters)) -> VirtualRouter {
    let mut parameters = Parameters {
        vrid: 51,
        addresses: vec![Ipv4Addr::new(192, 0, 2, 100).into()],
        ..Parameters::default()
    };
    change(&mut parameters);
    VirtualRouter::new(Config::new(parameters).unwrap(), OWN)
}

fn brought_to(mut router: VirtualRouter, state: VrrpState) -> VirtualRouter {
    match state {
        VrrpState::Initialize => {}
        VrrpState::Fault => router.handle(Event::Fault, BEGUN),
        VrrpState::Backup => router.handle(Event::Startup, BEGUN),
        VrrpState::Master => {
            let down = router.master_down();
            router.handle(Event::Startup, BEGUN.checked_sub(down).unwrap());
            router.handle(Event::Timer, BEGUN);
        }
    }
    assert_eq!(router.state(), state);
    drained(&mut router);
    router
}

fn drained(router: &mut VirtualRouter) -> Vec<Effect> {
    std::iter::from_fn(|| router.poll_effect()).collect()
}

fn advert(priority: u8, source: IpAddr) -> Event {
    heard(priority, source, 100)
}

fn heard(priority: u8, source: IpAddr, centis: u16) -> Event {
    Event::Advert(Heard {
        source,
        priority: Priority(priority),
        interval: Interval::from_centis(centis).unwrap(),
    })
}

const fn sent(priority: u8) -> Effect {
    Effect::SendAdvert {
        priority: Priority(priority),
    }
}

const SENT: Effect = sent(100);
const GAVE_UP: Effect = sent(0);
const MASTER: Effect = Effect::Became(VrrpState::Master);
const BACKUP: Effect = Effect::Became(VrrpState::Backup);
const FAULT: Effect = Effect::Became(VrrpState::Fault);
const INITIALIZE: Effect = Effect::Became(VrrpState::Initialize);

/// Priority 150 instead of 100 takes this off a skew of one second.
const FIFTY: Duration = Duration::from_micros(609_375 - 414_062);
/// How long a yielding master waits, with one second: 255/256 s, an interval, 100 ms.
const PATIENCE: Duration = Duration::from_micros(996_093 + 1_000_000 + 100_000);

/// Everything that can happen to a router of priority 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Startup,
    Shutdown,
    Fault,
    Healthy,
    Resigned,
    Worse,
    EqualLower,
    EqualSame,
    EqualHigher,
    Better,
    Early,
    Due,
    Raised,
    VipLost,
    Yield,
    Reclaim,
}

impl Input {
    const ALL: [Input; 16] = [
        Input::Startup,
        Input::Shutdown,
        Input::Fault,
        Input::Healthy,
        Input::Resigned,
        Input::Worse,
        Input::EqualLower,
        Input::EqualSame,
        Input::EqualHigher,
        Input::Better,
        Input::Early,
        Input::Due,
        Input::Raised,
        Input::VipLost,
        Input::Yield,
        Input::Reclaim,
    ];

    fn event(self) -> Event {
        match self {
            Input::Startup => Event::Startup,
            Input::Shutdown => Event::Shutdown,
            Input::Fault => Event::Fault,
            Input::Healthy => Event::Healthy,
            Input::Resigned => advert(0, HIGHER),
            Input::Worse => advert(99, HIGHER),
            Input::EqualLower => advert(100, LOWER),
            Input::EqualSame => advert(100, OWN),
            Input::EqualHigher => advert(100, HIGHER),
            Input::Better => advert(101, LOWER),
            Input::Early | Input::Due => Event::Timer,
            Input::Raised => Event::Priority(Priority(150)),
            Input::VipLost => Event::VipLost,
            Input::Yield => Event::Yield,
            Input::Reclaim => Event::Reclaim,
        }
    }
}

/// A state, and what a router is up to in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Initialize,
    Backup,
    /// A backup that handed its role over.
    Yielded,
    Master,
    /// A master that offers its role.
    Yielding,
    Fault,
    /// One that handed its role over before.
    YieldedFault,
}

impl Stand {
    const ALL: [Stand; 7] = [
        Stand::Initialize,
        Stand::Backup,
        Stand::Yielded,
        Stand::Master,
        Stand::Yielding,
        Stand::Fault,
        Stand::YieldedFault,
    ];

    fn of(router: &VirtualRouter) -> Stand {
        match router.state() {
            VrrpState::Initialize => Stand::Initialize,
            VrrpState::Backup if router.has_yielded() => Stand::Yielded,
            VrrpState::Backup => Stand::Backup,
            VrrpState::Master if router.is_yielding() => Stand::Yielding,
            VrrpState::Master => Stand::Master,
            VrrpState::Fault if router.has_yielded() => Stand::YieldedFault,
            VrrpState::Fault => Stand::Fault,
        }
    }

    /// A router that came to stand here at `BEGUN`.
    fn router(self) -> VirtualRouter {
        let state = match self {
            Stand::Initialize => VrrpState::Initialize,
            Stand::Backup => VrrpState::Backup,
            Stand::Yielded | Stand::YieldedFault | Stand::Master | Stand::Yielding => {
                VrrpState::Master
            }
            Stand::Fault => VrrpState::Fault,
        };
        let mut router = brought_to(router(|_| {}), state);
        if matches!(self, Stand::Yielded | Stand::YieldedFault | Stand::Yielding) {
            router.handle(Event::Yield, BEGUN);
        }
        if matches!(self, Stand::Yielded | Stand::YieldedFault) {
            router.handle(advert(99, LOWER), BEGUN);
        }
        if self == Stand::YieldedFault {
            router.handle(Event::Fault, BEGUN);
        }
        drained(&mut router);
        assert_eq!(Stand::of(&router), self);
        router
    }
}

/// What a row expects: effects, where the router stands then, and when the next timer is.
type Row = (&'static [Effect], Stand, Option<Duration>);

/// Each state and input, with what has to follow.
fn row(stand: Stand, input: Input) -> Row {
    use Stand::{Backup, Fault, Initialize, Master, Yielded, YieldedFault, Yielding};
    match (stand, input) {
        (Initialize, Input::Startup) => (&[BACKUP], Backup, Some(NOW + DOWN)),
        (Initialize, Input::Fault) => (&[FAULT], Fault, None),
        (Fault, Input::Healthy) => (&[BACKUP], Backup, Some(NOW + DOWN)),
        (YieldedFault, Input::Healthy) => (&[BACKUP], Yielded, Some(NOW + DOWN)),
        (Fault | YieldedFault, Input::Shutdown) => (&[INITIALIZE], Initialize, None),
        (Fault | YieldedFault, Input::Reclaim) => (&[], Fault, None),
        (
            Initialize,
            Input::Shutdown
            | Input::Healthy
            | Input::Resigned
            | Input::Worse
            | Input::EqualLower
            | Input::EqualSame
            | Input::EqualHigher
            | Input::Better
            | Input::Early
            | Input::Due
            | Input::Raised
            | Input::VipLost
            | Input::Yield
            | Input::Reclaim,
        )
        | (
            Fault | YieldedFault,
            Input::Startup
            | Input::Fault
            | Input::Resigned
            | Input::Worse
            | Input::EqualLower
            | Input::EqualSame
            | Input::EqualHigher
            | Input::Better
            | Input::Early
            | Input::Due
            | Input::Raised
            | Input::VipLost
            | Input::Yield,
        ) => (&[], stand, None),

        (Backup, Input::Worse | Input::Reclaim) | (Yielded, Input::Reclaim) => {
            (&[], Backup, Some(BEGUN + DOWN))
        }
        (
            Backup | Yielded,
            Input::Startup | Input::Healthy | Input::Early | Input::VipLost | Input::Yield,
        ) => (&[], stand, Some(BEGUN + DOWN)),
        (Backup | Yielded, Input::Shutdown) => (&[INITIALIZE], Initialize, None),
        (Backup, Input::Fault) => (&[FAULT], Fault, None),
        (Yielded, Input::Fault) => (&[FAULT], YieldedFault, None),
        (Backup | Yielded, Input::Resigned) => (&[], stand, Some(NOW + SKEW)),
        (
            Backup | Yielded,
            Input::EqualLower | Input::EqualSame | Input::EqualHigher | Input::Better,
        )
        | (Yielded, Input::Worse) => (&[], stand, Some(NOW + DOWN)),
        (Backup | Yielded, Input::Due) => (&[SENT, MASTER], Master, Some(BEGUN + DOWN + SECOND)),
        (Backup | Yielded, Input::Raised) => (&[], stand, Some(BEGUN + DOWN - FIFTY)),

        (
            Master,
            Input::Startup
            | Input::Healthy
            | Input::EqualSame
            | Input::Early
            | Input::Raised
            | Input::Reclaim,
        ) => (&[], Master, Some(BEGUN + SECOND)),
        (Master | Yielding, Input::Shutdown) => (&[GAVE_UP, GAVE_UP, INITIALIZE], Initialize, None),
        (Master | Yielding, Input::Fault) => (&[GAVE_UP, GAVE_UP, FAULT], Fault, None),
        (Master, Input::Resigned) => (&[SENT, Effect::AnnounceAgain], Master, Some(NOW + SECOND)),
        (Master, Input::Worse | Input::EqualLower) => (
            &[SENT, Effect::LowerPriorityHeard],
            Master,
            Some(NOW + SECOND),
        ),
        (Master, Input::EqualHigher | Input::Better) => (&[BACKUP], Backup, Some(NOW + DOWN)),
        (Master, Input::Due) => (&[SENT], Master, Some(BEGUN + SECOND + SECOND)),
        (Master, Input::VipLost) => (&[GAVE_UP, BACKUP], Backup, Some(NOW + SKEW)),
        (Master, Input::Yield) => (&[GAVE_UP, GAVE_UP], Yielding, Some(NOW + PATIENCE)),

        (
            Yielding,
            Input::Startup
            | Input::Healthy
            | Input::Resigned
            | Input::EqualSame
            | Input::Early
            | Input::Raised
            | Input::Yield,
        ) => (&[], Yielding, Some(BEGUN + PATIENCE)),
        (Yielding, Input::Worse | Input::EqualLower | Input::EqualHigher | Input::Better) => {
            (&[BACKUP], Yielded, Some(NOW + DOWN))
        }
        (Yielding, Input::Due) => (
            &[Effect::YieldFailed, SENT],
            Master,
            Some(BEGUN + PATIENCE + SECOND),
        ),
        (Yielding, Input::Reclaim) => (&[Effect::YieldFailed, SENT], Master, Some(NOW + SECOND)),
        (Yielding, Input::VipLost) => (&[GAVE_UP, BACKUP], Yielded, Some(NOW + SKEW)),
    }
}

#[test]
fn every_state_answers_every_event_as_the_table_says() {
    for stand in Stand::ALL {
        for input in Input::ALL {
            let mut router = stand.router();
            let at = match (input, router.next_deadline()) {
                (Input::Due, Some(deadline)) => deadline,
                _ => NOW,
            };
            router.handle(input.event(), at);
            let (effects, after, deadline) = row(stand, input);
            let context = format!("{stand:?} {input:?}");
            assert_eq!(drained(&mut router), effects, "{context}");
            assert_eq!(Stand::of(&router), after, "{context}");
            assert_eq!(router.next_deadline(), deadline, "{context}");
        }
    }
}
