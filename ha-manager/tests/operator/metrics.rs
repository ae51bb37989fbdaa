//! Metrics of a running director: the format, the figures, and a server that nobody can hurt.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::exposition::{self, Page};
use crate::host::{Host, VIP, wait_for};
use crate::node::{ELECTION, SYNC, becomes, stand_still};

const ADDRESS: &str = "127.0.0.1:9140";
const ON: &str = "metrics = \"127.0.0.1:9140\"\n";
/// Longer than the server waits for anybody.
const LIMIT: Duration = Duration::from_secs(30);

/// Sends bytes and reads to the end, however that comes.
fn exchange(request: &[u8]) -> String {
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    // The server may have closed before it has read everything.
    let _ = stream.write_all(request);
    end_of(&mut stream)
}

fn end_of(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "the server waits");
    }
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    exchange(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

fn body() -> String {
    let answer = get("/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(head.lines().any(|line| line == kind), "{head}");
    body.to_owned()
}

fn page() -> Page {
    let body = body();
    exposition::read(&body).unwrap_or_else(|error| panic!("{error}\n{body}"))
}

/// Waits for a page on which something holds.
fn wait_for_page(what: &str, mut holds: impl FnMut(&Page) -> bool) -> Page {
    let mut found = page();
    wait_for(what, || {
        found = page();
        holds(&found)
    });
    found
}

#[test]
fn ipvs_figures_have_the_names_and_labels_of_node_exporter() {
    let host = Host::new();
    let client = host.client();
    let _daemon = host.start(&host.config(ON));
    host.admin(&format!("-A -u {VIP} -s rr"));
    host.admin(&format!("-a -u {VIP} -r 10.77.0.2:53 -m -w 5"));
    host.admin("-A -t [2001:db8::100]:80 -s wlc");
    host.admin("-a -t [2001:db8::100]:80 -r [fd00::21]:8080 -m -w 7");
    host.admin("-A -f 268439552 -s rr");
    host.admin("-a -f 268439552 -r 10.77.0.2 -g -w 9");
    client.send(VIP, 3);
    let page = wait_for_page("three packets", |page| {
        page.value("node_ipvs_incoming_packets_total", &[]) >= 3.0
    });
    for name in [
        "node_ipvs_connections_total",
        "node_ipvs_incoming_packets_total",
        "node_ipvs_outgoing_packets_total",
        "node_ipvs_incoming_bytes_total",
        "node_ipvs_outgoing_bytes_total",
    ] {
        assert_eq!(page.kind(name), "counter");
        assert_eq!(page.of(name).len(), 1);
    }
    assert_eq!(page.value("node_ipvs_connections_total", &[]), 1.0);
    // A header of 20, one of 8, and "question".
    assert_eq!(page.value("node_ipvs_incoming_bytes_total", &[]), 108.0);
    let labels = |local: [&'static str; 4], remote: [&'static str; 2]| {
        [
            ("proto", local[0]),
            ("local_address", local[1]),
            ("local_port", local[2]),
            ("local_mark", local[3]),
            ("remote_address", remote[0]),
            ("remote_port", remote[1]),
        ]
    };
    let udp = labels(["UDP", "10.77.0.100", "53", ""], ["10.77.0.2", "53"]);
    let tcp = labels(["TCP", "2001:db8::100", "80", ""], ["fd00::21", "8080"]);
    let mark = labels(["FWM", "", "0", "10001000"], ["10.77.0.2", "0"]);
    for (labels, weight) in [(udp, 5.0), (tcp, 7.0), (mark, 9.0)] {
        assert_eq!(page.value("node_ipvs_backend_weight", &labels), weight);
    }
    let active = page.value("node_ipvs_backend_connections_active", &udp);
    let inactive = page.value("node_ipvs_backend_connections_inactive", &udp);
    assert_eq!(active + inactive, 1.0);
    for name in [
        "node_ipvs_backend_connections_active",
        "node_ipvs_backend_connections_inactive",
        "node_ipvs_backend_weight",
    ] {
        assert_eq!((page.kind(name), page.of(name).len()), ("gauge", 3));
    }
    assert_eq!(
        page.value("tandem_table_entries", &[("table", "services")]),
        3.0
    );
    assert_eq!(
        page.value("tandem_table_size", &[("table", "connections_v4")]),
        256.0
    );
}

#[test]
fn a_pair_tells_of_its_election_and_its_sync_daemons() {
    let host = Host::new();
    let _daemon = host.start(&host.config(&format!("{ON}{SYNC}{ELECTION}")));
    becomes(&host, "active");
    let instance = [("instance", "VI_1")];
    let page = wait_for_page("adverts", |page| {
        page.value("tandem_vrrp_adverts_sent_total", &instance) >= 3.0
    });
    assert_eq!(page.value("tandem_vrrp_state", &instance), 2.0);
    assert_eq!(page.value("tandem_vrrp_priority", &instance), 100.0);
    assert_eq!(
        page.value("tandem_vrrp_effective_priority", &instance),
        100.0
    );
    assert!(page.value("tandem_vrrp_transitions_total", &instance) >= 1.0);
    assert_eq!(
        page.value("tandem_failover_state", &[("state", "active")]),
        1.0
    );
    assert_eq!(
        page.value("tandem_failover_state", &[("state", "standby")]),
        0.0
    );
    let vip = [
        ("address", "10.77.0.200/32"),
        ("instance", "VI_1"),
        ("interface", "lan0"),
    ];
    assert_eq!(page.value("tandem_vip_present", &vip), 1.0);
    let master = [("interface", "lan0"), ("role", "master"), ("syncid", "51")];
    assert_eq!(page.value("tandem_sync_info", &master), 1.0);
    let port = [("port", "8848"), ("role", "master")];
    page.value("tandem_sync_messages_total", &port);
    page.value("tandem_sync_queue_messages", &port);
    assert!(!page.of("tandem_sync_drops_total").is_empty());
    assert_eq!(page.value("tandem_vrrp_serving", &instance), 1.0);
    assert_eq!(page.value("tandem_vrrp_handed_over", &instance), 0.0);
    for seen_by in ["adverts", "arp", "sync"] {
        assert_eq!(
            page.value("tandem_split_brain", &[("seen_by", seen_by)]),
            0.0
        );
    }
    let late = page.value("tandem_vrrp_advert_lateness_seconds_count", &instance);
    assert!(late >= 1.0, "{late}");
    assert_eq!(page.of("tandem_election_info").len(), 1);
    // Every refusal has a row from the start.
    assert!(page.of("tandem_vrrp_refused_total").len() > 10);
    assert!(page.of("tandem_drops_total").len() > 10);
    assert!(page.value("tandem_epoch", &[]) >= 1.0);
    let status = host.status();
    let problems = status["problems"].as_array().unwrap().len();
    assert_eq!(page.value("tandem_problems", &[]) as usize, problems);
    let version = status["version"].as_str().unwrap();
    let build = [("director", "lb1"), ("version", version)];
    assert_eq!(page.value("tandem_build_info", &build), 1.0);
}

#[test]
fn the_owner_is_asked_no_more_often_than_once_a_second() {
    let host = Host::new();
    let _daemon = host.start(&host.config(ON));
    let begun = Instant::now();
    let mut texts = Vec::new();
    for _ in 0..100 {
        texts.push(body());
    }
    let taken = begun.elapsed();
    texts.dedup();
    let most = taken.as_secs() + 2;
    assert!(
        (texts.len() as u64) <= most,
        "{} pages in {taken:?}",
        texts.len()
    );
}

#[test]
fn nothing_but_a_get_of_metrics_is_answered() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(ON));
    let starts = |answer: String, with: &str| {
        assert!(answer.starts_with(with), "{with}: {answer:?}");
    };
    starts(get("/"), "HTTP/1.1 404 ");
    starts(get("/metrics/x"), "HTTP/1.1 404 ");
    starts(get("/metrics?name[]=up"), "HTTP/1.1 200 ");
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let answer = exchange(request.as_bytes());
        assert!(
            answer.to_ascii_lowercase().contains("allow: get"),
            "{answer}"
        );
        starts(answer, "HTTP/1.1 405 ");
    }
    starts(exchange(b"GET /metrics HTTP/1.0\r\n\r\n"), "HTTP/1.0 200 ");
    // What is no HTTP, or too much of it, ends the connection.
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let heads = "a: b\r\n".repeat(10_000);
    let heads = format!("GET /metrics HTTP/1.1\r\n{heads}\r\n");
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nffffffffffffffff\r\n",
        long.as_bytes(),
        heads.as_bytes(),
    ] {
        let answer = exchange(garbage);
        let is_refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 200");
        assert!(is_refused, "{answer:?}");
    }
    let count =
        |page: &Page, outcome| page.value("tandem_metrics_requests_total", &[("outcome", outcome)]);
    // A page that was made a moment ago does not know yet.
    wait_for_page("all of them counted", |page| {
        (count(page, "not_found"), count(page, "not_allowed")) == (2.0, 6.0)
            && count(page, "broken") >= 3.0
    });
    daemon.is_undisturbed(&host);
}

