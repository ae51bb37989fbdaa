use super::*;

#[test]
fn carrier_and_administrative_state_are_told_apart() {
    let state = |flags| {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = flags;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
        ];
        let (name, link) = link_of(&message).unwrap();
        assert_eq!((name.as_str(), link.ifindex), ("eth0", 7));
        assert_eq!(link.mac, Some(MacAddr([2, 0, 0, 0, 0, 7])));
        link.state
    };
    assert_eq!(state(LinkFlags::Up | LinkFlags::LowerUp), LinkState::Up);
    assert_eq!(state(LinkFlags::Up), LinkState::NoCarrier);
    assert_eq!(state(LinkFlags::LowerUp), LinkState::Down);
    assert_eq!(link_of(&LinkMessage::default()), None);
}

#[test]
fn a_local_address_is_added_and_taken_away_in_place() {
    let route = |prefix: &str, prefix_len, kind| Route {
        prefix: prefix.parse().unwrap(),
        prefix_len,
        kind,
        ifindex: 2,
        gateway: None,
    };
    let before = NetworkState {
        routes: vec![
            route("0.0.0.0", 0, RouteKind::Unicast),
            route("10.0.0.0", 24, RouteKind::Unicast),
            route("10.0.0.1", 32, RouteKind::Local),
            route("10.0.0.255", 32, RouteKind::Unusable),
        ],
        ..NetworkState::default()
    };
    let vip: IpAddr = "10.0.0.100".parse().unwrap();
    let mut state = before.clone();
    assert!(state.set_local(vip, Some(7)));
    assert!(!state.set_local(vip, Some(7)));
    assert_eq!(state.local(vip), Some(7));
    assert!(
        state
            .routes
            .is_sorted_by_key(|route| (route.prefix, route.prefix_len))
    );
    assert!(state.has_address(2, false, &[vip]) && state.has_address(7, false, &[]));
    assert!(!state.has_address(7, false, &[vip]));
    assert!(state.set_local(vip, None));
    assert!(!state.set_local(vip, None));
    assert_eq!(state, before);
    let broadcast = "10.0.0.255".parse().unwrap();
    assert_eq!(state.local(broadcast), None);
    // IPv6 stands behind IPv4, and is no address for what wants IPv4.
    let vip: IpAddr = "2001:db8::100".parse().unwrap();
    assert!(state.set_local(vip, Some(9)));
    assert_eq!(
        (state.local(vip), state.has_address(9, false, &[])),
        (Some(9), false)
    );
    assert_eq!(
        state
            .routes
            .last()
            .map(|route| (route.prefix, route.prefix_len)),
        Some((vip, 128))
    );
    assert!(state.set_local(vip, None));
    assert_eq!(state, before);
}

#[tokio::test]
async fn the_loopback_interface_is_seen_with_its_local_route() {
    let follower = Follower::start().await.unwrap();
    let state = follower.state();
    let lo = state.links["lo"];
    if lo.state == LinkState::Up {
        assert!(state.routes.iter().any(|route| {
            route.kind == dataplane::RouteKind::Local && route.ifindex == lo.ifindex
        }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_events_is_answered_once_and_in_bounded_time() {
    let (due, events) = mpsc::channel(1);
    let (_, ask, _) = rtnetlink::new_connection().unwrap();
    let idle = || tokio::spawn(std::future::ready(()));
    let mut sockets = Sockets {
        ask,
        events,
        tasks: [idle(), idle(), idle()],
        dumped: Instant::now(),
    };
    let burst = tokio::spawn(async move {
        loop {
            if due.send(()).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let start = Instant::now();
    sockets.wait_until_due().await.unwrap();
    assert!(
        start.elapsed() <= LATENCY_MAX + QUIET,
        "{:?}",
        start.elapsed()
    );
    assert!(start.elapsed() >= QUIET);
    burst.abort();
}

#[tokio::test(start_paused = true)]
async fn the_first_event_after_a_quiet_time_is_answered_at_once() {
    let (due, events) = mpsc::channel(1);
    let (_, ask, _) = rtnetlink::new_connection().unwrap();
    let idle = || tokio::spawn(std::future::ready(()));
    let mut sockets = Sockets {
        ask,
        events,
        tasks: [idle(), idle(), idle()],
        dumped: Instant::now(),
    };
    tokio::time::advance(QUIET).await;
    due.send(()).await.unwrap();
    let start = Instant::now();
    sockets.wait_until_due().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// An address that was added and is gone again before the next picture is in none of them: whoever added
/// it has to be told all the same.
#[tokio::test(start_paused = true)]
async fn a_picture_like_the_last_one_is_sent_too() {
    let mut follower = Follower::start().await.unwrap();
    let (due, events) = mpsc::channel(1);
    if let Some(sockets) = &mut follower.sockets {
        sockets.events = events;
    }
    let (owner, mut commands) = mpsc::channel(1);
    let follower = tokio::spawn(follower.run(owner));
    for _ in 0..2 {
        due.send(()).await.unwrap();
        let command = commands.recv().await;
        assert!(matches!(command, Some(Command::Network(_))), "{command:?}");
    }
    follower.abort();
}
