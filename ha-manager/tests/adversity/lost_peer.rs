//! A planned handover to a peer that takes over and is lost within milliseconds.

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{Daemon, Ended, Host, Neighbour, ended, wait_for};
use crate::node::{ELECTION, MOVED, SYNC, Wire, has_address};
use crate::router::{Router, parameters};
use crate::witness::alone;
use vrrp::wire::arp;

/// The MAC of the peer, whose interface has another: nobody else's claim is of this test.
const PEER: [u8; 6] = [2, 0, 0, 0, 0x77, 2];
/// An operator who waits longer thinks that it hangs. What is not known by then is a fault.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// The peer has a tenth of a second to take over, which it may miss on a busy machine.
const TRIES: usize = 8;
/// Nobody took the role; the machine was too busy for the script.
const NOBODY: &str = "nobody took over";

/// What the peer says before it dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastWords {
    Advert,
    AdvertAndAnnouncement,
}

const KEPT: &str = "directord: VI_1: the other node took over and was lost at once\n";

/// This node is master again, after 36 ms, before the handover is over: it says so, and tells the LAN
/// again.
#[test]
fn a_peer_that_is_lost_before_it_has_announced_anything_gives_the_role_back() {
    alone(|| is_given_back(LastWords::Advert));
}

/// Its addresses have left the host by then, and come back.
#[test]
fn a_peer_that_is_lost_right_after_its_announcement_gives_the_role_back() {
    alone(|| is_given_back(LastWords::AdvertAndAnnouncement));
}

/// Longer than an announcement is waited for: this node has let go by then, and the election gives the
/// role back after a master-down time.
#[test]
fn a_peer_that_is_lost_later_without_an_announcement_is_followed_by_this_node() {
    alone(|| is_followed(LastWords::Advert));
}

#[test]
fn a_peer_that_is_lost_later_is_followed_by_this_node() {
    alone(|| is_followed(LastWords::AdvertAndAnnouncement));
}

fn is_given_back(words: LastWords) {
    let pair = Pair::new(10);
    pair.hand_over_until(words, |answer| {
        (answer.status, answer.err.as_str(), answer.out.as_str()) == (Some(1), KEPT, "")
    });
    pair.ends_well();
}

fn is_followed(words: LastWords) {
    let pair = Pair::new(50);
    pair.hand_over_until(words, |answer| {
        answer.status == Some(0) && answer.out.starts_with("VI_1 handed over: ")
    });
    pair.ends_well();
}

/// A director that is active, and a script at the other end of the link.
struct Pair {
    host: Host,
    neighbour: Neighbour,
    wire: Wire,
    daemon: Daemon,
    advert_ms: u32,
}

impl Pair {
    fn new(advert_ms: u32) -> Pair {
        let (host, neighbour) = (Host::new(), Neighbour::new());
        let election = ELECTION.replace("advert_ms = 50", &format!("advert_ms = {advert_ms}"));
        let config: PathBuf = host.config(&format!("{SYNC}{election}"));
        let daemon = host.start(&config);
        let wire = Wire::open(&neighbour);
        let pair = Pair {
            host,
            neighbour,
            wire,
            daemon,
            advert_ms,
        };
        pair.rests();
        pair
    }

    /// It is active, and has announced itself twice.
    fn rests(&self) {
        wait_for("active for half a second", || {
            let status = self.host.status();
            let router = &status["vrrp"][0];
            router["is_serving"] == true && router["since_ms"].as_u64() > Some(500)
        });
        self.wire.answers();
    }

    /// Hands over until the answer is the one that the script is about, and each time sees the role come
    /// back.
    fn hand_over_until(&self, words: LastWords, is_it: impl Fn(&Ended) -> bool) {
        let mut answers = Vec::new();
        for _ in 0..TRIES {
            let (answer, at) = self.hand_over(words);
            self.serves_again(at);
            if is_it(&answer) {
                return;
            }
            answers.push(answer);
        }
        panic!("{answers:?}");
    }

    /// Orders a handover; the peer takes over, and is gone. The answer, and when the peer had its say.
    fn hand_over(&self, words: LastWords) -> (Ended, Option<Instant>) {
        let (ready, is_ready) = mpsc::channel();
        let advert_ms = self.advert_ms;
        let peer = self.neighbour.run(move || {
            let router = Router::open(parameters(51, advert_ms, &[MOVED]));
            let announcer = Announcer::open();
            thread::spawn(move || {
                ready.send(()).unwrap();
                take_over(router, &announcer, words)
            })
        });
        is_ready.recv().unwrap();
        let epoch = self.epoch();
        let asked = Instant::now();
        let answer = ended(self.host.command("directord").arg("handover"));
        let took = asked.elapsed();
        assert!(took < ANSWER_MAX, "{took:?}: {answer:?}");
        let at = peer.join().unwrap();
        let was_late = answer.err.contains(NOBODY);
        println!(
            "{:?} after {took:?}: {}{}",
            answer.status, answer.out, answer.err
        );
        if !was_late {
            // It was the other's for a moment, so it is taken anew.
            wait_for("a higher epoch", || self.epoch() > epoch);
        }
        (answer, at.filter(|_| !was_late))
    }

    fn epoch(&self) -> u64 {
        self.host.status()["lease"]["epoch"].as_u64().unwrap()
    }

    /// Active again for good, and the LAN has been told.
    fn serves_again(&self, lost: Option<Instant>) {
        wait_for("the role", || {
            let status = self.host.status();
            status["role"] == "active" && status["vrrp"][0]["is_serving"] == true
        });
        if let Some(lost) = lost {
            let took = lost.elapsed();
            println!("active again within {took:?}");
            assert!(took < ANSWER_MAX, "{took:?}");
            // A block of five, and another one after a fifth of a second.
            let mut heard = 0;
            wait_for("two blocks of announcements", || {
                heard += self.wire.answers();
                heard >= 10
            });
        }
        assert!(has_address("lan0"));
        let status = self.host.status();
        let router = &status["vrrp"][0];
        assert_eq!(router["yields"], "no");
        assert_eq!(router["vips"][0]["present"], true);
        assert_eq!(status["sync"][0]["role"], "master");
        assert_eq!(status["problems"], serde_json::json!([]));
        self.rests();
    }

    fn ends_well(self) {
        let (ended, log) = self.daemon.stop();
        assert!(ended.success());
        for words in ["ERROR", "at fault", "does not answer", "was not renewed"] {
            assert!(!log.contains(words), "{words}\n{log}");
        }
    }
}

/// When the role was taken; none when nobody gave it up in time.
fn take_over(mut router: Router, announcer: &Announcer, words: LastWords) -> Option<Instant> {
    if !router.hears_priority_zero(ANSWER_MAX) {
        return None;
    }
    router.advertise(90);
    if words == LastWords::AdvertAndAnnouncement {
        announcer.announce();
    }
    Some(Instant::now())
}

/// Says that the address is the peer's.
struct Announcer {
    socket: socket2::Socket,
    link: nix::sys::socket::LinkAddr,
}

impl Announcer {
    fn open() -> Announcer {
        let (socket, link) = crate::flood::open();
        Announcer { socket, link }
    }

    fn announce(&self) {
        let frame = arp::gratuitous(MOVED.parse().unwrap(), vrrp::wire::MacAddr(PEER));
        crate::flood::send(&self.socket, &self.link, &frame);
    }
}