#[test]
fn those_who_are_slow_or_many_keep_nobody_out() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(ON));
    // More than there are places, each with half a request; the newest displace the oldest.
    let mut idle: Vec<TcpStream> = Vec::new();
    for nth in 0..200 {
        let mut stream = TcpStream::connect(ADDRESS).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        if nth % 2 == 0 {
            let _ = stream.write_all(b"GET /metrics HTT");
        }
        idle.push(stream);
    }
    let begun = Instant::now();
    let page = page();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    let evicted = page.value("tandem_metrics_requests_total", &[("outcome", "evicted")]);
    assert!(evicted >= 100.0, "{evicted}");
    daemon.is_undisturbed(&host);
    // All of them are let go in the end.
    for mut stream in idle {
        end_of(&mut stream);
    }
    wait_for_page("late ones", |page| {
        page.value("tandem_metrics_requests_total", &[("outcome", "late")]) >= 60.0
    });
    daemon.is_undisturbed(&host);
}

#[test]
fn a_director_that_stands_still_is_told_of_and_serves_again() {
    let host = Host::new();
    let daemon = host.start(&host.config(ON));
    page();
    let asked = std::thread::scope(|scope| {
        // Threads of a scope are in this one's network namespace.
        let asking = scope.spawn(|| {
            let mut answer = String::new();
            wait_for("no snapshot", || {
                answer = get("/metrics");
                !answer.starts_with("HTTP/1.1 200 ")
            });
            answer
        });
        stand_still(&daemon, Duration::from_secs(6));
        asking.join().unwrap()
    });
    assert!(asked.starts_with("HTTP/1.1 503 "), "{asked}");
    let page = page();
    let unavailable = [("outcome", "unavailable")];
    assert!(page.value("tandem_metrics_requests_total", &unavailable) >= 1.0);
}

