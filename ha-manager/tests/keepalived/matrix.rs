//! Every kind of advertisement, each program in each role, and every way a role changes hands: who
//! has it then, and when.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use vrrp::{Authentication, Parameters, Peer};

use crate::host::LIMIT;
use crate::side::{self, Side};

/// How often roles are looked at. Each look asks the kernel once.
const LOOK: Duration = Duration::from_millis(4);
/// Priorities of the two routers, and what tracking takes from the better one.
const BETTER: u8 = 150;
const WORSE: u8 = 100;
const LOSS: i32 = -60;
/// Starting a program and its sockets, on however slow a machine.
const START_MAX: Duration = Duration::from_secs(5);

/// One kind of virtual router.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    parameters: Parameters,
    /// Addresses of the first and second host, for those that name their peers.
    unicast: Option<[IpAddr; 2]>,
}

impl Kind {
    fn interval(&self) -> Duration {
        Duration::from_millis(self.parameters.advert_ms.into())
    }

    /// RFC 5798 §6.1; that of version 2, (256 - priority) / 256 s, is the same at one second.
    fn skew(&self, priority: u8) -> Duration {
        self.interval() * (256 - u32::from(priority)) / 256
    }

    fn master_down(&self, priority: u8) -> Duration {
        self.interval() * 3 + self.skew(priority)
    }

    /// How late a step may be on a busy machine, and how late the last advertisement was before it.
    fn slack(&self) -> Duration {
        self.interval() * 4 / 5
    }

    /// Since the last advertisement, which was up to an interval old.
    fn after_silence(&self, priority: u8) -> RangeInclusive<Duration> {
        let down = self.master_down(priority);
        let early = self.interval() + self.slack() / 2;
        down.saturating_sub(early)..=down + self.slack()
    }

    fn after_word(&self, priority: u8) -> RangeInclusive<Duration> {
        self.skew(priority)..=self.skew(priority) + self.slack()
    }

    /// From the start of a program, with nothing heard that counts.
    fn after_start(&self, priority: u8) -> RangeInclusive<Duration> {
        let down = self.master_down(priority);
        down..=down + START_MAX
    }

    /// What the side at `host` (0 or 1) is told.
    fn parameters(&self, host: usize, priority: u8, preempt: bool) -> Parameters {
        let peers = self.unicast.map(|hosts| vec![Peer::new(hosts[1 - host])]);
        Parameters {
            priority,
            preempt,
            peers: peers.unwrap_or_default(),
            ..self.parameters.clone()
        }
    }
}

fn kinds() -> Vec<Kind> {
    let addr = |text: &str| text.parse::<IpAddr>().unwrap();
    let v4 = |version, advert_ms, authentication| Parameters {
        version,
        vrid: 51,
        advert_ms,
        authentication,
        addresses: vec![addr("10.78.0.100")],
        ..Parameters::default()
    };
    let v6 = |version, advert_ms| Parameters {
        version,
        vrid: 51,
        advert_ms,
        addresses: vec![addr("fe80::100"), addr("fd00:78::100")],
        ..Parameters::default()
    };
    let password = Authentication::password("secret12");
    let v4_hosts = Some([addr("10.78.0.1"), addr("10.78.0.2")]);
    let v6_hosts = Some([addr("fd00:78::1"), addr("fd00:78::2")]);
    let (none, pass, header) = (
        Authentication::None,
        Authentication::Simple(password),
        Authentication::Header(password),
    );
    let kind = |name, parameters, unicast| Kind {
        name,
        parameters,
        unicast,
    };
    vec![
        kind("v2 none", v4(2, 1000, none), None),
        kind("v2 pass", v4(2, 1000, pass), None),
        kind("v2 ah", v4(2, 1000, header), None),
        kind("v2 pass unicast", v4(2, 1000, pass), v4_hosts),
        kind("v2 ah unicast", v4(2, 1000, header), v4_hosts),
        kind("v2 v6", v6(2, 1000), None),
        kind("v3 v4", v4(3, 200, none), None),
        kind("v3 v4 unicast", v4(3, 200, none), v4_hosts),
        kind("v3 v6", v6(3, 200), None),
        kind("v3 v6 unicast", v6(3, 200), v6_hosts),
    ]
}

/// One line of the table.
struct Row {
    kind: &'static str,
    event: String,
    took: Duration,
    bounds: RangeInclusive<Duration>,
}

/// One pair while it is put through its paces.
struct Course<'a> {
    kind: &'a Kind,
    sides: [Side<'a>; 2],
    rows: Vec<Row>,
}

