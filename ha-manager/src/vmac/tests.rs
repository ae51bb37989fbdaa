use tokio::time::Instant;

use super::*;
use crate::netlink::Link;
use crate::status::LinkState;

fn specs(count: u8) -> Vec<VmacSpec> {
    let spec = |nth: u8| VmacSpec {
        name: format!("vrrp.{nth}"),
        interface: "lan0".to_owned(),
        mac: MacAddr([0, 0, 0x5e, 0, 1, nth]),
        adverts_ipv6: false,
        ipv4: true,
        ipv6: false,
        groups: BTreeSet::new(),
    };
    (1..=count).map(spec).collect()
}

/// Of which none is there.
fn in_silence(count: u8) -> Vmacs {
    Vmacs {
        specs: specs(count),
        links: Some(Links::silent()),
        ..Vmacs::default()
    }
}

fn network() -> NetworkState {
    let link = Link {
        ifindex: 7,
        state: LinkState::Up,
        mac: Some(MacAddr([2, 0, 0, 0, 0, 7])),
    };
    let mut network = NetworkState::default();
    network.links.insert("lan0".to_owned(), link);
    network
}

#[tokio::test(start_paused = true)]
async fn a_kernel_that_does_not_answer_is_waited_for_once_in_a_round() {
    let (mut vmacs, begun) = (in_silence(64), Instant::now());
    let wanting = vmacs.tend(&network(), &[]).await;
    assert_eq!(wanting, [VmacError::Late.to_string()]);
    assert_eq!(begun.elapsed(), ANSWER_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_a_kernel_that_does_not_answer_once() {
    let mut vmacs = in_silence(64);
    let names = vmacs.specs.iter().map(|spec| spec.name.clone());
    vmacs.ours = names.collect();
    let begun = Instant::now();
    vmacs.stop().await;
    assert_eq!(begun.elapsed(), ANSWER_MAX);
}

#[tokio::test(start_paused = true)]
async fn of_macvlans_to_remove_none_is_asked_for_after_one_without_answer() {
    let vmacs = in_silence(64);
    let names: Vec<_> = vmacs.specs.iter().map(|spec| spec.name.clone()).collect();
    let found = |(index, name): (u32, &String)| (name.clone(), Found::macvlan(index));
    let mut all = (8..).zip(&names).map(found).collect();
    let begun = Instant::now();
    let links = vmacs.links.as_ref().unwrap();
    assert!(removal::remove(links, &names, &mut all).await.is_empty());
    assert_eq!((begun.elapsed(), all.len()), (ANSWER_MAX, 64));
}

#[tokio::test(start_paused = true)]
async fn whoever_tells_the_tender_waits_for_nothing_and_hears_what_is_wanting() {
    let mut tender = Tender::start(in_silence(64));
    let begun = Instant::now();
    for _ in 0..10 {
        tender.tell(&network(), Vec::new());
        tokio::task::yield_now().await;
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(tender.wanting().await, [VmacError::Late.to_string()]);
    assert_eq!(begun.elapsed(), ANSWER_MAX);
    // What was told meanwhile is one more round.
    assert_eq!(tender.wanting().await.len(), 1);
    assert_eq!(begun.elapsed(), ANSWER_MAX * 2);
}

#[tokio::test(start_paused = true)]
async fn a_tender_that_is_stopped_ends_within_one_answer() {
    let mut tender = Tender::start(in_silence(64));
    tender.tell(&network(), Vec::new());
    tokio::task::yield_now().await;
    let begun = Instant::now();
    tender.stop().await;
    assert!(begun.elapsed() <= ANSWER_MAX, "{:?}", begun.elapsed());
}
