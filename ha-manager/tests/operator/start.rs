//! Directors that must not start: each says why in one line and leaves everything as it was.

use std::fs;

use aya::maps::{Array, Map, MapData};
use dataplane::common::layout::Layout;

use crate::host::{Host, VIP, ip};

#[test]
fn an_unknown_interface_is_named() {
    let host = Host::new();
    let config = host.config("interfaces = [\"lan0\", \"wan7\"]");
    let refused = host.run(&config);
    refused.failed(2, "directord: data plane: interface wan7 does not exist");
    host.is_untouched();

    // What another start left in place goes on.
    host.start(&host.config("")).kill();
    let before = (host.pins(), host.programs("lan0"));
    host.run(&host.config("interfaces = [\"wan7\"]"))
        .failed(2, "directord: data plane: interface wan7 does not exist");
    assert_eq!((host.pins(), host.programs("lan0")), before);
    assert_eq!(before.1.len(), 1);
}

#[test]
fn a_pin_directory_outside_a_bpffs_is_refused_with_the_remedy() {
    let host = Host::new();
    let pin_dir = host.dir.join("plain/director");
    let config = host.config_of("director.toml", &pin_dir, &host.socket(), "");
    host.run(&config).failed(
        2,
        &format!(
            "directord: {} is not in a bpffs; mount one with: mount -t bpf bpf {}",
            pin_dir.display(),
            host.dir.join("plain").display()
        ),
    );
    assert!(!host.dir.join("plain").exists());
    host.is_untouched();
}

#[test]
fn a_socket_that_is_a_file_is_left_alone() {
    let host = Host::new();
    let socket = host.file("precious", b"data");
    let config = host.config_of("director.toml", &host.pin_dir(), &socket, "");
    let line = format!("directord: {} exists and is not a socket", socket.display());
    host.run(&config).failed(1, &line);
    assert_eq!(fs::read(&socket).unwrap(), b"data");
    host.is_untouched();
}

#[test]
fn a_second_director_on_the_same_socket_is_refused() {
    let host = Host::new();
    let mut first = host.start(&host.config(""));
    let before = (host.pins(), host.programs("lan0"));
    let other_pins = host.dir.join("bpf/other");
    let config = host.config_of("second.toml", &other_pins, &host.socket(), "");
    let line = format!(
        "directord: another directord answers at {}",
        host.socket().display()
    );
    host.run(&config).failed(1, &line);
    assert!(!other_pins.exists());
    assert_eq!((host.pins(), host.programs("lan0")), before);
    first.is_undisturbed(&host);
}

#[test]
fn a_second_director_on_the_same_pins_is_refused() {
    let host = Host::new();
    let mut first = host.start(&host.config(""));
    host.admin(&format!("-A -u {VIP} -s rr"));
    let before = (host.pins(), host.programs("lan0"), host.admin("-S -n"));
    let socket = host.dir.join("run/second.sock");
    let config = host.config_of("second.toml", &host.pin_dir(), &socket, "");
    let line = format!(
        "directord: data plane: another directord uses the pin directory {}",
        host.pin_dir().display()
    );
    host.run(&config).failed(1, &line);
    assert!(!socket.exists());
    assert_eq!(
        (host.pins(), host.programs("lan0"), host.admin("-S -n")),
        before
    );
    first.is_undisturbed(&host);
}

#[test]
fn pins_of_another_layout_are_refused_and_keep_forwarding() {
    let host = Host::new();
    let config = host.config("");
    host.start(&config).kill();
    let before = (host.pins(), host.programs("lan0"));
    let version = Layout::CURRENT.version + 41;
    write_layout(
        &host,
        Layout {
            version,
            ..Layout::CURRENT
        },
    );
    let line = format!(
        "directord: data plane: pin directory {} holds maps of another layout (version {version} \
         with type sizes {:?}); run the version that made them, or `directord detach`, which ends \
         their connections",
        host.pin_dir().display(),
        Layout::CURRENT.sizes
    );
    host.run(&config).failed(1, &line);
    assert_eq!((host.pins(), host.programs("lan0")), before);

    write_layout(&host, Layout::CURRENT);
    assert!(host.start(&config).ready.contains("adopted 0 services"));
}

#[test]
fn torn_pins_are_refused_until_they_are_detached() {
    let host = Host::new();
    let config = host.config("");
    host.start(&config).kill();
    let torn = |reason: &str| {
        format!(
            "directord: data plane: pin directory {} holds torn maps ({reason}); `directord \
             detach` removes them",
            host.pin_dir().display()
        )
    };

    write_layout(&host, Layout::default());
    let before = (host.pins(), host.programs("lan0"));
    let refused = host.run(&config);
    refused.failed(1, &torn("its maps were never finished"));
    assert_eq!((host.pins(), host.programs("lan0")), before);

    write_layout(&host, Layout::CURRENT);
    fs::remove_file(host.pin_dir().join("SERVERS")).unwrap();
    host.run(&config).failed(1, &torn("SERVERS is missing"));

    fs::remove_file(host.pin_dir().join("LAYOUT")).unwrap();
    host.run(&config).failed(1, &torn("LAYOUT is missing"));

    let detached = host.directord(&["detach", "--config", config.to_str().unwrap()]);
    assert!(detached.succeeded().contains("removed CONNS4\n"));
    host.is_untouched();
    assert!(host.start(&config).ready.contains("fresh tables"));
}

#[test]
fn maps_that_are_not_ours_are_refused() {
    let host = Host::new();
    let config = host.config("");
    host.start(&config).kill();
    for name in host.pins() {
        // Any map of ours with another size of element will do.
        if name != "COUNTERS" {
            fs::remove_file(host.pin_dir().join(name)).unwrap();
        }
    }
    let counters = host.pin_dir().join("COUNTERS");
    fs::rename(counters, host.pin_dir().join("LAYOUT")).unwrap();
    let line = format!(
        "directord: data plane: pin directory {} holds maps of another layout (a layout word of 8 \
         bytes); run the version that made them, or `directord detach`, which ends their \
         connections",
        host.pin_dir().display()
    );
    host.run(&config).failed(1, &line);
    assert_eq!(host.pins(), ["LAYOUT"]);
}

#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn write_layout(host: &Host, layout: Layout) {
    let pinned = MapData::from_pin(host.pin_dir().join("LAYOUT")).unwrap();
    let mut map = Array::<_, Layout>::try_from(Map::Array(pinned)).unwrap();
    map.set(0, layout, 0).unwrap();
}

/// Adverts are never cut into fragments: one that does not fit is refused by name before anything is
/// touched.
#[test]
fn addresses_that_no_advert_can_name_are_refused() {
    let host = Host::new();
    ip("link set lan0 mtu 576");
    let vips: Vec<String> = (1..=140)
        .map(|last| format!("\"10.77.1.{last}\""))
        .collect();
    let config = host.config(&format!(
        "[[vrrp]]\nname = \"VI_1\"\ninterface = \"lan0\"\nvrid = 51\nvips = [{}]\n",
        vips.join(", ")
    ));
    host.run(&config).failed(
        2,
        "directord: VI_1: 140 addresses make an advert of 588 bytes, the MTU of lan0 (576) allows \
         137 of them: move the rest to vips_excluded",
    );
    host.is_untouched();
}