#[test]
fn an_address_that_is_taken_is_a_problem_and_no_reason_not_to_start() {
    let host = Host::new();
    let taken = TcpListener::bind(ADDRESS).unwrap();
    let mut daemon = host.start(&host.config(ON));
    let problem = "metrics are not served at 127.0.0.1:9140: Address already in use (os error 98)";
    let has_it = || {
        let status = host.status();
        let problems = status["problems"].as_array().unwrap();
        problems.iter().any(|text| text == problem)
    };
    assert!(has_it());
    daemon.logs(&["WARN", problem]);
    daemon.is_undisturbed(&host);
    drop(taken);
    wait_for("the address", || TcpStream::connect(ADDRESS).is_ok());
    wait_for("no problem", || !has_it());
    page();
}

#[test]
fn without_metrics_nobody_listens() {
    let host = Host::new();
    let _daemon = host.start(&host.config("metrics = \"off\"\n"));
    assert!(TcpStream::connect(ADDRESS).is_err());
}

#[test]
fn metrics_wait_for_an_address_that_comes_later() {
    let host = Host::new();
    let _daemon = host.start(&host.config("metrics = \"10.77.0.55:9140\"\n"));
    crate::host::ip("addr add 10.77.0.55/32 dev lan0");
    assert!(TcpStream::connect("10.77.0.55:9140").is_ok());
}

#[test]
fn what_is_tracked_is_told_of_with_what_it_does() {
    let host = Host::new();
    let file = host.file("drain", b"0\n");
    let tracked = format!(
        "track_files = [\"drain\"]\ntrack_processes = [\"itself\", \"nobody weight 5\"]\n\
         [[track_file]]\nname = \"drain\"\nfile = {file:?}\nweight = 0\n\
         [[track_process]]\nname = \"itself\"\nprocess = \"directord\"\nweight = 0\n\
         [[track_process]]\nname = \"nobody\"\nprocess = \"no-such-program\"\n"
    );
    let _daemon = host.start(&host.config(&format!("{ON}{ELECTION}{tracked}")));
    becomes(&host, "active");
    let good = |page: &Page, name| {
        let labels = [("kind", "process"), ("name", name)];
        page.value("tandem_track_good", &labels)
    };
    let page = wait_for_page("both results", |page| {
        page.of("tandem_track_good").len() == 2
    });
    assert_eq!((good(&page, "itself"), good(&page, "nobody")), (1.0, 0.0));
    let runs = [("kind", "file"), ("name", "drain")];
    assert!(page.value("tandem_track_runs_total", &runs) >= 1.0);
    host.file("drain", b"1\n");
    let page = wait_for_page("a fault", |page| {
        page.value("tandem_vrrp_state", &[("instance", "VI_1")]) == 3.0
    });
    assert_eq!(
        page.value("tandem_failover_state", &[("state", "fault")]),
        1.0
    );
    assert!(page.value("tandem_problems", &[]) >= 1.0);
}
