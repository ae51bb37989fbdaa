//! A host that says of our addresses that they are its own, as fast as it can.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::conn::{Addresses, Ends, SyncConn};
use vrrp::wire::{MacAddr, arp, ndp};

use crate::flood::{FROM, Flood, to_director, watch};
use crate::host::{Host, Neighbour, ip, wait_for};
use crate::node::problems;
use crate::router::{Master, parameters, section};
use crate::witness::alone;

const VIP: &str = "10.77.0.200";
const VIP_V6: &str = "fe80::200";
/// Of the router that is not active here, so that a sync backup runs too.
const OTHERS: &str = "10.77.0.201";
const LENGTH: Duration = Duration::from_secs(5);
/// Somebody looks while it goes on.
const ANSWER_MAX: Duration = Duration::from_secs(1);
const SYNC_ID: u8 = 7;
const MESSAGE_PAUSE: Duration = Duration::from_millis(5);

/// Each frame would be answered, noted or believed by a director that has nothing better to do: the
/// lease, the operator and the sync backup have their turn all the same.
#[test]
fn a_flood_of_claims_takes_no_turn_from_the_lease_the_operator_and_the_sync_backup() {
    alone(|| {
        let host = Host::new();
        ip("addr add fe80::1/64 dev lan0 nodad");
        let neighbour = Neighbour::new();
        neighbour.ip("addr add fe80::2/64 dev lan1 nodad");
        let sections = [
            section(51, &[VIP.to_owned()], "advert_ms = 100"),
            section(52, &[VIP_V6.to_owned()], "advert_ms = 100"),
            section(53, &[OTHERS.to_owned()], "advert_ms = 100"),
        ];
        let config = host.config(&format!(
            "[sync]\ninterface = \"lan0\"\nsyncid = {SYNC_ID}\n{}",
            sections.concat()
        ));
        let pause = Duration::from_millis(100);
        // It says that its interval is a second, so that it may be late under the load.
        let others = parameters(53, 1000, &[OTHERS]);
        let master = Master::begin(&neighbour, others, 200, pause);
        let daemon = host.start(&config);
        // Until claims are not taken for the last words of a former master.
        wait_for("two masters and a backup that are settled", || {
            let status = host.status();
            let of = |at: usize, state: &str| {
                let router = &status["vrrp"][at];
                router["state"] == state && router["since_ms"].as_u64() > Some(2000)
            };
            of(0, "master") && of(1, "master") && of(2, "backup")
        });
        let before = host.status();
        assert_eq!(before["lease"]["length_ms"], 250);
        assert_eq!(applied(&before), 0);

        let peer = Peer::begin(&neighbour);
        wait_for("connections of the peer", || applied(&host.status()) > 0);
        let flood = Flood::begin(&neighbour, frames());
        let (mut longest, mut applied_before, mut looks) = (Duration::ZERO, 0, 0);
        watch(LENGTH, || {
            let asked = Instant::now();
            let status = host.status();
            longest = longest.max(asked.elapsed());
            assert_eq!(roles(&status), roles(&before));
            assert_eq!(status["lease"]["epoch"], before["lease"]["epoch"]);
            let remaining = status["lease"]["remaining_ms"].as_i64();
            assert!(remaining > Some(0), "{}", status["lease"]);
            assert_eq!(status["directing"], "yes");
            let now = applied(&status);
            assert!(
                now > applied_before,
                "{now} entries were applied before too"
            );
            applied_before = now;
            looks += 1;
        });
        let rate = flood.end();
        println!("{rate:.0} claims a second, {looks} looks, answered within {longest:?}");
        assert!(longest < ANSWER_MAX, "{longest:?}");
        let after = host.status();
        for router in 0..2 {
            let claims = &after["vrrp"][router]["counters"]["claims_heard"];
            assert!(claims.as_u64() > Some(100), "router {router}: {claims}");
        }
        assert!(after["claims_lost"].as_u64() > Some(1000), "{after}");
        let texts = problems(&host);
        for name in ["VI_51", "VI_52"] {
            let what = format!("{name}: another host answers for ");
            assert!(
                texts.iter().any(|text| text.starts_with(&what)),
                "{texts:?}"
            );
        }
        drop((peer, master));
        let (ended, log) = daemon.stop();
        assert!(ended.success());
        for words in [
            "was not renewed in time",
            "stood still",
            "gives no sign of life",
        ] {
            assert!(!log.contains(words), "{log}");
        }
    });
}

/// State and transitions of the routers.
fn roles(status: &Value) -> Vec<(Value, Value)> {
    let routers = status["vrrp"].as_array().unwrap().iter();
    routers
        .map(|router| (router["state"].clone(), router["transitions"].clone()))
        .collect()
}

/// Entries that the sync backup has put into the table.
fn applied(status: &Value) -> u64 {
    let daemons = status["sync"].as_array().unwrap().iter();
    let counters = daemons
        .filter(|daemon| daemon["role"] == "backup")
        .flat_map(|daemon| ["applied_new", "applied_known"].map(|name| &daemon["counters"][name]));
    counters.filter_map(Value::as_u64).sum()
}

fn frames() -> Vec<Vec<u8>> {
    let mac = MacAddr(FROM);
    let v4 = arp::gratuitous(VIP.parse().unwrap(), mac);
    let v6 = ndp::unsolicited(VIP_V6.parse().unwrap(), mac, false);
    vec![to_director(v4.to_vec()), to_director(v6.to_vec())]
}

/// A sync master that tells of a connection every few milliseconds.
struct Peer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    fn begin(neighbour: &Neighbour) -> Peer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = neighbour.run(move || {
            let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
            thread::spawn(move || {
                for port in (1024..1088).cycle() {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    // The queue of the link may be full for a moment.
                    let _ = socket.send_to(&message(port), "224.0.0.81:8848");
                    thread::sleep(MESSAGE_PAUSE);
                }
            })
        });
        Peer {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One connection of UDP.
fn message(port: u16) -> Vec<u8> {
    let end = |last, port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port);
    let conn = SyncConn {
        protocol: 17,
        addresses: Addresses::V4(Ends {
            client: end(1, port),
            virt: end(2, 53),
            dest: end(3, 53),
        }),
        flags: 0,
        state: 0,
        fwmark: 0,
        timeout_secs: 60,
        seq: None,
        pe: None,
    };
    let layout = Layout {
        sync_id: SYNC_ID,
        maxlen: 1472,
        ..Layout::default()
    };
    let mut buffer = SyncBuffer::new(layout);
    assert_eq!(buffer.push(&conn, Instant::now()), Packed::Stored);
    buffer.message().to_vec()
}