impl Course<'_> {
    /// Does something to a side and measures until `taker` is the one master, or that until it is.
    fn measure(
        &mut self,
        what: &str,
        taker: usize,
        bounds: RangeInclusive<Duration>,
        act: impl FnOnce(&mut [Side<'_>; 2]),
    ) {
        let begun = Instant::now();
        act(&mut self.sides);
        let event = format!("{what}; {} takes over", self.sides[taker].name);
        let took = loop {
            if let Some(seen) = self.sides[taker].looks(true) {
                break seen - begun;
            }
            self.hurry(begun, &event);
        };
        // The other one gives up, if it has not crashed or ended.
        let other = &self.sides[1 - taker];
        while other.is_running() && other.looks(false).is_none() {
            self.hurry(begun, &event);
        }
        self.rows.push(Row {
            kind: self.kind.name,
            event,
            took,
            bounds,
        });
    }

    #[track_caller]
    fn hurry(&self, begun: Instant, event: &str) {
        assert!(
            begun.elapsed() < LIMIT,
            "{}: {event}: never",
            self.kind.name
        );
        thread::sleep(LOOK);
    }

    /// `master` has the role and keeps it for longer than any backup would wait.
    #[track_caller]
    fn stays(&self, master: usize) {
        let (master, other) = (&self.sides[master], &self.sides[1 - master]);
        let begun = Instant::now();
        // What a keepalived that was killed left behind, the next one removes at its start.
        while other.is_master() {
            self.hurry(begun, &format!("{} gives up", other.name));
        }
        let adverts = || self.sides.iter().find_map(Side::adverts).unwrap();
        let before = adverts();
        while adverts() <= before + 5 {
            assert!(master.is_master(), "{}: {}", self.kind.name, master.name);
            assert!(!other.is_master(), "{}: {}", self.kind.name, other.name);
            self.hurry(begun, "adverts");
        }
    }
}

/// The better router preempts.
fn preempting(course: &mut Course<'_>, better: usize) {
    let (kind, worse) = (course.kind, 1 - better);
    course.measure("start", better, kind.after_start(BETTER), |sides| {
        sides[worse].start();
        sides[better].start();
    });
    course.stays(better);
    course.measure("tracking -60", worse, kind.after_silence(WORSE), |sides| {
        sides[better].weigh(LOSS);
    });
    course.measure("tracking 0", better, kind.after_silence(BETTER), |sides| {
        sides[better].weigh(0);
    });
    course.stays(better);
    course.measure("link down", worse, kind.after_silence(WORSE), |sides| {
        sides[better].link_down();
    });
    course.measure("link up", better, kind.after_start(BETTER), |sides| {
        sides[better].link_up();
    });
    course.stays(better);
    course.measure("stop", worse, kind.after_word(WORSE), |sides| {
        sides[better].stop();
    });
    course.sides[better].ended();
    course.measure("return", better, kind.after_start(BETTER), |sides| {
        sides[better].start();
    });
    course.stays(better);
    course.measure("kill -9", worse, kind.after_silence(WORSE), |sides| {
        sides[better].crash();
    });
}

/// The better router does not.
fn not_preempting(course: &mut Course<'_>, better: usize) {
    let (kind, worse) = (course.kind, 1 - better);
    course.measure("start alone", worse, kind.after_start(WORSE), |sides| {
        sides[worse].start();
    });
    course.sides[better].start();
    course.stays(worse);
    course.measure("kill -9", better, kind.after_silence(BETTER), |sides| {
        sides[worse].crash();
    });
    course.sides[worse].start();
    course.stays(better);
    course.measure("stop", worse, kind.after_word(WORSE), |sides| {
        sides[better].stop();
    });
    course.sides[better].ended();
    course.sides[better].start();
    course.stays(worse);
    course.measure("stop", better, kind.after_word(BETTER), |sides| {
        sides[worse].stop()
    });
}

/// Puts one pair through its paces; `better` is whose router has the higher priority: 0 is ours.
fn run(kind: &Kind, better: usize, preempt: bool) -> Vec<Row> {
    let [a, b, _switch] = side::lan();
    let priority = |side| if side == better { BETTER } else { WORSE };
    let may = |side| preempt || side != better;
    let ours = kind.parameters(0, priority(0), may(0));
    let theirs = kind.parameters(1, priority(1), may(1));
    let source = kind.unicast.map(|hosts| hosts[1]);
    let mut course = Course {
        kind,
        sides: [Side::ours(&a, 1, ours), Side::theirs(&b, 2, theirs, source)],
        rows: Vec::new(),
    };
    if preempt {
        preempting(&mut course, better);
    } else {
        not_preempting(&mut course, better);
    }
    for side in &course.sides {
        side.nothing_was_refused();
    }
    let preempts = if preempt { "" } else { ", nopreempt" };
    let better = course.sides[better].name;
    for row in &mut course.rows {
        row.event = format!("{better} better{preempts}: {}", row.event);
    }
    course.rows
}

/// All at once: they mostly wait.
pub(crate) fn check() {
    let kinds = kinds();
    let rows: Vec<Row> = thread::scope(|scope| {
        let mut pairs = Vec::new();
        for kind in &kinds {
            for (better, preempt) in [(0, true), (1, true), (0, false), (1, false)] {
                pairs.push(scope.spawn(move || run(kind, better, preempt)));
            }
        }
        let rows = pairs.into_iter().map(|pair| pair.join().unwrap());
        rows.flatten().collect()
    });
    let millis = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let mut late = Vec::new();
    for row in &rows {
        let (low, high) = (millis(*row.bounds.start()), millis(*row.bounds.end()));
        let line = format!(
            "{:<16} {:<62} {:>8.1} ms  ({low:.0}..{high:.0})",
            row.kind,
            row.event,
            millis(row.took),
        );
        println!("{line}");
        if !row.bounds.contains(&row.took) {
            late.push(line);
        }
    }
    assert!(late.is_empty(), "out of bounds:\n{}", late.join("\n"));
}
