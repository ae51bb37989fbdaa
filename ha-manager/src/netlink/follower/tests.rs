use std::pin::pin;

use dataplane::RouteKind;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;

use super::*;
use crate::status::LinkState;

#[tokio::test]
async fn the_loopback_interface_is_seen_with_its_local_route() {
    let follower = Follower::start(0).await.unwrap();
    let state = follower.state();
    let lo = state.links["lo"];
    if lo.state == LinkState::Up {
        let mut routes = state.routes.routes().iter();
        assert!(routes.any(|it| it.kind == RouteKind::Local && it.ifindex == lo.ifindex));
    }
}

/// Sockets that hear what they are told here.
fn sockets() -> (Sockets, watch::Sender<Heard>) {
    let (tell, heard) = watch::channel(Heard::default());
    let (_, ask, _) = rtnetlink::new_connection().unwrap();
    let idle = || tokio::spawn(std::future::ready(()));
    let sockets = Sockets {
        ask,
        heard,
        tasks: [idle(), idle(), idle()],
        dumped: Instant::now(),
        took: Duration::ZERO,
        answered: Heard::default(),
    };
    (sockets, tell)
}

fn tell_urgent(tell: &watch::Sender<Heard>) {
    tell.send_modify(|heard| heard.urgent += 1);
}

fn tell_routes(tell: &watch::Sender<Heard>) {
    tell.send_modify(|heard| heard.routes += 1);
}

/// Tells something every 5 ms for ever.
fn burst(tell: watch::Sender<Heard>, what: fn(&watch::Sender<Heard>)) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            what(&tell);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_events_is_answered_once_and_in_bounded_time() {
    for what in [tell_urgent, tell_routes] {
        let (mut sockets, tell) = sockets();
        let burst = burst(tell, what);
        let start = Instant::now();
        sockets.wait_until_due().await.unwrap();
        let took = start.elapsed();
        assert!(took <= LATENCY_MAX + QUIET && took >= QUIET, "{took:?}");
        burst.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_event_after_a_quiet_time_is_answered_at_once() {
    let (mut sockets, tell) = sockets();
    tokio::time::advance(QUIET).await;
    tell_routes(&tell);
    let start = Instant::now();
    sockets.wait_until_due().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    // What it answered is not answered again.
    sockets.dumped = Instant::now();
    sockets.wait_until_due().await.unwrap();
    assert_eq!(start.elapsed(), RESYNC);
}

/// A routing daemon that never rests, on a host whose dumps take 100 ms: a fifth of a processor. What
/// happens to links and addresses meanwhile does not wait for that.
#[tokio::test(start_paused = true)]
async fn events_of_routes_alone_wait_as_long_as_dumps_are_dear() {
    let (mut sockets, tell) = sockets();
    sockets.took = Duration::from_millis(100);
    let burst = burst(tell.clone(), tell_routes);
    let start = Instant::now();
    sockets.wait_until_due().await.unwrap();
    let took = start.elapsed();
    assert!(took >= sockets.took * REST, "{took:?}");
    assert!(took < sockets.took * (REST + 1), "{took:?}");
    sockets.dumped = Instant::now();
    tokio::time::sleep(Duration::from_millis(50)).await;
    tell_urgent(&tell);
    let start = Instant::now();
    sockets.wait_until_due().await.unwrap();
    assert!(start.elapsed() <= LATENCY_MAX, "{:?}", start.elapsed());
    burst.abort();
    // However dear they are.
    let (mut sockets, tell) = self::sockets();
    sockets.took = Duration::from_secs(20);
    tell_routes(&tell);
    let start = Instant::now();
    sockets.wait_until_due().await.unwrap();
    assert_eq!(start.elapsed(), REST_MAX);
}

#[test]
fn events_of_routes_are_told_from_the_others() {
    let heard = |payload: NetlinkPayload<RouteNetlinkMessage>| {
        let mut heard = Heard::default();
        heard.note(&NetlinkMessage::new(Default::default(), payload));
        (heard.urgent, heard.routes)
    };
    let route = RouteNetlinkMessage::NewRoute(RouteMessage::default());
    let link = RouteNetlinkMessage::NewLink(LinkMessage::default());
    assert_eq!(heard(NetlinkPayload::InnerMessage(route)), (0, 1));
    assert_eq!(heard(NetlinkPayload::InnerMessage(link)), (1, 0));
    assert_eq!(heard(NetlinkPayload::Overrun(Vec::new())), (0, 1));
}

/// An address that was added and is gone again before the next picture is in none of them: whoever added
/// it has to be told all the same. Its routes are the same list, which costs the owner nothing.
#[tokio::test(start_paused = true)]
async fn a_picture_like_the_last_one_is_sent_too() {
    let mut eye = Eye {
        sockets: None,
        last: NetworkState::default(),
        reserved: 0,
    };
    eye.reopen().await.unwrap();
    let routes = eye.last.routes.clone();
    let (tell, heard) = watch::channel(Heard::default());
    if let Some(sockets) = &mut eye.sockets {
        sockets.heard = heard;
    }
    let (owner, mut commands) = mpsc::channel(1);
    let following = tokio::spawn(eye.run(owner));
    for _ in 0..2 {
        tell_urgent(&tell);
        match commands.recv().await {
            Some(Command::Network(state)) => assert!(state.routes.is_copy_of(&routes)),
            other => panic!("{other:?}"),
        }
    }
    following.abort();
}

#[tokio::test]
async fn the_thread_ends_with_who_wanted_it() {
    let follower = Follower::start(0).await.unwrap();
    let (owner, mut commands) = mpsc::channel(1);
    let following = follower.run(owner);
    drop(following);
    let ended = async { while commands.recv().await.is_some() {} };
    let ended = pin!(ended);
    let in_time = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(in_time.is_ok());
}
